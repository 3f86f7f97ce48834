//! The roll: which instances there are, and who is to forget one. Both are machines (`registry`); here is what they hear of
//! (proxies that speak for instances, the streams of callers, time), and what becomes of it: what callers are told is
//! stored before anybody hears that it is so. Cold.

mod receipts;
mod seat;

use receipts::departed;
pub(crate) use receipts::{receipt, untold};
pub(crate) use seat::Seat;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::document::Key;
use config::wire::evenkeel::v1::{Ending, Forgetting, JoinResponse, Phase as Told};
use config::xds::catalog::Catalog;
use serde_json::Value;
use tokio::sync::Notify;

use crate::log;
use crate::registry::{Drain, Drains, HolderState, Instance, Mark, Name, Phase, Refusal, Registry, Word};
use crate::server::fleet::{Fleet, Holders, Proxy};
use crate::server::metrics::Metrics;
use crate::server::places::Places;
use crate::store::{self, Committed, DiskError, Store};

/// When what could not be stored is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Instances that were refused, and are remembered.
const REFUSED_MAX: usize = 100;
const REFUSED_FOR: Duration = Duration::from_secs(3_600);
/// They try again every few seconds: older ones have given up.
const REFUSED_NOW: Duration = Duration::from_secs(15);
/// Proxies that are named in one list; all are counted.
const NAMED_MAX: usize = 10;

/// Namespace and name.
type Service = (Arc<str>, Arc<str>);

/// All instances.
pub(crate) struct Roll {
    store: Store,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
    /// There is something to store, or time matters earlier than it did.
    wake: Notify,
    /// Drains that are under way: most of the time none is.
    open: AtomicUsize,
    next: AtomicU64,
}

struct Inner {
    registry: Registry,
    drains: Drains,
    seats: HashMap<Name, (u64, Seat)>,
    /// What was said of the end of an instance.
    endings: BTreeMap<Name, Ending>,
    refused: VecDeque<Refused>,
}

/// An instance that was not let in.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) at: Instant,
    /// It has a token of ours.
    is_proved: bool,
}

impl Refused {
    /// Whether it is still trying, and it is not just anybody who says so.
    pub(crate) fn is_now(&self) -> bool {
        self.is_proved && self.at.elapsed() < REFUSED_NOW
    }
}

impl Roll {
    /// What is stored.
    pub(crate) fn new(store: Store, metrics: Arc<Metrics>) -> Arc<Roll> {
        let (state, now) = (store.state(), Instant::now());
        let places = Places::new(&state);
        let inner = Inner {
            registry: Registry::new(state.instances().clone(), |name, one| places.of(name, one), wall_ms(), now),
            drains: Drains::starting(now),
            seats: HashMap::new(),
            endings: BTreeMap::new(),
            refused: VecDeque::new(),
        };
        drop(places);
        drop(state);
        let (wake, open, next) = (Notify::new(), AtomicUsize::new(0), AtomicU64::new(1));
        Arc::new(Roll { store, metrics, inner: Mutex::new(inner), wake, open, next })
    }

    /// Taken after the catalog, and after the store's state, and before what is known of streams, never the other way round.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A proxy speaks for an instance from now on; returns by which number, and where it hears what becomes of it.
    pub(crate) fn join(&self, name: &Name, instance: Instance) -> Result<(u64, Seat), Refusal> {
        let (number, seat) = (self.next.fetch_add(1, Relaxed), Seat::default());
        // Until it is among those that hear of other documents.
        let state = self.store.state();
        let place = Places::new(&state).of(name, &instance);
        let mut inner = self.inner();
        drop(state);
        inner.registry.on_join(name, instance, place, number, Instant::now())?;
        let told = name.to_string();
        inner.refused.retain(|known| known.name != told);
        if let Some((_, before)) = inner.seats.insert(name.clone(), (number, seat.clone())) {
            before.close();
        }
        inner.publish(name);
        drop(inner);
        self.wake.notify_one();
        Ok((number, seat))
    }

