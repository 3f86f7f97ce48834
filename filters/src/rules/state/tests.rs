//! Tests of what outlives a configuration.

use std::time::Duration;

use config::snapshot::policy::{
    Action, Concurrency, ConcurrencyLimit, Effect, Mode, OnMissing, Policy, RateLimit, Scope, Window,
};

use super::*;
use crate::rules::tests::{S, ask, facts, head, reply};
use crate::rules::{Rule, Token};

fn rate(requests: u64, windows: usize, status: u16) -> Action {
    Action::RateLimit(RateLimit {
        windows: vec![Window { requests, per: Duration::from_secs(10), burst: requests }; windows],
        by: Vec::new(),
        on_missing: OnMissing::Shared,
        overrides: Vec::new(),
        effect: Effect::Reject(reply(status)),
        scope: Scope::SharedByReplicas,
        values_max: 100,
    })
}

fn make(states: &States, key: &str, action: Action) -> Rule {
    let policy = Policy { name: key.into(), state_key: key.into(), mode: Mode::Enforce, action };
    Rule::new(&Arc::new(policy), states)
}

fn admitted(rule: &Rule) -> usize {
    (0..1000).filter(|_| ask(rule, &head(&[]), &facts(S, 0), &mut Token::default()) == "goes").count()
}

#[test]
fn rules_that_change_a_hundred_times_a_second_keep_their_counters() {
    let states = States::default();
    let mut rule = make(&states, "a", rate(500, 1, 429));
    let mut goes = 0;
    for change in 0..1000 {
        rule = make(&states, "a", rate(500, 1, 400 + change % 100));
        goes += usize::from(ask(&rule, &head(&[]), &facts(S, 0), &mut Token::default()) == "goes");
    }
    assert_eq!(goes, 500);
    assert_eq!((rule.figures().admitted, rule.figures().refused), (500, 500));
    assert_eq!(states.live(), 1);
}

#[test]
fn state_belongs_to_its_key_and_kind_and_shape() {
    let states = States::default();
    let first = make(&states, "a", rate(500, 1, 429));
    assert_eq!(admitted(&first), 500);
    assert_eq!(admitted(&make(&states, "a", rate(500, 1, 429))), 0, "the same");
    assert_eq!(admitted(&make(&states, "b", rate(500, 1, 429))), 500, "another key");
    assert_eq!(admitted(&make(&states, "a", rate(500, 2, 429))), 500, "another shape");
    let limit = Concurrency::Fixed(3);
    let concurrency = ConcurrencyLimit { limit, queue_max: 0, queue_timeout: Duration::ZERO, reply: reply(503) };
    assert_eq!(admitted(&make(&states, "a", Action::ConcurrencyLimit(concurrency))), 3, "another kind");
}

#[test]
fn what_no_rule_has_any_more_is_forgotten() {
    let states = States::default();
    for index in 0..10_000 {
        let rule = make(&states, &format!("rule-{index}"), rate(5, 1, 429));
        assert_eq!(admitted(&rule), 5);
    }
    assert_eq!(states.live(), 0);
    let entries = states.rates.0.lock().expect("no test has panicked with it").by_key.len();
    assert!(entries <= PURGE_MIN, "{entries}");
}

#[test]
fn replicas_share_a_limit() {
    let states = States::default();
    for (replicas, expected) in [(0, 500), (1, 500), (4, 125), (1000, 1)] {
        states.set_replicas(replicas);
        assert_eq!(admitted(&make(&states, "a", rate(500, 1, 429))), expected, "{replicas}");
    }
}
