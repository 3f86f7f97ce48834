//! The forms of a request target (RFC 9112 3.2) and the two places that name a host: afterwards `path`,
//! `query`, `host` and `authority` are in their normal form and a Host field says what `authority` says.
//! The grammar of hosts and paths is `host`'s and `path`'s business. Pure, Hot.

use config::snapshot::EncodedSlash;
use filters::head::{Head, Known, Span};

use super::host::{self, Authority};
use super::path;
use super::{Method, Refusal};

/// Splits the target that `head.path` holds and settles the host. `host_field`: where Host stands among the
/// fields, if it is there.
#[inline]
pub(super) fn settle(
    head: &mut Head,
    method: Method,
    host_field: Option<usize>,
    slash: EncodedSlash,
) -> Result<(), Refusal> {
    // An invalid Host is refused even where the target's host wins (RFC 9112 3.2).
    let from_field = match host_field {
        Some(index) => Some(host::read(head, head.fields()[index].value)?),
        None => None,
    };
    let target = head.path;
    let from_target = match head.bytes(target).first() {
        Some(b'/') => {
            split(head, target);
            None
        }
        Some(b'*') if target.len() == 1 && method == Method::Options => None,
        _ => Some(absolute(head, method, target)?),
    };
    if head.bytes(head.path) != b"*" && !path::is_normal(head.bytes(head.path)) {
        let range = head.path.range();
        let mut outcome = Ok(());
        let normal = head.append_with(|text| outcome = path::normalise(text, range, slash));
        outcome?;
        head.path = normal;
    }
    let Some(authority) = from_target.or(from_field) else { return Ok(()) };
    head.host = authority.host;
    head.authority = authority.whole;
    if from_target.is_some() || !authority.is_normal() {
        replace_host(head, authority, host_field);
    }
    Ok(())
}

/// Splits path and query at the first `?`.
#[inline]
fn split(head: &mut Head, target: Span) {
    let Span { start, end } = target;
    if let Some(offset) = memchr::memchr(b'?', head.bytes(target)) {
        let mark = start as usize + offset;
        head.has_query = true;
        head.query = Span::new(mark + 1, end as usize);
        head.path = Span::new(start as usize, mark);
    }
}

/// Reads `http://host[:port][path][?query]` (RFC 9112 3.2.2): a server MUST accept it, though mostly clients that take
/// us for a proxy send it.
fn absolute(head: &mut Head, method: Method, target: Span) -> Result<Authority, Refusal> {
    let bytes = head.bytes(target);
    let starts = |scheme: &[u8]| bytes.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if !starts(b"http://") {
        return Err(if starts(b"https://") { Refusal::Scheme } else { Refusal::Target });
    }
    let scheme = b"http://".len();
    let length = bytes[scheme..].iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(bytes.len() - scheme);
    let start = target.start as usize + scheme;
    let authority = host::read(head, Span::new(start, start + length))?;
    let rest = Span::new(start + length, target.end as usize);
    head.path = rest;
    split(head, rest);
    if head.path.is_empty() {
        // RFC 9112 3.2.4: OPTIONS without path and query asks about the server; elsewhere it is the root.
        let is_server = method == Method::Options && !head.has_query;
        head.path = head.append(if is_server { b"*" } else { b"/" });
    }
    Ok(authority)
}

/// Puts one Host in normal form in the place of what came (RFC 9112 3.2.2: the target's host replaces it).
fn replace_host(head: &mut Head, authority: Authority, host_field: Option<usize>) {
    if let Some(index) = host_field {
        head.remove_at(index);
    }
    head.add_with("Host", Known::Host, |text| {
        text.extend_from_within(authority.host.range());
        if !authority.port.is_empty() {
            text.push(b':');
            text.extend_from_within(authority.port.range());
        }
    });
    if let Some(field) = head.fields().last() {
        head.authority = field.value;
    }
}
