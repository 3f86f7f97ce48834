//! Connections to services: refused, unanswered, closed while idle, closed under a request. What may be repeated is
//! repeated once, everything else is told.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use e2e::kit::{Backend, Gateway, Rules, free_port};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

fn post(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
}

#[test]
fn nobody_there() {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let gateway = Gateway::start(&Rules::to(nobody));
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read().map(|answer| answer.status()), Ok(503));
    }
    drop(client);
    let mut client = gateway.connect();
    client.send(post(100_000));
    assert_eq!(client.outcome(), "503 closed");
    gateway.settle();
}

/// A listening socket whose queue is full: the kernel leaves further handshakes unanswered.
fn full() -> (OwnedFd, Vec<TcpStream>, SocketAddr) {
    let full = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&full, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port is free");
    listen(&full, 0).expect("a socket can listen");
    let address = SocketAddr::try_from(getsockname(&full).expect("an address")).expect("an IP address");
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fillers.push(filler);
        assert!(fillers.len() < 100, "the queue never fills");
    }
    (full, fillers, address)
}

#[test]
fn a_request_that_has_no_time_says_nothing_of_an_endpoint() {
    let (_full, _fillers, address) = full();
    let backend = Backend::echo();
    for (request, connect, expected) in [("50ms", "10s", ["ready"; 2]), ("10s", "50ms", ["refusing", "ready"])] {
        let rules = Rules::new()
            .service("web", &[address, backend.address()])
            .rule(&format!("timeouts: {{request: {request}}}\nbackendRefs: [{{name: web, port: 80}}]"))
            .traffic("web", &format!("loadBalancer: {{policy: roundRobin}}\n  timeouts: {{connect: {connect}}}"));
        let gateway = Gateway::start(&rules);
        let mut client = gateway.connect();
        let statuses: Vec<u16> = (0..2)
            .map(|_| {
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client.read().expect("an answer").status()
            })
            .collect();
        assert_eq!(statuses.iter().all(|status| *status == 200), connect == "50ms", "{statuses:?}");
        assert_eq!(gateway.endpoint_states("default/web:80"), expected, "{request} {connect}: {statuses:?}");
    }
}

#[test]
fn a_service_that_takes_no_connection() {
    let (_full, _fillers, address) = full();
    let gateway = Gateway::start(&Rules::to(address));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read().map(|answer| answer.status()), Ok(503));
    drop(client);
    gateway.settle();
}

#[test]
fn closed_while_idle() {
    // Answers one request on each connection and closes it, without having said so.
    let backend = Backend::start(|served| {
        if served.request().is_some() {
            served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let mut client = gateway.connect();
    for round in 1..=50 {
        client.send(post(10));
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200), "round {round}");
        // The close follows the answer at once, but not in the same instant; then the gateway must know of it.
        let ends = || std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let port = format!(":{:04X} ", backend.address().port());
        // 01 is ESTABLISHED, at either end.
        let is_open = |line: &str| line.contains(&port) && line.split_ascii_whitespace().nth(3) == Some("01");
        e2e::kit::until("the close", || (!ends().lines().any(is_open)).then_some(()));
    }
    assert_eq!((backend.connections(), backend.requests().len()), (50, 50));
}

#[test]
fn answers_of_every_size_and_in_pieces_leave_their_connection_usable() {
    // Sizes around those of buffers: a read that fills one says nothing about whether there is more.
    for size in [10, 4_096, 32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 64 * 1024, 1 << 20] {
        let backend = Backend::start(move |served| {
            let body = vec![b'x'; size];
            while served.request().is_some() {
                // The second piece often comes after the news of the first and before the read.
                served.peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
                served.peer.send(&body[..size / 3]);
                served.peer.send(&body[size / 3..]);
            }
        });
        let gateway = Gateway::start(&Rules::to(backend.address()));
        let mut client = gateway.connect();
        for _ in 0..100 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.read().map(|answer| answer.body.len()), Ok(size));
        }
        assert_eq!(backend.connections(), 1, "{size} bytes");
    }
}

#[test]
fn closed_under_a_request() {
    // The service answers the first request of the first connection and takes the second without an answer. What the
    // second request gets, and how many connections it took.
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let rows = [
        (get.clone(), true, 200, 2),
        (get.replace("GET", "DELETE"), true, 200, 2),
        (get.replace("GET", "PUT"), true, 200, 2),
        (get.replace("GET", "POST"), true, 502, 1),
        (get.replace("GET", "PATCH"), true, 502, 1),
        (get.replace("GET", "FROB"), true, 502, 1),
        (post(10), true, 502, 1),
        (post(10).replace("POST", "PUT"), true, 502, 1),
        // A fresh connection is no excuse to try a third time.
        (get, false, 502, 2),
    ];
    for (request, answers_later, expected, connections) in rows {
        let backend = Backend::start(move |served| {
            if served.number > 0 && !answers_later {
                served.request();
                return;
            }
            if served.request().is_some() {
                served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                served.request();
            }
        });
        let gateway = Gateway::start(&Rules::to(backend.address()));
        let mut client = gateway.connect();
        client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
        client.send(&request);
        let context = format!("{request:?}, answers later: {answers_later}");
        assert_eq!(client.read().map(|answer| answer.status()), Ok(expected), "{context}");
        assert_eq!((backend.connections(), backend.requests().len()), (connections, connections + 1), "{context}");
    }
}

#[test]
fn a_service_says_whether_and_how_long_its_connection_may_be_kept() {
    // Fields of the answer, its version, connections for three requests.
    let rows = [
        ("Keep-Alive: timeout=1\r\n", "1.1", 3),
        ("Keep-Alive: timeout=0\r\n", "1.1", 3),
        ("Keep-Alive: timeout=60\r\n", "1.1", 1),
        ("Keep-Alive: max=5\r\n", "1.1", 1),
        ("Connection: close\r\n", "1.1", 3),
        ("Connection: x, Close\r\n", "1.1", 3),
        ("", "1.1", 1),
        ("", "1.0", 3),
        ("Connection: keep-alive\r\n", "1.0", 1),
    ];
    for (fields, version, connections) in rows {
        let answer = format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
        let backend = Backend::canned(answer);
        let gateway = Gateway::start(&Rules::to(backend.address()));
        let mut client = gateway.connect();
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
        }
        assert_eq!(backend.connections(), connections, "{fields:?} in HTTP/{version}");
    }
}
