//! Which Service ports requests go to: looks up backendRefs, asks ReferenceGrants across namespaces, and
//! builds one cluster for each port in use. Pure, Cold.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::compile::actions::Actions;
use crate::compile::lanes::Lanes;
use crate::compile::protection::Protection;
use crate::compile::traffic::Settings;
use crate::consistent::Tables;
use crate::model::http_filter::HttpFilter;
use crate::model::http_route::BackendRef;
use crate::model::metadata::Metadata;
use crate::model::service::{ServicePort, Spec};
use crate::model::{Documents, GATEWAY_GROUP, Object};
use crate::problem::{Place, Problems};
use crate::reader::Origin;
use crate::snapshot::discovery::{Discovery, Told};
use crate::snapshot::dns::{Dns, NAMES_MAX};
use crate::snapshot::{Balance, Cluster, Endpoint, Group, Mirror};
use crate::xds;

/// Finds Service ports, and remembers those that were asked for and what rules do with them.
pub(crate) struct Resolver<'d> {
    documents: &'d Documents,
    settings: Settings<'d>,
    pub(crate) protection: &'d Protection<'d>,
    lanes: &'d Lanes<'d>,
    origin: Origin,
    tables: &'d mut Tables,
    services: HashMap<(&'d str, &'d str), &'d Object<Spec>>,
    indices: HashMap<(&'d str, &'d str, u16), usize>,
    clusters: Vec<Arc<Cluster>>,
    /// Those in the DNS.
    names: HashSet<&'d str>,
    pub(crate) actions: Actions,
}

/// A Service port as something refers to it.
struct Reference<'d> {
    /// The route's own if absent.
    namespace: Option<&'d str>,
    name: &'d str,
    port: u16,
    place: Place,
    /// What it means that it is not there.
    without: &'static str,
}

impl<'d> Resolver<'d> {
    /// Knows all Services and no cluster yet.
    pub(crate) fn new(
        documents: &'d Documents,
        settings: Settings<'d>,
        protection: &'d Protection<'d>,
        lanes: &'d Lanes<'d>,
        origin: Origin,
        tables: &'d mut Tables,
    ) -> Self {
        let identity = |service: &'d Object<Spec>| (service.metadata.namespace(), service.metadata.name());
        let services = documents.services.iter().map(Arc::as_ref).map(|service| (identity(service), service)).collect();
        Resolver {
            documents,
            settings,
            protection,
            lanes,
            origin,
            tables,
            services,
            indices: HashMap::new(),
            clusters: Vec::new(),
            names: HashSet::new(),
            actions: Actions::default(),
        }
    }

    /// The clusters asked for, in the order of the first time.
    pub(crate) fn into_clusters(self) -> Vec<Arc<Cluster>> {
        self.clusters
    }

    /// The index of a backend's cluster; None if its share of requests is to be answered 500.
    pub(crate) fn resolve(
        &mut self,
        route: &'d Metadata,
        backend: &'d BackendRef,
        field: &dyn Fn() -> String,
        problems: &mut Problems,
    ) -> Option<usize> {
        let reference = Reference {
            namespace: backend.namespace.as_ref().map(|namespace| namespace.as_str()),
            name: backend.name.as_str(),
            port: backend.port.number(),
            place: backend.place,
            without: if backend.weight.0 > 0 { ": its share of requests is answered 500" } else { "" },
        };
        self.find(route, &reference, field, problems)
    }

    /// The mirrors among filters; those without a Service are left out (Gateway API, HTTPRequestMirrorFilter).
    pub(crate) fn mirrors(
        &mut self,
        route: &'d Metadata,
        filters: &'d [HttpFilter],
        field: &dyn Fn() -> String,
        problems: &mut Problems,
    ) -> Vec<Mirror> {
        let mut mirrors = Vec::new();
        for (index, filter) in filters.iter().enumerate() {
            let Some(written) = &filter.request_mirror else { continue };
            let reference = Reference {
                namespace: written.backend.namespace.as_ref().map(|namespace| namespace.as_str()),
                name: written.backend.name.as_str(),
                port: written.backend.port.number(),
                place: written.backend.place,
                without: ": nothing is mirrored",
            };
            let field = || format!("{}.filters[{index}].requestMirror.backendRef", field());
            let Some(cluster) = self.find(route, &reference, &field, problems) else { continue };
            let (numerator, denominator) = match (&written.percent, &written.fraction) {
                (_, Some(fraction)) => (fraction.numerator.value.0, fraction.denominator.0),
                (Some(percent), None) => (percent.0, 100),
                (None, None) => (1, 1),
            };
            let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let (numerator, denominator) = (number(numerator), number(denominator));
            if numerator > 0 {
                mirrors.push(Mirror { cluster: self.clusters[cluster].name.clone(), numerator, denominator });
            }
        }
        mirrors
    }

    fn find(
        &mut self,
        route: &'d Metadata,
        reference: &Reference<'d>,
        field: &dyn Fn() -> String,
        problems: &mut Problems,
    ) -> Option<usize> {
        let Reference { name, port, place, without, .. } = *reference;
        let namespace = reference.namespace.unwrap_or(route.namespace());
        if namespace != route.namespace() && !self.is_granted(route.namespace(), namespace, name) {
            let reason = format!("Service {namespace}/{name} is in another namespace, which does not allow it");
            let hint = format!("write a ReferenceGrant in {namespace}");
            problems.error_with_hint(place, field(), reason, hint);
            return None;
        }
        let Some((&(namespace, name), service)) = self.services.get_key_value(&(namespace, name)) else {
            let reason = format!("there is no Service {namespace}/{name}{without}");
            problems.warning(place, field(), reason, None);
            return None;
        };
        let service = *service;
        let Some(service_port) = service.spec.ports.iter().find(|known| known.port.number() == port) else {
            let reason = format!("Service {namespace}/{name} has no port {port}{without}");
            problems.warning(place, field(), reason, None);
            return None;
        };
        Some(self.cluster(service, service_port, problems))
    }

