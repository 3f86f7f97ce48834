//! The filters of an HTTPRoute: what is done to a request, or instead of forwarding it. Applying them is
//! the data plane's business. Pure, Cold.

use std::collections::HashSet;

use crate::decode::{At, List, Path};
use crate::model::http_route::{self, PathMatchType, Rule};
use crate::object::{object, words};
use crate::problem::{Place, Problems};
use crate::value::{Group, HeaderName, HeaderValue, Kind, Namespace, ObjectName, Port, PreciseHostname, Whole};

object! {
    /// One step; exactly the field that `type` names is set.
    HttpFilter {
        /// Which step it is.
        required filter_type: FilterType = "type",
        /// Changes header fields of the request.
        optional request_header_modifier: HeaderFilter = "requestHeaderModifier",
        /// Changes header fields of the answer.
        optional response_header_modifier: HeaderFilter = "responseHeaderModifier",
        /// Answers with a redirection.
        optional request_redirect: RequestRedirect = "requestRedirect",
        /// Changes host or path before forwarding.
        optional url_rewrite: UrlRewrite = "urlRewrite",
        /// Sends a copy elsewhere.
        optional request_mirror: RequestMirror = "requestMirror",
    }
    refused { "cors", "externalAuth", "extensionRef" }
    check field_suits_type;
}

words! {
    /// The steps of this build.
    FilterType {
        /// Changes header fields of the request.
        RequestHeaderModifier = "RequestHeaderModifier",
        /// Changes header fields of the answer.
        ResponseHeaderModifier = "ResponseHeaderModifier",
        /// Answers with a redirection.
        RequestRedirect = "RequestRedirect",
        /// Changes host or path before forwarding.
        UrlRewrite = "URLRewrite",
        /// Sends a copy elsewhere.
        RequestMirror = "RequestMirror",
    }
    refused { "CORS", "ExternalAuth", "ExtensionRef" }
}

object! {
    /// Changes to header fields; each name stands in one of them only.
    HeaderFilter {
        /// Replaces all fields of that name.
        defaulted set: List<Header, 0, 16> = "set" or List::default(),
        /// Appends a field.
        defaulted add: List<Header, 0, 16> = "add" or List::default(),
        /// Removes all fields of that name.
        defaulted remove: List<At<HeaderName>, 0, 16> = "remove" or List::default(),
    }
    check header_names_are_ours_to_change;
}

object! {
    /// A header field.
    Header {
        /// Sent in the case it is written in.
        required name: At<HeaderName> = "name",
        /// Visible ASCII.
        required value: HeaderValue = "value",
    }
}

object! {
    /// Parts that are not named stay those of the request.
    RequestRedirect {
        /// `http` or `https`.
        optional scheme: Scheme = "scheme",
        /// The new host.
        optional hostname: PreciseHostname = "hostname",
        /// The new path.
        optional path: PathModifier = "path",
        /// The scheme's own if a scheme is named, else the listener's.
        optional port: Port = "port",
        /// 302 if absent.
        defaulted status: RedirectStatus = "statusCode" or RedirectStatus::FOUND,
    }
}

words! {
    /// The scheme of a URL.
    Scheme {
        /// Plain text.
        Http = "http",
        /// TLS.
        Https = "https",
    }
}

object! {
    /// Host and path as the backend shall see them.
    UrlRewrite {
        /// The new Host.
        optional hostname: PreciseHostname = "hostname",
        /// The new path.
        optional path: PathModifier = "path",
    }
}

object! {
    /// A new path; exactly the field that `type` names is set.
    PathModifier {
        /// Whether all of it or only the matched prefix is replaced.
        required modifier_type: PathModifierType = "type",
        /// The whole new path.
        optional replace_full_path: At<PathText> = "replaceFullPath",
        /// What stands where the rule's PathPrefix stood; only in rules with exactly that one match.
        optional replace_prefix_match: At<PathText> = "replacePrefixMatch",
    }
    check path_suits_type;
}

words! {
    /// How much of a path is replaced.
    PathModifierType {
        /// All of it.
        ReplaceFullPath = "ReplaceFullPath",
        /// What the rule's PathPrefix matched.
        ReplacePrefixMatch = "ReplacePrefixMatch",
    }
}

object! {
    /// A copy of the request, as the backend sees it, goes to another Service; what that answers is dropped.
    RequestMirror {
        /// Where the copy goes.
        required backend: MirrorRef = "backendRef",
        /// Of a hundred requests so many are copied; all if neither this nor `fraction` is there.
        optional percent: Whole<0, 100> = "percent",
        /// The same as a fraction.
        optional fraction: Fraction = "fraction",
    }
    check share_is_written_once;
}

object! {
    /// A Service port.
    MirrorRef {
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
    }
    check mirror_is_a_service;
}

object! {
    /// So many of so many.
    Fraction {
        /// Not more than `denominator`.
        required numerator: At<Whole<0, 2_147_483_647>> = "numerator",
        /// 100 if absent.
        defaulted denominator: Whole<1, 2_147_483_647> = "denominator" or Whole(100),
    }
    check fraction_is_a_part;
}

fn share_is_written_once(mirror: &RequestMirror, path: &Path<'_>, problems: &mut Problems) {
    if let (Some(fraction), Some(_)) = (&mirror.fraction, &mirror.percent) {
        problems.error(fraction.place, path.field("fraction"), "excludes percent: the share is written once");
    }
}

fn mirror_is_a_service(backend: &MirrorRef, path: &Path<'_>, problems: &mut Problems) {
    http_route::reference_is_a_service(&backend.group, &backend.kind, backend.place, path, problems);
}

