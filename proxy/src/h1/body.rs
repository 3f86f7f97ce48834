//! Finds the data in a body, without copying it: each step says how many bytes of the input are framing and
//! how many after them are data. It keeps what it knows between steps, so any piece of input will do and
//! nothing has to be presented twice. Trailers are `trailers`' business. Machine, Hot.

use super::bytes::{TOKEN, hex, is, is_blank};
use super::trailers::Trailers;
use super::{Framing, Refusal};

/// What stands at the front of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyStep {
    /// Bytes of framing; they are used up.
    pub skip: usize,
    /// Bytes of data behind them. The next step starts after these.
    pub data: usize,
}

/// The decoder of one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    // Few bodies have trailers; the others should not carry room for them.
    trailers: Option<Box<Trailers>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Chunk(Chunk),
    ChunkData(u64),
    Trailers,
    Done,
}

/// Where in a chunk's line (RFC 9112 7.1) or behind its data we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    part: Part,
    size: u64,
    /// Bytes of this line so far.
    line_bytes: u16,
}

/// `chunk-size *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ) CRLF` (RFC 9112 7.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// CR after the data of a chunk.
    DataCr,
    /// LF after it.
    DataLf,
    /// The first digit.
    FirstDigit,
    Digits,
    /// Blanks that only `;` may end.
    BlankBeforeSemicolon,
    NameStart,
    Name,
    BlankAfterName,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    QuotedEnd,
    LineLf,
}

/// A chunk's line, extensions included. Extensions are read and dropped; nobody has a use for long ones.
const LINE_BYTES_MAX: u16 = 256;
/// As many digits as 64 bits have.
const SIZE_DIGITS_MAX: u16 = 16;

const CHUNK_LINE: Chunk = Chunk { part: Part::FirstDigit, size: 0, line_bytes: 0 };

impl BodyDecoder {
    /// A decoder at the front of a body.
    pub fn new(framing: Framing) -> BodyDecoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunk(CHUNK_LINE),
            Framing::UntilClose => State::UntilClose,
        };
        BodyDecoder { state, trailers: None }
    }

    /// Looks at `input`, which starts where the last step's data ended. Both counts are 0 if it is empty or the
    /// body is done; otherwise at least one is not. What is left when the body is done is the next message's.
    pub fn step(&mut self, input: &[u8]) -> Result<BodyStep, Refusal> {
        let mut skip = 0;
        loop {
            let rest = &input[skip..];
            match self.state {
                State::Done => return Ok(BodyStep { skip, data: 0 }),
                State::UntilClose => return Ok(BodyStep { skip, data: rest.len() }),
                State::Length(left) => {
                    let data = at_most(rest, left);
                    self.state = match left - data as u64 {
                        0 => State::Done,
                        left => State::Length(left),
                    };
                    return Ok(BodyStep { skip, data });
                }
                State::ChunkData(left) => {
                    let data = at_most(rest, left);
                    self.state = match left - data as u64 {
                        0 => State::Chunk(Chunk { part: Part::DataCr, size: 0, line_bytes: 0 }),
                        left => State::ChunkData(left),
                    };
                    return Ok(BodyStep { skip, data });
                }
                State::Chunk(mut chunk) => {
                    let (taken, size) = chunk.line(rest)?;
                    skip += taken;
                    self.state = match size {
                        None => State::Chunk(chunk),
                        Some(0) => State::Trailers,
                        Some(size) => State::ChunkData(size),
                    };
                    if size.is_none() {
                        return Ok(BodyStep { skip, data: 0 });
                    }
                }
                State::Trailers => {
                    let (taken, is_done) = self.trailer_bytes(rest)?;
                    skip += taken;
                    if is_done {
                        self.state = State::Done;
                    }
                    return Ok(BodyStep { skip, data: 0 });
                }
            }
        }
    }

    /// Whether all of the body has been seen.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether it stands elsewhere than at the front of a body in `framing`, or behind a chunk of it.
    pub fn has_begun(&self, framing: Framing) -> bool {
        self.state != BodyDecoder::new(framing).state
    }

    /// The peer will send no more. Ends a body that ends with its connection; others are truncated.
    pub fn on_eof(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Refusal::Truncated),
        }
    }

    /// Bytes of data that are known to be still to come: of the whole body if its length is known, else of the
    /// current chunk.
    pub fn data_left(&self) -> u64 {
        match self.state {
            State::Length(left) | State::ChunkData(left) => left,
            _ => 0,
        }
    }

    /// The trailers, each line with its CRLF as `write_last_chunk` wants them.
    pub fn trailers(&self) -> &[u8] {
        self.trailers.as_ref().map_or(&[], |trailers| trailers.lines())
    }

    fn trailer_bytes(&mut self, input: &[u8]) -> Result<(usize, bool), Refusal> {
        if self.trailers.is_none() && input.starts_with(b"\r\n") {
            return Ok((2, true));
        }
        if input.is_empty() {
            return Ok((0, false));
        }
        self.trailers.get_or_insert_default().take(input)
    }
}

