//! What no client may send: each row is answered with the right status, the connection is closed, and the service
//! sees nothing of it. The same rows as the codec's own, but through sockets.

use e2e::kit::{Backend, Gateway, Rules};

/// Sends each row on a connection of its own, whole and once more in two segments. Returns with the service untouched.
fn check(rules: impl Fn(Rules) -> Rules, rows: &[(&str, String, &str)]) {
    let backend = Backend::echo();
    let gateway = Gateway::start(&rules(Rules::to(backend.address())));
    let mut wrong = Vec::new();
    for (name, bytes, expected) in rows {
        for cut in [bytes.len(), bytes.len() / 2] {
            let mut client = gateway.connect();
            client.send_cut(bytes.as_bytes(), cut);
            let outcome = client.outcome();
            if outcome != format!("{expected} closed") {
                wrong.push(format!("{name} cut at {cut}: {outcome} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((backend.connections(), backend.requests()), (0, vec![]), "the service has seen something");
    gateway.settle();
}

fn row(name: &'static str, bytes: &str, expected: &'static str) -> (&'static str, String, &'static str) {
    (name, bytes.to_owned(), expected)
}

/// A GET with these field lines between Host and the end.
fn fields(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

/// A POST with these field lines and a body that follows.
fn post(lines: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
}

#[test]
fn framing_that_two_readers_could_read_differently() {
    let rows = [
        ("CL with TE", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400"),
        ("TE with CL", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), "400"),
        ("two CL", post("Content-Length: 5\r\nContent-Length: 5\r\n", "12345"), "400"),
        ("two CL that differ", post("Content-Length: 5\r\nContent-Length: 6\r\n", "12345"), "400"),
        ("CL +5", post("Content-Length: +5\r\n", "12345"), "400"),
        ("CL -5", post("Content-Length: -5\r\n", "12345"), "400"),
        ("CL list", post("Content-Length: 5, 5\r\n", "12345"), "400"),
        ("CL 0x5", post("Content-Length: 0x5\r\n", "12345"), "400"),
        ("CL with a blank", post("Content-Length: 5 5\r\n", "12345"), "400"),
        ("CL empty", post("Content-Length:\r\n", ""), "400"),
        ("CL overflow", post("Content-Length: 18446744073709551616\r\n", ""), "400"),
        ("TE list", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), "501"),
        ("TE list in two fields", post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", ""), "400"),
        ("TE chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), "400"),
        ("TE chunked in two fields", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ""), "400"),
        ("TE chunked not last", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), "400"),
        ("TE identity", post("Transfer-Encoding: identity\r\n", ""), "400"),
        ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", ""), "400"),
        ("TE empty", post("Transfer-Encoding:\r\n", ""), "400"),
        ("TE quoted", post("Transfer-Encoding: \"chunked\"\r\n", ""), "400"),
        ("TE with a control byte", post("Transfer-Encoding: \x0bchunked\r\n", ""), "400"),
        ("TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), "400"),
    ];
    check(|rules| rules, &rows);
}

#[test]
fn lines_and_fields_against_the_grammar() {
    let rows = [
        row("bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", "400"),
        row("bare LF after a field", "GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n", "400"),
        row("bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", "400"),
        ("bare CR in a value", fields("x: a\rb\r\n"), "400"),
        row("bare CR in the target", "GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("obs-fold with a space", fields("x: a\r\n b\r\n"), "400"),
        ("obs-fold with a tab", fields("x: a\r\n\tb\r\n"), "400"),
        row("a blank before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
        ("space before the colon", fields("x : a\r\n"), "400"),
        ("tab before the colon", fields("x\t: a\r\n"), "400"),
        ("no colon", fields("x\r\n"), "400"),
        ("NUL in a value", fields("x: a\0b\r\n"), "400"),
        ("NUL in a name", fields("x\0y: b\r\n"), "400"),
        ("an empty name", fields(": b\r\n"), "400"),
        ("an 8-bit name", fields("x\u{e9}: b\r\n"), "400"),
        ("a name with a slash", fields("x/y: b\r\n"), "400"),
        ("DEL in a value", fields("x: a\x7fb\r\n"), "400"),
        ("an option of Connection that is no token", fields("Connection: a b\r\n"), "400"),
        ("an unknown expectation", fields("Expect: 200-maybe\r\n"), "417"),
    ];
    check(|rules| rules, &rows);
}

#[test]
fn hosts_that_are_none() {
    let with = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let rows = [
        row("no Host", "GET / HTTP/1.1\r\n\r\n", "400"),
        row("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        row("the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
        row("absolute-form without Host", "GET http://a/ HTTP/1.1\r\n\r\n", "400"),
        row("https on a plain connection", "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "421"),
        row("absolute-form with a bad Host", "GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
        ("an empty Host", with(""), "400"),
        ("a blank in Host", with("a b"), "400"),
        ("user information", with("u@a"), "400"),
        ("a path", with("a/b"), "400"),
        ("two hosts in one", with("a,b"), "400"),
        ("a port that is none", with("a:b"), "400"),
        ("a port too large", with("a:65536"), "400"),
        ("an open bracket", with("[::1"), "400"),
        ("an escape", with("a%62"), "400"),
        ("a backslash", with("a\\b"), "400"),
    ];
    check(|rules| rules, &rows);
}

#[test]
fn request_lines_that_are_none() {
    let host = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let rows = [
        ("a method with a bracket", host("GE(T / HTTP/1.1"), "400"),
        ("a method of 65 bytes", host(&format!("{} / HTTP/1.1", "M".repeat(65))), "400"),
        ("no method", host(" / HTTP/1.1"), "400"),
        ("two spaces before the target", host("GET  / HTTP/1.1"), "400"),
        ("two spaces before the version", host("GET /  HTTP/1.1"), "400"),
        ("a space in the target", host("GET /a b HTTP/1.1"), "400"),
        ("a space at the end", host("GET / HTTP/1.1 "), "400"),
        ("a tab for a space", host("GET\t/ HTTP/1.1"), "400"),
        row("HTTP/0.9", "GET /\r\n", "400"),
        ("HTTP/2.0", host("GET / HTTP/2.0"), "505"),
        row("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        ("HTTP/1.2", host("GET / HTTP/1.2"), "505"),
        ("HTTP/1.10", host("GET / HTTP/1.10"), "400"),
        ("a lower case version", host("GET / http/1.1"), "400"),
        ("CONNECT", host("CONNECT a:443 HTTP/1.1"), "501"),
        ("asterisk for GET", host("GET * HTTP/1.1"), "400"),
        ("a target without slash", host("GET a HTTP/1.1"), "400"),
        ("another scheme", host("GET ftp://a/ HTTP/1.1"), "400"),
        ("a fragment", host("GET /a#b HTTP/1.1"), "400"),
        ("an 8-bit target", host("GET /\u{e9} HTTP/1.1"), "400"),
        ("a bad escape", host("GET /%zz HTTP/1.1"), "400"),
        ("an encoded NUL", host("GET /%00 HTTP/1.1"), "400"),
        row("TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03", "400"),
    ];
    check(|rules| rules, &rows);
    let rejects = |rules: Rules| rules.policy("path: {encodedSlash: reject}");
    check(rejects, &[("an encoded slash", host("GET /a%2Fb HTTP/1.1"), "400")]);
}

#[test]
fn heads_that_are_too_large_or_too_slow() {
    let many: String = (0..10_000).map(|number| format!("x{number}: y\r\n")).collect();
    let rows = [
        ("one field of 64 KiB", fields(&format!("x: {}\r\n", "y".repeat(64 * 1024))), "431"),
        ("10,000 fields", fields(&many), "431"),
        ("101 fields besides Host", fields(&"x: y\r\n".repeat(101)), "431"),
        ("a target of 64 KiB", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(64 * 1024)), "414"),
    ];
    check(|rules| rules, &rows);
    let rows = [
        row("a request line without an end", "GET / HTT", "408"),
        row("a head without an end", "GET / HTTP/1.1\r\nHost: a\r\n", "408"),
        row("only an empty line", "\r\n", "408"),
    ];
    check(|rules| rules.policy("timeouts: {head: 150ms}"), &rows);
}
