//! One worker: a thread with its own loop, listening sockets, view, pools, dice and counters. It shares with
//! the others only what `shared` holds. Hot.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use config::Snapshot;
use filters::Head;
use filters::lane::leak::{Stray, Why};
use filters::rules::Waiter;
use tokio::sync::mpsc::UnboundedSender;

use crate::check::{self, Checks};
use crate::connection;
use crate::cut::{self, CutRequests};
use crate::driver::{Driver, Socket, TaskId};
use crate::explain;
use crate::guards::Guards;
use crate::listen;
use crate::log::http_date;
use crate::shared::{Mail, Opened, Shared};
use crate::stats::WorkerStats;
use crate::view::{ClusterView, Making, View};

/// How often idle connections are looked through when nothing is heard of them.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker that finishes, or an address that was removed, still takes connections and leaves idle ones open:
/// a client that is about to send is told `Connection: close` with the answer, instead of losing its request. The
/// kernel holds connections back until they speak, and repeats its own part of the handshake after as long.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Where nobody has connected for so long, nobody is waited for.
const QUIET: Duration = Duration::from_secs(10);

/// An address this worker serves.
pub(crate) struct BindView {
    pub(crate) address: SocketAddr,
    /// The port that is listened on.
    pub(crate) port: u16,
    /// Where requests to an instance come in: its Service, `namespace/name`.
    pub(crate) instance_of: Option<Arc<str>>,
    /// Its place in the current snapshot; None once it is gone.
    pub(crate) index: Cell<Option<usize>>,
    pub(crate) open: Arc<AtomicU32>,
    /// Those of them that a policy in shadow would have refused.
    pub(crate) refused: Arc<AtomicU32>,
    listener: Cell<TaskId>,
    /// Once it is gone: until when it is served.
    leaves_at: Cell<Duration>,
    /// And the last view that had it, with its place there.
    last: RefCell<Option<(Rc<View>, usize)>>,
}

/// One worker's state, shared by its tasks.
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) driver: Rc<Driver>,
    pub(crate) shared: Arc<Shared>,
    view: RefCell<Rc<View>>,
    binds: RefCell<HashMap<SocketAddr, Rc<BindView>>>,
    /// Whether the current view has lanes, or one that still serves a removed address.
    has_lanes: Cell<bool>,
    /// Those that are gone and still served.
    leaving: RefCell<Vec<Rc<BindView>>>,
    /// Tasks of downstream connections, to be woken when the worker shall finish.
    connections: RefCell<HashSet<TaskId>>,
    /// Tasks that wait for control's word, to be woken with each revision, and when something is not there.
    pub(crate) awaiting: RefCell<HashSet<TaskId>>,
    finishing: Cell<bool>,
    /// From when on idle connections are closed, once the worker finishes.
    idle_until: Cell<Duration>,
    /// From when on no connection is taken, once the worker finishes.
    accept_until: Cell<Duration>,
    pub(crate) checks: Checks,
    /// How often what was under way on the instance has been cut; and what was this time.
    pub(crate) cuts: Cell<u32>,
    pub(crate) cut: RefCell<CutRequests>,
    /// Copies of requests under way.
    pub(crate) mirroring: Cell<usize>,
    /// The task that hears of idle upstream connections.
    keeper: Cell<TaskId>,
    dice: Cell<u64>,
    /// The text of `Date`, and until when it is right.
    date: RefCell<(Duration, String)>,
}

