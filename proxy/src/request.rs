//! The life of a request, in the order things happen: what is known of it, the rule it meets, what the rule
//! does to it, the target, the attempt, the answer, the record. Every decision of that way is made here;
//! helpers compute. Hot.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use config::snapshot::{Filter, ListenerSettings};
use filters::head::Known;
use filters::{Entry, Head, Verdict};
use smallvec::SmallVec;

use crate::attempt::{self, Attempt, Deadlines};
use crate::balance;
use crate::buffer::LentHead;
use crate::connection::Client;
use crate::error::{Kind, ProxyError};
use crate::exchange::Pump;
use crate::forwarded;
use crate::h1::{Framing, Method, RequestMeta, encode_request};
use crate::record::Record;
use crate::reply::{self, Redirect};
use crate::retry::{self, Again, Next};
use crate::view::{self, ClusterView, RuleView};
use crate::worker::{ConnectionGuard, Worker};

/// What becomes of the downstream connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request may come.
    KeepAlive,
    /// Our side ends; what the client still sends is read for a moment, so that it sees the answer.
    Linger,
    /// Our side ends, and the client has no more to send.
    Shutdown,
    /// Nothing can be told any more.
    Close,
}

/// Serves one request whose head has been read: the answer is the service's, a rule's, or an error's.
pub(crate) async fn serve(
    guard: &ConnectionGuard,
    client: &mut Client,
    settings: &ListenerSettings,
    mut head: LentHead,
    meta: RequestMeta,
) -> After {
    let worker = &guard.worker;
    let mut record = Record::start(worker.driver.now());
    record.ask(&head);
    let in_flight = InFlight::count(worker);

    // Many servers read `_` as `-`, and would take such a field for one of ours.
    head.remove_known(Known::Underscored);
    let trusted = forwarded::trusts(&settings.client_address, client.peer.ip());
    let client_address = forwarded::apply(&mut head, &settings.client_address, client.peer, "http");
    forwarded::identify(&mut head, trusted, || worker.dice());

    let result = forward(guard, client, client_address, settings, &mut head, &meta, &mut record).await;
    let after = match result {
        Ok(after) => after,
        Err(error) => fail(guard, client, &meta, error, &mut record).await,
    };
    drop(in_flight);
    record.finish(worker, client_address, Some(&head));
    after
}