    /// It says how far its instance is.
    pub(crate) fn say(&self, name: &Name, number: u64, word: Word, note: Box<str>, ending: Option<Ending>) {
        let (mut inner, now) = (self.inner(), Instant::now());
        if matches!(word, Word::Ended { .. }) && inner.seats.get(name).is_some_and(|(known, _)| *known == number) {
            inner.endings.insert(name.clone(), ending.unwrap_or_default());
        }
        if let Word::Draining { since, .. } | Word::Ended { since } = word {
            // One whose mark is from before control started says now when it began.
            inner.drains.on_asked(name, now.checked_sub(since).unwrap_or(now));
        }
        inner.registry.on_note(name, number, note);
        inner.registry.on_word(name, number, word, wall_ms(), now);
        inner.publish(name);
        drop(inner);
        self.wake.notify_one();
    }

    /// It speaks no more.
    pub(crate) fn leave(&self, name: &Name, number: u64) {
        let mut inner = self.inner();
        if inner.seats.get(name).is_some_and(|(known, _)| *known == number) {
            inner.seats.remove(name);
        }
        inner.registry.on_leave(name, number, Instant::now());
        drop(inner);
        self.wake.notify_one();
    }

    /// One that was not let in: people look for it here.
    pub(crate) fn note_refused(&self, name: String, reason: String, is_proved: bool) {
        let mut inner = self.inner();
        // It tries again and again.
        inner.refused.retain(|known| known.name != name || known.is_proved && !is_proved);
        inner.refused.push_back(Refused { name, reason, at: Instant::now(), is_proved });
        if inner.refused.len() > REFUSED_MAX {
            // Those that anybody can make up do not push out the others.
            let place = inner.refused.iter().position(|known| !known.is_proved).unwrap_or(0);
            inner.refused.remove(place);
        }
    }

    /// Somebody wants an instance to go. False: there is none of that name.
    pub(crate) fn ask(&self, name: &Name) -> bool {
        let mut inner = self.inner();
        let is_there = inner.registry.on_ask(name, wall_ms(), Instant::now());
        inner.publish(name);
        drop(inner);
        self.wake.notify_one();
        is_there
    }

    /// Callers are to forget these from this revision on. The catalog, which says so, is held: nobody can take anything
    /// older from here on.
    pub(crate) fn on_marks(&self, names: Vec<Name>, revision: u64, fleet: &Fleet, catalog: &Catalog) {
        if names.is_empty() {
            return;
        }
        let now = Instant::now();
        // Before it is seen who is there: whoever ends from here on is missed by these drains.
        self.open.fetch_add(1, Relaxed);
        let mut inner = self.inner();
        let resources: BTreeSet<String> = names.iter().map(Name::resource).collect();
        let holders: BTreeMap<String, _> =
            resources.into_iter().map(|name| (name.clone(), fleet.holders(catalog, &name, revision, now))).collect();
        for name in names {
            // What was begun before is told again where control could not follow its own store.
            if inner.drains.get(&name).is_none()
                && let Some(Holders { open, mut lost, awaited }) = holders.get(&name.resource()).cloned()
            {
                let seen = inner.registry.get(&name);
                let is_from_before = seen.as_ref().is_some_and(|seen| seen.is_from_before);
                let asked = seen.and_then(|seen| seen.going).unwrap_or(now);
                lost.extend(awaited.into_iter().filter(|_| is_from_before));
                // Its own proxy, if that is gone, sends it nothing.
                let own = name.proxy();
                lost.retain(|(_, id, _)| **id != *own);
                let mark = Mark { name: name.clone(), revision, asked, is_from_before };
                inner.drains.begin(mark, open, lost, now);
            }
            inner.publish(&name);
        }
        self.open.store(inner.drains.all().len(), Relaxed);
        drop(inner);
        self.wake.notify_one();
    }

