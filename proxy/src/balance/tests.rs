//! Shares of each policy, with dice of a seed and a clock of the test's own.

use std::sync::Arc;

use config::snapshot::{ClusterSettings, Endpoint, Group};

use super::*;
use crate::error::{Kind, Reached};

fn cluster(balance: Balance, weights: &[u32]) -> Cluster {
    let endpoint = |(index, weight): (usize, &u32)| Endpoint {
        address: ([10, 0, 0, index as u8 + 1], 80).into(),
        weight: *weight,
        zone: None,
        labels: Default::default(),
    };
    let name: Arc<str> = "default/web:80".into();
    Cluster {
        name: name.clone(),
        namespace: name.clone(),
        service: name,
        port: 80,
        endpoints: weights.iter().enumerate().map(endpoint).collect(),
        groups: vec![Group { lane: None, members: (0..weights.len() as u32).collect(), consistent: None }],
        settings: ClusterSettings { balance, ..ClusterSettings::default() },
        policies: Arc::default(),
    }
}

/// xorshift64* of a seed.
fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// A service under a steady load: `rate` requests a second, each endpoint answers after its own time or fails at once.
/// Returns the share of each in the time after `from`, and the latencies then.
struct Simulation {
    balance: Balance,
    weights: Vec<u32>,
    latency_ms: Vec<f64>,
    fails: Vec<bool>,
}

impl Simulation {
    fn new(balance: Balance, weights: &[u32]) -> Simulation {
        let count = weights.len();
        Simulation { balance, weights: weights.to_vec(), latency_ms: vec![5.0; count], fails: vec![false; count] }
    }

    fn run(&self, per_second: u64, seconds: u64, from: u64) -> (Vec<f64>, Vec<f64>) {
        let cluster = cluster(self.balance, &self.weights);
        let loads: Vec<Load> = self.weights.iter().map(|_| Load::default()).collect();
        let mut dice = dice(42);
        let balancer = Balancer::new(&cluster, dice());
        let mut counts = vec![0u64; loads.len()];
        let mut latencies = Vec::new();
        // By the time of their end.
        let mut under_way: BinaryHeap<Reverse<(Duration, u64, usize, Duration)>> = BinaryHeap::new();
        let mut guards: std::collections::HashMap<u64, InFlight<'_>> = Default::default();
        for number in 0..per_second * seconds {
            let now = Duration::from_nanos(number * 1_000_000_000 / per_second);
            while let Some(Reverse((end, ended, index, took))) =
                under_way.peek().copied().filter(|next| next.0.0 <= now)
            {
                under_way.pop();
                guards.remove(&ended);
                loads[index].measured(end, took, self.fails[index]);
            }
            let index = balancer.pick(&cluster, |index| &loads[index], now, None, &mut dice).expect("there are some");
            // Times differ by a half, so that averages have something to do.
            let spread = 0.75 + (dice() % 1_000) as f64 / 2_000.0;
            let took = if self.fails[index] { 0.1 } else { self.latency_ms[index] * spread };
            let took = Duration::from_secs_f64(took / 1e3);
            guards.insert(number, loads[index].begin());
            under_way.push(Reverse((now + took, number, index, took)));
            if now >= Duration::from_secs(from) {
                counts[index] += 1;
                latencies.push(took.as_secs_f64() * 1e3);
            }
        }
        let total: u64 = counts.iter().sum();
        latencies.sort_by(f64::total_cmp);
        (counts.iter().map(|count| *count as f64 / total as f64).collect(), latencies)
    }
}

#[test]
fn shares_follow_weights() {
    for (balance, weights, tolerance) in [
        (Balance::RoundRobin, &[1, 1, 1, 1][..], 0.001),
        (Balance::RoundRobin, &[1, 2, 3, 4], 0.001),
        (Balance::RoundRobin, &[1_000_000, 1], 0.001),
        (Balance::LeastRequest, &[1, 1, 1, 1], 0.02),
        (Balance::LeastRequest, &[9, 1], 0.03),
        (Balance::LeastRequest, &[1, 2, 3, 4], 0.03),
        (Balance::PeakEwma, &[1, 1, 1, 1], 0.05),
        (Balance::PeakEwma, &[9, 1], 0.08),
        (Balance::RingHash, &[1, 2, 3, 4], 0.02),
    ] {
        let (shares, _) = Simulation::new(balance, weights).run(2_000, 10, 0);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (weight, share) in weights.iter().zip(&shares) {
            let off = (share - f64::from(*weight) / total).abs();
            assert!(off <= tolerance, "{balance:?} {weights:?}: {shares:?}");
        }
    }
}

