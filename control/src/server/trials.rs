//! The life of a trial: looks at who tries a revision, until it is everybody's or taken back, and tells how far that is.
//! What becomes of it `canary` decides. Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use config::freeze::Purpose;
use serde_json::{Value, json};

use crate::access::{Action, Author};
use crate::log;
use crate::server::answer::Fault;
use crate::server::api::{Answer, Api};
use crate::server::canary::{self, Seen, Verdict};
use crate::server::feed::Feed;
use crate::server::fleet::Fleet;
use crate::server::gate::Asking;
use crate::server::rates::{Rates, worse};
use crate::server::status::document_of;
use crate::store::{Cause, Committed, Course, Refusal, Store, Transaction};

/// From one look at a trial to the next.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Where the end of one could not be written, it is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Of what a proxy says of a refusal, in the history.
const WHY_LETTERS_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/canary", get(tell))
        .route("/api/v1/canary/promote", post(promote))
        .route("/api/v1/canary/end", post(end))
}

/// Who looks after trials.
pub(crate) struct Trials {
    store: Store,
    feed: Arc<Feed>,
    fleet: Arc<Fleet>,
    rates: Arc<Mutex<Rates>>,
    /// As it was seen last.
    told: Mutex<Option<(u64, Value)>>,
}

/// What is known of the trial that is on.
struct Watched {
    revision: u64,
    names: BTreeSet<String>,
    begun: Instant,
    /// Since all who try it had it in force.
    in_force: Option<Instant>,
    /// Since none of them is connected.
    none: Option<Instant>,
}

/// What one proxy that tries it says.
#[derive(Default)]
struct Said {
    has: bool,
    refused: Option<String>,
}

impl Trials {
    pub(crate) fn new(store: Store, feed: Arc<Feed>, fleet: Arc<Fleet>, rates: Arc<Mutex<Rates>>) -> Trials {
        Trials { store, feed, fleet, rates, told: Mutex::default() }
    }

    /// How far the trial is; None: there is none.
    pub(crate) fn told(&self) -> Option<Value> {
        let state = self.store.state();
        let trial = state.trial()?;
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = told.as_ref().filter(|(revision, _)| *revision == trial.revision).map(|(_, told)| told.clone());
        let mut value = seen.unwrap_or_else(|| json!({ "on": 0, "tries": [], "of": null }));
        value["revision"] = trial.revision.into();
        value["author"] = (*trial.author.name).into();
        value["message"] = (*trial.message).into();
        Some(value)
    }

    /// Whether a revision is on trial. It is until proxies can get it, or cannot any more.
    pub(crate) fn is_on(&self, revision: u64) -> bool {
        let is_kept = self.store.state().trial().is_some_and(|trial| trial.revision == revision);
        is_kept || self.feed.trial().is_some_and(|(on, _)| on == revision)
    }

