//! FaultInjection: trouble on purpose, to see what it does. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::policy::{self, Mode, ReplyHeaders, Status, TargetRef};
use crate::object::{object, words};
use crate::problem::Problems;
use crate::value::{Body, HeaderName, LaneName, Line, Percentage, Period};

object! {
    /// Holds requests up, answers them here, or both.
    Spec {
        /// What it applies to.
        required target_refs: List<TargetRef, 1, 16> = "targetRefs",
        /// `enforce` if absent.
        defaulted mode: Mode = "mode" or Mode::Enforce,
        /// Only requests for which one of these holds wholly; all if absent.
        defaulted matches: List<FaultMatch, 0, 16> = "match" or List::default(),
        /// Holds requests up.
        optional delay: Delay = "delay",
        /// Answers requests here.
        optional abort: Abort = "abort",
    }
    refused { "effectiveTime" }
    check there_is_a_fault;
}

object! {
    /// Conditions that must all hold; at least one.
    FaultMatch {
        /// Header fields.
        defaulted headers: List<HeaderMatch, 0, 16> = "headers" or List::default(),
        /// In one of these lanes.
        defaulted lanes: List<At<LaneName>, 0, 16> = "lanes" or List::default(),
    }
    check match_has_a_condition;
}

object! {
    /// A condition on a header field.
    HeaderMatch {
        /// Only `Exact` in this build.
        optional match_type: MatchType = "type",
        /// Compared whatever its case.
        required name: HeaderName = "name",
        /// What its value must be.
        required value: Line = "value",
    }
    check header_can_be_there;
}

words! {
    /// How a value is compared.
    MatchType {
        /// The same.
        Exact = "Exact",
    }
    refused { "RegularExpression" }
}

object! {
    /// Holds a share of requests up.
    Delay {
        /// How long.
        required fixed: Period<1> = "fixed",
        /// How many of a hundred requests.
        required percentage: Percentage = "percentage",
    }
}

object! {
    /// Answers a share of requests here.
    Abort {
        /// 200 to 599.
        required status: At<Status> = "status",
        /// Empty if absent.
        defaulted body: Body = "body" or Body("".into()),
        /// Header fields of the answer.
        defaulted headers: ReplyHeaders = "headers" or ReplyHeaders::default(),
        /// How many of a hundred requests.
        required percentage: Percentage = "percentage",
    }
    check reply_is_sound;
}

fn there_is_a_fault(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    policy::targets_are_distinct(&spec.target_refs, &path.field("targetRefs"), problems);
    if spec.delay.is_none() && spec.abort.is_none() {
        let hint = "such as delay: {fixed: 100ms, percentage: 5}";
        problems.error_with_hint(spec.place, path, "must have delay, abort or both", hint);
    }
}

fn match_has_a_condition(one: &FaultMatch, path: &Path<'_>, problems: &mut Problems) {
    if one.headers.is_empty() && one.lanes.is_empty() {
        problems.error_with_hint(one.place, path, "has no condition", "leave out match to mean all requests");
    }
}

fn header_can_be_there(header: &HeaderMatch, path: &Path<'_>, problems: &mut Problems) {
    header.name.warn_if_dropped(header.place, &path.field("name"), problems);
}

fn reply_is_sound(abort: &Abort, path: &Path<'_>, problems: &mut Problems) {
    policy::check_reply(Some(&abort.status), &abort.body, &abort.headers, path, problems);
}
