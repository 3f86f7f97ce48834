//! Requests that wait for a slot: a turn for each caller, first come first served among one caller's. Machine, Cold.
//!
//! The queue has a bound, and who leaves it frees the place at once. What a caller leaves in its line is skipped when
//! its turn comes and swept when there is much of it.

use std::collections::{HashMap, VecDeque};

use crate::rules::Waiter;

/// A place in the queue; it stays its owner's until it is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    index: u32,
    generation: u32,
}

/// How it stands with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits, at most until then.
    Waiting { until_ns: u64 },
    /// A slot was handed to it.
    Granted,
    /// It waited too long.
    Expired,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    /// None: the entry is free.
    standing: Option<Standing>,
    waiter: Waiter,
}

/// Those who wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// By caller, each with at least one place, gone ones among them.
    lines: HashMap<u64, VecDeque<Place>, foldhash::quality::RandomState>,
    /// Callers in the order of their turns, each once.
    turns: VecDeque<u64>,
    /// Places that wait.
    waiting: usize,
    /// Places in lines, gone ones among them.
    in_lines: usize,
}

/// So many gone places are never worth a sweep.
const SWEEP_MIN: usize = 64;

impl Queue {
    /// Places that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// A new place at the end of a caller's line.
    pub(crate) fn push(&mut self, caller: u64, waiter: Waiter, until_ns: u64) -> Place {
        let standing = Some(Standing::Waiting { until_ns });
        let place = match self.free.pop() {
            Some(index) => {
                let entry = &mut self.entries[index as usize];
                entry.standing = standing;
                entry.waiter = waiter;
                Place { index, generation: entry.generation }
            }
            None => {
                self.entries.push(Entry { generation: 0, standing, waiter });
                Place { index: self.entries.len() as u32 - 1, generation: 0 }
            }
        };
        if self.in_lines > self.waiting * 2 + SWEEP_MIN {
            self.sweep();
        }
        let line = self.lines.entry(caller).or_default();
        if line.is_empty() {
            self.turns.push_back(caller);
        }
        line.push_back(place);
        self.in_lines += 1;
        self.waiting += 1;
        place
    }

    /// The next one in turn gets a slot. Those that have waited longer than until `now_ns` are passed over.
    pub(crate) fn grant(&mut self, now_ns: u64) -> Option<Waiter> {
        while let Some(caller) = self.turns.pop_front() {
            let line = self.lines.get_mut(&caller).expect("whose turn comes has a line");
            let mut granted = None;
            while granted.is_none()
                && let Some(place) = line.pop_front()
            {
                self.in_lines -= 1;
                let entry = &mut self.entries[place.index as usize];
                if entry.generation != place.generation {
                    continue;
                }
                if let Some(Standing::Waiting { until_ns }) = entry.standing {
                    let is_late = until_ns < now_ns;
                    entry.standing = Some(if is_late { Standing::Expired } else { Standing::Granted });
                    self.waiting -= 1;
                    granted = (!is_late).then_some(entry.waiter);
                }
            }
            if line.is_empty() {
                self.lines.remove(&caller);
            } else {
                self.turns.push_back(caller);
            }
            if granted.is_some() {
                return granted;
            }
        }
        None
    }

    /// How it stands with a place.
    pub(crate) fn standing(&self, place: Place) -> Option<Standing> {
        self.entries.get(place.index as usize).filter(|entry| entry.generation == place.generation)?.standing
    }

    /// Lets a place wait longer.
    pub(crate) fn extend(&mut self, place: Place, later_ns: u64) {
        let entry = self.entries.get_mut(place.index as usize).filter(|entry| entry.generation == place.generation);
        if let Some(Standing::Waiting { until_ns }) = entry.and_then(|entry| entry.standing.as_mut()) {
            *until_ns = later_ns;
        }
    }

    /// Takes a place back and tells how it stood.
    pub(crate) fn remove(&mut self, place: Place) -> Option<Standing> {
        let standing = self.standing(place)?;
        let entry = &mut self.entries[place.index as usize];
        entry.standing = None;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(place.index);
        if matches!(standing, Standing::Waiting { .. }) {
            self.waiting -= 1;
        }
        Some(standing)
    }

    /// Forgets gone places and callers that have no others.
    fn sweep(&mut self) {
        let entries = &self.entries;
        let is_there = |place: &Place| entries[place.index as usize].generation == place.generation;
        self.lines.retain(|_, line| {
            line.retain(is_there);
            !line.is_empty()
        });
        self.turns.retain(|caller| self.lines.contains_key(caller));
        self.in_lines = self.lines.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests;
