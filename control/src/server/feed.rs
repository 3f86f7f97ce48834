//! What proxies can get: the catalog, kept up with the store, and whom to tell when it changes. Whatever reads the catalog
//! has been told of every change in it. Cold.

mod instances;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use config::document::Key;
use config::scope::{Scopes, is_root};
use config::wire::evenkeel::v1::{self, resource::Kind};
use config::xds::catalog::{Catalog, Changed, Transaction};
use config::xds::{self, ENDPOINTS, service};
use prost::Message;
use prost::bytes::Bytes;
use serde_json::Value;

use crate::registry::{Name, Shift};
use crate::server::canary;
use crate::server::feed::instances::Instances;
use crate::server::fleet::Fleet;
use crate::server::followers::Followers;
use crate::server::roll::Roll;
use crate::store::{Committed, Course, Missed, Object, Store, Terms};

/// The catalog and its streams.
pub(crate) struct Feed {
    fleet: Arc<Fleet>,
    roll: Arc<Roll>,
    catalog: RwLock<Catalog>,
    /// Taken before the catalog, never while that is held.
    scoped: Mutex<Scoped>,
    /// Whom to tell.
    pub(crate) followers: Followers,
}

/// What belongs together.
#[derive(Default)]
struct Scoped {
    scopes: Scopes,
    instances: Instances,
    trial: Option<OnTrial>,
}

/// A transaction that some proxies try.
struct OnTrial {
    committed: Arc<Committed>,
    /// As they are with it.
    scopes: Scopes,
    /// Proxies whom it concerns. None: it is of another life of this server.
    concerned: Option<usize>,
}

impl OnTrial {
    fn changes(&self, key: &Key) -> bool {
        self.committed.moved.iter().any(|moved| moved.key == *key)
    }
}

impl Feed {
    /// Of nothing, for these proxies and instances.
    pub(crate) fn new(fleet: Arc<Fleet>, roll: Arc<Roll>) -> Feed {
        let (catalog, scoped, followers) = (RwLock::default(), Mutex::default(), Followers::default());
        Feed { fleet, roll, catalog, scoped, followers }
    }

