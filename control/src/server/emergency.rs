//! Limits for an emergency: so many requests a second to a Service, for a while. Each is a RateLimit like others, which
//! control removes when its time is over. A ChangeFreeze may let them pass. Cold.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use config::document::Key;
use config::freeze::Purpose;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::Author;
use crate::server::answer::{Fault, from_json};
use crate::server::api::{Answer, Api, Parameters};
use crate::server::gate::Asking;
use crate::store::{Cause, Change, Course, Expected, Object, Refusal, Store, Transaction};

/// What such a RateLimit is called, before the name of its Service.
const NAME: &str = "emergency-";
/// Until when it holds.
const UNTIL: &str = "evenkeel.dev/until";
/// The longest time of one.
const TIME_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Where the end of one could not be written, it is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Clocks are set, and stand still while a machine sleeps: an end that is further away is looked at again then.
const NAP_MAX: Duration = Duration::from_secs(10);

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/emergency/limits", get(list))
        .route("/api/v1/emergency/limits/{namespace}/{service}", put(begin).delete(end))
}

/// What is asked for.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limit {
    requests_per_second: u64,
    /// Such as `10m`.
    r#for: String,
}

async fn begin(
    State(api): State<Api>,
    Extension(caller): Asking,
    Path((namespace, service)): Path<(String, String)>,
    Query(mut parameters): Query<Parameters>,
    body: Bytes,
) -> Answer {
    let limit: Limit = from_json(&body)?;
    let target = Key { kind: "Service".into(), namespace: (*namespace).into(), name: (*service).into() };
    if api.store.state().get(&target).is_none() {
        return Err(Fault::absent(&target));
    }
    let wrong = |reason: String| Fault::new(StatusCode::UNPROCESSABLE_ENTITY, reason);
    let time = time(&limit.r#for)
        .ok_or_else(|| wrong(format!("for: {:?} is not a time such as 30s, 10m or 2h, 7d at most", limit.r#for)))?;
    if limit.requests_per_second == 0 {
        return Err(wrong("requestsPerSecond: must be at least 1".into()));
    }
    // To the second: it is read in a hurry.
    let until = Timestamp::now().checked_add(time).map_err(|error| wrong(error.to_string()))?.as_second() + 1;
    let until = Timestamp::from_second(until).map_err(|error| wrong(error.to_string()))?;
    let document = document(&namespace, &service, limit.requests_per_second, until);
    let why = format!("emergency: {} requests a second to {target} for {}", limit.requests_per_second, limit.r#for);
    parameters.message.get_or_insert(why);
    let change = Change {
        key: key(&namespace, &service),
        text: Some(document.to_string().into()),
        expected: Expected::Anything,
    };
    let Json(mut answer) = api.commit(&caller, &parameters, vec![change], Purpose::EmergencyLimit).await?;
    answer["until"] = until.to_string().into();
    Ok(Json(answer))
}

async fn end(
    State(api): State<Api>,
    Extension(caller): Asking,
    Path((namespace, service)): Path<(String, String)>,
    Query(mut parameters): Query<Parameters>,
) -> Answer {
    let key = key(&namespace, &service);
    if api.store.state().get(&key).is_none() {
        return Err(Fault::absent(&key));
    }
    parameters.message.get_or_insert_with(|| "the emergency is over".into());
    let change = Change { key, text: None, expected: Expected::Anything };
    api.commit(&caller, &parameters, vec![change], Purpose::EmergencyLimit).await
}

async fn list(State(api): State<Api>) -> Answer {
    let state = api.store.state();
    let shown = |object: &Arc<Object>| {
        let (value, until) = temporary(object)?;
        Some(json!({
            "service": format!("{}/{}", object.key.namespace, object.key.name.strip_prefix(NAME)?),
            "requestsPerSecond": value["spec"]["limits"][0]["requests"],
            "until": until.to_string(),
            "revision": object.revision,
        }))
    };
    let limits: Vec<Value> = state.of_kind("RateLimit").filter_map(shown).collect();
    Ok(Json(json!({ "limits": limits })))
}

fn key(namespace: &str, service: &str) -> Key {
    Key { kind: "RateLimit".into(), namespace: namespace.into(), name: format!("{NAME}{service}").into() }
}

fn document(namespace: &str, service: &str, requests: u64, until: Timestamp) -> Value {
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1",
        "kind": "RateLimit",
        "metadata": {
            "name": format!("{NAME}{service}"),
            "namespace": namespace,
            "annotations": { UNTIL: until.to_string() },
        },
        "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": service }],
            "limits": [{ "requests": requests, "per": "1s" }],
        },
    })
}

