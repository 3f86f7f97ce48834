//! Lanes at the gateway: an edge that decides, a listener inside that believes, and a lane that is left exactly where it
//! has no instance.

use std::net::SocketAddr;

use e2e::kit::{Backend, Gateway, Launch, Message, Peer, free_port, until};

/// A gateway with two listeners before services that say who they are.
struct Mesh {
    gateway: Gateway,
    inside: SocketAddr,
    /// Kept alive.
    _backends: Vec<Backend>,
}

/// A service's instances by lane, each of which answers with its name.
type Instances<'a> = &'a [(&'a str, &'a [&'a str])];

fn mesh(services: Instances<'_>, lanes: &str, isolation: &str) -> Mesh {
    mesh_with(services, lanes, isolation, "")
}

fn mesh_with(services: Instances<'_>, lanes: &str, isolation: &str, more: &str) -> Mesh {
    mesh_at(free_port(), services, lanes, isolation, more, &[])
}

fn mesh_at(inside: u16, services: Instances<'_>, lanes: &str, isolation: &str, more: &str, flags: &[&str]) -> Mesh {
    let mut yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: shop}}\nspec:\n  \
         gatewayClassName: evenkeel\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n  \
         - {{name: edge, port: {{{{port}}}}, protocol: HTTP}}\n  - {{name: inside, port: {inside}, protocol: HTTP}}\n\
         ---\napiVersion: evenkeel.dev/v1alpha1\nkind: LaneGroup\nmetadata: {{name: lanes}}\nspec:\n  \
         entries: [{{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: edge}}]\n  \
         internal: [{{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: inside}}]\n  \
         baseline: base\n  isolation: {isolation}\n  lanes:\n{lanes}\n{more}"
    );
    let mut backends = Vec::new();
    for (service, instances) in services {
        let endpoints: Vec<String> = instances
            .iter()
            .map(|lane| {
                let name = format!("{service}-{lane}");
                // What it was told of lanes stands in the answer, which the edge must not show.
                let backend = Backend::start(move |served| {
                    while let Some(request) = served.request() {
                        let tag = request.get("x-evenkeel-lane").unwrap_or("-");
                        let baggage = request.get("baggage").unwrap_or("-");
                        let body = format!("{name} {tag} {baggage}");
                        let head = format!("Content-Length: {}\r\nX-Evenkeel-Lane: {tag}", body.len());
                        served.peer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}"));
                    }
                });
                let port = backend.address().port();
                backends.push(backend);
                format!("{{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{lane: {lane}}}}}")
            })
            .collect();
        yaml += &format!(
            "---\napiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {service}}}\nspec:\n  \
             ports: [{{name: http, port: 80}}]\n  endpoints: [{}]\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {service}}}\nspec:\n  \
             parentRefs: [{{name: shop}}]\n  hostnames: [{service}.test]\n  rules:\n  \
             - backendRefs: [{{name: {service}, port: 80}}]\n",
            endpoints.join(", ")
        );
    }
    let gateway = Launch::new(yaml).flags(flags).start();
    Mesh { gateway, inside: SocketAddr::from(([127, 0, 0, 1], inside)), _backends: backends }
}

fn ask(client: &mut Peer, host: &str, fields: &str) -> Message {
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
    client.read().expect("an answer")
}

const SHOP: Instances<'static> = &[("web", &["base", "blue"]), ("cart", &["base"]), ("price", &["base", "blue"])];
const BLUE: &str = "  - name: blue\n    selector: {lane: blue}\n    match:\n    \
                    - headers: [{name: x-user, value: alice}]\n    - cookies: [{name: beta, value: \"1\"}]";

