//! Instances that come and go under load: real sidecars beside scripted applications, a gateway that sends to them, and what
//! control says of it. No request fails, whoever is told or is not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use e2e::kit::{Backend, Beside, Gateway, Launch, Peer, Scratch, Sidecar, free_port, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{Control, service};

/// A gateway whose requests go to `web`.
struct World {
    folder: Scratch,
    control: Control,
    gateway: Option<Gateway>,
    port: u16,
}

impl World {
    fn start() -> World {
        let folder = Scratch::create("drains").expect("a folder");
        let control = Control::start(&folder);
        let port = free_port();
        let gateway = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g}}, spec: {{gatewayClassName: \
             evenkeel, addresses: [{{value: 127.0.0.1}}], listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}}}"
        );
        let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: \
                     [{name: g}], rules: [{backendRefs: [{name: web, port: 80}]}]}}";
        // What fails, fails: nothing is tried again.
        let traffic = "{apiVersion: evenkeel.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: t}, spec: {targetRefs: \
                       [{group: '', kind: Service, name: web}], retries: {attempts: 0}}}";
        control.apply(&[gateway, route.to_owned(), service("web", 80), traffic.to_owned()].join("\n---\n"));
        World { folder, control, gateway: None, port }
    }

    /// From now on there is a gateway.
    fn open(&mut self) {
        self.gateway = Some(Launch::named(self.control.xds, "default/g").start());
    }

    fn sidecar(&self, name: &str, app: SocketAddr, flags: &[&str]) -> Sidecar {
        let all = [&["--instance", name, "--outside-grace", "0"], flags].concat();
        Beside::under(self.control.xds, "web", app).flags(&all).start()
    }

    fn instances(&self) -> Vec<(String, String)> {
        let told = self.control.ask("GET /api/v1/instances", "", "").1;
        let word = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let all = told["instances"].as_array().expect("a list").iter();
        all.map(|one| (word(one, "instance"), word(one, "phase"))).collect()
    }

    fn wait_for(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, phase)| (format!("default/web/{name}"), phase.to_string())).collect();
        until("instances", || {
            let found = self.instances();
            (found == expected).then_some(()).ok_or(found).ok()
        });
    }

    fn receipt(&self) -> Value {
        until("a receipt", || self.control.ask("GET /api/v1/drains", "", "").1["over"].get(0).cloned()).0
    }

    /// Sends requests until it is told to stop, on kept connections; counts, and keeps what was no 200.
    fn load<'s>(&'s self, scope: &'s Scope<'s, '_>, load: &'s Load) -> Running<'s> {
        let client = |_| {
            scope.spawn(move || {
                let mut peer = None;
                while !load.is_over.load(SeqCst) {
                    let client = peer.get_or_insert_with(|| Peer::connect(([127, 0, 0, 1], self.port).into()));
                    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
                    match client.read().map(|answer| (answer.status(), answer.text())) {
                        Ok((200, _)) => drop(load.served.fetch_add(1, SeqCst)),
                        other => {
                            load.failed.lock().expect("nobody panics").push(format!("{other:?}"));
                            peer = None;
                        }
                    }
                }
            })
        };
        Running { load, clients: (0..4).map(client).collect() }
    }
}

#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    served: AtomicU64,
    failed: std::sync::Mutex<Vec<String>>,
}

impl Load {
    /// Waits until so many more were served.
    fn more(&self, count: u64) {
        let before = self.served.load(SeqCst);
        until("more requests", || (self.served.load(SeqCst) >= before + count).then_some(()));
    }

    fn check(&self) {
        assert_eq!(*self.failed.lock().expect("nobody panics"), Vec::<String>::new());
        assert!(self.served.load(SeqCst) > 0);
    }
}

/// Clients, which end with the value, however the test does.
struct Running<'s> {
    load: &'s Load,
    clients: Vec<ScopedJoinHandle<'s, ()>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.load.is_over.store(true, SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("clients do not panic");
        }
    }
}

fn app(name: &'static str) -> Backend {
    Backend::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()))
}

#[test]
fn an_instance_comes_and_goes_under_load_and_nobody_notices() {
    let mut world = World::start();
    let (one, two) = (app("one"), app("two"));
    let token = world.folder.path().join("token");
    std::fs::write(&token, "secret\n").expect("a file");
    let probe = format!("127.0.0.1:{}", free_port());
    let flags = ["--probe", &probe, "--drain-token-file", token.to_str().expect("UTF-8")];
    let mut first = world.sidecar("one", one.address(), &flags);
    world.wait_for(&[("one", "ready")]);
    world.open();
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = world.load(scope, &load);
        load.more(50);
        let mut second = world.sidecar("two", two.address(), &[]);
        world.wait_for(&[("one", "ready"), ("two", "ready")]);
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
        world.wait_for(&[("two", "ready")]);
        let receipt = world.receipt();
        assert_eq!((&receipt["instance"], &receipt["waiting"]), (&"default/web/one".into(), &0.into()), "{receipt}");
        // Its application is told to end, and then its proxy.
        drop(one);
        first.signal(Signal::TERM);
        assert!(first.wait().is_some_and(|status| status.success()));
        load.more(50);
        // The last one stays until another is there, and SIGTERM is as good as /drain.
        second.signal(Signal::TERM);
        world.wait_for(&[("two", "last")]);
        load.more(50);
        let three = app("three");
        let _third = world.sidecar("three", three.address(), &[]);
        world.wait_for(&[("three", "ready")]);
        drop(two);
        assert!(second.wait().is_some_and(|status| status.success()));
        load.more(50);
        drop(running);
    });
    load.check();
}

#[test]
fn an_application_that_is_never_ready_gets_nothing() {
    let mut world = World::start();
    let one = app("one");
    let _first = world.sidecar("one", one.address(), &[]);
    let unready = Backend::canned("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned());
    world.wait_for(&[("one", "ready")]);
    world.open();
    let flags = ["--instance", "two", "--app-ready", "/healthz"];
    let second = Beside::under(world.control.xds, "web", unready.address()).flags(&flags).spawn();
    world.wait_for(&[("one", "ready"), ("two", "starting")]);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = world.load(scope, &load);
        load.more(100);
        drop(running);
    });
    load.check();
    drop(second);
    world.wait_for(&[("one", "ready")]);
}

#[test]
fn callers_that_nobody_can_tell_are_told_by_the_instance() {
    let mut world = World::start();
    let (one, two) = (app("one"), app("two"));
    let mut first = world.sidecar("one", one.address(), &[]);
    let _second = world.sidecar("two", two.address(), &[]);
    world.wait_for(&[("one", "ready"), ("two", "ready")]);
    world.open();
    let load = Load::default();
    // Kept, so that the address of control is nobody's.
    let World { control, .. } = World::start();
    let control = std::mem::replace(&mut world.control, control);
    std::thread::scope(|scope| {
        let running = world.load(scope, &load);
        load.more(50);
        control.kill();
        first.signal(Signal::TERM);
        let (began, mut is_quiet) = (std::time::Instant::now(), false);
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
