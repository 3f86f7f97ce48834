//! Where the endpoints of a cluster come from: they are written, or the addresses of a name, or told by control apart from
//! their Service. What a snapshot becomes with what is known of the latter two. Who asks is the proxy's business. Pure,
//! Cold.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::consistent::Consistent;
use crate::snapshot::dns::{self, Dns};
use crate::snapshot::lanes::{LaneGroup, Membership};
use crate::snapshot::{Cluster, Endpoint, Group, Snapshot};

/// Where the endpoints of a cluster come from.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Discovery {
    /// They are written in the Service.
    #[default]
    Written,
    /// They are the addresses of a name.
    Dns(Dns),
    /// Control tells them apart from the Service.
    Control(Told),
}

/// Endpoints that control tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The resource that names them, `Endpoints/NAMESPACE/SERVICE`.
    pub resource: Arc<str>,
    /// The name of the cluster's port in them.
    pub port: Arc<str>,
    /// What control said; None: nothing so far, and requests wait for it.
    pub instances: Option<Instances>,
}

/// The instances of a Service, in the order in which they are told.
pub type Instances = Arc<[Instance]>;

/// One instance of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Where it runs.
    pub address: IpAddr,
    /// Where it listens, for each port of the Service that it has, by name.
    pub ports: BTreeMap<Box<str>, u16>,
    /// Its share among the instances, at least 1.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<Box<str>>,
    /// What tells it from others; `lane` among them.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Which process it is; 0: nobody knows.
    pub incarnation: u64,
}

/// What is known of where instances are.
pub trait Known {
    /// The addresses of a name; None: nothing is known of it.
    fn addresses(&self, name: &str) -> Option<&[IpAddr]>;

    /// What control said of a resource; None: nothing so far.
    fn instances(&self, resource: &str) -> Option<&Instances>;
}

/// The resources in which control tells the endpoints of a snapshot's clusters; a Service with several ports has one.
pub fn resources(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<str>> {
    snapshot.clusters.iter().filter_map(|cluster| match &cluster.discovery {
        Discovery::Control(told) => Some(&told.resource),
        Discovery::Written | Discovery::Dns(_) => None,
    })
}

/// A snapshot whose clusters have the endpoints that are known of them; one of which nothing is known has none. What is
/// then as it was in `before` is the same in memory.
pub fn resolve(snapshot: &Snapshot, before: &Snapshot, known: &impl Known) -> Snapshot {
    let mut by_name: Option<HashMap<&str, &Arc<Cluster>>> = None;
    let are_lanes_same = are_same(&snapshot.lane_groups, &before.lane_groups)
        && are_same(&snapshot.shadow_lane_groups, &before.shadow_lane_groups);
    let clusters = snapshot.clusters.iter().enumerate().map(|(place, cluster)| {
        // Most often nothing but endpoints is new, and each cluster is where it was.
        let before = match before.clusters.get(place) {
            Some(same) if same.name == cluster.name => Some(same),
            _ => {
                let known = by_name
                    .get_or_insert_with(|| before.clusters.iter().map(|cluster| (&*cluster.name, cluster)).collect());
                known.get(&*cluster.name).copied()
            }
        };
        let lanes = Lanes {
            groups: &snapshot.lane_groups,
            shadow_groups: &snapshot.shadow_lane_groups,
            are_same: are_lanes_same,
        };
        cluster_with(cluster, before, known, lanes)
    });
    Snapshot {
        clusters: clusters.collect(),
        binds: snapshot.binds.clone(),
        lane_groups: snapshot.lane_groups.clone(),
        shadow_lane_groups: snapshot.shadow_lane_groups.clone(),
    }
}

fn are_same(now: &[Arc<LaneGroup>], then: &[Arc<LaneGroup>]) -> bool {
    now.len() == then.len() && now.iter().zip(then).all(|(now, then)| Arc::ptr_eq(now, then))
}

/// The lanes of a snapshot, and whether they are those of the one before.
#[derive(Clone, Copy)]
struct Lanes<'s> {
    groups: &'s [Arc<LaneGroup>],
    shadow_groups: &'s [Arc<LaneGroup>],
    are_same: bool,
}

