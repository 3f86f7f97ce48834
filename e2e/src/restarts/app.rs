//! An instance's app: a small HTTP/1.1 server on a thread of its own, that passes each request on and remembers what it has
//! served. It ends as a process does that is told to: at once, with all its sockets, or after what it has begun. Hot.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

use super::chain::{self, SERVICES, WARM_UP};
use super::served::Served;
use super::wire::{Broken, Message, Wire};
use crate::kit::free_port;
use crate::{Because, Failure, Outcome};

/// Idle connections to the next service.
const IDLE_MAX: usize = 256;
/// For what is under way when it ends gracefully.
const ENDING_MAX: Duration = Duration::from_secs(20);

/// How an app ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    AtOnce,
    Gracefully,
}

/// Where the next service is called: at any of these.
pub(super) type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// What all apps have in common.
#[derive(Clone, Default)]
pub(super) struct Common {
    pub(super) served: Arc<Mutex<Served>>,
    /// How long an app works on a request before it calls the next one, in the mean.
    pub(super) work_ms: u64,
}

/// A running app. Dropped, it ends at once.
pub(super) struct App {
    pub(super) address: SocketAddr,
    teller: Option<oneshot::Sender<How>>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    name: String,
    service: usize,
    /// As it is known to `served`.
    number: u16,
    common: Common,
    next: Addresses,
    turn: Cell<usize>,
    idle: RefCell<Vec<(SocketAddr, Wire)>>,
}

