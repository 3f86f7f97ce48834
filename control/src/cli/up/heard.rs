//! What control tells over its REST API, in the words of this demonstration: whether it is there, how old the rules are, how far
//! each instance is, and the last receipt of a drain. Pure, but for `follow` and `hear`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::HeaderMap;
use serde_json::Value;

use super::world::World;
use crate::cli::roll;

/// How often control is asked.
const PERIOD: Duration = Duration::from_millis(250);
/// It is on this machine, and answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Receipts of an instance that has gone are there within so many looks.
const ASKS: u8 = 3;

/// What control last told.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Since when it does not answer. None: it does.
    pub gone_since: Option<Instant>,
    /// When the newest rules came, in milliseconds since 1970.
    pub rules_ms: Option<i64>,
    /// How far each instance is, by its name.
    pub phases: BTreeMap<String, String>,
    /// How often receipts are still asked for.
    asks: u8,
    /// Receipts.
    pub drains: usize,
    /// The newest one, such as `cart-3 forgotten by 18 of 18 after 4.1 ms, gone after 110 ms`.
    pub last_drain: Option<String>,
}

/// Asks control again and again, until the world ends.
pub async fn follow(world: Arc<World>) {
    let mut ending = world.ending.subscribe();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = ending.wait_for(|is_ending| *is_ending) => return,
        }
        hear(&world).await;
    }
}

/// Asks it once.
pub async fn hear(world: &World) {
    let Some(phases) = ask(world, "/api/v1/instances").await.map(|told| phases(&told)) else {
        world.heard().gone_since.get_or_insert_with(Instant::now);
        return;
    };
    let asks = {
        let mut heard = world.heard();
        heard.gone_since = None;
        let before = std::mem::replace(&mut heard.phases, phases);
        let has_lost = before.keys().any(|name| !heard.phases.contains_key(name));
        // There may be many receipts: they are asked for when there is another one, which is written a moment later.
        heard.asks = if has_lost { ASKS } else { heard.asks.saturating_sub(1) };
        heard.asks > 0
    };
    if asks && let Some(told) = ask(world, "/api/v1/drains").await {
        let mut heard = world.heard();
        (heard.drains, heard.last_drain) = drains(&told);
    }
    if let Some(told) = ask(world, "/api/v1/history?count=1").await {
        world.heard().rules_ms = newest(&told);
    }
}

async fn ask(world: &World, path: &str) -> Option<Value> {
    let answer = world.control.get_within(PATIENCE, path, &HeaderMap::new()).await.ok()?;
    serde_json::from_str(&answer.body).ok().filter(|_| answer.status == 200)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `default/cart/cart-3` is `cart-3`: in this shop that says it all.
fn name(instance: &Value) -> Option<&str> {
    instance.as_str()?.rsplit('/').next()
}

fn phases(told: &Value) -> BTreeMap<String, String> {
    let phase = |one: &Value| {
        let is_unconfirmed = one["unconfirmed"].as_bool() == Some(true);
        let phase = if is_unconfirmed { "unconfirmed" } else { one["phase"].as_str()? };
        Some((name(&one["instance"])?.to_owned(), phase.to_owned()))
    };
    list(&told["instances"]).filter_map(phase).collect()
}

fn drains(told: &Value) -> (usize, Option<String>) {
    let newest = list(&told["over"]).next();
    let newest = newest.and_then(|one| {
        let took = roll::after(&one["tookMilliseconds"]);
        let (name, by) = (name(&one["instance"])?, roll::forgotten_by(one, |_| ""));
        Some(format!("{name} forgotten by {by}, gone after {took}"))
    });
    (list(&told["over"]).count(), newest)
}

/// Instances that come and go make revisions, too, but no history.
fn newest(told: &Value) -> Option<i64> {
    let time: jiff::Timestamp = list(&told["revisions"]).next()?["time"].as_str()?.parse().ok()?;
    Some(time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn controls_words_become_ours() {
        let told = json!({ "instances": [
            { "instance": "default/web/web-1", "phase": "ready" },
            { "instance": "default/web/web-2", "phase": "ready", "unconfirmed": true }, { "phase": 7 } ] });
        let phases: Vec<String> = phases(&told).into_iter().map(|(name, phase)| format!("{name} {phase}")).collect();
        assert_eq!(phases, ["web-1 ready", "web-2 unconfirmed"]);
        let receipt = |name: &str| {
            json!({ "instance": name, "tookMilliseconds": 110.4, "forgottenMilliseconds": 4.13, "holders": 18, "waiting": 0,
                    "unreachable": 1 })
        };
        let told = json!({ "over": [receipt("default/cart/cart-3"), receipt("default/cart/cart-1")], "underWay": [] });
        let newest = "cart-3 forgotten by 17 of 18 after 4.1 ms, gone after 110 ms";
        assert_eq!(drains(&told), (2, Some(newest.to_owned())));
        assert_eq!(drains(&json!({})), (0, None));
        let told = json!({ "revisions": [{ "revision": 5, "time": "1970-01-01T00:00:01.5Z" }] });
        assert_eq!((super::newest(&told), super::newest(&json!({ "revisions": [] }))), (Some(1_500), None));
    }
}
