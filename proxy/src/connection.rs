//! The life of a downstream connection: one request after the other, until one side wants no more. What a
//! request is worth is `request`'s business. Hot.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use config::snapshot::ClientAddress;

use crate::buffer::LentHead;
use crate::driver::{Driver, Socket};
use crate::error::{Kind, ProxyError};
use crate::h1::{self, HeadLimits, RequestMeta};
use crate::proxy_protocol;
use crate::record::Record;
use crate::reply;
use crate::request::{self, After};
use crate::shadow::{self, Wait, Would};
use crate::view::ListenerView;
use crate::wire::Wire;
use crate::worker::ConnectionGuard;

/// After an answer that ends a connection, so much of what the client still sends is read and dropped, so that the
/// answer is not lost to a reset (RFC 9112 9.6).
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A downstream connection.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    /// Who connected, or who the PROXY protocol says did.
    pub(crate) peer: SocketAddr,
    /// Requests served before the current one.
    requests: u64,
    /// What a policy in shadow would have done before there was a request.
    shadow: Vec<Would>,
}

impl Client {
    /// Says of a request what a policy in shadow would have done before it was one.
    #[inline]
    pub(crate) fn tell_shadow(&mut self, settings: &ListenerView, record: &mut Record) {
        let Some(trial) = &settings.trial else { return };
        for would in self.shadow.drain(..) {
            trial.note(record, would);
        }
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(guard: ConnectionGuard, socket: Socket, peer: SocketAddr) {
    guard.enter();
    let mut client = Client { wire: Wire::new(socket), peer, requests: 0, shadow: Vec::new() };
    let Some(settings) = settings(&guard) else { return };
    if settings.client_address == ClientAddress::ProxyProtocolV2
        && !proxy_protocol::read(&guard.worker.driver, &mut client, settings.head_timeout).await
    {
        return;
    }
    drop(settings);
    loop {
        // A listener that is gone serves what it has accepted no further.
        let Some(settings) = self::settings(&guard) else { return };
        let after = match next_request(&guard, &mut client, &settings).await {
            Ok(None) => return,
            Ok(Some((head, meta))) => request::serve(&guard, &mut client, &settings, head, meta).await,
            Err(refused) => refuse(&guard, &mut client, &settings, refused).await,
        };
        match after {
            After::KeepAlive => client.requests += 1,
            After::Linger => return linger(&guard.worker.driver, &mut client.wire).await,
            // Not left to the close: it would reset the connection, and the end of the answer with it, if the client
            // sent something after all.
            After::Shutdown => {
                let _ = rustix::net::shutdown(client.wire.socket.descriptor(), rustix::net::Shutdown::Write);
                return;
            }
            After::Close => return,
        }
    }
}

fn settings(guard: &ConnectionGuard) -> Option<Rc<ListenerView>> {
    let (view, index) = guard.worker.place(&guard.bind)?;
    Some(view.settings[index].clone())
}

/// A head that was no request, or the end of one.
struct RefusedHead {
    error: ProxyError,
    /// As far as it was understood, it asked for an answer without body.
    is_head: bool,
}

impl From<ProxyError> for RefusedHead {
    fn from(error: ProxyError) -> Self {
        RefusedHead { error, is_head: false }
    }
}

/// Waits for the next request's head. None: the client sends no more, or has been idle for too long, or the worker
/// is finishing; there is nobody to tell.
async fn next_request(
    guard: &ConnectionGuard,
    client: &mut Client,
    settings: &ListenerView,
) -> Result<Option<(LentHead, RequestMeta)>, RefusedHead> {
    let driver = &guard.worker.driver;
    let limits =
        HeadLimits { bytes_max: settings.head_bytes_max as usize, fields_max: usize::from(settings.header_count_max) };
    let mut scanned = 0;
    let mut head: Option<LentHead> = None;
    let patience = if client.requests == 0 { settings.head_timeout } else { settings.idle_timeout };
    let mut waits = if client.requests == 0 { Wait::Head } else { Wait::Idle };
    let mut since = driver.now();
    driver.set_deadline(since + patience);
    loop {
        if !client.wire.input().is_empty() {
            let is_first = head.is_none();
            let mut partial = head.take().unwrap_or_else(LentHead::lend);
            let refused = |refusal, head: &LentHead| RefusedHead {
                error: ProxyError::downstream(Kind::Refused(refusal)),
                is_head: head.bytes(head.method) == b"HEAD",
            };
            let parsed = h1::parse_request(client.wire.input(), &mut scanned, limits, &mut partial);
            if let Some(trial) = &settings.trial {
                if is_first || !matches!(parsed, Ok(None)) {
                    client.shadow.extend(trial.waited(waits, driver.now() - since));
                }
                let judged = shadow::Head::of(&parsed, limits, &partial);
                client.shadow.extend(judged.and_then(|judged| trial.head_came(&judged)));
            }
            let parsed = parsed.map_err(|refusal| refused(refusal, &partial))?;
            if let Some(bytes) = parsed {
                client.wire.consume(bytes);
                return match h1::check_request(&mut partial, settings.encoded_slash) {
                    Ok(meta) => Ok(Some((partial, meta))),
                    Err(refusal) => Err(refused(refusal, &partial)),
                };
            }
            if is_first {
                (waits, since) = (Wait::Head, driver.now());
                driver.set_deadline(since + settings.head_timeout);
            }
            head = Some(partial);
            if client.wire.is_full() {
                client.wire.grow(limits.bytes_max);
            }
        }
        let filled = std::future::poll_fn(|_| {
            let filled = client.wire.poll_fill();
            if filled.is_ready() {
                return filled.map(Some);
            }
            // Nothing of a request is there, and the worker or the address is about to end.
            let idle_until = guard.idle_until();
            if head.is_none() && idle_until != Duration::MAX {
                driver.set_deadline(idle_until);
            }
            if driver.deadline_passed() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        if let Some(trial) = settings.trial.as_ref().filter(|_| !matches!(filled, Some(Ok(1..)))) {
            client.shadow.extend(trial.waited(waits, driver.now() - since));
        }
        match (filled, head.is_some()) {
            (Some(Ok(count)), _) if count > 0 => {}
            // The end between two requests is how connections end, an idle one is closed without a word.
            (_, false) => return Ok(None),
            (None, true) => return Err(ProxyError::downstream(Kind::HeadTimeout).into()),
            (Some(_), true) => return Err(ProxyError::downstream(Kind::Gone).into()),
        }
    }
}

/// Answers a head that was no request.
async fn refuse(guard: &ConnectionGuard, client: &mut Client, settings: &ListenerView, refused: RefusedHead) -> After {
    let RefusedHead { error, is_head } = refused;
    let worker = &guard.worker;
    let mut record = Record::start(worker.driver.now());
    let answer = error.reply();
    record.status = answer.status;
    record.flag = answer.flag;
    record.detail = error.detail();
    client.tell_shadow(settings, &mut record);
    let after = match error.kind {
        Kind::Gone => After::Close,
        _ => reply::send_refusal(guard, client, is_head, &answer, &mut record).await,
    };
    record.finish(worker, client.peer.ip(), None);
    after
}

/// Ends our side, then reads what the client still sends, within bounds.
async fn linger(driver: &Driver, wire: &mut Wire) {
    if rustix::net::shutdown(wire.socket.descriptor(), rustix::net::Shutdown::Write).is_err() {
        return;
    }
    driver.set_deadline(driver.now() + LINGER_TIME);
    let mut dropped = 0;
    std::future::poll_fn(|_| {
        loop {
            let waiting = wire.input().len();
            dropped += waiting;
            wire.consume(waiting);
            if dropped > LINGER_BYTES_MAX || driver.deadline_passed() {
                return Poll::Ready(());
            }
            match wire.poll_fill() {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
