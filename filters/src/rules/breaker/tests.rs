//! Tests of opening and closing.

use std::time::Duration;

use config::snapshot::policy::{Action, CircuitBreaker as Settings, Mode};

use super::*;
use crate::rules::tests::{MS, S, facts, head, policy, reply, rule, word};
use crate::rules::{Rule, Waiter};

const GOOD: Outcome = Outcome::Served { took_ns: 20 * MS };
const SLOW: Outcome = Outcome::Served { took_ns: 500 * MS };
const BAD: Outcome = Outcome::Failed { took_ns: 5 * MS };

fn settings() -> Settings {
    Settings {
        per: BreakerScope::Service,
        slow_calls: Some((Duration::from_millis(200), 0.5)),
        error_ratio: Some(0.3),
        error_count: None,
        window: Duration::from_secs(10),
        calls_min: 20,
        open_for: Duration::from_secs(5),
        probes: 3,
        fallback: reply(503),
    }
}

/// A breaker and the calls that are under way.
struct Driven {
    rule: Rule,
    calls: Vec<Token>,
}

impl Driven {
    fn new(settings: Settings) -> Driven {
        Driven { rule: rule(Action::CircuitBreaker(settings)), calls: Vec::new() }
    }

    fn begin(&mut self, now_ns: u64) -> String {
        let mut token = Token::default();
        let step = self.rule.on_request(&head(&[]), &facts(now_ns, 0), &mut || 0, &mut token, &mut |_| {});
        let said = word(step, now_ns);
        if said == "goes" {
            self.calls.push(token);
        }
        said
    }

    /// The oldest call under way ends.
    fn end(&mut self, now_ns: u64, outcome: Outcome) {
        self.rule.on_end(now_ns, &mut self.calls.remove(0), &outcome, &mut |_: Waiter| {});
    }

    /// So many calls, one after the other; tells how many went.
    fn calls(&mut self, now_ns: u64, count: usize, outcome: Outcome) -> usize {
        let mut went = 0;
        for _ in 0..count {
            if self.begin(now_ns) == "goes" {
                went += 1;
                self.end(now_ns, outcome);
            }
        }
        went
    }

    fn phase(&self) -> Phase {
        self.rule.figures().phase
    }
}

#[test]
fn it_opens_for_each_of_its_reasons() {
    let check = |settings: Settings, rows: &[(usize, Outcome)], expected: Phase| {
        let mut driven = Driven::new(settings);
        for (count, outcome) in rows {
            driven.calls(S, *count, *outcome);
        }
        assert_eq!(driven.phase(), expected, "{rows:?}");
    };
    check(settings(), &[(13, GOOD), (6, BAD)], Phase::Closed);
    check(settings(), &[(14, GOOD), (6, BAD)], Phase::Open);
    check(settings(), &[(6, BAD), (14, GOOD)], Phase::Open);
    check(settings(), &[(100, GOOD), (42, BAD)], Phase::Closed);
    check(settings(), &[(100, GOOD), (43, BAD)], Phase::Open);
    check(settings(), &[(11, GOOD), (9, SLOW)], Phase::Closed);
    check(settings(), &[(10, GOOD), (10, SLOW)], Phase::Open);
    check(settings(), &[(50, Outcome::Cancelled)], Phase::Closed);
    let count = Settings { error_count: Some(4), error_ratio: None, slow_calls: None, ..settings() };
    check(count.clone(), &[(1000, GOOD), (3, BAD), (1000, SLOW)], Phase::Closed);
    check(count, &[(4, BAD)], Phase::Open);
    let whole = Settings { error_ratio: Some(1.0), ..settings() };
    check(whole.clone(), &[(1, GOOD), (99, BAD)], Phase::Closed);
    check(whole, &[(20, BAD)], Phase::Open);
    let never = Settings { error_ratio: Some(0.0), ..settings() };
    check(never, &[(100, GOOD)], Phase::Closed);
}

