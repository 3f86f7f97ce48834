//! Tests of RateLimit as requests meet it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use config::snapshot::HashKey;
use config::snapshot::policy::{Action, Mode, Override, Window};
use proptest::prelude::*;

use super::*;
use crate::rules::tests::{MS, S, ask, facts, head, policy, reply, rule};
use crate::rules::{Outcome, Rule, Waiter};

fn windows(rows: &[(u64, u64, u64)]) -> Vec<Window> {
    let window = |(requests, seconds, burst): &(u64, u64, u64)| Window {
        requests: *requests,
        per: Duration::from_secs(*seconds),
        burst: *burst,
    };
    rows.iter().map(window).collect()
}

/// So many in so many seconds, with a burst.
fn settings(rows: &[(u64, u64, u64)], by: Vec<Key>) -> policy::RateLimit {
    policy::RateLimit {
        windows: windows(rows),
        by,
        on_missing: OnMissing::Shared,
        overrides: Vec::new(),
        effect: Effect::Reject(reply(429)),
        scope: Scope::Local,
        values_max: 1000,
    }
}

fn header(name: &str) -> Key {
    Key::Of(HashKey::Header(name.into()))
}

/// Asks at a time for a request with these fields and gives back at once what it holds.
fn at(rule: &Rule, now_ns: u64, lines: &[&str]) -> String {
    ask(rule, &head(lines), &facts(now_ns, 0), &mut Token::default())
}

#[test]
fn all_windows_hold() {
    let rule = rule(Action::RateLimit(settings(&[(10, 1, 2), (5, 60, 5)], vec![])));
    let check = |ms: u64, expected: &str| assert_eq!(at(&rule, S + ms * MS, &[]), expected, "at {ms} ms");
    check(0, "goes");
    check(0, "goes");
    check(0, "429 after 1 s");
    check(100, "goes");
    check(150, "429 after 1 s");
    check(200, "goes");
    check(300, "goes");
    check(400, "429 after 12 s");
    check(11_999, "429 after 1 s");
    check(12_000, "goes");
    assert_eq!((rule.figures().admitted, rule.figures().refused), (6, 4));
}

#[test]
fn requests_are_told_apart_by_their_values() {
    let check = |by: Vec<Key>, on_missing: OnMissing, rows: &[(&str, &str)]| {
        let rule = rule(Action::RateLimit(policy::RateLimit { on_missing, ..settings(&[(1, 10, 1)], by) }));
        for (line, expected) in rows {
            let lines: Vec<&str> = line.split(" | ").filter(|line| !line.is_empty()).collect();
            assert_eq!(at(&rule, S, &lines), *expected, "{line}");
        }
    };
    let refused = "429 after 10 s";
    let users = [("x-user: a", "goes"), ("x-user: b", "goes"), ("X-User: a", refused), ("x-user: ", "goes")];
    check(vec![header("x-user")], OnMissing::Shared, &users);
    check(vec![header("x-user")], OnMissing::Shared, &[("", "goes"), ("x-user: a", "goes"), ("x-b: c", refused)]);
    check(vec![header("x-user")], OnMissing::Skip, &[("", "goes"), ("", "goes"), ("x-user: a", "goes")]);
    check(vec![header("x-user")], OnMissing::Deny, &[("", "429"), ("x-user: a", "goes")]);
    let both = [("a: 1 | b: 23", "goes"), ("a: 12 | b: 3", "goes"), ("a: 1", "goes"), ("a: 1 | b: 23", refused)];
    check(vec![header("a"), header("b")], OnMissing::Shared, &both);
    let cookies = [("cookie: x=1; sid=a", "goes"), ("cookie: sid=b", "goes"), ("cookie: y=2;sid=a", refused)];
    check(vec![Key::Of(HashKey::Cookie("sid".into()))], OnMissing::Shared, &cookies);
    for by in [Key::Route, Key::Service, Key::Caller, Key::Of(HashKey::ClientAddress)] {
        check(vec![by], OnMissing::Deny, &[("", "goes"), ("", refused)]);
    }
    check(vec![Key::Lane], OnMissing::Deny, &[("", "429")]);
}

