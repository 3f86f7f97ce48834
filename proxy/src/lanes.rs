//! Lanes on one worker: what an address does about a request's lane, and what the ready instances of a lane can bear.
//! Which lane it is, `filters::lane` decides; which endpoints that means, the cluster. LaneGroups in shadow decide of a
//! request as it came, and nothing comes of it; traces are remembered for those that act only. Hot.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::Snapshot;
use config::snapshot::lanes::{Isolation, LaneGroup, LaneRole};
use filters::Head;
use filters::lane;
use filters::lane::leak::Why;
use filters::lane::trace::{self, Lookup};

use crate::view::ClusterView;

/// How long what a lane can bear is remembered.
const BEARS_KEPT: Duration = Duration::from_millis(250);
/// A share that was lowered grows again only after this long: who comes and goes must not take clients with it.
const CALM: Duration = Duration::from_secs(5);

/// A lane as requests know it.
pub(crate) struct LaneView {
    pub(crate) name: Arc<str>,
    group: Arc<LaneGroup>,
    remembered: trace::Lane,
    is_shadow: bool,
}

impl LaneView {
    /// Whether a request in it may not leave it.
    pub(crate) fn is_strict(&self) -> bool {
        self.group.isolation == Isolation::Strict
    }

    /// The group that it is of, `namespace/name`.
    pub(crate) fn group(&self) -> &Arc<str> {
        &self.group.name
    }

    /// As the trace map knows it.
    pub(crate) fn remembered(&self) -> &trace::Lane {
        &self.remembered
    }

    /// The namespace that it never leaves.
    pub(crate) fn namespace(&self) -> &str {
        &self.group.namespace
    }
}

/// All lanes of a snapshot, and what each of its addresses does about them.
pub(crate) struct Lanes {
    /// In the order of the snapshot.
    groups: Vec<GroupLanes>,
    all: Vec<Arc<LaneGroup>>,
    /// Those in shadow.
    shadow: Option<Box<Lanes>>,
}

struct GroupLanes {
    lanes: Vec<Rc<LaneView>>,
    /// What each lane can bear.
    bears: RefCell<Vec<Bears>>,
    looked_at: Cell<Duration>,
}

/// The largest share (0 to 1) of requests that a lane is given.
#[derive(Debug, Clone, Copy)]
struct Bears {
    share: f64,
    /// When it was last no more than this.
    at: Duration,
}

/// What a share by ready instances is made from.
#[derive(Clone, Copy)]
pub(crate) struct Ready<'v> {
    pub(crate) clusters: &'v [Rc<ClusterView>],
    pub(crate) now: Duration,
    /// Where this process stands.
    pub(crate) zone: Option<&'v str>,
}

/// What an address found out about a request.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) lane: Option<Rc<LaneView>>,
    /// What said the lane of a call.
    pub(crate) source: Option<Source>,
    /// The value of a `Set-Cookie` for the answer: a sticky key that was made here.
    pub(crate) issue: Option<Box<[u8]>>,
    /// Header and baggage said different things.
    pub(crate) differs: bool,
    /// A client said something of lanes, and it was removed.
    pub(crate) is_stripped: bool,
    /// The lane of the instance that it is for, if it is not in that lane.
    pub(crate) missed: Option<Rc<LaneView>>,
    /// It is a call of an instance of the baseline that names nobody, by whom it calls and why.
    pub(crate) stray: Option<(u16, Why)>,
    /// What groups in shadow would have decided, if there are some.
    pub(crate) shadow: Option<Box<[Shadowed]>>,
}

/// What said the lane of a call, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Its header or baggage.
    Tag,
    /// The request that has its trace.
    Trace,
    /// The labels of the instance that makes it.
    Caller,
}

/// What a group in shadow would have decided.
pub(crate) struct Shadowed {
    /// `namespace/name`.
    pub(crate) group: Arc<str>,
    /// None: the baseline.
    pub(crate) lane: Option<Rc<LaneView>>,
}

impl Lanes {
    /// Those of a snapshot; what lanes bear is taken over from the lanes before.
    pub(crate) fn new(snapshot: &Snapshot, before: Option<&Lanes>) -> Lanes {
        let shadow = (!snapshot.shadow_lane_groups.is_empty()).then(|| {
            let before = before.and_then(|before| before.shadow.as_deref());
            Box::new(Lanes::of(&snapshot.shadow_lane_groups, before, true))
        });
        Lanes { shadow, ..Lanes::of(&snapshot.lane_groups, before, false) }
    }

