//! Rules and endpoints from control: a thin shell around the machine of a proxy's end. It connects, and connects anew for as
//! long as the process lives; what comes is handed to whoever puts it in force, rules one change after the other, endpoints
//! beside them. What is in force is kept on disk, and is what a start without control begins with. Cold.

mod keeper;
mod line;
mod reporter;
mod resources;
mod speaker;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::Source;
use config::sidecar::Called;
use config::snapshot::discovery::Instances;
use config::wire::envoy::config::core::v3::node::UserAgentVersionType;
use config::wire::envoy::config::core::v3::{Locality, Node};
use config::xds;
use config::xds::client::{Action, Change, Client, Held};
use prost::bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Code;

use crate::control::{Control, with_causes};
use crate::copy::{Copy, Folder, ago};
use crate::log::event;
use crate::status::Status;
use crate::subscription::keeper::Keeper;
use crate::subscription::line::{Line, News, news, open};
use crate::subscription::reporter::Reporter;
use crate::subscription::speaker::Speaker;
use crate::workload::Workload;

pub(crate) use crate::subscription::reporter::Fare;
pub(crate) use crate::subscription::speaker::{Known, Standing, Voice};

/// A start waits for control for so long before it takes what is on disk: what control says is never older.
const CONTROL_FIRST: Duration = Duration::from_secs(1);
/// What is said of a control that cannot be reached.
const ABSENT: &str = "is not there";
/// For control to hear that this proxy ends.
const END_WITHIN: Duration = Duration::from_secs(2);
/// From one look at what has to be written to the next.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What control said of endpoints, by resource; None: there is no such Service.
pub(crate) type Updates = Vec<(Arc<str>, Option<Instances>)>;
/// A collection of a Service, and whether there is such a Service.
pub(crate) type Heard = (Arc<str>, bool);
/// Told whether a change is in force, or what is wrong with it.
pub(crate) type Answer = oneshot::Sender<Result<(), Vec<String>>>;

/// All rules as control has them now, and whom to tell whether they are in force.
pub(crate) struct Offer {
    /// In words.
    pub(crate) from: String,
    /// One for each document; problems name it.
    pub(crate) sources: Vec<Source>,
    /// Services that were asked for and are there.
    pub(crate) called: Called,
    /// Endpoints that come into force with them.
    pub(crate) updates: Updates,
    pub(crate) answer: Answer,
}

/// Endpoints alone.
pub(crate) struct Update {
    pub(crate) updates: Updates,
    pub(crate) answer: Answer,
}

/// What comes from control.
pub(crate) enum Came {
    Offer(Offer),
    Update(Update),
    Heard(Vec<Heard>),
}

/// What control is asked for.
enum Order {
    Want(Vec<Arc<str>>),
    Forget(Vec<Arc<str>>),
    /// What was refused is in force after all.
    IntroduceAgain,
    /// This proxy ends; told when control has heard it.
    End(oneshot::Sender<()>),
}

/// The way to control.
pub(crate) struct Subscription {
    offers: Receiver<Offer>,
    updates: Receiver<Update>,
    heard: UnboundedReceiver<Vec<Heard>>,
    orders: UnboundedSender<Order>,
    /// The endpoints that a copy on disk has, and the Services that were called.
    pub(crate) known: Vec<Arc<str>>,
}

