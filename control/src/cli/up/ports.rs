//! Ports that are ours before anybody listens on them, and between two who do. Cold.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait for an instance in the kernel.
const BACKLOG: u32 = 128;

/// A loopback port that is held by a socket which does not listen. Who says SO_REUSEADDR, as children do, may listen beside
/// it, one at a time; the kernel gives it to nobody else.
pub struct Seat {
    address: SocketAddr,
    _keeper: TcpSocket,
}

impl Seat {
    /// Any port.
    pub fn any() -> io::Result<Seat> {
        Seat::at(0)
    }

    /// This port; an error if somebody listens there.
    pub fn at(port: u16) -> io::Result<Seat> {
        let keeper = socket(port)?;
        Ok(Seat { address: keeper.local_addr()?, _keeper: keeper })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens within this process and the current runtime.
    pub fn listen(&self) -> io::Result<TcpListener> {
        socket(self.address.port())?.listen(BACKLOG)
    }
}

fn socket(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_seat_is_taken_while_nobody_sits_on_it() {
        let seat = Seat::any().expect("a port is free");
        let port = seat.address().port();
        let is_taken = || std::net::TcpListener::bind(seat.address()).is_err();
        for _ in 0..2 {
            let listening = seat.listen().expect("it is ours");
            assert!(is_taken() && Seat::at(port).is_err() && seat.listen().is_err(), "one listens at a time");
            drop(listening);
        }
        assert!((0..1_000).all(|_| Seat::any().is_ok_and(|other| other.address().port() != port)));
    }
}
