//! What remains of a drain: who was to forget the instance, who did when, when its last request ended, what was cut, and
//! why it ended. Pure, Cold.

use std::time::Instant;

use config::wire::evenkeel::v1::Ending;
use serde_json::{Value, json};

use crate::registry::{Departed, Departure, Drain, HolderState, Name};

/// Holders that are named in a receipt; all are counted.
const NAMED_MAX: usize = 1_000;

/// As it is kept: times count from when the instance wanted to go. `ending` is what its proxy said; None: it has gone without a
/// word.
pub(crate) fn receipt(drain: &Drain, ending: Option<&Ending>, now: Instant) -> Value {
    let since = |at: Instant| milliseconds(drain.asked, at);
    let holders = drain.holders().take(NAMED_MAX).map(|holder| {
        let (state, after) = match holder.state {
            HolderState::Holding => ("holding", None),
            HolderState::Lost(_) => ("lost", None),
            HolderState::Unreachable(_) => ("unreachable", None),
            HolderState::Applied(at) => ("forgot", Some(since(at))),
            HolderState::Ended(at) => ("ended", Some(since(at))),
        };
        json!({ "proxy": &*holder.id, "state": state, "afterMilliseconds": after })
    });
    let mut receipt = ended(&drain.name, drain.asked, ending, now);
    receipt["revision"] = drain.revision.into();
    receipt["toldMilliseconds"] = since(drain.began).into();
    receipt["forgottenMilliseconds"] = drain.forgotten.map(since).into();
    receipt["holders"] = drain.holders().count().into();
    receipt["waiting"] = drain.waiting().into();
    receipt["unreachable"] = drain.unreachable().into();
    receipt["proxies"] = holders.collect();
    receipt["reason"] = match ending {
        Some(ending) => &*ending.reason,
        None if drain.is_from_before => "it went while control was away, or without a word",
        None => "its proxy has gone without a word",
    }
    .into();
    receipt
}

/// The same of an instance that went without a drain.
pub(crate) fn departed(departure: &Departure, ending: Option<&Ending>, now: Instant) -> Value {
    let mut receipt = ended(&departure.name, departure.since, ending, now);
    receipt["reason"] = match departure.how {
        Departed::Lease => "its proxy fell silent, and did not come back".into(),
        Departed::Away => "it went, or fell silent, while control was away".into(),
        Departed::Replaced => "its proxy fell silent, and another instance has its name or address".into(),
        Departed::Unseen => format!("control was away when it went: {}", words(ending)).into(),
        Departed::Untold => words(ending).into(),
    };
    receipt
}

/// Of an instance that wants to go since then, and that callers are not told of.
pub(crate) fn untold(name: &Name, going: Instant, now: Instant) -> Value {
    ended(name, going, None, now)
}

fn words(ending: Option<&Ending>) -> &str {
    ending.map_or("", |ending| &ending.reason)
}

/// What is known without a drain.
fn ended(name: &Name, began: Instant, ending: Option<&Ending>, now: Instant) -> Value {
    let took_ms = milliseconds(began, now);
    let ended_ms = jiff::Timestamp::now().as_millisecond();
    json!({
        "instance": name.to_string(),
        "revision": null,
        "began": ended_ms - took_ms as i64,
        "tookMilliseconds": took_ms,
        "toldMilliseconds": null,
        "forgottenMilliseconds": null,
        "holders": null,
        "waiting": null,
        "unreachable": null,
        "proxies": [],
        "lastRequestMilliseconds": ending.map(|ending| ending.last_request_after_ms),
        "lateRequests": ending.map(|ending| ending.late_requests),
        "cut": ending.map(|ending| ending.cut),
        "cutRequests": ending.map(|ending| &ending.cut_requests),
    })
}

/// To a thousandth of one.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    let exact = to.saturating_duration_since(from).as_secs_f64() * 1_000.0;
    (exact * 1_000.0).round() / 1_000.0
}
