//! A Service `web` whose instances come and go, each an application with a real sidecar; gateways that send to it; clients that
//! keep what failed; and what control says of all that.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{Scope, ScopedJoinHandle};

use e2e::kit::{Backend, Beside, Gateway, Launch, Peer, Scratch, Sidecar, evenkeel, free_port, until};
use serde_json::Value;

use crate::server::{Control, service};

/// Clients of one gateway.
const CLIENTS: usize = 4;

/// Control and what it keeps, and Gateways `g0`, `g1` and so on, of which none runs so far.
pub struct Mesh {
    pub folder: Scratch,
    pub control: Control,
    ports: Vec<u16>,
}

impl Mesh {
    /// With so many gateways. What fails, fails: nothing is tried again.
    pub fn start(gateways: usize) -> Mesh {
        let mesh = Mesh::with_retries(gateways);
        mesh.control.apply(
            "{apiVersion: evenkeel.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: t}, spec: {targetRefs: [{group: '', \
             kind: Service, name: web}], retries: {attempts: 0}}}",
        );
        mesh
    }

    /// The same, where what could not be sent is sent to another instance, as is the default.
    pub fn with_retries(gateways: usize) -> Mesh {
        let folder = Scratch::create("mesh").expect("a folder");
        let control = Control::start(&folder);
        let ports: Vec<u16> = (0..gateways).map(|_| free_port()).collect();
        let gateway = |(number, port): (usize, &u16)| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g{number}}}, spec: \
                 {{gatewayClassName: evenkeel, addresses: [{{value: 127.0.0.1}}], listeners: [{{name: http, port: {port}, \
                 protocol: HTTP}}]}}}}"
            )
        };
        let gateways: Vec<String> = ports.iter().enumerate().map(gateway).collect();
        let parents: Vec<String> = (0..ports.len()).map(|number| format!("{{name: g{number}}}")).collect();
        let route = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{}], \
             rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}}}",
            parents.join(", ")
        );
        control.apply(&[gateways.join("\n---\n"), route, service("web", 80)].join("\n---\n"));
        Mesh { folder, control, ports }
    }

    /// From now on this gateway runs.
    pub fn gateway(&self, number: usize) -> Gateway {
        self.gateway_by(number, self.control.xds, &[])
    }

    /// The same, where it finds control at that address.
    pub fn gateway_by(&self, number: usize, xds: SocketAddr, flags: &[&str]) -> Gateway {
        Launch::named(xds, &format!("default/g{number}")).flags(flags).start()
    }

    /// The sidecar of an instance of `web`.
    pub fn sidecar(&self, name: &str, app: &Backend, flags: &[&str]) -> Sidecar {
        self.sidecar_by(name, app, self.control.xds, flags)
    }

    /// The same, where it finds control at that address.
    pub fn sidecar_by(&self, name: &str, app: &Backend, xds: SocketAddr, flags: &[&str]) -> Sidecar {
        let all = [&["--instance", name, "--outside-grace", "0"], flags].concat();
        Beside::under(xds, "web", app.address()).flags(&all).start()
    }

    /// The same, which is not waited for.
    pub fn unready(&self, name: &str, app: &Backend, flags: &[&str]) -> Sidecar {
        let all = [&["--instance", name, "--outside-grace", "0"], flags].concat();
        Beside::under(self.control.xds, "web", app.address()).flags(&all).spawn()
    }

    /// The sidecars of the instances `one` and `two`, which are ready.
    pub fn pair(&self, one: &Backend, two: &Backend) -> [Sidecar; 2] {
        let sidecars = [("one", one), ("two", two)].map(|(name, app)| self.sidecar(name, app, &[]));
        self.wait_for(&[("one", "ready"), ("two", "ready")]);
        sidecars
    }

    /// A connection to a gateway.
    pub fn connect(&self, number: usize) -> Peer {
        Peer::connect(([127, 0, 0, 1], self.ports[number]).into())
    }

    /// All instances, each as control has it.
    pub fn all(&self) -> Vec<Value> {
        self.control.ask("GET /api/v1/instances", "", "").1["instances"].as_array().cloned().expect("a list")
    }

    /// The instances that were refused, each with the reason.
    pub fn refused(&self) -> Vec<(String, String)> {
        let told = self.control.ask("GET /api/v1/instances", "", "").1;
        let all = told["refused"].as_array().expect("a list").iter();
        all.map(|one| (word(one, "instance"), word(one, "reason"))).collect()
    }

    /// Waits until the instances of `web` are these, and so far.
    pub fn wait_for(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, phase)| (format!("default/web/{name}"), phase.to_string())).collect();
        until("instances", || {
            let all = self.all();
            let of_web = all.iter().filter(|one| word(one, "instance").starts_with("default/web/"));
            let found: Vec<_> = of_web.map(|one| (word(one, "instance"), word(one, "phase"))).collect();
            (found == expected).then_some(())
        });
    }

    /// Waits for the receipt of an instance of `web`.
    pub fn receipt(&self, name: &str) -> Value {
        until("a receipt", || self.find_receipt(name)).0
    }

    /// The same, if it is there.
    pub fn find_receipt(&self, name: &str) -> Option<Value> {
        self.drain(name, "over")
    }

    /// Waits until so many proxies have not forgotten an instance of `web` that goes; which they are.
    pub fn wait_for_holders(&self, name: &str, count: usize) -> Vec<String> {
        until("holders", || {
            let holding = holding(&self.drain(name, "underWay")?);
            (holding.len() == count).then_some(holding)
        })
        .0
    }

    fn drain(&self, name: &str, list: &str) -> Option<Value> {
        let told = self.control.ask("GET /api/v1/drains", "", "").1;
        told[list].as_array()?.iter().find(|one| one["instance"] == format!("default/web/{name}")).cloned()
    }

    /// Runs `evenkeel`, and tells its exit code and what it said.
    pub fn command(&self, line: &str) -> (i32, String) {
        let mut command = Command::new(evenkeel());
        command.args(line.split(' ')).current_dir(self.folder.path());
        command.env("EVENKEEL_SERVER", self.control.address.to_string()).stdin(Stdio::null());
        let output = command.output().expect("evenkeel can be started");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("no signal"), text.into_owned())
    }

    /// Sends requests to a gateway until it is told to stop, on kept connections; keeps what was no 200, and who answered.
    pub fn load<'s>(&self, scope: &'s Scope<'s, '_>, gateway: usize, load: &'s Load) -> Running<'s> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports[gateway]));
        let client = |_| {
            scope.spawn(move || {
                let mut peer = None;
                while !load.is_over.load(SeqCst) {
                    let client = peer.get_or_insert_with(|| Peer::connect(address));
                    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
                    match client.read().map(|answer| (answer.status(), answer.text())) {
                        Ok((200, text)) => load.take(text),
                        other => {
                            load.failed.lock().expect("nobody panics").push(format!("g{gateway}: {other:?}"));
                            peer = None;
                        }
                    }
                }
            })
        };
        Running { load, clients: (0..CLIENTS).map(client).collect() }
    }
}

