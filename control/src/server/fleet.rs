//! Who is connected: the machine of each proxy's stream, how far all of them are, who refuses something, and who has gone.
//! Streams tell what they did, waiters hear only what changes for them. Cold.

mod awaited;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::wire::envoy::config::core::v3::node::UserAgentVersionType;
use config::wire::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use config::xds::catalog::Catalog;
use config::xds::server::{Limits, Stream};
use tokio::sync::watch;
use tonic::Status;

use crate::log;
use crate::registry::LEASE;
use crate::server::canary::Candidate;
use crate::server::fleet::awaited::{Awaited, LOOK_EVERY};
use crate::server::metrics::Metrics;
use crate::server::progress::{NEWEST, Progress};
use crate::server::roll::Roll;
use crate::server::wire::Link;
use crate::store::Store;

pub(crate) use awaited::Names;

/// Proxies that have gone, and are remembered.
const GONE_MAX: usize = 10_000;
/// A proxy that is cut off may go on for as long as it likes. Whoever is silent for longer has been looked after by people.
const SILENT_FOR: Duration = Duration::from_secs(3_600);
/// Builds of proxies, by what they know, that share a word about it.
const BUILDS_MAX: usize = 64;
/// Letters of what a proxy says of itself.
const WORD_LETTERS_MAX: usize = 256;

/// Proxies that may use what a resource was, by the numbers of their streams.
#[derive(Debug, Clone)]
pub(crate) struct Holders {
    pub(crate) open: Vec<(u64, Arc<str>)>,
    /// Whose connection broke then.
    pub(crate) lost: Vec<(u64, Arc<str>, Instant)>,
    /// Who were here before this server started, and are not back.
    pub(crate) awaited: Vec<(u64, Arc<str>, Instant)>,
}

/// A stream that broke, whose proxy may go on with what it had.
struct Broken {
    number: u64,
    proxy: Arc<Proxy>,
    at: Instant,
    /// Nobody said that the connection ended: the network may be torn, and the proxy goes on for as long as that is so.
    is_silent: bool,
}

impl Broken {
    /// Whether it may still use what it had. One whose machine ended its connection would have been back.
    fn may_be_there(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < if self.is_silent { SILENT_FOR } else { LEASE }
    }
}

/// All proxies.
pub(crate) struct Fleet {
    store: Store,
    pub(crate) metrics: Arc<Metrics>,
    /// Those that have introduced themselves, by the number of their stream.
    proxies: Mutex<BTreeMap<u64, Arc<Proxy>>>,
    progress: Mutex<Progress>,
    /// What is settled everywhere; None: nobody is there.
    floor: watch::Sender<Option<u64>>,
    /// Counts refusals.
    refusals: watch::Sender<u64>,
    gone: Mutex<VecDeque<Gone>>,
    /// How many streams each has that is here, by its id: two processes may call themselves the same.
    here: Mutex<HashMap<Arc<str>, usize>>,
    /// For as long as they may be there, one for each proxy.
    broken: Mutex<HashMap<Arc<str>, Broken>>,
    roll: Arc<Roll>,
    awaited: Mutex<Awaited>,
    /// How many of them there are.
    awaited_count: watch::Sender<usize>,
    /// Counts who comes and who goes.
    moves: AtomicU64,
    /// Kinds of document that proxies know: a word for each build of theirs.
    kinds: Mutex<BTreeSet<Arc<str>>>,
    /// A proxy has what is newer than anything here, and that was told.
    is_behind: AtomicBool,
    /// The newest that streams have been told of.
    revision: AtomicU64,
}

/// One that was here.
#[derive(Debug, Clone)]
pub(crate) struct Gone {
    pub(crate) id: Arc<str>,
    pub(crate) settled: u64,
    pub(crate) at: Instant,
    pub(crate) how: Leave,
}

/// How one went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It said so: it has ended.
    Orderly,
    /// Its connection broke.
    Broken,
    /// It was here before this server started, and did not come back.
    Lost,
    /// It was sent away, for this reason: it comes back when that is mended.
    SentAway(Arc<str>),
}

impl Leave {
    /// What became of one that has gone so.
    pub(crate) fn words(&self) -> String {
        match self {
            Leave::Orderly => "it ended by itself".into(),
            Leave::Broken => "its connection broke".into(),
            Leave::Lost => "it was here before control started, and was given up".into(),
            Leave::SentAway(reason) => format!("control sent it away ({reason})"),
        }
    }
}

/// One proxy's stream.
#[derive(Default)]
pub(crate) struct Proxy(Mutex<Life>);

