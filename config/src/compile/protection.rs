//! Which limits, breakers and faults a request meets: those of its Gateway, listener, route and rule before a target
//! is chosen, and those of its Service after. What each of them does is `action`'s business. Pure, Cold.
//!
//! RateLimits add up. Of the other kinds one acts: on one target the oldest, and before a target is chosen the one
//! with the narrowest target. A policy in shadow counts beside those that act and takes nobody's place.

mod action;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::compile::policies::{Claim, conflict};
use crate::model::policy::{TargetKind, TargetRef};
use crate::model::{Documents, Object, http_route};
use crate::problem::Problems;
use crate::snapshot::policy::{Action, Mode, Policy};

use action::Protects;

/// All policies by what they stand on.
#[derive(Default)]
pub(crate) struct Protection<'d> {
    by_target: HashMap<Target<'d>, Vec<Arc<Policy>>>,
}

/// Namespace, name and, where it is a part, its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Target<'d> {
    Gateway(&'d str, &'d str, Option<&'d str>),
    Route(&'d str, &'d str, Option<&'d str>),
    Service(&'d str, &'d str),
}

impl<'d> Protection<'d> {
    /// Finds the targets of all policies.
    pub(crate) fn gather(documents: &'d Documents, problems: &mut Problems) -> Self {
        let mut protection = Protection::default();
        let count = documents.rate_limits.len()
            + documents.circuit_breakers.len()
            + documents.concurrency_limits.len()
            + documents.fault_injections.len();
        if count == 0 {
            return protection;
        }
        let known = known_targets(documents);
        // The order in which they act: what refuses at once stands first, a place among those at work is taken
        // last, and trouble on purpose is what all of them see.
        protection.add(&documents.rate_limits, &known, problems);
        protection.add(&documents.circuit_breakers, &known, problems);
        protection.add(&documents.concurrency_limits, &known, problems);
        protection.add(&documents.fault_injections, &known, problems);
        protection
    }

    fn add<S: Protects>(
        &mut self,
        objects: &'d [Arc<Object<S>>],
        known: &HashSet<Target<'d>>,
        problems: &mut Problems,
    ) {
        let mut objects: Vec<_> = objects.iter().map(Arc::as_ref).collect();
        objects.sort_by_cached_key(|object| object.metadata.seniority());
        let mut winners: HashMap<(Target<'d>, bool), Claim> = HashMap::new();
        for object in objects {
            let name: Arc<str> = format!("{} {}", S::KIND, object.metadata).into();
            let mode = object.spec.mode();
            let policy =
                |state_key| Arc::new(Policy { name: name.clone(), state_key, mode, action: object.spec.action() });
            let everywhere = S::ADDS_UP.then(|| policy(name.clone()));
            for (index, written) in object.spec.targets().iter().enumerate() {
                let field = format!("spec.targetRefs[{index}]");
                let Some(target) = target(object.metadata.namespace(), written) else {
                    continue;
                };
                if !known.contains(&target) {
                    problems.warning(written.place, field, format!("there is no {}", target.missing()), None);
                    continue;
                }
                let policy = match &everywhere {
                    Some(policy) => policy.clone(),
                    None => {
                        if let Some(winner) = winners.get(&(target, mode == Mode::Shadow)) {
                            conflict(S::KIND, winner, written.place, field, problems);
                            continue;
                        }
                        let claim = Claim { name: object.metadata.to_string(), place: written.place };
                        winners.insert((target, mode == Mode::Shadow), claim);
                        policy(format!("{name} on {target}").into())
                    }
                };
                self.by_target.entry(target).or_default().push(policy);
            }
        }
    }

    /// Whether there is no policy at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }

    /// What stands on a Service.
    pub(crate) fn of_service(&self, namespace: &str, name: &str) -> Vec<Arc<Policy>> {
        self.by_target.get(&Target::Service(namespace, name)).cloned().unwrap_or_default()
    }

    /// What protects an instance of a Service, whoever calls it: limits. What they remember is not what is remembered of its
    /// own calls.
    pub(crate) fn of_instance(&self, namespace: &str, name: &str) -> Vec<Arc<Policy>> {
        let all = self.by_target.get(&Target::Service(namespace, name)).into_iter().flatten();
        let protects = |policy: &&Arc<Policy>| match policy.action {
            Action::RateLimit(_) | Action::ConcurrencyLimit(_) => true,
            Action::CircuitBreaker(_) | Action::FaultInjection(_) => false,
        };
        let at_inbound = |policy: &Arc<Policy>| {
            let state_key = format!("{} at inbound", policy.state_key).into();
            Arc::new(Policy { state_key, ..Policy::clone(policy) })
        };
        all.filter(protects).map(at_inbound).collect()
    }

    /// What requests meet that come in at a listener and take a rule: namespace and name of the Gateway and of the
    /// route, and the names of listener and rule. None: calls to a Service.
    pub(crate) fn of_rule(
        &self,
        gateway: Option<(&str, &str, &str)>,
        route: (&str, &str, Option<&str>),
    ) -> Vec<Arc<Policy>> {
        let at_gateway = gateway.map(|(namespace, name, _)| Target::Gateway(namespace, name, None));
        let at_listener = gateway.map(|(namespace, name, listener)| Target::Gateway(namespace, name, Some(listener)));
        let (namespace, name, rule) = route;
        let at_route = Target::Route(namespace, name, None);
        let at_rule = rule.map(|rule| Target::Route(namespace, name, Some(rule)));
        let levels = [at_gateway, at_listener, Some(at_route), at_rule];
        let levels =
            levels.map(|target| target.and_then(|target| self.by_target.get(&target)).map_or(&[][..], |list| list));
        let mut met: Vec<Arc<Policy>> = Vec::new();
        for (level, policies) in levels.iter().enumerate() {
            for policy in *policies {
                let is_replaced = match policy.action {
                    // One limit on a Gateway and on its route is still one count.
                    Action::RateLimit(_) => met.iter().any(|before| before.state_key == policy.state_key),
                    _ => levels[level + 1..].iter().flat_map(|narrower| narrower.iter()).any(|narrower| {
                        let same_kind =
                            std::mem::discriminant(&narrower.action) == std::mem::discriminant(&policy.action);
                        same_kind && narrower.mode == policy.mode
                    }),
                };
                if !is_replaced {
                    met.push(policy.clone());
                }
            }
        }
        met
    }
}

fn target<'d>(namespace: &'d str, written: &'d TargetRef) -> Option<Target<'d>> {
    let section = written.section_name.as_ref().map(|section| section.as_str());
    Some(match written.target_kind()? {
        TargetKind::Gateway => Target::Gateway(namespace, written.name.as_str(), section),
        TargetKind::HttpRoute => Target::Route(namespace, written.name.as_str(), section),
        TargetKind::Service => Target::Service(namespace, written.name.as_str()),
    })
}

/// Everything that a policy may stand on.
fn known_targets(documents: &Documents) -> HashSet<Target<'_>> {
    let mut known = HashSet::new();
    for gateway in &documents.gateways {
        let (namespace, name) = (gateway.metadata.namespace(), gateway.metadata.name());
        let listeners = gateway.spec.listeners.iter().map(|listener| Some(listener.name.as_str()));
        known.extend(listeners.chain([None]).map(|section| Target::Gateway(namespace, name, section)));
    }
    for route in &documents.http_routes {
        let (namespace, name) = (route.metadata.namespace(), route.metadata.name());
        let rules = route.spec.rules.iter().flat_map(|rules| rules.iter()).filter_map(http_route::Rule::section_name);
        known.extend(rules.map(Some).chain([None]).map(|section| Target::Route(namespace, name, section)));
    }
    let services = documents.services.iter();
    known.extend(services.map(|service| Target::Service(service.metadata.namespace(), service.metadata.name())));
    known
}

impl Target<'_> {
    /// In the words of the other policies.
    fn missing(&self) -> String {
        match self {
            Target::Gateway(namespace, name, Some(listener)) => {
                format!("Gateway {namespace}/{name} with a listener {listener:?}")
            }
            Target::Route(namespace, name, Some(rule)) => format!("HTTPRoute {namespace}/{name} with a rule {rule:?}"),
            whole => whole.to_string(),
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, namespace, name, section) = match self {
            Target::Gateway(namespace, name, section) => ("Gateway", namespace, name, *section),
            Target::Route(namespace, name, section) => ("HTTPRoute", namespace, name, *section),
            Target::Service(namespace, name) => ("Service", namespace, name, None),
        };
        write!(out, "{kind} {namespace}/{name}")?;
        section.map_or(Ok(()), |section| write!(out, "/{section}"))
    }
}
