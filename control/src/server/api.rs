//! The REST API: documents, transactions, history, and a stream of what changes. Whoever comes here has passed `gate`; only
//! whether they may change each of these documents is asked here. Cold.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use config::Source;
use config::document::{self, Key};
use config::freeze::Purpose;
use serde_json::{Value, json};

use crate::access::Action;
use crate::diff::{Difference, differences};
use crate::server::answer::{Fault, from_json, problem};
use crate::server::check::{Checker, Dry};
use crate::server::feed::Feed;
use crate::server::files::Refused;
use crate::server::fleet::Fleet;
use crate::server::gate::{self, Asking, BODY_BYTES_MAX};
use crate::server::guard::{Caller, Guard};
use crate::server::lanes::{self, Lanes};
use crate::server::roll::Roll;
use crate::server::trials::{self, Trials};
use crate::server::{emergency, instances, openapi, status, tokens, wait};
use crate::store::{
    Cause, Change, Check, Committed, Course, Draft, Expected, Missed, Moved, Object, Share, Store, Terms, Transaction,
    Version,
};

/// Of one answer.
const HISTORY_MAX: usize = 1_000;
/// The store remembers no more of one document.
const VERSIONS_MAX: usize = 101;
/// How long some proxies try a change, if nobody says so.
const BAKE_USUAL: Duration = Duration::from_secs(10);
/// What a watcher is told in one go.
const TOLD_MAX: usize = 100;

/// What all requests share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) checker: Arc<Mutex<Checker>>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) trials: Arc<Trials>,
    pub(crate) files: Arc<Refused>,
    pub(crate) roll: Arc<Roll>,
    pub(crate) lanes: Arc<Lanes>,
}

pub(crate) type Answer = Result<Json<Value>, Fault>;

pub(crate) fn router(api: Api, guard: Arc<Guard>) -> Router {
    let store = api.store.clone();
    Router::new()
        .route("/api/v1/objects", get(list).post(apply))
        .route("/api/v1/objects/{kind}/{namespace}/{name}", get(one).put(put).patch(patch).delete(remove))
        .route("/api/v1/objects/{kind}/{namespace}/{name}/history", get(versions))
        .route("/api/v1/history", get(history))
        .route("/api/v1/rollback", post(rollback))
        .route("/api/v1/watch", get(watch))
        .merge(status::routes())
        .merge(wait::routes())
        .merge(emergency::routes())
        .merge(instances::routes())
        .merge(lanes::routes())
        .merge(trials::routes())
        .merge(openapi::routes())
        .fallback(|| async { Fault::new(StatusCode::NOT_FOUND, "there is nothing here; the API is below /api/v1") })
        .with_state(api)
        .merge(tokens::router(store))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(guard, gate::pass))
}

/// The parameters of all requests; each reads those it knows.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Parameters {
    kind: Option<String>,
    namespace: Option<String>,
    /// Everything is decided, and nothing is done.
    #[serde(default)]
    dry_run: bool,
    /// Why, for the history.
    pub(crate) message: Option<String>,
    /// It shall be made even in a freeze.
    #[serde(default)]
    break_glass: bool,
    revision: Option<u64>,
    before: Option<u64>,
    count: Option<usize>,
    /// So many proxies try it first, or so many of a hundred with `%`.
    canary: Option<String>,
    /// For how long.
    bake: Option<String>,
}

impl Parameters {
    fn transaction(&self, caller: &Caller, changes: Vec<Change>, purpose: Purpose) -> Result<Transaction, Fault> {
        let message = self.message.as_deref().unwrap_or_default().into();
        if self.break_glass && self.message.as_deref().is_none_or(str::is_empty) {
            return Err(Fault::new(StatusCode::BAD_REQUEST, "breakGlass needs a message: why?"));
        }
        let cause = Cause { purpose, breaks_glass: self.break_glass, course: self.course(purpose)? };
        Ok(Transaction { changes, author: caller.author(), message, cause })
    }

    /// Who gets it first.
    fn course(&self, purpose: Purpose) -> Result<Course, Fault> {
        let wrong = |reason: String| Fault::new(StatusCode::BAD_REQUEST, reason);
        let Some(text) = &self.canary else {
            return match self.bake {
                Some(_) => Err(wrong("bake is for a canary: ?canary=2&bake=10s".into())),
                None => Ok(Course::Straight),
            };
        };
        if purpose == Purpose::EmergencyLimit {
            return Err(wrong("canary: a limit for an emergency goes to everybody at once".into()));
        }
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (1..=100).contains(percent)).map(Share::Percent),
            None => text.parse().ok().filter(|count| *count > 0).map(Share::Count),
        };
        let share =
            share.ok_or_else(|| wrong(format!("canary: {text:?} is not a number of proxies such as 2, or 10%")))?;
        let bake = self.bake.as_deref().map_or(Some(BAKE_USUAL), wait::duration);
        let bake = bake.ok_or_else(|| wrong("bake: it is not a time such as 500ms, 30s or 2m, 10m at most".into()))?;
        Ok(Course::Trial(Terms { share, bake_ms: bake.as_millis() as u64 }))
    }

    fn means(&self, key: &Key) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == *key.kind)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == *key.namespace)
    }
}

