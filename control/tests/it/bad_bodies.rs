//! Bodies that no client may send. Their heads are in order, so the service may have seen the beginning: it must see
//! that there is no end, and the client must be told where that is still possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use e2e::kit::{Backend, Ended, Gateway, Rules, until};

/// Sends each row after a valid head, at once and with a pause after the head; the service must get no whole request.
fn check(policy: &str, rows: &[(&str, &str, &str, &str)]) {
    let (opened, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (opened.clone(), broken.clone());
    let backend = Backend::start(move |served| {
        counts.0.fetch_add(1, SeqCst);
        match served.peer.read() {
            Ok(request) => panic!("a whole request reached the service: {request:?}"),
            Err(Ended::Closed | Ended::Truncated | Ended::Reset) => counts.1.fetch_add(1, SeqCst),
        };
    });
    let mut rules = Rules::to(backend.address());
    if !policy.is_empty() {
        rules = rules.policy(policy);
    }
    let gateway = Gateway::start(&rules);
    let mut wrong = Vec::new();
    for (name, framing, body, expected) in rows {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        let whole = [head.as_bytes(), body.as_bytes()].concat();
        for cut in [whole.len(), head.len(), whole.len() - 1] {
            let mut client = gateway.connect();
            client.send_cut(&whole, cut);
            let outcome = client.outcome();
            if outcome != format!("{expected} closed") {
                wrong.push(format!("{name} cut at {cut}: {outcome} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    gateway.settle();
    until("the end of every connection to the service", || (opened.load(SeqCst) == broken.load(SeqCst)).then_some(()));
}

const CHUNKED: &str = "Transfer-Encoding: chunked";

#[test]
fn chunks_against_the_grammar() {
    let long = format!("5;{}\r\n", "x".repeat(300));
    let rows = [
        ("a sign", CHUNKED, "+5\r\nhello\r\n0\r\n\r\n", "400"),
        ("minus", CHUNKED, "-5\r\nhello\r\n0\r\n\r\n", "400"),
        ("0x", CHUNKED, "0x5\r\nhello\r\n0\r\n\r\n", "400"),
        ("a space before the size", CHUNKED, " 5\r\nhello\r\n0\r\n\r\n", "400"),
        ("a space after the size", CHUNKED, "5 \r\nhello\r\n0\r\n\r\n", "400"),
        ("no size", CHUNKED, "\r\nhello\r\n0\r\n\r\n", "400"),
        ("no digit", CHUNKED, "g\r\nhello\r\n0\r\n\r\n", "400"),
        ("17 digits", CHUNKED, "00000000000000005\r\nhello\r\n0\r\n\r\n", "400"),
        ("overflow", CHUNKED, "10000000000000000\r\nhello\r\n0\r\n\r\n", "400"),
        ("LF after the size", CHUNKED, "5\nhello\r\n0\r\n\r\n", "400"),
        ("CR after the size", CHUNKED, "5\rhello\r\n0\r\n\r\n", "400"),
        ("junk after the data", CHUNKED, "5\r\nhelloworld\r\n0\r\n\r\n", "400"),
        ("LF after the data", CHUNKED, "5\r\nhello\n0\r\n\r\n", "400"),
        ("a long extension", CHUNKED, &long, "400"),
        ("CR in an extension", CHUNKED, "5;a=\rb\r\nhello\r\n0\r\n\r\n", "400"),
        ("LF in an extension", CHUNKED, "5;a=b\nhello\r\n0\r\n\r\n", "400"),
        ("NUL in an extension", CHUNKED, "5;a=\"\0\"\r\nhello\r\n0\r\n\r\n", "400"),
    ];
    check("", &rows);
}

#[test]
fn trailers_that_must_not_come_late() {
    let rows = [
        ("Content-Length", CHUNKED, "1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n", "400"),
        ("Transfer-Encoding", CHUNKED, "1\r\na\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        ("Host", CHUNKED, "1\r\na\r\n0\r\nHost: b\r\n\r\n", "400"),
        ("Authorization", CHUNKED, "1\r\na\r\n0\r\nAuthorization: b\r\n\r\n", "400"),
        ("X-Forwarded-For", CHUNKED, "1\r\na\r\n0\r\nX-Forwarded-For: b\r\n\r\n", "400"),
        ("a lane", CHUNKED, "1\r\na\r\n0\r\nX-Evenkeel-Lane: b\r\n\r\n", "400"),
        ("baggage", CHUNKED, "1\r\na\r\n0\r\nBaggage: evenkeel.lane=b\r\n\r\n", "400"),
        ("a fold", CHUNKED, "1\r\na\r\n0\r\nx: y\r\n z\r\n\r\n", "400"),
        ("a bare LF", CHUNKED, "1\r\na\r\n0\r\nx: y\n\r\n", "400"),
        ("a space before the colon", CHUNKED, "1\r\na\r\n0\r\nx : y\r\n\r\n", "400"),
    ];
    check("", &rows);
    let many = format!("1\r\na\r\n0\r\n{}\r\n", "x: y\r\n".repeat(65));
    check("", &[("too many", CHUNKED, &many, "431")]);
}

#[test]
fn bodies_that_stop() {
    let rows = [
        ("a length", "Content-Length: 10", "hello", "408"),
        ("nothing of a length", "Content-Length: 10", "h", "408"),
        ("a chunk", CHUNKED, "a\r\nhello", "408"),
        ("between chunks", CHUNKED, "5\r\nhello\r\n", "408"),
        ("in the trailers", CHUNKED, "5\r\nhello\r\n0\r\nx: y", "408"),
    ];
    check("timeouts: {bodyProgress: 150ms}", &rows);
}

#[test]
fn bodies_that_are_too_large() {
    let rows = [
        ("a length", "Content-Length: 1025", "hello", "413"),
        ("one chunk", CHUNKED, &format!("401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025)), "413"),
        ("many chunks", CHUNKED, &format!("{}0\r\n\r\n", "8\r\n12345678\r\n".repeat(129)), "413"),
    ];
    check("maxRequestBody: 1Ki", &rows);
}
