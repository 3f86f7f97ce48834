//! A control and some proxies, what can go wrong between them, and what must hold all the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use prost::bytes::Bytes;

use crate::wire::envoy::config::core::v3::Node;
use crate::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::xds::Version;
use crate::xds::catalog::{Catalog, Changed, Transaction};
use crate::xds::client::{Action, Change, Client, Held};
use crate::xds::server::{Limits, Stream};

/// How probable it is that something goes wrong, in each step and for each proxy.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// A line breaks, and what is on it is lost.
    pub cut: f64,
    /// Control forgets all streams.
    pub control_restart: f64,
    /// A proxy starts anew ...
    pub proxy_restart: f64,
    /// ... and has lost what it had, this often.
    pub forget: f64,
    /// A message is lost, doubled, or overtakes another.
    pub garble: f64,
    /// A body is one that proxies refuse.
    pub bad: f64,
    /// A trial begins, is promoted, or is taken back.
    pub trial: f64,
}

/// A transaction that was on trial, or is.
struct Trial {
    revision: u64,
    names: Vec<Arc<str>>,
    collections: BTreeMap<Arc<str>, Option<BTreeSet<Arc<str>>>>,
}

const NAMES: u64 = 12;
const COLLECTIONS: u64 = 3;
const PROXIES: usize = 6;
const BAD: &[u8] = b"bad";

pub(super) struct Simulation {
    faults: Faults,
    dice: u64,
    now: u64,
    catalog: Catalog,
    /// What each transaction changed.
    history: Vec<(u64, Vec<Arc<str>>)>,
    /// The last of them is on trial, if one is.
    trials: Vec<Trial>,
    proxies: Vec<Proxy>,
    problems: Vec<String>,
    /// What is sent now must be news.
    is_quiet: bool,
}

struct Proxy {
    client: Client,
    stream: Option<Stream>,
    to_control: VecDeque<DeltaDiscoveryRequest>,
    to_proxy: VecDeque<DeltaDiscoveryResponse>,
    applying: VecDeque<Change>,
    connects_at: u64,
    /// A message was lost: the line is about to break.
    is_doomed: bool,
    wanted: BTreeSet<Arc<str>>,
    /// The revision at which a name began to be held.
    held_since: BTreeMap<Arc<str>, u64>,
}

