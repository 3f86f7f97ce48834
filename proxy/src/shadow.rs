//! Policies in shadow: what they would have done is counted, and said of the request in the access log; nothing is done.
//! Limits, breakers and faults do so themselves (`filters::rules`); here are the other kinds, each in a file of its own,
//! and what their counts have in common. Hot where something would have been done, which is seldom.

mod listener;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use config::Snapshot;
use serde_json::{Value, json};

use crate::record::Record;
use crate::shared::Shared;
use crate::stats::ShadowLanes;

pub(crate) use listener::{Head, ListenerTrial, Wait};
pub(crate) use traffic::{Attempted, RequestTrial, TrafficTrial, TrialState};

/// What a policy in shadow would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Would {
    /// Answered here at a bound, or closed the connection at once.
    Refuse,
    /// Let a request wait for a connection.
    Delay,
    /// Given up a connect.
    ConnectTimeout,
    /// Given up waiting for an answer.
    FirstByteTimeout,
    /// Closed a connection that was not used.
    IdleTimeout,
    /// Made another attempt.
    Retry,
    /// Made another, if the budget had allowed it.
    OverBudget,
    /// Left an endpoint alone for its answers.
    EjectStatus,
    /// Left an endpoint alone since it took no connection.
    EjectConnect,
    /// Left an endpoint alone that took requests and did not answer.
    EjectNoAnswer,
    /// Left an endpoint alone, if not as many were as may be.
    NotEject,
    /// Given up waiting for a head.
    HeadTimeout,
    /// Given up waiting for the next piece of a body.
    BodyProgressTimeout,
    /// Answered 413.
    BodyTooLarge,
    /// Answered 431.
    HeadTooLarge,
    /// Answered 400 for `%2F` or `%5C`.
    EncodedSlash,
}

/// What a TrafficPolicy may do.
pub(crate) const OF_TRAFFIC: &[Would] = &[
    Would::Refuse,
    Would::Delay,
    Would::ConnectTimeout,
    Would::FirstByteTimeout,
    Would::IdleTimeout,
    Would::Retry,
    Would::OverBudget,
    Would::EjectStatus,
    Would::EjectConnect,
    Would::EjectNoAnswer,
    Would::NotEject,
];

/// What a ListenerPolicy may do.
pub(crate) const OF_LISTENER: &[Would] = &[
    Would::Refuse,
    Would::HeadTimeout,
    Would::IdleTimeout,
    Would::BodyProgressTimeout,
    Would::BodyTooLarge,
    Would::HeadTooLarge,
    Would::EncodedSlash,
];

impl Would {
    /// The result in metrics and at the admin door.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Would::Refuse => "shadowRefused",
            Would::Delay => "shadowDelayed",
            Would::ConnectTimeout => "shadowConnectTimeout",
            Would::FirstByteTimeout => "shadowFirstByteTimeout",
            Would::IdleTimeout => "shadowIdleTimeout",
            Would::Retry => "shadowRetried",
            Would::OverBudget => "shadowOverBudget",
            Would::EjectStatus => "shadowEjectedStatus",
            Would::EjectConnect => "shadowEjectedConnect",
            Would::EjectNoAnswer => "shadowEjectedNoAnswer",
            Would::NotEject => "shadowNotEjected",
            Would::HeadTimeout => "shadowHeadTimeout",
            Would::BodyProgressTimeout => "shadowBodyProgressTimeout",
            Would::BodyTooLarge => "shadowBodyTooLarge",
            Would::HeadTooLarge => "shadowHeadTooLarge",
            Would::EncodedSlash => "shadowEncodedSlash",
        }
    }
}

/// What a policy in shadow would have done so far, over all workers. It outlives changes of other rules.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) policy: Arc<str>,
    /// What its kind may do.
    of_kind: &'static [Would],
    /// For each of them.
    counts: Box<[AtomicU64]>,
}

impl Tally {
    pub(crate) fn new(policy: &Arc<str>, of_kind: &'static [Would]) -> Arc<Tally> {
        let counts = of_kind.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(Tally { policy: policy.clone(), of_kind, counts })
    }

