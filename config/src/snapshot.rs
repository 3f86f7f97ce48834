//! What the data plane runs on: every reference resolved, every default filled in, nothing left that
//! could be wrong. How it comes about is `compile`'s business, who asks it is the proxy's. Pure.

pub mod discovery;
pub mod dns;
pub mod lanes;
pub mod policy;
pub mod shadow;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::consistent::Consistent;
use crate::route::Table;
use crate::snapshot::discovery::Discovery;
use crate::snapshot::lanes::{LaneGroup, LaneRole};
use crate::snapshot::policy::Policy;
use crate::snapshot::shadow::{ListenerShadow, TrafficShadow};

/// One consistent configuration. It is never changed: a new revision is a new snapshot.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Socket addresses to listen on, each with what is served there, sorted by address. Endpoints come and go without
    /// them: they are shared.
    pub binds: Arc<[Bind]>,
    /// Every Service port that a rule sends traffic to; rules name them by index.
    pub clusters: Vec<Arc<Cluster>>,
    /// All that lanes are known of, by namespace and name.
    pub lane_groups: Vec<Arc<LaneGroup>>,
    /// LaneGroups in shadow, by namespace and name: they decide, and no request ever learns of it.
    pub shadow_lane_groups: Vec<Arc<LaneGroup>>,
}

/// One listening socket address.
#[derive(Debug, Clone, PartialEq)]
pub struct Bind {
    /// Where to listen. Port 0 asks the kernel for a free one.
    pub address: SocketAddr,
    /// `namespace/gateway/listener`, of the first listener on this address, or `namespace/service/inbound` and `outbound`;
    /// names it in logs and metrics.
    pub name: Arc<str>,
    /// The downstream side: bounds, timeouts, trust.
    pub settings: Arc<ListenerSettings>,
    /// What is done about lanes here.
    pub lanes: LaneRole,
    /// What would be done by LaneGroups in shadow; to strip is nothing.
    pub shadow_lanes: LaneRole,
    /// The ListenerPolicy in shadow.
    pub shadow: Option<Arc<ListenerShadow>>,
    /// Which rule a request meets here.
    pub table: Table,
    /// Where calls of an instance go out.
    pub calls: Option<Calls>,
    /// Where requests to an instance come in: its Service, `namespace/name`.
    pub instance_of: Option<Arc<str>>,
}

/// What is known of an instance whose calls go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// To whose Services short names belong.
    pub namespace: Arc<str>,
    /// A Service that is not known here may be there all the same: control tells of those that are called.
    pub by_use: bool,
}

/// The downstream side of a listener: ListenerPolicy with its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSettings {
    /// Whose word about the client's address counts.
    pub client_address: ClientAddress,
    /// Connections open at the same time, over all workers.
    pub connections_max: u32,
    /// From the first byte of a request (or the accept) to the end of its head.
    pub head_timeout: Duration,
    /// A keep-alive connection without a request.
    pub idle_timeout: Duration,
    /// The longest pause between two pieces of a body, in either direction.
    pub body_progress_timeout: Duration,
    /// The largest request body; a larger one is answered 413. None: no bound.
    pub request_body_bytes_max: Option<u64>,
    /// The largest head, start line included; a larger one is answered 431.
    pub head_bytes_max: u32,
    /// The most header fields in a head; more are answered 431.
    pub header_count_max: u16,
    /// What `%2F` and `%5C` in a path mean.
    pub encoded_slash: EncodedSlash,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        ListenerSettings {
            client_address: ClientAddress::Peer,
            connections_max: 10_000,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_progress_timeout: Duration::from_secs(30),
            request_body_bytes_max: None,
            head_bytes_max: 32 * 1024,
            header_count_max: 100,
            encoded_slash: EncodedSlash::Keep,
        }
    }
}

/// How the client's address is learnt.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ClientAddress {
    /// The peer of the connection; `x-forwarded-for` and its kin are replaced.
    #[default]
    Peer,
    /// Peers in these networks are proxies of ours: their `x-forwarded-for` is continued, and the client
    /// is the last address in it that is not in these networks.
    TrustedCidrs(Vec<ipnet::IpNet>),
    /// So many proxies stand before us: the client is that many addresses from the right.
    TrustedHops(u8),
    /// The connection opens with a PROXY protocol v2 header that names the client.
    ProxyProtocolV2,
    /// Peers are proxies and services of the mesh: what they say of the client is kept as it is, and the client is the last
    /// address in `x-forwarded-for`.
    Kept,
}

/// What to do with an encoded slash or backslash (`%2F`, `%5C`) in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncodedSlash {
    /// It stays as it is and is no separator.
    #[default]
    Keep,
    /// It becomes `/` before anything looks at the path.
    Decode,
    /// The request is refused with 400.
    Reject,
}

