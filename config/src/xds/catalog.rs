//! What control has to give: every resource with its version, the members of collections, and what each transaction
//! changed. One catalog serves all streams. Machine, Cold.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use prost::bytes::Bytes;

use crate::consistent;
use crate::xds::Version;

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
    resources: HashMap<Arc<str>, Entry>,
    collections: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Catalog {
    /// Takes a transaction. What has the bytes it had before keeps its version, and has not changed.
    pub fn commit(&mut self, transaction: Transaction) -> Changed {
        self.revision = self.revision.max(transaction.revision);
        let mut changed = Changed { revision: transaction.revision, ..Changed::default() };
        for (name, body) in transaction.resources {
            let is_same = match (&body, self.resources.get(&name)) {
                (Some(body), Some(entry)) => *body == entry.body,
                (None, None) => true,
                _ => false,
            };
            if is_same {
                continue;
            }
            changed.resources.push(name.clone());
            match body {
                Some(body) => {
                    let version = Version { revision: transaction.revision, hash: consistent::hash(&body) };
                    self.resources.insert(name, Entry { version, body });
                }
                None => drop(self.resources.remove(&name)),
            }
        }
        for (name, members) in transaction.collections {
            if members.as_ref() == self.collections.get(&name) {
                continue;
            }
            changed.collections.push(name.clone());
            match members {
                Some(members) => drop(self.collections.insert(name, members)),
                None => drop(self.collections.remove(&name)),
            }
        }
        self.remembered += changed.resources.len();
        self.log.push_back((transaction.revision, changed.resources.clone()));
        while self.remembered > REMEMBERED_MAX
            && let Some((_, names)) = self.log.pop_front()
        {
            self.remembered -= names.len();
        }
        changed
    }

    /// The smallest sets of these names of which each can be taken without the others, by a proxy that `has` these
    /// revisions: no transaction that it lacks changed only a part of one.
    pub(crate) fn split(&self, names: &BTreeSet<Arc<str>>, has: impl Fn(&str) -> u64) -> Vec<BTreeSet<Arc<str>>> {
        // Of names that belong together, each leads to another one, and all of them to the same.
        let place: HashMap<&str, usize> = names.iter().enumerate().map(|(place, name)| (&**name, place)).collect();
        let mut leads: Vec<usize> = (0..names.len()).collect();
        let mut first_of_revision = HashMap::new();
        for (name, at) in &place {
            let revision = self.resource(name).map_or(0, |entry| entry.version.revision);
            if revision > 0 {
                join(&mut leads, *at, *first_of_revision.entry(revision).or_insert(*at));
            }
        }
        for (revision, changed) in &self.log {
            let mut known = changed.iter().filter_map(|name| Some((name, place.get(&**name)?)));
            if known.clone().any(|(name, _)| has(name) < *revision)
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

    /// The members of a collection; None: there is none of that name.
    pub fn collection(&self, name: &str) -> Option<&BTreeSet<Arc<str>>> {
        self.collections.get(name)
    }
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
