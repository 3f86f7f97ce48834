//! Lanes: what puts a request into one, and which endpoints are in it. How a request is decided on is `filters`'
//! business. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::route::Expression;
use crate::snapshot::{Endpoint, HashKey};

/// What an address does about lanes.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LaneRole {
    /// No LaneGroup knows it: tags that a client sent are removed, and requests have no lane.
    #[default]
    Strip,
    /// An entry: what the client says of lanes is removed, and this group decides.
    Decide(Arc<LaneGroup>),
    /// Calls between services: their tag is believed, of any of these groups.
    Inherit {
        /// The groups.
        groups: Vec<Arc<LaneGroup>>,
        /// That of the instance to which all of them go, as places of the group and of the lane in it; None: the baseline, or
        /// they go to many.
        own: Option<(usize, usize)>,
    },
    /// Calls that one instance makes: their tag is believed, of any of these groups; one without a tag is in the lane of
    /// the request that has its trace, else in the instance's own.
    Call {
        /// Of its namespace.
        groups: Vec<Arc<LaneGroup>>,
        /// Places of the group and of the lane in it; None: it is in the baseline.
        own: Option<(usize, usize)>,
    },
}

impl LaneRole {
    /// Whether what requests say of the mesh is believed.
    pub fn is_inside(&self) -> bool {
        matches!(self, LaneRole::Inherit { .. } | LaneRole::Call { .. })
    }

    /// What a trace that is started there is written in, beside `traceparent`: all that any of its groups wants.
    pub fn trace_headers(&self) -> TraceHeaders {
        match self {
            LaneRole::Strip => TraceHeaders::default(),
            LaneRole::Decide(group) => group.trace_headers,
            LaneRole::Inherit { groups, .. } | LaneRole::Call { groups, .. } => {
                groups.iter().map(|group| group.trace_headers).fold(TraceHeaders::default(), |all, one| TraceHeaders {
                    b3: all.b3 | one.b3,
                    x_b3: all.x_b3 | one.x_b3,
                    sw8: all.sw8 | one.sw8,
                })
            }
        }
    }
}

/// Forms of a trace beside `traceparent`, for applications that pass on no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceHeaders {
    /// B3 in one header.
    pub b3: bool,
    /// B3 in several.
    pub x_b3: bool,
    /// SkyWalking.
    pub sw8: bool,
}

/// LaneGroup.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneGroup {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// The namespace whose services it is about: a lane never leaves it.
    pub namespace: Arc<str>,
    /// What instances that carry no other lane are called.
    pub baseline: Arc<str>,
    /// What becomes of a request whose lane has no ready instance of a service.
    pub isolation: Isolation,
    /// The request header that carries the lane's name, in lower case.
    pub header: Box<str>,
    /// The member of `baggage` (W3C) that does, too; None: none.
    pub baggage: Option<Box<str>>,
    /// A call without a tag may be in the lane of the request that has its trace.
    pub by_trace: bool,
    /// And else in that of the instance that makes it.
    pub by_caller: bool,
    /// Entries go on with the traces of clients, who do not repeat them.
    pub trusts_traces: bool,
    /// What a trace that is started is written in, beside `traceparent`.
    pub trace_headers: TraceHeaders,
    /// In the order of precedence.
    pub lanes: Vec<Lane>,
}

/// What becomes of a request whose lane has no ready instance of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// It goes to the baseline, and back into the lane at the next service that has it.
    #[default]
    Permissive,
    /// It is answered 503.
    Strict,
}

/// One lane.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Unique in its namespace.
    pub name: Arc<str>,
    /// The labels of its instances, at least one.
    pub selector: BTreeMap<Box<str>, Box<str>>,
    /// Requests for which one of these holds wholly are in it.
    pub matches: Vec<LaneMatch>,
    /// Of the requests that no match of any lane took.
    pub share: Option<Share>,
}

/// All of its conditions hold; at least one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LaneMatch {
    /// Header fields, cookies and query parameters.
    pub values: Vec<(HashKey, Text)>,
    /// The path.
    pub path: Option<PathTest>,
    /// One of these methods; empty: any.
    pub methods: Vec<Box<str>>,
    /// The client's address is in one of these; empty: any.
    pub sources: Vec<ipnet::IpNet>,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// Exactly this.
    Exact(Box<str>),
    /// Matched as a whole by this.
    Regex(Expression),
}