    /// Once more.
    pub(crate) fn count(&self, would: Would) {
        if let Some(place) = self.of_kind.iter().position(|known| *known == would) {
            self.counts[place].fetch_add(1, Relaxed);
        }
    }

    /// Once more, for a request.
    pub(crate) fn count_for(&self, record: &mut Record, would: Would) {
        self.count(would);
        record.would(self.policy.clone(), would.word());
    }

    /// How often, for each thing that the policy may do.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.of_kind.iter().zip(&self.counts).map(|(would, count)| (would.word(), count.load(Relaxed)))
    }

    /// For `/policies`.
    pub(crate) fn document(&self) -> Value {
        let mut told = json!({"policy": self.policy.to_string(), "mode": "shadow"});
        for (word, count) in self.figures() {
            told[word] = json!(count);
        }
        told
    }
}

/// The tallies of a snapshot's policies in shadow, those that were there `before` with their counts.
pub(crate) fn tallies(snapshot: &Snapshot, before: &[Arc<Tally>]) -> Vec<Arc<Tally>> {
    let of_clusters = snapshot.clusters.iter().filter_map(|cluster| Some((&cluster.shadow.as_ref()?.name, OF_TRAFFIC)));
    let of_binds = snapshot.binds.iter().filter_map(|bind| Some((&bind.shadow.as_ref()?.name, OF_LISTENER)));
    let mut names: Vec<_> = of_clusters.chain(of_binds).collect();
    names.sort_by_key(|(name, _)| *name);
    // The ports of a Service and the listeners of a Gateway share one.
    names.dedup_by_key(|(name, _)| *name);
    let tally = |(name, of_kind): (&Arc<str>, _)| {
        let known = before.binary_search_by_key(&&**name, |tally| &*tally.policy);
        known.map_or_else(|_| Tally::new(name, of_kind), |place| before[place].clone())
    };
    names.into_iter().map(tally).collect()
}

/// What LaneGroups in shadow would have decided, over all workers; each lane is there, if only with none.
pub(crate) fn lanes(shared: &Shared, snapshot: Option<&Snapshot>) -> ShadowLanes {
    let mut sums = ShadowLanes::default();
    for group in snapshot.iter().flat_map(|snapshot| &snapshot.shadow_lane_groups) {
        let lanes = group.lanes.iter().map(|lane| Some(lane.name.clone()));
        sums.requests.extend(lanes.chain([None]).map(|lane| ((group.name.clone(), lane), 0)));
    }
    for told in shared.stats.iter().map(|stats| stats.shadow_lanes()) {
        for (key, count) in told.requests {
            *sums.requests.entry(key).or_default() += count;
        }
        for (key, count) in told.fallbacks {
            *sums.fallbacks.entry(key).or_default() += count;
        }
    }
    sums
}

/// For `/policies`: each LaneGroup in shadow, the baseline as `-`.
pub(crate) fn lane_documents(shared: &Shared, snapshot: Option<&Snapshot>) -> Vec<Value> {
    let sums = lanes(shared, snapshot);
    let groups = snapshot.iter().flat_map(|snapshot| &snapshot.shadow_lane_groups);
    let document = |group: &Arc<config::snapshot::lanes::LaneGroup>| {
        let mut told = json!({"policy": format!("LaneGroup {}", group.name), "mode": "shadow"});
        for ((_, lane), count) in sums.requests.iter().filter(|((of, _), _)| *of == group.name) {
            told["lanes"][lane.as_deref().unwrap_or("-")] = json!(count);
        }
        let fallbacks = sums.fallbacks.iter().filter(|((of, _), _)| *of == group.name);
        let fallbacks = fallbacks.map(|((_, (lane, cluster, reason)), count)| {
            json!({"lane": **lane, "cluster": **cluster, "reason": reason, "requests": count})
        });
        told["fallbacks"] = fallbacks.collect();
        told
    };
    groups.map(document).collect()
}
