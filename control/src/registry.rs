//! Who is where: the instances of Services, told by the proxies beside them. One enters when its proxy says that it is ready,
//! and leaves by a drain. What becomes of one whose proxy is silent is decided with a brake, since a network that is torn
//! looks like instances that die. Time is an argument; what is stored and told is somebody else's. Machine, Cold.
//!
//! - A proxy **speaks for** its instance for as long as its stream is open. One for which nobody speaks is *unconfirmed*:
//!   callers still use it, and find out by themselves whether it answers.
//! - After a **lease** it is taken away, unless that would leave less than 85 % of its Service, or empty the Service or a
//!   lane of it. One alone may always go: with three instances it would be a third.
//! - Another **process** of the same name, or at the same address, takes the place of one that is unconfirmed, and is
//!   refused where the first is there.
//! - The **last ready instance** of a Service, or of its baseline, that wants to go stays until another is ready, or until
//!   it has no time left.

mod drain;
mod instance;
mod phase;
mod seen;
#[cfg(test)]
mod tests;

pub use drain::{Drain, Drains, HolderState, Mark};
pub use instance::{Instance, Name, Shift};
pub use phase::{Departed, Departure, Phase, Refusal, Word};
pub use seen::{Place, Seen};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seen::seen;

/// For a proxy to come back.
pub const LEASE: Duration = Duration::from_secs(10);
/// The same after control's own start: everybody comes back at once then, and some wait ten seconds before they try.
pub const LEASE_AT_START: Duration = Duration::from_secs(30);
/// Of a hundred instances of a Service that must be confirmed before unconfirmed ones are taken away.
const CONFIRMED_PERCENT: usize = 85;
/// Before the last ready instance has no time left, callers are told after all.
const LAST_MARGIN: Duration = Duration::from_secs(3);
/// Beyond its deadline one that leaves is not waited for.
const OVERDUE: Duration = Duration::from_secs(10);
/// Instances of one Service.
pub const INSTANCES_MAX: usize = 20_000;

/// One instance.
#[derive(Debug, Clone)]
struct Record {
    instance: Instance,
    place: Place,
    phase: Phase,
    /// Who speaks for it.
    stream: Option<u64>,
    /// If nobody does: when its lease ends.
    lease: Instant,
    /// And since when.
    silent: Instant,
    /// Since when it goes.
    going: Option<Instant>,
    /// Why its proxy says that it is not ready, or what it waits for.
    note: Box<str>,
    /// Callers may know it though they are not told of it: they were, or it was before its proxy lost control.
    may_be_known: bool,
    /// Its application is not ready any more, and there is no other.
    is_unwell: bool,
    /// Somebody wants it to go.
    is_asked: bool,
    /// Callers were told of it before control started.
    is_from_before: bool,
    /// Somebody has spoken for it since.
    is_heard: bool,
}

/// All instances.
#[derive(Debug)]
pub struct Registry {
    records: BTreeMap<Name, Record>,
    addresses: HashMap<SocketAddr, Name>,
    /// How many instances a Service had that are ready when all of them were confirmed.
    expected: HashMap<(Arc<str>, Arc<str>), usize>,
    /// What is stored.
    stored: BTreeMap<Name, Arc<Instance>>,
    /// Those that may have to be stored anew.
    dirty: BTreeSet<Name>,
    /// What nobody has heard of so far.
    departures: Vec<Departure>,
    /// When time mattered last: what did not go then waits for something else.
    looked: Instant,
}

impl Record {
    /// One of which nothing is known so far.
    fn enters(instance: Instance, place: Place, now: Instant) -> Record {
        Record {
            instance,
            place,
            phase: Phase::Starting,
            stream: None,
            lease: now,
            silent: now,
            going: None,
            note: "".into(),
            // Until its proxy says otherwise.
            may_be_known: true,
            is_unwell: false,
            is_asked: false,
            is_from_before: false,
            is_heard: true,
        }
    }

