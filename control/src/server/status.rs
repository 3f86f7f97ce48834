//! Where each document is in force: at how many of the proxies that are to have it, who is behind, who refused it and why,
//! who does not know its kind. Cold.
//!
//! Proxies that lack nothing are only counted, by what they subscribe to: what is told costs as much as is behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};
use config::document::Key;
use config::xds::catalog::Catalog;
use config::xds::{ENDPOINTS, is_collection};
use serde_json::{Value, json};

use crate::server::answer::{Fault, problem};
use crate::server::api::{Answer, Api, check_kind, key};
use crate::server::fleet::{Fleet, Leave, Life};
use crate::server::instances;
use crate::store::Object;

/// Proxies that are named in one list; all are counted.
pub(crate) const NAMED_MAX: usize = 20;
/// Who is gone is told for so long.
const GONE_TOLD: Duration = Duration::from_secs(600);
/// Who was sent away serves on with what it has.
const SENT_AWAY_TOLD: Duration = Duration::from_secs(86_400);

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/status", get(all))
        .route("/api/v1/objects/{kind}/{namespace}/{name}/status", get(one))
        .route("/api/v1/proxies", get(proxies))
        .route("/metrics", get(metrics))
}

/// Which documents are meant.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    kind: Option<String>,
    namespace: Option<String>,
}

async fn all(State(api): State<Api>, Query(parameters): Query<Parameters>) -> Answer {
    check_kind(parameters.kind.as_deref())?;
    let is_meant = |object: &&Arc<Object>| {
        parameters.kind.as_ref().is_none_or(|kind| *kind == *object.key.kind)
            && parameters.namespace.as_ref().is_none_or(|namespace| *namespace == *object.key.namespace)
    };
    let state = api.store.state();
    let (revision, objects) = (state.revision(), state.objects().filter(is_meant).cloned().collect::<Vec<_>>());
    drop(state);
    let now = Instant::now();
    let census = Census::take(&api, now);
    let objects: Vec<Value> = objects.iter().map(|object| told(&api, &census, object)).collect();
    Ok(Json(json!({
        "revision": revision,
        "proxies": census.proxies,
        "awaited": awaited(&api.fleet, now),
        "objects": objects,
        "canary": api.trials.told(),
        "gone": gone(&api.fleet, now),
        "files": api.files.told(),
        "instances": instances::summary(&api.roll, &api.store.state()),
        "laneLeaks": api.lanes.leaks(now),
    })))
}

/// Those whose connection broke not long ago, and that are not back.
fn gone(fleet: &Fleet, now: Instant) -> Value {
    let here: BTreeSet<Arc<str>> = fleet.proxies().iter().map(|proxy| proxy.life().id.clone()).collect();
    let mut named = Named::default();
    for one in fleet.gone_since(now.checked_sub(SENT_AWAY_TOLD).unwrap_or(fleet.awaited().0)) {
        let is_told = match one.how {
            Leave::Orderly => false,
            Leave::SentAway(_) => true,
            Leave::Broken | Leave::Lost => now.duration_since(one.at) < GONE_TOLD,
        };
        if is_told && !here.contains(&one.id) {
            let ago = now.duration_since(one.at).as_millis() as u64;
            named.add(|| json!({ "id": &*one.id, "goneMilliseconds": ago, "why": one.how.words() }));
        }
    }
    named.json()
}

async fn one(State(api): State<Api>, Path(path): Path<(String, String, String)>) -> Answer {
    let key: Key = key(path);
    let object = api.store.state().get(&key).cloned().ok_or_else(|| Fault::absent(&key))?;
    let now = Instant::now();
    let mut told = told(&api, &Census::take(&api, now), &object);
    told["awaited"] = awaited(&api.fleet, now);
    Ok(Json(told))
}

fn told(api: &Api, census: &Census, object: &Object) -> Value {
    let warnings: Vec<Value> = api.checker().warnings(&object.key).into_iter().map(problem).collect();
    let name = object.key.to_string();
    let tally = census.tally(&name, &object.key.kind);
    let trial = census.trial.as_ref().filter(|trial| trial.names.contains(&name));
    let applied = match trial {
        None => json!({ "on": tally.of - tally.behind.count - tally.refused_count, "of": tally.of }),
        // All others have what was before.
        Some(trial) => json!({ "on": trial.on, "of": trial.of.max(tally.of as u64) }),
    };
    json!({
        "object": name,
        "revision": object.revision,
        // What is not accepted is not kept.
        "accepted": true,
        "warnings": warnings,
        "applied": applied,
        "onTrial": trial.map(|trial| trial.revision),
        "behind": tally.behind.json(),
        "refused": refused_json(&tally.refused, tally.refused_count),
        "notEnforced": tally.not_enforced.json(),
    })
}

