//! Whether a revision is in force on every proxy that is connected: answered as soon as it is, or as soon as one refuses
//! something of it, or in time with the names of those that have not taken it. Waiters look again when the last proxy has
//! moved, somebody refuses something, or one of those that were here before a start is back, so that ten thousand answers are
//! one look; what is on trial is looked at all the while. Cold.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use config::xds::server::Refused as RefusedGroup;
use serde_json::{Value, json};

use crate::server::answer::Fault;
use crate::server::api::{Answer, Api};
use crate::server::fleet::{Gone, Leave};
use crate::server::status::{Named, Refused, behind, document_of, not_back, refused_json};
use crate::store::Course;

/// The longest wait, and the one of who does not say.
const WAIT_MAX: Duration = Duration::from_secs(600);
const WAIT_USUAL: Duration = Duration::from_secs(30);
/// Requests that wait at the same time.
const WAITERS_MAX: usize = 1_000;
/// Refusals that come in this time are looked at together.
const REFUSALS_TOGETHER: Duration = Duration::from_millis(10);

/// For a proxy whose connection broke before it had taken what is waited for, to come back.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// From one look at a trial to the next.
const TRIAL_LOOK: Duration = Duration::from_millis(20);

static WAITERS: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn routes() -> Router<Api> {
    Router::new().route("/api/v1/wait", get(wait))
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// The last one if none is named.
    revision: Option<u64>,
    /// Such as `30s`.
    timeout: Option<String>,
}

/// One of those that wait.
struct Waiter;

impl Waiter {
    fn begin() -> Option<Waiter> {
        let count = WAITERS.fetch_add(1, Relaxed) + 1;
        // Counts down again if there are too many.
        Some(Waiter).filter(|_| count <= WAITERS_MAX)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        WAITERS.fetch_sub(1, Relaxed);
    }
}

async fn wait(State(api): State<Api>, Query(parameters): Query<Parameters>) -> Answer {
    let last = *api.store.revisions().borrow();
    let revision = parameters.revision.unwrap_or(last);
    if revision > last {
        return Err(Fault::not_so_far(revision, last));
    }
    let timeout = parameters.timeout.as_deref().map_or(Some(WAIT_USUAL), duration).ok_or_else(|| {
        let text = parameters.timeout.as_deref().unwrap_or_default();
        Fault::new(
            StatusCode::BAD_REQUEST,
            format!("timeout: {text:?} is not a time such as 500ms, 30s or 2m, 10m at most"),
        )
    })?;
    let busy = || Fault::new(StatusCode::TOO_MANY_REQUESTS, "too many wait already; try again");
    let _waiter = Waiter::begin().ok_or_else(busy)?;
    let question = Question::of(&api, revision);
    let deadline = tokio::time::Instant::now() + timeout;
    let (mut floor, mut refusals, mut revisions) = (api.fleet.floor(), api.fleet.refusals(), api.store.revisions());
    let mut awaited = api.fleet.awaited_count();
    let mut has_waited = false;
    loop {
        refusals.borrow_and_update();
        revisions.borrow_and_update();
        if let Some(answer) = question.taken_back(&api) {
            return Ok(Json(answer));
        }
        let is_on_trial = api.trials.is_on(revision);
        // Of those that were connected before this server started nobody knows what they have.
        let are_all_back = *awaited.borrow_and_update() == 0;
        let is_everywhere = floor.borrow_and_update().is_none_or(|floor| floor >= revision);
        let returns_by = if is_everywhere { question.returns_by(&api) } else { None };
        let is_settled = are_all_back && is_everywhere && returns_by.is_none();
        let is_over = tokio::time::Instant::now() >= deadline;
        // What a proxy refused before it could get this, this may mend.
        let is_on_its_way = api.feed.catalog().revision() < revision;
        if is_over || !is_on_trial && !is_on_its_way && (is_settled || question.is_refused(&api)) {
            return Ok(Json(question.answer(&api, has_waited)));
        }
        has_waited = true;
        // The fleet lives as long as the server.
        tokio::select! {
            _ = floor.changed() => {}
            _ = awaited.changed() => {}
            _ = refusals.changed() => tokio::time::sleep(REFUSALS_TOGETHER).await,
            _ = revisions.changed(), if is_on_trial => {}
            // Proxies get what is promoted a moment after it is.
            () = tokio::time::sleep(TRIAL_LOOK), if is_on_trial || is_on_its_way => {}
            () = tokio::time::sleep_until(returns_by.map_or(deadline, |until| deadline.min(until.into()))) => {}
        }
    }
}

