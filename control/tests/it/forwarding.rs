//! What the service is told of the request: fields that belong to one hop stay behind, ours are added, and whose word
//! about the client counts is the listener's policy.

use e2e::kit::{Backend, Gateway, Message, Rules};

/// Sends a GET with these field lines and returns what the service sees of it.
fn through(gateway: &Gateway, backend: &Backend, lines: &str) -> Message {
    let mut client = gateway.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    assert_eq!(client.read().expect("an answer").status(), 200, "{lines:?}");
    backend.only_request()
}

#[test]
fn fields_of_one_hop_stay_behind_and_all_others_pass_as_they_are() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    // What a client sends, and what of it the service sees beside Host and ours.
    let rows = [
        ("X-CaSe: Kept  \r\nx-a:b\r\nX-A: c\r\n", "X-CaSe: Kept|x-a: b|X-A: c"),
        ("X-Empty:\r\nx-utf: \u{fc}\r\n", "X-Empty: |x-utf: \u{fc}"),
        ("Keep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\nx: y\r\n", "x: y"),
        ("TE: gzip\r\nx: y\r\n", "x: y"),
        ("TE: trailers\r\nConnection: TE\r\n", "TE: trailers|Connection: TE"),
        ("Connection: x-mine, x-other\r\nX-Mine: 1\r\nx-kept: 2\r\n", "x-kept: 2"),
        ("Connection: x-mine\r\nConnection: x-two\r\nX-Mine: 1\r\nx-two: 2\r\n", ""),
        ("Upgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: upgrade, http2-settings\r\n", ""),
        ("x_underscore: 1\r\nx-dash: 2\r\n", "x-dash: 2"),
        ("Accept: */*\r\nCookie: a=b; c=d\r\n", "Accept: */*|Cookie: a=b; c=d"),
    ];
    for (lines, expected) in rows {
        let seen = through(&gateway, &backend, lines);
        let ours = ["host", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "traceparent"];
        let left: Vec<String> = seen
            .fields
            .iter()
            .filter(|(name, _)| !ours.iter().any(|our| name.eq_ignore_ascii_case(our)))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(left.join("|"), expected, "{lines:?}");
    }
    // A client has no say about what we add, nor about Host.
    let named = "Connection: x-forwarded-for, x-forwarded-proto, x-request-id, traceparent, host\r\n";
    let seen = through(&gateway, &backend, named);
    for (name, count) in
        [("host", 1), ("x-forwarded-for", 1), ("x-forwarded-proto", 1), ("x-request-id", 1), ("traceparent", 1)]
    {
        assert_eq!(seen.count(name), count, "{name}: {seen:?}");
    }
}

#[test]
fn answers_lose_the_fields_of_one_hop_and_keep_all_others() {
    let backend = Backend::canned(
        "HTTP/1.1 200 Fine\r\nX-CaSe: Kept\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nConnection: x-mine\r\nX-Mine: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
    );
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.read().expect("an answer");
    let left: Vec<String> = answer.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(left.join("|"), "X-CaSe: Kept|Set-Cookie: a|Set-Cookie: b|Date: x|Content-Length: 0");
}

