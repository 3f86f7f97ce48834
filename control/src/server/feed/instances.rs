//! The instances of Services, as callers are told of them: those that are written in the Service's document, and those whose
//! proxies tell of them. Cold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use config::document::Key;
use config::wire::evenkeel::v1::{self, resource::Kind};
use config::xds::{self, catalog::Transaction, service};
use prost::bytes::Bytes;
use serde_json::Value;

use super::body;
use crate::registry::{Instance, Name, Shift};

/// By the resource in which they are told.
#[derive(Default)]
pub(super) struct Instances {
    written: HashMap<Arc<str>, Written>,
    registered: HashMap<Arc<str>, BTreeMap<Name, Arc<Instance>>>,
}

/// What a Service's document says.
struct Written {
    endpoints: Vec<v1::Endpoint>,
    first_port: Box<str>,
}

impl Instances {
    /// An instance is told otherwise from now on.
    pub(super) fn shift(&mut self, shift: &Shift) -> Arc<str> {
        let resource: Arc<str> = shift.name.resource().into();
        match &shift.after {
            Some(instance) => {
                let all = self.registered.entry(resource.clone()).or_default();
                all.insert(shift.name.clone(), instance.clone());
            }
            None => {
                if let Some(all) = self.registered.get_mut(&resource) {
                    all.remove(&shift.name);
                    if all.is_empty() {
                        self.registered.remove(&resource);
                    }
                }
            }
        }
        resource
    }

    /// A document as proxies get it, or that there is none: a Service and its instances each by itself.
    pub(super) fn put(&mut self, transaction: &mut Transaction, key: &Key, document: Option<&Value>) {
        let rest = match self.set(key, document) {
            Some(rest) => Some(rest.to_string()),
            None => document.map(Value::to_string),
        };
        let document = rest.map(|text| Kind::Document(v1::Document { text: text.into() }));
        transaction.resources.insert(key.to_string().into(), document.map(body));
        if *key.kind == *"Service" {
            let name: Arc<str> = xds::endpoints_of(&key.namespace, &key.name).into();
            let told = self.told(&name);
            transaction.resources.insert(name, told);
        }
    }

    /// Only the instances of a Service, if it has some of its own.
    pub(super) fn put_endpoints(&mut self, transaction: &mut Transaction, key: &Key, document: Option<&Value>) {
        if document.is_some_and(|document| service::apart(document).is_some()) {
            self.set(key, document);
            let name: Arc<str> = xds::endpoints_of(&key.namespace, &key.name).into();
            let told = self.told(&name);
            transaction.resources.insert(name, told);
        }
    }

    /// There is no Service that could have some.
    pub(super) fn forget(&mut self, resource: &str) {
        self.written.remove(resource);
    }

    /// A resource as it is now; None: there is no Service whose instances it could name.
    pub(super) fn told(&self, resource: &str) -> Option<Bytes> {
        let Written { endpoints, first_port } = self.written.get(resource)?;
        let registered = self.registered.get(resource).into_iter().flat_map(BTreeMap::values);
        let registered: Vec<v1::Endpoint> = registered.map(|instance| instance.endpoint(first_port)).collect();
        // One that speaks for itself is known better than by what is written of it.
        let is_other = |written: &&v1::Endpoint| {
            let is_it = |one: &v1::Endpoint| (&one.address, &one.ports) == (&written.address, &written.ports);
            !registered.iter().any(is_it)
        };
        let written = endpoints.iter().filter(is_other).cloned().collect::<Vec<_>>();
        let endpoints = written.into_iter().chain(registered).collect();
        Some(body(Kind::Endpoints(v1::Endpoints { endpoints })))
    }

    /// The document without what is written of instances, if it is one that may have some.
    fn set(&mut self, key: &Key, document: Option<&Value>) -> Option<Value> {
        if *key.kind != *"Service" {
            return None;
        }
        let name: Arc<str> = xds::endpoints_of(&key.namespace, &key.name).into();
        let Some((rest, endpoints)) = document.and_then(service::apart) else {
            self.written.remove(&name);
            return None;
        };
        let first_port = rest["spec"]["ports"][0]["name"].as_str().unwrap_or_default().into();
        self.written.insert(name, Written { endpoints: endpoints.endpoints, first_port });
        Some(rest)
    }
}
