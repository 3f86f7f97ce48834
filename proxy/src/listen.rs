//! Listening sockets and what happens to a connection before its first byte is read: bounds, and balance
//! between workers. Hot.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, ipproto, sockopt};

use crate::driver::Socket;
use crate::shared::Mail;
use crate::sys;
use crate::worker::{BindView, GRACE, Worker};

/// Connections taken in one go before requests get their turn again.
const ACCEPTS_PER_TURN: usize = 64;
/// The pause when the process has no descriptor left: the next one is freed by a connection, not by asking.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Connections that wait in the kernel; it caps this at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// A client that connects and says nothing is handed over after this.
const DEFER_ACCEPT_S: i32 = 5;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;
/// Sent bytes that stay unacknowledged for so long end the connection (RFC 5482).
const USER_TIMEOUT_MS: u32 = 60_000;

/// Opens a listening socket. Several may share an address: the kernel spreads connections over them.
pub(crate) fn open(address: SocketAddr, defer_accept: bool) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // Accepted sockets inherit these, so no connection costs a call for them.
    tune(&socket)?;
    if defer_accept {
        sys::set_tcp_defer_accept(&socket, DEFER_ACCEPT_S)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether nobody listens on an address yet. Sockets that share an address by SO_REUSEPORT do so with any process of
/// the same user, and a second gateway would silently take half of the first one's connections.
pub(crate) fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = stream_socket(address)?;
    Ok(rustix::net::bind(&socket, &address)?)
}

/// A non-blocking socket that may take over an address whose last connections are still closing.
fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 too, whatever the system's default is.
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// What every connection of ours has, downstream and upstream.
pub(crate) fn tune(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT_MS)?;
    Ok(())
}

/// The address a socket is bound to, its port known.
pub(crate) fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    Ok(rustix::net::getsockname(socket)?.try_into()?)
}

