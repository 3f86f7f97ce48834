//! CircuitBreaker: calls that would fail are not made. One for a service, or one for each of its endpoints; an open one
//! of an endpoint is passed over by the balancer, which asks [`CircuitBreaker::is_open`]. Machine, Hot.
//!
//! Closed, it watches; open, it refuses; half-open, it lets a few probes through, closes if all are good and opens
//! again at the first that is not (Nygard 2007, Release It!). Each change of phase is a new generation, and a call
//! counts in the generation it began in only: late answers of a bad time do not open what has just closed. Each time
//! that probes fail it stays open twice as long, up to eight times: a service that is slow for long sees few of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use config::snapshot::policy::{self, BreakerScope, Policy};

use crate::rules::counts::{Counts, bump};
use crate::rules::state::States;
use crate::rules::window::Window;
use crate::rules::{Facts, Figures, Held, Outcome, Peek, Step, Token, is_shadow, seconds_until};

/// Endpoints that a breaker knows at a time at most; those beyond are not watched.
const ENDPOINTS_MAX: usize = 16_384;
/// How often the open time doubles at most.
const DOUBLED_MAX: u32 = 3;
/// Probes that nobody heard of again for so long at least are given up: a call may be a long stream.
const PROBE_LOST_NS: u64 = 60_000_000_000;

/// CircuitBreaker as it acts.
#[derive(Debug)]
pub struct CircuitBreaker {
    pub(crate) policy: Arc<Policy>,
    settings: policy::CircuitBreaker,
    slow_ns: u64,
    open_for_ns: u64,
    window_ns: u64,
    state: Arc<BreakerState>,
}

/// What all threads have of a CircuitBreaker.
#[derive(Debug)]
pub(crate) struct BreakerState {
    window_ns: u64,
    service: Breaker,
    endpoints: RwLock<HashMap<SocketAddr, Arc<Breaker>, foldhash::fast::RandomState>>,
    /// Endpoints whose breaker is not closed.
    not_closed: AtomicU64,
    /// Changes of phase.
    changes: AtomicU64,
    opened: AtomicU64,
    counts: Counts,
}

/// What a breaker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// It watches.
    #[default]
    Closed,
    /// It lets probes through.
    HalfOpen,
    /// It refuses.
    Open,
}

/// One breaker.
#[derive(Debug)]
struct Breaker {
    /// The phase in the lowest two bits, above it the generation.
    phase: AtomicU64,
    /// When an open one begins to probe.
    open_until_ns: AtomicU64,
    window: Window,
    probes: Mutex<Probes>,
}

#[derive(Debug, Default)]
struct Probes {
    /// Let through in this generation and not cancelled.
    begun: u32,
    good: u32,
    /// When the last one was let through.
    last_ns: u64,
    /// How often in a row it was opened by a probe, or soon after it had closed.
    doubled: u32,
    /// When it closed last.
    closed_at_ns: u64,
}

/// A call that a breaker watches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    generation: u64,
    is_probe: bool,
}

/// What a breaker says of a call.
enum Pass {
    Goes(Call),
    Refused { until_ns: u64 },
}

/// How a call was.
#[derive(Clone, Copy)]
struct Judged {
    is_failed: bool,
    is_slow: bool,
}

impl Breaker {
    fn new(window_ns: u64) -> Breaker {
        Breaker {
            phase: AtomicU64::new(0),
            open_until_ns: AtomicU64::new(0),
            window: Window::new(window_ns),
            probes: Mutex::default(),
        }
    }

    fn phase(&self) -> (Phase, u64) {
        let word = self.phase.load(SeqCst);
        let phase = match word & 3 {
            0 => Phase::Closed,
            1 => Phase::HalfOpen,
            _ => Phase::Open,
        };
        (phase, word >> 2)
    }
}