#[test]
fn addresses_lanes_and_queries_are_values_too() {
    let by = vec![Key::Of(HashKey::ClientAddress), Key::Lane, Key::Of(HashKey::Query("q".into()))];
    let rule = rule(Action::RateLimit(settings(&[(1, 10, 1)], by)));
    let check = |address: &str, lane: Option<&str>, query: &str, expected: &str| {
        let mut head = head(&[]);
        head.query = head.append(query.as_bytes());
        let client: IpAddr = address.parse().expect("an address");
        let facts = Facts { client, lane, ..facts(S, 0) };
        assert_eq!(ask(&rule, &head, &facts, &mut Token::default()), expected, "{address} {lane:?} {query}");
    };
    check("10.0.0.1", None, "q=1", "goes");
    check("::ffff:10.0.0.1", None, "q=1", "429 after 10 s");
    check("10.0.0.2", None, "q=1", "goes");
    check("10.0.0.1", Some("blue"), "q=1", "goes");
    check("10.0.0.1", None, "q=2", "goes");
    check("10.0.0.1", None, "a=b&q=%31", "429 after 10 s");
}

#[test]
fn some_values_have_other_windows() {
    let overrides = vec![
        Override { value: "robot".into(), windows: windows(&[(1, 10, 1)]) },
        Override { value: "partner".into(), windows: windows(&[(10, 1, 10), (12, 60, 12)]) },
    ];
    let limit = policy::RateLimit { overrides, ..settings(&[(3, 10, 3)], vec![header("x-user")]) };
    let rule = rule(Action::RateLimit(limit));
    let goes = |user: &str, now_ns: u64| {
        (0..20).filter(|_| at(&rule, now_ns, &[&format!("x-user: {user}")]) == "goes").count()
    };
    assert_eq!([goes("robot", S), goes("partner", S), goes("anyone", S), goes("other", S)], [1, 10, 3, 3]);
    assert_eq!([goes("robot", 3 * S), goes("partner", 3 * S)], [0, 2]);
}

#[test]
fn who_has_no_room_shares_a_count() {
    let rule =
        rule(Action::RateLimit(policy::RateLimit { values_max: 4, ..settings(&[(1, 10, 1)], vec![header("x-user")]) }));
    let goes = (0..100).filter(|user| at(&rule, S, &[&format!("x-user: {user}")]) == "goes").count();
    assert_eq!((goes, rule.figures().values, rule.figures().overflowed), (5, 4, 96));
    let goes = (100..103).filter(|user| at(&rule, 12 * S, &[&format!("x-user: {user}")]) == "goes").count();
    assert_eq!((goes, rule.figures().overflowed), (3, 96), "the first ones have lapsed");
}

#[test]
fn a_queue_spreads_requests_and_knows_when_it_is_too_long() {
    let effect = Effect::Queue { wait_max: Duration::from_millis(250), reply: reply(503) };
    let limit = policy::RateLimit { effect, ..settings(&[(10, 1, 1)], vec![]) };
    let rule = rule(Action::RateLimit(limit.clone()));
    let mut tokens: Vec<Token> = Vec::new();
    let mut asked = |now_ns: u64| {
        tokens.push(Token::default());
        ask(&rule, &head(&[]), &facts(now_ns, 0), tokens.last_mut().expect("pushed"))
    };
    assert_eq!([asked(S), asked(S), asked(S), asked(S)], ["goes", "waits 100 ms", "waits 200 ms", "503 after 1 s"]);
    let mut wake = |_: Waiter| panic!("nobody is woken");
    assert_eq!(rule.on_ticket(&facts(S, 0), &mut tokens[1], &mut wake), Step::Wait(Ticket::Until(S + 100 * MS)));
    assert_eq!(rule.on_ticket(&facts(S + 100 * MS, 0), &mut tokens[1], &mut wake), Step::Continue);
    // The last one leaves, and its turn is another's.
    rule.on_end(S + 100 * MS, &mut tokens[2], &Outcome::Cancelled, &mut wake);
    assert_eq!(at(&rule, S + 100 * MS, &[]), "waits 100 ms");
    // One that had its turn gives nothing back.
    rule.on_end(S + 100 * MS, &mut tokens[1], &Outcome::Served { took_ns: 1 }, &mut wake);
    assert_eq!(at(&rule, S + 100 * MS, &[]), "waits 200 ms");
    assert_eq!((rule.figures().admitted, rule.figures().delayed, rule.figures().refused), (1, 4, 1));
}

