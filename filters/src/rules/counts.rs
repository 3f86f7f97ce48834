//! What a rule has done, for metrics. The number that grows with every request is spread over cache lines, the others
//! change on rare paths only. Hot.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use config::snapshot::policy::{Policy, Reply};

use crate::rules::{Refusal, Step, is_shadow};

/// Cache lines that admissions are spread over; workers beyond share them.
const STRIPES: usize = 8;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(AtomicU64);

/// Counters of one rule, kept as long as its state.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    admitted: [Stripe; STRIPES],
    pub refused: AtomicU64,
    pub delayed: AtomicU64,
    pub shadow_refused: AtomicU64,
    pub overflowed: AtomicU64,
}

impl Counts {
    pub(crate) fn admit(&self, worker: u32) {
        self.admitted[worker as usize % STRIPES].0.fetch_add(1, Relaxed);
    }

    pub(crate) fn admitted(&self) -> u64 {
        self.admitted.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

/// One more.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counts {
    /// Refuses a request, or lets it go and only counts it, in shadow.
    pub(crate) fn refuse<'r>(&self, policy: &Policy, reply: &'r Reply, retry_after_seconds: Option<u32>) -> Step<'r> {
        if is_shadow(policy) {
            bump(&self.shadow_refused);
            return Step::Continue;
        }
        bump(&self.refused);
        Step::Respond(Refusal { reply, retry_after_seconds })
    }

    /// As `refuse`, but where another endpoint may still be asked: whoever answers in the end counts.
    pub(crate) fn pass_over<'r>(
        &self,
        policy: &Policy,
        reply: &'r Reply,
        retry_after_seconds: Option<u32>,
    ) -> Step<'r> {
        match is_shadow(policy) {
            true => self.refuse(policy, reply, retry_after_seconds),
            false => Step::Respond(Refusal { reply, retry_after_seconds }),
        }
    }
}
