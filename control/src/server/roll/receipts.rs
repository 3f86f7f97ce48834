//! What remains of a drain: who was to forget the instance, who did when, when its last request ended, what was cut, and
//! why it ended. Pure, Cold.

use std::time::Instant;

use config::wire::evenkeel::v1::Ending;
use serde_json::{Value, json};

use crate::registry::{Drain, HolderState};

/// Holders that are named in a receipt; all are counted.
const NAMED_MAX: usize = 1_000;

/// As it is kept. `ending` is what the instance's proxy said; None: it has gone without a word.
pub(crate) fn receipt(drain: &Drain, ending: Option<&Ending>, now: Instant) -> Value {
    let since = |at: Instant| at.saturating_duration_since(drain.began).as_secs_f64() * 1_000.0;
    let round = |milliseconds: f64| (milliseconds * 1_000.0).round() / 1_000.0;
    let tally = drain.tally();
    let holders = drain.holders().take(NAMED_MAX).map(|holder| {
        let (state, after) = match holder.state {
            HolderState::Holding => ("holding", None),
            HolderState::Lost(_) => ("lost", None),
            HolderState::Unreachable(_) => ("unreachable", None),
            HolderState::Applied(at) => ("forgot", Some(round(since(at)))),
            HolderState::Ended(at) => ("ended", Some(round(since(at)))),
        };
        json!({ "proxy": &*holder.id, "state": state, "afterMilliseconds": after })
    });
    let took_ms = since(now);
    let ended_ms = jiff::Timestamp::now().as_millisecond();
    json!({
        "instance": drain.name.to_string(),
        "revision": drain.revision,
        "began": ended_ms - took_ms as i64,
        "tookMilliseconds": round(took_ms),
        "forgottenMilliseconds": drain.forgotten.map(|at| round(since(at))),
        "holders": tally.all,
        "waiting": tally.waiting.len(),
        "unreachable": tally.unreachable.len(),
        "proxies": holders.collect::<Vec<_>>(),
        "lastRequestMilliseconds": ending.map(|ending| ending.last_request_after_ms),
        "lateRequests": ending.map(|ending| ending.late_requests),
        "cut": ending.map(|ending| ending.cut),
        "cutRequests": ending.map(|ending| &ending.cut_requests),
        "reason": ending.map_or("its proxy has gone without a word", |ending| &ending.reason),
    })
}
