//! Requests: each row is what came, and what the upstream gets or the client is told.

use super::*;

/// `came` may miss the end of its head, which is then added.
fn check(came: &str, expected: &str) {
    let mut input = wire(came);
    if !came.ends_with("||") {
        input.extend_from_slice(b"\r\n\r\n");
    }
    check_bytes(&input, expected);
}

fn check_bytes(input: &[u8], expected: &str) {
    let seen = match forwarded(input) {
        Ok((n, _, _, sent)) => {
            assert_eq!(n, input.len(), "{}", row(input));
            sent
        }
        Err(told) => told,
    };
    assert_eq!(seen, expected, "{}", row(input));
}

#[test]
fn ordinary_requests_pass_as_they_are() {
    for same in [
        "GET / HTTP/1.1|Host: a||",
        "GET /api/v1/items/42?q=abc HTTP/1.1|Host: svc-a.mesh.local|user-AGENT: lg/0.1|Accept: */*||",
        "POST /a HTTP/1.1|host: a:8080|Content-Length: 5|X-Y: \t| a||".replace(" \t| a", " b").as_str(),
        "GET /?a=%00&b=//../\\&c=[{\"x\"}]^` HTTP/1.1|Host: a||",
        "BREW /pot HTTP/1.1|Host: a||",
        "get / HTTP/1.1|Host: a||",
        "GET / HTTP/1.1|Host: a|Cookie: a=1; b=2|cookie: c=3|Trailer: x-sum||",
        "OPTIONS * HTTP/1.1|Host: a||",
        "POST / HTTP/1.1|Host: a|Content-Length: 5|Expect: 100-continue||",
    ] {
        check(same, same);
    }
}

#[test]
fn request_lines() {
    // RFC 9112 3: one space between the three, nothing before and after.
    check("GET  / HTTP/1.1|Host: a", "400 request_line");
    check("GET /  HTTP/1.1|Host: a", "400 request_line");
    check("GET\t/ HTTP/1.1|Host: a", "400 request_line");
    check("GET /\tHTTP/1.1|Host: a", "400 request_line");
    check(" GET / HTTP/1.1|Host: a", "400 request_line");
    check("GET / HTTP/1.1 |Host: a", "400 request_line");
    check("GET / x HTTP/1.1|Host: a", "400 version");
    check("GET / |Host: a", "400 request_line");
    check("GET|Host: a", "400 request_line");
    // RFC 9110 9.1: a method is a token.
    check("G@T / HTTP/1.1|Host: a", "400 method");
    check("G(T / HTTP/1.1|Host: a", "400 method");
    check("G\u{e9}T / HTTP/1.1|Host: a", "400 method");
    check("\0GET / HTTP/1.1|Host: a", "400 method");
    check("\u{16}\u{3}\u{1} TLS", "400 method");
    check(&format!("{} / HTTP/1.1|Host: a", "M".repeat(65)), "400 method");
    check(&format!("{}|GET / HTTP/1.1|Host: a", "M".repeat(65)), "400 method");
    // RFC 9110 9.3.6.
    check("CONNECT a:443 HTTP/1.1|Host: a:443", "501 connect");
    // RFC 9112 2.2: some empty lines before it.
    check("||GET / HTTP/1.1|Host: a", "GET / HTTP/1.1|Host: a||");
    check("|||||GET / HTTP/1.1|Host: a", "400 request_line");
    check("\n\nGET / HTTP/1.1|Host: a", "400 bare_lf");
    check("\rGET / HTTP/1.1|Host: a", "400 bare_cr");
}

#[test]
fn versions() {
    // RFC 9112 2.3: the name is case-sensitive, the version has two digits.
    check("GET /", "400 request_line");
    check("GET / http/1.1|Host: a", "400 version");
    check("GET / HTTP/1.10|Host: a", "400 version");
    check("GET / HTTP/11|Host: a", "400 version");
    check("GET / HTTP/1|Host: a", "400 version");
    check("GET / HTTP/1,1|Host: a", "400 version");
    check("GET / HTTP/+1.1|Host: a", "400 version");
    check("GET / HTCPCP/1.0|Host: a", "400 version");
    // RFC 9110 15.6.6. 1.2 never came to be, so the SHOULD of RFC 9110 6.2 has nothing to apply to.
    check("GET / HTTP/0.9|Host: a", "505 version_unsupported");
    check("GET / HTTP/1.2|Host: a", "505 version_unsupported");
    check("GET / HTTP/2.0|Host: a", "505 version_unsupported");
    check("PRI * HTTP/2.0||SM||", "505 version_unsupported");
}

