//! ConcurrencyLimit: so many requests at the same time, and a bounded queue of those whose turn comes when others end.
//! Who is next is `queue`'s business, how many run `adaptive`'s where the policy does not say. Machine, Hot.
//!
//! Who runs and who waits are two halves of one atomic word. As long as nobody waits a request comes and goes with one
//! operation on it. The upper half is written under the queue's lock only, and nobody comes in past it: a slot that is
//! freed while others wait goes to one of them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::snapshot::policy::{self, Concurrency, Policy, Reply};
use smallvec::SmallVec;

use crate::rules::adaptive::{Learner, Sample, Setting};
use crate::rules::counts::{Counts, bump};
use crate::rules::key::Seed;
use crate::rules::queue::{Place, Queue, Standing};
use crate::rules::state::States;
use crate::rules::{Facts, Figures, Held, Outcome, Peek, Step, Ticket, Token, Waiter, is_shadow};

/// ConcurrencyLimit as it acts.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    pub(crate) policy: Arc<Policy>,
    gate: Arc<Gate>,
    queue_max: u32,
    queue_timeout_ns: u64,
    reply: Reply,
    seed: Seed,
}

/// What all threads have of a ConcurrencyLimit. It fits whatever the settings become.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    load: Load,
    /// How many may run now.
    limit: AtomicU32,
    /// How many might if the limit were not lowered to measure.
    limit_full: AtomicU32,
    /// Since when it was lowered last, and until when at most.
    lowered_from_ns: AtomicU64,
    lowered_until_ns: AtomicU64,
    /// If not 0, it was lowered though it held nobody up, and that ends when so many run and wait.
    probe_load_max: AtomicU32,
    /// Whether the limit is learnt. Of the gate, not of the rule: requests of a former rule end under the new one's limit.
    is_adaptive: AtomicBool,
    /// Whether the limit has held someone up since the learner asked.
    was_reached: AtomicBool,
    queue: Mutex<Queue>,
    learner: Mutex<Learner>,
    counts: Counts,
}

/// Requests that run, and 2^32 times those that wait.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Load(AtomicU64);

const WAITING: u64 = 1 << 32;

fn running(load: u64) -> u32 {
    load as u32
}

fn waiting(load: u64) -> u32 {
    (load >> 32) as u32
}

type Granted = SmallVec<[Waiter; 4]>;

impl Gate {
    /// Comes in if there is a slot and nobody waits; tells how many ran before.
    #[inline]
    fn enter(&self, limit: u32) -> Option<u32> {
        let mut load = self.load.0.load(Relaxed);
        while waiting(load) == 0 && running(load) < limit {
            match self.load.0.compare_exchange_weak(load, load + 1, SeqCst, Relaxed) {
                Ok(_) => return Some(running(load)),
                Err(now_there) => load = now_there,
            }
        }
        None
    }

    /// Frees a slot.
    #[inline]
    fn leave(&self, now_ns: u64, wake: &mut dyn FnMut(Waiter)) {
        let mut load = self.load.0.load(Relaxed);
        while waiting(load) == 0 {
            match self.load.0.compare_exchange_weak(load, load - 1, SeqCst, Relaxed) {
                Ok(_) => return,
                Err(now_there) => load = now_there,
            }
        }
        let mut queue = self.queue();
        self.load.0.fetch_sub(1, SeqCst);
        let granted = self.settle(&mut queue, now_ns);
        drop(queue);
        granted.into_iter().for_each(wake);
    }

    /// Hands free slots to those who wait. While somebody waits nothing changes `load` without the queue's lock.
    fn settle(&self, queue: &mut Queue, now_ns: u64) -> Granted {
        let mut granted = Granted::new();
        // Who was overtaken by time while the limit was lowered has not waited too long.
        let is_lowered = now_ns <= self.lowered_until_ns.load(Relaxed);
        let as_of_ns = if is_lowered { self.lowered_from_ns.load(Relaxed).min(now_ns) } else { now_ns };
        while queue.waiting() > 0 && running(self.load.0.load(SeqCst)) < self.limit.load(Relaxed) {
            let before = queue.waiting();
            let waiter = queue.grant(as_of_ns);
            let gone = (before - queue.waiting()) as u64 * WAITING;
            self.load.0.fetch_add(u64::from(waiter.is_some()).wrapping_sub(gone), SeqCst);
            granted.extend(waiter);
        }
        granted
    }

