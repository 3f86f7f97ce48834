//! Which routes attach to which listeners, and what their rules do: parents, host names, matches in order
//! of precedence, backends. Pure, Cold.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::compile::backends::Resolver;
use crate::compile::filters;
use crate::compile::listeners::Listener;
use crate::compile::shadow;
use crate::model::http_route::{
    HeaderMatch, Match, ParentKind, ParentRef, PathMatch, PathMatchType, QueryParamMatch, Rule as WrittenRule, Spec,
    ValueMatchType,
};
use crate::model::{Documents, Object};
use crate::problem::{Place, Problems, no_gateway};
use crate::route::{Condition, Conditions, Expressions, PathCondition, Rank, RouteEntry, ValueTest};
use crate::snapshot::policy::Policy;
use crate::snapshot::{Backends, Choice, Rule};

/// What callers of Services meet: entries by namespace and name, those for one port only with its number.
pub(crate) type OfServices<'d> = BTreeMap<(&'d str, &'d str), Vec<(Option<u16>, RouteEntry)>>;

/// Adds the matches of every route to the listeners that it attaches to, and tells those for callers of Services.
pub(crate) fn attach<'d>(
    documents: &'d Documents,
    listeners: &mut [Listener<'d>],
    backends: &mut Resolver<'d>,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> OfServices<'d> {
    let mut of_services = OfServices::new();
    let mut routes: Vec<_> = documents.http_routes.iter().map(Arc::as_ref).collect();
    routes.sort_by_cached_key(|route| route.metadata.seniority());
    for (age, route) in routes.iter().enumerate() {
        let entries = entries(route, age as u32, backends, expressions, problems);
        let mut forms = Forms { route, entries, by_policies: HashMap::new() };
        let parents = &route.spec.parent_refs;
        if parents.is_empty() {
            let reason = "is attached to no Gateway and to no Service, and serves nothing";
            problems.warning(route.place, "spec.parentRefs", reason, None);
        }
        for (index, parent) in parents.iter().enumerate() {
            match parent.parent_kind() {
                Some(ParentKind::Gateway) => attach_to(parent, index, &mut forms, listeners, backends, problems),
                Some(ParentKind::Service) => {
                    attach_to_service(parent, index, &mut forms, &mut of_services, backends, problems);
                }
                None => {}
            }
        }
    }
    let called: Vec<Vec<RouteEntry>> = of_services.values().flat_map(|entries| by_port(entries)).collect();
    let met_together = listeners.iter().map(|listener| &*listener.entries).chain(called.iter().map(Vec::as_slice));
    shadow::warn(&routes, met_together, problems);
    of_services
}

/// The entries that callers of each port meet for which there are some of its own, and of any other one.
fn by_port(entries: &[(Option<u16>, RouteEntry)]) -> Vec<Vec<RouteEntry>> {
    let ports: BTreeSet<Option<u16>> = entries.iter().map(|(port, _)| *port).chain([None]).collect();
    ports.into_iter().map(|port| of_port(entries, port)).collect()
}

/// The entries that callers of a port meet.
pub(crate) fn of_port(entries: &[(Option<u16>, RouteEntry)], port: Option<u16>) -> Vec<RouteEntry> {
    let is_its = |(of, _): &&(Option<u16>, RouteEntry)| of.is_none() || *of == port;
    entries.iter().filter(is_its).map(|(_, entry)| entry.clone()).collect()
}

/// A route's entries, whose rules have other policies at other listeners.
struct Forms<'d> {
    route: &'d Object<Spec>,
    /// Without policies.
    entries: Vec<RouteEntry>,
    /// Each rule once for each list of policies, by its index and the list's address.
    by_policies: HashMap<(u16, usize), Arc<Rule>>,
}