#[test]
fn line_ends() {
    // RFC 9112 2.2.
    check("GET / HTTP/1.1\nHost: a", "400 bare_lf");
    check("GET / HTTP/1.1|Host: a\nX: b", "400 bare_lf");
    check("GET / HTTP/1.1|Host\n: a", "400 bare_lf");
    check_bytes(b"GET / HTTP/1.1\r\nHost: a\r\n\n", "400 bare_lf");
    check_bytes(b"GET / HTTP/1.1\r\nHost: a\n\r\n", "400 bare_lf");
    check_bytes(b"GET /\nHost: a\n\n", "400 bare_lf");
    check("GET / HTTP/1.1\rHost: a", "400 bare_cr");
    check("GET / HTTP/1.1|Host: a\rX: b", "400 bare_cr");
    check("GET / HTTP/1.1|Host: a|\rX: b", "400 bare_cr");
    check("GET / HTTP/1.1|Host: a\r|", "400 bare_cr");
    check("GET /\r HTTP/1.1|Host: a", "400 request_line");
}

#[test]
fn field_lines() {
    // RFC 9112 5.1, 5.2; RFC 9110 5.1, 5.5.
    check("GET / HTTP/1.1|Host: a| folded: b", "400 fold");
    check("GET / HTTP/1.1|Host: a|\tfolded", "400 fold");
    check("GET / HTTP/1.1| Host: a", "400 fold");
    check("GET / HTTP/1.1|Host : a", "400 blank_in_name");
    check("GET / HTTP/1.1|Host\t: a", "400 blank_in_name");
    check("GET / HTTP/1.1|Host: a|Bad Name: b", "400 blank_in_name");
    check("GET / HTTP/1.1|Host: a|nothing", "400 no_colon");
    check("GET / HTTP/1.1|Host: a|: b", "400 name");
    check("GET / HTTP/1.1|Host: a|x(y: b", "400 name");
    check("GET / HTTP/1.1|Host: a|\"x\": b", "400 name");
    check("GET / HTTP/1.1|Host: a|\u{fc}: b", "400 name");
    check("GET / HTTP/1.1|Host: a|x\0: b", "400 name");
    for control in (0..0x20u8).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        check_bytes(&[b"GET / HTTP/1.1\r\nHost: a\r\nX: b", &[control][..], b"c\r\n\r\n"].concat(), "400 value");
        check_bytes(&[b"GET / HTTP/1.1\r\nHost: a\r\nX:", &[control][..], b"c\r\n\r\n"].concat(), "400 value");
    }
    // obs-text and tabs are legal in values and kept; blanks around them are no part of the value.
    check_bytes(b"GET / HTTP/1.1\r\nHost: a\r\nX: b\xe4\xff\tc\r\n\r\n", "GET / HTTP/1.1|Host: a|X: b\\xe4\\xff\\tc||");
    check("GET / HTTP/1.1|Host:a|X:|Y:   |Z: b  |V:c||", "GET / HTTP/1.1|Host:a|X:|Y: |Z: b|V:c||");
    // They are left out of what is sent, since some readers keep tabs.
    check("GET / HTTP/1.1|Host: \t a \t|X:\tb", "GET / HTTP/1.1|Host: a|X: b||");
    check("GET / HTTP/1.1|Host: a|Content-Length: 5\t", "GET / HTTP/1.1|Host: a|Content-Length: 5||");
}

