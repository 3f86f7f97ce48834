//! A third of the proxies cut off from control, for a moment and for longer: real gateways and simulated ones, those that are
//! cut off each behind a relay that swallows what is sent. They serve on, are named, and have everything afterwards.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use e2e::kit::{Backend, Gateway, Launch, Peer, Relay, Scratch, Subscriber, Took, evenkeel, free_port, until};
use serde_json::Value;

use crate::server::Control;

/// What is in force at one time, by what the instance of that time answers.
const WORDS: [&str; 4] = ["one", "two", "three", "four"];
const GATEWAYS: usize = 3;
const SUBSCRIBERS: usize = 6;
/// Of both, from this one on, each is behind a relay of its own.
const CUT_GATEWAY: usize = 2;
const CUT_SUBSCRIBER: usize = 4;
/// What every proxy holds from the beginning, and what would be noticed if it were sent again.
const BALLAST_BYTES: usize = 200_000;
/// What a change is made of.
const CHANGE: [&str; 3] = ["Endpoints/default/web", "HTTPRoute/default/r", "Service/default/web"];

struct Mesh {
    folder: Scratch,
    control: Control,
    backends: Vec<Backend>,
    gateways: Vec<Gateway>,
    ports: Vec<u16>,
    subscribers: Vec<Subscriber>,
    /// Of the gateway, then of the subscribers.
    relays: Vec<Relay>,
}

impl Mesh {
    fn start() -> Mesh {
        let folder = Scratch::create("partition").expect("a folder");
        let control = Control::start(&folder);
        let relays: Vec<Relay> = (0..3).map(|_| Relay::to(control.xds)).collect();
        let saying =
            |word: &&str| Backend::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len()));
        let mut mesh = Mesh {
            backends: WORDS.iter().map(saying).collect(),
            gateways: Vec::new(),
            ports: (0..GATEWAYS).map(|_| free_port()).collect(),
            subscribers: Vec::new(),
            folder,
            control,
            relays,
        };
        assert_eq!(mesh.control.apply(&format!("{}\n---\n{}", mesh.standing(), mesh.changing(0))), 1);
        for number in 0..GATEWAYS {
            let xds = if number < CUT_GATEWAY { mesh.control.xds } else { mesh.relays[0].address() };
            mesh.gateways.push(Launch::named(xds, &format!("default/g{number}")).start());
        }
        for number in 0..SUBSCRIBERS {
            let wanted = ["Gateway/default/g0/*", "Endpoints/default/web"];
            let mut subscriber = Subscriber::new(&format!("default/g0@sim:{number}"), &wanted);
            subscriber.connect(mesh.xds_of(number));
            assert_eq!(subscriber.take().revision, 1);
            mesh.subscribers.push(subscriber);
        }
        until("everybody", || (mesh.in_force(1).len() == GATEWAYS + SUBSCRIBERS).then_some(()));
        mesh
    }

    fn xds_of(&self, subscriber: usize) -> SocketAddr {
        match subscriber.checked_sub(CUT_SUBSCRIBER) {
            None => self.control.xds,
            Some(place) => self.relays[1 + place].address(),
        }
    }

    /// What stays as it is: Gateways, and something large that belongs to each.
    fn standing(&self) -> String {
        let gateway = |(number, port): (usize, &u16)| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g{number}}}, spec: \
                 {{gatewayClassName: evenkeel, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}}}\n---\n"
            )
        };
        let gateways: String = self.ports.iter().enumerate().map(gateway).collect();
        let note = "x".repeat(BALLAST_BYTES);
        let parents = "[{name: g0}, {name: g1}, {name: g2}]";
        format!(
            "{gateways}{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: ballast, annotations: \
             {{note: {note}}}}}, spec: {{parentRefs: {parents}, hostnames: [ballast.test], rules: [{{backendRefs: [{{name: web, \
             port: 80}}]}}]}}}}"
        )
    }

    /// What changes in one transaction: a route that adds a word to answers, and a Service whose instance says it. Whoever has
    /// one without the other has a mixture.
    fn changing(&self, place: usize) -> String {
        let (word, instance) = (WORDS[place], self.backends[place].address());
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: \
             g0}}, {{name: g1}}, {{name: g2}}], rules: [{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
             {{set: [{{name: x-word, value: {word}}}]}}}}], backendRefs: [{{name: web, port: 80}}]}}]}}}}\n---\n{{apiVersion: \
             evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: web, annotations: {{word: {word}}}}}, spec: {{ports: \
             [{{name: http, port: 80}}], endpoints: [{{address: {}, ports: {{http: {}}}}}]}}}}",
            instance.ip(),
            instance.port()
        )
    }

    fn proxies(&self) -> Vec<Value> {
        let (_, told) = self.control.ask("GET /api/v1/proxies", "", "");
        told["proxies"].as_array().cloned().unwrap_or_default()
    }

    /// Who has everything up to a revision in force, and nothing after it.
    fn in_force(&self, revision: u64) -> BTreeSet<String> {
        let has = |proxy: &Value| (proxy["inForce"] == revision).then(|| proxy["id"].as_str().map(String::from));
        self.proxies().iter().filter_map(has).flatten().collect()
    }

    fn cut_off(&self) -> BTreeSet<String> {
        let is_cut = |id: &String| {
            let simulated = id.strip_prefix("default/g0@sim:").and_then(|number| number.parse::<usize>().ok());
            simulated.map_or(id.starts_with("default/g2@"), |number| number >= CUT_SUBSCRIBER)
        };
        let known = self.proxies();
        known.iter().filter_map(|proxy| proxy["id"].as_str().map(String::from)).filter(is_cut).collect()
    }

    fn command(&self, line: &str) -> Child {
        let mut command = Command::new(evenkeel());
        command.args(line.split(' ')).current_dir(self.folder.path());
        command.env("EVENKEEL_SERVER", self.control.address.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("evenkeel can be started")
    }

    fn apply(&self, place: usize, flags: &str) -> Child {
        self.folder.write("next.yaml", &self.changing(place)).expect("a file");
        self.command(&format!("apply -f next.yaml --wait {flags}"))
    }

    /// Those of the subscribers take the next change: all of it, and nothing that they have.
    fn take(&mut self, subscribers: std::ops::Range<usize>, revision: u64, place: usize) {
        let names: Vec<String> = CHANGE.map(String::from).into();
        for subscriber in &mut self.subscribers[subscribers] {
            assert_eq!(subscriber.take(), Took { revision, names: names.clone() });
            let held = subscriber.held();
            for name in &CHANGE[1..] {
                assert!(held[*name].contains(WORDS[place]), "{name}: {}", held[*name]);
            }
        }
    }

    /// What each gateway answers.
    fn answers(&self) -> Vec<String> {
        let ask = |port: &u16| {
            let mut client = Peer::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)));
            word(&mut client).unwrap_or_else(|problem| problem)
        };
        self.ports.iter().map(ask).collect()
    }
}