    /// What callers are told; None: nothing.
    fn told(&self) -> Option<Instance> {
        let is_draining = match self.phase {
            Phase::Starting | Phase::Unknown { .. } => return None,
            Phase::Ready | Phase::Last { .. } => false,
            Phase::Draining { .. } => true,
        };
        let going_ms = if is_draining { self.instance.going_ms } else { 0 };
        Some(Instance { is_draining, going_ms, ..self.instance.clone() })
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        addresses(&self.instance)
    }
}

fn addresses(instance: &Instance) -> impl Iterator<Item = SocketAddr> {
    instance.ports.values().map(|port| SocketAddr::new(instance.address, *port)).collect::<Vec<_>>().into_iter()
}

impl Registry {
    /// What is stored, for which nobody speaks so far. `place_of` tells the place of each; `wall_ms` is now in milliseconds
    /// since 1970.
    pub fn new(
        stored: BTreeMap<Name, Arc<Instance>>,
        place_of: impl Fn(&Name, &Instance) -> Place,
        wall_ms: i64,
        now: Instant,
    ) -> Registry {
        let mut registry = Registry {
            records: BTreeMap::new(),
            addresses: HashMap::new(),
            expected: HashMap::new(),
            stored: BTreeMap::new(),
            dirty: BTreeSet::new(),
            departures: Vec::new(),
            looked: now,
        };
        for (name, instance) in &stored {
            let lease = now + LEASE_AT_START;
            // How long it wanted to take is its own affair, and it says so again.
            let phase = if instance.is_draining { Phase::Draining { deadline: lease } } else { Phase::Ready };
            let (place, instance) = (place_of(name, instance), Instance::clone(instance));
            registry.addresses.extend(addresses(&instance).map(|address| (address, name.clone())));
            let going = Some(instance.going_ms).filter(|going_ms| instance.is_draining && *going_ms > 0);
            let going_for = going.map(|going_ms| Duration::from_millis(wall_ms.saturating_sub(going_ms).max(0) as u64));
            let going = going_for.map(|time| now.checked_sub(time).unwrap_or(now));
            let entered = Record::enters(instance, place, now);
            let record = Record { phase, lease, going, is_from_before: true, is_heard: false, ..entered };
            *registry.expected.entry(service(name)).or_default() += usize::from(phase == Phase::Ready);
            registry.records.insert(name.clone(), record);
        }
        registry.stored = stored;
        registry
    }

    /// A proxy speaks for an instance from now on.
    pub fn on_join(
        &mut self,
        name: &Name,
        instance: Instance,
        place: Place,
        stream: u64,
        now: Instant,
    ) -> Result<(), Refusal> {
        if let Some(known) = self.records.get_mut(name) {
            if known.instance.incarnation == instance.incarnation && known.addresses().eq(addresses(&instance)) {
                // It comes back, perhaps before its old stream is known to be gone.
                (known.stream, known.lease, known.is_heard) = (Some(stream), now, true);
                let Instance { ready_ms, is_draining, going_ms, .. } = known.instance;
                (known.instance, known.place) = (Instance { ready_ms, is_draining, going_ms, ..instance }, place);
                self.dirty.insert(name.clone());
                self.count(name);
                // Another one may have waited for it.
                self.settle(name, now);
                return Ok(());
            }
            if known.stream.is_some() {
                let place = known.addresses().next();
                return Err(Refusal::NameTaken(place.unwrap_or(SocketAddr::new(known.instance.address, 0))));
            }
        }
        let at_its_place = |address: SocketAddr| Some((address, self.addresses.get(&address)?.clone()));
        let others: Vec<_> = addresses(&instance).filter_map(at_its_place).filter(|(_, other)| other != name).collect();
        let is_there = |other: &Name| self.records.get(other).is_some_and(|record| record.stream.is_some());
        if let Some((address, other)) = others.iter().find(|(_, other)| is_there(other)) {
            return Err(Refusal::AddressTaken(*address, other.clone()));
        }
        if self.of_service(name).count() >= INSTANCES_MAX && !self.records.contains_key(name) {
            return Err(Refusal::TooMany);
        }
        // Whoever was there is dead.
        others.iter().for_each(|(_, other)| self.replace(other));
        self.replace(name);
        self.addresses.extend(addresses(&instance).map(|address| (address, name.clone())));
        let record = Record { stream: Some(stream), ..Record::enters(instance, place, now) };
        self.records.insert(name.clone(), record);
        Ok(())
    }