impl Forms<'_> {
    /// The entries as they are at a listener. None: for callers of a Service.
    fn at(&mut self, listener: Option<&Listener<'_>>, backends: &mut Resolver<'_>) -> Cow<'_, [RouteEntry]> {
        let protection = backends.protection;
        if protection.is_empty() {
            return Cow::Borrowed(&self.entries);
        }
        let route = &self.route.metadata;
        let gateway = listener.map(|listener| {
            let gateway = &listener.gateway.metadata;
            (gateway.namespace(), gateway.name(), listener.written.name.as_str())
        });
        let rules: Vec<Option<&str>> = match &self.route.spec.rules {
            Some(rules) => rules.iter().map(WrittenRule::section_name).collect(),
            None => vec![None],
        };
        let lists: Vec<Arc<[Arc<Policy>]>> = rules
            .into_iter()
            .map(|rule| protection.of_rule(gateway, (route.namespace(), route.name(), rule)))
            .map(|policies| backends.actions.policies(policies))
            .collect();
        let at_listener = |entry: &RouteEntry| {
            let index = entry.rank().rule;
            let Some(policies) = lists.get(usize::from(index)).filter(|policies| !policies.is_empty()) else {
                return entry.clone();
            };
            let form = self.by_policies.entry((index, policies.as_ptr().addr()));
            let form =
                form.or_insert_with(|| Arc::new(Rule { policies: policies.clone(), ..(**entry.rule()).clone() }));
            entry.for_rule(form.clone())
        };
        Cow::Owned(self.entries.iter().map(at_listener).collect())
    }
}

fn attach_to_service<'d>(
    parent: &'d ParentRef,
    index: usize,
    forms: &mut Forms<'d>,
    of_services: &mut OfServices<'d>,
    backends: &mut Resolver<'d>,
    problems: &mut Problems,
) {
    let route = forms.route;
    let (namespace, name) = (route.metadata.namespace(), parent.name.as_str());
    let field = format!("spec.parentRefs[{index}]");
    if let Some(other) = parent.namespace.as_ref().filter(|other| other.as_str() != namespace) {
        let reason =
            format!("Service {}/{name} of another namespace as a parent is not enforced by this build", other.as_str());
        let hint = "whoever owns the Service says what its callers meet";
        return problems.error_with_hint(parent.place, format!("{field}.namespace"), reason, hint);
    }
    let port = parent.port.map(|port| port.number());
    match backends.has_port(namespace, name, port) {
        None => return problems.warning(parent.place, field, format!("there is no Service {namespace}/{name}"), None),
        Some(false) => {
            let reason = format!("Service {namespace}/{name} has no port {}", port.unwrap_or_default());
            return problems.warning(parent.place, field, reason, None);
        }
        Some(true) => {}
    }
    if let Some(hostname) = route.spec.hostnames.first() {
        let reason = format!("says nothing to callers of Service {namespace}/{name}, who name it");
        problems.warning(hostname.place, "spec.hostnames", reason, None);
    }
    let entries = forms.at(None, backends);
    of_services.entry((namespace, name)).or_default().extend(entries.iter().map(|entry| (port, entry.clone())));
}

fn attach_to(
    parent: &ParentRef,
    index: usize,
    forms: &mut Forms<'_>,
    listeners: &mut [Listener<'_>],
    backends: &mut Resolver<'_>,
    problems: &mut Problems,
) {
    let route = forms.route;
    let namespace = parent.namespace.as_ref().map_or(route.metadata.namespace(), |namespace| namespace.as_str());
    let name = parent.name.as_str();
    let field = format!("spec.parentRefs[{index}]");
    let is_gateway = |listener: &Listener<'_>| {
        let gateway = &listener.gateway.metadata;
        (gateway.namespace(), gateway.name()) == (namespace, name)
    };
    let is_named = |listener: &Listener<'_>| {
        parent.section_name.as_ref().is_none_or(|section| section.value == listener.written.name.value)
            && parent.port.is_none_or(|port| port == listener.written.port.value)
    };
    if !listeners.iter().any(is_gateway) {
        return problems.warning(parent.place, field, no_gateway(namespace, name, None), None);
    }
    let mut named: Vec<_> =
        listeners.iter_mut().filter(|listener| is_gateway(listener) && is_named(listener)).collect();
    if named.is_empty() {
        let reason = format!("Gateway {namespace}/{name} has no listener of that sectionName and port");
        return problems.warning(parent.place, field, reason, None);
    }
    named.retain(|listener| listener.takes_routes_of(route.metadata.namespace()));
    if named.is_empty() {
        let reason = format!("no listener of Gateway {namespace}/{name} takes routes of this namespace");
        let hint = "set allowedRoutes.namespaces.from of the listener to All";
        return problems.error_with_hint(parent.place, field, reason, hint);
    }
    let hostnames = &route.spec.hostnames;
    let mut is_attached = false;
    for listener in named {
        let suiting: Vec<&str> = hostnames
            .iter()
            .map(|hostname| hostname.as_str())
            .filter(|hostname| listener.hostname().is_none_or(|listener| intersect(listener, hostname)))
            .collect();
        let entries = forms.at(Some(listener), backends);
        if hostnames.is_empty() {
            is_attached = true;
            listener.entries.extend(entries.iter().cloned());
        }
        for hostname in suiting {
            is_attached = true;
            listener.entries.extend(entries.iter().map(|entry| entry.for_host(hostname)));
        }
    }
    if !is_attached {
        let reason = format!("no host name of this route is one of a listener of Gateway {namespace}/{name}");
        problems.warning(parent.place, field, reason, None);
    }
}

