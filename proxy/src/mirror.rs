//! Copies of requests for other services (RequestMirror). A copy is made of what is written to the request's own endpoint,
//! once all of it is there, and goes its way in a task of its own: the request never waits for it and never fails because
//! of it. No rule counts a copy, and none is sent twice. Which requests are copied is decided here. Hot where a rule has
//! mirrors, else not run at all.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use filters::Head;

use crate::attempt::{ANSWER_LIMITS, give_back};
use crate::attempts::group;
use crate::balance::{self, below};
use crate::buffer::LentHead;
use crate::connect::connect_alone;
use crate::driver::Driver;
use crate::exchange::{KEPT_BYTES_MAX, Pump};
use crate::first_use;
use crate::h1::{self, BodyDecoder, Framing, Method, RequestMeta, ResponseMeta};
use crate::lanes::LaneView;
use crate::pool::Link;
use crate::request::Met;
use crate::slots::Slot;
use crate::view::Wanted;
use crate::wire::Wire;
use crate::worker::Worker;

/// Copies under way on one worker, those that wait for the end of a body among them.
const IN_FLIGHT_MAX: usize = 1_024;
/// For a connection, the copy and the answer together.
const COPY_TIME_MAX: Duration = Duration::from_secs(10);
/// An answer whose body is longer costs its connection.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Tells services that nobody gets their answer.
pub(crate) const MARK: &str = "x-evenkeel-mirror";

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was answered.
    Sent,
    /// Nothing of it was sent: too large, too many, or never whole.
    Dropped,
    /// No endpoint, no connection, or no answer in time.
    Failed,
}

/// The copies of one request, of which the end is still to come.
pub(crate) struct Copies {
    copies: Vec<Copy>,
    /// The request came with the mark: a copy of a copy needs no other.
    is_marked: bool,
}

/// A copy for one cluster; counted when it is dropped.
struct Copy {
    worker: Rc<Worker>,
    cluster: Arc<str>,
    method: Method,
    lane: Option<Rc<LaneView>>,
    /// What consistent hashing goes by.
    hash: Option<u64>,
    outcome: Outcome,
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.worker.mirroring.set(self.worker.mirroring.get() - 1);
        count(&self.worker, &self.cluster, self.outcome);
    }
}

fn count(worker: &Worker, cluster: &Arc<str>, outcome: Outcome) {
    worker.stats().mirrored(cluster, outcome.word());
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Sent => "sent",
            Outcome::Dropped => "dropped",
            Outcome::Failed => "failed",
        }
    }
}

/// Lets a request be copied as its rule says: at once if all of it is there, else when its body has been sent.
pub(crate) fn copy(
    worker: &Rc<Worker>,
    met: &Met,
    head: &Head,
    meta: &RequestMeta,
    client: IpAddr,
    lane: Option<&Rc<LaneView>>,
    mut request: Pump,
) -> Pump {
    let view = worker.view();
    let mut copies = Vec::new();
    for mirror in met.mirrors() {
        if below(mirror.denominator.into(), worker.dice()) >= mirror.numerator.into() {
            continue;
        }
        let cluster = view.cluster(&mirror.cluster);
        // A copy waits for nothing.
        let is_known = cluster.as_ref().is_none_or(|cluster| first_use::are_known(worker, cluster));
        if !is_known || worker.mirroring.get() >= IN_FLIGHT_MAX.min(worker.mirror_room()) {
            count(worker, &mirror.cluster, Outcome::Dropped);
            continue;
        }
        worker.mirroring.set(worker.mirroring.get() + 1);
        copies.push(Copy {
            worker: worker.clone(),
            cluster: mirror.cluster.clone(),
            method: meta.method,
            lane: lane.cloned(),
            hash: cluster.and_then(|cluster| balance::hash(&cluster.cluster.settings.hash_on, head, client)),
            outcome: Outcome::Dropped,
        });
    }
    if copies.is_empty() {
        return request;
    }
    let copies = Copies { copies, is_marked: head.get(MARK).is_some() };
    match meta.framing {
        Framing::None => {
            copies.send(request.out());
            request
        }
        Framing::Length(length) if length > KEPT_BYTES_MAX as u64 => request,
        _ => request.keep_for(copies),
    }
}

impl Copies {
    /// Sends the whole message.
    pub(crate) fn send(self, message: &[u8]) {
        for copy in self.copies {
            if message.len() <= KEPT_BYTES_MAX {
                let message = if self.is_marked { message.to_vec() } else { marked(message) };
                let driver = copy.worker.driver.clone();
                driver.spawn(deliver(copy, message));
            }
        }
    }
}

/// The message with the mark as its first field.
fn marked(message: &[u8]) -> Vec<u8> {
    let start = memchr::memmem::find(message, b"\r\n").map_or(0, |end| end + 2);
    let mut marked = Vec::with_capacity(message.len() + MARK.len() + 5);
    for part in [&message[..start], MARK.as_bytes(), b": 1\r\n", &message[start..]] {
        marked.extend_from_slice(part);
    }
    marked
}

