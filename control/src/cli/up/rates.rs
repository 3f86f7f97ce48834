//! How much counts grow in a second, of the last seconds. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// What rates of instances are of.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples kept at most.
const SAMPLES_MAX: usize = 128;

/// Counts of the last seconds, from which rates are made.
#[derive(Debug, Default)]
pub struct Rates {
    samples: VecDeque<(Duration, Vec<u64>)>,
}

impl Rates {
    /// Remembers the counts at a moment.
    pub fn take(&mut self, at: Duration, counts: Vec<u64>) {
        self.samples.push_back((at, counts));
        let is_old = |(then, _): &(Duration, Vec<u64>)| at.saturating_sub(*then) > WINDOW;
        while self.samples.len() > SAMPLES_MAX || self.samples.front().is_some_and(is_old) {
            self.samples.pop_front();
        }
    }

    /// What one of the counts grows by in a second.
    pub fn per_second(&self, index: usize) -> f64 {
        let (Some((from, first)), Some((to, last))) = (self.samples.front(), self.samples.back()) else { return 0.0 };
        let grown = last.get(index).unwrap_or(&0).saturating_sub(*first.get(index).unwrap_or(&0));
        let seconds = to.saturating_sub(*from).as_secs_f64();
        if seconds > 0.0 { grown as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_seconds() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(0), 0.0);
        for (at, count) in [(0, 0), (1, 100), (2, 110), (6, 150), (7, 160)] {
            rates.take(Duration::from_secs(at), vec![count, 7]);
        }
        assert_eq!((rates.per_second(0), rates.per_second(1), rates.per_second(9)), (10.0, 0.0, 0.0));
    }
}
