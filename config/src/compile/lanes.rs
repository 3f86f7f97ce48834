//! Lanes: what each listener does about them, and which endpoints are in which; the same once more for LaneGroups in
//! shadow, which take nobody's place. What puts a request into a lane is `group`'s business. Pure, Cold.

mod group;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::compile::listeners::Listener;
use crate::compile::policies::Claim;
use crate::decode::{At, Dictionary};
use crate::model::lane_group::{Lane as WrittenLane, Spec};
use crate::model::policy::Mode;
use crate::model::{Documents, Object};
use crate::problem::{Place, Problems, no_gateway};
use crate::route::Expressions;
use crate::snapshot::Endpoint;
use crate::snapshot::lanes::{LABEL, LaneGroup, LaneRole, Membership};
use crate::value::{LabelKey, LabelValue};

/// All LaneGroups, and whose endpoints are whose.
pub(crate) struct Lanes<'d> {
    /// By namespace and name.
    pub groups: Vec<Arc<LaneGroup>>,
    /// Those in shadow.
    pub shadow_groups: Vec<Arc<LaneGroup>>,
    namespaces: Namespaces<'d>,
    shadow_namespaces: Namespaces<'d>,
}

type Namespaces<'d> = HashMap<&'d str, Namespace<'d>>;

/// The lanes of a namespace, of all of its LaneGroups.
#[derive(Default)]
struct Namespace<'d> {
    membership: Membership<'d>,
    /// In the order of the membership.
    lanes: Vec<Known<'d>>,
}

/// A lane and where it is written.
struct Known<'d> {
    lane: &'d WrittenLane,
    group: &'d Object<Spec>,
    index: usize,
}

/// Labels, as they are written.
type Selector = Dictionary<LabelKey, LabelValue, 16>;

