//! Finds a head in the bytes received and tells its lines apart, strictly by RFC 9112: CRLF ends lines,
//! nothing folds, nothing stands between a name and its colon. What the lines mean together is `check`'s
//! business. Pure, Hot.
//!
//! A head that arrives whole is read in one pass. One that arrives in pieces is read line by line: complete
//! lines stay in `Head`, and later calls only look for the next line feed, so that slow heads cost linear time.

use filters::head::{Field, Head, Known, Span, name_key};

use super::Refusal;
use super::bytes::{self, TOKEN, is, is_blank, text_end};
use super::names::known;
use super::start_line::{request_line, status_line};

/// Bounds of one head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes from the start line to the empty line, both included.
    pub bytes_max: usize,
    /// Field lines.
    pub fields_max: usize,
}

/// No limit lets a head grow beyond this, so that spans can count it.
const HEAD_BYTES_CEILING: usize = 16 << 20;

/// Looks for a request's head at the front of `input`, which holds all bytes received so far. `Some(n)`: it
/// took `n` bytes and `head` is filled; `head.path` holds the whole target until `check_request`. `None`: more
/// bytes are needed; until then the caller keeps `input`, `scanned` and `head` as they are.
///
/// `scanned` is 0 for a new message and again when one is complete. Refusals come at the latest with the end
/// of the line that is wrong, not of the head; what was understood before it is in `head`.
pub fn parse_request(
    input: &[u8],
    scanned: &mut usize,
    limits: HeadLimits,
    head: &mut Head,
) -> Result<Option<usize>, Refusal> {
    parse(input, scanned, limits, head, request_line)
}

/// Looks for an answer's head, as `parse_request` does for a request's.
pub fn parse_response(
    input: &[u8],
    scanned: &mut usize,
    limits: HeadLimits,
    head: &mut Head,
) -> Result<Option<usize>, Refusal> {
    parse(input, scanned, limits, head, status_line)
}

/// The end of a start line, or None if it is not complete.
pub(super) type LineEnd = Result<Option<usize>, Refusal>;

#[inline]
fn parse(
    input: &[u8],
    scanned: &mut usize,
    limits: HeadLimits,
    head: &mut Head,
    start_line: impl Fn(&[u8], &mut Head) -> LineEnd,
) -> Result<Option<usize>, Refusal> {
    let bytes_max = limits.bytes_max.min(HEAD_BYTES_CEILING);
    let input = &input[..input.len().min(bytes_max)];
    if *scanned == 0 || head.text().len() > input.len() {
        head.clear();
    }
    // The text is the lines read so far, so its length is where the next one starts.
    let kept = head.text().len();
    if *scanned == 0 || input.get(*scanned..).is_some_and(|unseen| memchr::memchr(b'\n', unseen).is_some()) {
        let mut at = kept;
        let outcome = lines(input, &mut at, limits.fields_max, head, start_line);
        // Refused heads keep their text too: their spans are looked at by the log.
        head.receive(&input[kept..at]);
        if outcome? {
            *scanned = 0;
            return Ok(Some(at));
        }
    }
    if input.len() == bytes_max {
        return Err(if head.text().is_empty() { Refusal::TargetTooLong } else { Refusal::HeadTooLarge });
    }
    *scanned = input.len();
    Ok(None)
}

/// Reads lines until the empty one; false if the input ends before it. `at` is where the last complete line
/// ended.
#[inline]
fn lines(
    input: &[u8],
    at: &mut usize,
    fields_max: usize,
    head: &mut Head,
    start_line: impl Fn(&[u8], &mut Head) -> LineEnd,
) -> Result<bool, Refusal> {
    if *at == 0 {
        match start_line(input, head)? {
            Some(end) => *at = end,
            None => return Ok(false),
        }
    }
    loop {
        match field_line(input, *at)? {
            Line::Partial => return Ok(false),
            Line::Field(field) => {
                if head.fields().len() >= fields_max {
                    return Err(Refusal::TooManyFields);
                }
                *at = field.line.end as usize;
                head.push_field(field);
            }
            Line::Empty => {
                *at += 2;
                return Ok(true);
            }
        }
    }
}

/// What stands at the front of the input.
pub(super) enum Line {
    /// A field.
    Field(Field),
    /// CRLF: the end of a section.
    Empty,
    /// Less than a line.
    Partial,
}

/// Reads the field line that starts at `start` (RFC 9112 5).
#[inline(always)]
pub(super) fn field_line(input: &[u8], start: usize) -> Result<Line, Refusal> {
    let mut name_end = bytes::name_end(input, start);
    let mut underscored = false;
    while input.get(name_end) == Some(&b'_') {
        underscored = true;
        name_end = bytes::name_end(input, name_end + 1);
    }
    if input.get(name_end) != Some(&b':') || name_end == start {
        return no_name(input, start, name_end);
    }
    let mut value_start = name_end + 1;
    if input.get(value_start) == Some(&b' ') {
        value_start += 1;
    }
    let mut untidy = false;
    while let Some(&byte) = input.get(value_start)
        && byte <= b' '
        && is_blank(byte)
    {
        value_start += 1;
        untidy = true;
    }
    let text_end = text_end(input, value_start);
    let Some(line_end) = line_end(input, text_end)? else { return Ok(Line::Partial) };
    let mut value_end = text_end;
    // Of all bytes up to the space, text has only blanks.
    while value_end > value_start && input[value_end - 1] <= b' ' {
        value_end -= 1;
        untidy = true;
    }
    let name = &input[start..name_end];
    Ok(Line::Field(Field {
        name: Span::new(start, name_end),
        value: Span::new(value_start, value_end),
        line: Span::new(start, line_end),
        known: if underscored { Known::Underscored } else { known(name) },
        key: name_key(name),
        removed: false,
        untidy,
    }))
}

/// What a line without a well-formed name and colon is: mostly the empty line at the end.
fn no_name(input: &[u8], start: usize, name_end: usize) -> Result<Line, Refusal> {
    Err(match (input.get(name_end), name_end == start) {
        (None, _) => return Ok(Line::Partial),
        (Some(b'\r'), true) => match line_end(input, name_end)? {
            Some(_) => return Ok(Line::Empty),
            None => return Ok(Line::Partial),
        },
        (Some(b'\r'), false) => Refusal::NoColon,
        (Some(b'\n'), _) => Refusal::BareLf,
        // RFC 9112 5.2 has no good use for folding; RFC 9112 2.2 none for blanks before the first field.
        (Some(b' ' | b'\t'), true) => Refusal::Fold,
        // RFC 9112 5.1: refused, since some would read another name.
        (Some(b' ' | b'\t'), false) => Refusal::BlankInName,
        (Some(_), _) => Refusal::Name,
    })
}

/// The end of a line whose text ends at `at`, where nothing but CRLF may stand.
#[inline(always)]
pub(super) fn line_end(input: &[u8], at: usize) -> LineEnd {
    match input.get(at..).and_then(|rest| rest.first_chunk::<2>()) {
        Some(b"\r\n") => Ok(Some(at + 2)),
        _ => no_line_end(input, at),
    }
}

#[cold]
fn no_line_end(input: &[u8], at: usize) -> LineEnd {
    match (input.get(at), input.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(Some(at + 2)),
        (None, _) | (Some(b'\r'), None) => Ok(None),
        (Some(b'\r'), Some(_)) => Err(Refusal::BareCr),
        (Some(b'\n'), _) => Err(Refusal::BareLf),
        (Some(_), _) => Err(Refusal::Value),
    }
}

/// Whether all of `bytes` are one token.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is(TOKEN, byte))
}
