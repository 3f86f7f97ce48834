//! What `evenkeel explain` tells is what a request meets.

use std::process::Command;

use e2e::kit::{Backend, Launch, Peer, Rules, evenkeel};

#[test]
fn what_is_explained_is_what_is_served() {
    // The full count: cargo run --release -p e2e -- explain --count 10000
    let seen = e2e::explain::compare(600, 7).unwrap_or_else(|difference| panic!("{difference}"));
    assert!(seen.len() >= 12, "many kinds of answers: {seen:?}");
}

/// What the command prints, and whether it succeeds.
fn explain(arguments: &[&str]) -> (String, bool) {
    let output = Command::new(evenkeel()).arg("explain").args(arguments).output().expect("evenkeel can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.success())
}

#[test]
fn an_operator_is_told_who_did_what() {
    let (one, other) = (Backend::canned("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), Backend::echo());
    let rules = Rules::new()
        .service("web", &[one.address(), other.address()])
        .rule("name: all\nbackendRefs: [{name: web, port: 80}]")
        .traffic("web", "loadBalancer: {policy: roundRobin}\n  outlierDetection: {consecutive5xxErrors: 1}")
        .protect("RateLimit", "users", Rules::ROUTE, "limits: [{requests: 3, per: 1h}]\n  by: [{header: x-user}]");
    let gateway = Launch::new(rules.yaml()).start();
    let mut client = Peer::connect(gateway.address());
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: a\r\n\r\n");
        client.read().expect("an answer");
    }
    let (admin, url) = (gateway.admin().to_string(), format!("http://{}/x?y=1", gateway.address()));
    let ask = |more: &[&str]| explain(&[&["--admin", &admin, "GET", &url], more].concat());
    let (text, is_good) = ask(&["-H", "X-User: b"]);
    assert!(is_good, "{text}");
    for expected in [
        "listener  default/edge/http on 127.0.0.1:",
        "lane      baseline",
        "route     default/all/all",
        "policy    RateLimit default/users: lets it through",
        &format!("upstream  default/web:80 as {}/x", gateway.address()),
        &format!("endpoint  {}: it is ejected for 30 more seconds", one.address()),
        &format!("endpoint  {}: chosen", other.address()),
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let (text, _) = ask(&["-H", "X-User: a"]);
    assert!(text.contains("answer    429 RL: RateLimit default/users"), "{text}");
    let (json, _) = ask(&["--json"]);
    let told: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(told["endpoint"], other.address().to_string());
    // Nothing was counted by any of this.
    assert_eq!(gateway.policy("RateLimit default/users")["admitted"], 3);
    assert_eq!((one.requests().len(), other.requests().len()), (1, 2));
    for (arguments, expected) in [
        (&["GET", "https://a/"][..], "https:// is not served by this build"),
        (&["--admin", "127.0.0.1:1", "GET", "http://a/"], "no gateway answers at 127.0.0.1:1"),
        (&["--admin", &admin, "GET", "http://a:9/"], "port 9: nothing listens on that port"),
    ] {
        let (text, is_good) = explain(arguments);
        assert!(!is_good && text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn bounds_and_breakers_are_told_as_they_are_met() {
    let (patient, _tell) = Backend::patient();
    let busy =
        |connections: &str| Rules::to(patient.address()).traffic("web", &format!("connections: {{{connections}}}"));
    for (connections, expected) in [
        ("maxRequests: 1", "answer    503 UO: the service is too busy"),
        ("max: 1, maxPending: 0", "answer    503 UO: the service is too busy"),
        ("max: 1, maxPending: 1", "waits     for a connection"),
    ] {
        let gateway = Launch::new(busy(connections).yaml()).start();
        let before = patient.requests().len();
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        e2e::kit::until("a request at the service", || (patient.requests().len() > before).then_some(()));
        let url = format!("http://{}/", gateway.address());
        let (text, _) = explain(&["--admin", &gateway.admin().to_string(), "GET", &url]);
        assert!(text.contains(expected), "{connections}: {expected:?} is not in\n{text}");
    }

    let ill = Backend::canned("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
    let rules = Rules::to(ill.address()).protect(
        "CircuitBreaker",
        "web",
        Rules::WEB,
        "per: endpoint\n  errors: {count: 1}\n  openFor: 1h\n  fallback: {status: 200}",
    );
    let gateway = Launch::new(rules.yaml()).start();
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read().map(|answer| answer.status()), Ok(500));
    let (text, _) =
        explain(&["--admin", &gateway.admin().to_string(), "GET", &format!("http://{}/", gateway.address())]);
    for expected in ["its breaker is open", "answer    200 CB: CircuitBreaker default/web"] {
        assert!(text.contains(expected) && !text.contains("chosen"), "{expected:?} is not in\n{text}");
    }
}