/// Some proxies, of which the first are named.
#[derive(Debug, Default, Clone)]
pub(crate) struct Named {
    pub(crate) count: usize,
    first: Vec<Value>,
}

impl Named {
    pub(crate) fn add(&mut self, one: impl FnOnce() -> Value) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(one());
        }
    }

    pub(crate) fn extend(&mut self, other: &Named) {
        self.count += other.count;
        let room = NAMED_MAX.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room).cloned());
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "count": self.count, "proxies": self.first })
    }
}

/// Who refused, by what they said of which documents.
pub(crate) type Refused = BTreeMap<(String, Vec<String>), Named>;

pub(crate) fn refused_json(refused: &Refused, count: usize) -> Value {
    let reason = |((reason, objects), named): (&(String, Vec<String>), &Named)| json!({ "reason": reason, "objects": objects, "count": named.count, "proxies": named.first });
    json!({ "count": count, "reasons": refused.iter().take(NAMED_MAX).map(reason).collect::<Vec<_>>() })
}

/// Why a proxy that has not refused something does not have it in force, in words.
pub(crate) fn behind(life: &Life, now: Instant) -> Value {
    let since = life.silent_since().map(|since| now.duration_since(since));
    let why = match since {
        Some(silent) => format!(
            "it has not answered for {:.1} s what it was sent (is it stopped, overloaded or cut off?)",
            silent.as_secs_f64()
        ),
        None => "it is about to be sent".to_owned(),
    };
    json!({
        "id": &*life.id,
        "version": &*life.version,
        "silentMilliseconds": since.map(|since| since.as_millis() as u64),
        "why": why,
    })
}

/// A proxy that was connected before this server started, and is not back.
pub(crate) fn not_back(id: &str, for_so_long: Duration) -> Value {
    let why = format!("control has started {:.1} s ago, and it is not back yet", for_so_long.as_secs_f64());
    json!({ "id": id, "version": "", "silentMilliseconds": for_so_long.as_millis() as u64, "why": why })
}

/// Those that are not.
fn awaited(fleet: &Fleet, now: Instant) -> Value {
    let (started, missing) = fleet.awaited();
    let mut named = Named::default();
    missing.iter().for_each(|id| named.add(|| not_back(id, now.duration_since(started))));
    named.json()
}

/// The document that a resource is a part of: a Service and its endpoints travel apart.
pub(crate) fn document_of(resource: &str) -> Arc<str> {
    match resource.strip_prefix(ENDPOINTS) {
        Some(service) => format!("Service/{service}").into(),
        None => resource.into(),
    }
}

/// What is true of one document.
#[derive(Debug, Default)]
struct Tally {
    of: usize,
    behind: Named,
    refused: Refused,
    refused_count: usize,
    not_enforced: Named,
}

/// Proxies that subscribe to the same and know the same kinds.
type Alike = BTreeMap<(Vec<Arc<str>>, Arc<str>), Named>;

/// Who is to have a document, by the kinds that they know.
type Wanting = HashMap<Arc<str>, Vec<(Arc<str>, Arc<Named>)>>;

/// What some proxies try, and how far that is.
struct OnTrial {
    revision: u64,
    names: BTreeSet<String>,
    on: u64,
    of: u64,
}

impl OnTrial {
    fn of(api: &Api) -> Option<OnTrial> {
        let told = api.trials.told()?;
        let state = api.store.state();
        let trial = state.trial()?;
        let number = |name: &str| told[name].as_u64().unwrap_or(0);
        let names = trial.moved.iter().map(|moved| moved.key.to_string()).collect();
        Some(OnTrial { revision: trial.revision, names, on: number("on"), of: number("of") })
    }
}

/// All proxies at one moment.
struct Census {
    trial: Option<OnTrial>,
    proxies: usize,
    /// By document: who is to have it.
    wanted: Wanting,
    behind: HashMap<Arc<str>, Named>,
    refused: HashMap<Arc<str>, (Refused, usize)>,
}

