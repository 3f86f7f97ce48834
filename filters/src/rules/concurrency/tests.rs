//! Tests of slots and the queue, request by request; how the limit is learnt is shown in `simulation`.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::time::Duration;

use config::snapshot::policy::{Action, Mode};

use super::*;
use crate::rules::Rule;
use crate::rules::tests::{Dice, MS, S, facts, head, policy as make_policy, reply, word};

mod simulation;

fn settings(limit: u32, queue_max: u32) -> policy::ConcurrencyLimit {
    policy::ConcurrencyLimit {
        limit: Concurrency::Fixed(limit),
        queue_max,
        queue_timeout: Duration::from_millis(250),
        reply: reply(503),
    }
}

/// A rule, its requests by name, and who was woken.
struct Driven {
    rule: Rule,
    states: States,
    tokens: RefCell<Vec<(u64, Token)>>,
    woken: RefCell<Vec<u64>>,
}

impl Driven {
    fn new(mode: Mode, settings: policy::ConcurrencyLimit) -> Driven {
        let states = States::default();
        let rule = Rule::new(&make_policy(mode, Action::ConcurrencyLimit(settings)), &states);
        Driven { rule, states, tokens: RefCell::default(), woken: RefCell::default() }
    }

    /// A request of a caller, which is the hundreds of its name.
    fn ask(&self, ms: u64, name: u64) -> String {
        let client = Ipv4Addr::from((name / 100) as u32).into();
        let facts = Facts { client, ..facts(S + ms * MS, name) };
        let mut token = Token::default();
        let step = self.rule.on_request(&head(&[]), &facts, &mut || 0, &mut token, &mut |waiter| self.wake(waiter));
        let said = word(step, facts.now_ns);
        self.tokens.borrow_mut().push((name, token));
        said
    }

    fn ask_again(&self, ms: u64, name: u64) -> String {
        let facts = facts(S + ms * MS, name);
        let mut tokens = self.tokens.borrow_mut();
        let (_, token) = tokens.iter_mut().find(|(of, _)| *of == name).expect("it has asked");
        word(self.rule.on_ticket(&facts, token, &mut |waiter| self.wake(waiter)), facts.now_ns)
    }

    /// A request ends; tells who was woken.
    fn end(&self, ms: u64, name: u64) -> Vec<u64> {
        let mut tokens = self.tokens.borrow_mut();
        let at = tokens.iter().position(|(of, _)| *of == name).expect("it has asked");
        let (_, mut token) = tokens.remove(at);
        let outcome = Outcome::Served { took_ns: MS };
        self.rule.on_end(S + ms * MS, &mut token, &outcome, &mut |waiter| self.wake(waiter));
        self.rule.on_end(S + ms * MS, &mut token, &outcome, &mut |_| panic!("a token is given back once"));
        self.woken.take()
    }

    fn wake(&self, waiter: Waiter) {
        self.woken.borrow_mut().push(waiter.task);
    }

    /// In flight, waiting, refused.
    fn load(&self) -> (u32, u32, u64) {
        let figures = self.rule.figures();
        (figures.in_flight, figures.waiting, figures.refused)
    }
}

