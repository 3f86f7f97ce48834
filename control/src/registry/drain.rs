//! Who is to forget an instance, and who has: every proxy that had, or was about to have, a resource that names it when it
//! was marked. One acknowledges by having what is newer in force. One whose connection broke is waited for until its lease
//! ends, and is *unreachable* from then on: it may still send, and the instance serves on until it is quiet. Time is an
//! argument. Machine, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::{LEASE, Name};

/// What a holder has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderState {
    /// It may still send requests.
    Holding,
    /// Its connection broke then.
    Lost(Instant),
    /// It did not come back.
    Unreachable(Instant),
    /// It has forgotten the instance.
    Applied(Instant),
    /// It has ended.
    Ended(Instant),
}

/// A proxy that may send requests to the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The proxy.
    pub id: Arc<str>,
    /// What it has come to.
    pub state: HolderState,
}

/// An instance that is to be forgotten.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Which.
    pub name: Name,
    /// The resource that names it.
    pub resource: Arc<str>,
    /// Whoever has this revision of the resource, or a later one, has forgotten it.
    pub revision: u64,
    /// Since when it wants to go.
    pub asked: Instant,
    /// Since when callers are to forget it.
    pub began: Instant,
    /// By the number of the stream.
    holders: BTreeMap<u64, Holder>,
    /// Those of them that may send requests, as far as is known.
    waiting: usize,
    /// Those of them that did not come back.
    unreachable: usize,
    /// Those whose connection broke, and that are not back, by id.
    away: BTreeSet<(Arc<str>, u64)>,
    /// Callers were told of it before control started: until all had the time to come back, nobody knows who they are.
    pub is_from_before: bool,
    /// When nobody was left who may send requests, for the first time.
    pub forgotten: Option<Instant>,
}

/// That an instance is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Which.
    pub name: Name,
    /// Since which revision callers are told so.
    pub revision: u64,
    /// Since when it wants to go.
    pub asked: Instant,
    /// Callers were told of it before control started.
    pub is_from_before: bool,
}

/// All that are under way.
#[derive(Debug, Default)]
pub struct Drains {
    drains: Vec<Drain>,
    /// Before this time nobody who was there before control started is known to be gone.
    known_from: Option<Instant>,
}

impl Drain {
    /// Everybody who is to forget it, or has.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.holders.values()
    }

    /// How many of them may send requests, as far as is known.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many of them did not come back.
    pub fn unreachable(&self) -> usize {
        self.unreachable
    }

    /// Those whose connection broke, by stream, and when it did.
    fn lost(&self) -> impl Iterator<Item = (u64, Instant)> {
        self.away.iter().filter_map(|(_, stream)| match self.holders.get(stream)?.state {
            HolderState::Lost(since) => Some((*stream, since)),
            _ => None,
        })
    }

    fn insert(&mut self, stream: u64, holder: Holder) {
        self.remove(stream);
        self.count(&holder.id, stream, holder.state, 1);
        self.holders.insert(stream, holder);
    }

    fn remove(&mut self, stream: u64) {
        if let Some(holder) = self.holders.remove(&stream) {
            self.count(&holder.id, stream, holder.state, -1);
        }
    }

    /// One more, or one less, has come to that.
    fn count(&mut self, id: &Arc<str>, stream: u64, state: HolderState, change: isize) {
        let counted = |count: usize, is_it: bool| count.wrapping_add_signed(if is_it { change } else { 0 });
        self.waiting = counted(self.waiting, state.waits());
        self.unreachable = counted(self.unreachable, matches!(state, HolderState::Unreachable(_)));
        if matches!(state, HolderState::Lost(_) | HolderState::Unreachable(_)) {
            let one = (id.clone(), stream);
            if change > 0 {
                self.away.insert(one)
            } else {
                self.away.remove(&one)
            };
        }
    }

    /// A holder has come to something, if it was at that.
    fn turn(&mut self, stream: u64, from: HolderState, to: HolderState) -> bool {
        let Some(holder) = self.holders.get_mut(&stream).filter(|holder| holder.state == from) else { return false };
        holder.state = to;
        let id = holder.id.clone();
        self.count(&id, stream, from, -1);
        self.count(&id, stream, to, 1);
        true
    }
}

impl HolderState {
    /// Whether it is waited for.
    pub fn waits(self) -> bool {
        matches!(self, HolderState::Holding | HolderState::Lost(_))
    }
}

impl Drains {
    /// None is under way, and control has just started.
    pub fn starting(now: Instant) -> Drains {
        Drains { drains: Vec::new(), known_from: Some(now + LEASE) }
    }

    /// An instance is to be forgotten by these proxies: streams that are open, and those that broke a moment ago.
    pub fn begin(
        &mut self,
        mark: Mark,
        open: impl IntoIterator<Item = (u64, Arc<str>)>,
        lost: impl IntoIterator<Item = (u64, Arc<str>, Instant)>,
        now: Instant,
    ) {
        let Mark { name, revision, asked, is_from_before } = mark;
        self.drains.retain(|drain| drain.name != name);
        let open = open.into_iter().map(|(stream, id)| (stream, Holder { id, state: HolderState::Holding }));
        let lost = lost.into_iter().map(|(stream, id, at)| (stream, Holder { id, state: HolderState::Lost(at) }));
        let mut drain = Drain {
            resource: name.resource().into(),
            name,
            revision,
            asked,
            began: now,
            holders: BTreeMap::new(),
            waiting: 0,
            unreachable: 0,
            away: BTreeSet::new(),
            is_from_before,
            forgotten: None,
        };
        lost.chain(open).for_each(|(stream, holder)| drain.insert(stream, holder));
        self.drains.push(drain);
        self.on_time(now);
    }

