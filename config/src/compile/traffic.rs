//! Which TrafficPolicy acts on which Service, and what it says of the upstream side. Pure, Cold.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::compile::policies::conflict;
use crate::model::Documents;
use crate::model::traffic_policy::{HashOn, LoadBalancer, Policy, Spec};
use crate::problem::Problems;
use crate::snapshot::{Balance, ClusterSettings, HashKey};

/// The settings of Services that a policy names, by namespace and name.
pub(crate) type Settings<'d> = HashMap<(&'d str, &'d str), ClusterSettings>;

/// Of several policies on one Service the oldest acts.
pub(crate) fn settings<'d>(documents: &'d Documents, problems: &mut Problems) -> Settings<'d> {
    let mut policies: Vec<_> = documents.traffic_policies.iter().map(Arc::as_ref).collect();
    policies.sort_by_cached_key(|policy| policy.metadata.seniority());
    let services: HashSet<(&str, &str)> =
        documents.services.iter().map(|service| (service.metadata.namespace(), service.metadata.name())).collect();
    let mut winners: HashMap<(&str, &str), String> = HashMap::new();
    let mut settings = Settings::new();
    for policy in policies {
        let namespace = policy.metadata.namespace();
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            let key = (namespace, target.name.as_str());
            let field = format!("spec.targetRefs[{index}]");
            if !services.contains(&key) {
                let reason = format!("there is no Service {namespace}/{}", key.1);
                problems.warning(target.place, field, reason, None);
            } else if let Some(winner) = winners.get(&key) {
                conflict("TrafficPolicy", winner, target.place, field, problems);
            } else {
                winners.insert(key, policy.metadata.to_string());
                settings.insert(key, of(&policy.spec));
            }
        }
    }
    settings
}

fn of(spec: &Spec) -> ClusterSettings {
    let defaults = ClusterSettings::default();
    let timeouts = spec.timeouts.as_ref();
    ClusterSettings {
        connect_timeout: timeouts.and_then(|all| all.connect).map_or(defaults.connect_timeout, |span| span.0),
        first_byte_timeout: timeouts.and_then(|all| all.first_byte).map_or(defaults.first_byte_timeout, |span| span.0),
        idle_timeout: timeouts.and_then(|all| all.idle).map_or(defaults.idle_timeout, |span| span.0),
        idle_connections_max: defaults.idle_connections_max,
        balance: spec.load_balancer.as_ref().map_or(defaults.balance, balance),
        hash_on: spec
            .load_balancer
            .iter()
            .flat_map(|written| written.hash_on.iter())
            .flat_map(|list| list.iter())
            .filter_map(hash_key)
            .collect(),
    }
}

fn balance(written: &LoadBalancer) -> Balance {
    match written.policy.value {
        Policy::PeakEwma => Balance::PeakEwma,
        Policy::RoundRobin => Balance::RoundRobin,
        Policy::LeastRequest => Balance::LeastRequest,
        Policy::RingHash => Balance::RingHash,
        Policy::Maglev => Balance::Maglev,
    }
}

fn hash_key(written: &HashOn) -> Option<HashKey> {
    let header = written.header.as_ref().map(|name| HashKey::Header(name.as_str().to_ascii_lowercase().into()));
    let cookie = written.cookie.as_ref().map(|name| HashKey::Cookie(name.as_str().into()));
    let query = written.query.as_ref().map(|name| HashKey::Query(name.as_str().into()));
    header.or(cookie).or(query).or(written.client_address.as_ref().map(|_| HashKey::ClientAddress))
}
