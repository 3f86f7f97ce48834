//! Documents and endpoints among the resources that control sends. Pure, Cold.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::Source;
use config::sidecar::Called;
use config::snapshot::discovery::Instances;
use config::wire::evenkeel::v1::{self, resource::Kind};
use config::xds;
use config::xds::client::{Change, Held};
use prost::Message as _;
use prost::bytes::Bytes;

use crate::subscription::Updates;

/// What there is once a change is made.
pub(super) fn take(bodies: &mut BTreeMap<Arc<str>, Bytes>, change: &Change) {
    for (name, held) in &change.resources {
        match held {
            Some(held) => drop(bodies.insert(name.clone(), held.body.clone())),
            None => drop(bodies.remove(name)),
        }
    }
}

/// The documents among resources.
pub(super) fn sources(bodies: &BTreeMap<Arc<str>, Bytes>) -> Vec<Source> {
    let document = |(name, body): (&Arc<str>, &Bytes)| match v1::Resource::decode(body.clone()).ok()?.kind? {
        Kind::Document(document) => Some(Source { name: name.clone(), bytes: document.text.to_vec() }),
        Kind::Endpoints(_) => None,
    };
    bodies.iter().filter_map(document).collect()
}

/// The Services whose collections are among resources.
pub(super) fn called(bodies: &BTreeMap<Arc<str>, Bytes>) -> Called {
    let service = |name: &str| {
        let (namespace, service) = name.strip_prefix("Service/")?.strip_suffix("/*")?.split_once('/')?;
        Some((namespace.into(), service.into()))
    };
    bodies.keys().filter_map(|name| service(name)).collect()
}

/// The endpoints among resources. The error names what is wrong.
pub(super) fn told(bodies: &BTreeMap<Arc<str>, Bytes>) -> Result<Updates, String> {
    let endpoints = bodies.iter().filter(|(name, _)| name.starts_with(xds::ENDPOINTS));
    endpoints.map(|(name, body)| Ok((name.clone(), Some(instances(name, body)?)))).collect()
}

/// What a change says of endpoints.
pub(super) fn updates(change: &Change) -> Result<Updates, String> {
    let endpoints = change.resources.iter().filter(|(name, _)| name.starts_with(xds::ENDPOINTS));
    let update = |(name, held): (&Arc<str>, &Option<Held>)| {
        Ok((name.clone(), held.as_ref().map(|held| instances(name, &held.body)).transpose()?))
    };
    endpoints.map(update).collect()
}

fn instances(name: &str, body: &Bytes) -> Result<Instances, String> {
    match v1::Resource::decode(body.clone()).ok().and_then(|resource| resource.kind) {
        Some(Kind::Endpoints(endpoints)) => {
            xds::service::instances(&endpoints).map_err(|problem| format!("{name}: {problem}"))
        }
        _ => Err(format!("{name} has no endpoints")),
    }
}