/// What a path must be.
#[derive(Debug, Clone, PartialEq)]
pub enum PathTest {
    /// Exactly this, or matched as a whole.
    Is(Text),
    /// It begins with these segments.
    Prefix(Box<str>),
}

/// A share of requests, the same ones each time.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Of 10,000.
    pub basis_points: u32,
    /// What makes a client stay in or out.
    pub sticky_by: HashKey,
    /// What becomes of a request that lacks it.
    pub on_missing: OnMissingKey,
    /// `consistent::hash` of the salt and of the lane's name, mixed into that of the key: others choose other clients.
    pub seed: [u64; 2],
    /// Never more than the lane's part of ready weight.
    pub capacity_guard: bool,
}

/// What becomes of a request without a sticky key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissingKey {
    /// It stays out of the lane.
    #[default]
    Skip,
    /// It is decided by the dice, each time anew.
    Random,
    /// Its key is made here, and given to the client as a cookie with the answer; only for cookies.
    Issue,
}

/// The label of an instance that names its lane to people and tools.
pub(crate) const LABEL: &str = "lane";

/// Which endpoints serve whom in one namespace, by their labels.
#[derive(Debug, Default)]
pub(crate) struct Membership<'l> {
    /// What endpoints of no lane may be labelled with.
    baselines: HashSet<&'l str>,
    lanes: Vec<(&'l str, Selector<'l>)>,
    /// Lanes by the first label of their selector: an endpoint is compared with few of ten thousand.
    by_label: HashMap<(&'l str, &'l str), Vec<usize>>,
}

/// Labels, all of which an instance has.
type Selector<'l> = Vec<(&'l str, &'l str)>;

impl<'l> Membership<'l> {
    /// That of a namespace's groups in a snapshot.
    pub(crate) fn of(namespace: &str, groups: &'l [Arc<LaneGroup>]) -> Membership<'l> {
        let mut membership = Membership::default();
        for group in groups.iter().filter(|group| *group.namespace == *namespace) {
            membership.add_baseline(&group.baseline);
            for lane in &group.lanes {
                membership.add(&lane.name, lane.selector.iter().map(|(key, value)| (&**key, &**value)).collect());
            }
        }
        membership
    }

    pub(crate) fn add_baseline(&mut self, name: &'l str) {
        self.baselines.insert(name);
    }

    pub(crate) fn add(&mut self, name: &'l str, selector: Selector<'l>) {
        if let Some(first) = selector.first() {
            self.by_label.entry(*first).or_default().push(self.lanes.len());
        }
        self.lanes.push((name, selector));
    }

    pub(crate) fn is_baseline(&self, name: &str) -> bool {
        self.baselines.contains(name)
    }

    /// The lanes whose selectors hold for an instance, in their order.
    pub(crate) fn taking<'a, I: Iterator<Item = (&'a str, &'a str)>>(
        &self,
        labels: impl Fn() -> I,
        get: impl Fn(&str) -> Option<&'a str>,
    ) -> Vec<usize> {
        let candidates = labels().filter_map(|label| self.by_label.get(&label)).flatten().copied();
        let holds = |lane: &usize| self.lanes[*lane].1.iter().all(|(key, value)| get(key) == Some(value));
        let mut found: Vec<usize> = candidates.filter(holds).collect();
        found.sort_unstable();
        found
    }

    /// The places of the endpoints of the baseline, then of those of each lane that has any.
    pub(crate) fn members(&self, endpoints: &[Endpoint]) -> Vec<(Option<Arc<str>>, Vec<u32>)> {
        if self.baselines.is_empty() {
            return vec![(None, (0..endpoints.len() as u32).collect())];
        }
        let mut baseline = Vec::new();
        let mut lanes: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (index, endpoint) in (0..).zip(endpoints) {
            let labels = || endpoint.labels.iter().map(|(key, value)| (&**key, &**value));
            let of = self.taking(labels, |key| endpoint.labels.get(key).map(|value| &**value));
            if of.is_empty() && endpoint.labels.get(LABEL).is_none_or(|name| self.is_baseline(name)) {
                baseline.push(index);
            }
            of.into_iter().for_each(|lane| lanes.entry(lane).or_default().push(index));
        }
        let lanes = lanes.into_iter().map(|(lane, members)| (Some(self.lanes[lane].0.into()), members));
        std::iter::once((None, baseline)).chain(lanes).collect()
    }
}
