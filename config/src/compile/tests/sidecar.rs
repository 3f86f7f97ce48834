//! A Service's proxy beside one of its instances: the names by which its calls find Services, the routes that they meet
//! there, the policies of both ways, and lanes.

use super::*;
use crate::reader::{Origin, Reader};
use crate::sidecar::{Called, Sidecar};
use crate::snapshot::lanes::LaneRole;

/// Beside an instance of `web` that has these labels.
fn beside(labels: &[(&str, &str)]) -> Sidecar {
    let address = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    Sidecar {
        namespace: "default".into(),
        service: "web".into(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        app: address(8080),
        inbound: address(15006),
        outbound: address(15001),
    }
}

fn service(metadata: &str, ports: &[u16]) -> String {
    let listed = |shown: fn(&u16) -> String| ports.iter().map(shown).collect::<Vec<_>>().join(", ");
    format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{{metadata}}}, spec: {{ports: [{}], \
         endpoints: [{{address: 10.0.0.1, ports: {{{}}}}}]}}}}\n",
        listed(|port| format!("{{name: p{port}, port: {port}}}")),
        listed(|port| format!("p{port}: {port}"))
    )
}

fn policy(kind: &str, name: &str, target: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: \
         {{targetRefs: [{target}], {spec}}}}}\n"
    )
}

/// Services `web` at 80, `cart` at 8000 and 80, `pay` of another namespace at 9000 and 9001.
fn shop() -> String {
    [
        service("name: web", &[80]),
        service("name: cart", &[8000, 80]),
        service("name: pay, namespace: far", &[9000, 9001]),
    ]
    .concat()
}

fn read_beside(labels: &[(&str, &str)], documents: &str) -> Checked {
    let source = Source { name: "rules.yaml".into(), bytes: documents.as_bytes().to_vec() };
    let read = Reader::default().beside(beside(labels)).read(&[source]);
    read.unwrap_or_else(|problems| panic!("{problems:#?}\n{documents}"))
}

/// What calls meet.
fn check_calls(documents: &str, rows: &[(&str, &str)]) {
    let snapshot = read_beside(&[], &format!("{}{documents}", shop())).snapshot;
    let [outbound, inbound] = &snapshot.binds[..] else { panic!("two addresses") };
    assert_eq!((&*outbound.name, &*inbound.name), ("default/web/outbound", "default/web/inbound"));
    for (line, expected) in rows {
        assert_eq!(describe(&snapshot, outbound, line), *expected, "{line}\n{documents}");
    }
    assert_eq!(describe(&snapshot, inbound, "GET any.test/x"), "web/inbound web=1");
}

#[test]
fn a_service_is_called_by_its_names() {
    check_calls(
        "",
        &[
            ("GET web/", "web:80 web=1"),
            ("GET cart/", "cart:80 cart=1"),
            ("GET cart:80/", "cart:80 cart=1"),
            ("GET cart:8000/x", "cart:8000 cart=1"),
            ("GET cart:81/", "404"),
            ("GET cart.default/", "cart:80 cart=1"),
            ("GET cart.default.svc:8000/", "cart:8000 cart=1"),
            ("GET cart.default.svc.cluster.local/", "cart:80 cart=1"),
            // Of another namespace only by its whole name; its first port is meant.
            ("GET pay/", "404"),
            ("GET pay.far/", "far/pay:9000 pay=1"),
            ("GET pay.far.svc:9001/", "far/pay:9001 pay=1"),
            ("GET www.example.com/", "404"),
        ],
    );
}

#[test]
fn routes_of_a_service_are_for_its_callers() {
    let to_service = |more: &str| format!("parentRefs: [{{group: '', kind: Service, name: cart{more}}}]");
    let to = |name: &str, spec: &str, port: &str| {
        route(name, &format!("{spec}, rules: [{{{port}backendRefs: [{{name: web, port: 80}}]}}]"))
    };
    let beta = "matches: [{headers: [{name: x-beta, value: '1'}]}], ";
    check_calls(
        &to("name: r", &to_service(""), beta),
        // There is no way around the routes.
        &[
            ("GET cart/  x-beta: 1", "r/0 web=1"),
            ("GET cart:8000/  x-beta: 1", "r/0 web=1"),
            ("GET cart/", "404"),
            ("GET web/", "web:80 web=1"),
        ],
    );
    check_calls(
        &to("name: r", &to_service(", port: 8000"), ""),
        &[("GET cart:8000/", "r/0 web=1"), ("GET cart/", "cart:80 cart=1")],
    );
    // One that serves a Gateway, too.
    let both = "parentRefs: [{name: shop}, {group: '', kind: Service, name: a}]";
    let documents = format!("{BASE}{}{}", shop(), to("name: r", both, ""));
    let snapshot = read_beside(&[], &documents).snapshot;
    assert_eq!(describe(&snapshot, &snapshot.binds[0], "GET a/"), "r/0 web=1");
    assert_eq!(snapshot.binds.len(), 2, "a Gateway is somebody else's");
    // The same documents at the Gateway.
    let snapshot = checked(&format!("{}{}", shop(), to("name: r", both, ""))).snapshot;
    assert_eq!(describe(&snapshot, &snapshot.binds[0], "GET a/"), "r/0 web=1");
}

