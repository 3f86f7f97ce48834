//! Shares of each policy, with dice of a seed and a clock of the test's own.

use std::sync::Arc;

use config::consistent::Consistent;
use config::snapshot::Endpoint;

use super::*;
use crate::error::{Kind, Reached};

fn balancer(balance: Balance, weights: &[u32]) -> Balancer {
    let members: Vec<(u32, u64)> = (0..).zip(weights.iter().map(|weight| u64::from(*weight))).collect();
    Balancer::new(balance, &members, None, 0)
}

fn endpoint(number: u8) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, number], 80).into(),
        weight: 1,
        zone: None,
        labels: Default::default(),
        incarnation: 0,
    }
}

/// A request that has not been tried.
fn question(now: Duration) -> Question<'static> {
    Question { now, hash: None, is_tried: &|_| false, is_retry: false }
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
        let loads: Vec<Load> = self.weights.iter().map(|_| Load::default()).collect();
        let mut dice = dice(42);
        let balancer = balancer(self.balance, &self.weights);
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
            let index = balancer.pick(&question(now), |member| &loads[member as usize], &mut dice) as usize;
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
    let (balancer, loads) = (balancer(Balance::RoundRobin, &[3, 1]), [Load::default(), Load::default()]);
    let pick = || balancer.pick(&question(Duration::ZERO), |member| &loads[member as usize], || 0);
    let picks: Vec<u32> = (0..8).map(|_| pick()).collect();
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
fn who_has_failed_and_is_well_again_is_used_again() {
    // Two of them, so that they always compete, for three seconds of failures and five of health.
    let loads: [Load; 2] = Default::default();
    let (balancer, mut dice) = (balancer(Balance::PeakEwma, &[1, 1]), dice(3));
    let mut counts = [[0; 2]; 8];
    for number in 0..8_000 {
        let now = Duration::from_millis(number);
        let picked = balancer.pick(&question(now), |member| &loads[member as usize], &mut dice) as usize;
        let fails = picked == 1 && number < 3_000;
        let took = Duration::from_micros(if fails { 100 } else { 4_000 + dice() % 2_000 });
        loads[picked].measured(now, took, fails);
        counts[number as usize / 1_000][picked] += 1;
    }
    assert!(counts[2][1] <= 20 && counts[7][1] >= 250, "of a thousand each second: {counts:?}");
}

#[test]
fn turns_go_on_after_any_number_of_requests() {
    let (balancer, loads) = (balancer(Balance::RoundRobin, &[2, 1]), [Load::default(), Load::default()]);
    // As far as some 30 million requests bring it.
    let far = |Reverse((at, weight, index))| Reverse((at + u128::from(u64::MAX - 5), weight, index));
    balancer.turns.replace_with(|turns| Turns { next: 0, queue: turns.queue.drain().map(far).collect() });
    let pick = || balancer.pick(&question(Duration::ZERO), |member| &loads[member as usize], || 0);
    assert_eq!((0..300).filter(|_| pick() == 1).count(), 100);
}

#[test]
fn turns_go_on_with_who_is_next_when_others_come_and_go() {
    for (before, taken, after, expected) in [
        (&[0, 1, 2, 3][..], 1, &[1, 2, 3][..], [1, 2, 3]),
        (&[0, 1, 2, 3], 2, &[0, 2, 3], [2, 3, 0]),
        (&[1, 2, 3], 1, &[0, 1, 2, 3], [2, 3, 0]),
        // Whose turn it was has gone, and so have all behind them.
        (&[0, 1, 2, 3], 3, &[0, 1], [0, 1, 0]),
        (&[0, 1], 4, &[5], [5, 5, 5]),
    ] {
        let members = |all: &[u32]| all.iter().map(|member| (*member, 1)).collect::<Vec<_>>();
        let loads: Vec<Load> = (0..6).map(|_| Load::default()).collect();
        let take =
            |balancer: &Balancer| balancer.pick(&question(Duration::ZERO), |member| &loads[member as usize], || 0);
        let balancer = Balancer::new(Balance::RoundRobin, &members(before), None, 0);
        (0..taken).for_each(|_| assert!(before.contains(&take(&balancer))));
        let balancer = Balancer::new(Balance::RoundRobin, &members(after), Some(&balancer), 0);
        assert_eq!([(); 3].map(|()| take(&balancer)), expected, "{before:?} {taken} {after:?}");
    }
}

#[test]
fn turns_go_on_when_weights_change() {
    // Made anew before each request, as while an endpoint warms up: nobody is always the first.
    for weights in [[4, 4, 4, 4], [4, 4, 4, 1]] {
        let members: Vec<(u32, u64)> = (0..).zip(weights).collect();
        let loads: [Load; 4] = Default::default();
        let mut balancer = Balancer::new(Balance::RoundRobin, &members, None, 0);
        let mut counts = [0; 4];
        for _ in 0..1300 {
            balancer = Balancer::new(Balance::RoundRobin, &members, Some(&balancer), 0);
            counts[balancer.pick(&question(Duration::ZERO), |member| &loads[member as usize], || 0) as usize] += 1;
        }
        let total: u64 = weights.iter().sum();
        for (weight, count) in weights.iter().zip(counts) {
            assert!((count as u64).abs_diff(1300 * weight / total) <= 2, "{weights:?}: {counts:?}");
        }
    }
}

#[test]
fn another_endpoint_is_tried_before_the_same_again() {
    let endpoints: Vec<Endpoint> = (1..=4).map(endpoint).collect();
    let consistent =
        Arc::new(Consistent::of(Balance::RingHash, &endpoints.iter().collect::<Vec<_>>()).expect("a ring"));
    let group = Group { lane: None, members: vec![0, 1, 2, 3], consistent: Some(consistent) };
    for policy in [Balance::PeakEwma, Balance::RoundRobin, Balance::LeastRequest, Balance::RingHash] {
        let (balancer, loads) = (balancer(policy, &[1; 4]), <[Load; 4]>::default());
        let mut dice = dice(7);
        for request in 0..100_u64 {
            let mut tried: Vec<u32> = Vec::new();
            for _ in 0..4 {
                let question = Question {
                    now: Duration::ZERO,
                    hash: Some((request << 57, &group)),
                    is_tried: &|member| tried.contains(&member),
                    is_retry: !tried.is_empty(),
                };
                let picked = balancer.pick(&question, |member| &loads[member as usize], &mut dice);
                assert!(!tried.contains(&picked), "{policy:?}: {tried:?} {picked}");
                tried.push(picked);
            }
        }
    }
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
    assert_eq!(query, Some(config::consistent::hash(b"a b")));
    assert_eq!(hash(&[HashKey::Query("none".into())], &head(&[]), client), None);
}