fn fraction_is_a_part(fraction: &Fraction, path: &Path<'_>, problems: &mut Problems) {
    if fraction.numerator.value.0 > fraction.denominator.0 {
        problems.error(fraction.numerator.place, path.field("numerator"), "is more than denominator");
    }
}

pub(crate) use crate::value::{PathText, RedirectStatus};

/// Fields that frame a message or belong to one hop (RFC 9110 7.6.1): a rule that changed them would make
/// two readers disagree on where a message ends.
pub(crate) const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn header_names_are_ours_to_change(filter: &HeaderFilter, path: &Path<'_>, problems: &mut Problems) {
    let mut seen = HashSet::new();
    let named = |list: &List<Header, 0, 16>| list.iter().map(|header| header.name.clone()).collect::<Vec<_>>();
    let lists = [("set", named(&filter.set)), ("add", named(&filter.add)), ("remove", filter.remove.to_vec())];
    for (list, names) in &lists {
        let list_path = path.field(list);
        for (index, name) in names.iter().enumerate() {
            let item = list_path.item(index);
            let path = if *list == "remove" { item } else { item.field("name") };
            let lower = name.as_str().to_ascii_lowercase();
            if FRAMING.contains(&lower.as_str()) {
                problems.error(name.place, path, format!("{} belongs to the connection, not to rules", name.as_str()));
            } else if lower == "host" {
                let hint = "use a URLRewrite filter with hostname";
                problems.error_with_hint(name.place, path, "Host is not changed by header filters", hint);
            } else if !seen.insert(lower) {
                let reason = format!("{} is changed twice by this filter", name.as_str());
                let hint = "one action for each name; join several values with commas";
                problems.error_with_hint(name.place, path, reason, hint);
            }
        }
    }
}

fn field_suits_type(filter: &HttpFilter, path: &Path<'_>, problems: &mut Problems) {
    use FilterType::*;
    let fields = [
        (RequestHeaderModifier, "requestHeaderModifier", filter.request_header_modifier.is_some()),
        (ResponseHeaderModifier, "responseHeaderModifier", filter.response_header_modifier.is_some()),
        (RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
        (UrlRewrite, "urlRewrite", filter.url_rewrite.is_some()),
        (RequestMirror, "requestMirror", filter.request_mirror.is_some()),
    ];
    for (filter_type, name, is_set) in fields {
        match (filter_type == filter.filter_type, is_set) {
            (true, false) => problems.error(filter.place, path.field(name), "is missing, as type demands it"),
            (false, true) => problems.error(filter.place, path.field(name), "does not belong to this type"),
            _ => {}
        }
    }
}

fn path_suits_type(modifier: &PathModifier, path: &Path<'_>, problems: &mut Problems) {
    let fields = [
        (PathModifierType::ReplaceFullPath, "replaceFullPath", &modifier.replace_full_path),
        (PathModifierType::ReplacePrefixMatch, "replacePrefixMatch", &modifier.replace_prefix_match),
    ];
    for (modifier_type, name, value) in fields {
        match (modifier_type == modifier.modifier_type, value) {
            (true, None) => problems.error(modifier.place, path.field(name), "is missing, as type demands it"),
            (false, Some(value)) => problems.error(value.place, path.field(name), "does not belong to this type"),
            _ => {}
        }
    }
}

/// What filters may not do together, or in a rule like this one.
pub(crate) fn suit_their_rule(rule: &Rule, path: &Path<'_>, problems: &mut Problems) {
    let has_one_prefix = match rule.matches.as_deref() {
        None => true,
        Some([only]) => only.path.as_ref().is_none_or(|path| path.match_type == PathMatchType::PathPrefix),
        Some(matches) => matches.is_empty(),
    };
    check_list(&rule.filters, has_one_prefix, &path.field("filters"), problems);
    let backends = path.field("backendRefs");
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        check_list(&backend.filters, has_one_prefix, &backends.item(index).field("filters"), problems);
    }
    let redirect = rule.filters.iter().find(|filter| filter.filter_type == FilterType::RequestRedirect);
    if let Some(redirect) = redirect
        && !rule.backend_refs.is_empty()
    {
        let reason = "a RequestRedirect answers every request, so that backendRefs would never be used";
        problems.error(redirect.place, path.field("filters"), reason);
    }
}

fn check_list(filters: &[HttpFilter], has_one_prefix: bool, path: &Path<'_>, problems: &mut Problems) {
    for (index, filter) in filters.iter().enumerate() {
        let path = path.item(index);
        let has = |wanted: FilterType| filters[..index].iter().any(|before| before.filter_type == wanted);
        let rival = match filter.filter_type {
            FilterType::RequestRedirect => Some(FilterType::UrlRewrite),
            FilterType::UrlRewrite => Some(FilterType::RequestRedirect),
            _ => None,
        };
        let is_mirror = filter.filter_type == FilterType::RequestMirror;
        if is_mirror && filters.iter().any(|other| other.filter_type == FilterType::RequestRedirect) {
            let reason = "RequestRedirect answers every request, so that nothing would be mirrored";
            problems.error(filter.place, path.field("type"), reason);
        } else if has(filter.filter_type) && !is_mirror {
            problems.error(
                filter.place,
                path.field("type"),
                "is there twice; only RequestMirror may stand more than once",
            );
        } else if rival.is_some_and(has) {
            problems.error(filter.place, path.field("type"), "RequestRedirect and URLRewrite exclude each other");
        }
        if let Some(place) = replaced_prefix(filter)
            && !has_one_prefix
        {
            let reason = "replacePrefixMatch needs a rule with exactly one match, of type PathPrefix";
            problems.error(place, path, reason);
        }
    }
}

fn replaced_prefix(filter: &HttpFilter) -> Option<Place> {
    let redirect = filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
    let rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    redirect.or(rewrite)?.replace_prefix_match.as_ref().map(|value| value.place)
}