impl<'d> Lanes<'d> {
    /// Reads all LaneGroups and gives each listener its part in them.
    pub(crate) fn gather(
        documents: &'d Documents,
        listeners: &mut [Listener<'_>],
        expressions: &mut Expressions,
        problems: &mut Problems,
    ) -> Self {
        let mut groups: Vec<_> = documents.lane_groups.iter().map(Arc::as_ref).collect();
        groups.sort_by_cached_key(|group| group.metadata.seniority());
        let compiled: Vec<Arc<LaneGroup>> =
            groups.iter().map(|group| Arc::new(group::compile(group, expressions, problems))).collect();
        let all = groups.into_iter().zip(compiled);
        let (shadow, acting): (Pairs<'d>, Pairs<'d>) = all.partition(|(group, _)| group.spec.mode == Mode::Shadow);
        warn_of_tags(&acting, acting.iter(), problems);
        // If it acted, clients' requests would have lost its own tag, too.
        warn_of_tags(&shadow, acting.iter().chain(&shadow), problems);
        assign_roles(&acting, listeners, |listener| &mut listener.lanes, problems);
        assign_roles(&shadow, listeners, |listener| &mut listener.shadow_lanes, problems);
        let (groups, namespaces) = by_name(acting, problems);
        let (shadow_groups, shadow_namespaces) = by_name(shadow, problems);
        let lanes = Lanes { groups, shadow_groups, namespaces, shadow_namespaces };
        lanes.warn_of_unknown(documents, problems);
        lanes
    }

    /// Which of a Service's endpoints serve whom: those of the baseline, then those of each lane that has any.
    pub(crate) fn members(&self, namespace: &str, endpoints: &[Endpoint]) -> Vec<(Option<Arc<str>>, Vec<u32>)> {
        match self.namespaces.get(namespace) {
            Some(namespace) => namespace.membership.members(endpoints),
            None => Membership::default().members(endpoints),
        }
    }

    /// As `members`, if LaneGroups in shadow acted; nobody where the namespace has none.
    pub(crate) fn shadow_members(&self, namespace: &str, endpoints: &[Endpoint]) -> Vec<(Option<Arc<str>>, Vec<u32>)> {
        self.shadow_namespaces.get(namespace).map_or(Vec::new(), |namespace| namespace.membership.members(endpoints))
    }

    /// What is done about calls to an instance of a namespace with these labels, and about those that it makes; and the same
    /// if LaneGroups in shadow acted.
    pub(crate) fn of_instance(&self, namespace: &str, labels: &BTreeMap<Box<str>, Box<str>>) -> [[LaneRole; 2]; 2] {
        [(&self.groups, &self.namespaces), (&self.shadow_groups, &self.shadow_namespaces)].map(
            |(groups, namespaces)| {
                let is_its = |group: &&Arc<LaneGroup>| *group.namespace == *namespace && !group.lanes.is_empty();
                let groups: Vec<Arc<LaneGroup>> = groups.iter().filter(is_its).cloned().collect();
                let own = namespaces.get(namespace).and_then(|namespace| {
                    let all = || labels.iter().map(|(key, value)| (&**key, &**value));
                    let taken = namespace.membership.taking(all, |key| labels.get(key).map(|value| &**value));
                    let known = &namespace.lanes[*taken.first()?];
                    let name = known.group.metadata.to_string();
                    let place = (groups.iter().position(|group| *group.name == *name)?, known.index);
                    Some((place, taken.len() == 1))
                });
                // One of several lanes may get requests of any of them.
                let only = own.filter(|(_, is_only)| *is_only).map(|(own, _)| own);
                let own = own.map(|(own, _)| own);
                [LaneRole::Inherit { groups: groups.clone(), own: only }, LaneRole::Call { groups, own }]
            },
        )
    }

    /// The names of all lanes of a namespace, and of those in shadow.
    pub(crate) fn names(&self, namespace: &str) -> [Vec<Arc<str>>; 2] {
        [&self.groups, &self.shadow_groups].map(|groups| {
            let of_namespace = groups.iter().filter(|group| *group.namespace == *namespace);
            of_namespace.flat_map(|group| group.lanes.iter().map(|lane| lane.name.clone())).collect()
        })
    }

    /// That a lane which acts for nobody is there in shadow.
    fn is_in_shadow(&self, namespace: &str, lane: &str) -> Option<&'static str> {
        let lanes = &self.shadow_namespaces.get(namespace)?.lanes;
        let is_there = lanes.iter().any(|known| known.lane.name.as_str() == lane);
        is_there.then_some("one in shadow has, and gives it no request")
    }

    /// Endpoints and faults that name a lane which is not there.
    fn warn_of_unknown(&self, documents: &Documents, problems: &mut Problems) {
        for service in &documents.services {
            let Some(namespace) = self.namespaces.get(service.metadata.namespace()) else {
                continue;
            };
            for (index, endpoint) in service.spec.endpoints().iter().enumerate() {
                let get = |key: &str| endpoint.labels.get(key).map(|value| value.value.as_str());
                let labels = || endpoint.labels.iter().map(|(key, value)| (key.as_str(), value.value.as_str()));
                let Some(label) = endpoint.labels.get(LABEL) else {
                    continue;
                };
                let membership = &namespace.membership;
                if !membership.is_baseline(label.as_str()) && membership.taking(labels, get).is_empty() {
                    let field = format!("spec.endpoints[{index}].labels.{LABEL}");
                    let reason = format!(
                        "no LaneGroup of namespace {} has a lane or a baseline {:?}: the endpoint gets no request",
                        service.metadata.namespace(),
                        label.as_str()
                    );
                    let hint = self.is_in_shadow(service.metadata.namespace(), label.as_str());
                    problems.warning(label.place, field, reason, hint);
                }
            }
        }
        for fault in &documents.fault_injections {
            let namespace = fault.metadata.namespace();
            for (index, one) in fault.spec.matches.iter().enumerate() {
                for (lane_index, lane) in one.lanes.iter().enumerate() {
                    let known = self.namespaces.get(namespace).map_or(&[][..], |known| &known.lanes);
                    if !known.iter().any(|known| known.lane.name.as_str() == lane.as_str()) {
                        let field = format!("spec.match[{index}].lanes[{lane_index}]");
                        let reason = format!("no LaneGroup of namespace {namespace} has a lane {:?}", lane.as_str());
                        problems.warning(lane.place, field, reason, self.is_in_shadow(namespace, lane.as_str()));
                    }
                }
            }
        }
    }
}