    /// Hands out slots that a higher limit made.
    fn settle_if_waiting(&self, now_ns: u64, wake: &mut dyn FnMut(Waiter)) {
        if waiting(self.load.0.load(SeqCst)) > 0 {
            let granted = self.settle(&mut self.queue(), now_ns);
            granted.into_iter().for_each(wake);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learner(&self) -> MutexGuard<'_, Learner> {
        self.learner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, setting: Setting) {
        self.lowered_from_ns.store(setting.lowered_from_ns, Relaxed);
        self.lowered_until_ns.store(setting.lowered_until_ns, Relaxed);
        self.limit_full.store(setting.limit_full, Relaxed);
        self.probe_load_max.store(setting.probe_load_max, Relaxed);
        self.limit.store(setting.limit, Relaxed);
    }

    fn is_probe(&self) -> bool {
        self.probe_load_max.load(Relaxed) > 0
    }

    fn is_lowered(&self) -> bool {
        self.limit.load(Relaxed) < self.limit_full.load(Relaxed)
    }

    /// A latency for the learner, unless another thread is just telling it one: any part of them will do.
    #[inline]
    fn learn(&self, sample: Sample) {
        if let Ok(mut learner) = self.learner.try_lock()
            && let Some(setting) = learner.on_sample(sample, || self.was_reached.swap(false, Relaxed))
            && self.is_adaptive.load(Relaxed)
        {
            self.set(setting);
        }
    }

    /// Ends what takes too long. Only those who wait come here.
    fn on_time(&self, now_ns: u64, wake: &mut dyn FnMut(Waiter)) {
        let load = self.load.0.load(Relaxed);
        if self.is_probe() && running(load) + waiting(load) >= self.probe_load_max.load(Relaxed) {
            let setting = self.learner().cancel_probe(now_ns);
            self.set(setting);
            self.settle_if_waiting(now_ns, wake);
        }
        if self.is_lowered() && now_ns > self.lowered_until_ns.load(Relaxed) {
            let setting = self.learner().on_time(now_ns);
            if let Some(setting) = setting {
                self.set(setting);
                self.settle_if_waiting(now_ns, wake);
            }
        }
    }
}

impl ConcurrencyLimit {
    pub(crate) fn new(policy: &Arc<Policy>, settings: &policy::ConcurrencyLimit, states: &States) -> ConcurrencyLimit {
        let gate = states.gates.adopt(&policy.state_key, |_| true, Gate::default);
        // Who waits hears of a higher limit when the next request ends: while one waits, one runs.
        let setting = match settings.limit {
            Concurrency::Fixed(limit) => Setting::plain(limit),
            Concurrency::Adaptive { min, max } => {
                gate.learner().bound(min, max, if is_shadow(policy) { 0 } else { settings.queue_max })
            }
        };
        gate.is_adaptive.store(matches!(settings.limit, Concurrency::Adaptive { .. }), Relaxed);
        gate.set(setting);
        ConcurrencyLimit {
            policy: policy.clone(),
            gate,
            queue_max: settings.queue_max,
            queue_timeout_ns: u64::try_from(settings.queue_timeout.as_nanos()).unwrap_or(u64::MAX),
            reply: settings.reply.clone(),
            seed: states.seed.clone(),
        }
    }

