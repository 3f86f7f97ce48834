//! RateLimit: so many requests in a time, of each value that the policy tells apart. What a word means is `gcra`'s
//! business; here is where words are and what follows for the request. Machine, Hot.

mod free;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use config::snapshot::policy::{self, Effect, Key, OnMissing, Policy, Reply, Scope};
use smallvec::SmallVec;

use crate::Head;
use crate::rules::counts::{Counts, bump};
use crate::rules::gcra::{self, Demand, Quota};
use crate::rules::key::{Hash, Seed, Value};
use crate::rules::keyed::Keyed;
use crate::rules::rate::free::{Free, FreeTurn};
use crate::rules::state::States;
use crate::rules::warm_up::WarmUp;
use crate::rules::{Facts, Figures, Held, Peek, Step, Ticket, Token, is_shadow, seconds_until};

/// RateLimit as it acts.
#[derive(Debug)]
pub struct RateLimit {
    pub(crate) policy: Arc<Policy>,
    pub(crate) state: Arc<RateState>,
    /// The usual windows, then those of overrides.
    quotas: Vec<SmallVec<[Quota; 2]>>,
    /// Which of the quotas a value has.
    overrides: HashMap<Box<[u8]>, u16, foldhash::quality::RandomState>,
    by: Vec<Key>,
    on_missing: OnMissing,
    wait_max: u64,
    warm_up: Option<WarmUp>,
    reply: Reply,
    is_shared: bool,
    replicas: Arc<AtomicU32>,
    seed: Seed,
}

/// What all threads have of a RateLimit.
#[derive(Debug)]
pub(crate) struct RateState {
    shape: Shape,
    words: Words,
    /// Turns of the queue, if that is the effect.
    free: Free,
    counts: Counts,
}

/// What words mean depends on this alone.
#[derive(Debug, Clone, PartialEq)]
struct Shape {
    windows: usize,
    is_warmed_up: bool,
    by: Vec<Key>,
    values_max: usize,
}

#[derive(Debug)]
enum Words {
    /// One window for all requests.
    One(Alone),
    /// Several words for all requests: taken together or not at all.
    Several(Mutex<SmallVec<[u64; 4]>>),
    /// Words for each value.
    Keyed(Keyed),
}

/// In a cache line that nothing else is written in.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Alone(AtomicU64);

/// What a request counts as.
enum Count {
    /// It is not limited.
    Skip,
    /// It is refused.
    Deny,
    /// Its hash, where values are told apart, and which quotas it has.
    As(Hash, u16),
}

/// A turn in a queue, so that it can be given back.
#[derive(Debug)]
pub(crate) struct Turn {
    at_ns: u64,
    hash: Hash,
    /// What it left in the first word.
    after: u64,
    quotas: u16,
    is_overflow: bool,
}

impl RateState {
    fn new(shape: Shape) -> RateState {
        let words = shape.windows + usize::from(shape.is_warmed_up);
        let words = match words {
            _ if !shape.by.is_empty() => Words::Keyed(Keyed::new(shape.values_max, words)),
            1 => Words::One(Alone::default()),
            _ => Words::Several(Mutex::new(SmallVec::from_elem(0, words))),
        };
        RateState { shape, words, free: Free::default(), counts: Counts::default() }
    }

    /// Takes a turn in the words of a hash; beside the result what it left in the first of them, and whether they are
    /// those of all for whom there was no room.
    fn take(&self, hash: Hash, demand: &Demand<'_>, now: u64) -> (Result<u64, u64>, u64, bool) {
        let act = |words: &mut [u64]| {
            let turn = gcra::take(words, demand, now);
            (turn, words[0])
        };
        match &self.words {
            Words::One(word) => {
                let mut before = word.0.load(Relaxed);
                loop {
                    let mut words = [before];
                    let (turn, after) = act(&mut words);
                    if after == before {
                        return (turn, after, false);
                    }
                    match word.0.compare_exchange_weak(before, after, Relaxed, Relaxed) {
                        Ok(_) => return (turn, after, false),
                        Err(now_there) => before = now_there,
                    }
                }
            }
            Words::Several(words) => {
                let (turn, after) = act(&mut words.lock().unwrap_or_else(PoisonError::into_inner));
                (turn, after, false)
            }
            Words::Keyed(keyed) => {
                let is_lapsed = |words: &[u64]| gcra::is_lapsed(words, self.shape.windows, demand.warm_up, now);
                let ((turn, after), is_overflow) = keyed.with(hash, is_lapsed, act);
                (turn, after, is_overflow)
            }
        }
    }

