//! What proxies can get: the catalog, kept up with the store, and whom to tell when it changes. Whatever reads the catalog
//! has been told of every change in it. Cold.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use config::document::Key;
use config::scope::Scopes;
use config::wire::evenkeel::v1::{self, resource::Kind};
use config::xds::catalog::{Catalog, Changed, Transaction};
use config::xds::{self, ENDPOINTS, service};
use prost::Message;
use prost::bytes::Bytes;
use serde_json::Value;

use crate::server::fleet::Fleet;
use crate::server::followers::Followers;
use crate::store::{Committed, Missed, Object, Store};

/// The catalog and its streams.
pub(crate) struct Feed {
    fleet: Arc<Fleet>,
    catalog: RwLock<Catalog>,
    scopes: Mutex<Scopes>,
    /// Whom to tell.
    pub(crate) followers: Followers,
}

impl Feed {
    /// Of nothing, for these proxies.
    pub(crate) fn new(fleet: Arc<Fleet>) -> Feed {
        Feed { fleet, catalog: RwLock::default(), scopes: Mutex::default(), followers: Followers::default() }
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
                    }
                }
                // It was too fast for us: everything anew.
                Missed::TooMuch => seen = self.begin(&store),
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    fn begin(&self, store: &Store) -> u64 {
        let state = store.state();
        let objects: Vec<Arc<Object>> = state.objects().cloned().collect();
        let revision = state.revision();
        drop(state);
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        *scopes = Scopes::default();
        let mut transaction = Transaction { revision, ..Transaction::default() };
        for object in &objects {
            let value = serde_json::from_str(&object.text).ok();
            scopes.set(&object.key, value.as_ref());
            put(&mut transaction, &object.key, value.as_ref());
        }
        for object in objects.iter().filter(|object| *object.key.kind == *"Gateway") {
            transaction.collections.insert(collection(&object.key), Some(members(&scopes, &object.key)));
        }
        drop(scopes);
        let catalog = self.catalog();
        let gone = catalog.names().filter(|name| !transaction.resources.contains_key(*name)).cloned();
        let gone: Vec<Arc<str>> = gone.collect();
        let closed = catalog.collections().filter(|name| !transaction.collections.contains_key(*name)).cloned();
        let closed: Vec<Arc<str>> = closed.collect();
        drop(catalog);
        transaction.resources.extend(gone.into_iter().map(|name| (name, None)));
        transaction.collections.extend(closed.into_iter().map(|name| (name, None)));
        self.commit(transaction, |_| None);
        revision
    }

    fn take(&self, committed: &Committed) {
        let mut transaction = Transaction { revision: committed.revision, ..Transaction::default() };
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gateways: BTreeSet<Key> = BTreeSet::new();
        for moved in &committed.moved {
            let value: Option<Value> = moved.after.as_ref().and_then(|object| serde_json::from_str(&object.text).ok());
            put(&mut transaction, &moved.key, value.as_ref());
            let before = scopes.gateways(&moved.key);
            if scopes.set(&moved.key, value.as_ref()) {
                gateways.extend(before);
                gateways.extend(scopes.gateways(&moved.key));
            }
        }
        for gateway in gateways {
            let members = members(&scopes, &gateway);
            transaction.collections.insert(collection(&gateway), Some(members).filter(|members| !members.is_empty()));
        }
        self.commit(transaction, |changed| Some(audience(&scopes, changed)));
    }

    /// Takes what the store has changed, and tells those who subscribe to one of these names, or all.
    fn commit(&self, transaction: Transaction, names: impl FnOnce(&Changed) -> Option<BTreeSet<Arc<str>>>) {
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        let changed = Arc::new(catalog.commit(transaction));
        // Under the lock, so that whoever reads the catalog has been told.
        let told = self.followers.tell(names(&changed).as_ref(), &changed);
        self.fleet.on_revision(changed.revision, &told);
    }
}

/// Whoever subscribes to one of these may be concerned: what changed, and the collections that it is in.
fn audience(scopes: &Scopes, changed: &Changed) -> BTreeSet<Arc<str>> {
    let mut names: BTreeSet<Arc<str>> = changed.collections.iter().chain(&changed.resources).cloned().collect();
    // What has left a collection has changed it.
    let rules =
        changed.resources.iter().filter(|name| !name.starts_with(ENDPOINTS)).filter_map(|name| Key::parse(name));
    names.extend(rules.flat_map(|key| scopes.gateways(&key)).map(|gateway| collection(&gateway)));
    names
}

/// A document as proxies get it, or that there is none: a Service and its endpoints each by itself.
fn put(transaction: &mut Transaction, key: &Key, document: Option<&Value>) {
    let (document, endpoints) = match document.and_then(service::apart) {
        Some((rest, endpoints)) => (Some(rest.to_string()), Some(endpoints)),
        None => (document.map(Value::to_string), None),
    };
    let document = document.map(|text| Kind::Document(v1::Document { text: text.into() }));
    transaction.resources.insert(key.to_string().into(), document.map(body));
    if *key.kind == *"Service" {
        let name = xds::endpoints_of(&key.namespace, &key.name).into();
        transaction.resources.insert(name, endpoints.map(Kind::Endpoints).map(body));
    }
}

/// Encoded once for all proxies.
fn body(kind: Kind) -> Bytes {
    v1::Resource { kind: Some(kind) }.encode_to_vec().into()
}

/// What a Gateway's proxies subscribe to.
fn collection(gateway: &Key) -> Arc<str> {
    format!("{gateway}/*").into()
}

fn members(scopes: &Scopes, gateway: &Key) -> BTreeSet<Arc<str>> {
    scopes.of_gateway(gateway).iter().map(|key| key.to_string().into()).collect()
}