/// LaneGroups as they are written and as they are compiled, by age.
type Pairs<'d> = Vec<(&'d Object<Spec>, Arc<LaneGroup>)>;

/// The groups by namespace and name, and what each namespace has of them.
fn by_name<'d>(mut pairs: Pairs<'d>, problems: &mut Problems) -> (Vec<Arc<LaneGroup>>, Namespaces<'d>) {
    pairs.sort_by_key(|(group, _)| (group.metadata.namespace(), group.metadata.name()));
    let mut namespaces = Namespaces::new();
    for (group, _) in &pairs {
        let namespace = namespaces.entry(group.metadata.namespace()).or_default();
        namespace.membership.add_baseline(group.spec.baseline.as_str());
        for (index, lane) in group.spec.lanes.iter().enumerate() {
            let selector = lane.selector.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            namespace.membership.add(lane.name.as_str(), selector);
            namespace.lanes.push(Known { lane, group, index });
        }
    }
    for namespace in namespaces.values() {
        namespace.check(problems);
    }
    (pairs.into_iter().map(|(_, compiled)| compiled).collect(), namespaces)
}

impl Namespace<'_> {
    /// Names are unique, and so are selectors.
    fn check(&self, problems: &mut Problems) {
        let mut names: HashMap<&str, &At<_>> = HashMap::new();
        for known in &self.lanes {
            let name = &known.lane.name;
            let field = format!("spec.lanes[{}].name", known.index);
            if self.membership.is_baseline(name.as_str()) {
                let reason = format!("{:?} is the name of the baseline", name.as_str());
                problems.error(name.place, field, reason);
            } else if let Some(first) = names.get(name.as_str()) {
                let at = problems.name(first.place);
                let reason = format!("{:?} is a lane of this namespace already, at {at}", name.as_str());
                problems.error(name.place, field, reason);
            } else {
                names.insert(name.as_str(), name);
            }
        }
        for (number, known) in self.lanes.iter().enumerate() {
            let selector: &Selector = &known.lane.selector;
            let labels = || selector.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let wider = self.membership.taking(labels, |key| selector.get(key).map(|value| value.as_str()));
            for other in wider.into_iter().filter(|other| *other != number) {
                let other_known = &self.lanes[other];
                let is_equal = other_known.lane.selector.len() == selector.len();
                let place = known.lane.selector.place;
                let field = format!("spec.lanes[{}].selector", known.index);
                let (name, group) = (other_known.lane.name.as_str(), &other_known.group.metadata);
                let at = problems.name(other_known.lane.selector.place);
                if is_equal && other < number {
                    let reason = format!("is that of lane {name:?} of {group}, at {at}: no instance would be its own");
                    problems.error(place, field, reason);
                } else if !is_equal {
                    let reason =
                        format!("all instances of this lane are also those of lane {name:?} of {group}, at {at}");
                    problems.warning(place, field, reason, None);
                }
            }
        }
    }
}

