//! Control's end of one proxy's stream: what the proxy wants and has, what is under way to it, what it refused. Events
//! go in one by one; after each, `responses` says what is to be sent. Machine, Cold.
//!
//! Changes that belong together are a *group*: those of one transaction, and of all that share a resource with it and
//! have not arrived either, since of a resource only the newest bytes are known. A response is made of whole groups.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::wire::envoy::config::core::v3::Node;
use crate::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::wire::google::protobuf::Any;
use crate::xds::catalog::{Catalog, Changed};
use crate::xds::trial::View;
use crate::xds::{ENDPOINTS, NAME_BYTES_MAX, TYPE, Version, is_collection};

/// A collection that is there; its members have versions of their own.
const PRESENT: Version = Version { revision: 0, hash: 1 };

/// What a proxy may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Names it subscribes to at the same time.
    pub names_max: usize,
    /// Bytes of resources in one message; a response that has more goes on in another.
    pub message_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { names_max: 20_000, message_bytes_max: 1 << 20 }
    }
}

/// Of the reason for a refusal; what is beyond is left out.
const REASON_BYTES_MAX: usize = 8 << 10;

/// Why a stream is cut: its proxy does not keep to the protocol, or to its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach(pub String);

/// Changes that a proxy takes together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    /// Without it, the proxy lacks something of this revision.
    since: u64,
    names: BTreeSet<Arc<str>>,
}

impl Group {
    fn is_urgent(&self) -> bool {
        self.names.iter().all(|name| name.starts_with(ENDPOINTS))
    }

    fn shares_a_name_with(&self, other: &Group) -> bool {
        let (few, many) = if self.names.len() < other.names.len() { (self, other) } else { (other, self) };
        few.names.iter().any(|name| many.names.contains(name))
    }

    fn join(&mut self, other: Group) {
        self.since = self.since.min(other.since);
        self.names.extend(other.names);
    }
}

/// What a proxy did not take, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    group: Group,
    /// What the proxy said.
    pub reason: String,
}

impl Refused {
    /// The first revision of which the proxy lacks something for this.
    pub fn since(&self) -> u64 {
        self.group.since
    }

    /// The resources, which are left until one of them changes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.group.names.iter().map(|name| &**name)
    }
}

/// A response that was neither accepted nor refused so far.
#[derive(Debug)]
struct UnderWay {
    /// Of its last message.
    nonce: String,
    groups: Vec<Group>,
    /// What the proxy has of each name once it has taken it; None: nothing is known of it any more.
    outcome: Vec<(Arc<str>, Option<Version>)>,
}

impl UnderWay {
    fn concerns(&self, group: &Group) -> bool {
        self.groups.iter().any(|own| own.shares_a_name_with(group))
    }
}

/// What may be under way at the same time.
const SLOTS: usize = 2;
/// Endpoints.
const URGENT: usize = 0;
/// Everything.
const NORMAL: usize = 1;

/// One proxy's stream.
#[derive(Debug, Default)]
pub struct Stream {
    limits: Limits,
    node: Option<Node>,
    /// The kinds of document that the proxy knows, in one word that many proxies share; empty: all.
    kinds: Arc<str>,
    subscribed: BTreeSet<Arc<str>>,
    /// What the proxy has in force, as far as it said so, and what it knows to be absent.
    has: HashMap<Arc<str>, Version, RandomState>,
    /// Not sent, or changed since.
    pending: Vec<Group>,
    /// After a refusal: to be sent each in a response of its own.
    apart: VecDeque<Vec<Group>>,
    refused: Vec<Refused>,
    refusals: u64,
    under_way: [Option<UnderWay>; SLOTS],
    /// The newest revision that the proxy came with, where that is newer than everything here.
    ahead: Option<u64>,
    /// The first request waits for an answer even if there is nothing to say.
    owes_answer: bool,
    nonces: u64,
}

impl Stream {
    /// Before the first request.
    pub fn new(limits: Limits) -> Stream {
        Stream { limits, ..Stream::default() }
    }

    /// Who is at the other end, as it said of itself.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The newest revision that the proxy came with, where that is newer than everything here: this catalog is of an earlier
    /// time.
    pub fn ahead(&self) -> Option<u64> {
        self.ahead
    }

