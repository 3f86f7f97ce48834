//! The kinds of document that people write, one file each, and the reading of one document: its kind
//! decides what its `spec` may hold. What documents mean together is `compile`'s business. Pure, Cold.

pub(crate) mod change_freeze;
pub(crate) mod circuit_breaker;
pub(crate) mod concurrency_limit;
pub(crate) mod fault_injection;
pub(crate) mod gateway;
pub(crate) mod http_filter;
pub(crate) mod http_route;
pub(crate) mod lane_group;
pub(crate) mod listener_policy;
pub(crate) mod metadata;
pub(crate) mod policy;
pub(crate) mod rate_limit;
pub(crate) mod reference_grant;
pub(crate) mod service;
pub(crate) mod traffic_policy;

use std::sync::Arc;

use crate::decode::{Decode, Path, refuse_shape};
use crate::document::Key;
use crate::model::metadata::Metadata;
use crate::object::{nearest, object};
use crate::problem::{Place, Problems};
use crate::tree::{Node, Value};

/// Gateway API's group.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// One kind: its name, the API versions it is accepted in, and its spec.
macro_rules! kinds {
    ($( $(#[doc = $about:literal])* $kind:ident($spec:ty) in $($version:literal)|+ => $list:ident, )*) => {
        /// Everything that was read, by kind, in the order read.
        #[derive(Debug, Default, PartialEq)]
        pub(crate) struct Documents {
            $( $(#[doc = $about])* pub $list: Vec<Arc<Object<$spec>>>, )*
        }

        /// Kinds and the API versions they are accepted in.
        const KINDS: &[(&str, &[&str])] = &[$( (stringify!($kind), &[$($version),+]) ),*];

        impl Documents {
            fn read(&mut self, kind: &str, node: &Node<'_>, problems: &mut Problems) {
                match kind {
                    $( stringify!($kind) => self.$list.extend(Object::decode(node, &Path::Document, problems).map(Arc::new)), )*
                    _ => {}
                }
            }

            /// Takes in what another has.
            pub(crate) fn extend(&mut self, other: &Documents) {
                $( self.$list.extend(other.$list.iter().cloned()); )*
            }

            /// Whether there is an object of that name.
            pub(crate) fn has(&self, key: &Key) -> bool {
                let is_it = |metadata: &Metadata| (metadata.namespace(), metadata.name()) == (&*key.namespace, &*key.name);
                match &*key.kind {
                    $( stringify!($kind) => self.$list.iter().any(|object| is_it(&object.metadata)), )*
                    _ => false,
                }
            }

            /// Every object's kind, namespace, name and place.
            pub(crate) fn identities(&self) -> impl Iterator<Item = (&'static str, &Metadata, Place)> {
                std::iter::empty()$( .chain(
                    self.$list.iter().map(|object| (stringify!($kind), &object.metadata, object.place))
                ) )*
            }
        }

        /// The JSON Schema (draft 2020-12) of one document of any kind.
        pub fn schema() -> serde_json::Value {
            let mut definitions = serde_json::Map::new();
            $(
                let mut document = <Object<$spec> as Decode>::schema();
                document["properties"]["apiVersion"] = serde_json::json!({ "enum": [$($version),+] });
                document["properties"]["kind"] = serde_json::json!({ "const": stringify!($kind) });
                crate::object::describe(&mut document, concat!($($about),*));
                definitions.insert(stringify!($kind).to_owned(), document);
            )*
            let references: Vec<_> =
                definitions.keys().map(|kind| serde_json::json!({ "$ref": format!("#/$defs/{kind}") })).collect();
            serde_json::json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "evenkeel rules",
                "oneOf": references,
                "$defs": definitions,
            })
        }
    };
}

kinds! {
    /// Addresses and ports where requests arrive.
    Gateway(gateway::Spec) in "gateway.networking.k8s.io/v1" => gateways,
    /// What is done with HTTP requests that arrive at a Gateway.
    HTTPRoute(http_route::Spec) in "gateway.networking.k8s.io/v1" => http_routes,
    /// What objects of other namespaces may refer to in this one.
    ReferenceGrant(reference_grant::Spec)
        in "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1" => reference_grants,
    /// A group of equal instances that requests are sent to; stands in for Kubernetes' own outside of it.
    Service(service::Spec) in "evenkeel.dev/v1alpha1" => services,
    /// The downstream side of a Gateway: bounds, timeouts, trust.
    ListenerPolicy(listener_policy::Spec) in "evenkeel.dev/v1alpha1" => listener_policies,
    /// The upstream side of a Service: timeouts and the choice among its instances.
    TrafficPolicy(traffic_policy::Spec) in "evenkeel.dev/v1alpha1" => traffic_policies,
    /// Lanes through the services of a namespace, as for canaries.
    LaneGroup(lane_group::Spec) in "evenkeel.dev/v1alpha1" => lane_groups,
    /// So many requests in a time.
    RateLimit(rate_limit::Spec) in "evenkeel.dev/v1alpha1" => rate_limits,
    /// So many requests at the same time.
    ConcurrencyLimit(concurrency_limit::Spec) in "evenkeel.dev/v1alpha1" => concurrency_limits,
    /// Calls that would fail are not made.
    CircuitBreaker(circuit_breaker::Spec) in "evenkeel.dev/v1alpha1" => circuit_breakers,
    /// Trouble on purpose.
    FaultInjection(fault_injection::Spec) in "evenkeel.dev/v1alpha1" => fault_injections,
    /// Times in which documents do not change.
    ChangeFreeze(change_freeze::Spec) in "evenkeel.dev/v1alpha1" => change_freezes,
}

/// A document of one kind.
#[derive(Debug, PartialEq)]
pub(crate) struct Object<S> {
    /// Where it starts.
    pub place: Place,
    /// Its name, namespace and age.
    pub metadata: Metadata,
    /// What it says.
    pub spec: S,
}

// `object!` has no type parameters: the envelope is a table of its own around the spec.
impl<S: Decode> Decode for Object<S> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let envelope = Envelope::decode(node, path, problems);
        let Value::Map(entries) = &node.value else {
            return None;
        };
        let spec = match entries.iter().find(|(key, _)| key.text() == Some("spec")) {
            Some((_, spec)) => S::decode(spec, &path.field("spec"), problems),
            None => {
                problems.error(node.place, path.field("spec"), "is missing");
                None
            }
        };
        Some(Object { place: node.place, metadata: envelope?.metadata, spec: spec? })
    }

    fn schema() -> serde_json::Value {
        let mut schema = Envelope::schema();
        schema["properties"]["spec"] = S::schema();
        schema["required"] = serde_json::json!(["apiVersion", "kind", "metadata", "spec"]);
        schema
    }
}

