//! A worker's own view of the snapshot: the same configuration with what this worker keeps beside it, pooled
//! connections and counters. A new revision is a new view that takes over the state of what stayed. Hot.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::Snapshot;
use config::route::Found;
use config::snapshot::{Backends, Bind, Cluster, Group, ListenerSettings, Rule};
use filters::rules::Rule as Guard;

use crate::balance::{Balancer, Load, Question, below};
use crate::choice::{self, Choice, Standing};
use crate::cluster::{ClusterState, ClusterStates, EndpointState};
use crate::credits::Credits;
use crate::guards::{self, Guards};
use crate::hop;
use crate::lanes::{LaneView, Lanes};
use crate::pool::{Link, Pool};
use crate::shadow::{ListenerTrial, TrafficTrial, TrialState};
use crate::stats::{Series, SeriesKey, WorkerStats};

/// One revision on one worker.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The settings of each bind; a worker's own, since counting references to what all share costs all of them.
    pub(crate) settings: Vec<Rc<ListenerView>>,
    /// The rules of each bind by their number, for the same reason; each since it was first met.
    rules: Vec<Vec<OnceCell<Rc<RuleView>>>>,
    pub(crate) clusters: Vec<Rc<ClusterView>>,
    pub(crate) lanes: Lanes,
    guards: Arc<Guards>,
    by_name: HashMap<Arc<str>, usize, foldhash::fast::RandomState>,
    /// Where requests are counted that reached no cluster.
    pub(crate) nowhere: Rc<SeriesCache>,
}

/// What an address does about clients, and what a policy in shadow would do.
pub(crate) struct ListenerView {
    settings: ListenerSettings,
    pub(crate) trial: Option<ListenerTrial>,
}

impl std::ops::Deref for ListenerView {
    type Target = ListenerSettings;
    fn deref(&self) -> &ListenerSettings {
        &self.settings
    }
}

/// A rule on one worker, where a request finds it with one step. Streams may outlive the snapshot and keep only this.
pub(crate) struct RuleView {
    rule: Rule,
    pub(crate) protection: Box<[Guard]>,
    /// Some of its requests are copied.
    pub(crate) is_mirrored: bool,
}

impl std::ops::Deref for RuleView {
    type Target = Rule;
    fn deref(&self) -> &Rule {
        &self.rule
    }
}

/// A cluster on one worker. One that a new revision does not change is the same in its view.
pub(crate) struct ClusterView {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) state: Arc<ClusterState>,
    pub(crate) endpoints: Vec<Rc<EndpointView>>,
    /// Those of lanes, and after them those of lanes in shadow.
    groups: Vec<GroupView>,
    /// At which turn round robin begins here: workers differ, so that few requests do not all meet at the first.
    first_turn: u64,
    pub(crate) protection: Box<[Guard]>,
    /// Whether some of them watch each endpoint.
    pub(crate) guards_endpoints: bool,
    /// A policy in shadow.
    pub(crate) trial: Option<TrafficTrial>,
    /// What this worker has of the process's bound on requests.
    pub(crate) credits: Credits,
    /// What is said with each request, where proxies of the mesh stand before its endpoints.
    pub(crate) hop: Option<Box<[u8]>>,
    pub(crate) series: Rc<SeriesCache>,
}

/// An endpoint of a cluster on one worker.
pub(crate) struct EndpointView {
    pub(crate) address: SocketAddr,
    /// Which process it is, if a proxy of ours stands before it; else 0.
    pub(crate) incarnation: u64,
    pub(crate) pool: Pool,
    pub(crate) load: Load,
    pub(crate) state: Arc<EndpointState>,
    /// The newest view no longer has it: its connections are closed instead of pooled.
    pub(crate) removed: Cell<bool>,
}

/// How requests of one lane are shared now.
struct GroupView {
    made: RefCell<Rc<Made>>,
}

/// A choice, ready to be used by requests.
#[derive(Clone)]
struct Made {
    /// That of the cluster when it was made.
    epoch: u64,
    until: Duration,
    ready_weight: f64,
    tiers: Vec<(f64, Balancer)>,
}

/// The series of one destination, found again without asking the registry.
pub(crate) struct SeriesCache {
    reporter: &'static str,
    service: Arc<str>,
    namespace: Arc<str>,
    known: RefCell<Vec<Arc<Series>>>,
}

impl SeriesCache {
    fn new(service: Arc<str>, namespace: Arc<str>, reporter: &'static str) -> SeriesCache {
        SeriesCache { reporter, service, namespace, known: RefCell::default() }
    }