#[test]
fn it_refuses_then_probes_then_closes() {
    let mut driven = Driven::new(settings());
    assert_eq!(driven.calls(S, 100, BAD), 20);
    assert_eq!(driven.begin(S + S / 2), "503 after 5 s");
    assert_eq!(driven.begin(6 * S - MS), "503 after 1 s");
    assert_eq!([(); 4].map(|()| driven.begin(6 * S)), ["goes", "goes", "goes", "503 after 1 s"]);
    assert_eq!(driven.phase(), Phase::HalfOpen);
    // One that nothing is known of makes room for another.
    driven.end(6 * S, Outcome::Cancelled);
    assert_eq!([driven.begin(6 * S), driven.begin(6 * S)], ["goes", "503 after 1 s"]);
    driven.end(6 * S, GOOD);
    driven.end(6 * S, GOOD);
    assert_eq!(driven.phase(), Phase::HalfOpen);
    driven.end(6 * S, GOOD);
    assert_eq!(driven.phase(), Phase::Closed);
    assert_eq!(driven.calls(7 * S, 10, BAD), 10, "what was before is forgotten");
}

#[test]
fn late_answers_of_another_generation_say_nothing() {
    let mut driven = Driven::new(settings());
    for _ in 0..40 {
        driven.begin(S);
    }
    for _ in 0..20 {
        driven.end(S, BAD);
    }
    assert_eq!(driven.phase(), Phase::Open);
    // Three probes, and then the answers of those that began before it opened.
    for _ in 0..3 {
        assert_eq!(driven.begin(6 * S), "goes");
    }
    for _ in 0..20 {
        driven.end(6 * S, BAD);
    }
    assert_eq!(driven.phase(), Phase::HalfOpen);
    for _ in 0..3 {
        driven.end(6 * S, GOOD);
    }
    assert_eq!(driven.phase(), Phase::Closed);
}

#[test]
fn failed_probes_make_it_wait_longer_up_to_eight_times() {
    let mut driven = Driven::new(settings());
    driven.calls(S, 20, BAD);
    let mut now_ns = S;
    for seconds in [5, 10, 20, 40, 40, 40] {
        assert_eq!(driven.begin(now_ns), format!("503 after {seconds} s"));
        now_ns += seconds * S;
        assert_eq!(driven.calls(now_ns, 10, SLOW), 1);
    }
    assert_eq!(driven.calls(now_ns + 40 * S, 3, GOOD), 3);
    assert_eq!(driven.phase(), Phase::Closed);
    // Long after that it is like new.
    driven.calls(now_ns + 100 * S, 20, BAD);
    assert_eq!(driven.begin(now_ns + 100 * S), "503 after 5 s");
}

#[test]
fn probes_that_are_never_heard_of_again_are_given_up() {
    let mut driven = Driven::new(settings());
    driven.calls(S, 20, BAD);
    assert_eq!([(); 4].map(|()| driven.begin(6 * S)), ["goes", "goes", "goes", "503 after 1 s"]);
    assert_eq!(driven.begin(60 * S), "503 after 1 s");
    assert_eq!(driven.begin(67 * S), "goes");
    driven.end(67 * S, BAD);
    assert_eq!(driven.phase(), Phase::HalfOpen, "the old probes are of another generation");
}

/// 100 calls a second to a backend that is ten times slower from 30 s to 90 s.
#[test]
fn a_slow_while_opens_it_without_flapping() {
    let mut driven = Driven::new(settings());
    let mut open_at_ms = Vec::new();
    let mut closed_at_ms = Vec::new();
    let mut ends: std::collections::VecDeque<(u64, Outcome)> = Default::default();
    let mut went_while_slow = 0;
    let mut before = Phase::Closed;
    for ms in (0..180_000).step_by(10) {
        let now_ns = S + ms * MS;
        while let Some((at_ns, outcome)) = ends.front().copied()
            && at_ns <= now_ns
        {
            ends.pop_front();
            driven.end(now_ns, outcome);
        }
        let is_slow = (30_000..90_000).contains(&ms);
        if driven.begin(now_ns) == "goes" {
            let (took_ns, outcome) = if is_slow { (500 * MS, SLOW) } else { (50 * MS, GOOD) };
            went_while_slow += usize::from(is_slow);
            // In order, since calls end in the order they began in within a phase of the backend.
            let at_ns = ends.back().map_or(0, |(at_ns, _)| *at_ns).max(now_ns + took_ns);
            ends.push_back((at_ns, outcome));
        }
        let phase = driven.phase();
        if phase != before {
            match phase {
                Phase::Open => open_at_ms.push(ms),
                Phase::Closed => closed_at_ms.push(ms),
                Phase::HalfOpen => {}
            }
            before = phase;
        }
    }
    assert!((30_000..=40_500).contains(&open_at_ms[0]), "{open_at_ms:?}");
    assert_eq!(closed_at_ms.len(), 1, "{closed_at_ms:?}");
    assert!((90_000..=131_000).contains(&closed_at_ms[0]), "{closed_at_ms:?}");
    assert!(open_at_ms.len() <= 5, "{open_at_ms:?}");
    // Until it opened, and three probes each time.
    assert!(went_while_slow <= 1050 + 4 * 3, "{went_while_slow}");
    assert_eq!(driven.phase(), Phase::Closed);
}