    /// Why a proxy says that its instance is not ready, or what it waits for.
    pub fn on_note(&mut self, name: &Name, stream: u64, note: Box<str>) {
        if let Some(record) = self.records.get_mut(name).filter(|record| record.stream == Some(stream)) {
            record.note = note;
        }
    }

    /// Documents have changed, on which the places of the instances of these Services depend, and of all in these namespaces. Tells
    /// which are elsewhere now.
    pub fn on_documents(
        &mut self,
        services: &[(Arc<str>, Arc<str>)],
        namespaces: &[Arc<str>],
        place_of: impl Fn(&Name, &Instance) -> Place,
        now: Instant,
    ) -> Vec<Name> {
        let of_services = services.iter().flat_map(|of| self.in_service(of));
        let of_namespaces = self.records.iter().filter(|(name, _)| namespaces.contains(&name.namespace));
        let moved = of_services.chain(of_namespaces).filter_map(|(name, record)| {
            let place = place_of(name, &record.instance);
            (place != record.place).then(|| (name.clone(), place))
        });
        let moved: BTreeMap<Name, Place> = moved.collect();
        for (name, place) in &moved {
            if let Some(record) = self.records.get_mut(name) {
                record.place = place.clone();
            }
        }
        // One may have waited for another at just that place.
        let first: BTreeMap<_, _> = moved.keys().map(|name| (service(name), name)).collect();
        first.values().for_each(|name| self.settle(name, now));
        moved.into_keys().collect()
    }

    /// Those in which there are instances.
    pub fn namespaces(&self) -> Vec<Arc<str>> {
        let all: BTreeSet<&Arc<str>> = self.records.keys().map(|name| &name.namespace).collect();
        all.into_iter().cloned().collect()
    }

    /// A proxy says how far its instance is. `wall_ms` is milliseconds since 1970. Nothing comes of it if somebody else
    /// speaks for it by now.
    pub fn on_word(&mut self, name: &Name, stream: u64, word: Word, wall_ms: i64, now: Instant) {
        let Some(record) = self.records.get_mut(name).filter(|record| record.stream == Some(stream)) else { return };
        if let Word::Draining { since, .. } | Word::Ended { since } = word
            && record.going.is_none()
        {
            record.going = Some(now.checked_sub(since).unwrap_or(now));
            record.instance.going_ms = wall_ms.saturating_sub(since.as_millis() as i64);
        }
        let going = record.going;
        match (word, record.phase) {
            (Word::Starting, Phase::Starting) if record.instance.ready_ms == 0 => record.may_be_known = false,
            (Word::Ready, Phase::Starting) => {
                (record.phase, record.instance.ready_ms) = (Phase::Ready, wall_ms);
                (record.may_be_known, record.is_unwell) = (true, false);
                self.dirty.insert(name.clone());
                self.count(name);
                self.settle(name, now);
            }
            (Word::Ready, Phase::Ready) => {
                record.is_unwell = false;
                self.settle(name, now);
            }
            // Its application does not answer any more: nobody need drain for that. The last one is left to callers.
            (Word::Starting, Phase::Ready) => {
                record.is_unwell = true;
                self.settle(name, now);
            }
            (Word::Draining { within, .. }, Phase::Starting) if !record.may_be_known => {
                self.set_phase(name, Phase::Unknown { deadline: now + within });
            }
            // Not all callers have taken so far that they are not to use it.
            (Word::Draining { within, .. }, Phase::Starting) => {
                self.set_phase(name, Phase::Draining { deadline: now + within });
            }
            (Word::Draining { within, .. }, Phase::Ready) => {
                self.lower(name);
                // Callers need milliseconds; of a short time most is for the other one to come.
                let told = now + within - (within / 4).min(LAST_MARGIN);
                self.set_phase(name, Phase::Last { deadline: now + within, told });
                self.settle(name, now);
            }
            // It came back, and says again until when.
            (Word::Draining { within, .. }, Phase::Draining { .. }) => {
                record.phase = Phase::Draining { deadline: now + within };
            }
            (Word::Ended { .. }, phase) => {
                if phase == Phase::Ready {
                    self.lower(name);
                }
                let how = match phase {
                    Phase::Ready => Some(Departed::Unseen),
                    Phase::Last { .. } => Some(Departed::Untold),
                    Phase::Starting | Phase::Draining { .. } | Phase::Unknown { .. } => None,
                };
                let departure = how.zip(going).map(|(how, since)| Departure { name: name.clone(), since, how });
                self.departures.extend(departure);
                self.remove(name);
                self.settle(name, now);
            }
            (Word::Starting | Word::Ready | Word::Draining { .. }, _) => {}
        }
    }

