//! Which endpoints are used of those there are: who says that it is not well, who fails, who is new. The decisions are
//! tested where they are made; here that the way from a TrafficPolicy to them is whole, and that each process asks once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use e2e::kit::{Backend, Gateway, Launch, Peer, Rules, until};

fn rules(backends: &[&Backend], traffic: &str) -> Rules {
    let endpoints: Vec<SocketAddr> = backends.iter().map(|backend| backend.address()).collect();
    Rules::new().service("web", &endpoints).rule("backendRefs: [{name: web, port: 80}]").traffic("web", traffic)
}

fn ask(client: &mut Peer) -> u16 {
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read().expect("an answer").status()
}

fn states(gateway: &Gateway) -> Vec<String> {
    gateway.endpoint_states("default/web:80")
}

fn wait_for_states(gateway: &Gateway, expected: &[&str]) {
    until(&format!("endpoints that are {expected:?}"), || (states(gateway) == expected).then_some(()));
}

fn checks(backend: &Backend) -> usize {
    backend.requests().iter().filter(|request| request.start.starts_with("GET /healthz")).count()
}

#[test]
fn who_is_not_well_is_not_used_until_it_is() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let (ill, well) = (Backend::ailing(&is_ill), Backend::echo());
    let check = "healthCheck: {path: /healthz, interval: 20ms, unhealthyThreshold: 2, healthyThreshold: 2}";
    let gateway = Gateway::start(&rules(&[&ill, &well], check));
    wait_for_states(&gateway, &["unwell", "ready"]);
    let mut client = gateway.connect();
    assert!((0..30).all(|_| ask(&mut client) == 200));
    assert_eq!(ill.requests().len(), checks(&ill), "nothing but questions");
    is_ill.store(false, SeqCst);
    wait_for_states(&gateway, &["ready", "ready"]);
    until("a request at the one that is well again", || {
        assert_eq!(ask(&mut client), 200);
        (ill.requests().len() > checks(&ill)).then_some(())
    });
    is_ill.store(true, SeqCst);
    wait_for_states(&gateway, &["unwell", "ready"]);
    assert!(gateway.metric("evenkeel_endpoints{cluster=\"default/web:80\",state=\"unwell\"}") == 1.0);
    // The checks end with the policy.
    gateway.reload(&rules(&[&ill, &well], "timeouts: {connect: 1s}").yaml());
    assert_eq!(states(&gateway), ["ready", "ready"]);
}

#[test]
fn one_process_asks_once() {
    let (one, other) = (Backend::echo(), Backend::echo());
    let rules = rules(&[&one, &other], "healthCheck: {path: /healthz?full, interval: 1h, timeout: 10s}");
    let gateway = Launch::new(rules.yaml()).workers(4).start();
    wait_for_states(&gateway, &["ready", "ready"]);
    for backend in [&one, &other] {
        assert_eq!(backend.requests().len(), 1);
        let question = backend.only_request();
        assert_eq!((&question.start[..], question.get("host")), ("GET /healthz?full HTTP/1.1", Some("web.default")));
    }
}

#[test]
fn nobody_well_is_better_than_nobody() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let ill = Backend::ailing(&is_ill);
    let gateway = Gateway::start(&rules(&[&ill], "healthCheck: {path: /healthz, interval: 20ms}"));
    wait_for_states(&gateway, &["unwell"]);
    assert_eq!(ask(&mut gateway.connect()), 503);
    assert!(ill.requests().len() > checks(&ill), "asked all the same");
    assert_eq!(gateway.metric("evenkeel_cluster_panic{cluster=\"default/web:80\"}"), 1.0);
}

#[test]
fn who_fails_is_left_alone_for_a_while() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let (ill, well) = (Backend::ailing(&is_ill), Backend::echo());
    let policy = "loadBalancer: {policy: roundRobin}\n  \
                  outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 300ms, maxEjectionPercent: 50}";
    // Four workers count together.
    let gateway = Launch::new(rules(&[&ill, &well], policy).yaml()).workers(4).start();
    let mut clients: Vec<Peer> = (0..4).map(|_| gateway.connect()).collect();
    let failed = (0..60).filter(|round| ask(&mut clients[round % 4]) != 200).count();
    assert_eq!((failed, ill.requests().len()), (3, 3));
    assert_eq!(states(&gateway), ["ejected", "ready"]);
    assert_eq!(gateway.metric("evenkeel_ejections_total"), 1.0);
    assert!(gateway.stderr().contains("is ejected for 300ms after 3 failures in a row"), "{}", gateway.stderr());
    is_ill.store(false, SeqCst);
    until("a request at the one that was left alone", || {
        assert_eq!(ask(&mut clients[0]), 200);
        (ill.requests().len() > 3).then_some(())
    });
    assert_eq!(states(&gateway), ["ready", "ready"]);
}

#[test]
fn a_change_of_other_rules_forgets_nothing() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let (ill, well) = (Backend::ailing(&is_ill), Backend::echo());
    let policy = "loadBalancer: {policy: roundRobin}\n  outlierDetection: {consecutive5xxErrors: 2}";
    let gateway = Gateway::start(&rules(&[&ill, &well], policy));
    let mut client = gateway.connect();
    assert!((0..10).filter(|_| ask(&mut client) != 200).count() == 2);
    assert_eq!(states(&gateway), ["ejected", "ready"]);
    gateway.reload(
        &rules(&[&ill, &well], policy)
            .rule("matches: [{path: {value: /other}}]\nbackendRefs: [{name: web, port: 80}]")
            .yaml(),
    );
    gateway.reload(&rules(&[&ill, &well], &format!("{policy}\n  timeouts: {{connect: 2s}}")).yaml());
    assert_eq!(states(&gateway), ["ejected", "ready"]);
    assert!((0..10).all(|_| ask(&mut client) == 200));
}

#[test]
fn who_joins_late_gets_less_at_first() {
    let (old, new) = ([Backend::echo(), Backend::echo(), Backend::echo()], Backend::echo());
    let slow = "loadBalancer: {policy: roundRobin}\n  slowStart: {window: 1h, minWeightPercent: 10}";
    let mut all: Vec<&Backend> = old.iter().collect();
    let gateway = Gateway::start(&rules(&all, slow));
    let mut client = gateway.connect();
    (0..30).for_each(|_| assert_eq!(ask(&mut client), 200));
    all.push(&new);
    gateway.reload(&rules(&all, slow).yaml());
    (0..310).for_each(|_| assert_eq!(ask(&mut client), 200));
    let count = new.requests().len();
    assert!((8..=13).contains(&count), "{count} of 310, which is 10 of 100 + 100 + 100 + 10");
}

#[test]
fn the_own_zone_comes_first() {
    let (near, far) = (Backend::echo(), Backend::echo());
    let zoned = |backend: &Backend, zone: &str| {
        format!("{{address: 127.0.0.1, ports: {{http: {}}}, zone: {zone}}}", backend.address().port())
    };
    let plain = |backend: &Backend| format!("{{address: 127.0.0.1, ports: {{http: {}}}}}", backend.address().port());
    let mut yaml = rules(&[&near, &far], "locality: {mode: sameZoneFirst}").yaml();
    for (backend, zone) in [(&near, "a"), (&far, "b")] {
        yaml = yaml.replace(&plain(backend), &zoned(backend, zone));
    }
    let gateway = Launch::new(yaml).flags(&["--zone", "a"]).start();
    let mut client = gateway.connect();
    (0..50).for_each(|_| assert_eq!(ask(&mut client), 200));
    assert_eq!((near.requests().len(), far.requests().len()), (50, 0));
}