/// Runs a worker on this thread until it was told to finish and has.
pub(crate) fn run(id: usize, shared: Arc<Shared>, seed: u64) -> io::Result<()> {
    let worker = Rc::new(Worker {
        id,
        driver: Driver::new(shared.origin)?,
        view: RefCell::new(Rc::new(View::empty())),
        binds: RefCell::default(),
        has_lanes: Cell::new(false),
        leaving: RefCell::default(),
        connections: RefCell::default(),
        awaiting: RefCell::default(),
        finishing: Cell::new(false),
        idle_until: Cell::new(Duration::MAX),
        accept_until: Cell::new(Duration::MAX),
        checks: Checks::default(),
        cuts: Cell::new(0),
        cut: RefCell::default(),
        mirroring: Cell::new(0),
        keeper: Cell::new(0),
        dice: Cell::new(seed | 1),
        date: RefCell::default(),
        shared,
    });
    worker.driver.spawn(read_mail(worker.clone()));
    worker.keeper.set(worker.driver.spawn(keep_pools(worker.clone())));
    let result = worker.driver.run();
    worker.driver.clear();
    result
}

impl Worker {
    /// The current revision.
    pub(crate) fn view(&self) -> Rc<View> {
        self.view.borrow().clone()
    }

    pub(crate) fn stats(&self) -> &WorkerStats {
        &self.shared.stats[self.id]
    }

    /// Whether requests may have lanes.
    pub(crate) fn has_lanes(&self) -> bool {
        self.has_lanes.get()
    }