    fn of(groups: &[Arc<LaneGroup>], before: Option<&Lanes>, is_shadow: bool) -> Lanes {
        let group = |group: &Arc<LaneGroup>| {
            let known = before.and_then(|before| {
                let is_same = |known: &&GroupLanes| known.lanes.first().is_some_and(|lane| lane.group == *group);
                before.groups.iter().find(is_same)
            });
            let lane = |index: usize| {
                let (name, group) = (group.lanes[index].name.clone(), group.clone());
                let remembered = trace::Lane::new(group.name.clone(), name.clone());
                Rc::new(LaneView { name, group, remembered, is_shadow })
            };
            GroupLanes {
                lanes: (0..group.lanes.len()).map(lane).collect(),
                bears: RefCell::new(known.map_or_else(Vec::new, |known| known.bears.borrow().clone())),
                looked_at: Cell::new(Duration::ZERO),
            }
        };
        Lanes { groups: groups.iter().map(group).collect(), all: groups.to_vec(), shadow: None }
    }

    /// Whether nobody knows of lanes, not even in shadow.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.shadow.is_none()
    }

    /// What an address does with a request: believes it, or decides for it; and what goes on says the outcome. `traced` looks
    /// up the trace of a call that says nothing itself.
    pub(crate) fn enter(
        &self,
        role: &LaneRole,
        head: &mut Head,
        client: IpAddr,
        dice: u64,
        ready: Ready<'_>,
        traced: impl FnOnce(&Head) -> Lookup,
    ) -> Found {
        match role {
            LaneRole::Strip => {
                let is_stripped = lane::strip(head, &self.all);
                Found { is_stripped, ..Found::default() }
            }
            LaneRole::Inherit { groups, own } => {
                let inherited = lane::inherit(groups, head);
                let found = inherited.lane.and_then(|(group, index)| self.find(&groups[group], index));
                let missed = own.filter(|own| inherited.lane != Some(*own));
                let missed = missed.and_then(|(group, index)| self.find(&groups[group], index));
                Found { lane: found, differs: inherited.differs, missed, ..Found::default() }
            }
            LaneRole::Call { groups, own } => {
                let inherited = lane::inherit(groups, head);
                let (lane, source) = of_call(groups, inherited.lane, *own, head, traced);
                if let Some((group, index)) = lane.filter(|_| source != Source::Tag) {
                    lane::tag(head, &groups[group], index);
                }
                let found = lane.and_then(|(group, index)| self.find(&groups[group], index));
                Found { lane: found, source: Some(source), differs: inherited.differs, ..Found::default() }
            }
            LaneRole::Decide(group) => {
                let is_stripped = lane::strip(head, &self.all);
                let guard = |index: usize| self.bears(group, index, ready);
                let decision = lane::decide(group, head, client, dice, guard);
                let issue = decision.issue.map(|issue| {
                    let mut answer = Head::default();
                    issue.set(&mut answer);
                    answer.get("set-cookie").unwrap_or_default().into()
                });
                let lane = decision.lane.and_then(|index| self.find(group, index));
                if let Some(index) = decision.lane {
                    lane::tag(head, group, index);
                }
                Found { lane, issue, is_stripped, ..Found::default() }
            }
        }
    }

    /// What groups in shadow would do with a request, asked before those that act: it is as it came.
    pub(crate) fn try_out(
        &self,
        role: &LaneRole,
        head: &Head,
        client: IpAddr,
        dice: u64,
        ready: Ready<'_>,
    ) -> Option<Box<[Shadowed]>> {
        let shadow = self.shadow.as_ref()?;
        Some(match role {
            LaneRole::Strip => Box::default(),
            LaneRole::Inherit { groups, .. } => {
                let inherited = lane::inherit(groups, head).lane;
                shadow.of_each(groups, inherited)
            }
            LaneRole::Call { groups, own } => {
                let inherited = lane::inherit(groups, head).lane;
                shadow.of_each(groups, of_call(groups, inherited, *own, head, |_| Lookup::Unknown).0)
            }
            LaneRole::Decide(group) => {
                let guard = |index: usize| shadow.bears(group, index, ready);
                // What a client says of lanes would have been removed before.
                let is_tagged = lane::is_tagged(head, &self.all) || lane::is_tagged(head, &shadow.all);
                let stripped = is_tagged.then(|| {
                    let mut stripped = head.clone();
                    lane::strip(&mut stripped, &self.all);
                    lane::strip(&mut stripped, &shadow.all);
                    stripped
                });
                // The cookie that it would be given is nobody's.
                let index = lane::decide(group, stripped.as_ref().unwrap_or(head), client, dice, guard).lane;
                let lane = index.and_then(|index| shadow.find(group, index));
                [Shadowed { group: group.name.clone(), lane }].into()
            }
        })
    }

    /// Takes out of an answer what only the mesh should know.
    pub(crate) fn leave(&self, role: &LaneRole, answer: &mut Head) {
        if !role.is_inside() && !self.all.is_empty() {
            lane::strip(answer, &self.all);
        }
    }

    /// What each of these groups says of a request that is in one lane at most.
    fn of_each(&self, groups: &[Arc<LaneGroup>], lane: Option<(usize, usize)>) -> Box<[Shadowed]> {
        let decided = groups.iter().enumerate().map(|(place, group)| {
            let index = lane.filter(|(found, _)| *found == place).map(|(_, index)| index);
            Shadowed { group: group.name.clone(), lane: index.and_then(|index| self.find(group, index)) }
        });
        decided.collect()
    }

    fn group(&self, group: &Arc<LaneGroup>) -> Option<&GroupLanes> {
        let index = self.all.iter().position(|known| Arc::ptr_eq(known, group) || known.name == group.name)?;
        self.groups.get(index)
    }

    fn find(&self, group: &Arc<LaneGroup>, index: usize) -> Option<Rc<LaneView>> {
        self.group(group)?.lanes.get(index).cloned()
    }

    /// The largest share of requests that a lane's ready instances bear: of all services that have it, the least.
    fn bears(&self, group: &Arc<LaneGroup>, index: usize, ready: Ready<'_>) -> f64 {
        let Ready { clusters, now, zone } = ready;
        let Some(lanes) = self.group(group) else { return 0.0 };
        let mut bears = lanes.bears.borrow_mut();
        if bears.len() != lanes.lanes.len() || now.saturating_sub(lanes.looked_at.get()) >= BEARS_KEPT {
            lanes.looked_at.set(now);
            let of_cluster = |lane: &LaneView, cluster: &Rc<ClusterView>| {
                let (base, lane) = match lane.is_shadow {
                    false => (0, cluster.lane(lane)),
                    true => cluster.shadow_lane(lane)?,
                };
                let (lane, base) = (cluster.ready_weight(lane?, now, zone), cluster.ready_weight(base, now, zone));
                Some(if lane == 0.0 { 0.0 } else { lane / (lane + base) })
            };
            let share_now = |lane: &Rc<LaneView>| {
                let shares = clusters.iter().filter_map(|cluster| of_cluster(lane, cluster));
                shares.fold(1.0, f64::min)
            };
            let next = |(place, lane): (usize, &Rc<LaneView>)| calm(bears.get(place).copied(), share_now(lane), now);
            *bears = lanes.lanes.iter().enumerate().map(next).collect();
        }
        bears.get(index).map_or(0.0, |bears| bears.share)
    }
}

