//! Clients that go away at every byte of an exchange: nothing of them is left in the gateway, and others are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use e2e::kit::{Backend, Gateway, Rules, until};

const REQUESTS: [&str; 3] = [
    "GET /some/path HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
];

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Going {
    Close,
    Reset,
    /// Says that it sends no more, and waits for what comes.
    Finish,
}

fn is_served(gateway: &Gateway) {
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
}

#[test]
fn at_every_byte_of_a_request() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    for request in REQUESTS {
        for going in [Going::Close, Going::Reset, Going::Finish] {
            for cut in 0..=request.len() {
                let mut client = gateway.connect();
                client.send(&request[..cut]);
                match going {
                    Going::Close => drop(client),
                    Going::Reset => client.reset(),
                    Going::Finish => {
                        client.finish();
                        let expected = if cut == request.len() { "200 closed" } else { "closed" };
                        assert_eq!(client.outcome(), expected, "{request:?} ends at {cut}");
                    }
                }
            }
        }
        is_served(&gateway);
        gateway.settle();
    }
    // What was cut off never reached the service as something whole.
    let whole = |request: &e2e::kit::Message| ["", "0123456789", "hello"].contains(&&request.text()[..]);
    assert!(backend.requests().iter().all(whole), "{:?}", backend.requests());
}

#[test]
fn at_every_byte_of_an_answer() {
    // Large enough that the service is stopped by a client that takes nothing.
    let body = "x".repeat(16 * 1024 * 1024);
    let backend = Backend::start(move |served| {
        while let Some(request) = served.request() {
            let head = match request.start.contains("/chunked") {
                true => format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()),
                false => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()),
            };
            if request.start.contains("/small") {
                served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789");
            } else if !served.peer.send([head.as_bytes(), body.as_bytes()].concat()) {
                return;
            }
        }
    });
    let gateway = Gateway::start(&Rules::to(backend.address()));
    for path in ["/large", "/chunked", "/small"] {
        for taken in 0..60 {
            for going in [Going::Close, Going::Reset] {
                let mut client = gateway.connect();
                client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
                client.take(taken).expect("the beginning of an answer");
                match going {
                    Going::Reset => client.reset(),
                    _ => drop(client),
                }
            }
        }
        gateway.settle();
    }
}

#[test]
fn while_the_service_is_silent() {
    let (closed, silent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (closed_by, silent_by) = (closed.clone(), silent.clone());
    let backend = Backend::start(move |served| {
        while served.request().is_some() {
            if silent_by.load(SeqCst) {
                served.peer.read_to_end();
                closed_by.store(true, SeqCst);
                return;
            }
            served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the request at the service", || (backend.requests().len() == 1).then_some(()));
    // A client that sends no more may still wait; the gateway does so without looking at it all the time.
    client.finish();
    let before = gateway.cpu_time();
    assert!(!client.hears_within(Duration::from_millis(300)));
    assert!(gateway.cpu_time() - before < Duration::from_millis(100), "the gateway spins");
    assert!(!closed.load(SeqCst));
    // Nobody waits for the answer any more: the service should know, long before the answer's timeout.
    client.reset();
    until("the end at the service", || closed.load(SeqCst).then_some(()));
    gateway.settle();
    silent.store(false, SeqCst);
    is_served(&gateway);
}

#[test]
fn who_ends_its_side_while_it_waits_is_taken_to_have_left() {
    for (kind, spec) in [
        ("RateLimit", "limits: [{requests: 1, per: 1m}]\n  effect: {type: queue, maxWait: 1h}"),
        ("ConcurrencyLimit", "limit: {fixed: 1}\n  queue: {max: 9, timeout: 1h}"),
        ("FaultInjection", "match: [{headers: [{name: x-late, value: '1'}]}]\n  delay: {fixed: 1h, percentage: 100}"),
        ("connections", "connections: {max: 1}\n  timeouts: {connect: 1h}"),
    ] {
        let (backend, _tell) = Backend::patient();
        let rules = Rules::to(backend.address());
        let rules = match kind {
            "connections" => rules.traffic("web", spec),
            _ => rules.protect(kind, "wait", Rules::WEB, spec),
        };
        let gateway = Gateway::start(&rules);
        let mut first = gateway.connect();
        first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        until("a request at the service", || (backend.requests().len() == 1).then_some(()));
        let mut second = gateway.connect();
        second.send("GET / HTTP/1.1\r\nHost: a\r\nX-Late: 1\r\n\r\n");
        assert!(!second.hears_within(Duration::from_millis(100)), "{kind}: it waits");
        second.finish();
        assert_eq!(second.outcome(), "closed", "{kind}");
        assert_eq!(backend.requests().len(), 1, "{kind}");
    }
}