    /// Something has happened on a stream; with an id: its proxy has introduced itself.
    pub(crate) fn on_stream(&self, number: u64, id: Option<&Arc<str>>, catalog: &Catalog, proxy: &Proxy) {
        if self.open.load(Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        let mut inner = self.inner();
        let is_held = |resource: &str, revision: u64| proxy.life().stream.holds_older(catalog, resource, revision);
        let matters = match id {
            Some(id) => inner.drains.on_come(number, id, now, is_held),
            None => inner.drains.on_progress(number, now, is_held),
        };
        self.tell(inner, matters);
    }

    /// Tells those who go what has changed for them. Of ten thousand who forget one, each need not be told: the last ones are, by
    /// name.
    fn tell(&self, inner: MutexGuard<'_, Inner>, matters: Vec<(Name, usize)>) {
        let few: Vec<Name> =
            matters.into_iter().filter(|(_, waiting)| *waiting <= NAMED_MAX).map(|(name, _)| name).collect();
        few.iter().for_each(|name| inner.publish(name));
        drop(inner);
        if !few.is_empty() {
            self.wake.notify_one();
        }
    }

    /// A stream has ended; `has_ended`: its proxy has, too, or is here on another one.
    pub(crate) fn on_gone(&self, number: u64, has_ended: bool) {
        if self.open.load(Relaxed) == 0 {
            return;
        }
        let mut inner = self.inner();
        let matters = inner.drains.on_leave(number, has_ended, Instant::now());
        self.tell(inner, matters);
        // It is waited for, but not for ever.
        self.wake.notify_one();
    }

    /// These documents have changed: what lanes and ports there are may be others.
    pub(crate) fn on_documents<'k>(&self, keys: impl Iterator<Item = &'k Key>) {
        let (mut services, mut namespaces) = (Vec::new(), Vec::new());
        for key in keys {
            match &*key.kind {
                "Service" => services.push((key.namespace.clone(), key.name.clone())),
                "LaneGroup" => namespaces.push(key.namespace.clone()),
                _ => {}
            }
        }
        if !services.is_empty() || !namespaces.is_empty() {
            self.look_again(|_| (services, namespaces));
        }
    }

    /// Any documents may have changed.
    pub(crate) fn on_all_documents(&self) {
        self.look_again(|registry| (Vec::new(), registry.namespaces()));
    }

    /// The places of all instances of these Services, and in these namespaces.
    fn look_again(&self, of: impl FnOnce(&Registry) -> (Vec<Service>, Vec<Arc<str>>)) {
        // Before the instances, as whoever tells of both does.
        let state = self.store.state();
        let places = Places::new(&state);
        let mut inner = self.inner();
        let (services, namespaces) = of(&inner.registry);
        let place_of = |name: &Name, instance: &Instance| places.of(name, instance);
        let moved = inner.registry.on_documents(&services, &namespaces, place_of, Instant::now());
        moved.iter().for_each(|name| inner.publish(name));
        drop((inner, places));
        drop(state);
        // Most changes of documents move nobody.
        if !moved.is_empty() {
            self.wake.notify_one();
        }
    }

    /// The life of the roll: what is to be told is stored, then told.
    pub(crate) async fn keep(self: Arc<Roll>) {
        let mut is_failing = false;
        loop {
            let due = {
                let mut inner = self.inner();
                let now = Instant::now();
                inner.registry.on_time(now);
                inner.drains.on_time(now);
                inner.publish_drains();
                inner.due()
            };
            let taken = self.inner().registry.take();
            if taken.is_empty() {
                self.reap();
                wait(self.wake.notified(), due).await;
                continue;
            }
            let stored = self.store.shift(taken.clone()).await;
            if std::mem::replace(&mut is_failing, stored.is_err()) != stored.is_err() {
                log::tell(match &stored {
                    Ok(_) => "instances can be stored again".to_owned(),
                    Err(refusal) => {
                        format!("instances that come and go cannot be stored, and are not told: {refusal:?}")
                    }
                });
            }
            if self.take_stored(stored, taken) {
                self.reap();
            } else {
                tokio::time::sleep(STORE_AGAIN).await;
            }
        }
    }

    /// Tells what was stored; what was not is handed out again, and the answer is false.
    fn take_stored(
        &self,
        stored: Result<Arc<Committed>, store::Refusal>,
        taken: Vec<(Name, Option<Instance>)>,
    ) -> bool {
        let mut inner = self.inner();
        match stored {
            Ok(committed) => {
                inner.registry.on_stored(&committed.shifts);
                taken.iter().for_each(|(name, _)| inner.publish(name));
                true
            }
            Err(_) => {
                inner.registry.on_failed(taken);
                false
            }
        }
    }