impl Subscription {
    /// Subscribes to what belongs to a Gateway or a Service.
    pub(crate) fn start(
        control: Control,
        workload: &Workload,
        zone: Option<&str>,
        folder: Option<Folder>,
        status: Arc<Status>,
        voice: Option<Voice>,
    ) -> Subscription {
        let node = Node {
            id: workload.id(),
            cluster: workload.cluster(),
            locality: zone.map(|zone| Locality { zone: zone.into(), ..Locality::default() }),
            user_agent_name: "evenkeel".into(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").into())),
            client_features: config::kinds().map(String::from).collect(),
        };
        let loaded = folder.as_ref().map_or(Ok(None), Folder::load).unwrap_or_else(|problem| {
            event("error", &format!("the copy of the last configuration is not used: {problem}"));
            None
        });
        let (start, held) = match loaded {
            None => (None, BTreeMap::new()),
            Some((copy, heard)) => {
                let held: BTreeMap<Arc<str>, Held> = copy.held.iter().cloned().collect();
                (Some(Start { copy, heard, until: Instant::now() + CONTROL_FIRST }), held)
            }
        };
        let wanted: Arc<str> = format!("{}/*", workload.document()).into();
        let is_asked_for =
            |name: &Arc<str>| name.starts_with(xds::ENDPOINTS) || xds::is_collection(name) && *name != wanted;
        let known: Vec<Arc<str>> = held.keys().filter(|name| is_asked_for(name)).cloned().collect();
        let (offers, offered) = channel(1);
        let (updates, updated) = channel(1);
        let (hears, heard) = unbounded_channel();
        let (orders, ordered) = unbounded_channel();
        let mut life = Life {
            control: Arc::new(control),
            wanted,
            in_force: held.iter().map(|(name, held)| (name.clone(), held.body.clone())).collect(),
            client: Client::new(node.clone(), held, start.as_ref().map_or(0, |start| start.copy.revision)),
            node,
            start,
            is_begun: false,
            rules: Track::default(),
            endpoints: Track::default(),
            offers,
            updates,
            hears,
            line: Line::Down { until: Instant::now() },
            is_heard: false,
            told: None,
            keeper: Keeper::new(folder),
            reporter: Reporter::new(workload.document()),
            speaker: Speaker::new(voice),
            status,
        };
        life.client.want(std::iter::once(&*life.wanted).chain(known.iter().map(|name| &**name)));
        tokio::spawn(life.run(ordered));
        Subscription { offers: offered, updates: updated, heard, orders, known }
    }

    /// What comes next; if `takes_rules` is not set, of endpoints alone. May be dropped at any time and called again.
    pub(crate) async fn next(&mut self, takes_rules: bool) -> Came {
        tokio::select! {
            Some(update) = self.updates.recv() => Came::Update(update),
            Some(heard) = self.heard.recv() => Came::Heard(heard),
            Some(offer) = self.offers.recv(), if takes_rules => Came::Offer(offer),
            // It ends with the process.
            else => std::future::pending().await,
        }
    }

    /// Asks for endpoints, and gives others up.
    pub(crate) fn order(&self, want: Vec<Arc<str>>, forget: Vec<Arc<str>>) {
        for order in [Order::Want(want), Order::Forget(forget)] {
            self.send(order);
        }
    }

    /// What was refused is in force after all: control shall hear it.
    pub(crate) fn introduce_again(&self) {
        self.send(Order::IntroduceAgain);
    }

    /// Says that this proxy ends, so that nobody waits for it to come back.
    pub(crate) async fn end(&self) {
        let (told, heard) = oneshot::channel();
        self.send(Order::End(told));
        // Whoever does not hear it finds out by itself.
        let _ = tokio::time::timeout(END_WITHIN, heard).await;
    }

    fn send(&self, order: Order) {
        // It ends with the process.
        let _ = self.orders.send(order);
    }
}

/// A copy that is used if control does not say anything soon.
struct Start {
    copy: Copy,
    heard: SystemTime,
    until: Instant,
}

/// Changes of one kind: one of them is handed out at a time.
#[derive(Default)]
struct Track {
    waiting: VecDeque<Change>,
    current: Option<Current>,
}

/// A change that was handed out.
struct Current {
    /// None: the copy.
    change: Option<Change>,
    answer: oneshot::Receiver<Result<(), Vec<String>>>,
}

impl Track {
    /// What becomes of the change that was handed out, if there is one.
    async fn answered(&mut self) -> (Option<Change>, Result<(), Vec<String>>) {
        let Some(current) = &mut self.current else { return std::future::pending().await };
        // Whoever ends without a word did not put it in force.
        let result = (&mut current.answer).await.unwrap_or_else(|_| Err(vec!["the proxy ends".into()]));
        (self.current.take().and_then(|current| current.change), result)
    }
}

struct Life {
    control: Arc<Control>,
    node: Node,
    /// The collection of the Gateway, or of the own Service.
    wanted: Arc<str>,
    client: Client,
    /// Bodies by name, of what is in force, or is on disk and will be.
    in_force: BTreeMap<Arc<str>, Bytes>,
    /// Until something is in force.
    start: Option<Start>,
    /// Something is in force.
    is_begun: bool,
    rules: Track,
    endpoints: Track,
    offers: Sender<Offer>,
    updates: Sender<Update>,
    hears: UnboundedSender<Vec<Heard>>,
    line: Line,
    /// Control has said something on this connection.
    is_heard: bool,
    /// In which way and why there is no connection, as it was told last; again only after there was one, or another reason.
    told: Option<(&'static str, Box<str>)>,
    keeper: Keeper,
    reporter: Reporter,
    /// Nobody speaks at a gateway.
    speaker: Speaker,
    status: Arc<Status>,
}

impl Life {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        let offers = self.offers.clone();
        let mut ticks = tokio::time::interval(SAVE_EVERY);
        loop {
            self.hand_out();
            let begins = self.start.as_ref().map(|start| start.until);
            tokio::select! {
                (change, result) = self.rules.answered() => self.answered(change, result),
                (change, result) = self.endpoints.answered() => self.answered(change, result),
                order = orders.recv() => match order {
                    Some(Order::End(told)) => return self.end(told).await,
                    Some(order) => self.follow(order),
                    None => return,
                },
                () = offers.closed() => return,
                () = sleep_until(begins) => self.begin_without_control("it does not answer"),
                _ = ticks.tick() => {
                    if let Line::Up(_, _, way) = &self.line {
                        self.reporter.report(way, &self.node, self.client.revision(), &self.status);
                    }
                    self.keeper.keep(&self.client, matches!(self.line, Line::Up(..))).await;
                }
                said = self.speaker.next(self.is_heard && matches!(self.line, Line::Up(..))) => {
                    let way = if let Line::Up(_, _, way) = &self.line { Some(way) } else { None };
                    self.speaker.on(said, way);
                }
                news = news(&mut self.line) => self.on_news(news),
            }
        }
    }

