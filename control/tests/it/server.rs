//! A control server as a process, as tests of it and of its commands need one.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use e2e::kit::{Guard, PATIENCE, Peer, Scratch, evenkeel, free_port, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A control server and what it keeps.
pub struct Control {
    guard: Guard,
    pub address: SocketAddr,
    pub xds: SocketAddr,
}

impl Control {
    /// Starts one where nobody else is.
    pub fn start(folder: &Scratch) -> Control {
        Control::start_at(folder, [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))))
    }

    /// Starts one at these places.
    pub fn start_at(folder: &Scratch, places: [SocketAddr; 2]) -> Control {
        Control::start_with(folder, places, &[])
    }

    /// The same, with more flags.
    pub fn start_with(folder: &Scratch, [address, xds]: [SocketAddr; 2], flags: &[&str]) -> Control {
        let log = File::create(folder.path().join("log")).expect("a file");
        let mut command = Command::new(evenkeel());
        command.args(["control", "--plaintext", "--data"]).arg(folder.path().join("data"));
        command
            .args(["--listen", &address.to_string(), "--xds", &xds.to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let guard = Guard::start_anywhere(&mut command).expect("evenkeel can be started");
        until("a control server that answers", || {
            Peer::try_connect(address).ok()?;
            Peer::try_connect(xds).ok().map(drop)
        });
        Control { guard, address, xds }
    }

    /// Status and body of an answer.
    pub fn ask(&self, start: &str, headers: &str, body: &str) -> (u16, Value) {
        let mut peer = Peer::connect(self.address);
        peer.send(format!(
            "{start} HTTP/1.1\r\nHost: control\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = peer.read().expect("an answer");
        (answer.status(), serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// Makes changes, and tells their revision.
    pub fn apply(&self, documents: &str) -> u64 {
        let (status, answer) = self.ask("POST /api/v1/objects", "", documents);
        assert_eq!(status, 200, "{answer}");
        answer["revision"].as_u64().expect("a number")
    }

    /// The only proxy, as it is known.
    pub fn proxy(&self) -> Value {
        self.ask("GET /api/v1/proxies", "", "").1["proxies"][0].clone()
    }

    /// Waits for the only proxy.
    pub fn wait_until_in_force(&self, revision: u64) {
        until("the revision in force", || (self.proxy()["inForce"] == revision).then_some(()));
    }

    /// Ends it without a warning.
    pub fn kill(mut self) {
        self.end();
    }

    /// The same, where its address is remembered.
    pub fn end(&mut self) {
        let id = i32::try_from(self.guard.id()).ok().and_then(Pid::from_raw).expect("an id");
        kill_process(id, Signal::KILL).expect("it is ours");
        self.guard.wait(PATIENCE).expect("a child can be waited for");
    }
}

/// A Service without endpoints.
pub fn service(name: &str, port: u16) -> String {
    format!(
        "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, \
         spec: {{ports: [{{name: http, port: {port}}}]}}}}"
    )
}

/// A Gateway that nobody can reach.
pub fn gateway(name: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}}}, spec: {{gatewayClassName: \
         evenkeel, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}"
    )
}
