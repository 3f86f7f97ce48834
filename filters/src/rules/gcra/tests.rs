//! Tests of counting, where words are plain numbers.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

fn quota(requests: u64, per: Duration, burst: u64) -> Quota {
    Quota::new(&Window { requests, per, burst })
}

fn demand(quotas: &[Quota]) -> Demand<'_> {
    Demand { quotas, replicas: 1, wait_max: 0, warm_up: None }
}

/// Times at which requests were let go, offered one every `gap_ns`.
fn goes(demand: &Demand<'_>, gap_ns: u64, for_ns: u64) -> Vec<u64> {
    let mut words = vec![0; demand.quotas.len() + usize::from(demand.warm_up.is_some())];
    (0..for_ns / gap_ns)
        .map(|index| S + index * gap_ns)
        .filter(|now| take(&mut words, demand, ticks(*now)).is_ok())
        .collect()
}

#[test]
fn a_minute_above_the_limit_lets_through_what_the_limit_says() {
    let check = |requests: u64, per_s: u64, burst: u64, replicas: u64, expected: f64| {
        let quotas = [quota(requests, Duration::from_secs(per_s), burst)];
        let demand = Demand { replicas, ..demand(&quotas) };
        let seen = goes(&demand, 100_000, 60 * S).len() as f64;
        assert!((seen - expected).abs() <= 0.005 * expected + burst as f64, "{seen} of {expected}");
    };
    check(100, 1, 1, 1, 6000.0);
    check(100, 1, 20, 1, 6000.0);
    check(3000, 60, 1, 1, 3000.0);
    check(9999, 1, 5, 1, 599_940.0);
    check(7, 60, 7, 1, 7.0);
    check(1, 3600, 1, 1, 1.0);
    check(1000, 1, 100, 4, 15_000.0);
}

#[test]
fn huge_rates_are_right_to_half_a_percent() {
    for requests in [1_000_000u64, 7_777_777, 50_000_000, 99_999_999] {
        let quotas = [quota(requests, Duration::from_secs(1), 1)];
        let mut words = [0];
        // A tick is as fine as it gets: one request is offered at each.
        let mut now = 1_000_000;
        let count = 10_000u64;
        for _ in 0..count {
            while take(&mut words, &demand(&quotas), now).is_err() {
                now += 1;
            }
        }
        let rate = count as f64 / (now - 1_000_000) as f64 * 1e9 * TICKS_PER_NS as f64;
        assert!((rate / requests as f64 - 1.0).abs() < 0.005 && rate <= requests as f64 * 1.0002, "{rate} {requests}");
    }
}

#[test]
fn nothing_overflows() {
    let long = Duration::from_secs(u64::MAX);
    for (requests, per, burst) in [
        (1, long, u64::MAX),
        (u64::MAX, Duration::from_nanos(1), u64::MAX),
        (u64::MAX, long, 1),
        (1, Duration::from_nanos(1), u64::MAX),
    ] {
        let quotas = [quota(requests, per, burst)];
        for warm_up in [None, Some(WarmUp::new(long, 1e300))] {
            for replicas in [1, u64::from(u32::MAX)] {
                let demand = Demand { replicas, wait_max: u64::MAX, warm_up, quotas: &quotas };
                let mut words = [0, 0];
                for now in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                    let _ = take(&mut words, &demand, now);
                    let _ = take(&mut words, &Demand { wait_max: 0, ..demand }, now);
                }
            }
        }
    }
}

#[test]
fn a_word_of_former_settings_does_not_block_for_its_former_time() {
    let daily = [quota(1, Duration::from_secs(86_400), 1)];
    let often = [quota(10, Duration::from_secs(1), 1)];
    let mut words = [0];
    assert!(take(&mut words, &demand(&daily), ticks(S)).is_ok());
    assert!(take(&mut words, &demand(&often), ticks(S)).is_err());
    assert!(take(&mut words, &demand(&often), ticks(S + 99 * MS)).is_err());
    assert!(take(&mut words, &demand(&often), ticks(S + 101 * MS)).is_ok());
}

#[test]
fn a_turn_is_given_back_if_it_is_the_last() {
    let quotas = [quota(10, Duration::from_secs(1), 1)];
    let demand = Demand { wait_max: ticks(S), ..demand(&quotas) };
    let mut words = [0];
    let turn = |words: &mut [u64; 1]| take(words, &demand, ticks(S)).map(|turn| (ns(turn) - S) / MS);
    assert_eq!(turn(&mut words), Ok(0));
    assert_eq!(turn(&mut words), Ok(100));
    let first = words[0];
    assert_eq!(turn(&mut words), Ok(200));
    let second = words[0];
    assert!(!give_back(&mut words, &demand, first), "another one was told its time after it");
    assert!(give_back(&mut words, &demand, second));
    assert_eq!(turn(&mut words), Ok(200));
}

