//! Writes a head for the next hop: the start line in its normal form, the fields that are left, copied with
//! their neighbours, then framing and connection of our own. What belongs to one hop was removed by `check`;
//! rules come between. Pure, Hot.

use filters::head::{Field, Head, Known, Version};

use super::Framing;
use super::bytes::{decimal, write_decimal};

/// Appends a request's head, always in HTTP/1.1 (RFC 9112 2.3). A Host line is copied if it says what
/// `head.authority` says, else written from it; `authority` must not be empty unless an empty Host is meant.
/// `te_trailers` tells the upstream that trailers reach the client.
pub fn encode_request(head: &Head, framing: Framing, te_trailers: bool, out: &mut Vec<u8>) {
    out.reserve(head.text().len() + 128);
    out.extend_from_slice(head.bytes(head.method));
    out.push(b' ');
    out.extend_from_slice(head.bytes(head.path));
    if head.has_query {
        out.push(b'?');
        out.extend_from_slice(head.bytes(head.query));
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let is_host = |field: &Field| field.known == Known::Host && field.value == head.authority;
    if !head.live().any(is_host) {
        // RFC 9110 7.2: SHOULD be first, since that is where readers look for it.
        out.extend_from_slice(b"Host: ");
        out.extend_from_slice(head.bytes(head.authority));
        out.extend_from_slice(b"\r\n");
    }
    let is_length_kept = is_length_kept(head, framing);
    head.copy_fields(out, |field| match field.known {
        Known::Host => is_host(field),
        Known::ContentLength => is_length_kept,
        _ => true,
    });
    write_framing(framing, is_length_kept, out);
    if te_trailers {
        // RFC 9110 10.1.4: TE is named, so that no hop forwards it by mistake.
        out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends an answer's head with its status and reason phrase. `client` is the version that the client spoke;
/// with `UntilClose` the connection says `close` whatever `keep_alive` is.
pub fn encode_response(head: &Head, framing: Framing, client: Version, keep_alive: bool, out: &mut Vec<u8>) {
    out.reserve(head.text().len() + 128);
    // RFC 9112 2.3: our own version, also to HTTP/1.0.
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(head.bytes(head.reason));
    out.extend_from_slice(b"\r\n");
    // Without a body it tells the length of what HEAD or 304 leave out.
    let is_length_kept = framing == Framing::None || is_length_kept(head, framing);
    head.copy_fields(out, |field| field.known != Known::ContentLength || is_length_kept);
    write_framing(framing, is_length_kept, out);
    if !keep_alive || framing == Framing::UntilClose {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if client == Version::Http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The framing of an answer to a client of that version: bodies without length are chunked, or end with the
/// connection of an HTTP/1.0 client (RFC 9112 6.1).
pub fn answer_framing(upstream: Framing, client: Version) -> Framing {
    match (upstream, client) {
        (Framing::Chunked | Framing::UntilClose, Version::Http11) => Framing::Chunked,
        (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        (framing, _) => framing,
    }
}

/// Appends the line before a chunk's data. `\r\n` follows the data. `bytes` is not 0, which would end the body.
pub fn write_chunk_head(out: &mut Vec<u8>, bytes: usize) {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[bytes >> (4 * place) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body with trailers as `BodyDecoder::trailers` gives them.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

/// Whether the head's own Content-Length says what the framing says.
fn is_length_kept(head: &Head, framing: Framing) -> bool {
    let Framing::Length(length) = framing else { return false };
    head.known(Known::ContentLength).is_some_and(|digits| decimal(digits) == Some(length))
}

fn write_framing(framing: Framing, is_length_kept: bool, out: &mut Vec<u8>) {
    match framing {
        Framing::Length(length) if !is_length_kept => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
}
