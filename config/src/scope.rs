//! Which documents belong together: what a Gateway needs to know, and what the callers of a Service and its own instances
//! do; and whom a change of one document concerns. Documents are values here; references that are wrong or lead nowhere are
//! somebody else's business. Pure, Cold.
//!
//! A document belongs to a Gateway or a Service if it is attached to something that does (a route to the Gateway, a policy
//! to a route or a Service), or if something that does sends requests to it (a route to a Service). Routes that are attached
//! to a Service are its callers' business: they do not belong to whoever else sends to it. Grants belong to everything of
//! their namespace, and LaneGroups to every Service of theirs and to whatever sends its callers there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::document::Key;

const GATEWAY: &str = "Gateway";
const SERVICE: &str = "Service";
const ROUTE: &str = "HTTPRoute";
const GRANT: &str = "ReferenceGrant";
const LANES: &str = "LaneGroup";

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
    /// Of each namespace its grants, LaneGroups and Services.
    by_namespace: BTreeMap<(&'static str, Box<str>), BTreeSet<Key>>,
}

impl Scopes {
    /// A document is this now, or none. Returns whether that may change what belongs together.
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
        if let Some(kind) = [GRANT, LANES, SERVICE].into_iter().find(|kind| *key.kind == **kind) {
            let place = (kind, (*key.namespace).into());
            let of_kind = self.by_namespace.entry(place.clone()).or_default();
            match now {
                Some(_) => drop(of_kind.insert(key.clone())),
                None => drop(of_kind.remove(key)),
            }
            if of_kind.is_empty() {
                self.by_namespace.remove(&place);
            }
        }
        if let Some(now) = now {
            self.references.insert(key.clone(), now);
        }
        true
    }

    /// Everything that belongs to a Gateway or a Service, itself among it; nothing if it is not there.
    pub fn of(&self, root: &Key) -> BTreeSet<Key> {
        if !is_root(root) || !self.references.contains_key(root) {
            return BTreeSet::new();
        }
        self.closure([root.clone()].into())
    }

    /// The Gateways and Services that a document belongs to.
    pub fn roots(&self, key: &Key) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![key.clone()];
        if *key.kind == *GRANT {
            let is_there = |other: &&Key| other.namespace == key.namespace;
            open.extend(self.references.keys().filter(is_there).cloned());
        }
        if *key.kind == *LANES {
            for service in self.of_namespace(SERVICE, &key.namespace) {
                found.insert(service.clone());
                let routes = self.senders.get(service).into_iter().flatten();
                let targets = routes.flat_map(|route| self.attached_to(route));
                found.extend(targets.filter(|target| *target.kind == *SERVICE).cloned());
            }
        }
        while let Some(key) = open.pop() {
            if !seen.insert(key.clone()) {
                continue;
            }
            if is_root(&key) {
                found.insert(key.clone());
            }
            for target in self.attached_to(&key) {
                match *key.kind == *ROUTE && *target.kind == *SERVICE {
                    // For its callers; who else sends to it has nothing of this.
                    true => drop(found.insert(target.clone())),
                    false => open.push(target.clone()),
                }
            }
            open.extend(self.senders.get(&key).into_iter().flatten().cloned());
        }
        found
    }

    /// The LaneGroups of a namespace.
    pub fn lane_groups(&self, namespace: &str) -> BTreeSet<Key> {
        self.of_namespace(LANES, namespace).cloned().collect()
    }

    /// Everything that has to be looked at again after these changed: what belongs to their Gateways and Services, and they
    /// themselves with what they refer to.
    pub fn concerned<'k>(&self, changed: impl IntoIterator<Item = &'k Key>) -> BTreeSet<Key> {
        let mut roots = BTreeSet::new();
        for key in changed {
            roots.extend(self.roots(key));
            roots.insert(key.clone());
            roots.extend(self.attached_to(key).cloned());
        }
        self.closure(roots)
    }

    /// These with everything that they refer to.
    pub fn with_references(&self, keys: &BTreeSet<Key>) -> BTreeSet<Key> {
        let targets = keys.iter().flat_map(|key| self.attached_to(key)).filter(|target| *target.kind != *GATEWAY);
        self.closure(keys.iter().chain(targets).cloned().collect())
    }

    fn attached_to(&self, key: &Key) -> impl Iterator<Item = &Key> {
        self.references.get(key).into_iter().flat_map(|references| &references.attached_to)
    }

    fn of_namespace(&self, kind: &'static str, namespace: &str) -> impl Iterator<Item = &Key> + use<'_> {
        self.by_namespace.get(&(kind, namespace.into())).into_iter().flatten()
    }

    fn closure(&self, roots: BTreeSet<Key>) -> BTreeSet<Key> {
        let has_callers = roots.iter().any(|root| *root.kind == *SERVICE);
        let mut found = BTreeSet::new();
        let mut namespaces = BTreeSet::new();
        let mut open: Vec<Key> = roots.iter().cloned().collect();
        while let Some(key) = open.pop() {
            let Some(references) = self.references.get(&key) else { continue };
            if !found.insert(key.clone()) {
                continue;
            }
            let is_service = *key.kind == *SERVICE;
            if namespaces.insert((is_service, key.namespace.clone())) {
                open.extend(self.of_namespace(GRANT, &key.namespace).cloned());
                // Which instances serve whom, callers must know.
                let has_lanes = is_service && has_callers;
                open.extend(self.of_namespace(LANES, &key.namespace).filter(|_| has_lanes).cloned());
            }
            open.extend(references.sends_to.iter().cloned());
            let is_called = !is_service || roots.contains(&key);
            let attached = self.attached.get(&key).into_iter().flatten();
            open.extend(attached.filter(|document| is_called || *document.kind != *ROUTE).cloned());
        }
        found
    }
}

