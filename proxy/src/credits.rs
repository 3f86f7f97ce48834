//! One bound over all workers without a count that all of them write for each request: a worker borrows some of it, and
//! gives back what it does not use. Hot.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// What one worker has borrowed.
#[derive(Debug)]
pub(crate) struct Credits {
    workers: u32,
    used: Cell<u32>,
    /// Borrowed and not used.
    spare: Cell<u32>,
}

impl Credits {
    pub(crate) fn new(workers: usize) -> Credits {
        Credits { workers: workers as u32, used: Cell::new(0), spare: Cell::new(0) }
    }

    /// How many are borrowed at a time: together the workers keep less than an eighth of the bound from each other.
    fn batch(&self, max: u32) -> u32 {
        (max / (8 * self.workers)).clamp(1, 64)
    }

    /// Takes one of `max`, of which `lent` are with workers.
    pub(crate) fn take(&self, lent: &AtomicI64, max: u32) -> bool {
        if self.spare.get() == 0 {
            let borrow = |count: u32| {
                let room = |lent: i64| (lent + i64::from(count) <= i64::from(max)).then_some(lent + i64::from(count));
                lent.fetch_update(Relaxed, Relaxed, room).is_ok().then_some(count)
            };
            match borrow(self.batch(max)).or_else(|| borrow(1)) {
                Some(count) => self.spare.set(count),
                None => return false,
            }
        }
        self.spare.set(self.spare.get() - 1);
        self.used.set(self.used.get() + 1);
        true
    }

    /// Whether one could be taken now.
    pub(crate) fn would_take(&self, lent: &AtomicI64, max: u32) -> bool {
        self.spare.get() > 0 || lent.load(Relaxed) < i64::from(max)
    }

    /// Gives one back that was taken. Who uses none keeps none.
    pub(crate) fn give_back(&self, lent: &AtomicI64, max: u32) {
        self.used.set(self.used.get() - 1);
        let keep = if self.used.get() == 0 { 0 } else { self.batch(max) - 1 };
        let spare = self.spare.get() + 1;
        self.spare.set(spare.min(keep));
        if spare > keep {
            lent.fetch_sub(i64::from(spare - keep), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_over_workers_and_nearly_all_of_it_can_be_used() {
        for (max, workers) in [(1, 4), (2, 4), (7, 2), (100, 4), (1000, 4), (10_000, 16)] {
            let (lent, all) = (AtomicI64::new(0), (0..workers).map(|_| Credits::new(workers)).collect::<Vec<_>>());
            let mut taken: Vec<usize> = Vec::new();
            // Unevenly, and with a third given back in between.
            for step in 0..4 * max as usize {
                let worker = (step * step / 3) % workers;
                if all[worker].take(&lent, max) {
                    taken.push(worker);
                }
                if step % 3 == 0
                    && let Some(worker) = taken.pop()
                {
                    all[worker].give_back(&lent, max);
                }
                assert!(taken.len() <= max as usize);
            }
            let refused = (0..workers).filter(|worker| !all[*worker].take(&lent, max)).count();
            if refused == workers {
                assert!(taken.len() as u32 >= max - max / 8, "{max}: only {} in use", taken.len());
            }
            taken.drain(..).for_each(|worker| all[worker].give_back(&lent, max));
            let used: u32 = all.iter().map(|credits| credits.used.get()).sum();
            let left = i64::from(used + all.iter().map(|credits| credits.spare.get()).sum::<u32>());
            assert_eq!(lent.load(Relaxed), left, "nothing is lost: {max} {workers}");
        }
    }
}