    /// Everything there is now.
    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what is in the store, then every change of it, for as long as there is a store.
    pub(crate) async fn run(&self, store: Store) {
        let mut revisions = store.revisions();
        let mut seen = self.begin(&store);
        loop {
            revisions.borrow_and_update();
            match store.since(seen) {
                Missed::Changes(changes) => {
                    for committed in changes {
                        seen = committed.revision;
                        self.take(&committed);
                        match committed.cause.course {
                            Course::Straight => {
                                self.roll.on_documents(committed.moved.iter().map(|moved| &moved.key));
                            }
                            // What becomes everybody's may have been there before.
                            _ => self.roll.on_all_documents(),
                        }
                    }
                }
                // It was too fast for us: everything anew.
                Missed::TooMuch => {
                    seen = self.begin(&store);
                    self.roll.on_all_documents();
                }
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    /// The revision that some proxies try, and how many it concerns; None of them: it was begun in another life of this
    /// server, or so long ago that nobody remembers who tries it.
    pub(crate) fn trial(&self) -> Option<(u64, Option<usize>)> {
        let scoped = self.scoped();
        scoped.trial.as_ref().map(|trial| (trial.committed.revision, trial.concerned))
    }

    fn scoped(&self) -> MutexGuard<'_, Scoped> {
        self.scoped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, store: &Store) -> u64 {
        let state = store.state();
        let objects: Vec<Arc<Object>> = state.objects().cloned().collect();
        let instances = state.instances().clone();
        let (revision, trial) = (state.revision(), state.trial().cloned());
        drop(state);
        let mut scoped = self.scoped();
        *scoped = Scoped::default();
        let mut documents: BTreeMap<&Key, Option<Value>> =
            objects.iter().map(|object| (&object.key, serde_json::from_str(&object.text).ok())).collect();
        for moved in trial.iter().flat_map(|trial| &trial.moved) {
            // What was not promoted is not everybody's.
            let now = objects.iter().find(|object| object.key == moved.key);
            if let Some(before) = moved.as_before(now) {
                documents.insert(&moved.key, before.and_then(|text| serde_json::from_str(&text).ok()));
            }
        }
        let mut transaction = Transaction { revision, ..Transaction::default() };
        let draining = instances.iter().filter(|(_, instance)| instance.is_draining);
        let draining: Vec<Name> = draining.map(|(name, _)| name.clone()).collect();
        for (name, instance) in instances {
            scoped.instances.shift(&Shift { name, before: None, after: Some(instance) });
        }
        for (key, value) in documents.iter().filter(|(_, value)| value.is_some()) {
            scoped.scopes.set(key, value.as_ref());
            scoped.instances.put(&mut transaction, key, value.as_ref());
        }
        for key in documents.keys().filter(|key| is_root(key)) {
            let members = Some(members(&scoped.scopes, key)).filter(|members| !members.is_empty());
            transaction.collections.insert(collection(key), members);
        }
        let catalog = self.catalog();
        let gone = catalog.names().filter(|name| !transaction.resources.contains_key(*name)).cloned();
        let gone: Vec<Arc<str>> = gone.collect();
        let closed = catalog.collections().filter(|name| !transaction.collections.contains_key(*name)).cloned();
        let closed: Vec<Arc<str>> = closed.collect();
        drop(catalog);
        transaction.resources.extend(gone.into_iter().map(|name| (name, None)));
        transaction.collections.extend(closed.into_iter().map(|name| (name, None)));
        let mut catalog = self.write();
        let changed = catalog.take_back(revision);
        self.tell(&changed, None);
        let changed = catalog.commit(transaction);
        self.tell(&changed, None);
        self.roll.on_marks(draining, revision, &self.fleet, &catalog);
        if let Some(committed) = trial {
            let hidden = Transaction { revision: committed.revision, ..Transaction::default() };
            catalog.begin_trial(hidden, BTreeSet::new());
            let scopes = scoped.scopes.clone();
            scoped.trial = Some(OnTrial { committed, scopes, concerned: None });
        }
        revision
    }

    fn take(&self, committed: &Arc<Committed>) {
        let mut scoped = self.scoped();
        match committed.cause.course {
            Course::Straight => self.take_straight(&mut scoped, committed),
            Course::Trial(terms) => self.take_trial(&mut scoped, committed, terms),
            Course::Promotes(_) => self.promote(&mut scoped, committed),
            Course::TakesBack(_) => {
                scoped.trial = None;
                let mut catalog = self.write();
                let tried_by = catalog.trial().map(|(_, proxies)| proxies.clone()).unwrap_or_default();
                let changed = catalog.take_back(committed.revision);
                self.tell_those(&changed, &tried_by);
                drop(catalog);
                self.take_straight(&mut scoped, committed);
            }
        }
    }

    /// It goes to everybody. Of a document that is on trial, what others did not change waits.
    fn take_straight(&self, scoped: &mut Scoped, committed: &Committed) {
        let revision = committed.revision;
        let mut transaction = Transaction { revision, ..Transaction::default() };
        let mut roots: BTreeSet<Key> = BTreeSet::new();
        for moved in &committed.moved {
            let value: Option<Value> = moved.after.as_ref().and_then(|object| serde_json::from_str(&object.text).ok());
            if moved.is_only_endpoints() && scoped.trial.as_ref().is_some_and(|trial| trial.changes(&moved.key)) {
                scoped.instances.put_endpoints(&mut transaction, &moved.key, value.as_ref());
                continue;
            }
            scoped.instances.put(&mut transaction, &moved.key, value.as_ref());
            let trial = scoped.trial.as_mut().map(|trial| &mut trial.scopes);
            for scopes in std::iter::once(&mut scoped.scopes).chain(trial) {
                let before = scopes.roots(&moved.key);
                if scopes.set(&moved.key, value.as_ref()) {
                    roots.extend(before);
                    roots.extend(scopes.roots(&moved.key));
                }
            }
        }
        let shifted: BTreeSet<Arc<str>> = committed.shifts.iter().map(|shift| scoped.instances.shift(shift)).collect();
        let told = shifted.into_iter().map(|name| (name.clone(), scoped.instances.told(&name)));
        transaction.resources.extend(told);
        transaction.collections = collections(&scoped.scopes, &roots);
        // Those who try something have members of their own.
        let over = scoped.trial.as_ref().map(|trial| collections(&trial.scopes, &roots)).unwrap_or_default();
        let mut catalog = self.write();
        let mut changed = catalog.commit(transaction);
        let over = catalog.amend_trial(Transaction { revision, collections: over, ..Transaction::default() });
        changed.collections.extend(over.collections);
        let mut names = audience(&scoped.scopes, &changed);
        names.extend(scoped.trial.iter().flat_map(|trial| audience(&trial.scopes, &changed)));
        self.tell(&changed, Some(&names));
        let is_marked = |shift: &&Shift| shift.after.as_ref().is_some_and(|instance| instance.is_draining);
        let marked = committed.shifts.iter().filter(is_marked).map(|shift| shift.name.clone()).collect();
        self.roll.on_marks(marked, revision, &self.fleet, &catalog);
    }

    /// Some proxies see it, the others only its endpoints.
    fn take_trial(&self, scoped: &mut Scoped, committed: &Arc<Committed>, terms: Terms) {
        let revision = committed.revision;
        let empty = || Transaction { revision, ..Transaction::default() };
        let (mut urgent, mut tried, mut scopes) = (empty(), empty(), scoped.scopes.clone());
        let mut roots: BTreeSet<Key> = BTreeSet::new();
        for moved in &committed.moved {
            let value: Option<Value> = moved.after.as_ref().and_then(|object| serde_json::from_str(&object.text).ok());
            // What goes is still in use where the rules are those from before.
            scoped.instances.put_endpoints(&mut urgent, &moved.key, value.as_ref());
            put_tried(&mut tried, &moved.key, value.as_ref());
            roots.extend(scopes.roots(&moved.key));
            scopes.set(&moved.key, value.as_ref());
        }
        for moved in &committed.moved {
            roots.extend(scopes.roots(&moved.key));
        }
        tried.resources.retain(|name, _| !urgent.resources.contains_key(name));
        tried.collections = collections(&scopes, &roots);
        let mut catalog = self.write();
        let changed = catalog.commit(urgent);
        self.tell(&changed, Some(&audience(&scoped.scopes, &changed)));
        // Whom it concerns is known once it lies over the others.
        let changed = catalog.begin_trial(tried, BTreeSet::new());
        let mut names = audience(&scoped.scopes, &changed);
        names.extend(audience(&scopes, &changed));
        let candidates = self.fleet.candidates(&self.followers.concerned(&names));
        let chosen = canary::choose(&candidates, terms.share, revision);
        let concerned = candidates.iter().map(|candidate| &candidate.id).collect::<BTreeSet<_>>().len();
        catalog.try_by(chosen.clone());
        self.tell_those(&changed, &chosen);
        scoped.trial = Some(OnTrial { committed: committed.clone(), scopes, concerned: Some(concerned) });
    }

    fn promote(&self, scoped: &mut Scoped, committed: &Committed) {
        let Some(trial) = scoped.trial.take() else { return };
        let before = std::mem::replace(&mut scoped.scopes, trial.scopes);
        let mut catalog = self.write();
        let changed = catalog.promote();
        for key in trial.committed.moved.iter().map(|moved| &moved.key).filter(|key| *key.kind == *"Service") {
            let name = xds::endpoints_of(&key.namespace, &key.name);
            if catalog.resource(&name).is_none() {
                scoped.instances.forget(&name);
            }
        }
        let newest = catalog.commit(Transaction { revision: committed.revision, ..Transaction::default() });
        let mut names = audience(&before, &changed);
        names.extend(audience(&scoped.scopes, &changed));
        self.tell(&changed, Some(&names));
        self.tell(&newest, Some(&BTreeSet::new()));
    }

    /// Whoever holds this tells what has changed before anybody reads it.
    fn write(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who subscribe to one of these names, or all. The catalog is held.
    fn tell(&self, changed: &Changed, names: Option<&BTreeSet<Arc<str>>>) {
        let changed = Arc::new(changed.clone());
        let told = self.followers.tell(names, &changed);
        self.fleet.on_revision(changed.revision, &told);
    }

    /// Tells those who try something. The catalog is held.
    fn tell_those(&self, changed: &Changed, ids: &BTreeSet<Arc<str>>) {
        let (changed, streams) = (Arc::new(changed.clone()), self.fleet.streams_of(ids));
        self.followers.tell_those(&streams, &changed);
        self.fleet.on_revision(changed.revision, &streams);
    }
}

/// The members of these Gateways and Services; None: there are none.
fn collections(scopes: &Scopes, roots: &BTreeSet<Key>) -> BTreeMap<Arc<str>, Option<BTreeSet<Arc<str>>>> {
    let told = |root: &Key| Some(members(scopes, root)).filter(|members| !members.is_empty());
    roots.iter().map(|root| (collection(root), told(root))).collect()
}

/// Whoever subscribes to one of these may be concerned: what changed, and the collections that it is in.
fn audience(scopes: &Scopes, changed: &Changed) -> BTreeSet<Arc<str>> {
    let mut names: BTreeSet<Arc<str>> = changed.collections.iter().chain(&changed.resources).cloned().collect();
    // What has left a collection has changed it.
    let rules =
        changed.resources.iter().filter(|name| !name.starts_with(ENDPOINTS)).filter_map(|name| Key::parse(name));
    names.extend(rules.flat_map(|key| scopes.roots(&key)).map(|root| collection(&root)));
    names
}

/// A document as those get it who try it. The instances of a Service are everybody's, unless it has none of its own any more.
fn put_tried(transaction: &mut Transaction, key: &Key, document: Option<&Value>) {
    let rest = document
        .map(|document| service::apart(document).map_or_else(|| document.to_string(), |(rest, _)| rest.to_string()));
    let document = rest.map(|text| Kind::Document(v1::Document { text: text.into() }));
    transaction.resources.insert(key.to_string().into(), document.map(body));
    if *key.kind == *"Service" {
        transaction.resources.insert(xds::endpoints_of(&key.namespace, &key.name).into(), None);
    }
}

/// Encoded once for all proxies.
fn body(kind: Kind) -> Bytes {
    v1::Resource { kind: Some(kind) }.encode_to_vec().into()
}

/// What the proxies of a Gateway or a Service subscribe to, and those that call the Service.
fn collection(root: &Key) -> Arc<str> {
    format!("{root}/*").into()
}

fn members(scopes: &Scopes, root: &Key) -> BTreeSet<Arc<str>> {
    scopes.of(root).iter().map(|key| key.to_string().into()).collect()
}