fn at_most(input: &[u8], left: u64) -> usize {
    usize::try_from(left).map_or(input.len(), |left| left.min(input.len()))
}

impl Chunk {
    /// Reads up to the end of the chunk's line; the size once it is there.
    fn line(&mut self, input: &[u8]) -> Result<(usize, Option<u64>), Refusal> {
        if let Some((taken, size)) = self.plain_line(input) {
            return Ok((taken, Some(size)));
        }
        for (index, &byte) in input.iter().enumerate() {
            if self.part == Part::LineLf {
                return if byte == b'\n' { Ok((index + 1, Some(self.size))) } else { Err(Refusal::BareCr) };
            }
            self.line_bytes += 1;
            if self.line_bytes > LINE_BYTES_MAX {
                return Err(Refusal::ChunkLineTooLong);
            }
            self.part = self.next(byte)?;
        }
        Ok((input.len(), None))
    }

    /// The usual case at once: CRLF behind the data before, digits, CRLF, all there.
    fn plain_line(&self, input: &[u8]) -> Option<(usize, u64)> {
        let line = match self.part {
            Part::FirstDigit => input,
            Part::DataCr => input.strip_prefix(b"\r\n")?,
            _ => return None,
        };
        let mut size = 0;
        let mut digits = 0;
        while let Some(digit) = line.get(digits).copied().and_then(hex) {
            size = size << 4 | u64::from(digit);
            digits += 1;
        }
        let is_plain = (1..=usize::from(SIZE_DIGITS_MAX)).contains(&digits) && line[digits..].starts_with(b"\r\n");
        is_plain.then(|| (input.len() - line.len() + digits + 2, size))
    }

    fn next(&mut self, byte: u8) -> Result<Part, Refusal> {
        let extension = |found: Option<Part>| match (found, byte) {
            (Some(part), _) => Ok(part),
            (None, b'\n') => Err(Refusal::BareLf),
            (None, _) => Err(Refusal::ChunkExtension),
        };
        match self.part {
            Part::DataCr if byte == b'\r' => Ok(Part::DataLf),
            Part::DataLf if byte == b'\n' => {
                self.line_bytes = 0;
                Ok(Part::FirstDigit)
            }
            Part::DataCr | Part::DataLf => Err(Refusal::ChunkEnd),
            Part::FirstDigit | Part::Digits => match (hex(byte), self.part) {
                (Some(_), _) if self.line_bytes > SIZE_DIGITS_MAX => Err(Refusal::ChunkSize),
                (Some(digit), _) => {
                    self.size = self.size << 4 | u64::from(digit);
                    Ok(Part::Digits)
                }
                (None, Part::FirstDigit) => Err(Refusal::ChunkSize),
                (None, _) => match byte {
                    b'\r' => Ok(Part::LineLf),
                    b';' => Ok(Part::NameStart),
                    b' ' | b'\t' => Ok(Part::BlankBeforeSemicolon),
                    b'\n' => Err(Refusal::BareLf),
                    _ => Err(Refusal::ChunkSize),
                },
            },
            Part::BlankBeforeSemicolon => match byte {
                b';' => Ok(Part::NameStart),
                b' ' | b'\t' => Ok(Part::BlankBeforeSemicolon),
                // RFC 9112 7.1: no blanks at the end of the line.
                _ => extension(None),
            },
            Part::NameStart => match byte {
                _ if is_blank(byte) => Ok(Part::NameStart),
                _ => extension(is(TOKEN, byte).then_some(Part::Name)),
            },
            Part::Name if is(TOKEN, byte) => Ok(Part::Name),
            Part::Name if byte == b'\r' => Ok(Part::LineLf),
            Part::Name | Part::BlankAfterName => match byte {
                b';' => Ok(Part::NameStart),
                b'=' => Ok(Part::ValueStart),
                b' ' | b'\t' => Ok(Part::BlankAfterName),
                _ => extension(None),
            },
            Part::ValueStart => match byte {
                b' ' | b'\t' => Ok(Part::ValueStart),
                b'"' => Ok(Part::Quoted),
                _ => extension(is(TOKEN, byte).then_some(Part::Value)),
            },
            Part::Value if is(TOKEN, byte) => Ok(Part::Value),
            Part::Value | Part::QuotedEnd => match byte {
                b'\r' => Ok(Part::LineLf),
                b';' => Ok(Part::NameStart),
                b' ' | b'\t' => Ok(Part::BlankBeforeSemicolon),
                _ => extension(None),
            },
            // RFC 9110 5.6.4.
            Part::Quoted => match byte {
                b'"' => Ok(Part::QuotedEnd),
                b'\\' => Ok(Part::QuotedPair),
                _ => extension(is_quotable(byte).then_some(Part::Quoted)),
            },
            Part::QuotedPair => extension(is_quotable(byte).then_some(Part::Quoted)),
            // `line` ends there.
            Part::LineLf => Err(Refusal::BareCr),
        }
    }
}

/// Text that a quoted string may have, its quote and backslash aside.
fn is_quotable(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
