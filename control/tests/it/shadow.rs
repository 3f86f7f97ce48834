//! TrafficPolicies and ListenerPolicies in shadow, beside those in force: nothing changes, and it is counted what would
//! have. How they decide is tested where they do; LaneGroups are in `lanes`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Launch, Peer, Rules, until};
use serde_json::Value;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const EDGE: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}";
const TRAFFIC: &str = "TrafficPolicy default/trial on Service default/web";
const LISTENER: &str = "ListenerPolicy default/trial";

/// Two endpoints in turns, nothing is retried, and a policy of which this is tried.
fn rules(endpoints: &[SocketAddr], tried: &str) -> Rules {
    let in_force = "loadBalancer: {policy: roundRobin}\n  retries: {attempts: 0}";
    Rules::new()
        .service("web", endpoints)
        .rule("backendRefs: [{name: web, port: 80}]")
        .traffic("web", in_force)
        .protect("TrafficPolicy", "trial", Rules::WEB, &format!("mode: shadow\n  {tried}"))
}

/// What a policy has counted, without what is 0.
fn counts(gateway: &Gateway, policy: &str) -> Vec<(String, u64)> {
    let told = gateway.policy(policy);
    assert_eq!(told["mode"], "shadow");
    let figures = told.as_object().expect("a mapping").iter();
    figures.filter_map(|(name, count)| Some((name.clone(), count.as_u64().filter(|count| *count > 0)?))).collect()
}

fn expected(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn status(client: &mut Peer, request: &str) -> u16 {
    client.send(request);
    client.read().expect("an answer").status()
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a listening socket has an address")
}

/// Lets some time pass.
fn pass(time: Duration) {
    let started = Instant::now();
    until("the time", || (started.elapsed() >= time).then_some(()));
}

#[test]
fn failures_are_judged_and_nothing_comes_of_it() {
    let is_ill = Arc::new(AtomicBool::new(true));
    for (tried, figures) in [
        ("retries: {attempts: 1, codes: [503]}", &[("shadowRetried", 8)][..]),
        ("retries: {attempts: 0, codes: [503]}", &[]),
        ("retries: {attempts: 1, codes: [500]}", &[]),
        ("retries: {attempts: 1, codes: [503], budget: {ratio: 0, minPerSecond: 0}}", &[("shadowOverBudget", 8)]),
        // One of two, and the other fails as often.
        (
            "outlierDetection: {consecutive5xxErrors: 2, maxEjectionPercent: 50}",
            &[("shadowEjectedStatus", 1), ("shadowNotEjected", 1)],
        ),
        ("outlierDetection: {consecutive5xxErrors: 5}", &[]),
    ] {
        let backends = [Backend::ailing(&is_ill), Backend::ailing(&is_ill)];
        let gateway = Gateway::start(&rules(&[backends[0].address(), backends[1].address()], tried));
        let mut client = gateway.connect();
        assert_eq!([(); 8].map(|()| status(&mut client, GET)), [503; 8], "{tried}");
        assert_eq!(counts(&gateway, TRAFFIC), expected(figures), "{tried}");
        assert_eq!(backends.each_ref().map(|backend| backend.requests().len()), [4, 4], "{tried}");
        assert_eq!(gateway.endpoint_states("default/web:80"), ["ready", "ready"], "{tried}");
        assert_eq!(gateway.metric("evenkeel_retries_total") + gateway.metric("evenkeel_ejections_total"), 0.0);
    }
}

#[test]
fn who_takes_no_connection_would_be_retried_elsewhere_and_left_alone() {
    let tried = "outlierDetection: {consecutive5xxErrors: 3}\n  retries: {attempts: 1}";
    // Where there is somebody else they are left alone anyway.
    let gateway = Gateway::start(&rules(&[nobody(), nobody()], tried));
    let mut client = gateway.connect();
    assert_eq!([(); 8].map(|()| status(&mut client, GET)), [503; 8]);
    let figures = [("shadowEjectedConnect", 1), ("shadowNotEjected", 1), ("shadowRetried", 8)];
    assert_eq!(counts(&gateway, TRAFFIC), expected(&figures));
    let line = format!("evenkeel_policy_requests_total{{policy=\"{TRAFFIC}\",result=\"shadowEjectedConnect\"}}");
    assert_eq!(gateway.metric(&line), 1.0);
    assert_eq!(gateway.metric("evenkeel_ejections_total"), 0.0);
}

#[test]
fn what_is_tried_stands_beside_what_acts() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let backend = Backend::ailing(&is_ill);
    // In force one retry, in shadow three: the second is seen, then what acts gives up.
    let rules = Rules::to(backend.address()).traffic("web", "retries: {attempts: 1, codes: [503]}").protect(
        "TrafficPolicy",
        "trial",
        Rules::WEB,
        "mode: shadow\n  retries: {attempts: 3, codes: [503]}",
    );
    let gateway = Launch::new(rules.yaml()).flags(&["--access-log", "-"]).start();
    assert_eq!(status(&mut gateway.connect(), GET), 503);
    assert_eq!((backend.requests().len(), gateway.metric("evenkeel_retries_total")), (2, 1.0));
    assert_eq!(counts(&gateway, TRAFFIC), expected(&[("shadowRetried", 2)]));
    until("the log", || {
        let log = gateway.stdout();
        let line = log.lines().find(|line| line.contains("\"shadow\":"))?;
        let told: Value = serde_json::from_str(line).expect("JSON");
        let said = format!("{TRAFFIC}: shadowRetried");
        assert_eq!(told["shadow"], serde_json::json!([said, said]), "{line}");
        Some(())
    });
    // Counts outlive a change of other rules, and end with the policy.
    let more = "matches: [{path: {value: /other}}]\nbackendRefs: [{name: web, port: 80}]";
    gateway.reload(&rules.clone().rule(more).yaml());
    assert_eq!(counts(&gateway, TRAFFIC), expected(&[("shadowRetried", 2)]));
    gateway.reload(&Rules::to(backend.address()).traffic("web", "retries: {attempts: 1, codes: [503]}").yaml());
    assert!(!gateway.metrics().contains("shadowRetried"));
}