/// Whether what a change replaces, or what it makes, is a limit for an emergency.
pub(crate) fn is_about(state: &crate::store::State, change: &Change) -> bool {
    let is_one = |text: &str| *change.key.kind == *"RateLimit" && until(&change.key, text).is_some();
    state.get(&change.key).is_some_and(|object| is_one(&object.text)) || change.text.as_deref().is_some_and(is_one)
}

/// A RateLimit that ends, and when.
fn temporary(object: &Object) -> Option<(Value, Timestamp)> {
    until(&object.key, &object.text)
}

fn until(key: &Key, text: &str) -> Option<(Value, Timestamp)> {
    if !key.name.starts_with(NAME) {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let until = value["metadata"]["annotations"][UNTIL].as_str()?.parse().ok()?;
    Some((value, until))
}

/// A number with `s`, `m`, `h` or `d`.
fn time(text: &str) -> Option<Duration> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let seconds = match &text[end..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let time = Duration::from_secs(text[..end].parse::<u64>().ok()?.checked_mul(seconds)?);
    (Duration::from_secs(1)..=TIME_MAX).contains(&time).then_some(time)
}

/// Removes what is over, for as long as there is a store.
pub(crate) async fn reap(store: Store) {
    let mut revisions = store.revisions();
    loop {
        revisions.borrow_and_update();
        let now = Timestamp::now();
        let all: Vec<(Change, Timestamp)> = store
            .state()
            .of_kind("RateLimit")
            .filter_map(|object| {
                let expected = Expected::Revision(object.revision);
                Some((Change { key: object.key.clone(), text: None, expected }, temporary(object)?.1))
            })
            .collect();
        let mut wait = nap(all.iter().map(|(_, until)| *until), now);
        for (change, _) in all.into_iter().filter(|(_, until)| *until <= now) {
            let transaction = Transaction {
                changes: vec![change],
                author: Author { name: "control".into(), role: None, from: None },
                message: "the time of the emergency limit is over".into(),
                cause: Cause { purpose: Purpose::EmergencyLimit, breaks_glass: false, course: Course::Straight },
            };
            match store.commit(transaction).await {
                // Whoever changed it meanwhile meant it.
                Ok(_) | Err(Refusal::Conflict { .. }) => {}
                Err(_) => wait = Some(RETRY_AFTER),
            }
        }
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            () = sleep(wait) => {}
        }
    }
}

/// How long it is until the first of these times that are to come, or until it has to be looked at again; None: there is
/// none.
fn nap(ends: impl Iterator<Item = Timestamp>, now: Timestamp) -> Option<Duration> {
    let left = ends.filter(|until| *until > now).map(|until| until.duration_since(now)).min()?;
    Some(Duration::try_from(left).unwrap_or_default().min(NAP_MAX))
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [
            ("30s", Some(30)),
            ("10m", Some(600)),
            ("2h", Some(7_200)),
            ("7d", Some(604_800)),
            ("8d", None),
            ("0s", None),
            ("10", None),
            ("m", None),
            ("", None),
            ("-1s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(time(text), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn a_limit_ends_by_the_clock_however_that_is_set() {
        let time = |text: &str| -> Timestamp { format!("2026-11-21T{text}Z").parse().expect("a time") };
        let ends = [time("21:00:00"), time("22:00:00")];
        // What the clock shows, how many are over, and when it is looked at again.
        for (now, over, seconds) in [
            ("20:00:00", 0, Some(10)),
            ("20:59:55", 0, Some(5)),
            ("21:00:00", 1, Some(10)),
            // Set forward, and back again: the end of what is there is later, and of nothing sooner.
            ("23:00:00", 2, None),
            ("20:59:59", 0, Some(1)),
            ("03:00:00", 0, Some(10)),
        ] {
            let now = time(now);
            let found = (ends.iter().filter(|until| **until <= now).count(), nap(ends.into_iter(), now));
            assert_eq!(found, (over, seconds.map(Duration::from_secs)), "{now}");
        }
    }

    #[test]
    fn a_limit_is_a_document_like_others() {
        let until = "2026-11-21T21:00:00Z".parse().expect("a time");
        let text = document("shop", "web", 100, until).to_string();
        let sources = [config::Source { name: "t".into(), bytes: text.clone().into_bytes() }];
        let read = config::document::documents(&sources).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(read[0].key, key("shop", "web"));
        let object = |key: Key| Object { key, created: 1, revision: 1, text: text.as_str().into() };
        assert_eq!(temporary(&object(key("shop", "web"))).map(|(_, until)| until), Some(until));
        let other = Key { name: "web".into(), ..key("shop", "web") };
        assert_eq!(temporary(&object(other)), None, "somebody else's");
    }
}
