//! The streams of proxies: each is a thin shell around its machine, polled by the task of its connection. Cold.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::xds::catalog::{Catalog, Changed};
use config::xds::server::{Breach, Limits, Stream};
use config::xds::{ENDPOINTS, TYPE};
use http::HeaderMap;
use tokio::sync::mpsc::UnboundedReceiver;
use tonic::Status;

use crate::server::admission::{Admission, Speech};
use crate::server::feed::Feed;
use crate::server::fleet::{Fleet, Leave, Proxy};
use crate::server::grpc::Exchange;
use crate::server::guard::Guard;
use crate::server::wire::Link;

/// The field of a stream's head in which a proxy says for which instance it will speak, `NAMESPACE/SERVICE/NAME`.
const INSTANCE: &str = "evenkeel-instance";

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

    /// Lets a proxy in, or says why not.
    pub(crate) fn begin(&self, headers: &HeaderMap, link: &Arc<Link>) -> Result<Discovery, Status> {
        let instance = headers.get(INSTANCE).and_then(|value| value.to_str().ok()).map(Box::from);
        let admission = Admission::of(&self.0.guard, headers, link).inspect_err(|status| {
            self.0.fleet.note_refused(instance.as_deref(), status, false);
        })?;
        let (number, proxy) = (self.0.next.fetch_add(1, Relaxed), Proxy::new(Some(link.clone())));
        let place =
            Place { shared: self.0.clone(), number, proxy, is_bound: admission.is_bound(), leave: Leave::Broken };
        Ok(Discovery {
            speech: Speech::begins(),
            ended: Box::pin(admission.ended()),
            changes: self.0.feed.followers.add(number),
            waiting: VecDeque::new(),
            is_behind: false,
            unseen: BTreeSet::new(),
            instance,
            place,
            admission,
        })
    }
}

/// What happens on a stream.
enum News {
    /// There is something else to be had.
    Changed(Arc<Changed>),
    /// There was, while it could not be told.
    HasChanged,
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
    /// How it leaves, if it did now.
    leave: Leave,
}

/// What instances a Service has is for those who send to it: what a proxy asks for beyond that waits until it belongs to one
/// of its collections, as it sees them. It does not ask again.
fn narrow(
    catalog: &Catalog,
    stream: &Stream,
    request: Option<DeltaDiscoveryRequest>,
    unseen: &mut BTreeSet<String>,
) -> Result<Option<DeltaDiscoveryRequest>, Breach> {
    if request.is_none() && unseen.is_empty() {
        return Ok(None);
    }
    let begins = request.is_some();
    let mut request = request.unwrap_or_else(|| DeltaDiscoveryRequest { type_url: TYPE.into(), ..Default::default() });
    for name in &request.resource_names_unsubscribe {
        unseen.remove(name);
    }
    unseen.extend(std::mem::take(&mut request.resource_names_subscribe));
    if unseen.len() > Limits::default().names_max {
        return Err(Breach(format!("more than {} resources", Limits::default().names_max)));
    }
    let id = stream.node().or(request.node.as_ref()).map_or("", |node| &node.id);
    let collections = stream.subscribed().iter().map(|name| &**name).chain(unseen.iter().map(|name| &**name));
    let collections: Vec<_> = collections.filter_map(|name| catalog.collection_of(id, name)).collect();
    let is_seen = |name: &String| {
        let service = name.strip_prefix(ENDPOINTS).map(|service| format!("Service/{service}"));
        service.is_none_or(|service| collections.iter().any(|members| members.contains(&*service)))
    };
    let seen: Vec<String> = unseen.iter().filter(|name| is_seen(name)).cloned().collect();
    for name in &seen {
        unseen.remove(name);
    }
    let is_idle = !begins && seen.is_empty();
    request.resource_names_subscribe = seen;
    Ok(Some(request).filter(|_| !is_idle))
}

