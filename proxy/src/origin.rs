//! Where rules come from: files, or a control server. Cold.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use config::snapshot::discovery;
use config::{Reader, Snapshot, Source};

use crate::control::Control;
use crate::copy::Folder;
use crate::demand::{Demand, Orders};
use crate::gateway::GatewayArgs;
use crate::log::event;
use crate::revision::Rules;
use crate::status::Status;
use crate::subscription::{Answer, Came, Subscription, Update, Updates};

/// Rules as they are written.
pub(crate) enum Text {
    /// In these files and folders.
    Files(Vec<PathBuf>),
    /// These.
    Sources(Vec<Source>),
}

/// Where they come from.
pub(crate) enum Origin {
    /// Files, which somebody else watches.
    Files(Vec<PathBuf>),
    /// Control.
    Control(Remote),
}

/// Control, and what it sent last.
pub(crate) struct Remote {
    subscription: Subscription,
    demand: Demand,
    sources: Vec<Source>,
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
            Text::Sources(sources) => reader.read(&sources),
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
    pub(crate) fn of(args: &GatewayArgs, status: Arc<Status>) -> Result<Origin, String> {
        let (Some(address), Some(name)) = (&args.control, &args.name) else {
            return Ok(Origin::Files(args.files.clone()));
        };
        let control = Control::new(address.clone(), args.control_ca.clone(), args.token_file.clone())?;
        let is_name = name
            .split_once('/')
            .is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'));
        if !is_name {
            return Err(format!("{name:?} is not NAMESPACE/NAME"));
        }
        let folder = args.data.as_ref().map(|path| Folder::open(path, name)).transpose()?;
        status.control(|status| status.address = address.to_string());
        let subscription = Subscription::start(control, name, args.zone.as_deref(), folder, status);
        let demand = Demand::new(args.preload_services as usize, subscription.known.iter().cloned());
        Ok(Origin::Control(Remote { subscription, demand, sources: Vec::new(), updates: Vec::new() }))
    }

    /// The first rules: those of files, or what control has for this Gateway, as soon as it has something that is right, or
    /// what was in force last where it does not answer.
    pub(crate) async fn first(&mut self) -> Result<First, Vec<String>> {
        if let Origin::Files(files) = self {
            let (reader, rules) = Text::Files(files.clone()).read(Reader::default());
            return Ok(First { reader, rules: rules?, updates: Vec::new(), answer: None });
        }
        let mut reader = Reader::new(config::Origin::Control);
        loop {
            // Endpoints alone follow rules.
            let News::Rules(Next { text, updates, answer }) = self.news(true).await else { continue };
            let is_empty = matches!(&text, Text::Sources(sources) if sources.is_empty());
            let (kept, rules) = text.read(reader);
            reader = kept;
            let told = match rules {
                Ok(_) if is_empty => {
                    event("warn", "control does not know this Gateway; waiting for it");
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
            Came::Offer(offer) => {
                event("info", &format!("{} came, documents: {}", offer.from, offer.sources.len()));
                (control.sources, control.updates) = (offer.sources.clone(), offer.updates.clone());
                let text = Text::Sources(offer.sources);
                News::Rules(Next { text, updates: offer.updates, answer: Some(offer.answer) })
            }
        }
    }

    /// What may succeed if it is tried again.
    pub(crate) fn again(&self) -> Next {
        let (text, updates) = match self {
            Origin::Files(files) => (Text::Files(files.clone()), Vec::new()),
            Origin::Control(control) => (Text::Sources(control.sources.clone()), control.updates.clone()),
        };
        Next { text, updates, answer: None }
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

    /// A request waits for endpoints.
    pub(crate) fn use_now(&mut self, resource: &Arc<str>) {
        self.order(|demand| Orders { want: demand.use_now(resource).into_iter().collect(), forget: Vec::new() });
    }

    /// Looks at what requests have used since the last look.
    pub(crate) fn look(&mut self, snapshot: &Snapshot, is_used: impl Fn(&str) -> bool) {
        self.order(|demand| demand.look(weighs_all(snapshot), is_used));
    }

    fn order(&mut self, decide: impl FnOnce(&mut Demand) -> Orders) {
        let Origin::Control(control) = self else { return };
        let Orders { want, forget } = decide(&mut control.demand);
        if !want.is_empty() || !forget.is_empty() {
            control.subscription.order(want, forget);
        }
    }
}

/// Whether the share of a lane depends on the endpoints of every Service.
fn weighs_all(snapshot: &Snapshot) -> bool {
    let mut lanes = snapshot.lane_groups.iter().chain(&snapshot.shadow_lane_groups).flat_map(|group| &group.lanes);
    lanes.any(|lane| lane.share.as_ref().is_some_and(|share| share.capacity_guard))
}
