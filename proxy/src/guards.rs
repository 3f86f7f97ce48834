//! The rules of traffic protection that are in force, made once for the process from a snapshot, so that their counters are
//! the process's and outlive a change of other rules. Cold; workers look here when they first meet a rule.

use std::collections::HashMap;
use std::sync::Arc;

use config::Snapshot;
use config::snapshot::policy::{Action, BreakerScope, Mode, Policy};
use filters::rules::{Phase, Rule, States};
use serde_json::{Value, json};

use crate::shadow::{self, Tally};

/// All that a snapshot has.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    /// By the policy's place in memory, which the snapshot keeps.
    by_policy: HashMap<usize, Rule>,
    /// Of the other kinds, what those in shadow count; by their names.
    tallies: Vec<Arc<Tally>>,
}

impl Guards {
    /// Makes the policies of a snapshot act, each once; those that were there before go on counting.
    pub(crate) fn new(snapshot: &Snapshot, states: &States, before: &Guards) -> Guards {
        let of_rules = snapshot.binds.iter().flat_map(|bind| bind.table.rules()).map(|rule| &rule.policies);
        let of_clusters = snapshot.clusters.iter().map(|cluster| &cluster.policies);
        let mut by_policy = HashMap::new();
        for policy in of_rules.chain(of_clusters).flat_map(|policies| policies.iter()) {
            by_policy.entry(place(policy)).or_insert_with(|| Rule::new(policy, states));
        }
        Guards { by_policy, tallies: shadow::tallies(snapshot, &before.tallies) }
    }

    /// The rules of a list of policies, in its order.
    pub(crate) fn of(&self, policies: &[Arc<Policy>]) -> Box<[Rule]> {
        policies.iter().filter_map(|policy| self.by_policy.get(&place(policy)).cloned()).collect()
    }

    /// What counts for a policy in shadow.
    pub(crate) fn tally(&self, policy: &str) -> Option<&Arc<Tally>> {
        let place = self.tallies.binary_search_by_key(&policy, |tally| &*tally.policy);
        place.ok().map(|place| &self.tallies[place])
    }

    /// All that count for policies in shadow, in the order of their names.
    pub(crate) fn tallies(&self) -> &[Arc<Tally>] {
        &self.tallies
    }

    /// All of them, in the order of their names.
    pub(crate) fn all(&self) -> Vec<&Rule> {
        let mut all: Vec<&Rule> = self.by_policy.values().collect();
        all.sort_by_key(|rule| rule.policy().state_key.clone());
        all
    }
}

/// For `/policies`: what a rule did so far, and how it stands.
pub(crate) fn document(rule: &Rule) -> Value {
    let policy = rule.policy();
    let figures = rule.figures();
    let mut told = json!({
        "policy": policy.state_key.to_string(),
        "mode": if policy.mode == Mode::Shadow { "shadow" } else { "enforce" },
        "admitted": figures.admitted,
        "refused": figures.refused,
        "delayed": figures.delayed,
        "shadowRefused": figures.shadow_refused,
    });
    match rule {
        Rule::RateLimit(_) => {
            told["values"] = json!(figures.values);
            told["overflowed"] = json!(figures.overflowed);
        }
        Rule::ConcurrencyLimit(_) => {
            told["inFlight"] = json!(figures.in_flight);
            told["limit"] = json!(figures.limit);
            told["waiting"] = json!(figures.waiting);
        }
        Rule::CircuitBreaker(_) => {
            told["phase"] = json!(phase(figures.phase));
            told["opened"] = json!(figures.opened);
        }
        Rule::FaultInjection(_) => {}
    }
    told
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Closed => "closed",
        Phase::HalfOpen => "halfOpen",
        Phase::Open => "open",
    }
}

/// Whether a policy watches each endpoint.
pub(crate) fn is_per_endpoint(policy: &Policy) -> bool {
    matches!(&policy.action, Action::CircuitBreaker(breaker) if breaker.per == BreakerScope::Endpoint)
}

fn place(policy: &Arc<Policy>) -> usize {
    Arc::as_ptr(policy) as usize
}
