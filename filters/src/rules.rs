//! Traffic protection: what may refuse a request, hold it up, or watch how it went. This file is the contract between
//! rules and who drives them; each rule has a file. Rules know neither sockets nor clocks: the time and the dice are
//! arguments, their state is the process's and shared by all threads. Machine, Hot.
//!
//! The life of a request, for each rule in order: [`Rule::on_request`] says whether it goes on. If it says
//! [`Step::Wait`], the driver serves the ticket and asks the *same* rule again with [`Rule::on_ticket`], until it says
//! something else. [`Rule::on_attempt`] and [`Rule::on_attempt_end`] surround each attempt at an endpoint. At last, and
//! in reverse order, [`Rule::on_end`] takes back what the request holds: once for every rule that was asked, however
//! the request ended, also where a later rule refused it or the client left while it waited.

mod gcra;
pub(crate) mod key;
mod keyed;
mod rate; // RateLimit, and what it is made of:
mod warm_up;

mod adaptive;
mod concurrency; // ConcurrencyLimit, and what it is made of:
mod queue;

mod breaker; // CircuitBreaker, and what it is made of:
mod window;

mod fault; // FaultInjection

mod counts;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use config::snapshot::policy::{Action, Mode, Policy, Reply};

use crate::Head;
use crate::rules::breaker::Call;
use crate::rules::counts::Counts;
use crate::rules::queue::Place;
use crate::rules::rate::Turn;

pub use breaker::{CircuitBreaker, Phase};
pub use concurrency::ConcurrencyLimit;
pub use fault::FaultInjection;
pub use rate::RateLimit;
pub use state::States;

/// What is known of a request beside its head.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Monotonic nanoseconds, the same clock for all threads and calls.
    pub now_ns: u64,
    /// The thread it is on, counted from 0, and what that thread knows the request by.
    pub waiter: Waiter,
    /// The client, as the listener learnt it.
    pub client: IpAddr,
    /// Its lane; None: the baseline.
    pub lane: Option<&'a str>,
    /// The name of the HTTPRoute's rule that it met; empty if none.
    pub route: &'a str,
    /// The name of the cluster that it goes to; empty as long as that is not known.
    pub service: &'a str,
    /// The identity of the workload that calls, where there is one.
    pub caller: Option<&'a str>,
}

/// Whom to tell that a slot has become free for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiter {
    /// A thread, counted from 0.
    pub worker: u32,
    /// What that thread knows the request by.
    pub task: u64,
}

/// What a rule says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'r> {
    /// It goes on.
    Continue,
    /// It is answered here.
    Respond(Refusal<'r>),
    /// The driver waits, then asks the same rule again.
    Wait(Ticket),
}

/// An answer in place of the service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal<'r> {
    /// The answer.
    pub reply: &'r Reply,
    /// For `retry-after` (RFC 9110 10.2.3): before that another try is in vain. None: nobody knows.
    pub retry_after_seconds: Option<u32>,
}

/// What a request waits for. Asking too early does no harm: the answer is the ticket again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticket {
    /// This time on `Facts::now_ns`' clock.
    Until(u64),
    /// That `wake` is called with its `Waiter`, or this time, whatever comes first.
    Slot {
        /// When it has waited long enough.
        until_ns: u64,
    },
}

/// What a request holds of one rule: one for each rule and, beside it, for each attempt. It begins as the default and
/// is given back by `on_end` or `on_attempt_end`; dropping it loses a slot until the process ends.
#[derive(Debug, Default)]
#[must_use]
pub struct Token {
    held: Held,
}

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// It waits for its turn.
    Turn(Turn),
    /// It runs, and counts as one of those at the same time.
    Slot,
    /// It waits for a slot.
    Place(Place),
    /// It is watched by a breaker.
    Call(Call),
    /// It is held up on purpose, until then; after that it is answered here.
    Delay { until_ns: u64, is_aborted: bool },
}

/// How a request or an attempt ended, as far as it says something of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered, and the answer is not its failure.
    Served {
        /// From the request's departure to the first byte of the answer; our own queues are not in it.
        took_ns: u64,
    },
    /// It did not answer in time or at all, or with a failure of its own (5xx).
    Failed {
        /// From the request's departure until that was clear.
        took_ns: u64,
    },
    /// Nothing is known of the service: the client left, a later rule answered, or nothing was sent.
    Cancelled,
}