#[test]
fn the_client_is_who_the_policy_trusts_to_say_so() {
    let forged = "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-Forwarded-Host: b\r\n";
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    // Policy, request, x-forwarded-for, whether an x-request-id of the client passes, who the log says it was.
    let rows = [
        ("", "", "127.0.0.1", false, "127.0.0.1"),
        ("", forged, "127.0.0.1", false, "127.0.0.1"),
        ("clientAddress: {trustedCIDRs: [127.0.0.0/8]}", forged, "1.2.3.4, 127.0.0.1", true, "1.2.3.4"),
        ("clientAddress: {trustedCIDRs: [10.0.0.0/8]}", forged, "127.0.0.1", false, "127.0.0.1"),
        ("clientAddress: {trustedHops: 1}", forged, "1.2.3.4, 127.0.0.1", true, "1.2.3.4"),
        ("clientAddress: {trustedHops: 2}", forged, "1.2.3.4, 127.0.0.1", true, "127.0.0.1"),
    ];
    for (policy, lines, forwarded_for, trusted, client) in rows {
        let backend = Backend::echo();
        let mut rules = Rules::to(backend.address());
        if !policy.is_empty() {
            rules = rules.policy(policy);
        }
        let gateway = e2e::kit::Launch::new(rules.yaml()).flags(&["--access-log", "-"]).start();
        let seen = through(&gateway, &backend, &format!("{lines}{trace}X-Request-ID: mine\r\n"));
        let context = format!("{policy:?} {lines:?}: {seen:?}");
        assert_eq!((seen.count("x-forwarded-for"), seen.get("x-forwarded-for")), (1, Some(forwarded_for)), "{context}");
        assert_eq!(seen.get("x-forwarded-proto"), Some("http"), "{context}");
        assert_eq!(seen.get("forwarded").is_some(), trusted && !lines.is_empty(), "{context}");
        assert_eq!(seen.get("x-request-id") == Some("mine"), trusted, "{context}");
        assert_eq!(seen.get("x-request-id").map(str::len), Some(if trusted { 4 } else { 36 }), "{context}");
        assert!(trace.ends_with(&format!("{}\r\n", seen.get("traceparent").unwrap_or("none"))), "{context}");
        let line = e2e::kit::until("a line of the access log", || gateway.stdout().lines().next().map(str::to_owned)).0;
        assert!(line.contains(&format!("\"client\":\"{client}\"")), "{context}: {line}");
    }
}

#[test]
fn the_proxy_protocol_names_the_client() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()).policy("clientAddress: {proxyProtocol: v2}"));
    let header = |command: u8, family: u8, body: &[u8]| {
        let length = (body.len() as u16).to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, body].concat()
    };
    let v4 = [9, 8, 7, 6, 127, 0, 0, 1, 0x12, 0x34, 0, 80];
    let mut v6 = [0u8; 36];
    (v6[0], v6[1], v6[15]) = (0x20, 0x01, 9);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    // None: the connection is closed without a word.
    let rows = [
        (header(1, 0x11, &v4), Some("9.8.7.6")),
        (header(1, 0x11, &[&v4[..], &[4, 0, 1, 9]].concat()), Some("9.8.7.6")),
        (header(1, 0x21, &v6), Some("2001::9")),
        (header(0, 0, &[]), Some("127.0.0.1")),
        (header(3, 0x11, &v4), None),
        (b"PROXY TCP4 9.8.7.6 127.0.0.1 1 2\r\n".to_vec(), None),
        (Vec::new(), None),
    ];
    for (header, expected) in rows {
        let whole = [&header[..], request].concat();
        for cut in 0..header.len() + 2 {
            let mut client = gateway.connect();
            client.send_cut(&whole, cut);
            match expected {
                None => assert!(["closed", "reset"].contains(&&client.outcome()[..]), "{header:?} cut at {cut}"),
                Some(expected) => {
                    assert_eq!(client.read().map(|answer| answer.status()), Ok(200), "{header:?} cut at {cut}");
                    assert_eq!(
                        backend.only_request().get("x-forwarded-for"),
                        Some(expected),
                        "{header:?} cut at {cut}"
                    );
                }
            }
        }
    }
    assert!(backend.requests().is_empty());
    gateway.settle();
}

#[test]
fn requests_without_a_host_get_the_services_name() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    // Only HTTP/1.0 may come without one; the request that leaves must have one (RFC 9112 3.2).
    let rows = [("", "web.default"), ("Host: a.example\r\n", "a.example"), ("Host: a.example:81\r\n", "a.example:81")];
    for (line, expected) in rows {
        let mut client = gateway.connect();
        client.send(format!("GET / HTTP/1.0\r\n{line}\r\n"));
        assert_eq!(client.read().expect("an answer").status(), 200, "{line:?}");
        let seen = backend.only_request();
        let hosts: Vec<&str> = seen
            .fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(hosts, [expected], "{line:?}");
    }
}
