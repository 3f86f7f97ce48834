//! All attempts at one request: which endpoint of which lane, whether another follows, and what is still at hand of the
//! request. What one attempt does is `attempt`'s business, what may be repeated `retry`'s. Hot.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use config::snapshot::ListenerSettings;
use filters::Head;
use filters::head::Known;
use smallvec::SmallVec;

use crate::attempt::{self, Attempt, Deadlines};
use crate::balance;
use crate::connection::Client;
use crate::error::{Kind, ProxyError};
use crate::exchange::Pump;
use crate::h1::{Framing, RequestMeta, encode_request};
use crate::lanes::LaneView;
use crate::mirror;
use crate::passage::{Refused, Watch};
use crate::record::Record;
use crate::request::{After, Asked, Met, after};
use crate::retry::{self, Again, Next};
use crate::view::{ClusterView, EndpointView, Wanted};
use crate::worker::{ConnectionGuard, Worker};

/// Endpoints that may be removed one after the other while a request connects to them.
const VANISHED_MAX: u32 = 3;

/// Makes attempts until one is the answer, or none may follow.
#[expect(clippy::too_many_arguments, reason = "what a request is made of, each with a life of its own")]
pub(crate) async fn run(
    guard: &ConnectionGuard,
    client: &mut Client,
    asked: &Asked<'_>,
    head: &Head,
    met: &Met,
    mut cluster: Rc<ClusterView>,
    request_deadline: Duration,
    record: &mut Record,
) -> Result<After, ProxyError> {
    let worker = &guard.worker;
    let Asked { client_address, settings, meta, .. } = *asked;
    // Asked first: its own bound decides in its place, not what the one in force lets through.
    let trial = match &cluster.trial {
        Some(trial) => trial.begin(worker, &cluster, meta, request_deadline, record),
        None => None,
    };
    let _within = Within::take(&cluster)?;
    let mut request = first_of(head, meta, settings);
    let keeps = meta.method.is_idempotent() && cluster.cluster.settings.retries.rewinds();
    if meta.framing != Framing::None && keeps {
        request = request.keep();
    }
    if met.rule.is_mirrored && !std::mem::replace(&mut record.is_copied, true) {
        request = mirror::copy(worker, met, head, meta, client_address, record.lane.as_ref(), request);
    }
    cluster.state.budget.count(worker.id);
    let mut retries = 0;
    let mut vanished = 0;
    let mut was_stale = false;
    let mut again = Again::default();
    let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    loop {
        let now = worker.driver.now();
        let hash = balance::hash(&cluster.cluster.settings.hash_on, head, client_address);
        let (endpoint, watch) = match choose(worker, &cluster, record, now, hash, &mut tried)? {
            Chosen::Endpoint(endpoint, watch) => (endpoint, watch),
            Chosen::Refused(refused) => {
                refused.count();
                return Ok(refused.answer(guard, client, meta, record).await);
            }
        };
        record.endpoint = Some(endpoint.address);
        record.attempts += 1;
        let deadlines = Deadlines {
            request: request_deadline,
            attempt: after(now, met.rule.backend_request_timeout),
            body_progress: settings.body_progress_timeout,
        };
        let policy = &cluster.cluster.settings.retries;
        // A retry comes within the deadline of the whole, and is paid for.
        let is_affordable = |retries: u32| {
            let now = worker.driver.now();
            if retries >= policy.attempts || now >= request_deadline {
                return false;
            }
            let is_paid = cluster.state.budget.take(now, policy.budget_ratio, policy.budget_per_second);
            let counter = if is_paid { &worker.stats().retries } else { &worker.stats().retries_over_budget };
            counter.add(1);
            is_paid
        };
        let as_sent = |request: &Pump, reused: bool, is_answered: bool| retry::Request {
            is_idempotent: meta.method.is_idempotent(),
            // What is kept for copies only is not there for retries: a mirror changes nothing.
            can_rewind: meta.framing == Framing::None || keeps && request.can_rewind(),
            reused,
            was_stale,
            is_answered,
        };
        let attempt = Attempt {
            guard,
            cluster: &cluster,
            endpoint: &endpoint,
            met,
            asked,
            version: head.version,
            deadlines,
            fresh_only: again.fresh,
            trial: trial.as_ref(),
            retries_answer: &|answer, request| {
                let (status, retry_after) = (answer.status, Known::RetryAfter);
                retry::is_asked_for(status, policy)
                    && retry::on_status(status, answer.known(retry_after), as_sent(request, false, false), policy)
                    && is_affordable(retries)
            },
        };
        let outcome = attempt::run(attempt, client, &mut request, record).await;
        record.request_body_bytes = request.body_bytes;
        let error = outcome.as_ref().err();
        watch.into_iter().for_each(|watch| watch.ended(record, error));
        let error = match outcome {
            Ok(after) => return Ok(after),
            Err(error) => error,
        };
        record.has_begun = record.answer_started || request.has_begun(meta.framing);
        worker.stats().upstream_stale.add(u64::from(error.is_stale(record.reused)));
        match retry::after(error, as_sent(&request, record.reused, record.answer_started), policy) {
            Next::Anew(_) if has_gone(error.kind) && vanished == VANISHED_MAX => return Err(error),
            Next::Anew(next) => {
                vanished += u32::from(has_gone(error.kind));
                if error.kind == Kind::Misdirected {
                    tried.push(endpoint.address);
                }
                was_stale |= next.rewind;
                again = next;
            }
            // An answer that is followed by another attempt has been paid for already.
            Next::Retry(next) if error.kind == Kind::Status || is_affordable(retries) => {
                again = next;
                if tried.contains(&endpoint.address) {
                    // Everybody was asked: the next time comes a little later.
                    let pause = retry::pause(retries, worker.dice()).min(request_deadline.saturating_sub(now));
                    worker.driver.sleep_until(worker.driver.now() + pause).await;
                }
                retries += 1;
                // Where the attempt went: a connection that became free may have been to another.
                tried.push(record.endpoint.unwrap_or(endpoint.address));
            }
            Next::Retry(_) | Next::GiveUp => return Err(error),
        }
        if again.rewind {
            match request.can_rewind() {
                true => request.rewind(),
                false => request = first_of(head, meta, settings),
            }
        }
        // Picked anew, and from the revision that is in force now.
        cluster = worker.view().cluster(&cluster.cluster.name).ok_or(ProxyError::here(Kind::NoEndpoint))?;
    }
}

