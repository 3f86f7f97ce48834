//! Services whose instances are the addresses of a name. Asking for them is the proxy's business. Pure, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::snapshot::discovery::Discovery;
use crate::snapshot::{Endpoint, Snapshot};

/// Names that are looked up at most.
pub const NAMES_MAX: usize = 10_000;
/// Addresses of one name that are used at most.
pub const ADDRESSES_MAX: usize = 1_024;

/// The name whose addresses are the endpoints of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// In lower case; with a `.` at its end, or to be found within search domains, too.
    pub name: Arc<str>,
    /// The port that all addresses listen on.
    pub port: u16,
}

/// The names that a snapshot needs, each once.
pub fn names(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    let name = |discovery: &Discovery| match discovery {
        Discovery::Dns(dns) => Some(dns.name.clone()),
        Discovery::Written | Discovery::Control(_) => None,
    };
    snapshot.clusters.iter().filter_map(|cluster| name(&cluster.discovery)).collect()
}

/// An address tells nothing of itself: it is of the baseline and of no zone.
pub(crate) fn endpoints(dns: &Dns, addresses: &[IpAddr]) -> Vec<Endpoint> {
    let endpoint = |address: &IpAddr| Endpoint {
        address: SocketAddr::new(*address, dns.port),
        weight: 1,
        zone: None,
        labels: BTreeMap::new(),
        incarnation: 0,
    };
    addresses.iter().map(endpoint).collect()
}