/// Finds where the request goes, and brings the answer back.
async fn forward(
    guard: &ConnectionGuard,
    client: &mut Client,
    client_address: IpAddr,
    settings: &ListenerSettings,
    head: &mut Head,
    meta: &RequestMeta,
    record: &mut Record,
) -> Result<After, ProxyError> {
    let worker = &guard.worker;
    if is_websocket(head, meta) {
        return Err(ProxyError::downstream(Kind::Upgrade));
    }
    if let (Framing::Length(length), Some(max)) = (meta.framing, settings.request_body_bytes_max)
        && length > max
    {
        return Err(ProxyError::downstream(Kind::BodyTooLarge));
    }

    if matches!(meta.method, Method::Options | Method::Trace) && !spend_hop(head) {
        // RFC 9110 7.6.2: this is the last recipient. It has nothing to say of itself, and reflects nothing.
        let status = if meta.method == Method::Options { 200 } else { 501 };
        return Ok(reply::send_status(guard, client, meta, status, record).await);
    }
    let target = route(guard, head, record)?;
    let (met, mut cluster) = match target {
        Target::Redirect(met, status, location) => {
            let redirect = Redirect { status, location, filters: met.filters() };
            return Ok(reply::send_redirect(guard, client, meta, redirect, record).await);
        }
        Target::Cluster(met, cluster) => (met, cluster),
    };

    if head.authority.is_empty() {
        // HTTP/1.0 may come without a host; what we send must have one (RFC 9112 3.2).
        let cluster = &cluster.cluster;
        head.authority = head.append_with(|text| write_service(text, &cluster.service, &cluster.namespace));
    }
    let _within = Within::take(&cluster)?;
    let started = worker.driver.now();
    let request_deadline = after(started, met.rule.request_timeout);
    let mut request = first_of(head, meta, settings);
    if meta.framing != Framing::None && meta.method.is_idempotent() && cluster.cluster.settings.retries.rewinds() {
        request = request.keep();
    }
    cluster.state.budget.count(worker.id);
    let mut retries = 0;
    let mut vanished = 0;
    let mut again = Again::default();
    let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    loop {
        let now = worker.driver.now();
        let hash = balance::hash(&cluster.cluster.settings.hash_on, head, client_address);
        let zone = worker.shared.zone.as_deref();
        let endpoint = cluster.pick(now, hash, &tried, zone, || worker.dice());
        let endpoint = endpoint.ok_or(ProxyError::here(Kind::NoEndpoint))?.clone();
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
            let (now, worker) = (worker.driver.now(), &guard.worker);
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
            can_rewind: meta.framing == Framing::None || request.can_rewind(),
            reused,
            is_answered,
        };
        let attempt = Attempt {
            guard,
            cluster: &cluster,
            endpoint: &endpoint,
            met: &met,
            version: head.version,
            meta,
            deadlines,
            fresh_only: again.fresh,
            retries_answer: &|answer, request| {
                let retry_after = answer.known(Known::RetryAfter);
                retry::on_status(answer.status, retry_after, as_sent(request, false, false), policy)
                    && is_affordable(retries)
            },
        };
        let outcome = attempt::run(attempt, client, &mut request, record).await;
        record.request_body_bytes = request.body_bytes;
        let error = match outcome {
            Ok(after) => return Ok(after),
            Err(error) => error,
        };
        worker.stats().upstream_stale.add(u64::from(error.is_stale(record.reused)));
        match retry::after(error, as_sent(&request, record.reused, record.answer_started), policy) {
            Next::Anew(_) if error.kind == Kind::Vanished && vanished == VANISHED_MAX => return Err(error),
            Next::Anew(next) => {
                vanished += u32::from(error.kind == Kind::Vanished);
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
                tried.push(endpoint.address);
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

/// A request's part of the bound on those to a cluster, for as long as it lives.
struct Within {
    cluster: Rc<ClusterView>,
    max: Option<u32>,
}

impl Within {
    fn take(cluster: &Rc<ClusterView>) -> Result<Within, ProxyError> {
        let max = cluster.cluster.settings.bounds.requests_max;
        if let Some(max) = max
            && !cluster.credits.take(&cluster.state.requests, max)
        {
            return Err(ProxyError::here(Kind::Overflow));
        }
        Ok(Within { cluster: cluster.clone(), max })
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        if let Some(max) = self.max {
            self.cluster.credits.give_back(&self.cluster.state.requests, max);
        }
    }
}

/// Endpoints that may be removed one after the other while a request connects to them.
const VANISHED_MAX: u32 = 3;

/// Counts a request for as long as it is served, however that ends.
struct InFlight<'w>(&'w Worker);

impl InFlight<'_> {
    fn count(worker: &Worker) -> InFlight<'_> {
        worker.stats().requests_in_flight.add(1);
        InFlight(worker)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.stats().requests_in_flight.subtract(1);
    }
}

/// A service's name in the cluster.
fn write_service(text: &mut Vec<u8>, service: &str, namespace: &str) {
    for part in [service, ".", namespace] {
        text.extend_from_slice(part.as_bytes());
    }
}

/// The request as it is sent, its body still to come.
fn first_of(head: &Head, meta: &RequestMeta, settings: &ListenerSettings) -> Pump {
    let mut request = Pump::new().with_body_max(settings.request_body_bytes_max);
    encode_request(head, meta.framing, meta.te_trailers, request.out());
    request.begin_body(meta.framing, meta.framing == Framing::Chunked);
    request
}

