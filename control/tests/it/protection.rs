//! Traffic protection over the wire, a little of each rule: how they decide is tested where they do; here that they stand
//! on a request's way, over all workers, and that what they remember outlives a change of other rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Launch, Message, Peer, Rules, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn ask(client: &mut Peer, fields: &str) -> Message {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.read().expect("an answer")
}

fn statuses(client: &mut Peer, fields: &str, count: usize) -> Vec<u16> {
    (0..count).map(|_| ask(client, fields).status()).collect()
}

#[test]
fn a_rate_limit_tells_who_when_and_why() {
    let backend = Backend::echo();
    let limit = "limits: [{requests: 3, per: 1h}]\n  by: [{header: x-user}]\n  \
                 effect: {type: reject, status: 429, body: '{\"error\":\"slow down\"}', \
                 headers: {content-type: application/json}}";
    let rules = Rules::to(backend.address()).protect("RateLimit", "users", Rules::ROUTE, limit);
    let gateway = Launch::new(rules.yaml()).flags(&["--access-log", "-"]).start();
    let mut client = gateway.connect();
    assert_eq!(statuses(&mut client, "X-User: a\r\n", 4), [200, 200, 200, 429]);
    assert_eq!(statuses(&mut client, "X-User: b\r\n", 1), [200]);
    let refused = ask(&mut client, "X-User: a\r\n");
    assert_eq!(refused.text(), "{\"error\":\"slow down\"}");
    let (kind, after) = (refused.get("content-type"), refused.get("retry-after").and_then(|text| text.parse().ok()));
    assert_eq!(kind, Some("application/json"));
    assert!(after.is_some_and(|seconds: u64| (1000..=1200).contains(&seconds)), "a third of an hour: {after:?}");
    // Without the header all are one.
    assert_eq!(statuses(&mut client, "", 4), [200, 200, 200, 429]);
    let figures = gateway.policy("RateLimit default/users");
    assert_eq!((&figures["admitted"], &figures["refused"], &figures["values"]), (&7.into(), &3.into(), &3.into()));
    until("the log", || {
        let log = gateway.stdout();
        let line = log.lines().find(|line| line.contains("\"flag\":\"RL\""))?;
        assert!(line.contains("\"policy\":\"RateLimit default/users\"") && line.contains("\"status\":429"), "{line}");
        Some(())
    });
    assert_eq!(backend.requests().len(), 7);
}

#[test]
fn what_is_missing_does_what_the_policy_says() {
    let backend = Backend::echo();
    for (on_missing, expected) in [("skip", [200; 4]), ("deny", [429; 4]), ("shared", [200, 200, 429, 429])] {
        let limit = format!("limits: [{{requests: 2, per: 1h}}]\n  by: [{{cookie: sid}}]\n  onMissing: {on_missing}");
        let rules = Rules::to(backend.address()).protect("RateLimit", "users", Rules::WEB, &limit);
        let gateway = Gateway::start(&rules);
        assert_eq!(statuses(&mut gateway.connect(), "", 4), expected, "{on_missing}");
        assert_eq!(statuses(&mut gateway.connect(), "Cookie: sid=1\r\n", 3), [200, 200, 429], "{on_missing}");
    }
}

#[test]
fn one_limit_for_four_workers_and_two_targets() {
    let backend = Backend::echo();
    let targets = format!("{}, {}", Rules::ROUTE, Rules::WEB);
    let rules = Rules::to(backend.address()).protect("RateLimit", "all", &targets, "limits: [{requests: 50, per: 1h}]");
    let gateway = Launch::new(rules.yaml()).workers(4).start();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = gateway.connect();
            std::thread::spawn(move || statuses(&mut client, "", 20))
        })
        .collect();
    let all = clients.into_iter().flat_map(|client| client.join().expect("all are answered"));
    assert_eq!(all.filter(|status| *status == 200).count(), 50);
}