impl Api {
    /// Carries a transaction out, or tells what it would come to.
    pub(crate) async fn commit(
        &self,
        caller: &Caller,
        parameters: &Parameters,
        changes: Vec<Change>,
        purpose: Purpose,
    ) -> Answer {
        for key in changes.iter().map(|change| &change.key).filter(|_| !parameters.dry_run) {
            caller.may(&Action::ChangeOf(key), &format!("change {key}"))?;
        }
        let transaction = parameters.transaction(caller, changes, purpose)?;
        if !parameters.dry_run {
            if matches!(transaction.cause.course, Course::Trial(_)) {
                self.may_try()?;
            }
            let committed = self.store.commit(transaction).await?;
            return Ok(Json(tell(&self.checker(), &committed, false)));
        }
        let state = self.store.state();
        let mut draft = Draft::of(&state);
        let committed = draft.decide(transaction, jiff::Timestamp::now().as_millisecond())?;
        let mut checker = self.checker();
        let mut dry = Dry { checker: &mut checker, refusal: None };
        let committed = draft.take(committed, &mut dry)?;
        let refusal = dry.refusal;
        let mut told = tell(&checker, &committed, true);
        if !committed.moved.is_empty() {
            checker.undo(&committed);
        }
        if let Some(refusal) = refusal {
            told["refusal"] = Fault::from(refusal).told();
        }
        Ok(Json(told))
    }

    /// Whether all are here of whom some may try a change.
    fn may_try(&self) -> Result<(), Fault> {
        let (_, missing) = self.fleet.awaited();
        let Some(first) = missing.first() else { return Ok(()) };
        let more = missing.len() - 1;
        let reason = match more {
            0 => {
                format!("canary: control has just started, and {first} is not back to try anything; again in a moment")
            }
            _ => format!(
                "canary: control has just started, and {first} and {more} more are not back to try anything; again in a \
                 moment"
            ),
        };
        Err(Fault::new(StatusCode::CONFLICT, reason).retry_after(Duration::from_secs(1)))
    }

    pub(crate) fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transaction, with the warnings about what it changed, and those that it brought upon others.
fn tell(checker: &Checker, committed: &Committed, is_dry: bool) -> Value {
    let changes = committed.moved.iter().map(|moved| {
        let warnings: Vec<Value> = checker.warnings(&moved.key).into_iter().map(problem).collect();
        let differences = differences(&value(moved.before.as_ref()), &value(moved.after.as_ref()));
        let differences: Vec<Value> = differences.iter().map(Difference::json).collect();
        json!({ "object": moved.key.to_string(), "change": word(moved), "differences": differences, "warnings": warnings })
    });
    // What changes nothing has the revision of what was before it.
    let (count, first) = if committed.moved.is_empty() { (0, &[][..]) } else { checker.elsewhere(committed.revision) };
    let mut told = json!({
        "revision": committed.revision,
        "dryRun": is_dry,
        "changes": changes.collect::<Vec<_>>(),
        "warnings": { "count": count, "first": first.iter().map(problem).collect::<Vec<_>>() },
    });
    match committed.cause.course {
        Course::Straight => {}
        Course::Trial(terms) => told["canary"] = json!({ "bakeMilliseconds": terms.bake_ms }),
        Course::Promotes(revision) => told["promotes"] = revision.into(),
        Course::TakesBack(revision) => told["takesBack"] = revision.into(),
    }
    told
}

/// What became of a document.
fn word(moved: &Moved) -> &'static str {
    match (&moved.before, &moved.after) {
        (None, _) => "created",
        (_, None) => "removed",
        _ => "changed",
    }
}

fn value(object: Option<&Arc<Object>>) -> Value {
    object.and_then(|object| serde_json::from_str(&object.text).ok()).unwrap_or_default()
}

fn shown(object: &Arc<Object>) -> Value {
    json!({
        "name": object.key.to_string(),
        "created": object.created,
        "revision": object.revision,
        "object": value(Some(object)),
    })
}