impl BreakerState {
    fn new(window_ns: u64) -> BreakerState {
        BreakerState {
            window_ns,
            service: Breaker::new(window_ns),
            endpoints: RwLock::default(),
            not_closed: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// Only under the lock of the breaker's probes.
    fn change(&self, breaker: &Breaker, to: Phase) {
        let (from, generation) = breaker.phase();
        breaker.phase.store((generation + 1) << 2 | to as u64, SeqCst);
        match (from == Phase::Closed, to == Phase::Closed) {
            (true, false) => self.not_closed.fetch_add(1, SeqCst),
            (false, true) => self.not_closed.fetch_sub(1, SeqCst),
            _ => 0,
        };
        if to == Phase::Open {
            bump(&self.opened);
        }
        self.changes.fetch_add(1, SeqCst);
    }

    fn find(&self, endpoint: SocketAddr) -> Option<Arc<Breaker>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).get(&endpoint).cloned()
    }

    fn find_or_make(&self, endpoint: SocketAddr) -> Option<Arc<Breaker>> {
        if let Some(found) = self.find(endpoint) {
            return Some(found);
        }
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if endpoints.len() >= ENDPOINTS_MAX && !endpoints.contains_key(&endpoint) {
            // Endpoints come and go, and a closed one has little to remember.
            endpoints.retain(|_, breaker| breaker.phase().0 != Phase::Closed);
            if endpoints.len() >= ENDPOINTS_MAX {
                return None;
            }
        }
        let make = || Arc::new(Breaker::new(self.window_ns));
        Some(endpoints.entry(endpoint).or_insert_with(make).clone())
    }
}

impl CircuitBreaker {
    pub(crate) fn new(policy: &Arc<Policy>, settings: &policy::CircuitBreaker, states: &States) -> CircuitBreaker {
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let window_ns = ns(settings.window);
        let state = states.breakers.adopt(
            &policy.state_key,
            |state| state.window_ns == window_ns,
            || BreakerState::new(window_ns),
        );
        CircuitBreaker {
            policy: policy.clone(),
            settings: settings.clone(),
            slow_ns: settings.slow_calls.map_or(u64::MAX, |(over, _)| ns(over)),
            open_for_ns: ns(settings.open_for),
            window_ns,
            state,
        }
    }

    #[inline]
    pub(crate) fn on_request(&self, facts: &Facts<'_>, token: &mut Token) -> Step<'_> {
        match self.settings.per {
            BreakerScope::Service => self.begin(&self.state.service, facts.now_ns, facts.waiter.worker, token),
            BreakerScope::Endpoint => Step::Continue,
        }
    }

    #[inline]
    pub(crate) fn on_end(&self, now_ns: u64, call: &Call, outcome: &Outcome) {
        self.end(&self.state.service, now_ns, call, outcome);
    }

    pub(crate) fn on_attempt(&self, now_ns: u64, worker: u32, endpoint: SocketAddr, token: &mut Token) -> Step<'_> {
        match self.settings.per {
            BreakerScope::Service => Step::Continue,
            BreakerScope::Endpoint => match self.state.find_or_make(endpoint) {
                Some(breaker) => self.begin(&breaker, now_ns, worker, token),
                None => Step::Continue,
            },
        }
    }

    /// The refusal of an attempt is the answer of its request.
    pub(crate) fn on_answered(&self) {
        bump(&self.state.counts.refused);
    }

    pub(crate) fn on_attempt_end(&self, now_ns: u64, endpoint: SocketAddr, call: &Call, outcome: &Outcome) {
        if let Some(breaker) = self.state.find(endpoint) {
            self.end(&breaker, now_ns, call, outcome);
        }
    }

    /// Whether an attempt at an endpoint would be refused now. Never, if the breaker is in shadow or the service's.
    pub fn is_open(&self, now_ns: u64, endpoint: SocketAddr) -> bool {
        if self.state.not_closed.load(Relaxed) == 0
            || self.settings.per == BreakerScope::Service
            || is_shadow(&self.policy)
        {
            return false;
        }
        self.state.find(endpoint).is_some_and(|breaker| self.refused_until(&breaker, now_ns).is_some())
    }

