//! The control server as a process: what it is told it checks, keeps over its own death, and tells again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use e2e::kit::{Backend, Gateway, Launch, Peer, Rules, Scratch, Subscriber, Took, free_port, until};
use serde_json::Value;

use crate::server::{Control, gateway, service};

const A: &str = "/api/v1/objects/Service/default/a";

#[test]
fn documents_are_checked_kept_and_told() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let two = format!("{}\n---\n{}", service("a", 80), service("b", 80));
    let patch = r#"{"spec": {"ports": [{"name": "http", "port": 82}]}}"#;
    let json = "Content-Type: application/json\r\n";
    let grantless = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: x}, \
                     spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: a, namespace: default, port: 80}]}]}}";
    let policy = |section: &str| {
        let target = |name: &str, section: &str| {
            format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}, sectionName: {section}}}")
        };
        let targets = [target("g", "http"), target("h", section)].join(", ");
        format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: ListenerPolicy, metadata: {{name: p}}, spec: {{targetRefs: \
             [{targets}], maxConnections: 9}}}}"
        )
    };
    // What is asked, its status, and what the answer says somewhere.
    for (start, headers, body, status, words) in [
        ("GET /api/v1/objects", "", "", 200, r#"{"objects":[],"revision":0}"#),
        ("GET /elsewhere", "", "", 404, "below /api/v1"),
        (&format!("GET {A}"), "", "", 404, "there is no Service/default/a"),
        ("POST /api/v1/objects?dryRun=true", "", &two, 200, r#""dryRun":true,"revision":1"#),
        ("GET /api/v1/objects", "", "", 200, r#""revision":0"#),
        ("POST /api/v1/objects?message=first", "", &two, 200, r#""change":"created""#),
        (&format!("GET {A}"), "", "", 200, r#""revision":1"#),
        // All that is wrong, with its place, and nothing of it is kept.
        (
            "POST /api/v1/objects",
            "",
            &format!("{}\n---\nkind: Servise\n---\n- 1", service("c", 80)),
            422,
            r#""line":3"#,
        ),
        ("GET /api/v1/objects/Service/default/c", "", "", 404, "there is no"),
        ("POST /api/v1/objects", "", grantless, 422, "ReferenceGrant"),
        ("POST /api/v1/objects", "", "", 422, "there is no document in it"),
        // Gateways are processes of their own, and may listen on the same port.
        (
            "POST /api/v1/objects?dryRun=true",
            "",
            &[gateway("g"), gateway("h")].join("\n---\n"),
            200,
            "Gateway/default/h",
        ),
        // Nor is what belongs to another of them missing.
        (
            "POST /api/v1/objects?dryRun=true",
            "",
            &[gateway("g"), gateway("h"), policy("http")].join("\n---\n"),
            200,
            r#""object":"ListenerPolicy/default/p","warnings":[]"#,
        ),
        (
            "POST /api/v1/objects?dryRun=true",
            "",
            &[gateway("g"), gateway("h"), policy("none")].join("\n---\n"),
            200,
            r#"there is no Gateway default/h with a listener \"none\""#,
        ),
        // Who believes what is no longer so.
        (&format!("PUT {A}"), "If-Match: \"9\"\r\n", &service("a", 81), 409, "it is at revision 1"),
        (&format!("PUT {A}"), "If-None-Match: *\r\n", &service("a", 81), 409, "it is at revision 1"),
        ("POST /api/v1/objects", "If-Match: \"1\"\r\n", &two, 400, "if-match is for one document"),
        ("POST /api/v1/rollback?revision=1&kind=Foo", "", "", 400, "\\\"Foo\\\" is no kind of document"),
        (&format!("PUT {A}"), "If-Match: one\r\n", &service("a", 81), 400, "is no revision"),
        (&format!("PUT {A}"), "If-Match: \"1\"\r\n", &service("b", 81), 422, "the path says Service/default/a"),
        (
            &format!("PUT {A}"),
            "If-Match: \"1\"\r\n",
            &service("a", 81),
            200,
            r#""after":81,"before":80,"field":"spec.ports[0].port""#,
        ),
        (&format!("PUT {A}"), "", &service("a", 81), 200, r#""changes":[],"dryRun":false,"revision":2"#),
        (&format!("PATCH {A}"), &format!("{json}If-Match: \"1\"\r\n"), patch, 409, "it is at revision 2"),
        (&format!("PATCH {A}"), &format!("{json}If-None-Match: *\r\n"), patch, 409, "it is at revision 2"),
        (&format!("PATCH {A}"), &format!("{json}If-Match: \"2\"\r\n"), patch, 200, r#""after":82,"before":81"#),
        (&format!("PATCH {A}"), json, r#"{"metadata": {"name": "z"}}"#, 422, "cannot rename"),
        (&format!("PATCH {A}"), json, r#"{"spec": {"ports": 1}}"#, 422, "spec.ports"),
        ("DELETE /api/v1/objects/Service/default/b", "", "", 200, r#""change":"removed""#),
        ("DELETE /api/v1/objects/Service/default/b", "", "", 404, "there is no"),
        ("GET /api/v1/objects?kind=Service&namespace=other", "", "", 200, r#""objects":[]"#),
        // In the form of all answers, whoever found it.
        ("GET /api/v1/objects?kin=Service", "", "", 400, "unknown field `kin`"),
        ("POST /api/v1/history", "", "", 405, "there is no such method here"),
        (&format!("PATCH {A}"), json, "[1]", 422, "RFC 7396"),
        (
            &format!("PATCH {A}"),
            "Content-Type: text/plain\r\n",
            "{\n{",
            422,
            r#""text":"body:2: key must be a string""#,
        ),
        ("GET /api/v1/history?count=1", "", "", 200, r#""objects":["Service/default/b"],"revision":4"#),
        (&format!("GET {A}/history"), "", "", 200, r#""revision":3"#),
        ("POST /api/v1/rollback?revision=1&dryRun=true", "", "", 200, r#""after":80,"before":82"#),
        ("POST /api/v1/rollback?revision=1", "", "", 200, r#""revision":5"#),
        ("POST /api/v1/rollback?revision=9", "", "", 404, "there is no revision 9 so far; the last one is 5"),
        ("POST /api/v1/rollback", "", "", 400, "which revision"),
        // Nobody is connected: there is nothing to wait for, and nobody who could have it.
        ("GET /api/v1/wait?revision=5&timeout=1s", "", "", 200, r#""of":0,"on":0,"outcome":"inForce""#),
        ("GET /api/v1/wait?revision=9", "", "", 404, "there is no revision 9 so far; the last one is 5"),
        ("GET /api/v1/wait?timeout=soon", "", "", 400, "\\\"soon\\\" is not a time such as 500ms"),
        ("GET /api/v1/wait?timeout=11m", "", "", 400, "10m at most"),
        (&format!("GET {A}/status"), "", "", 200, r#""applied":{"of":0,"on":0}"#),
        ("GET /api/v1/objects/Service/default/z/status", "", "", 404, "there is no Service/default/z"),
        ("GET /api/v1/status?namespace=other", "", "", 200, r#""objects":[],"proxies":0,"revision":5"#),
        ("GET /api/v1/status?kin=Service", "", "", 400, "unknown field `kin`"),
        ("GET /api/v1/status?kind=svc", "", "", 400, "\\\"svc\\\" is no kind of document"),
        ("GET /api/v1/history?count=1", "", "", 200, "back to revision 1"),
    ] {
        let (seen, answer) = control.ask(start, headers, body);
        let text = answer.to_string();
        assert!(seen == status && text.contains(words), "{start} {headers}{body}: {seen} {text}");
    }
}

#[test]
fn what_was_acknowledged_outlives_the_process() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    // Killed while others write: whoever got an answer finds what was written.
    let address = control.address;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            std::thread::spawn(move || {
                let mut acknowledged = Vec::new();
                let mut peer = Peer::connect(address);
                for number in 0..10_000 {
                    let name = format!("w{writer}-{number}");
                    let body = service(&name, 80);
                    let start = format!("PUT /api/v1/objects/Service/default/{name}");
                    peer.send(format!("{start} HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
                    match peer.read() {
                        Ok(answer) if answer.status() == 200 => acknowledged.push(name),
                        _ => return acknowledged,
                    }
                }
                acknowledged
            })
        })
        .collect();
    let count = || control.ask("GET /api/v1/objects", "", "").1["revision"].as_u64().unwrap_or(0);
    until("a hundred revisions", || (count() >= 100).then_some(()));
    control.kill();
    let acknowledged: Vec<String> = writers.into_iter().flat_map(|writer| writer.join().expect("it ends")).collect();
    assert!(acknowledged.len() >= 50, "{}", acknowledged.len());
    let control = Control::start(&folder);
    for name in &acknowledged {
        let (status, _) = control.ask(&format!("GET /api/v1/objects/Service/default/{name}"), "", "");
        assert_eq!(status, 200, "{name} was acknowledged");
    }
    let (_, all) = control.ask("GET /api/v1/objects", "", "");
    let kept = all["objects"].as_array().map_or(0, Vec::len);
    // Each writer may have written one more, whose answer was lost.
    assert!(kept <= acknowledged.len() + 4 && all["revision"] == kept, "{kept} of {}", acknowledged.len());
}

#[test]
fn changes_are_told_as_they_come() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let put = |name: &str| control.ask("POST /api/v1/objects", "", &service(name, 80));
    assert_eq!(put("a").0, 200);
    let mut watcher = Peer::connect(control.address);
    watcher.send("GET /api/v1/watch?revision=0 HTTP/1.1\r\nHost: control\r\n\r\n");
    let head = watcher.read_head().expect("an answer");
    assert_eq!((head.status(), head.get("content-type")), (200, Some("text/event-stream")));
    let mut heard = String::new();
    let mut hear = |words: &str| {
        while !heard.contains(words) {
            heard.push_str(&String::from_utf8_lossy(&watcher.take(1).unwrap_or_else(|_| panic!("{words}: {heard}"))));
        }
    };
    hear("event: change\nid: 1\n");
    hear("Service/default/a");
    assert_eq!(put("b").0, 200);
    hear("id: 2\n");
    hear("Service/default/b");
}

fn took(revision: u64, names: &[&str]) -> Took {
    Took { revision, names: names.iter().map(|name| name.to_string()).collect() }
}

#[test]
fn proxies_get_what_belongs_to_their_gateway() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let apply = |documents: &[String]| {
        let (status, answer) = control.ask("POST /api/v1/objects", "", &documents.join("\n---\n"));
        assert_eq!(status, 200, "{answer}");
    };
    let route = |service: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: \
             [{{name: g}}], rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]}}}}"
        )
    };
    let names = ["Gateway/default/g", "Gateway/default/g/*", "HTTPRoute/default/r", "Service/default/a"];
    let mut proxy = Subscriber::new("p", &["Gateway/default/g/*"]);
    proxy.connect(control.xds);
    assert_eq!(proxy.take(), took(0, &["-Gateway/default/g/*"]), "there is none so far");
    apply(&[gateway("g"), gateway("h"), route("a"), service("a", 80), service("b", 80)]);
    assert_eq!(proxy.take(), took(1, &names));
    // Nobody's business here.
    apply(&[service("b", 81)]);
    apply(&[service("a", 82)]);
    assert_eq!(proxy.take(), took(3, &["Service/default/a"]));
    apply(&[route("b")]);
    assert_eq!(proxy.take(), took(4, &["HTTPRoute/default/r", "Service/default/b", "-Service/default/a"]));
    let told = || control.ask("GET /api/v1/proxies", "", "").1;
    until("revision 4 in force", || (told()["proxies"][0]["inForce"] == 4).then_some(()));

    // Whoever comes back is sent nothing that it has.
    proxy.connect(control.xds);
    assert_eq!(proxy.take(), took(4, &[]));
    assert!(proxy.hears_nothing_for(Duration::from_millis(50)));

    // What it cannot take is known by name, and stays out of force until it is mended.
    proxy.refuses = Some("8443");
    apply(&[service("b", 8443)]);
    assert_eq!(proxy.take(), took(5, &["Service/default/b"]));
    let (refused, _) =
        until("a refusal", || Some(told()["proxies"][0].clone()).filter(|one| one["refused"][0].is_object()));
    assert_eq!((&refused["inForce"], &refused["id"]), (&4.into(), &"p".into()));
    assert_eq!(refused["refused"][0]["objects"][0], "Service/default/b");
    assert_eq!(refused["refused"][0]["reason"], "Service/default/b is refused");
    assert!(proxy.held()["Service/default/b"].contains("81"));
    apply(&[service("b", 84)]);
    assert_eq!(proxy.take(), took(6, &["Service/default/b"]));
    until("revision 6 in force", || (told()["proxies"][0]["inForce"] == 6).then_some(()));

    // The Gateway goes, and with it all that it had.
    assert_eq!(control.ask("DELETE /api/v1/objects/Gateway/default/g", "", "").0, 200);
    let gone = ["-Gateway/default/g", "-Gateway/default/g/*", "-HTTPRoute/default/r", "-Service/default/b"];
    assert_eq!(proxy.take(), took(7, &gone));
    drop(proxy);
    until("nobody connected", || told()["proxies"].as_array().is_some_and(Vec::is_empty).then_some(()));
}

#[test]
fn who_goes_before_a_change_has_come_is_told_by_how_it_went() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let wait = |revision: u64, time: &str| {
        let (status, answer) = control.ask(&format!("GET /api/v1/wait?revision={revision}&timeout={time}"), "", "");
        assert_eq!(status, 200, "{answer}");
        let why = |list: &str| answer[list]["proxies"][0]["why"].as_str().unwrap_or_default().to_owned();
        let why = why("behind") + &why("gone");
        (format!("{} {} {}", answer["outcome"], answer["on"], answer["of"]), why)
    };
    let connected = |id: &str| {
        let mut proxy = Subscriber::new(id, &["Gateway/default/g/*"]);
        proxy.connect(control.xds);
        proxy.take();
        proxy
    };
    assert_eq!(control.apply(&gateway("g")), 1);
    let (mut one, mut two) = (connected("one"), connected("two"));
    let change = |one: &mut Subscriber, port: u16| {
        let revision = control.apply(&gateway("g").replace("80", &port.to_string()));
        one.take();
        revision
    };
    // It has ended: nobody expects more of it.
    let revision = change(&mut one, 81);
    two.leave();
    let (told, why) = wait(revision, "10s");
    assert_eq!((&*told, &*why), ("\"inForce\" 1 1", "it ended by itself"));
    // It may have ended because of the very change, or be back in a moment.
    let two = connected("two");
    let revision = change(&mut one, 82);
    drop(two);
    let (told, why) = wait(revision, "100ms");
    assert!(told == "\"late\" 1 2" && why.starts_with("its connection broke"), "{told} {why}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(revision, "10s").0);
        let _two = connected("two");
        assert_eq!(waiting.join().expect("an answer"), "\"inForce\" 2 2");
    });
    // Who came back, took it and then ended is not missed, either.
    let number = || control.ask("GET /api/v1/proxies", "", "").1["proxies"].as_array().map_or(0, Vec::len);
    until("one", || (number() == 1).then_some(()));
    let two = connected("two");
    let revision = change(&mut one, 83);
    drop(two);
    until("one again", || (number() == 1).then_some(()));
    connected("two").leave();
    until("one at last", || (number() == 1).then_some(()));
    assert_eq!(wait(revision, "10s"), ("\"inForce\" 1 1".into(), String::new()));
}

#[test]
fn a_control_that_starts_anew_sends_nothing_that_is_held() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let with = |instance: u16| {
        service("a", 80)
            .replace("}]}}", &format!("}}], endpoints: [{{address: 127.0.0.1, ports: {{http: {instance}}}}}]}}}}"))
    };
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: \
                 [{name: g}], rules: [{backendRefs: [{name: a, port: 80}]}]}}";
    control.apply(&[gateway("g"), route.to_owned(), with(7001)].join("\n---\n"));
    let mut proxy = Subscriber::new("p", &["Gateway/default/g/*", "Endpoints/default/a"]);
    proxy.connect(control.xds);
    let all =
        ["Endpoints/default/a", "Gateway/default/g", "Gateway/default/g/*", "HTTPRoute/default/r", "Service/default/a"];
    assert_eq!(proxy.take(), took(1, &all));
    // Of the Service, its instances have changed last, and of the whole, another one.
    control.apply(&with(7002));
    assert_eq!(proxy.take(), took(2, &["Endpoints/default/a"]));
    control.apply(&service("b", 80));
    let places = [control.address, control.xds];
    control.kill();
    let control = Control::start_at(&folder, places);
    proxy.connect(control.xds);
    assert_eq!(proxy.take(), took(3, &[]));
    assert!(proxy.hears_nothing_for(Duration::from_millis(50)));
}

/// What a gateway answers.
fn answer(gateway: &Gateway) -> String {
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read().map_or_else(|ended| format!("{ended:?}"), |answer| answer.text())
}

#[test]
fn a_gateway_runs_on_what_control_says() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let backends = ["one", "two", "three"]
        .map(|word| Backend::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len())));
    let to = |place: usize| Rules::to(backends[place].address()).yaml();
    let gateway = Launch::under(control.xds).workers(2).spawn();
    until("a gateway that waits", || gateway.stderr().contains("does not know this Gateway").then_some(()));
    control.wait_until_in_force(control.apply(&gateway.fill(&to(0))));
    assert_eq!(answer(&gateway), "one");
    // In force means in force: the first request after it meets the new rules.
    for place in [1, 0, 1, 0, 1] {
        control.wait_until_in_force(control.apply(&gateway.fill(&to(place))));
        assert_eq!(answer(&gateway), ["one", "two"][place]);
    }

    // An address that somebody else holds: the refusal is told, and it succeeds as soon as that is over.
    let port = free_port();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    let moved = control.apply(&to(0).replace("{{port}}", &port.to_string()));
    let is_told =
        |proxy: &Value| proxy["refused"][0]["reason"].as_str().is_some_and(|why| why.contains("cannot listen"));
    until("a refusal", || is_told(&control.proxy()).then_some(()));
    assert_eq!(answer(&gateway), "two", "the old rules");
    drop(taken);
    control.wait_until_in_force(moved);
    let mut client = Peer::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read().map(|answer| answer.text()), Ok("one".into()));
    control.wait_until_in_force(control.apply(&gateway.fill(&to(1))));

    // Without control it goes on, and follows the next one, which has everything.
    let places = [control.address, control.xds];
    control.kill();
    until("a gateway that knows", || gateway.stderr().contains("is not there, its last rules stay").then_some(()));
    assert_eq!(answer(&gateway), "two");
    let control = Control::start_at(&folder, places);
    control.wait_until_in_force(control.apply(&gateway.fill(&to(2))));
    assert_eq!(answer(&gateway), "three");
}
