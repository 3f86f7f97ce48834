//! Lanes: what puts a request into one, and which endpoints are in it. How a request is decided on is `filters`'
//! business. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::route::Expression;
use crate::snapshot::HashKey;

/// What an address does about lanes.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LaneRole {
    /// No LaneGroup knows it: tags that a client sent are removed, and requests have no lane.
    #[default]
    Strip,
    /// An entry: what the client says of lanes is removed, and this group decides.
    Decide(Arc<LaneGroup>),
    /// Calls between services: their tag is believed, of any of these groups.
    Inherit(Vec<Arc<LaneGroup>>),
}

/// LaneGroup.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneGroup {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// The namespace whose services it is about: a lane never leaves it.
    pub namespace: Arc<str>,
    /// What instances that carry no other lane are called.
    pub baseline: Arc<str>,
    /// What becomes of a request whose lane has no ready instance of a service.
    pub isolation: Isolation,
    /// The request header that carries the lane's name, in lower case.
    pub header: Box<str>,
    /// The member of `baggage` (W3C) that does, too; None: none.
    pub baggage: Option<Box<str>>,
    /// In the order of precedence.
    pub lanes: Vec<Lane>,
}

/// What becomes of a request whose lane has no ready instance of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// It goes to the baseline, and back into the lane at the next service that has it.
    #[default]
    Permissive,
    /// It is answered 503.
    Strict,
}

/// One lane.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Unique in its namespace.
    pub name: Arc<str>,
    /// The labels of its instances, at least one.
    pub selector: BTreeMap<Box<str>, Box<str>>,
    /// Requests for which one of these holds wholly are in it.
    pub matches: Vec<LaneMatch>,
    /// Of the requests that no match of any lane took.
    pub share: Option<Share>,
}

/// All of its conditions hold; at least one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LaneMatch {
    /// Header fields, cookies and query parameters.
    pub values: Vec<(HashKey, Text)>,
    /// The path.
    pub path: Option<PathTest>,
    /// One of these methods; empty: any.
    pub methods: Vec<Box<str>>,
    /// The client's address is in one of these; empty: any.
    pub sources: Vec<ipnet::IpNet>,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// Exactly this.
    Exact(Box<str>),
    /// Matched as a whole by this.
    Regex(Expression),
}

/// What a path must be.
#[derive(Debug, Clone, PartialEq)]
pub enum PathTest {
    /// Exactly this, or matched as a whole.
    Is(Text),
    /// It begins with these segments.
    Prefix(Box<str>),
}

/// A share of requests, the same ones each time.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Of 10,000.
    pub basis_points: u32,
    /// What makes a client stay in or out.
    pub sticky_by: HashKey,
    /// What becomes of a request that lacks it.
    pub on_missing: OnMissingKey,
    /// `consistent::hash` of the salt and of the lane's name, mixed into that of the key: others choose other clients.
    pub seed: [u64; 2],
    /// Never more than the lane's part of ready weight.
    pub capacity_guard: bool,
}

/// What becomes of a request without a sticky key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissingKey {
    /// It stays out of the lane.
    #[default]
    Skip,
    /// It is decided by the dice, each time anew.
    Random,
    /// Its key is made here, and given to the client as a cookie with the answer; only for cookies.
    Issue,
}