#[test]
fn targets() {
    // RFC 9112 3.2.
    check("GET * HTTP/1.1|Host: a", "400 target");
    check("OPTIONS ** HTTP/1.1|Host: a", "400 target");
    check("GET a HTTP/1.1|Host: a", "400 target");
    check("GET a:80 HTTP/1.1|Host: a:80", "400 target");
    check("GET ?a HTTP/1.1|Host: a", "400 target");
    check("GET \\a HTTP/1.1|Host: a", "400 target");
    check("GET ftp://a/ HTTP/1.1|Host: a", "400 target");
    check("GET http:/a HTTP/1.1|Host: a", "400 target");
    check("GET http:///a HTTP/1.1|Host: a", "400 host");
    check("GET /a#b HTTP/1.1|Host: a", "400 target");
    check("GET /a?b#c HTTP/1.1|Host: a", "400 target");
    check("GET /\u{e4} HTTP/1.1|Host: a", "400 target");
    check("GET /\u{1} HTTP/1.1|Host: a", "400 target");
    check("GET /\u{7f} HTTP/1.1|Host: a", "400 target");
    // RFC 9112 3.2.2: the target's host wins, and it is checked like the other.
    check("GET http://B.c/d?e HTTP/1.1|Host: a|X: y", "GET /d?e HTTP/1.1|X: y|Host: b.c||");
    // RFC 9110 7.4: not over a connection that nothing secures.
    check("GET HTTPS://b:443 HTTP/1.1|Host: a", "421 scheme");
    check("GET http://b?c HTTP/1.1|Host: a", "GET /?c HTTP/1.1|Host: b||");
    check("GET http://b//c/./d HTTP/1.1|Host: a", "GET /c/d HTTP/1.1|Host: b||");
    check("GET http://b/ HTTP/1.0", "GET / HTTP/1.1|Host: b||");
    check("OPTIONS http://b HTTP/1.1|Host: b", "OPTIONS * HTTP/1.1|Host: b||");
    check("OPTIONS http://b/ HTTP/1.1|Host: b", "OPTIONS / HTTP/1.1|Host: b||");
    check("GET http://u@b/ HTTP/1.1|Host: b", "400 host");
    check("GET http://b:0/ HTTP/1.1|Host: b", "400 host");
    check("GET http://b\\c/ HTTP/1.1|Host: b", "400 host");
    check("GET http://b/ HTTP/1.1", "400 host_missing");
    check("GET http://b/ HTTP/1.1|Host: a b", "400 host");
    // Paths have their own table; these show that they are looked at.
    check("GET /a/../b?x HTTP/1.1|Host: a", "GET /b?x HTTP/1.1|Host: a||");
    check("GET /%00 HTTP/1.1|Host: a", "400 encoded_nul");
    check("GET /%zz HTTP/1.1|Host: a", "400 escape");
    check("GET /%2? HTTP/1.1|Host: a", "400 escape");
}

#[test]
fn hosts() {
    // RFC 9112 3.2; `host` has the grammar's table.
    check("GET / HTTP/1.1", "400 host_missing");
    check("GET / HTTP/1.1|Host: a|Host: a", "400 host_twice");
    check("GET / HTTP/1.1|Host: a|HOST: b", "400 host_twice");
    check("GET / HTTP/1.0|Host: a|Host: b", "400 host_twice");
    check("GET / HTTP/1.1|Host:", "400 host");
    check("GET / HTTP/1.1|Host: a, b", "400 host");
    check("GET / HTTP/1.1|Host: u@a", "400 host");
    check("GET / HTTP/1.1|Host: a/b", "400 host");
    check("GET / HTTP/1.0", "GET / HTTP/1.1|Host: ||");
    check("GET / HTTP/1.1|hosT: Shop.Local|X: y", "GET / HTTP/1.1|hosT: shop.local|X: y||");
    check("GET / HTTP/1.1|Host: a.:80|X: y", "GET / HTTP/1.1|X: y|Host: a:80||");
    check("GET / HTTP/1.1|Host: a:|X: y", "GET / HTTP/1.1|X: y|Host: a||");
    check("GET / HTTP/1.1|Host_: b", "400 host_missing");
}

