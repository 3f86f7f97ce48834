//! How much of a cluster's traffic may be retries: a part of the requests, and some beside that, over all workers, so that
//! retries never become the load that keeps a service down. Requests are counted where they are served; only a retry
//! adds up what all workers counted. Hot.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Retries that were not needed are kept for so long (Finagle's RetryBudget has the same).
const KEPT: Duration = Duration::from_secs(10);

/// One cluster's.
pub(crate) struct Budget {
    /// Requests of each worker, each in a cache line of its own.
    requests: Box<[Line]>,
    account: Mutex<Account>,
}

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// What may be spent.
#[derive(Debug, Default)]
struct Account {
    balance: f64,
    requests: u64,
    at: Option<Duration>,
}

impl Budget {
    pub(crate) fn new(workers: usize) -> Budget {
        Budget { requests: (0..workers).map(|_| Line::default()).collect(), account: Mutex::default() }
    }

    /// A request begins on a worker, which alone counts there.
    pub(crate) fn count(&self, worker: usize) {
        let line = &self.requests[worker].0;
        line.store(line.load(Relaxed) + 1, Relaxed);
    }

    /// Takes one retry, if there is one left.
    pub(crate) fn take(&self, now: Duration, ratio: f64, per_second: u32) -> bool {
        let requests = self.requests.iter().map(|line| line.0.load(Relaxed)).sum();
        self.account.lock().expect("no holder of this lock can panic").take(requests, now, ratio, f64::from(per_second))
    }
}

impl Account {
    /// `requests` is how many there were since the beginning.
    fn take(&mut self, requests: u64, now: Duration, ratio: f64, per_second: f64) -> bool {
        let fresh = requests.saturating_sub(self.requests) as f64 * ratio;
        let reserve = per_second * KEPT.as_secs_f64();
        match self.at {
            // At first as much as a quiet time would have left.
            None => self.balance = reserve + fresh,
            Some(at) => {
                let (passed, kept) = (now.saturating_sub(at).as_secs_f64(), KEPT.as_secs_f64());
                // What is older than `KEPT` is forgotten: a rich past must not pay for a bad day.
                let of_kept = (kept / passed).min(1.0);
                self.balance *= (1.0 - passed / kept).max(0.0);
                self.balance += fresh * of_kept + per_second * passed.min(kept);
            }
        }
        (self.requests, self.at) = (requests, Some(now));
        let may = self.balance >= 1.0;
        if may {
            self.balance -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Retries granted in ten seconds, after a minute, of so many requests a second that all want one.
    fn granted(per_second: u64, ratio: f64, reserve: f64) -> u64 {
        let (mut account, mut granted) = (Account::default(), 0);
        for request in 0..per_second * 70 {
            let now = Duration::from_nanos(request * 1_000_000_000 / per_second);
            let may = account.take(request + 1, now, ratio, reserve);
            granted += u64::from(may && now >= Duration::from_secs(60));
        }
        granted
    }

    #[test]
    fn retries_are_a_part_of_requests_and_some_beside_that() {
        for (per_second, ratio, reserve, expected) in [
            (1000, 0.2, 10.0, 2100),
            (1000, 0.0, 10.0, 100),
            (1000, 0.2, 0.0, 2000),
            (5, 0.2, 10.0, 50),
            (1000, 0.0, 0.0, 0),
            (1000, 1.0, 10.0, 10_000),
        ] {
            let granted = granted(per_second, ratio, reserve);
            assert!(granted.abs_diff(expected) <= expected / 50 + 1, "{per_second}/s {ratio} {reserve}: {granted}");
        }
    }

    #[test]
    fn a_quiet_service_may_retry_at_once_and_riches_are_forgotten() {
        let mut account = Account::default();
        let at = Duration::from_secs;
        assert!((0..100).all(|_| account.take(1, at(1), 0.2, 10.0)));
        assert!(!account.take(1, at(1), 0.2, 10.0));
        // A million requests now, and their fifth a minute later is gone but for the reserve.
        assert!(account.take(1_000_000, at(2), 0.2, 10.0));
        let later = (0..1_000_000).filter(|_| account.take(1_000_000, at(62), 0.2, 10.0)).count();
        assert_eq!(later, 100);
    }
}
