//! What the parts of the demonstration share: who runs, what the load met, what proxies and control told, and what keys have
//! begun. Cold.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;

use super::app::Switch;
use super::board::{Board, InstanceFigures};
use super::call::{self, Caller};
use super::child::Stage;
use super::heard::Heard;
use super::keys::{Act, Selection};
use super::ledger::Ledger;
use super::mesh::Mesh;
use super::rates::Rates;
use super::shop::{Place, Shop};
use super::told::{All, Told};

/// Keys that may wait for what they ask for.
const ORDERS_MAX: usize = 64;
/// Rules are in force everywhere by then.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What all parts share.
pub struct World {
    /// How children are started.
    pub stage: Arc<Stage>,
    /// Control and gateway.
    pub mesh: Mesh,
    /// Control's REST API.
    pub control: Caller,
    /// The services.
    pub shop: Shop,
    /// The file of rules.
    pub rules: PathBuf,
    /// Whether it is over.
    pub ending: watch::Sender<bool>,
    started: OnceLock<Instant>,
    ledger: Mutex<Ledger>,
    told: Mutex<All>,
    heard: Mutex<Heard>,
    rates: Mutex<Rates>,
    selection: Mutex<Selection>,
    orders: Sender<Order>,
    /// What was begun and has not come to its end.
    works: Arc<AtomicUsize>,
    /// Of a restart, how many have been replaced, of how many.
    restart: Mutex<Option<(usize, usize)>>,
    /// Lanes that were given out before are not promised.
    settled_at: Mutex<Option<Instant>>,
}

/// What a key asked for.
pub struct Order {
    /// What.
    pub act: Act,
    /// Of whom.
    pub selection: Selection,
    _work: Work,
}

/// Something that is to come to its end before the demonstration does.
pub struct Work(Arc<AtomicUsize>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// With a shop that is empty so far; and where it is heard what keys ask for.
    pub fn new(stage: Arc<Stage>, mesh: Mesh, rules: PathBuf, ending: watch::Sender<bool>) -> (World, Receiver<Order>) {
        let control = Caller::new(call::Place::At(mesh.api), &mesh.api.to_string());
        let (orders, receiver) = channel(ORDERS_MAX);
        let world = World {
            stage,
            mesh,
            control,
            shop: Shop::empty(),
            rules,
            ending,
            started: OnceLock::new(),
            ledger: Mutex::default(),
            told: Mutex::default(),
            heard: Mutex::default(),
            rates: Mutex::default(),
            selection: Mutex::default(),
            orders,
            works: Arc::default(),
            restart: Mutex::default(),
            settled_at: Mutex::default(),
        };
        (world, receiver)
    }

    /// From here on traffic flows.
    pub fn begin(&self) {
        // It begins once.
        let _ = self.started.set(Instant::now());
    }

    /// Since then.
    pub fn uptime(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// What the load met.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// What proxies last told.
    pub fn told(&self) -> MutexGuard<'_, All> {
        lock(&self.told)
    }

    /// What control last told.
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    /// Tells an event.
    pub fn say(&self, text: &str) {
        self.stage.events.say(text);
    }

    /// What is chosen.
    pub fn selection(&self) -> Selection {
        *lock(&self.selection)
    }

    /// The places that are.
    pub fn chosen(&self, selection: &Selection) -> impl Iterator<Item = &Place> {
        let places = self.shop.places.iter().enumerate();
        places.filter(|(index, _)| selection.has(*index)).map(|(_, place)| place)
    }

    /// Takes a key.
    pub fn press(&self, key: char) {
        let mut selection = lock(&self.selection);
        match selection.press(key) {
            Act::Look => {}
            Act::End => drop(self.ending.send_replace(true)),
            act => {
                // Whoever presses more than can be done presses again.
                let _ = self.orders.try_send(Order { act, selection: *selection, _work: self.work() });
            }
        }
    }

    /// Something begins; with the value it has come to its end.
    pub fn work(&self) -> Work {
        self.works.fetch_add(1, Relaxed);
        Work(self.works.clone())
    }

    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.works.load(Relaxed) > 0
    }

    /// Whether it is over.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// A restart of so many begins, if there is none.
    pub fn begin_restart(&self, all: usize) -> bool {
        let mut restart = lock(&self.restart);
        let is_free = restart.is_none();
        restart.get_or_insert((0, all));
        is_free
    }

    /// One more was replaced.
    pub fn count_restarted(&self) {
        if let Some((done, _)) = &mut *lock(&self.restart) {
            *done += 1;
        }
    }

    /// There is no restart any more.
    pub fn end_restart(&self) {
        *lock(&self.restart) = None;
    }

    /// Lanes of visitors are not promised until the rules that change are in force.
    pub fn settle_later(&self) {
        *lock(&self.settled_at) = Some(Instant::now() + SETTLED_AFTER);
    }

    /// Whether a lane that was given out then is kept.
    pub fn has_settled(&self, then: Instant) -> bool {
        lock(&self.settled_at).is_none_or(|settled_at| then >= settled_at)
    }

    /// Remembers how many requests have reached each place, and which of them callers leave alone.
    pub fn look(&self) {
        let counts = self.shop.places.iter().map(Place::served).collect();
        lock(&self.rates).take(self.uptime(), counts);
        let troubles = self.told().together().troubles;
        let is_troubled = |place: &&Place| place.instance().is_some_and(|one| troubles.contains_key(&one.inbound));
        self.shop.places.iter().filter(is_troubled).for_each(Place::trouble);
    }

    /// Everything as it is now.
    pub fn board(&self) -> Board {
        let (uptime, heard, told) = (self.uptime(), self.heard().clone(), self.told().together());
        let rates = lock(&self.rates);
        let instances = self.shop.places.iter().enumerate().map(|(index, place)| {
            let instance = place.instance();
            InstanceFigures {
                service: place.role.service,
                lane: place.role.lane,
                name: instance.as_ref().map(|instance| instance.name.clone()),
                trouble: instance.as_ref().and_then(|one| trouble(&heard, &told, &one.name, one.inbound)),
                switch: instance.as_ref().map_or(Switch::Dead, |instance| instance.app.switch()),
                forgets_trace: instance.is_some_and(|instance| instance.app.forgets_trace()),
                per_second: rates.per_second(index),
            }
        });
        let instances = instances.collect();
        let mut ledger = self.ledger();
        let now_ms = jiff::Timestamp::now().as_millisecond();
        Board {
            uptime,
            edge: format!("http://{}", self.mesh.edge),
            rules: self.rules.display().to_string(),
            api: self.mesh.api.to_string(),
            control_gone: heard.gone_since.map(|since| since.elapsed()),
            rules_age: heard
                .rules_ms
                .map(|at_ms| Duration::from_millis(u64::try_from(now_ms - at_ms).unwrap_or_default())),
            drains: heard.drains,
            last_drain: heard.last_drain,
            restart: *lock(&self.restart),
            instances,
            lanes: ledger.figures(uptime),
            totals: ledger.totals(),
            problems: ledger.problems().into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
            policies: told.policies,
            retries: told.retries,
            events: self.stage.events.lines(),
            selection: self.selection(),
        }
    }
}

/// What is not as usual with an instance: what control says of it comes before what callers say.
fn trouble(heard: &Heard, told: &Told, name: &str, inbound: std::net::SocketAddr) -> Option<(String, Option<u64>)> {
    match heard.phases.get(name).map(|phase| &phase[..]) {
        Some("ready") => told.troubles.get(&inbound).cloned(),
        Some(phase) => Some((phase.to_owned(), None)),
        None => Some(("gone".into(), None)),
    }
}
