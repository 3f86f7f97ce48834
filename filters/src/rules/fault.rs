//! FaultInjection: holds requests up and answers them here, for a share of those that match. Pure, Hot.

use std::sync::Arc;

use config::snapshot::policy::{self, FaultMatch, Policy};

use crate::Head;
use crate::rules::counts::{Counts, bump};
use crate::rules::state::States;
use crate::rules::{Facts, Figures, Held, Peek, Step, Ticket, Token, is_shadow};

/// FaultInjection as it acts.
#[derive(Debug)]
pub struct FaultInjection {
    pub(crate) policy: Arc<Policy>,
    settings: policy::FaultInjection,
    counts: Arc<Counts>,
}

impl FaultInjection {
    pub(crate) fn new(policy: &Arc<Policy>, settings: &policy::FaultInjection, states: &States) -> FaultInjection {
        let counts = states.faults.adopt(&policy.state_key, |_| true, Counts::default);
        FaultInjection { policy: policy.clone(), settings: settings.clone(), counts }
    }

    pub(crate) fn on_request(
        &self,
        head: &Head,
        facts: &Facts<'_>,
        dice: &mut dyn FnMut() -> u64,
        token: &mut Token,
    ) -> Step<'_> {
        if !self.concerns(head, facts) {
            return Step::Continue;
        }
        // Both are drawn now: who is held up and then answered here is not a matter of when it is asked again.
        let delay = self.settings.delay.filter(|delay| is_drawn(delay.share, dice));
        let is_aborted = self.settings.abort.as_ref().is_some_and(|abort| is_drawn(abort.share, dice));
        match delay {
            None if is_aborted => self.abort(),
            None => {
                self.counts.admit(facts.waiter.worker);
                Step::Continue
            }
            Some(delay) => {
                bump(&self.counts.delayed);
                // In shadow nobody is held up.
                if is_shadow(&self.policy) {
                    return if is_aborted { self.abort() } else { Step::Continue };
                }
                let ns = u64::try_from(delay.fixed.as_nanos()).unwrap_or(u64::MAX);
                let until_ns = facts.now_ns.saturating_add(ns);
                token.held = Held::Delay { until_ns, is_aborted };
                Step::Wait(Ticket::Until(until_ns))
            }
        }
    }

    pub(crate) fn on_ticket(&self, facts: &Facts<'_>, token: &mut Token) -> Step<'_> {
        match token.held {
            Held::Delay { until_ns, .. } if until_ns > facts.now_ns => return Step::Wait(Ticket::Until(until_ns)),
            Held::Delay { is_aborted, .. } => {
                token.held = Held::Nothing;
                if is_aborted {
                    return self.abort();
                }
            }
            _ => {}
        }
        Step::Continue
    }

    pub(crate) fn peek(&self, head: &Head, facts: &Facts<'_>) -> Peek {
        if !self.concerns(head, facts) {
            return Peek::NotConcerned;
        }
        let delay = self.settings.delay.map_or(0.0, |delay| delay.share);
        let abort = self.settings.abort.as_ref().map_or(0.0, |abort| abort.share);
        Peek::Chance { delay, abort }
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures::of(&self.counts)
    }

    fn abort(&self) -> Step<'_> {
        let abort = self.settings.abort.as_ref().expect("only what has an abort is aborted");
        self.counts.refuse(&self.policy, &abort.reply, None)
    }

    fn concerns(&self, head: &Head, facts: &Facts<'_>) -> bool {
        let matches = &self.settings.matches;
        matches.is_empty() || matches.iter().any(|one| holds(one, head, facts))
    }
}

fn holds(one: &FaultMatch, head: &Head, facts: &Facts<'_>) -> bool {
    let has = |(name, value): &(Box<str>, Box<str>)| head.get_all(name).any(|found| found == value.as_bytes());
    let is_in = |lane: &str| one.lanes.iter().any(|name| **name == *lane);
    (one.lanes.is_empty() || facts.lane.is_some_and(is_in)) && one.headers.iter().all(has)
}

/// Whether the dice fall within a share (0 to 1).
fn is_drawn(share: f64, dice: &mut dyn FnMut() -> u64) -> bool {
    // 53 bits are what a float holds exactly, so that 0 is never and 1 always drawn.
    ((dice() >> 11) as f64) < share * (1u64 << 53) as f64
}
