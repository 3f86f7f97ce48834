//! Which documents belong together: what a Gateway needs to know, and whom a change of one document concerns. Documents
//! are values here; references that are wrong or lead nowhere are somebody else's business. Pure, Cold.
//!
//! A document belongs to a Gateway if it is attached to something that does (a route to the Gateway, a policy to a route or
//! a Service), or if something that does sends requests to it (a route to a Service). Grants belong to everything of their
//! namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::document::Key;

const GATEWAY: &str = "Gateway";
const GRANT: &str = "ReferenceGrant";

/// Lists of references by which a document attaches itself, and the kind of those that name none.
const ATTACHING: [(&str, &str); 4] =
    [("parentRefs", GATEWAY), ("targetRefs", "Service"), ("entries", GATEWAY), ("internal", GATEWAY)];
/// Where a document says whom it sends requests to: lists and single references. They are to Services.
const SENDING: [&str; 2] = ["backendRefs", "backendRef"];

/// What one document refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct References {
    attached_to: BTreeSet<Key>,
    sends_to: BTreeSet<Key>,
}

/// Who refers to whom, kept up with each change.
#[derive(Debug, Clone, Default)]
pub struct Scopes {
    references: HashMap<Key, References>,
    /// Who is attached to a document, whether that is there or not.
    attached: HashMap<Key, BTreeSet<Key>>,
    /// Who sends to one.
    senders: HashMap<Key, BTreeSet<Key>>,
    grants: BTreeMap<Box<str>, BTreeSet<Key>>,
}

impl Scopes {
    /// A document is this now, or none. Returns whether that may change what belongs to a Gateway.
    pub fn set(&mut self, key: &Key, document: Option<&Value>) -> bool {
        let now = document.map(|document| references(key, document));
        if now.as_ref() == self.references.get(key) {
            return false;
        }
        let before = self.references.remove(key).unwrap_or_default();
        let empty = References::default();
        let next = now.as_ref().unwrap_or(&empty);
        turn(&mut self.attached, key, &before.attached_to, &next.attached_to);
        turn(&mut self.senders, key, &before.sends_to, &next.sends_to);
        if *key.kind == *GRANT {
            let grants = self.grants.entry((*key.namespace).into()).or_default();
            match now {
                Some(_) => drop(grants.insert(key.clone())),
                None => drop(grants.remove(key)),
            }
        }
        if let Some(now) = now {
            self.references.insert(key.clone(), now);
        }
        true
    }

    /// Everything that belongs to a Gateway, itself among it; nothing if it is not there.
    pub fn of_gateway(&self, gateway: &Key) -> BTreeSet<Key> {
        if *gateway.kind != *GATEWAY || !self.references.contains_key(gateway) {
            return BTreeSet::new();
        }
        self.closure([gateway.clone()])
    }

    /// The Gateways that a document belongs to.
    pub fn gateways(&self, key: &Key) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![key.clone()];
        if *key.kind == *GRANT {
            let is_there = |other: &&Key| other.namespace == key.namespace;
            open.extend(self.references.keys().filter(is_there).cloned());
        }
        while let Some(key) = open.pop() {
            if !seen.insert(key.clone()) {
                continue;
            }
            if *key.kind == *GATEWAY {
                found.insert(key);
                continue;
            }
            let of = |references: &References| references.attached_to.iter().cloned().collect::<Vec<_>>();
            open.extend(self.references.get(&key).map(of).unwrap_or_default());
            open.extend(self.senders.get(&key).into_iter().flatten().cloned());
        }
        found
    }

    /// Everything that has to be looked at again after these changed: what belongs to their Gateways, and they themselves
    /// with what they refer to.
    pub fn concerned<'k>(&self, changed: impl IntoIterator<Item = &'k Key>) -> BTreeSet<Key> {
        let mut roots = BTreeSet::new();
        for key in changed {
            roots.extend(self.gateways(key));
            roots.insert(key.clone());
            roots.extend(self.references.get(key).into_iter().flat_map(|one| one.attached_to.iter().cloned()));
        }
        self.closure(roots)
    }

    fn closure(&self, roots: impl IntoIterator<Item = Key>) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        let mut namespaces = BTreeSet::new();
        let mut open: Vec<Key> = roots.into_iter().collect();
        while let Some(key) = open.pop() {
            let Some(references) = self.references.get(&key) else { continue };
            if !found.insert(key.clone()) {
                continue;
            }
            if namespaces.insert(key.namespace.clone()) {
                open.extend(self.grants.get(&*key.namespace).into_iter().flatten().cloned());
            }
            open.extend(references.sends_to.iter().cloned());
            open.extend(self.attached.get(&key).into_iter().flatten().cloned());
        }
        found
    }
}

/// Keeps the reverse of references.
fn turn(reverse: &mut HashMap<Key, BTreeSet<Key>>, key: &Key, before: &BTreeSet<Key>, now: &BTreeSet<Key>) {
    for gone in before.difference(now) {
        if let Some(known) = reverse.get_mut(gone) {
            known.remove(key);
            if known.is_empty() {
                reverse.remove(gone);
            }
        }
    }
    for new in now.difference(before) {
        reverse.entry(new.clone()).or_default().insert(key.clone());
    }
}

fn references(key: &Key, document: &Value) -> References {
    let mut found = References::default();
    gather(key, &document["spec"], &mut found);
    found
}

