//! Where requests find instances, by the documents of their Services and of lanes as everybody has them: what some proxies
//! try changes nobody's place. Cold.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use config::document::Key;
use serde_json::Value;

use crate::registry::{Instance, Name, Place};
use crate::server::instances::service;
use crate::store::State;

/// The places of many instances: each document is read once.
pub(crate) struct Places<'s> {
    documents: &'s State,
    /// The names of a Service's ports; None: there is no such Service.
    ports: RefCell<HashMap<Key, Option<Arc<[String]>>>>,
    /// What the LaneGroups of a namespace call the baseline.
    baselines: RefCell<HashMap<Arc<str>, Arc<BTreeSet<String>>>>,
}

impl<'s> Places<'s> {
    pub(crate) fn new(documents: &'s State) -> Places<'s> {
        Places { documents, ports: RefCell::default(), baselines: RefCell::default() }
    }

    /// The place of one.
    pub(crate) fn of(&self, name: &Name, instance: &Instance) -> Place {
        let own = || instance.ports.keys().cloned();
        let ports = match self.ports(service(name)) {
            // It may come later.
            None => own().collect(),
            Some(known) => {
                let named = own().filter_map(|port| match &*port {
                    "" => known.first(),
                    port => known.iter().find(|known| **known == *port),
                });
                named.map(|port| port.as_str().into()).collect()
            }
        };
        // In the baseline, however the LaneGroups of its namespace call that.
        let lane = instance.labels.get("lane").filter(|lane| !self.baselines(&name.namespace).contains(&***lane));
        Place { lane: lane.cloned().unwrap_or_default(), ports }
    }

    fn ports(&self, key: Key) -> Option<Arc<[String]>> {
        let read = |key: &Key| {
            let document: Value = serde_json::from_str(&self.text(key)?).ok()?;
            let ports = document["spec"]["ports"].as_array()?;
            Some(ports.iter().map(|port| port["name"].as_str().unwrap_or_default().to_owned()).collect())
        };
        self.ports.borrow_mut().entry(key).or_insert_with_key(read).clone()
    }

    fn baselines(&self, namespace: &Arc<str>) -> Arc<BTreeSet<String>> {
        let read = |namespace: &Arc<str>| {
            let tried = self.documents.trial().into_iter().flat_map(|trial| &trial.moved).map(|moved| &moved.key);
            let keys = self.documents.of_kind("LaneGroup").map(|group| &group.key).chain(tried);
            let meant: BTreeSet<&Key> =
                keys.filter(|key| &*key.kind == "LaneGroup" && key.namespace == *namespace).collect();
            let baseline = |key: &Key| {
                let document: Value = serde_json::from_str(&self.text(key)?).ok()?;
                Some(document["spec"]["baseline"].as_str().unwrap_or("base").to_owned())
            };
            Arc::new(meant.into_iter().filter_map(baseline).collect())
        };
        self.baselines.borrow_mut().entry(namespace.clone()).or_insert_with_key(read).clone()
    }

    /// A document as everybody has it.
    fn text(&self, key: &Key) -> Option<Cow<'s, str>> {
        let now = self.documents.get(key);
        let tried = self.documents.trial().and_then(|trial| trial.moved.iter().find(|moved| moved.key == *key));
        match tried.and_then(|moved| moved.as_before(now)) {
            Some(before) => before.map(|text| Cow::Owned(text.to_string())),
            None => now.map(|object| Cow::Borrowed(&*object.text)),
        }
    }
}
