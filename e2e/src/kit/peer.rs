//! One end of a connection that does what a test tells it: a client of the gateway, or a service behind it. Every
//! read has a deadline. Cold.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::message::{Framing, Message, field};

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The other side ended between two messages.
    Closed,
    /// The other side ended in the middle of one.
    Truncated,
    /// The other side reset the connection.
    Reset,
}

/// A connection with the bytes that were read from it and not used up.
pub struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    /// Everything that ever came.
    pub received: Vec<u8>,
}

impl Peer {
    /// Connects to a gateway.
    pub fn connect(address: SocketAddr) -> Peer {
        Peer::try_connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    /// Connects where nobody may be.
    pub fn try_connect(address: SocketAddr) -> io::Result<Peer> {
        Ok(Peer::of(TcpStream::connect_timeout(&address, PATIENCE)?))
    }

    pub(super) fn of(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        Peer { stream, input: Vec::new(), received: Vec::new() }
    }

    /// Sends all of it. False: the other side has gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        match self.stream.write_all(bytes.as_ref()) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing was taken within {PATIENCE:?}"),
            Err(_) => false,
        }
    }

    /// Sends in two segments. What is tested does not depend on their being read apart; the pause makes it likely.
    pub fn send_cut(&mut self, bytes: &[u8], at: usize) -> bool {
        let at = at.min(bytes.len());
        let sent = self.send(&bytes[..at]);
        std::thread::sleep(Duration::from_millis(1));
        sent && self.send(&bytes[at..])
    }

    /// Says that nothing more will be sent, and goes on listening.
    pub fn finish(&self) {
        // The other side may have reset the connection.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.set_reset();
    }

    /// When the connection ends, it is with a reset.
    pub fn set_reset(&self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("a socket takes SO_LINGER");
    }

    /// Our side's address.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// The socket, for what this type has no word for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The next message. `Err` says how the connection ended instead.
    pub fn read(&mut self) -> Result<Message, Ended> {
        self.read_answer(false)
    }

    /// The next message; an answer to HEAD has no body.
    pub fn read_answer(&mut self, is_to_head: bool) -> Result<Message, Ended> {
        let mut message = self.read_head()?;
        match message.framing(is_to_head) {
            Framing::None => {}
            Framing::Length(length) => message.body = self.take(length)?,
            Framing::UntilClose => {
                while self.fill()? {}
                message.body = std::mem::take(&mut self.input);
            }
            Framing::Chunked => loop {
                let line = self.line()?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{line:?} is no chunk size"));
                if size == 0 {
                    while let Some(trailer) = field(&self.line()?) {
                        message.trailers.push(trailer);
                    }
                    break;
                }
                message.body.extend_from_slice(&self.take(size)?);
                assert_eq!(self.take(2)?, b"\r\n", "a chunk ends with its line");
            },
        }
        Ok(message)
    }

    /// All that comes until the end, in short: `200 400 closed`, `truncated` for an answer without its end.
    pub fn outcome(&mut self) -> String {
        let mut words = Vec::new();
        loop {
            match self.read() {
                Ok(answer) => words.push(answer.status().to_string()),
                Err(ended) => {
                    words.push(format!("{ended:?}").to_lowercase());
                    return words.join(" ");
                }
            }
        }
    }

    /// The head of the next message; its body stays unread.
    pub fn read_head(&mut self) -> Result<Message, Ended> {
        loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..end + 4).collect();
                return Ok(Message::head(&head[..end]));
            }
            if !self.fill()? {
                return Err(if self.input.is_empty() { Ended::Closed } else { Ended::Truncated });
            }
        }
    }

    /// So many bytes.
    pub fn take(&mut self, count: usize) -> Result<Vec<u8>, Ended> {
        while self.input.len() < count {
            if !self.fill()? {
                return Err(Ended::Truncated);
            }
        }
        Ok(self.input.drain(..count).collect())
    }

    /// Reads until the other side ends, dropping everything.
    pub fn read_to_end(&mut self) -> Ended {
        loop {
            match self.fill() {
                Ok(true) => self.input.clear(),
                Ok(false) => return Ended::Closed,
                Err(ended) => return ended,
            }
        }
    }

    /// Whether something comes, the end included, before the time is over.
    pub fn hears_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        self.stream.set_read_timeout(Some(time)).expect("a socket takes a timeout");
        let mut byte = [0];
        let heard = loop {
            match self.stream.peek(&mut byte) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted && Instant::now() < deadline => {}
                _ => break true,
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        heard
    }

    fn line(&mut self) -> Result<String, Ended> {
        loop {
            if let Some(end) = self.input.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill()? {
                return Err(Ended::Truncated);
            }
        }
    }

    /// Reads once; false at the other side's end.
    fn fill(&mut self) -> Result<bool, Ended> {
        let mut room = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut room) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.input.extend_from_slice(&room[..count]);
                    // Enough for any head; of a large body only the start is kept.
                    if self.received.len() < 1 << 20 {
                        self.received.extend_from_slice(&room[..count]);
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let shown = &self.received[..self.received.len().min(2_000)];
                    panic!("nothing came within {PATIENCE:?}; so far: {:?}", String::from_utf8_lossy(shown))
                }
                Err(_) => return Err(Ended::Reset),
            }
        }
    }
}