#[test]
fn replicas_share_a_limit() {
    let backend = Backend::echo();
    let limit = "limits: [{requests: 40, per: 1h}]\n  scope: {type: sharedByReplicas}";
    let rules = Rules::to(backend.address()).protect("RateLimit", "all", Rules::ROUTE, limit);
    let gateway = Launch::new(rules.yaml()).flags(&["--replicas", "10"]).start();
    assert_eq!(statuses(&mut gateway.connect(), "", 6), [200, 200, 200, 200, 429, 429]);
}

#[test]
fn counters_outlive_changes_of_other_rules() {
    let backend = Backend::echo();
    let limited = |per_hour: u32, more: &str| {
        let limit = format!("limits: [{{requests: {per_hour}, per: 1h}}]");
        Rules::to(backend.address()).rule(more).protect("RateLimit", "all", Rules::ROUTE, &limit)
    };
    let other = |path: u32| format!("matches: [{{path: {{value: /{path}}}}}]\nbackendRefs: [{{name: web, port: 80}}]");
    let gateway = Gateway::start(&limited(10, &other(0)));
    let mut client = gateway.connect();
    for change in 1..=10 {
        assert_eq!(statuses(&mut client, "", 1), [200], "change {change}");
        gateway.reload(&limited(10, &other(change)).yaml());
    }
    assert_eq!(statuses(&mut client, "", 2), [429, 429]);
}

#[test]
fn a_queue_spreads_requests() {
    let backend = Backend::echo();
    let limit = "limits: [{requests: 20, per: 1s, burst: 1}]\n  effect: {type: queue, maxWait: 320ms}";
    let gateway = Gateway::start(&Rules::to(backend.address()).protect("RateLimit", "all", Rules::ROUTE, limit));
    let started = Instant::now();
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(GET);
            client
        })
        .collect();
    let answers: Vec<u16> = clients.into_iter().map(|mut client| client.read().expect("an answer").status()).collect();
    // One at once, and one each 50 ms as long as that is within 320 ms.
    let served = answers.iter().filter(|status| **status == 200).count();
    assert!((7..=10).contains(&served) && answers.iter().all(|status| [200, 429].contains(status)), "{answers:?}");
    assert!(started.elapsed() >= Duration::from_millis(50 * (served as u64 - 1)), "{:?}", started.elapsed());
}

#[test]
fn a_queue_of_dead_clients_frees_its_slots() {
    let (backend, tell) = Backend::patient();
    let limit = "limit: {fixed: 1}\n  queue: {max: 3, timeout: 20s}\n  reply: {status: 503, body: full}";
    let key = "ConcurrencyLimit default/web on Service default/web";
    let rules = Rules::to(backend.address()).protect("ConcurrencyLimit", "web", Rules::WEB, limit);
    let gateway = Launch::new(rules.yaml()).workers(4).start();
    let waiting = |count: u64| {
        until(&format!("{count} that wait"), || (gateway.policy(key)["waiting"] == count).then_some(()));
    };
    let send = || {
        let mut client = gateway.connect();
        client.send(GET);
        client
    };
    let mut first = send();
    until("a request at the service", || (backend.requests().len() == 1).then_some(()));
    let dead: Vec<Peer> = (0..3).map(|_| send()).collect();
    waiting(3);
    assert_eq!(send().read().map(|answer| (answer.status(), answer.text())), Ok((503, "full".into())));
    for (index, client) in dead.into_iter().enumerate() {
        if index % 2 == 0 { client.reset() } else { drop(client) }
    }
    waiting(0);
    // One after the other, so that their order in the line is known.
    let next = |count: u64| {
        let client = send();
        waiting(count);
        client
    };
    let mut alive: Vec<Peer> = (1..=3).map(next).collect();
    for client in std::iter::once(&mut first).chain(&mut alive) {
        tell.send(()).expect("the service lives");
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
    }
    assert_eq!(backend.requests().len(), 4, "the dead were never asked for");
}

