//! One attempt at one endpoint: a connection, the request on it, the answer back to the client, and what
//! becomes of both connections. Which endpoint, and whether there is another attempt, is `request`'s business.
//! Hot.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use filters::Head;
use filters::head::{Known, Version};
use rustix::net::sockopt;

use crate::balance;
use crate::buffer::LentHead;
use crate::connect::{Means, Obtained, connect, obtain, pooled};
use crate::connection::Client;
use crate::driver::{Driver, Socket};
use crate::error::{Kind, ProxyError, Reached};
use crate::exchange::{Broken, Pump};
use crate::h1::{self, Framing, HeadLimits, ResponseMeta, answer_framing, encode_response};
use crate::hop::{self, Told};
use crate::pool::{self, Link};
use crate::record::Record;
use crate::request::{After, Asked, Met};
use crate::shadow::{Attempted, RequestTrial};
use crate::view::{ClusterView, EndpointView};
use crate::wire::Wire;
use crate::worker::{ConnectionGuard, Worker};

/// What the kernel sends without waiting for an acknowledgement: ten segments (RFC 6928).
const AT_ONCE_BYTES: u64 = 10 * 1_400;
/// Bounds on the head of an answer.
pub(crate) const ANSWER_LIMITS: HeadLimits = HeadLimits { bytes_max: 64 * 1024, fields_max: 256 };
/// Interim answers before the final one; a service that sends more is broken.
const INTERIM_MAX: u32 = 16;

/// Until when what must have happened, in the driver's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// The whole exchange.
    pub(crate) request: Duration,
    /// This attempt's answer.
    pub(crate) attempt: Duration,
    /// The longest pause in a body.
    pub(crate) body_progress: Duration,
}

/// What an attempt is made with.
pub(crate) struct Attempt<'a> {
    pub(crate) guard: &'a ConnectionGuard,
    pub(crate) cluster: &'a ClusterView,
    pub(crate) endpoint: &'a Rc<EndpointView>,
    pub(crate) met: &'a Met,
    pub(crate) asked: &'a Asked<'a>,
    /// The client's version of HTTP.
    pub(crate) version: Version,
    pub(crate) deadlines: Deadlines,
    /// No pooled connection: the last one had been closed by the peer.
    pub(crate) fresh_only: bool,
    /// The request under a policy in shadow.
    pub(crate) trial: Option<&'a RequestTrial<'a>>,
    /// Whether an answer is followed by another attempt instead of being passed on, given what is still at hand of the
    /// request.
    pub(crate) retries_answer: &'a dyn Fn(&Head, &Pump) -> bool,
}

