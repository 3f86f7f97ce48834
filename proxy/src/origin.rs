//! Where rules come from: files, or a control server. Cold.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::sidecar::Called;
use config::snapshot::discovery::{self, Discovery};
use config::snapshot::lanes::LaneRole;
use config::{Reader, Snapshot, Source, xds};

use crate::args::ProcessArgs;
use crate::calls::Calls;
use crate::control::Control;
use crate::copy::Folder;
use crate::demand::{Demand, Orders};
use crate::log::event;
use crate::revision::Rules;
use crate::status::Status;
use crate::subscription::{Answer, Came, Heard, Subscription, Update, Updates, Voice};
use crate::workload::Workload;

/// Rules as they are written.
pub(crate) enum Text {
    /// In these files and folders.
    Files(Vec<PathBuf>),
    /// These, and which Services a sidecar may call of those in them.
    Sources(Vec<Source>, Called),
}

/// Where they come from.
pub(crate) enum Origin {
    /// Files, which somebody else watches.
    Files(Vec<PathBuf>, Workload),
    /// Control.
    Control(Box<Remote>),
}

/// Control, and what it sent last.
pub(crate) struct Remote {
    workload: Workload,
    subscription: Subscription,
    demand: Demand,
    calls: Calls,
    sources: Vec<Source>,
    called: Called,
    updates: Updates,
}

/// Rules that are to be read, with the endpoints that come into force with them.
pub(crate) struct Next {
    pub(crate) text: Text,
    pub(crate) updates: Updates,
    /// Nobody waits for what is only tried again.
    pub(crate) answer: Option<Answer>,
}

/// What control says.
pub(crate) enum News {
    Rules(Next),
    Endpoints(Update),
    Services(Vec<Heard>),
}

/// Rules that can be put in force, the reader of the next ones, and whom to tell.
pub(crate) struct First {
    pub(crate) reader: Reader,
    pub(crate) rules: (Snapshot, Vec<String>),
    pub(crate) updates: Updates,
    pub(crate) answer: Option<Answer>,
}

impl Text {
    /// Reads the rules, and gives the reader back. The error is all that is wrong with them.
    pub(crate) fn read(self, mut reader: Reader) -> (Reader, Rules) {
        let lines = |problems: Vec<config::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let result = match self {
            Text::Files(files) => reader.load(&files).result,
            Text::Sources(sources, called) => {
                reader.calls(called);
                reader.read(&sources)
            }
        };
        let rules = match result {
            Ok(checked) => Ok((checked.snapshot, lines(checked.warnings))),
            Err(problems) => Err(lines(problems)),
        };
        (reader, rules)
    }
}

impl Origin {
    /// As the command line says.
    pub(crate) fn of(
        args: &ProcessArgs,
        workload: Workload,
        status: Arc<Status>,
        voice: Option<Voice>,
    ) -> Result<Origin, String> {
        let Some(address) = &args.control else { return Ok(Origin::Files(args.files.clone(), workload)) };
        let control = Control::new(address.clone(), args.control_ca.clone(), args.token_file.clone())?;
        let control = match &voice {
            Some(_) => control.speaking_for(&workload.cluster(), workload.instance()),
            None => control,
        };
        let folder = args.data.as_ref().map(|path| Folder::open(path, &workload.copy())).transpose()?;
        status.control(|status| status.address = address.to_string());
        let subscription = Subscription::start(control, &workload, args.zone.as_deref(), folder, status, voice);
        let (endpoints, collections): (Vec<_>, Vec<_>) =
            subscription.known.iter().cloned().partition(|name| name.starts_with(xds::ENDPOINTS));
        let demand = Demand::new(args.preload_services as usize, endpoints);
        let (sources, called, updates) = (Vec::new(), Called::new(), Vec::new());
        let calls = Calls::new(collections);
        Ok(Origin::Control(Box::new(Remote { workload, subscription, demand, calls, sources, called, updates })))
    }

    /// The first rules: those of files, or what control has for this Gateway or Service, as soon as it has something that is
    /// right, or what was in force last where it does not answer.
    pub(crate) async fn first(&mut self) -> Result<First, Vec<String>> {
        let workload = match self {
            Origin::Control(control) => control.workload.clone(),
            Origin::Files(files, workload) => {
                let (reader, rules) = Text::Files(files.clone()).read(workload.reader(config::Origin::Files));
                return Ok(First { reader, rules: rules?, updates: Vec::new(), answer: None });
            }
        };
        let mut reader = workload.reader(config::Origin::Control);
        loop {
            let Next { text, updates, answer } = match self.news(true).await {
                News::Rules(next) => next,
                // Endpoints alone follow rules.
                News::Endpoints(_) => continue,
                News::Services(heard) => {
                    // Nobody waits for them so far.
                    self.hear(&heard, Duration::ZERO);
                    continue;
                }
            };
            let is_unknown = matches!(&text, Text::Sources(sources, called) if workload.is_unknown(sources, called));
            let (kept, rules) = text.read(reader);
            reader = kept;
            let told = match rules {
                Ok(_) if is_unknown => {
                    event("warn", &format!("control does not know this {}; waiting for it", workload.word()));
                    Ok(())
                }
                Ok(rules) => return Ok(First { reader, rules, updates, answer }),
                Err(problems) => {
                    problems.iter().for_each(|problem| event("error", problem));
                    Err(problems)
                }
            };
            // Control may have gone meanwhile.
            let _ = answer.map(|answer| answer.send(told));
        }
    }