    /// The stream of a proxy is gone.
    pub fn on_leave(&mut self, name: &Name, stream: u64, now: Instant) {
        let Some(record) = self.records.get_mut(name).filter(|record| record.stream == Some(stream)) else { return };
        (record.stream, record.lease, record.silent) = (None, now + LEASE, now);
        if record.told().is_none() {
            self.remove(name);
        }
    }

    /// Somebody wants an instance to go, at `wall_ms` milliseconds since 1970. False: there is none of that name.
    pub fn on_ask(&mut self, name: &Name, wall_ms: i64, now: Instant) -> bool {
        let Some(record) = self.records.get_mut(name) else { return false };
        record.is_asked = true;
        if record.stream.is_none() && record.phase == Phase::Ready {
            // Nobody can ask it: callers are told at once, and what it has under way is its own affair.
            (record.going, record.instance.going_ms) = (Some(now), wall_ms);
            self.lower(name);
            self.set_phase(name, Phase::Draining { deadline: now + LEASE });
        }
        true
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Instant) {
        self.looked = now;
        let mut overdue = Vec::new();
        let mut last = Vec::new();
        let mut silent: BTreeMap<(Arc<str>, Arc<str>), Vec<Name>> = BTreeMap::new();
        for (name, record) in &self.records {
            let is_silent = record.stream.is_none() && record.lease <= now;
            match record.phase {
                Phase::Draining { deadline } if is_silent && deadline <= now => overdue.push(name.clone()),
                Phase::Draining { deadline } | Phase::Unknown { deadline } if deadline + OVERDUE <= now => {
                    overdue.push(name.clone());
                }
                Phase::Last { deadline, told } if told <= now => last.push((name.clone(), deadline)),
                Phase::Ready if is_silent => silent.entry(service(name)).or_default().push(name.clone()),
                _ => {}
            }
        }
        overdue.iter().for_each(|name| self.remove(name));
        for (name, deadline) in last {
            self.set_phase(&name, Phase::Draining { deadline });
        }
        for (service, names) in silent {
            if self.is_braked(&service) {
                continue;
            }
            for name in names {
                if !self.is_last(&name, true) {
                    let is_heard = self.records.get(&name).is_some_and(|record| record.is_heard);
                    self.depart(&name, if is_heard { Departed::Lease } else { Departed::Away });
                    self.remove(&name);
                    self.count(&name);
                }
            }
        }
    }