fn gather(key: &Key, value: &Value, found: &mut References) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| gather(key, item, found)),
        Value::Object(entries) => {
            for (name, value) in entries {
                let referred = |kind: &str| -> Vec<Key> {
                    let one = std::slice::from_ref(value);
                    let all = value.as_array().map_or(one, Vec::as_slice);
                    all.iter().filter_map(|reference| referred(key, kind, reference)).collect()
                };
                if let Some((_, kind)) = ATTACHING.iter().find(|(attaching, _)| attaching == name) {
                    found.attached_to.extend(referred(kind));
                } else if SENDING.contains(&&**name) {
                    found.sends_to.extend(referred("Service"));
                }
                gather(key, value, found);
            }
        }
        _ => {}
    }
}

fn referred(from: &Key, kind: &str, reference: &Value) -> Option<Key> {
    Some(Key {
        kind: reference["kind"].as_str().unwrap_or(kind).into(),
        namespace: reference["namespace"].as_str().map_or_else(|| from.namespace.clone(), Into::into),
        name: reference["name"].as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(text: &str) -> Key {
        let mut parts = text.split('/');
        let mut next = || parts.next().expect("kind/namespace/name").into();
        Key { kind: next(), namespace: next(), name: next() }
    }

    fn names(keys: BTreeSet<Key>) -> String {
        keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn shop() -> Scopes {
        let mut scopes = Scopes::default();
        for (name, spec) in [
            ("Gateway/d/edge", json!({"listeners": []})),
            ("Gateway/d/other", json!({})),
            (
                "HTTPRoute/d/web",
                json!({"parentRefs": [{"name": "edge"}], "rules": [{
                    "filters": [{"requestMirror": {"backendRef": {"name": "copy"}}}],
                    "backendRefs": [{"name": "web"}, {"name": "pay", "namespace": "p"}]}]}),
            ),
            (
                "HTTPRoute/d/api",
                json!({"parentRefs": [{"name": "other"}], "rules": [{"backendRefs": [{"name": "web"}]}]}),
            ),
            ("Service/d/web", json!({"ports": []})),
            ("Service/d/copy", json!({})),
            ("Service/p/pay", json!({})),
            ("Service/d/lonely", json!({})),
            ("ReferenceGrant/p/pay", json!({"from": [], "to": []})),
            ("ReferenceGrant/q/none", json!({})),
            ("RateLimit/d/web", json!({"targetRefs": [{"kind": "HTTPRoute", "name": "web"}]})),
            ("TrafficPolicy/p/pay", json!({"targetRefs": [{"kind": "Service", "name": "pay"}]})),
            ("LaneGroup/d/lanes", json!({"entries": [{"kind": "Gateway", "name": "edge"}]})),
            ("RateLimit/d/dangling", json!({"targetRefs": [{"kind": "HTTPRoute", "name": "none"}]})),
        ] {
            scopes.set(&key(name), Some(&json!({ "spec": spec })));
        }
        scopes
    }

    #[test]
    fn a_gateway_needs_what_is_attached_and_what_that_sends_to() {
        let scopes = shop();
        let edge = "Gateway/d/edge HTTPRoute/d/web LaneGroup/d/lanes RateLimit/d/web ReferenceGrant/p/pay Service/d/copy \
                    Service/d/web Service/p/pay TrafficPolicy/p/pay";
        assert_eq!(names(scopes.of_gateway(&key("Gateway/d/edge"))), edge);
        assert_eq!(names(scopes.of_gateway(&key("Gateway/d/other"))), "Gateway/d/other HTTPRoute/d/api Service/d/web");
        for absent in ["Gateway/d/none", "Service/d/web"] {
            assert_eq!(names(scopes.of_gateway(&key(absent))), "");
        }
    }

    #[test]
    fn a_change_concerns_its_gateways() {
        let scopes = shop();
        for (changed, expected) in [
            ("Service/d/web", "Gateway/d/edge Gateway/d/other"),
            ("TrafficPolicy/p/pay", "Gateway/d/edge"),
            ("ReferenceGrant/p/pay", "Gateway/d/edge"),
            ("RateLimit/d/dangling", ""),
            ("Service/d/lonely", ""),
            ("Gateway/d/other", "Gateway/d/other"),
        ] {
            assert_eq!(names(scopes.gateways(&key(changed))), expected, "{changed}");
        }
        assert_eq!(names(scopes.concerned([&key("RateLimit/d/dangling")])), "RateLimit/d/dangling");
        let other = "Gateway/d/other HTTPRoute/d/api Service/d/web";
        assert_eq!(names(scopes.concerned([&key("HTTPRoute/d/api")])), other);
    }

    #[test]
    fn what_changes_is_followed() {
        let mut scopes = shop();
        let (route, gateway) = (key("HTTPRoute/d/api"), key("Gateway/d/other"));
        scopes.set(&route, Some(&json!({"spec": {"parentRefs": [{"name": "other"}], "rules": []}})));
        assert_eq!(names(scopes.of_gateway(&gateway)), "Gateway/d/other HTTPRoute/d/api");
        scopes.set(&route, None);
        assert_eq!(names(scopes.of_gateway(&gateway)), "Gateway/d/other");
        scopes.set(&gateway, None);
        assert_eq!(names(scopes.of_gateway(&gateway)), "");
        assert_eq!(scopes.senders.get(&key("Service/d/web")).map(BTreeSet::len), Some(1));
    }
}
