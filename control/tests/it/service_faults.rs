//! Services that break off or break the protocol: the client gets the right status, or an answer that cannot be taken
//! for whole; the connection to the service is not used again; the gateway goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use e2e::kit::{Backend, Gateway, Rules};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn gone_at_every_byte_of_an_answer() {
    // An answer, where its head ends, and whether its end is the end of the connection.
    let answers = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n!!!\r\n0\r\nx: y\r\n\r\n", false),
        ("HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", true),
        ("HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", false),
    ];
    for (answer, ends_with_connection) in answers {
        let (cut_at, resets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (cut_by, resets_by) = (cut_at.clone(), resets.clone());
        let backend = Backend::start(move |served| {
            if served.request().is_some() {
                served.peer.send(&answer[..cut_by.load(SeqCst)]);
                if resets_by.load(SeqCst) {
                    served.peer.set_reset();
                }
            }
        });
        let gateway = Gateway::start(&Rules::to(backend.address()));
        let head_end = answer.rfind("\r\n\r\n").expect("a head") + 4;
        let head_end = if answer.contains("chunked") { answer.find("\r\n\r\n").expect("a head") + 4 } else { head_end };
        for reset in [false, true] {
            resets.store(reset, SeqCst);
            for cut in 0..=answer.len() {
                cut_at.store(cut, SeqCst);
                let mut client = gateway.connect();
                client.send(GET);
                let outcome = client.outcome();
                // With a reset, what was sent before it may be lost.
                let expected: &[&str] = match (cut < head_end, cut == answer.len(), ends_with_connection, reset) {
                    (true, ..) => &["502 closed"],
                    (false, _, true, false) => &["200 closed"],
                    (false, _, true, true) => &["truncated", "502 closed", "closed"],
                    (false, true, _, false) => &["200 closed", "204 closed"],
                    (false, true, _, true) => &["200 closed", "204 closed", "truncated", "502 closed", "closed"],
                    (false, false, _, false) => &["truncated"],
                    (false, false, _, true) => &["truncated", "502 closed", "closed"],
                };
                let outcome = outcome.strip_prefix("103 ").unwrap_or(&outcome);
                assert!(
                    expected.contains(&outcome),
                    "{answer:?} ends at {cut}, reset {reset}: {outcome}, not {expected:?}"
                );
            }
        }
        gateway.settle();
    }
}