    /// The series of a status and a flag: few for each destination, the usual one first.
    pub(crate) fn get(
        &self,
        stats: &WorkerStats,
        lane: Option<&Arc<str>>,
        status: u16,
        flag: &'static str,
    ) -> Arc<Series> {
        let mut known = self.known.borrow_mut();
        let is_it = |key: &SeriesKey| key.status == status && key.flag == flag && key.lane.as_ref() == lane;
        if let Some(series) = known.iter().find(|series| is_it(&series.key)) {
            return series.clone();
        }
        let (service, namespace) = (self.service.clone(), self.namespace.clone());
        let key = SeriesKey { reporter: self.reporter, service, namespace, lane: lane.cloned(), status, flag };
        let series = stats.series(key);
        known.push(series.clone());
        series
    }
}

/// What a worker's views are made with.
pub(crate) struct Making<'m> {
    pub(crate) states: &'m ClusterStates,
    pub(crate) workers: usize,
    pub(crate) now: Duration,
    /// Another for each worker.
    pub(crate) first_turn: u64,
    /// What this proxy stands for.
    pub(crate) own: &'m str,
}

/// What an endpoint is picked for.
pub(crate) struct Wanted<'w> {
    /// The place of the lane's group.
    pub(crate) group: usize,
    pub(crate) now: Duration,
    /// The request's, where the balance is by hash.
    pub(crate) hash: Option<u64>,
    /// Taken only if there is no other.
    pub(crate) tried: &'w [SocketAddr],
    /// Where this process stands.
    pub(crate) zone: Option<&'w str>,
}

impl View {
    /// The view of a worker that has no configuration.
    pub(crate) fn empty() -> View {
        View {
            snapshot: Arc::default(),
            settings: Vec::new(),
            rules: Vec::new(),
            clusters: Vec::new(),
            lanes: Lanes::new(&Snapshot::default(), None),
            guards: Arc::default(),
            by_name: HashMap::default(),
            nowhere: Rc::new(SeriesCache::new("unknown".into(), "unknown".into(), "source")),
        }
    }

    /// The view of a snapshot, taking over from the view before it. What vanished is marked, and its idle
    /// connections are closed here.
    pub(crate) fn new(snapshot: Arc<Snapshot>, guards: Arc<Guards>, before: &View, making: &Making<'_>) -> View {
        let cluster = |cluster: &Arc<Cluster>| match before.cluster(&cluster.name) {
            Some(same) if Arc::ptr_eq(&same.cluster, cluster) || same.cluster == *cluster => same,
            known => Rc::new(ClusterView::new(cluster.clone(), &guards, known.as_deref(), making)),
        };
        let clusters: Vec<Rc<ClusterView>> = snapshot.clusters.iter().map(cluster).collect();
        let by_name: HashMap<_, _, _> =
            clusters.iter().enumerate().map(|(index, cluster)| (cluster.cluster.name.clone(), index)).collect();
        for gone in before.clusters.iter().filter(|known| !by_name.contains_key(&known.cluster.name)) {
            gone.endpoints.iter().for_each(|endpoint| endpoint.remove());
        }
        let settings = |bind: &Bind| {
            let trial = bind.shadow.as_ref();
            let trial = trial.and_then(|shadow| Some(ListenerTrial::new(shadow, guards.tally(&shadow.name)?.clone())));
            Rc::new(ListenerView { settings: ListenerSettings::clone(&bind.settings), trial })
        };
        let settings = snapshot.binds.iter().map(settings).collect();
        let rules = |bind: &Bind| vec![OnceCell::new(); bind.table.rules().len()];
        let rules = snapshot.binds.iter().map(rules).collect();
        let lanes = Lanes::new(&snapshot, Some(&before.lanes));
        View { snapshot, settings, rules, clusters, lanes, guards, by_name, nowhere: before.nowhere.clone() }
    }

    /// A rule that was found in a bind's table.
    pub(crate) fn rule(&self, bind: usize, found: Found<'_>) -> Rc<RuleView> {
        let view = || {
            let protection = self.guards.of(&found.rule.policies);
            let of_targets = found.rule.backends.choices.iter().flat_map(|choice| &choice.mirrors);
            let is_mirrored = found.rule.mirrors.iter().chain(of_targets).next().is_some();
            Rc::new(RuleView { rule: Rule::clone(found.rule), protection, is_mirrored })
        };
        self.rules[bind][found.number].get_or_init(view).clone()
    }

    /// The cluster of that name, if it is still there.
    pub(crate) fn cluster(&self, name: &str) -> Option<Rc<ClusterView>> {
        self.by_name.get(name).map(|index| self.clusters[*index].clone())
    }

    /// The endpoints of all clusters.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Rc<EndpointView>> {
        self.clusters.iter().flat_map(|cluster| &cluster.endpoints)
    }
}

impl EndpointView {
    /// The newest view no longer has it.
    fn remove(&self) {
        self.removed.set(true);
        self.pool.clear();
    }
}

