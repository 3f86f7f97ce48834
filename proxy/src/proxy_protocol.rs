//! The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt 2.2): who the client is, said by a load
//! balancer in front of us before the first request. The parser is pure; `read` is its shell. Cold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use crate::connection::Client;
use crate::driver::Driver;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and extensions; longer ones than this come from nobody.
const LENGTH_MAX: usize = 4096;

/// What the bytes received so far say.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// Not all of it is there.
    Partial,
    /// It took so many bytes. None: the balancer speaks for itself (a health check), or of no TCP client.
    Complete(usize, Option<SocketAddr>),
    /// Something else.
    Invalid,
}

fn parse(input: &[u8]) -> Header {
    let known = input.len().min(SIGNATURE.len());
    if input[..known] != SIGNATURE[..known] {
        return Header::Invalid;
    }
    let Some((fixed, rest)) = input.split_at_checked(16) else { return Header::Partial };
    let (version, command, family) = (fixed[12] >> 4, fixed[12] & 15, fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if version != 2 || command > 1 || length > LENGTH_MAX {
        return Header::Invalid;
    }
    let Some(body) = rest.get(..length) else { return Header::Partial };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let client = match (command, family) {
        (0, _) => None,
        // TCP over IPv4: source and destination address, source and destination port.
        (1, 0x11) if length >= 12 => {
            let address: [u8; 4] = body[..4].try_into().expect("four bytes");
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), port(8)))
        }
        (1, 0x21) if length >= 36 => {
            let address: [u8; 16] = body[..16].try_into().expect("sixteen bytes");
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)).to_canonical(), port(32)))
        }
        (1, 0x00) => None,
        _ => return Header::Invalid,
    };
    Header::Complete(16 + length, client)
}

/// Reads the header and notes the client. False: there was none in time, and the connection must be closed.
pub(crate) async fn read(driver: &Driver, client: &mut Client, timeout: Duration) -> bool {
    driver.set_deadline(driver.now() + timeout);
    std::future::poll_fn(|_| {
        loop {
            match parse(client.wire.input()) {
                Header::Complete(bytes, address) => {
                    client.wire.consume(bytes);
                    client.peer = address.unwrap_or(client.peer);
                    return Poll::Ready(true);
                }
                Header::Invalid => return Poll::Ready(false),
                Header::Partial if driver.deadline_passed() => return Poll::Ready(false),
                Header::Partial => {}
            }
            match client.wire.poll_fill() {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut all = SIGNATURE.to_vec();
        all.extend_from_slice(&[0x20 | command, family]);
        all.extend_from_slice(&(body.len() as u16).to_be_bytes());
        all.extend_from_slice(body);
        all
    }

    #[test]
    fn the_client_is_who_the_balancer_says() {
        let check = |bytes: &[u8], expected: Header| {
            assert_eq!(parse(bytes), expected, "{bytes:?}");
            if let Header::Complete(length, _) = expected {
                for cut in 0..length {
                    assert_eq!(parse(&bytes[..cut]), Header::Partial, "cut at {cut}");
                }
            }
        };
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0x12, 0x34, 0, 80];
        let client = |text: &str| Some(text.parse().expect("an address"));
        check(&header(1, 0x11, &v4), Header::Complete(28, client("1.2.3.4:4660")));
        let with_extension = [&v4[..], &[4, 0, 1, 9]].concat();
        check(&header(1, 0x11, &with_extension), Header::Complete(32, client("1.2.3.4:4660")));
        let mut v6 = [0u8; 36];
        v6[15] = 1;
        v6[33] = 9;
        check(&header(1, 0x21, &v6), Header::Complete(52, client("[::1]:9")));
        check(&header(0, 0x00, &[]), Header::Complete(16, None));
        check(&header(1, 0x00, &[]), Header::Complete(16, None));
        check(&header(1, 0x12, &v4), Header::Invalid);
        check(&header(1, 0x11, &v4[..11]), Header::Invalid);
        check(&header(2, 0x11, &v4), Header::Invalid);
        check(b"GET / HTTP/1.1\r\n", Header::Invalid);
        check(b"PROXY TCP4 1.2.3.4", Header::Invalid);
    }
}