#[test]
fn answers_against_the_grammar() {
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "x: y\r\n".repeat(300));
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let flood = "HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(40);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = |body: &str| format!("{chunked}{body}");
    let rows = [
        ("no HTTP", "hello\r\n\r\n".into(), "502"),
        ("another version", "HTTP/2.0 200 OK\r\n\r\n".into(), "502"),
        ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n".into(), "502"),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n".into(), "502"),
        ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n".into(), "502"),
        ("a field without colon", "HTTP/1.1 200 OK\r\nx\r\n\r\n".into(), "502"),
        ("a blank before the colon", "HTTP/1.1 200 OK\r\nx : y\r\n\r\n".into(), "502"),
        ("a fold", "HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n".into(), "502"),
        ("NUL", "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n".into(), "502"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx".into(), "502"),
        (
            "length and coding",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "502",
        ),
        ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".into(), "502"),
        ("a switch nobody asked for", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n".into(), "502"),
        ("300 fields", many, "502"),
        ("a head of 64 KiB", large, "502"),
        ("a flood of interim answers", flood, "502"),
        ("too little", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".into(), "truncated"),
        ("too much", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n".into(), "200 closed"),
        ("a body after 204", "HTTP/1.1 204 No Content\r\n\r\nbody".into(), "204 closed"),
        ("a body after 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody".into(), "304 closed"),
        ("a second answer", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 No\r\n\r\n".into(), "204 closed"),
        // The head may be on its way to the client before the body is looked at.
        ("a bad chunk size", chunks("zz\r\n"), "502 closed|truncated|closed"),
        ("a chunk with too much", chunks("1\r\nxx\r\n0\r\n\r\n"), "502 closed|truncated|closed"),
        ("a forbidden trailer", chunks("0\r\nContent-Length: 5\r\n\r\n"), "502 closed|truncated|closed"),
        ("a chunk without end", chunks("5\r\nhel"), "truncated"),
    ];
    for (name, answer, expected) in rows {
        let backend = Backend::start(move |served| {
            if served.request().is_some() && served.peer.send(&answer) {
                // Whether the gateway keeps the connection is what is tested: whoever asks again is noted.
                served.peer.finish();
                served.request();
            }
        });
        let gateway = Gateway::start(&Rules::to(backend.address()));
        for round in 1..=2 {
            let mut client = gateway.connect();
            client.send(GET);
            let outcome = client.outcome();
            let outcome = outcome.trim_start_matches("103 ");
            let expected = if expected == "502" { "502 closed" } else { expected };
            assert!(expected.split('|').any(|one| one == outcome), "{name}: {outcome} instead of {expected}");
            assert_eq!((backend.connections(), backend.requests().len()), (round, round), "{name}");
        }
        gateway.settle();
    }
}

#[test]
fn stray_bytes_end_a_connection_that_stays_open() {
    for (name, answer) in [
        ("too much", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!"),
        (
            "a second answer",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 Poison\r\nContent-Length: 0\r\n\r\n",
        ),
    ] {
        let backend = Backend::canned(answer);
        let gateway = Gateway::start(&Rules::to(backend.address()));
        let mut client = gateway.connect();
        for round in 1..=5 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.read().map(|answer| answer.status()), Ok(200), "{name}");
            assert_eq!(backend.connections(), round, "{name}");
        }
    }
}

#[test]
fn answers_before_the_end_of_the_request() {
    // What the service does after the head; what the client gets.
    for (closes, answer) in [
        (true, "HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"),
        (true, "HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"),
        (false, "HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"),
        (false, "HTTP/1.1 413 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
    ] {
        let backend = Backend::start(move |served| {
            served.request_head();
            served.peer.send(answer);
            if !closes {
                served.peer.read_to_end();
            }
        });
        let gateway = Gateway::start(&Rules::to(backend.address()));
        for sent in [0, 10, 100_000] {
            for framing in ["Content-Length: 200000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n30d40\r\n"] {
                let mut client = gateway.connect();
                client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}{}", "x".repeat(sent)));
                assert_eq!(client.outcome(), "413 closed", "{answer:?} after {sent} bytes, {framing:?}");
            }
        }
        gateway.settle();
    }
}

#[test]
fn an_interim_answer_is_never_cut_by_the_final_one() {
    const BODY: usize = 8 << 20;
    let interim = format!("HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n", "y".repeat(60_000)).repeat(16);
    // How much of the first answer lies in the sockets between gateway and client when the interim answers come: as
    // long as it all fits. At some of these there is room for a part of them only.
    for unread in (1..32).map(|step| step * (256 << 10)) {
        let (sent, wait) = std::sync::mpsc::channel();
        let interim = interim.clone();
        let backend = Backend::start(move |served| {
            served.request();
            served.peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
            served.peer.send(vec![b'x'; BODY]);
            served.request();
            served.peer.send(&interim);
            // The nonsense is not to arrive in the same read; which of both comes first decides what is tested.
            std::thread::sleep(std::time::Duration::from_millis(20));
            served.peer.send("nonsense\r\n\r\n");
            served.peer.read_to_end();
            // Nobody waits any more where it did not fit.
            let _ = sent.send(());
        });
        let gateway = Gateway::start(&Rules::to(backend.address()));
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2));
        client.read_head().expect("an answer");
        client.take(BODY - unread).expect("most of the body");
        if wait.recv_timeout(std::time::Duration::from_secs(1)).is_err() {
            assert!(unread > 256 << 10, "the second request was never served");
            return;
        }
        client.take(unread).expect("the rest of the body");
        loop {
            match client.read() {
                Ok(answer) if answer.status() == 103 => {
                    assert_eq!(answer.get("x").map(str::len), Some(60_000), "cut, with {unread} bytes unread");
                    assert_eq!(answer.fields.len(), 1, "{:?}", &answer.fields[1..]);
                }
                Ok(answer) => break assert_eq!(answer.status(), 502, "with {unread} bytes unread"),
                Err(_) => break,
            }
        }
    }
}
