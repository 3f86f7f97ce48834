//! Lanes through a chain of services that forward nothing but a trace header: gateway, sidecars, scripted instances.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use e2e::kit::{Backend, Beside, Gateway, Launch, Message, Peer, Sidecar, free_port};

/// Services in the order of calls, and the lanes of which they have instances.
type Chain<'c> = &'c [(&'c str, &'c [&'c str])];

const CHAIN: Chain<'static> = &[("web", &["base", "blue"]), ("cart", &["base"]), ("price", &["base", "blue", "green"])];
const CONSTANT: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

/// One instance: answers with its name and lane, and what the next service answered to a call with the same trace.
struct Instance {
    service: String,
    lane: String,
    sidecar: Sidecar,
    _app: Backend,
}

struct Mesh {
    gateway: Gateway,
    instances: Vec<Instance>,
}

/// Most pass on what is usual now.
fn trace_of(service: &str) -> &'static str {
    match service {
        "old" => "b3",
        "older" => "x-b3-traceid",
        "walker" => "sw8",
        _ => "traceparent",
    }
}

/// The next service and the way to it.
type Next = Arc<OnceLock<SocketAddr>>;

/// `trace` is the header that it passes on.
fn app(name: String, trace: &'static str, next: Option<&'static str>, way: Next) -> Backend {
    let loses = format!("/lost-by-{name}");
    Backend::start(move |served| {
        while let Some(request) = served.request() {
            // Done in the background, on nobody's behalf; or the trace is lost by mistake.
            let path = request.start.split(' ').nth(1).expect("a path");
            let is_alone = path == "/alone" || path == loses;
            let value = request.get(trace).filter(|_| !is_alone);
            let trace = value.map_or(String::new(), |value| format!("{trace}: {value}\r\n"));
            let told = match (next, way.get()) {
                (Some(next), Some(way)) => {
                    let mut out = Peer::connect(*way);
                    let path = if path == "/alone" { "/" } else { path };
                    out.send(format!("GET {path} HTTP/1.1\r\nHost: {next}\r\n{trace}\r\n"));
                    format!(" {}", out.read().map_or("failed".to_owned(), |answer| answer.text()))
                }
                _ => String::new(),
            };
            let body = format!("{name}{told}");
            served.peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

fn group(more: &str) -> String {
    format!(
        "---\napiVersion: evenkeel.dev/v1alpha1\nkind: LaneGroup\nmetadata: {{name: lanes}}\nspec:\n  \
         entries: [{{group: gateway.networking.k8s.io, kind: Gateway, name: shop}}]\n{more}  lanes:\n  \
         - {{name: blue, selector: {{lane: blue}}, match: [{{headers: [{{name: x-user, value: alice}}]}}]}}\n  \
         - {{name: green, selector: {{lane: green}}, match: [{{headers: [{{name: x-user, value: bob}}]}}]}}\n"
    )
}

/// `more` are lines of the LaneGroup, `flags` those of each sidecar.
fn mesh(chain: Chain<'static>, more: &str, flags: &[&str]) -> Mesh {
    let mut planned = Vec::new();
    let mut services = String::new();
    for (place, (service, lanes)) in chain.iter().enumerate() {
        let next = chain.get(place + 1).map(|(next, _)| *next);
        let mut endpoints = Vec::new();
        for lane in *lanes {
            let (way, port) = (Next::default(), free_port());
            endpoints.push(format!("{{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{lane: {lane}}}}}"));
            let app = app(format!("{service}-{lane}"), trace_of(service), next, way.clone());
            planned.push((*service, *lane, port, app, way));
        }
        services += &format!(
            "---\napiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {service}}}\nspec:\n  \
             ports: [{{name: http, port: 80}}]\n  endpoints: [{}]\n",
            endpoints.join(", ")
        );
    }
    let rules = services + &group(more);
    let start = |(service, lane, port, app, way): (&str, &str, u16, Backend, Next)| {
        let inbound = format!("127.0.0.1:{port}");
        let beside = Beside::at(&rules, service, app.address(), inbound.parse().expect("an address"));
        let sidecar = beside.flags(&["--lane", lane]).flags(flags).start();
        way.set(sidecar.address()).expect("it is set once");
        Instance { service: service.to_owned(), lane: lane.to_owned(), sidecar, _app: app }
    };
    let instances = planned.into_iter().map(start).collect();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: shop}}\nspec:\n  \
         gatewayClassName: evenkeel\n  addresses: [{{value: 127.0.0.1}}]\n  \
         listeners: [{{name: edge, port: {{{{port}}}}, protocol: HTTP}}]\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\nspec:\n  \
         parentRefs: [{{name: shop}}]\n  rules:\n  - backendRefs: [{{name: {}, port: 80}}]\n{rules}",
        chain[0].0
    );
    Mesh { gateway: Launch::new(gateway).start(), instances }
}

impl Mesh {
    fn of(&self, service: &str, lane: &str) -> &Sidecar {
        let is_it = |instance: &&Instance| instance.service == service && instance.lane == lane;
        &self.instances.iter().find(is_it).expect("an instance").sidecar
    }

    fn lookups(&self, service: &str, lane: &str) -> [f64; 4] {
        ["found", "unknown", "ambiguous", "no_id"].map(|outcome| {
            let metric = format!("evenkeel_trace_map_lookups_total{{outcome=\"{outcome}\"}}");
            self.of(service, lane).metric(&metric)
        })
    }
}

fn ask(client: &mut Peer, path: &str, host: &str, fields: &str) -> Message {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
    client.read().expect("an answer")
}

/// What each client's way is.
const WAYS: [(&str, &str); 3] = [
    ("", "web-base cart-base price-base"),
    // There is no blue cart: the baseline serves, and its call is in the lane again.
    ("X-User: alice\r\n", "web-blue cart-base price-blue"),
    ("X-User: bob\r\n", "web-base cart-base price-green"),
];

/// Asks from several connections at the same time, each client again and again.
fn check_ways(mesh: &Mesh, ways: &[(&str, &str)], more: &str) {
    std::thread::scope(|scope| {
        for (user, expected) in ways.iter().cycle().take(2 * ways.len()) {
            scope.spawn(move || {
                let mut client = mesh.gateway.connect();
                for _ in 0..25 {
                    assert_eq!(ask(&mut client, "/", "shop", &format!("{user}{more}")).text(), *expected, "{user}");
                }
            });
        }
    });
}

#[test]
fn a_request_keeps_its_lane_by_its_trace() {
    let mesh = mesh(CHAIN, "", &["--trace-map-entries", "5000"]);
    check_ways(&mesh, &WAYS, "");
    // Each client sends the same id all day: the entry starts a trace for each request.
    check_ways(&mesh, &WAYS, CONSTANT);
    check_ways(&mesh, &WAYS, "b3: 463ac35c9f6413ad-b7ad6b7169203331\r\n");
    let asked = 3.0 * 2.0 * 3.0 * 25.0;
    assert_eq!(mesh.lookups("cart", "base"), [asked, 0.0, 0.0, 0.0]);
    let cart = mesh.of("cart", "base");
    assert_eq!(cart.metric("evenkeel_trace_map_requests_total{outcome=\"remembered\"}"), asked);
    assert_eq!(cart.metric("evenkeel_trace_map_entries"), asked);
    assert_eq!(cart.stats()["traceMap"]["lookups"]["found"], asked as u64);
    // A gateway has none.
    assert!(!mesh.gateway.metrics().contains("trace_map") && mesh.gateway.stats().get("traceMap").is_none());
    let fallbacks = "evenkeel_lane_fallbacks_total{lane=\"blue\",cluster=\"default/cart:80\",reason=\"absent\"}";
    assert_eq!(mesh.of("web", "blue").metric(fallbacks), asked / 3.0);
}

#[test]
fn what_an_instance_does_of_its_own_accord_is_in_its_lane() {
    let mesh = mesh(CHAIN, "", &[]);
    let mut client = mesh.gateway.connect();
    for (user, expected) in
        [("", "web-base cart-base price-base"), ("X-User: alice\r\n", "web-blue cart-base price-blue")]
    {
        assert_eq!(ask(&mut client, "/alone", "shop", user).text(), expected);
    }
    assert_eq!(mesh.lookups("web", "blue"), [0.0, 0.0, 0.0, 1.0]);
    // A trace that nobody knows says nothing, one of two lanes is not used, and a tag says all.
    let blue = mesh.of("web", "blue");
    let mut out = blue.connect();
    let told = |out: &mut Peer, fields: &str| ask(out, "/", "price", fields).text();
    assert_eq!(told(&mut out, CONSTANT), "price-blue");
    let mut inside = blue.connect_inbound();
    ask(&mut inside, "/", "web", CONSTANT);
    assert_eq!(told(&mut out, CONSTANT), "price-base", "a request of the baseline has that trace");
    ask(&mut inside, "/", "web", &format!("{CONSTANT}X-Evenkeel-Lane: green\r\n"));
    assert_eq!(told(&mut out, CONSTANT), "price-blue", "two lanes have that trace");
    assert_eq!(told(&mut out, &format!("{CONSTANT}X-Evenkeel-Lane: green\r\n")), "price-green");
    // With those of the instance itself, which calls cart when it is asked.
    assert_eq!(mesh.lookups("web", "blue"), [2.0, 1.0, 2.0, 1.0]);
    // It is told without being counted.
    let port = blue.address().port();
    for (fields, lane, source) in [
        ("", "blue", "instance"),
        (CONSTANT, "blue", "instance"),
        ("X-Evenkeel-Lane: green\r\n", "green", "tag"),
        ("b3: 463ac35c9f6413ad-b7ad6b7169203331\r\n", "green", "trace"),
    ] {
        if source == "trace" {
            ask(&mut inside, "/", "web", &format!("{fields}X-Evenkeel-Lane: green\r\n"));
        }
        let before = mesh.lookups("web", "blue");
        let question = format!("GET / HTTP/1.1\r\nHost: price\r\n{fields}\r\n");
        let answer = blue.post(&format!("/explain?port={port}"), &question).expect("an answer");
        let told: serde_json::Value = serde_json::from_str(&answer.text()).expect("JSON");
        assert_eq!((&told["lane"], &told["laneBy"]), (&lane.into(), &source.into()), "{fields}");
        assert_eq!(mesh.lookups("web", "blue"), before);
    }
}

#[test]
fn clients_are_trusted_where_the_group_says_so() {
    let mesh = mesh(&[("web", &["base", "blue"])], "  propagation: {trustTraceContext: true}\n", &[]);
    let mut client = mesh.gateway.connect();
    ask(&mut client, "/", "shop", CONSTANT);
    let app = mesh.instances[0]._app.requests().pop().expect("a request");
    assert_eq!(format!("traceparent: {}\r\n", app.get("traceparent").unwrap_or("-")), CONSTANT);
}

#[test]
fn a_trace_map_that_is_full_lends_nobody_a_lane() {
    let mesh = mesh(CHAIN, "", &["--trace-map-entries", "1"]);
    let mut client = mesh.gateway.connect();
    let ways = ["web-blue cart-base price-blue", "web-blue cart-base price-base"];
    assert_eq!(ask(&mut client, "/", "shop", "X-User: alice\r\n").text(), ways[0]);
    for _ in 0..5 {
        // Nobody knows it at the second hop: the instance's own lane counts, which is the baseline.
        assert_eq!(ask(&mut client, "/", "shop", "X-User: alice\r\n").text(), ways[1]);
    }
    let cart = mesh.of("cart", "base");
    assert_eq!(cart.metric("evenkeel_trace_map_requests_total{outcome=\"refused\"}"), 5.0);
    assert_eq!(mesh.lookups("cart", "base"), [1.0, 0.0, 5.0, 0.0]);
}

/// How often lanes leak at an instance, by lane, caller, callee and reason.
fn leaks(sidecar: &Sidecar) -> Vec<String> {
    let metrics = sidecar.metrics();
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("evenkeel_lane_leaks_total{"));
    let mut leaks: Vec<String> = lines
        .map(|line| line.split('"').filter(|word| !word.contains('=')).collect::<Vec<_>>().join(" ").replace("} ", ""))
        .collect();
    leaks.sort();
    leaks
}

#[test]
fn leaks_are_counted_and_named() {
    let mesh = mesh(CHAIN, "", &[]);
    let lost = "/lost-by-cart-base";
    std::thread::scope(|scope| {
        for (user, way) in WAYS {
            let gateway = &mesh.gateway;
            scope.spawn(move || {
                let mut client = gateway.connect();
                for turn in 0..40 {
                    let is_lost = turn % 4 == 1;
                    let told = ask(&mut client, if is_lost { lost } else { "/" }, "shop", user).text();
                    // Behind the baseline the call is nobody's, and goes on in the baseline.
                    let expected =
                        if is_lost { format!("{} price-base", way.rsplit_once(' ').unwrap().0) } else { way.into() };
                    assert_eq!(told, expected, "{user}");
                }
            });
        }
    });
    let expected =
        ["blue default/cart default/price noTrace 10", "green default/cart default/price noTrace 10"].map(String::from);
    let cart = mesh.of("cart", "base");
    assert_eq!(leaks(cart), expected);
    // Whom it also calls of its own accord is doubtful.
    let mut client = mesh.gateway.connect();
    assert_eq!(ask(&mut cart.connect(), "/", "price", "").text(), "price-base");
    assert_eq!(ask(&mut client, lost, "shop", "X-User: alice\r\n").text(), "web-blue cart-base price-base");
    let doubts = "evenkeel_lane_doubts_total{lane=\"blue\",from=\"default/cart\",to=\"default/price\"}";
    assert_eq!((leaks(cart), cart.metric(doubts)), (expected.to_vec(), 1.0));
    // The lane of an instance is not lost, and nobody is wrong elsewhere.
    let told = ask(&mut client, "/lost-by-web-blue", "shop", "X-User: alice\r\n").text();
    assert_eq!(told, "web-blue cart-base price-blue");
    for (service, lane) in [("web", "base"), ("web", "blue"), ("price", "base"), ("price", "blue"), ("price", "green")]
    {
        assert_eq!(leaks(mesh.of(service, lane)), [""; 0], "{service} {lane}");
    }
    // Who calls an instance of a lane without its tag.
    let mut outside = mesh.of("price", "blue").connect_inbound();
    ask(&mut outside, "/", "price", "");
    ask(&mut outside, "/", "price", "X-Evenkeel-Lane: green\r\nX-Evenkeel-Hop: default/mail default/price\r\n");
    ask(&mut outside, "/", "price", "X-Evenkeel-Lane: blue\r\n");
    let expected = ["blue  default/price untagged 1", "blue default/mail default/price untagged 1"].map(String::from);
    assert_eq!(leaks(mesh.of("price", "blue")), expected);
}

#[test]
fn control_draws_lanes_over_the_graph_of_calls() {
    let arguments = e2e::lanes::Arguments { requests: 480, connections: 6, lost_each: 4, constant: true };
    let found = e2e::lanes::measure(&arguments).expect("it runs");
    assert!(found.is_good() && found.made.len() > 5, "{found}");
}

#[test]
fn services_that_pass_on_other_traces_keep_lanes_where_these_are_started() {
    const MIXED: Chain<'static> =
        &[("old", &["base"]), ("older", &["base"]), ("walker", &["base"]), ("price", &["base", "blue"])];
    for (more, lane) in [("", "base"), ("  propagation: {traceHeaders: [traceparent, b3, x-b3, sw8]}\n", "blue")] {
        let mesh = mesh(MIXED, more, &[]);
        let way = |lane: &str| format!("old-base older-base walker-base price-{lane}");
        check_ways(&mesh, &[("", &way("base")), ("X-User: alice\r\n", &way(lane))], "");
        // What clients say of their traces is as little believed as ever.
        let theirs = "b3: 463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312\r\n";
        check_ways(&mesh, &[("", &way("base")), ("X-User: alice\r\n", &way(lane))], theirs);
    }
}