/// A queue of one window or more, of all requests or by user.
fn line(rows: &[(u64, u64, u64)], wait_max_ms: u64, by: Vec<Key>) -> Rule {
    let effect = Effect::Queue { wait_max: Duration::from_millis(wait_max_ms), reply: reply(503) };
    rule(Action::RateLimit(policy::RateLimit { effect, ..settings(rows, by) }))
}

#[test]
fn a_turn_that_others_stand_behind_is_the_next_ones() {
    for by in [vec![], vec![header("x-user")]] {
        let rule = line(&[(10, 1, 1)], 450, by);
        let mut tokens: [Token; 8] = Default::default();
        let mut check = |ms: u64, index: usize, expected: &str| {
            let facts = facts(S + ms * MS, 0);
            match expected {
                "leaves" => rule.on_end(facts.now_ns, &mut tokens[index], &Outcome::Cancelled, &mut |_| {}),
                _ => {
                    let head = head(&["x-user: a"]);
                    let peeked = rule.peek(&head, &facts);
                    let said = ask(&rule, &head, &facts, &mut tokens[index]);
                    assert_eq!(said, expected, "request {index} at {ms} ms");
                    assert_eq!(matches!(peeked, Peek::Delay { .. }), said.starts_with("waits"), "{peeked:?} {said}");
                }
            }
        };
        check(0, 0, "goes");
        check(0, 1, "waits 100 ms");
        check(0, 2, "waits 200 ms");
        check(0, 3, "waits 300 ms");
        check(0, 4, "waits 400 ms");
        check(0, 5, "503 after 1 s");
        check(10, 2, "leaves");
        check(10, 1, "leaves");
        // The earliest is used first, and none twice.
        check(20, 5, "waits 80 ms");
        check(20, 6, "waits 180 ms");
        check(20, 7, "503 after 1 s");
        // Nobody comes as long as it is to be had: it is lost, and no burst later.
        check(30, 6, "leaves");
        check(250, 6, "waits 250 ms");
        // All leave, the last one last: it is as if they had never been there.
        check(260, 3, "leaves");
        check(260, 4, "leaves");
        check(260, 6, "leaves");
        check(260, 7, "waits 40 ms");
    }
}