/// Makes the attempt. After an error with `Reached::Nothing`, `request` is as it was.
pub(crate) async fn run(
    attempt: Attempt<'_>,
    client: &mut Client,
    request: &mut Pump,
    record: &mut Record,
) -> Result<After, ProxyError> {
    let Attempt { version, asked, trial, .. } = attempt;
    let meta = asked.meta;
    let worker = &attempt.guard.worker;
    let settings = &attempt.cluster.cluster.settings;
    let _in_use = trial.and_then(|trial| trial.connection(record));
    let Obtained { endpoint, means, idle } = match pooled(&attempt) {
        Some(obtained) => obtained,
        None => obtain(&attempt, client).await?,
    };
    let reused = matches!(means, Means::Pooled(_));
    if let Some(trial) = trial.filter(|_| reused) {
        trial.reused(idle, record);
    }
    record.reused = reused;
    record.endpoint = Some(endpoint.address);
    let started = worker.driver.now();
    record.departed = started;
    let _in_flight = endpoint.load.begin();
    let measure = |outcome: Result<u16, &ProxyError>| {
        let Some(is_failure) = balance::judge(outcome, reused) else { return };
        let now = worker.driver.now();
        // Where there is no choice nobody asks.
        if attempt.cluster.endpoints.len() > 1 {
            endpoint.load.measured(now, now - started, is_failure);
        }
        if let Some(outlier) = &settings.usage.outlier {
            attempt.cluster.state.tell(&endpoint.state, endpoint.address, is_failure, now, outlier);
        }
    };
    let mut connect_took = Duration::ZERO;
    let Link { socket, slot } = match means {
        Means::Pooled(link) => link,
        Means::Open(slot) => {
            let connected = connect(&attempt, &endpoint).await.inspect_err(|error| measure(Err(error)));
            connect_took = worker.driver.now() - started;
            tell_connected(&attempt, &endpoint, connected.as_ref().err(), connect_took);
            if let (Some(trial), Err(error)) = (trial, &connected) {
                let (connect, answer) = (connect_took, Duration::ZERO);
                let outcome = Err(*error);
                let endpoint = &endpoint;
                trial.ended(
                    &Attempted { endpoint, outcome, reused, connect, answer, written: 0, is_answered: false },
                    record,
                );
            }
            Link { socket: connected?, slot }
        }
    };
    let mut server = Wire::new(socket);

    let mut response = Pump::new();
    let mut answer = LentHead::lend();
    let mut clock = Clock::new(&attempt, settings.first_byte_timeout);
    let received = receive_head(&attempt, client, &mut server, request, &mut response, &mut answer, &mut clock).await;
    let waits = clock.end(&worker.driver, record);
    if let Err(error) = &received
        && response.is_cut()
    {
        // An error of ours must not begin in the middle of an interim answer.
        record.answer_started = true;
        record.status = error.reply().status;
    }
    measure(received.as_ref().map(|_| answer.status));
    if let Some(trial) = trial {
        let attempted = Attempted {
            endpoint: &endpoint,
            outcome: match &received {
                Ok(_) => Ok((answer.status, answer.known(Known::RetryAfter))),
                Err(error) => Err(*error),
            },
            reused,
            connect: connect_took,
            answer: waits.map_or(Duration::ZERO, |waits| waits.answer_max),
            written: request.written,
            is_answered: response.is_cut(),
        };
        trial.ended(&attempted, record);
    }
    let answer_meta = received?;
    if endpoint.incarnation != 0 {
        match hop::take_told(&mut answer) {
            Told::Nothing => {}
            Told::Leaving => attempt.cluster.state.leaves(&endpoint.state),
            Told::Misdirected | Told::Unserved if response.is_cut() => {}
            Told::Unserved => {
                let error = ProxyError::upstream(Kind::Connect, Reached::Answered);
                tell_connected(&attempt, &endpoint, Some(&error), Duration::ZERO);
                return Err(error);
            }
            Told::Misdirected => {
                attempt.cluster.state.leaves(&endpoint.state);
                return Err(ProxyError::upstream(Kind::Misdirected, Reached::Answered));
            }
        }
    }
    if !response.is_cut() && (attempt.retries_answer)(&answer, request) {
        return Err(ProxyError::upstream(Kind::Status, Reached::Answered));
    }
    record.first_byte = Some(worker.driver.now());
    record.status = answer.status;

    // An answer before the request's end: what is left of the request has no use for this connection any more.
    let keep_alive = meta.keep_alive && request.is_finished() && !attempt.guard.is_ending();
    if answer.known(Known::Date).is_none() {
        // RFC 9110 6.6.1: who forwards an answer without one, and has a clock, appends it.
        answer.add_with("Date", Known::Date, |text| worker.write_date(text));
    }
    for filters in attempt.met.filters() {
        filters::on_response(filters, &mut answer);
    }
    if worker.has_lanes()
        && let Some((view, index)) = worker.place(&attempt.guard.bind)
    {
        view.lanes.leave(&view.snapshot.binds[index].lanes, &mut answer);
    }
    if attempt.guard.is_leaving() {
        hop::tell_leaving(&mut answer);
    }
    if let Some(cookie) = &asked.issue {
        answer.add("Set-Cookie", cookie);
    }
    let framing = answer_framing(answer_meta.framing, version);
    let keep_alive = keep_alive && framing != Framing::UntilClose;
    encode_response(&answer, framing, version, keep_alive, response.out());
    response.begin_body(answer_meta.framing, framing == Framing::Chunked);
    if !keep_alive {
        response.ends_sink();
    }
    drop(answer);
    record.answer_started = true;
    if framing == Framing::UntilClose {
        // Only a reset tells such an answer's end from one that was cut, also by the end of this process.
        let _ = sockopt::set_socket_linger(client.wire.socket.descriptor(), Some(Duration::ZERO));
    }

    let written_before = response.written;
    let mut clock = Clock::new(&attempt, attempt.deadlines.body_progress);
    let streamed =
        stream(&attempt, client, &mut server, request, &mut response, &mut record.response_body_bytes, &mut clock)
            .await;
    clock.end(&worker.driver, record);
    // Until the first byte of it has left, an error can still be told instead.
    record.answer_started = streamed.is_ok() || response.written > written_before;
    record.response_body_bytes = response.body_bytes;
    streamed?;
    if framing == Framing::UntilClose {
        let _ = sockopt::set_socket_linger(client.wire.socket.descriptor(), None);
    }

    let reusable = answer_meta.keep_alive && request.is_finished() && server.is_quiet();
    if reusable {
        let link = Link { socket: server.socket, slot };
        give_back(worker, attempt.cluster, &endpoint, link, answer_meta.keep_alive_timeout_s);
    }
    Ok(match keep_alive {
        true => After::KeepAlive,
        // The client wanted no more, and everything that it sent was read. Should it send something after all, it gets
        // a reset, which must not overtake the answer: a small one is on its way as a whole.
        false if !meta.keep_alive && request.is_read() && response.written <= AT_ONCE_BYTES => After::Shutdown,
        false => After::Linger,
    })
}

