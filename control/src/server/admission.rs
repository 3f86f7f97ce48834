//! What a proxy's stream passes before it is served, and the bounds that it keeps to: who it is, what it may subscribe to,
//! how fast it may speak, and that it listens. Cold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc::Sender;
use tonic::{Request, Status, Streaming};

use crate::access::{Action, Denied, Role};
use crate::server::guard::{BROWSER, Caller, Client, Guard, Stranger};
use crate::server::limits::{Pace, Place};
use crate::server::wire::{Busy, Link};

/// For a stream to say who it is and what it wants.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// For a proxy that takes nothing of what waits for it.
const TAKE_WITHIN: Duration = Duration::from_secs(30);
/// What a proxy may say: it answers each change, and hardly anything else.
const REQUESTS: Pace = Pace { per_second: 1_000, burst: 5_000 };

/// What goes to a proxy. A channel has room for many of them from its beginning.
pub(crate) type Message = Box<Result<DeltaDiscoveryResponse, Status>>;

/// Who asks for a single answer, if they may have a stream.
pub(crate) fn caller<T>(guard: &Arc<Guard>, request: &Request<T>, what: &str) -> Result<Caller, Status> {
    let link = request.extensions().get::<Arc<Link>>();
    let source = link.map_or(([0, 0, 0, 0], 0).into(), |link| link.source);
    let headers = request.metadata().clone().into_headers();
    let caller = guard.identify(&headers, source, what).map_err(refuse)?;
    caller.may(&Action::Stream, what).map_err(denied)?;
    Ok(caller)
}

/// A stream that was let in.
pub(crate) struct Admission {
    caller: Caller,
    link: Option<Arc<Link>>,
    _busy: Option<Busy>,
    _place: Place<Client>,
}

impl Admission {
    /// Lets it in, or says why not.
    pub(crate) fn of<T>(guard: &Arc<Guard>, request: &Request<T>) -> Result<Admission, Status> {
        let link = request.extensions().get::<Arc<Link>>().cloned();
        let caller = caller(guard, request, "a proxy's stream")?;
        let place = caller.enter_stream().map_err(Status::resource_exhausted)?;
        if let Some(link) = &link {
            link.prove();
        }
        let busy = link.as_ref().map(|link| link.enter());
        Ok(Admission { caller, link, _busy: busy, _place: place })
    }

    /// Comes when it may no longer be here, and says why.
    pub(crate) async fn ended(&self) -> Status {
        self.caller.clone().ended().await;
        Status::unauthenticated(format!("token {} is revoked, or over", self.caller.identity.name))
    }

    /// How it speaks.
    pub(crate) fn pace(&self) -> Speech {
        Speech { due: Instant::now(), first_until: Some(tokio::time::Instant::now() + FIRST_WITHIN) }
    }

    /// Whether it may have nothing but what belongs to it.
    pub(crate) fn is_bound(&self) -> bool {
        self.caller.identity.role == Role::Proxy
    }

    /// Whether it may ask for this.
    pub(crate) fn check(&self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node {
            let introduce = Action::Introduce { id: &node.id, cluster: &node.cluster };
            self.caller.may(&introduce, "a proxy's stream").map_err(denied)?;
        }
        for name in &request.resource_names_subscribe {
            self.caller.may(&Action::Subscribe(name), "a proxy's stream").map_err(denied)?;
        }
        Ok(())
    }

    /// Hands a response to whatever sends it. False: the proxy has gone.
    pub(crate) async fn send(
        &self,
        sender: &Sender<Message>,
        response: DeltaDiscoveryResponse,
    ) -> Result<bool, Status> {
        match sender.send_timeout(Box::new(Ok(response)), TAKE_WITHIN).await {
            Ok(()) => Ok(true),
            Err(tokio::sync::mpsc::error::SendTimeoutError::Closed(_)) => Ok(false),
            Err(tokio::sync::mpsc::error::SendTimeoutError::Timeout(_)) => {
                Err(Status::deadline_exceeded("nothing of what waits was taken"))
            }
        }
    }

    /// Ends it with a reason; a proxy that does not listen even then loses its connection.
    pub(crate) async fn end(self, sender: Sender<Message>, status: Status) {
        let told = sender.send_timeout(Box::new(Err(status)), Duration::from_secs(1)).await;
        let is_heard = told.is_ok() && tokio::time::timeout(Duration::from_secs(1), sender.closed()).await.is_ok();
        if let (false, Some(link)) = (is_heard, &self.link) {
            link.cut();
        }
    }
}

/// How a stream speaks.
pub(crate) struct Speech {
    due: Instant,
    /// None: it has said who it is.
    first_until: Option<tokio::time::Instant>,
}

impl Speech {
    /// What it says next. May be dropped at any time and called again.
    pub(crate) async fn next(
        &mut self,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
    ) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let request = match self.first_until {
            None => requests.message().await,
            Some(until) => tokio::time::timeout_at(until, requests.message())
                .await
                .map_err(|_| Status::deadline_exceeded("it does not say what it wants"))?,
        }?;
        self.first_until = None;
        self.due = REQUESTS
            .admit(self.due, Instant::now())
            .map_err(|_| Status::resource_exhausted("more requests than changes can account for"))?;
        Ok(request)
    }
}

pub(crate) fn denied(Denied(reason): Denied) -> Status {
    Status::permission_denied(reason)
}

fn refuse(stranger: Stranger) -> Status {
    match stranger {
        Stranger::Unknown => Status::unauthenticated("who is it? send `authorization: Bearer TOKEN`"),
        Stranger::Wrong => Status::unauthenticated("this token is none, or no longer"),
        Stranger::Browser => Status::permission_denied(BROWSER),
        Stranger::TooOften(_) => Status::resource_exhausted("too many wrong tokens"),
    }
}
