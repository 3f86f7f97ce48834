//! The gRPC side: one task for each proxy's stream, a thin shell around its machine; and what is known of all of them. Cold.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::xds::ENDPOINTS;
use config::xds::catalog::{Catalog, Changed};
use config::xds::server::Breach;
use futures_util::Stream as Responses;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel};
use tonic::{Request, Response, Status, Streaming};

use crate::server::admission::{Admission, Message};
use crate::server::ads::aggregated_discovery_service_server::AggregatedDiscoveryService;
use crate::server::feed::Feed;
use crate::server::fleet::{Fleet, Proxy};
use crate::server::guard::Guard;

/// Messages that wait for a slow proxy; its machine sends no more than two changes at a time, each perhaps in parts.
const WAITING_MAX: usize = 64;

/// All streams.
#[derive(Clone)]
pub(crate) struct Streams(Arc<Shared>);

struct Shared {
    feed: Arc<Feed>,
    fleet: Arc<Fleet>,
    guard: Arc<Guard>,
    next: AtomicU64,
}

impl Streams {
    pub(crate) fn new(feed: Arc<Feed>, fleet: Arc<Fleet>, guard: Arc<Guard>) -> Streams {
        Streams(Arc::new(Shared { feed, fleet, guard, next: AtomicU64::new(0) }))
    }
}

/// What happens on a stream.
enum News {
    /// There is something else to be had.
    Changed(Arc<Changed>),
    /// The proxy says something.
    Request(Box<DeltaDiscoveryRequest>),
}

/// A stream's place in the fleet, for as long as it lives.
struct Place {
    shared: Arc<Shared>,
    number: u64,
    proxy: Arc<Proxy>,
    /// It sees only what belongs to it.
    is_bound: bool,
}

/// Whether a resource belongs to one of the collections that are subscribed to, by now or in this request.
fn sees(catalog: &Catalog, subscribed: &BTreeSet<Arc<str>>, request: &DeltaDiscoveryRequest, name: &str) -> bool {
    let Some(service) = name.strip_prefix(ENDPOINTS) else { return true };
    let service = format!("Service/{service}");
    let all = subscribed.iter().map(|name| &**name).chain(request.resource_names_subscribe.iter().map(|name| &**name));
    all.filter_map(|name| catalog.collection(name)).any(|members| members.contains(&*service))
}

impl Place {
    /// Tells the machine, and takes from it what is to be sent.
    fn step(
        &self,
        changes: &mut UnboundedReceiver<Arc<Changed>>,
        news: News,
    ) -> Result<Vec<DeltaDiscoveryResponse>, Breach> {
        let catalog = self.shared.feed.catalog();
        let mut life = self.proxy.life();
        let (first, request) = match news {
            News::Changed(changed) => (Some(changed), None),
            News::Request(request) => (None, Some(request)),
        };
        // Whoever reads the catalog knows every change in it.
        for changed in first.into_iter().chain(std::iter::from_fn(|| changes.try_recv().ok())) {
            life.stream.on_change(&catalog, &changed);
        }
        if let Some(request) = request {
            let mut request = request;
            if self.is_bound {
                // What instances a Service has is for those who send to it. A proxy that was away may still ask for others.
                let is_seen = |name: &String| sees(&catalog, life.stream.subscribed(), &request, name);
                let seen = request.resource_names_subscribe.iter().filter(|name| is_seen(name)).cloned().collect();
                request.resource_names_subscribe = seen;
            }
            let names = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect::<Vec<Arc<str>>>();
            let (gone, new) = (names(&request.resource_names_unsubscribe), names(&request.resource_names_subscribe));
            life.stream.on_request(&catalog, *request)?;
            // While nothing can change: what comes from here on is told.
            self.shared.feed.followers.unsubscribe(self.number, &gone);
            self.shared.feed.followers.subscribe(self.number, &new);
        }
        let responses = life.stream.responses(&catalog);
        drop(life);
        self.shared.fleet.note(self.number, &self.proxy, &catalog, &responses);
        Ok(responses)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let followers = &self.shared.feed.followers;
        followers.unsubscribe(self.number, self.proxy.life().stream.subscribed());
        followers.remove(self.number);
        self.shared.fleet.forget(self.number);
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
        let admission = Admission::of(&self.0.guard, &request)?;
        let requests = request.into_inner();
        let (sender, mut receiver) = channel::<Message>(WAITING_MAX);
        let (number, proxy) = (self.0.next.fetch_add(1, Relaxed), Proxy::new());
        let place = Place { shared: self.0.clone(), number, proxy, is_bound: admission.is_bound() };
        tokio::spawn(async move {
            let served = tokio::select! {
                served = serve(&place, &admission, requests, &sender) => served,
                status = admission.ended() => Err(status),
            };
            if let Err(status) = served {
                admission.end(sender, status).await;
            }
        });
        let responses = futures_util::stream::poll_fn(move |context| {
            receiver.poll_recv(context).map(|message| message.map(|message| *message))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// The life of a stream: requests and changes in, responses out.
async fn serve(
    place: &Place,
    admission: &Admission,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    sender: &Sender<Message>,
) -> Result<(), Status> {
    let mut changes = place.shared.feed.followers.add(place.number);
    let mut pace = admission.pace();
    loop {
        let news = tokio::select! {
            request = pace.next(&mut requests) => match request? {
                None => return Ok(()),
                Some(request) => {
                    admission.check(&request)?;
                    News::Request(Box::new(request))
                }
            },
            Some(changed) = changes.recv() => News::Changed(changed),
            () = sender.closed() => return Ok(()),
        };
        let responses = place.step(&mut changes, news);
        let responses = responses.map_err(|Breach(reason)| Status::invalid_argument(reason))?;
        for response in responses {
            if !admission.send(sender, response).await? {
                return Ok(());
            }
        }
    }
}
