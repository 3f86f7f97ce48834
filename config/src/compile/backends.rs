//! Which Service ports requests go to: looks up backendRefs, asks ReferenceGrants across namespaces, and
//! builds one cluster for each port in use. Pure, Cold.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::compile::actions::Actions;
use crate::compile::lanes::Lanes;
use crate::compile::protection::Protection;
use crate::compile::traffic::Settings;
use crate::consistent::Tables;
use crate::model::http_route::BackendRef;
use crate::model::metadata::Metadata;
use crate::model::service::{ServicePort, Spec};
use crate::model::{Documents, GATEWAY_GROUP, Object};
use crate::problem::Problems;
use crate::snapshot::{Balance, Cluster, Endpoint, Group};

/// Finds Service ports, and remembers those that were asked for and what rules do with them.
pub(crate) struct Resolver<'d> {
    documents: &'d Documents,
    settings: Settings<'d>,
    pub(crate) protection: &'d Protection<'d>,
    lanes: &'d Lanes<'d>,
    tables: &'d mut Tables,
    services: HashMap<(&'d str, &'d str), &'d Object<Spec>>,
    indices: HashMap<(&'d str, &'d str, u16), usize>,
    clusters: Vec<Arc<Cluster>>,
    pub(crate) actions: Actions,
}

impl<'d> Resolver<'d> {
    /// Knows all Services and no cluster yet.
    pub(crate) fn new(
        documents: &'d Documents,
        settings: Settings<'d>,
        protection: &'d Protection<'d>,
        lanes: &'d Lanes<'d>,
        tables: &'d mut Tables,
    ) -> Self {
        let identity = |service: &'d Object<Spec>| (service.metadata.namespace(), service.metadata.name());
        let services = documents.services.iter().map(Arc::as_ref).map(|service| (identity(service), service)).collect();
        Resolver {
            documents,
            settings,
            protection,
            lanes,
            tables,
            services,
            indices: HashMap::new(),
            clusters: Vec::new(),
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
        let namespace = backend.namespace.as_ref().map_or(route.namespace(), |namespace| namespace.as_str());
        let (name, port): (&'d str, u16) = (backend.name.as_str(), backend.port.number());
        if namespace != route.namespace() && !self.is_granted(route.namespace(), namespace, name) {
            let reason = format!("Service {namespace}/{name} is in another namespace, which does not allow it");
            let hint = format!("write a ReferenceGrant in {namespace}");
            problems.error_with_hint(backend.place, field(), reason, hint);
            return None;
        }
        let meaning = if backend.weight.0 > 0 { ": its share of requests is answered 500" } else { "" };
        let Some((&(namespace, name), service)) = self.services.get_key_value(&(namespace, name)) else {
            let reason = format!("there is no Service {namespace}/{name}{meaning}");
            problems.warning(backend.place, field(), reason, None);
            return None;
        };
        let service = *service;
        let Some(service_port) = service.spec.ports.iter().find(|known| known.port.number() == port) else {
            let reason = format!("Service {namespace}/{name} has no port {port}{meaning}");
            problems.warning(backend.place, field(), reason, None);
            return None;
        };
        if let Some(index) = self.indices.get(&(namespace, name, port)) {
            return Some(*index);
        }
        let settings = self.settings.get(&(namespace, name)).cloned().unwrap_or_default();
        let policies = self.actions.policies(self.protection.of_service(namespace, name));
        let endpoints = endpoints(service, service_port);
        let members = self.lanes.members(namespace, &endpoints);
        let group = |(lane, members)| group(lane, members, &endpoints, settings.balance, self.tables);
        let groups = members.into_iter().map(group).collect();
        let cluster = Cluster {
            name: format!("{namespace}/{name}:{port}").into(),
            namespace: namespace.into(),
            service: name.into(),
            port,
            groups,
            endpoints,
            settings,
            policies,
        };
        if cluster.endpoints.is_empty() {
            let reason =
                format!("port {port} of Service {namespace}/{name} has no endpoint: requests are answered 503");
            let field = "spec.endpoints";
            problems.warning(service.place, field, reason, None);
        }
        self.clusters.push(Arc::new(cluster));
        self.indices.insert((namespace, name, port), self.clusters.len() - 1);
        Some(self.clusters.len() - 1)
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
    let endpoints = service.spec.endpoints.iter().filter(|endpoint| endpoint.weight.0 > 0).filter_map(|endpoint| {
        Some(Endpoint {
            address: SocketAddr::new(endpoint.address.0, endpoint.ports.get(&port.name.value)?.number()),
            weight: endpoint.weight.0.try_into().unwrap_or(u32::MAX),
            zone: endpoint.zone.as_ref().map(|zone| zone.as_str().into()),
            labels: endpoint.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
        })
    });
    endpoints.collect()
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