    /// Hands out the next changes, where nobody is at one.
    fn hand_out(&mut self) {
        while self.endpoints.current.is_none()
            && let Some(change) = self.endpoints.waiting.pop_front()
        {
            match resources::updates(&change) {
                Ok(updates) => {
                    let (answer, answered) = oneshot::channel();
                    // One at a time: there is room, unless the process ends.
                    let _ = self.updates.try_send(Update { updates, answer });
                    self.endpoints.current = Some(Current { change: Some(change), answer: answered });
                }
                Err(problem) => self.answered(Some(change), Err(vec![problem])),
            }
        }
        while self.rules.current.is_none()
            && let Some(change) = self.rules.waiting.pop_front()
        {
            if self.is_begun && self.changes_nothing(&change) {
                // Whoever comes back is told that nothing is missing, and whoever asks for what is not there, just that.
                self.answered(Some(change), Ok(()));
                continue;
            }
            let mut next = self.in_force.clone();
            resources::take(&mut next, &change);
            self.tell_if_lost(&next, change.revision);
            // Before anything is in force, what is on disk comes with it.
            let updates = if self.start.is_some() { resources::told(&next) } else { resources::updates(&change) };
            match updates {
                Ok(updates) => {
                    let from = format!("revision {} of control", change.revision);
                    self.offer(from, &next, updates, Some(change));
                }
                Err(problem) => self.answered(Some(change), Err(vec![problem])),
            }
        }
    }

    /// Whether all that it says is that something is not there, which was not there before.
    fn changes_nothing(&self, change: &Change) -> bool {
        change.resources.iter().all(|(name, held)| held.is_none() && !self.in_force.contains_key(name))
    }

    /// One store never goes back, but for what is held back for a moment: who is told that there is nothing, as of an
    /// earlier revision, may have come to a control that lost what it had.
    fn tell_if_lost(&self, next: &BTreeMap<Arc<str>, Bytes>, revision: u64) {
        let count = |bodies| resources::sources(bodies).len();
        let known = self.client.revision();
        if revision >= known {
            return;
        }
        let before = count(&self.in_force);
        if before > 0 && count(next) == 0 {
            let address = &self.control.address;
            event(
                "warn",
                &format!(
                    "control at {address} takes everything away, documents: {before}; it is at revision {revision}, \
                     and revision {known} is in force here: is it another store, and was the one from before lost?"
                ),
            );
        }
    }

    fn offer(&mut self, from: String, bodies: &BTreeMap<Arc<str>, Bytes>, updates: Updates, change: Option<Change>) {
        let (answer, answered) = oneshot::channel();
        // One at a time: there is room, unless the process ends.
        let (sources, called) = (resources::sources(bodies), resources::called(bodies));
        let _ = self.offers.try_send(Offer { from, sources, called, updates, answer });
        self.rules.current = Some(Current { change, answer: answered });
        if let Some(start) = &mut self.start {
            // From here on the answer decides.
            start.until = Instant::now() + Duration::from_secs(86_400);
        }
    }

    /// Puts what is on disk in force.
    fn begin_without_control(&mut self, why: &str) {
        let Some(start) = &self.start else { return };
        if self.rules.current.is_some() {
            return;
        }
        let told = resources::told(&self.in_force);
        let from = format!(
            "the copy on disk of revision {}, in force since {}, control last heard {},",
            start.copy.revision,
            jiff::Timestamp::from_millisecond(start.copy.taken_ms).map_or_else(|_| "?".into(), |time| time.to_string()),
            ago(start.heard, SystemTime::now()),
        );
        event("warn", &format!("control at {}: {why}; starting without it", self.control.address));
        match told {
            Ok(updates) => self.offer(from, &self.in_force.clone(), updates, None),
            Err(problem) => self.answered(None, Err(vec![problem])),
        }
    }

