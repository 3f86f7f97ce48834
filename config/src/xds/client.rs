//! A proxy's end of the stream: what it wants, what it has, what it is taking. Events go in, actions come out; who carries
//! them out tells what became of them. Machine, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;

use crate::wire::envoy::config::core::v3::Node;
use crate::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::wire::google::rpc::Status;
use crate::xds::{TYPE, Version};

/// The first pause before another connection, half of it by chance.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Bytes of a change that is not complete: more is a server gone wrong.
const STAGED_BYTES_MAX: usize = 256 << 20;
/// google.rpc.Code INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

/// A resource as it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What control calls these bytes.
    pub version: String,
    /// Empty for a collection that is there.
    pub body: Bytes,
}

/// What a response changes, as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// What the answer to it is about.
    nonce: String,
    /// The number of the stream on which it came.
    stream: u64,
    /// With it everything up to this revision is there.
    pub revision: u64,
    /// Resources by name; None: there is none, or it is no longer this proxy's.
    pub resources: BTreeMap<Arc<str>, Option<Held>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send it on the stream that is open.
    Send(Box<DeltaDiscoveryRequest>),
    /// Put a change in force, and say what became of it by `on_applied`.
    Apply(Change),
    /// The stream makes no sense: close it, which is `on_disconnected`.
    Disconnect(String),
}

/// One proxy's end.
#[derive(Debug, Default)]
pub struct Client {
    node: Node,
    wanted: BTreeSet<Arc<str>>,
    /// In force.
    held: BTreeMap<Arc<str>, Held>,
    /// Names that control has said do not exist.
    absent: BTreeSet<Arc<str>>,
    /// The highest revision of which everything is in force.
    revision: u64,
    is_connected: bool,
    /// The first request of this stream was sent.
    is_introduced: bool,
    /// Changes that were handed out, of this stream and those before, of which nothing was heard so far.
    applying: usize,
    /// The number of the last stream.
    stream: u64,
    /// The number of its last message.
    nonce: u64,
    /// The beginning of a change.
    staged: BTreeMap<Arc<str>, Option<Held>>,
    staged_bytes: usize,
    /// Connections in vain, one after the other.
    failures: u32,
}

impl Client {
    /// One that has what was in force before it ended, if that is known.
    pub fn new(node: Node, held: BTreeMap<Arc<str>, Held>, revision: u64) -> Client {
        Client { node, held, revision, ..Client::default() }
    }

    /// What is in force, by name, collections among it.
    pub fn held(&self) -> &BTreeMap<Arc<str>, Held> {
        &self.held
    }

    /// What control is asked for.
    pub fn wanted(&self) -> &BTreeSet<Arc<str>> {
        &self.wanted
    }

    /// The highest revision of which everything that is wanted is in force.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether control has said what becomes of a name that is wanted: it is held, or does not exist.
    pub fn is_known(&self, name: &str) -> bool {
        self.held.contains_key(name) || self.absent.contains(name)
    }

    /// A stream is open.
    pub fn on_connected(&mut self) -> Vec<Action> {
        self.is_connected = true;
        self.is_introduced = false;
        self.stream += 1;
        self.nonce = 0;
        self.forget_staged();
        self.introduce()
    }

