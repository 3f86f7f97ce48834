//! What the parts of the demonstration share: the shop, what the load met, and what the gateway told. Cold.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::board::{Board, InstanceFigures, Rates};
use super::ledger::Ledger;
use super::shop::Instance;
use super::told::Told;

/// What all parts share.
pub struct World {
    /// When the gateway was ready.
    pub started: Instant,
    /// In the order of the cast.
    pub instances: Vec<Arc<Instance>>,
    /// Where clients come.
    pub edge: SocketAddr,
    /// The file of rules.
    pub rules: PathBuf,
    ledger: Mutex<Ledger>,
    told: Mutex<Told>,
    rates: Mutex<Rates>,
    /// Whether it is over.
    pub ending: watch::Sender<bool>,
}

impl World {
    /// At the moment that the gateway is ready.
    pub fn new(instances: Vec<Arc<Instance>>, edge: SocketAddr, rules: PathBuf, ending: watch::Sender<bool>) -> World {
        World {
            started: Instant::now(),
            instances,
            edge,
            rules,
            ledger: Mutex::default(),
            told: Mutex::default(),
            rates: Mutex::default(),
            ending,
        }
    }

    /// What the load met.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the gateway last told.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how many requests have reached each instance.
    pub fn take_rates(&self) {
        let counts = self.instances.iter().map(|instance| instance.served()).collect();
        self.rates().take(self.started.elapsed(), counts);
    }

    /// Whether it is over.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Everything as it is now.
    pub fn board(&self, events: &VecDeque<String>) -> Board {
        let uptime = self.started.elapsed();
        let told = self.told().clone();
        let rates = self.rates();
        let instances = self.instances.iter().enumerate().map(|(index, instance)| InstanceFigures {
            service: instance.service,
            lane: instance.lane,
            name: instance.name,
            state: told.endpoints.get(&instance.address).cloned(),
            switch: instance.switch(),
            per_second: rates.per_second(index),
        });
        let mut ledger = self.ledger();
        Board {
            uptime,
            edge: format!("http://{}", self.edge),
            rules: self.rules.display().to_string(),
            instances: instances.collect(),
            lanes: ledger.figures(uptime),
            totals: ledger.totals(),
            problems: ledger.problems().into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
            policies: told.policies,
            retries: told.retries,
            events: events.iter().cloned().collect(),
        }
    }
}