/// What is asked.
struct Question {
    revision: u64,
    asked: Instant,
    /// None: it is of another life of this server, or long ago.
    committed: Option<Instant>,
    /// What it changed; None: that is not at hand.
    names: Option<BTreeSet<String>>,
}

impl Question {
    fn of(api: &Api, revision: u64) -> Question {
        let recent = api.store.recent(revision);
        let names = recent.as_ref().map(|(_, one)| one.moved.iter().map(|moved| moved.key.to_string()).collect());
        Question { revision, asked: Instant::now(), committed: recent.map(|(at, _)| at), names }
    }

    /// Whether what was refused is a part of it. What was refused before, and has nothing to do with it, is not.
    fn concerns(&self, refused: &RefusedGroup) -> bool {
        let is_named = |names: &BTreeSet<String>| refused.names().any(|name| names.contains(&*document_of(name)));
        refused.since() <= self.revision && self.names.as_ref().is_none_or(is_named)
    }

    /// The answer, if others tried it and it is as before.
    fn taken_back(&self, api: &Api) -> Option<Value> {
        let state = api.store.state();
        let ended = state.ended(self.revision)?;
        matches!(ended.cause.course, Course::TakesBack(_)).then(|| {
            json!({
                "revision": self.revision,
                "outcome": "takenBack",
                "by": *ended.author.name,
                "why": *ended.message,
                "backAt": ended.revision,
                "milliseconds": ended_after(api, self.committed, ended.revision),
            })
        })
    }

    /// Whether its connection broke before it had taken it: unless it is back it is late, as everybody who has not taken it.
    /// Of what broke long before anybody asked nothing is expected.
    fn has_missed(&self, one: &Gone) -> bool {
        let since = self.asked.checked_sub(BACK_WITHIN).unwrap_or(self.asked);
        one.how == Leave::Broken && one.settled < self.revision && one.at >= since
    }

    /// Until when one of them is waited for; None: nobody is.
    fn returns_by(&self, api: &Api) -> Option<Instant> {
        let mut missed = api.fleet.gone_since(self.since());
        missed.retain(|one| self.has_missed(one));
        if missed.is_empty() {
            return None;
        }
        let here: BTreeSet<Arc<str>> = api.fleet.proxies().iter().map(|proxy| proxy.life().id.clone()).collect();
        let until = missed.iter().filter(|one| !here.contains(&one.id)).map(|one| one.at + BACK_WITHIN).max();
        until.filter(|until| *until > Instant::now())
    }

    fn since(&self) -> Instant {
        self.committed.unwrap_or(self.asked)
    }

    fn is_refused(&self, api: &Api) -> bool {
        api.fleet.proxies().iter().any(|proxy| proxy.life().stream.refused().iter().any(|one| self.concerns(one)))
    }

