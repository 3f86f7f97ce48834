//! The two addresses of a Service's proxy beside one of its instances: what comes in goes to the instance, under the limits
//! that protect it, and calls of the instance go out to Services by their names, each to its routes or to itself. Pure,
//! Cold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::compile::backends::Resolver;
use crate::compile::lanes::Lanes;
use crate::compile::routes::{OfServices, of_port};
use crate::model::Documents;
use crate::model::service::{ServicePort, Spec};
use crate::problem::Problems;
use crate::route::{Conditions, Port, Rank, RouteEntry, Table};
use crate::sidecar::{Called, Sidecar, hosts};
use crate::snapshot::discovery::Discovery;
use crate::snapshot::lanes::LaneRole;
use crate::snapshot::{
    Backends, Bind, Calls, Choice, ClientAddress, Cluster, ClusterSettings, Endpoint, Group, ListenerSettings, Retries,
    Rule,
};

/// What bounds a request stands at the edge, and with its caller: here it is only not forever.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Callers, who keep idle connections for as long as a policy says, end them before we do: closing first would race with
/// their next request (RFC 9112 9.5).
const IDLE: Duration = Duration::from_secs(60 * 60);
/// Heads have grown on their way from the edge: more than a gateway takes if nobody says otherwise.
const HEAD_BYTES_MAX: u32 = 128 * 1024;
const HEADER_COUNT_MAX: u16 = 400;

/// Where a sidecar listens.
pub(super) fn binds<'d>(
    sidecar: &Sidecar,
    called: Option<&Called>,
    documents: &'d Documents,
    of_services: &OfServices<'d>,
    lanes: &Lanes<'d>,
    backends: &mut Resolver<'d>,
    problems: &mut Problems,
) -> Vec<Bind> {
    let [[in_lanes, out_lanes], [in_shadow, out_shadow]] = lanes.of_instance(&sidecar.namespace, &sidecar.labels);
    let inbound = bind(sidecar, "inbound", sidecar.inbound, [in_lanes, in_shadow], to_app(sidecar, lanes, backends));
    let calls = to_services(sidecar, called, documents, of_services, backends, problems);
    let outbound = bind(sidecar, "outbound", sidecar.outbound, [out_lanes, out_shadow], calls);
    let of_instance = Calls { namespace: (*sidecar.namespace).into(), by_use: called.is_some() };
    let service = format!("{}/{}", sidecar.namespace, sidecar.service).into();
    let inbound = Bind { instance_of: Some(service), ..inbound };
    let mut binds = vec![inbound, Bind { calls: Some(of_instance), ..outbound }];
    binds.sort_by_key(|bind| bind.address);
    binds
}

fn bind(sidecar: &Sidecar, way: &str, address: SocketAddr, [lanes, shadow_lanes]: [LaneRole; 2], table: Table) -> Bind {
    let settings = ListenerSettings {
        client_address: ClientAddress::Kept,
        idle_timeout: IDLE,
        body_progress_timeout: IDLE,
        head_bytes_max: HEAD_BYTES_MAX,
        header_count_max: HEADER_COUNT_MAX,
        ..ListenerSettings::default()
    };
    Bind {
        address,
        name: format!("{}/{}/{way}", sidecar.namespace, sidecar.service).into(),
        settings: Arc::new(settings),
        lanes,
        shadow_lanes,
        shadow: None,
        table,
        calls: None,
        instance_of: None,
    }
}

/// Everything goes to the instance, whatever its lane.
fn to_app(sidecar: &Sidecar, lanes: &Lanes<'_>, backends: &mut Resolver<'_>) -> Table {
    let Sidecar { namespace, service, app, .. } = sidecar;
    let [groups, shadow_groups] = lanes.names(namespace).map(|names| {
        let group = |lane: Option<Arc<str>>| Group { lane, members: vec![0], consistent: None };
        std::iter::once(None).chain(names.into_iter().map(Some)).map(group).collect()
    });
    let settings = ClusterSettings {
        first_byte_timeout: LONGEST,
        // Whoever calls decides what is tried again, and where.
        retries: Retries { attempts: 0, connect_failure: false, ..Retries::default() },
        ..ClusterSettings::default()
    };
    let instance = Endpoint { address: *app, weight: 1, zone: None, labels: sidecar.labels.clone(), incarnation: 0 };
    let policies = backends.actions.policies(backends.protection.of_instance(namespace, service));
    let cluster = backends.add(Cluster {
        name: format!("{namespace}/{service}:app").into(),
        namespace: (**namespace).into(),
        service: (**service).into(),
        port: app.port(),
        is_app: true,
        discovery: Discovery::Written,
        endpoints: vec![instance],
        groups,
        shadow_groups,
        settings,
        policies,
        shadow: None,
    });
    let entry = entry(&format!("{namespace}/{service}/inbound"), cluster, backends);
    Table::new(std::iter::once((None, &[entry][..])))
}

/// Each port of each Service by its names: its routes, or the Service itself where it has none.
fn to_services<'d>(
    sidecar: &Sidecar,
    called: Option<&Called>,
    documents: &'d Documents,
    of_services: &OfServices<'d>,
    backends: &mut Resolver<'d>,
    problems: &mut Problems,
) -> Table {
    let mut services = Vec::new();
    for service in documents.services.iter().map(Arc::as_ref) {
        let (namespace, name) = (service.metadata.namespace(), service.metadata.name());
        if called.is_some_and(|called| !called.contains(&(namespace.into(), name.into()))) {
            continue;
        }
        let hosts = hosts(namespace, name, &sidecar.namespace);
        let routes = of_services.get(&(namespace, name)).map_or(&[][..], |entries| entries);
        let meant = default_port(&service.spec);
        for port in service.spec.ports.iter() {
            let number = port.port.number();
            let mut entries = of_port(routes, Some(number));
            if entries.is_empty() {
                let cluster = backends.cluster(service, port, problems);
                entries.push(entry(&format!("{namespace}/{name}:{number}"), cluster, backends));
            }
            let service = format!("{namespace}/{name}").into();
            services.push(Port { service, hosts: hosts.clone(), number, is_default: meant == Some(number), entries });
        }
    }
    Table::of_services(&services)
}

/// The port that is meant where none is named.
fn default_port(service: &Spec) -> Option<u16> {
    let mut numbers = service.ports.iter().map(|port: &ServicePort| port.port.number());
    numbers.clone().find(|number| *number == 80).or_else(|| numbers.next())
}

/// Everything goes to a cluster.
fn entry(name: &str, cluster: usize, backends: &mut Resolver<'_>) -> RouteEntry {
    let choice = Choice { weight: 1, cluster: Some(cluster), filters: Vec::new(), mirrors: Vec::new() };
    let rule = Rule {
        name: name.into(),
        filters: backends.actions.filters(Vec::new()),
        mirrors: Box::default(),
        request_timeout: None,
        backend_request_timeout: None,
        backends: backends.actions.backends(Backends { choices: vec![choice], weight_total: 1 }),
        policies: Arc::default(),
    };
    RouteEntry::new(Conditions::default(), Rank::default(), Arc::new(rule))
}
