//! Large bodies both ways, unchanged, and no faster than their reader: what is not read stays at its sender and not in
//! the gateway's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use e2e::kit::{Backend, Gateway, Rules, until};

/// Bytes that repeat with no power of two, so that a piece in a wrong place shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// The same in chunks of odd sizes.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[test]
fn five_megabytes_come_through_unchanged() {
    const LENGTH: usize = 5_000_000;
    let body = pattern(LENGTH);
    let answer_of = |framing: &'static str| {
        let body = pattern(LENGTH);
        Backend::start(move |served| {
            while let Some(request) = served.request() {
                assert!(request.body == body, "the service got other bytes");
                match framing {
                    "length" => {
                        served.peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
                        served.peer.send(&body);
                    }
                    "chunked" => {
                        served.peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                        served.peer.send(chunked(&body, 70_001));
                    }
                    _ => {
                        served.peer.send("HTTP/1.1 200 OK\r\n\r\n");
                        served.peer.send(&body);
                        return;
                    }
                }
            }
        })
    };
    for framing in ["length", "chunked", "close"] {
        let backend = answer_of(framing);
        let gateway = Gateway::start(&Rules::to(backend.address()));
        for version in ["1.1", "1.0"] {
            let mut client = gateway.connect();
            client.send(format!("POST / HTTP/{version}\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
            client.send(&body);
            let answer = client.read().unwrap_or_else(|ended| panic!("{ended:?}: {framing} to {version}"));
            assert!(answer.body == body, "{framing} to {version}: the client got other bytes");
        }
        for size in [1_000, 32 * 1024, LENGTH] {
            let mut client = gateway.connect();
            client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send(chunked(&body, size));
            let answer = client.read().unwrap_or_else(|ended| panic!("{ended:?}: {framing}, chunks of {size}"));
            assert!(answer.body == body, "{framing}, chunks of {size}: the client got other bytes");
        }
        gateway.settle();
    }
}

/// What may lie in the kernel's buffers of both connections.
const IN_FLIGHT_MAX: u64 = 24 << 20;
/// A gateway that holds no bodies.
const RESIDENT_KIB_MAX: u64 = 40 << 10;

/// Waits until a count stands still.
fn rests(what: &str, count: &AtomicU64) -> u64 {
    let mut before = (0, std::time::Instant::now());
    until(what, || {
        let now = count.load(SeqCst);
        if now != before.0 {
            before = (now, std::time::Instant::now());
        }
        (now > 0 && before.1.elapsed() > Duration::from_millis(300)).then_some(now)
    })
    .0
}

#[test]
fn a_client_that_does_not_read_stops_the_service() {
    const LENGTH: u64 = 100 << 20;
    for head in
        [format!("Content-Length: {LENGTH}\r\n\r\n"), format!("Transfer-Encoding: chunked\r\n\r\n{LENGTH:x}\r\n")]
    {
        let sent = Arc::new(AtomicU64::new(0));
        let (count, is_chunked) = (sent.clone(), head.starts_with("Transfer"));
        let backend = Backend::start(move |served| {
            let piece = vec![b'x'; 64 * 1024];
            if served.request().is_none() {
                return;
            }
            served.peer.send(format!("HTTP/1.1 200 OK\r\n{head}"));
            while count.load(SeqCst) < LENGTH && served.peer.send(&piece) {
                count.fetch_add(piece.len() as u64, SeqCst);
            }
            if is_chunked {
                served.peer.send("\r\n0\r\n\r\n");
            }
        });
        let gateway = Gateway::start(&Rules::to(backend.address()));
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let stopped_at = rests("a service that is stopped", &sent);
        assert!(stopped_at < IN_FLIGHT_MAX, "{stopped_at} bytes were taken from the service, and none by the client");
        assert!(gateway.resident_kib() < RESIDENT_KIB_MAX, "{} KiB", gateway.resident_kib());
        assert_eq!(client.read().map(|answer| answer.body.len() as u64), Ok(LENGTH));
        assert!(gateway.resident_kib() < RESIDENT_KIB_MAX, "{} KiB", gateway.resident_kib());
    }
}

#[test]
fn a_service_that_does_not_read_stops_the_client() {
    const LENGTH: u64 = 100 << 20;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::start(move |served| {
        if served.request_head().is_some() && wait.lock().expect("one connection").recv().is_ok() {
            let body = served.peer.take(LENGTH as usize).expect("the body");
            served.peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-length: {}\r\n\r\n", body.len()));
        }
    });
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let sent = Arc::new(AtomicU64::new(0));
    let (count, mut client) = (sent.clone(), gateway.connect());
    let client = std::thread::spawn(move || {
        let piece = vec![b'x'; 64 * 1024];
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
        while count.load(SeqCst) < LENGTH && client.send(&piece) {
            count.fetch_add(piece.len() as u64, SeqCst);
        }
        client.read().map(|answer| answer.get("x-length").map(str::to_owned))
    });
    let stopped_at = rests("a client that is stopped", &sent);
    assert!(stopped_at < IN_FLIGHT_MAX, "{stopped_at} bytes were taken from the client, and none by the service");
    assert!(gateway.resident_kib() < RESIDENT_KIB_MAX, "{} KiB", gateway.resident_kib());
    go.send(()).expect("the service waits");
    assert_eq!(client.join().expect("no panic"), Ok(Some(LENGTH.to_string())));
    assert!(gateway.resident_kib() < RESIDENT_KIB_MAX, "{} KiB", gateway.resident_kib());
}