    /// Drains of instances that are gone are over: each leaves a receipt.
    fn reap(&self) {
        let mut inner = self.inner();
        let is_draining = |inner: &Inner, name: &Name| {
            inner.registry.get(name).is_some_and(|seen| matches!(seen.phase, Phase::Draining { .. }))
        };
        let over: Vec<Name> = inner
            .drains
            .all()
            .iter()
            .map(|drain| drain.name.clone())
            .filter(|name| !is_draining(&inner, name))
            .collect();
        let mut receipts = Vec::new();
        for name in over {
            let ending = inner.endings.remove(&name);
            receipts.extend(inner.drains.end(&name).map(|drain| receipt(&drain, ending.as_ref(), Instant::now())));
        }
        for departure in inner.registry.take_departures() {
            let ending = inner.endings.remove(&departure.name);
            receipts.push(departed(&departure, ending.as_ref(), Instant::now()));
        }
        let Inner { registry, drains, endings, .. } = &mut *inner;
        endings.retain(|name, _| drains.get(name).is_some() || registry.get(name).is_some());
        self.open.store(inner.drains.all().len(), Relaxed);
        drop(inner);
        for receipt in receipts {
            let is_clean = receipt["waiting"] == 0 && receipt["unreachable"] == 0;
            let outcome = match receipt["holders"].is_null() {
                true => "undrained",
                false if is_clean => "forgotten",
                false => "inDoubt",
            };
            self.metrics.drains.get_or_create(&[("outcome", outcome.to_owned())]).inc();
            if let Some(after) = receipt["forgottenMilliseconds"].as_f64() {
                self.metrics.forgotten_after.observe(after / 1_000.0);
            }
            self.store.keep_receipt(receipt.to_string());
        }
    }

    /// Looks at what there is.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Registry, &Drains, &VecDeque<Refused>) -> T) -> T {
        let mut inner = self.inner();
        inner.refused.retain(|refused| refused.at.elapsed() < REFUSED_FOR);
        look(&inner.registry, &inner.drains, &inner.refused)
    }

    /// The last receipts, newest first.
    pub(crate) fn receipts(&self, count: usize) -> Result<Vec<Value>, DiskError> {
        self.store.receipts(count)
    }
}

/// Milliseconds since 1970.
fn wall_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

async fn wait(news: impl Future<Output = ()>, due: Option<Instant>) {
    match due {
        Some(due) => drop(tokio::time::timeout_at(due.into(), news).await),
        None => news.await,
    }
}

impl Inner {
    fn due(&self) -> Option<Instant> {
        [self.registry.due(), self.drains.due()].into_iter().flatten().min()
    }

    fn publish_drains(&mut self) {
        for drain in self.drains.all() {
            if let Some((_, seat)) = self.seats.get(&drain.name) {
                seat.say(self.told(&drain.name));
            }
        }
    }

    /// Tells whoever speaks for an instance how it stands.
    fn publish(&self, name: &Name) {
        if let Some((_, seat)) = self.seats.get(name) {
            seat.say(self.told(name));
        }
    }

    fn told(&self, name: &Name) -> JoinResponse {
        let Some(seen) = self.registry.get(name) else {
            let phase = if self.registry.is_stored(name) { Told::Ended } else { Told::Draining };
            return JoinResponse { phase: phase.into(), ..JoinResponse::default() };
        };
        let drain = self.drains.get(name);
        let (phase, forgetting) = match seen.phase {
            // What is not stored is not so; and nobody is told of one whose ports its Service does not have.
            Phase::Starting => (Told::Starting, None),
            Phase::Ready if self.registry.is_stored(name) && !seen.place.is_nowhere() => (Told::Ready, None),
            Phase::Ready => (Told::Starting, None),
            Phase::Last { .. } => (Told::Last, None),
            // Callers never knew it.
            Phase::Unknown { .. } => (Told::Draining, Some(Forgetting { is_over: true, ..Forgetting::default() })),
            // Without a drain callers are not told so far: it is being stored, or cannot be.
            Phase::Draining { .. } => (Told::Draining, drain.map(forgetting)),
        };
        JoinResponse { phase: phase.into(), drain: seen.is_asked, forgetting, ..JoinResponse::default() }
    }
}

fn forgetting(drain: &Drain) -> Forgetting {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Forgetting {
        revision: drain.revision,
        holders: count(drain.holders().count()),
        waiting: count(drain.waiting()),
        waiting_for: drain.named(NAMED_MAX, HolderState::waits),
        unreachable: count(drain.unreachable()),
        unreachable_ids: drain.named(NAMED_MAX, |state| matches!(state, HolderState::Unreachable(_))),
        is_over: drain.forgotten.is_some(),
    }
}
