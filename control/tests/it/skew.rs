//! Versions beside each other. What a proxy and control said to each other in a whole life of a proxy is kept as bytes, a file
//! for each version (`skew/life-VERSION.txt`): today's control serves the proxy in it, and today's proxy follows the control
//! in it. With `EVENKEEL_REGENERATE=1` that of this version is written anew, which nobody does once it has been released.
//!
//! A line is `apply DOCUMENTS`, `delete DOCUMENT`, `connect`, `> ` what the proxy says, or `< ` what control says, in hex.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::wire::envoy::config::core::v3::Node;
use config::wire::envoy::config::core::v3::node::UserAgentVersionType;
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::wire::evenkeel::v1::{self, resource::Kind};
use config::xds::client::{Action, Client};
use e2e::kit::{PATIENCE, Scratch, until};
use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _, Bytes};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};

use crate::server::{Control, gateway};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// What an older proxy enforces: limits came later.
const KINDS: [&str; 4] = ["Gateway", "HTTPRoute", "ReferenceGrant", "Service"];
/// A field that nobody knows so far (number 1000, one byte), as a later version may send it.
const LATER_FIELD: &[u8] = b"\xc2\x3e\x01x";
/// A route with this is refused by the proxy in the file.
const BAD: &str = "bad.test";

/// What happens in the life that is recorded.
enum Step {
    Apply(String),
    Delete(&'static str),
    Connect,
    Want(&'static str),
    Forget(&'static str),
    Hear,
}

fn life() -> Vec<Step> {
    let route = |name: &str, host: &str, service: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}}}, spec: {{parentRefs: \
             [{{name: g}}], hostnames: [{host}], rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]}}}}"
        )
    };
    let service = |name: &str, instance: u16| {
        format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{name: http, \
             port: 80}}], endpoints: [{{address: 10.0.0.1, ports: {{http: {instance}}}}}]}}}}"
        )
    };
    let limit = |requests: u32| {
        format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: RateLimit, metadata: {{name: limit}}, spec: {{targetRefs: [{{group: \
             '', kind: Service, name: a}}], limits: [{{requests: {requests}, per: 1s}}]}}}}"
        )
    };
    let all = |documents: &[String]| Step::Apply(documents.join(" --- "));
    vec![
        all(&[gateway("g"), route("r", "a.test", "a"), route("s", "b.test", "b"), service("a", 1), service("b", 1)]),
        Step::Connect,
        Step::Hear,
        // By use.
        Step::Want("Endpoints/default/a"),
        Step::Hear,
        Step::Want("Endpoints/default/none"),
        Step::Hear,
        all(&[service("a", 2)]),
        Step::Hear,
        // A kind that it does not know is no news to it.
        all(&[limit(1)]),
        // Refused, and mended.
        all(&[route("r", BAD, "a")]),
        Step::Hear,
        all(&[route("r", "c.test", "a"), service("a", 3)]),
        Step::Hear,
        Step::Forget("Endpoints/default/none"),
        Step::Hear,
        // It comes back, with nothing new, and after something was missed.
        Step::Connect,
        Step::Hear,
        Step::Delete("HTTPRoute/default/s"),
        Step::Hear,
        all(&[service("a", 4), limit(2)]),
        Step::Hear,
        all(&[route("r", "d.test", "a")]),
        Step::Connect,
        Step::Hear,
    ]
}

/// Messages as they are.
struct Bytewise;

impl Codec for Bytewise {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Bytewise;
    type Decoder = Bytewise;

    fn encoder(&mut self) -> Bytewise {
        Bytewise
    }

    fn decoder(&mut self) -> Bytewise {
        Bytewise
    }
}

impl Encoder for Bytewise {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Bytewise {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A proxy's stream, of which nobody knows what is said on it.
pub(super) struct Line<'r> {
    runtime: &'r Runtime,
    sender: UnboundedSender<Bytes>,
    responses: Streaming<Bytes>,
}

impl Line<'_> {
    pub(super) fn open(runtime: &Runtime, control: SocketAddr) -> Line<'_> {
        let (sender, mut receiver) = unbounded_channel();
        let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let responses = runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{control}")).expect("an address");
            let mut line = tonic::client::Grpc::new(endpoint.connect().await.expect("control listens"));
            line.ready().await.expect("it is connected");
            let streaming = line.streaming(Request::new(requests), PathAndQuery::from_static(METHOD), Bytewise).await;
            streaming.expect("a stream").into_inner()
        });
        Line { runtime, sender, responses }
    }

    pub(super) fn say(&self, message: Vec<u8>) {
        self.sender.send(message.into()).expect("the stream lives");
    }

    pub(super) fn hear(&mut self) -> Bytes {
        let responses = &mut self.responses;
        let heard = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, responses.message()).await });
        heard.expect("something in time").expect("the stream lives").expect("the stream goes on")
    }
}

