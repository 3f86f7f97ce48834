//! The gRPC side: one task for each proxy's stream, a thin shell around its machine; and what is known of all of them. Cold.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::xds::server::{Breach, Limits, Stream};
use futures_util::Stream as Responses;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, channel};
use tonic::{Request, Response, Status, Streaming};

use crate::server::ads::aggregated_discovery_service_server::AggregatedDiscoveryService;
use crate::server::feed::Feed;

/// Messages that wait for a slow proxy; its machine sends no more than two changes at a time, each perhaps in parts.
const WAITING_MAX: usize = 64;

/// All streams.
#[derive(Clone)]
pub(crate) struct Streams(Arc<Shared>);

struct Shared {
    feed: Arc<Feed>,
    next: AtomicU64,
    known: Mutex<BTreeMap<u64, Proxy>>,
}

/// A proxy that is connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxy {
    id: String,
    version: String,
    /// Everything up to this is in force there.
    in_force: u64,
    /// What it did not take, and why.
    refused: Vec<(Vec<String>, String)>,
}

impl Streams {
    pub(crate) fn new(feed: Arc<Feed>) -> Streams {
        Streams(Arc::new(Shared { feed, next: AtomicU64::new(0), known: Mutex::default() }))
    }

    /// Who is connected, and how far each is.
    pub(crate) fn proxies(&self) -> Value {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let proxy = |proxy: &Proxy| {
            let refused = |(names, reason): &(Vec<String>, String)| json!({ "objects": names, "reason": reason });
            json!({
                "id": proxy.id,
                "version": proxy.version,
                "inForce": proxy.in_force,
                "refused": proxy.refused.iter().map(refused).collect::<Vec<_>>(),
            })
        };
        json!({ "revision": self.0.feed.catalog().revision(), "proxies": known.values().map(proxy).collect::<Vec<_>>() })
    }
}

/// A stream's place among those that are known, for as long as it lives.
struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Place {
    fn tell(&self, stream: &Stream) {
        let Some(node) = stream.node() else { return };
        let version = node.user_agent_version_type.as_ref().map(|version| {
            let config::wire::envoy::config::core::v3::node::UserAgentVersionType::UserAgentVersion(text) = version;
            text.clone()
        });
        let refused = stream.refused().iter().map(|one| (one.names().map(String::from).collect(), one.reason.clone()));
        let proxy = Proxy {
            id: node.id.clone(),
            version: version.unwrap_or_default(),
            in_force: stream.in_force(&self.shared.feed.catalog()),
            refused: refused.collect(),
        };
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, proxy);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Streams {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Responses<Item = Result<DeltaDiscoveryResponse, Status>> + Send + 'static>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let requests = request.into_inner();
        let (sender, mut receiver) = channel(WAITING_MAX);
        let place = Place { shared: self.0.clone(), number: self.0.next.fetch_add(1, Relaxed) };
        tokio::spawn(async move {
            if let Err(status) = serve(&place, requests, &sender).await {
                // Who has gone does not need to know.
                let _ = sender.send(Err(status)).await;
            }
        });
        let responses = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        Ok(Response::new(Box::pin(responses)))
    }
}

/// The life of a stream: requests and changes in, responses out.
async fn serve(
    place: &Place,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    sender: &tokio::sync::mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let feed = &place.shared.feed;
    let mut changes = feed.followers.add(place.number);
    let mut stream = Following { place, stream: Stream::new(Limits::default()) };
    let stream = &mut stream.stream;
    loop {
        tokio::select! {
            request = requests.message() => match request? {
                None => return Ok(()),
                Some(request) => on_request(place, stream, &mut changes, request)
                    .map_err(|Breach(reason)| Status::invalid_argument(reason))?,
            },
            Some(changed) = changes.recv() => stream.on_change(&feed.catalog(), &changed),
            () = sender.closed() => return Ok(()),
        }
        let responses = next(feed, stream, &mut changes);
        place.tell(stream);
        for response in responses {
            if sender.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// A stream whose subscriptions end with it.
struct Following<'p> {
    place: &'p Place,
    stream: Stream,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        let followers = &self.place.shared.feed.followers;
        followers.unsubscribe(self.place.number, self.stream.subscribed());
        followers.remove(self.place.number);
    }
}

fn on_request(
    place: &Place,
    stream: &mut Stream,
    changes: &mut UnboundedReceiver<Arc<config::xds::catalog::Changed>>,
    request: DeltaDiscoveryRequest,
) -> Result<(), Breach> {
    let feed = &place.shared.feed;
    let catalog = feed.catalog();
    while let Ok(changed) = changes.try_recv() {
        stream.on_change(&catalog, &changed);
    }
    let gone: Vec<Arc<str>> = request.resource_names_unsubscribe.iter().map(|name| name.as_str().into()).collect();
    let new: Vec<Arc<str>> = request.resource_names_subscribe.iter().map(|name| name.as_str().into()).collect();
    stream.on_request(&catalog, request)?;
    // While nothing can change: what comes from here on is told.
    feed.followers.unsubscribe(place.number, &gone);
    feed.followers.subscribe(place.number, &new);
    Ok(())
}

fn next(
    feed: &Feed,
    stream: &mut Stream,
    changes: &mut UnboundedReceiver<Arc<config::xds::catalog::Changed>>,
) -> Vec<DeltaDiscoveryResponse> {
    let catalog = feed.catalog();
    while let Ok(changed) = changes.try_recv() {
        stream.on_change(&catalog, &changed);
    }
    stream.responses(&catalog)
}
