//! Which fields the engine knows, told by length, first letter and one comparison. Most names fail on the
//! first two. Pure, Hot.

use filters::head::{Known, is_same_name};

/// What the engine knows a field as. `name` is a token without `_`.
#[inline]
pub(super) fn known(name: &[u8]) -> Known {
    let Some(first) = name.first() else { return Known::Other };
    let (candidate, known) = match (name.len(), first | 0x20) {
        (2, b't') => ("te", Known::Te),
        (4, b'd') => ("date", Known::Date),
        (4, b'h') => ("host", Known::Host),
        (6, b'e') => ("expect", Known::Expect),
        (7, b't') => ("trailer", Known::Trailer),
        (7, b'u') => ("upgrade", Known::Upgrade),
        (9, b'f') => ("forwarded", Known::ForwardedKin),
        (9, b'x') => ("x-real-ip", Known::ForwardedKin),
        (10, b'c') => ("connection", Known::Connection),
        (10, b'k') => ("keep-alive", Known::KeepAlive),
        (11, b't') => ("traceparent", Known::Traceparent),
        (11, b'r') => ("retry-after", Known::RetryAfter),
        (12, b'x') => ("x-request-id", Known::RequestId),
        (14, b'c') => ("content-length", Known::ContentLength),
        (14, b'h') => ("http2-settings", Known::Http2Settings),
        (14, b'x') => ("x-evenkeel-hop", Known::Hop),
        (15, b'x') => ("x-forwarded-for", Known::XForwardedFor),
        (16, b'x') if name[12] | 0x20 == b'h' => ("x-forwarded-host", Known::ForwardedKin),
        (16, b'x') => ("x-forwarded-port", Known::ForwardedKin),
        (16, b'p') => ("proxy-connection", Known::ProxyConnection),
        (17, b't') => ("transfer-encoding", Known::TransferEncoding),
        (17, b'x') if name[2] | 0x20 == b'e' => ("x-evenkeel-mirror", Known::Mirror),
        (17, b'x') => ("x-forwarded-proto", Known::ForwardedKin),
        (18, b'p') => ("proxy-authenticate", Known::ProxyAuth),
        (19, b'p') => ("proxy-authorization", Known::ProxyAuth),
        _ => return Known::Other,
    };
    if is_same_name(name, candidate.as_bytes()) { known } else { Known::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_whatever_their_case() {
        for (name, expected) in [
            ("Host", Known::Host),
            ("HOST", Known::Host),
            ("hosu", Known::Other),
            ("tE", Known::Te),
            ("Content-Length", Known::ContentLength),
            ("Content_Length", Known::Other),
            ("transfer-encodinG", Known::TransferEncoding),
            ("X-Forwarded-Port", Known::ForwardedKin),
            ("X-Forwarded-Host", Known::ForwardedKin),
            ("X-Forwarded-Hose", Known::Other),
            ("X-Forwarded-Proto", Known::ForwardedKin),
            ("X-Evenkeel-Mirror", Known::Mirror),
            ("X-Evenkeel-Mirrox", Known::Other),
            ("x-evenkeel-Hop", Known::Hop),
            ("Proxy-Authorization", Known::ProxyAuth),
            ("Keep-Alive", Known::KeepAlive),
            ("Retry-After", Known::RetryAfter),
            ("", Known::Other),
        ] {
            assert_eq!(known(name.as_bytes()), expected, "{name}");
        }
    }
}