#[test]
fn the_edge_decides_and_lets_nobody_decide_for_it() {
    let mesh = mesh(SHOP, BLUE, "permissive");
    let mut client = mesh.gateway.connect();
    for (fields, expected) in [
        ("", "web-base - -"),
        ("X-User: alice\r\n", "web-blue blue evenkeel.lane=blue"),
        ("X-User: bob\r\n", "web-base - -"),
        ("Cookie: a=b; beta=1\r\n", "web-blue blue evenkeel.lane=blue"),
        // What a client says of lanes is removed; other baggage stays.
        ("X-Evenkeel-Lane: blue\r\nBaggage: evenkeel.lane=blue, k=v\r\n", "web-base - k=v"),
        ("X-User: alice\r\nX-Evenkeel-Lane: red\r\nBaggage: k=v\r\n", "web-blue blue evenkeel.lane=blue,k=v"),
    ] {
        let answer = ask(&mut client, "web.test", fields);
        assert_eq!(answer.text(), expected, "{fields:?}");
        assert_eq!(answer.get("x-evenkeel-lane"), None, "the edge tells nobody outside");
    }
    assert_eq!(mesh.gateway.metric("evenkeel_lanes_stripped_total"), 2.0);
}

#[test]
fn inside_the_tag_is_believed_and_a_lane_is_left_only_where_it_has_nobody() {
    let mesh = mesh(SHOP, BLUE, "permissive");
    let mut client = Peer::connect(mesh.inside);
    for (host, fields, expected) in [
        ("web.test", "X-Evenkeel-Lane: blue\r\n", "web-blue blue -"),
        // There is no blue cart: the baseline serves, and the next one is in the lane again.
        ("cart.test", "X-Evenkeel-Lane: blue\r\n", "cart-base blue -"),
        ("price.test", "X-Evenkeel-Lane: blue\r\n", "price-blue blue -"),
        ("price.test", "Baggage: evenkeel.lane=blue\r\n", "price-blue - evenkeel.lane=blue"),
        ("price.test", "", "price-base - -"),
        ("price.test", "X-Evenkeel-Lane: unknown\r\n", "price-base unknown -"),
        // Matches are the edge's.
        ("price.test", "X-User: alice\r\n", "price-base - -"),
        (
            "price.test",
            "X-Evenkeel-Lane: base\r\nBaggage: evenkeel.lane=blue\r\n",
            "price-base base evenkeel.lane=blue",
        ),
    ] {
        assert_eq!(ask(&mut client, host, fields).text(), expected, "{host} {fields:?}");
    }
    let fallbacks = "evenkeel_lane_fallbacks_total{lane=\"blue\",cluster=\"default/cart:80\",reason=\"absent\"}";
    assert_eq!(mesh.gateway.metric(fallbacks), 1.0);
    assert_eq!(mesh.gateway.metric("evenkeel_lanes_differ_total"), 1.0);
    let of_blue = mesh.gateway.metrics().lines().filter(|line| line.contains("lane=\"blue\"")).count();
    assert!(of_blue > 0, "requests are counted by lane");
}

#[test]
fn strict_never_falls_back() {
    let mesh = mesh(SHOP, BLUE, "strict");
    let mut client = Peer::connect(mesh.inside);
    for _ in 0..20 {
        let answer = ask(&mut client, "cart.test", "X-Evenkeel-Lane: blue\r\n");
        assert_eq!((answer.status(), answer.text()), (503, "the lane has no endpoint\n".into()));
        assert_eq!(ask(&mut client, "web.test", "X-Evenkeel-Lane: blue\r\n").text(), "web-blue blue -");
    }
    assert!(mesh.gateway.metrics().contains("response_flags=\"NL\""));
}

#[test]
fn an_instance_of_no_lane_gets_nothing() {
    let services: Instances<'_> = &[("web", &["base", "red"])];
    let mesh = mesh(services, BLUE, "permissive");
    let mut client = mesh.gateway.connect();
    assert!((0..30).all(|_| ask(&mut client, "web.test", "").text().starts_with("web-base")));
}

