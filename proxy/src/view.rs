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
use config::snapshot::{Backends, Bind, Cluster, ListenerSettings, Rule};

use crate::balance::{Balancer, Load, below};
use crate::pool::Pool;
use crate::stats::{Series, SeriesKey, WorkerStats};

/// One revision on one worker.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The settings of each bind; a worker's own, since counting references to what all share costs all of them.
    pub(crate) settings: Vec<Rc<ListenerSettings>>,
    /// The rules of each bind by their number, for the same reason; each since it was first met.
    rules: Vec<Vec<OnceCell<Rc<RuleView>>>>,
    pub(crate) clusters: Vec<Rc<ClusterView>>,
    /// Where requests are counted that reached no cluster.
    pub(crate) nowhere: Rc<SeriesCache>,
    endpoints: HashMap<SocketAddr, Rc<EndpointView>, foldhash::fast::RandomState>,
}

/// A rule on one worker, where a request finds it with one step. Streams may outlive the snapshot and keep only this.
pub(crate) struct RuleView(Rule);

impl std::ops::Deref for RuleView {
    type Target = Rule;
    fn deref(&self) -> &Rule {
        &self.0
    }
}

/// A cluster on one worker.
pub(crate) struct ClusterView {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoints: Vec<Rc<EndpointView>>,
    balancer: Balancer,
    pub(crate) series: SeriesCache,
}

/// An endpoint on one worker. The same address in two clusters is one endpoint: its connections fit both.
pub(crate) struct EndpointView {
    pub(crate) address: SocketAddr,
    pub(crate) pool: Pool,
    pub(crate) load: Load,
    /// The newest view no longer has it: its connections are closed instead of pooled.
    pub(crate) removed: Cell<bool>,
}

/// The series of one destination, found again without asking the registry.
pub(crate) struct SeriesCache {
    service: Arc<str>,
    namespace: Arc<str>,
    known: RefCell<Vec<Arc<Series>>>,
}

impl SeriesCache {
    fn new(service: Arc<str>, namespace: Arc<str>) -> SeriesCache {
        SeriesCache { service, namespace, known: RefCell::default() }
    }

    /// The series of a status and a flag: few for each destination, the usual one first.
    pub(crate) fn get(&self, stats: &WorkerStats, status: u16, flag: &'static str) -> Arc<Series> {
        let mut known = self.known.borrow_mut();
        if let Some(series) = known.iter().find(|series| series.key.status == status && series.key.flag == flag) {
            return series.clone();
        }
        let key = SeriesKey { service: self.service.clone(), namespace: self.namespace.clone(), status, flag };
        let series = stats.series(key);
        known.push(series.clone());
        series
    }
}

impl View {
    /// The view of a worker that has no configuration.
    pub(crate) fn empty() -> View {
        View::new(Arc::new(Snapshot::default()), None, || 0)
    }

    /// The view of a snapshot, taking over from the view before it. What vanished is marked, and its idle
    /// connections are closed here.
    pub(crate) fn new(snapshot: Arc<Snapshot>, before: Option<&View>, dice: impl Fn() -> u64) -> View {
        let mut endpoints: HashMap<SocketAddr, Rc<EndpointView>, _> = HashMap::default();
        let mut clusters = Vec::with_capacity(snapshot.clusters.len());
        for cluster in &snapshot.clusters {
            let views = cluster.endpoints.iter().map(|endpoint| {
                let known = before.and_then(|before| before.endpoints.get(&endpoint.address));
                endpoints
                    .entry(endpoint.address)
                    .or_insert_with(|| known.cloned().unwrap_or_else(|| Rc::new(EndpointView::new(endpoint.address))))
                    .clone()
            });
            clusters.push(Rc::new(ClusterView {
                endpoints: views.collect(),
                balancer: Balancer::new(cluster, dice()),
                series: SeriesCache::new(cluster.service.clone(), cluster.namespace.clone()),
                cluster: cluster.clone(),
            }));
        }
        if let Some(before) = before {
            for (address, endpoint) in &before.endpoints {
                if !endpoints.contains_key(address) {
                    endpoint.removed.set(true);
                    endpoint.pool.clear();
                }
            }
        }
        let nowhere = match before {
            Some(before) => before.nowhere.clone(),
            None => Rc::new(SeriesCache::new("unknown".into(), "unknown".into())),
        };
        let settings = snapshot.binds.iter().map(|bind| Rc::new(ListenerSettings::clone(&bind.settings))).collect();
        let rules = |bind: &Bind| vec![OnceCell::new(); bind.table.rules().len()];
        let rules = snapshot.binds.iter().map(rules).collect();
        View { snapshot, settings, rules, clusters, nowhere, endpoints }
    }

    /// A rule that was found in a bind's table.
    pub(crate) fn rule(&self, bind: usize, found: Found<'_>) -> Rc<RuleView> {
        self.rules[bind][found.number].get_or_init(|| Rc::new(RuleView(Rule::clone(found.rule)))).clone()
    }

    /// The cluster of that name, if it is still there.
    pub(crate) fn cluster(&self, name: &str) -> Option<Rc<ClusterView>> {
        self.clusters.iter().find(|cluster| &*cluster.cluster.name == name).cloned()
    }

    /// All endpoints, each once.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Rc<EndpointView>> {
        self.endpoints.values()
    }
}

impl EndpointView {
    fn new(address: SocketAddr) -> EndpointView {
        EndpointView { address, pool: Pool::default(), load: Load::default(), removed: Cell::new(false) }
    }
}

impl ClusterView {
    /// The endpoint for one attempt. `hash` is the request's, where the balance is by hash.
    pub(crate) fn pick(
        &self,
        now: Duration,
        hash: Option<u64>,
        dice: impl FnMut() -> u64,
    ) -> Option<&Rc<EndpointView>> {
        let load = |index: usize| &self.endpoints[index].load;
        self.balancer.pick(&self.cluster, load, now, hash, dice).map(|index| &self.endpoints[index])
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
