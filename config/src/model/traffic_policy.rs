//! TrafficPolicy: the upstream side of a Service: timeouts, how its instances share the requests, which of them are
//! in use, and what is tried again. Pure, Cold.

use std::time::Duration;

use crate::decode::{At, List, Path};
use crate::model::policy::{Mode, NOT_TRIED};
use crate::object::{exactly_one, object, words};
use crate::problem::Problems;
use crate::value::{
    Decimal, Group, HeaderName, Kind, LabelValue, Line, ObjectName, Period, PreciseHostname, RequestTarget, Whole,
};

object! {
    /// How requests reach the instances of a Service. What is absent has its default.
    Spec {
        /// What it applies to.
        required target_refs: List<TargetRef, 1, 16> = "targetRefs",
        /// `enforce` if absent.
        defaulted mode: Mode = "mode" or Mode::Enforce,
        /// How long an instance may take.
        optional timeouts: Timeouts = "timeouts",
        /// Which instance a request goes to.
        optional load_balancer: LoadBalancer = "loadBalancer",
        /// Prefer instances that are near.
        optional locality: Locality = "locality",
        /// Instances that fail are left alone for a while.
        optional outlier_detection: OutlierDetection = "outlierDetection",
        /// An instance that is new gets less at first.
        optional slow_start: SlowStart = "slowStart",
        /// How much at the same time, over all workers of the process.
        optional connections: Connections = "connections",
        /// Asks instances whether they are well.
        optional health_check: HealthCheck = "healthCheck",
        /// Which failures are followed by another attempt; only those that never reached an instance if absent.
        optional retries: Retries = "retries",
    }
    refused { "effectiveTime" }
    check fields_suit_each_other;
}

object! {
    /// A Service in the policy's namespace.
    TargetRef {
        /// Empty: Kubernetes' core, to which Services belong.
        required group: Group = "group",
        /// Only `Service`.
        required kind: Kind = "kind",
        /// The Service's name.
        required name: ObjectName = "name",
    }
    refused { "sectionName" }
    check target_is_a_service;
}

object! {
    /// How long an instance may take.
    Timeouts {
        /// To accept a connection; 3s if absent.
        optional connect: Period<1> = "connect",
        /// From the end of a request to the first byte of its answer; 60s if absent.
        optional first_byte: Period<1> = "firstByte",
        /// An unused connection is closed after this; 60s if absent.
        optional idle: Period<1> = "idle",
    }
}

object! {
    /// Which instance a request goes to.
    LoadBalancer {
        /// The way to choose.
        required policy: At<Policy> = "policy",
        /// `ringHash` and `maglev`: requests that are alike in the first of these that they have go to the same instance;
        /// those that have none go to any.
        optional hash_on: At<List<HashOn, 1, 8>> = "hashOn",
    }
    check hash_policies_hash_something;
}

words! {
    /// The way to choose among instances.
    Policy {
        /// Of two at random, the one where answers are expected sooner: latency with its peaks, times requests in flight.
        PeakEwma = "peakEwma",
        /// One after the other, by weight.
        RoundRobin = "roundRobin",
        /// Of two at random, the one with fewer requests in flight for its weight.
        LeastRequest = "leastRequest",
        /// Consistent hashing on a ring (ketama).
        RingHash = "ringHash",
        /// Consistent hashing by Maglev's table: more even than a ring, and moves a few more when instances change.
        Maglev = "maglev",
    }
}

object! {
    /// Exactly one of these.
    HashOn {
        /// The value of a header field.
        optional header: HeaderName = "header",
        /// The value of a cookie.
        optional cookie: Line = "cookie",
        /// The value of a parameter of the query.
        optional query: Line = "query",
        /// `true`: the client's address.
        optional client_address: At<bool> = "clientAddress",
    }
    check one_thing_to_hash;
}

object! {
    /// Prefer instances that are near. Where a proxy stands is told by its `--zone`.
    Locality {
        /// The only way so far.
        required mode: LocalityMode = "mode",
        /// The own zone is preferred where it has at least this part of the ready weight; 0.2 if absent.
        defaulted min_local_share: Decimal<0, 1000> = "minLocalShare" or Decimal(0.2),
        /// Zones that take over, in this order; those not named come last and together.
        defaulted failover: List<LabelValue, 0, 64> = "failover" or List::default(),
    }
}

