//! Warm-up: after a quiet time a limit grows from a part of itself to all of it. Pure, Hot.
//!
//! As Guava's `SmoothRateLimiter.SmoothWarmingUp` and Sentinel's `WarmUpController` after it: quiet time stores permits,
//! and the more are stored, the slower they are handed out. The interval falls on a straight line from `cold_factor`
//! times itself, where the store is full, to itself, where it is down to a threshold; the area below that line is the
//! period.

use std::time::Duration;

use crate::rules::gcra::ticks;

/// How a limit warms up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WarmUp {
    /// Ticks from cold to warm under full load, and from warm to cold without any.
    pub period: u64,
    /// 1 or more.
    cold_factor: f64,
}

/// How warm a limit is at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Warmth {
    stored: f64,
    /// How many times longer intervals are than when it is warm.
    factor: f64,
}

impl WarmUp {
    pub(crate) fn new(period: Duration, cold_factor: f64) -> WarmUp {
        let period = ticks(u64::try_from(period.as_nanos()).unwrap_or(u64::MAX)).max(1);
        WarmUp { period, cold_factor: cold_factor.max(1.0) }
    }

    /// By the word that `Warmth::spent` gave, for a limit with this theoretical arrival time and interval, in ticks.
    pub(crate) fn at(&self, stored: u64, arrival: u64, now: u64, interval: u64) -> Warmth {
        let periods = self.period as f64 / interval as f64;
        let threshold = 0.5 * periods;
        let above = 2.0 * periods / (1.0 + self.cold_factor);
        let max = threshold + above;
        let stored = match arrival {
            // Nobody has come yet.
            0 => max,
            _ => {
                let quiet = now.saturating_sub(arrival) as f64 / self.period as f64;
                (f64::from_bits(stored) + quiet * max).min(max)
            }
        };
        // In the middle of the permit that is about to be spent.
        let cold = ((stored - 0.5 - threshold) / above).clamp(0.0, 1.0);
        Warmth { stored, factor: 1.0 + (self.cold_factor - 1.0) * cold }
    }
}

impl Warmth {
    /// An interval as it is now.
    pub(crate) fn slower(self, interval: u64) -> u64 {
        if self.factor == 1.0 { interval } else { (interval as f64 * self.factor) as u64 }
    }

    /// The word after one more request.
    pub(crate) fn spent(self) -> u64 {
        (self.stored - 1.0).max(0.0).to_bits()
    }
}