/// 40 clients that each wait 0.7 s, leave, and come again: 20 a second go, though each is told up to 2 s at first.
#[test]
fn those_who_leave_take_no_turn_with_them() {
    const CLIENTS: usize = 40;
    for (burst, pause_ms) in [(1, 1), (1, 20), (20, 1), (20, 20)] {
        let rule = line(&[(20, 1, burst)], 2000, vec![]);
        let mut tokens: [Token; CLIENTS] = std::array::from_fn(|_| Token::default());
        // When a client waits: its turn and when it leaves; else when it comes.
        let mut waits: [Option<(u64, u64)>; CLIENTS] = [None; CLIENTS];
        let mut comes_ms: [u64; CLIENTS] = std::array::from_fn(|index| index as u64);
        let mut went = 0;
        for ms in 0..8000 {
            let now_ns = S + ms * MS;
            for index in 0..CLIENTS {
                let token = &mut tokens[index];
                if let Some((turn_ns, leaves_ms)) = waits[index] {
                    if now_ns >= turn_ns {
                        assert_eq!(rule.on_ticket(&facts(now_ns, 0), token, &mut |_| {}), Step::Continue);
                        went += 1;
                    } else if ms < leaves_ms {
                        continue;
                    }
                    rule.on_end(now_ns, token, &Outcome::Cancelled, &mut |_| {});
                    waits[index] = None;
                    comes_ms[index] = ms + pause_ms;
                } else if ms >= comes_ms[index] {
                    match rule.on_request(&head(&[]), &facts(now_ns, 0), &mut || 0, token, &mut |_| {}) {
                        Step::Wait(Ticket::Until(turn_ns)) => waits[index] = Some((turn_ns, ms + 700)),
                        Step::Continue => went += 1,
                        _ => {}
                    }
                    comes_ms[index] = ms + pause_ms;
                }
            }
        }
        assert!((144..=160 + burst).contains(&went), "{went} of 160 went, burst {burst}, pause {pause_ms} ms");
    }
}

proptest! {
    /// Whoever comes and leaves: what goes is never above the limit, and where there is demand, turns are used.
    #[test]
    fn a_line_that_some_leave_keeps_the_limit(
        steps in prop::collection::vec((0..30u64, 0..4u8, any::<prop::sample::Index>()), 1..400),
        rows in prop::sample::select(vec![
            vec![(50u64, 1u64, 1u64)], vec![(50, 1, 5)], vec![(100, 1, 3), (40, 1, 8)], vec![(40, 1, 8), (100, 1, 3)],
        ]),
        is_keyed: bool,
    ) {
        let rule = line(&rows, 500, if is_keyed { vec![header("x-user")] } else { vec![] });
        let head = head(&["x-user: a"]);
        let mut waiting: Vec<(u64, Token)> = Vec::new();
        let mut left: Vec<u64> = Vec::new();
        let mut went: Vec<u64> = Vec::new();
        let mut now_ns = S;
        for (gap_ms, what, which) in steps {
            now_ns += gap_ms * MS;
            for (turn_ns, mut token) in waiting.extract_if(.., |(turn_ns, _)| *turn_ns <= now_ns) {
                went.push(turn_ns);
                prop_assert_eq!(rule.on_ticket(&facts(now_ns, 0), &mut token, &mut |_| {}), Step::Continue);
            }
            if what == 0 && !waiting.is_empty() {
                let (turn_ns, mut token) = waiting.swap_remove(which.index(waiting.len()));
                rule.on_end(now_ns, &mut token, &Outcome::Cancelled, &mut |_| {});
                left.push(turn_ns);
                // Where the whole end of a line left, it is as if it had never been there.
                left.retain(|left_ns| waiting.iter().any(|(turn_ns, _)| turn_ns > left_ns));
                continue;
            }
            let mut token = Token::default();
            left.retain(|turn_ns| *turn_ns >= now_ns);
            match rule.on_request(&head, &facts(now_ns, 0), &mut || 0, &mut token, &mut |_| {}) {
                Step::Continue => went.push(now_ns),
                Step::Wait(Ticket::Until(turn_ns)) => {
                    prop_assert!(left.iter().all(|left_ns| turn_ns <= *left_ns), "{turn_ns} though {left:?} are free");
                    left.retain(|left_ns| *left_ns != turn_ns);
                    waiting.push((turn_ns, token));
                }
                step => prop_assert!(left.is_empty(), "{step:?} though {left:?} are free"),
            }
        }
        went.extend(waiting.iter().map(|(turn_ns, _)| *turn_ns));
        went.sort_unstable();
        for (requests, seconds, burst) in &rows {
            for (index, from) in went.iter().enumerate() {
                for (count, to) in went[index..].iter().enumerate() {
                    // Times are rounded up to a nanosecond, so that they may be one nearer to each other.
                    let allowed = *burst as f64 + (to - from + 1) as f64 * *requests as f64 / (*seconds * S) as f64;
                    prop_assert!((count + 1) as f64 <= allowed, "{} in {} ns", count + 1, to - from);
                }
            }
        }
    }
}

