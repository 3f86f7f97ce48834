//! Which TrafficPolicy acts on which Service, and what it says of the upstream side; and which one is tried there in
//! shadow, which takes nobody's place. Pure, Cold.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::compile::policies::{Claim, conflict, saturate};
use crate::model::Documents;
use crate::model::policy::Mode;
use crate::model::traffic_policy::{
    Connections, HashOn, LoadBalancer, LocalityMode, OutlierDetection, Policy, Retries as WrittenRetries, RetryOn, Spec,
};
use crate::problem::Problems;
use crate::snapshot::shadow::TrafficShadow;
use crate::snapshot::{
    Balance, Bounds, ClusterSettings, HashKey, HealthCheck, Locality, Outlier, Retries, SlowStart, Usage,
};

/// What policies say of Services, by namespace and name.
#[derive(Default)]
pub(crate) struct Settings<'d> {
    in_force: HashMap<Service<'d>, ClusterSettings>,
    in_shadow: HashMap<Service<'d>, Arc<TrafficShadow>>,
}

/// Namespace and name.
type Service<'d> = (&'d str, &'d str);

impl Settings<'_> {
    /// What acts on a Service, and what is tried there.
    pub(crate) fn of(&self, service: Service<'_>) -> (ClusterSettings, Option<Arc<TrafficShadow>>) {
        (self.in_force.get(&service).cloned().unwrap_or_default(), self.in_shadow.get(&service).cloned())
    }
}

/// Of several policies on one Service the oldest acts, and of those in shadow the oldest is tried.
pub(crate) fn settings<'d>(documents: &'d Documents, problems: &mut Problems) -> Settings<'d> {
    let mut policies: Vec<_> = documents.traffic_policies.iter().map(Arc::as_ref).collect();
    policies.sort_by_cached_key(|policy| policy.metadata.seniority());
    let services: HashSet<(&str, &str)> =
        documents.services.iter().map(|service| (service.metadata.namespace(), service.metadata.name())).collect();
    let mut winners: HashMap<(Service<'_>, bool), Claim> = HashMap::new();
    let mut settings = Settings::default();
    for policy in policies {
        let namespace = policy.metadata.namespace();
        let is_shadow = policy.spec.mode == Mode::Shadow;
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            let key = (namespace, target.name.as_str());
            let field = format!("spec.targetRefs[{index}]");
            if !services.contains(&key) {
                let reason = format!("there is no Service {namespace}/{}", key.1);
                problems.warning(target.place, field, reason, None);
            } else if let Some(winner) = winners.get(&(key, is_shadow)) {
                conflict("TrafficPolicy", winner, target.place, field, problems);
            } else {
                let claim = Claim { name: policy.metadata.to_string(), place: target.place };
                if is_shadow {
                    let name = format!("TrafficPolicy {} on Service {namespace}/{}", claim.name, key.1);
                    settings.in_shadow.insert(key, Arc::new(shadow(&policy.spec, &name)));
                } else {
                    settings.in_force.insert(key, of(&policy.spec, key));
                }
                winners.insert((key, is_shadow), claim);
            }
        }
    }
    settings
}

/// Only what is written is tried: a default that nobody meant to change says nothing.
fn shadow(spec: &Spec, name: &str) -> TrafficShadow {
    let timeouts = spec.timeouts.as_ref();
    TrafficShadow {
        name: name.into(),
        connect_timeout: timeouts.and_then(|all| all.connect).map(|span| span.0),
        first_byte_timeout: timeouts.and_then(|all| all.first_byte).map(|span| span.0),
        idle_timeout: timeouts.and_then(|all| all.idle).map(|span| span.0),
        outlier: spec.outlier_detection.as_ref().map(outlier),
        bounds: spec.connections.as_ref().map(bounds),
        retries: spec.retries.as_ref().map(retries),
    }
}

fn of(spec: &Spec, service: (&str, &str)) -> ClusterSettings {
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
        usage: usage(spec, service),
        bounds: spec.connections.as_ref().map_or(defaults.bounds, bounds),
        retries: spec.retries.as_ref().map_or(defaults.retries, retries),
    }
}

fn usage(spec: &Spec, (namespace, service): (&str, &str)) -> Usage {
    Usage {
        locality: spec.locality.as_ref().map(|written| {
            let LocalityMode::SameZoneFirst = written.mode;
            let failover = written.failover.iter().map(|zone| zone.as_str().into()).collect();
            Locality { local_share_min: written.min_local_share.0, failover }
        }),
        outlier: spec.outlier_detection.as_ref().map(outlier),
        slow_start: spec.slow_start.as_ref().map(|written| SlowStart {
            window: written.window.0,
            weight_min: written.min_weight_percent.0 as f64 / 100.0,
            aggression: written.aggression.0,
            guard: written.overload_guard_percent.0 as f64 / 100.0,
        }),
        health_check: spec.health_check.as_ref().map(|written| HealthCheck {
            target: written.path.as_str().into(),
            host: match &written.host {
                Some(host) => host.as_str().into(),
                None => format!("{service}.{namespace}").into(),
            },
            interval: written.interval.0,
            timeout: written.timeout.0,
            healthy_threshold: saturate(written.healthy_threshold.0),
            unhealthy_threshold: saturate(written.unhealthy_threshold.0),
        }),
    }
}

fn outlier(written: &OutlierDetection) -> Outlier {
    Outlier {
        failures: saturate(written.consecutive_errors.0),
        interval: written.interval.0,
        ejection: written.base_ejection_time.0,
        ejected_percent_max: saturate(written.max_ejection_percent.0),
    }
}

fn bounds(written: &Connections) -> Bounds {
    let defaults = Bounds::default();
    Bounds {
        connections_max: written.max.map(|max| saturate(max.0)),
        pending_max: written.max_pending.as_ref().map_or(defaults.pending_max, |max| saturate(max.value.0)),
        requests_max: written.max_requests.map(|max| saturate(max.0)),
    }
}

fn retries(written: &WrittenRetries) -> Retries {
    let defaults = Retries::default();
    let has = |on: RetryOn| written.on.contains(&on);
    let budget = written.budget.as_ref();
    Retries {
        attempts: saturate(written.attempts.0),
        connect_failure: has(RetryOn::ConnectFailure),
        reset: has(RetryOn::Reset),
        timeout: has(RetryOn::Timeout),
        codes: written.codes.iter().filter_map(|code| code.0.try_into().ok()).collect(),
        budget_ratio: budget.map_or(defaults.budget_ratio, |budget| budget.ratio.0),
        budget_per_second: budget.map_or(defaults.budget_per_second, |budget| saturate(budget.min_per_second.0)),
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
