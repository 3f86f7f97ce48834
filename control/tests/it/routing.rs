//! Rules over the wire, a few of each kind: their meaning is tested where it is decided, here only that the way from
//! YAML to bytes is whole.

use e2e::kit::{Backend, Gateway, Peer, Rules, free_port};

fn get(client: &mut Peer, path: &str) -> e2e::kit::Message {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.local\r\nx-internal: secret\r\n\r\n"));
    client.read().unwrap_or_else(|ended| panic!("{ended:?} after {path}"))
}

#[test]
fn each_rule_does_what_it_says() {
    let backend = Backend::echo();
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let rules = Rules::new()
        .service("web", &[backend.address()])
        .service("empty", &[])
        .service("down", &[nobody])
        .rule("matches: [{path: {value: /old}}]\nfilters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-moved, value: yes-it-did}]}}]")
        .rule("matches: [{path: {value: /api}}]\nfilters: [{type: URLRewrite, urlRewrite: {hostname: api.internal, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}]\nbackendRefs: [{name: web, port: 80}]")
        .rule("matches: [{path: {value: /fields}}]\nfilters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-lane, value: blue}], remove: [x-internal]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-proxy, value: lab}], remove: [server]}}]\nbackendRefs: [{name: web, port: 80}]")
        .rule("matches: [{path: {value: /zero}}]\nbackendRefs: [{name: web, port: 80, weight: 0}]")
        .rule("matches: [{path: {value: /gone}}]\nbackendRefs: [{name: not-there, port: 80}]")
        .rule("matches: [{path: {value: /empty}}]\nbackendRefs: [{name: empty, port: 80}]")
        .rule("matches: [{path: {value: /down}}]\nbackendRefs: [{name: down, port: 80}]")
        .rule("matches: [{path: {value: /half}}]\nbackendRefs: [{name: web, port: 80}, {name: not-there, port: 80}]");
    let gateway = Gateway::start(&rules);
    let mut client = gateway.connect();
    // All on one connection: an error of ours to a request without a body ends none.
    let rows = [
        ("/other", 404, ""),
        ("/zero", 500, ""),
        ("/gone", 500, ""),
        ("/empty", 503, ""),
        ("/down", 503, ""),
        ("/api/items?q=1", 200, "GET /v2/items?q=1 HTTP/1.1"),
        ("/fields", 200, "GET /fields HTTP/1.1"),
    ];
    for (path, status, start) in rows {
        let answer = get(&mut client, path);
        assert_eq!(answer.status(), status, "{path}");
        if status != 200 {
            assert_eq!(answer.get("content-type"), Some("text/plain"), "{path}");
            continue;
        }
        let seen = backend.only_request();
        assert_eq!(seen.start, start);
        match path {
            "/fields" => {
                assert_eq!((seen.get("x-lane"), seen.get("x-internal")), (Some("blue"), None));
                assert_eq!(answer.get("x-proxy"), Some("lab"));
            }
            _ => assert_eq!((seen.get("host"), seen.count("host")), (Some("api.internal"), 1)),
        }
    }
    let answer = get(&mut client, "/old/page?x=y");
    let location = format!("http://shop.local:{}/new/page?x=y", gateway.address().port());
    assert_eq!((answer.status(), answer.get("location")), (301, Some(&location[..])));
    assert_eq!(answer.get("x-moved"), Some("yes-it-did"));
    let (mut good, mut bad) = (0, 0);
    for _ in 0..200 {
        match get(&mut client, "/half").status() {
            200 => good += 1,
            500 => bad += 1,
            other => panic!("{other}"),
        }
    }
    // 200 fair coins are further off once in 10^9 runs.
    assert!(good.min(bad) >= 58, "{good} good, {bad} bad");
}

#[test]
fn what_takes_too_long_is_answered_504() {
    let backend = Backend::start(|served| {
        let Some(request) = served.request() else { return };
        if request.start.contains("/head") {
            served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        }
        // Says no more, until the gateway has had enough.
        served.peer.read_to_end();
    });
    let rules = Rules::new()
        .service("web", &[backend.address()])
        .rule("matches: [{path: {value: /request}}]\ntimeouts: {request: 150ms}\nbackendRefs: [{name: web, port: 80}]")
        .rule("matches: [{path: {value: /backend}}]\ntimeouts: {request: 9s, backendRequest: 150ms}\nbackendRefs: [{name: web, port: 80}]")
        .rule("matches: [{path: {value: /head}}]\ntimeouts: {request: 150ms}\nbackendRefs: [{name: web, port: 80}]")
        .rule("matches: [{path: {value: /progress}}]\nbackendRefs: [{name: web, port: 80}]")
        .policy("timeouts: {bodyProgress: 150ms}");
    let gateway = Gateway::start(&rules);
    for (path, expected) in [("/request", "504"), ("/backend", "504"), ("/head", "truncated")] {
        let mut client = gateway.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let outcome = client.outcome();
        assert!(outcome.starts_with(expected), "{path}: {outcome}");
    }
    gateway.settle();
}