fn cluster_with(
    cluster: &Arc<Cluster>,
    before: Option<&Arc<Cluster>>,
    known: &impl Known,
    lanes: Lanes<'_>,
) -> Arc<Cluster> {
    match &cluster.discovery {
        Discovery::Written => cluster.clone(),
        Discovery::Dns(dns) => {
            let endpoints = dns::endpoints(dns, known.addresses(&dns.name).unwrap_or_default());
            // An address tells nothing of itself: it is of the baseline.
            let members = Membership::default().members(&endpoints);
            let groups = (members, shadow_groups(cluster, lanes, &endpoints));
            with_endpoints(cluster, cluster.discovery.clone(), endpoints, groups, before)
        }
        Discovery::Control(told) => {
            let instances = known.instances(&told.resource);
            if let Some(before) = before.filter(|before| lanes.are_same && is_same(cluster, before, instances)) {
                return before.clone();
            }
            let discovery = Discovery::Control(Told { instances: instances.cloned(), ..told.clone() });
            let endpoints = endpoints(told, instances.map_or(&[], |instances| instances));
            let members = Membership::of(&cluster.namespace, lanes.groups).members(&endpoints);
            let groups = (members, shadow_groups(cluster, lanes, &endpoints));
            with_endpoints(cluster, discovery, endpoints, groups, before)
        }
    }
}

/// Whether this cluster with these instances is what it was before, told by the little that can have changed since.
fn is_same(cluster: &Cluster, before: &Cluster, instances: Option<&Instances>) -> bool {
    let (Discovery::Control(now), Discovery::Control(then)) = (&cluster.discovery, &before.discovery) else {
        return false;
    };
    let is_told_the_same = match (instances, &then.instances) {
        (Some(now), Some(then)) => Arc::ptr_eq(now, then),
        (None, None) => true,
        _ => false,
    };

    is_told_the_same
        && (&now.resource, &now.port) == (&then.resource, &then.port)
        && (&cluster.namespace, &cluster.service, cluster.port) == (&before.namespace, &before.service, before.port)
        && cluster.settings == before.settings
        && cluster.policies == before.policies
        && cluster.shadow == before.shadow
}

/// Who would serve whom if LaneGroups in shadow acted; nobody where the namespace has none.
fn shadow_groups(cluster: &Cluster, lanes: Lanes<'_>, endpoints: &[Endpoint]) -> Vec<Group> {
    if !lanes.shadow_groups.iter().any(|group| group.namespace == cluster.namespace) {
        return Vec::new();
    }
    let members = Membership::of(&cluster.namespace, lanes.shadow_groups).members(endpoints);
    members.into_iter().map(Group::counted).collect()
}

fn endpoints(told: &Told, instances: &[Instance]) -> Vec<Endpoint> {
    let endpoint = |instance: &Instance| {
        Some(Endpoint {
            address: SocketAddr::new(instance.address, *instance.ports.get(&*told.port)?),
            weight: instance.weight,
            zone: instance.zone.clone(),
            labels: instance.labels.clone(),
            incarnation: instance.incarnation,
        })
    };
    instances.iter().filter_map(endpoint).collect()
}

/// Places of endpoints by lane.
type Members = Vec<(Option<Arc<str>>, Vec<u32>)>;

fn with_endpoints(
    cluster: &Arc<Cluster>,
    discovery: Discovery,
    endpoints: Vec<Endpoint>,
    (members, shadow_groups): (Members, Vec<Group>),
    before: Option<&Arc<Cluster>>,
) -> Arc<Cluster> {
    let balance = cluster.settings.balance;
    let same = before.filter(|before| before.endpoints == endpoints && before.settings.balance == balance);
    let group = |(lane, members): (Option<Arc<str>>, Vec<u32>)| {
        // Who goes where by a hash is the costly part, and depends on nothing else.
        let known = same.and_then(|before| before.groups.iter().find(|group| group.members == members));
        let consistent = match known {
            Some(group) => group.consistent.clone(),
            None => {
                let chosen: Vec<&Endpoint> = members.iter().map(|member| &endpoints[*member as usize]).collect();
                Consistent::of(balance, &chosen).map(Arc::new)
            }
        };
        Group { lane, members, consistent }
    };
    let groups = members.into_iter().map(group).collect();
    let resolved = Cluster { discovery, endpoints, groups, shadow_groups, ..(**cluster).clone() };
    match before {
        Some(before) if **before == resolved => before.clone(),
        _ => Arc::new(resolved),
    }
}