/// What a rule would do with a request now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Peek {
    /// It does not look at this request.
    NotConcerned,
    /// It would go on.
    Admit,
    /// It would wait for this time, or, in a queue for slots, at most until then.
    Delay {
        /// On `Facts::now_ns`' clock.
        until_ns: u64,
    },
    /// It would be answered here.
    Refuse {
        /// As in `Refusal`.
        retry_after_seconds: Option<u32>,
    },
    /// The dice would decide: held up or answered here with these shares (0 to 1).
    Chance {
        /// Share held up.
        delay: f64,
        /// Share answered here.
        abort: f64,
    },
}

/// What a rule has done since its state was made, and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Requests that went on at once.
    pub admitted: u64,
    /// Requests answered here.
    pub refused: u64,
    /// Requests that had to wait, whatever came of it.
    pub delayed: u64,
    /// Requests that would have been answered here if the rule were not in shadow.
    pub shadow_refused: u64,
    /// RateLimit: requests that shared a count since there was no room for their value.
    pub overflowed: u64,
    /// RateLimit: values that have a count of their own.
    pub values: u64,
    /// ConcurrencyLimit: requests that run.
    pub in_flight: u32,
    /// ConcurrencyLimit: requests that may run at the same time.
    pub limit: u32,
    /// ConcurrencyLimit: requests that wait.
    pub waiting: u32,
    /// CircuitBreaker: the phase, the worst of its endpoints' where each has one.
    pub phase: Phase,
    /// CircuitBreaker: times it opened.
    pub opened: u64,
}

/// One policy as it acts. Cheap to clone: what it holds is shared.
#[derive(Debug, Clone)]
pub enum Rule {
    /// So many requests in a time.
    RateLimit(Arc<RateLimit>),
    /// So many requests at the same time.
    ConcurrencyLimit(Arc<ConcurrencyLimit>),
    /// Calls that would fail are not made.
    CircuitBreaker(Arc<CircuitBreaker>),
    /// Trouble on purpose.
    FaultInjection(Arc<FaultInjection>),
}

impl Rule {
    /// Makes a policy act, with the state of the rule that stood for it before, if that is still there.
    pub fn new(policy: &Arc<Policy>, states: &States) -> Rule {
        match &policy.action {
            Action::RateLimit(settings) => Rule::RateLimit(Arc::new(RateLimit::new(policy, settings, states))),
            Action::ConcurrencyLimit(settings) => {
                Rule::ConcurrencyLimit(Arc::new(ConcurrencyLimit::new(policy, settings, states)))
            }
            Action::CircuitBreaker(settings) => {
                Rule::CircuitBreaker(Arc::new(CircuitBreaker::new(policy, settings, states)))
            }
            Action::FaultInjection(settings) => {
                Rule::FaultInjection(Arc::new(FaultInjection::new(policy, settings, states)))
            }
        }
    }

    /// The policy it acts for.
    pub fn policy(&self) -> &Arc<Policy> {
        match self {
            Rule::RateLimit(rule) => &rule.policy,
            Rule::ConcurrencyLimit(rule) => &rule.policy,
            Rule::CircuitBreaker(rule) => &rule.policy,
            Rule::FaultInjection(rule) => &rule.policy,
        }
    }