object! {
    /// What every document has besides its spec.
    Envelope {
        /// Who it is.
        required metadata: Metadata = "metadata",
    }
    ignored { "apiVersion", "kind", "spec", "status" }
}

/// The kinds that this build enforces.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, _)| *kind)
}

/// Reads one document into its kind's list.
pub(crate) fn read(node: &Node<'_>, documents: &mut Documents, problems: &mut Problems) {
    let Value::Map(entries) = &node.value else {
        return refuse_shape(node, &Path::Document, "a mapping with apiVersion, kind, metadata and spec", problems);
    };
    let mut word = |name: &str| {
        let path = Path::Document;
        match entries.iter().find(|(key, _)| key.text() == Some(name)) {
            Some((_, node)) => Some((node.place, crate::decode::text(node, &path.field(name), problems)?.to_owned())),
            None => {
                problems.error(node.place, name, "is missing");
                None
            }
        }
    };
    let (version, kind) = (word("apiVersion"), word("kind"));
    let (Some((version_place, version)), Some((kind_place, kind))) = (version, kind) else {
        return;
    };
    if let Some((_, versions)) = KINDS.iter().find(|(known, _)| *known == kind)
        && versions.contains(&version.as_str())
    {
        return documents.read(&kind, node, problems);
    }
    if let Some((_, versions)) = KINDS.iter().find(|(known, _)| *known == kind) {
        let reason = format!("{kind} in {version:?} is not enforced by this build");
        let hint = format!("write {}", versions.join(" or "));
        return problems.error_with_hint(version_place, "apiVersion", reason, hint);
    }
    let reason = format!("{kind} is not enforced by this build");
    let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
    match nearest(&kind, &known) {
        Some(known) => problems.error_with_hint(kind_place, "kind", reason, format!("did you mean {known}?")),
        None => problems.error(kind_place, "kind", reason),
    }
}