    /// The last turn of a line is as if it had never been taken, and so are free ones that are the last then. One that
    /// others stand behind is free.
    fn give_back(&self, turn: &Turn, demand: &Demand<'_>) {
        let hash = turn.hash;
        if self.give_back_last(hash, turn.after, demand) {
            self.free.give_back_last(hash, |turn| self.give_back_last(hash, turn.after, demand));
        } else {
            self.free.add(hash, FreeTurn { at_ns: turn.at_ns, after: turn.after });
        }
    }

    fn give_back_last(&self, hash: Hash, after: u64, demand: &Demand<'_>) -> bool {
        match &self.words {
            Words::One(word) => {
                let mut words = [after];
                gcra::give_back(&mut words, demand, after)
                    && word.0.compare_exchange(after, words[0], Relaxed, Relaxed).is_ok()
            }
            Words::Several(words) => {
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                gcra::give_back(&mut words, demand, after)
            }
            Words::Keyed(keyed) => {
                keyed.with_present(hash, |words| gcra::give_back(words, demand, after)).unwrap_or_default()
            }
        }
    }

    /// What would come of taking a turn.
    fn peek(&self, hash: Hash, demand: &Demand<'_>, now: u64) -> Result<u64, u64> {
        match &self.words {
            Words::One(word) => gcra::take(&mut [word.0.load(Relaxed)], demand, now),
            Words::Several(words) => {
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
                gcra::take(&mut words, demand, now)
            }
            Words::Keyed(keyed) => keyed.peek(hash, |words| gcra::take(words, demand, now)),
        }
    }
}

impl RateLimit {
    pub(crate) fn new(policy: &Arc<Policy>, settings: &policy::RateLimit, states: &States) -> RateLimit {
        let quotas = |windows: &[policy::Window]| windows.iter().map(Quota::new).collect();
        let mut all = vec![quotas(&settings.windows)];
        let mut overrides = HashMap::default();
        // An index has 16 bits; that many overrides are refused long before.
        for one in settings.overrides.iter().take(usize::from(u16::MAX) - 1) {
            if let [key] = &settings.by[..] {
                overrides.insert(Value::written(key, &one.value).as_ref().into(), all.len() as u16);
                all.push(quotas(&one.windows));
            }
        }
        let (reply, wait_max, warm_up) = match &settings.effect {
            Effect::Reject(reply) => (reply, 0, None),
            Effect::Queue { wait_max, reply } => {
                (reply, gcra::ticks(u64::try_from(wait_max.as_nanos()).unwrap_or(u64::MAX)), None)
            }
            Effect::WarmUp { period, cold_factor, reply } => (reply, 0, Some(WarmUp::new(*period, *cold_factor))),
        };
        let shape = Shape {
            windows: all.iter().map(SmallVec::len).max().unwrap_or(1),
            is_warmed_up: warm_up.is_some(),
            by: settings.by.clone(),
            values_max: settings.values_max,
        };
        let state =
            states.rates.adopt(&policy.state_key, |state| state.shape == shape, || RateState::new(shape.clone()));
        RateLimit {
            policy: policy.clone(),
            state,
            quotas: all,
            overrides,
            by: settings.by.clone(),
            on_missing: settings.on_missing,
            wait_max,
            warm_up,
            reply: reply.clone(),
            is_shared: settings.scope == Scope::SharedByReplicas,
            replicas: states.replicas.clone(),
            seed: states.seed.clone(),
        }
    }

