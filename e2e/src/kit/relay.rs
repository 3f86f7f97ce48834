//! A line between two processes that a test can take away: it passes what comes, or swallows it as a network does that is
//! cut in two. Nobody hears of it then, neither who sends nor who listens, and what was sent comes late. Cold.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::PATIENCE;

/// Connections in its life; a test that needs more than this has something else in mind.
const CONNECTIONS_MAX: usize = 256;
/// What is held of one direction; beyond it the kernel's buffers fill, and then whoever sends waits.
const HELD_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Passes,
    Swallows,
    Ended,
}

struct Shared {
    way: Mutex<Way>,
    turned: Condvar,
    /// Both ends of each connection, so that nothing outlives the relay.
    sockets: Mutex<Vec<TcpStream>>,
    back_bytes: AtomicU64,
}

/// A relay in front of one address.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    /// Starts one that passes everything on to `target`.
    pub fn to(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("an address that is free");
        let address = listener.local_addr().expect("a listening socket has an address");
        let shared = Arc::new(Shared {
            way: Mutex::new(Way::Passes),
            turned: Condvar::new(),
            sockets: Mutex::default(),
            back_bytes: AtomicU64::new(0),
        });
        let of_acceptor = shared.clone();
        std::thread::spawn(move || of_acceptor.accept(&listener, target));
        Relay { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing comes through: what is sent is taken and held, both ways, ends of connections among it, and who
    /// connects is accepted and hears nothing.
    pub fn swallow(&self) {
        self.shared.turn(Way::Swallows);
    }

    /// From now on everything comes through, what was held first.
    pub fn pass(&self) {
        self.shared.turn(Way::Passes);
    }

    /// Bytes that came from the target so far.
    pub fn back_bytes(&self) -> u64 {
        self.shared.back_bytes.load(SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.turn(Way::Ended);
        for socket in self.shared.sockets().iter() {
            // It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn sockets(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, way: Way) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
        self.turned.notify_all();
    }

    /// Waits until it passes. False: it has ended.
    fn passes(&self) -> bool {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let way = self.turned.wait_while(way, |way| *way == Way::Swallows).unwrap_or_else(PoisonError::into_inner);
        *way == Way::Passes
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, target: SocketAddr) {
        // While it swallows, the kernel accepts, and holds what is said first.
        for client in listener.incoming() {
            if !self.passes() {
                return;
            }
            let Ok(client) = client else { continue };
            // Where nobody listens, the client is told so.
            let Ok(server) = TcpStream::connect_timeout(&target, PATIENCE) else { continue };
            let clone = |socket: &TcpStream| socket.try_clone().expect("there is room for a file");
            let mut sockets = self.sockets();
            assert!(sockets.len() < 2 * CONNECTIONS_MAX, "more than {CONNECTIONS_MAX} connections to a relay");
            for (from, to, is_back) in [(&client, &server, false), (&server, &client, true)] {
                from.set_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
                sockets.push(clone(from));
                let (from, to, shared) = (clone(from), clone(to), self.clone());
                std::thread::spawn(move || shared.carry(from, to, is_back));
            }
        }
    }

    /// One direction of a connection, until either side ends.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_back: bool) {
        let mut held = vec![0; HELD_BYTES_MAX];
        loop {
            let count = match from.read(&mut held) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read,
            };
            // An end is swallowed like everything else.
            if !self.passes() {
                return;
            }
            let is_sent = count.as_ref().is_ok_and(|count| to.write_all(&held[..*count]).is_ok());
            match count {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) if is_sent => {
                    if is_back {
                        self.back_bytes.fetch_add(count as u64, SeqCst);
                    }
                }
                _ => {
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Backend, Peer};
    use super::*;

    #[test]
    fn what_is_swallowed_comes_late_and_nobody_hears_of_it() {
        let backend = Backend::canned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let relay = Relay::to(backend.address());
        let mut kept = Peer::connect(relay.address());
        kept.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(kept.read().map(|answer| answer.text()), Ok("ok".into()));
        let before = relay.back_bytes();
        relay.swallow();
        let mut late = Peer::connect(relay.address());
        for peer in [&mut kept, &mut late] {
            peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(!peer.hears_within(Duration::from_millis(20)));
        }
        assert_eq!((backend.requests().len(), relay.back_bytes()), (1, before));
        relay.pass();
        for peer in [&mut kept, &mut late] {
            assert_eq!(peer.read().map(|answer| answer.text()), Ok("ok".into()));
        }
        drop(relay);
        kept.read_to_end();
    }
}