#[test]
fn bounds_and_times_in_shadow_refuse_nobody() {
    for (tried, figures, verdict) in [
        ("connections: {maxRequests: 1}", &[("shadowRefused", 2)][..], "refuse"),
        ("connections: {max: 1, maxPending: 1}", &[("shadowDelayed", 1), ("shadowRefused", 1)], "refuse"),
        ("connections: {max: 1}", &[("shadowDelayed", 2)], "delay"),
        ("connections: {max: 3, maxRequests: 3}", &[], "refuse"),
        ("timeouts: {firstByte: 1ms}", &[("shadowFirstByteTimeout", 3)], "watch"),
        (
            "timeouts: {firstByte: 1ms}\n  retries: {attempts: 1, on: [timeout]}",
            &[("shadowFirstByteTimeout", 3), ("shadowRetried", 3)],
            "watch",
        ),
        ("timeouts: {firstByte: 1h, connect: 1h}", &[], "watch"),
    ] {
        let (backend, tell) = Backend::patient();
        let gateway = Gateway::start(&rules(&[backend.address()], tried));
        let mut clients = [(); 3].map(|()| gateway.connect());
        for (count, client) in clients.iter_mut().enumerate() {
            client.send(GET);
            until("the request at the service", || (backend.requests().len() == count + 1).then_some(()));
        }
        pass(Duration::from_millis(5));
        let told = gateway.post("/explain", GET).expect("an answer").text();
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(
            (&told["policies"][0]["policy"], &told["policies"][0]["verdict"], &told["answer"]),
            (&TRAFFIC.into(), &verdict.into(), &Value::Null),
            "{tried}: {told}"
        );
        clients.iter().for_each(|_| tell.send(()).expect("it listens"));
        assert_eq!(clients.map(|mut client| client.read().expect("an answer").status()), [200; 3], "{tried}");
        assert_eq!(counts(&gateway, TRAFFIC), expected(figures), "{tried}");
        // What was taken was given back.
        gateway.settle();
        let told = gateway.post("/explain", GET).expect("an answer").text();
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["policies"][0]["verdict"], "watch", "{tried}");
    }
}