/// One rule of an HTTPRoute.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `namespace/route/rule`; the rule's name, or its index where it has none.
    pub name: Arc<str>,
    /// In the order they are written. Rules with equal filters share them.
    pub filters: Arc<[Filter]>,
    /// Who gets a copy of requests.
    pub mirrors: Box<[Mirror]>,
    /// Whole exchange, from the request's head to the answer's end. None: no bound.
    pub request_timeout: Option<Duration>,
    /// One attempt at a backend. None: no bound beyond `request_timeout`.
    pub backend_request_timeout: Option<Duration>,
    /// Where the request goes. Rules with equal backends share them.
    pub backends: Arc<Backends>,
    /// Limits and faults that requests meet before a target is chosen: the Gateway's, the listener's, the route's and
    /// the rule's, in this order. Any number of RateLimits; of each other kind one that acts and one in shadow at most.
    pub policies: Arc<[Arc<Policy>]>,
}

/// The targets of a rule with their shares.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Backends {
    /// Those with a weight above 0.
    pub choices: Vec<Choice>,
    /// The sum of all weights; 0 means that nothing can be chosen and the answer is 500.
    pub weight_total: u64,
}

/// One backendRef of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Its share is `weight` of `Backends::weight_total`.
    pub weight: u32,
    /// None: the reference is invalid, and its share of requests is answered 500 (Gateway API, BackendRefs).
    pub cluster: Option<usize>,
    /// Applied only when this target was chosen, after the rule's own.
    pub filters: Vec<Filter>,
    /// Who gets a copy of the requests that go here, beside those of the rule.
    pub mirrors: Vec<Mirror>,
}

/// RequestMirror: of `denominator` requests `numerator` are copied, at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// The name of a cluster.
    pub cluster: Arc<str>,
    /// At most `denominator`.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

/// What a rule does to requests and answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Filter {
    /// RequestHeaderModifier.
    RequestHeaders(HeaderChanges),
    /// ResponseHeaderModifier.
    ResponseHeaders(HeaderChanges),
    /// RequestRedirect: the request is answered here.
    Redirect(Redirect),
    /// URLRewrite.
    Rewrite(Rewrite),
}

/// Header fields to set, add and remove. Names keep the case they are written in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderChanges {
    /// Replace all fields of that name by this one.
    pub set: Vec<(Box<str>, Box<str>)>,
    /// Append a field, whatever is there.
    pub add: Vec<(Box<str>, Box<str>)>,
    /// Remove all fields of that name.
    pub remove: Vec<Box<str>>,
}

/// RequestRedirect: parts not named stay those of the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// `http` or `https`; None keeps the listener's.
    pub scheme: Option<Box<str>>,
    /// None keeps the request's.
    pub hostname: Option<Box<str>>,
    /// None: the scheme's well-known port if `scheme` is set, else the listener's (Gateway API).
    pub port: Option<u16>,
    /// None keeps the request's.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// URLRewrite.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rewrite {
    /// The new Host.
    pub hostname: Option<Box<str>>,
    /// The new path.
    pub path: Option<PathChange>,
}

/// A new path for a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathChange {
    /// The whole path, the query stays.
    Full(Box<str>),
    /// The part that the rule's PathPrefix matched.
    Prefix(Box<str>),
}

/// One port of a Service with its endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// `namespace/service:port`, or `namespace/service:app` of the instance beside which this proxy stands.
    pub name: Arc<str>,
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// The port's number.
    pub port: u16,
    /// It is the instance beside which this proxy stands, and no port of its Service.
    pub is_app: bool,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// Those with a weight above 0; none means 503.
    pub endpoints: Vec<Endpoint>,
    /// Who serves whom: the baseline first, then each lane that has endpoints here. An endpoint of a lane that no
    /// LaneGroup knows is in none of them.
    pub groups: Vec<Group>,
    /// The same for LaneGroups in shadow; empty where the namespace has none.
    pub shadow_groups: Vec<Group>,
    /// The upstream side: timeouts and pool.
    pub settings: ClusterSettings,
    /// Limits, breakers and faults of the Service.
    pub policies: Arc<[Arc<Policy>]>,
    /// The TrafficPolicy in shadow.
    pub shadow: Option<Arc<TrafficShadow>>,
}

impl Cluster {
    /// Whether control tells its endpoints, and has not so far.
    pub fn is_awaited(&self) -> bool {
        matches!(&self.discovery, Discovery::Control(told) if told.instances.is_none())
    }
}

/// The endpoints of a cluster that requests of one lane go to.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The lane's name; None: the baseline.
    pub lane: Option<Arc<str>>,
    /// Places among the cluster's endpoints.
    pub members: Vec<u32>,
    /// Which of the members, by place in that list, a hash belongs to, where the balance is by hash.
    pub consistent: Option<Arc<Consistent>>,
}

impl Group {
    /// One that is only counted: nobody is chosen of it.
    pub(crate) fn counted((lane, members): (Option<Arc<str>>, Vec<u32>)) -> Group {
        Group { lane, members, consistent: None }
    }
}

