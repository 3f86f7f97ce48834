//! The workloads of the published figures as plans, and the two sizes of a routing table. Running them is `rounds`'
//! business. Pure but for starting the tables.

use std::net::SocketAddr;
use std::time::Duration;

use super::rounds::Contender;
use super::{Installed, Name};
use crate::Outcome;
use crate::load::{Arrival, Connections, Lab, Plan, Request, Span, get_closing, post};
use crate::peers::{Launch, ROUTE_HOST, many_routes, standard_get, ten_routes};

/// Connections, and requests under way in a closed loop.
const CONNECTIONS: usize = 64;
/// Rate of the open loop.
const PER_SECOND: f64 = 20_000.0;
/// Connections opened in a second in the open loop: about half of what saturates the generator.
const CONNECTS_PER_SECOND: f64 = 8_000.0;
/// Calls that one instance makes in a second.
const HOPS_PER_SECOND: f64 = 1_000.0;
/// Before each measurement, so that pools and caches are warm.
const WARM: Duration = Duration::from_millis(500);
/// Beyond the planned time, after which a run is void.
const LATE_MAX: Duration = Duration::from_secs(10);
const POST_BYTES: usize = 16 * 1024;

/// What the generator does to a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Get,
    Open,
    Post,
    Connect,
    ConnectOpen,
    /// As an instance calls another.
    Hop,
}

impl Workload {
    pub(crate) const ALL: [Workload; 5] =
        [Workload::Get, Workload::Open, Workload::Post, Workload::Connect, Workload::ConnectOpen];

    pub(crate) fn name(self) -> Name {
        match self {
            Workload::Get => Name::Get,
            Workload::Open => Name::Open,
            Workload::Post => Name::Post,
            Workload::Connect | Workload::ConnectOpen => Name::Connect,
            Workload::Hop => Name::Sidecar,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Workload::Get => "GET 1 KiB keep-alive, saturated",
            Workload::Open => "GET at 20,000/s, open loop",
            Workload::Post => "POST 16 KiB, saturated",
            Workload::Connect => "new connection for each request, saturated",
            Workload::ConnectOpen => "new connection for each request at 8,000/s, open loop",
            Workload::Hop => "GET at 1,000/s, open loop",
        }
    }

    /// Whether the proxy's CPU is expected to be busy all the time.
    pub(crate) fn saturates(self) -> bool {
        !matches!(self, Workload::Open | Workload::ConnectOpen | Workload::Hop)
    }

    pub(crate) fn requests(self) -> Vec<Request> {
        match self {
            Workload::Get | Workload::Open | Workload::Hop => vec![standard_get()],
            Workload::Post => vec![post(ROUTE_HOST, "/api/v1/items/42?q=abc", "t-17", POST_BYTES)],
            Workload::Connect | Workload::ConnectOpen => {
                vec![get_closing(ROUTE_HOST, "/api/v1/items/42?q=abc", "t-17")]
            }
        }
    }

    pub(crate) fn plan(self, target: SocketAddr, requests: Vec<Request>, measured: Duration) -> Plan {
        let arrival = match self {
            Workload::Open => Arrival::Poisson { per_second: PER_SECOND },
            Workload::Hop => Arrival::Poisson { per_second: HOPS_PER_SECOND },
            Workload::ConnectOpen => Arrival::Poisson { per_second: CONNECTS_PER_SECOND },
            _ => Arrival::Saturated { in_flight: CONNECTIONS },
        };
        let connections = match self {
            Workload::Connect | Workload::ConnectOpen => Connections::PerRequest,
            _ => Connections::Kept(CONNECTIONS),
        };
        let span = Span::Time { warm: WARM, measured };
        Plan { target, requests, arrival, connections, span, time_max: WARM + measured + LATE_MAX, keep_open: false }
    }
}

/// The same requests through 10 routes and through 10,000, one request for each of the latter, used uniformly.
pub(crate) fn routes(lab: &mut Lab, ours: &Installed) -> Outcome<Vec<Contender>> {
    let (many, requests) = many_routes(10_000);
    let start = |(rules, label): (&String, &str)| {
        let mut launch = Launch::new(ours.kind, &ours.program);
        launch.rules = Some(rules);
        launch.probe = requests.first().cloned();
        let running = launch.start(lab)?;
        Ok(Contender { label: label.to_owned(), workload: Workload::Get, requests: requests.clone(), running })
    };
    [(&ten_routes(), "10 routes"), (&many, "10,000 routes")].into_iter().map(start).collect()
}