#[test]
fn endpoints_have_breakers_of_their_own() {
    let rule = rule(Action::CircuitBreaker(Settings { per: BreakerScope::Endpoint, ..settings() }));
    let Rule::CircuitBreaker(breaker) = &rule else { panic!("it is a breaker") };
    let bad: SocketAddr = "10.0.0.1:80".parse().expect("an address");
    let good: SocketAddr = "10.0.0.2:80".parse().expect("an address");
    let call = |now_ns: u64, endpoint: SocketAddr, outcome: Outcome| {
        let mut token = Token::default();
        let step = word(rule.on_attempt(now_ns, 0, endpoint, &mut token), now_ns);
        rule.on_attempt_end(now_ns, endpoint, &mut token, &outcome);
        step
    };
    for _ in 0..20 {
        assert_eq!([call(S, bad, BAD), call(S, good, GOOD)], ["goes", "goes"]);
    }
    let changes = breaker.changes();
    let is_open = |now_ns: u64| [breaker.is_open(now_ns, bad), breaker.is_open(now_ns, good)];
    assert_eq!(is_open(2 * S), [true, false]);
    assert_eq!([call(2 * S, bad, BAD), call(2 * S, good, GOOD)], ["503 after 4 s", "goes"]);
    assert_eq!(breaker.changes(), changes);
    assert_eq!(is_open(6 * S), [false, false], "a probe may go");
    assert_eq!([call(6 * S, bad, GOOD), call(6 * S, bad, GOOD), call(6 * S, bad, GOOD)], ["goes", "goes", "goes"]);
    assert_eq!((is_open(6 * S), rule.figures().phase), ([false, false], Phase::Closed));
    assert!(breaker.changes() > changes);
    let mut token = Token::default();
    assert_eq!(rule.on_request(&head(&[]), &facts(S, 0), &mut || 0, &mut token, &mut |_| {}), Step::Continue);
}

#[test]
fn endpoints_that_come_and_go_take_bounded_memory() {
    let settings = Settings { per: BreakerScope::Endpoint, ..settings() };
    let states = States::default();
    let rule = Rule::new(&policy(Mode::Enforce, Action::CircuitBreaker(settings)), &states);
    let Rule::CircuitBreaker(breaker) = &rule else { panic!("it is a breaker") };
    for index in 0..40_000u32 {
        let endpoint = SocketAddr::from((std::net::Ipv4Addr::from(index), 80));
        let mut token = Token::default();
        assert_eq!(rule.on_attempt(S, 0, endpoint, &mut token), Step::Continue);
        rule.on_attempt_end(S, endpoint, &mut token, &GOOD);
    }
    assert!(breaker.state.endpoints.read().expect("nobody panicked").len() <= ENDPOINTS_MAX);
}

#[test]
fn shadow_moves_as_if_it_refused() {
    let states = States::default();
    let rule = Rule::new(&policy(Mode::Shadow, Action::CircuitBreaker(settings())), &states);
    let mut driven = Driven { rule, calls: Vec::new() };
    assert_eq!(driven.calls(S, 50, BAD), 50);
    assert_eq!(driven.phase(), Phase::Open);
    let figures = driven.rule.figures();
    assert_eq!((figures.admitted, figures.shadow_refused, figures.refused), (20, 30, 0));
}
