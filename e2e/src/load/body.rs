//! Counts the bytes of a body and finds its end, by length or by chunks. What the length must be is the reader's
//! business. Machine.

use super::head::Framing;

/// A body that is being read.
pub(crate) struct Body {
    end: End,
    received: u64,
}

enum End {
    After(u64),
    Chunked(Chunk),
}

/// Where in the grammar of RFC 9112 7.1 the next byte is.
#[derive(Clone, Copy, PartialEq)]
enum Chunk {
    Size {
        value: u64,
        digits: u8,
    },
    Extension {
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// A line after the last chunk; an empty one ends the body.
    Trailer {
        empty: bool,
    },
    Done,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Body {
        let end = match framing {
            Framing::Length(length) => End::After(length),
            Framing::Chunked => End::Chunked(Chunk::Size { value: 0, digits: 0 }),
        };
        Body { end, received: 0 }
    }

    /// Bytes of content so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.end, End::After(0) | End::Chunked(Chunk::Done))
    }

    /// Takes what belongs to the body and says how many bytes that was.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, String> {
        match &mut self.end {
            End::After(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                self.received += taken;
                Ok(taken as usize)
            }
            End::Chunked(chunk) => {
                let mut at = 0;
                while at < bytes.len() && *chunk != Chunk::Done {
                    if let Chunk::Data { left } = *chunk {
                        let taken = left.min((bytes.len() - at) as u64);
                        self.received += taken;
                        at += taken as usize;
                        *chunk = if left == taken { Chunk::DataCr } else { Chunk::Data { left: left - taken } };
                    } else {
                        *chunk = chunk.step(bytes[at])?;
                        at += 1;
                    }
                }
                Ok(at)
            }
        }
    }
}

impl Chunk {
    fn step(self, byte: u8) -> Result<Chunk, String> {
        Ok(match (self, byte) {
            (Chunk::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = (byte as char).to_digit(16).expect("the pattern is all hexadecimal digits");
                Chunk::Size { value: value * 16 + u64::from(digit), digits: digits + 1 }
            }
            (Chunk::Size { value, digits: 1.. }, b'\r') => Chunk::SizeLf { value },
            (Chunk::Size { value, digits: 1.. }, b';' | b' ' | b'\t') => Chunk::Extension { value },
            (Chunk::Extension { value }, b'\r') => Chunk::SizeLf { value },
            (Chunk::Extension { value }, _) => Chunk::Extension { value },
            (Chunk::SizeLf { value: 0 }, b'\n') => Chunk::Trailer { empty: true },
            (Chunk::SizeLf { value }, b'\n') => Chunk::Data { left: value },
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { value: 0, digits: 0 },
            (Chunk::Trailer { empty: true }, b'\n') => Chunk::Done,
            (Chunk::Trailer { empty: false }, b'\n') => Chunk::Trailer { empty: true },
            (Chunk::Trailer { empty }, b'\r') => Chunk::Trailer { empty },
            (Chunk::Trailer { .. }, _) => Chunk::Trailer { empty: false },
            _ => return Err(format!("byte {byte:#04x} breaks the grammar of chunks")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content bytes, bytes taken, completeness: the same for every way to cut the bytes.
    fn check(framing: Framing, bytes: &[u8], expected: Result<(u64, usize, bool), ()>) {
        for step in [1, 2, 3, 7, bytes.len().max(1)] {
            let mut body = Body::new(framing);
            let taken: Result<usize, String> = bytes.chunks(step).map(|part| body.take(part)).sum();
            let found = taken.map(|taken| (body.received(), taken, body.is_complete())).map_err(|_| ());
            assert_eq!(found, expected, "{:?} by {step}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_length_ends_after_its_bytes() {
        check(Framing::Length(0), b"GET", Ok((0, 0, true)));
        check(Framing::Length(3), b"abcGET", Ok((3, 3, true)));
        check(Framing::Length(4), b"abc", Ok((3, 3, false)));
    }

    #[test]
    fn chunks_end_with_an_empty_line_after_the_last() {
        check(Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\nGET", Ok((3, 13, true)));
        check(Framing::Chunked, b"A;x=y\r\n0123456789\r\n00\r\nTrailer: t\r\n\r\n", Ok((10, 37, true)));
        check(Framing::Chunked, b"3\r\nabc\r\n0\r\n", Ok((3, 11, false)));
        check(Framing::Chunked, b"3\r\nabcd", Err(()));
        check(Framing::Chunked, b"\r\n", Err(()));
        check(Framing::Chunked, b"x\r\n", Err(()));
    }
}