    /// The kinds of document that the proxy knows, with a space between them; empty: it does not say, and gets all.
    pub fn kinds(&self) -> &Arc<str> {
        &self.kinds
    }

    /// The same word, which others have, too.
    pub fn share_kinds(&mut self, same: Arc<str>) {
        debug_assert_eq!(self.kinds, same);
        self.kinds = same;
    }

    /// The proxy wants something, or says what became of a response.
    pub fn on_request(&mut self, catalog: &Catalog, request: DeltaDiscoveryRequest) -> Result<(), Breach> {
        if request.type_url != TYPE {
            return Err(Breach(format!("type {:?} is not served here", request.type_url)));
        }
        let is_first = self.node.is_none();
        if is_first {
            let mut node = request.node.ok_or_else(|| Breach("the first request has no node".into()))?;
            self.kinds = std::mem::take(&mut node.client_features).join(" ").into();
            self.node = Some(node);
            if request.initial_resource_versions.len() > self.limits.names_max {
                return Err(Breach(format!("more than {} resources", self.limits.names_max)));
            }
            let known = |(name, version): (String, String)| {
                // Of another age: unlike any version there is.
                let version = version.parse().unwrap_or(Version { revision: u64::MAX, hash: u64::MAX });
                (catalog.shared(name), version)
            };
            self.has = request.initial_resource_versions.into_iter().map(known).collect();
            let revisions = self.has.values().map(|version| version.revision).filter(|revision| *revision < u64::MAX);
            self.ahead = revisions.max().filter(|revision| *revision > catalog.revision());
            self.owes_answer = true;
        }
        let view = self.view(catalog);
        if !request.response_nonce.is_empty() {
            let reason = request.error_detail.map(|detail| cut(detail.message));
            self.settle(view, &request.response_nonce, reason);
        }
        let mut group = Group { since: catalog.revision(), ..Group::default() };
        let is_less = is_first || !request.resource_names_unsubscribe.is_empty();
        for name in request.resource_names_unsubscribe {
            self.subscribed.remove(&*name);
        }
        for name in request.resource_names_subscribe {
            let name = catalog.shared(self.checked(name)?);
            self.add_wanted(view, &name, &mut group);
            self.subscribed.insert(name);
        }
        if is_less {
            self.add_unwanted(view, &mut group);
        }
        if is_first {
            group.since = self.first_lack(view, &group);
        }
        self.change(view, group);
        Ok(())
    }

    /// The catalog has changed, perhaps more than once; each change is told, in order, before anything else.
    pub fn on_change(&mut self, catalog: &Catalog, changed: &Changed) {
        let view = self.view(catalog);
        let mut group = Group { since: changed.revision, ..Group::default() };
        for name in &changed.resources {
            if self.has.contains_key(name) || self.is_wanted(view, name) || self.is_open(name) {
                group.names.insert(name.clone());
            }
        }
        let mut is_left = false;
        for name in changed.collections.iter().filter(|name| self.subscribed.contains(*name)) {
            self.add_wanted(view, name, &mut group);
            is_left = true;
        }
        if is_left {
            self.add_unwanted(view, &mut group);
        }
        self.change(view, group);
    }

    /// What is to be sent now, in this order; nothing more until something happens.
    pub fn responses(&mut self, catalog: &Catalog) -> Vec<DeltaDiscoveryResponse> {
        let (view, mut responses) = (self.view(catalog), Vec::new());
        // The first answer is all that the proxy lacks.
        let slots = if self.owes_answer { [NORMAL, URGENT] } else { [URGENT, NORMAL] };
        for slot in slots {
            while self.node.is_some() && self.under_way[slot].is_none() {
                let groups = self.take(slot);
                let owes_answer = slot == NORMAL && std::mem::take(&mut self.owes_answer);
                if groups.is_empty() && !owes_answer {
                    break;
                }
                self.send(view, slot, groups, owes_answer, &mut responses);
            }
        }
        responses
    }

    /// The revision up to which everything the proxy wants is in force there. A transaction that others try before it is
    /// not.
    pub fn in_force(&self, catalog: &Catalog) -> u64 {
        if self.node.is_none() || self.owes_answer {
            return 0;
        }
        let under_way = self.under_way.iter().flatten().flat_map(|response| &response.groups);
        self.complete(self.view(catalog), under_way)
    }