impl ClusterView {
    fn new(cluster: Arc<Cluster>, guards: &Guards, before: Option<&ClusterView>, making: &Making<'_>) -> ClusterView {
        let (state, states) = making.states.join(&cluster, making.workers, making.now);
        let mut known: HashMap<(SocketAddr, u64), Rc<EndpointView>, foldhash::fast::RandomState> = before
            .iter()
            .flat_map(|before| before.endpoints.iter())
            .map(|endpoint| ((endpoint.address, endpoint.incarnation), endpoint.clone()))
            .collect();
        let endpoints = cluster.endpoints.iter().zip(states).map(|(endpoint, state)| {
            known.remove(&(endpoint.address, endpoint.incarnation)).unwrap_or_else(|| {
                Rc::new(EndpointView {
                    address: endpoint.address,
                    incarnation: endpoint.incarnation,
                    pool: Pool::default(),
                    load: Load::default(),
                    state,
                    removed: Cell::new(false),
                })
            })
        });
        let endpoints: Vec<_> = endpoints.collect();
        known.values().for_each(|gone| gone.remove());
        state.connections.bound(cluster.settings.bounds.connections_max);
        for endpoint in endpoints.iter().filter(|_| state.connections.is_bounded()) {
            endpoint.pool.shrink(&state.connections);
        }
        let trial = cluster.shadow.as_ref().and_then(|shadow| {
            state.trial.get_or_init(|| Box::new(TrialState::new(making.workers)));
            Some(TrafficTrial::new(shadow, guards.tally(&shadow.name)?.clone()))
        });
        let is_of_mesh = cluster.endpoints.iter().any(|endpoint| endpoint.incarnation != 0);
        let made = || Rc::new(Made { epoch: 0, until: Duration::ZERO, ready_weight: 0.0, tiers: Vec::new() });
        ClusterView {
            first_turn: making.first_turn,
            protection: guards.of(&cluster.policies),
            guards_endpoints: cluster.policies.iter().any(|policy| guards::is_per_endpoint(policy)),
            endpoints,
            groups: cluster
                .groups
                .iter()
                .chain(&cluster.shadow_groups)
                .map(|_| GroupView { made: RefCell::new(made()) })
                .collect(),
            trial,
            credits: Credits::new(making.workers),
            hop: is_of_mesh.then(|| hop::value(making.own, &cluster.namespace, &cluster.service)),
            series: match before {
                Some(before) => before.series.clone(),
                None => {
                    let reporter = if cluster.is_app { "destination" } else { "source" };
                    Rc::new(SeriesCache::new(cluster.service.clone(), cluster.namespace.clone(), reporter))
                }
            },
            state,
            cluster,
        }
    }

    /// The group of a lane that this cluster has instances of.
    pub(crate) fn lane(&self, lane: &LaneView) -> Option<usize> {
        let is_its = |group: &Group| group.lane.as_ref() == Some(&lane.name);
        let place = || self.cluster.groups.iter().position(is_its);
        (*self.cluster.namespace == *lane.namespace()).then(place).flatten()
    }

    /// If groups in shadow acted: the group of the baseline, and that of a lane that this cluster has instances of. None:
    /// the lane is of another namespace.
    pub(crate) fn shadow_lane(&self, lane: &LaneView) -> Option<(usize, Option<usize>)> {
        let is_its = |group: &Group| group.lane.as_ref() == Some(&lane.name);
        let before = self.cluster.groups.len();
        let place = || self.cluster.shadow_groups.iter().position(is_its).map(|place| before + place);
        (*self.cluster.namespace == *lane.namespace()).then(|| (before, place()))
    }

    /// One of those of lanes, and after them those of lanes in shadow.
    pub(crate) fn group(&self, place: usize) -> &Group {
        let groups = &self.cluster.groups;
        groups.get(place).unwrap_or_else(|| &self.cluster.shadow_groups[place - groups.len()])
    }

    /// The weight of a group's endpoints that are ready.
    pub(crate) fn ready_weight(&self, group: usize, now: Duration, zone: Option<&str>) -> f64 {
        self.made(group, now, zone).ready_weight
    }

    /// The endpoint for one attempt; None if the group has none.
    pub(crate) fn pick(&self, wanted: &Wanted<'_>, dice: impl FnMut() -> u64) -> Option<&Rc<EndpointView>> {
        self.pick_of(&self.made(wanted.group, wanted.now, wanted.zone), wanted, dice)
    }

    /// As `pick` would, without taking anybody's turn.
    pub(crate) fn would_pick(&self, wanted: &Wanted<'_>, dice: impl FnMut() -> u64) -> Option<&Rc<EndpointView>> {
        self.pick_of(&Made::clone(&self.made(wanted.group, wanted.now, wanted.zone)), wanted, dice)
    }

