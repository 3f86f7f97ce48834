//! What outlives a configuration: the state of rules, by the key of the policy it belongs to. Cold.
//!
//! A new snapshot's rules adopt the state of those before them, as long as one of those is still there: make the new
//! ones first, then drop the old ones. So rules that change a hundred times a second keep their counters, and what no
//! rule has any more is gone with the last one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::rules::breaker::BreakerState;
use crate::rules::concurrency::Gate;
use crate::rules::counts::Counts;
use crate::rules::key::Seed;
use crate::rules::rate::RateState;

/// The state of all rules of a process. One for all threads.
#[derive(Debug)]
pub struct States {
    pub(crate) rates: Registry<RateState>,
    pub(crate) gates: Registry<Gate>,
    pub(crate) breakers: Registry<BreakerState>,
    pub(crate) faults: Registry<Counts>,
    pub(crate) seed: Seed,
    pub(crate) replicas: Arc<AtomicU32>,
}

impl Default for States {
    fn default() -> Self {
        States {
            rates: Registry::default(),
            gates: Registry::default(),
            breakers: Registry::default(),
            faults: Registry::default(),
            seed: Seed::default(),
            replicas: Arc::new(AtomicU32::new(1)),
        }
    }
}

impl States {
    /// Says how many processes, this one among them, share the limits of scope `sharedByReplicas`; 0 counts as 1.
    pub fn set_replicas(&self, replicas: u32) {
        self.replicas.store(replicas.max(1), Relaxed);
    }

    /// How many processes share limits.
    pub fn replicas(&self) -> u32 {
        self.replicas.load(Relaxed)
    }

    /// Entries of all kinds that some rule still has.
    pub fn live(&self) -> usize {
        self.rates.live() + self.gates.live() + self.breakers.live() + self.faults.live()
    }
}

/// State of one kind.
#[derive(Debug)]
pub(crate) struct Registry<T>(Mutex<Entries<T>>);

#[derive(Debug)]
struct Entries<T> {
    by_key: HashMap<Arc<str>, Weak<T>>,
    /// Dead ones are looked for when there are so many entries.
    purge_at: usize,
}

/// It is no use to look for dead ones among fewer.
const PURGE_MIN: usize = 64;

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry(Mutex::new(Entries { by_key: HashMap::new(), purge_at: PURGE_MIN }))
    }
}

impl<T> Registry<T> {
    /// The state of a key, if some rule has it and it fits; else a new one.
    pub(crate) fn adopt(&self, key: &Arc<str>, fits: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = entries.by_key.get(key).and_then(Weak::upgrade).filter(|state| fits(state)) {
            return state;
        }
        if entries.by_key.len() >= entries.purge_at {
            entries.by_key.retain(|_, state| state.strong_count() > 0);
            entries.purge_at = (entries.by_key.len() * 2).max(PURGE_MIN);
        }
        let state = Arc::new(make());
        entries.by_key.insert(key.clone(), Arc::downgrade(&state));
        state
    }

    fn live(&self) -> usize {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.values().filter(|state| state.strong_count() > 0).count()
    }
}

#[cfg(test)]
mod tests;