#[test]
fn keyed_turns_are_given_back_too() {
    let effect = Effect::Queue { wait_max: Duration::from_millis(950), reply: reply(503) };
    let limit = policy::RateLimit { effect, ..settings(&[(10, 1, 1), (100, 1, 1)], vec![header("x-user")]) };
    let rule = rule(Action::RateLimit(limit));
    assert_eq!(at(&rule, S, &["x-user: a"]), "goes");
    for _ in 0..3 {
        let mut token = Token::default();
        assert_eq!(ask(&rule, &head(&["x-user: a"]), &facts(S, 0), &mut token), "waits 100 ms");
        rule.on_end(S, &mut token, &Outcome::Cancelled, &mut |_| {});
    }
    assert_eq!(at(&rule, S, &["x-user: b"]), "goes");
}

#[test]
fn shadow_counts_what_it_would_have_done() {
    let limit = settings(&[(2, 10, 2)], vec![]);
    let rule = Rule::new(&policy(Mode::Shadow, Action::RateLimit(limit)), &States::default());
    assert!((0..5).all(|_| at(&rule, S, &[]) == "goes"));
    let figures = rule.figures();
    assert_eq!((figures.admitted, figures.refused, figures.shadow_refused), (2, 0, 3));
}

#[test]
fn to_peek_changes_nothing() {
    for by in [vec![], vec![header("x-user")]] {
        for rows in [&[(1u64, 10u64, 1u64)][..], &[(1, 10, 1), (5, 10, 5)]] {
            let rule = rule(Action::RateLimit(settings(rows, by.clone())));
            let peek = || rule.peek(&head(&["x-user: a"]), &facts(S, 0));
            assert_eq!((peek(), peek()), (Peek::Admit, Peek::Admit));
            assert_eq!(at(&rule, S, &["x-user: a"]), "goes");
            assert_eq!(peek(), Peek::Refuse { retry_after_seconds: Some(10) });
        }
    }
}

/// Threads with one clock that each moves on: together they never get more than burst and rate.
#[test]
fn threads_together_keep_the_limit() {
    for (rows, by) in [
        (&[(100_000u64, 1u64, 50u64)][..], vec![]),
        (&[(100_000, 1, 50), (1_000_000, 100, 300)], vec![]),
        (&[(100_000, 1, 50)], vec![header("x-user")]),
    ] {
        let rule = rule(Action::RateLimit(settings(rows, by)));
        let clock = AtomicU64::new(S);
        let went: Vec<u64> = std::thread::scope(|scope| {
            let run = || {
                let head = head(&["x-user: a"]);
                let mut went = Vec::new();
                for _ in 0..100_000 {
                    let now_ns = clock.fetch_add(100, Ordering::SeqCst);
                    if ask(&rule, &head, &facts(now_ns, 0), &mut Token::default()) == "goes" {
                        went.push(now_ns);
                    }
                }
                went
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no thread panics")).collect()
        });
        // 400,000 times 100 ns are 40 ms.
        for (requests, seconds, burst) in rows {
            let allowed = burst + requests * 40 / (seconds * 1000) + 1;
            assert!(went.len() as u64 <= allowed, "{} of {allowed}", went.len());
        }
        let tightest = rows.iter().map(|(requests, seconds, burst)| burst + requests * 40 / (seconds * 1000)).min();
        assert!(went.len() as u64 >= tightest.unwrap_or_default() * 99 / 100, "{} of {tightest:?}", went.len());
    }
}
