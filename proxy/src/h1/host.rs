//! A host with its port: the grammar of RFC 9110 7.2 as DNS and addresses need it, and its one normal form:
//! lower case, no trailing dot, no empty port. Whether there is exactly one Host is `check`'s business. Pure, Hot.

use std::net::Ipv6Addr;

use filters::head::{Head, Span};

use super::Refusal;
use super::bytes::{HOST, decimal, is, run_end};

/// A host in the text of a head, in lower case already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Authority {
    /// Without port and trailing dot.
    pub host: Span,
    /// The digits of the port; empty if there is none.
    pub port: Span,
    /// Both as received.
    pub whole: Span,
}

impl Authority {
    /// Whether what was received is the normal form.
    pub fn is_normal(&self) -> bool {
        let end = if self.port.is_empty() { self.host.end } else { self.port.end };
        let colons = u32::from(!self.port.is_empty());
        end == self.whole.end && self.host.end + colons + self.port.len() as u32 == end
    }
}

/// Reads `host [":" port]` and makes it lower case where it stands.
#[inline]
pub(super) fn read(head: &mut Head, whole: Span) -> Result<Authority, Refusal> {
    let bytes = head.bytes(whole);
    let mut host_end = run_end(HOST, bytes, 0);
    if let Some(&byte) = bytes.get(host_end)
        && byte != b':'
    {
        host_end = if byte == b'[' && host_end == 0 { address_end(bytes)? } else { name_end(bytes)? };
        head.bytes_mut(whole)[..host_end].make_ascii_lowercase();
    }
    let bytes = head.bytes(whole);
    let port = match bytes.get(host_end) {
        None => Span::new(whole.end as usize, whole.end as usize),
        Some(b':') => {
            let digits = &bytes[host_end + 1..];
            // RFC 3986 3.2.3: the port may be empty. 0 is no port to connect to.
            let is_port = digits.is_empty() || (digits.len() <= 5 && matches!(decimal(digits), Some(1..=65535)));
            if !is_port {
                return Err(Refusal::Host);
            }
            Span::new(whole.start as usize + host_end + 1, whole.end as usize)
        }
        Some(_) => return Err(Refusal::Host),
    };
    if bytes[..host_end].last() == Some(&b'.') {
        host_end -= 1;
    }
    // RFC 9110 4.2.1: no http URI has an empty host. Two trailing dots are an empty label.
    if matches!(bytes[..host_end].last(), None | Some(b'.')) {
        return Err(Refusal::Host);
    }
    Ok(Authority { host: Span::new(whole.start as usize, whole.start as usize + host_end), port, whole })
}

/// Where a name with capital letters ends: at the colon or the end.
fn name_end(bytes: &[u8]) -> Result<usize, Refusal> {
    let end = bytes.iter().position(|byte| !is(HOST, byte.to_ascii_lowercase())).unwrap_or(bytes.len());
    match bytes.get(end) {
        None | Some(b':') => Ok(end),
        Some(_) => Err(Refusal::Host),
    }
}

/// Where an address in brackets ends (RFC 3986 3.2.2). Zones and future versions are not for the wire.
fn address_end(bytes: &[u8]) -> Result<usize, Refusal> {
    let close = bytes.iter().position(|&byte| byte == b']').ok_or(Refusal::Host)?;
    let is_address = str::from_utf8(&bytes[1..close]).is_ok_and(|inside| inside.parse::<Ipv6Addr>().is_ok());
    if is_address { Ok(close + 1) } else { Err(Refusal::Host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `host|port|whether it was normal`, or `refused`.
    fn check(whole: &str, expected: &str) {
        let mut head = Head::default();
        let span = head.append(whole.as_bytes());
        let seen = match read(&mut head, span) {
            Ok(authority) => {
                let text = |span| String::from_utf8_lossy(head.bytes(span)).into_owned();
                format!("{}|{}|{}", text(authority.host), text(authority.port), authority.is_normal())
            }
            Err(refusal) => {
                assert_eq!(refusal, Refusal::Host);
                "refused".into()
            }
        };
        assert_eq!(seen, expected, "{whole:?}");
    }

    #[test]
    fn hosts() {
        check("shop.local", "shop.local||true");
        check("Shop.LOCAL", "shop.local||true");
        check("shop.local:8080", "shop.local|8080|true");
        check("SHOP:80", "shop|80|true");
        check("shop.local.", "shop.local||false");
        check("shop.local.:80", "shop.local|80|false");
        check("shop.local:", "shop.local||false");
        check("10.1.2.3:1", "10.1.2.3|1|true");
        check("[::1]", "[::1]||true");
        check("[2001:DB8::1]:443", "[2001:db8::1]|443|true");
        check("a_b~c-1", "a_b~c-1||true");
        for bad in [
            "",
            ".",
            "..",
            "a..",
            ":80",
            "a:b",
            "a:65536",
            "a:0",
            "a:123456",
            "a:+1",
            "a:80:80",
            "u@a",
            "u:p@a",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a,b",
            "a%62",
            "[::1",
            "::1",
            "[::g]",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[]",
            "[::1]x",
            "[::1].",
            "x[::1]",
            "b\u{fc}cher",
            "a\tb",
            "a;b",
            "http://a",
            "*",
        ] {
            check(bad, "refused");
        }
    }
}
