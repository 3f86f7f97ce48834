//! TrafficPolicy in shadow: which attempts it would have given up, repeated or not made, and whom it would have left alone.
//! It sees an attempt as that would have ended under it, and loses sight of a request whose way would have been another
//! from there on. The decisions are pure; what they stand on is shared by all workers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use config::snapshot::Retries;
use config::snapshot::shadow::TrafficShadow;
use serde_json::{Value, json};

use crate::balance;
use crate::budget::Budget;
use crate::cluster::Ejection;
use crate::error::{Kind, ProxyError, Reached};
use crate::exchange::KEPT_BYTES_MAX;
use crate::h1::{Framing, RequestMeta};
use crate::record::Record;
use crate::retry::{self, Next};
use crate::shadow::{Tally, Would};
use crate::view::{ClusterView, EndpointView};
use crate::worker::Worker;

/// A TrafficPolicy in shadow on one worker.
pub(crate) struct TrafficTrial {
    settings: Arc<TrafficShadow>,
    tally: Arc<Tally>,
}

/// What all workers know together of a cluster that has had a policy in shadow.
pub(crate) struct TrialState {
    budget: Budget,
    /// Requests that would be under way.
    requests: AtomicU32,
    /// Connections that would be in use or waited for.
    connections: AtomicU32,
}

impl TrialState {
    pub(crate) fn new(workers: usize) -> TrialState {
        TrialState { budget: Budget::new(workers), requests: AtomicU32::new(0), connections: AtomicU32::new(0) }
    }
}

/// One request under it.
pub(crate) struct RequestTrial<'w> {
    worker: &'w Worker,
    cluster: Rc<ClusterView>,
    is_idempotent: bool,
    has_body: bool,
    deadline: Duration,
    /// It counts as one of those under way.
    is_within: bool,
    retries: Cell<u32>,
    was_stale: Cell<bool>,
    /// Its way would have been another: nothing more can be told of it.
    is_over: Cell<bool>,
}

/// How an attempt ended.
pub(crate) struct Attempted<'a> {
    pub(crate) endpoint: &'a EndpointView,
    /// Status and `Retry-After`.
    pub(crate) outcome: Result<(u16, Option<&'a [u8]>), ProxyError>,
    /// It used a pooled connection.
    pub(crate) reused: bool,
    /// How long it took to connect, or to fail to.
    pub(crate) connect: Duration,
    /// How long it waited, from the end of the request on.
    pub(crate) answer: Duration,
    /// What was sent of the request.
    pub(crate) written: u64,
    /// Something of an answer has gone to the client.
    pub(crate) is_answered: bool,
}

/// A connection that counts as in use for as long as this lives.
pub(crate) struct InUse<'t>(&'t AtomicU32);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl TrafficTrial {
    pub(crate) fn new(settings: &Arc<TrafficShadow>, tally: Arc<Tally>) -> TrafficTrial {
        TrafficTrial { settings: settings.clone(), tally }
    }

    /// A request goes to the cluster, whatever the policy in force says of that.
    pub(crate) fn begin<'w>(
        &self,
        worker: &'w Worker,
        cluster: &Rc<ClusterView>,
        meta: &RequestMeta,
        deadline: Duration,
        record: &mut Record,
    ) -> Option<RequestTrial<'w>> {
        let state = cluster.state.trial.get()?;
        let max = self.settings.bounds.and_then(|bounds| bounds.requests_max);
        let room = max.map(|max| enter(&state.requests, max, 0));
        if room == Some(Room::Full) {
            self.tally.count_for(record, Would::Refuse);
            return None;
        }
        if self.settings.retries.is_some() {
            state.budget.count(worker.id);
        }
        Some(RequestTrial {
            worker,
            cluster: cluster.clone(),
            is_idempotent: meta.method.is_idempotent(),
            has_body: meta.framing != Framing::None,
            deadline,
            is_within: room.is_some(),
            retries: Cell::new(0),
            was_stale: Cell::new(false),
            is_over: Cell::new(false),
        })
    }

    /// What a request would meet now.
    pub(crate) fn peek(&self, cluster: &ClusterView, now: Duration) -> Value {
        let mut told = json!({"policy": self.settings.name.to_string(), "mode": "shadow", "verdict": "watch"});
        if let (Some(bounds), Some(state)) = (self.settings.bounds, cluster.state.trial.get()) {
            let of_requests = bounds.requests_max.map(|max| room(state.requests.load(Relaxed), max, 0));
            let of_connections = bounds.connections_max;
            let of_connections =
                of_connections.map(|max| room(state.connections.load(Relaxed), max, bounds.pending_max));
            match (of_requests, of_connections) {
                (Some(Room::Full), _) | (_, Some(Room::Full)) => told["verdict"] = json!("refuse"),
                (_, Some(Room::Wait)) => told["verdict"] = json!("delay"),
                _ => {}
            }
        }
        let ejected = cluster.endpoints.iter().filter(|endpoint| endpoint.state.tried.is_ejected(now));
        told["ejected"] = ejected.map(|endpoint| endpoint.address.to_string()).collect();
        told
    }
}