#[test]
fn a_lane_that_is_down_is_left_until_it_is_back() {
    let health = "---\napiVersion: evenkeel.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: web}\nspec:\n  \
                  targetRefs: [{group: \"\", kind: Service, name: web}]\n  \
                  timeouts: {idle: 1ms}\n  outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 1h}\n";
    let mut mesh = mesh_with(&[("web", &["base", "blue"])], BLUE, "permissive", health);
    let mut client = mesh.gateway.connect();
    assert_eq!(ask(&mut client, "web.test", "X-User: alice\r\n").text(), "web-blue blue evenkeel.lane=blue");
    // Blue dies; who finds out is retried, in the baseline.
    drop(mesh._backends.remove(1));
    let mut client = mesh.gateway.connect();
    let mut is_in_baseline = || {
        let text = ask(&mut client, "web.test", "X-User: alice\r\n").text();
        assert!(text.ends_with("blue evenkeel.lane=blue"), "{text}");
        text.starts_with("web-base")
    };
    // A connection that is still open may serve for a moment.
    until("the end of the last connection to blue", || is_in_baseline().then_some(()));
    assert!((0..10).all(|_| is_in_baseline()));
    assert!(mesh.gateway.metric("evenkeel_lane_fallbacks_total{lane=\"blue\"") >= 1.0);
}

#[test]
fn a_share_of_clients_stays_where_it_is_and_gets_a_cookie_for_it() {
    let canary = |percent: u32| {
        format!(
            "  - name: blue\n    selector: {{lane: blue}}\n    percentage: {percent}\n    \
             stickyBy: {{cookie: sid, onMissing: issue, salt: x}}\n    capacityGuard: false"
        )
    };
    let mesh = mesh(&[("web", &["base", "blue"])], &canary(30), "permissive");
    let mut client = mesh.gateway.connect();
    let mut in_lane = 0;
    for _ in 0..200 {
        let first = ask(&mut client, "web.test", "");
        let cookie = first.get("set-cookie").expect("a cookie for who has none").to_owned();
        let pair = cookie.split(';').next().expect("a pair");
        assert!(pair.starts_with("sid=") && cookie.contains("HttpOnly"), "{cookie}");
        let again = ask(&mut client, "web.test", &format!("Cookie: {pair}\r\n"));
        assert_eq!((again.text(), again.get("set-cookie")), (first.text(), None));
        in_lane += usize::from(first.text().starts_with("web-blue"));
    }
    assert!((35..=85).contains(&in_lane), "{in_lane} of 200 are 30 %");
}

#[test]
fn a_lane_is_never_given_more_than_it_bears() {
    let canary = "  - name: blue\n    selector: {lane: blue}\n    percentage: 100\n    \
                  stickyBy: {header: x-user, onMissing: random}\n    capacityGuard: true";
    let mesh = mesh(&[("web", &["base", "base", "base", "blue"])], canary, "permissive");
    let mut client = mesh.gateway.connect();
    let of_user = |client: &mut Peer, user: u32| ask(client, "web.test", &format!("X-User: {user}\r\n")).text();
    let in_lane = (0..400).filter(|user| of_user(&mut client, *user).starts_with("web-blue")).count();
    assert!((60..=140).contains(&in_lane), "{in_lane} of 400, and one of four instances");
}