    /// The revision up to which nothing the proxy wants is still on its way: it is in force there, or refused, or others
    /// try it first.
    pub fn settled(&self, catalog: &Catalog) -> u64 {
        if self.node.is_none() || self.owes_answer {
            return 0;
        }
        let since = self.groups_on_their_way().map(|group| group.since).min();
        since.map_or(catalog.revision(), |since| since.saturating_sub(1))
    }

    /// What the proxy is to have in other bytes than are in force there, and that it has not refused.
    pub fn late<'s>(&'s self, catalog: &'s Catalog) -> impl Iterator<Item = &'s Arc<str>> {
        let names: BTreeSet<&Arc<str>> = self.groups_on_their_way().flat_map(|group| &group.names).collect();
        names.into_iter().filter(|name| self.is_lacking(catalog, name))
    }

    /// Whether other bytes of a resource, or none, are in force at a proxy that is to have it.
    pub fn is_lacking(&self, catalog: &Catalog, name: &str) -> bool {
        let view = self.view(catalog);
        self.is_wanted(view, name) && self.difference(view, name).is_some()
    }

    /// The responses that wait for the proxy's word, each by the nonce of its last message.
    pub fn unanswered(&self) -> impl Iterator<Item = &str> {
        self.under_way.iter().flatten().map(|response| &*response.nonce)
    }

    /// Names and collections that the proxy asked for.
    pub fn subscribed(&self) -> &BTreeSet<Arc<str>> {
        &self.subscribed
    }

    /// Whether the proxy is to have a resource.
    pub fn wants(&self, catalog: &Catalog, name: &str) -> bool {
        self.is_wanted(self.view(catalog), name)
    }

    /// Which bytes of a resource are in force at the proxy; None: none of it, as far as it said.
    pub fn has(&self, name: &str) -> Option<Version> {
        self.has.get(name).copied().filter(|version| *version != Version::ABSENT)
    }

    /// Whether the proxy may still use bytes of a resource that are older than a revision: they are in force there, or on
    /// their way.
    pub fn holds_older(&self, catalog: &Catalog, name: &str, revision: u64) -> bool {
        let is_older = |version: &Version| *version != Version::ABSENT && version.revision < revision;
        let outcomes = self.under_way.iter().flatten().flat_map(|response| &response.outcome);
        let mut under_way = outcomes.filter(|(known, _)| **known == *name).filter_map(|(_, version)| version.as_ref());
        // What has the same bytes as what is newest was given an older number, and lacks nothing.
        let has_older =
            || self.has.get(name).is_some_and(is_older) && self.difference(self.view(catalog), name).is_some();
        under_way.any(is_older) || has_older()
    }

