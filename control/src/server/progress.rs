//! How far all proxies are together: the revision that is settled everywhere, and when each one first was. An answer of one
//! proxy costs a step in a small tree, however many there are, and a revision nothing for those whom it does not concern.
//! Time is an argument. Machine, Cold.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Moments that are remembered.
const REACHED_MAX: usize = 10_000;

/// Where a proxy is for which nothing is on its way: at the newest revision, whichever that is.
pub(crate) const NEWEST: u64 = u64::MAX;

/// How many proxies are at which revision.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The newest.
    revision: u64,
    counts: BTreeMap<u64, usize>,
    /// Revisions, each the highest that was settled everywhere then, and since when.
    reached: VecDeque<(u64, Instant)>,
}

impl Progress {
    /// A proxy was at one revision and is at another; None: it is not there. Tells what was reached for the first time:
    /// every revision after the first number, up to the second.
    pub(crate) fn on_move(&mut self, before: Option<u64>, now: Option<u64>, at: Instant) -> Option<(u64, u64)> {
        if let Some(before) = before
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&before);
            }
        }
        if let Some(now) = now {
            *self.counts.entry(now).or_default() += 1;
        }
        self.advance(at)
    }

    /// There is another revision; those whom it concerns have been moved behind it.
    pub(crate) fn on_revision(&mut self, revision: u64, at: Instant) -> Option<(u64, u64)> {
        self.revision = self.revision.max(revision);
        self.advance(at)
    }

    fn advance(&mut self, at: Instant) -> Option<(u64, u64)> {
        let floor = self.floor()?;
        let highest = self.reached.back().map_or(0, |(revision, _)| *revision);
        if floor <= highest {
            return None;
        }
        self.reached.push_back((floor, at));
        if self.reached.len() > REACHED_MAX {
            self.reached.pop_front();
        }
        Some((highest, floor))
    }

    /// The revision that is settled everywhere; None: nobody is there.
    pub(crate) fn floor(&self) -> Option<u64> {
        self.counts.keys().next().map(|lowest| self.revision.min(*lowest))
    }

    /// When a revision was settled everywhere for the first time.
    pub(crate) fn reached(&self, revision: u64) -> Option<Instant> {
        let place = self.reached.partition_point(|(reached, _)| *reached < revision);
        self.reached.get(place).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_one_decides() {
        let start = Instant::now();
        let mut progress = Progress { revision: 3, ..Progress::default() };
        // Who moves from where to where, what is settled everywhere then, and what is so for the first time.
        for (second, (before, now), floor, first) in [
            (0, (None, Some(1)), Some(1), Some((0, 1))),
            (1, (None, Some(1)), Some(1), None),
            (2, (Some(1), Some(3)), Some(1), None),
            (3, (Some(1), Some(2)), Some(2), Some((1, 2))),
            // Somebody comes who has nothing so far.
            (4, (None, Some(0)), Some(0), None),
            (5, (Some(0), Some(3)), Some(2), None),
            (6, (Some(2), None), Some(3), Some((2, 3))),
            (7, (Some(3), None), Some(3), None),
            (8, (Some(3), None), None, None),
        ] {
            let at = start + Duration::from_secs(second);
            assert_eq!(progress.on_move(before, now, at), first, "{second}");
            assert_eq!(progress.floor(), floor, "{second}");
        }
        // Who has everything has the next one, too, unless it concerns him.
        for (second, concerns, floor, first) in
            [(10, false, Some(4), Some((3, 4))), (11, true, Some(4), None), (12, false, Some(4), None)]
        {
            let at = start + Duration::from_secs(second);
            let (all, behind) = (Some(NEWEST), Some(progress.revision));
            if second == 10 {
                assert_eq!(progress.on_move(None, all, at), None);
            }
            if concerns {
                assert_eq!(progress.on_move(all, behind, at), None);
            }
            assert_eq!(progress.on_revision(progress.revision + 1, at), first, "{second}");
            assert_eq!(progress.floor(), floor, "{second}");
        }
        assert_eq!(progress.on_move(Some(4), Some(NEWEST), start + Duration::from_secs(13)), Some((4, 6)));
        let reached = |revision| progress.reached(revision).map(|at| at.duration_since(start).as_secs());
        assert_eq!([1, 2, 3, 4, 6, 7].map(reached), [Some(0), Some(3), Some(6), Some(10), Some(13), None]);
    }
}