    #[inline]
    pub(crate) fn on_request(&self, facts: &Facts<'_>, token: &mut Token, wake: &mut dyn FnMut(Waiter)) -> Step<'_> {
        let limit = self.gate.limit.load(Relaxed);
        if self.gate.enter(limit).is_some() {
            token.held = Held::Slot;
            self.gate.counts.admit(facts.waiter.worker);
            return Step::Continue;
        }
        if is_shadow(&self.policy) {
            return self.on_full_in_shadow(facts, token);
        }
        self.on_full(facts, token, wake)
    }

    /// Nothing waits in shadow. Who would have waited runs at once and counts as running, so that as many can be above
    /// the limit as the queue has places; what is above that would have been refused, and is not counted as running. So
    /// shadow shows refusals for a full queue, not those for a wait in vain.
    fn on_full_in_shadow(&self, facts: &Facts<'_>, token: &mut Token) -> Step<'_> {
        let gate = &self.gate;
        if !gate.is_probe() {
            gate.was_reached.store(true, Relaxed);
        }
        let limit = gate.limit_full.load(Relaxed);
        match gate.enter(limit.saturating_add(self.queue_max)) {
            Some(before) => {
                token.held = Held::Slot;
                if before < limit {
                    gate.counts.admit(facts.waiter.worker);
                } else {
                    bump(&gate.counts.delayed);
                }
                Step::Continue
            }
            None => self.refuse(),
        }
    }

    fn on_full(&self, facts: &Facts<'_>, token: &mut Token, wake: &mut dyn FnMut(Waiter)) -> Step<'_> {
        let gate = &self.gate;
        gate.on_time(facts.now_ns, wake);
        if !gate.is_probe() {
            gate.was_reached.store(true, Relaxed);
        }
        let mut queue = gate.queue();
        let mut load = gate.load.0.load(SeqCst);
        let is_in = loop {
            let limit = gate.limit.load(Relaxed);
            // A limit that is lowered to measure gives the queue as many places: nobody is refused for it.
            let places = self.queue_max.saturating_add(gate.limit_full.load(Relaxed).saturating_sub(limit));
            let is_in = waiting(load) == 0 && running(load) < limit;
            if !is_in && waiting(load) >= places {
                drop(queue);
                return self.refuse();
            }
            let after = if is_in { load + 1 } else { load + WAITING };
            // Fails where a slot was freed just now: then there is no reason to wait.
            match gate.load.0.compare_exchange(load, after, SeqCst, SeqCst) {
                Ok(_) => break is_in,
                Err(now_there) => load = now_there,
            }
        };
        if is_in {
            token.held = Held::Slot;
            gate.counts.admit(facts.waiter.worker);
            return Step::Continue;
        }
        bump(&gate.counts.delayed);
        let mut until_ns = facts.now_ns.saturating_add(self.queue_timeout_ns);
        if gate.is_lowered() {
            until_ns = until_ns.max(gate.lowered_until_ns.load(Relaxed));
        }
        token.held = Held::Place(queue.push(self.caller(facts), facts.waiter, until_ns));
        Step::Wait(Ticket::Slot { until_ns })
    }

    pub(crate) fn on_ticket(&self, facts: &Facts<'_>, token: &mut Token, wake: &mut dyn FnMut(Waiter)) -> Step<'_> {
        let Held::Place(place) = token.held else { return Step::Continue };
        let gate = &self.gate;
        gate.on_time(facts.now_ns, wake);
        let mut queue = gate.queue();
        match queue.standing(place) {
            Some(Standing::Waiting { until_ns }) if facts.now_ns < until_ns => {
                return Step::Wait(Ticket::Slot { until_ns });
            }
            Some(Standing::Waiting { .. })
                if gate.is_lowered() && facts.now_ns < gate.lowered_until_ns.load(Relaxed) =>
            {
                let until_ns = gate.lowered_until_ns.load(Relaxed);
                queue.extend(place, until_ns);
                return Step::Wait(Ticket::Slot { until_ns });
            }
            _ => {}
        }
        token.held = Held::Nothing;
        let standing = queue.remove(place);
        if matches!(standing, Some(Standing::Waiting { .. })) {
            gate.load.0.fetch_sub(WAITING, SeqCst);
        }
        drop(queue);
        if standing == Some(Standing::Granted) {
            token.held = Held::Slot;
            return Step::Continue;
        }
        self.refuse()
    }

    /// A request that ran is over.
    #[inline]
    pub(crate) fn on_end(&self, now_ns: u64, outcome: &Outcome, wake: &mut dyn FnMut(Waiter)) {
        if self.gate.is_adaptive.load(Relaxed) {
            let (took_ns, is_failure) = match *outcome {
                Outcome::Served { took_ns } => (took_ns, false),
                Outcome::Failed { took_ns } => (took_ns, true),
                Outcome::Cancelled => return self.gate.leave(now_ns, wake),
            };
            let running = running(self.gate.load.0.load(Relaxed));
            self.gate.learn(Sample { now_ns, took_ns, running, is_failure });
        }
        self.gate.leave(now_ns, wake);
    }

    /// A request that waited is gone. If a slot was handed to it meanwhile, the next one has it.
    pub(crate) fn on_gone(&self, now_ns: u64, place: &Place, wake: &mut dyn FnMut(Waiter)) {
        let mut queue = self.gate.queue();
        let standing = queue.remove(*place);
        if matches!(standing, Some(Standing::Waiting { .. })) {
            self.gate.load.0.fetch_sub(WAITING, SeqCst);
        }
        drop(queue);
        if standing == Some(Standing::Granted) {
            self.gate.leave(now_ns, wake);
        }
    }

    pub(crate) fn peek(&self, facts: &Facts<'_>) -> Peek {
        let load = self.gate.load.0.load(Relaxed);
        let limit = self.gate.limit.load(Relaxed);
        let places = self.queue_max.saturating_add(self.gate.limit_full.load(Relaxed).saturating_sub(limit));
        if waiting(load) == 0 && running(load) < limit {
            Peek::Admit
        } else if waiting(load) < places {
            Peek::Delay { until_ns: facts.now_ns.saturating_add(self.queue_timeout_ns) }
        } else {
            Peek::Refuse { retry_after_seconds: None }
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        let load = self.gate.load.0.load(Relaxed);
        Figures {
            in_flight: running(load),
            waiting: waiting(load),
            limit: self.gate.limit.load(Relaxed),
            ..Figures::of(&self.gate.counts)
        }
    }

    fn caller(&self, facts: &Facts<'_>) -> u64 {
        match (facts.caller, facts.client.to_canonical()) {
            (Some(caller), _) => self.seed.short(caller.as_bytes()),
            (None, std::net::IpAddr::V4(address)) => self.seed.short(&address.octets()),
            (None, std::net::IpAddr::V6(address)) => self.seed.short(&address.octets()),
        }
    }

    fn refuse(&self) -> Step<'_> {
        self.gate.counts.refuse(&self.policy, &self.reply, None)
    }
}

#[cfg(test)]
mod tests;
