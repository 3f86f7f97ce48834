//! HTTPRoute: parents, host names, and rules with their matches and backends. Filters have their own file.
//! Which of several matches wins is `route`'s business. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::GATEWAY_GROUP;
use crate::model::http_filter::{self, HttpFilter};
use crate::object::{object, words};
use crate::problem::{Place, Problems};
use crate::value::{
    Group, HeaderName, Hostname, Kind, Line, Namespace, ObjectName, Period, Port, SectionName, Whole, check_path,
};

object! {
    /// What is done with requests.
    Spec {
        /// The Gateways, or listeners of them, that it serves; and the Services whose callers it serves.
        defaulted parent_refs: List<ParentRef, 0, 32> = "parentRefs" or List::default(),
        /// Only requests to these hosts; all that its listeners take if absent.
        defaulted hostnames: List<At<Hostname>, 0, 16> = "hostnames" or List::default(),
        /// Each a set of conditions and what is done when they hold; one that takes everything if absent.
        optional rules: List<Rule, 1, 16> = "rules",
    }
    refused { "useDefaultGateways" }
    check parents_and_rules_are_distinct;
}

object! {
    /// A Gateway, or one of its listeners; or a Service, for those who call it through a sidecar.
    ParentRef {
        /// Gateway API's if absent; empty for Services.
        optional group: Group = "group",
        /// `Gateway` if absent, or `Service`.
        optional kind: Kind = "kind",
        /// The route's own if absent.
        optional namespace: Namespace = "namespace",
        /// The Gateway's name, or the Service's.
        required name: ObjectName = "name",
        /// One of the Gateway's listeners; all if absent.
        optional section_name: At<SectionName> = "sectionName",
        /// Only the Gateway's listeners on this port, or this port of the Service.
        optional port: Port = "port",
    }
    check parent_is_known;
}

/// Whom a route serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParentKind {
    /// Those who come in at its listeners.
    Gateway,
    /// Those who call it through a sidecar.
    Service,
}

impl ParentRef {
    /// What it names; None if that was told as a problem.
    pub(crate) fn parent_kind(&self) -> Option<ParentKind> {
        let (group, kind) = self.written_kind();
        match (group, kind) {
            (GATEWAY_GROUP, "Gateway") => Some(ParentKind::Gateway),
            ("", "Service") => Some(ParentKind::Service),
            _ => None,
        }
    }

    fn written_kind(&self) -> (&str, &str) {
        let group = self.group.as_ref().map_or(GATEWAY_GROUP, |group| group.as_str());
        (group, self.kind.as_ref().map_or("Gateway", |kind| kind.as_str()))
    }
}

object! {
    /// Conditions, and what is done when one of them holds.
    Rule {
        /// Unique in its route; names the rule in logs and metrics.
        optional name: At<SectionName> = "name",
        /// Any of these must hold; everything if absent.
        optional matches: List<Match, 0, 64> = "matches",
        /// In the order they are applied.
        defaulted filters: List<HttpFilter, 0, 16> = "filters" or List::default(),
        /// Where requests go, with their shares.
        defaulted backend_refs: List<BackendRef, 0, 16> = "backendRefs" or List::default(),
        /// How long an exchange may take.
        optional timeouts: Timeouts = "timeouts",
    }
    refused { "retry", "sessionPersistence" }
    check http_filter::suit_their_rule;
}

impl Rule {
    /// How policies name it.
    pub(crate) fn section_name(&self) -> Option<&str> {
        self.name.as_ref().map(|name| name.as_str())
    }
}

object! {
    /// Conditions that must all hold.
    Match {
        /// Every path if absent.
        optional path: PathMatch = "path",
        /// Conditions on header fields.
        defaulted headers: List<HeaderMatch, 0, 16> = "headers" or List::default(),
        /// Conditions on the query.
        defaulted query_params: List<QueryParamMatch, 0, 16> = "queryParams" or List::default(),
        /// Every method if absent.
        optional method: Method = "method",
    }
}

object! {
    /// A condition on the path.
    PathMatch {
        /// `PathPrefix` if absent.
        defaulted match_type: PathMatchType = "type" or PathMatchType::PathPrefix,
        /// `/` if absent.
        optional value: At<Line> = "value",
    }
    check path_is_valid;
}

words! {
    /// How a path is compared.
    PathMatchType {
        /// The same.
        Exact = "Exact",
        /// The same, or goes on after a `/`.
        PathPrefix = "PathPrefix",
        /// The regular expression describes all of it.
        RegularExpression = "RegularExpression",
    }
}

object! {
    /// A condition on a header field.
    HeaderMatch {
        /// `Exact` if absent.
        defaulted match_type: ValueMatchType = "type" or ValueMatchType::Exact,
        /// Compared whatever its case.
        required name: At<HeaderName> = "name",
        /// What its value must be; repeated fields are one, joined by commas.
        required value: At<Line> = "value",
    }
    check header_can_be_there;
}

object! {
    /// A condition on the query.
    QueryParamMatch {
        /// `Exact` if absent.
        defaulted match_type: ValueMatchType = "type" or ValueMatchType::Exact,
        /// Compared with its case.
        required name: At<HeaderName> = "name",
        /// What its first value must be, after decoding.
        required value: At<Line> = "value",
    }
}

words! {
    /// How a value is compared.
    ValueMatchType {
        /// The same.
        Exact = "Exact",
        /// The regular expression describes all of it.
        RegularExpression = "RegularExpression",
    }
}

words! {
    /// A method of HTTP.
    Method {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// OPTIONS.
        Options = "OPTIONS",
        /// TRACE.
        Trace = "TRACE",
        /// PATCH.
        Patch = "PATCH",
    }
    refused { "CONNECT" }
}