    /// Grows with every change of any of its breakers. What `is_open` said of endpoints holds as long as this is the
    /// same, but for those that were open: they may let a probe through when some time has passed.
    pub fn changes(&self) -> u64 {
        self.state.changes.load(Relaxed)
    }

    pub(crate) fn peek(&self, now_ns: u64) -> Peek {
        match self.settings.per {
            BreakerScope::Endpoint => Peek::Admit,
            BreakerScope::Service => match self.refused_until(&self.state.service, now_ns) {
                None => Peek::Admit,
                Some(until_ns) => Peek::Refuse { retry_after_seconds: Some(seconds_until(until_ns, now_ns)) },
            },
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        let endpoints = self.state.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let phases = endpoints.values().map(|breaker| breaker.phase().0);
        Figures {
            phase: phases.chain([self.state.service.phase().0]).max().unwrap_or_default(),
            opened: self.state.opened.load(Relaxed),
            ..Figures::of(&self.state.counts)
        }
    }

    #[inline]
    fn begin(&self, breaker: &Breaker, now_ns: u64, worker: u32, token: &mut Token) -> Step<'_> {
        let (phase, generation) = breaker.phase();
        let pass = match phase {
            Phase::Closed => Pass::Goes(Call { generation, is_probe: false }),
            Phase::Open | Phase::HalfOpen => self.try_probe(breaker, now_ns),
        };
        match pass {
            Pass::Goes(call) => {
                token.held = Held::Call(call);
                self.state.counts.admit(worker);
                Step::Continue
            }
            Pass::Refused { until_ns } => {
                let (reply, retry_after) = (&self.settings.fallback, Some(seconds_until(until_ns, now_ns)));
                match self.settings.per {
                    BreakerScope::Service => self.state.counts.refuse(&self.policy, reply, retry_after),
                    BreakerScope::Endpoint => self.state.counts.pass_over(&self.policy, reply, retry_after),
                }
            }
        }
    }

    /// Until when a call is refused; None: it is not.
    fn refused_until(&self, breaker: &Breaker, now_ns: u64) -> Option<u64> {
        let open_until_ns = breaker.open_until_ns.load(SeqCst);
        match breaker.phase().0 {
            Phase::Closed => None,
            Phase::Open => (now_ns < open_until_ns).then_some(open_until_ns),
            Phase::HalfOpen => {
                let probes = breaker.probes.lock().unwrap_or_else(PoisonError::into_inner);
                (!self.has_probe(&probes, now_ns)).then_some(now_ns)
            }
        }
    }

    /// Whether another probe may go, or all that went are lost.
    fn has_probe(&self, probes: &Probes, now_ns: u64) -> bool {
        let lost_at_ns = probes.last_ns.saturating_add(PROBE_LOST_NS.max(self.open_for_ns));
        probes.begun < self.settings.probes.max(1) || now_ns > lost_at_ns
    }

    fn try_probe(&self, breaker: &Breaker, now_ns: u64) -> Pass {
        let open_until_ns = breaker.open_until_ns.load(SeqCst);
        if breaker.phase().0 == Phase::Open && now_ns < open_until_ns {
            return Pass::Refused { until_ns: open_until_ns };
        }
        let mut probes = breaker.probes.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have changed while we came here.
        let (phase, generation) = breaker.phase();
        let is_over = now_ns >= breaker.open_until_ns.load(SeqCst);
        match phase {
            Phase::Closed => return Pass::Goes(Call { generation, is_probe: false }),
            Phase::Open if !is_over => return Pass::Refused { until_ns: breaker.open_until_ns.load(SeqCst) },
            Phase::HalfOpen if !self.has_probe(&probes, now_ns) => return Pass::Refused { until_ns: now_ns },
            Phase::HalfOpen if probes.begun < self.settings.probes.max(1) => {}
            // Probes begin, or begin anew since those that went are lost.
            Phase::Open | Phase::HalfOpen => {
                self.state.change(breaker, Phase::HalfOpen);
                probes.begun = 0;
                probes.good = 0;
            }
        }
        probes.begun += 1;
        probes.last_ns = now_ns;
        Pass::Goes(Call { generation: breaker.phase().1, is_probe: true })
    }

