//! What the codec as a whole does to messages: tables of what is forwarded and what is refused, and the
//! properties that hold for all messages.

mod answers;
mod bodies;
mod properties;
mod requests;

use filters::Head;

use super::*;
use config::snapshot::EncodedSlash;

const LIMITS: HeadLimits = HeadLimits { bytes_max: 4096, fields_max: 20 };

/// Text with each `|` for CRLF, so that rows stay on one line.
fn wire(row: &str) -> Vec<u8> {
    row.replace('|', "\r\n").into_bytes()
}

fn row(wire: &[u8]) -> String {
    wire.escape_ascii()
        .to_string()
        .replace("\\r\\n", "|")
        .replace("\\\"", "\"")
        .replace("\\\\", "\\")
        .replace("\\'", "'")
}

fn told(refusal: Refusal) -> String {
    format!("{} {}", refusal.status(), refusal.reason())
}

/// The whole way of a request's head: what the upstream gets, or the refusal.
fn forwarded(input: &[u8]) -> Result<(usize, RequestMeta, Head, String), String> {
    let mut head = Head::default();
    let n = parse_request(input, &mut 0, LIMITS, &mut head).map_err(told)?.ok_or("more")?;
    let meta = check_request(&mut head, EncodedSlash::Keep).map_err(told)?;
    let mut out = Vec::new();
    encode_request(&head, meta.framing, meta.te_trailers, &mut out);
    Ok((n, meta, head, row(&out)))
}
