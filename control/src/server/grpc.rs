//! gRPC as control serves it, over HTTP/2 by h2: a connection is one task, and all that happens on it happens there. Ten
//! thousand proxies are ten thousand of them; another task, a channel and a box for each would be a good part of what a
//! proxy costs. Cold.

mod alive;
mod messages;

use messages::{Incoming, Outgoing};

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderValue, Method, Request, StatusCode, header};
use prost::bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tonic::Status;

use crate::server::grpc::alive::Alive;
use crate::server::join::{Join, Joins};
use crate::server::reports::{Report, Reports};
use crate::server::streams::{Discovery, Streams};
use crate::server::wire::{Link, Wire};

/// Calls at the same time on one connection: a proxy has its rules, and what it may have beside them.
const CALLS_MAX: u32 = 16;
/// Of one head, decoded.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// Of one call, handed to HTTP/2 and not sent.
const SEND_BYTES_MAX: usize = 256 << 10;

const DISCOVERY: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const JOIN: &str = "/evenkeel.v1.Registry/Join";
const REPORT: &str = "/evenkeel.v1.Reports/Report";

/// What is served.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) streams: Streams,
    pub(crate) reports: Reports,
    pub(crate) joins: Joins,
}

/// Serves connections for as long as there are some.
pub(crate) async fn serve(mut wires: Receiver<Wire>, services: Services) {
    while let Some(wire) = wires.recv().await {
        tokio::spawn(connection(wire, services.clone()));
    }
}

/// The life of a connection.
async fn connection(wire: Wire, services: Services) {
    let link = wire.link().clone();
    let mut builder = Builder::new();
    builder.max_concurrent_streams(CALLS_MAX).max_header_list_size(HEAD_BYTES_MAX).max_send_buffer_size(SEND_BYTES_MAX);
    // Who does not speak HTTP/2 has heard so.
    let Ok(mut connection) = builder.handshake(wire).await else { return };
    let Some(ping) = connection.ping_pong() else { return };
    Connection { connection, alive: Alive::new(ping), link, services, calls: Vec::new() }.await;
}

/// A connection on which HTTP/2 has begun.
struct Connection {
    connection: h2::server::Connection<Wire, Bytes>,
    alive: Alive,
    link: Arc<Link>,
    services: Services,
    calls: Vec<Call>,
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            // Reads, and writes what was said.
            while let Poll::Ready(accepted) = this.connection.poll_accept(context) {
                let Some(Ok((request, respond))) = accepted else { return Poll::Ready(()) };
                this.calls.extend(begin(&this.services, &this.link, request, respond));
            }
            if this.alive.poll(&this.link, context).is_ready() {
                return Poll::Ready(());
            }
            let mut has_said = false;
            this.calls.retain_mut(|call| {
                let ended = call.poll(&this.link, context);
                has_said |= call.exchange.outgoing.has_said();
                ended.is_pending()
            });
            if !has_said {
                return Poll::Pending;
            }
        }
    }
}

/// What is said on a call, in both directions.
pub(crate) struct Exchange {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

/// A call that was let in.
struct Call {
    exchange: Exchange,
    task: Task,
}

/// What it is about.
enum Task {
    Discovery(Box<Discovery>),
    Report(Box<Report>),
    Join(Box<Join>),
}

impl Call {
    fn poll(&mut self, link: &Link, context: &mut Context<'_>) -> Poll<()> {
        let Call { exchange, task } = self;
        let ended = match task {
            Task::Discovery(discovery) => ready!(discovery.poll(exchange, context)),
            Task::Report(report) => ready!(report.poll(exchange, context)),
            Task::Join(join) => ready!(join.poll(exchange, context)),
        };
        if exchange.outgoing.end(ended).is_err() {
            // It does not listen: there is no other way to tell it.
            link.cut();
        }
        Poll::Ready(())
    }
}

/// Lets a call in, or answers why not.
fn begin(
    services: &Services,
    link: &Arc<Link>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<Call> {
    let (head, body) = request.into_parts();
    let content = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    // Such as application/grpc+proto, and not application/grpc-web, whose messages are others.
    let is_grpc = content.split(|byte| b"+;".contains(byte)).next() == Some(b"application/grpc");
    if head.method != Method::POST || !is_grpc {
        let mut response = http::Response::new(());
        *response.status_mut() = match head.method {
            Method::POST => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                StatusCode::METHOD_NOT_ALLOWED
            }
        };
        // Whoever has gone does not need to know.
        let _ = respond.send_response(response, true);
        return None;
    }
    let task = match head.uri.path() {
        DISCOVERY => services.streams.begin(&head.headers, link).map(|discovery| Task::Discovery(Box::new(discovery))),
        REPORT => services.reports.begin(&head.headers, link).map(|report| Task::Report(Box::new(report))),
        JOIN => services.joins.begin(&head.headers, link).map(|join| Task::Join(Box::new(join))),
        path => Err(Status::unimplemented(format!("there is no {path}"))),
    };
    let (outgoing, task) = Outgoing::begin(&mut respond, task)?;
    Some(Call { exchange: Exchange { incoming: Incoming::new(body), outgoing }, task })
}