#[test]
fn turns_are_spread_and_not_in_blocks() {
    let cluster = cluster(Balance::RoundRobin, &[3, 1]);
    let (balancer, loads) = (Balancer::new(&cluster, 0), [Load::default(), Load::default()]);
    let picks: Vec<usize> = (0..8)
        .map(|_| balancer.pick(&cluster, |index| &loads[index], Duration::ZERO, None, || 0).expect("there are some"))
        .collect();
    assert_eq!(picks.iter().filter(|pick| **pick == 1).count(), 2, "{picks:?}");
    assert!(!picks.windows(2).any(|two| two == [1, 1]), "{picks:?}");
}

#[test]
fn a_slow_endpoint_costs_little() {
    let even = Simulation::new(Balance::PeakEwma, &[1; 10]);
    let mut slow = Simulation::new(Balance::PeakEwma, &[1; 10]);
    slow.latency_ms[3] = 50.0;
    let p99 = |latencies: &[f64]| latencies[latencies.len() * 99 / 100];
    let ((_, before), (shares, after)) = (even.run(2_000, 20, 5), slow.run(2_000, 20, 5));
    assert!(p99(&after) <= 1.5 * p99(&before), "{} against {}: {shares:?}", p99(&after), p99(&before));
}

#[test]
fn an_endpoint_that_fails_fast_is_not_the_best() {
    let mut failing = Simulation::new(Balance::PeakEwma, &[1; 10]);
    failing.fails[7] = true;
    let (shares, _) = failing.run(2_000, 20, 5);
    assert!(shares[7] <= 0.02, "{shares:?}");
}

#[test]
fn turns_go_on_after_any_number_of_requests() {
    let cluster = cluster(Balance::RoundRobin, &[2, 1]);
    let (balancer, loads) = (Balancer::new(&cluster, 0), [Load::default(), Load::default()]);
    // As far as some 30 million requests bring it.
    let far = |Reverse((at, weight, index))| Reverse((at + u128::from(u64::MAX - 5), weight, index));
    balancer.turns.replace_with(|turns| Turns { next: 0, queue: turns.queue.drain().map(far).collect() });
    let pick = || balancer.pick(&cluster, |index| &loads[index], Duration::ZERO, None, || 0);
    assert_eq!((0..300).filter(|_| pick() == Some(1)).count(), 100);
}

#[test]
fn an_attempt_says_something_of_its_endpoint_or_nothing() {
    let gone = |reached| ProxyError::upstream(Kind::Gone, reached);
    for (outcome, reused, expected) in [
        (Ok(200), false, Some(false)),
        (Ok(499), true, Some(false)),
        (Ok(503), false, Some(true)),
        (Err(ProxyError::upstream(Kind::Connect, Reached::Nothing)), false, Some(true)),
        (Err(gone(Reached::Sent)), false, Some(true)),
        // The endpoint may close a connection that is idle: that is no failure of a request.
        (Err(gone(Reached::Nothing)), true, None),
        (Err(gone(Reached::Sent)), true, None),
        (Err(gone(Reached::Answered)), true, Some(true)),
        (Err(ProxyError::upstream(Kind::AnswerTimeout, Reached::Sent)), true, Some(true)),
        (Err(ProxyError::downstream(Kind::Gone)), false, None),
        (Err(ProxyError::here(Kind::Exhausted)), false, None),
    ] {
        assert_eq!(judge(outcome.as_ref().copied(), reused), expected, "{outcome:?} {reused}");
    }
}

#[test]
fn alike_requests_hash_alike() {
    let head = |lines: &[(&str, &str)]| {
        let mut head = Head::default();
        head.query = head.append(b"user=a%20b&x=1");
        lines.iter().for_each(|(name, value)| head.add(name, value.as_bytes()));
        head
    };
    let client: IpAddr = "192.0.2.1".parse().expect("an address");
    let keys = [HashKey::Header("x-user".into()), HashKey::Cookie("sid".into()), HashKey::ClientAddress];
    let of = |lines: &[(&str, &str)]| hash(&keys, &head(lines), client);
    assert_eq!(of(&[("X-User", "a")]), of(&[("x-user", "a"), ("Cookie", "sid=1")]));
    assert_ne!(of(&[("X-User", "a")]), of(&[("X-User", "b")]));
    assert_eq!(of(&[("Cookie", "a=b; sid=1")]), of(&[("Cookie", "x=y"), ("Cookie", "sid=1;z=")]));
    assert_eq!(of(&[("Cookie", "sidx=1")]), of(&[]));
    let query = hash(&[HashKey::Query("user".into())], &head(&[]), client);
    assert_eq!(query, Some(consistent::hash(b"a b")));
    assert_eq!(hash(&[HashKey::Query("none".into())], &head(&[]), client), None);
}
