//! A proxy beside each instance of a Service: what comes in, and what goes out to Services by their names.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Beside, Message, Peer, Scratch, Sidecar, until};

use crate::server::Control;

/// A Service with instances, each at an address and with labels.
fn service(name: &str, instances: &[(SocketAddr, &str)]) -> String {
    let endpoint = |(address, labels): &(SocketAddr, &str)| {
        format!("{{address: {}, ports: {{http: {}}}, labels: {{{labels}}}}}", address.ip(), address.port())
    };
    let endpoints: Vec<String> = instances.iter().map(endpoint).collect();
    format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{name: http, \
         port: 80}}], endpoints: [{}]}}}}\n",
        endpoints.join(", ")
    )
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    let version = if kind == "HTTPRoute" { "gateway.networking.k8s.io/v1" } else { "evenkeel.dev/v1alpha1" };
    format!("---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n")
}

/// A policy of a Service.
fn policy(kind: &str, name: &str, service: &str, spec: &str) -> String {
    document(kind, name, &format!("targetRefs: [{{group: '', kind: Service, name: {service}}}], {spec}"))
}

/// A service that tells what it was sent: its name, the path, and some fields.
fn telling(name: &'static str) -> Backend {
    Backend::start(move |served| {
        while let Some(request) = served.request() {
            let path = request.start.split(' ').nth(1).unwrap_or_default();
            let field = |name: &str| request.get(name).unwrap_or("-").to_owned();
            let body = format!("{name} {path} {} {}", field("host"), field("x-evenkeel-lane"));
            served.peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

fn ask(client: &mut Peer, target: &str, host: &str, fields: &str) -> Message {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
    client.read().expect("an answer")
}

/// Status and body.
fn told(answer: &Message) -> (u16, String) {
    (answer.status(), answer.text())
}

#[test]
fn calls_go_out_by_name_and_come_in_to_the_instance() {
    let (web, cart, beta) = (telling("web"), telling("cart"), telling("beta"));
    let route = "parentRefs: [{group: '', kind: Service, name: cart}], rules: [{matches: [{path: {value: /beta}}], \
                 backendRefs: [{name: beta, port: 80}]}, {backendRefs: [{name: cart, port: 80}]}]";
    // The way of a call: web's sidecar, cart's sidecar, cart.
    let cart_sidecar = Beside::files(service("cart", &[]), "cart", cart.address()).start();
    let rules = [
        service("web", &[(web.address(), "")]),
        service("cart", &[(cart_sidecar.inbound(), "")]),
        service("beta", &[(beta.address(), "")]),
        document("HTTPRoute", "cart", route),
    ];
    let sidecar = Beside::files(rules.concat(), "web", web.address()).flags(&["--access-log", "-"]).start();
    let mut out = sidecar.connect();
    for (target, host, expected) in [
        ("/", "cart", (200, "cart / cart -")),
        ("/a?b", "cart.default.svc:80", (200, "cart /a?b cart.default.svc:80 -")),
        ("/beta/1", "CART", (200, "beta /beta/1 cart -")),
        // Itself, and as `http_proxy`: the host in the target counts.
        ("/", "web", (200, "web / web -")),
        ("http://cart.default/x", "elsewhere", (200, "cart /x cart.default -")),
        ("/", "cart:81", (404, "no service has this name, or it has not this port\n")),
        ("/", "www.example.com", (404, "no service has this name, or it has not this port\n")),
        ("http://127.0.0.1:9/", "cart", (404, "no service has this name, or it has not this port\n")),
    ] {
        let (status, text) = expected;
        assert_eq!(told(&ask(&mut out, target, host, "")), (status, text.to_owned()), "{target} {host}");
    }
    // What is not told at the edge is not made up inside, and what is told stays.
    let fields = "X-Forwarded-For: 9.9.9.9\r\nX-Request-Id: mine\r\nX-Forwarded-Proto: https\r\nX_Own: 1\r\n";
    ask(&mut out, "/", "cart", fields);
    let last = cart.requests().pop().expect("a request");
    let seen =
        ["x-forwarded-for", "x-request-id", "x-forwarded-proto", "x_own"].map(|name| last.get(name).unwrap_or("-"));
    assert_eq!(seen, ["9.9.9.9", "mine", "https", "1"]);
    ask(&mut out, "/", "cart", "");
    let last = cart.requests().pop().expect("a request");
    assert_eq!((last.get("x-forwarded-for"), last.count("traceparent")), (None, 1));
    // Whatever comes in is for the instance.
    let mut inside = sidecar.connect_inbound();
    assert_eq!(told(&ask(&mut inside, "/x", "any.test", "")), (200, "web /x any.test -".into()));
    assert!(sidecar.metrics().contains("response_flags=\"NS\""));
    until("the log", || sidecar.stdout().lines().find(|line| line.contains("\"flag\":\"NS\"")).map(|_| ()));
    // What it would do with a call is told as at a gateway.
    let question = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
    let port = sidecar.address().port();
    let answer = sidecar.post(&format!("/explain?port={port}"), question).expect("an answer");
    let told: serde_json::Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!((&told["route"], &told["listener"]["name"]), (&"default/cart/1".into(), &"default/web/outbound".into()));
    assert_eq!(told["endpoint"], cart_sidecar.inbound().to_string());
}

#[test]
fn what_protects_the_instance_acts_where_requests_come_in() {
    let (web, caller) = (telling("web"), telling("caller"));
    let of_web = [
        service("web", &[]),
        policy("RateLimit", "rate", "web", "limits: [{requests: 2, per: 1h}]"),
        policy("RateLimit", "tried", "web", "mode: shadow, limits: [{requests: 1, per: 1h}]"),
        policy("FaultInjection", "fault", "web", "abort: {percentage: 100, status: 418}"),
    ];
    let sidecar = Beside::files(of_web.concat(), "web", web.address()).start();
    let mut inside = sidecar.connect_inbound();
    let statuses = [(); 4].map(|()| ask(&mut inside, "/", "web", "").status());
    assert_eq!(statuses, [200, 200, 429, 429], "trouble on purpose is for callers");
    let tried =
        "evenkeel_policy_requests_total{policy=\"RateLimit default/tried at inbound\",result=\"shadowRefused\"}";
    assert_eq!(sidecar.metric(tried), 1.0);
    let seen = sidecar.metrics();
    let of_inbound = "istio_requests_total{reporter=\"destination\",destination_service=\"web.default\"";
    assert!(seen.lines().any(|line| line.starts_with(of_inbound) && line.ends_with(" 2")), "{seen}");
    // Callers meet everything, and have a count of their own.
    let rules = [
        service("caller", &[]),
        service("web", &[(web.address(), "")]),
        policy("RateLimit", "rate", "web", "limits: [{requests: 1, per: 1h}]"),
        policy("TrafficPolicy", "web", "web", "retries: {attempts: 1, on: [connectFailure]}"),
    ];
    let sidecar = Beside::files(rules.concat(), "caller", caller.address()).start();
    let mut out = sidecar.connect();
    assert_eq!([(); 2].map(|()| ask(&mut out, "/", "web", "").status()), [200, 429]);
    assert_eq!(ask(&mut sidecar.connect_inbound(), "/", "web", "").status(), 200);
}

#[test]
fn an_instance_that_is_not_there_is_not_asked_twice() {
    let app = telling("web");
    let sidecar = Beside::files(service("web", &[]), "web", app.address()).start();
    drop(app);
    let mut inside = sidecar.connect_inbound();
    assert_eq!(ask(&mut inside, "/", "web", "").status(), 503);
    assert_eq!(sidecar.metric("evenkeel_retries_total"), 0.0);
}

/// Instances `base` and `blue` of a Service, each with a sidecar.
struct Pair {
    _apps: [Backend; 2],
    sidecars: [Sidecar; 2],
}

fn pair(name: &str, apps: [Backend; 2], rules: &str) -> Pair {
    let sidecar = |app: &Backend, flags: &[&str]| Beside::files(rules, name, app.address()).flags(flags).start();
    let sidecars = [sidecar(&apps[0], &[]), sidecar(&apps[1], &["--lane", "blue"])];
    Pair { _apps: apps, sidecars }
}

impl Pair {
    fn service(&self, name: &str) -> String {
        service(name, &[(self.sidecars[0].inbound(), "lane: base"), (self.sidecars[1].inbound(), "lane: blue")])
    }
}

#[test]
fn a_lane_is_kept_from_hop_to_hop() {
    let group = document("LaneGroup", "lanes", "entries: [], lanes: [{name: blue, selector: {lane: blue}}]");
    let cart_rules = format!("{}{group}", service("cart", &[]));
    let cart = pair("cart", [telling("cart-base"), telling("cart-blue")], &cart_rules);
    let price = telling("price-base");
    let rules =
        [cart.service("cart"), service("price", &[(price.address(), "lane: base")]), service("web", &[]), group]
            .concat();
    let web = pair("web", [telling("web-base"), telling("web-blue")], &rules);
    let [base, blue] = &web.sidecars;
    for (sidecar, host, fields, expected) in [
        (base, "cart", "", "cart-base / cart -"),
        (base, "cart", "X-Evenkeel-Lane: blue\r\n", "cart-blue / cart blue"),
        (base, "cart", "Baggage: evenkeel.lane=blue\r\n", "cart-blue / cart -"),
        // There is no blue price: the baseline serves, and is told of the lane for the next hop.
        (base, "price", "X-Evenkeel-Lane: blue\r\n", "price-base / price blue"),
        // Without a tag the lane of the instance counts, and a tag of the baseline is one.
        (blue, "cart", "", "cart-blue / cart blue"),
        (blue, "cart", "X-Evenkeel-Lane: base\r\n", "cart-base / cart base"),
        (blue, "price", "", "price-base / price blue"),
    ] {
        assert_eq!(ask(&mut sidecar.connect(), "/", host, fields).text(), expected, "{host} {fields:?}");
    }
    // Who comes in is in the lane that it says, and is no leak.
    let mut inside = base.connect_inbound();
    assert_eq!(ask(&mut inside, "/", "web", "X-Evenkeel-Lane: blue\r\n").text(), "web-base / web blue");
    assert!(!base.metrics().contains("evenkeel_lane_fallbacks_total{lane=\"blue\",cluster=\"default/web:app\""));
    assert_eq!(base.metric("evenkeel_lane_fallbacks_total{lane=\"blue\",cluster=\"default/price:80\""), 1.0);
}

/// A sidecar of `web` under control that keeps what it knows in a folder.
fn under(control: SocketAddr, data: &Scratch, app: &Backend) -> Beside {
    let folder = data.path().display().to_string();
    Beside::under(control, "web", app.address()).flags(&["--instance", "web-1", "--data", &folder])
}

/// The names that the only proxy subscribes to, but for endpoints.
fn subscribed(control: &Control) -> usize {
    control.proxy()["subscriptions"].as_u64().expect("a number") as usize
}

#[test]
fn services_are_asked_for_when_they_are_called() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let (web, cart, price) = (telling("web"), telling("cart"), telling("price"));
    let control = Control::start(&folder);
    let places = [control.address, control.xds];
    control.apply(&service("cart", &[(cart.address(), "")]));
    let sidecar = under(control.xds, &data, &web).spawn();
    until("a word of waiting", || sidecar.stderr().contains("control does not know this Service").then_some(()));
    control
        .apply(&[service("web", &[]), policy("RateLimit", "rate", "web", "limits: [{requests: 3, per: 1h}]")].concat());
    until("a sidecar that is ready", || sidecar.get("/ready").filter(|answer| answer.status() == 200));
    assert_eq!(control.proxy()["id"], "default/web@web-1");
    // What protects the instance is there from the start; of others nothing is known.
    let mut inside = sidecar.connect_inbound();
    assert_eq!([(); 4].map(|()| ask(&mut inside, "/", "web", "").status()), [200, 200, 200, 429]);
    let clusters = || {
        let config = sidecar.config();
        let clusters = config["clusters"].as_array().expect("a list").iter();
        clusters.map(|cluster| cluster["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(clusters(), ["default/web:app", "default/web:80"]);
    let mut out = sidecar.connect();
    assert_eq!(told(&ask(&mut out, "/", "cart", "")), (200, "cart / cart -".into()));
    assert_eq!(clusters().len(), 3);
    // What is not there is said at once, and until it may be there again nobody is asked.
    let started = Instant::now();
    assert_eq!(ask(&mut out, "/", "price.default.svc", "").status(), 404);
    assert!(started.elapsed() < Duration::from_secs(1), "control has said so");
    assert!((0..50).all(|_| ask(&mut out, "/", "price", "").status() == 404));
    assert!(sidecar.metrics().contains("response_flags=\"NS\""));
    // It is made: whoever heard that it is not there hears of it.
    let revision = control.apply(&service("price", &[(price.address(), "")]));
    control.wait_until_in_force(revision);
    until("the new Service", || (ask(&mut out, "/", "price", "").status() == 200).then_some(()));
    // A change of what is called comes by itself.
    let route =
        "parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: price, port: 80}]}]";
    control.wait_until_in_force(control.apply(&document("HTTPRoute", "cart", route)));
    assert_eq!(ask(&mut out, "/", "cart", "").text(), "price / cart -");
    let refused = "parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: x, namespace: far, port: 80}]}]";
    let far = service("x", &[]).replace("{name: x}", "{name: x, namespace: far}");
    let (status, answer) =
        control.ask("POST /api/v1/objects", "", &[document("HTTPRoute", "cart", refused), far].concat());
    assert!(status == 422 && answer.to_string().contains("ReferenceGrant"), "{status} {answer}");

    // Without control: the next one begins with what this one called.
    until("a copy with everything", || {
        let bytes = std::fs::read(data.path().join("last-good")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        ["Service/default/price/*", "Endpoints/default/price"].iter().all(|name| text.contains(name)).then_some(())
    });
    control.kill();
    drop((inside, out, sidecar));
    let sidecar = under(places[1], &data, &web).start();
    let mut out = sidecar.connect();
    assert_eq!(ask(&mut out, "/", "cart", "").text(), "price / cart -");
    assert_eq!(ask(&mut out, "/", "price", "").text(), "price / price -");
    assert_eq!(ask(&mut sidecar.connect_inbound(), "/", "web", "").status(), 200);
    // Nobody can say whether there is this one.
    let answer = ask(&mut out, "/", "stock", "");
    assert_eq!(told(&answer), (503, "the endpoints of the service are not known yet\n".into()));
    let control = Control::start_at(&folder, places);
    until("control's word", || (ask(&mut out, "/", "stock", "").status() == 404).then_some(()));
    drop(control);
}

#[test]
fn names_that_an_instance_makes_up_are_forgotten() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let web = telling("web");
    let control = Control::start(&folder);
    control.apply(&service("web", &[(web.address(), "")]));
    let sidecar = under(control.xds, &data, &web).start();
    let mut out = sidecar.connect();
    // Its endpoints come apart from it.
    assert_eq!(ask(&mut out, "/", "web", "").status(), 200);
    // And the instance itself is one of them, as soon as control has it.
    until("its own instance", || (sidecar.endpoint_states("default/web:80").len() == 2).then_some(()));
    let revision = sidecar.revision();
    for number in 0..1_100 {
        let host = format!("made-up-{number}");
        let status = ask(&mut out, "/", &host, "").status();
        // Nobody asks control for so many at once that it would send the sidecar away.
        assert!(status == 404 || number >= 1_000 && status == 503, "{host}: {status}");
    }
    assert!(subscribed(&control) <= 1_002, "{}", control.proxy());
    until("names that are forgotten", || (subscribed(&control) <= 2).then_some(()));
    assert_eq!(sidecar.revision(), revision, "nothing was compiled for any of them");
    assert_eq!(ask(&mut out, "/", "web", "").status(), 200);
}

#[test]
fn a_token_of_a_service_is_for_its_own_sidecars() {
    let folder = Scratch::create("control").expect("a folder");
    let (web, cart) = (telling("web"), telling("cart"));
    let control = Control::start(&folder);
    control.apply(&[service("web", &[(web.address(), "")]), service("cart", &[(cart.address(), "")])].concat());
    let bounds = r#"{"name": "web", "role": "proxy", "namespaces": ["default"], "service": "web"}"#;
    let (status, answer) = control.ask("POST /api/v1/tokens", "", bounds);
    assert_eq!(status, 201, "{answer}");
    let token =
        folder.write("token", answer["token"].as_str().expect("a token")).expect("a file").display().to_string();
    let sidecar = Beside::under(control.xds, "web", web.address()).flags(&["--token-file", &token]).start();
    assert_eq!(ask(&mut sidecar.connect(), "/", "cart", "").status(), 200, "it calls whom it likes");
    let stranger = Beside::under(control.xds, "cart", cart.address()).flags(&["--token-file", &token]).spawn();
    until("a refusal", || stranger.stderr().contains("it is for Service web in namespace default").then_some(()));
}

#[test]
fn a_new_instance_knows_whom_others_call() {
    let folder = Scratch::create("control").expect("a folder");
    let (web, cart) = (telling("web"), telling("cart"));
    let control = Control::start(&folder);
    control.apply(&[service("web", &[]), service("cart", &[(cart.address(), "")])].concat());
    let beside = |name: &str| Beside::under(control.xds, "web", web.address()).flags(&["--instance", name]).start();
    let first = beside("one");
    assert_eq!(ask(&mut first.connect(), "/", "cart", "").status(), 200);
    until("its report", || {
        let told = control.ask("GET /api/v1/lanes", "", "").1.to_string();
        told.contains("\"to\":\"default/cart\"").then_some(())
    });
    let second = beside("two");
    until("what it was told", || {
        let config = second.config();
        let clusters = config["clusters"].as_array().expect("a list");
        clusters.iter().any(|cluster| cluster["name"] == "default/cart:80").then_some(())
    });
    control.kill();
    assert_eq!(ask(&mut second.connect(), "/", "cart", "").status(), 200);
}

#[test]
fn who_may_not_be_an_instance_is_named_with_the_reason() {
    let folder = Scratch::create("control").expect("a folder");
    let web = telling("web");
    let control = Control::start(&folder);
    control.apply(&[service("web", &[]), service("cart", &[])].concat());
    let token = |name: &str, more: &str| {
        let bounds = format!("{{\"name\": \"{name}\", \"role\": \"proxy\", \"namespaces\": [\"default\"], {more}}}");
        let (status, answer) = control.ask("POST /api/v1/tokens", "", &bounds);
        assert_eq!(status, 201, "{answer}");
        folder.write(name, answer["token"].as_str().expect("a token")).expect("a file").display().to_string()
    };
    let (of_web, of_cart) = (token("of-web", r#""service": "web""#), token("of-cart", r#""service": "cart""#));
    let of_green = token("of-green", r#""service": "web", "lanes": ["green"]"#);
    let wrong = folder.write("wrong", "evenkeel.of-web.0123456789").expect("a file").display().to_string();
    let told = || control.ask("GET /api/v1/instances", "", "").1;
    let refusal = |name: &str| {
        let told = told();
        let is_it = |one: &&serde_json::Value| one["instance"] == format!("default/web/{name}");
        let found = told["refused"].as_array().expect("a list").iter().find(is_it).cloned();
        found.map(|one| one["reason"].as_str().expect("a reason").to_owned())
    };
    let rows = [
        ("wrong", ["--token-file", &wrong].to_vec(), "this token is none, or no longer"),
        (
            "elsewhere",
            ["--token-file", &of_cart].to_vec(),
            "of-cart (proxy) may not be proxy \"default/web@elsewhere\" of \"default/web\": it is for Service cart in \
             namespace default",
        ),
        (
            "lane",
            ["--token-file", &of_green, "--lane", "blue"].to_vec(),
            "of-green (proxy) may not speak for an instance of lane \"blue\": it is for green",
        ),
        ("address", ["--advertise", "10.9.8.7"].to_vec(), "10.9.8.7 is not its own: it comes from 127.0.0.1"),
    ];
    let sidecars = rows.map(|(name, flags, expected)| {
        let beside = Beside::under(control.xds, "web", web.address()).flags(&["--instance", name]).flags(&flags);
        let sidecar = beside.spawn();
        let (reason, _) = until("a refusal", || refusal(name));
        assert_eq!(reason, expected);
        until("its own word", || sidecar.stderr().contains(expected).then_some(()));
        sidecar
    });
    assert_eq!(told()["instances"], serde_json::json!([]));
    // A token that is none may be anybody's: it is shown, and does not make others fail.
    let seen = control.ask("GET /api/v1/status", "", "").1["instances"].clone();
    assert_eq!((&seen["refused"], &seen["refusedNow"]), (&4.into(), &3.into()), "{seen}");
    // What is mended is not held against it: files with tokens are read again.
    std::fs::copy(of_web, wrong).expect("a copy");
    until("the first instance", || {
        let told = told();
        (told["instances"][0]["instance"] == "default/web/wrong").then_some(())
    });
    assert_eq!(refusal("wrong"), None);
    drop(sidecars);
    // A lane may come after its instances.
    let beside = Beside::under(control.xds, "web", web.address());
    let _violet = beside.flags(&["--instance", "violet", "--lane", "violet"]).start();
    let notes = || {
        let told = told();
        let is_it = |one: &&serde_json::Value| one["instance"] == "default/web/violet";
        told["instances"].as_array().expect("a list").iter().find(is_it).map(|one| one["notes"].to_string())
    };
    until("its note", || notes().filter(|notes| notes.contains("lane violet is of no LaneGroup")));
    control.apply(&document("LaneGroup", "lanes", "entries: [], lanes: [{name: purple, selector: {lane: violet}}]"));
    assert_eq!(notes().as_deref(), Some("[]"));
}
