//! What is in force: the rules that were read last, with the addresses that are known of their names. Decides when a
//! revision is made, of rules or of addresses, and tells people what became of it. Cold.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::Snapshot;
use config::snapshot::discovery::{self, Instances, Known};
use config::snapshot::dns;

use crate::dns::{Dns, Names};
use crate::log::event;
use crate::process::Process;
use crate::status::Status;
use crate::subscription::{Answer, Updates};

/// New rules wait for so long for the first answers to their names: a Service whose name never resolves must not keep
/// the others.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// Names that a line about changed addresses tells.
const NAMES_TOLD: usize = 3;

/// Rules and their warnings, or all that is wrong with them.
pub(crate) type Rules = Result<(Snapshot, Vec<String>), Vec<String>>;

/// What is in force, and what is about to be.
pub(crate) struct InForce {
    pub(crate) process: Process,
    pub(crate) status: Arc<Status>,
    dns: Dns,
    /// Without addresses of names, and without what control tells of endpoints.
    rules: Snapshot,
    /// What control told of endpoints, by resource.
    told: Told,
    /// Rules that wait for first answers.
    awaited: Option<Read>,
    /// Rules that were refused may succeed without another change.
    pub(crate) may_succeed_later: bool,
    /// And have, since somebody looked.
    pub(crate) has_succeeded_late: bool,
    /// Other rules are in force, since somebody looked.
    pub(crate) has_new_rules: bool,
}

type Told = HashMap<Arc<str>, Instances>;

/// Rules that were read.
struct Read {
    rules: Snapshot,
    /// Endpoints that come into force with them.
    updates: Updates,
    warnings: Vec<String>,
    started: Instant,
    /// Until when they wait.
    until: Instant,
    answer: Option<Answer>,
    /// They were refused before.
    is_late: bool,
}

impl InForce {
    /// Puts the first rules in force.
    pub(crate) async fn start(
        mut process: Process,
        status: Arc<Status>,
        mut dns: Dns,
        (rules, warnings): (Snapshot, Vec<String>),
        updates: Updates,
    ) -> Result<InForce, String> {
        dns.follow(dns::names(&rules));
        // Without them it starts all the same.
        let _ = tokio::time::timeout(FIRST_ANSWERS, dns.work(|names, _| names.is_settled())).await;
        let told = after(&Told::default(), &updates);
        let snapshot = with_endpoints(&status, &rules, &told, &Snapshot::default());
        let revision = process.apply(snapshot.clone())?;
        dns.applied();
        tell(&warnings);
        status.applied(revision, snapshot, warnings);
        Ok(InForce {
            process,
            status,
            dns,
            rules,
            told,
            awaited: None,
            may_succeed_later: false,
            has_succeeded_late: false,
            has_new_rules: true,
        })
    }

    /// Takes rules that were read: they are in force at once, or as soon as there are answers for names that are new, or
    /// never, and then everything stays as it is.
    pub(crate) fn take(&mut self, read: Rules, updates: Updates, started: Instant, answer: Option<Answer>) {
        // Nobody waits for what is only tried again.
        let is_late = std::mem::take(&mut self.may_succeed_later) && answer.is_none();
        match read {
            Ok((rules, warnings)) => {
                let names: BTreeSet<_> = dns::names(&self.rules).into_iter().chain(dns::names(&rules)).collect();
                self.dns.follow(names);
                // Whoever waited for the ones before is told by what comes of these.
                let answer = answer.or_else(|| self.awaited.take().and_then(|before| before.answer));
                let until = Instant::now() + FIRST_ANSWERS;
                self.awaited = Some(Read { rules, updates, warnings, started, until, answer, is_late });
                self.put_awaited();
            }
            Err(problems) => {
                // What came before was right, and would be in force if names were answered sooner.
                if let Some(read) = self.awaited.take() {
                    self.put(read);
                }
                tell_of(answer, Err(problems.clone()));
                self.refuse(problems);
            }
        }
    }

    /// The rules in force, without endpoints that are not written in them.
    pub(crate) fn rules(&self) -> &Snapshot {
        &self.rules
    }

    /// Takes endpoints that control tells: no rule changes for them, and nothing can be wrong with them.
    pub(crate) fn take_endpoints(&mut self, updates: &Updates, answer: Answer) {
        self.told = after(&self.told, updates);
        let before = self.status.snapshot().unwrap_or_default();
        let snapshot = with_endpoints(&self.status, &self.rules, &self.told, &before);
        let names: Vec<Arc<str>> = updates.iter().map(|(name, _)| name.clone()).collect();
        tell_of(Some(answer), self.put_endpoints(&before, snapshot, &names).map_err(|problem| vec![problem]));
    }

    /// Waits until `advance` has something to do. May be dropped at any time and called again.
    pub(crate) async fn is_due(&mut self) {
        let until = self.awaited.as_ref().map(|read| read.until);
        let is_awaited = until.is_some();
        let work = self.dns.work(|names, now| names.to_apply(now).is_some() || is_awaited && names.is_settled());
        match until {
            // Past this they wait no longer.
            Some(until) => drop(tokio::time::timeout_at(until.into(), work).await),
            None => work.await,
        }
    }