/// What is known of it.
#[derive(Default)]
pub(crate) struct Life {
    pub(crate) stream: Stream,
    pub(crate) id: Arc<str>,
    pub(crate) version: Arc<str>,
    /// Nothing up to this is on its way any more; `NEWEST`: nothing at all.
    pub(crate) settled: u64,
    pub(crate) connected: Option<Instant>,
    /// When the responses without an answer were sent, by nonce.
    sent: Vec<(Box<str>, Instant)>,
    refusals: u64,
    /// The way there.
    pub(crate) link: Option<Arc<Link>>,
}

impl Proxy {
    pub(crate) fn new(link: Option<Arc<Link>>) -> Arc<Proxy> {
        let life = Life { stream: Stream::new(Limits::default()), link, ..Life::default() };
        Arc::new(Proxy(Mutex::new(life)))
    }

    /// What is known of it. Whoever needs the catalog, too, takes that first.
    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    /// Since when it owes an answer.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        self.sent.iter().map(|(_, at)| *at).min()
    }

    /// Whether it does not know a kind of document, as far as it said which ones it knows.
    pub(crate) fn does_not_know(&self, kind: &str) -> bool {
        let kinds = self.stream.kinds();
        !kinds.is_empty() && !kinds.split(' ').any(|known| known == kind)
    }

    /// Whether it should have a document, and does not know its kind.
    pub(crate) fn does_not_enforce(&self, catalog: &Catalog, name: &str) -> bool {
        self.does_not_know(name.split('/').next().unwrap_or(name)) && self.stream.wants(catalog, name)
    }

    fn note_sent(&mut self, responses: &[DeltaDiscoveryResponse], now: Instant) {
        let Life { stream, sent, .. } = self;
        sent.retain(|(nonce, _)| stream.unanswered().any(|open| *open == **nonce));
        let is_last = |response: &&DeltaDiscoveryResponse| stream.unanswered().any(|open| *open == response.nonce);
        sent.extend(responses.iter().filter(is_last).map(|response| (response.nonce.as_str().into(), now)));
    }
}

impl Fleet {
    /// Nobody is here; those that were before are waited for.
    pub(crate) fn new(store: Store, metrics: Arc<Metrics>, roll: Arc<Roll>, before: BTreeSet<Arc<str>>) -> Fleet {
        Fleet {
            store,
            metrics,
            proxies: Mutex::default(),
            progress: Mutex::default(),
            floor: watch::Sender::new(None),
            refusals: watch::Sender::new(0),
            gone: Mutex::default(),
            here: Mutex::default(),
            broken: Mutex::default(),
            roll,
            awaited_count: watch::Sender::new(before.len()),
            awaited: Mutex::new(Awaited::new(before, Instant::now())),
            moves: AtomicU64::new(0),
            kinds: Mutex::default(),
            is_behind: AtomicBool::new(false),
            revision: AtomicU64::new(0),
        }
    }