#[test]
fn slots_are_handed_over_in_turn() {
    let driven = Driven::new(Mode::Enforce, settings(2, 4));
    assert_eq!([driven.ask(0, 1), driven.ask(0, 2)], ["goes", "goes"]);
    let wait = "slot within 250 ms";
    assert_eq!([101, 102, 201, 103].map(|name| driven.ask(0, name)), [wait; 4]);
    assert_eq!(driven.ask(0, 3), "503");
    assert_eq!(driven.load(), (2, 4, 1));
    assert_eq!(driven.ask_again(10, 101), "slot within 240 ms", "not yet");
    assert_eq!(driven.end(10, 1), [101]);
    assert_eq!(driven.load(), (2, 3, 1), "handed over, not free");
    assert_eq!(driven.ask(10, 4), wait, "nobody comes in past those who wait");
    assert_eq!(driven.ask_again(11, 101), "goes");
    assert_eq!(driven.end(12, 2), [201], "the other caller's turn");
    assert_eq!(driven.end(12, 101), [102]);
    // One that was granted a slot and is gone gives it on.
    assert_eq!(driven.end(13, 201), [4]);
    // One that waits and is gone makes room in the queue.
    assert_eq!(driven.load(), (2, 1, 1));
    assert_eq!(driven.end(14, 103), [0u64; 0]);
    assert_eq!(driven.load(), (2, 0, 1));
    assert_eq!([driven.end(15, 102), driven.end(15, 4)], [[0u64; 0]; 2]);
    assert_eq!(driven.load(), (0, 0, 1));
}

#[test]
fn who_waits_too_long_is_refused_and_passed_over() {
    let driven = Driven::new(Mode::Enforce, settings(1, 4));
    driven.ask(0, 1);
    driven.ask(0, 101);
    driven.ask(100, 201);
    assert_eq!(driven.ask_again(250, 101), "503");
    assert_eq!(driven.load(), (1, 1, 1));
    // This one's timer is late, and its slot goes to one that is not.
    driven.ask(340, 301);
    assert_eq!(driven.end(351, 1), [301]);
    assert_eq!(driven.load(), (1, 0, 1));
    assert_eq!([driven.ask_again(352, 201), driven.ask_again(352, 301)], ["503", "goes"]);
    // A slot that came at the last moment counts.
    driven.ask(400, 401);
    assert_eq!(driven.end(640, 301), [401]);
    assert_eq!(driven.ask_again(700, 401), "goes");
    assert_eq!([driven.end(701, 101), driven.end(701, 201), driven.end(701, 401)], [[0u64; 0]; 3]);
    assert_eq!(driven.load(), (0, 0, 2));
}

#[test]
fn one_caller_with_a_thousand_requests_does_not_hold_up_another() {
    let driven = Driven::new(Mode::Enforce, settings(1, 100));
    driven.ask(0, 1);
    for name in 100..190 {
        driven.ask(0, name);
    }
    driven.ask(1, 200);
    let mut running = 1;
    for _ in 0..3 {
        running = driven.end(2, running)[0];
        if running == 200 {
            return;
        }
    }
    panic!("the second caller's only request still waits");
}

#[test]
fn a_limit_that_changes_keeps_those_that_run() {
    let driven = Driven::new(Mode::Enforce, settings(2, 4));
    for name in [1, 2, 101, 102, 103] {
        driven.ask(0, name);
    }
    let change =
        |limit| Rule::new(&make_policy(Mode::Enforce, Action::ConcurrencyLimit(settings(limit, 4))), &driven.states);
    let lower = change(1);
    assert_eq!(driven.end(1, 1), [0u64; 0], "one fewer may run");
    let higher = change(3);
    assert_eq!(driven.end(2, 2), [101, 102, 103], "three more may run");
    assert_eq!((lower.figures().in_flight, higher.figures().in_flight), (3, 3));
}

#[test]
fn requests_of_an_adaptive_limit_do_not_move_the_fixed_one_after_it() {
    let adaptive = Concurrency::Adaptive { min: 2, max: 1000 };
    let driven = Driven::new(Mode::Enforce, policy::ConcurrencyLimit { limit: adaptive, ..settings(1, 1000) });
    for name in 0..200 {
        driven.ask(0, name);
    }
    assert_eq!(driven.rule.figures().limit, 64);
    let fixed = make_policy(Mode::Enforce, Action::ConcurrencyLimit(settings(100, 1000)));
    let fixed = Rule::new(&fixed, &driven.states);
    for name in 0..60 {
        driven.end(name, name);
    }
    let figures = fixed.figures();
    assert_eq!((figures.limit, figures.in_flight, figures.waiting), (100, 100, 40));
}