    /// Whether connections shall end after the request they are at.
    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing.get()
    }

    fn idle_until(&self, bind: &BindView) -> Duration {
        match bind.index.get() {
            Some(_) => self.idle_until.get(),
            None => bind.leaves_at.get().min(self.idle_until.get()),
        }
    }

    /// Until when connections are taken on `bind`: forever, unless the worker is finishing or the address was removed.
    pub(crate) fn accept_until(&self, bind: &BindView) -> Duration {
        match bind.index.get() {
            Some(_) => self.accept_until.get(),
            None => bind.leaves_at.get().min(self.accept_until.get()),
        }
    }

    /// The view that serves `bind` and its place there: the current one, or for a moment after the address was removed
    /// the last that had it.
    pub(crate) fn place(&self, bind: &BindView) -> Option<(Rc<View>, usize)> {
        match bind.index.get() {
            Some(index) => Some((self.view(), index)),
            None => bind.last.borrow().clone(),
        }
    }

    /// Lets a request of any worker go on, for which a rule has made room.
    pub(crate) fn grant(&self, waiter: Waiter) {
        match waiter.worker as usize {
            id if id == self.id => self.driver.wake(waiter.task as TaskId),
            id => self.shared.mailboxes[id].send(Mail::Wake(waiter.task as TaskId)),
        }
    }

    /// The task that hears of idle upstream connections.
    pub(crate) fn keeper(&self) -> TaskId {
        self.keeper.get()
    }

    /// Adds a call that names nobody to those of the instance, if it may be of a request in a lane.
    #[cold]
    pub(crate) fn tell_stray(&self, cluster: &ClusterView, head: &Head, callee: u16, why: Why) {
        let is_idle = || self.shared.stats.iter().all(|stats| stats.inbound_in_flight.get() == 0);
        if let Some(is_doubtful) = self.shared.strays.wants(callee, is_idle, self.driver.now().as_nanos() as u64) {
            let service = format!("{}/{}", cluster.cluster.namespace, cluster.cluster.service).into();
            self.shared.strays.add(Stray { callee, service, why, is_doubtful, example: cut::asked(head).into() });
        }
    }

    /// 64 uniform bits: xorshift64* (Vigna 2016), for shares and identifiers, not for secrets.
    pub(crate) fn dice(&self) -> u64 {
        let mut state = self.dice.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.dice.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Appends the date for answers, which is made once a second.
    pub(crate) fn write_date(&self, text: &mut Vec<u8>) {
        let mut date = self.date.borrow_mut();
        let now = self.driver.now();
        if date.0 <= now {
            let (written, left) = http_date();
            *date = (now + left, written);
        }
        text.extend_from_slice(date.1.as_bytes());
    }

    /// Starts serving a connection that nothing has been read from, and that every count already has.
    pub(crate) fn serve_connection(
        self: &Rc<Self>,
        bind: &Rc<BindView>,
        descriptor: OwnedFd,
        peer: SocketAddr,
        is_refused: bool,
    ) {
        let opened = self.driver.now();
        let guard =
            ConnectionGuard { worker: self.clone(), bind: bind.clone(), opened, is_refused, task: Cell::new(0) };
        self.stats().connections_opened.add(1);
        self.shared.connected_at_ms.store(self.driver.now().as_millis() as u64, Relaxed);
        self.stats().connections_open.set(self.shared.loads[self.id].load(Relaxed) as u64);
        let socket = Socket::new(&self.driver, descriptor);
        self.driver.spawn(connection::serve(guard, socket, peer));
    }

    /// Puts a revision in force: from here on no request, connection or retry goes to what it removed.
    fn apply(self: &Rc<Self>, revision: u64, snapshot: Arc<Snapshot>, guards: Arc<Guards>, opened: Vec<Opened>) {
        let making = Making {
            states: &self.shared.clusters,
            workers: self.shared.mailboxes.len(),
            now: self.driver.now(),
            first_turn: self.dice(),
            own: self.shared.own.get().map_or("", |own| own),
        };
        let view = Rc::new(View::new(snapshot.clone(), guards, &self.view.borrow(), &making));
        let has_lanes = !view.lanes.is_empty();
        self.stats().keep_shadow_lanes(|group| snapshot.shadow_lane_groups.iter().any(|known| *known.name == *group));
        let before = self.view.replace(view);
        // Addresses that this revision removes are served by the one before it for a moment.
        self.has_lanes.set(has_lanes || !before.lanes.is_empty());
        let of_bind = |address: &SocketAddr| {
            let bind = snapshot.binds.iter().find(|bind| bind.address == *address)?;
            bind.instance_of.clone()
        };
        for opened in opened {
            // An address that comes back takes over at once from what is left of it.
            for left in self.leaving.borrow().iter().filter(|left| left.address == opened.bind) {
                left.leaves_at.set(Duration::ZERO);
                self.driver.wake(left.listener.get());
            }
            let bind = Rc::new(BindView {
                address: opened.bind,
                port: opened.port,
                instance_of: of_bind(&opened.bind),
                index: Cell::new(None),
                open: opened.open,
                refused: opened.refused,
                listener: Cell::new(0),
                leaves_at: Cell::new(Duration::MAX),
                last: RefCell::default(),
            });
            self.binds.borrow_mut().insert(opened.bind, bind.clone());
            let socket = Socket::new_listening(&self.driver, opened.descriptor);
            bind.listener.set(self.driver.spawn(listen::accept_connections(self.clone(), bind.clone(), socket)));
        }
        let known = self.binds.borrow().len();
        self.binds.borrow_mut().retain(|address, bind| {
            let index = bind.index.replace(snapshot.binds.iter().position(|candidate| candidate.address == *address));
            if bind.index.get().is_none() {
                bind.last.replace(index.map(|index| (before.clone(), index)));
                bind.leaves_at.set(self.driver.now() + GRACE);
                self.leaving.borrow_mut().push(bind.clone());
                self.driver.wake(bind.listener.get());
            }
            bind.index.get().is_some()
        });
        if self.binds.borrow().len() < known {
            self.wake_connections();
        }
        self.wake_awaiting();
        check::renew(self);
        self.stats().revision.set(revision);
    }

    /// Idle connections to services that this worker's share of descriptors allows beside what its clients need.
    fn idle_room(&self) -> usize {
        let share = self.shared.connections_max / self.shared.loads.len();
        2 * share.saturating_sub(self.shared.loads[self.id].load(Relaxed))
    }

    /// The binds that listen on a port, all of them if none is named.
    pub(crate) fn binds_on(&self, port: Option<u16>) -> Vec<Rc<BindView>> {
        let binds = self.binds.borrow();
        let mut found: Vec<_> =
            binds.values().filter(|bind| port.is_none_or(|port| bind.port == port)).cloned().collect();
        found.sort_by_key(|bind| bind.address);
        found
    }

    /// Copies of requests that this worker's share of descriptors allows beside what its clients need.
    pub(crate) fn mirror_room(&self) -> usize {
        let share = self.shared.connections_max / self.shared.loads.len();
        2 * share.saturating_sub(self.shared.loads[self.id].load(Relaxed))
    }

    /// The bind of an address, also one that is gone and still served.
    fn bind(&self, address: &SocketAddr) -> Option<Rc<BindView>> {
        let current = self.binds.borrow().get(address).cloned();
        current.or_else(|| self.leaving.borrow().iter().find(|bind| bind.address == *address).cloned())
    }

    /// Called by the listener of an address that is gone when nothing more can come of it.
    pub(crate) fn forget(&self, bind: &Rc<BindView>) {
        self.leaving.borrow_mut().retain(|left| !Rc::ptr_eq(left, bind));
        bind.last.take();
    }

    fn finish(&self) {
        let now = self.driver.now();
        self.finishing.set(true);
        self.idle_until.set(now + GRACE);
        let connected_at = Duration::from_millis(self.shared.connected_at_ms.load(Relaxed));
        let is_quiet = connected_at > now || now - connected_at > QUIET;
        self.accept_until.set(if is_quiet { now } else { now + GRACE });
        for bind in self.binds.borrow().values() {
            self.driver.wake(bind.listener.get());
        }
        self.wake_connections();
    }

    /// Cuts what is under way on the instance, and tells what that was.
    fn cut(self: &Rc<Self>, told: UnboundedSender<CutRequests>) {
        self.cuts.set(self.cuts.get() + 1);
        self.wake_connections();
        let worker = self.clone();
        // Those that were woken run before it.
        self.driver.spawn(async move {
            // Who does not wait for it does not need to know.
            let _ = told.send(worker.cut.take());
        });
    }

    fn wake_awaiting(&self) {
        self.awaiting.borrow().iter().for_each(|task| self.driver.wake(*task));
    }

    fn wake_connections(&self) {
        for task in self.connections.borrow().iter() {
            self.driver.wake(*task);
        }
    }
}