    /// Whether a request goes on. `dice` are uniform numbers; `wake` hears of others whose slot has come.
    #[inline]
    pub fn on_request(
        &self,
        head: &Head,
        facts: &Facts<'_>,
        dice: &mut dyn FnMut() -> u64,
        token: &mut Token,
        wake: &mut dyn FnMut(Waiter),
    ) -> Step<'_> {
        match self {
            Rule::RateLimit(rule) => rule.on_request(head, facts, token),
            Rule::ConcurrencyLimit(rule) => rule.on_request(facts, token, wake),
            Rule::CircuitBreaker(rule) => rule.on_request(facts, token),
            Rule::FaultInjection(rule) => rule.on_request(head, facts, dice, token),
        }
    }

    /// Whether a request that had to wait goes on now.
    pub fn on_ticket(&self, facts: &Facts<'_>, token: &mut Token, wake: &mut dyn FnMut(Waiter)) -> Step<'_> {
        match self {
            Rule::RateLimit(rule) => rule.on_ticket(facts, token),
            Rule::ConcurrencyLimit(rule) => rule.on_ticket(facts, token, wake),
            Rule::CircuitBreaker(_) => Step::Continue,
            Rule::FaultInjection(rule) => rule.on_ticket(facts, token),
        }
    }

    /// Whether an attempt at an endpoint is made; each attempt has a token of its own. Another endpoint may be asked after a
    /// refusal: if it is what the request is answered with, `on_answered` has to be told.
    #[inline]
    pub fn on_attempt(&self, now_ns: u64, worker: u32, endpoint: SocketAddr, token: &mut Token) -> Step<'_> {
        match self {
            Rule::CircuitBreaker(rule) => rule.on_attempt(now_ns, worker, endpoint, token),
            Rule::RateLimit(_) | Rule::ConcurrencyLimit(_) | Rule::FaultInjection(_) => Step::Continue,
        }
    }

    /// A request is answered with the refusal of an attempt.
    pub fn on_answered(&self) {
        if let Rule::CircuitBreaker(rule) = self {
            rule.on_answered();
        }
    }

    /// An attempt is over.
    #[inline]
    pub fn on_attempt_end(&self, now_ns: u64, endpoint: SocketAddr, token: &mut Token, outcome: &Outcome) {
        if let (Rule::CircuitBreaker(rule), Held::Call(call)) = (self, std::mem::take(&mut token.held)) {
            rule.on_attempt_end(now_ns, endpoint, &call, outcome);
        }
    }

    /// Whether an attempt at an endpoint would be refused, so that the balancer passes it over. What it says may be kept
    /// for as long as `changes` stays the same, but for endpoints that were open: a probe may go to them in time.
    #[inline]
    pub fn is_open(&self, now_ns: u64, endpoint: SocketAddr) -> bool {
        matches!(self, Rule::CircuitBreaker(rule) if rule.is_open(now_ns, endpoint))
    }

    /// Grows with every change that `is_open` may show.
    #[inline]
    pub fn changes(&self) -> u64 {
        match self {
            Rule::CircuitBreaker(rule) => rule.changes(),
            Rule::RateLimit(_) | Rule::ConcurrencyLimit(_) | Rule::FaultInjection(_) => 0,
        }
    }

    /// A request is over, whatever became of it. A second call with the same token does nothing.
    #[inline]
    pub fn on_end(&self, now_ns: u64, token: &mut Token, outcome: &Outcome, wake: &mut dyn FnMut(Waiter)) {
        match (self, std::mem::take(&mut token.held)) {
            (_, Held::Nothing) => {}
            (Rule::RateLimit(rule), Held::Turn(turn)) => rule.on_end(&turn),
            (Rule::ConcurrencyLimit(rule), Held::Slot) => rule.on_end(now_ns, outcome, wake),
            (Rule::ConcurrencyLimit(rule), Held::Place(place)) => rule.on_gone(now_ns, &place, wake),
            (Rule::CircuitBreaker(rule), Held::Call(call)) => rule.on_end(now_ns, &call, outcome),
            (Rule::FaultInjection(_), Held::Delay { .. }) => {}
            (_, held) => debug_assert!(false, "{held:?} is of another rule than {}", self.policy().name),
        }
    }

    /// What it would do with a request now; nothing changes.
    pub fn peek(&self, head: &Head, facts: &Facts<'_>) -> Peek {
        match self {
            Rule::RateLimit(rule) => rule.peek(head, facts),
            Rule::ConcurrencyLimit(rule) => rule.peek(facts),
            Rule::CircuitBreaker(rule) => rule.peek(facts.now_ns),
            Rule::FaultInjection(rule) => rule.peek(head, facts),
        }
    }

    /// What it has done and how it stands.
    pub fn figures(&self) -> Figures {
        match self {
            Rule::RateLimit(rule) => rule.figures(),
            Rule::ConcurrencyLimit(rule) => rule.figures(),
            Rule::CircuitBreaker(rule) => rule.figures(),
            Rule::FaultInjection(rule) => rule.figures(),
        }
    }
}

impl Figures {
    fn of(counts: &Counts) -> Figures {
        Figures {
            admitted: counts.admitted(),
            refused: counts.refused.load(Relaxed),
            delayed: counts.delayed.load(Relaxed),
            shadow_refused: counts.shadow_refused.load(Relaxed),
            overflowed: counts.overflowed.load(Relaxed),
            ..Figures::default()
        }
    }
}

fn is_shadow(policy: &Policy) -> bool {
    policy.mode == Mode::Shadow
}

/// Whole seconds until a time, at least 1: `retry-after` has no finer unit.
fn seconds_until(then_ns: u64, now_ns: u64) -> u32 {
    u32::try_from(then_ns.saturating_sub(now_ns).div_ceil(1_000_000_000)).unwrap_or(u32::MAX).max(1)
}