/// Conditions of lanes on a tag, of whichever group: at an entry all that clients say of lanes is removed before.
fn warn_of_tags<'p>(
    groups: &Pairs<'_>,
    stripped: impl Iterator<Item = &'p (&'p Object<Spec>, Arc<LaneGroup>)> + Clone,
    problems: &mut Problems,
) {
    let mut warn = |header: &str, place: Place, field: String| {
        let is_tag = |(_, group): &&(_, Arc<LaneGroup>)| group.header.eq_ignore_ascii_case(header);
        if let Some((_, group)) = stripped.clone().find(is_tag) {
            let reason = format!("is the tag of LaneGroup {}, which clients' requests have lost by then", group.name);
            problems.warning(place, field, reason, None);
        }
    };
    for (group, _) in groups {
        for (number, lane) in group.spec.lanes.iter().enumerate() {
            for (index, one) in lane.matches.iter().enumerate() {
                for (place, header) in one.headers.iter().enumerate() {
                    let field = format!("spec.lanes[{number}].match[{index}].headers[{place}].name");
                    warn(header.name.as_str(), header.name.place, field);
                }
            }
            if let Some((sticky, header)) =
                lane.sticky_by.as_ref().and_then(|sticky| Some((sticky, sticky.header.as_ref()?)))
            {
                warn(header.as_str(), sticky.place, format!("spec.lanes[{number}].stickyBy.header"));
            }
        }
    }
}

/// A listener belongs to one group as an entry, or is internal to any number.
fn assign_roles<'d>(
    groups: &Pairs<'_>,
    listeners: &mut [Listener<'d>],
    role_of: impl for<'l> Fn(&'l mut Listener<'d>) -> &'l mut LaneRole,
    problems: &mut Problems,
) {
    let mut claims: Vec<Option<(Claim, bool)>> = listeners.iter().map(|_| None).collect();
    for (group, compiled) in groups {
        if group.spec.entries.is_empty() && group.spec.internal.is_empty() {
            problems.warning(
                group.place,
                "spec",
                "has neither entries nor internal: no request comes into its lanes",
                None,
            );
        }
        let entries = group.spec.entries.iter().enumerate().map(|target| ("entries", target));
        let internal = group.spec.internal.iter().enumerate().map(|target| ("internal", target));
        for (list, (index, target)) in entries.chain(internal) {
            let is_entry = list == "entries";
            let field = format!("spec.{list}[{index}]");
            let section = target.section_name.as_ref().map(|section| section.as_str());
            let (namespace, name) = (group.metadata.namespace(), target.name.as_str());
            let mut is_there = false;
            for (listener, claim) in listeners.iter_mut().zip(&mut claims) {
                let gateway = &listener.gateway.metadata;
                if (gateway.namespace(), gateway.name()) != (namespace, name)
                    || section.is_some_and(|section| section != listener.written.name.as_str())
                {
                    continue;
                }
                is_there = true;
                match (role_of(listener), &*claim) {
                    (role @ LaneRole::Strip, _) => {
                        *role = match is_entry {
                            true => LaneRole::Decide(compiled.clone()),
                            false => LaneRole::Inherit { groups: vec![compiled.clone()], own: None },
                        };
                        *claim = Some((Claim { name: group.metadata.to_string(), place: target.place }, is_entry));
                    }
                    (LaneRole::Inherit { groups: known, .. }, _) if !is_entry => {
                        if !known.iter().any(|known| Arc::ptr_eq(known, compiled)) {
                            known.push(compiled.clone());
                        }
                    }
                    // A Gateway as a whole and one of its listeners may be named by the same group.
                    (LaneRole::Decide(known), _) if is_entry && Arc::ptr_eq(known, compiled) => {}
                    (_, Some((first, was_entry))) => {
                        let role = if *was_entry { "an entry of" } else { "internal to" };
                        let at = problems.name(first.place);
                        let (listener, first) = (listener.name(), &first.name);
                        let reason = format!("Conflicted: listener {listener} is {role} LaneGroup {first}, at {at}");
                        problems.warning(target.place, field.as_str(), reason, Some("one group decides at an entry"));
                    }
                    (_, None) => {}
                }
            }
            if !is_there {
                problems.warning(target.place, field, no_gateway(namespace, name, section), None);
            }
        }
    }
}