/// Moves what is under way on lines.
pub(super) fn runtime() -> Runtime {
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |place: usize| u8::from_str_radix(&hex[place..place + 2], 16).expect("two digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Names that came, then those that went, with a `-`.
fn names(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let here = response.resources.iter().map(|resource| resource.name.clone());
    here.chain(response.removed_resources.iter().map(|name| format!("-{name}"))).collect()
}

/// Whether the proxy of the file would have none of it.
fn is_bad(response: &DeltaDiscoveryResponse) -> bool {
    let bodies = response.resources.iter().filter_map(|resource| resource.resource.as_ref());
    bodies.into_iter().any(|any| String::from_utf8_lossy(&any.value).contains(BAD))
}

/// Lets today's proxy live with today's control, and tells what they said.
fn record() -> String {
    let (folder, runtime) = (Scratch::create("skew").expect("a folder"), runtime());
    let control = Control::start(&folder);
    let node = Node {
        id: "default/g@fixture:1".into(),
        cluster: "default/g".into(),
        user_agent_name: "evenkeel".into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").into())),
        client_features: KINDS.map(String::from).into(),
        ..Node::default()
    };
    let mut client = Client::new(node, BTreeMap::new(), 0);
    client.want(["Gateway/default/g/*"]);
    let (mut text, mut line) = (String::new(), None);
    for step in life() {
        let actions = match step {
            Step::Apply(documents) => {
                control.apply(&documents.replace(" --- ", "\n---\n"));
                writeln!(text, "apply {documents}").expect("a String takes all");
                continue;
            }
            Step::Delete(name) => {
                assert_eq!(control.ask(&format!("DELETE /api/v1/objects/{name}"), "", "").0, 200);
                writeln!(text, "delete {name}").expect("a String takes all");
                continue;
            }
            Step::Connect => {
                if line.replace(Line::open(&runtime, control.xds)).is_some() {
                    client.on_disconnected(0);
                }
                text += "connect\n";
                client.on_connected()
            }
            Step::Want(name) => client.want([name]),
            Step::Forget(name) => client.forget([name]),
            Step::Hear => {
                let heard = line.as_mut().expect("it is connected").hear();
                writeln!(text, "< {}", hex(&heard)).expect("a String takes all");
                let response = DeltaDiscoveryResponse::decode(heard).expect("a response");
                follow(&mut client, response)
            }
        };
        for action in actions {
            let message = sent(action).encode_to_vec();
            writeln!(text, "> {}", hex(&message)).expect("a String takes all");
            line.as_ref().expect("it is connected").say(message);
        }
    }
    text
}

/// Takes a response, or refuses it.
fn follow(client: &mut Client, response: DeltaDiscoveryResponse) -> Vec<Action> {
    let result = if is_bad(&response) { Err(vec!["it is bad".to_owned()]) } else { Ok(()) };
    let mut said = Vec::new();
    for action in client.on_response(response) {
        match action {
            Action::Apply(change) => said.extend(client.on_applied(&change, result.clone())),
            Action::Send(_) => said.push(action),
            Action::Disconnect(reason) => panic!("{reason}"),
        }
    }
    said
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/skew")
}

/// Every version's file.
fn lives() -> Vec<(String, String)> {
    let files = fs::read_dir(folder()).expect("a folder").flatten().map(|entry| entry.path());
    let lives: Vec<_> =
        files.map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("a text"))).collect();
    assert!(!lives.is_empty());
    lives
}

