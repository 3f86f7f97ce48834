//! One connection of the chain: whole messages of HTTP/1.1 come in, bytes go out. Simple, so that it shares no opinion with
//! what is measured: a body has a length or is none. Whether a message is the right one is `answer`'s business. Hot.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use memchr::memmem::find;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 32 << 10;
const BODY_BYTES_MAX: usize = 1 << 20;

/// A connection, with what came and is not yet used up.
pub(super) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

/// A request or an answer, whole.
#[derive(Debug)]
pub(super) struct Message {
    head: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// The connection ends with it.
    pub(super) close: bool,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Ended before its first byte.
    Closed,
    /// Ended in mid-message.
    Cut,
    /// The system says so.
    System(ErrorKind),
    /// Not what anybody here sends.
    Garbled(&'static str),
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Closed => formatter.write_str("closed without an answer"),
            Broken::Cut => formatter.write_str("ended in mid-message"),
            Broken::System(kind) => write!(formatter, "{kind}"),
            Broken::Garbled(what) => formatter.write_str(what),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::System(error.kind())
    }
}

impl Wire {
    pub(super) async fn connect(address: SocketAddr) -> Result<Wire, Broken> {
        Ok(Wire::of(TcpStream::connect(address).await?)?)
    }

    pub(super) fn of(stream: TcpStream) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        Ok(Wire { stream, input: Vec::new() })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Waits for the first byte of a message; false: the connection ended. May be given up at any time.
    pub(super) async fn begins(&mut self) -> bool {
        !self.input.is_empty() || matches!(self.stream.read_buf(&mut self.input).await, Ok(1..))
    }

    /// The next message.
    pub(super) async fn read(&mut self) -> Result<Message, Broken> {
        let (head_length, body_length, close) = loop {
            match shape(&self.input)? {
                Some(shape) => break shape,
                None => self.fill().await?,
            }
        };
        while self.input.len() < head_length + body_length {
            self.fill().await?;
        }
        let rest = self.input.split_off(head_length + body_length);
        let mut head = std::mem::replace(&mut self.input, rest);
        let body = head.split_off(head_length);
        Ok(Message { head, body, close })
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        match self.stream.read_buf(&mut self.input).await? {
            0 if self.input.is_empty() => Err(Broken::Closed),
            0 => Err(Broken::Cut),
            _ => Ok(()),
        }
    }

    /// Whether an idle connection is of no use any more. Asks the kernel: the runtime may not have heard of it yet.
    pub(super) fn is_over(&self) -> bool {
        let looked = recv(&self.stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !self.input.is_empty() || !matches!(looked, Err(rustix::io::Errno::AGAIN))
    }
}

impl Message {
    /// The first line, in words: `GET /7 HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub(super) fn word(&self, index: usize) -> &str {
        let line = self.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let word = line.split(|byte| *byte == b' ').nth(index).unwrap_or_default();
        std::str::from_utf8(word).unwrap_or_default()
    }

    /// Of an answer; 0 where there is none.
    pub(super) fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_default()
    }

    /// The value of the first field of that name.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let (_, value) = fields(&self.head).find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))?;
        std::str::from_utf8(value).ok()
    }
}

/// Lengths of head and body, and whether the connection ends with them; None: more of the head must come.
fn shape(input: &[u8]) -> Result<Option<(usize, usize, bool)>, Broken> {
    let Some(end) = find(input, b"\r\n\r\n") else {
        return if input.len() > HEAD_BYTES_MAX { Err(Broken::Garbled("an endless head")) } else { Ok(None) };
    };
    let head = &input[..end + 4];
    let (mut body_length, mut close) = (0, false);
    for (name, value) in fields(head) {
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            body_length = length.filter(|length| *length <= BODY_BYTES_MAX).ok_or(Broken::Garbled("an odd length"))?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(Broken::Garbled("a body in chunks"));
        } else if name.eq_ignore_ascii_case(b"connection") {
            close |= value.split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }
    Ok(Some((head.len(), body_length, close)))
}

fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_a_length_or_no_body() {
        let check = |text: &str, expected: Result<Option<(usize, usize, bool)>, Broken>| {
            assert_eq!(shape(text.as_bytes()), expected, "{text:?}");
        };
        check("", Ok(None));
        check("GET / HTTP/1.1\r\nHost: a\r\n", Ok(None));
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some((27, 0, false))));
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", Ok(Some((38, 3, false))));
        check("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", Ok(Some((41, 0, true))));
        check("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Err(Broken::Garbled("an odd length")));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Broken::Garbled("a body in chunks")));
        check(&"a".repeat(HEAD_BYTES_MAX + 1), Err(Broken::Garbled("an endless head")));
    }

    #[test]
    fn heads_are_read_by_words_and_fields() {
        let head = b"POST /7 HTTP/1.1\r\nHost: back\r\nTraceParent:  00-a \r\n\r\n".to_vec();
        let message = Message { head, body: Vec::new(), close: false };
        assert_eq!((message.word(0), message.word(1), message.status()), ("POST", "/7", 0));
        assert_eq!((message.field("traceparent"), message.field("x")), (Some("00-a"), None));
        let answer = Message { head: b"HTTP/1.1 503 No\r\n\r\n".to_vec(), body: Vec::new(), close: false };
        assert_eq!(answer.status(), 503);
    }
}
