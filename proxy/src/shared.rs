//! What threads see of each other: the mail that a worker gets, and the counts that bounds and balance stand on. Nothing
//! here is touched by a request; a connection costs a few of these counts. Hot.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use config::Snapshot;
use filters::lane::leak::Strays;
use filters::lane::trace::TraceMap;
use filters::rules::States;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc::UnboundedSender;

use crate::cluster::{ClusterState, ClusterStates};
use crate::cut::CutRequests;
use crate::driver::TaskId;
use crate::explain::Question;
use crate::guards::Guards;
use crate::log::AccessLog;
use crate::slots::Waiter;
use crate::stats::WorkerStats;

/// What other threads tell a worker.
pub(crate) enum Mail {
    /// A new revision, with the sockets it opens. The worker replies when it is in force here.
    Snapshot {
        revision: u64,
        snapshot: Arc<Snapshot>,
        guards: Arc<Guards>,
        opened: Vec<Opened>,
        applied: std::sync::mpsc::Sender<usize>,
    },
    /// Close idle connections to services: descriptors have run out.
    ShedIdle,
    /// A task of this worker has got what it waited for.
    Wake(TaskId),
    /// Control has said that something is not there: whoever waits for it shall look.
    Heard,
    /// What a request would meet here.
    Explain(Question),
    /// The instance has no more time: cut what is under way on it, and tell.
    Cut(UnboundedSender<CutRequests>),
    /// Requests of other workers wait for a connection to this cluster: hand over idle ones.
    HandOver(Arc<ClusterState>),
    /// A connection that another worker accepted and has not read from.
    Connection {
        bind: SocketAddr,
        descriptor: OwnedFd,
        peer: SocketAddr,
        /// A policy in shadow would have refused it.
        is_refused: bool,
    },
    /// Take no new connections, finish what is in flight, end at the deadline at the latest.
    Finish { within: Duration },
}

/// A listening socket for one worker.
pub(crate) struct Opened {
    /// The address in the snapshot, by which the bind is known.
    pub(crate) bind: SocketAddr,
    /// The port, also where the snapshot says 0.
    pub(crate) port: u16,
    pub(crate) descriptor: OwnedFd,
    /// Connections open on this address, over all workers.
    pub(crate) open: Arc<AtomicU32>,
    /// Those of them that a policy in shadow would have refused.
    pub(crate) refused: Arc<AtomicU32>,
}

/// The way into a worker from other threads.
pub(crate) struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    /// Readable while there is mail.
    pub(crate) bell: OwnedFd,
}

impl Mailbox {
    /// Takes what has come.
    pub(crate) fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.mail.lock().expect("no holder of this lock can panic"))
    }

    /// Delivers and wakes the worker.
    pub(crate) fn send(&self, mail: Mail) {
        self.mail.lock().expect("no holder of this lock can panic").push(mail);
        // A full counter (EAGAIN) means that the bell rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// What all workers see of each other.
pub(crate) struct Shared {
    pub(crate) mailboxes: Vec<Mailbox>,
    /// Open connections of each worker.
    pub(crate) loads: Vec<AtomicUsize>,
    /// Open downstream connections of the process.
    pub(crate) connections: AtomicUsize,
    /// When the last one came, in milliseconds since the start.
    pub(crate) connected_at_ms: AtomicU64,
    /// The most that the process may have, by its descriptors.
    pub(crate) connections_max: usize,
    pub(crate) stats: Vec<WorkerStats>,
    /// What all workers know of clusters together.
    pub(crate) clusters: ClusterStates,
    /// What rules of traffic protection remember.
    pub(crate) states: States,
    /// Those of the newest snapshot.
    pub(crate) guards: Mutex<Arc<Guards>>,
    /// Whom requests ask for what control has not told.
    pub(crate) asks: OnceLock<UnboundedSender<Arc<str>>>,
    /// Requests that wait for such endpoints, or for what control knows of a Service.
    pub(crate) awaiting: AtomicUsize,
    /// Collections of Services that control has said are not there.
    absent: Mutex<HashSet<Arc<str>>>,
    /// The instance beside which this proxy stands goes, and says so with each answer.
    pub(crate) is_leaving: AtomicBool,
    /// Beside an instance: the lanes of the requests that it serves.
    pub(crate) traces: OnceLock<TraceMap>,
    /// Its calls that name nobody.
    pub(crate) strays: Strays,
    /// What this proxy stands for, as it says it to others of the mesh.
    pub(crate) own: OnceLock<Arc<str>>,
    /// Where this process stands.
    pub(crate) zone: Option<Box<str>>,
    /// Workers tell time from here.
    pub(crate) origin: Instant,
    pub(crate) access_log: Option<AccessLog>,
}

impl Shared {
    /// For so many workers.
    pub(crate) fn new(
        workers: usize,
        connections_max: usize,
        access_log: Option<AccessLog>,
        zone: Option<Box<str>>,
    ) -> io::Result<Arc<Shared>> {
        let mailbox = |_| {
            let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            Ok(Mailbox { mail: Mutex::default(), bell })
        };
        Ok(Arc::new(Shared {
            mailboxes: (0..workers).map(mailbox).collect::<io::Result<_>>()?,
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            connections: AtomicUsize::new(0),
            connected_at_ms: AtomicU64::new(u64::MAX),
            connections_max,
            stats: (0..workers).map(|_| WorkerStats::default()).collect(),
            access_log,
            clusters: ClusterStates::default(),
            states: States::default(),
            guards: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            traces: OnceLock::new(),
            strays: Strays::default(),
            own: OnceLock::new(),
            asks: OnceLock::new(),
            awaiting: AtomicUsize::new(0),
            absent: Mutex::default(),
            zone,
            origin: Instant::now(),
        }))
    }

    /// The rules of traffic protection of the newest snapshot.
    pub(crate) fn guards(&self) -> Arc<Guards> {
        self.guards.lock().expect("no holder of this lock can panic").clone()
    }

    /// Lets a request go on that has got what it waited for.
    pub(crate) fn wake(&self, waiter: &Waiter) {
        self.mailboxes[waiter.worker].send(Mail::Wake(waiter.task));
    }

    /// Whether control has said lately that a collection is not there.
    pub(crate) fn is_absent(&self, name: &str) -> bool {
        self.absent.lock().expect("no holder of this lock can panic").contains(name)
    }

    /// These are not there, and whoever waits for one shall hear it.
    pub(crate) fn set_absent(&self, names: HashSet<Arc<str>>) {
        *self.absent.lock().expect("no holder of this lock can panic") = names;
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::Heard));
    }

    /// Asks control for endpoints, or for what belongs to a Service.
    pub(crate) fn ask_control_for(&self, resource: &Arc<str>) {
        // Who ends does not listen any more.
        let _ = self.asks.get().map(|asks| asks.send(resource.clone()));
    }

    /// Asks the other workers for idle connections to a cluster.
    pub(crate) fn ask_for_connections(&self, worker: usize, state: &Arc<ClusterState>) {
        let others = self.mailboxes.iter().enumerate().filter(|(id, _)| *id != worker);
        others.for_each(|(_, mailbox)| mailbox.send(Mail::HandOver(state.clone())));
    }

    /// Lets every worker close its idle connections to services.
    pub(crate) fn shed_idle(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::ShedIdle));
    }
}