/// Counts a downstream connection for as long as it lives.
pub(crate) struct ConnectionGuard {
    pub(crate) worker: Rc<Worker>,
    pub(crate) bind: Rc<BindView>,
    opened: Duration,
    /// A policy in shadow would have refused it.
    is_refused: bool,
    task: Cell<TaskId>,
}

impl ConnectionGuard {
    /// Whether the connection shall end after the request it is at: the worker finishes, or the address was removed.
    pub(crate) fn is_ending(&self) -> bool {
        self.worker.is_finishing() || self.bind.index.get().is_none() || self.is_leaving()
    }

    /// Whether the instance to which requests go from here goes.
    pub(crate) fn is_leaving(&self) -> bool {
        self.bind.instance_of.is_some() && self.worker.shared.is_leaving.load(Relaxed)
    }

    /// Until when the connection may stay without a request, beyond its own idle time: forever, unless the worker is
    /// finishing or the address was removed. One that was just opened has its time, too.
    pub(crate) fn idle_until(&self) -> Duration {
        self.worker.idle_until(&self.bind).max(self.opened + GRACE)
    }

    /// Called by the connection's task when it first runs.
    pub(crate) fn enter(&self) {
        self.task.set(self.worker.driver.current());
        self.worker.connections.borrow_mut().insert(self.task.get());
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.task.get());
        self.bind.open.fetch_sub(1, Relaxed);
        if self.is_refused {
            self.bind.refused.fetch_sub(1, Relaxed);
        }
        self.worker.shared.connections.fetch_sub(1, Relaxed);
        let before = self.worker.shared.loads[self.worker.id].fetch_sub(1, Relaxed);
        self.worker.stats().connections_open.set(before as u64 - 1);
    }
}

