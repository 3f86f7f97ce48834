//! The shop: four services in chain, each with instances in lanes, each instance a server of its own that can be made
//! slow, failing or dead. A service calls the next one through the gateway and passes on what tells its lane. Cold.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::call::{Caller, Place};

/// The services in the order in which they call each other.
pub const SERVICES: [&str; 4] = ["web", "cart", "price", "stock"];
/// The lane of those that are in none.
pub const BASE: &str = "base";
/// All lanes, the baseline first.
pub const LANES: [&str; 3] = [BASE, "blue", "green"];
/// Service, lane and name of each instance. No lane has all services: what it lacks is the baseline's.
pub const CAST: [(&str, &str, &str); 12] = [
    ("web", BASE, "base-1"),
    ("web", BASE, "base-2"),
    ("web", "blue", "blue"),
    ("cart", BASE, "base-1"),
    ("cart", BASE, "base-2"),
    ("cart", "blue", "blue"),
    ("price", BASE, "base-1"),
    ("price", BASE, "base-2"),
    ("price", "green", "green"),
    ("stock", BASE, "base-1"),
    ("stock", BASE, "base-2"),
    ("stock", "blue", "blue"),
];
/// The field of an answer that says which lane the request was in when it reached the service.
pub const LANE_SEEN: &str = "shop-lane";

/// What a service passes on to the next one; the first carries the lane.
const PASSED_ON: [&str; 4] = ["x-evenkeel-lane", "baggage", "traceparent", "x-request-id"];
/// How long a service works before it calls the next one.
const WORK: Duration = Duration::from_millis(5);
const SLOW_TIMES: u32 = 10;
/// Callers of one instance; more wait in the kernel.
const CONNECTIONS_MAX: usize = 256;
/// An instance that was in trouble may be left alone by the gateway for so long after.
const TROUBLE_AFTER: Duration = Duration::from_secs(10);

/// How an instance behaves.
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
}

impl Switch {
    /// What people call it.
    pub fn word(self) -> &'static str {
        match self {
            Switch::Ok => "ok",
            Switch::Slow => "slow",
            Switch::Failing => "failing",
            Switch::Dead => "dead",
        }
    }
}

/// One running server.
pub struct Instance {
    /// One of `SERVICES`.
    pub service: &'static str,
    /// One of `LANES`.
    pub lane: &'static str,
    /// Its name within the service.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    switch: watch::Sender<Switch>,
    served: AtomicU64,
    born: Instant,
    /// Milliseconds since it was born.
    troubled_until_ms: AtomicU64,
}

impl Instance {
    /// How it behaves now.
    pub fn switch(&self) -> Switch {
        *self.switch.borrow()
    }

    /// Makes it behave so.
    pub fn turn(&self, switch: Switch) {
        self.trouble();
        self.switch.send_replace(switch);
    }

    /// Requests that have reached it.
    pub fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// Remembers that it was not well just now, or that the gateway thought so.
    pub fn trouble(&self) {
        self.troubled_until_ms.store((self.born.elapsed() + TROUBLE_AFTER).as_millis() as u64, Relaxed);
    }

    /// Whether the gateway has, or had a moment ago, a reason to leave it alone.
    pub fn is_troubled(&self) -> bool {
        self.switch() != Switch::Ok || (self.born.elapsed().as_millis() as u64) < self.troubled_until_ms.load(Relaxed)
    }
}

/// A port that is the instance's while nobody listens on it, too.
struct Seat {
    _keeper: TcpSocket,
    listener: TcpListener,
}

/// Opens all instances within a runtime; each serves from now on. They call each other through `inside`.
pub fn open(inside: SocketAddr) -> io::Result<Vec<Arc<Instance>>> {
    let mut instances = Vec::with_capacity(CAST.len());
    for (service, lane, name) in CAST {
        let keeper = socket(0)?;
        let address = keeper.local_addr()?;
        let listener = listen(address.port())?;
        let instance = Arc::new(Instance {
            service,
            lane,
            name,
            address,
            switch: watch::Sender::new(Switch::Ok),
            served: AtomicU64::new(0),
            born: Instant::now(),
            troubled_until_ms: AtomicU64::new(0),
        });
        let next = SERVICES.iter().skip_while(|known| **known != service).nth(1);
        let next = next.map(|next| (*next, Caller::new(Place::At(inside), next)));
        let actor = Actor { instance: instance.clone(), next };
        tokio::spawn(live(Arc::new(actor), Seat { _keeper: keeper, listener }));
        instances.push(instance);
    }
    Ok(instances)
}