    /// Looks after whatever is tried, for as long as there is a store.
    pub(crate) async fn keep(&self) {
        let (mut revisions, mut refusals) = (self.store.revisions(), self.fleet.refusals());
        let mut watched: Option<Watched> = None;
        loop {
            revisions.borrow_and_update();
            refusals.borrow_and_update();
            let trial = self.store.state().trial().cloned();
            let Some(trial) = trial else {
                watched = None;
                match revisions.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            let mut pause = LOOK_EVERY;
            let ended = match self.look(&trial, &mut watched) {
                Verdict::Wait => None,
                Verdict::Promote(why) => Some((Course::Promotes(trial.revision), why)),
                Verdict::TakeBack(why) => Some((Course::TakesBack(trial.revision), why)),
            };
            if let Some((course, why)) = ended {
                match self.end(&trial, course, Author::control(), &why).await {
                    // Somebody was faster, or changed something meanwhile.
                    Ok(_) | Err(Refusal::NotOnTrial(_) | Refusal::Conflict { .. }) => continue,
                    Err(_) => pause = RETRY_AFTER,
                }
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                _ = refusals.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn look(&self, trial: &Committed, watched: &mut Option<Watched>) -> Verdict {
        let Course::Trial(terms) = trial.cause.course else { return Verdict::Wait };
        let concerned = match self.feed.trial() {
            Some((revision, concerned)) if revision == trial.revision => concerned,
            // The feed is about to take it.
            _ => return Verdict::Wait,
        };
        let Some(concerned) = concerned else {
            return Verdict::TakeBack("control was started anew while it was on trial".into());
        };
        let now = Instant::now();
        let new = || Watched {
            revision: trial.revision,
            names: trial.moved.iter().map(|moved| moved.key.to_string()).collect(),
            begun: now,
            in_force: None,
            none: None,
        };
        if watched.as_ref().is_none_or(|watched| watched.revision != trial.revision) {
            *watched = None;
        }
        let watched = watched.get_or_insert_with(new);
        let bake = Duration::from_millis(terms.bake_ms);
        let Some(seen) = self.see(watched, bake, now) else { return Verdict::Wait };
        let until = watched.in_force.map(|since| (since + bake).saturating_duration_since(now).as_millis() as u64);
        let tries: Vec<String> =
            self.feed.catalog().trial().into_iter().flat_map(|(_, ids)| ids.iter().map(ToString::to_string)).collect();
        let told = json!({
            "on": seen.has,
            "tries": tries,
            "of": concerned,
            "late": seen.late.iter().map(|id| &**id).collect::<Vec<_>>(),
            "gone": seen.gone.iter().map(|id| &**id).collect::<Vec<_>>(),
            "bakeMilliseconds": terms.bake_ms,
            "leftMilliseconds": until,
        });
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((trial.revision, told));
        canary::judge(&seen, bake)
    }

    fn see(&self, watched: &mut Watched, bake: Duration, now: Instant) -> Option<Seen> {
        let catalog = self.feed.catalog();
        let (revision, ids) = catalog.trial()?;
        let mut said: BTreeMap<&Arc<str>, Said> = BTreeMap::new();
        // Who has baked it says once more that it is there: one that hangs tells nothing of its requests.
        let baked = watched.in_force.map(|since| since + bake).filter(|baked| *baked <= now);
        for proxy in self.fleet.proxies() {
            let life = proxy.life();
            let Some(id) = life.stream.node().and_then(|node| ids.get(&*node.id)) else { continue };
            let is_own = |name: &str| watched.names.contains(&*document_of(name));
            let refused = life.stream.refused().iter().find(|one| one.names().any(is_own));
            let one = said.entry(id).or_default();
            let is_there = match (baked, &life.link) {
                (Some(baked), Some(link)) if !link.has_answered_since(baked) => {
                    link.ask();
                    false
                }
                _ => true,
            };
            one.has |= is_there && refused.is_none() && life.settled.min(catalog.revision()) >= revision;
            one.refused = one.refused.take().or(refused.map(|one| one.reason.clone()));
        }
        let has = said.values().filter(|one| one.has).count();
        let silent = said.iter().filter(|(_, one)| !one.has);
        let seen = Seen {
            chosen: ids.len(),
            has,
            refused: said.iter().find_map(|(id, one)| Some(((*id).clone(), one.refused.clone()?))),
            late: silent.map(|(id, _)| (*id).clone()).collect(),
            gone: ids.iter().filter(|id| !said.contains_key(id)).cloned().collect(),
            ..Seen::default()
        };
        if has == ids.len() {
            watched.in_force.get_or_insert(now);
        }
        watched.none = said.is_empty().then(|| watched.none.unwrap_or(now));
        let since = |time: Instant| now.saturating_duration_since(time);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let fares = rates.fares(revision, ids, now);
        drop(rates);
        let (none_for, in_force_for) = (watched.none.map(since), watched.in_force.map(since));
        Some(Seen {
            worse: worse(&fares),
            fared: fares.tried.verdict(),
            none_for,
            in_force_for,
            begun_for: since(watched.begun),
            ..seen
        })
    }

    /// Ends a trial, for this reason.
    async fn end(
        &self,
        trial: &Committed,
        course: Course,
        author: Author,
        why: &str,
    ) -> Result<Arc<Committed>, Refusal> {
        let why: String = why.chars().take(WHY_LETTERS_MAX).collect();
        let (changes, message) = match course {
            Course::TakesBack(revision) => {
                let state = self.store.state();
                (
                    trial.way_back(|key| state.get(key).cloned()),
                    format!("canary: revision {revision} is taken back: {why}"),
                )
            }
            _ => (Vec::new(), format!("canary: revision {} is promoted: {why}", trial.revision)),
        };
        let cause = Cause { purpose: Purpose::Rollback, breaks_glass: false, course };
        let ended = self.store.commit(Transaction { changes, author, message: (&*message).into(), cause }).await?;
        log::tell(&message);
        let taken_back = matches!(course, Course::TakesBack(_)).then_some(ended.revision);
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).end(trial.revision, taken_back);
        Ok(ended)
    }
}

/// Why somebody ends a trial.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    message: Option<String>,
    /// Only if it is this one.
    revision: Option<u64>,
}

async fn tell(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "canary": api.trials.told() }))
}

async fn promote(State(api): State<Api>, Extension(caller): Asking, Query(parameters): Query<Parameters>) -> Answer {
    by_hand(&api, &caller, &parameters, Course::Promotes).await
}

async fn end(State(api): State<Api>, Extension(caller): Asking, Query(parameters): Query<Parameters>) -> Answer {
    by_hand(&api, &caller, &parameters, Course::TakesBack).await
}

async fn by_hand(
    api: &Api,
    caller: &crate::server::guard::Caller,
    parameters: &Parameters,
    course: impl Fn(u64) -> Course,
) -> Answer {
    let trial = api.store.state().trial().cloned();
    let trial = trial.filter(|trial| parameters.revision.is_none_or(|revision| revision == trial.revision));
    let trial = trial.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, "nothing is on trial"))?;
    for key in trial.moved.iter().map(|moved| &moved.key) {
        caller.may(&Action::ChangeOf(key), &format!("change {key}"))?;
    }
    let why = parameters.message.as_deref().filter(|why| !why.is_empty()).unwrap_or("by hand");
    let committed = api.trials.end(&trial, course(trial.revision), caller.author(), why).await?;
    let outcome = if matches!(committed.cause.course, Course::Promotes(_)) { "promoted" } else { "takenBack" };
    Ok(Json(json!({ "revision": committed.revision, "canary": trial.revision, "outcome": outcome })))
}
