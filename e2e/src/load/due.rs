//! Decides when the next request is due, in a closed or an open loop, and throws the dice of a run. Sending it is
//! `lab`'s business. Machine.

use super::plan::Arrival;

/// The arrivals of one run, in nanoseconds from its begin.
pub(crate) struct Due {
    arrival: Arrival,
    left: u64,
    next_ns: u64,
}

impl Due {
    /// At most `count_max` requests.
    pub(crate) fn new(arrival: Arrival, count_max: u64) -> Due {
        Due { arrival, left: count_max, next_ns: 0 }
    }

    /// The time at which a request was or is due that must be sent now, `in_flight` others being under way. The caller
    /// asks only when it can send: what waits meanwhile stays due, and its latency counts from there.
    pub(crate) fn take(&mut self, now_ns: u64, in_flight: usize, dice: &mut Dice) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let due_ns = match self.arrival {
            Arrival::Saturated { in_flight: max } if in_flight < max => now_ns,
            Arrival::Poisson { per_second } if self.next_ns <= now_ns => {
                let due_ns = self.next_ns;
                // Times between arrivals of a Poisson process are exponential.
                self.next_ns += (-dice.unit().ln() * 1e9 / per_second) as u64;
                due_ns
            }
            _ => return None,
        };
        self.left -= 1;
        Some(due_ns)
    }

    /// No request is due any more.
    pub(crate) fn end(&mut self) {
        self.left = 0;
    }
}

/// A small random generator (xorshift64*, Vigna 2016): good enough to spread load, and of no cost.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in (0, 1].
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Uniform below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_keeps_its_requests_under_way() {
        let mut dice = Dice::new(7);
        let mut due = Due::new(Arrival::Saturated { in_flight: 2 }, 3);
        assert_eq!(due.take(5, 0, &mut dice), Some(5));
        assert_eq!(due.take(5, 1, &mut dice), Some(5));
        assert_eq!(due.take(5, 2, &mut dice), None);
        assert_eq!(due.take(9, 1, &mut dice), Some(9));
        assert_eq!(due.take(9, 1, &mut dice), None, "three were allowed");
    }

    #[test]
    fn an_open_loop_has_its_mean_rate_and_forgets_no_request() {
        let (mut dice, mut count) = (Dice::new(7), 0);
        let mut due = Due::new(Arrival::Poisson { per_second: 20_000.0 }, u64::MAX);
        let mut last_ns = 0;
        while let Some(due_ns) = due.take(1_000_000_000, 1_000_000, &mut dice) {
            assert!(due_ns >= last_ns && due_ns <= 1_000_000_000);
            last_ns = due_ns;
            count += 1;
        }
        assert!((19_300..20_700).contains(&count), "{count} in a second");
        due.end();
        assert_eq!(due.take(u64::MAX, 0, &mut dice), None);
    }

    #[test]
    fn dice_are_uniform() {
        let mut dice = Dice::new(7);
        let mut counts = [0; 10];
        (0..100_000).for_each(|_| counts[dice.below(10)] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