words! {
    /// How the zone counts.
    LocalityMode {
        /// The own zone as far as it is well, then the others.
        SameZoneFirst = "sameZoneFirst",
    }
}

object! {
    /// Instances that fail are left alone for a while.
    OutlierDetection {
        /// So many failures in a row: a status of 500 and above, no connection, no answer; 5 if absent.
        defaulted consecutive_errors: Whole<1, 10_000> = "consecutive5xxErrors" or Whole(5),
        /// As long as an instance has to be well for the next time to be one step shorter; 10s if absent.
        defaulted interval: Period<1> = "interval" or Period(Duration::from_secs(10)),
        /// How long the first time takes; each time in a row takes once more as long; 30s if absent.
        defaulted base_ejection_time: Period<1> = "baseEjectionTime" or Period(Duration::from_secs(30)),
        /// Of a Service's instances at most; at least one may be ejected, but never all; 50 if absent.
        defaulted max_ejection_percent: Whole<0, 100> = "maxEjectionPercent" or Whole(50),
    }
}

object! {
    /// An instance that is new, or well again, gets less at first.
    SlowStart {
        /// How long until it gets all of its share.
        required window: Period<1> = "window",
        /// What it gets at once, in percent of its share; 10 if absent.
        defaulted min_weight_percent: Whole<1, 100> = "minWeightPercent" or Whole(10),
        /// 1 is a straight line; more gives more at the beginning.
        defaulted aggression: Decimal<100, 10_000> = "aggression" or Decimal(1.0),
        /// Where so many percent of the instances are new, none is spared; 50 if absent.
        defaulted overload_guard_percent: Whole<1, 100> = "overloadGuardPercent" or Whole(50),
    }
}

object! {
    /// How much at the same time, over all workers of the process.
    Connections {
        /// Connections open to all instances together, idle ones too.
        optional max: Whole<1, 1_000_000> = "max",
        /// Requests that wait for a connection because of `max`; 1024 if absent.
        optional max_pending: At<Whole<0, 1_000_000>> = "maxPending",
        /// Requests under way.
        optional max_requests: Whole<1, 10_000_000> = "maxRequests",
    }
    check pending_needs_a_bound;
}

object! {
    /// Asks instances whether they are well, from each process once: a GET that is to be answered with a status of 200 to
    /// 299.
    HealthCheck {
        /// What is asked for.
        required path: RequestTarget = "path",
        /// What is said in `Host`; the Service's name if absent.
        optional host: PreciseHostname = "host",
        /// From one question to the next; 5s if absent.
        defaulted interval: Period<10> = "interval" or Period(Duration::from_secs(5)),
        /// How long an answer may take; 1s if absent.
        defaulted timeout: Period<1> = "timeout" or Period(Duration::from_secs(1)),
        /// Good answers in a row after which it is well again; 2 if absent.
        defaulted healthy_threshold: Whole<1, 1_000> = "healthyThreshold" or Whole(2),
        /// Bad ones in a row after which it is not; 3 if absent.
        defaulted unhealthy_threshold: Whole<1, 1_000> = "unhealthyThreshold" or Whole(3),
    }
}

object! {
    /// Which failures are followed by another attempt, at another instance where there is one. A request that may have
    /// been executed is repeated only if its method allows it (RFC 9110 9.2.2).
    Retries {
        /// Attempts after the first; 0 is none at all, not even where no instance was reached.
        required attempts: Whole<0, 10> = "attempts",
        /// `connectFailure` if absent.
        defaulted on: List<RetryOn, 0, 8> = "on" or List::of([RetryOn::ConnectFailure]),
        /// Answers with these statuses, too.
        defaulted codes: List<Whole<400, 599>, 0, 16> = "codes" or List::default(),
        /// How much of the traffic may be retries.
        optional budget: Budget = "budget",
    }
}

words! {
    /// A failure.
    RetryOn {
        /// No connection: no instance has seen anything of the request.
        ConnectFailure = "connectFailure",
        /// The connection ended before an answer.
        Reset = "reset",
        /// The instance said that it did nothing (HTTP/2); has no meaning before that is spoken.
        RefusedStream = "refusedStream",
        /// No answer within the time of one attempt.
        Timeout = "timeout",
    }
}

