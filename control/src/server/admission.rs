//! What a proxy's stream passes before it is served, and the bounds that it keeps to: who it is, what it may subscribe to,
//! and how fast it may speak. Cold.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use config::wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use http::HeaderMap;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::access::{Action, Denied, Role};
use crate::server::guard::{Caller, Client, Guard, Stranger};
use crate::server::limits::{Pace, Place};
use crate::server::wire::{Busy, Link};

/// For a stream to say who it is and what it wants.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// What a proxy may say: it answers each change, and hardly anything else.
const REQUESTS: Pace = Pace { per_second: 1_000, burst: 5_000 };

/// Who asks for a single answer, if they may have a stream.
pub(crate) fn caller(guard: &Arc<Guard>, headers: &HeaderMap, link: &Link, what: &str) -> Result<Caller, Status> {
    let caller = guard.identify(headers, link.source, what).map_err(refuse)?;
    caller.may(&Action::Stream, what).map_err(denied)?;
    Ok(caller)
}

/// A stream that was let in.
pub(crate) struct Admission {
    caller: Caller,
    link: Arc<Link>,
    _busy: Busy,
    _place: Place<Client>,
}

impl Admission {
    /// Lets it in, or says why not.
    pub(crate) fn of(guard: &Arc<Guard>, headers: &HeaderMap, link: &Arc<Link>) -> Result<Admission, Status> {
        let caller = caller(guard, headers, link, "a proxy's stream")?;
        let place = caller.enter_stream().map_err(Status::resource_exhausted)?;
        link.prove();
        Ok(Admission { caller, link: link.clone(), _busy: link.enter(), _place: place })
    }

    /// Comes when it may no longer be here, and says why.
    pub(crate) fn ended(&self) -> impl Future<Output = Status> + Send + use<> {
        let (ended, name) = (self.caller.ended(), self.caller.identity.name.clone());
        async move {
            ended.await;
            Status::unauthenticated(format!("token {name} is revoked, or over"))
        }
    }

    /// Whether it may have nothing but what belongs to it.
    pub(crate) fn is_bound(&self) -> bool {
        self.caller.identity.role == Role::Proxy
    }

    /// Whether it may ask for this, and be whom it says it is.
    pub(crate) fn check(&self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node {
            let introduce = Action::Introduce { id: &node.id, cluster: &node.cluster };
            self.caller.may(&introduce, "a proxy's stream").map_err(denied)?;
            if !self.link.introduce(&node.id) {
                return Err(Status::permission_denied("each proxy has a connection of its own"));
            }
        }
        for name in &request.resource_names_subscribe {
            self.caller.may(&Action::Subscribe(name), "a proxy's stream").map_err(denied)?;
        }
        Ok(())
    }
}

/// How a stream speaks.
pub(crate) struct Speech {
    due: Instant,
    /// None: it has said who it is.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Speech {
    /// It has said nothing so far.
    pub(crate) fn begins() -> Speech {
        Speech { due: Instant::now(), silence: Some(Box::pin(sleep(FIRST_WITHIN))) }
    }

    /// It has said something. An error: too often.
    pub(crate) fn heard(&mut self) -> Result<(), Status> {
        self.silence = None;
        let too_often = |_| Status::resource_exhausted("more requests than changes can account for");
        self.due = REQUESTS.admit(self.due, Instant::now()).map_err(too_often)?;
        Ok(())
    }

    /// Ready: it says nothing.
    pub(crate) fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        silence.as_mut().poll(context).map(|()| Status::deadline_exceeded("it does not say what it wants"))
    }
}

pub(crate) fn denied(Denied(reason): Denied) -> Status {
    Status::permission_denied(reason)
}

fn refuse(stranger: Stranger) -> Status {
    let reason = stranger.reason();
    match stranger {
        // Proxies speak here, and their operators read it.
        Stranger::Unknown => Status::unauthenticated(
            "who is it? It has no token: start it with --token-file FILE (evenkeel token create --role proxy makes one)",
        ),
        Stranger::Wrong | Stranger::Over(_) => Status::unauthenticated(reason),
        Stranger::Browser => Status::permission_denied(reason),
        Stranger::TooOften(_) => Status::resource_exhausted(reason),
    }
}
