//! The application of an instance: a small server that works for some milliseconds and calls the next service through its
//! sidecar. It can be made slow, failing or dead, and forgets its trace if it is told to. Cold.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::call::{Caller, Place};
use super::ports::Seat;

/// The lane of those that are in none.
pub const BASE: &str = "base";
/// The field of an answer that says in which lane the request was when it reached each service, such as `blue > base`.
pub const LANES_SEEN: &str = "shop-lanes";

/// All that an application passes on: the sidecars know the lane by it.
const TRACE: HeaderName = HeaderName::from_static("traceparent");
/// How a sidecar tells it the lane.
const LANE: &str = "x-evenkeel-lane";
/// How long it works before it calls the next one.
const WORK: Duration = Duration::from_millis(5);
const SLOW_TIMES: u32 = 10;
/// Callers at a time; more wait in the kernel.
const CONNECTIONS_MAX: usize = 256;
/// For what is under way when it ends.
const ENDING_MAX: Duration = Duration::from_secs(1);
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How an application behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// As it should.
    Ok,
    /// Ten times as slow.
    Slow,
    /// Answers 500.
    Failing,
    /// Nobody listens, and connections are reset.
    Dead,
    /// Nobody listens, requests under way are finished, and it never comes back.
    Ended,
}

impl Switch {
    /// What people call it.
    pub fn word(self) -> &'static str {
        match self {
            Switch::Ok => "ok",
            Switch::Slow => "slow",
            Switch::Failing => "failing",
            Switch::Dead => "dead",
            Switch::Ended => "ended",
        }
    }

    fn listens(self) -> bool {
        !matches!(self, Switch::Dead | Switch::Ended)
    }
}

/// A running application.
pub struct App {
    service: &'static str,
    lane: &'static str,
    /// The service that it calls, and how.
    next: Option<(&'static str, Caller)>,
    seat: Seat,
    switch: watch::Sender<Switch>,
    forgets_trace: AtomicBool,
    served: AtomicU64,
}

impl App {
    /// Starts it within a runtime. It calls `next` by its name through `outbound`.
    pub fn start(
        service: &'static str,
        lane: &'static str,
        next: Option<&'static str>,
        outbound: SocketAddr,
    ) -> io::Result<Arc<App>> {
        let seat = Seat::any()?;
        let listener = seat.listen()?;
        let app = Arc::new(App {
            service,
            lane,
            next: next.map(|next| (next, Caller::new(Place::At(outbound), next))),
            seat,
            switch: watch::Sender::new(Switch::Ok),
            forgets_trace: AtomicBool::new(false),
            served: AtomicU64::new(0),
        });
        tokio::spawn(live(app.clone(), listener));
        Ok(app)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.seat.address()
    }

    /// How it behaves now.
    pub fn switch(&self) -> Switch {
        *self.switch.borrow()
    }

    /// Makes it behave so. What has ended stays so.
    pub fn turn(&self, switch: Switch) {
        self.switch.send_if_modified(|now| *now != Switch::Ended && std::mem::replace(now, switch) != switch);
    }

    /// Whether it passes its trace on.
    pub fn forgets_trace(&self) -> bool {
        self.forgets_trace.load(Relaxed)
    }

    /// Breaks or mends that.
    pub fn forget_trace(&self, forgets: bool) {
        self.forgets_trace.store(forgets, Relaxed);
    }

    /// Requests that have reached it.
    pub fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }
}

/// Serves, is dead, and serves again, as the switch says.
async fn live(app: Arc<App>, listener: TcpListener) {
    let mut switch = app.switch.subscribe();
    let mut listener = Some(listener);
    loop {
        let Some(listening) = listener.take().or_else(|| app.seat.listen().ok()) else {
            tokio::time::sleep(AGAIN_AFTER).await;
            continue;
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listening.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(serve(stream, app.clone()))),
                    Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
                },
                Some(_) = connections.join_next() => {}
                () = until(&mut switch, |switch| !switch.listens()) => break,
            }
        }
        drop(listening);
        // Each has heard of it: it finishes, or resets what it has.
        let _ = tokio::time::timeout(ENDING_MAX, async { while connections.join_next().await.is_some() {} }).await;
        until(&mut switch, |switch| switch != Switch::Dead).await;
        if app.switch() == Switch::Ended {
            return;
        }
    }
}

async fn until(switch: &mut watch::Receiver<Switch>, is_so: impl Fn(Switch) -> bool) {
    // Its sender lives in the application that waits here.
    let _ = switch.wait_for(|switch| is_so(*switch)).await;
}

