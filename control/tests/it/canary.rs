//! Changes of rules that some proxies try before all others: three gateways, of which one does.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Launch, Peer, Scratch, free_port, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::Control;

const GATEWAYS: usize = 3;

/// A control server, three gateways that share a route, and what they send to.
struct Mesh {
    folder: Scratch,
    control: Control,
    gateways: Vec<Gateway>,
    ports: Vec<u16>,
    one: Backend,
    two: Backend,
}

fn backend(status: &str, word: &str) -> Backend {
    Backend::canned(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{word}", word.len()))
}

impl Mesh {
    /// All of them send to `one`.
    fn start() -> Mesh {
        let folder = Scratch::create("canary").expect("a folder");
        let control = Control::start(&folder);
        let named = |number: usize| Launch::named(control.xds, &format!("default/g{number}")).spawn();
        let gateways = (0..GATEWAYS).map(named).collect();
        let ports = (0..GATEWAYS).map(|_| free_port()).collect();
        let mut mesh =
            Mesh { folder, control, gateways, ports, one: backend("200 OK", "one"), two: backend("200 OK", "two") };
        until("three gateways", || (mesh.proxies().len() == GATEWAYS).then_some(()));
        let documents = [
            mesh.listening(&mesh.ports),
            mesh.route("one"),
            mesh.service("one", mesh.one.address()),
            mesh.service("two", mesh.two.address()),
        ];
        mesh.control.apply(&documents.join("\n---\n"));
        assert_eq!(mesh.wait(1)["outcome"], "inForce");
        assert_eq!(mesh.answers(), ["one"; GATEWAYS]);
        mesh.ports.shrink_to_fit();
        mesh
    }

    fn listening(&self, ports: &[u16]) -> String {
        let gateway = |(number, port): (usize, &u16)| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g{number}}}, spec: \
                 {{gatewayClassName: evenkeel, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}}}"
            )
        };
        ports.iter().enumerate().map(gateway).collect::<Vec<_>>().join("\n---\n")
    }

    fn route(&self, service: &str) -> String {
        let parents: Vec<String> = (0..GATEWAYS).map(|number| format!("{{name: g{number}}}")).collect();
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{}], \
             rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]}}}}",
            parents.join(", ")
        )
    }

    fn service(&self, name: &str, instance: SocketAddr) -> String {
        format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{name: http, \
             port: 80}}], endpoints: [{{address: {}, ports: {{http: {}}}}}]}}}}",
            instance.ip(),
            instance.port()
        )
    }

    fn proxies(&self) -> Vec<Value> {
        let (_, told) = self.control.ask("GET /api/v1/proxies", "", "");
        told["proxies"].as_array().cloned().unwrap_or_default()
    }

    fn wait(&self, revision: u64) -> Value {
        self.control.ask(&format!("GET /api/v1/wait?revision={revision}&timeout=30s"), "", "").1
    }

    /// Applies something that one of them tries.
    fn try_out(&self, bake: &str, documents: &str) -> u64 {
        let start = format!("POST /api/v1/objects?canary=1&bake={bake}");
        let (status, answer) = self.control.ask(&start, "", documents);
        assert_eq!(status, 200, "{answer}");
        answer["revision"].as_u64().expect("a number")
    }

    /// Who tries it, as soon as it is in force there.
    fn canary(&self) -> usize {
        let told = || self.control.ask("GET /api/v1/canary", "", "").1["canary"].clone();
        let (told, _) = until("a canary that has it", || Some(told()).filter(|told| told["on"] == 1));
        assert_eq!((&told["tries"].as_array().map(Vec::len), &told["of"]), (&Some(1), &GATEWAYS.into()), "{told}");
        let id = told["tries"][0].as_str().expect("a name");
        id.strip_prefix("default/g").and_then(|rest| rest.split('@').next()?.parse().ok()).expect("one of ours")
    }

    fn answer(&self, number: usize) -> String {
        let mut client = Peer::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[number])));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read().map_or_else(|ended| format!("{ended:?}"), |answer| answer.text())
    }

    fn answers(&self) -> Vec<String> {
        (0..GATEWAYS).map(|number| self.answer(number)).collect()
    }

    /// What the canary answers, and all others.
    fn check(&self, canary: usize, expected: [&str; 2]) {
        for (number, answer) in self.answers().iter().enumerate() {
            assert_eq!(answer, expected[usize::from(number != canary)], "{number}, the canary is {canary}");
        }
    }
}

