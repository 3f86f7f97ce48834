//! What control has to give: every resource with its version, the members of collections, and what each transaction
//! changed. One catalog serves all streams; a transaction on trial lies over it for some of them (`trial`). Machine, Cold.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use prost::bytes::Bytes;

use crate::consistent;
use crate::xds::Version;
use crate::xds::trial::{Trial, View};

/// What one transaction changes.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Greater than that of any before it.
    pub revision: u64,
    /// Resources by name; None: it is removed.
    pub resources: BTreeMap<Arc<str>, Option<Bytes>>,
    /// Collections by name, with all members; None: it is removed.
    pub collections: BTreeMap<Arc<str>, Option<BTreeSet<Arc<str>>>>,
}

/// What a transaction came to, for streams that follow.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    /// The transaction's.
    pub revision: u64,
    /// Resources that have another version now, or none.
    pub resources: Vec<Arc<str>>,
    /// Collections that came, went or have other members.
    pub collections: Vec<Arc<str>>,
}

/// A resource as it is now.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Of `body`.
    pub version: Version,
    /// An `evenkeel.v1.Resource`, encoded once for everybody.
    pub body: Bytes,
}

/// Names in transactions that are remembered; older ones only keep together what has the same revision.
const REMEMBERED_MAX: usize = 100_000;

/// Everything there is.
#[derive(Debug, Default)]
pub struct Catalog {
    revision: u64,
    /// Revisions and what the last transactions changed.
    log: VecDeque<(u64, Vec<Arc<str>>)>,
    remembered: usize,
    resources: HashMap<Arc<str>, Entry, RandomState>,
    collections: HashMap<Arc<str>, BTreeSet<Arc<str>>, RandomState>,
    trial: Option<Trial>,
}

impl Catalog {
    /// Takes a transaction, for everybody: what it changes is newer than what is on trial, too. What has the bytes it had
    /// before keeps its version, and has not changed.
    pub fn commit(&mut self, transaction: Transaction) -> Changed {
        self.revision = self.revision.max(transaction.revision);
        let mut changed = Changed { revision: transaction.revision, ..Changed::default() };
        for (name, body) in transaction.resources {
            let is_tried = self.trial.as_mut().is_some_and(|trial| trial.resources.remove(&name).is_some());
            let is_same = self.is_same(&name, body.as_ref());
            if !is_same || is_tried {
                changed.resources.push(name.clone());
            }
            if !is_same {
                self.set(name, body.map(|body| entry(transaction.revision, body)));
            }
        }
        for (name, members) in transaction.collections {
            let is_tried = self.trial.as_mut().is_some_and(|trial| trial.collections.remove(&name).is_some());
            let is_same = members.as_ref() == self.collections.get(&name);
            if !is_same || is_tried {
                changed.collections.push(name.clone());
            }
            if !is_same {
                self.set_members(name, members);
            }
        }
        self.remember(&changed);
        changed
    }

    /// Takes a transaction on trial: these proxies see it, and nobody else until it is promoted. There is one at a time:
    /// another one that is still there is given up.
    pub fn begin_trial(&mut self, transaction: Transaction, proxies: BTreeSet<Arc<str>>) -> Changed {
        self.revision = self.revision.max(transaction.revision);
        self.trial = Some(Trial { revision: transaction.revision, proxies, ..Trial::default() });
        self.amend_trial(transaction)
    }

    /// These proxies try what is on trial. Those are told what it changed.
    pub fn try_by(&mut self, proxies: BTreeSet<Arc<str>>) {
        if let Some(trial) = &mut self.trial {
            trial.proxies = proxies;
        }
    }

    /// Those who try it see this, too: what a transaction for everybody comes to under the one on trial.
    pub fn amend_trial(&mut self, transaction: Transaction) -> Changed {
        let mut changed = Changed { revision: transaction.revision, ..Changed::default() };
        let Some(mut trial) = self.trial.take() else { return changed };
        for (name, body) in transaction.resources {
            if !self.is_same(&name, body.as_ref()) {
                changed.resources.push(name.clone());
                trial.resources.insert(name, body.map(|body| entry(trial.revision, body)));
            }
        }
        for (name, members) in transaction.collections {
            if members.as_ref() != self.collections.get(&name) {
                changed.collections.push(name.clone());
                trial.collections.insert(name, members);
            }
        }
        self.trial = Some(trial);
        changed
    }

    /// What is on trial is everybody's now, at the revision and with the versions that it has.
    pub fn promote(&mut self) -> Changed {
        let Some(trial) = self.trial.take() else { return Changed::default() };
        let mut changed = Changed { revision: trial.revision, ..Changed::default() };
        for (name, entry) in trial.resources {
            changed.resources.push(name.clone());
            self.set(name, entry);
        }
        for (name, members) in trial.collections {
            changed.collections.push(name.clone());
            self.set_members(name, members);
        }
        self.remember(&changed);
        changed
    }