    /// An instance has wanted to go since then already.
    pub fn on_asked(&mut self, name: &Name, asked: Instant) {
        for drain in self.drains.iter_mut().filter(|drain| drain.name == *name) {
            drain.asked = drain.asked.min(asked);
        }
    }

    /// Something happened on a stream; `is_held` says whether its proxy may still send requests to what a resource named
    /// before a revision. Tells to which drains that matters, and how many they still wait for.
    pub fn on_progress(
        &mut self,
        stream: u64,
        now: Instant,
        is_held: impl Fn(&str, u64) -> bool,
    ) -> Vec<(Name, usize)> {
        let mut matters = Vec::new();
        for drain in &mut self.drains {
            // Of very many streams, only those that are waited for are looked at.
            let is_waited_for = drain.holders.get(&stream).is_some_and(|holder| holder.state == HolderState::Holding);
            if is_waited_for && !is_held(&drain.resource, drain.revision) {
                drain.turn(stream, HolderState::Holding, HolderState::Applied(now));
                matters.push((drain.name.clone(), drain.waiting));
            }
        }
        if !matters.is_empty() {
            self.settle(now);
        }
        matters
    }

    /// A proxy has introduced itself: one that was lost is back, and another may come with what it had on its disk. Tells as
    /// `on_progress` does.
    pub fn on_come(
        &mut self,
        stream: u64,
        id: &Arc<str>,
        now: Instant,
        is_held: impl Fn(&str, u64) -> bool,
    ) -> Vec<(Name, usize)> {
        let mut matters = Vec::new();
        for drain in &mut self.drains {
            let streams = drain.away.range((id.clone(), 0)..=(id.clone(), u64::MAX));
            let before: Vec<u64> = streams.map(|(_, stream)| *stream).collect();
            before.iter().for_each(|stream| drain.remove(*stream));
            let state = match is_held(&drain.resource, drain.revision) {
                true => HolderState::Holding,
                false if before.is_empty() => continue,
                false => HolderState::Applied(now),
            };
            drain.insert(stream, Holder { id: id.clone(), state });
            if state == HolderState::Holding {
                drain.forgotten = None;
            }
            matters.push((drain.name.clone(), drain.waiting));
        }
        self.settle(now);
        matters
    }

    /// A stream has ended; `has_ended`: its proxy has, too. Tells as `on_progress` does.
    pub fn on_leave(&mut self, stream: u64, has_ended: bool, now: Instant) -> Vec<(Name, usize)> {
        let state = if has_ended { HolderState::Ended(now) } else { HolderState::Lost(now) };
        let mut matters = Vec::new();
        for drain in &mut self.drains {
            if drain.turn(stream, HolderState::Holding, state) {
                matters.push((drain.name.clone(), drain.waiting));
            }
        }
        self.settle(now);
        matters
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Instant) {
        for drain in &mut self.drains {
            let over = drain.lost().filter(|(_, since)| now.saturating_duration_since(*since) >= LEASE);
            for (stream, since) in over.collect::<Vec<_>>() {
                drain.turn(stream, HolderState::Lost(since), HolderState::Unreachable(since));
            }
        }
        self.settle(now);
    }

    /// When time matters next; None: it does not.
    pub fn due(&self) -> Option<Instant> {
        let lost = self.drains.iter().flat_map(Drain::lost).map(|(_, since)| since + LEASE);
        let waits = |drain: &Drain| drain.is_from_before && drain.forgotten.is_none();
        let known_from = self.known_from.filter(|_| self.drains.iter().any(waits));
        lost.chain(known_from).min()
    }

    /// It is over, one way or the other.
    pub fn end(&mut self, name: &Name) -> Option<Drain> {
        let place = self.drains.iter().position(|drain| drain.name == *name)?;
        Some(self.drains.swap_remove(place))
    }

    /// One that is under way.
    pub fn get(&self, name: &Name) -> Option<&Drain> {
        self.drains.iter().find(|drain| drain.name == *name)
    }

    /// All that are under way.
    pub fn all(&self) -> &[Drain] {
        &self.drains
    }

    fn settle(&mut self, now: Instant) {
        if self.known_from.is_some_and(|known_from| known_from <= now) {
            self.known_from = None;
        }
        let is_known = self.known_from.is_none();
        for drain in self.drains.iter_mut().filter(|drain| drain.forgotten.is_none()) {
            if drain.waiting == 0 && (is_known || !drain.is_from_before) {
                drain.forgotten = Some(now);
            }
        }
    }
}

impl Drain {
    /// The first of those that have come to something, by name.
    pub fn named(&self, count: usize, is_it: impl Fn(HolderState) -> bool) -> Vec<String> {
        let meant = self.holders.values().filter(|holder| is_it(holder.state));
        meant.take(count).map(|holder| holder.id.to_string()).collect()
    }
}
