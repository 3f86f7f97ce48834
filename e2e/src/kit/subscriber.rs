//! A proxy as control sees it: the real machine of a proxy's end on a real stream, and nothing behind it. A test says what
//! it takes and what it refuses. Cold.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use config::wire::envoy::config::core::v3::Node;
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::wire::evenkeel::v1::{self, Member, resource::Kind};
use config::xds::client::{Action, Change, Client, Held};
use prost::Message as _;
use proxy::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

use super::{PATIENCE, Speaker};

/// A change that a proxy took, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Took {
    /// The revision that it completes.
    pub revision: u64,
    /// Names that came or changed, then names that went, each with a `-` before it.
    pub names: Vec<String>,
}

/// One proxy.
pub struct Subscriber {
    /// Of a thread that moves what is under way on the stream.
    runtime: Handle,
    /// Ends that thread.
    end: oneshot::Sender<()>,
    thread: Option<JoinHandle<()>>,
    client: Client,
    stream: Option<(UnboundedSender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>)>,
    /// The connection that this is on, and its token.
    way: Option<(Channel, Option<String>)>,
    waiting: VecDeque<Change>,
    /// Texts that a document it refuses contains.
    pub refuses: Option<&'static str>,
}

impl Subscriber {
    /// One that wants these, and is not connected.
    pub fn new(id: &str, wanted: &[&str]) -> Subscriber {
        Subscriber::knowing(id, &[], wanted)
    }

    /// One that knows no other kinds of document than these.
    pub fn knowing(id: &str, kinds: &[&str], wanted: &[&str]) -> Subscriber {
        let client_features = kinds.iter().map(|kind| kind.to_string()).collect();
        // As gateways call themselves; others belong to nothing.
        let cluster = id.split_once('@').map_or("", |(cluster, _)| cluster).into();
        let node = Node { id: id.into(), cluster, client_features, ..Node::default() };
        let mut client = Client::new(node, BTreeMap::new(), 0);
        client.want(wanted.iter().copied());
        let (runtime, end, thread) = engine();
        Subscriber {
            runtime,
            end,
            thread: Some(thread),
            client,
            stream: None,
            way: None,
            waiting: VecDeque::new(),
            refuses: None,
        }
    }

    /// Connects, or connects anew.
    pub fn connect(&mut self, control: SocketAddr) {
        let endpoint = Endpoint::from_shared(format!("http://{control}")).expect("an address");
        self.open(endpoint, None);
    }

    /// The same over TLS, with the CA of control as PEM and a token.
    pub fn connect_with(&mut self, control: SocketAddr, ca: &str, token: &str) {
        let endpoint = Endpoint::from_shared(format!("https://{control}")).expect("an address");
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
        self.open(endpoint.tls_config(tls).expect("a CA"), Some(token));
    }