    /// Whether a Service has a port, or any if none is named; None: there is no such Service.
    pub(crate) fn has_port(&self, namespace: &str, name: &str, port: Option<u16>) -> Option<bool> {
        let service = self.services.get(&(namespace, name))?;
        Some(port.is_none_or(|port| service.spec.ports.iter().any(|known| known.port.number() == port)))
    }

    /// The index of the cluster of a Service's port.
    pub(crate) fn cluster(
        &mut self,
        service: &'d Object<Spec>,
        service_port: &'d ServicePort,
        problems: &mut Problems,
    ) -> usize {
        let (namespace, name) = (service.metadata.namespace(), service.metadata.name());
        let port = service_port.port.number();
        if let Some(index) = self.indices.get(&(namespace, name, port)) {
            return *index;
        }
        let (settings, shadow) = self.settings.of((namespace, name));
        let policies = self.actions.policies(self.protection.of_service(namespace, name));
        let endpoints = endpoints(service, service_port);
        let members = self.lanes.members(namespace, &endpoints);
        let group = |(lane, members)| group(lane, members, &endpoints, settings.balance, self.tables);
        let groups = members.into_iter().map(group).collect();
        let shadow_groups = self.lanes.shadow_members(namespace, &endpoints).into_iter().map(Group::counted).collect();
        let cluster = Cluster {
            name: format!("{namespace}/{name}:{port}").into(),
            namespace: namespace.into(),
            service: name.into(),
            port,
            is_app: false,
            discovery: discovery(service, service_port, self.origin),
            groups,
            shadow_groups,
            endpoints,
            settings,
            policies,
            shadow,
        };
        self.check_names(&cluster, service, problems);
        let may_come = self.origin == Origin::Store && service.spec.endpoints().is_empty();
        if cluster.endpoints.is_empty() && cluster.discovery == Discovery::Written && !may_come {
            let reason =
                format!("port {port} of Service {namespace}/{name} has no endpoint: requests are answered 503");
            let field = "spec.endpoints";
            problems.warning(service.place, field, reason, None);
        }
        self.indices.insert((namespace, name, port), self.clusters.len());
        self.add(cluster)
    }

    /// Takes in a cluster that is no Service's, and tells its index.
    pub(crate) fn add(&mut self, cluster: Cluster) -> usize {
        self.clusters.push(Arc::new(cluster));
        self.clusters.len() - 1
    }

    /// Tells a name too many.
    fn check_names(&mut self, cluster: &Cluster, service: &'d Object<Spec>, problems: &mut Problems) {
        let Some(written) = &service.spec.dns else { return };
        let is_named = matches!(cluster.discovery, Discovery::Dns(_));
        if is_named && self.names.insert(written.name.as_str()) && self.names.len() == NAMES_MAX + 1 {
            let reason = format!("is one name more than the {NAMES_MAX} that are looked up");
            problems.error(written.place, "spec.dns.name", reason);
        }
    }

    fn is_granted(&self, from: &str, to: &str, name: &str) -> bool {
        let grants = self.documents.reference_grants.iter().filter(|grant| grant.metadata.namespace() == to);
        grants.map(|grant| &grant.spec).any(|grant| {
            let is_from = grant.from.iter().any(|known| {
                known.group.as_str() == GATEWAY_GROUP
                    && known.kind.as_str() == "HTTPRoute"
                    && known.namespace.as_str() == from
            });
            let is_to = grant.to.iter().any(|known| {
                let is_name = known.name.as_ref().is_none_or(|known| known.as_str() == name);
                known.group.as_str().is_empty() && known.kind.as_str() == "Service" && is_name
            });
            is_from && is_to
        })
    }
}

fn endpoints(service: &Object<Spec>, port: &ServicePort) -> Vec<Endpoint> {
    let endpoints = service.spec.endpoints().iter().filter(|endpoint| endpoint.weight.0 > 0).filter_map(|endpoint| {
        Some(Endpoint {
            address: SocketAddr::new(endpoint.address.0, endpoint.ports.get(&port.name.value)?.number()),
            weight: endpoint.weight.0.try_into().unwrap_or(u32::MAX),
            zone: endpoint.zone.as_ref().map(|zone| zone.as_str().into()),
            labels: endpoint.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
            incarnation: 0,
        })
    });
    endpoints.collect()
}

/// Where the endpoints of a port come from.
fn discovery(service: &Object<Spec>, port: &ServicePort, origin: Origin) -> Discovery {
    match (&service.spec.dns, origin) {
        (Some(written), _) => match written.ports.get(&port.name.value) {
            Some(number) => Discovery::Dns(Dns { name: written.name.as_str().into(), port: number.number() }),
            None => Discovery::Written,
        },
        (None, Origin::Files | Origin::Store) => Discovery::Written,
        (None, Origin::Control) => {
            let resource = xds::endpoints_of(service.metadata.namespace(), service.metadata.name()).into();
            Discovery::Control(Told { resource, port: port.name.value.as_str().into(), instances: None })
        }
    }
}

fn group(
    lane: Option<Arc<str>>,
    members: Vec<u32>,
    endpoints: &[Endpoint],
    balance: Balance,
    tables: &mut Tables,
) -> Group {
    let chosen: Vec<&Endpoint> = members.iter().map(|member| &endpoints[*member as usize]).collect();
    let consistent = tables.table(balance, &chosen);
    Group { lane, members, consistent }
}
