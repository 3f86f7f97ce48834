//! The first line of a message: `method SP target SP version` or `version SP status SP reason`, word by word
//! (RFC 9112 3 and 4). What the target means is `target`'s business. Pure, Hot.

use filters::head::{Head, Span, Version};

use super::Refusal;
use super::bytes::{self, TOKEN, run_end, text_end};
use super::parse::{LineEnd, line_end};

/// Empty lines skipped before a request line. RFC 9112 2.2 wants at least one, for old clients.
const EMPTY_LINES_MAX: usize = 4;
/// Longer methods are refused early, so that garbage does not fill a buffer first.
const METHOD_BYTES_MAX: usize = 64;

/// Reads `method SP target SP version CRLF` (RFC 9112 3).
#[inline]
pub(super) fn request_line(input: &[u8], head: &mut Head) -> LineEnd {
    let start = if input.first() == Some(&b'\r') { skip_empty_lines(input)? } else { 0 };
    let method_end = run_end(TOKEN, input, start);
    if method_end - start > METHOD_BYTES_MAX {
        return Err(Refusal::Method);
    }
    match input.get(method_end) {
        Some(b' ') if method_end > start => {}
        None => return Ok(None),
        Some(b'\r') if method_end == start => return Ok(None),
        other => return Err(no_method(other.copied(), method_end > start)),
    }
    let target_start = method_end + 1;
    let target_end = bytes::target_end(input, target_start);
    match input.get(target_end) {
        Some(b' ') if target_end > target_start => {}
        None => return Ok(None),
        // No version: HTTP/0.9, or several blanks.
        Some(b'\r' | b' ' | b'\t') => return Err(Refusal::RequestLine),
        Some(b'\n') => return Err(Refusal::BareLf),
        Some(_) => return Err(Refusal::Target),
    }
    let version_start = target_end + 1;
    let rest = &input[version_start..];
    head.version = match rest.first_chunk::<10>() {
        Some(b"HTTP/1.1\r\n") => Version::Http11,
        Some(b"HTTP/1.0\r\n") => Version::Http10,
        _ => return other_version(rest),
    };
    head.method = Span::new(start, method_end);
    head.path = Span::new(target_start, target_end);
    Ok(Some(version_start + 10))
}

/// Where the request line starts after empty lines; at a lone CR if that is all there is.
fn skip_empty_lines(input: &[u8]) -> Result<usize, Refusal> {
    let mut at = 0;
    while at < 2 * EMPTY_LINES_MAX && input.get(at) == Some(&b'\r') {
        match line_end(input, at)? {
            Some(end) => at = end,
            None => return Ok(at),
        }
    }
    if input.get(at) == Some(&b'\r') { Err(Refusal::RequestLine) } else { Ok(at) }
}

fn no_method(byte: Option<u8>, some: bool) -> Refusal {
    match byte {
        Some(b'\n') => Refusal::BareLf,
        Some(b'\r') if some => Refusal::RequestLine,
        Some(b' ' | b'\t') => Refusal::RequestLine,
        _ => Refusal::Method,
    }
}

/// What stands where `HTTP/1.1` or `HTTP/1.0` and CRLF are expected.
fn other_version(rest: &[u8]) -> LineEnd {
    // RFC 9112 2.3: upper case, one digit, dot, one digit.
    for (index, &byte) in rest.iter().take(10).enumerate() {
        match (index, byte) {
            (5 | 7, b'0'..=b'9') => {}
            (0..=4, _) if byte == b"HTTP/"[index] => {}
            (6, b'.') | (8, b'\r') | (9, b'\n') => {}
            (8, b'\n') => return Err(Refusal::BareLf),
            (9, _) => return Err(Refusal::BareCr),
            // Too many words or blanks.
            (0 | 8, b' ' | b'\t' | b'\r') => return Err(Refusal::RequestLine),
            _ => return Err(Refusal::Version),
        }
    }
    // RFC 9110 6.2 SHOULD have 1.2 read as 1.1. There is no 1.2 and who says so is testing us.
    if rest.len() < 10 { Ok(None) } else { Err(Refusal::VersionUnsupported) }
}

/// Reads `version SP status SP [reason] CRLF` (RFC 9112 4). The space before an empty reason may be missing,
/// as many servers have it: it cannot change where anything ends.
#[inline]
pub(super) fn status_line(input: &[u8], head: &mut Head) -> LineEnd {
    head.version = match input.first_chunk::<9>() {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' '])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Refusal::VersionUnsupported);
        }
        Some(_) => return Err(Refusal::StatusLine),
        // So that a server that speaks something else is not waited for.
        None if b"HTTP/".starts_with(&input[..input.len().min(5)]) => return Ok(None),
        None => return Err(Refusal::StatusLine),
    };
    let Some(&[hundreds, tens, ones]) = input.get(9..).and_then(|rest| rest.first_chunk::<3>()) else {
        return Ok(None);
    };
    // RFC 9110 15: 100 to 599.
    if !((b'1'..=b'5').contains(&hundreds) && tens.is_ascii_digit() && ones.is_ascii_digit()) {
        return Err(Refusal::StatusLine);
    }
    let reason_start = match input.get(12) {
        None => return Ok(None),
        Some(b' ') => 13,
        Some(b'\r' | b'\n') => 12,
        Some(_) => return Err(Refusal::StatusLine),
    };
    let reason_end = text_end(input, reason_start);
    let Some(end) = line_end(input, reason_end)? else { return Ok(None) };
    head.status = u16::from(hundreds - b'0') * 100 + u16::from(tens - b'0') * 10 + u16::from(ones - b'0');
    head.reason = Span::new(reason_start, reason_end);
    Ok(Some(end))
}