    pub(crate) fn on_request(&self, head: &Head, facts: &Facts<'_>, token: &mut Token) -> Step<'_> {
        let (hash, quotas) = match self.count(head, facts) {
            Count::Skip => return Step::Continue,
            Count::Deny => return self.refuse(None),
            Count::As(hash, quotas) => (hash, quotas),
        };
        let counts = &self.state.counts;
        // Turns are in order: one that someone gave back comes before any that could be taken anew.
        if self.wait_max > 0
            && let Some(FreeTurn { at_ns, after }) = self.state.free.take(hash, facts.now_ns, self.latest_ns(facts))
        {
            return self.wait(Turn { at_ns, hash, after, quotas, is_overflow: false }, token);
        }
        let now = gcra::ticks(facts.now_ns);
        let (turn, after, is_overflow) = self.state.take(hash, &self.demand(quotas), now);
        if is_overflow {
            bump(&counts.overflowed);
        }
        match turn {
            Ok(turn) if turn <= now => {
                counts.admit(facts.waiter.worker);
                Step::Continue
            }
            Ok(turn) => self.wait(Turn { at_ns: gcra::ns(turn), hash, after, quotas, is_overflow }, token),
            Err(turn) => {
                let can_wait_from = gcra::ns(turn.saturating_sub(self.wait_max));
                self.refuse(Some(seconds_until(can_wait_from, facts.now_ns)))
            }
        }
    }

    fn wait(&self, turn: Turn, token: &mut Token) -> Step<'_> {
        bump(&self.state.counts.delayed);
        // In shadow its turn is taken, too, and it goes at once.
        if is_shadow(&self.policy) {
            return Step::Continue;
        }
        let at_ns = turn.at_ns;
        token.held = Held::Turn(turn);
        Step::Wait(Ticket::Until(at_ns))
    }

    /// When a request that comes now has to have its turn.
    fn latest_ns(&self, facts: &Facts<'_>) -> u64 {
        facts.now_ns.saturating_add(gcra::ns(self.wait_max))
    }

    /// Its turn has come.
    pub(crate) fn on_ticket(&self, facts: &Facts<'_>, token: &mut Token) -> Step<'_> {
        if let Held::Turn(turn) = &token.held
            && turn.at_ns > facts.now_ns
        {
            return Step::Wait(Ticket::Until(turn.at_ns));
        }
        token.held = Held::Nothing;
        Step::Continue
    }

    /// A request that waits gives up.
    pub(crate) fn on_end(&self, turn: &Turn) {
        // Others whom the overflow's words are of may have other quotas.
        if !turn.is_overflow {
            self.state.give_back(turn, &self.demand(turn.quotas));
        }
    }

    pub(crate) fn peek(&self, head: &Head, facts: &Facts<'_>) -> Peek {
        let now = gcra::ticks(facts.now_ns);
        match self.count(head, facts) {
            Count::Skip => Peek::NotConcerned,
            Count::Deny => Peek::Refuse { retry_after_seconds: None },
            Count::As(hash, quotas) => {
                if self.wait_max > 0
                    && let Some(turn) = self.state.free.peek(hash, facts.now_ns, self.latest_ns(facts))
                {
                    return Peek::Delay { until_ns: turn.at_ns };
                }
                match self.state.peek(hash, &self.demand(quotas), now) {
                    Ok(turn) if turn <= now => Peek::Admit,
                    Ok(turn) => Peek::Delay { until_ns: gcra::ns(turn) },
                    Err(turn) => {
                        let can_wait_from = gcra::ns(turn.saturating_sub(self.wait_max));
                        Peek::Refuse { retry_after_seconds: Some(seconds_until(can_wait_from, facts.now_ns)) }
                    }
                }
            }
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        let values = match &self.state.words {
            Words::Keyed(keyed) => keyed.len() as u64,
            _ => 0,
        };
        Figures { values, ..Figures::of(&self.state.counts) }
    }

    #[inline]
    fn demand(&self, quotas: u16) -> Demand<'_> {
        let replicas = if self.is_shared { u64::from(self.replicas.load(Relaxed)) } else { 1 };
        let quotas = &self.quotas[usize::from(quotas)];
        Demand { quotas, replicas, wait_max: self.wait_max, warm_up: self.warm_up }
    }

    fn count(&self, head: &Head, facts: &Facts<'_>) -> Count {
        let mut quotas = 0;
        if self.by.is_empty() {
            return Count::As(Hash::default(), quotas);
        }
        let mut hasher = self.seed.hasher();
        for key in &self.by {
            let value = Value::of(key, head, facts);
            match (&value, self.on_missing) {
                (None, OnMissing::Skip) => return Count::Skip,
                (None, OnMissing::Deny) => return Count::Deny,
                (None, OnMissing::Shared) => hasher.add(None),
                (Some(value), _) => {
                    if !self.overrides.is_empty()
                        && let Some(index) = self.overrides.get(value.as_ref())
                    {
                        quotas = *index;
                    }
                    hasher.add(Some(value.as_ref()));
                }
            }
        }
        Count::As(hasher.finish(), quotas)
    }

    fn refuse(&self, retry_after_seconds: Option<u32>) -> Step<'_> {
        self.state.counts.refuse(&self.policy, &self.reply, retry_after_seconds)
    }
}

#[cfg(test)]
mod tests;
