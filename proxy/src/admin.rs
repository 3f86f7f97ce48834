//! The three doors for operators and their tools: probe (who may see the pod), metrics, and admin (what
//! discloses). Runs on the main thread: none of it can hold a request up. Cold.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::census::{self, Census};
use crate::explain::Question;
use crate::guards;
use crate::instance::Handle;
use crate::log::event;
use crate::shadow;
use crate::shared::{Mail, Shared};
use crate::status::Status;

/// Connections served at a time by one door; more wait in the kernel.
const CONNECTIONS_MAX: usize = 256;
/// A head must arrive, and a connection end, in this time. Short, so that silent connections do not keep a probe out.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// What is asked with a head.
const EXPLAIN: &str = "/explain";
/// Lets the instance go, and answers when it has.
const DRAIN: &str = "/drain";
/// The largest head that is explained, and how long a worker may take to.
const HEAD_BYTES_MAX: usize = 1 << 20;
const EXPLAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Where the admin door is: what changes or discloses is only for this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A loopback address.
    Loopback(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<AdminAddress, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(AdminAddress::Unix(path.into()));
        }
        if text.contains('/') {
            return Ok(AdminAddress::Unix(text.into()));
        }
        let address: SocketAddr =
            text.parse().map_err(|_| format!("'{text}' is neither ADDRESS:PORT nor the path of a unix socket"))?;
        match address.ip().is_loopback() {
            true => Ok(AdminAddress::Loopback(address)),
            false => Err(format!("{address} is not a loopback address; the admin port discloses configuration")),
        }
    }
}

/// Which door a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Probe,
    Metrics,
    Admin,
}

/// What the doors show.
pub(crate) struct Admin {
    pub(crate) status: Arc<Status>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry,
    /// None: nobody may let this instance go here.
    pub(crate) drain: Option<Drain>,
}

/// How an instance is let go by whoever has the token.
pub(crate) struct Drain {
    token: PathBuf,
    within: Duration,
    instance: OnceLock<Handle>,
}

impl Drain {
    /// The token is read each time, since what is in the file is replaced from time to time.
    pub(crate) fn new(token: PathBuf, within: Duration) -> Drain {
        Drain { token, within, instance: OnceLock::new() }
    }

    /// There is an instance from now on.
    pub(crate) fn begin(&self, instance: Handle) {
        // There is one.
        let _ = self.instance.set(instance);
    }

    fn lets(&self, request: &Request<Incoming>) -> bool {
        let said = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let said = said.and_then(|value| value.split_once(' '));
        let said = said.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token);
        let known = std::fs::read_to_string(&self.token).unwrap_or_default();
        let known = known.trim();
        // As long for each that is as long, wherever they differ.
        let differs = known.bytes().zip(said.bytes()).fold(0, |differs, (one, other)| differs | (one ^ other));
        !known.is_empty() && known.len() == said.len() && differs == 0
    }
}

/// Addresses of the doors; those not given stay shut.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doors {
    pub(crate) probe: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) admin: Option<AdminAddress>,
}

/// Opens the doors; they are served by tasks of the current runtime.
pub(crate) async fn open(doors: &Doors, admin: Arc<Admin>) -> Result<(), String> {
    for (door, address) in [(Door::Probe, doors.probe), (Door::Metrics, doors.metrics)] {
        if let Some(address) = address {
            open_tcp(door, address, admin.clone()).await?;
        }
    }
    match &doors.admin {
        None => Ok(()),
        Some(AdminAddress::Loopback(address)) => open_tcp(Door::Admin, *address, admin).await,
        Some(AdminAddress::Unix(path)) => open_unix(path, admin),
    }
}

async fn open_tcp(door: Door, address: SocketAddr, admin: Arc<Admin>) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot listen on {address} for {}: {error}", door.name());
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    event("info", &format!("{} on http://{}", door.name(), listener.local_addr().map_err(failed)?));
    tokio::spawn(serve_all(door, admin, async move || Ok(listener.accept().await?.0)));
    Ok(())
}