/// The lane of a call that an instance makes, and what says so. Each group says for its lanes which sources count.
fn of_call(
    groups: &[Arc<LaneGroup>],
    inherited: Option<(usize, usize)>,
    own: Option<(usize, usize)>,
    head: &Head,
    traced: impl FnOnce(&Head) -> Lookup,
) -> (Option<(usize, usize)>, Source) {
    // A tag that names no lane says that it is in the baseline.
    if inherited.is_some() || lane::is_tagged(head, groups) {
        return (inherited, Source::Tag);
    }
    let own = own.filter(|(group, _)| groups[*group].by_caller);
    if groups.iter().any(|group| group.by_trace)
        && let Lookup::Lane(lane) = traced(head)
    {
        // A lane that was removed meanwhile is the baseline. That it is the baseline is said to the instance's own group.
        let place = lane.and_then(|lane| lane.place(groups));
        if place.or(own).is_none_or(|(group, _)| groups[group].by_trace) {
            return (place, Source::Trace);
        }
    }
    (own, Source::Caller)
}

/// What a lane is given: less at once, more only when that has held for a while.
fn calm(before: Option<Bears>, share: f64, now: Duration) -> Bears {
    match before {
        Some(before) if share > before.share && now.saturating_sub(before.at) < CALM => before,
        _ => Bears { share, at: now },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadLimits, parse_request};

    #[test]
    fn groups_in_shadow_decide_of_a_request_as_it_came() {
        let listener =
            |name: &str| format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: {name}}}");
        let group = |name: &str, spec: &str| {
            format!(
                "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
            )
        };
        let (edge, inside) = (listener("edge"), listener("inside"));
        let lanes = |user: &str, header: &str| {
            format!(
                "lanes: [{{name: blue, selector: {{lane: blue}}, match: [{{headers: [{{name: x-user, value: {user}}}]}}]}}, \
                 {{name: red, selector: {{lane: red}}, match: [{{headers: [{{name: {header}, value: red}}]}}]}}]"
            )
        };
        let rules = [
            "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}, spec: {gatewayClassName: \
             evenkeel, listeners: [{name: edge, port: 80, protocol: HTTP}, {name: inside, port: 81, protocol: HTTP}, \
             {name: other, port: 82, protocol: HTTP}]}}\n",
            &group("acts", &format!("entries: [{edge}], internal: [{inside}], {}", lanes("alice", "x-red"))),
            &group(
                "next",
                &format!(
                    "mode: shadow, entries: [{edge}], internal: [{inside}], tag: {{header: x-next}}, {}",
                    lanes("bob", "x-next")
                ),
            ),
        ];
        let source = config::Source { name: "rules.yaml".into(), bytes: rules.concat().into_bytes() };
        let snapshot = config::read(&[source]).expect("the rules are right").snapshot;
        let lanes = Lanes::new(&snapshot, None);
        let limits = HeadLimits { bytes_max: 4096, fields_max: 16 };
        let ready = Ready { clusters: &[], now: Duration::ZERO, zone: None };
        // What acts decides beside it, of the same request; `-` is the baseline.
        for (bind, fields, expected, in_force) in [
            (0, "", &["-"][..], "-"),
            (0, "x-user: bob\r\n", &["blue"], "-"),
            (0, "x-user: alice\r\n", &["-"], "blue"),
            // Tags of clients would be gone, its own and those of the group in force.
            (0, "x-next: red\r\n", &["-"], "-"),
            (0, "x-next: red\r\nx-user: bob\r\n", &["blue"], "-"),
            (0, "x-evenkeel-lane: red\r\nbaggage: evenkeel.lane=red\r\n", &["-"], "-"),
            // Inside they are believed.
            (1, "x-next: red\r\nx-evenkeel-lane: blue\r\n", &["red"], "blue"),
            (1, "x-user: bob\r\n", &["-"], "-"),
            (1, "baggage: evenkeel.lane=red\r\n", &["red"], "red"),
            // It has no part in other listeners.
            (2, "x-next: red\r\nx-user: bob\r\n", &[], "-"),
        ] {
            let mut head = Head::default();
            let text = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
            parse_request(text.as_bytes(), &mut 0, limits, &mut head).expect("a head");
            let (bind, client, before) = (&snapshot.binds[bind], IpAddr::from([10, 0, 0, 1]), head.clone());
            let name = |lane: &Option<Rc<LaneView>>| lane.as_ref().map_or("-".into(), |lane| lane.name.to_string());
            let tried = lanes.try_out(&bind.shadow_lanes, &head, client, 7, ready);
            let tried: Vec<String> = tried.iter().flatten().map(|decided| name(&decided.lane)).collect();
            assert_eq!(tried, expected, "{fields:?}");
            assert_eq!(format!("{head:?}"), format!("{before:?}"), "nothing is changed");
            let found = lanes.enter(&bind.lanes, &mut head, client, 7, ready, |_| panic!("nobody's call"));
            assert_eq!(name(&found.lane), in_force, "{fields:?}");
        }
        // The tag of a group in shadow stays where it is.
        let mut answer = Head::default();
        answer.add("x-next", b"red");
        lanes.leave(&LaneRole::Strip, &mut answer);
        assert_eq!(answer.get("x-next"), Some(&b"red"[..]));
    }

    #[test]
    fn a_call_is_in_the_lane_of_its_tag_of_its_trace_or_of_its_caller() {
        let group = |name: &str, order: &str| {
            format!(
                "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {{name: {name}}}, spec: {{\
                 tag: {{header: x-{name}}}, propagation: {{order: [{order}]}}, \
                 lanes: [{{name: {name}-blue, selector: {{lane: {name}-blue}}}}]}}}}\n"
            )
        };
        // Both may be in force beside each other.
        let rules = [
            group("all", "header, traceMap, callerLabel"),
            group("traced", "header, traceMap"),
            group("own", "header, callerLabel"),
        ];
        let source = config::Source { name: "rules.yaml".into(), bytes: rules.concat().into_bytes() };
        let snapshot = config::read(&[source]).expect("the rules are right").snapshot;
        let groups = |names: &str| -> Vec<Arc<LaneGroup>> {
            let is_named =
                |name: &str| snapshot.lane_groups.iter().find(|group| *group.name == format!("default/{name}"));
            names.split(' ').map(|name| is_named(name).expect("a group").clone()).collect()
        };
        let limits = HeadLimits { bytes_max: 4096, fields_max: 16 };
        // Groups, a field of the call, what its trace says, the lane of the instance by its group; and what comes of it.
        for (names, field, trace, own, expected) in [
            ("all", "x-all: all-blue", "all-blue", "", "all-blue Tag"),
            ("all", "x-all: gone", "all-blue", "all", "- Tag"),
            ("all", "a: b", "all-blue", "", "all-blue Trace"),
            ("all", "a: b", "-", "all", "- Trace"),
            ("all", "a: b", "gone", "all", "- Trace"),
            ("all", "a: b", "unknown", "all", "all-blue Caller"),
            ("all", "a: b", "ambiguous", "all", "all-blue Caller"),
            ("all", "a: b", "unknown", "", "- Caller"),
            ("traced", "a: b", "unknown", "traced", "- Caller"),
            ("traced", "a: b", "traced-blue", "traced", "traced-blue Trace"),
            ("own", "a: b", "not asked", "own", "own-blue Caller"),
            ("own", "a: b", "not asked", "", "- Caller"),
            ("all own", "a: b", "own-blue", "all", "all-blue Caller"),
            ("all own", "a: b", "-", "own", "own-blue Caller"),
            ("all own", "a: b", "all-blue", "own", "all-blue Trace"),
        ] {
            let groups = groups(names);
            let mut head = Head::default();
            let text = format!("GET / HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n");
            parse_request(text.as_bytes(), &mut 0, limits, &mut head).expect("a head");
            let own = groups.iter().position(|group| *group.name == format!("default/{own}")).map(|place| (place, 0));
            let traced = |_: &Head| match trace {
                "not asked" => panic!("no group looks at traces"),
                "unknown" => Lookup::Unknown,
                "ambiguous" => Lookup::Ambiguous,
                "-" => Lookup::Lane(None),
                name => {
                    let group = format!("default/{}", name.trim_end_matches("-blue"));
                    Lookup::Lane(Some(trace::Lane::new(group.into(), name.into())))
                }
            };
            let (lane, source) = of_call(&groups, lane::inherit(&groups, &head).lane, own, &head, traced);
            let lane = lane.map_or("-", |(group, lane)| &groups[group].lanes[lane].name);
            assert_eq!(format!("{lane} {source:?}"), expected, "{names}: {field}, {trace}, {own:?}");
        }
    }

    #[test]
    fn shares_fall_at_once_and_grow_when_it_is_calm() {
        let s = Duration::from_secs;
        let mut bears = None;
        // When, what is ready, and what is given.
        for (at, share, expected) in [
            (0, 0.5, 0.5),
            (1, 0.2, 0.2),
            (2, 0.5, 0.2),
            (5, 0.5, 0.2),
            (6, 0.5, 0.5),
            (7, 0.5, 0.5),
            (8, 0.0, 0.0),
            (9, 0.1, 0.0),
            (10, 0.0, 0.0),
            (14, 0.1, 0.0),
            (15, 0.1, 0.1),
        ] {
            bears = Some(calm(bears, share, s(at)));
            assert_eq!(bears.map(|bears| bears.share), Some(expected), "at {at}");
        }
    }
}