#[test]
fn what_is_said_in_a_life_is_what_is_recorded() {
    let path = folder().join(concat!("life-", env!("CARGO_PKG_VERSION"), ".txt"));
    let said = record();
    if std::env::var_os("EVENKEEL_REGENERATE").is_some() {
        fs::write(&path, &said).expect("a file");
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let differing = known.lines().zip(said.lines()).position(|(one, other)| one != other);
    assert!(
        known == said,
        "{}: line {} is said otherwise now: will versions that are out there go on together? Then run this test with \
         EVENKEEL_REGENERATE=1",
        path.display(),
        differing.map_or(known.lines().count().min(said.lines().count()), |place| place) + 1
    );
}

/// Plays the proxy of a file to today's control, which says the same, whatever the bytes are.
fn is_served(life: &str, text: &str, suffix: &[u8]) {
    let (folder, runtime) = (Scratch::create("skew").expect("a folder"), runtime());
    let control = Control::start(&folder);
    let (mut line, mut revision) = (None, 0);
    for (number, step) in text.lines().enumerate() {
        let context = format!("{life}:{}", number + 1);
        match step.split_once(' ').unwrap_or((step, "")) {
            ("apply", documents) => revision = control.apply(&documents.replace(" --- ", "\n---\n")),
            ("delete", name) => {
                let (status, answer) = control.ask(&format!("DELETE /api/v1/objects/{name}"), "", "");
                assert_eq!(status, 200, "{context}: {answer}");
                revision = answer["revision"].as_u64().expect("a number");
            }
            ("connect", _) => line = Some(Line::open(&runtime, control.xds)),
            (">", said) => line.as_ref().expect("it is connected").say([&bytes(said), suffix].concat()),
            ("<", heard) => {
                let expected = DeltaDiscoveryResponse::decode(&*bytes(heard)).expect("it was one");
                let found = line.as_mut().expect("it is connected").hear();
                let found = DeltaDiscoveryResponse::decode(found).expect("a response");
                assert_eq!(names(&found), names(&expected), "{context}");
                let of = |response: &DeltaDiscoveryResponse| {
                    let DeltaDiscoveryResponse { type_url, nonce, system_version_info, .. } = response.clone();
                    (type_url, nonce, system_version_info)
                };
                assert_eq!(of(&found), of(&expected), "{context}");
            }
            _ => panic!("{context}: {step:?} is nothing that happens"),
        }
    }
    let proxy = || control.proxy();
    until("everything in force", || {
        (proxy()["inForce"] == revision && proxy()["silentMilliseconds"].is_null()).then_some(())
    });
    let (_, status) = control.ask("GET /api/v1/objects/RateLimit/default/limit/status", "", "");
    assert_eq!(status["notEnforced"]["proxies"][0], "default/g@fixture:1", "{life}: {status}");
}

#[test]
fn older_proxies_are_served() {
    for (life, text) in lives() {
        is_served(&life, &text, &[]);
        // And later ones, which say what this control does not understand.
        is_served(&life, &text, LATER_FIELD);
    }
}

/// Plays the control of a file to today's proxy, which says the same.
fn follows(life: &str, text: &str, suffix: &[u8]) {
    let mut client = Client::new(Node::default(), BTreeMap::new(), 0);
    client.want(["Gateway/default/g/*"]);
    let mut said: Vec<DeltaDiscoveryRequest> = Vec::new();
    for (number, step) in text.lines().enumerate() {
        let context = format!("{life}:{}", number + 1);
        let actions = match step.split_once(' ').unwrap_or((step, "")) {
            ("connect", _) => {
                client.on_disconnected(0);
                client.on_connected()
            }
            ("<", heard) => {
                let heard = [&bytes(heard), suffix].concat();
                let response = DeltaDiscoveryResponse::decode(&*heard).expect("a response");
                for any in response.resources.iter().filter_map(|resource| resource.resource.as_ref()) {
                    is_understood(&context, any.value.clone());
                }
                follow(&mut client, response)
            }
            (">", expected) => {
                let expected = DeltaDiscoveryRequest::decode(&*bytes(expected)).expect("it was one");
                let expected = DeltaDiscoveryRequest { node: None, ..expected };
                if said.is_empty() {
                    // Something was needed, or no longer.
                    let (want, forget) = (&expected.resource_names_subscribe, &expected.resource_names_unsubscribe);
                    let actions = client.want(want.iter().map(|name| &**name)).into_iter();
                    said.extend(actions.chain(client.forget(forget.iter().map(|name| &**name))).map(request));
                }
                assert_eq!(said.remove(0), expected, "{context}");
                continue;
            }
            _ => continue,
        };
        assert!(said.is_empty(), "{context}: {said:?} was not said then");
        said.extend(actions.into_iter().map(request));
    }
    assert!(said.is_empty(), "{life}: {said:?} was not said then");
    let held: Vec<Arc<str>> = client.held().keys().cloned().collect();
    let expected =
        ["Endpoints/default/a", "Gateway/default/g", "Gateway/default/g/*", "HTTPRoute/default/r", "Service/default/a"];
    assert_eq!(held.iter().map(|name| &**name).collect::<Vec<_>>(), expected, "{life}");
}

/// What is to be sent, where everything else was done.
fn sent(action: Action) -> DeltaDiscoveryRequest {
    match action {
        Action::Send(request) => *request,
        other => panic!("{other:?}"),
    }
}

fn request(action: Action) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node: None, ..sent(action) }
}

/// A document that this build reads, endpoints, or the sign of a collection.
fn is_understood(context: &str, body: Bytes) {
    if body.is_empty() {
        return;
    }
    match v1::Resource::decode(body).expect("a resource").kind.unwrap_or_else(|| panic!("{context}: of which kind?")) {
        Kind::Document(document) => {
            let sources = [config::Source { name: "document".into(), bytes: document.text.to_vec() }];
            let read = config::document::documents(&sources);
            assert!(read.as_ref().is_ok_and(|all| all.len() == 1), "{context}: {read:?}");
        }
        Kind::Endpoints(endpoints) => {
            assert!(config::xds::service::instances(&endpoints).is_ok(), "{context}");
        }
    }
}

#[test]
fn an_older_control_is_followed() {
    for (life, text) in lives() {
        follows(&life, &text, &[]);
        follows(&life, &text, LATER_FIELD);
    }
}