    /// What the proxy did not take.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// How often it did not take something, counted.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    fn checked(&self, name: String) -> Result<String, Breach> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Breach(format!("a name has 1 to {NAME_BYTES_MAX} bytes")));
        }
        if self.subscribed.len() >= self.limits.names_max && !self.subscribed.contains(&*name) {
            return Err(Breach(format!("more than {} subscriptions", self.limits.names_max)));
        }
        Ok(name)
    }

    /// The catalog as the proxy is to see it.
    fn view<'c>(&self, catalog: &'c Catalog) -> View<'c> {
        catalog.view(self.node.as_ref().map_or("", |node| &node.id))
    }

    /// What the proxy should have of a name; None: nothing need be known of it.
    fn target(&self, view: View<'_>, name: &str) -> Option<Version> {
        if is_collection(name) {
            let is_subscribed = self.subscribed.contains(name);
            return is_subscribed.then(|| view.collection(name).map_or(Version::ABSENT, |_| PRESENT));
        }
        let version = view.resource(name).filter(|_| self.is_enforced(name)).map(|entry| entry.version);
        match self.subscribed.contains(name) {
            true => Some(version.unwrap_or(Version::ABSENT)),
            false => version.filter(|_| self.is_wanted(view, name)),
        }
    }

    fn is_wanted(&self, view: View<'_>, name: &str) -> bool {
        let is_member = |collection: &Arc<str>| {
            is_collection(collection) && view.collection(collection).is_some_and(|members| members.contains(name))
        };
        self.subscribed.contains(name) || self.subscribed.iter().any(is_member)
    }

    /// A kind of document that the proxy does not know is no news to it.
    fn is_enforced(&self, name: &str) -> bool {
        let kind = name.split('/').next().unwrap_or(name);
        self.kinds.is_empty() || name.starts_with(ENDPOINTS) || self.kinds.split(' ').any(|known| known == kind)
    }

    /// What was sent, and is not in force.
    fn open_groups(&self) -> impl Iterator<Item = &Group> {
        let under_way = self.under_way.iter().flatten().flat_map(|response| &response.groups);
        under_way.chain(self.refused.iter().map(|refused| &refused.group))
    }

    fn is_open(&self, name: &str) -> bool {
        self.open_groups().any(|group| group.names.contains(name))
    }

    fn groups_on_their_way(&self) -> impl Iterator<Item = &Group> {
        let under_way = self.under_way.iter().flatten().flat_map(|response| &response.groups);
        self.pending.iter().chain(self.apart.iter().flatten()).chain(under_way)
    }

    /// The first revision of which a proxy that introduces itself may lack something: all of them if it has nothing.
    fn first_lack(&self, view: View<'_>, group: &Group) -> u64 {
        let lack = |name: &Arc<str>| {
            self.difference(view, name)?;
            let made = view.resource(name).map(|entry| entry.version.revision);
            match self.has.get(name) {
                Some(has) => Some(has.revision.saturating_add(1)),
                None if self.has.is_empty() => Some(1),
                None => made,
            }
        };
        group.names.iter().filter_map(lack).min().unwrap_or(u64::MAX).min(view.catalog.revision())
    }

    /// A name that is subscribed to, and its members.
    fn add_wanted(&self, view: View<'_>, name: &Arc<str>, group: &mut Group) {
        group.names.insert(name.clone());
        if is_collection(name) {
            group.names.extend(view.collection(name).into_iter().flatten().cloned());
        }
    }

    /// What the proxy has, or will have, without wanting it any more.
    fn add_unwanted(&self, view: View<'_>, group: &mut Group) {
        let names = self.has.keys().chain(self.open_groups().flat_map(|group| &group.names));
        group.names.extend(names.filter(|name| self.target(view, name).is_none()).cloned());
    }

    /// Something has to be sent: what of it the proxy does not have yet, with all that belongs to it.
    fn change(&mut self, view: View<'_>, mut group: Group) {
        group.names.retain(|name| self.is_open(name) || self.difference(view, name).is_some());
        if !group.names.is_empty() {
            let group = self.gather(group);
            self.pending.push(group);
        }
    }

    /// A group with all groups that share a name with it and are not under way.
    fn gather(&mut self, mut group: Group) -> Group {
        loop {
            let before = group.names.len();
            for others in std::iter::once(&mut self.pending).chain(&mut self.apart) {
                for other in others.extract_if(.., |other| other.shares_a_name_with(&group)).collect::<Vec<_>>() {
                    group.join(other);
                }
            }
            let is_concerned = |refused: &mut Refused| refused.group.shares_a_name_with(&group);
            for refused in self.refused.extract_if(.., is_concerned).collect::<Vec<_>>() {
                group.join(refused.group);
            }
            if group.names.len() == before {
                self.apart.retain(|groups| !groups.is_empty());
                return group;
            }
        }
    }

    /// What has to be said of a name: the version the proxy is to have, or none. None: nothing.
    fn difference(&self, view: View<'_>, name: &str) -> Option<Option<Version>> {
        let (has, target) = (self.has.get(name).copied(), self.target(view, name));
        // The same bytes may have come at another revision: a server that was started anew knows only when a document
        // changed last, and a Service is sent in two parts.
        let is_same = match (has, target) {
            (Some(has), Some(target)) => has.hash == target.hash,
            (None, None) => true,
            _ => false,
        };
        (!is_same).then_some(target)
    }

    /// The groups that go next in a slot. What is under way in the other must have arrived before it changes again.
    fn take(&mut self, slot: usize) -> Vec<Group> {
        let other = &self.under_way[SLOTS - 1 - slot];
        let is_free = |group: &Group| other.as_ref().is_none_or(|response| !response.concerns(group));
        if slot == NORMAL
            && let Some(groups) = self.apart.front()
        {
            let is_next = groups.iter().all(is_free);
            return if is_next { self.apart.pop_front().unwrap_or_default() } else { Vec::new() };
        }
        self.pending.extract_if(.., |group| (slot == NORMAL || group.is_urgent()) && is_free(group)).collect()
    }

    fn send(
        &mut self,
        view: View<'_>,
        slot: usize,
        groups: Vec<Group>,
        owes_answer: bool,
        responses: &mut Vec<DeltaDiscoveryResponse>,
    ) {
        let names = groups.iter().flat_map(|group| &group.names);
        let outcome: Vec<(Arc<str>, Option<Version>)> =
            names.filter_map(|name| Some((name.clone(), self.difference(view, name)?))).collect();
        if outcome.is_empty() && !owes_answer {
            return;
        }
        let empty = || DeltaDiscoveryResponse { type_url: TYPE.into(), ..DeltaDiscoveryResponse::default() };
        let mut parts = vec![empty()];
        let mut bytes = 0;
        for (name, target) in &outcome {
            let body = view.resource(name).map(|entry| entry.body.clone());
            bytes += name.len() + 64 + body.as_ref().map_or(0, |body| body.len());
            if bytes > self.limits.message_bytes_max && parts.last().is_some_and(|part| part != &empty()) {
                parts.push(empty());
                bytes = name.len() + 64 + body.as_ref().map_or(0, |body| body.len());
            }
            let part = parts.last_mut().expect("there is always one");
            match target {
                None | Some(Version::ABSENT) => part.removed_resources.push(name.to_string()),
                Some(version) => part.resources.push(Resource {
                    name: name.to_string(),
                    version: version.to_string(),
                    resource: body.map(|value| Any { type_url: TYPE.into(), value }),
                }),
            }
        }
        let other = self.under_way[SLOTS - 1 - slot].iter().flat_map(|response| &response.groups);
        let revision = self.complete(view, other);
        for part in &mut parts {
            self.nonces += 1;
            part.nonce = self.nonces.to_string();
        }
        let last = parts.last_mut().expect("there is always one");
        last.system_version_info = revision.to_string();
        self.under_way[slot] = Some(UnderWay { nonce: last.nonce.clone(), groups, outcome });
        responses.extend(parts);
    }

    /// The revision of which nothing is missing, nor hidden from the proxy, but for what is not sent, or refused, or in `others`.
    fn complete<'g>(&'g self, view: View<'_>, others: impl Iterator<Item = &'g Group>) -> u64 {
        let waiting = self.pending.iter().chain(self.apart.iter().flatten());
        let refused = self.refused.iter().map(|refused| &refused.group);
        let since = waiting.chain(refused).chain(others).map(|group| group.since).min();
        since.map_or(u64::MAX, |since| since.saturating_sub(1)).min(view.revision())
    }

    /// A response is accepted, or refused for a reason. What is not under way any more is passed over.
    fn settle(&mut self, view: View<'_>, nonce: &str, refusal: Option<String>) {
        let mut slots = self.under_way.iter_mut();
        let Some(response) = slots.find_map(|slot| slot.take_if(|response| response.nonce == nonce)) else {
            return;
        };
        let Some(reason) = refusal else {
            for (name, version) in response.outcome {
                match version {
                    Some(version) => drop(self.has.insert(name, version)),
                    None => drop(self.has.remove(&name)),
                }
            }
            return;
        };
        let mut suspects = response.groups;
        if let [group] = &suspects[..] {
            let part = |names| Group { since: group.since, names };
            let has = |name: &str| self.has.get(name).map_or(0, |version| version.revision);
            suspects = Catalog::split(view, &group.names, has).into_iter().map(part).collect();
        }
        let is_found = suspects.len() == 1;
        let mut alone = Vec::new();
        for group in suspects {
            match self.pending.iter().any(|pending| pending.shares_a_name_with(&group)) {
                // It has changed meanwhile, perhaps for the better.
                true => {
                    let group = self.gather(group);
                    self.pending.push(group);
                }
                false => alone.push(group),
            }
        }
        if is_found {
            self.refusals += alone.len() as u64;
            self.refused.extend(alone.into_iter().map(|group| Refused { group, reason: reason.clone() }));
        } else {
            let rest = alone.split_off(alone.len() / 2);
            self.apart.extend([alone, rest].into_iter().filter(|groups| !groups.is_empty()));
        }
    }
}

/// A reason as it is kept.
fn cut(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason.push('…');
    }
    reason
}