/// Whether a connection could be made, and how long that took, for the choice of all.
fn tell_connected(attempt: &Attempt<'_>, endpoint: &EndpointView, error: Option<&ProxyError>, took: Duration) {
    let Attempt { guard, cluster, .. } = attempt;
    let is_refused = error.is_some_and(|error| match error.kind {
        Kind::Connect => true,
        // Else it was the request that had no time.
        Kind::ConnectTimeout => took >= cluster.cluster.settings.connect_timeout,
        _ => false,
    });
    match error {
        // Where there is no choice nobody asks.
        _ if cluster.endpoints.len() < 2 => {}
        None => cluster.state.connected(&endpoint.state, endpoint.address),
        Some(_) if is_refused => {
            cluster.state.refused(&endpoint.state, endpoint.address, guard.worker.driver.now());
        }
        Some(_) => {}
    }
}

/// Gives a connection whose exchange is over to a request that waits for it, or to the pool.
pub(crate) fn give_back(
    worker: &Worker,
    cluster: &ClusterView,
    endpoint: &EndpointView,
    link: Link,
    keep_alive_timeout_s: Option<u32>,
) {
    let settings = &cluster.cluster.settings;
    // A bound came while it was in use: nobody has counted it.
    let is_uncounted = link.slot.is_none() && cluster.state.connections.is_bounded();
    if endpoint.removed.get() || worker.is_finishing() || is_uncounted {
        return;
    }
    let mut link = Some(link);
    if let Some(Link { socket, slot: Some(slot) }) = link.take_if(|link| link.slot.is_some()) {
        link = slot.hand_over(socket, endpoint.address).err();
    }
    if let Some(link) = link {
        let idle = pool::idle_timeout(settings.idle_timeout, keep_alive_timeout_s);
        let now = worker.driver.now();
        endpoint.pool.give(link, now, now + idle, settings.idle_connections_max, worker.keeper());
    }
}