    fn answered(&mut self, change: Option<Change>, result: Result<(), Vec<String>>) {
        let is_good = result.is_ok();
        match change {
            Some(change) => {
                if is_good {
                    let is_news = !self.changes_nothing(&change);
                    resources::take(&mut self.in_force, &change);
                    self.keeper.is_due |= is_news;
                    if is_news && has_rules(&change) {
                        self.reporter.on_rules(self.status.fare());
                    }
                    self.tell_services(&change);
                }
                let actions = self.client.on_applied(&change, result);
                self.act(actions);
            }
            None if is_good => {}
            None => {
                // This build cannot use what another wrote: nothing of it is held.
                let wanted = self.client.wanted().clone();
                self.client = Client::new(self.node.clone(), BTreeMap::new(), 0);
                self.client.want(wanted.iter().map(|name| &**name));
                self.in_force.clear();
                self.start = None;
                event("error", "the copy of the last configuration cannot be used; waiting for control");
                self.lose("is asked for everything", "the copy cannot be used");
            }
        }
        if is_good {
            (self.start, self.is_begun) = (None, true);
        } else if self.start.is_some() {
            self.begin_without_control("what it sent is refused");
        }
        let revision = self.client.revision();
        self.status.control(|control| control.revision = revision);
    }

    /// Tells which Services are there, of those that were asked for.
    fn tell_services(&self, change: &Change) {
        let of_others = change.resources.iter().filter(|(name, _)| xds::is_collection(name) && **name != self.wanted);
        let heard: Vec<Heard> = of_others.map(|(name, held)| (name.clone(), held.is_some())).collect();
        if !heard.is_empty() {
            // It ends with the process.
            let _ = self.hears.send(heard);
        }
    }

    /// Ends the stream, and waits until control has done so, too.
    async fn end(self, told: oneshot::Sender<()>) {
        if let Line::Up(sender, mut responses, _) = self.line {
            drop((sender, self.speaker));
            while let Ok(Some(_)) = responses.message().await {}
        }
        // The process may not wait any more.
        let _ = told.send(());
    }

    fn follow(&mut self, order: Order) {
        let actions = match &order {
            Order::Want(names) => self.client.want(names.iter().map(|name| &**name)),
            Order::Forget(names) => self.client.forget(names.iter().map(|name| &**name)),
            // It has been followed where it came.
            Order::End(_) => return,
            Order::IntroduceAgain => return self.lose("hears it again", "what was refused is in force after all"),
        };
        self.act(actions);
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Time => self.line = Line::Opening(tokio::spawn(open(self.control.clone()))),
            News::Opened(Ok((sender, responses, way))) => {
                (self.line, self.is_heard) = (Line::Up(sender, Box::new(responses), way), false);
                let actions = self.client.on_connected();
                self.act(actions);
            }
            News::Opened(Err(status)) => self.lose_for(&status),
            News::Response(Ok(response)) => {
                // Before it says something it may still send us away.
                if !std::mem::replace(&mut self.is_heard, true) {
                    event("info", &format!("connected to control at {}", self.control.address));
                    self.told = None;
                    self.status.control(|control| control.is_connected = true);
                }
                let actions = self.client.on_response(response);
                self.act(actions);
            }
            News::Response(Err(status)) => self.lose_for(&status),
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match (action, &self.line) {
                (Action::Apply(change), _) => {
                    // What has nothing but endpoints never waits for rules that are being compiled.
                    let is_urgent = self.is_begun && !change.resources.is_empty() && !has_rules(&change);
                    let track = if is_urgent { &mut self.endpoints } else { &mut self.rules };
                    track.waiting.push_back(change);
                }
                (Action::Disconnect(reason), _) => self.lose("is not understood", &reason),
                (Action::Send(request), Line::Up(sender, ..)) => {
                    // A stream that has just ended is noticed where it is read.
                    let _ = sender.send(*request);
                }
                (Action::Send(_), _) => {}
            }
        }
    }

    /// The connection is gone, or there is none: because it is not there, or since it does not want this proxy.
    fn lose_for(&mut self, status: &tonic::Status) {
        let is_refused = matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied | Code::ResourceExhausted | Code::InvalidArgument
        );
        let reason = with_causes(status.message().to_owned(), status);
        self.lose(if is_refused { "refuses this proxy" } else { ABSENT }, &reason);
    }

    /// `what` is what control does, in words.
    fn lose(&mut self, what: &'static str, reason: &str) {
        let pause = self.client.on_disconnected(RandomState::new().hash_one(&self.control.address));
        self.line = Line::Down { until: Instant::now() + pause };
        self.speaker.lose(None);
        self.status.control(|control| control.is_connected = false);
        let told = (what, Box::from(reason));
        if self.told.as_ref() != Some(&told) {
            let rules = if self.is_begun { "its last rules stay in force" } else { "there are no rules so far" };
            event("warn", &format!("control at {} {what}, {rules}: {reason}", self.control.address));
            self.told = Some(told);
        }
        self.begin_without_control(reason);
    }
}

/// Whether there is something in it beside endpoints.
fn has_rules(change: &Change) -> bool {
    change.resources.keys().any(|name| !name.starts_with(xds::ENDPOINTS))
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
