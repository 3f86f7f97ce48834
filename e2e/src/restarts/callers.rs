//! Everybody who asks, on one thread: clients of the gateway in an open loop, those of them that ask once in seven seconds,
//! and the caller outside the mesh, whose choice is `outside`'s business. None asks twice. Hot.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep_until, timeout_at};

use super::chain::{self, TIME_MAX, Why};
use super::outside::outside;
use super::served::NUMBERS_MAX;
use super::tally::{Caller, Failed, Tally};
use super::wire::{Broken, Wire};
use crate::load::{Arrival, Dice, Due};
use crate::{Failure, Outcome};

/// Clients that take requests in turn, and those that ask rarely: a tenth of all.
const CLIENTS: usize = 90;
const RARE: usize = 10;
const RARE_EACH: Duration = Duration::from_secs(7);
/// Of all requests, those with a body.
const POST_PART: f64 = 0.3;
/// Requests that are due and wait for a client; more wait to become due, and are no less late.
pub(super) const WAITING_MAX: usize = 1_000;
/// The caller outside asks so often for each request of the clients.
const OUTSIDE_PART: f64 = 0.05;
/// A rare client looks so often whether all is over.
const LOOK_EACH: Duration = Duration::from_millis(500);
/// The least rest of the loop that hands out what is due.
const TICK: Duration = Duration::from_millis(1);

/// An instance of the first service, as it is known outside the mesh.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) name: String,
    pub(super) serves: SocketAddr,
    /// Where `/ready` is asked.
    pub(super) probe: SocketAddr,
}

/// What the callers and whoever restarts have in common.
pub(super) struct Load {
    begun: Instant,
    next: AtomicU64,
    is_over: AtomicBool,
    tally: Mutex<Tally>,
    restart: Mutex<String>,
    doors: Mutex<Vec<Door>>,
}

/// Callers at work.
pub(super) struct Callers {
    load: Arc<Load>,
    thread: JoinHandle<Outcome<()>>,
}

impl Load {
    pub(super) fn new() -> Load {
        Load {
            begun: Instant::now(),
            next: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            tally: Mutex::default(),
            restart: Mutex::new("before the first restart".into()),
            doors: Mutex::default(),
        }
    }

    /// Says what is being done.
    pub(super) fn note(&self, restart: &str) {
        restart.clone_into(&mut self.restart.lock().expect("no holder panics"));
    }

    /// Changes who is known outside the mesh.
    pub(super) fn change_doors(&self, change: impl FnOnce(&mut Vec<Door>)) {
        change(&mut self.doors.lock().expect("no holder panics"));
    }

    /// Who is known outside the mesh.
    pub(super) fn doors(&self) -> Vec<Door> {
        self.doors.lock().expect("no holder panics").clone()
    }

    /// The number of the next request.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Requests that have ended, and those of them that failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.tally.lock().expect("no holder panics").counts()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Relaxed) || self.next.load(Relaxed) >= NUMBERS_MAX
    }
}

impl Callers {
    /// Begins to ask the gateway, so many times a second.
    pub(super) fn start(load: Arc<Load>, gateway: SocketAddr, per_second: f64) -> Outcome<Callers> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of_thread = load.clone();
        let thread =
            std::thread::spawn(move || LocalSet::new().block_on(&runtime, everybody(of_thread, gateway, per_second)));
        Ok(Callers { load, thread })
    }

    /// Whether they still ask: an end before `end` is the bound on numbers, or a fault.
    pub(super) fn are_at_work(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Asks no more, waits for what is under way, and tells what has become of everything.
    pub(super) fn end(self) -> Outcome<Tally> {
        self.load.is_over.store(true, Relaxed);
        self.thread.join().map_err(|_| Failure::new("the callers panicked"))??;
        Ok(std::mem::take(&mut *self.load.tally.lock().expect("no holder panics")))
    }
}

async fn everybody(load: Arc<Load>, gateway: SocketAddr, per_second: f64) -> Outcome<()> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let receiver = Rc::new(tokio::sync::Mutex::new(receiver));
    let mut all = JoinSet::new();
    for number in 0..CLIENTS as u64 {
        all.spawn_local(in_turn(Client::new(&load, Caller::Client, "the gateway", gateway, number), receiver.clone()));
    }
    for number in 0..RARE as u32 {
        let client = Client::new(&load, Caller::Rare, "the gateway", gateway, 1_000 + u64::from(number));
        all.spawn_local(rarely(client, RARE_EACH * number / RARE as u32));
    }
    all.spawn_local(outside(load.clone(), per_second * OUTSIDE_PART));
    hand_out(&load, per_second, 7, &sender).await;
    drop(sender);
    while let Some(ended) = all.join_next().await {
        ended?;
    }
    Ok(())
}

/// Hands out what is due, and when that was.
pub(super) async fn hand_out(load: &Load, per_second: f64, seed: u64, sender: &mpsc::Sender<Instant>) {
    let (mut due, mut dice) = (Due::new(Arrival::Poisson { per_second }, u64::MAX), Dice::new(seed));
    let begun = Instant::now();
    while !load.is_over() {
        let now_ns = begun.elapsed().as_nanos() as u64;
        while let Some(due_ns) = due.take(now_ns, 0, &mut dice) {
            if sender.send(begun + Duration::from_nanos(due_ns)).await.is_err() {
                return;
            }
        }
        let slept = Instant::now();
        tokio::time::sleep(TICK).await;
        load.tally.lock().expect("no holder panics").overslept(slept.elapsed().saturating_sub(TICK));
    }
}

