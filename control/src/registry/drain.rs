//! Who is to forget an instance, and who has: every proxy that had, or was about to have, a resource that names it when it
//! was marked. One acknowledges by having what is newer in force. One whose connection broke is waited for until its lease
//! ends, and is *unreachable* from then on: it may still send, and the instance serves on until it is quiet. Time is an
//! argument. Machine, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// Since when.
    pub began: Instant,
    /// By the number of the stream.
    holders: BTreeMap<u64, Holder>,
    /// Those of them that may send requests, as far as is known.
    waiting: usize,
    /// Callers were told of it before control started: until all had the time to come back, nobody knows who they are.
    is_from_before: bool,
    /// When nobody was left who may send requests, for the first time.
    pub forgotten: Option<Instant>,
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

    fn insert(&mut self, stream: u64, holder: Holder) {
        self.remove(stream);
        self.waiting += usize::from(holder.state.waits());
        self.holders.insert(stream, holder);
    }

    fn remove(&mut self, stream: u64) {
        self.waiting -= usize::from(self.holders.remove(&stream).is_some_and(|holder| holder.state.waits()));
    }

    /// A holder has come to something, if it was at that.
    fn turn(&mut self, stream: u64, from: HolderState, to: HolderState) -> bool {
        let Some(holder) = self.holders.get_mut(&stream).filter(|holder| holder.state == from) else { return false };
        self.waiting -= usize::from(from.waits());
        self.waiting += usize::from(to.waits());
        holder.state = to;
        true
    }
}

impl HolderState {
    /// Whether it is waited for.
    fn waits(self) -> bool {
        matches!(self, HolderState::Holding | HolderState::Lost(_))
    }
}

impl Drains {
    /// None is under way, and control has just started.
    pub fn starting(now: Instant) -> Drains {
        Drains { drains: Vec::new(), known_from: Some(now + LEASE) }
    }

    /// An instance is to be forgotten, by these proxies: streams that are open, and those that broke a moment ago. `is_from_before`:
    /// callers were told of it before control started.
    pub fn begin(
        &mut self,
        name: Name,
        revision: u64,
        is_from_before: bool,
        open: impl IntoIterator<Item = (u64, Arc<str>)>,
        lost: impl IntoIterator<Item = (u64, Arc<str>, Instant)>,
        now: Instant,
    ) {
        self.drains.retain(|drain| drain.name != name);
        let open = open.into_iter().map(|(stream, id)| (stream, Holder { id, state: HolderState::Holding }));
        let lost = lost.into_iter().map(|(stream, id, at)| (stream, Holder { id, state: HolderState::Lost(at) }));
        let (resource, holders): (_, BTreeMap<u64, Holder>) = (name.resource().into(), lost.chain(open).collect());
        let waiting = holders.len();
        let forgotten = None;
        self.drains.push(Drain { name, resource, revision, began: now, holders, waiting, is_from_before, forgotten });
        self.settle(now);
    }

    /// Something happened on a stream; `is_held` says whether its proxy may still send requests to what a resource named
    /// before a revision. Tells whether it matters to a drain.
    pub fn on_progress(&mut self, stream: u64, now: Instant, is_held: impl Fn(&str, u64) -> bool) -> bool {
        let mut matters = false;
        for drain in &mut self.drains {
            // Of very many streams, only those that are waited for are looked at.
            let is_waited_for = drain.holders.get(&stream).is_some_and(|holder| holder.state == HolderState::Holding);
            if is_waited_for && !is_held(&drain.resource, drain.revision) {
                matters |= drain.turn(stream, HolderState::Holding, HolderState::Applied(now));
            }
        }
        if matters {
            self.settle(now);
        }
        matters
    }

    /// A proxy has introduced itself: one that was lost is back, and another may come with what it had on its disk.
    pub fn on_come(&mut self, stream: u64, id: &Arc<str>, now: Instant, is_held: impl Fn(&str, u64) -> bool) {
        for drain in &mut self.drains {
            let is_it = |holder: &Holder| {
                holder.id == *id && matches!(holder.state, HolderState::Lost(_) | HolderState::Unreachable(_))
            };
            let before: Vec<u64> =
                drain.holders.iter().filter(|(_, holder)| is_it(holder)).map(|(stream, _)| *stream).collect();
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
        }
        self.settle(now);
    }

    /// A stream has ended; `has_ended`: its proxy has, too.
    pub fn on_leave(&mut self, stream: u64, has_ended: bool, now: Instant) {
        let state = if has_ended { HolderState::Ended(now) } else { HolderState::Lost(now) };
        for drain in &mut self.drains {
            drain.turn(stream, HolderState::Holding, state);
        }
        self.settle(now);
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Instant) {
        for drain in &mut self.drains {
            let over = drain.holders.iter().filter_map(|(stream, holder)| match holder.state {
                HolderState::Lost(since) if now.saturating_duration_since(since) >= LEASE => Some((*stream, since)),
                _ => None,
            });
            for (stream, since) in over.collect::<Vec<_>>() {
                drain.turn(stream, HolderState::Lost(since), HolderState::Unreachable(since));
            }
        }
        self.settle(now);
    }

    /// When time matters next; None: it does not.
    pub fn due(&self) -> Option<Instant> {
        let lost = self.drains.iter().flat_map(Drain::holders).filter_map(|holder| match holder.state {
            HolderState::Lost(since) => Some(since + LEASE),
            _ => None,
        });
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

/// Of holders, how many have come to what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub all: usize,
    /// That may still send, as far as is known.
    pub waiting: BTreeSet<Arc<str>>,
    /// That did not come back.
    pub unreachable: BTreeSet<Arc<str>>,
    /// From the mark to the last who forgot it.
    pub last: Option<Duration>,
}

impl Drain {
    /// How far it is.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally { all: self.holders.len(), ..Tally::default() };
        for Holder { id, state } in self.holders.values() {
            match state {
                HolderState::Holding | HolderState::Lost(_) => drop(tally.waiting.insert(id.clone())),
                HolderState::Unreachable(_) => drop(tally.unreachable.insert(id.clone())),
                HolderState::Applied(at) | HolderState::Ended(at) => {
                    tally.last = tally.last.max(Some(at.saturating_duration_since(self.began)));
                }
            }
        }
        tally
    }
}