#[test]
fn a_connection_that_would_have_been_closed_is_used() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&rules(&[backend.address()], "timeouts: {idle: 2ms}"));
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(status(&mut client, GET), 200);
        pass(Duration::from_millis(10));
    }
    assert_eq!(counts(&gateway, TRAFFIC), expected(&[("shadowIdleTimeout", 2)]));
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_listener_policy_in_shadow_refuses_nobody() {
    let backend = Backend::echo();
    let tried =
        "mode: shadow\n  maxRequestBody: 3\n  headers: {maxBytes: 256, maxCount: 3}\n  path: {encodedSlash: reject}";
    let rules =
        Rules::to(backend.address()).policy("maxRequestBody: 5").protect("ListenerPolicy", "trial", EDGE, tried);
    let gateway = Launch::new(rules.yaml()).flags(&["--access-log", "-", "--access-log-format", "text"]).start();
    let long = "x".repeat(300);
    for (request, answer, figure) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200, None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200, None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd", 200, Some(("shadowBodyTooLarge", 413))),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
            200,
            Some(("shadowBodyTooLarge", 0)),
        ),
        // What acts refuses it, and so would this.
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef", 413, Some(("shadowBodyTooLarge", 413))),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n\r\n", 200, Some(("shadowHeadTooLarge", 431))),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n"), 200, Some(("shadowHeadTooLarge", 431))),
        ("GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", 200, Some(("shadowEncodedSlash", 400))),
        ("GET /a?b=%2F HTTP/1.1\r\nHost: a\r\n\r\n", 200, None),
    ] {
        let before = gateway.policy(LISTENER);
        assert_eq!(status(&mut gateway.connect(), request), answer, "{request}");
        gateway.settle();
        let after = gateway.policy(LISTENER);
        for (name, count) in after.as_object().expect("a mapping").iter().filter(|(_, count)| count.is_u64()) {
            let more = u64::from(figure.is_some_and(|(figure, _)| figure == name));
            assert_eq!(count.as_u64(), before[name].as_u64().map(|count| count + more), "{request}: {name}");
        }
        let told = gateway.post("/explain", request.split_inclusive("\r\n\r\n").next().expect("a head"));
        let told: Value = serde_json::from_str(&told.expect("an answer").text()).expect("JSON");
        let status = figure.map(|(_, status)| status).filter(|status| *status > 0);
        assert_eq!(told["policies"][0]["status"].as_u64(), status, "{request}: {told}");
    }
    until("the log", || {
        gateway.stdout().lines().find(|line| line.contains(&format!(" shadow=\"{LISTENER}: shadowEncodedSlash\"")))?;
        Some(())
    });
}

#[test]
fn a_listener_in_shadow_loses_patience_and_nobody_notices() {
    let backend = Backend::echo();
    let limit = "mode: shadow\n  maxConnections: 1\n  timeouts: {head: 5ms, idle: 5ms, bodyProgress: 5ms}";
    let rules = Rules::to(backend.address()).policy("maxConnections: 3\n  timeouts: {head: 1m, idle: 1m}").protect(
        "ListenerPolicy",
        "trial",
        EDGE,
        limit,
    );
    let gateway = Launch::new(rules.yaml()).workers(2).start();
    let mut client = gateway.connect();
    // Nothing is slow but where a pause is made.
    let pieces = ["POST / HTTP/1.1\r\n", "Host: a\r\nContent-Length: 4\r\n\r\nab", "cd"];
    for (index, piece) in pieces.iter().enumerate() {
        client.send(piece);
        if index == 1 {
            until("the head at the service", || (backend.connections() == 1).then_some(()));
        }
        pass(Duration::from_millis(20));
    }
    assert_eq!(client.read().expect("an answer").text(), "abcd");
    pass(Duration::from_millis(20));
    assert_eq!(status(&mut client, GET), 200);
    let figures = [("shadowBodyProgressTimeout", 1), ("shadowHeadTimeout", 1), ("shadowIdleTimeout", 1)];
    until("the counts", || (counts(&gateway, LISTENER) == expected(&figures)).then_some(()));
    // One may be open, and those that would not be take no place.
    let others: Vec<Peer> = (0..2)
        .map(|_| {
            let mut other = gateway.connect();
            assert_eq!(status(&mut other, GET), 200);
            other
        })
        .collect();
    let refused = |gateway: &Gateway| gateway.policy(LISTENER)["shadowRefused"].as_u64();
    assert_eq!(refused(&gateway), Some(2));
    drop((client, others));
    gateway.settle();
    assert_eq!((status(&mut gateway.connect(), GET), refused(&gateway)), (200, Some(2)));
}
