//! Who the client is, and what the service is told about it: `x-forwarded-*` and `x-request-id`; `traceparent` is
//! `filters::lane::trace`'s business. Whose word counts is the listener's policy. Pure, Hot.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use config::snapshot::ClientAddress;
use filters::Head;
use filters::head::Known;
use filters::lane::hex;

/// Finds the client and rewrites the fields that speak of it. `peer` is who connected, or who the PROXY protocol
/// says did. Returns the client's address.
pub(crate) fn apply(head: &mut Head, policy: &ClientAddress, peer: SocketAddr, scheme: &'static str) -> IpAddr {
    let trusted = trusts(policy, peer.ip());
    let client = match trusted {
        true => client_from(policy, head).unwrap_or(peer.ip()),
        false => peer.ip(),
    };
    if matches!(policy, ClientAddress::Kept) {
        // Whoever was at the edge has said it, and the mesh is no part of it.
    } else if trusted {
        let before = joined(head);
        head.remove_known(Known::XForwardedFor);
        head.add_with("x-forwarded-for", Known::XForwardedFor, |text| {
            if !before.is_empty() {
                text.extend_from_slice(&before);
                text.extend_from_slice(b", ");
            }
            write_address(text, peer.ip());
        });
    } else {
        head.remove_known(Known::XForwardedFor);
        head.remove_known(Known::ForwardedKin);
        head.add_with("x-forwarded-for", Known::XForwardedFor, |text| write_address(text, peer.ip()));
    }
    if !trusted || head.get("x-forwarded-proto").is_none() {
        head.add_with("x-forwarded-proto", Known::ForwardedKin, |text| text.extend_from_slice(scheme.as_bytes()));
    }
    client
}

/// Continues the request's id, or starts one. That of an untrusted peer is replaced, since it may repeat it.
pub(crate) fn identify(head: &mut Head, trusted: bool, mut dice: impl FnMut() -> u64) {
    if !trusted || head.known(Known::RequestId).is_none() {
        head.remove_known(Known::RequestId);
        let id = uuid(dice(), dice());
        head.add_with("x-request-id", Known::RequestId, |text| text.extend_from_slice(&id));
    }
}

/// Whether what this peer says of the client counts.
pub(crate) fn trusts(policy: &ClientAddress, peer: IpAddr) -> bool {
    match policy {
        ClientAddress::Peer | ClientAddress::ProxyProtocolV2 => false,
        ClientAddress::TrustedCidrs(networks) => networks.iter().any(|network| network.contains(&peer)),
        ClientAddress::TrustedHops(hops) => *hops > 0,
        ClientAddress::Kept => true,
    }
}

/// The client in `x-forwarded-for` of a trusted peer.
fn client_from(policy: &ClientAddress, head: &Head) -> Option<IpAddr> {
    let joined = joined(head);
    let mut addresses = joined.rsplit(|byte| *byte == b',').map(parse_address);
    match policy {
        ClientAddress::Peer | ClientAddress::ProxyProtocolV2 => None,
        // From the right: the first that is not one of ours. Where all are ours, or one is no address, the last that
        // was ours.
        ClientAddress::TrustedCidrs(networks) => {
            let mut client = None;
            for address in addresses {
                let Some(address) = address else { break };
                client = Some(address);
                if !networks.iter().any(|network| network.contains(&address)) {
                    break;
                }
            }
            client
        }
        // The nearest of the trusted proxies is the peer itself, which is not in the list.
        ClientAddress::TrustedHops(hops) => addresses.nth(usize::from(*hops) - 1).flatten(),
        ClientAddress::Kept => addresses.next().flatten(),
    }
}

fn joined(head: &Head) -> Vec<u8> {
    let values: Vec<&[u8]> =
        head.live().filter(|field| field.known == Known::XForwardedFor).map(|field| head.bytes(field.value)).collect();
    values.join(&b", "[..])
}

/// An address as it stands in `x-forwarded-for`: bare, in brackets, or with a port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    text.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

fn write_address(text: &mut Vec<u8>, address: IpAddr) {
    match address {
        // The usual case without the machinery of formatting.
        IpAddr::V4(address) => {
            let mut written = [b'.'; 16];
            let mut at = 0;
            for octet in address.octets() {
                let (digits, count) = &DECIMAL[usize::from(octet)];
                written[at..at + 3].copy_from_slice(digits);
                at += usize::from(*count);
                written[at] = b'.';
                at += 1;
            }
            text.extend_from_slice(&written[..at - 1]);
        }
        IpAddr::V6(address) => write!(text, "{address}").expect("writing to memory does not fail"),
    }
}

