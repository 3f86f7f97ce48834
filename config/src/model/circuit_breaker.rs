//! CircuitBreaker: calls that would fail are not made. Pure, Cold.

use crate::decode::{List, Path};
use crate::model::policy::{self, Mode, Reply, TargetKind, TargetRef};
use crate::object::{object, words};
use crate::problem::Problems;
use crate::value::{Period, Ratio, Whole};

object! {
    /// Opens when too many calls are slow or fail, and is then answered here for a while.
    Spec {
        /// What it applies to, HTTPRoutes and Services; each target has its own breaker.
        required target_refs: List<TargetRef, 1, 16> = "targetRefs",
        /// `enforce` if absent.
        defaulted mode: Mode = "mode" or Mode::Enforce,
        /// What one breaker stands for; `service` if absent.
        defaulted per: Per = "per" or Per::Service,
        /// Too many calls that take too long open it.
        optional slow_calls: SlowCalls = "slowCalls",
        /// Too many calls that fail open it: those answered 5xx, and those not answered.
        optional errors: Errors = "errors",
        /// The time looked back; 10s if absent.
        optional window: Period<100> = "window",
        /// Below so many calls in the window a ratio says nothing; 20 if absent.
        optional minimum_calls: Whole<1, 1_000_000> = "minimumCalls",
        /// How long it stays open before it tries; 5s if absent.
        optional open_for: Period<1> = "openFor",
        /// Calls that are let through to try, all of which must be good; 5 if absent.
        optional half_open_probes: Whole<1, 10_000> = "halfOpenProbes",
        /// The answer while it is open; 503 if absent.
        optional fallback: Reply = "fallback",
    }
    refused { "effectiveTime" }
    check something_opens_it;
}

words! {
    /// What one breaker stands for.
    Per {
        /// The target as a whole.
        Service = "service",
        /// Each endpoint of the Service: an open one is passed over.
        Endpoint = "endpoint",
    }
}

object! {
    /// Slow calls, as a share of all.
    SlowCalls {
        /// A call that takes longer is slow.
        required over: Period<1> = "over",
        /// This share of the calls in the window opens it.
        required ratio: Ratio = "ratio",
    }
}

object! {
    /// Failed calls; one of these or both.
    Errors {
        /// This share of the calls in the window opens it.
        optional ratio: Ratio = "ratio",
        /// So many in the window open it.
        optional count: Whole<1, 1_000_000> = "count",
    }
    check errors_are_counted;
}

fn something_opens_it(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let targets = path.field("targetRefs");
    policy::targets_are_distinct(&spec.target_refs, &targets, problems);
    if spec.slow_calls.is_none() && spec.errors.is_none() {
        let hint = "such as errors: {ratio: 0.5}";
        problems.error_with_hint(spec.place, path, "must have slowCalls or errors, else it never opens", hint);
    }
    for (index, target) in spec.target_refs.iter().enumerate() {
        let reason = match target.target_kind() {
            Some(TargetKind::Gateway) => "Gateway as the target of a CircuitBreaker is not enforced by this build",
            Some(TargetKind::HttpRoute) if spec.per == Per::Endpoint => {
                "an HTTPRoute has no endpoints of its own, as per: endpoint demands"
            }
            _ => continue,
        };
        problems.error_with_hint(target.place, targets.item(index).field("kind"), reason, "target the Service");
    }
}

fn errors_are_counted(errors: &Errors, path: &Path<'_>, problems: &mut Problems) {
    if errors.ratio.is_none() && errors.count.is_none() {
        problems.error(errors.place, path, "must have ratio or count");
    }
}
