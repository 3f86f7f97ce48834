//! Peers of the xDS port that mean no good, or know no better: each is cut, and the others do not notice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use config::wire::envoy::config::core::v3::Node;
use config::wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use e2e::kit::{Ended, PATIENCE, Peer, Scratch, Subscriber, Took, until};
use prost::Message as _;
use proxy::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::access::Control;

/// Frames of HTTP/2 (RFC 9113 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a proxy's stream, each field spelled out (RFC 7541 6.2.2).
fn head(stream: u32) -> Vec<u8> {
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "c"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A connection on which HTTP/2 has begun.
fn begun(xds: SocketAddr) -> Peer {
    let mut peer = Peer::connect(xds);
    peer.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat());
    peer
}

/// The next frame: its kind, flags, stream and payload.
fn next(peer: &mut Peer) -> Result<(u8, u8, u32, Vec<u8>), Ended> {
    let head = peer.take(9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Ok((head[3], head[4], stream, peer.take(length as usize)?))
}

/// How a stream ends, after which time: `trailers`, `reset`, or with its connection.
fn end(peer: &mut Peer) -> (&'static str, Duration) {
    let started = Instant::now();
    loop {
        let word = match next(peer) {
            Ok((HEADERS, flags, ..)) if flags & END_STREAM != 0 => "trailers",
            Ok((RST_STREAM, ..)) => "reset",
            Ok((GOAWAY, ..)) | Err(_) => "connection",
            Ok(_) => continue,
        };
        return (word, started.elapsed());
    }
}

fn request(names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: "p".into(), ..Node::default() }),
        type_url: config::xds::TYPE.into(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

/// What a stream on which this is said ends with.
async fn said(xds: SocketAddr, requests: Vec<DeltaDiscoveryRequest>) -> Status {
    let channel = Endpoint::from_shared(format!("http://{xds}")).expect("an address").connect().await;
    let mut service = AggregatedDiscoveryServiceClient::new(channel.expect("control listens"));
    let requests =
        futures_util::StreamExt::chain(futures_util::stream::iter(requests), futures_util::stream::pending());
    let mut responses = service.delta_aggregated_resources(requests).await.expect("a stream").into_inner();
    let ended = async {
        loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("it ended"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("an end in time")
}

/// A proxy that behaves.
fn is_served(control: &Control) {
    let mut proxy = Subscriber::new("p", &["Gateway/default/g/*"]);
    proxy.connect(control.xds);
    assert_eq!(proxy.take(), Took { revision: 0, names: vec!["-Gateway/default/g/*".into()] });
}

#[test]
fn a_stream_that_breaks_its_bounds_is_told_and_ended() {
    let folder = Scratch::create("hostile").expect("a folder");
    let control = Control::start(&folder, &["--plaintext"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let some = |count: usize| (0..count).map(|number| format!("Gateway/default/{number}/*")).collect::<Vec<_>>();
    let none = || DeltaDiscoveryRequest { type_url: config::xds::TYPE.into(), ..DeltaDiscoveryRequest::default() };
    let many = std::iter::once(request(some(1))).chain(std::iter::repeat_n(none(), 20_000)).collect();
    for (requests, code, words) in [
        (vec![none()], Code::InvalidArgument, "has no node"),
        (
            vec![DeltaDiscoveryRequest { type_url: "x".into(), ..request(some(1)) }],
            Code::InvalidArgument,
            "\"x\" is not served",
        ),
        (vec![request(some(20_001))], Code::InvalidArgument, "more than 20000 subscriptions"),
        (vec![request(some(15_000)), request(some(30_000))], Code::InvalidArgument, "more than 20000 subscriptions"),
        (vec![request(vec!["x".repeat(600)])], Code::InvalidArgument, "1 to 512 bytes"),
        (vec![request(vec!["x".repeat(5 << 20)])], Code::OutOfRange, "too large"),
        (many, Code::ResourceExhausted, "more requests than changes"),
    ] {
        let status = runtime.block_on(said(control.xds, requests));
        assert!(status.code() == code && status.message().contains(words), "{words}: {status:?}");
    }
    is_served(&control);
}

#[test]
fn what_is_no_protocol_ends_its_connection() {
    let folder = Scratch::create("hostile").expect("a folder");
    let control = Control::start(&folder, &["--plaintext"]);
    for garbage in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), vec![0xff; 100_000], vec![0; 100_000]] {
        let mut peer = Peer::connect(control.xds);
        peer.send(&garbage);
        peer.read_to_end();
    }
    // A frame that is larger than any may be, a stream that was never begun, and a message that is none.
    let junk = frame(DATA, 0, 1, &[0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
    for (bytes, expected) in [
        (vec![0xff; 1_000], &["connection"][..]),
        (frame(DATA, 0, 99, b"x"), &["connection", "reset"]),
        ([head(1), junk].concat(), &["trailers"]),
    ] {
        let mut peer = begun(control.xds);
        peer.send(&bytes);
        let (word, _) = end(&mut peer);
        assert!(expected.contains(&word), "{word}, not {expected:?}");
    }
    is_served(&control);
}

#[test]
fn a_flood_costs_who_sends_it() {
    let folder = Scratch::create("hostile").expect("a folder");
    let control = Control::start(&folder, &["--plaintext"]);
    // Streams without number: sixteen are served, the others refused.
    let mut peer = begun(control.xds);
    let streams: Vec<u8> = (0..1_000).flat_map(|number| head(2 * number + 1)).collect();
    peer.send(&streams);
    let (mut served, mut refused) = (0, 0);
    while served + refused < 1_000 {
        match next(&mut peer) {
            Ok((HEADERS, ..)) => served += 1,
            Ok((RST_STREAM, _, _, reason)) => {
                assert_eq!(reason, [0, 0, 0, 7], "REFUSED_STREAM");
                refused += 1;
            }
            Ok((GOAWAY, ..)) | Err(_) => break,
            Ok(_) => {}
        }
    }
    assert!(served <= 16 && (refused > 900 || served + refused < 1_000), "{served} served, {refused} refused");
    // Streams that are begun and taken back at once (CVE-2023-44487), and streams that nobody may begin.
    let taken_back = |number: u32| [head(2 * number + 1), frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8])].concat();
    for bytes in [
        (0..5_000).flat_map(taken_back).collect::<Vec<u8>>(),
        (0..5_000).flat_map(|number| head(2 * number + 2)).collect(),
    ] {
        let mut peer = begun(control.xds);
        // It may be gone before all of it is sent.
        peer.send(&bytes);
        while next(&mut peer).is_ok_and(|(kind, ..)| kind != GOAWAY) {}
    }
    // Questions without number are answered one by one, as they are read.
    let mut peer = begun(control.xds);
    peer.send(frame(PING, 0, 0, &[7; 8]).repeat(1_000));
    until("answers", || next(&mut peer).is_ok_and(|(kind, ..)| kind == PING).then_some(()));
    is_served(&control);
}

#[test]
fn who_says_nothing_is_cut() {
    let folders = [(); 2].map(|()| Scratch::create("hostile").expect("a folder"));
    let (control, secure) = (Control::start(&folders[0], &["--plaintext"]), Control::start(&folders[1], &[]));
    let message = request(vec!["Gateway/default/g/*".into()]).encode_to_vec();
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let asked = [head(1), frame(DATA, 0, 1, &[&[0], &length[..], &message].concat())].concat();
    let with = |mut peer: Peer, bytes: &[u8]| {
        peer.send(bytes);
        peer
    };
    let silent = vec![
        ("no preface", Peer::connect(control.xds), 10),
        ("no stream", begun(control.xds), 10),
        ("no message", with(begun(control.xds), &head(1)), 10),
        ("no answer to a PING", with(begun(control.xds), &asked), 15),
        ("no request", Peer::connect(control.api), 10),
        ("half a head", with(Peer::connect(control.api), b"GET / HTTP/1.1\r\nHost: "), 10),
        ("no handshake for streams", Peer::connect(secure.xds), 10),
        ("no handshake for requests", Peer::connect(secure.api), 10),
        ("half a handshake", with(Peer::connect(secure.api), &[22, 3, 1, 2, 0, 1]), 10),
    ];
    let started = Instant::now();
    std::thread::scope(|scope| {
        for (name, mut peer, seconds) in silent {
            scope.spawn(move || {
                if name == "no message" {
                    assert_eq!(end(&mut peer).0, "trailers");
                } else {
                    peer.read_to_end();
                }
                let time = started.elapsed().as_secs();
                assert!((seconds - 1..seconds + 5).contains(&time), "{name}: cut after {time} s");
            });
        }
    });
    is_served(&control);
}

#[test]
fn connections_that_say_nothing_leave_room_for_others() {
    let folder = Scratch::create("hostile").expect("a folder");
    let control = Control::start(&folder, &["--plaintext"]);
    let asks = || {
        let mut peer = Peer::try_connect(control.api).ok()?;
        peer.send("GET /api/v1/objects HTTP/1.1\r\nHost: c\r\n\r\n");
        peer.read().ok().filter(|answer| answer.status() == 200).map(|_| peer)
    };
    let known: Vec<Peer> = (0..50).map(|_| asks().expect("an answer")).collect();
    let silent: Vec<Peer> = (0..576).map(|_| Peer::connect(control.api)).collect();
    let mut surplus = Peer::connect(control.api);
    surplus.read_to_end();
    assert!(asks().is_none(), "one source has as many as it may");
    for mut peer in known {
        peer.send("GET /api/v1/objects HTTP/1.1\r\nHost: c\r\n\r\n");
        assert_eq!(peer.read().map(|answer| answer.status()), Ok(200), "who is known goes on");
    }
    drop(silent);
    until("room again", asks);
}