async fn deliver(mut copy: Copy, message: Vec<u8>) {
    copy.outcome = attempt(&copy, &message).await;
}

/// Brings a copy to an endpoint of its lane, and reads what that answers.
async fn attempt(copy: &Copy, message: &[u8]) -> Outcome {
    let (worker, driver) = (&copy.worker, &copy.worker.driver);
    let (now, zone) = (driver.now(), worker.shared.zone.as_deref());
    let deadline = now + COPY_TIME_MAX;
    let Some(cluster) = worker.view().cluster(&copy.cluster) else { return Outcome::Failed };
    let Ok((group, _)) = group(&cluster, copy.lane.as_deref(), now, zone) else { return Outcome::Failed };
    let picked = cluster.pick(&Wanted { group, now, hash: copy.hash, tried: &[], zone }, || worker.dice());
    let Some(endpoint) = picked.cloned() else { return Outcome::Failed };
    let _in_flight = endpoint.load.begin();
    let settings = &cluster.cluster.settings;
    let Link { socket, slot } = match endpoint.pool.take(now) {
        Some(link) => link,
        None => {
            let slot = match settings.bounds.connections_max {
                None => None,
                // Requests that wait come first.
                Some(max) if cluster.state.connections.waiting() == 0 && cluster.state.connections.try_take(max) => {
                    Some(Slot::new(cluster.state.clone(), worker.shared.clone()))
                }
                Some(_) => return Outcome::Dropped,
            };
            let connected = connect_alone(driver, endpoint.address, deadline.min(now + settings.connect_timeout)).await;
            match connected {
                Ok(socket) if !endpoint.removed.get() => {
                    worker.stats().upstream_connections_opened.add(1);
                    Link { socket, slot }
                }
                _ => return Outcome::Failed,
            }
        }
    };
    let mut wire = Wire::new(socket);
    driver.set_deadline(deadline);
    let Some(answer) = exchange(driver, &mut wire, message, copy.method).await else { return Outcome::Failed };
    if drop_body(driver, &mut wire, answer.framing).await && answer.keep_alive && wire.is_quiet() {
        let link = Link { socket: wire.socket, slot };
        give_back(worker, &cluster, &endpoint, link, answer.keep_alive_timeout_s);
    }
    Outcome::Sent
}

/// Writes the message and reads the head of the answer. None: there is none.
async fn exchange(driver: &Driver, wire: &mut Wire, message: &[u8], method: Method) -> Option<ResponseMeta> {
    let (mut sent, mut scanned, mut answer) = (0, 0, LentHead::lend());
    std::future::poll_fn(|_| {
        if driver.deadline_passed() {
            return Poll::Ready(None);
        }
        while sent < message.len() {
            match wire.socket.poll_writable() {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
            match wire.socket.try_write(&[IoSlice::new(&message[sent..])], false) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(None),
            }
        }
        loop {
            if !wire.input().is_empty() {
                match h1::parse_response(wire.input(), &mut scanned, ANSWER_LIMITS, &mut answer) {
                    Err(_) => return Poll::Ready(None),
                    Ok(None) if wire.is_full() => wire.grow(ANSWER_LIMITS.bytes_max),
                    Ok(None) => {}
                    Ok(Some(bytes)) => {
                        wire.consume(bytes);
                        let meta = h1::check_response(&mut answer, method);
                        match meta {
                            // An interim answer; the deadline bounds how many.
                            Ok(_) if answer.status < 200 => {
                                scanned = 0;
                                answer.clear();
                                continue;
                            }
                            meta => return Poll::Ready(meta.ok()),
                        }
                    }
                }
            }
            match wire.poll_fill() {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Reads a body to its end, and tells whether that was reached.
async fn drop_body(driver: &Driver, wire: &mut Wire, framing: Framing) -> bool {
    let (mut decoder, mut left) = (BodyDecoder::new(framing), ANSWER_BYTES_MAX);
    std::future::poll_fn(|_| {
        loop {
            while !decoder.is_done() {
                let Ok(step) = decoder.step(wire.input()) else { return Poll::Ready(false) };
                let count = step.skip + step.data;
                if count == 0 {
                    break;
                }
                wire.consume(count);
                left = left.saturating_sub(count);
            }
            if decoder.is_done() || left == 0 || driver.deadline_passed() {
                return Poll::Ready(decoder.is_done());
            }
            match wire.poll_fill() {
                Poll::Ready(Ok(count)) if count > 0 => {}
                // However it ended, the connection has no use any more.
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_the_first_field() {
        let check = |message: &str, expected: &str| {
            assert_eq!(String::from_utf8_lossy(&marked(message.as_bytes())), expected);
        };
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nx-evenkeel-mirror: 1\r\nHost: a\r\n\r\n");
        check("PUT / HTTP/1.1\r\n\r\n\r\n", "PUT / HTTP/1.1\r\nx-evenkeel-mirror: 1\r\n\r\n\r\n");
    }
}
