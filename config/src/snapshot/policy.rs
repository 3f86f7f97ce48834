//! What protects a target from its traffic: limits, breakers and faults, every default filled in. How they decide is
//! `filters`' business, which of them a request meets the snapshot's. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::HashKey;

/// One policy as it acts on one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// `RateLimit default/per-user`: what log, metrics and `explain` call it.
    pub name: Arc<str>,
    /// What its state belongs to, beside the settings: a RateLimit counts over all of its targets, the others count
    /// for each target alone and have it in this key.
    pub state_key: Arc<str>,
    /// Whether it acts.
    pub mode: Mode,
    /// What it does.
    pub action: Action,
}

/// Whether a policy acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It acts.
    #[default]
    Enforce,
    /// It decides as if it acted, and only counts.
    Shadow,
}

/// What a policy does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// RateLimit.
    RateLimit(RateLimit),
    /// ConcurrencyLimit.
    ConcurrencyLimit(ConcurrencyLimit),
    /// CircuitBreaker.
    CircuitBreaker(CircuitBreaker),
    /// FaultInjection.
    FaultInjection(FaultInjection),
}

/// RateLimit: so many requests in a time.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// All of them hold; at least one.
    pub windows: Vec<Window>,
    /// What requests are told apart by, all of these together; empty: not at all.
    pub by: Vec<Key>,
    /// What becomes of a request that lacks one of the keys.
    pub on_missing: OnMissing,
    /// Other windows for some values; only where `by` has exactly one key.
    pub overrides: Vec<Override>,
    /// What becomes of a request above the limit.
    pub effect: Effect,
    /// Who counts together.
    pub scope: Scope,
    /// Values counted apart at a time at most; more share one count.
    pub values_max: usize,
}

/// At most `requests` in `per`, evenly spread, and `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Above 0.
    pub requests: u64,
    /// Above 0.
    pub per: Duration,
    /// Above 0; those that may come at the same moment after a quiet time.
    pub burst: u64,
}

/// A part of a request, or of what is known of it, that limits tell requests apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The HTTPRoute's rule that it met.
    Route,
    /// The Service that it goes to.
    Service,
    /// Its lane.
    Lane,
    /// Who calls: the identity of a workload, where there is one, else the client's address.
    Caller,
    /// Something it carries.
    Of(HashKey),
}

/// What becomes of a request without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// It is not limited.
    Skip,
    /// It is refused.
    Deny,
    /// All of them together are one value.
    #[default]
    Shared,
}

/// Other windows for one value of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The value, as it stands in the request.
    pub value: Box<str>,
    /// In place of the others.
    pub windows: Vec<Window>,
}

/// What becomes of a request above the limit.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// It is answered here.
    Reject(Reply),
    /// It waits for its turn, if that comes within `wait_max`, else it is answered here.
    Queue {
        /// How long a request may wait.
        wait_max: Duration,
        /// The answer where that is not long enough.
        reply: Reply,
    },
    /// After a quiet time the limit grows from `1/cold_factor` of itself to all of it over `period`.
    WarmUp {
        /// How long it takes.
        period: Duration,
        /// 1 or more.
        cold_factor: f64,
        /// The answer to what is above the limit.
        reply: Reply,
    },
}

/// Who counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Each process on its own.
    #[default]
    Local,
    /// Each process has its part: the limit divided by the number of replicas.
    SharedByReplicas,
}

/// An answer that a policy gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// May be empty.
    pub body: Box<str>,
    /// Names and values; `content-type` is `text/plain` if it is not among them.
    pub headers: Vec<(Box<str>, Box<str>)>,
}

/// ConcurrencyLimit: so many requests at the same time.
#[derive(Debug, Clone, PartialEq)]
pub struct ConcurrencyLimit {
    /// How many.
    pub limit: Concurrency,
    /// Requests that may wait for their turn; 0: none.
    pub queue_max: u32,
    /// How long one may wait.
    pub queue_timeout: Duration,
    /// The answer to those that may not, or waited in vain.
    pub reply: Reply,
}

/// How many requests at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// Always so many, above 0.
    Fixed(u32),
    /// As many as can be served without waiting, by what latency shows; between these.
    Adaptive {
        /// Above 0.
        min: u32,
        /// At least `min`.
        max: u32,
    },
}

/// CircuitBreaker: calls that would fail are not made.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreaker {
    /// One for the whole target, or one for each of its endpoints.
    pub per: BreakerScope,
    /// Calls that took longer than this, as a share of all (0 to 1), open it.
    pub slow_calls: Option<(Duration, f64)>,
    /// Failed calls as a share of all (0 to 1) open it.
    pub error_ratio: Option<f64>,
    /// So many failed calls in the window open it.
    pub error_count: Option<u32>,
    /// The time looked back.
    pub window: Duration,
    /// Below so many calls in the window a ratio says nothing.
    pub calls_min: u32,
    /// How long it stays open before it probes.
    pub open_for: Duration,
    /// Calls that are let through to see; all must be good.
    pub probes: u32,
    /// The answer while it is open.
    pub fallback: Reply,
}

/// What one breaker stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BreakerScope {
    /// The target as a whole.
    #[default]
    Service,
    /// Each endpoint: an open one is passed over like an ejected one.
    Endpoint,
}

/// FaultInjection: trouble on purpose.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultInjection {
    /// Only requests for which one of these holds wholly; empty: all.
    pub matches: Vec<FaultMatch>,
    /// Hold requests up.
    pub delay: Option<Delay>,
    /// Answer requests here.
    pub abort: Option<Abort>,
}

/// All of its conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultMatch {
    /// Header fields, names in lower case, with exactly these values.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// One of these lanes; empty: any, and none.
    pub lanes: Vec<Box<str>>,
}

/// So long, for a share of requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay {
    /// How long.
    pub fixed: Duration,
    /// 0 to 1.
    pub share: f64,
}

/// This answer, for a share of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Abort {
    /// What is answered.
    pub reply: Reply,
    /// 0 to 1.
    pub share: f64,
}
