//! How many requests in a time: the generic cell rate algorithm, as a function of words that someone else keeps.
//! Where the words are and who may touch them is `rate`'s business. Pure, Hot.
//!
//! A word is the *theoretical arrival time*: when the next request would come if all came evenly. A request conforms
//! if it comes no earlier than that less a tolerance (ITU-T I.371 Annex A, virtual scheduling; ATM Forum TM 4.0 4.4.3).
//! So in any interval of length `t` no more than `burst + t / interval` conform, whatever the interval.

use config::snapshot::policy::Window;

use crate::rules::warm_up::WarmUp;

/// Words count parts of a nanosecond, so that 100 million requests a second still have an interval that is right to
/// half a percent. 64 bits of them are 18 years, and all sums saturate.
const TICKS_PER_NS: u64 = 32;
/// A word further ahead than its quota can bring about is of former settings. Clocks of two threads differ by less.
const SLACK_TICKS: u64 = 1_000_000_000 * TICKS_PER_NS;

/// A time in ticks.
pub(crate) fn ticks(ns: u64) -> u64 {
    ns.saturating_mul(TICKS_PER_NS)
}

/// The end of the nanosecond that a tick is in.
pub(crate) fn ns(ticks: u64) -> u64 {
    ticks.div_ceil(TICKS_PER_NS)
}

/// One window, ready to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Ticks between two requests, at least 1. Rounded up: never above the limit.
    interval: u64,
    /// Requests at the same moment, at least 1.
    burst: u64,
}

impl Quota {
    pub(crate) fn new(window: &Window) -> Quota {
        let per = window.per.as_nanos().saturating_mul(u128::from(TICKS_PER_NS));
        let interval = per.div_ceil(u128::from(window.requests.max(1)));
        Quota { interval: u64::try_from(interval).unwrap_or(u64::MAX).max(1), burst: window.burst.max(1) }
    }

    /// The part of one of so many processes that count together.
    fn part(self, replicas: u64) -> Quota {
        if replicas <= 1 {
            return self;
        }
        Quota { interval: self.interval.saturating_mul(replicas), burst: (self.burst / replicas).max(1) }
    }

    /// How far ahead of the time a word can be after a request that did not wait.
    fn span(self) -> u64 {
        self.interval.saturating_mul(self.burst)
    }
}

/// What a request is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand<'q> {
    /// All of them hold. The words begin with one for each.
    pub quotas: &'q [Quota],
    /// Processes that share them, at least 1.
    pub replicas: u64,
    /// Ticks that a request may wait for its turn.
    pub wait_max: u64,
    /// If present, the last word is its.
    pub warm_up: Option<WarmUp>,
}

/// Takes a turn: the tick at which the request may go, which is `now` if it need not wait. `Err`: it would have to wait
/// until that tick, which is too long, and nothing was taken.
pub(crate) fn take(words: &mut [u64], demand: &Demand<'_>, now: u64) -> Result<u64, u64> {
    let parts = demand.quotas.iter().map(|quota| quota.part(demand.replicas));
    let warmth = demand.warm_up.zip(parts.clone().next()).map(|(warm_up, quota)| {
        let stored = words.last().copied().unwrap_or_default();
        warm_up.at(stored, words[0], now, quota.interval)
    });
    let interval = |quota: Quota| warmth.map_or(quota.interval, |warmth| warmth.slower(quota.interval));

    let mut turn = now;
    for (word, quota) in words.iter_mut().zip(parts.clone()) {
        let span = quota.span();
        if *word > now.saturating_add(span).saturating_add(demand.wait_max).saturating_add(SLACK_TICKS) {
            *word = now.saturating_add(span);
        }
        turn = turn.max(word.saturating_sub(span.saturating_sub(interval(quota))));
    }
    if turn - now > demand.wait_max {
        return Err(turn);
    }
    // As if it came at its turn: then every window sees it when it really goes, also the ones that let it go earlier.
    for (word, quota) in words.iter_mut().zip(parts) {
        *word = (*word).max(turn).saturating_add(interval(quota));
    }
    if let (Some(warmth), Some(stored)) = (warmth, words.last_mut()) {
        *stored = warmth.spent();
    }
    Ok(turn)
}

/// Gives back a turn that nobody took another one after: `after` is what it left in the first word.
///
/// An earlier one stays taken: those behind it have been told their times, and a word does not say where it has a gap.
/// Whoever keeps such a turn may let another request have it, at its very time.
pub(crate) fn give_back(words: &mut [u64], demand: &Demand<'_>, after: u64) -> bool {
    let is_last = words.first() == Some(&after);
    if is_last {
        for (word, quota) in words.iter_mut().zip(demand.quotas) {
            *word = word.saturating_sub(quota.part(demand.replicas).interval);
        }
    }
    is_last
}

/// Whether words say nothing that empty ones would not say, too.
pub(crate) fn is_lapsed(words: &[u64], windows: usize, warm_up: Option<WarmUp>, now: u64) -> bool {
    let cold_at = |word: u64| word.saturating_add(warm_up.map_or(0, |warm_up| warm_up.period));
    words[..windows].iter().all(|word| cold_at(*word) <= now)
}

#[cfg(test)]
mod tests;