    /// Puts in force what is due.
    pub(crate) fn advance(&mut self) {
        self.put_awaited();
        self.put_addresses();
    }

    fn put_awaited(&mut self) {
        let is_settled = self.status.names(|names| names.is_settled());
        if let Some(read) = self.awaited.take_if(|read| is_settled || read.until <= Instant::now()) {
            self.put(read);
        }
    }

    fn put(&mut self, read: Read) {
        let Read { rules, updates, warnings, started, answer, is_late, .. } = read;
        let before = self.status.snapshot().unwrap_or_default();
        let told = after(&self.told, &updates);
        let snapshot = with_endpoints(&self.status, &rules, &told, &before);
        if before == snapshot {
            if self.status.unchanged(warnings) {
                event("info", "the rules are again those in force");
            }
            (self.rules, self.told) = (rules, told);
            tell_of(answer, Ok(()));
        } else {
            match self.process.apply(snapshot.clone()) {
                Ok(revision) => {
                    tell(&warnings);
                    self.status.applied(revision, snapshot, warnings);
                    let took = started.elapsed().as_millis();
                    event(
                        "info",
                        &match answer {
                            // Control counts its own.
                            Some(_) => format!("in force after {took} ms, as revision {revision} of this process"),
                            None => format!("revision {revision} in force after {took} ms"),
                        },
                    );
                    (self.rules, self.told, self.has_new_rules) = (rules, told, true);
                    self.dns.applied();
                    self.has_succeeded_late |= is_late;
                    tell_of(answer, Ok(()));
                }
                Err(problem) => {
                    tell_of(answer, Err(vec![problem.clone()]));
                    if !self.status.is_refused_for(&problem) {
                        self.refuse(vec![problem]);
                    }
                    self.may_succeed_later = true;
                }
            }
        }
        // Names of rules that are not in force are nobody's any more.
        self.dns.follow(dns::names(&self.rules));
    }

    fn put_addresses(&mut self) {
        let now = self.status.started.elapsed();
        let names =
            self.status.names(|names| names.to_apply(now).map(|names| names.iter().cloned().collect::<Vec<_>>()));
        let Some(names) = names else { return };
        let before = self.status.snapshot().unwrap_or_default();
        let snapshot = with_endpoints(&self.status, &self.rules, &self.told, &before);
        if let Err(problem) = self.put_endpoints(&before, snapshot, &names) {
            event("error", &format!("new addresses of {}: {problem}", list(&names)));
        }
        self.dns.applied();
    }

    /// Puts the same rules in force with other endpoints, of these names.
    fn put_endpoints(&mut self, before: &Snapshot, snapshot: Arc<Snapshot>, names: &[Arc<str>]) -> Result<(), String> {
        let is_same = snapshot.clusters.iter().zip(&before.clusters).all(|(now, before)| Arc::ptr_eq(now, before));
        // The way back to what they were is no change.
        if !is_same || snapshot.clusters.len() != before.clusters.len() {
            let revision = self.process.apply(snapshot.clone())?;
            self.status.readdressed(revision, snapshot);
            event(
                "info",
                &format!("in force: new addresses of {}, as revision {revision} of this process", list(names)),
            );
        }
        Ok(())
    }

    fn refuse(&self, problems: Vec<String>) {
        let count = problems.len();
        event("error", &format!("the changed rules are refused, those before stay in force; problems: {count}"));
        for problem in &problems {
            event("error", problem);
        }
        self.status.refused(problems);
    }
}

/// What is known of where instances are.
struct Whereabouts<'k> {
    names: &'k Names,
    told: &'k Told,
}

impl Known for Whereabouts<'_> {
    fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.names.addresses(name)
    }

    fn instances(&self, resource: &str) -> Option<&Instances> {
        self.told.get(resource)
    }
}

/// A snapshot with the endpoints that are known of its clusters.
fn with_endpoints(status: &Status, rules: &Snapshot, told: &Told, before: &Snapshot) -> Arc<Snapshot> {
    status.names(|names| Arc::new(discovery::resolve(rules, before, &Whereabouts { names, told })))
}

/// What is told once control has said more.
fn after(told: &Told, updates: &Updates) -> Told {
    let mut told = told.clone();
    for (resource, instances) in updates {
        match instances {
            Some(instances) => drop(told.insert(resource.clone(), instances.clone())),
            None => drop(told.remove(resource)),
        }
    }
    told
}

/// Whoever asked may have gone.
fn tell_of(answer: Option<Answer>, result: Result<(), Vec<String>>) {
    let _ = answer.map(|answer| answer.send(result));
}

fn tell(warnings: &[String]) {
    for warning in warnings {
        event("warn", warning);
    }
}

/// The first names of a list, and how many there are beside them.
fn list(names: &[Arc<str>]) -> String {
    let told = names.iter().take(NAMES_TOLD).map(|name| &**name).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_TOLD) {
        0 => told,
        rest => format!("{told} and {rest} more"),
    }
}