    /// Everything that is known now.
    fn answer(&self, api: &Api, has_waited: bool) -> Value {
        let now = Instant::now();
        let proxies = api.fleet.proxies();
        let (mut on, mut late) = (0, Named::default());
        let (mut refused, mut refused_count) = (Refused::new(), 0);
        let (mut older, mut older_count) = (Refused::new(), 0);
        let (mut here, mut not_enforced) = (BTreeSet::new(), Named::default());
        let catalog = api.feed.catalog();
        for proxy in &proxies {
            let life = proxy.life();
            let note = |list: &mut Refused, one: &RefusedGroup| {
                let objects = one.names().map(str::to_owned).collect();
                list.entry((one.reason.clone(), objects)).or_default().add(|| json!(&*life.id));
            };
            let own: Vec<_> = life.stream.refused().iter().filter(|one| self.concerns(one)).collect();
            own.iter().for_each(|one| note(&mut refused, one));
            let others: Vec<_> = life.stream.refused().iter().filter(|one| !self.concerns(one)).collect();
            others.iter().for_each(|one| note(&mut older, one));
            older_count += usize::from(!others.is_empty());
            match (own.is_empty(), life.settled.min(catalog.revision()) >= self.revision) {
                (false, _) => refused_count += 1,
                (true, true) => on += 1,
                (true, false) => late.add(|| behind(&life, now)),
            }
            if self.names.iter().flatten().any(|name| life.does_not_enforce(&catalog, name)) {
                not_enforced.add(|| json!(&*life.id));
            }
            here.insert(life.id.clone());
        }
        drop(catalog);
        let (started, missing) = api.fleet.awaited();
        for id in &missing {
            late.add(|| not_back(id, now.duration_since(started)));
        }
        let (mut gone, mut broken) = (Named::default(), 0);
        for one in &api.fleet.gone_since(self.since()) {
            // Whoever came again is among those that are here.
            if one.settled < self.revision && !here.contains(&one.id) {
                let ago = now.duration_since(one.at).as_millis() as u64;
                match self.has_missed(one) {
                    true => {
                        broken += 1;
                        late.add(|| broke(&one.id, ago));
                    }
                    false => gone.add(|| json!({ "id": &*one.id, "goneMilliseconds": ago, "why": one.how.words() })),
                }
            }
        }
        let trial = api.trials.told();
        let is_on_trial = api.trials.is_on(self.revision);
        // Where all that there were have gone, it is in force nowhere.
        let is_deserted = proxies.is_empty() && gone.count > 0;
        let lacks_nobody = on == proxies.len() && missing.is_empty() && broken == 0;
        let is_in_force = lacks_nobody && !is_deserted && !is_on_trial;
        let outcome = if is_on_trial {
            "onTrial"
        } else if is_in_force {
            "inForce"
        } else if refused_count > 0 {
            "refused"
        } else {
            "late"
        };
        // It may have been everywhere before anybody asked.
        let was_on_trial = api.store.state().ended(self.revision).is_some();
        let at = api.fleet.reached(self.revision).filter(|_| is_in_force && !has_waited);
        // What was on trial was settled before it was everybody's.
        let took = self
            .committed
            .filter(|_| !was_on_trial || has_waited)
            .map(|committed| at.unwrap_or(now).saturating_duration_since(committed));
        json!({
            "revision": self.revision,
            "outcome": outcome,
            "on": on,
            "of": proxies.len() + missing.len() + broken,
            "milliseconds": took.filter(|_| !proxies.is_empty()).map(|took| took.as_micros().div_ceil(1_000) as u64),
            "behind": late.json(),
            "refused": refused_json(&refused, refused_count),
            "refusedBefore": refused_json(&older, older_count),
            "gone": gone.json(),
            "notEnforced": not_enforced.json(),
            "canary": trial,
            "promoted": api.store.state().ended(self.revision).map(|ended| ended.message.to_string()),
        })
    }
}

/// A proxy that may have ended because of the very change.
fn broke(id: &str, milliseconds: u64) -> Value {
    let ago = milliseconds as f64 / 1_000.0;
    let why =
        format!("its connection broke {ago:.1} s ago, before it had taken it, and it is not back (is it running?)");
    json!({ "id": id, "version": "", "silentMilliseconds": milliseconds, "why": why })
}

fn ended_after(api: &Api, committed: Option<Instant>, ended: u64) -> Option<u64> {
    let (at, _) = api.store.recent(ended)?;
    Some(at.saturating_duration_since(committed?).as_millis() as u64)
}

/// A number with `ms`, `s` or `m`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let milliseconds = match &text[end..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).filter(|time| *time <= WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, milliseconds) in [
            ("30s", Some(30_000)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("0", Some(0)),
            ("7", Some(7_000)),
            ("10m", Some(600_000)),
            ("11m", None),
            ("99999999999999999999s", None),
            ("18446744073709551615m", None),
            ("s", None),
            ("", None),
            ("1.5s", None),
            ("-1s", None),
            ("1h", None),
        ] {
            assert_eq!(duration(text), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }
}