    /// What is on trial is nobody's any more, from this revision on.
    pub fn take_back(&mut self, revision: u64) -> Changed {
        let Some(trial) = self.trial.take() else { return Changed { revision, ..Changed::default() } };
        self.revision = self.revision.max(revision);
        let resources = trial.resources.into_keys().collect();
        let changed = Changed { revision, resources, collections: trial.collections.into_keys().collect() };
        // Who has it gives it up as a whole.
        self.remember(&changed);
        changed
    }

    /// The revision that is on trial, and whose proxies try it.
    pub fn trial(&self) -> Option<(u64, &BTreeSet<Arc<str>>)> {
        self.trial.as_ref().map(|trial| (trial.revision, &trial.proxies))
    }

    /// As the proxy of this id is to see it.
    pub(super) fn view(&self, id: &str) -> View<'_> {
        View::new(self, self.trial.as_ref(), id)
    }

    fn is_same(&self, name: &str, body: Option<&Bytes>) -> bool {
        body == self.resources.get(name).map(|entry| &entry.body)
    }

    fn set(&mut self, name: Arc<str>, entry: Option<Entry>) {
        match entry {
            Some(entry) => drop(self.resources.insert(name, entry)),
            None => drop(self.resources.remove(&name)),
        }
    }

    fn set_members(&mut self, name: Arc<str>, members: Option<BTreeSet<Arc<str>>>) {
        match members {
            Some(members) => drop(self.collections.insert(name, members)),
            None => drop(self.collections.remove(&name)),
        }
    }

    fn remember(&mut self, changed: &Changed) {
        self.remembered += changed.resources.len();
        self.log.push_back((changed.revision, changed.resources.clone()));
        while self.remembered > REMEMBERED_MAX
            && let Some((_, names)) = self.log.pop_front()
        {
            self.remembered -= names.len();
        }
    }

    /// The smallest sets of these names of which each can be taken without the others, by a proxy that `has` these
    /// revisions: no transaction that it lacks changed only a part of one.
    pub(super) fn split(
        view: View<'_>,
        names: &BTreeSet<Arc<str>>,
        has: impl Fn(&str) -> u64,
    ) -> Vec<BTreeSet<Arc<str>>> {
        // Of names that belong together, each leads to another one, and all of them to the same.
        let place: HashMap<&str, usize> = names.iter().enumerate().map(|(place, name)| (&**name, place)).collect();
        let mut leads: Vec<usize> = (0..names.len()).collect();
        let mut first_of_revision = HashMap::new();
        for (name, at) in &place {
            let revision = view.resource(name).map_or(0, |entry| entry.version.revision);
            if revision > 0 {
                join(&mut leads, *at, *first_of_revision.entry(revision).or_insert(*at));
            }
        }
        let log = view.catalog.log.iter().map(|(revision, changed)| (*revision, changed.iter().collect()));
        for (revision, changed) in log.chain(view.tried()) {
            let mut known = changed.iter().filter_map(|name| Some((name, place.get(&***name)?)));
            if known.clone().any(|(name, _)| has(name) < revision)
                && let Some((_, first)) = known.next()
            {
                known.for_each(|(_, at)| join(&mut leads, *at, *first));
            }
        }
        let mut parts: BTreeMap<usize, BTreeSet<Arc<str>>> = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            parts.entry(end(&mut leads, at)).or_default().insert(name.clone());
        }
        parts.into_values().collect()
    }

    /// Of the last transaction.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All resources.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.resources.keys()
    }

    /// All collections.
    pub fn collections(&self) -> impl Iterator<Item = &Arc<str>> {
        self.collections.keys()
    }

    /// A resource; None: there is none of that name.
    pub fn resource(&self, name: &str) -> Option<&Entry> {
        self.resources.get(name)
    }

    /// A name in the memory that all who know it share: ten thousand streams with a copy each would cost more than the
    /// copies, since none of them is in a cache when it is looked at.
    pub(super) fn shared(&self, name: String) -> Arc<str> {
        let of_resource = self.resources.get_key_value(&*name).map(|(name, _)| name);
        let known = of_resource.or_else(|| self.collections.get_key_value(&*name).map(|(name, _)| name));
        known.cloned().unwrap_or_else(|| name.into())
    }

    /// The members of a collection as the proxy of this id is to see it; None: there is none of that name.
    pub fn collection_of(&self, id: &str, name: &str) -> Option<&BTreeSet<Arc<str>>> {
        self.view(id).collection(name)
    }

    /// The members of a collection; None: there is none of that name.
    pub fn collection(&self, name: &str) -> Option<&BTreeSet<Arc<str>>> {
        self.collections.get(name)
    }
}

fn entry(revision: u64, body: Bytes) -> Entry {
    Entry { version: Version { revision, hash: consistent::hash(&body) }, body }
}

fn end(leads: &mut [usize], mut at: usize) -> usize {
    while leads[at] != at {
        leads[at] = leads[leads[at]];
        at = leads[at];
    }
    at
}

fn join(leads: &mut [usize], one: usize, other: usize) {
    let (one, other) = (end(leads, one), end(leads, other));
    leads[one.max(other)] = one.min(other);
}