/// Whether whoever was chosen is not there any more.
fn has_gone(kind: Kind) -> bool {
    matches!(kind, Kind::Vanished | Kind::Misdirected)
}

/// What was chosen for an attempt.
enum Chosen<'c> {
    Endpoint(Rc<EndpointView>, Option<Watch<'c>>),
    /// A rule that watches each endpoint has closed the way to all of them.
    Refused(Refused<'c>),
}

/// An endpoint of the request's lane, which no rule has closed the way to.
fn choose<'c>(
    worker: &'c Worker,
    cluster: &'c ClusterView,
    record: &Record,
    now: Duration,
    hash: Option<u64>,
    tried: &mut SmallVec<[SocketAddr; 4]>,
) -> Result<Chosen<'c>, ProxyError> {
    let zone = worker.shared.zone.as_deref();
    let (group, fallback) = group(cluster, record.lane.as_deref(), now, zone)?;
    if let (Some(lane), Some(reason)) = (&record.lane, fallback) {
        worker.stats().fell_back(&lane.name, &cluster.cluster.name, reason);
    }
    let mut closed: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    loop {
        let picked = cluster.pick(&Wanted { group, now, hash, tried, zone }, || worker.dice());
        let picked = picked.ok_or(ProxyError::here(Kind::NoEndpoint))?;
        if !cluster.guards_endpoints {
            return Ok(Chosen::Endpoint(picked.clone(), None));
        }
        match Watch::begin(worker, cluster, picked.address) {
            Ok(watch) => return Ok(Chosen::Endpoint(picked.clone(), Some(watch))),
            Err(refused) if closed.contains(&picked.address) => return Ok(Chosen::Refused(refused)),
            Err(_) => {
                closed.push(picked.address);
                tried.push(picked.address);
            }
        }
    }
}

/// The group of endpoints that serves a request's lane here, and why that is not the lane's own: its own if any of it is
/// ready, else the baseline if the lane may be left.
pub(crate) fn group(
    cluster: &ClusterView,
    lane: Option<&LaneView>,
    now: Duration,
    zone: Option<&str>,
) -> Result<(usize, Option<&'static str>), ProxyError> {
    let Some(lane) = lane else { return Ok((0, None)) };
    group_of(cluster, lane, (0, cluster.lane(lane)), now, zone)
}

/// Why a request of a lane in shadow would not have been served by it here: it would have been by the baseline, or refused.
pub(crate) fn shadow_fallback(
    cluster: &ClusterView,
    lane: &LaneView,
    now: Duration,
    zone: Option<&str>,
) -> Option<&'static str> {
    // A lane never leaves its namespace: elsewhere the baseline of those in force serves.
    let groups = cluster.shadow_lane(lane).unwrap_or((0, None));
    group_of(cluster, lane, groups, now, zone).map_or(Some("refused"), |(_, reason)| reason)
}

/// `groups` are those of the baseline and of the lane's own.
fn group_of(
    cluster: &ClusterView,
    lane: &LaneView,
    (baseline, own): (usize, Option<usize>),
    now: Duration,
    zone: Option<&str>,
) -> Result<(usize, Option<&'static str>), ProxyError> {
    match own {
        Some(group) if cluster.ready_weight(group, now, zone) > 0.0 => Ok((group, None)),
        // There is no baseline to fall back to: an answer that may fail is better than none.
        Some(group) if cluster.group(baseline).members.is_empty() => Ok((group, None)),
        _ if lane.is_strict() => Err(ProxyError::here(Kind::NoLane)),
        own => Ok((baseline, Some(if own.is_some() { "notReady" } else { "absent" }))),
    }
}

/// The request as it is sent, its body still to come.
#[inline]
fn first_of(head: &Head, meta: &RequestMeta, settings: &ListenerSettings) -> Pump {
    let mut request = Pump::new().with_body_max(settings.request_body_bytes_max);
    encode_request(head, meta.framing, meta.te_trailers, request.out());
    request.begin_body(meta.framing, meta.framing == Framing::Chunked);
    request
}

/// A request's part of the bound on those to a cluster, for as long as it lives.
struct Within {
    cluster: Rc<ClusterView>,
    max: u32,
}

impl Within {
    /// None: there is no bound.
    fn take(cluster: &Rc<ClusterView>) -> Result<Option<Within>, ProxyError> {
        let Some(max) = cluster.cluster.settings.bounds.requests_max else { return Ok(None) };
        match cluster.credits.take(&cluster.state.requests, max) {
            true => Ok(Some(Within { cluster: cluster.clone(), max })),
            false => Err(ProxyError::here(Kind::Overflow)),
        }
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.cluster.credits.give_back(&self.cluster.state.requests, self.max);
    }
}
