//! Which name is asked for when, what an answer changes, and when the changes are due in a revision. Who asks is
//! `dns`'s business. Times count from the start of the process. Machine, Cold.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use config::snapshot::dns::ADDRESSES_MAX;
use serde_json::{Value, json};

/// Names that are asked for at the same time.
pub(crate) const ASKING_MAX: usize = 32;
/// A name is asked for no sooner and no later than this after its last answer, whatever that says.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// After the first failure in a row; each one after it doubles.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Answers that come within this of each other make one revision.
const GATHERING: Duration = Duration::from_millis(50);
/// From one revision to the next, so that names that change all the time do not keep workers busy.
const REVISIONS_APART: Duration = Duration::from_secs(1);

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// These names are needed from now on, and no others.
    Use(BTreeSet<Arc<str>>),
    /// Time has passed.
    Time,
    /// What became of a question.
    Answered(Arc<str>, Answer),
    /// The addresses that are known are in force.
    Applied,
}

/// What became of a question for both kinds of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// A and AAAA.
    pub(crate) families: [Family; 2],
    /// The least of all records.
    pub(crate) ttl: Duration,
}

/// What is known of one kind of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Family {
    /// These, at least one.
    Addresses(Vec<IpAddr>),
    /// There are none, for this reason.
    None(String),
    /// Nobody could say, for this reason.
    Failed(String),
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask for this name.
    Ask(Arc<str>),
    /// Tell people: level and sentence.
    Tell(&'static str, String),
}

/// All names in use.
#[derive(Default)]
pub(crate) struct Names {
    known: BTreeMap<Arc<str>, Name>,
    /// When those are asked for that are not being asked for.
    due: BTreeSet<(Duration, Arc<str>)>,
    /// Also those that are not needed any more.
    asking: HashSet<Arc<str>>,
    /// Whose addresses changed since the last revision.
    changed: BTreeSet<Arc<str>>,
    /// When they are put in force.
    apply_at: Option<Duration>,
    applied_at: Option<Duration>,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Name {
    /// The last good ones of each kind.
    families: [Vec<IpAddr>; 2],
    /// Both, sorted and each once.
    addresses: Vec<IpAddr>,
    /// The last time that all was well.
    answered_at: Option<Duration>,
    failure: Option<Failure>,
    /// It has more addresses than are used.
    is_cut: bool,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    since: Duration,
    in_a_row: u32,
}

impl Names {
    /// What follows from an event.
    pub(crate) fn handle(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Use(names) => self.use_only(now, &names),
            Event::Time => {}
            Event::Answered(name, answer) => self.answered(now, &name, answer, actions),
            Event::Applied => {
                self.changed.clear();
                self.apply_at = None;
                self.applied_at = Some(now);
            }
        }
        while self.asking.len() < ASKING_MAX && self.due.first().is_some_and(|(due, _)| *due <= now) {
            let (_, name) = self.due.pop_first().expect("it was just looked at");
            self.asking.insert(name.clone());
            actions.push(Action::Ask(name));
        }
    }

    fn use_only(&mut self, now: Duration, names: &BTreeSet<Arc<str>>) {
        self.known.retain(|name, _| names.contains(name));
        self.due.retain(|(_, name)| names.contains(name));
        self.changed.retain(|name| names.contains(name));
        self.apply_at = self.apply_at.filter(|_| !self.changed.is_empty());
        for name in names {
            if !self.known.contains_key(name) {
                self.known.insert(name.clone(), Name::default());
                if !self.asking.contains(name) {
                    self.due.insert((now, name.clone()));
                }
            }
        }
    }

    fn answered(&mut self, now: Duration, name: &Arc<str>, answer: Answer, actions: &mut Vec<Action>) {
        self.asking.remove(name);
        let Some(known) = self.known.get_mut(name) else { return };
        let ttl = answer.ttl.clamp(TTL.0, TTL.1);
        let (families, failed) = judge(&known.families, answer.families);
        let is_partial = families.is_some();
        if let Some(families) = families {
            let (addresses, is_cut) = merge(&families);
            if is_cut && !known.is_cut {
                let told = format!("{name} has more than {ADDRESSES_MAX} addresses: the rest is not used");
                actions.push(Action::Tell("warn", told));
            }
            known.is_cut = is_cut;
            known.families = families;
            if known.addresses != addresses {
                known.addresses = addresses;
                self.changed.insert(name.clone());
                let earliest = self.applied_at.map_or(Duration::ZERO, |at| at + REVISIONS_APART);
                self.apply_at.get_or_insert((now + GATHERING).max(earliest));
            }
        }
        let count = known.addresses.len();
        let wait = match failed {
            None => {
                known.answered_at = Some(now);
                if let Some(failure) = known.failure.take() {
                    let lasted = (now - failure.since).as_secs();
                    let told = format!("asking for {name} succeeds again after {lasted} s, addresses: {count}");
                    actions.push(Action::Tell("info", told));
                }
                ttl
            }
            Some(reason) => {
                let failure = known.failure.get_or_insert_with(|| {
                    let kept = match known.answered_at {
                        Some(at) => format!("its addresses of {} s ago stay: {count}", (now - at).as_secs()),
                        None => format!("addresses: {count}"),
                    };
                    actions.push(Action::Tell("warn", format!("asking for {name} fails: {reason}; {kept}")));
                    Failure { reason: String::new(), since: now, in_a_row: 0 }
                });
                failure.reason = reason;
                failure.in_a_row = failure.in_a_row.saturating_add(1);
                let backoff = backoff(failure.in_a_row);
                // What is known of one kind of addresses grows old as ever.
                if is_partial { backoff.min(ttl) } else { backoff }
            }
        };
        self.due.insert((now + wait, name.clone()));
    }

