//! What the kinds that protect a target have in common: targets, mode, and the answers they give. Pure, Cold.

use std::collections::HashSet;

use crate::decode::{At, Dictionary, Path};
use crate::model::GATEWAY_GROUP;
use crate::model::http_filter::FRAMING;
use crate::object::{object, words};
use crate::problem::Problems;
use crate::value::{Body, Group, HeaderName, HeaderValue, Kind, ObjectName, SectionName, Whole};

object! {
    /// A Gateway, an HTTPRoute or a Service in the policy's namespace.
    TargetRef {
        /// `gateway.networking.k8s.io` for Gateways and HTTPRoutes, empty for Services.
        required group: Group = "group",
        /// `Gateway`, `HTTPRoute` or `Service`.
        required kind: Kind = "kind",
        /// The object's name.
        required name: ObjectName = "name",
        /// A listener of the Gateway, or a named rule of the HTTPRoute.
        optional section_name: At<SectionName> = "sectionName",
    }
    check target_is_known;
}

/// What a policy may stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    /// All requests at its listeners, or at one of them.
    Gateway,
    /// All requests that meet one of its rules, or a named one.
    HttpRoute,
    /// All requests that are sent to it.
    Service,
}

impl TargetRef {
    /// What it names; None if that was told as a problem.
    pub(crate) fn target_kind(&self) -> Option<TargetKind> {
        match (self.group.as_str(), self.kind.as_str()) {
            (GATEWAY_GROUP, "Gateway") => Some(TargetKind::Gateway),
            (GATEWAY_GROUP, "HTTPRoute") => Some(TargetKind::HttpRoute),
            ("", "Service") => Some(TargetKind::Service),
            _ => None,
        }
    }

    fn identity(&self) -> (&str, &str, &str, Option<&str>) {
        let section = self.section_name.as_ref().map(|section| section.as_str());
        (self.group.as_str(), self.kind.as_str(), self.name.as_str(), section)
    }
}

words! {
    /// Whether a policy acts.
    Mode {
        /// It acts.
        Enforce = "enforce",
        /// It decides as if it acted, and only counts.
        Shadow = "shadow",
    }
}

/// Why a field is refused in shadow.
pub(crate) const NOT_TRIED: &str = "cannot be tried in shadow: what comes of it shows only where it acts";

object! {
    /// An answer that is given here.
    Reply {
        /// 200 to 599.
        optional status: At<Status> = "status",
        /// Empty if absent.
        defaulted body: Body = "body" or Body("".into()),
        /// Header fields of the answer.
        defaulted headers: ReplyHeaders = "headers" or ReplyHeaders::default(),
    }
    check reply_is_sound;
}

/// A status code that an answer may have in place of another.
pub(crate) type Status = Whole<200, 599>;

/// Header fields of an answer.
pub(crate) type ReplyHeaders = Dictionary<HeaderName, HeaderValue, 32>;

fn target_is_known(target: &TargetRef, path: &Path<'_>, problems: &mut Problems) {
    let Some(kind) = target.target_kind() else {
        let (group, kind) = (target.group.as_str(), target.kind.as_str());
        let reason = format!("{kind} of {group:?} as a target is not enforced by this build");
        let hint = format!("Gateways and HTTPRoutes are of group {GATEWAY_GROUP}, Services are of group \"\"");
        return problems.error_with_hint(target.place, path.field("kind"), reason, hint);
    };
    if let (TargetKind::Service, Some(section)) = (kind, &target.section_name) {
        let hint = "only of Gateways (a listener) and HTTPRoutes (a rule)";
        problems.error_with_hint(section.place, path.field("sectionName"), "a Service has no sections", hint);
    }
}

/// Tells targets that a list names again. `path` is the list's.
pub(crate) fn targets_are_distinct(targets: &[TargetRef], path: &Path<'_>, problems: &mut Problems) {
    for (index, target) in targets.iter().enumerate() {
        if let Some(first) = targets[..index].iter().position(|before| before.identity() == target.identity()) {
            problems.error(target.place, path.item(index), format!("is the same as item {first} of the list"));
        }
    }
}

fn reply_is_sound(reply: &Reply, path: &Path<'_>, problems: &mut Problems) {
    check_reply(reply.status.as_ref(), &reply.body, &reply.headers, path, problems);
}

/// What no single field of an answer can know: some have no body, and framing is not the writer's.
pub(crate) fn check_reply(
    status: Option<&At<Status>>,
    body: &Body,
    headers: &ReplyHeaders,
    path: &Path<'_>,
    problems: &mut Problems,
) {
    // RFC 9110 15.3.5, 15.3.6 and 15.4.5.
    if let Some(status) = status.filter(|status| matches!(status.0, 204 | 205 | 304))
        && !body.as_str().is_empty()
    {
        let reason = format!("an answer {} has no body", status.0);
        problems.error(status.place, path.field("status"), reason);
    }
    let headers_path = path.field("headers");
    let mut seen = HashSet::new();
    for (name, value) in headers.iter() {
        let lower = name.as_str().to_ascii_lowercase();
        let path = headers_path.field(name.as_str());
        if FRAMING.contains(&lower.as_str()) {
            problems.error(value.place, path, "belongs to the connection, not to rules");
        } else if !seen.insert(lower) {
            problems.error(value.place, path, "is there twice, in another case");
        }
    }
}
