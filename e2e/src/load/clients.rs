//! The generator's connections: kept or one per request, idle or under way, each answer checked. When requests are due
//! is `due`'s business. Hot.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::channel::{Channel, Received};
use super::head::{Judge, Side};
use super::inbox::Inbox;
use super::plan::{Connections, Request};
use super::slots::Slots;

/// Loopback addresses that new connections come from, so that no pair of addresses runs out of ports.
const SOURCES: u32 = 32;

/// The generator's sockets.
pub(crate) struct Clients {
    clients: Slots<Client>,
    idle: VecDeque<u32>,
    judge: Judge,
    in_flight: usize,
    next_source: u32,
    /// Token of a client: this plus its index.
    token_base: u64,
}

struct Client {
    channel: Channel,
    inbox: Inbox,
    state: State,
    answer_length: u64,
    due_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Waiting,
    /// The answer is whole; the proxy must now end the connection.
    Ending,
}

impl Clients {
    pub(crate) fn new(token_base: u64) -> Clients {
        Clients {
            clients: Slots::new(),
            idle: VecDeque::new(),
            judge: Judge::new(Side::Client),
            in_flight: 0,
            next_source: 0,
            token_base,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Opens kept connections up to `count`.
    pub(crate) fn open(&mut self, target: SocketAddr, count: usize) -> Result<(), String> {
        while self.idle.len() < count {
            let index = self.connect(target, None).map_err(|error| format!("connecting: {error}"))?;
            self.idle.push_back(index);
        }
        Ok(())
    }

    /// Whether a request could be sent at once.
    pub(crate) fn can_send(&self, connections: Connections) -> bool {
        connections == Connections::PerRequest || !self.idle.is_empty()
    }

    /// Sends a request that was due at `due_ns`.
    pub(crate) fn send(
        &mut self,
        target: SocketAddr,
        connections: Connections,
        request: &Request,
        due_ns: u64,
        epoll: &OwnedFd,
    ) -> Result<(), String> {
        let index = match connections {
            Connections::Kept(_) => self.idle.pop_front().ok_or("no idle connection")?,
            Connections::PerRequest => {
                self.connect_from_next_source(target).map_err(|error| format!("connecting: {error}"))?
            }
        };
        let client = self.clients.get(index).expect("idle and new clients exist");
        client.state = State::Waiting;
        client.answer_length = request.answer_length;
        client.due_ns = due_ns;
        self.in_flight += 1;
        client.channel.send(epoll, &request.bytes).map_err(|error| format!("sending a request: {error}"))
    }

    /// Serves one ready connection; the time at which a request was due that is now answered in full.
    pub(crate) fn serve(
        &mut self,
        index: u32,
        connections: Connections,
        epoll: &OwnedFd,
        buffer: &mut [u8],
    ) -> Result<Option<u64>, String> {
        // Closed by an earlier event of the same batch.
        let Some(client) = self.clients.get(index) else { return Ok(None) };
        if !client.channel.is_flushed() {
            client.channel.flush(epoll).map_err(|error| format!("sending a request: {error}"))?;
        }
        let length = match client.channel.receive(buffer).map_err(|error| format!("reading an answer: {error}"))? {
            Received::Bytes(length) => length,
            Received::Nothing => return Ok(None),
            Received::End if client.state == State::Ending => return Ok(Some(self.finish(index, None))),
            Received::End => return Err("the proxy ended a connection that was to stay open".into()),
        };
        if client.state != State::Waiting {
            return Err(format!("{length} bytes that no request asked for"));
        }
        let taken = client.inbox.take(&buffer[..length], &mut self.judge);
        let Some(message) = taken.map_err(|fault| format!("at the client: {fault}"))? else { return Ok(None) };
        if message.body_length != client.answer_length {
            return Err(format!("a body of {} bytes instead of {}", message.body_length, client.answer_length));
        }
        match connections {
            Connections::Kept(_) if message.close => Err("the proxy wants to close a kept connection".into()),
            Connections::Kept(_) => Ok(Some(self.finish(index, Some(index)))),
            Connections::PerRequest => {
                client.state = State::Ending;
                Ok(None)
            }
        }
    }

    /// Closes all connections.
    pub(crate) fn hang_up(&mut self) {
        self.clients.clear();
        self.idle.clear();
        self.in_flight = 0;
    }

    fn finish(&mut self, index: u32, idle: Option<u32>) -> u64 {
        let client = self.clients.get(index).expect("it was just served");
        let due_ns = client.due_ns;
        client.state = State::Idle;
        self.in_flight -= 1;
        match idle {
            Some(index) => self.idle.push_back(index),
            None => self.clients.remove(index),
        }
        due_ns
    }

    fn connect_from_next_source(&mut self, target: SocketAddr) -> io::Result<u32> {
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for _ in 0..SOURCES {
            self.next_source = (self.next_source + 1) % SOURCES;
            // 127.0.0.2 and up: all of 127.0.0.0/8 is local.
            result = self.connect(target, Some(Ipv4Addr::from_bits(0x7f00_0002 + self.next_source)));
            match &result {
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
                _ => break,
            }
        }
        result
    }

    fn connect(&mut self, target: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<u32> {
        let base = self.token_base;
        self.clients.insert(|index| {
            let channel = Channel::connect(target, source, base + u64::from(index))?;
            Ok(Client { channel, inbox: Inbox::default(), state: State::Idle, answer_length: 0, due_ns: 0 })
        })
    }
}