/// The rate in each of so many parts of the time since the first request.
fn rates(times: &[u64], part_ns: u64, parts: usize) -> Vec<usize> {
    let mut rates = vec![0; parts];
    for time in times {
        if let Some(rate) = rates.get_mut(((time - S) / part_ns) as usize) {
            *rate += 1;
        }
    }
    rates
}

#[test]
fn a_cold_limit_warms_up_and_cools_down() {
    let quotas = [quota(90, Duration::from_secs(1), 1)];
    let warm_up = Some(WarmUp::new(Duration::from_secs(30), 3.0));
    let demand = Demand { warm_up, ..demand(&quotas) };
    let seconds = rates(&goes(&demand, MS / 10, 60 * S), S, 60);
    assert!((29..=33).contains(&seconds[0]), "begins at a third: {seconds:?}");
    assert!((40..=60).contains(&seconds[20]), "{seconds:?}");
    assert!(seconds[32..].iter().all(|rate| (88..=91).contains(rate)), "ends at all of it: {seconds:?}");
    assert!(seconds.windows(2).all(|pair| pair[1] + 1 >= pair[0]), "and never falls: {seconds:?}");

    let mut words = [0, 0];
    let mut in_second = |from_ns: u64| {
        (0..10_000).filter(|part| take(&mut words, &demand, ticks(from_ns + part * MS / 10)).is_ok()).count()
    };
    for second in 1..60 {
        in_second(second * S);
    }
    assert!(in_second(60 * S) >= 88, "warm");
    assert!(in_second(62 * S) >= 85, "a pause of a second does not make it cold");
    assert!(in_second(100 * S) <= 33, "one of the period does");
}

#[test]
fn a_burst_of_a_cold_limit_is_a_part_of_the_burst() {
    let quotas = [quota(100, Duration::from_secs(1), 90)];
    let demand = Demand { warm_up: Some(WarmUp::new(Duration::from_secs(30), 3.0)), ..demand(&quotas) };
    let mut words = [0, 0];
    let at_once = (0..1000).filter(|_| take(&mut words, &demand, ticks(S)).is_ok()).count();
    assert!((29..=31).contains(&at_once), "{at_once}");
}

proptest! {
    /// In every interval no more go than burst and rate allow, in every window, whether they wait or not.
    #[test]
    fn no_interval_sees_more_than_burst_and_rate(
        windows in proptest::collection::vec((1u64..50, 1u64..2000, 1u64..20), 1..4),
        gaps in proptest::collection::vec(0u64..100, 1..300),
        wait_ms in prop_oneof![Just(0u64), 1u64..500],
    ) {
        let quotas: Vec<Quota> =
            windows.iter().map(|(requests, ms, burst)| quota(*requests, Duration::from_millis(*ms), *burst)).collect();
        let demand = Demand { wait_max: ticks(wait_ms * MS), ..demand(&quotas) };
        let mut words = vec![0; quotas.len()];
        let mut now = S;
        let mut went = Vec::new();
        for gap in gaps {
            now += gap * MS;
            if let Ok(turn) = take(&mut words, &demand, ticks(now)) {
                prop_assert!(turn >= ticks(now) && turn - ticks(now) <= demand.wait_max);
                went.push(turn);
            }
        }
        went.sort_unstable();
        for quota in &quotas {
            for (first, from) in went.iter().enumerate() {
                for (count, to) in went[first..].iter().enumerate() {
                    let allowed = quota.burst + (to - from) / quota.interval;
                    prop_assert!((count as u64) < allowed, "{} of {allowed} in {}", count + 1, to - from);
                }
            }
        }
    }

    /// Giving back never lets more through, either.
    #[test]
    fn giving_back_keeps_the_limit(steps in proptest::collection::vec((0u64..60, any::<bool>()), 1..200)) {
        let quotas = [quota(10, Duration::from_secs(1), 2), quota(30, Duration::from_secs(2), 5)];
        let demand = Demand { wait_max: ticks(2 * S), ..demand(&quotas) };
        let mut words = [0, 0];
        let mut now = S;
        let mut went = Vec::new();
        for (gap, gives_up) in steps {
            now += gap * MS;
            if let Ok(turn) = take(&mut words, &demand, ticks(now)) {
                let after = words[0];
                if !(gives_up && turn > ticks(now) && give_back(&mut words, &demand, after)) {
                    went.push(turn);
                }
            }
        }
        went.sort_unstable();
        for quota in &quotas {
            for (first, from) in went.iter().enumerate() {
                for (count, to) in went[first..].iter().enumerate() {
                    prop_assert!((count as u64) < quota.burst + (to - from) / quota.interval);
                }
            }
        }
    }
}