/// Whether some host is meant by both names; `*.` stands for one label or more.
pub(crate) fn intersect(left: &str, right: &str) -> bool {
    match (left.strip_prefix('*'), right.strip_prefix('*')) {
        (None, None) => left == right,
        (Some(suffix), None) => right.len() > suffix.len() && right.ends_with(suffix),
        (None, Some(suffix)) => left.len() > suffix.len() && left.ends_with(suffix),
        (Some(left), Some(right)) => left.ends_with(right) || right.ends_with(left),
    }
}

/// One entry for each match of each rule, for no host in particular.
fn entries<'d>(
    route: &'d Object<Spec>,
    age: u32,
    backends: &mut Resolver<'d>,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Vec<RouteEntry> {
    let mut entries = Vec::new();
    let Some(rules) = &route.spec.rules else {
        // The default of Gateway API is one rule that takes everything and has no backend.
        problems.warning(route.place, "spec.rules", "there is no rule: requests are answered 500", None);
        let name = format!("{}/0", route.metadata).into();
        let rule = Rule {
            name,
            filters: Arc::default(),
            mirrors: Box::default(),
            request_timeout: None,
            backend_request_timeout: None,
            backends: Arc::default(),
            policies: Arc::default(),
        };
        let rank = Rank { age, rule: 0, condition: 0 };
        return vec![RouteEntry::new(Conditions::default(), rank, Arc::new(rule))];
    };
    for (rule_index, written) in rules.iter().enumerate() {
        let rule = Arc::new(rule(route, rule_index, written, backends, problems));
        let everything = [None];
        let matches: Vec<Option<&Match>> = match written.matches.as_deref() {
            None | Some([]) => everything.to_vec(),
            Some(matches) => matches.iter().map(Some).collect(),
        };
        for (index, written) in matches.into_iter().enumerate() {
            let field = || format!("spec.rules[{rule_index}].matches[{index}]");
            let conditions = written.map_or_else(
                || Some(Conditions::default()),
                |written| conditions(written, &field, expressions, problems),
            );
            let rank = Rank { age, rule: rule_index as u16, condition: index as u16 };
            entries.extend(conditions.map(|conditions| RouteEntry::new(conditions, rank, rule.clone())));
        }
    }
    entries
}