    /// When there is something to do that is not due yet, if nothing else happens.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        let has_room = self.asking.len() < ASKING_MAX;
        let due = self.due.first().filter(|_| has_room).map(|(due, _)| *due);
        due.into_iter().chain(self.apply_at.filter(|at| *at > now)).min()
    }

    /// The names for whose sake a revision is due.
    pub(crate) fn to_apply(&self, now: Duration) -> Option<&BTreeSet<Arc<str>>> {
        self.apply_at.filter(|at| *at <= now).map(|_| &self.changed)
    }

    /// Whether something became of each name.
    pub(crate) fn is_settled(&self) -> bool {
        self.known.values().all(|name| name.answered_at.is_some() || name.failure.is_some())
    }

    /// The addresses of a name.
    pub(crate) fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.known.get(name).map(|name| &name.addresses[..])
    }

    /// How many names are known as the last answer said, are kept from an earlier one, or were never found.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 3] {
        let count = |state: &str| self.known.values().filter(|name| name.state() == state).count();
        ["fresh", "kept", "unknown"].map(|state| (state, count(state)))
    }

    /// For people.
    pub(crate) fn document(&self, now: Duration) -> Value {
        let ago = |at: Duration| (now.saturating_sub(at).as_secs_f64() * 10.0).round() / 10.0;
        let names = self.known.iter().map(|(name, known)| {
            json!({
                "name": name.to_string(),
                "state": known.state(),
                "addresses": known.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
                "ageSeconds": known.answered_at.map(ago),
                "failure": known.failure.as_ref().map(|failure| json!({
                    "reason": failure.reason,
                    "forSeconds": ago(failure.since),
                    "inARow": failure.in_a_row,
                })),
            })
        });
        Value::Array(names.collect())
    }
}

impl Name {
    fn state(&self) -> &'static str {
        match (&self.failure, self.addresses.is_empty()) {
            (_, true) => "unknown",
            (Some(_), false) => "kept",
            (None, false) => "fresh",
        }
    }
}

/// What both kinds of addresses are after an answer, None if nothing came of it; and why all is not well.
fn judge(before: &[Vec<IpAddr>; 2], answer: [Family; 2]) -> (Option<[Vec<IpAddr>; 2]>, Option<String>) {
    if !answer.iter().any(|family| matches!(family, Family::Addresses(_))) {
        let [first, second] = answer;
        let reason = match (first, second) {
            (Family::Failed(reason), _) | (_, Family::Failed(reason)) | (Family::None(reason), _) => reason,
            (Family::Addresses(_), _) => unreachable!("there are none"),
        };
        return (None, Some(reason));
    }
    let mut failed = None;
    let mut families = before.clone();
    for (known, family) in families.iter_mut().zip(answer) {
        match family {
            Family::Addresses(addresses) => *known = addresses,
            Family::None(_) => known.clear(),
            // Some servers never answer questions for one kind: nobody misses what was never there.
            Family::Failed(reason) if !known.is_empty() => failed = Some(reason),
            Family::Failed(_) => {}
        }
    }
    (Some(families), failed)
}

/// In an order that answers have no part in, each once, and no more than are used.
fn merge(families: &[Vec<IpAddr>; 2]) -> (Vec<IpAddr>, bool) {
    let mut addresses = families.concat();
    addresses.sort_unstable();
    addresses.dedup();
    let is_cut = addresses.len() > ADDRESSES_MAX;
    addresses.truncate(ADDRESSES_MAX);
    (addresses, is_cut)
}

fn backoff(in_a_row: u32) -> Duration {
    let factor = 1 << in_a_row.saturating_sub(1).min(16);
    (BACKOFF.0 * factor).min(BACKOFF.1)
}

#[cfg(test)]
mod tests;