#[test]
fn shadow_never_waits_and_counts_who_would_have_been_refused() {
    let driven = Driven::new(Mode::Shadow, settings(2, 3));
    assert!((1..=10).all(|name| driven.ask(0, name) == "goes"));
    let figures = driven.rule.figures();
    assert_eq!((figures.admitted, figures.delayed, figures.shadow_refused), (2, 3, 5));
    assert_eq!((figures.in_flight, figures.waiting, figures.refused), (5, 0, 0));
    for name in 1..=10 {
        driven.end(1, name);
    }
    assert_eq!(driven.load(), (0, 0, 0));
}

#[test]
fn to_peek_says_what_would_come() {
    let driven = Driven::new(Mode::Enforce, settings(1, 1));
    let peek = || driven.rule.peek(&head(&[]), &facts(S, 0));
    assert_eq!(peek(), Peek::Admit);
    driven.ask(0, 1);
    assert_eq!(peek(), Peek::Delay { until_ns: S + 250 * MS });
    driven.ask(0, 2);
    assert_eq!(peek(), Peek::Refuse { retry_after_seconds: None });
}

/// Threads that come, wait, leave early and end in any order: never more than the limit run, and at last nobody does.
#[test]
fn threads_together_keep_the_limit() {
    use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
    const LIMIT: i64 = 3;
    let states = States::default();
    let rule = Rule::new(&make_policy(Mode::Enforce, Action::ConcurrencyLimit(settings(3, 5))), &states);
    let clock = AtomicU64::new(S);
    let running = AtomicI64::new(0);
    let most = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (rule, clock, running, most) = (&rule, &clock, &running, &most);
            scope.spawn(move || {
                let mut dice = Dice(thread);
                let head = head(&[]);
                // A few requests of this thread at a time: waiting or running.
                let mut under_way: Vec<(Token, bool)> = Vec::new();
                for task in 0..100_000 {
                    let now_ns = clock.fetch_add(MS / 10, SeqCst);
                    let facts = Facts { client: Ipv4Addr::from(thread as u32).into(), ..facts(now_ns, task) };
                    let note = |is_running: bool| {
                        if is_running {
                            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                        }
                    };
                    under_way.retain_mut(|(token, is_running)| {
                        if *is_running {
                            return true;
                        }
                        match rule.on_ticket(&facts, token, &mut |_| {}) {
                            Step::Continue => {
                                note(true);
                                *is_running = true;
                                true
                            }
                            Step::Wait(_) => true,
                            Step::Respond(_) => false,
                        }
                    });
                    if dice.roll() & 1 == 0 && under_way.len() < 6 {
                        let mut token = Token::default();
                        match rule.on_request(&head, &facts, &mut || 0, &mut token, &mut |_| {}) {
                            Step::Continue => {
                                note(true);
                                under_way.push((token, true));
                            }
                            Step::Wait(_) => under_way.push((token, false)),
                            Step::Respond(_) => {}
                        }
                    } else if !under_way.is_empty() {
                        let (mut token, is_running) = under_way.swap_remove(dice.roll() as usize % under_way.len());
                        if is_running {
                            running.fetch_sub(1, SeqCst);
                        }
                        rule.on_end(now_ns, &mut token, &Outcome::Cancelled, &mut |_| {});
                    }
                }
                for (mut token, is_running) in under_way {
                    if is_running {
                        running.fetch_sub(1, SeqCst);
                    }
                    rule.on_end(clock.load(SeqCst), &mut token, &Outcome::Cancelled, &mut |_| {});
                }
            });
        }
    });
    let figures = rule.figures();
    assert_eq!((figures.in_flight, figures.waiting), (0, 0));
    let most = most.load(std::sync::atomic::Ordering::SeqCst);
    assert!(most <= LIMIT, "{most} at the same time");
    assert!(figures.admitted > 1000 && figures.delayed > 1000 && figures.refused > 100, "{figures:?}");
}
