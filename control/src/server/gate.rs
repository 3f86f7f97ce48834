//! What every request of the REST API passes before it is carried out: who it is, whether they may, how often, and how
//! large. A route that does not say otherwise can be read by whoever reads, and changed by whoever changes documents. Cold.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc::Receiver;

use crate::access::Action;
use crate::server::answer::Fault;
use crate::server::guard::{Caller, Client, Guard, Stranger};
use crate::server::limits::Place;
use crate::server::wire::{Busy, Link, Wire};

/// Of one request.
pub(crate) const BODY_BYTES_MAX: usize = 32 << 20;
/// For a body to be there, and for the next head on a connection.
const BODY_WITHIN: Duration = Duration::from_secs(60);
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Of one head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Serves connections for as long as there are some.
pub(crate) async fn serve(mut wires: Receiver<Wire>, router: Router) {
    while let Some(wire) = wires.recv().await {
        let link = wire.link().clone();
        let router = TowerToHyperService::new(router.clone());
        let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(link.clone());
            hyper::service::Service::call(&router, request)
        });
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES_MAX);
            // What is wrong with a connection was told to whoever made it.
            let _ = builder.serve_connection(TokioIo::new(wire), service).await;
        });
    }
}

/// Lets a request through, or says why not.
pub(crate) async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match admit(&guard, request).await {
        Ok((request, mut hold)) => {
            let response = tokio::select! {
                response = next.run(request) => response,
                () = over(&mut hold.ended) => return refuse(Stranger::Wrong),
            };
            told(response).await.map(|body| Body::new(Held { body, hold }))
        }
        Err(response) => *response,
    }
}

/// Says what is wrong in the form in which everything is said, where the framework did so in words of its own, or in none.
async fn told(response: Response) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json || !(response.status().is_client_error() || response.status().is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    // It is ours, and is there.
    let words = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    let reason = match (parts.status, &*words) {
        (StatusCode::METHOD_NOT_ALLOWED, "") => "there is no such method here; `allow` names those that there are",
        (status, "") => status.canonical_reason().unwrap_or_default(),
        (_, words) => words,
    };
    let mut told = Fault::new(parts.status, reason).into_response();
    told.headers_mut().extend(parts.headers.get(header::ALLOW).map(|methods| (header::ALLOW, methods.clone())));
    told
}

/// What an answer keeps for as long as it is under way.
struct Hold {
    _place: Place<Client>,
    /// For the body of the request.
    _room: Place<Client>,
    _busy: Option<Busy>,
    /// Comes when whoever asked is no longer who they were. None: what they began changes something, and is carried out.
    ended: Option<Ended>,
}

type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn over(ended: &mut Option<Ended>) {
    match ended {
        Some(ended) => ended.await,
        None => std::future::pending().await,
    }
}

async fn admit(guard: &Arc<Guard>, mut request: Request) -> Result<(Request, Hold), Box<Response>> {
    let refused = |fault: Fault| Box::new(fault.into_response());
    let link = request.extensions().get::<Arc<Link>>().cloned();
    let source = link.as_ref().map_or(([0, 0, 0, 0], 0).into(), |link| link.source);
    let what = format!("{} {}", request.method(), request.uri().path());
    let caller = guard.identify(request.headers(), source, &what).map_err(|stranger| Box::new(refuse(stranger)))?;
    if let Some(link) = &link {
        link.prove();
    }
    let busy = link.as_ref().map(|link| link.enter());
    let too_many = |wait: Duration, reason: &str| {
        let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, format!("{}: {reason}", caller.identity.name));
        refused(fault.retry_after(wait))
    };
    let second = Duration::from_secs(1);
    let (client, path) = (caller.client(), request.uri().path());
    guard
        .requests
        .admit(client.clone(), Instant::now())
        .map_err(|wait| too_many(wait, "too many requests in a second"))?;
    caller.may(&action(&request), &what).map_err(|denied| refused(denied.into()))?;
    let is_watch = path == "/api/v1/watch";
    let places = if is_watch { &guard.watch_places } else { &guard.request_places };
    let place = places.take(&client, 1).ok_or_else(|| too_many(second, "too many requests at the same time"))?;
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let ended: Option<Ended> = if is_read { Some(Box::pin(caller.ended())) } else { None };
    let mut room = guard.body_bytes.take(&client, 0).ok_or_else(|| too_many(second, "too much at the same time"))?;
    let (mut parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_WITHIN, collect(body, &mut room)).await {
        Ok(Ok(body)) => body,
        Ok(Err(Unread::TooLarge)) => {
            let reason = format!("the body is larger than {} MiB", BODY_BYTES_MAX >> 20);
            return Err(refused(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, reason)));
        }
        Ok(Err(Unread::NoRoom)) => return Err(too_many(second, "too many bytes at the same time")),
        Ok(Err(Unread::Broken)) => return Err(refused(Fault::new(StatusCode::BAD_REQUEST, "the body has no end"))),
        Err(_) => return Err(refused(Fault::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))),
    };
    parts.extensions.insert(caller);
    request = Request::from_parts(parts, Body::from(body));
    Ok((request, Hold { _place: place, _room: room, _busy: busy, ended }))
}

/// What a request wants, as far as its head tells.
fn action(request: &Request) -> Action<'static> {
    let path = request.uri().path();
    let is_dry = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "dryRun=true"));
    match () {
        () if path.starts_with("/api/v1/tokens") => Action::Tokens,
        () if path.starts_with("/api/v1/audit") => Action::Audit,
        () if matches!(*request.method(), Method::GET | Method::HEAD) => Action::Read,
        () if is_dry => Action::Try,
        () => Action::Change,
    }
}

fn refuse(stranger: Stranger) -> Response {
    let status = match stranger {
        Stranger::Unknown | Stranger::Wrong | Stranger::Over(_) => StatusCode::UNAUTHORIZED,
        Stranger::Browser => StatusCode::FORBIDDEN,
        Stranger::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
    };
    let fault = Fault::new(status, stranger.reason());
    let fault = if let Stranger::TooOften(wait) = stranger { fault.retry_after(wait) } else { fault };
    let mut response = fault.into_response();
    if status == StatusCode::UNAUTHORIZED {
        let wrong = r#"Bearer realm="evenkeel", error="invalid_token""#;
        let challenge = if stranger == Stranger::Unknown { r#"Bearer realm="evenkeel""# } else { wrong };
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}

/// Why there is no body.
enum Unread {
    TooLarge,
    NoRoom,
    Broken,
}

/// Reads a body as it comes, so that nobody reserves what they do not send.
async fn collect(mut body: Body, room: &mut Place<Client>) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Unread::TooLarge);
    }
    let mut collected = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if collected.len() + data.len() > BODY_BYTES_MAX {
            return Err(Unread::TooLarge);
        }
        if !room.grow(data.len()) {
            return Err(Unread::NoRoom);
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.into())
}

/// An answer, and what it keeps.
struct Held {
    body: Body,
    hold: Hold,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        if self.hold.ended.as_mut().is_some_and(|ended| ended.as_mut().poll(context).is_ready()) {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Whoever asks, as `pass` found out.
pub(crate) type Asking = Extension<Caller>;
