//! The trailer section of a chunked body: parsed like fields of a head, bounded, and without what must not
//! come late (RFC 9110 6.5.1). Pure, Hot.

use filters::head::Known;

use super::Refusal;
use super::names::known;
use super::parse::{Line, field_line};

/// Bytes of all trailers.
const BYTES_MAX: usize = 8 * 1024;
/// Trailer fields.
const FIELDS_MAX: usize = 64;

/// Trailer lines as they came in, each with its CRLF.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    lines: Vec<u8>,
    fields: usize,
    /// Where the line begins that is not complete yet.
    open: usize,
}

impl Trailers {
    /// The complete lines.
    pub fn lines(&self) -> &[u8] {
        &self.lines[..self.open]
    }

    /// Takes bytes up to the end of the section; how many, and whether that was all.
    pub fn take(&mut self, input: &[u8]) -> Result<(usize, bool), Refusal> {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            if self.lines.len() + length > BYTES_MAX {
                return Err(Refusal::TrailersTooLarge);
            }
            self.lines.extend_from_slice(&rest[..length]);
            taken += length;
            if self.lines.last() == Some(&b'\n') && self.is_last_line()? {
                return Ok((taken, true));
            }
        }
        Ok((taken, false))
    }

    /// Reads the complete line at the end; true for the empty one that ends the section.
    fn is_last_line(&mut self) -> Result<bool, Refusal> {
        let field = match field_line(&self.lines, self.open)? {
            Line::Field(field) => field,
            Line::Empty => return Ok(true),
            Line::Partial => return Ok(false),
        };
        if is_forbidden(&self.lines[field.name.range()]) {
            return Err(Refusal::TrailerForbidden);
        }
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(Refusal::TrailersTooLarge);
        }
        // Dropped here as heads drop it at the edge; no trailer in use has such a name.
        if field.known == Known::Underscored {
            self.lines.truncate(self.open);
        }
        self.open = self.lines.len();
        Ok(false)
    }
}

/// RFC 9110 6.5.1: what frames, routes, authenticates, modifies the request, controls the answer, or tells how to
/// process the content has its effect before the content or none. What tells the lane of a request routes it.
fn is_forbidden(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 29] = [
        "age",
        "authorization",
        "baggage",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authentication-info",
        "range",
        "set-cookie",
        "strict-transport-security",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
    ];
    const OURS: &[u8] = b"x-evenkeel-";
    known(name) != Known::Other
        || name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS))
        || FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}