/// The upstream side of a cluster, with its defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    /// From the connect to the established connection.
    pub connect_timeout: Duration,
    /// From the end of the request to the first byte of the answer, where the rule says nothing stricter.
    pub first_byte_timeout: Duration,
    /// An unused pooled connection is closed after this, or sooner if the peer says so in `Keep-Alive`.
    pub idle_timeout: Duration,
    /// Unused pooled connections to one endpoint, per worker.
    pub idle_connections_max: usize,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// What balance by hash hashes: the first of these that a request has.
    pub hash_on: Box<[HashKey]>,
    /// Which endpoints are used of those there are.
    pub usage: Usage,
    /// How much at the same time.
    pub bounds: Bounds,
    /// What is tried again.
    pub retries: Retries,
}

/// Which endpoints are used of those there are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage {
    /// Near ones first.
    pub locality: Option<Locality>,
    /// Without those that fail.
    pub outlier: Option<Outlier>,
    /// New ones gently.
    pub slow_start: Option<SlowStart>,
    /// Without those that say that they are not well.
    pub health_check: Option<HealthCheck>,
}

/// The own zone first.
#[derive(Debug, Clone, PartialEq)]
pub struct Locality {
    /// Only where the zone has at least this part (0 to 1) of the ready weight.
    pub local_share_min: f64,
    /// Zones that take over, in this order.
    pub failover: Vec<Box<str>>,
}

/// Who fails is left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row.
    pub failures: u32,
    /// So long without ejection makes the next one step shorter.
    pub interval: Duration,
    /// The first ejection in a row; the n-th takes n times as long.
    pub ejection: Duration,
    /// Of a cluster's endpoints; at least one may be ejected, never all.
    pub ejected_percent_max: u32,
}

/// Who is new gets less at first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// Until it gets all of its share.
    pub window: Duration,
    /// The part (0 to 1) that it gets at once.
    pub weight_min: f64,
    /// 1 is a straight line.
    pub aggression: f64,
    /// Where this part (0 to 1) of the endpoints is new, none is spared.
    pub guard: f64,
}

/// A question that tells who is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Path and query.
    pub target: Box<str>,
    /// The `Host` to be said.
    pub host: Box<str>,
    /// From one question to the next.
    pub interval: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Good answers in a row.
    pub healthy_threshold: u32,
    /// Bad ones in a row.
    pub unhealthy_threshold: u32,
}

/// How much at the same time, over the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections; None: as many as there are descriptors.
    pub connections_max: Option<u32>,
    /// Requests that wait for one of them.
    pub pending_max: u32,
    /// Requests; None: no bound.
    pub requests_max: Option<u32>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { connections_max: None, pending_max: 1024, requests_max: None }
    }
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// Attempts after the first.
    pub attempts: u32,
    /// After no connection.
    pub connect_failure: bool,
    /// After a connection that ended before an answer.
    pub reset: bool,
    /// After an attempt that took too long.
    pub timeout: bool,
    /// After answers with these statuses.
    pub codes: Vec<u16>,
    /// Retries as a part of the requests.
    pub budget_ratio: f64,
    /// Retries beside those.
    pub budget_per_second: u32,
}

impl Retries {
    /// Whether a request of which something was sent may be sent again.
    pub fn rewinds(&self) -> bool {
        self.attempts > 0 && (self.reset || self.timeout || !self.codes.is_empty())
    }
}

impl Default for Retries {
    fn default() -> Self {
        Retries {
            // What no endpoint has seen anything of harms nobody.
            attempts: 2,
            connect_failure: true,
            reset: false,
            timeout: false,
            codes: Vec::new(),
            budget_ratio: 0.2,
            budget_per_second: 10,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// The better of two at random, by latency and requests in flight.
    #[default]
    PeakEwma,
    /// One after the other, by weight.
    RoundRobin,
    /// The better of two at random, by requests in flight.
    LeastRequest,
    /// By a hash of the request, on a ring.
    RingHash,
    /// By a hash of the request, in Maglev's table.
    Maglev,
}

/// A part of a request that tells alike ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// A header field, its name in lower case.
    Header(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
    /// A parameter of the query.
    Query(Box<str>),
    /// The client's address.
    ClientAddress,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings {
            // Longer than the kernel's first repeat of a lost SYN, which comes after a second.
            connect_timeout: Duration::from_secs(3),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            idle_connections_max: 512,
            balance: Balance::PeakEwma,
            hash_on: Box::default(),
            usage: Usage::default(),
            bounds: Bounds::default(),
            retries: Retries::default(),
        }
    }
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share among the cluster's endpoints.
    pub weight: u32,
    /// Its zone, if it has one.
    pub zone: Option<Box<str>>,
    /// Its labels; `lane` among them.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Which process it is, where a proxy of ours speaks for it: another one at the same address has another number. 0:
    /// nobody knows.
    pub incarnation: u64,
}