    #[inline]
    fn end(&self, breaker: &Breaker, now_ns: u64, call: &Call, outcome: &Outcome) {
        let judged = match *outcome {
            Outcome::Served { took_ns } => Some(Judged { is_failed: false, is_slow: took_ns > self.slow_ns }),
            Outcome::Failed { took_ns } => Some(Judged { is_failed: true, is_slow: took_ns > self.slow_ns }),
            Outcome::Cancelled => None,
        };
        if breaker.phase().1 != call.generation {
            return;
        }
        match judged {
            _ if call.is_probe => self.end_probe(breaker, now_ns, call, judged),
            None => {}
            Some(judged) => {
                breaker.window.add(now_ns, judged.is_failed, judged.is_slow);
                if self.is_too_bad(breaker, now_ns) {
                    self.open(breaker, now_ns, call.generation);
                }
            }
        }
    }

    fn is_too_bad(&self, breaker: &Breaker, now_ns: u64) -> bool {
        let settings = &self.settings;
        let sums = breaker.window.sums(now_ns);
        let calls = sums.calls as f64;
        // A ratio of 1 is reached, none is exceeded.
        let is_reached = |part: u64, ratio: f64| part > 0 && part as f64 >= ratio * calls;
        let has_enough = sums.calls >= u64::from(settings.calls_min.max(1));
        settings.error_count.is_some_and(|count| sums.failed >= u64::from(count.max(1)))
            || has_enough && settings.error_ratio.is_some_and(|ratio| is_reached(sums.failed, ratio))
            || has_enough && settings.slow_calls.is_some_and(|(_, ratio)| is_reached(sums.slow, ratio))
    }

    #[cold]
    fn open(&self, breaker: &Breaker, now_ns: u64, generation: u64) {
        let mut probes = breaker.probes.lock().unwrap_or_else(PoisonError::into_inner);
        if breaker.phase() != (Phase::Closed, generation) {
            return;
        }
        // What opens again within a window had not become good.
        let is_relapse = probes.closed_at_ns > 0 && now_ns < probes.closed_at_ns.saturating_add(self.window_ns);
        probes.doubled = if is_relapse { (probes.doubled + 1).min(DOUBLED_MAX) } else { 0 };
        self.open_for(breaker, now_ns, probes.doubled);
    }

    /// Only under the lock of the breaker's probes.
    fn open_for(&self, breaker: &Breaker, now_ns: u64, doubled: u32) {
        let open_for_ns = self.open_for_ns.saturating_mul(1 << doubled);
        breaker.open_until_ns.store(now_ns.saturating_add(open_for_ns), SeqCst);
        breaker.window.clear();
        self.state.change(breaker, Phase::Open);
    }

    #[cold]
    fn end_probe(&self, breaker: &Breaker, now_ns: u64, call: &Call, judged: Option<Judged>) {
        let mut probes = breaker.probes.lock().unwrap_or_else(PoisonError::into_inner);
        if breaker.phase() != (Phase::HalfOpen, call.generation) {
            return;
        }
        match judged {
            // Nobody knows: another one may go.
            None => probes.begun = probes.begun.saturating_sub(1),
            Some(judged) if judged.is_failed || self.settings.slow_calls.is_some() && judged.is_slow => {
                probes.doubled = (probes.doubled + 1).min(DOUBLED_MAX);
                self.open_for(breaker, now_ns, probes.doubled);
            }
            Some(_) => {
                probes.good += 1;
                if probes.good >= self.settings.probes.max(1) {
                    probes.closed_at_ns = now_ns;
                    breaker.window.clear();
                    self.state.change(breaker, Phase::Closed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
