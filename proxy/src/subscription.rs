//! Rules from control: a thin shell around the machine of a proxy's end. It connects, and connects anew for as long as the
//! process lives; what comes is handed to whoever puts rules in force, one change after the other. Cold.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use config::Source;
use config::wire::envoy::config::core::v3::node::UserAgentVersionType;
use config::wire::envoy::config::core::v3::{Locality, Node};
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::wire::evenkeel::v1::{self, resource::Kind};
use config::xds::client::{Action, Change, Client};
use prost::Message as _;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedSender, channel, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::log::event;

/// For a connection, until it stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection without news is asked whether it is still there, and how long it may take to say so.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
const ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// Documents of one message are bounded by control; this is beyond it.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// All rules as control has them now, and whom to tell whether they are in force.
pub(crate) struct Offer {
    pub(crate) revision: u64,
    /// One for each document; problems name it.
    pub(crate) sources: Vec<Source>,
    pub(crate) answer: oneshot::Sender<Result<(), Vec<String>>>,
}

/// The way to control.
pub(crate) struct Subscription {
    offers: Receiver<Offer>,
    again: Sender<()>,
}

impl Subscription {
    /// Subscribes to what belongs to a Gateway, `NAMESPACE/NAME`.
    pub(crate) fn start(control: SocketAddr, gateway: &str, zone: Option<&str>) -> Subscription {
        let node = Node {
            // Unlike that of a gateway on another machine, or before.
            id: format!("{gateway}@{}:{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id()),
            cluster: gateway.to_owned(),
            locality: zone.map(|zone| Locality { zone: zone.into(), ..Locality::default() }),
            user_agent_name: "evenkeel".into(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").into())),
            client_features: config::kinds().map(String::from).collect(),
        };
        let mut client = Client::new(node, BTreeMap::new(), 0);
        client.want([&*format!("Gateway/{gateway}/*")]);
        let (offers, offered) = channel(1);
        let (again, wanted_again) = channel(1);
        let life = Life {
            control,
            client,
            documents: BTreeMap::new(),
            changes: VecDeque::new(),
            current: None,
            line: Line::Down { until: Instant::now() },
            is_told: false,
        };
        tokio::spawn(life.run(offers, wanted_again));
        Subscription { offers: offered, again }
    }

    /// The next rules. May be dropped at any time and called again.
    pub(crate) async fn next(&mut self) -> Option<Offer> {
        self.offers.recv().await
    }

    /// What was refused is in force after all: control shall hear it.
    pub(crate) fn introduce_again(&self) {
        // One that waits stands for this one.
        let _ = self.again.try_send(());
    }
}

type Opened = Result<(UnboundedSender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), Status>;

/// The connection.
enum Line {
    Down { until: Instant },
    Opening(tokio::task::JoinHandle<Opened>),
    Up(UnboundedSender<DeltaDiscoveryRequest>, Box<Streaming<DeltaDiscoveryResponse>>),
}

/// A change that was handed out.
struct Current {
    change: Change,
    /// What is in force if it is taken.
    documents: BTreeMap<Arc<str>, Source>,
    answer: oneshot::Receiver<Result<(), Vec<String>>>,
}

struct Life {
    control: SocketAddr,
    client: Client,
    /// What is in force.
    documents: BTreeMap<Arc<str>, Source>,
    changes: VecDeque<Change>,
    current: Option<Current>,
    line: Line,
    /// That the connection is gone; again only after there was one.
    is_told: bool,
}

impl Life {
    async fn run(mut self, offers: Sender<Offer>, mut again: Receiver<()>) {
        loop {
            if self.current.is_none()
                && let Some(change) = self.changes.pop_front()
            {
                let next = self.documents_after(&change);
                let (answer, answered) = oneshot::channel();
                let offer = Offer { revision: change.revision, sources: next.values().cloned().collect(), answer };
                if offers.send(offer).await.is_err() {
                    return;
                }
                self.current = Some(Current { change, documents: next, answer: answered });
            }
            tokio::select! {
                answer = async { (&mut self.current.as_mut().expect("checked").answer).await }, if self.current.is_some() => {
                    // Whoever ends without a word did not put it in force.
                    self.answered(answer.unwrap_or_else(|_| Err(vec!["the proxy ends".into()])));
                }
                Some(()) = again.recv() => self.lose("what was refused is in force after all"),
                () = offers.closed() => return,
                news = news(&mut self.line) => self.on_news(news),
            }
        }
    }

    fn documents_after(&self, change: &Change) -> BTreeMap<Arc<str>, Source> {
        let mut documents = self.documents.clone();
        for (name, held) in &change.resources {
            let resource = held.as_ref().and_then(|held| v1::Resource::decode(held.body.clone()).ok());
            match resource.and_then(|resource| resource.kind) {
                Some(Kind::Document(document)) => {
                    let source = Source { name: name.clone(), bytes: document.text.to_vec() };
                    documents.insert(name.clone(), source);
                }
                _ => drop(documents.remove(name)),
            }
        }
        documents
    }

    fn answered(&mut self, result: Result<(), Vec<String>>) {
        let Some(Current { change, documents, .. }) = self.current.take() else { return };
        if result.is_ok() {
            self.documents = documents;
        }
        let actions = self.client.on_applied(&change, result);
        self.act(actions);
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Time => self.line = Line::Opening(tokio::spawn(open(self.control))),
            News::Opened(Ok((sender, responses))) => {
                event("info", &format!("connected to control at {}", self.control));
                self.is_told = false;
                self.line = Line::Up(sender, Box::new(responses));
                let actions = self.client.on_connected();
                self.act(actions);
            }
            News::Opened(Err(status)) => self.lose(status.message()),
            News::Response(Ok(response)) => {
                let actions = self.client.on_response(response);
                self.act(actions);
            }
            News::Response(Err(status)) => self.lose(status.message()),
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match (action, &self.line) {
                (Action::Apply(change), _) => self.changes.push_back(change),
                (Action::Disconnect(reason), _) => self.lose(&reason),
                (Action::Send(request), Line::Up(sender, _)) => {
                    // A stream that has just ended is noticed where it is read.
                    let _ = sender.send(*request);
                }
                (Action::Send(_), _) => {}
            }
        }
    }

    fn lose(&mut self, reason: &str) {
        let pause = self.client.on_disconnected(RandomState::new().hash_one(self.control));
        self.line = Line::Down { until: Instant::now() + pause };
        if !std::mem::replace(&mut self.is_told, true) {
            event("warn", &format!("control at {} is not there, its last rules stay in force: {reason}", self.control));
        }
    }
}

/// What a line has to say.
enum News {
    /// It is time to open it.
    Time,
    Opened(Opened),
    Response(Result<DeltaDiscoveryResponse, Status>),
}

async fn news(line: &mut Line) -> News {
    match line {
        Line::Down { until } => {
            tokio::time::sleep_until(*until).await;
            News::Time
        }
        Line::Opening(opening) => {
            News::Opened(opening.await.unwrap_or_else(|error| Err(Status::internal(error.to_string()))))
        }
        Line::Up(_, responses) => match responses.message().await {
            Ok(Some(response)) => News::Response(Ok(response)),
            Ok(None) => News::Response(Err(Status::unavailable("it ended the stream"))),
            Err(status) => News::Response(Err(status)),
        },
    }
}

async fn open(control: SocketAddr) -> Opened {
    let endpoint = Endpoint::from_shared(format!("http://{control}")).map_err(failed)?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    let endpoint = endpoint.http2_keep_alive_interval(ALIVE_EVERY).keep_alive_timeout(ALIVE_WITHIN);
    let channel: Channel = endpoint.connect().await.map_err(failed)?;
    let (sender, mut receiver) = unbounded_channel();
    let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let responses = tokio::time::timeout(CONNECT_TIMEOUT, service.delta_aggregated_resources(requests)).await;
    let responses = responses.map_err(|_| Status::deadline_exceeded("it does not answer"))??;
    Ok((sender, responses.into_inner()))
}

/// What is behind an error, too: that of the transport says only that there is one.
fn failed(error: tonic::transport::Error) -> Status {
    let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
    Status::unavailable(format!("{error}{cause}"))
}