    fn open(&mut self, endpoint: Endpoint, token: Option<&str>) {
        if self.stream.is_some() {
            self.lose();
        }
        let channel = self.runtime.block_on(endpoint.connect()).expect("control listens");
        self.way = Some((channel.clone(), token.map(str::to_owned)));
        self.stream = Some(self.runtime.block_on(async {
            let (sender, mut receiver) = unbounded_channel();
            let mut request = Request::new(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)));
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token"));
            }
            let mut service = AggregatedDiscoveryServiceClient::new(channel);
            // The server answers with the head at once.
            let responses = service.delta_aggregated_resources(request).await.expect("a stream");
            (sender, responses.into_inner())
        }));
        let actions = self.client.on_connected();
        self.act(actions);
    }

    /// Speaks for an instance, too, on the same connection.
    pub fn join(&self, member: Member) -> Speaker {
        let (channel, token) = self.way.clone().expect("it is connected");
        Speaker::open(&self.runtime, channel, token.as_deref(), member)
    }

    /// Loses its connection, as whoever is cut off does.
    pub fn lose(&mut self) {
        let (runtime, end, thread) = engine();
        self.runtime = runtime;
        // Without a word: a stream that is dropped while its connection lives says that it ends.
        drop(std::mem::replace(&mut self.end, end));
        let ended = self.thread.replace(thread).expect("there is always one");
        ended.join().expect("it moves bytes");
        (self.stream, self.way) = (None, None);
        self.client.on_disconnected(0);
        self.waiting.clear();
    }

    /// The instances that requests may go to by what is in force of a resource, each `ADDRESS:PORT`.
    pub fn endpoints(&self, resource: &str) -> Vec<String> {
        let Some(held) = self.client.held().get(resource) else { return Vec::new() };
        let Ok(v1::Resource { kind: Some(Kind::Endpoints(told)) }) = v1::Resource::decode(held.body.clone()) else {
            return Vec::new();
        };
        let instances = config::xds::service::instances(&told).expect("they can be");
        let shown = |one: &config::snapshot::discovery::Instance| {
            format!("{}:{}", one.address, one.ports.values().next().expect("a port"))
        };
        instances.iter().map(shown).collect()
    }

    /// Ends its stream as a proxy that ends does.
    pub fn leave(&mut self) {
        let (sender, mut responses) = self.stream.take().expect("it is connected");
        drop(sender);
        // Whatever is still under way.
        self.runtime.block_on(async { while let Ok(Some(_)) = responses.message().await {} });
    }

    /// Waits for the next change, takes or refuses it, and tells which it was.
    pub fn take(&mut self) -> Took {
        while self.waiting.is_empty() {
            let response = self.hear(PATIENCE).expect("a response in time");
            let actions = self.client.on_response(response);
            self.act(actions);
        }
        let change = self.waiting.pop_front().expect("one waits");
        let is_refused = |held: &Held| self.refuses.is_some_and(|word| text(held).contains(word));
        let refused: Vec<String> = change
            .resources
            .iter()
            .filter(|(_, held)| held.as_ref().is_some_and(is_refused))
            .map(|(name, _)| format!("{name} is refused"))
            .collect();
        let actions = self.client.on_applied(&change, if refused.is_empty() { Ok(()) } else { Err(refused) });
        self.act(actions);
        let here = change.resources.iter().filter(|(_, held)| held.is_some()).map(|(name, _)| name.to_string());
        let gone = change.resources.iter().filter(|(_, held)| held.is_none()).map(|(name, _)| format!("-{name}"));
        Took { revision: change.revision, names: here.chain(gone).collect() }
    }

    /// Whether nothing comes for that long.
    pub fn hears_nothing_for(&mut self, time: Duration) -> bool {
        self.waiting.is_empty() && self.hear(time).is_none()
    }

    /// What is in force, by name.
    pub fn held(&self) -> BTreeMap<Arc<str>, String> {
        self.client.held().iter().map(|(name, held)| (name.clone(), text(held))).collect()
    }

    fn hear(&mut self, time: Duration) -> Option<DeltaDiscoveryResponse> {
        let (_, responses) = self.stream.as_mut().expect("it is connected");
        let heard = self.runtime.block_on(async { tokio::time::timeout(time, responses.message()).await.ok() });
        heard.map(|response| response.expect("the stream lives").expect("the stream goes on"))
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Apply(change) => self.waiting.push_back(change),
                Action::Disconnect(reason) => panic!("{reason}"),
                Action::Send(request) => {
                    let (sender, _) = self.stream.as_ref().expect("it is connected");
                    sender.send(*request).expect("the stream lives");
                }
            }
        }
    }
}

/// A thread that moves what is under way on connections, until it is told to end.
fn engine() -> (Handle, oneshot::Sender<()>, JoinHandle<()>) {
    let (end, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let handle = runtime.handle().clone();
    let thread = std::thread::spawn(move || drop(runtime.block_on(ended)));
    (handle, end, thread)
}

/// The text of a document; empty for what is none.
fn text(held: &Held) -> String {
    match v1::Resource::decode(held.body.clone()).ok().and_then(|resource| resource.kind) {
        Some(Kind::Document(document)) => String::from_utf8_lossy(&document.text).into_owned(),
        _ => String::new(),
    }
}
