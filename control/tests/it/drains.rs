//! Instances that come and go under load: real sidecars beside scripted applications, a gateway that sends to them, and what
//! control says of it. No request fails, whoever is told or is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Beside, Peer, free_port, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::mesh::{Load, Mesh, app};
use crate::server::service;

#[test]
fn an_instance_comes_and_goes_under_load_and_nobody_notices() {
    let mesh = Mesh::start(1);
    let (one, two) = (app("one"), app("two"));
    let token = mesh.folder.path().join("token");
    std::fs::write(&token, "secret\n").expect("a file");
    let probe = format!("127.0.0.1:{}", free_port());
    let flags = ["--probe", &probe, "--drain-token-file", token.to_str().expect("UTF-8")];
    let mut first = mesh.sidecar("one", &one, &flags);
    mesh.wait_for(&[("one", "ready")]);
    let _gateway = mesh.gateway(0);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(50);
        let mut second = mesh.sidecar("two", &two, &[]);
        mesh.wait_for(&[("one", "ready"), ("two", "ready")]);
        load.more(50);
        // Only with the token.
        let drain = |token: &str| {
            let mut peer = Peer::connect(probe.parse().expect("an address"));
            peer.send(format!("GET /drain HTTP/1.1\r\nHost: probe\r\nAuthorization: Bearer {token}\r\n\r\n"));
            let answer = peer.read().expect("an answer");
            (answer.status(), serde_json::from_slice::<Value>(&answer.body).unwrap_or_default())
        };
        assert_eq!(drain("guess").0, 401);
        let (status, told) = drain("secret");
        assert_eq!(
            (status, &told["reason"]),
            (200, &"all callers have forgotten it, and it was quiet".into()),
            "{told}"
        );
        assert_eq!((&told["holders"], &told["cut"]), (&3.into(), &0.into()), "{told}");
        mesh.wait_for(&[("two", "ready")]);
        let receipt = mesh.receipt("one");
        assert_eq!((&receipt["instance"], &receipt["waiting"]), (&"default/web/one".into(), &0.into()), "{receipt}");
        // Its application is told to end, and then its proxy.
        drop(one);
        first.signal(Signal::TERM);
        assert!(first.wait().is_some_and(|status| status.success()));
        load.more(50);
        // The last one stays until another is there, and SIGTERM is as good as /drain.
        second.signal(Signal::TERM);
        mesh.wait_for(&[("two", "last")]);
        load.more(50);
        let three = app("three");
        let _third = mesh.sidecar("three", &three, &[]);
        mesh.wait_for(&[("three", "ready")]);
        drop(two);
        assert!(second.wait().is_some_and(|status| status.success()));
        load.more(50);
        drop(running);
    });
    load.check();
}

#[test]
fn an_application_that_is_never_ready_gets_nothing() {
    let mesh = Mesh::start(1);
    let one = app("one");
    let _first = mesh.sidecar("one", &one, &[]);
    let unready = Backend::canned("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned());
    mesh.wait_for(&[("one", "ready")]);
    let _gateway = mesh.gateway(0);
    let flags = ["--instance", "two", "--app-ready", "/healthz"];
    let second = Beside::under(mesh.control.xds, "web", unready.address()).flags(&flags).spawn();
    mesh.wait_for(&[("one", "ready"), ("two", "starting")]);
    until("the reason", || mesh.command("get instances").1.contains("answers /healthz with 503").then_some(()));
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(100);
        drop(running);
    });
    load.check();
    drop(second);
    mesh.wait_for(&[("one", "ready")]);
}

