//! The process: its workers, the sockets they share addresses on, and the revision in force. Decides whether
//! a snapshot can be put in force as a whole; what is in it was decided by `config`. Cold.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use config::Snapshot;
use config::snapshot::ClientAddress;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::guards::Guards;
use crate::listen;
use crate::log::{AccessLog, event};
use crate::shared::{Mail, Opened, Shared};
use crate::worker;

/// Descriptors for what is no downstream connection: listeners, epoll, logs, admin, and the pools' idle ones.
const DESCRIPTORS_RESERVED: u64 = 256;
/// A worker that does not take a revision in this time is stuck.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// From one look whether one has ended instead to the next.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long an address that was removed is known as ours: longer than workers serve it.
const LEFT_KNOWN: Duration = Duration::from_secs(3);

/// The running data plane.
pub(crate) struct Process {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// What is listened on, by the address in the snapshot; the port where that says 0.
    binds: HashMap<SocketAddr, u16>,
    /// Addresses that were removed and may still be served for a moment.
    left: Vec<(SocketAddr, Instant)>,
    revision: u64,
}

impl Process {
    /// Starts the workers; they serve nothing yet.
    pub(crate) fn start(workers: usize, access_log: Option<AccessLog>, zone: Option<Box<str>>) -> io::Result<Process> {
        let shared = Shared::new(workers, connections_max(raise_descriptor_limit()), access_log, zone)?;
        let mut threads = Vec::new();
        for id in 0..workers {
            let shared = shared.clone();
            // Each worker its own dice; what they decide needs no secrecy.
            let seed = seed() ^ (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let name = format!("worker-{id}");
            threads.push(std::thread::Builder::new().name(name).spawn(move || worker::run(id, shared, seed))?);
        }
        Ok(Process { shared, threads, binds: HashMap::new(), left: Vec::new(), revision: 0 })
    }

    /// Puts a snapshot in force on all workers and returns its revision. Nothing changes if one of its addresses
    /// cannot be listened on.
    pub(crate) fn apply(&mut self, snapshot: Arc<Snapshot>) -> Result<u64, String> {
        let mut opened: Vec<Vec<Opened>> = self.shared.mailboxes.iter().map(|_| Vec::new()).collect();
        let mut bound = HashMap::new();
        for bind in snapshot.binds.iter() {
            if self.binds.contains_key(&bind.address) {
                continue;
            }
            let failed = |error: io::Error| format!("cannot listen on {} for {}: {error}", bind.address, bind.name);
            let (open, refused) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            // A balancer that sends the PROXY protocol may open a connection long before it has a client for it.
            let defer_accept = bind.settings.client_address != ClientAddress::ProxyProtocolV2;
            if !self.is_ours(bind.address) {
                listen::probe(bind.address).map_err(failed)?;
            }
            let mut address = bind.address;
            for sockets in &mut opened {
                let descriptor = listen::open(address, defer_accept).map_err(failed)?;
                address = listen::local_address(&descriptor).map_err(failed)?;
                let (open, refused) = (open.clone(), refused.clone());
                sockets.push(Opened { bind: bind.address, port: address.port(), descriptor, open, refused });
            }
            bound.insert(bind.address, address.port());
        }
        // From here on nothing can fail.
        self.revision += 1;
        let guards = Arc::new(Guards::new(&snapshot, &self.shared.states, &self.shared.guards()));
        *self.shared.guards.lock().expect("no holder of this lock can panic") = guards.clone();
        let (applied, replies) = mpsc::channel();
        for (mailbox, opened) in self.shared.mailboxes.iter().zip(opened) {
            let (snapshot, guards, applied) = (snapshot.clone(), guards.clone(), applied.clone());
            mailbox.send(Mail::Snapshot { revision: self.revision, snapshot, guards, opened, applied });
        }
        drop(applied);
        if !self.is_taken(&replies) {
            event("error", &format!("revision {}: a worker has not taken it", self.revision));
        }
        for (address, port) in &bound {
            event("info", &format!("listening on {}", SocketAddr::new(address.ip(), *port)));
        }
        self.binds.extend(bound);
        self.left.retain(|(_, since)| since.elapsed() < LEFT_KNOWN);
        self.binds.retain(|address, port| {
            let stays = snapshot.binds.iter().any(|bind| bind.address == *address);
            if !stays {
                self.left.push((SocketAddr::new(address.ip(), *port), Instant::now()));
            }
            stays
        });
        Ok(self.revision)
    }

    /// Waits until each worker has said that it took a revision, or has ended: those that finish do so by themselves.
    fn is_taken(&self, replies: &mpsc::Receiver<usize>) -> bool {
        let deadline = Instant::now() + APPLY_TIMEOUT;
        let mut taken = vec![false; self.threads.len()];
        while self.threads.iter().zip(&taken).any(|(thread, taken)| !taken && !thread.is_finished()) {
            if Instant::now() >= deadline {
                return false;
            }
            if let Ok(worker) = replies.recv_timeout(LOOK_EVERY) {
                taken[worker] = true;
            }
        }
        true
    }

    /// Whether a socket of ours is or was a moment ago in the way of one on `address`: it shares with ours.
    fn is_ours(&self, address: SocketAddr) -> bool {
        let current = self.binds.iter().map(|(address, port)| SocketAddr::new(address.ip(), *port));
        current.chain(self.left.iter().map(|(address, _)| *address)).any(|known| overlap(known, address))
    }

    /// Tells the workers to finish what is in flight and to end.
    pub(crate) fn finish(&self, within: Duration) {
        for mailbox in &self.shared.mailboxes {
            mailbox.send(Mail::Finish { within });
        }
    }

    /// Whether all workers have ended.
    pub(crate) fn has_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Whether a worker has ended that nobody told to.
    pub(crate) fn has_lost_a_worker(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

/// Raises the soft limit of open descriptors to the hard one and returns it.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        event("warn", &format!("the limit of open files stays at {:?}: {error}", limit.current));
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// The downstream connections that so many descriptors allow: each may need one more to an endpoint.
fn connections_max(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 2).unwrap_or(usize::MAX)
}

/// Whether a connection may be meant for both: `[::]` takes IPv4 too.
fn overlap(left: SocketAddr, right: SocketAddr) -> bool {
    let takes = |one: SocketAddr, other: SocketAddr| {
        one.ip() == other.ip() || one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    left.port() == right.port() && (takes(left, right) || takes(right, left))
}

/// Something that differs between processes.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // std seeds this from the operating system's randomness.
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_a_connection_may_be_meant_for_both() {
        let check = |left: &str, right: &str, expected: bool| {
            let parse = |text: &str| text.parse().expect("rows are addresses");
            assert_eq!(overlap(parse(left), parse(right)), expected, "{left} {right}");
            assert_eq!(overlap(parse(right), parse(left)), expected, "{right} {left}");
        };
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "127.0.0.1:81", false);
        check("127.0.0.1:80", "127.0.0.2:80", false);
        check("0.0.0.0:80", "127.0.0.1:80", true);
        check("[::]:80", "127.0.0.1:80", true);
        check("0.0.0.0:80", "[::1]:80", false);
    }

    #[test]
    fn descriptors_leave_room_for_both_sides() {
        assert_eq!(connections_max(20_000), 9_872);
        assert_eq!(connections_max(1_024), 384);
        assert_eq!(connections_max(100), 0);
    }
}
