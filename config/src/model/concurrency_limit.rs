//! ConcurrencyLimit: so many requests at the same time. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::policy::{self, Mode, Reply, TargetRef};
use crate::object::{exactly_one, object};
use crate::problem::Problems;
use crate::value::{Period, Whole};

object! {
    /// So many requests at the same time, and a line for those that come on top.
    Spec {
        /// What it applies to; each target counts on its own.
        required target_refs: List<TargetRef, 1, 16> = "targetRefs",
        /// `enforce` if absent.
        defaulted mode: Mode = "mode" or Mode::Enforce,
        /// How many.
        required limit: Limit = "limit",
        /// A line for requests above the limit; they are refused at once if absent.
        optional queue: Queue = "queue",
        /// The answer to those that are refused; 503 if absent.
        optional reply: Reply = "reply",
    }
    refused { "effectiveTime" }
    check targets_are_distinct;
}

object! {
    /// Exactly one of these.
    Limit {
        /// Always so many.
        optional fixed: Requests = "fixed",
        /// As many as are served without waiting, as latency shows.
        optional adaptive: Adaptive = "adaptive",
    }
    check one_kind_of_limit;
}

/// Requests at the same time.
pub(crate) type Requests = Whole<1, 1_000_000>;

object! {
    /// The bounds of a limit that follows latency.
    Adaptive {
        /// Never fewer.
        required min: At<Requests> = "min",
        /// Never more.
        required max: Requests = "max",
    }
    check min_is_below_max;
}

object! {
    /// A line for requests above the limit, first come first served.
    Queue {
        /// How many may wait; more are refused at once.
        required max: Requests = "max",
        /// How long one may wait.
        required timeout: Period<1> = "timeout",
    }
}

fn targets_are_distinct(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    policy::targets_are_distinct(&spec.target_refs, &path.field("targetRefs"), problems);
}

fn one_kind_of_limit(limit: &Limit, path: &Path<'_>, problems: &mut Problems) {
    let fields = [("fixed", limit.fixed.is_some()), ("adaptive", limit.adaptive.is_some())];
    exactly_one(&fields, limit.place, path, problems);
}

fn min_is_below_max(adaptive: &Adaptive, path: &Path<'_>, problems: &mut Problems) {
    if adaptive.min.0 > adaptive.max.0 {
        problems.error(adaptive.min.place, path.field("min"), format!("{} is above max", adaptive.min.0));
    }
}