#[test]
fn framing() {
    // RFC 9112 6.1, 6.3; RFC 9110 8.6.
    const CHUNKED: &str = "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||";
    check("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked", CHUNKED);
    check("POST / HTTP/1.1|Host: a|transfer-encoding: \t cHUNKED ", CHUNKED);
    check("POST / HTTP/1.1|Host: a|Content-Length: 5|Transfer-Encoding: chunked", "400 length_and_encoding");
    check("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Content-Length: 0", "400 length_and_encoding");
    check("POST / HTTP/1.1|Host: a|Content-Length: 5|Content-Length: 5", "400 length_twice");
    check("POST / HTTP/1.1|Host: a|Content-Length: 5|content-length: 6", "400 length_twice");
    for length in ["+5", "-5", "5, 5", "5,", "5 5", "", "0x5", "5.0", "1e3", "\"5\"", "18446744073709551616", "5\u{b2}"]
    {
        check(&format!("POST / HTTP/1.1|Host: a|Content-Length: {length}"), "400 length");
    }
    check("POST / HTTP/1.1|Host: a|Content-Length: 007", "POST / HTTP/1.1|Host: a|Content-Length: 7||");
    check("POST / HTTP/1.1|Host: a|Content_Length: 7", "POST / HTTP/1.1|Host: a|Content_Length: 7||");
    for encoding in
        ["identity", "xchunked", "chunked, chunked", "chunked, identity", "", "chunked;a=b", "\u{a0}chunked"]
    {
        check(&format!("POST / HTTP/1.1|Host: a|Transfer-Encoding: {encoding}"), "400 encoding");
    }
    check("POST / HTTP/1.1|Host: a|Transfer-Encoding: \u{b}chunked", "400 value");
    check("POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked", "501 encoding_unknown");
    check("POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip|Transfer-Encoding: chunked", "400 encoding");
    check("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: chunked", "400 encoding");
    check("POST / HTTP/1.0|Host: a|Transfer-Encoding: chunked", "400 encoding_in_http10");
}

#[test]
fn fields_of_one_hop_stay_there() {
    // RFC 9110 7.6.1.
    const BARE: &str = "GET / HTTP/1.1|Host: a|Y: z||";
    check("GET / HTTP/1.1|Host: a|Connection: close, X|x: 1|Y: z", BARE);
    check("GET / HTTP/1.1|Connection: keep-alive|Host: a|Keep-Alive: 5|Proxy-Connection: x|Y: z", BARE);
    check("GET / HTTP/1.1|Host: a|Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: AA|Y: z", BARE);
    check("GET / HTTP/1.1|Host: a|X: 1|X: 2|Connection: x|Connection: ,,close, |Y: z", BARE);
    check("GET / HTTP/1.1|Host: a|TE: gzip|Proxy-Authorization: b|Y: z", BARE);
    check(
        "GET / HTTP/1.1|Host: a|TE: gzip, Trailers|Y: z",
        "GET / HTTP/1.1|Host: a|Y: z|TE: trailers|Connection: TE||",
    );
    // What we or other hops rely on is not a peer's to remove.
    const KEPT: &str = "POST / HTTP/1.1|Host: a|X-Forwarded-For: b|Content-Length: 1|Traceparent: c|";
    check(&format!("{KEPT}Connection: host, x-forwarded-for, content-length, traceparent"), &format!("{KEPT}|"));
    check("GET / HTTP/1.1|Host: a|Connection: a b", "400 connection");
    check("GET / HTTP/1.1|Host: a|Connection: \"close\"", "400 connection");
    check(&format!("GET / HTTP/1.1|Host: a|Connection: {}", "x,".repeat(17)), "400 connection");
}

#[test]
fn expectations() {
    // RFC 9110 10.1.1.
    check(
        "POST / HTTP/1.1|Host: a|Content-Length: 1|Expect: 100-CONTINUE||",
        "POST / HTTP/1.1|Host: a|Content-Length: 1|Expect: 100-CONTINUE||",
    );
    check(
        "POST / HTTP/1.0|Host: a|Content-Length: 1|Expect: 100-continue",
        "POST / HTTP/1.1|Host: a|Content-Length: 1||",
    );
    check("GET / HTTP/1.1|Host: a|Expect: 100-continue", "GET / HTTP/1.1|Host: a||");
    check("POST / HTTP/1.1|Host: a|Expect: 100-continue, x", "417 expectation");
    check("POST / HTTP/1.1|Host: a|Expect: tea", "417 expectation");
    check("POST / HTTP/1.1|Host: a|Expect: 100-continue|Expect: tea", "417 expectation");
    let twice = "POST / HTTP/1.1|Host: a|Content-Length: 1|Expect: 100-continue|Expect: 100-continue||";
    check(twice, twice);
    // RFC 9110 5.6.1.2: empty members are ignored.
    check("POST / HTTP/1.1|Host: a|Expect:", "POST / HTTP/1.1|Host: a||");
    check("POST / HTTP/1.1|Host: a|Expect: 100-continue,,", "POST / HTTP/1.1|Host: a||");
}