#[test]
fn an_application_has_its_time_to_settle() {
    let mesh = Mesh::start(0);
    let one = app("one");
    let began = Instant::now();
    let flags = ["--instance", "one", "--ready-after", "2"];
    let _first = Beside::under(mesh.control.xds, "web", one.address()).flags(&flags).spawn();
    until("the reason", || mesh.command("get instances").1.contains("has 2s to settle").then_some(()));
    mesh.wait_for(&[("one", "ready")]);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn one_answer_that_is_not_good_changes_nothing() {
    let mesh = Mesh::start(0);
    let fails = Arc::new(AtomicBool::new(false));
    let once = fails.clone();
    let app = Backend::start(move |served| {
        while let Some(request) = served.request() {
            let is_bad = request.start.contains("/healthz") && once.swap(false, SeqCst);
            let status = if is_bad { "503 No" } else { "200 OK" };
            served.peer.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let first = mesh.sidecar("one", &app, &["--app-ready", "/healthz"]);
    fails.store(true, SeqCst);
    let asked = app.requests().len();
    while app.requests().len() < asked + 4 {
        let ready = first.get("/ready").expect("an answer").status();
        assert_eq!(ready, 200, "after {} questions", app.requests().len() - asked);
    }
    assert!(!fails.load(SeqCst), "it did answer so");
}

#[test]
fn a_caller_that_finishes_forgets_as_quickly_as_others() {
    let mesh = Mesh::start(1);
    let (one, tell) = Backend::patient();
    let two = app("two");
    let _first = mesh.sidecar("one", &one, &[]);
    mesh.wait_for(&[("one", "ready")]);
    let gateway = mesh.gateway(0);
    let mut client = mesh.connect(0);
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    one.only_request();
    let _second = mesh.sidecar("two", &two, &[]);
    mesh.wait_for(&[("one", "ready"), ("two", "ready")]);
    // It waits for an answer, and could choose another instance if none came.
    gateway.signal(Signal::TERM);
    let (status, _) = mesh.control.ask("POST /api/v1/instances/default/web/two/drain", "", "");
    let receipt = mesh.receipt("two");
    assert_eq!((status, &receipt["unreachable"], &receipt["waiting"]), (202, &0.into(), &0.into()), "{receipt}");
    assert!(receipt["proxies"].to_string().contains("default/g0@"), "{receipt}");
    // A tenth of this, and the rest for a busy machine.
    assert!(receipt["forgottenMilliseconds"].as_f64().is_some_and(|took| took < 900.0), "{receipt}");
    tell.send(()).expect("it waits");
    assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
}

#[test]
fn callers_that_nobody_can_tell_are_told_by_the_instance() {
    let mut mesh = Mesh::start(1);
    let (one, two) = (app("one"), app("two"));
    let [mut first, _second] = mesh.pair(&one, &two);
    let _gateway = mesh.gateway(0);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(50);
        mesh.control.end();
        first.signal(Signal::TERM);
        let (began, mut is_quiet) = (Instant::now(), false);
        while !is_quiet && began.elapsed() < Duration::from_secs(20) {
            let before = one.requests().len();
            load.more(200);
            is_quiet = one.requests().len() == before;
        }
        drop(one);
        assert!(first.wait().is_some_and(|status| status.success()));
        load.more(50);
        drop(running);
    });
    load.check();
}

#[test]
fn an_instance_that_was_never_let_in_need_not_be_forgotten() {
    let mesh = Mesh::start(0);
    let (one, twin) = (app("one"), app("twin"));
    let _first = mesh.sidecar("one", &one, &[]);
    mesh.wait_for(&[("one", "ready")]);
    let mut other = mesh.unready("one", &twin, &[]);
    until("a refusal", || (mesh.refused().len() == 1).then_some(()));
    until("its own word", || other.stderr().contains("control does not let this instance in").then_some(()));
    let is_ready = || other.get("/ready").expect("an answer").status() == 200;
    assert!(!is_ready(), "nobody is told of it");
    other.signal(Signal::TERM);
    drop(twin);
    assert!(other.wait().is_some_and(|status| status.success()));
    assert!(other.stderr().contains("ms: control had not let it in, and it was quiet"), "{}", other.stderr());
    mesh.wait_for(&[("one", "ready")]);
}

#[test]
fn a_port_that_the_service_has_not_is_told() {
    let mesh = Mesh::start(0);
    let one = app("one");
    let first = mesh.unready("one", &one, &["--port", "grpc"]);
    until("its word", || (mesh.command("status").1.contains("1 instance is ready, and nobody is told")).then_some(()));
    assert_eq!(mesh.command("status").0, 1);
    assert_eq!(first.get("/ready").expect("an answer").status(), 503);
    mesh.wait_for(&[("one", "starting")]);
    let (code, text) = mesh.command("get instances");
    assert!(code == 0 && text.contains("its Service has no port grpc: nobody is told of that"), "{code}: {text}");
    mesh.control.apply(&service("web", 80).replace("{name: http, port: 80}", "{name: grpc, port: 80}"));
    until("its readiness", || first.get("/ready").filter(|answer| answer.status() == 200));
}

#[test]
fn what_some_proxies_try_moves_no_instance() {
    let mesh = Mesh::start(2);
    let one = app("one");
    let first = mesh.sidecar("one", &one, &["--port", "http"]);
    let _gateways = [mesh.gateway(0), mesh.gateway(1)];
    let renamed = service("web", 80).replace("{name: http, port: 80}", "{name: web, port: 80}");
    let (status, answer) = mesh.control.ask("POST /api/v1/objects?canary=1&bake=60s", "", &renamed);
    assert_eq!(status, 200, "{answer}");
    until("whoever tries it", || (mesh.control.ask("GET /api/v1/canary", "", "").1["canary"]["on"] == 1).then_some(()));
    mesh.wait_for(&[("one", "ready")]);
    assert_eq!(first.get("/ready").expect("an answer").status(), 200);
    let (status, answer) = mesh.control.ask("POST /api/v1/canary/promote", "", "");
    assert_eq!(status, 200, "{answer}");
    mesh.wait_for(&[("one", "starting")]);
}

#[test]
fn one_that_control_refused_is_not_ready_without_it() {
    let mesh = Mesh::start(0);
    let (one, twin) = (app("one"), app("twin"));
    let _first = mesh.sidecar("one", &one, &[]);
    let other = mesh.unready("one", &twin, &[]);
    until("its own word", || other.stderr().contains("control does not let this instance in").then_some(()));
    mesh.control.kill();
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(other.get("/ready").expect("an answer").status(), 503, "after {:?}", since.elapsed());
    }
}

#[test]
fn what_an_application_never_took_is_served_by_another() {
    let mesh = Mesh::with_retries(1);
    mesh.control.apply(
        "{apiVersion: evenkeel.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: t}, spec: {targetRefs: [{group: '', \
         kind: Service, name: web}], loadBalancer: {policy: roundRobin}}}",
    );
    // It keeps no connection, so that its end is known at the next one.
    let one = Backend::start(|served| {
        if served.request().is_some() {
            served.peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\none");
        }
    });
    let two = app("two");
    let [first, _second] = mesh.pair(&one, &two);
    let _gateway = mesh.gateway(0);
    let mut client = mesh.connect(0);
    let mut ask = || {
        client.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        let answer = client.read().expect("an answer");
        (answer.status(), answer.text())
    };
    until("both", || {
        let answers: BTreeSet<String> = (0..20).map(|_| ask().1).collect();
        (answers.len() == 2).then_some(())
    });
    // Its sidecar notices within a second.
    drop(one);
    let answers: Vec<_> = (0..40).map(|_| ask()).collect();
    assert!(answers.iter().all(|answer| *answer == (200, "two".into())), "{answers:?}");
    assert!(first.metrics().contains("response_flags=\"UF\""), "{}", first.metrics());
}
