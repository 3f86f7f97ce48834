//! One socket of the load thread: sends what is left of a message when there is room, receives into the thread's one
//! buffer, and tells epoll what it waits for. Messages are `inbox`'s business. Hot.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Flags of every socket of the load thread.
pub(crate) const SOCKET_FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// A socket that does not block.
pub(crate) struct Channel {
    stream: TcpStream,
    token: u64,
    /// What epoll was told, so that it is told again only on a change.
    armed: Option<EventFlags>,
    /// What is being sent, and how much of it is gone.
    outgoing: Option<(Rc<[u8]>, usize)>,
}

/// What a read found.
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    End,
}

impl Channel {
    /// A connection to `target`, from `source` when that matters. It may still be under way.
    pub(crate) fn connect(target: SocketAddr, source: Option<Ipv4Addr>, token: u64) -> io::Result<Channel> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SOCKET_FLAGS, None)?;
        if let Some(address) = source {
            rustix::net::bind(&socket, &SocketAddrV4::new(address, 0))?;
        }
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Channel::new(socket, token),
            Err(error) => Err(error.into()),
        }
    }

    /// A socket that is connected or about to be.
    pub(crate) fn new(socket: OwnedFd, token: u64) -> io::Result<Channel> {
        let stream = TcpStream::from(socket);
        // A body that needs a second write must not wait for the acknowledgement of the first.
        stream.set_nodelay(true)?;
        Ok(Channel { stream, token, armed: None, outgoing: None })
    }

    /// Sends `bytes`, now or as room appears, and waits for what comes back.
    pub(crate) fn send(&mut self, epoll: &OwnedFd, bytes: &Rc<[u8]>) -> io::Result<()> {
        match write(&self.stream, bytes)? {
            sent if sent == bytes.len() => {}
            sent => self.outgoing = Some((bytes.clone(), sent)),
        }
        self.arm(epoll)
    }

    /// Goes on sending what is left.
    pub(crate) fn flush(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        if let Some((bytes, sent)) = &mut self.outgoing {
            *sent += write(&self.stream, &bytes[*sent..])?;
            if *sent == bytes.len() {
                self.outgoing = None;
            }
        }
        self.arm(epoll)
    }

    /// Whether all that was sent has left for the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.is_none()
    }

    /// Reads once.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        match (&self.stream).read(buffer) {
            Ok(0) => Ok(Received::End),
            Ok(length) => Ok(Received::Bytes(length)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(Received::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells epoll what this socket waits for.
    pub(crate) fn arm(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let wanted = if self.outgoing.is_some() { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        let data = EventData::new_u64(self.token);
        match self.armed {
            Some(armed) if armed == wanted => return Ok(()),
            Some(_) => epoll::modify(epoll, &self.stream, data, wanted)?,
            None => epoll::add(epoll, &self.stream, data, wanted)?,
        }
        self.armed = Some(wanted);
        Ok(())
    }
}

fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        // A connection that is still under way has no room either.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        result => result,
    }
}