pub(crate) fn key((kind, namespace, name): (String, String, String)) -> Key {
    Key { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

/// What a client believes of a document (RFC 9110 13.1).
fn expected(headers: &HeaderMap) -> Result<Expected, Fault> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(tag) = text(header::IF_MATCH) {
        let revision = tag.trim_matches('"').parse();
        let wrong = || Fault::new(StatusCode::BAD_REQUEST, format!("If-Match: {tag} is no revision"));
        return revision.map(Expected::Revision).map_err(|_| wrong());
    }
    match text(header::IF_NONE_MATCH) {
        None => Ok(Expected::Anything),
        Some("*") => Ok(Expected::Absent),
        Some(tag) => Err(Fault::new(StatusCode::BAD_REQUEST, format!("If-None-Match: {tag} is not *"))),
    }
}

/// What is believed of one document says nothing of several.
fn unconditional(headers: &HeaderMap) -> Result<(), Fault> {
    let conditions = [header::IF_MATCH, header::IF_NONE_MATCH];
    match conditions.iter().find(|name| headers.contains_key(*name)) {
        Some(name) => {
            Err(Fault::new(StatusCode::BAD_REQUEST, format!("{name} is for one document: PUT, PATCH or DELETE it")))
        }
        None => Ok(()),
    }
}

/// An error: there is no such kind.
pub(crate) fn check_kind(kind: Option<&str>) -> Result<(), Fault> {
    match kind.filter(|kind| !config::kinds().any(|known| known == *kind)) {
        Some(kind) => Err(Fault::new(StatusCode::BAD_REQUEST, format!("kind: {kind:?} is no kind of document"))),
        None => Ok(()),
    }
}

/// The documents of a body, YAML or JSON.
fn documents(body: &Bytes) -> Result<Vec<document::Document>, Fault> {
    let source = Source { name: "body".into(), bytes: body.to_vec() };
    document::documents(&[source]).map_err(|problems| Fault::wrong(&problems))
}

async fn list(State(api): State<Api>, Query(parameters): Query<Parameters>) -> Answer {
    check_kind(parameters.kind.as_deref())?;
    let state = api.store.state();
    let objects: Vec<Value> = state.objects().filter(|object| parameters.means(&object.key)).map(shown).collect();
    Ok(Json(json!({ "revision": state.revision(), "objects": objects })))
}

async fn one(State(api): State<Api>, Path(path): Path<(String, String, String)>) -> Answer {
    let key = key(path);
    let state = api.store.state();
    state.get(&key).map(|object| Json(shown(object))).ok_or_else(|| Fault::absent(&key))
}

async fn apply(
    State(api): State<Api>,
    Extension(caller): Asking,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    unconditional(&headers)?;
    let documents = documents(&body)?;
    if documents.is_empty() {
        return Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "there is no document in it"));
    }
    let change = |document: document::Document| Change {
        text: Some(document.value.to_string().into()),
        key: document.key,
        expected: Expected::Anything,
    };
    api.commit(&caller, &parameters, documents.into_iter().map(change).collect(), Purpose::Change).await
}

async fn put(
    State(api): State<Api>,
    Extension(caller): Asking,
    Path(path): Path<(String, String, String)>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let key = key(path);
    let text = match &documents(&body)?[..] {
        [document] if document.key == key => document.value.to_string().into(),
        [document] => {
            let reason = format!("the body is {}, the path says {key}", document.key);
            return Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, reason));
        }
        all => {
            return Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the body has {} documents", all.len())));
        }
    };
    api.commit(
        &caller,
        &parameters,
        vec![Change { key, text: Some(text), expected: expected(&headers)? }],
        Purpose::Change,
    )
    .await
}

async fn patch(
    State(api): State<Api>,
    Extension(caller): Asking,
    Path(path): Path<(String, String, String)>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let patch = from_json(&body)?;
    let key = key(path);
    let object = api.store.state().get(&key).cloned().ok_or_else(|| Fault::absent(&key))?;
    if !Value::is_object(&patch) {
        let reason = "a patch is an object of those fields that change (RFC 7396)";
        return Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, reason));
    }
    let mut patched = value(Some(&object));
    merge(&mut patched, &patch);
    if document::key_of(&patched).as_ref() != Some(&key) {
        return Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "a patch cannot rename a document"));
    }
    documents(&patched.to_string().into())?;
    let expected = match expected(&headers)? {
        // Whoever changed it meanwhile did not know of this.
        Expected::Anything => Expected::Revision(object.revision),
        named => named,
    };
    api.commit(
        &caller,
        &parameters,
        vec![Change { key, text: Some(patched.to_string().into()), expected }],
        Purpose::Change,
    )
    .await
}