    /// Who is used of a group, and who is not.
    pub(crate) fn choice(&self, group_place: usize, now: Duration, zone: Option<&str>) -> Choice {
        let standing = |member: u32| Standing::of(&self.endpoints[member as usize].state);
        let members = &self.group(group_place).members;
        choice::choose(&self.cluster.endpoints, members, standing, &self.cluster.settings.usage, zone, now)
    }

    fn pick_of(&self, made: &Made, wanted: &Wanted<'_>, mut dice: impl FnMut() -> u64) -> Option<&Rc<EndpointView>> {
        let &Wanted { now, hash, tried, .. } = wanted;
        let group = self.group(wanted.group);
        let tier = match &made.tiers[..] {
            [only] => only,
            several => {
                let mut point = dice() as f64 / u64::MAX as f64;
                several
                    .iter()
                    .find(|(share, _)| {
                        point -= share;
                        point < 0.0
                    })
                    .or(several.last())?
            }
        };
        let is_tried = |member| tried.contains(&self.endpoints[member as usize].address);
        let is_retry = !tried.is_empty();
        let question = Question { now, hash: hash.map(|hash| (hash, group)), is_tried: &is_tried, is_retry };
        let load = |member| &self.endpoints[member as usize].load;
        if is_retry {
            // One attempt is enough to find out who takes connections again.
            let is_doubtful = |member| is_tried(member) || self.endpoints[member as usize].state.is_doubtful();
            let member = tier.1.pick(&Question { is_tried: &is_doubtful, ..question }, load, &mut dice);
            if !is_doubtful(member) {
                return Some(&self.endpoints[member as usize]);
            }
        }
        let member = tier.1.pick(&question, load, dice);
        Some(&self.endpoints[member as usize])
    }

    /// The endpoint of an address, if it is still there.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Option<Rc<EndpointView>> {
        self.endpoints.iter().find(|endpoint| endpoint.address == address).cloned()
    }

    /// One idle connection to any of the endpoints.
    pub(crate) fn take_idle(&self, now: Duration) -> Option<(&Rc<EndpointView>, Link)> {
        self.endpoints.iter().find_map(|endpoint| Some((endpoint, endpoint.pool.take(now)?)))
    }

    /// Hands idle connections to requests of any worker that wait for one.
    pub(crate) fn hand_over_idle(&self, now: Duration) {
        while self.state.connections.waiting() > 0
            && let Some((endpoint, Link { socket, slot })) = self.take_idle(now)
        {
            if let Some(slot) = slot {
                // Nobody waits any more: then nobody misses this one either.
                let _ = slot.hand_over(socket, endpoint.address);
            }
        }
    }

    /// The choice that is right now.
    fn made(&self, group: usize, now: Duration, zone: Option<&str>) -> Rc<Made> {
        let epoch = self.state.epoch();
        let before = self.groups[group].made.borrow().clone();
        if before.epoch == epoch && now < before.until {
            return before;
        }
        let cluster = &self.cluster;
        let choice = self.choice(group, now, zone);
        let tiers =
            choice.tiers.into_iter().filter(|tier| !tier.members.is_empty()).enumerate().map(|(index, tier)| {
                let before = before.tiers.get(index).map(|(_, balancer)| balancer);
                (tier.share, Balancer::new(cluster.settings.balance, &tier.members, before, self.first_turn))
            });
        let made =
            Rc::new(Made { epoch, until: choice.until, ready_weight: choice.ready_weight, tiers: tiers.collect() });
        self.groups[group].made.replace(made.clone());
        made
    }
}

/// The index of a rule's target for one request, by weight; None if the rule has none with a weight above 0.
pub(crate) fn choose(backends: &Backends, dice: u64) -> Option<usize> {
    match backends.choices.len() {
        0 => None,
        1 => Some(0),
        _ => Some(by_weight(backends.choices.iter().map(|choice| choice.weight), backends.weight_total, dice)),
    }
}

/// The index in whose share of `total` the dice fall.
fn by_weight(weights: impl Iterator<Item = u32>, total: u64, dice: u64) -> usize {
    let mut point = below(total, dice);
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        last = index;
        if point < u64::from(weight) {
            break;
        }
        point -= u64::from(weight);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_weights() {
        let check = |weights: &[u32]| {
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut counts = vec![0u64; weights.len()];
            let mut dice = 0u64;
            for _ in 0..100_000 {
                // The golden ratio spreads evenly over all 64 bits.
                dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
                counts[by_weight(weights.iter().copied(), total, dice)] += 1;
            }
            for (weight, count) in weights.iter().zip(&counts) {
                let expected = 100_000 * u64::from(*weight) / total;
                assert!(count.abs_diff(expected) <= 50, "{weights:?}: {counts:?}");
            }
        };
        check(&[1, 1]);
        check(&[9, 1]);
        check(&[1, 2, 3, 4]);
        check(&[99, 1, 0]);
        check(&[1_000_000, 1]);
    }
}