#[test]
fn parents_that_are_services_are_looked_at_everywhere() {
    let route = |parent: &str, more: &str| {
        route("name: r", &format!("parentRefs: [{{group: '', kind: Service, {parent}}}], {more}rules: [{{{TO_A}}}]"))
    };
    for (documents, expected) in [
        (route("name: none", ""), "spec.parentRefs[0]: there is no Service default/none"),
        (route("name: a, port: 81", ""), "spec.parentRefs[0]: Service default/a has no port 81"),
        (
            route("name: a", "hostnames: [a.test], "),
            "spec.hostnames: says nothing to callers of Service default/a, who name it",
        ),
        (
            format!("{}{}", route("name: a", ""), route("name: a", "").replace("name: r}", "name: s}")),
            "spec.rules[0]: is never met on any host: rule default/r/0, at rules.yaml:16, takes its requests before",
        ),
    ] {
        check_warnings(&documents, &[expected]);
    }
    let other = "spec.parentRefs[0].namespace: Service other/far of another namespace as a parent is not enforced by this \
                 build (whoever owns the Service says what its callers meet)";
    check_errors(&route("name: far, namespace: other", ""), &[other]);
}

#[test]
fn limits_protect_the_instance_and_callers_meet_everything() {
    let target = "{group: '', kind: Service, name: web}";
    let documents = [
        shop(),
        policy("RateLimit", "rate", target, "limits: [{requests: 1, per: 1s}]"),
        policy("RateLimit", "tried", target, "mode: shadow, limits: [{requests: 1, per: 1s}]"),
        policy("ConcurrencyLimit", "at-once", target, "limit: {fixed: 1}"),
        policy("CircuitBreaker", "breaker", target, "errors: {ratio: 0.5}"),
        policy("FaultInjection", "fault", target, "abort: {percentage: 100, status: 500}"),
        policy("TrafficPolicy", "traffic", target, "timeouts: {firstByte: 1s}, retries: {attempts: 5, on: [reset]}"),
        route(
            "name: r",
            "parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: web, port: 80}]}]",
        ),
        policy(
            "RateLimit",
            "callers",
            "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}",
            "limits: [{requests: 1, per: 1s}]",
        ),
    ];
    let snapshot = read_beside(&[], &documents.concat()).snapshot;
    let cluster = |name: &str| snapshot.clusters.iter().find(|cluster| &*cluster.name == name).expect("it is used");
    let keys = |name: &str| {
        let keys: Vec<&str> = cluster(name).policies.iter().map(|policy| &*policy.state_key).collect();
        keys.join(", ")
    };
    assert_eq!(
        keys("default/web:app"),
        "RateLimit default/rate at inbound, RateLimit default/tried at inbound, \
         ConcurrencyLimit default/at-once on Service default/web at inbound"
    );
    assert_eq!(
        keys("default/web:80"),
        "RateLimit default/rate, RateLimit default/tried, CircuitBreaker default/breaker on Service default/web, \
         ConcurrencyLimit default/at-once on Service default/web, FaultInjection default/fault on Service default/web"
    );
    let (app, web) = (cluster("default/web:app"), cluster("default/web:80"));
    assert_eq!((app.settings.retries.attempts, web.settings.retries.attempts), (0, 5));
    assert!(app.settings.first_byte_timeout > web.settings.first_byte_timeout);
    let call = snapshot.binds[0].table.find(&request("GET cart/")).expect("the rule takes everything");
    assert_eq!(call.rule.policies.len(), 1);
    assert!(snapshot.binds.iter().all(|bind| bind.settings.client_address == ClientAddress::Kept));
}

