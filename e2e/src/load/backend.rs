//! The server behind every proxy: 200 with 1 KiB to a GET, 200 with as many bytes to a POST, keep-alive or close as the
//! proxy asks. Whether requests are what they must be is `head`'s business. Hot.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketType, accept_with, bind, getsockname, listen, socket_with};

use super::channel::{Channel, Received, SOCKET_FLAGS};
use super::head::{Judge, Side};
use super::inbox::Inbox;
use super::plan::GET_ANSWER_LENGTH;
use super::slots::Slots;

/// Connections taken at one event; epoll reports the rest again.
const ACCEPTS_MAX: usize = 64;
/// Longest body that is answered with as many bytes.
const ECHO_BYTES_MAX: u64 = 16 << 20;
/// Distinct answers kept: runs use one or two.
const ANSWERS_MAX: usize = 8;

/// The backend's sockets.
pub(crate) struct Backend {
    listener: OwnedFd,
    port: u16,
    connections: Slots<Connection>,
    judge: Judge,
    answers: Vec<Answer>,
    /// Token of a connection: this plus its index.
    token_base: u64,
}

struct Connection {
    channel: Channel,
    inbox: Inbox,
    /// Ends as soon as its answer has left.
    close: bool,
}

struct Answer {
    length: u64,
    close: bool,
    bytes: Rc<[u8]>,
}

impl Backend {
    /// Listens on a free loopback port.
    pub(crate) fn listen(epoll: &OwnedFd, listener_token: u64, token_base: u64) -> io::Result<Backend> {
        let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SOCKET_FLAGS, None)?;
        bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        listen(&listener, 4096)?;
        let port = SocketAddr::try_from(getsockname(&listener)?)?.port();
        epoll::add(epoll, &listener, EventData::new_u64(listener_token), EventFlags::IN)?;
        let judge = Judge::new(Side::Backend);
        Ok(Backend { listener, port, connections: Slots::new(), judge, answers: Vec::new(), token_base })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Takes waiting connections.
    pub(crate) fn accept(&mut self, epoll: &OwnedFd) -> Result<(), String> {
        for _ in 0..ACCEPTS_MAX {
            let socket = match accept_with(&self.listener, SOCKET_FLAGS) {
                Ok(socket) => socket,
                Err(rustix::io::Errno::AGAIN) => break,
                // The proxy gave up before we came to it.
                Err(rustix::io::Errno::CONNABORTED) => continue,
                Err(error) => return Err(format!("backend cannot accept: {error}")),
            };
            let base = self.token_base;
            let accepted = self.connections.insert(|index| {
                let mut channel = Channel::new(socket, base + u64::from(index))?;
                channel.arm(epoll)?;
                Ok(Connection { channel, inbox: Inbox::default(), close: false })
            });
            accepted.map_err(|error: io::Error| format!("backend cannot accept: {error}"))?;
        }
        Ok(())
    }

    /// Serves one ready connection.
    pub(crate) fn serve(&mut self, index: u32, epoll: &OwnedFd, buffer: &mut [u8]) -> Result<(), String> {
        // Closed by an earlier event of the same batch.
        let Some(connection) = self.connections.get(index) else { return Ok(()) };
        if !connection.channel.is_flushed() {
            if connection.channel.flush(epoll).is_err() {
                self.connections.remove(index);
                return Err("the proxy broke a connection in mid-answer".into());
            }
            if connection.close && connection.channel.is_flushed() {
                self.connections.remove(index);
                return Ok(());
            }
        }
        let length = match connection.channel.receive(buffer) {
            Ok(Received::Bytes(length)) => length,
            Ok(Received::Nothing) => return Ok(()),
            Ok(Received::End) | Err(_) => {
                let cut = connection.inbox.is_open();
                self.connections.remove(index);
                return if cut { Err("the proxy ended a connection in mid-request".into()) } else { Ok(()) };
            }
        };
        let taken = connection.inbox.take(&buffer[..length], &mut self.judge);
        let Some(message) = taken.map_err(|fault| format!("at the backend: {fault}"))? else { return Ok(()) };
        let answer_length = if message.echo { message.body_length } else { GET_ANSWER_LENGTH };
        let answer = answer(&mut self.answers, answer_length, message.close)?;
        if connection.channel.send(epoll, &answer).is_err() {
            self.connections.remove(index);
            return Err("the proxy broke a connection before its answer".into());
        }
        connection.close = message.close;
        if connection.close && connection.channel.is_flushed() {
            self.connections.remove(index);
        }
        Ok(())
    }
}

/// The bytes of an answer, made once.
fn answer(answers: &mut Vec<Answer>, length: u64, close: bool) -> Result<Rc<[u8]>, String> {
    if let Some(answer) = answers.iter().find(|answer| answer.length == length && answer.close == close) {
        return Ok(answer.bytes.clone());
    }
    if length > ECHO_BYTES_MAX {
        return Err(format!("at the backend: a body of {length} bytes"));
    }
    let connection = if close { "Connection: close\r\n" } else { "" };
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nServer: be\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{connection}\r\n"
    )
    .into_bytes();
    bytes.resize(bytes.len() + length as usize, b'b');
    if answers.len() == ANSWERS_MAX {
        answers.remove(0);
    }
    answers.push(Answer { length, close, bytes: bytes.into() });
    Ok(answers.last().expect("it was pushed").bytes.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_published_one_and_made_once() {
        let mut answers = Vec::new();
        let bytes = answer(&mut answers, 1024, false).unwrap();
        let head = b"HTTP/1.1 200 OK\r\nServer: be\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n";
        assert!(bytes.starts_with(head));
        assert_eq!(bytes.len(), head.len() + 1024);
        assert!(Rc::ptr_eq(&bytes, &answer(&mut answers, 1024, false).unwrap()));
        assert!(answer(&mut answers, u64::MAX, false).is_err());
    }
}
