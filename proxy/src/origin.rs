//! Where rules come from: files, or a control server. Cold.

use std::path::PathBuf;

use config::{Reader, Snapshot, Source};
use tokio::sync::oneshot;

use crate::gateway::GatewayArgs;
use crate::log::event;
use crate::revision::Rules;
use crate::subscription::Subscription;

/// Told whether rules are in force, or what is wrong with them.
pub(crate) type Answer = oneshot::Sender<Result<(), Vec<String>>>;

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
    /// Control, and what it sent last.
    Control(Subscription, Vec<Source>),
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
    pub(crate) fn of(args: &GatewayArgs) -> Result<Origin, String> {
        let (Some(control), Some(name)) = (args.control, &args.name) else {
            return Ok(Origin::Files(args.files.clone()));
        };
        if !control.ip().is_loopback() {
            return Err(format!("{control} is no loopback address, and there is no TLS yet"));
        }
        let is_name = name
            .split_once('/')
            .is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'));
        if !is_name {
            return Err(format!("{name:?} is not NAMESPACE/NAME"));
        }
        let subscription = Subscription::start(control, name, args.zone.as_deref());
        Ok(Origin::Control(subscription, Vec::new()))
    }

    /// The first rules: those of files, or what control has for this Gateway, as soon as it has something that is right.
    pub(crate) async fn first(&mut self) -> Result<(Reader, (Snapshot, Vec<String>), Option<Answer>), Vec<String>> {
        let mut reader = Reader::default();
        if let Origin::Files(files) = self {
            let (reader, rules) = Text::Files(files.clone()).read(reader);
            return Ok((reader, rules?, None));
        }
        loop {
            let (text, answer) = self.next().await;
            let is_empty = matches!(&text, Text::Sources(sources) if sources.is_empty());
            let (kept, rules) = text.read(reader);
            reader = kept;
            let answered = match rules {
                Ok(_) if is_empty => {
                    event("warn", "control does not know this Gateway; waiting for it");
                    answer.send(Ok(()))
                }
                Ok(rules) => return Ok((reader, rules, Some(answer))),
                Err(problems) => {
                    problems.iter().for_each(|problem| event("error", problem));
                    answer.send(Err(problems))
                }
            };
            // Control may have gone meanwhile.
            let _ = answered;
        }
    }

    /// The next rules of control, and whom to answer. Those of files never come so.
    pub(crate) async fn next(&mut self) -> (Text, Answer) {
        if let Origin::Control(subscription, last) = self
            && let Some(offer) = subscription.next().await
        {
            event("info", &format!("revision {} of control came, documents: {}", offer.revision, offer.sources.len()));
            *last = offer.sources.clone();
            return (Text::Sources(offer.sources), offer.answer);
        }
        std::future::pending().await
    }

    /// What may succeed if it is tried again.
    pub(crate) fn again(&self) -> Text {
        match self {
            Origin::Files(files) => Text::Files(files.clone()),
            Origin::Control(_, last) => Text::Sources(last.clone()),
        }
    }

    /// What was refused is in force after all.
    pub(crate) fn tell_again(&self) {
        if let Origin::Control(subscription, _) = self {
            subscription.introduce_again();
        }
    }
}
