//! One simulated proxy: the real machine of a proxy's end, the real reading of rules and the real change of endpoints, and
//! no data plane behind them. Machine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use config::snapshot::discovery::{self, Instances, Known};
use config::wire::envoy::config::core::v3::Node;
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::wire::evenkeel::v1::{self, resource::Kind};
use config::xds::client::{Action, Change, Client};
use config::xds::{self, Version};
use config::{Origin, Reader, Snapshot, Source};
use prost::Message as _;

use crate::{Failure, Outcome};

/// One proxy.
pub struct Proxy {
    client: Client,
    documents: BTreeMap<Arc<str>, Vec<u8>>,
    told: Told,
    rules: Snapshot,
    snapshot: Snapshot,
    /// Endpoints that its rules need, and how many of them are not known so far.
    wanted: BTreeSet<Arc<str>>,
    missing: usize,
    /// The newest of what is in force.
    newest: u64,
}

#[derive(Default)]
struct Told(HashMap<Arc<str>, Instances>);

impl Known for Told {
    fn addresses(&self, _: &str) -> Option<&[IpAddr]> {
        None
    }

    fn instances(&self, resource: &str) -> Option<&Instances> {
        self.0.get(resource)
    }
}

impl Proxy {
    /// A proxy of a Gateway.
    pub fn new(number: usize, gateway: usize) -> Proxy {
        let node = Node {
            id: format!("default/g{gateway}@fleet:{number}"),
            cluster: format!("default/g{gateway}"),
            client_features: config::kinds().map(String::from).collect(),
            ..Node::default()
        };
        let mut client = Client::new(node, BTreeMap::new(), 0);
        client.want([&*format!("Gateway/default/g{gateway}/*")]);
        let (rules, snapshot) = (Snapshot::default(), Snapshot::default());
        Proxy {
            client,
            documents: BTreeMap::new(),
            told: Told::default(),
            rules,
            snapshot,
            wanted: BTreeSet::new(),
            missing: 0,
            newest: 0,
        }
    }

    /// The machine, for its connection.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// What is said first on a new stream.
    pub fn introduction(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.client.on_connected().into_iter().find_map(|action| match action {
            Action::Send(request) => Some(*request),
            Action::Apply(_) | Action::Disconnect(_) => None,
        })
    }

    /// The newest revision of which something is in force, once all endpoints are known.
    pub fn revision(&self) -> u64 {
        match self.missing == 0 && !self.wanted.is_empty() {
            true => self.newest.max(self.client.revision()),
            false => 0,
        }
    }

    /// Control says something; what is to be said goes to `say`.
    pub fn on_response(
        &mut self,
        response: DeltaDiscoveryResponse,
        say: &mut impl FnMut(DeltaDiscoveryRequest),
    ) -> Outcome<()> {
        let mut actions = self.client.on_response(response);
        while let Some(action) = actions.pop() {
            match action {
                Action::Send(request) => say(*request),
                Action::Disconnect(reason) => return Err(Failure(reason)),
                Action::Apply(change) => {
                    let (result, has_rules) = match self.apply(&change) {
                        Ok(has_rules) => (Ok(()), has_rules),
                        Err(problems) => (Err(problems), false),
                    };
                    actions.extend(self.client.on_applied(&change, result));
                    if has_rules {
                        let all = discovery::resources(&self.rules);
                        let new: Vec<Arc<str>> = all.filter(|name| !self.wanted.contains(*name)).cloned().collect();
                        actions.extend(self.client.want(new.iter().map(|name| &**name)));
                        self.wanted.extend(new);
                    }
                }
            }
        }
        if self.missing > 0 || self.told.0.len() < self.wanted.len() {
            self.missing = self.wanted.iter().filter(|name| !self.client.is_known(name)).count();
        }
        Ok(())
    }

    /// Tells whether rules have changed.
    fn apply(&mut self, change: &Change) -> Result<bool, Vec<String>> {
        let mut has_rules = false;
        for (name, held) in &change.resources {
            let version = held.as_ref().and_then(|held| held.version.parse::<Version>().ok());
            self.newest = self.newest.max(version.map_or(0, |version| version.revision));
            let body = held.as_ref().and_then(|held| v1::Resource::decode(held.body.clone()).ok()?.kind);
            match body {
                Some(Kind::Document(document)) => {
                    has_rules = true;
                    self.documents.insert(name.clone(), document.text.to_vec());
                }
                Some(Kind::Endpoints(endpoints)) => {
                    let instances = xds::service::instances(&endpoints).map_err(|problem| vec![problem])?;
                    self.told.0.insert(name.clone(), instances);
                }
                None => {
                    has_rules |= self.documents.remove(name).is_some();
                    self.told.0.remove(name);
                }
            }
        }
        if has_rules {
            let source = |(name, bytes): (&Arc<str>, &Vec<u8>)| Source { name: name.clone(), bytes: bytes.clone() };
            let sources: Vec<Source> = self.documents.iter().map(source).collect();
            let read = Reader::new(Origin::Control).read(&sources);
            let lines = |problems: Vec<config::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
            self.rules = read.map_err(lines)?.snapshot;
        }
        self.snapshot = discovery::resolve(&self.rules, &self.snapshot, &self.told);
        Ok(has_rules)
    }
}
