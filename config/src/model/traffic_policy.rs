//! TrafficPolicy: the upstream side of a Service: timeouts, and how its instances share the requests. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::listener_policy::Mode;
use crate::object::{exactly_one, object, words};
use crate::problem::Problems;
use crate::value::{Group, HeaderName, Kind, Line, ObjectName, Period};

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
    }
    refused {
        "effectiveTime", "retries", "locality", "outlierDetection", "slowStart", "connections", "healthCheck",
    }
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
    if let Some(said) = &of.client_address
        && !said.value
    {
        problems.error(said.place, path.field("clientAddress"), "must be true, or left out");
    }
}