    /// When time matters next; None: it does not.
    pub fn due(&self) -> Option<Instant> {
        let due = |record: &Record| match record.phase {
            Phase::Draining { deadline } if record.stream.is_none() => Some(record.lease.max(deadline)),
            Phase::Draining { deadline } | Phase::Unknown { deadline } => Some(deadline + OVERDUE),
            Phase::Last { told, .. } => Some(told),
            Phase::Ready if record.stream.is_none() => Some(record.lease).filter(|lease| *lease > self.looked),
            Phase::Ready | Phase::Starting => None,
        };
        self.records.values().filter_map(due).min()
    }

    /// What has to be stored: instances as they are to be told; None: no longer. It is handed out once.
    pub fn take(&mut self) -> Vec<(Name, Option<Instance>)> {
        let mut taken = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            let told = self.records.get(&name).and_then(Record::told);
            if told.as_ref() != self.stored.get(&name).map(Arc::as_ref) {
                taken.push((name, told));
            }
        }
        taken
    }

    /// Those that have gone without a drain since this was asked.
    pub fn take_departures(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.departures)
    }

    /// What was handed out is stored.
    pub fn on_stored(&mut self, shifts: &[Shift]) {
        for Shift { name, after, .. } in shifts {
            match after {
                Some(instance) => drop(self.stored.insert(name.clone(), instance.clone())),
                None => drop(self.stored.remove(name)),
            }
        }
    }

    /// What was handed out could not be stored: it is handed out again.
    pub fn on_failed(&mut self, taken: Vec<(Name, Option<Instance>)>) {
        self.dirty.extend(taken.into_iter().map(|(name, _)| name));
    }

    /// Whether what is told of an instance is stored.
    pub fn is_stored(&self, name: &Name) -> bool {
        let told = self.records.get(name).and_then(Record::told);
        told.as_ref() == self.stored.get(name).map(Arc::as_ref)
    }

    /// One instance.
    pub fn get(&self, name: &Name) -> Option<Seen<'_>> {
        self.records.get(name).map(seen)
    }

    /// All instances.
    pub fn all(&self) -> impl Iterator<Item = (&Name, Seen<'_>)> {
        self.records.iter().map(|(name, record)| (name, seen(record)))
    }

    /// Whether so many instances of a Service are unconfirmed that none of them is taken away.
    pub fn is_braked(&self, of: &(Arc<str>, Arc<str>)) -> bool {
        let ready = self.in_service(of).filter(|(_, record)| record.phase == Phase::Ready);
        let (confirmed, lost) = ready.fold((0, 0), |(confirmed, lost), (_, record)| match record.stream {
            Some(_) => (confirmed + 1, lost),
            None => (confirmed, lost + 1),
        });
        let expected = self.expected.get(of).copied().unwrap_or_default();
        lost > 1 && confirmed * 100 < expected * CONFIRMED_PERCENT
    }

    /// The Services that this is so of, each namespace and name.
    pub fn braked(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.expected.keys().filter(|of| self.is_braked(of))
    }

    fn in_service<'r>(&'r self, of: &(Arc<str>, Arc<str>)) -> impl Iterator<Item = (&'r Name, &'r Record)> + use<'r> {
        let (namespace, service) = of.clone();
        let first = Name { namespace: namespace.clone(), service: service.clone(), name: "".into() };
        let is_its = move |name: &Name| name.namespace == namespace && name.service == service;
        self.records.range(first..).take_while(move |(name, _)| is_its(name))
    }

    fn of_service<'r>(&'r self, name: &Name) -> impl Iterator<Item = (&'r Name, &'r Record)> + use<'r> {
        self.in_service(&service(name))
    }

    /// Whether no other instance of its Service, or of its lane, is there for callers. Lanes may be empty, and the baseline serves
    /// their requests, where nothing but a lease ends. One that goes as the last one is there until then: `counts_last`.
    fn is_last(&self, name: &Name, counts_last: bool) -> bool {
        let Some(place) = self.records.get(name).map(|record| &record.place) else { return false };
        let is_there = |record: &Record| match record.phase {
            Phase::Ready => !record.is_unwell,
            Phase::Last { .. } => counts_last && record.stream.is_some() && !record.is_unwell,
            _ => false,
        };
        let serves = |record: &Record| record.place.lane == place.lane && record.place.ports.is_superset(&place.ports);
        !self.of_service(name).any(|(other, record)| other != name && is_there(record) && serves(record))
    }

    /// Those of a Service that wait for another one may go, if there is one, and those that are not well are told no more.
    fn settle(&mut self, name: &Name, now: Instant) {
        let unwell: Vec<Name> =
            self.of_service(name).filter(|(_, record)| record.is_unwell).map(|(name, _)| name.clone()).collect();
        for name in unwell {
            let is_ready = self.records.get(&name).is_some_and(|record| record.phase == Phase::Ready);
            // One that goes does not serve in its place for long.
            if is_ready && !self.is_last(&name, false) {
                self.lower(&name);
                self.set_phase(&name, Phase::Starting);
            }
        }
        let last = self.of_service(name).filter_map(|(name, record)| match record.phase {
            Phase::Last { deadline, told } => Some((name.clone(), deadline, told)),
            _ => None,
        });
        for (name, deadline, told) in last.collect::<Vec<_>>() {
            let Some(place) = self.records.get(&name).map(|record| &record.place) else { continue };
            let is_ready =
                |record: &Record| record.phase == Phase::Ready && record.stream.is_some() && !record.is_unwell;
            // The baseline serves the requests of a lane, or that is strict, and time changes nothing about it.
            let serves = |record: &Record| {
                (record.place.lane == place.lane || record.place.lane.is_empty())
                    && record.place.ports.is_superset(&place.ports)
            };
            let is_free = self.of_service(&name).any(|(_, record)| is_ready(record) && serves(record));
            if is_free || told <= now {
                self.set_phase(&name, Phase::Draining { deadline });
            }
        }
    }

    fn set_phase(&mut self, name: &Name, phase: Phase) {
        if let Some(record) = self.records.get_mut(name) {
            record.phase = phase;
            self.dirty.insert(name.clone());
        }
    }

    /// One that is silent, and was not going, is taken away.
    fn depart(&mut self, name: &Name, how: Departed) {
        let Some(record) = self.records.get(name) else { return };
        if matches!(record.phase, Phase::Ready | Phase::Last { .. }) {
            self.departures.push(Departure { name: name.clone(), since: record.silent, how });
        }
    }

    /// Another one has its name or address.
    fn replace(&mut self, name: &Name) {
        self.depart(name, Departed::Replaced);
        self.remove(name);
    }

    fn remove(&mut self, name: &Name) {
        let Some(record) = self.records.remove(name) else { return };
        for address in record.addresses() {
            if self.addresses.get(&address) == Some(name) {
                self.addresses.remove(&address);
            }
        }
        self.dirty.insert(name.clone());
        let of = service(name);
        if self.in_service(&of).next().is_none() {
            self.expected.remove(&of);
        }
    }

    /// Where all ready instances are confirmed, that is how many there should be.
    fn count(&mut self, name: &Name) {
        let of = service(name);
        let ready = self.in_service(&of).filter(|(_, record)| record.phase == Phase::Ready);
        let (all, confirmed) = ready
            .fold((0, 0), |(all, confirmed), (_, record)| (all + 1, confirmed + usize::from(record.stream.is_some())));
        let expected = self.expected.entry(of).or_default();
        if all == confirmed || confirmed > *expected {
            *expected = confirmed;
        }
    }

    /// One that is ready goes because it wants to.
    fn lower(&mut self, name: &Name) {
        if let Some(expected) = self.expected.get_mut(&service(name)) {
            *expected = expected.saturating_sub(1);
        }
    }
}

fn service(name: &Name) -> (Arc<str>, Arc<str>) {
    (name.namespace.clone(), name.service.clone())
}
