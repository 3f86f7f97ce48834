//! Who is used and who is not, told to people: the same choice that workers make, made once more by the main thread.
//! Cold.

use std::sync::Arc;
use std::time::Duration;

use config::Snapshot;
use config::snapshot::Cluster;
use serde_json::{Value, json};

use crate::choice::{self, Choice, Standing, Use};
use crate::shared::Shared;

/// One cluster as it is now.
pub(crate) struct Census {
    pub(crate) cluster: Arc<Cluster>,
    /// For each endpoint: whether it is used, how long it is left alone, how often it was ejected.
    pub(crate) endpoints: Vec<(Use, Duration, u64)>,
    /// For each group.
    pub(crate) choices: Vec<Choice>,
    /// None: there is no bound, and nobody counts them over the process.
    pub(crate) connections: Option<u32>,
    pub(crate) waiting: usize,
}

/// All clusters of a snapshot that workers know.
pub(crate) fn take(snapshot: &Snapshot, shared: &Shared) -> Vec<Census> {
    let now = shared.origin.elapsed();
    snapshot.clusters.iter().filter_map(|cluster| of(cluster, shared, now)).collect()
}

fn of(cluster: &Arc<Cluster>, shared: &Shared, now: Duration) -> Option<Census> {
    let (state, states) = shared.clusters.find(cluster)?;
    let usage = &cluster.settings.usage;
    let standing = |member: u32| Standing::of(&states[member as usize]);
    let choices = cluster
        .groups
        .iter()
        .map(|group| choice::choose(&cluster.endpoints, &group.members, standing, usage, shared.zone.as_deref(), now));
    let endpoints = (0..).zip(&states).map(|(member, state)| {
        let left = state.ejected_until().saturating_sub(now);
        (choice::usability(standing(member), usage, now), left, state.ejections_total())
    });
    Some(Census {
        endpoints: endpoints.collect(),
        choices: choices.collect(),
        connections: cluster.settings.bounds.connections_max.map(|_| state.connections.used()),
        waiting: state.connections.waiting(),
        cluster: cluster.clone(),
    })
}

impl Census {
    /// Whether somebody is asked though nobody is well.
    pub(crate) fn is_panicking(&self) -> bool {
        self.choices.iter().any(|choice| choice.panic)
    }

    /// How many endpoints are in each state.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 6] {
        let count = |state: &str| self.endpoints.iter().filter(|(used, ..)| word(*used) == state).count();
        ["ready", "unproven", "unwell", "ejected", "refusing", "leaving"].map(|state| (state, count(state)))
    }

    /// For `/endpoints`.
    pub(crate) fn document(&self) -> Value {
        let endpoints = self.cluster.endpoints.iter().zip(&self.endpoints);
        let endpoints = endpoints.map(|(endpoint, (used, left, ejections))| {
            let mut told = json!({
                "address": endpoint.address.to_string(),
                "state": word(*used),
                "ejections": ejections,
            });
            match used {
                Use::Ready(part) if *part < 1.0 => told["weightPercent"] = json!((part * 100.0).round()),
                Use::Ejected => told["forSeconds"] = json!(left.as_secs_f64().ceil()),
                _ => {}
            }
            told
        });
        let mut told = json!({
            "name": self.cluster.name.to_string(),
            "panic": self.is_panicking(),
            "waiting": self.waiting,
            "endpoints": endpoints.collect::<Vec<_>>(),
        });
        if let Some(connections) = self.connections {
            told["connections"] = json!(connections);
        }
        told
    }
}

/// What people call it.
pub(crate) fn word(used: Use) -> &'static str {
    match used {
        Use::Ready(_) => "ready",
        Use::Unproven => "unproven",
        Use::Unwell => "unwell",
        Use::Ejected => "ejected",
        Use::Refusing => "refusing",
        Use::Leaving => "leaving",
    }
}