object! {
    /// A Service port with its share of the requests.
    BackendRef {
        /// Kubernetes' core if absent.
        optional group: Group = "group",
        /// Only `Service` in this build.
        optional kind: Kind = "kind",
        /// The route's own if absent.
        optional namespace: Namespace = "namespace",
        /// The Service's name.
        required name: ObjectName = "name",
        /// The Service's port.
        required port: Port = "port",
        /// Its share is this over the sum of all weights; 1 if absent.
        defaulted weight: Whole<0, 1_000_000> = "weight" or Whole(1),
        /// Applied only to requests that go here.
        defaulted filters: List<HttpFilter, 0, 16> = "filters" or List::default(),
    }
    check backend_is_a_service;
}

object! {
    /// How long an exchange may take; `0s` means without bound.
    Timeouts {
        /// From the request's head to the answer's end.
        optional request: Period<0> = "request",
        /// The same for one attempt at a backend; not longer than `request`.
        optional backend_request: At<Period<0>> = "backendRequest",
    }
    check attempt_fits_into_request;
}

fn header_can_be_there(header: &HeaderMatch, path: &Path<'_>, problems: &mut Problems) {
    header.name.warn_if_dropped(header.name.place, &path.field("name"), problems);
}

fn parent_is_known(parent: &ParentRef, path: &Path<'_>, problems: &mut Problems) {
    match (parent.parent_kind(), &parent.section_name) {
        (None, _) => {
            let (group, kind) = parent.written_kind();
            let reason = format!("{kind} of {group:?} as a parent is not enforced by this build");
            let hint = format!("Gateways are of group {GATEWAY_GROUP}, Services are of group \"\"");
            problems.error_with_hint(parent.place, path.field("kind"), reason, hint);
        }
        (Some(ParentKind::Service), Some(section)) => {
            let hint = "name one of its ports with port";
            problems.error_with_hint(section.place, path.field("sectionName"), "a Service has no sections", hint);
        }
        _ => {}
    }
}

fn backend_is_a_service(backend: &BackendRef, path: &Path<'_>, problems: &mut Problems) {
    reference_is_a_service(&backend.group, &backend.kind, backend.place, path, problems);
}

/// Tells that a backend is of another kind.
pub(crate) fn reference_is_a_service(
    group: &Option<Group>,
    kind: &Option<Kind>,
    place: Place,
    path: &Path<'_>,
    problems: &mut Problems,
) {
    let group = group.as_ref().map_or("", |group| group.as_str());
    let kind = kind.as_ref().map_or("Service", |kind| kind.as_str());
    if !group.is_empty() || kind != "Service" {
        let reason = format!("{kind} of {group:?} as a backend is not enforced by this build");
        problems.error_with_hint(place, path.field("kind"), reason, "leave out group and kind");
    }
}

fn attempt_fits_into_request(timeouts: &Timeouts, path: &Path<'_>, problems: &mut Problems) {
    if let (Some(request), Some(attempt)) = (&timeouts.request, &timeouts.backend_request)
        && !request.0.is_zero()
        && attempt.value.0 > request.0
    {
        problems.error(attempt.place, path.field("backendRequest"), "is longer than request");
    }
}

/// Gateway API's rules for path values; those of regular expressions are checked where they are compiled.
fn path_is_valid(path_match: &PathMatch, path: &Path<'_>, problems: &mut Problems) {
    let Some(value) = &path_match.value else {
        return;
    };
    let place = value.place;
    let (value, field) = (value.as_str(), path.field("value"));
    if value.len() > 1024 {
        problems.error(place, field, "is longer than 1024 bytes");
    } else if path_match.match_type != PathMatchType::RegularExpression
        && let Err(reason) = check_path(value)
    {
        problems.error(place, field, format!("{value:?} {reason}"));
    }
}

fn parents_and_rules_are_distinct(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let parents = path.field("parentRefs");
    for (index, parent) in spec.parent_refs.iter().enumerate() {
        let identity = |parent: &ParentRef| (parent.parent_kind(), parent.name.clone(), parent.namespace.clone());
        let same = |before: &&ParentRef| identity(before) == identity(parent);
        let Some(before) = spec.parent_refs[..index].iter().find(same) else {
            continue;
        };
        let shape = |parent: &ParentRef| (parent.section_name.is_some(), parent.port.is_some());
        let section = |parent: &ParentRef| (parent.section_name.as_ref().map(|at| at.value.clone()), parent.port);
        let is_repeated =
            spec.parent_refs[..index].iter().filter(same).any(|before| section(before) == section(parent));
        if shape(before) != shape(parent) || is_repeated {
            let (kind, part) = match parent.parent_kind() {
                Some(ParentKind::Service) => ("Service", "port"),
                _ => ("Gateway", "sectionName"),
            };
            let hint = format!("name a different {part} in each, or write it once");
            let reason = format!("refers to the same {kind} as another parentRef");
            problems.error_with_hint(parent.place, parents.item(index), reason, hint);
        }
    }
    let Some(rules) = &spec.rules else {
        return;
    };
    let path = path.field("rules");
    for (index, rule) in rules.iter().enumerate() {
        if let Some(name) = &rule.name
            && rules[..index].iter().any(|before| before.name.as_ref().is_some_and(|before| before.value == name.value))
        {
            let reason = format!("{:?} is the name of another rule", name.as_str());
            problems.error(name.place, path.item(index).field("name"), reason);
        }
    }
    let matches: usize = rules.iter().map(|rule| rule.matches.as_ref().map_or(1, |matches| matches.len())).sum();
    if matches > 128 {
        problems.error(spec.place, path, format!("have {matches} matches together and must have at most 128"));
    }
}
