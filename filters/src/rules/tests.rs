//! What the tests of all rules share: policies, requests, dice, and a driver that does with a rule what a proxy would.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use config::snapshot::policy::{Abort, Action, Delay, FaultInjection, FaultMatch, Mode, Policy, Reply};

use crate::Head;
use crate::rules::{Facts, Outcome, Peek, Rule, States, Step, Ticket, Token, Waiter};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1000 * MS;

pub(crate) fn reply(status: u16) -> Reply {
    Reply { status, body: "".into(), headers: Vec::new() }
}

pub(crate) fn policy(mode: Mode, action: Action) -> Arc<Policy> {
    Arc::new(Policy { name: "Kind default/it".into(), state_key: "default/it".into(), mode, action })
}

pub(crate) fn rule(action: Action) -> Rule {
    Rule::new(&policy(Mode::Enforce, action), &States::default())
}

/// A request of a client, with what it is told apart by.
pub(crate) fn facts(now_ns: u64, task: u64) -> Facts<'static> {
    Facts {
        now_ns,
        waiter: Waiter { worker: 0, task },
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        lane: None,
        route: "default/web/0",
        service: "default/web:80",
        caller: None,
    }
}

/// A head with these fields, each `name: value`.
pub(crate) fn head(lines: &[&str]) -> Head {
    let mut head = Head::default();
    for line in lines {
        let (name, value) = line.split_once(": ").expect("rows are name: value");
        head.add(name, value.as_bytes());
    }
    head
}

/// Numbers that look like dice, the same for the same seed (SplitMix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// From 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }
}

/// Asks a rule for a request that waits for nothing, and tells what came of it in a word.
pub(crate) fn ask(rule: &Rule, head: &Head, facts: &Facts<'_>, token: &mut Token) -> String {
    word(rule.on_request(head, facts, &mut || 0, token, &mut |_| {}), facts.now_ns)
}

pub(crate) fn word(step: Step<'_>, now_ns: u64) -> String {
    match step {
        Step::Continue => "goes".into(),
        Step::Respond(refusal) => match refusal.retry_after_seconds {
            None => format!("{}", refusal.reply.status),
            Some(seconds) => format!("{} after {seconds} s", refusal.reply.status),
        },
        Step::Wait(Ticket::Until(until_ns)) => format!("waits {} ms", (until_ns - now_ns) / MS),
        Step::Wait(Ticket::Slot { until_ns }) => format!("slot within {} ms", (until_ns - now_ns) / MS),
    }
}

#[test]
fn faults_hit_their_share_of_those_that_match() {
    let action = Action::FaultInjection(FaultInjection {
        matches: vec![
            FaultMatch { headers: vec![("x-chaos".into(), "yes".into())], lanes: vec!["blue".into(), "green".into()] },
            FaultMatch { headers: vec![("x-chaos".into(), "always".into())], lanes: Vec::new() },
        ],
        delay: Some(Delay { fixed: Duration::from_millis(300), share: 0.5 }),
        abort: Some(Abort { reply: reply(503), share: 0.1 }),
    });
    let tally = |mode: Mode, lines: &[&str], lane: Option<&'static str>| {
        let rule = Rule::new(&policy(mode, action.clone()), &States::default());
        let mut dice = Dice(7);
        let mut seen: HashMap<String, u32> = HashMap::new();
        for task in 0..10_000 {
            let mut facts = Facts { lane, ..facts(S, task) };
            let mut token = Token::default();
            let step = rule.on_request(&head(lines), &facts, &mut || dice.roll(), &mut token, &mut |_| {});
            let mut story = word(step, S);
            if story.starts_with("waits") {
                let early = word(rule.on_ticket(&facts, &mut token, &mut |_| {}), S);
                assert_eq!(early, story, "asked too early");
                facts.now_ns += 300 * MS;
                story = format!("{story}, {}", word(rule.on_ticket(&facts, &mut token, &mut |_| {}), facts.now_ns));
            }
            *seen.entry(story).or_default() += 1;
        }
        let mut seen: Vec<String> = seen
            .into_iter()
            .map(|(story, times)| format!("{} % {story}", (f64::from(times) / 500.0).round() * 5.0))
            .collect();
        seen.sort();
        (seen.join(" | "), rule.peek(&head(lines), &Facts { lane, ..facts(S, 0) }))
    };
    let all = "45 % goes | 45 % waits 300 ms, goes | 5 % 503 | 5 % waits 300 ms, 503";
    let chance = Peek::Chance { delay: 0.5, abort: 0.1 };
    let none = ("100 % goes".to_owned(), Peek::NotConcerned);
    assert_eq!(tally(Mode::Enforce, &["X-Chaos: yes"], Some("blue")), (all.into(), chance));
    assert_eq!(tally(Mode::Enforce, &["x-chaos: always"], None), (all.into(), chance));
    assert_eq!(tally(Mode::Shadow, &["x-chaos: always"], None), ("100 % goes".into(), chance));
    assert_eq!(tally(Mode::Enforce, &["x-chaos: yes"], None), none);
    assert_eq!(tally(Mode::Enforce, &["x-chaos: yes"], Some("red")), none);
    assert_eq!(tally(Mode::Enforce, &[], Some("blue")), none);
}

#[test]
fn a_share_of_nothing_or_all_is_that() {
    let tally = |share: f64| {
        let abort = Some(Abort { reply: reply(503), share });
        let rule = rule(Action::FaultInjection(FaultInjection { matches: vec![], delay: None, abort }));
        let mut dice = Dice(1);
        let mut extremes = [0, u64::MAX].into_iter().chain(std::iter::repeat_with(move || dice.roll()));
        let mut dice = || extremes.next().expect("there are always more dice");
        for task in 0..1000 {
            let mut token = Token::default();
            let _ = rule.on_request(&head(&[]), &facts(S, task), &mut dice, &mut token, &mut |_| {});
            rule.on_end(S, &mut token, &Outcome::Cancelled, &mut |_| {});
        }
        rule.figures().refused
    };
    assert_eq!((tally(0.0), tally(1.0)), (0, 1000));
}

#[test]
fn what_a_request_holds_is_a_few_plain_bytes() {
    assert!(size_of::<Token>() <= 48, "{}", size_of::<Token>());
}