#[test]
fn lanes_are_believed_and_calls_begin_in_the_own_one() {
    let group = |metadata: &str, lanes: &str| {
        format!(
            "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {{{metadata}}}, spec: {{lanes: [{lanes}]}}}}\n"
        )
    };
    let lane = |name: &str| format!("{{name: {name}, selector: {{lane: {name}}}}}");
    let documents = [
        shop(),
        group("name: a", &lane("red")),
        group("name: b", &format!("{}, {{name: blue, selector: {{lane: blue, version: v2}}}}", lane("green"))),
        group("name: none", ""),
        group("name: c, namespace: far", &lane("blue")),
        group("name: tried", &lane("next")).replace("lanes: [", "mode: shadow, lanes: ["),
    ];
    for (labels, expected, in_shadow) in [
        (&[][..], "a b -", "tried -"),
        (&[("lane", "green")], "a b green", "tried -"),
        (&[("lane", "blue")], "a b -", "tried -"),
        (&[("lane", "blue"), ("version", "v2")], "a b blue", "tried -"),
        (&[("lane", "next")], "a b -", "tried next"),
    ] {
        let snapshot = read_beside(labels, &documents.concat()).snapshot;
        let shown = |role: &LaneRole| {
            let (LaneRole::Call { groups, own } | LaneRole::Inherit { groups, own }) = role else { panic!("{role:?}") };
            let own = own.map_or("-", |(group, lane)| &groups[group].lanes[lane].name);
            let names = groups.iter().map(|group| group.name.trim_start_matches("default/"));
            names.chain([own]).collect::<Vec<_>>().join(" ")
        };
        let [outbound, inbound] = &snapshot.binds[..] else { panic!("two addresses") };
        assert_eq!(shown(&outbound.lanes), expected, "{labels:?}");
        assert_eq!(shown(&outbound.shadow_lanes), in_shadow, "{labels:?}");
        assert!(matches!(inbound.lanes, LaneRole::Inherit { .. }), "{:?}", inbound.lanes);
        assert_eq!(shown(&inbound.lanes), expected, "{labels:?}");
        // The instance takes what comes, of whichever lane.
        let app = snapshot.clusters.iter().find(|cluster| &*cluster.name == "default/web:app").expect("it is there");
        let lanes = app.groups.iter().map(|group| (group.lane.as_deref().unwrap_or("-"), group.members.len()));
        assert_eq!(lanes.collect::<Vec<_>>(), [("-", 1), ("red", 1), ("green", 1), ("blue", 1)]);
    }
}

#[test]
fn files_know_whom_it_stands_beside() {
    let documents = service("name: cart", &[80]);
    let source = Source { name: "rules.yaml".into(), bytes: documents.clone().into_bytes() };
    let problems = Reader::default().beside(beside(&[])).read(&[source]).expect_err("a Service is missing");
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["--service: there is no Service default/web in these files"]);
}

#[test]
fn of_what_control_sends_only_what_is_asked_for_is_called() {
    let to_both = "targetRefs: [{group: '', kind: Service, name: web}, {group: '', kind: Service, name: elsewhere}]";
    let documents = format!(
        "{}---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: p}}, spec: {{{to_both}}}}}\n",
        shop()
    );
    let source = Source { name: "rules.yaml".into(), bytes: documents.into_bytes() };
    // A gateway, too, has only those that it sends to.
    let of_gateway = Reader::new(Origin::Control).read(std::slice::from_ref(&source)).expect("it can be used");
    assert_eq!(of_gateway.warnings, [], "what is elsewhere is there for others");
    let mut reader = Reader::new(Origin::Control).beside(beside(&[]));
    for (called, expected) in [
        (&[][..], ["404", "404"]),
        (&["web"], ["web:80 web=1", "404"]),
        (&["web", "cart"], ["web:80 web=1", "cart:80 cart=1"]),
    ] {
        reader.calls(called.iter().map(|name| ("default".into(), (*name).into())).collect::<Called>());
        let checked = reader.read(std::slice::from_ref(&source)).expect("it can be used");
        assert_eq!(checked.warnings, [], "what is elsewhere is there for others");
        let outbound = &checked.snapshot.binds[0];
        assert_eq!(["GET web/", "GET cart/"].map(|line| describe(&checked.snapshot, outbound, line)), expected);
        assert_eq!(outbound.table.has_service(b"cart"), called.contains(&"cart"));
    }
}