async fn read_mail(worker: Rc<Worker>) {
    let bell = match worker.shared.mailboxes[worker.id].bell.try_clone() {
        Ok(bell) => Socket::new(&worker.driver, bell),
        Err(error) => {
            crate::log::event("error", &format!("worker {}: no mailbox: {error}", worker.id));
            return worker.driver.stop();
        }
    };
    let (mut finish_since, mut finish_at) = (Duration::ZERO, Duration::MAX);
    loop {
        let mut count = [0u8; 8];
        let rung = rustix::io::read(bell.descriptor(), &mut count).is_ok();
        let mail = worker.shared.mailboxes[worker.id].take();
        for mail in mail {
            match mail {
                Mail::Snapshot { revision, snapshot, guards, opened, applied } => {
                    worker.apply(revision, snapshot, guards, opened);
                    // Nobody waits for it any more: then nobody needs to know.
                    let _ = applied.send(worker.id);
                }
                Mail::Connection { bind, descriptor, peer, is_refused } => {
                    match worker.bind(&bind) {
                        Some(bind) => worker.serve_connection(&bind, descriptor, peer, is_refused),
                        // The address was removed while the connection was on its way.
                        None => {
                            worker.shared.connections.fetch_sub(1, Relaxed);
                            worker.shared.loads[worker.id].fetch_sub(1, Relaxed);
                        }
                    }
                }
                Mail::Explain(question) => explain::answer(&worker, question),
                Mail::Cut(told) => worker.cut(told),
                Mail::Wake(task) => worker.driver.wake(task),
                Mail::Heard => worker.wake_awaiting(),
                Mail::HandOver(state) => {
                    if let Some(cluster) = worker.view().cluster(&state.name) {
                        cluster.hand_over_idle(worker.driver.now());
                    }
                }
                Mail::ShedIdle => worker.view().endpoints().for_each(|endpoint| endpoint.pool.clear()),
                Mail::Finish { within } => {
                    finish_since = worker.driver.now();
                    finish_at = finish_since + within;
                    worker.finish();
                }
            }
        }
        if worker.is_finishing() {
            // Not in the turn that was told so: first the listeners take what waits in the kernel's queues. The load
            // counts a connection from its accept on, also while it is on its way here from another worker.
            let now = worker.driver.now();
            let is_over = now > finish_since && now >= worker.accept_until.get();
            let is_drained = is_over && worker.shared.loads[worker.id].load(Relaxed) == 0;
            if is_drained || now >= finish_at {
                return worker.driver.stop();
            }
            // Looks again soon: the end of a connection does not ring the bell.
            worker.driver.set_deadline((now + Duration::from_millis(20)).min(finish_at));
        }
        if !rung {
            bell.forget_readable();
        }
        std::future::poll_fn(|_| {
            let due = worker.is_finishing() && worker.driver.deadline_passed();
            if due { std::task::Poll::Ready(()) } else { bell.poll_readable().map(|_| ()) }
        })
        .await;
    }
}

/// Closes idle upstream connections that ended or grew old, and keeps the gauges of this worker.
async fn keep_pools(worker: Rc<Worker>) {
    loop {
        let now = worker.driver.now();
        let view = worker.view();
        let idle: usize = view.endpoints().map(|endpoint| endpoint.pool.sweep(now)).sum();
        if idle > worker.idle_room() {
            // There are more descriptors for clients than are left beside these.
            view.endpoints().for_each(|endpoint| endpoint.pool.clear());
        }
        drop(view);
        let stats = worker.stats();
        stats.panics.set(worker.driver.panics());
        stats.turn_ns_max.set(stats.turn_ns_max.get().max(worker.driver.take_turn_ns_max()));
        // Many connections may end in one turn: one look for all of them.
        worker.driver.set_deadline(now + SWEEP_INTERVAL);
        let mut woken = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut woken, true) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}
