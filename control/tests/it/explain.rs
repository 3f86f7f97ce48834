//! What `evenkeel explain` tells is what a request meets.

use std::net::SocketAddr;
use std::process::Command;

use e2e::kit::{Backend, Gateway, Launch, Peer, Rules, evenkeel, until};

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
        &format!("upstream  default/web:80 as {}/x?y=1", gateway.address()),
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
        (&["--admin", &admin, "GET", "http://a:9/"], "port 9: nothing listens on that port; --port may be "),
    ] {
        let (text, is_good) = explain(arguments);
        assert!(!is_good && text.contains(expected), "{arguments:?}: {text}");
    }
}

/// The explanation of a GET at a gateway, as text and as JSON.
fn of(gateway: &Gateway, path: &str, more: &[&str]) -> (String, serde_json::Value) {
    let (admin, url) = (gateway.admin().to_string(), format!("http://{}{path}", gateway.address()));
    let arguments = [&["--admin", &admin, "GET", &url], more].concat();
    let (json, _) = explain(&[&arguments[..], &["--json"]].concat());
    (explain(&arguments).0, serde_json::from_str(&json).expect("JSON"))
}

#[test]
fn all_backends_and_mirrors_are_told() {
    let backend = Backend::echo();
    let mirror = |share: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: copy, port: 80}}{share}}}}}")
    };
    let rules = Rules::new()
        .service("web", &[backend.address()])
        .service("next", &[backend.address()])
        .service("copy", &[backend.address()])
        .rule(&format!(
            "filters: [{}, {}]\nbackendRefs: [{{name: web, port: 80, weight: 1000000}}, {{name: next, port: 80}}]",
            mirror(""),
            mirror(", fraction: {numerator: 1, denominator: 1000}")
        ))
        .rule("matches: [{path: {value: /one}}]\nbackendRefs: [{name: web, port: 80}]");
    let gateway = Launch::new(rules.yaml()).start();
    let (text, told) = of(&gateway, "/", &[]);
    for line in [
        "backend   default/web:80: weight 1000000, drawn here\n",
        "backend   default/next:80: weight 1\n",
        "mirror    default/copy:80: a copy of 100 %\n",
        "mirror    default/copy:80: a copy of 0.1 %\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert_eq!(told["mirrors"][1], serde_json::json!({"cluster": "default/copy:80", "percent": 0.1}));
    assert_eq!(told["targets"][1], serde_json::json!({"cluster": "default/next:80", "weight": 1, "chosen": false}));
    let (text, _) = of(&gateway, "/one", &[]);
    assert!(!text.contains("backend ") && !text.contains("mirror "), "{text}");
}

const CHECKED: &str = "healthCheck: {path: /, interval: 20ms, unhealthyThreshold: 1}";

/// A Service in the baseline and in lane `blue`, where user b belongs and half of all others, by a cookie.
fn in_lanes(isolation: &str, base: SocketAddr, blue: SocketAddr) -> Rules {
    let endpoint = |address: SocketAddr, lane: &str| {
        format!("{{address: 127.0.0.1, ports: {{http: {}}}, labels: {{lane: {lane}}}}}", address.port())
    };
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {hostname: b.test}}]";
    Rules::new()
        .traffic("web", CHECKED)
        .rule(&format!("matches: [{{path: {{value: /moved}}}}]\n{redirect}"))
        .rule("backendRefs: [{name: web, port: 80}]")
        .protect("FaultInjection", "drill", Rules::ROUTE, "match: [{headers: [{name: x-drill, value: '1'}]}]\n  abort: {status: 418, percentage: 100}")
        .text(&format!(
            "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  \
             ports: [{{name: http, port: 80}}]\n  endpoints: [{}, {}]\n\
             ---\napiVersion: evenkeel.dev/v1alpha1\nkind: LaneGroup\nmetadata: {{name: lanes}}\nspec:\n  \
             entries: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}]\n  isolation: {isolation}\n  \
             lanes:\n  - name: blue\n    selector: {{lane: blue}}\n    match: [{{headers: [{{name: x-user, value: b}}]}}]\n    \
             percentage: 50\n    stickyBy: {{cookie: key}}\n",
            endpoint(base, "base"),
            endpoint(blue, "blue")
        ))
}

#[test]
fn a_cookie_is_told_of_where_an_answer_sets_it() {
    let (base, blue) = (Backend::echo(), Backend::echo());
    let gateway = Launch::new(in_lanes("permissive", base.address(), blue.address()).yaml()).start();
    for (path, field, cookie, is_diced, is_told) in [
        ("/", "X-A: b", Some("issued"), true, true),
        ("/", "Cookie: key=1", None, false, false),
        ("/", "X-User: b", None, false, false),
        ("/", "X-Drill: 1", Some("notIssued"), true, false),
        ("/moved", "X-A: b", Some("notIssued"), true, false),
    ] {
        let (text, told) = of(&gateway, path, &["-H", field]);
        assert_eq!(told["laneCookie"].as_str(), cookie, "{path} {field}");
        let words = (text.contains(", by the dice"), text.contains("would set the cookie"));
        assert_eq!(words, (is_diced, is_told), "{path} {field}\n{text}");
        let mut client = gateway.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
        let answer = client.read().expect("an answer");
        assert_eq!(answer.get("set-cookie").is_some(), is_told, "{path} {field}: {answer:?}");
    }
}

#[test]
fn who_is_not_well_is_told_so_wherever_requests_go() {
    let (ill, well) = (Backend::canned("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), Backend::echo());
    let wait_for = |gateway: &Gateway, states: [&str; 2]| {
        until("the checks", || (gateway.endpoint_states("default/web:80") == states).then_some(()));
    };
    // Nobody is well: all are asked.
    let other = Backend::canned("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
    let rules = Rules::new()
        .service("web", &[ill.address(), other.address()])
        .rule("backendRefs: [{name: web, port: 80}]")
        .traffic("web", CHECKED);
    let gateway = Launch::new(rules.yaml()).start();
    wait_for(&gateway, ["unwell", "unwell"]);
    let (text, told) = of(&gateway, "/", &[]);
    assert_eq!(told["panic"], true);
    for words in ["panic     none is well", ": chosen, though it is unwell", ": another was chosen; it is unwell"] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    // The request's own lane is not.
    for (isolation, base, answer) in
        [("permissive", "chosen", "none of its instances is ready"), ("strict", "it is in the baseline", "503 NL")]
    {
        let gateway = Launch::new(in_lanes(isolation, well.address(), ill.address()).yaml()).start();
        wait_for(&gateway, ["ready", "unwell"]);
        let (text, told) = of(&gateway, "/", &["-H", "X-User: b"]);
        for words in
            [format!("{}: {base}", well.address()), format!("{}: it is unwell", ill.address()), answer.to_owned()]
        {
            assert!(text.contains(&words), "{isolation}: {words:?} is not in\n{text}");
        }
        assert!(told["panic"].is_null(), "{told}");
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
        until("a request at the service", || (patient.requests().len() > before).then_some(()));
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