/// A JSON Merge Patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.remove(name)),
            value => merge(target.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

async fn remove(
    State(api): State<Api>,
    Extension(caller): Asking,
    Path(path): Path<(String, String, String)>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Answer {
    let key = key(path);
    if api.store.state().get(&key).is_none() {
        return Err(Fault::absent(&key));
    }
    api.commit(&caller, &parameters, vec![Change { key, text: None, expected: expected(&headers)? }], Purpose::Change)
        .await
}

async fn versions(
    State(api): State<Api>,
    Path(path): Path<(String, String, String)>,
    Query(parameters): Query<Parameters>,
) -> Answer {
    let key = key(path);
    let versions = api.store.versions(&key, parameters.count.unwrap_or(VERSIONS_MAX).min(VERSIONS_MAX))?;
    if versions.is_empty() {
        return Err(Fault::absent(&key));
    }
    let version = |version: &Version| {
        let object: Value = version.text.as_ref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        json!({ "revision": version.revision, "object": object })
    };
    Ok(Json(json!({ "versions": versions.iter().map(version).collect::<Vec<_>>() })))
}

async fn history(State(api): State<Api>, Query(parameters): Query<Parameters>) -> Answer {
    let count = parameters.count.unwrap_or(50).min(HISTORY_MAX);
    let records = api.store.history(parameters.before.unwrap_or(u64::MAX), count)?;
    let record = |record: &crate::store::Record| {
        json!({
            "revision": record.revision,
            "time": jiff::Timestamp::from_millisecond(record.time_ms).map(|time| time.to_string()).unwrap_or_default(),
            "author": record.author,
            "message": record.message,
            "objects": record.keys,
        })
    };
    Ok(Json(json!({ "revisions": records.iter().map(record).collect::<Vec<_>>() })))
}

async fn rollback(
    State(api): State<Api>,
    Extension(caller): Asking,
    Query(mut parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Answer {
    unconditional(&headers)?;
    check_kind(parameters.kind.as_deref())?;
    let Some(revision) = parameters.revision else {
        return Err(Fault::new(StatusCode::BAD_REQUEST, "which revision? ?revision=N"));
    };
    let last = *api.store.revisions().borrow();
    if revision > last {
        return Err(Fault::not_so_far(revision, last));
    }
    let changes = api.store.way_back(revision, |key| parameters.means(key));
    let changes = changes.map_err(|error| Fault::new(StatusCode::NOT_FOUND, error.to_string()))?;
    parameters.message.get_or_insert_with(|| format!("back to revision {revision}"));
    // They have an end of their own, and whoever goes back in an emergency needs them.
    let (kept, changes) = changes.into_iter().partition(|change| emergency::is_about(&api.store.state(), change));
    let kept: Vec<Change> = kept;
    let Json(mut answer) = api.commit(&caller, &parameters, changes, Purpose::Rollback).await?;
    if !kept.is_empty() {
        answer["kept"] = kept.iter().map(|change| change.key.to_string()).collect();
    }
    Ok(Json(answer))
}

/// What changes from a revision on, or from now, as server-sent events whose id is the revision. `reset`: more than is
/// remembered was missed, list everything anew.
async fn watch(
    State(api): State<Api>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
    let last_seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let revisions = api.store.revisions();
    let start = last_seen.or(parameters.revision).unwrap_or(*revisions.borrow());
    let watcher = (api, revisions, start, VecDeque::new());
    let events = futures_util::stream::unfold(watcher, |(api, mut revisions, mut seen, mut queue)| async move {
        while queue.is_empty() {
            revisions.borrow_and_update();
            match api.store.since(seen) {
                // What is later than all there is was seen in another life of the store.
                missed if matches!(missed, Missed::TooMuch) || seen > *revisions.borrow() => {
                    seen = *revisions.borrow();
                    queue.push_back(Event::default().event("reset").id(seen.to_string()).data("{}"));
                }
                Missed::TooMuch => {}
                Missed::Changes(changes) => {
                    // Each is told with its differences: what one reads slowly is not made all at once.
                    for committed in changes {
                        seen = committed.revision;
                        if !committed.is_of_documents() {
                            continue;
                        }
                        let told = tell(&api.checker(), &committed, false).to_string();
                        queue.push_back(Event::default().event("change").id(seen.to_string()).data(told));
                        if queue.len() == TOLD_MAX {
                            break;
                        }
                    }
                }
            }
            if queue.is_empty() && revisions.changed().await.is_err() {
                return None;
            }
        }
        let event = queue.pop_front()?;
        Some((Ok(event), (api, revisions, seen, queue)))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