impl RequestTrial<'_> {
    fn parts(&self) -> Option<(&TrafficTrial, &TrialState)> {
        let is_known = !self.is_over.get();
        is_known.then_some(())?;
        Some((self.cluster.trial.as_ref()?, self.cluster.state.trial.get()?))
    }

    /// An attempt wants a connection. As many as would wait for one count as having it, so that as many can be above the
    /// bound as there may wait; one more would have been refused.
    pub(crate) fn connection(&self, record: &mut Record) -> Option<InUse<'_>> {
        let (trial, state) = self.parts()?;
        let bounds = trial.settings.bounds?;
        match enter(&state.connections, bounds.connections_max?, bounds.pending_max) {
            Room::Free => {}
            Room::Wait => trial.tally.count_for(record, Would::Delay),
            Room::Full => {
                trial.tally.count_for(record, Would::Refuse);
                self.is_over.set(true);
                return None;
            }
        }
        Some(InUse(&state.connections))
    }

    /// An attempt uses a connection that was idle for so long.
    pub(crate) fn reused(&self, idle: Duration, record: &mut Record) {
        if let Some((trial, _)) = self.parts()
            && trial.settings.idle_timeout.is_some_and(|limit| idle >= limit)
        {
            trial.tally.count_for(record, Would::IdleTimeout);
        }
    }

    /// An attempt has its answer, or has failed without one.
    pub(crate) fn ended(&self, attempted: &Attempted<'_>, record: &mut Record) {
        let Some((trial, state)) = self.parts() else { return };
        let now = self.worker.driver.now();
        let (gave_up, outcome) = seen(&trial.settings, attempted);
        if let Some(would) = gave_up {
            trial.tally.count_for(record, would);
        }
        if let Some(outlier) = &trial.settings.outlier
            && let Some(is_failure) = balance::judge(outcome.as_ref().map(|(status, _)| *status), attempted.reused)
        {
            let endpoint = attempted.endpoint;
            let ejection = self.cluster.state.would_tell(&endpoint.state, is_failure, now, outlier);
            if let Some(ejection) = ejection {
                trial.tally.count_for(record, ejected(ejection, &outcome));
            }
        }
        let Some(policy) = &trial.settings.retries else { return };
        let request = retry::Request {
            is_idempotent: self.is_idempotent,
            can_rewind: !self.has_body || attempted.written <= KEPT_BYTES_MAX as u64,
            reused: attempted.reused,
            was_stale: self.was_stale.get(),
            is_answered: attempted.is_answered,
        };
        match then(&outcome, request, policy) {
            Then::Anew { rewind } => self.was_stale.set(self.was_stale.get() || rewind),
            Then::Retry if self.retries.get() < policy.attempts && now < self.deadline => {
                let is_paid = state.budget.take(now, policy.budget_ratio, policy.budget_per_second);
                trial.tally.count_for(record, if is_paid { Would::Retry } else { Would::OverBudget });
                self.retries.set(self.retries.get() + 1);
                // Of an attempt that would have been given up, what came of it is another request's story.
                self.is_over.set(!is_paid || gave_up.is_some());
            }
            Then::Retry | Then::End => self.is_over.set(true),
        }
    }
}

impl Drop for RequestTrial<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.cluster.state.trial.get().filter(|_| self.is_within) {
            state.requests.fetch_sub(1, Relaxed);
        }
    }
}

/// Whether there is room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// There is.
    Free,
    /// It would wait.
    Wait,
    /// Not even to wait.
    Full,
}

fn room(taken: u32, max: u32, waiting_max: u32) -> Room {
    match taken {
        taken if taken < max => Room::Free,
        taken if taken < max.saturating_add(waiting_max) => Room::Wait,
        _ => Room::Full,
    }
}

/// Takes a place unless there is none.
fn enter(taken: &AtomicU32, max: u32, waiting_max: u32) -> Room {
    let more = |taken: u32| (room(taken, max, waiting_max) != Room::Full).then(|| taken + 1);
    let before = taken.fetch_update(Relaxed, Relaxed, more);
    before.map_or(Room::Full, |before| room(before, max, waiting_max))
}

/// An answer's status and `Retry-After`, or why there is none.
type Outcome<'a> = Result<(u16, Option<&'a [u8]>), ProxyError>;

/// How the attempt would have ended, and the time that would have ended it.
fn seen<'a>(settings: &TrafficShadow, attempted: &Attempted<'a>) -> (Option<Would>, Outcome<'a>) {
    let is_over = |limit: Option<Duration>, took: Duration| limit.is_some_and(|limit| took >= limit);
    if is_over(settings.connect_timeout, attempted.connect) {
        return (Some(Would::ConnectTimeout), Err(ProxyError::upstream(Kind::ConnectTimeout, Reached::Nothing)));
    }
    if is_over(settings.first_byte_timeout, attempted.answer) {
        return (Some(Would::FirstByteTimeout), Err(ProxyError::upstream(Kind::AnswerTimeout, Reached::Sent)));
    }
    (None, attempted.outcome)
}

/// What an endpoint would have been left alone for.
fn ejected(ejection: Ejection, outcome: &Outcome<'_>) -> Would {
    match (ejection, outcome) {
        (Ejection::TooMany, _) => Would::NotEject,
        (Ejection::Ejected { .. }, Ok(_)) => Would::EjectStatus,
        (Ejection::Ejected { .. }, Err(error)) if matches!(error.kind, Kind::Connect | Kind::ConnectTimeout) => {
            Would::EjectConnect
        }
        (Ejection::Ejected { .. }, Err(_)) => Would::EjectNoAnswer,
    }
}

/// What would have followed an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    /// Another one, which is nobody's fault.
    Anew { rewind: bool },
    /// Another one, if there is one left and it can be paid for.
    Retry,
    /// Nothing.
    End,
}

fn then(outcome: &Outcome<'_>, request: retry::Request, policy: &Retries) -> Then {
    match *outcome {
        Ok((status, retry_after)) => {
            let is_repeated = !request.is_answered && retry::on_status(status, retry_after, request, policy);
            if is_repeated { Then::Retry } else { Then::End }
        }
        Err(error) => match retry::after(error, request, policy) {
            Next::Anew(again) => Then::Anew { rewind: again.rewind },
            Next::Retry(_) => Then::Retry,
            Next::GiveUp => Then::End,
        },
    }
}

#[cfg(test)]
mod tests;