/// The digits of every byte, and how many they are.
const DECIMAL: [([u8; 3], u8); 256] = {
    let mut table = [([b'.'; 3], 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let (hundreds, tens, ones) =
            (b'0' + (byte / 100) as u8, b'0' + (byte / 10 % 10) as u8, b'0' + (byte % 10) as u8);
        table[byte] = match byte {
            0..10 => ([ones, b'.', b'.'], 1),
            10..100 => ([tens, ones, b'.'], 2),
            _ => ([hundreds, tens, ones], 3),
        };
        byte += 1;
    }
    table
};

/// A random UUID (RFC 9562, version 4).
fn uuid(high: u64, low: u64) -> [u8; 36] {
    let (high, low) = (hex(high & !0xf000 | 0x4000), hex(low & !(0b11 << 62) | 0b10 << 62));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&high[..8]);
    text[9..13].copy_from_slice(&high[8..12]);
    text[14..18].copy_from_slice(&high[12..]);
    text[19..23].copy_from_slice(&low[..4]);
    text[24..].copy_from_slice(&low[4..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&str, &str)]) -> Head {
        let mut head = Head::default();
        for (name, value) in lines {
            let known = match *name {
                "x-forwarded-for" => Known::XForwardedFor,
                "forwarded" | "x-forwarded-proto" | "x-real-ip" => Known::ForwardedKin,
                "x-request-id" => Known::RequestId,
                _ => Known::Other,
            };
            head.add_with(name, known, |text| text.extend_from_slice(value.as_bytes()));
        }
        head
    }

    fn sent(head: &Head) -> String {
        let mut out = Vec::new();
        head.copy_fields(&mut out, |_| true);
        String::from_utf8(out).expect("rows are ASCII").trim_end().replace("\r\n", "|")
    }

    #[test]
    fn who_the_client_is_depends_on_trust() {
        let check = |policy: &ClientAddress, lines: &[(&str, &str)], client: &str, expected: &str| {
            let mut head = head(lines);
            let peer = "10.0.0.9:4000".parse().expect("an address");
            let found = apply(&mut head, policy, peer, "http");
            assert_eq!((found.to_string().as_str(), sent(&head).as_str()), (client, expected), "{policy:?} {lines:?}");
        };
        let cidrs = ClientAddress::TrustedCidrs(vec!["10.0.0.0/8".parse().expect("a network")]);
        let far = ClientAddress::TrustedCidrs(vec!["192.168.0.0/16".parse().expect("a network")]);
        let own = "x-forwarded-for: 10.0.0.9|x-forwarded-proto: http";
        let forged = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4"), ("x-real-ip", "1.2.3.4")];
        check(&ClientAddress::Peer, &[], "10.0.0.9", own);
        check(&ClientAddress::Peer, &forged, "10.0.0.9", own);
        check(&ClientAddress::Peer, &[("x-forwarded-proto", "https")], "10.0.0.9", own);
        check(&far, &forged, "10.0.0.9", own);
        check(&cidrs, &[], "10.0.0.9", own);
        check(
            &cidrs,
            &[("x-forwarded-proto", "https"), ("x-forwarded-for", "9.9.9.9, 1.2.3.4, 10.1.1.1")],
            "1.2.3.4",
            "x-forwarded-proto: https|x-forwarded-for: 9.9.9.9, 1.2.3.4, 10.1.1.1, 10.0.0.9",
        );
        check(
            &cidrs,
            &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.1.1.1")],
            "1.2.3.4",
            "x-forwarded-for: 1.2.3.4, 10.1.1.1, 10.0.0.9|x-forwarded-proto: http",
        );
        check(
            &cidrs,
            &[("x-forwarded-for", "nonsense")],
            "10.0.0.9",
            "x-forwarded-for: nonsense, 10.0.0.9|x-forwarded-proto: http",
        );
        let hops = |hops| ClientAddress::TrustedHops(hops);
        let line = [("x-forwarded-for", "9.9.9.9, [2001:db8::1]:80")];
        let continued = "x-forwarded-for: 9.9.9.9, [2001:db8::1]:80, 10.0.0.9|x-forwarded-proto: http";
        check(&hops(1), &line, "2001:db8::1", continued);
        check(&hops(2), &line, "9.9.9.9", continued);
        check(&hops(3), &line, "10.0.0.9", continued);
        let kept = "x-forwarded-for: 9.9.9.9, [2001:db8::1]:80|x-forwarded-proto: http";
        check(&ClientAddress::Kept, &line, "2001:db8::1", kept);
        check(&ClientAddress::Kept, &[], "10.0.0.9", "x-forwarded-proto: http");
        check(&ClientAddress::Kept, &[("x-forwarded-proto", "https")], "10.0.0.9", "x-forwarded-proto: https");
    }

    #[test]
    fn ids_are_continued_or_started() {
        let check = |trusted: bool, lines: &[(&str, &str)], expected: &str| {
            let mut head = head(lines);
            let mut next = 0x0123_4567_89ab_cdefu64;
            identify(&mut head, trusted, || {
                next = next.rotate_left(4);
                next
            });
            assert_eq!(sent(&head), expected, "{lines:?}");
        };
        let id = "x-request-id: 12345678-9abc-4ef0-a345-6789abcdef01";
        check(false, &[], id);
        check(true, &[], id);
        check(false, &[("x-request-id", "mine")], id);
        check(true, &[("x-request-id", "mine")], "x-request-id: mine");
    }

    #[test]
    fn addresses_are_written_as_std_writes_them() {
        for address in ["0.0.0.0", "1.22.133.255", "255.255.255.255", "::1", "2001:db8::7"] {
            let mut text = Vec::new();
            write_address(&mut text, address.parse().expect("an address"));
            assert_eq!(text, address.as_bytes());
        }
    }
}