#[test]
fn a_group_in_shadow_decides_and_moves_nobody() {
    let services: Instances<'_> = &[("web", &["base", "blue", "green"]), ("cart", &["base"])];
    let listener =
        |name: &str| format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: {name}}}");
    let next = format!(
        "---\napiVersion: evenkeel.dev/v1alpha1\nkind: LaneGroup\nmetadata: {{name: next}}\nspec:\n  \
         mode: shadow\n  entries: [{}]\n  internal: [{}]\n  isolation: strict\n  tag: {{header: x-next, baggage: next}}\n  lanes:\n  \
         - name: green\n    selector: {{lane: green}}\n    match:\n    - headers: [{{name: x-user, value: bob}}]\n  \
         - name: blue\n    selector: {{lane: blue}}\n    percentage: 50\n    \
         stickyBy: {{header: x-key}}\n    capacityGuard: false\n",
        listener("edge"),
        listener("inside")
    );
    let mesh = mesh_at(free_port(), services, BLUE, "permissive", &next, &["--access-log", "-"]);
    let mut client = mesh.gateway.connect();
    // Who asks, who answers and what that was told: as without the group in shadow.
    for (host, fields, expected) in [
        ("web.test", "", "web-base - -"),
        ("web.test", "X-User: bob\r\n", "web-base - -"),
        ("web.test", "X-User: alice\r\n", "web-blue blue evenkeel.lane=blue"),
        ("cart.test", "X-User: bob\r\n", "cart-base - -"),
        // Its tag is nobody's: it stays, and a condition behind it is judged without.
        ("web.test", "X-User: bob\r\nBaggage: next=blue,k=v\r\n", "web-base - next=blue,k=v"),
    ] {
        let answer = ask(&mut client, host, fields);
        assert_eq!((answer.text().as_str(), answer.get("set-cookie")), (expected, None), "{fields:?}");
    }
    let lanes = |gateway: &Gateway| gateway.policy("LaneGroup default/next")["lanes"].clone();
    assert_eq!(lanes(&mesh.gateway), serde_json::json!({"-": 2, "blue": 0, "green": 3}));
    let fallbacks = &mesh.gateway.policy("LaneGroup default/next")["fallbacks"];
    let fallback =
        serde_json::json!([{"lane": "green", "cluster": "default/cart:80", "reason": "refused", "requests": 1}]);
    assert_eq!(*fallbacks, fallback, "strict, and no green cart");
    // What is explained is counted nowhere, and says the same.
    let question = "GET / HTTP/1.1\r\nHost: cart.test\r\nX-User: bob\r\n\r\n";
    let told = mesh.gateway.post(&format!("/explain?port={}", mesh.gateway.address().port()), question);
    let told: serde_json::Value = serde_json::from_str(&told.expect("an answer").text()).expect("JSON");
    assert_eq!(
        told["policies"],
        serde_json::json!([{"policy": "LaneGroup default/next", "mode": "shadow", "verdict": "lane", "lane": "green", "fallback": "refused"}])
    );
    assert_eq!((&told["lane"], &told["answer"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    // Inside the tag is read as it came.
    let mut caller = Peer::connect(mesh.inside);
    assert_eq!(ask(&mut caller, "web.test", "X-Next: green\r\n").text(), "web-base - -");
    // Half of the clients, the same ones each time.
    let count = |gateway: &Gateway| lanes(gateway)["blue"].as_u64().expect("a count");
    let by_key: Vec<bool> = (0..100)
        .map(|key| {
            let before = count(&mesh.gateway);
            ask(&mut client, "web.test", &format!("X-Key: {key}\r\n"));
            count(&mesh.gateway) > before
        })
        .collect();
    let in_lane = by_key.iter().filter(|is_in| **is_in).count();
    assert!((30..=70).contains(&in_lane), "{in_lane} of 100 are a half");
    for (key, is_in) in by_key.iter().enumerate().take(20) {
        let before = count(&mesh.gateway);
        assert!(ask(&mut client, "web.test", &format!("X-Key: {key}\r\n")).text().starts_with("web-base"));
        assert_eq!(count(&mesh.gateway) > before, *is_in, "{key}");
    }
    let line = "evenkeel_shadow_lanes_total{policy=\"LaneGroup default/next\",lane=\"green\"}";
    assert_eq!(mesh.gateway.metric(line), 4.0);
    let of_fallbacks = "evenkeel_shadow_lane_fallbacks_total{policy=\"LaneGroup default/next\",lane=\"green\",\
                        cluster=\"default/cart:80\",reason=\"refused\"}";
    assert_eq!(mesh.gateway.metric(of_fallbacks), 1.0);
    assert!(!mesh.gateway.metrics().contains("response_flags=\"NL\""));
    until("the log", || {
        let log = mesh.gateway.stdout();
        log.lines().find(|line| line.contains("\"shadow\":[\"LaneGroup default/next: lane green\"]")).map(|_| ())
    });
}