/// A client like the others: whoever has waited longest takes the next request.
async fn in_turn(mut client: Client, receiver: Rc<tokio::sync::Mutex<mpsc::Receiver<Instant>>>) {
    loop {
        let Some(due) = receiver.lock().await.recv().await else { return };
        client.ask(due).await;
    }
}

/// A client that asks rarely.
async fn rarely(mut client: Client, first: Duration) {
    let mut due = Instant::now() + first;
    loop {
        while Instant::now() < due {
            if client.load.is_over() {
                return;
            }
            sleep_until(due.min(Instant::now() + LOOK_EACH).into()).await;
        }
        client.ask(due).await;
        due += RARE_EACH;
    }
}

pub(super) fn note_failed(load: &Load, number: u64, caller: Caller, target: &str, why: Why) {
    let restart = load.restart.lock().expect("no holder panics").clone();
    let failed = Failed { at: load.begun.elapsed(), number, caller, target: target.to_owned(), why, restart };
    load.tally.lock().expect("no holder panics").failed(failed);
}

/// One that asks, on a connection that it keeps.
pub(super) struct Client {
    load: Arc<Load>,
    caller: Caller,
    /// Of whom it asks.
    pub(super) name: String,
    target: SocketAddr,
    wire: Option<Wire>,
    dice: Dice,
}

impl Client {
    pub(super) fn new(load: &Arc<Load>, caller: Caller, name: &str, target: SocketAddr, seed: u64) -> Client {
        // Seeds that are near each other give first numbers that are.
        let dice = Dice::new((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Client { load: load.clone(), caller, name: name.to_owned(), target, wire: None, dice }
    }

    /// Sends a request that was due then, and notes what comes of it.
    pub(super) async fn ask(&mut self, due: Instant) {
        let number = self.load.number();
        let request = chain::request(number, self.dice.unit() < POST_PART);
        let wire = self.wire.take().filter(|wire| !wire.is_over() || self.note_closed());
        let ended = timeout_at((due + TIME_MAX).into(), self.exchange(wire, &request, number)).await;
        match ended.unwrap_or(Err(Why::Late)) {
            Ok(()) => self.load.tally.lock().expect("no holder panics").answered(self.caller, due.elapsed()),
            Err(why) => note_failed(&self.load, number, self.caller, &self.name, why),
        }
    }

    /// Of no use any more.
    fn note_closed(&self) -> bool {
        self.load.tally.lock().expect("no holder panics").closed_idle += 1;
        false
    }

    async fn exchange(&mut self, wire: Option<Wire>, request: &[u8], number: u64) -> Result<(), Why> {
        let broken = |doing| move |broken: Broken| Why::Broken(doing, broken.to_string());
        let mut wire = match wire {
            Some(wire) => wire,
            None => Wire::connect(self.target).await.map_err(broken("connecting"))?,
        };
        wire.send(request).await.map_err(broken("sending"))?;
        let answer = wire.read().await.map_err(broken("reading an answer"))?;
        self.wire = (!answer.close).then_some(wire);
        chain::judge(Some(number), answer.status(), &answer.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{Backend, PATIENCE};

    /// Asks a few times; what has become of it, by reason.
    fn check(backend: &Backend, expected: &str) {
        let load = Arc::new(Load::new());
        let door = Door { name: "front-1".into(), serves: backend.address(), probe: backend.address() };
        load.change_doors(|doors| doors.push(door));
        let callers = Callers::start(load.clone(), backend.address(), 2_000.0).unwrap();
        let begun = Instant::now();
        while load.counts().0 < 200 && begun.elapsed() < PATIENCE {
            std::thread::sleep(TICK);
        }
        let tally = callers.end().unwrap();
        let (all, failed) = tally.counts();
        assert!(all >= 200 && (failed == 0 || failed == all), "{failed} of {all} failed");
        assert_eq!(failed == 0, expected == "good", "{expected}");
    }

    #[test]
    fn answers_are_good_by_what_they_say_of_their_request() {
        let echo = |prefix: &'static str, rest: &'static str| {
            Backend::start(move |served| {
                while let Some(request) = served.request() {
                    let number = request.start.split('/').nth(1).and_then(|rest| rest.split(' ').next());
                    let body = format!("{prefix}{}", number.unwrap_or_default());
                    let head = format!("HTTP/1.1 200 OK\r\n{rest}Content-Length: {}\r\n\r\n", body.len());
                    if !served.peer.send(head + &body) || !rest.is_empty() {
                        return;
                    }
                }
            })
        };
        check(&echo("front-1 middle-1 back-1 ", ""), "good");
        check(&echo("front-1 middle-1 back-1 ", "Connection: close\r\n"), "good");
        check(&echo("front-1 middle-1 back-1 1", ""), "of another request");
        check(&Backend::canned("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "503, and nobody is ready");
        check(&Backend::start(|served| drop(served.request())), "no answer");
    }
}