    /// What control says next; if `takes_rules` is not set, of endpoints alone. Files never say anything here.
    pub(crate) async fn news(&mut self, takes_rules: bool) -> News {
        let Origin::Control(control) = self else { return std::future::pending().await };
        match control.subscription.next(takes_rules).await {
            Came::Update(update) => News::Endpoints(update),
            Came::Heard(heard) => News::Services(heard),
            Came::Offer(offer) => {
                event("info", &format!("{} came, documents: {}", offer.from, offer.sources.len()));
                (control.sources, control.updates) = (offer.sources.clone(), offer.updates.clone());
                control.called = offer.called.clone();
                let text = Text::Sources(offer.sources, offer.called);
                News::Rules(Next { text, updates: offer.updates, answer: Some(offer.answer) })
            }
        }
    }

    /// What may succeed if it is tried again.
    pub(crate) fn again(&self) -> Next {
        let (text, updates) = match self {
            Origin::Files(files, _) => (Text::Files(files.clone()), Vec::new()),
            Origin::Control(control) => {
                (Text::Sources(control.sources.clone(), control.called.clone()), control.updates.clone())
            }
        };
        Next { text, updates, answer: None }
    }

    /// This proxy ends.
    pub(crate) async fn end(&self) {
        if let Origin::Control(control) = self {
            control.subscription.end().await;
        }
    }

    /// What was refused is in force after all.
    pub(crate) fn tell_again(&self) {
        if let Origin::Control(control) = self {
            control.subscription.introduce_again();
        }
    }

    /// A snapshot is in force: what is known of its endpoints shall be as it needs.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        self.order(|demand| {
            let resources: BTreeSet<Arc<str>> = discovery::resources(snapshot).cloned().collect();
            demand.need(resources, weighs_all(snapshot))
        });
    }

    /// A request waits for endpoints, or for what is known of a Service.
    pub(crate) fn use_now(&mut self, resource: &Arc<str>, now: Duration) {
        if !xds::is_collection(resource) {
            return self
                .order(|demand| Orders { want: demand.use_now(resource).into_iter().collect(), forget: Vec::new() });
        }
        self.order_calls(|calls| calls.use_now(resource, now));
    }

    /// Control has said which Services are there. Returns those that are known not to be.
    pub(crate) fn hear(&mut self, heard: &[Heard], now: Duration) -> HashSet<Arc<str>> {
        let Origin::Control(control) = self else { return HashSet::new() };
        heard.iter().for_each(|(name, is_there)| control.calls.hear(name, *is_there, now));
        control.calls.absent()
    }

    /// Looks whether what was not there is to be asked for anew. Returns what is still known not to be there, if that has
    /// changed.
    pub(crate) fn tick(&mut self, now: Duration) -> Option<HashSet<Arc<str>>> {
        let mut has_changed = false;
        self.order_calls(|calls| {
            let orders = calls.tick(now);
            has_changed = !orders.forget.is_empty();
            orders
        });
        let Origin::Control(control) = self else { return None };
        has_changed.then(|| control.calls.absent())
    }

    /// Looks at what requests have used since the last look.
    pub(crate) fn look(&mut self, snapshot: &Snapshot, is_used: impl Fn(&str) -> bool, now: Duration) {
        let called = called(snapshot, &is_used);
        self.order_calls(|calls| calls.look(|name| called.contains(name), now));
        self.order(|demand| demand.look(weighs_all(snapshot), is_used));
    }

    fn order_calls(&mut self, decide: impl FnOnce(&mut Calls) -> Orders) {
        let Origin::Control(control) = self else { return };
        let orders = decide(&mut control.calls);
        control.send(orders);
    }

    fn order(&mut self, decide: impl FnOnce(&mut Demand) -> Orders) {
        let Origin::Control(control) = self else { return };
        let orders = decide(&mut control.demand);
        control.send(orders);
    }
}

impl Remote {
    fn send(&self, Orders { want, forget }: Orders) {
        if !want.is_empty() || !forget.is_empty() {
            self.subscription.order(want, forget);
        }
    }
}

/// Whether the share of a lane that is decided here depends on the endpoints of every Service.
fn weighs_all(snapshot: &Snapshot) -> bool {
    let roles = snapshot.binds.iter().flat_map(|bind| [&bind.lanes, &bind.shadow_lanes]);
    let mut lanes = roles.flat_map(|role| match role {
        LaneRole::Decide(group) => &group.lanes[..],
        LaneRole::Strip | LaneRole::Inherit { .. } | LaneRole::Call { .. } => &[],
    });
    lanes.any(|lane| lane.share.as_ref().is_some_and(|share| share.capacity_guard))
}

/// The collections of Services of which calls were sent somewhere. Of what control does not tell endpoints it is not known:
/// those seem to be called always.
fn called(snapshot: &Snapshot, is_used: impl Fn(&str) -> bool) -> HashSet<String> {
    let is_called = |cluster: usize| match &snapshot.clusters[cluster].discovery {
        Discovery::Control(told) => is_used(&told.resource),
        Discovery::Written | Discovery::Dns(_) => true,
    };
    let services = snapshot.binds.iter().flat_map(|bind| bind.table.services());
    let called = services.filter(|(_, rules)| {
        let choices = rules.iter().flat_map(|rule| &rule.backends.choices);
        choices.filter_map(|choice| choice.cluster).any(is_called)
    });
    called.map(|(service, _)| format!("Service/{service}/*")).collect()
}