fn rule<'d>(
    route: &'d Object<Spec>,
    index: usize,
    written: &'d WrittenRule,
    backends: &mut Resolver<'d>,
    problems: &mut Problems,
) -> Rule {
    let name = match &written.name {
        Some(name) => format!("{}/{}", route.metadata, name.as_str()),
        None => format!("{}/{index}", route.metadata),
    };
    let mut choices = Vec::new();
    let mut weight_total = 0;
    for (backend_index, backend) in written.backend_refs.iter().enumerate() {
        let field = || format!("spec.rules[{index}].backendRefs[{backend_index}]");
        let cluster = backends.resolve(&route.metadata, backend, &field, problems);
        let mirrors = backends.mirrors(&route.metadata, &backend.filters, &field, problems);
        let weight = backend.weight.0.try_into().unwrap_or(u32::MAX);
        if weight > 0 {
            weight_total += u64::from(weight);
            choices.push(Choice { weight, cluster, filters: filters::compile(&backend.filters), mirrors });
        }
    }
    let field = || format!("spec.rules[{index}]");
    let mirrors = backends.mirrors(&route.metadata, &written.filters, &field, problems);
    let is_redirect = written.filters.iter().any(|filter| filter.request_redirect.is_some());
    if weight_total == 0 && !is_redirect {
        let reason = match written.backend_refs.is_empty() {
            true => "there is none: requests are answered 500",
            false => "all have weight 0: requests are answered 500",
        };
        problems.warning(written.place, format!("spec.rules[{index}].backendRefs"), reason, None);
    }
    let timeouts = written.timeouts.as_ref();
    let bounded = |span: std::time::Duration| (!span.is_zero()).then_some(span);
    Rule {
        name: name.into(),
        filters: backends.actions.filters(filters::compile(&written.filters)),
        mirrors: mirrors.into(),
        request_timeout: timeouts.and_then(|timeouts| bounded(timeouts.request?.0)),
        backend_request_timeout: timeouts.and_then(|timeouts| bounded(timeouts.backend_request.as_ref()?.value.0)),
        backends: backends.actions.backends(Backends { choices, weight_total }),
        policies: Arc::default(),
    }
}

fn conditions(
    written: &Match,
    field: &dyn Fn() -> String,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Option<Conditions> {
    let path = match &written.path {
        Some(path) => path_condition(path, field, expressions, problems),
        None => Some(PathCondition::everything()),
    };
    let headers = written.headers.iter().enumerate().map(|(index, header)| {
        let HeaderMatch { match_type, name, value, .. } = header;
        (index, name.place, name.as_str().to_ascii_lowercase(), *match_type, value.as_str(), value.place)
    });
    let headers = tests(headers, &|| format!("{}.headers", field()), expressions, problems);
    let params = written.query_params.iter().enumerate().map(|(index, param)| {
        let QueryParamMatch { match_type, name, value, .. } = param;
        (index, name.place, name.as_str().to_owned(), *match_type, value.as_str(), value.place)
    });
    let params = tests(params, &|| format!("{}.queryParams", field()), expressions, problems);
    let method = written.method.map(|method| method.word());
    Some(Conditions { path: path?, method, headers: headers?, params: params? })
}

fn path_condition(
    written: &PathMatch,
    field: &dyn Fn() -> String,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Option<PathCondition> {
    let value = written.value.as_ref().map_or("/", |value| value.as_str());
    match written.match_type {
        PathMatchType::Exact => Some(PathCondition::exact(value)),
        PathMatchType::PathPrefix => Some(PathCondition::prefix(value)),
        PathMatchType::RegularExpression => {
            let place = written.value.as_ref().map_or(written.place, |value| value.place);
            let field = format!("{}.path.value", field());
            expression(value, place, field, expressions, problems).map(PathCondition::Expression)
        }
    }
}

/// The expression of a pattern, or a problem.
pub(crate) fn expression(
    pattern: &str,
    place: Place,
    field: String,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Option<crate::route::Expression> {
    expressions.compile(pattern).map_err(|reason| problems.error(place, field, reason)).ok()
}

/// Conditions on fields or parameters. Of several on one name the first counts (Gateway API, HTTPHeaderMatch.name).
fn tests<'m>(
    written: impl Iterator<Item = (usize, Place, String, ValueMatchType, &'m str, Place)>,
    field: &dyn Fn() -> String,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Option<Box<[Condition]>> {
    let mut tests: Vec<Condition> = Vec::new();
    let mut is_whole = true;
    for (index, name_place, name, match_type, value, value_place) in written {
        if tests.iter().any(|before| *before.name == *name) {
            let reason = format!("{name} has a condition before this one, which is therefore ignored");
            problems.warning(name_place, format!("{}[{index}].name", field()), reason, None);
            continue;
        }
        let test = match match_type {
            ValueMatchType::Exact => Some(ValueTest::Exact(value.as_bytes().into())),
            ValueMatchType::RegularExpression => {
                let field = format!("{}[{index}].value", field());
                expression(value, value_place, field, expressions, problems).map(ValueTest::Expression)
            }
        };
        match test {
            Some(test) => tests.push(Condition { name: expressions.name(&name), test }),
            None => is_whole = false,
        }
    }
    is_whole.then(|| tests.into())
}