impl App {
    /// Starts the app of an instance.
    pub(super) fn start(service: usize, name: &str, next: Addresses, common: &Common) -> Outcome<App> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", free_port())).because(|| format!("{name} listens"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let number = common.served.lock().expect("no holder panics").join(name);
        let (name, common) = (name.to_owned(), common.clone());
        let (teller, told) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let (turn, idle) = Default::default();
            let inner = Rc::new(Inner { name, service, number, common, next, turn, idle });
            // Everything that listens or is connected goes with the set.
            LocalSet::new().block_on(&runtime, live(listener, inner, told));
        });
        Ok(App { address, teller: Some(teller), thread: Some(thread) })
    }

    /// Tells it to end, without waiting.
    pub(super) fn tell(&mut self, how: How) {
        // Told twice is told.
        let _ = self.teller.take().map(|teller| teller.send(how));
    }

    /// Waits for the end of one that was told.
    pub(super) fn wait(mut self) -> Outcome<()> {
        let thread = self.thread.take().ok_or(Failure::new("an app has one thread"))?;
        thread.join().map_err(|_| Failure::new("an app panicked"))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.tell(How::AtOnce);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn live(listener: std::net::TcpListener, inner: Rc<Inner>, mut told: oneshot::Receiver<How>) {
    let listener = TcpListener::from_std(listener).expect("it does not block");
    let (going, is_going) = watch::channel(false);
    let mut connections = JoinSet::new();
    let how = loop {
        tokio::select! {
            biased;
            how = &mut told => break how.unwrap_or(How::AtOnce),
            accepted = listener.accept() => {
                if let Some(wire) = accepted.ok().and_then(|(stream, _)| Wire::of(stream).ok()) {
                    connections.spawn_local(serve(wire, inner.clone(), is_going.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    };
    if how == How::Gracefully {
        drop(listener);
        let _ = going.send(true);
        let _ = tokio::time::timeout(ENDING_MAX, async { while connections.join_next().await.is_some() {} }).await;
    }
}

/// The life of a connection.
async fn serve(mut wire: Wire, inner: Rc<Inner>, mut is_going: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            begins = wire.begins() => if !begins { return },
            _ = is_going.wait_for(|is_going| *is_going) => return,
        }
        let Ok(request) = wire.read().await else { return };
        let (status, text) = answer(&inner, &request).await;
        let close = request.close || *is_going.borrow();
        let connection = if close { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{connection}\r\n{text}", text.len());
        if wire.send(answer.as_bytes()).await.is_err() || close {
            return;
        }
    }
}

async fn answer(inner: &Inner, request: &Message) -> (&'static str, String) {
    let path = request.word(1);
    let number = chain::number(path);
    if number.is_none() && path != WARM_UP {
        // Whoever looks whether it is there.
        return ("200 OK", inner.name.clone());
    }
    if !chain::is_own_body(number, &request.body) {
        let text = format!("{}: {} bytes that are no body of {path}", inner.name, request.body.len());
        return ("400 Bad Request", text);
    }
    if let Some(number) = number {
        inner.common.served.lock().expect("no holder panics").note(inner.service, number, inner.number);
        let work = chain::work(number, inner.common.work_ms);
        if !work.is_zero() {
            tokio::time::sleep(work).await;
        }
    }
    let Some(host) = SERVICES.get(inner.service + 1) else {
        let word = number.map_or("-".into(), |number| number.to_string());
        return ("200 OK", chain::passed(&inner.name, &word));
    };
    let failed = |what: String| ("502 Bad Gateway", format!("{}: calling {host}: {what}", inner.name));
    match inner.call(host, request).await {
        Ok(answer) if answer.status() == 200 => {
            ("200 OK", chain::passed(&inner.name, &String::from_utf8_lossy(&answer.body)))
        }
        Ok(answer) => failed(format!("{} {}", answer.status(), String::from_utf8_lossy(&answer.body))),
        Err((doing, broken)) => failed(format!("{doing}: {broken}")),
    }
}

impl Inner {
    /// Sends a request on, on a kept connection where there is one. An error says what was being done.
    async fn call(&self, host: &str, request: &Message) -> Result<Message, (&'static str, Broken)> {
        let address = self.address().ok_or(("choosing", Broken::Garbled("nobody is known")))?;
        let mut wire = match self.kept(address) {
            Some(wire) => wire,
            None => Wire::connect(address).await.map_err(|broken| ("connecting", broken))?,
        };
        let (method, path) = (request.word(0), request.word(1));
        let trace = request.field("traceparent").map_or(String::new(), |trace| format!("traceparent: {trace}\r\n"));
        let length = request.body.len();
        let framing = if length > 0 { format!("Content-Length: {length}\r\n") } else { String::new() };
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{trace}{framing}\r\n").into_bytes();
        bytes.extend_from_slice(&request.body);
        wire.send(&bytes).await.map_err(|broken| ("sending", broken))?;
        let answer = wire.read().await.map_err(|broken| ("reading", broken))?;
        let mut idle = self.idle.borrow_mut();
        if !answer.close && idle.len() < IDLE_MAX {
            idle.push((address, wire));
        }
        Ok(answer)
    }

    /// One address after the other.
    fn address(&self) -> Option<SocketAddr> {
        let addresses = self.next.lock().expect("no holder panics");
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        addresses.get(turn % addresses.len().max(1)).copied()
    }

    /// An idle connection that is of use; all others to that address are forgotten.
    fn kept(&self, address: SocketAddr) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        while let Some(place) = idle.iter().rposition(|(known, _)| *known == address) {
            let (_, wire) = idle.remove(place);
            if !wire.is_over() {
                return Some(wire);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{Backend, Ended, Peer};

    const PATH: &str = "/7 HTTP/1.1\r\nHost: front\r\ntraceparent: 00-a\r\nx-lane: blue\r\nContent-Length: 0\r\n\r\n";

    fn start(service: usize, name: &str, next: &[SocketAddr], common: &Common) -> App {
        App::start(service, name, Arc::new(Mutex::new(next.to_vec())), common).unwrap()
    }

    fn ask(peer: &mut Peer, request: &[u8]) -> (u16, String) {
        peer.send(request);
        peer.read().map(|answer| (answer.status(), answer.text())).unwrap()
    }

    #[test]
    fn a_request_passes_the_chain_and_is_remembered_by_each() {
        let common = Common::default();
        let back = start(2, "back-1", &[], &common);
        let middle = start(1, "middle-1", &[back.address], &common);
        let front = start(0, "front-1", &[middle.address], &common);
        let mut peer = Peer::connect(front.address);
        for number in 0..4 {
            let answer = ask(&mut peer, &chain::request(number, number % 2 == 1));
            assert_eq!(answer, (200, format!("front-1 middle-1 back-1 {number}")));
        }
        assert_eq!(common.served.lock().unwrap().count(), 0);
        // Another of the same service; the next ones see it a second time, too.
        let other = start(0, "front-2", &[middle.address], &common);
        assert_eq!(ask(&mut Peer::connect(other.address), &chain::request(3, true)).0, 200);
        let duplicates: Vec<String> =
            common.served.lock().unwrap().duplicates().iter().map(|one| one.second.clone()).collect();
        assert_eq!(duplicates, ["front-2", "middle-1", "back-1"]);
        // Neither is a request of the load.
        assert_eq!(ask(&mut peer, b"GET /ready HTTP/1.1\r\n\r\n"), (200, "front-1".into()));
        assert_eq!(ask(&mut peer, b"GET /warm-up HTTP/1.1\r\n\r\n"), (200, "front-1 middle-1 back-1 -".into()));
        assert_eq!(common.served.lock().unwrap().count(), 3);
    }

    #[test]
    fn only_the_trace_is_sent_on_and_what_goes_wrong_is_told() {
        let common = Common::default();
        let backend = Backend::canned("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno");
        let app = start(0, "front-1", &[backend.address()], &common);
        let mut peer = Peer::connect(app.address);
        let answer = ask(&mut peer, format!("GET {PATH}").as_bytes());
        assert_eq!(answer, (502, "front-1: calling middle: 503 no".into()));
        let seen = backend.only_request();
        assert_eq!(seen.start, "GET /7 HTTP/1.1");
        let fields: Vec<&str> = seen.fields.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(
            (fields, seen.get("host"), seen.get("traceparent")),
            (vec!["Host", "traceparent"], Some("middle"), Some("00-a"))
        );
        drop(backend);
        let answer = ask(&mut peer, &chain::request(8, false));
        assert_eq!(answer.0, 502);
        assert_eq!(ask(&mut peer, b"POST /9 HTTP/1.1\r\nContent-Length: 2\r\n\r\n9 ").0, 400);
    }

    #[test]
    fn an_app_ends_at_once_or_after_what_it_has_begun() {
        for (how, expected) in [(How::AtOnce, Err(Ended::Closed)), (How::Gracefully, Ok(200))] {
            let common = Common::default();
            let (next, tell) = Backend::patient();
            let mut app = start(1, "middle-1", &[next.address()], &common);
            let (mut busy, mut idle) = (Peer::connect(app.address), Peer::connect(app.address));
            assert_eq!(ask(&mut idle, b"GET /ready HTTP/1.1\r\n\r\n").0, 200);
            busy.send(chain::request(1, true));
            next.only_request();
            app.tell(how);
            assert_eq!(idle.read(), Err(Ended::Closed), "{how:?}");
            assert!(Peer::try_connect(app.address).is_err(), "{how:?}");
            // Nobody is there to be told, where it has ended.
            let _ = tell.send(());
            let answer = busy.read();
            assert_eq!(answer.as_ref().map(|answer| answer.status()).map_err(|ended| *ended), expected, "{how:?}");
            assert_eq!(answer.is_ok_and(|answer| answer.get("connection") == Some("close")), how == How::Gracefully);
            app.wait().unwrap();
        }
    }
}