fn random(dice: &mut u64) -> u64 {
    // SplitMix64 (Steele, Lea and Flood 2014).
    *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *dice;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Simulation {
    pub(super) fn new(seed: u64, faults: Faults) -> Simulation {
        let proxy = |number: usize| Proxy {
            client: Client::new(node(number), BTreeMap::new(), 0),
            stream: None,
            to_control: VecDeque::new(),
            to_proxy: VecDeque::new(),
            applying: VecDeque::new(),
            connects_at: 0,
            is_doomed: false,
            wanted: BTreeSet::new(),
            held_since: BTreeMap::new(),
        };
        Simulation {
            faults,
            dice: seed,
            now: 0,
            catalog: Catalog::default(),
            history: Vec::new(),
            trials: Vec::new(),
            proxies: (0..PROXIES).map(proxy).collect(),
            problems: Vec::new(),
            is_quiet: false,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        random(&mut self.dice) % bound
    }

    fn chance(&mut self, probability: f64) -> bool {
        (random(&mut self.dice) as f64 / u64::MAX as f64) < probability
    }

    pub(super) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            if self.chance(0.1) {
                let transaction = self.change();
                self.commit(transaction);
            }
            if self.chance(self.faults.control_restart) {
                (0..PROXIES).for_each(|at| self.cut(at));
            }
            if self.chance(self.faults.trial) {
                match self.catalog.trial() {
                    None => self.begin_trial(),
                    Some(_) => self.end_trial(),
                }
            }
            for at in 0..PROXIES {
                self.disturb(at);
            }
            self.step();
        }
    }

    /// Nothing changes any more, and nothing goes wrong: who is not where all others are?
    pub(super) fn settle(&mut self) -> Vec<String> {
        for at in 0..PROXIES {
            if self.proxies[at].is_doomed {
                self.cut(at);
            }
        }
        self.rest();
        self.compare(true);
        // Nothing that is held is sent again.
        self.is_quiet = true;
        for at in 0..PROXIES {
            self.cut(at);
        }
        self.rest();
        self.compare(true);
        self.is_quiet = false;
        if self.catalog.trial().is_some() {
            self.end_trial();
        }
        // What was refused is mended, and everybody has everything.
        let mended: Vec<Arc<str>> = (0..NAMES)
            .map(name)
            .filter(|name| self.catalog.resource(name).is_some_and(|entry| entry.body == BAD))
            .collect();
        for name in mended {
            let mut transaction = self.next();
            transaction.resources.insert(name, Some(Bytes::from_static(b"mended")));
            self.commit(transaction);
        }
        self.rest();
        self.compare(false);
        std::mem::take(&mut self.problems)
    }

    fn next(&self) -> Transaction {
        Transaction { revision: self.catalog.revision() + 1, ..Transaction::default() }
    }

    /// Something changes: one to three resources, and now and then who belongs to a collection.
    fn change(&mut self) -> Transaction {
        let mut transaction = self.next();
        for _ in 0..=self.below(3) {
            let name = name(self.below(NAMES));
            let body = match self.below(10) {
                0 => None,
                _ if self.chance(self.faults.bad) => Some(Bytes::from_static(BAD)),
                _ => Some(Bytes::from(format!("{} at {}", name, transaction.revision))),
            };
            transaction.resources.insert(name, body);
        }
        if self.below(5) == 0 {
            let members = (self.below(8) > 0).then(|| (0..=self.below(5)).map(|_| name(self.below(NAMES))).collect());
            transaction.collections.insert(collection(self.below(COLLECTIONS)), members);
        }
        transaction
    }

    fn commit(&mut self, mut transaction: Transaction) {
        let revision = transaction.revision;
        let on_trial = self.catalog.trial().and_then(|_| self.trials.last());
        if let Some(trial) = on_trial {
            // There is one transaction at a time for what belongs together.
            transaction.resources.retain(|name, _| !trial.names.contains(name));
        }
        let collections = on_trial.map(|trial| trial.collections.clone()).unwrap_or_default();
        let mut changed = self.catalog.commit(transaction);
        self.history.push((revision, changed.resources.clone()));
        // Those who try something have their own members of what others change.
        let over = self.catalog.amend_trial(Transaction { revision, collections, ..Transaction::default() });
        changed.collections.extend(over.collections);
        self.tell(&changed);
    }

    fn tell(&mut self, changed: &Changed) {
        for proxy in &mut self.proxies {
            if let Some(stream) = &mut proxy.stream {
                stream.on_change(&self.catalog, changed);
            }
        }
    }

    fn begin_trial(&mut self) {
        let transaction = self.change();
        let (revision, collections) = (transaction.revision, transaction.collections.clone());
        let proxies = (0..PROXIES).filter(|_| self.below(3) == 0).map(|at| node(at).id.into()).collect();
        let changed = self.catalog.begin_trial(transaction, proxies);
        self.trials.push(Trial { revision, names: changed.resources.clone(), collections });
        self.tell(&changed);
    }

    fn end_trial(&mut self) {
        let changed = match self.below(2) {
            0 => {
                let changed = self.catalog.promote();
                self.history.extend(self.trials.pop().map(|trial| (trial.revision, trial.names)));
                changed
            }
            _ => self.catalog.take_back(self.catalog.revision() + 1),
        };
        self.tell(&changed);
    }

    /// What may go wrong with one proxy, and what it may want.
    fn disturb(&mut self, at: usize) {
        if self.chance(self.faults.cut) || self.proxies[at].is_doomed && self.below(5) == 0 {
            self.cut(at);
        }
        if self.chance(self.faults.proxy_restart) {
            let forgets = self.chance(self.faults.forget);
            self.restart(at, forgets);
        }
        if self.chance(self.faults.garble) {
            self.garble(at);
        }
        if self.chance(0.02) {
            let which = match self.below(2) {
                0 => name(self.below(NAMES)),
                _ => collection(self.below(COLLECTIONS)),
            };
            let proxy = &mut self.proxies[at];
            let actions = match proxy.wanted.insert(which.clone()) {
                true => proxy.client.want([&*which]),
                false => {
                    proxy.wanted.remove(&which);
                    proxy.client.forget([&*which])
                }
            };
            self.act(at, actions);
        }
    }

    fn cut(&mut self, at: usize) {
        let dice = random(&mut self.dice);
        let proxy = &mut self.proxies[at];
        proxy.is_doomed = false;
        if proxy.stream.take().is_some() {
            proxy.to_control.clear();
            proxy.to_proxy.clear();
            proxy.connects_at = self.now + proxy.client.on_disconnected(dice).as_millis() as u64 / 50;
        }
    }

    fn restart(&mut self, at: usize, forgets: bool) {
        self.cut(at);
        let proxy = &mut self.proxies[at];
        proxy.applying.clear();
        let (held, revision) = match forgets {
            true => (BTreeMap::new(), 0),
            false => (proxy.client.held().clone(), proxy.client.revision()),
        };
        if forgets {
            proxy.held_since.clear();
        }
        proxy.client = Client::new(node(at), held, revision);
        let wanted = proxy.wanted.clone();
        proxy.client.want(wanted.iter().map(|name| &**name));
    }

    fn garble(&mut self, at: usize) {
        let what = self.below(5);
        let proxy = &mut self.proxies[at];
        match what {
            0 => proxy.is_doomed |= proxy.to_control.pop_front().is_some(),
            1 => proxy.is_doomed |= proxy.to_proxy.pop_front().is_some(),
            2 => proxy.to_control.front().cloned().into_iter().for_each(|first| proxy.to_control.push_front(first)),
            3 => proxy.to_proxy.front().cloned().into_iter().for_each(|first| proxy.to_proxy.push_front(first)),
            _ if proxy.to_proxy.len() > 1 => proxy.to_proxy.swap(0, 1),
            _ => {}
        }
    }

    /// Each proxy and its stream do what they may do, or wait.
    fn step(&mut self) {
        self.now += 1;
        for at in 0..PROXIES {
            let (connects, speaks, hears, applies) =
                (self.below(2) == 0, self.below(2) == 0, self.below(2) == 0, self.below(3) == 0);
            let proxy = &mut self.proxies[at];
            if proxy.stream.is_none() && proxy.connects_at <= self.now && connects {
                proxy.stream = Some(Stream::new(Limits { message_bytes_max: 200, ..Limits::default() }));
                let actions = proxy.client.on_connected();
                self.act(at, actions);
            }
            let proxy = &mut self.proxies[at];
            if let Some(stream) = &mut proxy.stream {
                let mut is_breach = false;
                if speaks && let Some(request) = proxy.to_control.pop_front() {
                    is_breach = stream.on_request(&self.catalog, request).is_err();
                }
                proxy.to_proxy.extend(stream.responses(&self.catalog));
                if is_breach {
                    self.cut(at);
                }
            }
            if hears && let Some(response) = self.proxies[at].to_proxy.pop_front() {
                let held = self.proxies[at].client.held();
                let is_held = |name: &str, version: &str| held.get(name).is_some_and(|held| held.version == version);
                let again = response.resources.iter().find(|resource| is_held(&resource.name, &resource.version));
                if let (Some(resource), true) = (again, self.is_quiet) {
                    self.problems.push(format!("proxy {at} has {} already", resource.name));
                }
                let actions = self.proxies[at].client.on_response(response);
                self.act(at, actions);
            }
            if applies {
                self.apply(at);
            }
        }
    }

    fn act(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            let proxy = &mut self.proxies[at];
            match action {
                Action::Send(request) => proxy.to_control.push_back(*request),
                Action::Apply(change) => proxy.applying.push_back(change),
                Action::Disconnect(_) => self.cut(at),
            }
        }
    }

    /// The first change that waits comes into force, or one that overtakes it.
    fn apply(&mut self, at: usize) {
        let overtakes = self.below(2) as usize;
        let proxy = &mut self.proxies[at];
        let is_free =
            |change: &Change| proxy.applying[0].resources.keys().all(|name| !change.resources.contains_key(name));
        let place = match proxy.applying.get(overtakes) {
            Some(change) if overtakes == 0 || is_free(change) => overtakes,
            _ => 0,
        };
        let Some(change) = proxy.applying.remove(place) else { return };
        let is_bad = change.resources.values().flatten().any(|held| held.body == BAD);
        let result = if is_bad { Err(vec!["is bad".to_owned()]) } else { Ok(()) };
        let actions = proxy.client.on_applied(&change, result);
        let revision = self.catalog.revision();
        let held = proxy.client.held();
        proxy.held_since.retain(|name, _| held.contains_key(name));
        for name in held.keys() {
            proxy.held_since.entry(name.clone()).or_insert(revision);
        }
        self.act(at, actions);
        self.look_for_mixtures(at);
    }

    /// Of what a transaction changed, and nothing has changed since, a proxy that had all of it before has all or nothing.
    fn look_for_mixtures(&mut self, at: usize) {
        let (proxy, view) = (&self.proxies[at], self.catalog.view(&node(at).id));
        for (revision, names) in &self.history {
            let is_newest = |name: &&Arc<str>| {
                view.resource(name).is_some_and(|entry| entry.version.revision == *revision)
                    && proxy.held_since.get(*name).is_some_and(|since| since < revision)
            };
            let prefix = format!("{revision}-");
            let is_new =
                |name: &Arc<str>| proxy.client.held().get(name).is_some_and(|held| held.version.starts_with(&prefix));
            // What was on trial later, and is not any more, is not old.
            let is_later = |name: &&Arc<str>| {
                let version = proxy.client.held().get(*name).and_then(|held| held.version.parse::<Version>().ok());
                version.is_some_and(|version| version.revision > *revision)
            };
            let held = names.iter().filter(|name| is_newest(name) && !is_later(name));
            let (new, old): (Vec<_>, Vec<_>) = held.partition(|name| is_new(name));
            if !new.is_empty() && !old.is_empty() {
                self.problems.push(format!("proxy {at} has {new:?} of revision {revision}, but not {old:?}"));
            }
        }
        self.look_for_trials(at);
    }

    /// Who does not try a transaction has nothing of it; who does, all or nothing, while it is on trial and when it has been
    /// taken back.
    fn look_for_trials(&mut self, at: usize) {
        let proxy = &self.proxies[at];
        let ends = self.trials.len();
        for (place, trial) in self.trials.iter().enumerate() {
            let now = self.catalog.trial().filter(|_| place + 1 == ends);
            let prefix = format!("{}-", trial.revision);
            let is_new =
                |name: &Arc<str>| proxy.client.held().get(name).is_some_and(|held| held.version.starts_with(&prefix));
            if now.is_some_and(|(_, proxies)| !proxies.contains(&*node(at).id)) {
                let seen: Vec<_> = trial.names.iter().filter(|name| is_new(name)).collect();
                if !seen.is_empty() {
                    self.problems.push(format!("proxy {at} sees {seen:?} of trial {}", trial.revision));
                }
                continue;
            }
            let view = self.catalog.view(&node(at).id);
            let is_still = |name: &&Arc<str>| {
                view.resource(name).is_some_and(|entry| entry.version.revision <= trial.revision)
                    && proxy.held_since.get(*name).is_some_and(|since| *since < trial.revision)
            };
            let (new, old): (Vec<_>, Vec<_>) = trial.names.iter().filter(is_still).partition(|name| is_new(name));
            if !new.is_empty() && !old.is_empty() {
                self.problems.push(format!("proxy {at} has {new:?} of trial {}, but not {old:?}", trial.revision));
            }
        }
    }

    fn rest(&mut self) {
        for _ in 0..5_000 {
            self.step();
        }
    }

    /// What each proxy should have, and has.
    fn compare(&mut self, may_refuse: bool) {
        for (at, proxy) in self.proxies.iter().enumerate() {
            let Some(stream) = &proxy.stream else {
                self.problems.push(format!("proxy {at} is not connected"));
                continue;
            };
            let view = self.catalog.view(&node(at).id);
            let refused: BTreeSet<&str> = stream.refused().iter().flat_map(|refused| refused.names()).collect();
            if !refused.is_empty() && !may_refuse {
                self.problems.push(format!("proxy {at} refuses {refused:?}"));
            }
            for refused in stream.refused() {
                let is_bad = |name: &str| view.resource(name).is_some_and(|entry| entry.body == BAD);
                if !refused.names().any(is_bad) {
                    self.problems.push(format!("proxy {at} refuses what is right: {refused:?}"));
                }
            }
            let members = proxy.wanted.iter().filter_map(|name| view.collection(name)).flatten();
            let expected: BTreeSet<&Arc<str>> = proxy.wanted.iter().chain(members).collect();
            let names: BTreeSet<&Arc<str>> = expected.iter().copied().chain(proxy.client.held().keys()).collect();
            for name in names.into_iter().filter(|name| !refused.contains(&***name) && !name.ends_with("/*")) {
                let target = view.resource(name).filter(|_| expected.contains(name));
                let target = target.map(|entry| Held { version: entry.version.to_string(), body: entry.body.clone() });
                if proxy.client.held().get(name) != target.as_ref() {
                    let held = proxy.client.held().get(name);
                    self.problems.push(format!("proxy {at} has {held:?} of {name} in place of {target:?}"));
                }
                if proxy.wanted.contains(name) && !proxy.client.is_known(name) {
                    self.problems.push(format!("proxy {at} waits for {name}"));
                }
            }
            let in_force = (stream.in_force(&self.catalog), proxy.client.revision());
            if refused.is_empty() && in_force.0 != view.revision() {
                self.problems.push(format!("proxy {at}: {in_force:?} of {}", view.revision()));
            }
        }
    }
}

fn node(number: usize) -> Node {
    Node { id: format!("proxy-{number}"), ..Node::default() }
}

fn name(number: u64) -> Arc<str> {
    match number % 3 {
        0 => format!("Endpoints/{number}").into(),
        _ => format!("Route/{number}").into(),
    }
}

fn collection(number: u64) -> Arc<str> {
    format!("Gateway/{number}/*").into()
}
