//! The filters of rules in the form the data plane applies them. Pure, Cold.

use crate::model::http_filter::{Header, HeaderFilter, HttpFilter, PathModifier, Scheme};
use crate::snapshot::{Filter, HeaderChanges, PathChange, Redirect, Rewrite};

/// All filters of a list that change requests or answers, in its order.
pub(crate) fn compile(filters: &[HttpFilter]) -> Vec<Filter> {
    filters.iter().filter_map(one).collect()
}

fn one(filter: &HttpFilter) -> Option<Filter> {
    if let Some(changes) = &filter.request_header_modifier {
        return Some(Filter::RequestHeaders(header_changes(changes)));
    }
    if let Some(changes) = &filter.response_header_modifier {
        return Some(Filter::ResponseHeaders(header_changes(changes)));
    }
    if let Some(redirect) = &filter.request_redirect {
        return Some(Filter::Redirect(Redirect {
            scheme: redirect.scheme.map(|scheme| match scheme {
                Scheme::Http => "http".into(),
                Scheme::Https => "https".into(),
            }),
            hostname: redirect.hostname.as_ref().map(|hostname| hostname.as_str().into()),
            port: redirect.port.map(|port| port.number()),
            path: redirect.path.as_ref().and_then(path_change),
            status: redirect.status.code(),
        }));
    }
    let rewrite = filter.url_rewrite.as_ref()?;
    Some(Filter::Rewrite(Rewrite {
        hostname: rewrite.hostname.as_ref().map(|hostname| hostname.as_str().into()),
        path: rewrite.path.as_ref().and_then(path_change),
    }))
}

fn header_changes(filter: &HeaderFilter) -> HeaderChanges {
    let pairs = |headers: &[Header]| {
        headers.iter().map(|header| (header.name.as_str().into(), header.value.as_str().into())).collect()
    };
    HeaderChanges {
        set: pairs(&filter.set),
        add: pairs(&filter.add),
        remove: filter.remove.iter().map(|name| name.as_str().into()).collect(),
    }
}

fn path_change(modifier: &PathModifier) -> Option<PathChange> {
    match (&modifier.replace_full_path, &modifier.replace_prefix_match) {
        // No request has an empty path.
        (Some(path), _) if path.as_str().is_empty() => Some(PathChange::Full("/".into())),
        (Some(path), _) => Some(PathChange::Full(path.as_str().into())),
        (None, Some(prefix)) => Some(PathChange::Prefix(prefix.as_str().into())),
        (None, None) => None,
    }
}