async fn serve(stream: TcpStream, app: Arc<App>) {
    let _ = stream.set_nodelay(true);
    let mut switch = app.switch.subscribe();
    let service = service_fn(|request: Request<Incoming>| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(answer(&app, request.headers()).await) }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A caller that breaks off is the demonstration's business.
        _ = &mut connection => return,
        () = until(&mut switch, |switch| !switch.listens()) => {}
    }
    if app.switch() == Switch::Ended {
        Pin::new(&mut connection).graceful_shutdown();
        let _ = connection.await;
    } else {
        // The dead do not say good-bye: the peer gets a reset.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

async fn answer(app: &App, headers: &HeaderMap) -> Response<Full<Bytes>> {
    app.served.fetch_add(1, Relaxed);
    let switch = app.switch();
    tokio::time::sleep(if switch == Switch::Slow { WORK * SLOW_TIMES } else { WORK }).await;
    let own = format!("{}({})", app.service, app.lane);
    let mut lanes = headers.get(LANE).and_then(|lane| lane.to_str().ok()).unwrap_or(BASE).to_owned();
    let (status, body) = match &app.next {
        _ if switch == Switch::Failing => (StatusCode::INTERNAL_SERVER_ERROR, format!("{own} fails")),
        None => (StatusCode::OK, own),
        Some((name, next)) => {
            let trace = headers.get(TRACE).filter(|_| !app.forgets_trace());
            let passed_on = trace.map(|trace| (TRACE, trace.clone())).into_iter().collect();
            let (status, said) = match next.get("/", &passed_on).await {
                Ok(answer) => {
                    let seen = answer.headers.get(LANES_SEEN).and_then(|seen| seen.to_str().ok());
                    lanes.extend(seen.iter().flat_map(|seen| [" > ", seen]));
                    match (answer.status, seen) {
                        (200, _) => (StatusCode::OK, answer.body),
                        (_, Some(_)) => (StatusCode::BAD_GATEWAY, answer.body),
                        // The sidecar answered in place of the service.
                        (status, None) => (StatusCode::BAD_GATEWAY, format!("{name}: {status} {}", answer.body)),
                    }
                }
                Err(problem) => (StatusCode::BAD_GATEWAY, format!("{name}: {problem}")),
            };
            (status, format!("{own} > {}", said.trim_end()))
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    let lanes = HeaderValue::try_from(lanes).unwrap_or(HeaderValue::from_static(BASE));
    response.headers_mut().insert(LANES_SEEN, lanes);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_application_does_as_it_is_told() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let app = App::start("stock", "blue", None, nobody).expect("a port");
        let caller = Caller::new(Place::At(app.address()), "stock");
        for (number, (switch, expected)) in [
            (Switch::Ok, "200 stock(blue)\n"),
            (Switch::Failing, "500 stock(blue) fails\n"),
            (Switch::Slow, "200 stock(blue)\n"),
            (Switch::Dead, "nobody"),
            (Switch::Ok, "200 stock(blue)\n"),
            (Switch::Ended, "nobody"),
            (Switch::Ok, "nobody"),
        ]
        .into_iter()
        .enumerate()
        {
            app.turn(switch);
            // A kept connection is reset and its port refuses, each a moment after the word.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let started = std::time::Instant::now();
            let told = match caller.get("/", &HeaderMap::new()).await {
                Ok(answer) => format!("{} {}", answer.status, answer.body),
                Err(_) => "nobody".into(),
            };
            assert_eq!(told, expected, "{number}");
            assert_eq!(switch == Switch::Slow, started.elapsed() >= WORK * SLOW_TIMES, "{number}");
        }
        assert_eq!(app.served(), 4);
    }

    #[tokio::test]
    async fn only_the_trace_is_passed_on_and_each_says_the_lane_that_it_was_told() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        // Its sidecar is left out: nobody tells it a lane.
        let stock = App::start("stock", BASE, None, nobody).expect("a port");
        let price = App::start("price", "green", Some("stock"), stock.address()).expect("a port");
        let fields = [("x-evenkeel-lane", "green"), ("traceparent", "00-a")];
        let fields = fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let answer = Caller::new(Place::At(price.address()), "price").get("/", &fields.into_iter().collect()).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (200, "price(green) > stock(base)\n"));
        assert_eq!(answer.headers[LANES_SEEN], "green > base");
    }
}