#[test]
fn one_tries_it_then_all_have_it() {
    let mesh = Mesh::start();
    let revision = mesh.try_out("1s", &mesh.route("two"));
    let canary = mesh.canary();
    mesh.check(canary, ["two", "one"]);
    for proxy in mesh.proxies() {
        let is_canary = proxy["id"].as_str().is_some_and(|id| id.starts_with(&format!("default/g{canary}@")));
        let expected = if is_canary { revision } else { revision - 1 };
        assert_eq!((&proxy["inForce"], &proxy["canary"]), (&expected.into(), &is_canary.into()), "{proxy}");
    }
    let waited = mesh.wait(revision);
    assert_eq!((&waited["outcome"], &waited["on"], &waited["of"]), (&"inForce".into(), &3.into(), &3.into()));
    assert!(waited["milliseconds"].as_u64().is_some_and(|time| time >= 1_000), "{waited}");
    assert_eq!(mesh.answers(), ["two"; GATEWAYS]);
    let (_, history) = mesh.control.ask("GET /api/v1/history?count=1", "", "");
    let last = &history["revisions"][0];
    assert_eq!((&last["author"], &last["revision"]), (&"control".into(), &(revision + 1).into()));
    let expected =
        format!("canary: revision {revision} is promoted: in force on 1 proxy for 1.0 s, too few requests to tell (");
    assert!(last["message"].as_str().is_some_and(|message| message.starts_with(&expected)), "{last}");
    assert_eq!(mesh.control.ask("GET /api/v1/canary", "", "").1["canary"], Value::Null);
    assert!(mesh.proxies().iter().all(|proxy| proxy["inForce"] == revision + 1 && proxy["canary"] == false));
}

#[test]
fn what_the_canary_refuses_nobody_else_sees() {
    let mesh = Mesh::start();
    let taken: Vec<TcpListener> =
        (0..GATEWAYS).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
    let ports: Vec<u16> = taken.iter().map(|one| one.local_addr().expect("it listens").port()).collect();
    let revision = mesh.try_out("30s", &mesh.listening(&ports));
    let waited = mesh.wait(revision);
    assert_eq!((&waited["outcome"], &waited["by"]), (&"takenBack".into(), &"control".into()), "{waited}");
    assert!(waited["why"].as_str().is_some_and(|why| why.contains("cannot listen on")), "{waited}");
    let back = waited["backAt"].as_u64().expect("a revision");
    assert_eq!(mesh.wait(back)["outcome"], "inForce");
    let refusing = mesh.gateways.iter().filter(|gateway| gateway.stderr().contains("cannot listen on")).count();
    assert_eq!(refusing, 1, "one tried it");
    assert!(mesh.proxies().iter().all(|proxy| proxy["refused"] == Value::Array(Vec::new())));
    assert_eq!(mesh.answers(), ["one"; GATEWAYS]);
    let (_, gateway) = mesh.control.ask("GET /api/v1/objects/Gateway/default/g0", "", "");
    assert_eq!(gateway["object"]["spec"]["listeners"][0]["port"], mesh.ports[0], "as it was");
}

#[test]
fn one_that_hangs_has_not_shown_that_it_is_good() {
    let mesh = Mesh::start();
    let revision = mesh.try_out("1s", &mesh.route("two"));
    let canary = mesh.canary();
    mesh.gateways[canary].signal(Signal::STOP);
    let waited = mesh.wait(revision);
    mesh.gateways[canary].signal(Signal::CONT);
    assert_eq!(waited["outcome"], "takenBack", "{waited}");
    assert!(waited["why"].as_str().is_some_and(|why| why.contains("who tried it has gone")), "{waited}");
    until("all as before", || (mesh.answers() == ["one"; GATEWAYS]).then_some(()));
}

