//! Where a body ends, as the two framing fields say it (RFC 9112 6). Strict: what two readers could take
//! for two lengths is refused. Pure, Hot.

use super::Refusal;
use super::bytes::decimal;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112 7.1).
    Chunked,
    /// All until the connection ends; answers only.
    UntilClose,
}

/// What Content-Length says (RFC 9110 8.6): digits only. RFC 9110 lets a recipient accept `5, 5`; we do not.
#[inline]
pub(super) fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    decimal(value).ok_or(Refusal::Length)
}

/// Whether a number's digits are the only way to write it: no leading zeros.
#[inline]
pub(super) fn is_canonical(digits: &[u8]) -> bool {
    digits.len() == 1 || digits.first() != Some(&b'0')
}

/// Accepts `chunked`, whatever its case, and nothing else.
#[inline]
pub(super) fn transfer_encoding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") { Ok(()) } else { Err(other_encoding(value)) }
}

/// RFC 9112 6.1: a coding that is not implemented is 501, if the body's end could be found at all. RFC 9112
/// 6.3: without a final `chunked` it cannot be, and that is 400; so is `chunked` twice (RFC 9112 6.1).
fn other_encoding(value: &[u8]) -> Refusal {
    const KNOWN: [&str; 5] = ["gzip", "x-gzip", "deflate", "compress", "x-compress"];
    let mut codings = value.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let is_chunked_last = codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let are_known_before =
        codings.all(|coding| KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known.as_bytes())));
    if is_chunked_last && are_known_before { Refusal::EncodingUnknown } else { Refusal::Encoding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        for (value, expected) in [
            ("chunked", Ok(())),
            ("Chunked", Ok(())),
            ("gzip, chunked", Err(Refusal::EncodingUnknown)),
            ("gzip,deflate,CHUNKED", Err(Refusal::EncodingUnknown)),
            ("chunked, gzip", Err(Refusal::Encoding)),
            ("chunked, chunked", Err(Refusal::Encoding)),
            ("identity", Err(Refusal::Encoding)),
            ("identity, chunked", Err(Refusal::Encoding)),
            ("xchunked", Err(Refusal::Encoding)),
            ("chunked,", Err(Refusal::Encoding)),
            (",chunked", Err(Refusal::Encoding)),
            ("chunked;q=1", Err(Refusal::Encoding)),
            ("\"chunked\"", Err(Refusal::Encoding)),
            ("", Err(Refusal::Encoding)),
        ] {
            assert_eq!(transfer_encoding(value.as_bytes()), expected, "{value}");
        }
    }
}