impl Place {
    /// Tells the machine, and takes from it what is to be sent.
    fn step(
        &self,
        changes: &mut UnboundedReceiver<Arc<Changed>>,
        unseen: &mut BTreeSet<String>,
        news: News,
    ) -> Result<Vec<DeltaDiscoveryResponse>, Breach> {
        let catalog = self.shared.feed.catalog();
        let mut life = self.proxy.life();
        let has_changed = matches!(news, News::HasChanged);
        let (first, request) = match news {
            News::Changed(changed) => (Some(changed), None),
            News::HasChanged => (None, None),
            News::Request(request) => (None, Some(*request)),
        };
        // What a proxy may have depends on what its collections have.
        let mut may_see_more = request.is_some() || has_changed;
        // Whoever reads the catalog knows every change in it.
        for changed in first.into_iter().chain(std::iter::from_fn(|| changes.try_recv().ok())) {
            may_see_more |= !changed.collections.is_empty();
            life.stream.on_change(&catalog, &changed);
        }
        let request = match self.is_bound && may_see_more {
            true => narrow(&catalog, &life.stream, request, unseen)?,
            false => request,
        };
        if let Some(request) = request {
            let names = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect::<Vec<Arc<str>>>();
            let (gone, new) = (names(&request.resource_names_unsubscribe), names(&request.resource_names_subscribe));
            life.stream.on_request(&catalog, request)?;
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

impl Place {
    /// Tells the machine what changes, and takes nothing from it: there it is one piece of news, however much it is.
    fn follow(&self, changes: &mut UnboundedReceiver<Arc<Changed>>, context: &mut Context<'_>) -> bool {
        let mut has_changed = false;
        while let Poll::Ready(Some(changed)) = changes.poll_recv(context) {
            // The catalog first.
            let catalog = self.shared.feed.catalog();
            self.proxy.life().stream.on_change(&catalog, &changed);
            has_changed = true;
        }
        has_changed
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let followers = &self.shared.feed.followers;
        followers.unsubscribe(self.number, self.proxy.life().stream.subscribed());
        followers.remove(self.number);
        self.shared.fleet.forget(self.number, self.leave.clone());
    }
}

/// One proxy's stream.
pub(crate) struct Discovery {
    place: Place,
    admission: Admission,
    speech: Speech,
    /// Comes when it may no longer be here.
    ended: Pin<Box<dyn Future<Output = Status> + Send>>,
    changes: UnboundedReceiver<Arc<Changed>>,
    /// To be said. Its bytes are everybody's: they are written down when there is room for them.
    waiting: VecDeque<DeltaDiscoveryResponse>,
    /// There is more for it since it was told last.
    is_behind: bool,
    /// What it asked for, and is not to have so far.
    unseen: BTreeSet<String>,
    /// For whom it will speak, as it says: should it be refused, it is looked for among the instances.
    instance: Option<Box<str>>,
}

impl Discovery {
    /// The life of a stream: requests and changes in, responses out. Ready: it has ended.
    pub(crate) fn poll(&mut self, exchange: &mut Exchange, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Exchange { incoming, outgoing } = exchange;
        if let Poll::Ready(status) = self.ended.as_mut().poll(context) {
            self.place.leave = Leave::SentAway(status.message().into());
            return Poll::Ready(Err(status));
        }
        loop {
            // Whoever does not listen is not listened to. What changes meanwhile must not pile up.
            if outgoing.poll_taken(context)?.is_pending() {
                self.is_behind |= self.place.follow(&mut self.changes, context);
                return Poll::Pending;
            }
            if let Some(response) = self.waiting.pop_front() {
                outgoing.say(&response);
                continue;
            }
            let news = match incoming.poll_next(context)? {
                Poll::Ready(None) => {
                    self.place.leave = Leave::Orderly;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(request)) => {
                    self.speech.heard()?;
                    self.admission.check(&request).inspect_err(|status| {
                        self.place.shared.fleet.note_refused(self.instance.as_deref(), status, true);
                    })?;
                    News::Request(Box::new(request))
                }
                Poll::Pending if std::mem::take(&mut self.is_behind) => News::HasChanged,
                Poll::Pending => match self.changes.poll_recv(context) {
                    Poll::Ready(Some(changed)) => News::Changed(changed),
                    Poll::Ready(None) | Poll::Pending => return self.speech.poll_silence(context).map(Err),
                },
            };
            let responses = self.place.step(&mut self.changes, &mut self.unseen, news);
            self.waiting = responses.map_err(|Breach(reason)| Status::invalid_argument(reason))?.into();
        }
    }
}