/// Sends the request and waits for the head of the final answer; interim ones go to the client at once.
async fn receive_head(
    attempt: &Attempt<'_>,
    client: &mut Client,
    server: &mut Wire,
    request: &mut Pump,
    response: &mut Pump,
    answer: &mut LentHead,
    clock: &mut Clock<'_>,
) -> Result<ResponseMeta, ProxyError> {
    let driver = &*attempt.guard.worker.driver;
    let written_before = request.written;
    let mut scanned = 0;
    let mut interim_count = 0;
    let mut sending = true;
    std::future::poll_fn(|_| {
        let before = (request.written, interim_count);
        if sending {
            match request.poll(&mut client.wire, server) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => sending = false,
                // The service may have answered before it stopped reading: its answer counts.
                Poll::Ready(Err(Broken::SinkGone)) => sending = false,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(of_client(broken))),
            }
        }
        let reached = if request.written == written_before { Reached::Nothing } else { Reached::Sent };
        loop {
            if !server.input().is_empty() {
                let refused = |refusal| ProxyError::upstream(Kind::Refused(refusal), Reached::Answered);
                let parsed =
                    h1::parse_response(server.input(), &mut scanned, ANSWER_LIMITS, answer).map_err(refused)?;
                if let Some(bytes) = parsed {
                    server.consume(bytes);
                    scanned = 0;
                    let answer_meta = h1::check_response(answer, attempt.asked.meta.method).map_err(refused)?;
                    if answer.status >= 200 {
                        return Poll::Ready(Ok(answer_meta));
                    }
                    interim_count += 1;
                    if interim_count > INTERIM_MAX {
                        return Poll::Ready(Err(ProxyError::upstream(Kind::InterimFlood, Reached::Answered)));
                    }
                    // HTTP/1.0 knows none (RFC 9110 15.2).
                    if attempt.version == Version::Http11 {
                        encode_response(answer, Framing::None, attempt.version, true, response.out());
                    }
                    answer.clear();
                    continue;
                }
                if server.is_full() {
                    server.grow(ANSWER_LIMITS.bytes_max);
                }
            }
            match server.poll_fill() {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => {
                    let reached = if scanned > 0 || interim_count > 0 { Reached::Answered } else { reached };
                    return Poll::Ready(Err(ProxyError::upstream(Kind::Gone, reached)));
                }
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(_)) = response.poll_flush(&client.wire.socket) {
            return Poll::Ready(Err(ProxyError::downstream(Kind::Gone)));
        }
        // Who only ended its side still waits for the answer; who reset it does not, and the service should know.
        if client.wire.socket.is_broken() {
            return Poll::Ready(Err(ProxyError::downstream(Kind::Gone)));
        }
        // Bytes of a head that is not complete are no progress: a service could send one a minute.
        let moved = before != (request.written, interim_count);
        match clock.wait(&client.wire.socket, driver, moved, sending) {
            None => Poll::Pending,
            // A body that does not come is the client's fault, one that is not taken the service's.
            Some(Kind::BodyStalled) if !request.waits_for_sink => {
                Poll::Ready(Err(ProxyError::downstream(Kind::BodyStalled)))
            }
            Some(kind) => Poll::Ready(Err(ProxyError::upstream(kind, reached))),
        }
    })
    .await
}

/// Brings the answer's body to the client, and what is left of the request's to the service. While it waits, `passed` tells
/// how much of the answer has come through.
async fn stream(
    attempt: &Attempt<'_>,
    client: &mut Client,
    server: &mut Wire,
    request: &mut Pump,
    response: &mut Pump,
    passed: &mut u64,
    clock: &mut Clock<'_>,
) -> Result<(), ProxyError> {
    let driver = &*attempt.guard.worker.driver;
    let mut sending = !request.is_finished();
    std::future::poll_fn(|_| {
        let before = (request.written, response.written);
        if sending {
            match request.poll(&mut client.wire, server) {
                Poll::Pending => {}
                Poll::Ready(Ok(()) | Err(Broken::SinkGone)) => sending = false,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(of_client(broken))),
            }
        }
        match response.poll(server, &mut client.wire) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(broken)) => return Poll::Ready(Err(of_service(broken))),
            Poll::Pending => *passed = response.body_bytes,
        }
        if client.wire.socket.is_broken() {
            return Poll::Ready(Err(ProxyError::downstream(Kind::Gone)));
        }
        match clock.wait(&client.wire.socket, driver, before != (request.written, response.written), true) {
            None => Poll::Pending,
            Some(Kind::BodyStalled) if response.waits_for_sink => {
                Poll::Ready(Err(ProxyError::downstream(Kind::BodyStalled)))
            }
            Some(kind) => Poll::Ready(Err(ProxyError::upstream(kind, Reached::Answered))),
        }
    })
    .await
}

/// A client whose answer takes longer is watched for a reset. Most answers are faster, and most connections that
/// serve one request only are never registered with the kernel's events at all.
const WATCH_AFTER: Duration = Duration::from_secs(1);