    /// All that have introduced themselves.
    pub(crate) fn proxies(&self) -> Vec<Arc<Proxy>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Of these streams, the proxies that may try something.
    pub(crate) fn candidates(&self, streams: &BTreeSet<u64>) -> Vec<Candidate> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let candidate = |proxy: &Arc<Proxy>| {
            let life = proxy.life();
            let locality = life.stream.node().and_then(|node| node.locality.as_ref());
            let zone = locality.map_or("", |locality| &locality.zone).into();
            // As the machine knows it: people read a part of it.
            Candidate { id: life.stream.node().map_or("", |node| &node.id).into(), zone }
        };
        streams.iter().filter_map(|number| proxies.get(number)).map(candidate).collect()
    }

    /// The streams of these proxies.
    pub(crate) fn streams_of(&self, ids: &BTreeSet<Arc<str>>) -> BTreeSet<u64> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let is_theirs = |proxy: &Arc<Proxy>| proxy.life().stream.node().is_some_and(|node| ids.contains(&*node.id));
        proxies.iter().filter(|(_, proxy)| !ids.is_empty() && is_theirs(proxy)).map(|(number, _)| *number).collect()
    }

    /// Who may still use what a resource was before a revision: proxies whose streams are open, by number, and those whose
    /// connection broke a moment ago, with when that was. The catalog, in which it is something else now, is held.
    pub(crate) fn holders(&self, catalog: &Catalog, resource: &str, revision: u64, now: Instant) -> Holders {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |proxy: &Proxy| {
            let life = proxy.life();
            life.stream.holds_older(catalog, resource, revision).then(|| life.id.clone())
        };
        let open = proxies.iter().filter_map(|(number, proxy)| Some((*number, held(proxy)?))).collect();
        drop(proxies);
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = broken.values().filter(|broken| broken.may_be_there(now));
        let lost: Vec<_> = recent.filter_map(|one| Some((one.number, held(&one.proxy)?, one.at))).collect();
        drop(broken);
        // What those had who were here before this server started, nobody knows.
        let (started, missing) = self.awaited();
        let awaited = missing.into_iter().zip((0..u64::MAX).rev()).map(|(id, number)| (number, id, started));
        Holders { open, lost, awaited: awaited.collect() }
    }

    /// How many have introduced themselves.
    pub(crate) fn count(&self) -> usize {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those that were connected before this server started, and are not back: since when they are waited for, and who.
    pub(crate) fn awaited(&self) -> (Instant, Vec<Arc<str>>) {
        let awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        (awaited.started(), awaited.missing().iter().cloned().collect())
    }

    /// Told how many of them there are, when that changes.
    pub(crate) fn awaited_count(&self) -> watch::Receiver<usize> {
        self.awaited_count.subscribe()
    }

    /// Keeps the names of those that are connected, or waited for, for the next start.
    pub(crate) async fn keep_names(self: Arc<Fleet>, names: Names) {
        let names = Arc::new(names);
        let (mut kept, mut is_told) = (None, false);
        loop {
            self.forget_broken(Instant::now());
            let is_over = self.give_up(Instant::now());
            let moves = self.moves.load(Relaxed);
            if is_over || kept != Some(moves) {
                let (fleet, names) = (self.clone(), names.clone());
                let stored = tokio::task::spawn_blocking(move || names.store(&fleet.names())).await;
                match stored {
                    Ok(Err(error)) if !std::mem::replace(&mut is_told, true) => {
                        log::tell(format_args!("who is connected cannot be kept for the next start: {error}"));
                    }
                    Ok(Ok(())) => (kept, is_told) = (Some(moves), false),
                    _ => {}
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Those that have not come back in time have gone.
    fn give_up(&self, now: Instant) -> bool {
        self.change_awaited(|awaited| {
            let lost = awaited.on_time(now);
            // Before whoever waits for them is told.
            lost.iter().for_each(|id| self.remember(Gone { id: id.clone(), settled: 0, at: now, how: Leave::Lost }));
            !lost.is_empty()
        })
    }

    fn names(&self) -> BTreeSet<Arc<str>> {
        let (_, missing) = self.awaited();
        self.proxies().iter().map(|proxy| proxy.life().id.clone()).chain(missing).collect()
    }

    /// Tells those that wait for it, if it did change.
    fn change_awaited(&self, change: impl FnOnce(&mut Awaited) -> bool) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = change(&mut awaited);
        if has_changed {
            self.awaited_count.send_replace(awaited.missing().len());
        }
        has_changed
    }

    /// Told what is settled everywhere, when that changes.
    pub(crate) fn floor(&self) -> watch::Receiver<Option<u64>> {
        self.floor.subscribe()
    }

    /// Told when somebody refuses something.
    pub(crate) fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.subscribe()
    }

    /// When a revision was settled everywhere for the first time.
    pub(crate) fn reached(&self, revision: u64) -> Option<Instant> {
        self.progress().reached(revision)
    }

    /// Who has gone since then, each as it did last.
    pub(crate) fn gone_since(&self, since: Instant) -> Vec<Gone> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = BTreeSet::new();
        let newest = gone.iter().rev().take_while(|gone| gone.at >= since);
        newest.filter(|gone| seen.insert(gone.id.clone())).cloned().collect()
    }

    /// Something has happened on a stream, after which these responses are sent.
    pub(crate) fn note(
        &self,
        number: u64,
        proxy: &Arc<Proxy>,
        catalog: &Catalog,
        responses: &[DeltaDiscoveryResponse],
    ) {
        let mut life = proxy.life();
        let Some(node) = life.stream.node() else { return };
        let now = Instant::now();
        let before = life.connected.map(|_| life.settled);
        if before.is_none() {
            let version = node.user_agent_version_type.as_ref();
            let version = version.map_or("", |UserAgentVersionType::UserAgentVersion(text)| text);
            let (id, version) = (word(&node.id), word(version));
            (life.id, life.version, life.connected) = (id, version, Some(now));
            let kinds = self.shared_kinds(life.stream.kinds());
            life.stream.share_kinds(kinds);
        }
        life.note_sent(responses, now);
        let settled = life.stream.settled(catalog);
        life.settled = if settled == catalog.revision() { NEWEST } else { settled };
        let refusals = life.stream.refusals();
        let new_refusals = refusals - std::mem::replace(&mut life.refusals, refusals);
        let (settled, id) = (life.settled, before.is_none().then(|| life.id.clone()));
        let ahead = life.stream.ahead();
        drop(life);
        if let (Some(id), Some(revision)) = (&id, ahead)
            && !self.is_behind.swap(true, Relaxed)
        {
            let own = catalog.revision();
            log::tell(format_args!(
                "{id} has revision {revision}, and the store is at {own}: was it brought back from before, or is it damaged? \
                 What was made since is not in it"
            ));
        }
        self.roll.on_stream(number, id.as_ref(), catalog, proxy);
        if let Some(id) = &id {
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
            *self.here().entry(id.clone()).or_default() += 1;
            self.proxies.lock().unwrap_or_else(PoisonError::into_inner).insert(number, proxy.clone());
        }
        if before != Some(settled) {
            self.on_move(before, Some(settled), now);
        }
        if let Some(id) = id {
            // Not before it counts among those that are here.
            self.moves.fetch_add(1, Relaxed);
            self.change_awaited(|awaited| awaited.on_come(&id, now));
        }
        if new_refusals > 0 {
            self.metrics.refusals.inc_by(new_refusals);
            self.refusals.send_modify(|count| *count += new_refusals);
        }
    }

    /// A proxy was refused before it spoke for an instance, if it is beside one.
    pub(crate) fn note_refused(&self, instance: Option<&str>, status: &Status, is_proved: bool) {
        if let Some(instance) = instance {
            self.roll.note_refused(word(instance).to_string(), status.message().to_owned(), is_proved);
        }
    }

    /// A stream has ended.
    pub(crate) fn forget(&self, number: u64, how: Leave) {
        let known = self.proxies.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        let Some(proxy) = known else { return };
        self.moves.fetch_add(1, Relaxed);
        let now = Instant::now();
        let life = proxy.life();
        let settled = life.settled;
        let settled_at = settled.min(self.revision.load(Relaxed));
        let one = Gone { id: life.id.clone(), settled: settled_at, at: now, how };
        drop(life);
        // It may be back before it is known that its old connection is no more.
        let is_here = self.leave_here(&one.id);
        if one.how != Leave::Orderly && !is_here {
            self.keep_broken(number, &proxy, &one.id, now);
        }
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.roll.on_gone(number, one.how == Leave::Orderly || is_here);
        self.on_move(Some(settled), None, now);
        self.remember(one);
    }

    /// One stream of that id less. Tells whether there is another.
    fn leave_here(&self, id: &Arc<str>) -> bool {
        let mut here = self.here();
        let Some(count) = here.get_mut(id) else { return false };
        *count -= 1;
        if *count == 0 {
            here.remove(id);
            return false;
        }
        true
    }

    fn here(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_broken(&self, number: u64, proxy: &Arc<Proxy>, id: &Arc<str>, now: Instant) {
        // The connection itself is no more.
        let is_silent = proxy.life().link.take().is_some_and(|link| !link.has_closed());
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.len() < GONE_MAX || broken.contains_key(id) {
            broken.insert(id.clone(), Broken { number, proxy: proxy.clone(), at: now, is_silent });
        }
    }

    fn forget_broken(&self, now: Instant) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.retain(|_, one| one.may_be_there(now));
    }

    fn remember(&self, one: Gone) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.push_back(one);
        if gone.len() > GONE_MAX {
            gone.pop_front();
        }
    }

    /// There is another revision, which these streams have been told of.
    pub(crate) fn on_revision(&self, revision: u64, told: &BTreeSet<u64>) {
        let now = Instant::now();
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        for proxy in told.iter().filter_map(|number| proxies.get(number)) {
            let mut life = proxy.life();
            let before = life.settled;
            life.settled = before.min(revision.saturating_sub(1));
            if life.settled != before {
                self.progress().on_move(Some(before), Some(life.settled), now);
            }
        }
        drop(proxies);
        self.revision.fetch_max(revision, Relaxed);
        let mut progress = self.progress();
        let first = progress.on_revision(revision, now);
        self.tell(progress, first, now);
    }

    /// The same word as other proxies of its build have.
    fn shared_kinds(&self, kinds: &Arc<str>) -> Arc<str> {
        let mut known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(kinds) {
            return same.clone();
        }
        if known.len() < BUILDS_MAX {
            known.insert(kinds.clone());
        }
        kinds.clone()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_move(&self, before: Option<u64>, settled: Option<u64>, now: Instant) {
        let mut progress = self.progress();
        let first = progress.on_move(before, settled, now);
        self.tell(progress, first, now);
    }

    /// Tells those that wait what is settled everywhere, and notes what is so for the first time.
    fn tell(&self, progress: MutexGuard<'_, Progress>, first: Option<(u64, u64)>, now: Instant) {
        let floor = progress.floor();
        drop(progress);
        if let Some((after, last)) = first {
            // What is longer ago was not made in this life of the store, or nobody was there to take it.
            for revision in after.max(last.saturating_sub(1_000)) + 1..=last {
                if let Some((made, _)) = self.store.recent(revision) {
                    self.metrics.settled_after.observe(now.duration_since(made).as_secs_f64());
                }
            }
        }
        self.floor.send_if_modified(|known| std::mem::replace(known, floor) != floor);
    }
}

/// What a proxy says, cut to what people read.
fn word(text: &str) -> Arc<str> {
    text.chars().filter(|letter| !letter.is_control()).take(WORD_LETTERS_MAX).collect::<String>().into()
}