    /// Says what is wanted and held: once it is clear what that is.
    fn introduce(&mut self) -> Vec<Action> {
        if self.applying > 0 || !self.is_connected || self.is_introduced {
            return Vec::new();
        }
        self.is_introduced = true;
        let held = self.held.iter().map(|(name, held)| (name.to_string(), held.version.clone()));
        let absent = self.absent.iter().map(|name| (name.to_string(), Version::ABSENT.to_string()));
        vec![Action::Send(Box::new(DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: TYPE.into(),
            resource_names_subscribe: self.wanted.iter().map(ToString::to_string).collect(),
            initial_resource_versions: held.chain(absent).collect(),
            ..DeltaDiscoveryRequest::default()
        }))]
    }

    /// The stream is gone, or there was none. Returns how long to wait before the next; `dice` is uniform.
    pub fn on_disconnected(&mut self, dice: u64) -> Duration {
        (self.is_connected, self.is_introduced) = (false, false);
        self.forget_staged();
        let longest = PAUSE_FIRST.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        let chance = dice as f64 / u64::MAX as f64;
        longest.mul_f64(0.5 + 0.5 * chance)
    }

    /// Control says something.
    pub fn on_response(&mut self, response: DeltaDiscoveryResponse) -> Vec<Action> {
        if !self.is_connected {
            return Vec::new();
        }
        self.nonce += 1;
        if response.type_url != TYPE || response.nonce != self.nonce.to_string() {
            let said = (&response.type_url, &response.nonce);
            return self.disconnect(format!("message {} is {said:?}", self.nonce));
        }
        for resource in response.resources {
            let body = resource.resource.map(|any| any.value).unwrap_or_default();
            self.staged_bytes += resource.name.len() + body.len();
            self.staged.insert(resource.name.into(), Some(Held { version: resource.version, body }));
        }
        for name in response.removed_resources {
            self.staged_bytes += name.len();
            self.staged.insert(name.into(), None);
        }
        if self.staged_bytes > STAGED_BYTES_MAX {
            return self.disconnect(format!("a change of more than {STAGED_BYTES_MAX} bytes"));
        }
        if response.system_version_info.is_empty() {
            return Vec::new();
        }
        let Ok(revision) = response.system_version_info.parse() else {
            return self.disconnect(format!("{:?} is no revision", response.system_version_info));
        };
        // Whoever makes sense is worth another try at once.
        self.failures = 0;
        let resources = std::mem::take(&mut self.staged);
        self.forget_staged();
        self.applying += 1;
        vec![Action::Apply(Change { nonce: response.nonce, stream: self.stream, revision, resources })]
    }

    /// A change is in force, or cannot be for these reasons. Changes come into force in the order in which they were handed
    /// out, but for those that have no name in common.
    pub fn on_applied(&mut self, change: &Change, result: Result<(), Vec<String>>) -> Vec<Action> {
        if result.is_ok() {
            for (name, held) in &change.resources {
                match held {
                    Some(held) => {
                        self.absent.remove(name);
                        self.held.insert(name.clone(), held.clone());
                    }
                    None => {
                        self.held.remove(name);
                        match self.wanted.contains(name) {
                            true => drop(self.absent.insert(name.clone())),
                            false => drop(self.absent.remove(name)),
                        }
                    }
                }
            }
            self.revision = self.revision.max(change.revision);
        }
        self.applying -= 1;
        if !self.is_connected || change.stream != self.stream {
            return self.introduce();
        }
        let message = result.err().map(|problems| problems.join("\n"));
        vec![Action::Send(Box::new(DeltaDiscoveryRequest {
            type_url: TYPE.into(),
            response_nonce: change.nonce.clone(),
            error_detail: message.map(|message| Status { code: INVALID_ARGUMENT, message }),
            ..DeltaDiscoveryRequest::default()
        }))]
    }

    /// From now on these are wanted.
    pub fn want<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Vec<Action> {
        let new: Vec<&str> = names.into_iter().filter(|name| self.wanted.insert((*name).into())).collect();
        if new.is_empty() || !self.is_introduced {
            return Vec::new();
        }
        vec![Action::Send(Box::new(DeltaDiscoveryRequest {
            type_url: TYPE.into(),
            resource_names_subscribe: new.into_iter().map(String::from).collect(),
            ..DeltaDiscoveryRequest::default()
        }))]
    }

    /// These are no longer wanted. Control answers with a change that removes them: it knows what else they belong to.
    pub fn forget<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Vec<Action> {
        let old: Vec<&str> = names.into_iter().filter(|name| self.wanted.remove(*name)).collect();
        if old.is_empty() || !self.is_introduced {
            return Vec::new();
        }
        vec![Action::Send(Box::new(DeltaDiscoveryRequest {
            type_url: TYPE.into(),
            resource_names_unsubscribe: old.into_iter().map(String::from).collect(),
            ..DeltaDiscoveryRequest::default()
        }))]
    }

    fn disconnect(&mut self, reason: String) -> Vec<Action> {
        self.forget_staged();
        vec![Action::Disconnect(reason)]
    }

    fn forget_staged(&mut self) {
        self.staged.clear();
        self.staged_bytes = 0;
    }
}