#[test]
fn a_breaker_opens_answers_in_place_and_closes_again() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let backend = Backend::ailing(&is_ill);
    let breaker = "errors: {count: 3}\n  window: 10s\n  openFor: 300ms\n  halfOpenProbes: 2\n  \
                   fallback: {status: 200, body: '{\"price\":null}', headers: {content-type: application/json}}";
    let rules = Rules::to(backend.address()).protect("CircuitBreaker", "web", Rules::WEB, breaker);
    let gateway = Launch::new(rules.yaml()).workers(4).start();
    let key = "CircuitBreaker default/web on Service default/web";
    let mut client = gateway.connect();
    assert_eq!(statuses(&mut client, "", 3), [503, 503, 503]);
    until("an open breaker", || (gateway.policy(key)["phase"] == "open").then_some(()));
    for _ in 0..20 {
        assert_eq!(ask(&mut gateway.connect(), "").text(), "{\"price\":null}");
    }
    assert_eq!(backend.requests().len(), 3, "nothing came through");
    is_ill.store(false, SeqCst);
    until("a breaker that is closed", || {
        ask(&mut client, "");
        (gateway.policy(key)["phase"] == "closed").then_some(())
    });
    assert!(backend.requests().len() >= 5);
    assert_eq!(ask(&mut client, "").body.len(), 0, "the service's own answer");
}

#[test]
fn a_breaker_of_each_endpoint_passes_over_the_one_that_fails() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let (ill, well) = (Backend::ailing(&is_ill), Backend::echo());
    let rules = Rules::new()
        .service("web", &[ill.address(), well.address()])
        .rule("backendRefs: [{name: web, port: 80}]")
        .traffic("web", "loadBalancer: {policy: roundRobin}")
        .protect("CircuitBreaker", "web", Rules::WEB, "per: endpoint\n  errors: {count: 2}\n  openFor: 1h");
    let gateway = Gateway::start(&rules);
    let mut client = gateway.connect();
    let failed = statuses(&mut client, "", 40).into_iter().filter(|status| *status != 200).count();
    assert_eq!((failed, ill.requests().len()), (2, 2));
    let refused = || gateway.policy("CircuitBreaker default/web on Service default/web")["refused"].clone();
    assert_eq!(refused(), 0, "another one answered");
    let ill_alone = Rules::new().service("web", &[ill.address()]).rule("backendRefs: [{name: web, port: 80}]").protect(
        "CircuitBreaker",
        "web",
        Rules::WEB,
        "per: endpoint\n  errors: {count: 2}\n  openFor: 1h",
    );
    gateway.reload(&ill_alone.yaml());
    assert_eq!(statuses(&mut client, "", 3), [503; 3]);
    assert_eq!((refused(), ill.requests().len()), (3.into(), 2));
}

#[test]
fn faults_are_made_on_purpose() {
    let backend = Backend::echo();
    let fault = "match: [{headers: [{name: x-drill, value: \"1\"}]}]\n  \
                 delay: {fixed: 200ms, percentage: 100}\n  abort: {status: 418, body: tea, percentage: 100}";
    let gateway = Gateway::start(&Rules::to(backend.address()).protect("FaultInjection", "drill", Rules::ROUTE, fault));
    let mut client = gateway.connect();
    assert_eq!(statuses(&mut client, "", 5), [200; 5]);
    let started = Instant::now();
    let answer = ask(&mut client, "X-Drill: 1\r\n");
    assert_eq!((answer.status(), answer.text()), (418, "tea".into()));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(backend.requests().len(), 5);
}

#[test]
fn shadows_refuse_nobody_and_count() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let backend = Backend::ailing(&is_ill);
    let rules = Rules::to(backend.address())
        .protect("RateLimit", "trial", Rules::ROUTE, "mode: shadow\n  limits: [{requests: 2, per: 1h}]")
        .protect("CircuitBreaker", "trial", Rules::WEB, "mode: shadow\n  errors: {count: 3}\n  openFor: 1h");
    let gateway = Gateway::start(&rules);
    assert_eq!(statuses(&mut gateway.connect(), "", 10), [503; 10], "the service's own");
    assert_eq!(gateway.policy("RateLimit default/trial")["shadowRefused"], 8);
    let breaker = gateway.policy("CircuitBreaker default/trial on Service default/web");
    assert_eq!((&breaker["phase"], &breaker["mode"]), (&"open".into(), &"shadow".into()));
    assert!(breaker["shadowRefused"].as_u64().is_some_and(|count| count == 7), "{breaker}");
}