fn open_unix(path: &PathBuf, admin: Arc<Admin>) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot listen on {} for admin: {error}", path.display());
    // A socket left behind by a process that was killed; one that answers belongs to a living one.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(format!("{} is in use by another process", path.display()));
    }
    if std::fs::symlink_metadata(path).is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()))
    {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    event("info", &format!("admin on unix:{}", path.display()));
    tokio::spawn(serve_all(Door::Admin, admin, async move || Ok(listener.accept().await?.0)));
    Ok(())
}

/// Serves what `accept` brings, a bounded number at a time.
async fn serve_all<S>(door: Door, admin: Arc<Admin>, accept: impl AsyncFn() -> io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        match accept().await {
            Ok(stream) => {
                let serving = serve(door, stream, admin.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(_) => {
                // Most likely there is no descriptor left: these are worth less than a probe.
                admin.shared.shed_idle();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(door: Door, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, admin: Arc<Admin>) {
    let waits = admin.drain.as_ref().filter(|_| door == Door::Probe).map_or(Duration::ZERO, |drain| drain.within);
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move {
            Ok::<_, Infallible>(match (door, request.method(), request.uri().path()) {
                (Door::Admin, &Method::POST, EXPLAIN) => explain(request, &admin).await,
                (Door::Admin, _, EXPLAIN) => only("POST"),
                (Door::Probe, &Method::GET | &Method::POST, DRAIN) => drain(&request, &admin).await,
                (Door::Probe, _, DRAIN) => only("GET, POST"),
                _ => respond(door, &request, &admin),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off is nobody's problem here.
    let _ = tokio::time::timeout(CONNECTION_TIME_MAX + waits, connection).await;
}

impl Door {
    fn name(self) -> &'static str {
        match self {
            Door::Probe => "probe",
            Door::Metrics => "metrics",
            Door::Admin => "admin",
        }
    }

    /// The paths behind this door that are read.
    fn paths(self) -> &'static [&'static str] {
        match self {
            Door::Probe => &["/live", "/ready"],
            Door::Metrics => &["/metrics"],
            Door::Admin => &["/live", "/ready", "/metrics", "/config", "/endpoints", "/policies", "/stats"],
        }
    }
}

/// `POST /explain?port=PORT&client=ADDRESS`, with the head of a request as a client would send it: what it would meet.
async fn explain(request: Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let part = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let problem = |reason: &str| text(StatusCode::BAD_REQUEST, format!("{reason}\n"));
    let port = match part("port").map(str::parse).transpose() {
        Ok(port) => port,
        Err(_) => return problem("port is not a number"),
    };
    let client = match part("client").unwrap_or("127.0.0.1").parse() {
        Ok(address) => SocketAddr::new(address, 0),
        Err(_) => return problem("client is not an address"),
    };
    let Ok(head) = Limited::new(request.into_body(), HEAD_BYTES_MAX).collect().await else {
        return problem("the head is too large");
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    let question = Question { port, client, head: head.to_bytes().to_vec(), reply };
    admin.shared.mailboxes[0].send(Mail::Explain(question));
    match tokio::time::timeout(EXPLAIN_TIME_MAX, answer).await {
        Ok(Ok(told)) => document(&told),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, "no worker answers\n".into()),
    }
}

/// `GET /drain` with the token: lets the instance go, and answers when it has.
async fn drain(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    match &admin.drain {
        None => text(
            StatusCode::FORBIDDEN,
            "nobody may: only a sidecar that was started with --drain-token-file FILE\n".into(),
        ),
        Some(drain) if !drain.lets(request) => {
            text(StatusCode::UNAUTHORIZED, "only with the token: Authorization: Bearer TOKEN\n".into())
        }
        Some(drain) => match drain.instance.get() {
            // Nobody knows it so far.
            None => document(&json!({ "reason": "it has not begun" })),
            Some(instance) => document(&instance.drain().await),
        },
    }
}

/// What policies have done, and those in shadow would have.
fn policies(admin: &Admin) -> Value {
    let guards = admin.shared.guards();
    let tried = guards.tallies().iter().map(|tally| tally.document());
    let lanes = shadow::lane_documents(&admin.shared, admin.status.snapshot().as_deref());
    guards.all().into_iter().map(guards::document).chain(tried).chain(lanes).collect()
}

fn respond(door: Door, request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return only("GET, HEAD");
    }
    if !door.paths().contains(&path) {
        let asked = if door == Door::Admin { format!(", and POST {EXPLAIN}") } else { String::new() };
        return text(StatusCode::NOT_FOUND, format!("{} has {}{asked}\n", door.name(), door.paths().join(" ")));
    }
    match path {
        "/live" => text(StatusCode::OK, "live\n".into()),
        "/ready" if admin.status.is_ready() => text(StatusCode::OK, "ready\n".into()),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".into()),
        "/config" => document(&admin.status.config()),
        "/endpoints" => {
            let census = admin.status.snapshot().map(|snapshot| census::take(&snapshot, &admin.shared));
            document(&census.iter().flatten().map(Census::document).collect())
        }
        "/policies" => document(&policies(admin)),
        "/stats" => document(&stats(admin)),
        _ => {
            let mut response = text(StatusCode::OK, crate::metrics::text(&admin.registry));
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response.headers_mut().insert("content-type", kind.parse().expect("a header value"));
            response
        }
    }
}

/// Refuses other methods than these.
fn only(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {methods}\n"));
    response.headers_mut().insert("allow", methods.parse().expect("a header value"));
    response
}

/// `/stats`: each worker by itself, for looking at balance.
fn stats(admin: &Admin) -> Value {
    let workers: Vec<Value> = admin
        .shared
        .stats
        .iter()
        .map(|stats| {
            json!({
                "revision": stats.revision.get(),
                "connections": stats.connections_open.get(),
                "connectionsOpened": stats.connections_opened.get(),
                "connectionsRefused": stats.connections_refused.get(),
                "connectionsHanded": stats.connections_handed.get(),
                "requestsInFlight": stats.requests_in_flight.get(),
                "upstreamConnectionsOpened": stats.upstream_connections_opened.get(),
                "upstreamStale": stats.upstream_stale.get(),
                "acceptErrors": stats.accept_errors.get(),
                "panics": stats.panics.get(),
                "turnNsMax": stats.turn_ns_max.get(),
            })
        })
        .collect();
    let mut told = json!({
        "uptimeSeconds": admin.status.started.elapsed().as_secs_f64(),
        "connectionsMax": admin.shared.connections_max,
        "workers": workers,
    });
    if let Some(traces) = admin.shared.traces.get() {
        let figures = traces.figures();
        told["traceMap"] = json!({
            "entries": figures.entries,
            "expired": figures.expired,
            "requests": {
                "remembered": figures.remembered,
                "ambiguous": figures.ambiguous,
                "refused": figures.refused,
            },
            "lookups": {
                "found": figures.found,
                "unknown": figures.unknown,
                "ambiguous": figures.unused,
                "noId": figures.without_id,
            },
        });
    }
    told
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "text/plain; charset=utf-8".parse().expect("a header value"));
    response
}

fn document(value: &Value) -> Response<Full<Bytes>> {
    let mut body = serde_json::to_string_pretty(value).expect("a JSON value can be written");
    body.push('\n');
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert("content-type", "application/json".parse().expect("a header value"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_door_is_only_for_this_machine() {
        let check = |text: &str, expected: Result<AdminAddress, &str>| {
            assert_eq!(text.parse::<AdminAddress>(), expected.map_err(String::from), "{text}");
        };
        let loopback = |text: &str| Ok(AdminAddress::Loopback(text.parse().expect("an address")));
        check("127.0.0.1:9901", loopback("127.0.0.1:9901"));
        check("[::1]:9901", loopback("[::1]:9901"));
        check("/run/evenkeel.sock", Ok(AdminAddress::Unix("/run/evenkeel.sock".into())));
        check("unix:admin.sock", Ok(AdminAddress::Unix("admin.sock".into())));
        check("0.0.0.0:9901", Err("0.0.0.0:9901 is not a loopback address; the admin port discloses configuration"));
        check("9901", Err("'9901' is neither ADDRESS:PORT nor the path of a unix socket"));
    }
}