object! {
    /// How much of the traffic may be retries, over all workers of the process.
    Budget {
        /// In parts of the requests; 0.2 if absent.
        defaulted ratio: Decimal<0, 1000> = "ratio" or Decimal(0.2),
        /// Beside that; 10 if absent.
        defaulted min_per_second: Whole<0, 1_000_000> = "minPerSecond" or Whole(10),
    }
}

fn fields_suit_each_other(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    hashing_has_no_zones(spec, path, problems);
    if spec.mode == Mode::Shadow {
        shadow_tries_what_it_can(spec, path, problems);
    }
}

/// In shadow a policy has only what can be told of without doing it.
fn shadow_tries_what_it_can(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    const TRIED: &str = "timeouts, outlierDetection, connections and retries can be tried";
    let acting = [
        ("loadBalancer", spec.load_balancer.as_ref().map(|field| field.place)),
        ("locality", spec.locality.as_ref().map(|field| field.place)),
        ("slowStart", spec.slow_start.as_ref().map(|field| field.place)),
        ("healthCheck", spec.health_check.as_ref().map(|field| field.place)),
    ];
    for (name, place) in acting {
        if let Some(place) = place {
            problems.error_with_hint(place, path.field(name), NOT_TRIED, TRIED);
        }
    }
    let timeouts = spec.timeouts.as_ref();
    let is_idle = timeouts.is_none_or(|all| all.connect.is_none() && all.first_byte.is_none() && all.idle.is_none())
        && spec.connections.as_ref().is_none_or(|all| all.max.is_none() && all.max_requests.is_none())
        && spec.outlier_detection.is_none()
        && spec.retries.is_none()
        && acting.iter().all(|(_, place)| place.is_none());
    if is_idle {
        problems.warning(spec.place, path, "is in shadow and has nothing to be tried", Some(TRIED));
    }
}

fn hashing_has_no_zones(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let hashes = |balancer: &LoadBalancer| matches!(balancer.policy.value, Policy::RingHash | Policy::Maglev);
    if let Some(locality) = &spec.locality
        && let Some(balancer) = spec.load_balancer.as_ref().filter(|balancer| hashes(balancer))
    {
        let reason = format!("means nothing with {}", balancer.policy.value.word());
        let hint = "alike requests go to one instance, wherever it stands";
        problems.error_with_hint(locality.place, path.field("locality"), reason, hint);
    }
}

fn pending_needs_a_bound(connections: &Connections, path: &Path<'_>, problems: &mut Problems) {
    if let Some(pending) = &connections.max_pending
        && connections.max.is_none()
    {
        problems.error(pending.place, path.field("maxPending"), "means nothing without max: nobody ever waits");
    }
}

fn target_is_a_service(target: &TargetRef, path: &Path<'_>, problems: &mut Problems) {
    if !target.group.as_str().is_empty() || target.kind.as_str() != "Service" {
        let (group, kind) = (target.group.as_str(), target.kind.as_str());
        let reason = format!("{kind} of {group:?} as a target is not enforced by this build");
        problems.error_with_hint(target.place, path.field("kind"), reason, "Services are of group \"\"");
    }
}

fn hash_policies_hash_something(balancer: &LoadBalancer, path: &Path<'_>, problems: &mut Problems) {
    let hashes = matches!(balancer.policy.value, Policy::RingHash | Policy::Maglev);
    let word = balancer.policy.value.word();
    match &balancer.hash_on {
        None if hashes => {
            let hint = "such as hashOn: [{header: x-user}, {clientAddress: true}]";
            problems.error_with_hint(balancer.policy.place, path.field("hashOn"), format!("{word} needs it"), hint);
        }
        Some(list) if !hashes => {
            let reason = format!("means nothing with {word}");
            problems.error_with_hint(list.place, path.field("hashOn"), reason, "only with ringHash and maglev");
        }
        _ => {}
    }
}

fn one_thing_to_hash(of: &HashOn, path: &Path<'_>, problems: &mut Problems) {
    let fields = [
        ("header", of.header.is_some()),
        ("cookie", of.cookie.is_some()),
        ("query", of.query.is_some()),
        ("clientAddress", of.client_address.is_some()),
    ];
    exactly_one(&fields, of.place, path, problems);
    if let Some(header) = &of.header {
        header.warn_if_dropped(of.place, &path.field("header"), problems);
    }
    if let Some(said) = &of.client_address
        && !said.value
    {
        problems.error(said.place, path.field("clientAddress"), "must be true, or left out");
    }
}
