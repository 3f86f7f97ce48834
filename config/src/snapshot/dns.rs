//! Services whose instances are the addresses of a name: what a snapshot becomes with the addresses that are known.
//! Asking for them is the proxy's business. Pure, Cold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::consistent::Consistent;
use crate::snapshot::{Cluster, Endpoint, Group, Snapshot};

/// Names that are looked up at most.
pub const NAMES_MAX: usize = 10_000;
/// Addresses of one name that are used at most.
pub const ADDRESSES_MAX: usize = 1_024;

/// Where the endpoints of a cluster come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// In lower case; with a `.` at its end, or to be found within search domains, too.
    pub name: Arc<str>,
    /// The port that all addresses listen on.
    pub port: u16,
}

/// The names that a snapshot needs, each once.
pub fn names(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    snapshot.clusters.iter().filter_map(|cluster| Some(cluster.dns.as_ref()?.name.clone())).collect()
}

/// A snapshot whose clusters have the addresses that `known` says of their names, sorted and each once; a name of which
/// it says nothing has none. What is then as it was in `before` is the same in memory.
pub fn resolve<'k>(snapshot: &Snapshot, before: &Snapshot, known: impl Fn(&str) -> Option<&'k [IpAddr]>) -> Snapshot {
    let by_name: HashMap<&str, &Arc<Cluster>> =
        before.clusters.iter().map(|cluster| (&*cluster.name, cluster)).collect();
    let cluster = |cluster: &Arc<Cluster>| {
        let Some(dns) = &cluster.dns else { return cluster.clone() };
        let addresses = known(&dns.name).unwrap_or_default();
        with_endpoints(cluster, endpoints(dns, addresses), by_name.get(&*cluster.name).copied())
    };
    Snapshot { clusters: snapshot.clusters.iter().map(cluster).collect(), ..snapshot.clone() }
}

/// An address tells nothing of itself: it is of the baseline and of no zone.
fn endpoints(dns: &Dns, addresses: &[IpAddr]) -> Vec<Endpoint> {
    let endpoint = |address: &IpAddr| Endpoint {
        address: SocketAddr::new(*address, dns.port),
        weight: 1,
        zone: None,
        labels: BTreeMap::new(),
    };
    addresses.iter().map(endpoint).collect()
}

fn with_endpoints(cluster: &Arc<Cluster>, endpoints: Vec<Endpoint>, before: Option<&Arc<Cluster>>) -> Arc<Cluster> {
    let balance = cluster.settings.balance;
    // Who goes where is the costly part, and depends on nothing else.
    let groups = match before {
        Some(before) if before.endpoints == endpoints && before.settings.balance == balance => before.groups.clone(),
        _ => {
            let all: Vec<&Endpoint> = endpoints.iter().collect();
            let consistent = Consistent::of(balance, &all).map(Arc::new);
            vec![Group { lane: None, members: (0..endpoints.len() as u32).collect(), consistent }]
        }
    };
    let resolved = Cluster { endpoints, groups, ..(**cluster).clone() };
    match before {
        Some(before) if **before == resolved => before.clone(),
        _ => Arc::new(resolved),
    }
}