/// The proxies of a receipt, or of a drain, that did not say that they have forgotten the instance.
pub fn holding(receipt: &Value) -> Vec<String> {
    let proxies = receipt["proxies"].as_array().expect("a list").iter();
    let holds = |proxy: &&Value| !matches!(proxy["state"].as_str(), Some("forgot" | "ended"));
    proxies.filter(holds).map(|proxy| word(proxy, "proxy")).collect()
}

fn word(one: &Value, field: &str) -> String {
    one[field].as_str().unwrap_or_default().to_owned()
}

/// What clients met.
#[derive(Default)]
pub struct Load {
    is_over: AtomicBool,
    served: AtomicU64,
    failed: Mutex<Vec<String>>,
    answers: Mutex<BTreeSet<String>>,
}

impl Load {
    fn take(&self, answer: String) {
        self.answers.lock().expect("nobody panics").insert(answer);
        self.served.fetch_add(1, SeqCst);
    }

    /// Waits until so many more were served.
    pub fn more(&self, count: u64) {
        let before = self.served.load(SeqCst);
        until("more requests", || (self.served.load(SeqCst) >= before + count).then_some(()));
    }

    /// What has failed so far.
    pub fn failed(&self) -> Vec<String> {
        self.failed.lock().expect("nobody panics").clone()
    }

    /// Who has answered so far.
    pub fn answers(&self) -> Vec<String> {
        self.answers.lock().expect("nobody panics").iter().cloned().collect()
    }

    /// Whether nothing failed.
    pub fn check(&self) {
        assert_eq!(self.failed(), Vec::<String>::new());
        assert!(self.served.load(SeqCst) > 0);
    }
}

/// Clients, which end with the value, however the test does.
pub struct Running<'s> {
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

/// An application that answers with its name.
pub fn app(name: &'static str) -> Backend {
    Backend::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()))
}