/// Whether proxies stand for it.
pub fn is_root(key: &Key) -> bool {
    *key.kind == *GATEWAY || *key.kind == *SERVICE
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
            (
                "HTTPRoute/d/calls",
                json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [
                    {"backendRefs": [{"name": "copy"}, {"name": "pay", "namespace": "p"}]}]}),
            ),
            ("RateLimit/d/calls", json!({"targetRefs": [{"kind": "HTTPRoute", "name": "calls"}]})),
            ("LaneGroup/p/lanes", json!({"entries": []})),
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
        assert_eq!(names(scopes.of(&key("Gateway/d/edge"))), edge);
        assert_eq!(names(scopes.of(&key("Gateway/d/other"))), "Gateway/d/other HTTPRoute/d/api Service/d/web");
        for absent in ["Gateway/d/none", "Service/d/none", "HTTPRoute/d/web"] {
            assert_eq!(names(scopes.of(&key(absent))), "");
        }
    }

    #[test]
    fn callers_need_the_routes_of_a_service_and_the_lanes_of_its_namespace() {
        let scopes = shop();
        for (service, expected) in [
            (
                "Service/d/web",
                "HTTPRoute/d/calls LaneGroup/d/lanes LaneGroup/p/lanes RateLimit/d/calls ReferenceGrant/p/pay \
                 Service/d/copy Service/d/web Service/p/pay TrafficPolicy/p/pay",
            ),
            ("Service/d/copy", "LaneGroup/d/lanes Service/d/copy"),
            ("Service/p/pay", "LaneGroup/p/lanes ReferenceGrant/p/pay Service/p/pay TrafficPolicy/p/pay"),
        ] {
            assert_eq!(names(scopes.of(&key(service))), expected);
        }
    }

    #[test]
    fn a_change_concerns_those_whom_it_belongs_to() {
        let scopes = shop();
        for (changed, expected) in [
            ("Service/d/web", "Gateway/d/edge Gateway/d/other Service/d/web"),
            ("TrafficPolicy/p/pay", "Gateway/d/edge Service/d/web Service/p/pay"),
            ("ReferenceGrant/p/pay", "Gateway/d/edge Service/d/web Service/p/pay"),
            ("RateLimit/d/dangling", ""),
            ("RateLimit/d/calls", "Service/d/web"),
            ("HTTPRoute/d/calls", "Service/d/web"),
            ("Service/d/lonely", "Service/d/lonely"),
            ("Gateway/d/other", "Gateway/d/other"),
            ("LaneGroup/p/lanes", "Service/d/web Service/p/pay"),
            ("LaneGroup/d/lanes", "Gateway/d/edge Service/d/copy Service/d/lonely Service/d/web"),
        ] {
            let roots = scopes.roots(&key(changed));
            assert_eq!(names(roots.clone()), expected, "{changed}");
            // And nobody else.
            let all = scopes.references.keys().filter(|root| scopes.of(root).contains(&key(changed)));
            assert_eq!(all.cloned().collect::<BTreeSet<_>>(), roots, "{changed}");
        }
        assert_eq!(names(scopes.concerned([&key("RateLimit/d/dangling")])), "RateLimit/d/dangling");
        let other = "Gateway/d/other HTTPRoute/d/api Service/d/web";
        assert_eq!(names(scopes.concerned([&key("HTTPRoute/d/api")])), other);
        let lonely = "LaneGroup/d/lanes Service/d/lonely";
        assert_eq!(names(scopes.concerned([&key("Service/d/lonely")])), lonely);
    }

    #[test]
    fn what_changes_is_followed() {
        let mut scopes = shop();
        let (route, gateway) = (key("HTTPRoute/d/api"), key("Gateway/d/other"));
        scopes.set(&route, Some(&json!({"spec": {"parentRefs": [{"name": "other"}], "rules": []}})));
        assert_eq!(names(scopes.of(&gateway)), "Gateway/d/other HTTPRoute/d/api");
        scopes.set(&route, None);
        assert_eq!(names(scopes.of(&gateway)), "Gateway/d/other");
        scopes.set(&gateway, None);
        assert_eq!(names(scopes.of(&gateway)), "");
        assert_eq!(scopes.senders.get(&key("Service/d/web")).map(BTreeSet::len), Some(1));
        let groups = |scopes: &Scopes| names(scopes.lane_groups("p"));
        assert_eq!(groups(&scopes), "LaneGroup/p/lanes");
        scopes.set(&key("LaneGroup/p/lanes"), None);
        assert_eq!(groups(&scopes), "");
    }
}