/// Accepts until the address was removed from the configuration, or the worker was told to finish, and the time for
/// those who are on their way is over.
pub(crate) async fn accept_connections(worker: Rc<Worker>, bind: Rc<BindView>, socket: Socket) {
    let mut batch = Batch::new();
    let mut is_told = false;
    loop {
        let until = worker.accept_until(&bind);
        if until < Duration::MAX && !std::mem::replace(&mut is_told, true) {
            // From here on connections are handed over before they speak; a failure only leaves it as it was.
            let _ = sys::set_tcp_defer_accept(socket.descriptor(), 0);
        }
        let is_over = worker.driver.now() >= until;
        let turn = worker.driver.turn();
        // At the end what waits in the queue is served: closing the socket would reset it.
        let most = if is_over { usize::MAX } else { batch.begin(turn) };
        let mut taken = 0;
        while taken < most {
            match acceptfrom_with(socket.descriptor(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((descriptor, peer)) => {
                    taken += 1;
                    if let Some(peer) = peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
                        admit(&worker, &bind, descriptor, unmapped(peer));
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    worker.stats().accept_errors.add(1);
                    // Idle connections to services are worth less than a client.
                    worker.shared.shed_idle();
                    // What cannot be taken would be told in every turn.
                    socket.unregister();
                    let until = worker.driver.now() + EXHAUSTED_PAUSE;
                    worker.driver.sleep_until(until).await;
                }
                // The connection failed before it was accepted; the others are not concerned.
                Err(_) => worker.stats().accept_errors.add(1),
            }
        }
        if is_over {
            drop(socket);
            // The last that were taken still need its rules.
            let served_until = worker.driver.now() + 2 * GRACE;
            worker.driver.sleep_until(served_until).await;
            return worker.forget(&bind);
        }
        batch.end(turn, taken);
        socket.forget_readable();
        let mut known = until;
        std::future::poll_fn(|_| {
            let until = worker.accept_until(&bind);
            if until < Duration::MAX {
                if std::mem::replace(&mut known, until) != until || worker.driver.now() >= until {
                    return Poll::Ready(());
                }
                worker.driver.set_deadline(until);
            }
            socket.poll_readable().map(|_| ())
        })
        .await;
    }
}

/// How many connections are accepted in one turn: one, unless the turn after says that more were waiting. So a
/// connection that comes alone costs one accept and not a second that finds nothing, and a burst is taken in few turns.
#[derive(Debug)]
struct Batch {
    size: usize,
    /// The turn in which as many were taken as the batch allows.
    full_in: Option<u64>,
}

impl Batch {
    fn new() -> Batch {
        Batch { size: 1, full_in: None }
    }

    /// The most to take in this turn.
    fn begin(&mut self, turn: u64) -> usize {
        if self.full_in.is_some_and(|full_in| full_in + 1 == turn) {
            self.size = (self.size * 2).min(ACCEPTS_PER_TURN);
        }
        self.size
    }

    /// So many were taken in this turn.
    fn end(&mut self, turn: u64, taken: usize) {
        self.full_in = (taken >= self.size).then_some(turn);
        self.size = self.size.min(taken).max(1);
    }
}

/// Bounds first, then the worker it goes to.
fn admit(worker: &Rc<Worker>, bind: &Rc<BindView>, descriptor: OwnedFd, peer: SocketAddr) {
    let shared = &worker.shared;
    let settings = worker.place(bind).map(|(view, index)| view.settings[index].clone());
    let connections_max = settings.as_ref().map_or(u32::MAX, |settings| settings.connections_max);
    let open = bind.open.fetch_add(1, Relaxed);
    let open_process = shared.connections.fetch_add(1, Relaxed);
    if open >= connections_max || open_process >= shared.connections_max {
        bind.open.fetch_sub(1, Relaxed);
        shared.connections.fetch_sub(1, Relaxed);
        worker.stats().connections_refused.add(1);
        return;
    }
    let trial = settings.as_ref().and_then(|settings| settings.trial.as_ref());
    let is_refused = trial.is_some_and(|trial| trial.refuses(open, bind.refused.load(Relaxed)));
    if is_refused {
        bind.refused.fetch_add(1, Relaxed);
    }
    let loads = shared.loads.iter().map(|load| load.load(Relaxed));
    // What is still accepted at the end stays here: the other workers may have ended, or forgotten the address, already.
    let is_ending = worker.accept_until(bind) < Duration::MAX;
    let target = if is_ending { None } else { hand_to(worker.id, loads) };
    // Counted before it arrives, so that a burst does not all go to one worker.
    shared.loads[target.unwrap_or(worker.id)].fetch_add(1, Relaxed);
    match target {
        Some(other) => {
            worker.stats().connections_handed.add(1);
            shared.mailboxes[other].send(Mail::Connection { bind: bind.address, descriptor, peer, is_refused });
        }
        None => worker.serve_connection(bind, descriptor, peer, is_refused),
    }
}

/// The worker that a new connection goes to, if not `mine`: the least loaded, once mine has more than the mean.
/// The kernel spreads connections by hash, so few of them may all meet on one worker and stay there.
fn hand_to(mine: usize, loads: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let (count, total) = loads.clone().fold((0, 0), |(count, total), load| (count + 1, total + load));
    let own = loads.clone().nth(mine)?;
    if count < 2 || own * count <= total {
        return None;
    }
    let (least, load) = loads.enumerate().min_by_key(|(_, load)| *load)?;
    (load < own).then_some(least)
}

/// The IPv4 address of a client that reached a dual-stack socket.
fn unmapped(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_above_the_mean_hands_over_to_the_least_loaded() {
        let check = |mine: usize, loads: &[usize], expected: Option<usize>| {
            assert_eq!(hand_to(mine, loads.iter().copied()), expected, "{mine} of {loads:?}");
        };
        check(0, &[5], None);
        check(0, &[0, 0], None);
        check(0, &[1, 0], Some(1));
        check(0, &[3, 3], None);
        check(1, &[3, 4, 2], Some(2));
        check(2, &[3, 4, 2], None);
        check(0, &[2, 1, 1, 2], Some(1));
    }

    #[test]
    fn batches_grow_with_the_backlog_and_shrink_with_it() {
        let mut batch = Batch::new();
        // The turn, what waits in it, and what is taken of it with how many calls.
        for (turn, waiting, taken, calls) in [
            (1, 1, 1, 1),
            (3, 1, 1, 1),
            (4, 1, 1, 2),
            (9, 100, 1, 1),
            (10, 99, 2, 2),
            (11, 97, 4, 4),
            (12, 93, 8, 8),
            (14, 85, 8, 8),
            (15, 3, 3, 4),
            (16, 0, 0, 1),
            (17, 1, 1, 1),
        ] {
            let size = batch.begin(turn);
            let found = size.min(waiting);
            batch.end(turn, found);
            assert_eq!((found, found + usize::from(found < size)), (taken, calls), "turn {turn}: {batch:?}");
        }
        let most = (0..10).map(|turn| {
            let size = batch.begin(100 + turn);
            batch.end(100 + turn, size);
            size
        });
        assert_eq!(most.max(), Some(ACCEPTS_PER_TURN));
    }

    #[test]
    fn few_connections_spread_over_all_workers() {
        // All arrive at worker 0, as one unlucky hash may have it.
        let mut loads = [0usize; 4];
        for _ in 0..8 {
            let worker = hand_to(0, loads.iter().copied()).unwrap_or(0);
            loads[worker] += 1;
        }
        assert_eq!(loads, [2, 2, 2, 2]);
    }
}
