//! Answers: each row is what an upstream sent, and what a client gets or what is wrong with it.

use super::*;
use filters::head::Version;

/// What a client of that version gets for a request of that method, before the body.
fn answered(came: &str, method: Method, client: Version) -> Result<(ResponseMeta, String), String> {
    let mut input = wire(came);
    if !came.ends_with("||") {
        input.extend_from_slice(b"\r\n\r\n");
    }
    let mut head = Head::default();
    let n = parse_response(&input, &mut 0, LIMITS, &mut head).map_err(told)?.ok_or("more")?;
    assert_eq!(n, input.len());
    let meta = check_response(&mut head, method).map_err(told)?;
    let mut out = Vec::new();
    encode_response(&head, answer_framing(meta.framing, client), client, true, &mut out);
    Ok((meta, row(&out)))
}

fn check(came: &str, expected: &str) {
    let seen = answered(came, Method::Get, Version::Http11);
    assert_eq!(seen.map_or_else(|told| told, |(_, sent)| sent), expected, "{came}");
}

#[test]
fn status_and_reason_stay() {
    check("HTTP/1.1 200 OK|Content-Length: 0", "HTTP/1.1 200 OK|Content-Length: 0||");
    check("HTTP/1.1 299 All is well|Content-Length: 0", "HTTP/1.1 299 All is well|Content-Length: 0||");
    check("HTTP/1.1 404 |Content-Length: 0", "HTTP/1.1 404 |Content-Length: 0||");
    // RFC 9112 4 wants the space; it ends nothing, so its absence confuses nobody.
    check("HTTP/1.1 404|Content-Length: 0", "HTTP/1.1 404 |Content-Length: 0||");
    check("HTTP/1.0 200 OK|Content-Length: 0", "HTTP/1.1 200 OK|Content-Length: 0||");
}

#[test]
fn status_lines() {
    for bad in [
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 600 OK",
        "HTTP/1.1 2x0 OK",
        "http/1.1 200 OK",
        "HTTP/1.1\t200 OK",
        "ICY 200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 200\tOK",
    ] {
        check(bad, "400 status_line");
    }
    check("HTTP/1.2 200 OK", "505 version_unsupported");
    check("HTTP/1.1 200 OK\nX: y", "400 bare_lf");
    check("HTTP/1.1 200 O\rK", "400 bare_cr");
    check("HTTP/1.1 200 O\0K", "400 value");
    check("HTTP/1.1 200 OK|X: y| z", "400 fold");
    check("HTTP/1.1 200 OK|X : y", "400 blank_in_name");
    // No empty lines before an answer: they would be a body's that was too long.
    check("|HTTP/1.1 200 OK", "400 status_line");
    // RFC 9110 15.2.2: never asked for.
    check("HTTP/1.1 101 Switching Protocols|Upgrade: x|Connection: upgrade", "400 unasked_switch");
}

#[test]
fn framing() {
    // RFC 9112 6.3.
    check("HTTP/1.1 200 OK|Transfer-Encoding: chunked", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||");
    check("HTTP/1.1 200 OK", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||");
    check("HTTP/1.1 200 OK|Content-Length: 05", "HTTP/1.1 200 OK|Content-Length: 5||");
    check("HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked", "400 length_and_encoding");
    check("HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 5", "400 length_twice");
    check("HTTP/1.1 200 OK|Content-Length: 5, 5", "400 length");
    check("HTTP/1.1 200 OK|Transfer-Encoding: gzip", "400 encoding");
    check("HTTP/1.0 200 OK|Transfer-Encoding: chunked", "400 encoding_in_http10");
    check("HTTP/1.1 204 No Content|Content-Length: 0|X: y", "HTTP/1.1 204 No Content|X: y||");
    check("HTTP/1.1 204 No Content|Transfer-Encoding: chunked", "HTTP/1.1 204 No Content||");
    check("HTTP/1.1 304 Not Modified|Content-Length: 5", "HTTP/1.1 304 Not Modified|Content-Length: 5||");
    check("HTTP/1.1 304 Not Modified|Content-Length: 5|Transfer-Encoding: chunked", "HTTP/1.1 304 Not Modified||");
    check("HTTP/1.1 103 Early Hints|Link: x", "HTTP/1.1 103 Early Hints|Link: x||");
    check(
        "HTTP/1.1 200 OK|Connection: x, close|X: y|Keep-Alive: 1|Upgrade: h2c|Content-Length: 0",
        "HTTP/1.1 200 OK|Content-Length: 0||",
    );
    check(
        "HTTP/1.1 200 OK|Connection: x_y, close|X_Y: 1|Close: 2|Content-Length: 0",
        "HTTP/1.1 200 OK|Content-Length: 0||",
    );
    check(
        "HTTP/1.1 200 OK|Host: a|Host: b|Expect: c|Content-Length: 0",
        "HTTP/1.1 200 OK|Host: a|Host: b|Expect: c|Content-Length: 0||",
    );
}

#[test]
fn bodies_and_connections() {
    let seen = |came: &str, method| {
        let (meta, _) = answered(came, method, Version::Http11).unwrap();
        format!("{:?} {} {:?}", meta.framing, meta.keep_alive, meta.keep_alive_timeout_s)
    };
    for (came, method, expected) in [
        ("HTTP/1.1 200 OK|Content-Length: 5", Method::Get, "Length(5) true None"),
        ("HTTP/1.1 200 OK|Content-Length: 5", Method::Head, "None true None"),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", Method::Head, "None true None"),
        ("HTTP/1.1 200 OK", Method::Get, "UntilClose false None"),
        ("HTTP/1.1 200 OK", Method::Head, "None true None"),
        // RFC 9112 6.3: they end with their head, whatever it says.
        ("HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked", Method::Head, "None true None"),
        ("HTTP/1.1 304 OK|Content-Length: 5|Transfer-Encoding: chunked", Method::Get, "None true None"),
        ("HTTP/1.1 304 OK|Content-Length: 5", Method::Get, "None true None"),
        ("HTTP/1.1 100 Continue", Method::Post, "None true None"),
        ("HTTP/1.1 200 OK|Content-Length: 5|Connection: close", Method::Get, "Length(5) false None"),
        ("HTTP/1.0 200 OK|Content-Length: 5", Method::Get, "Length(5) false None"),
        ("HTTP/1.0 200 OK|Content-Length: 5|Connection: keep-alive", Method::Get, "Length(5) true None"),
        ("HTTP/1.1 200 OK|Content-Length: 5|Keep-Alive: timeout=5, max=100", Method::Get, "Length(5) true Some(5)"),
        ("HTTP/1.1 200 OK|Content-Length: 5|Keep-Alive: max=1,  TimeOut=7", Method::Get, "Length(5) true Some(7)"),
        (
            "HTTP/1.1 200 OK|Content-Length: 5|Keep-Alive: timeout=99999999999",
            Method::Get,
            "Length(5) true Some(4294967295)",
        ),
        ("HTTP/1.1 200 OK|Content-Length: 5|Keep-Alive: timeout", Method::Get, "Length(5) true None"),
    ] {
        assert_eq!(seen(came, method), expected, "{came}");
    }
}

#[test]
fn old_clients_get_what_they_understand() {
    for (came, expected) in [
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", "HTTP/1.1 200 OK|Connection: close||"),
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK|Connection: close||"),
        ("HTTP/1.1 200 OK|Content-Length: 5", "HTTP/1.1 200 OK|Content-Length: 5|Connection: keep-alive||"),
    ] {
        let (_, sent) = answered(came, Method::Get, Version::Http10).unwrap();
        assert_eq!(sent, expected, "{came}");
    }
}
