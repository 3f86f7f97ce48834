//! Judges the heads that reach the two ends: is it what the proxy was told to make of it? Bytes in, verdict out; bodies
//! are `body`'s business. Pure.

use memchr::memchr;

/// Longest head that any end accepts.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Which end reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The backend reads requests: `x-lane: blue`, an `x-forwarded-for`, no `x-internal`.
    Backend,
    /// The client reads answers: status 200, `x-proxy: lab`, a body whose end is known.
    Client,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// What a good head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes up to and with the empty line.
    pub(crate) length: usize,
    pub(crate) framing: Framing,
    /// The connection ends with this message.
    pub(crate) close: bool,
    /// A request that is answered with as many bytes as it has.
    pub(crate) echo: bool,
}

/// Judges heads of one side, the repetition of the last good one in the time of a comparison.
pub(crate) struct Judge {
    side: Side,
    known: Vec<u8>,
    known_head: Option<Head>,
}

impl Judge {
    pub(crate) fn new(side: Side) -> Judge {
        Judge { side, known: Vec::new(), known_head: None }
    }

    /// The head at the start of `bytes`; `None` when its end is yet to come, `Err` when it is not what it must be.
    pub(crate) fn judge(&mut self, bytes: &[u8]) -> Result<Option<Head>, String> {
        // A proxy sends the same head for the same request, but for a date or an id: most are judged by comparison.
        if let Some(head) = self.known_head
            && bytes.starts_with(&self.known)
        {
            return Ok(Some(head));
        }
        let head = parse(bytes, self.side).map_err(|fault| format!("{fault} in {:?}", excerpt(bytes)))?;
        if let Some(head) = head {
            self.known.clear();
            self.known.extend_from_slice(&bytes[..head.length]);
            self.known_head = Some(head);
        } else if bytes.len() > HEAD_BYTES_MAX {
            return Err(format!("a head of more than {HEAD_BYTES_MAX} bytes"));
        }
        Ok(head)
    }
}

fn parse(bytes: &[u8], side: Side) -> Result<Option<Head>, &'static str> {
    let Some(first_end) = memchr(b'\n', bytes) else { return Ok(None) };
    let first = line(&bytes[..first_end])?;
    let mut echo = false;
    // Only HTTP/1.1 stays open unless told otherwise.
    let mut close = match side {
        Side::Backend => {
            echo = first.starts_with(b"POST ");
            if !echo && !first.starts_with(b"GET ") {
                return Err("neither GET nor POST");
            }
            !first.ends_with(b" HTTP/1.1")
        }
        Side::Client if first.starts_with(b"HTTP/1.1 200") => false,
        Side::Client if first.starts_with(b"HTTP/1.0 200") => true,
        Side::Client => return Err("status is not 200"),
    };
    let (mut lane, mut forwarded, mut proxy, mut framing) = (false, false, false, None);
    let mut at = first_end + 1;
    loop {
        let Some(length) = memchr(b'\n', &bytes[at..]) else { return Ok(None) };
        let field = line(&bytes[at..at + length])?;
        at += length + 1;
        if field.is_empty() {
            break;
        }
        let colon = memchr(b':', field).ok_or("a field without a colon")?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        match (side, name.len()) {
            (Side::Backend, 6) if is(name, b"x-lane") => lane = value == b"blue" || return Err("x-lane is not blue"),
            (Side::Client, 7) if is(name, b"x-proxy") => proxy = value == b"lab" || return Err("x-proxy is not lab"),
            (Side::Backend, 15) if is(name, b"x-forwarded-for") => forwarded = !value.is_empty(),
            (Side::Backend, 10) if is(name, b"x-internal") => return Err("x-internal came through"),
            (_, 10) if is(name, b"connection") => close |= is(value, b"close"),
            (_, 14) if is(name, b"content-length") => {
                let text = std::str::from_utf8(value).map_err(|_| "a length that is no number")?;
                let length = text.parse().map_err(|_| "a length that is no number")?;
                if framing.replace(Framing::Length(length)).is_some() {
                    return Err("two framings");
                }
            }
            (_, 17) if is(name, b"transfer-encoding") => {
                let again = framing.replace(Framing::Chunked).is_some();
                if again || !is(value, b"chunked") {
                    return Err("a transfer encoding that is not chunked alone");
                }
            }
            _ => {}
        }
    }
    match (side, framing) {
        (Side::Backend, _) if !lane => Err("x-lane is missing"),
        (Side::Backend, _) if !forwarded => Err("x-forwarded-for is missing"),
        (Side::Client, _) if !proxy => Err("x-proxy is missing"),
        (Side::Client, None) => Err("an answer without a length"),
        (_, framing) => Ok(Some(Head { length: at, framing: framing.unwrap_or(Framing::Length(0)), close, echo })),
    }
}

fn line(bytes: &[u8]) -> Result<&[u8], &'static str> {
    bytes.strip_suffix(b"\r").ok_or("a line that ends without CR")
}

fn is(word: &[u8], lower: &[u8]) -> bool {
    word.eq_ignore_ascii_case(lower)
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned()
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