/// The deadlines of a wait, of which the driver knows the next. What never waits never sets one.
struct Clock<'a> {
    deadlines: &'a Deadlines,
    /// How long an answer may take when nothing is being sent.
    patience: Duration,
    /// The first that counts; None before the first wait.
    next: Option<Duration>,
    stalls: Kind,
    is_watching: bool,
    /// Known only where a policy in shadow may have a word on it.
    waits: Option<Box<Waits>>,
}

/// How long was waited.
#[derive(Debug, Clone, Copy, Default)]
struct Waits {
    /// When something last moved.
    since: Duration,
    /// The longest wait for an answer so far, and the longest pause in a body.
    answer_max: Duration,
    body_pause_max: Duration,
}

impl Waits {
    /// Something moves again; it was waited `for_what`, if at all.
    #[cold]
    fn moves(&mut self, for_what: Option<Kind>, now: Duration) {
        let took = now.saturating_sub(self.since);
        match for_what {
            None => {}
            Some(Kind::BodyStalled) => self.body_pause_max = self.body_pause_max.max(took),
            Some(_) => self.answer_max = self.answer_max.max(took),
        }
        self.since = now;
    }
}

impl<'a> Clock<'a> {
    fn new(attempt: &'a Attempt<'_>, patience: Duration) -> Clock<'a> {
        let is_tried = attempt.trial.is_some() || attempt.asked.settings.trial.is_some();
        let waits = is_tried.then(Box::default);
        let (deadlines, stalls) = (&attempt.deadlines, Kind::AnswerTimeout);
        Clock { deadlines, patience, next: None, stalls, is_watching: false, waits }
    }

    /// The wait is over. The longest pause in a body is noted.
    #[inline]
    fn end(&mut self, driver: &Driver, record: &mut Record) -> Option<Waits> {
        let waits = self.waits.as_mut()?;
        waits.moves(self.next.map(|_| self.stalls), driver.now());
        record.paused(waits.body_pause_max);
        Some(**waits)
    }

    /// Before going to wait: the deadline that has passed, if one has. Whatever moved starts its time anew; bodies have
    /// their own pace, an answer has its patience from the end of the request on.
    fn wait(&mut self, client: &Socket, driver: &Driver, moved: bool, body: bool) -> Option<Kind> {
        let (now, &Deadlines { request, attempt, body_progress }) = (driver.now(), self.deadlines);
        let next = match self.next {
            Some(next) if !moved => next,
            _ => {
                if let Some(waits) = &mut self.waits {
                    waits.moves(self.next.map(|_| self.stalls), now);
                }
                self.stalls = if body { Kind::BodyStalled } else { Kind::AnswerTimeout };
                let progress = now + if body { body_progress } else { self.patience };
                let next = progress.min(attempt).min(request);
                driver.set_deadline(if self.is_watching { next } else { next.min(now + WATCH_AFTER) });
                self.next = Some(next);
                return None;
            }
        };
        if next <= now {
            return Some(match () {
                () if request <= now => Kind::RequestTimeout,
                () if attempt <= now => Kind::AnswerTimeout,
                () => self.stalls,
            });
        }
        if driver.deadline_passed() {
            self.is_watching = true;
            // Without a place among the events a reset is noticed later, by the answer's write.
            let _ = client.watch();
            driver.set_deadline(next);
        }
        None
    }
}

fn of_client(broken: Broken) -> ProxyError {
    ProxyError::downstream(match broken {
        Broken::Refused(refusal) => Kind::Refused(refusal),
        Broken::TooLarge => Kind::BodyTooLarge,
        Broken::SourceGone | Broken::SinkGone => Kind::Gone,
    })
}

fn of_service(broken: Broken) -> ProxyError {
    match broken {
        Broken::SinkGone => ProxyError::downstream(Kind::Gone),
        Broken::Refused(refusal) => ProxyError::upstream(Kind::Refused(refusal), Reached::Answered),
        Broken::SourceGone | Broken::TooLarge => ProxyError::upstream(Kind::Gone, Reached::Answered),
    }
}