/// Several sockets of ours may share the port, so that one can hold it while the listening one is closed.
fn socket(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

fn listen(port: u16) -> io::Result<TcpListener> {
    socket(port)?.listen(128)
}

/// An instance with whom it calls.
struct Actor {
    instance: Arc<Instance>,
    next: Option<(&'static str, Caller)>,
}

/// Serves, is dead, and serves again, as the switch says.
async fn live(actor: Arc<Actor>, seat: Seat) {
    let port = actor.instance.address.port();
    let mut switch = actor.instance.switch.subscribe();
    let mut listener = Some(seat.listener);
    loop {
        let Some(listening) = listener.take().or_else(|| listen(port).ok()) else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listening.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, actor.clone(), actor.instance.switch.subscribe()));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = connections.join_next() => {}
                () = until(&mut switch, |switch| switch == Switch::Dead) => break,
            }
        }
        drop(listening);
        // Each has heard of it and resets what it has.
        while connections.join_next().await.is_some() {}
        until(&mut switch, |switch| switch != Switch::Dead).await;
    }
}

async fn until(switch: &mut watch::Receiver<Switch>, is_so: impl Fn(Switch) -> bool) {
    // Its sender lives in the instance that waits here.
    let _ = switch.wait_for(|switch| is_so(*switch)).await;
}

async fn serve(stream: TcpStream, actor: Arc<Actor>, mut switch: watch::Receiver<Switch>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let actor = actor.clone();
        async move { Ok::<_, Infallible>(answer(&actor, request.headers()).await) }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A caller that breaks off is the demonstration's business.
        _ = &mut connection => {}
        () = until(&mut switch, |switch| switch == Switch::Dead) => {
            let stream = connection.into_parts().io.into_inner();
            // The dead do not say good-bye: the peer gets a reset.
            let _ = stream.set_zero_linger();
        }
    }
}

async fn answer(actor: &Actor, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let Actor { instance, next } = actor;
    instance.served.fetch_add(1, Relaxed);
    let switch = instance.switch();
    tokio::time::sleep(if switch == Switch::Slow { WORK * SLOW_TIMES } else { WORK }).await;
    let own = format!("{}({})", instance.service, instance.lane);
    let (status, body) = match next {
        _ if switch == Switch::Failing => (StatusCode::INTERNAL_SERVER_ERROR, format!("{own} fails")),
        None => (StatusCode::OK, own),
        Some((name, next)) => {
            let (status, said) = match next.get("/", &passed_on(headers)).await {
                Ok(answer) if answer.status == 200 => (StatusCode::OK, answer.body),
                Ok(answer) if answer.headers.contains_key(LANE_SEEN) => (StatusCode::BAD_GATEWAY, answer.body),
                // The gateway answered in place of the service.
                Ok(answer) => (StatusCode::BAD_GATEWAY, format!("{name}: {} {}", answer.status, answer.body)),
                Err(problem) => (StatusCode::BAD_GATEWAY, format!("{name}: {problem}")),
            };
            (status, format!("{own} > {}", said.trim_end()))
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    let seen = headers.get("x-evenkeel-lane").cloned().unwrap_or(HeaderValue::from_static(BASE));
    response.headers_mut().insert(LANE_SEEN, seen);
    response
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let known = PASSED_ON.iter().filter_map(|name| Some((*name, headers.get(*name)?)));
    known.map(|(name, value)| (hyper::header::HeaderName::from_static(name), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_instance_does_as_it_is_told() {
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let instances = open(nobody).expect("ports");
        let stock = instances.iter().find(|known| (known.service, known.lane) == ("stock", "blue")).expect("the cast");
        let caller = Caller::new(Place::At(stock.address), "stock");
        for (number, (switch, expected)) in [
            (Switch::Ok, "200 stock(blue)\n"),
            (Switch::Failing, "500 stock(blue) fails\n"),
            (Switch::Slow, "200 stock(blue)\n"),
            (Switch::Dead, "nobody"),
            (Switch::Ok, "200 stock(blue)\n"),
        ]
        .into_iter()
        .enumerate()
        {
            stock.turn(switch);
            // A kept connection is reset and its port refuses, each a moment after the word.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let started = Instant::now();
            let told = match caller.get("/", &HeaderMap::new()).await {
                Ok(answer) => format!("{} {}", answer.status, answer.body),
                Err(_) => "nobody".into(),
            };
            assert_eq!(told, expected, "{number}");
            assert_eq!(switch == Switch::Slow, started.elapsed() >= WORK * SLOW_TIMES, "{number}");
            assert!(stock.is_troubled(), "{number}");
        }
        assert_eq!((stock.served(), instances[0].served(), instances[0].is_troubled()), (4, 0, false));
    }
}