/// One request: what the route says and what the instance says is the same word.
fn word(client: &mut Peer) -> Result<String, String> {
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.read().map_err(|ended| format!("{ended:?}"))?;
    let (status, told, said) = (answer.status(), answer.get("x-word").unwrap_or_default().to_owned(), answer.text());
    if status == 200 && told == said { Ok(said) } else { Err(format!("{status}: {told} of the route, {said}")) }
}

/// Ends clients, also where a test fails before it would.
pub(super) struct Ends<'e>(pub(super) &'e AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A client on a kept connection, until it is told to end: what failed, and how many were served.
fn load(port: u16, is_over: &AtomicBool) -> (Vec<String>, usize) {
    let mut client = Peer::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let (mut failed, mut served) = (Vec::new(), 0);
    while !is_over.load(SeqCst) && failed.len() < 10 {
        match word(&mut client) {
            Ok(_) => served += 1,
            Err(problem) => failed.push(problem),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    (failed, served)
}

fn end(child: Child) -> (i32, String) {
    let output = child.wait_with_output().expect("a child can be waited for");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("no signal"), text.into_owned())
}

/// The proxies that lines name after these words.
fn named(text: &str, words: &str) -> BTreeSet<String> {
    let name = |line: &str| Some(line.trim().strip_prefix(words)?.split_once(": ")?.0.to_owned());
    text.lines().filter_map(name).collect()
}

#[test]
fn who_is_cut_off_is_named_serves_on_and_catches_up() {
    let mut mesh = Mesh::start();
    let cut_off = mesh.cut_off();
    assert_eq!(cut_off.len(), 3);
    let is_over = AtomicBool::new(false);
    let ports = mesh.ports.clone();
    std::thread::scope(|scope| {
        let clients: Vec<_> = ports.iter().map(|port| scope.spawn(|| load(*port, &is_over))).collect();
        let ends = Ends(&is_over);
        for_a_moment(&mut mesh, &cut_off);
        for_long(&mut mesh, &cut_off);
        drop(ends);
        for client in clients {
            let (failed, served) = client.join().expect("a client ends");
            assert!(failed.is_empty() && served > 100, "{served} served, {failed:?}");
        }
    });
}

/// So short that neither end notices more than a late answer.
fn for_a_moment(mesh: &mut Mesh, cut_off: &BTreeSet<String>) {
    mesh.relays.iter().for_each(Relay::swallow);
    let command = mesh.apply(1, "--timeout 1s");
    mesh.take(0..CUT_SUBSCRIBER, 2, 1);
    let (code, text) = end(command);
    assert!(code == 1 && text.contains("revision 2 in force on only 6 of 9 proxies after"), "{code}: {text}");
    assert_eq!(&named(&text, "not on "), cut_off, "{text}");
    assert_eq!(mesh.answers(), ["two", "two", "one"]);
    let (code, text) = end(mesh.command("status"));
    assert!(code == 1 && text.contains("revision 2, 9 proxies: 2 of 6 documents not in force everywhere"), "{text}");
    let (code, text) = end(mesh.command("status httproute r"));
    assert!(code == 1 && text.contains("in force on 6 of 9 proxies"), "{text}");
    assert_eq!(&named(&text, "not on "), cut_off, "{text}");

    // What was swallowed comes late, once, on the same streams.
    let before: Vec<u64> = mesh.relays.iter().map(Relay::back_bytes).collect();
    mesh.relays.iter().for_each(Relay::pass);
    mesh.take(CUT_SUBSCRIBER..SUBSCRIBERS, 2, 1);
    until("everybody at revision 2", || (mesh.in_force(2).len() == 9).then_some(()));
    assert_eq!(mesh.answers(), ["two"; GATEWAYS]);
    nothing_again(mesh, &before);
}

/// So long that both ends take the other for gone.
fn for_long(mesh: &mut Mesh, cut_off: &BTreeSet<String>) {
    mesh.relays.iter().for_each(Relay::swallow);
    let command = mesh.apply(2, "--timeout 60s");
    mesh.take(0..CUT_SUBSCRIBER, 3, 2);
    // Whoever waits is told soon after control knows that they are gone.
    let (code, text) = end(command);
    assert!(code == 1 && text.contains("revision 3 in force on only 6 of 9 proxies after"), "{code}: {text}");
    assert_eq!(&named(&text, "not on "), cut_off, "{text}");
    until("a gateway that knows", || {
        mesh.gateways[CUT_GATEWAY].stderr().contains("is not there, its last rules stay in force").then_some(())
    });
    assert_eq!(mesh.gateways[CUT_GATEWAY].config()["control"]["connected"], false);
    assert_eq!(mesh.answers(), ["three", "three", "two"]);
    // What is made later is not theirs any more, until they are back.
    let command = mesh.apply(3, "--timeout 60s");
    mesh.take(0..CUT_SUBSCRIBER, 4, 3);
    let (code, text) = end(command);
    assert!(code == 0 && text.contains("revision 4 in force on 6 of 6 proxies after"), "{code}: {text}");

    let before: Vec<u64> = mesh.relays.iter().map(Relay::back_bytes).collect();
    mesh.relays.iter().for_each(Relay::pass);
    for number in CUT_SUBSCRIBER..SUBSCRIBERS {
        let xds = mesh.xds_of(number);
        mesh.subscribers[number].connect(xds);
    }
    // Two changes were missed, and the newest of each is all that comes.
    mesh.take(CUT_SUBSCRIBER..SUBSCRIBERS, 4, 3);
    until("everybody at revision 4", || (mesh.in_force(4).len() == 9).then_some(()));
    assert_eq!(mesh.answers(), ["four"; GATEWAYS]);
    nothing_again(mesh, &before);
}

fn nothing_again(mesh: &Mesh, before: &[u64]) {
    for (relay, before) in mesh.relays.iter().zip(before) {
        let bytes = relay.back_bytes() - before;
        assert!((100..BALLAST_BYTES as u64 / 10).contains(&bytes), "{bytes} bytes");
    }
}