#[test]
fn bounds() {
    check(&format!("GET /{} HTTP/1.1|Host: a", "x".repeat(65_536)), "414 target_too_long");
    check(&format!("GET / HTTP/1.1|Host: a|X: {}", "x".repeat(65_536)), "431 head_too_large");
    check(&format!("GET / HTTP/1.1|Host: a|{}", "X: y|".repeat(10_000)), "431 too_many_fields");
    check(&format!("GET / HTTP/1.1|Host: a|{}|", "X: y|".repeat(20)), "431 too_many_fields");
    let exact = format!("GET / HTTP/1.1|Host: a|X: {}||", "x".repeat(4096 - 31));
    assert_eq!(wire(&exact).len(), 4096 + 1);
    check(&exact, "431 head_too_large");
    let exact = exact.replace("xx||", "x||");
    check(&exact, &exact);
}

#[test]
fn what_the_head_says_about_connection_and_body() {
    let flags = |came: &str| {
        let (_, meta, _, _) = forwarded(&wire(came)).unwrap();
        let mut flags = format!("{:?} {:?}", meta.method, meta.framing);
        for (name, is_set) in [
            ("keep-alive", meta.keep_alive),
            ("continue", meta.expect_continue),
            ("upgrade", meta.upgrade),
            ("trailers", meta.te_trailers),
        ] {
            if is_set {
                flags = format!("{flags} {name}");
            }
        }
        flags
    };
    for (came, expected) in [
        ("GET / HTTP/1.1|Host: a||", "Get None keep-alive"),
        ("GET / HTTP/1.1|Host: a|Connection: x, CLOSE||", "Get None"),
        ("GET / HTTP/1.1|Host: a|Connection: keep-alive, close||", "Get None"),
        ("GET / HTTP/1.0||", "Get None"),
        ("GET / HTTP/1.0|Connection: Keep-Alive||", "Get None keep-alive"),
        ("GET / HTTP/1.0|Proxy-Connection: Keep-Alive||", "Get None"),
        ("POST / HTTP/1.1|Host: a|Content-Length: 0||", "Post Length(0) keep-alive"),
        ("PUT / HTTP/1.1|Host: a|Content-Length: 9|Expect: 100-continue||", "Put Length(9) keep-alive continue"),
        ("A / HTTP/1.1|Host: a|Transfer-Encoding: chunked|TE: trailers||", "Other Chunked keep-alive trailers"),
        ("GET / HTTP/1.1|Host: a|Upgrade: websocket|Connection: upgrade||", "Get None keep-alive upgrade"),
        ("GET / HTTP/1.1|Host: a|Upgrade: websocket||", "Get None keep-alive"),
        ("GET / HTTP/1.0|Upgrade: websocket|Connection: upgrade||", "Get None"),
    ] {
        assert_eq!(flags(came), expected, "{came}");
    }
}

#[test]
fn names_with_underscores_can_be_dropped() {
    let (_, _, mut head, _) =
        forwarded(&wire("GET / HTTP/1.1|Host: a|x_forwarded_for: b|_: c|d_: e|f: g_h||")).unwrap();
    head.remove_known(filters::head::Known::Underscored);
    let mut out = Vec::new();
    encode_request(&head, Framing::None, false, &mut out);
    assert_eq!(row(&out), "GET / HTTP/1.1|Host: a|f: g_h||");
}

#[test]
fn refusals_come_with_the_line_and_leave_what_was_understood() {
    for (came, expected) in [
        ("GET / HTTP/1.1\n", "400 bare_lf"),
        ("\u{16}", "400 method"),
        ("GET  ", "400 request_line"),
        ("GET / HTTP/2", "more"),
        ("GET / HTTP/x", "400 version"),
        ("GET / HTTP/1.1|Bad Name", "400 blank_in_name"),
        ("GET / HTTP/1.1|Host: a|X: \0", "400 value"),
        ("GET / HTTP/1.1|Host: a|X: \r", "more"),
    ] {
        assert_eq!(forwarded(&wire(came)).map(|_| ()), Err(expected.into()), "{came}");
    }
    let mut head = Head::default();
    let refused = parse_request(&wire("GET /x HTTP/1.1|Host : a||"), &mut 0, LIMITS, &mut head);
    assert_eq!(refused, Err(Refusal::BlankInName));
    assert_eq!(head.bytes(head.path), b"/x");
}