#[test]
fn where_requests_fail_it_is_taken_back() {
    let mesh = Mesh::start();
    let ill = backend("500 Internal Server Error", "ill");
    mesh.control.apply(&mesh.service("two", ill.address()));
    let revision = mesh.try_out("10m", &mesh.route("two"));
    let canary = mesh.canary();
    mesh.check(canary, ["ill", "one"]);
    let began = Instant::now();
    let (waited, _) = until("the end of the trial", || {
        mesh.answers();
        let start = format!("GET /api/v1/wait?revision={revision}&timeout=10ms");
        Some(mesh.control.ask(&start, "", "").1).filter(|told| told["outcome"] == "takenBack")
    });
    let why = waited["why"].as_str().unwrap_or_default();
    assert!(
        why.contains(&format!("canary: revision {revision} is taken back: requests fail where it is tried: ")),
        "{why}"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(mesh.wait(waited["backAt"].as_u64().expect("a revision"))["outcome"], "inForce");
    assert_eq!(mesh.answers(), ["one"; GATEWAYS]);
}

#[test]
fn endpoints_pass_while_rules_wait() {
    let mesh = Mesh::start();
    let three = backend("200 OK", "three");
    let revision = mesh.try_out("10m", &mesh.route("two"));
    // Where it is in force is told as it is.
    let status = || mesh.control.ask("GET /api/v1/objects/HTTPRoute/default/r/status", "", "").1;
    until("one that has it", || (status()["applied"]["on"] == 1).then_some(()));
    let told = status();
    assert_eq!((&told["applied"]["of"], &told["onTrial"]), (&3.into(), &revision.into()), "{told}");
    let canary = mesh.canary();
    // Of a Service that nobody else uses so far, and of one that they use.
    let moved = mesh.control.apply(&mesh.service("one", three.address()));
    assert_eq!(mesh.wait(moved)["outcome"], "inForce");
    mesh.check(canary, ["two", "three"]);
    let moved = mesh.control.apply(&mesh.service("two", three.address()));
    assert_eq!(mesh.wait(moved)["outcome"], "inForce");
    mesh.check(canary, ["three", "three"]);
    let moved = mesh.control.apply(&mesh.service("one", mesh.one.address()));
    assert_eq!(mesh.wait(moved)["outcome"], "inForce");

    let json = "Content-Type: application/json\r\n";
    let route = mesh.route("one");
    let limit = r#"{"requestsPerSecond": 100, "for": "1h"}"#;
    let late = format!("GET /api/v1/wait?revision={revision}&timeout=10ms");
    let promote_another = "POST /api/v1/canary/promote?revision=1";
    // What is asked, its status, and what the answer says somewhere.
    for (start, headers, body, status, words) in [
        (&*late, "", "", 200, r#""outcome":"onTrial""#),
        ("POST /api/v1/objects", "", &*route, 409, "revision 2 of local is on trial: promote it"),
        ("POST /api/v1/objects?canary=1", "", &route, 409, "evenkeel canary end"),
        ("POST /api/v1/objects?dryRun=true", "", &route, 200, "is on trial"),
        ("POST /api/v1/rollback?revision=1", "", "", 409, "is on trial"),
        ("DELETE /api/v1/objects/HTTPRoute/default/r", "", "", 409, "is on trial"),
        ("POST /api/v1/objects?canary=some", "", &route, 400, "is not a number of proxies such as 2, or 10%"),
        ("POST /api/v1/objects?canary=0", "", &route, 400, "is not a number"),
        ("POST /api/v1/objects?canary=101%25", "", &route, 400, "is not a number"),
        ("POST /api/v1/objects?canary=1&bake=long", "", &route, 400, "bake"),
        ("POST /api/v1/objects?bake=1s", "", &route, 400, "bake is for a canary"),
        (promote_another, "", "", 404, "nothing is on trial"),
        ("GET /api/v1/status", "", "", 200, r#""canary":{"#),
        ("PUT /api/v1/emergency/limits/default/one", json, limit, 200, "emergency-one"),
        ("PUT /api/v1/emergency/limits/default/one?canary=1", json, limit, 400, "to everybody at once"),
    ] {
        let (seen, answer) = mesh.control.ask(start, headers, body);
        let text = answer.to_string();
        assert!(seen == status && text.contains(words), "{start} {body}: {seen} {text}");
    }
    let (_, told) = mesh.control.ask("GET /api/v1/wait", "", "");
    assert_eq!((&told["outcome"], &told["canary"]["revision"]), (&"inForce".into(), &revision.into()), "{told}");
    mesh.check(canary, ["three", "one"]);

    // What is taken back by hand is as it was, and what others did meanwhile stays.
    let (status, ended) = mesh.control.ask("POST /api/v1/canary/end?message=enough", "", "");
    assert_eq!((status, &ended["outcome"]), (200, &"takenBack".into()), "{ended}");
    assert_eq!(mesh.wait(revision)["why"], format!("canary: revision {revision} is taken back: enough"));
    assert_eq!(mesh.wait(ended["revision"].as_u64().expect("a number"))["outcome"], "inForce");
    assert_eq!(mesh.answers(), ["one"; GATEWAYS]);
    let (_, limits) = mesh.control.ask("GET /api/v1/emergency/limits", "", "");
    assert_eq!(limits["limits"].as_array().map(Vec::len), Some(1), "{limits}");
    // Or promoted, before its time.
    let revision = mesh.try_out("10m", &mesh.route("two"));
    mesh.canary();
    let (status, ended) = mesh.control.ask("POST /api/v1/canary/promote", "", "");
    assert_eq!((status, &ended["outcome"]), (200, &"promoted".into()), "{ended}");
    assert_eq!(mesh.wait(revision)["outcome"], "inForce");
    assert_eq!(mesh.answers(), ["three"; GATEWAYS]);
    assert_eq!(mesh.control.ask("POST /api/v1/canary/promote", "", "").0, 404);
}

#[test]
fn what_was_not_promoted_is_nobodys_after_a_restart() {
    let mesh = Mesh::start();
    let revision = mesh.try_out("10m", &mesh.route("two"));
    let canary = mesh.canary();
    mesh.check(canary, ["two", "one"]);
    let Mesh { folder, control, gateways, ports, one, two } = mesh;
    let places = [control.address, control.xds];
    control.kill();
    let control = Control::start_at(&folder, places);
    let mesh = Mesh { folder, control, gateways, ports, one, two };
    let waited = mesh.wait(revision);
    assert_eq!(waited["outcome"], "takenBack", "{waited}");
    assert!(waited["why"].as_str().is_some_and(|why| why.contains("control was started anew")), "{waited}");
    until("three gateways", || (mesh.proxies().len() == GATEWAYS).then_some(()));
    assert_eq!(mesh.wait(waited["backAt"].as_u64().expect("a revision"))["outcome"], "inForce");
    assert_eq!(mesh.answers(), ["one"; GATEWAYS]);
    for number in (0..GATEWAYS).filter(|number| *number != canary) {
        assert_eq!(mesh.two.requests().len(), 1, "only the canary's");
        assert!(!mesh.gateways[number].stderr().contains("cannot"), "{number}");
    }
}

#[test]
fn a_canary_that_dies_takes_its_change_with_it() {
    let mut mesh = Mesh::start();
    let revision = mesh.try_out("10m", &mesh.route("two"));
    let canary = mesh.canary();
    drop(mesh.gateways.remove(canary));
    let waited = mesh.wait(revision);
    assert_eq!(waited["outcome"], "takenBack", "{waited}");
    assert!(waited["why"].as_str().is_some_and(|why| why.contains("who tried it has gone: default/g")), "{waited}");
}
