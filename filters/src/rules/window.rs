//! Calls of the last while, as sums: how many there were, failed, and took long. Machine, Hot.
//!
//! The window slides by a tenth of itself. A tenth is two atomic words; who comes first in a new one clears it, and a
//! call that is counted at the same moment may be lost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Parts of the window.
const BUCKETS: usize = 10;
/// Bits of each of the three sums in a word; a bucket that is full counts no more.
const BITS: u32 = 21;
const FULL: u64 = (1 << BITS) - 1;

#[derive(Debug, Default)]
struct Bucket {
    /// Which part of time it is of, counted from 1.
    number: AtomicU64,
    sums: AtomicU64,
}

/// The last while.
#[derive(Debug)]
pub(crate) struct Window {
    bucket_ns: u64,
    buckets: [Bucket; BUCKETS],
}

/// Sums of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    pub calls: u64,
    pub failed: u64,
    pub slow: u64,
}

impl Window {
    pub(crate) fn new(window_ns: u64) -> Window {
        Window { bucket_ns: (window_ns / BUCKETS as u64).max(1), buckets: Default::default() }
    }

    /// One more call.
    pub(crate) fn add(&self, now_ns: u64, is_failed: bool, is_slow: bool) {
        let number = now_ns / self.bucket_ns + 1;
        let bucket = &self.buckets[(number % BUCKETS as u64) as usize];
        let found = bucket.number.load(Relaxed);
        // An older time comes from a thread whose clock was read before; its part may be gone.
        if found < number && bucket.number.compare_exchange(found, number, Relaxed, Relaxed).is_ok() {
            bucket.sums.store(0, Relaxed);
        }
        if bucket.number.load(Relaxed) == number && bucket.sums.load(Relaxed) & FULL < FULL - 1000 {
            let one = 1 | u64::from(is_failed) << BITS | u64::from(is_slow) << (2 * BITS);
            bucket.sums.fetch_add(one, Relaxed);
        }
    }

    /// All calls that ended less than the window ago.
    pub(crate) fn sums(&self, now_ns: u64) -> Sums {
        let number = now_ns / self.bucket_ns + 1;
        let mut all = Sums::default();
        for bucket in &self.buckets {
            let found = bucket.number.load(Relaxed);
            if found > 0 && found + BUCKETS as u64 > number {
                let sums = bucket.sums.load(Relaxed);
                all.calls += sums & FULL;
                all.failed += sums >> BITS & FULL;
                all.slow += sums >> (2 * BITS) & FULL;
            }
        }
        all
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.sums.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_forgotten_after_the_window() {
        let window = Window::new(1000);
        let check = |now_ns: u64, calls: u64, failed: u64, slow: u64| {
            assert_eq!(window.sums(now_ns), Sums { calls, failed, slow }, "at {now_ns}");
        };
        check(0, 0, 0, 0);
        window.add(0, true, false);
        window.add(50, false, true);
        check(50, 2, 1, 1);
        window.add(450, true, true);
        check(999, 3, 2, 2);
        check(1000, 1, 1, 1);
        window.add(1399, false, false);
        check(1399, 2, 1, 1);
        check(1400, 1, 0, 0);
        check(1_000_000, 0, 0, 0);
        window.add(1_000_000, false, false);
        check(1_000_000, 1, 0, 0);
        window.clear();
        check(1_000_000, 0, 0, 0);
    }

    #[test]
    fn a_full_bucket_does_not_spill_into_its_neighbours() {
        let window = Window::new(1000);
        for _ in 0..3_000_000 {
            window.add(5, false, false);
        }
        let sums = window.sums(5);
        assert!(sums.calls < 1 << 21 && sums.failed == 0 && sums.slow == 0, "{sums:?}");
    }
}