/// Counts `Max-Forwards` down and tells whether the request may go further (RFC 9110 7.6.2).
fn spend_hop(head: &mut Head) -> bool {
    let text = head.get("max-forwards").and_then(|value| std::str::from_utf8(value).ok());
    match text.and_then(|text| text.parse::<u64>().ok()) {
        None => true,
        Some(0) => false,
        Some(left) => {
            head.set("Max-Forwards", (left - 1).to_string().as_bytes());
            true
        }
    }
}

/// Whether a WebSocket handshake (RFC 6455 4.1) was asked for. Other upgrades, such as h2c, are an offer that may be
/// ignored (RFC 9110 7.8); this one makes no sense as a plain request.
fn is_websocket(head: &Head, meta: &RequestMeta) -> bool {
    let asks =
        |value: &[u8]| value.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(b"websocket"));
    meta.upgrade && head.fields().iter().any(|field| field.known == Known::Upgrade && asks(head.bytes(field.value)))
}

/// The rule that a request met, and the target's own filters.
pub(crate) struct Met {
    pub(crate) rule: Rc<RuleView>,
    /// The index of the target in the rule, if one was chosen; its filters come after the rule's.
    choice: Option<usize>,
}

impl Met {
    /// The filters that see the answer, in their order.
    pub(crate) fn filters(&self) -> [&[Filter]; 2] {
        [&self.rule.filters, self.choice.map_or(&[], |choice| &self.rule.backends.choices[choice].filters)]
    }
}

enum Target {
    Redirect(Met, u16, String),
    Cluster(Met, Rc<ClusterView>),
}

/// The rule, what it does to the request, and the cluster it sends it to.
fn route(guard: &ConnectionGuard, head: &mut Head, record: &mut Record) -> Result<Target, ProxyError> {
    let (view, index) = guard.worker.place(&guard.bind).ok_or(ProxyError::here(Kind::NoRoute))?;
    let bind = &view.snapshot.binds[index];
    let found = bind.table.find(head).ok_or(ProxyError::here(Kind::NoRoute))?;
    let rule = view.rule(index, found);
    record.rule = Some(rule.clone());
    let entry = Entry { scheme: "http", port: guard.bind.port, prefix_bytes: found.prefix_bytes };
    if let Verdict::Redirect(status, location) = filters::on_request(&rule.filters, head, entry) {
        return Ok(Target::Redirect(Met { rule, choice: None }, status, location));
    }
    let choice = view::choose(&rule.backends, guard.worker.dice()).ok_or(ProxyError::here(Kind::NoCluster))?;
    let chosen = &rule.backends.choices[choice];
    let cluster = chosen.cluster.ok_or(ProxyError::here(Kind::NoCluster))?;
    let cluster = match guard.bind.index.get() {
        Some(_) => view.clusters[cluster].clone(),
        // The rules of an address that was removed, but the endpoints of now.
        None => {
            let name = &view.clusters[cluster].cluster.name;
            guard.worker.view().cluster(name).ok_or(ProxyError::here(Kind::NoEndpoint))?
        }
    };
    record.cluster = Some(cluster.clone());
    let redirected = filters::on_request(&chosen.filters, head, entry);
    let met = Met { rule, choice: Some(choice) };
    Ok(match redirected {
        Verdict::Redirect(status, location) => Target::Redirect(met, status, location),
        Verdict::Continue => Target::Cluster(met, cluster),
    })
}

/// Answers a request that failed, as far as it can still be answered.
async fn fail(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: &RequestMeta,
    error: ProxyError,
    record: &mut Record,
) -> After {
    let answer = error.reply();
    let is_overflow = matches!(error.kind, Kind::Overflow | Kind::PendingTimeout);
    guard.worker.stats().overflows.add(u64::from(is_overflow));
    record.flag = answer.flag;
    record.detail = error.detail();
    if record.answer_started {
        // The status was sent: only the missing end can tell, and where the close is the end, a reset.
        return After::Close;
    }
    record.status = answer.status;
    if answer.status == 499 {
        return After::Close;
    }
    reply::send_error(guard, client, meta, &answer, record).await
}

fn after(now: Duration, timeout: Option<Duration>) -> Duration {
    timeout.map_or(Duration::MAX, |timeout| now + timeout)
}
