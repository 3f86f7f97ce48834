//! Turns in a queue that were given back while others stood behind them. Whoever comes next has the earliest of them:
//! then just as many go at just the times that were planned, and no limit is exceeded. A turn whose time has passed is
//! nobody's: used later it would be a burst. Machine.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::rules::key::Hash;

/// Turns of all values together. Above that the earliest are forgotten, which are nobody's then.
const TURNS_MAX: usize = 65_536;

/// Turns that are nobody's.
#[derive(Debug, Default)]
pub(super) struct Free {
    /// Whether there may be any: as long as nobody leaves, nobody takes the lock.
    is_any: AtomicBool,
    turns: Mutex<Turns>,
}

#[derive(Debug, Default)]
struct Turns {
    of_values: BTreeSet<(Value, FreeTurn)>,
    by_time: BTreeSet<(FreeTurn, Value)>,
}

/// A hash, in an order.
type Value = (u64, u64);

/// When it is, and what it left in the first word when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FreeTurn {
    pub at_ns: u64,
    pub after: u64,
}

impl Free {
    pub(super) fn add(&self, hash: Hash, turn: FreeTurn) {
        let mut turns = self.turns();
        let value = value(hash);
        turns.of_values.insert((value, turn));
        turns.by_time.insert((turn, value));
        if turns.by_time.len() > TURNS_MAX {
            turns.drop_first();
        }
        self.is_any.store(true, Relaxed);
    }

    /// The earliest turn of a value that is still to come, and no later than that.
    pub(super) fn take(&self, hash: Hash, now_ns: u64, latest_ns: u64) -> Option<FreeTurn> {
        if !self.is_any.load(Relaxed) {
            return None;
        }
        let mut turns = self.turns();
        while turns.by_time.first().is_some_and(|(turn, _)| turn.at_ns < now_ns) {
            turns.drop_first();
        }
        self.is_any.store(!turns.by_time.is_empty(), Relaxed);
        let turn = turns.first(hash, now_ns, latest_ns)?;
        turns.remove(hash, turn);
        Some(turn)
    }

    /// What `take` would say.
    pub(super) fn peek(&self, hash: Hash, now_ns: u64, latest_ns: u64) -> Option<FreeTurn> {
        if !self.is_any.load(Relaxed) {
            return None;
        }
        self.turns().first(hash, now_ns, latest_ns)
    }

    /// Removes turns of a value from the end of its line as long as each can be given back there.
    pub(super) fn give_back_last(&self, hash: Hash, mut give_back: impl FnMut(&FreeTurn) -> bool) {
        if !self.is_any.load(Relaxed) {
            return;
        }
        let mut turns = self.turns();
        while let Some(turn) = turns.last(hash)
            && give_back(&turn)
        {
            turns.remove(hash, turn);
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    fn of(&self, hash: Hash, from_ns: u64, latest_ns: u64) -> impl DoubleEndedIterator<Item = FreeTurn> {
        let from = (value(hash), FreeTurn { at_ns: from_ns, after: 0 });
        let to = (value(hash), FreeTurn { at_ns: latest_ns.max(from_ns), after: u64::MAX });
        self.of_values.range(from..=to).map(|(_, turn)| *turn)
    }

    fn first(&self, hash: Hash, now_ns: u64, latest_ns: u64) -> Option<FreeTurn> {
        self.of(hash, now_ns, latest_ns).next()
    }

    fn last(&self, hash: Hash) -> Option<FreeTurn> {
        self.of(hash, 0, u64::MAX).next_back()
    }

    fn remove(&mut self, hash: Hash, turn: FreeTurn) {
        self.of_values.remove(&(value(hash), turn));
        self.by_time.remove(&(turn, value(hash)));
    }

    fn drop_first(&mut self) {
        if let Some((turn, value)) = self.by_time.pop_first() {
            self.of_values.remove(&(value, turn));
        }
    }
}

fn value(hash: Hash) -> Value {
    (hash.place, hash.mark)
}