impl Census {
    fn take(api: &Api, now: Instant) -> Census {
        let trial = OnTrial::of(api);
        let catalog = api.feed.catalog();
        let proxies = api.fleet.proxies();
        let (mut alike, mut behind_by_name, mut refused_by_name) = (Alike::new(), HashMap::new(), HashMap::new());
        for proxy in &proxies {
            let life = proxy.life();
            let subscribed = life.stream.subscribed().iter().cloned().collect();
            alike.entry((subscribed, life.stream.kinds().clone())).or_default().add(|| json!(&*life.id));
            let late: BTreeSet<Arc<str>> = life.stream.late(&catalog).map(|name| document_of(name)).collect();
            for name in late {
                behind_by_name.entry(name).or_insert_with(Named::default).add(|| behind(&life, now));
            }
            for one in life.stream.refused() {
                let objects: Vec<String> = one.names().map(str::to_owned).collect();
                let lacking = one.names().filter(|name| life.stream.is_lacking(&catalog, name));
                for name in lacking.map(document_of).collect::<BTreeSet<_>>() {
                    let (refused, count): &mut (Refused, usize) = refused_by_name.entry(name).or_default();
                    refused.entry((one.reason.clone(), objects.clone())).or_default().add(|| json!(&*life.id));
                    *count += 1;
                }
            }
        }
        let wanted = wanted(&catalog, &alike);
        Census { trial, proxies: proxies.len(), wanted, behind: behind_by_name, refused: refused_by_name }
    }

    fn tally(&self, name: &str, kind: &str) -> Tally {
        let mut tally = Tally::default();
        for (kinds, named) in self.wanted.get(name).into_iter().flatten() {
            match kinds.is_empty() || kinds.split(' ').any(|known| known == kind) {
                true => tally.of += named.count,
                false => tally.not_enforced.extend(named),
            }
        }
        tally.behind = self.behind.get(name).cloned().unwrap_or_default();
        (tally.refused, tally.refused_count) = self.refused.get(name).cloned().unwrap_or_default();
        tally
    }
}

/// Documents, and who of proxies that are alike is to have them.
fn wanted(catalog: &Catalog, alike: &Alike) -> Wanting {
    let mut wanted = Wanting::new();
    for ((subscribed, kinds), named) in alike {
        let named = Arc::new(named.clone());
        let mut names: BTreeSet<&Arc<str>> = subscribed.iter().filter(|name| !is_collection(name)).collect();
        names.extend(subscribed.iter().filter_map(|name| catalog.collection(name)).flatten());
        for name in names {
            wanted.entry(name.clone()).or_default().push((kinds.clone(), named.clone()));
        }
    }
    wanted
}

/// Who is connected, and how far each is.
async fn proxies(State(api): State<Api>) -> Json<Value> {
    let catalog = api.feed.catalog();
    let now = Instant::now();
    let mut list: Vec<(Arc<str>, Value)> = Vec::new();
    for proxy in api.fleet.proxies() {
        let life = proxy.life();
        let refused = |one: &config::xds::server::Refused| json!({ "objects": one.names().collect::<Vec<_>>(), "reason": one.reason });
        let silent = life.silent_since().map(|since| now.duration_since(since).as_millis() as u64);
        let told = json!({
            "id": &*life.id,
            "version": &*life.version,
            "inForce": life.stream.in_force(&catalog),
            "refused": life.stream.refused().iter().map(refused).collect::<Vec<_>>(),
            "connectedMilliseconds": life.connected.map(|since| now.duration_since(since).as_millis() as u64),
            "silentMilliseconds": silent,
            "subscriptions": life.stream.subscribed().len(),
            "canary": catalog.trial().is_some_and(|(_, ids)| life.stream.node().is_some_and(|node| ids.contains(&*node.id))),
        });
        list.push((life.id.clone(), told));
    }
    list.sort_by(|one, other| one.0.cmp(&other.0));
    let list: Vec<Value> = list.into_iter().map(|(_, told)| told).collect();
    Json(json!({ "revision": catalog.revision(), "proxies": list }))
}

async fn metrics(State(api): State<Api>) -> ([(&'static str, &'static str); 1], String) {
    let metrics = &api.fleet.metrics;
    let revision = *api.store.revisions().borrow();
    let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.revision.set(gauge(revision));
    metrics.settled.set(gauge(api.fleet.floor().borrow().unwrap_or(revision)));
    let proxies = api.fleet.proxies();
    metrics.proxies.set(gauge(proxies.len() as u64));
    metrics.refusing.set(gauge(refusing(&api.fleet)));
    metrics.files_refused.set(i64::from(api.files.told().is_some()));
    instances::measure(&api.roll, metrics);
    ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text())
}

fn refusing(fleet: &Fleet) -> u64 {
    fleet.proxies().iter().filter(|proxy| !proxy.life().stream.refused().is_empty()).count() as u64
}
