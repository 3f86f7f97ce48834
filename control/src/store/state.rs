//! What is in the store, and what a transaction comes to. Time is an argument. Pure, Cold.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::document::Key;
use config::freeze::Purpose;

use crate::access::Author;
use crate::registry::{Instance, Name, Shift};
use crate::store::Check;
use crate::store::trial::Course;

/// A document as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is called.
    pub key: Key,
    /// The revision that made it.
    pub created: u64,
    /// The revision that changed it last.
    pub revision: u64,
    /// JSON, on one line, keys sorted.
    pub text: Arc<str>,
}

/// Ends of trials that are remembered.
const ENDED_MAX: usize = 1_000;

/// Everything, at one revision.
#[derive(Debug, Default, Clone)]
pub struct State {
    revision: u64,
    objects: BTreeMap<Key, Arc<Object>>,
    trial: Option<Arc<Committed>>,
    /// What ended trials, by their revisions.
    ended: BTreeMap<u64, Arc<Committed>>,
    instances: BTreeMap<Name, Arc<Instance>>,
}

/// What one who changes a document believes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Anything,
    /// It is not there.
    Absent,
    /// This revision changed it last.
    Revision(u64),
}

/// One document's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which document.
    pub key: Key,
    /// What it shall be; None: it shall not be there.
    pub text: Option<Arc<str>>,
    /// Only if this holds.
    pub expected: Expected,
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Each document at most once.
    pub changes: Vec<Change>,
    /// Who makes them.
    pub author: Author,
    /// Why, in words for people.
    pub message: Arc<str>,
    /// What for.
    pub cause: Cause,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// What freezes go by.
    pub purpose: Purpose,
    /// It shall be made even in a freeze, by one who may.
    pub breaks_glass: bool,
    /// To whom it goes.
    pub course: Course,
}

#[cfg(test)]
impl Cause {
    /// Something shall be otherwise.
    pub const CHANGE: Cause = Cause { purpose: Purpose::Change, breaks_glass: false, course: Course::Straight };
}

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub key: Key,
    /// As it was.
    pub before: Option<Arc<Object>>,
    /// As it is.
    pub after: Option<Arc<Object>>,
}

/// What a transaction came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its revision; that of the last one if nothing changed.
    pub revision: u64,
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// Who made it.
    pub author: Author,
    /// Why.
    pub message: Arc<str>,
    /// What for.
    pub cause: Cause,
    /// What is other than before.
    pub moved: Vec<Moved>,
    /// Instances that are told otherwise than before; a transaction of documents has none.
    pub shifts: Vec<Shift>,
}

/// Why a transaction was not carried out. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A document is not as expected.
    Conflict {
        /// Which.
        key: Key,
        /// The revision that changed it last; None: it is not there.
        found: Option<u64>,
    },
    /// A document is there twice in it.
    Twice(Key),
    /// It must not be changed now.
    Frozen(Vec<Frozen>),
    /// Something else is on trial.
    OnTrial {
        /// At which revision.
        revision: u64,
        /// Who made it.
        author: Arc<str>,
    },
    /// Nothing is on trial at this revision.
    NotOnTrial(u64),
    /// These stand in files, and are changed only there: each with its file and line.
    OfFiles(Vec<(Key, String)>),
    /// What it would come to is wrong.
    Wrong(Vec<config::Problem>),
    /// More wait than there is room for.
    Busy,
    /// It could not be written.
    Unavailable(String),
}

/// A document that must not be changed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Which.
    pub key: Key,
    /// The ChangeFreeze, `namespace/name`.
    pub by: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: i64,
    /// Roles that may break it.
    pub roles: Vec<String>,
}

impl State {
    /// What was there at the start.
    pub fn new(revision: u64, objects: impl IntoIterator<Item = Object>, trial: Option<Committed>) -> State {
        let objects = objects.into_iter().map(|object| (object.key.clone(), Arc::new(object))).collect();
        State { revision, objects, trial: trial.map(Arc::new), ..State::default() }
    }

    /// With these instances.
    pub fn with_instances(mut self, instances: impl IntoIterator<Item = (Name, Instance)>) -> State {
        self.instances = instances.into_iter().map(|(name, instance)| (name, Arc::new(instance))).collect();
        self
    }

    /// All instances that are told to callers.
    pub fn instances(&self) -> &BTreeMap<Name, Arc<Instance>> {
        &self.instances
    }

    /// What some proxies try.
    pub fn trial(&self) -> Option<&Arc<Committed>> {
        self.trial.as_ref()
    }

    /// What ended the trial of this revision, in this life of the store.
    pub fn ended(&self, revision: u64) -> Option<&Arc<Committed>> {
        self.ended.get(&revision)
    }

    /// Of the last transaction.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One document.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All documents of a kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Arc<Object>> {
        let first = Key { kind: kind.into(), namespace: "".into(), name: "".into() };
        let is_its = move |(key, _): &(&Key, &Arc<Object>)| *key.kind == *first.kind;
        let from = Key { kind: kind.into(), namespace: "".into(), name: "".into() };
        self.objects.range(from..).take_while(is_its).map(|(_, object)| object)
    }

    /// All documents, in the order of their keys.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// Takes what has been written.
    pub(super) fn follow(&mut self, batch: &[Arc<Committed>]) {
        for committed in batch {
            self.revision = committed.revision;
            self.trial = committed.on_trial(self.trial.take());
            if let Course::Promotes(revision) | Course::TakesBack(revision) = committed.cause.course {
                self.ended.insert(revision, committed.clone());
                if self.ended.len() > ENDED_MAX {
                    self.ended.pop_first();
                }
            }
            for moved in &committed.moved {
                match &moved.after {
                    Some(object) => drop(self.objects.insert(moved.key.clone(), object.clone())),
                    None => drop(self.objects.remove(&moved.key)),
                }
            }
            for shift in &committed.shifts {
                match &shift.after {
                    Some(instance) => drop(self.instances.insert(shift.name.clone(), instance.clone())),
                    None => drop(self.instances.remove(&shift.name)),
                }
            }
        }
    }
}

/// A state with transactions that are not written so far.
#[derive(Debug)]
pub struct Draft<'s> {
    base: &'s State,
    revision: u64,
    over: BTreeMap<Key, Option<Arc<Object>>>,
    instances: BTreeMap<Name, Option<Arc<Instance>>>,
    trial: Option<Arc<Committed>>,
}

impl<'s> Draft<'s> {
    /// Nothing but what is written.
    pub fn of(base: &'s State) -> Draft<'s> {
        let (over, instances) = (BTreeMap::new(), BTreeMap::new());
        Draft { base, revision: base.revision, over, instances, trial: base.trial.clone() }
    }

    /// One document.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        match self.over.get(key) {
            Some(over) => over.as_ref(),
            None => self.base.get(key),
        }
    }

    /// Of the last transaction.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What some proxies try.
    pub fn trial(&self) -> Option<&Arc<Committed>> {
        self.trial.as_ref()
    }

    /// What a transaction would come to.
    pub fn decide(&self, transaction: Transaction, time_ms: i64) -> Result<Committed, Refusal> {
        let Transaction { changes, author, message, mut cause } = transaction;
        if let Course::Promotes(ended) | Course::TakesBack(ended) = cause.course
            && self.trial.as_ref().is_none_or(|trial| trial.revision != ended)
        {
            return Err(Refusal::NotOnTrial(ended));
        }
        let revision = self.revision + 1;
        let mut moved: BTreeMap<Key, Option<Moved>> = BTreeMap::new();
        for Change { key, text, expected } in changes {
            let before = self.get(&key).cloned();
            let found = before.as_ref().map(|object| object.revision);
            let is_as_expected = match expected {
                Expected::Anything => true,
                Expected::Absent => found.is_none(),
                Expected::Revision(revision) => found == Some(revision),
            };
            if !is_as_expected {
                return Err(Refusal::Conflict { key, found });
            }
            let created = before.as_ref().map_or(revision, |object| object.created);
            let is_same = before.as_ref().map(|object| &object.text) == text.as_ref();
            let after = text.map(|text| Arc::new(Object { key: key.clone(), created, revision, text }));
            let one = (!is_same).then(|| Moved { key: key.clone(), before, after });
            if moved.insert(key.clone(), one).is_some() {
                return Err(Refusal::Twice(key));
            }
        }
        let moved: Vec<Moved> = moved.into_values().flatten().collect();
        if matches!(cause.course, Course::Trial(_)) && moved.iter().all(Moved::is_only_endpoints) {
            // Instances come and go for everybody.
            cause.course = Course::Straight;
        }
        let mut committed = Committed { revision, time_ms, author, message, cause, moved, shifts: Vec::new() };
        if !committed.is_made() {
            committed.revision = self.revision;
        }
        Ok(committed)
    }

    /// Instances are told so from now on, or no longer. Nobody may refuse it: they come and go whatever people do.
    pub fn shift(&mut self, told: Vec<(Name, Option<Instance>)>, time_ms: i64) -> Arc<Committed> {
        let mut shifts = Vec::new();
        for (name, after) in told {
            let before = match self.instances.get(&name) {
                Some(over) => over.clone(),
                None => self.base.instances.get(&name).cloned(),
            };
            if before.as_deref() != after.as_ref() {
                let after = after.map(Arc::new);
                self.instances.insert(name.clone(), after.clone());
                shifts.push(Shift { name, before, after });
            }
        }
        self.revision += u64::from(!shifts.is_empty());
        let cause = Cause { purpose: Purpose::Change, breaks_glass: false, course: Course::Straight };
        let (revision, author, message) = (self.revision, Author::control(), "".into());
        Arc::new(Committed { revision, time_ms, author, message, cause, moved: Vec::new(), shifts })
    }

    /// Adds what was decided, unless `check` finds fault with the whole as it is then.
    pub fn take(&mut self, committed: Committed, check: &mut dyn Check) -> Result<Arc<Committed>, Refusal> {
        let committed = Arc::new(committed);
        if !committed.is_made() {
            return Ok(committed);
        }
        let before: Vec<_> =
            committed.moved.iter().map(|moved| (moved.key.clone(), self.over.get(&moved.key).cloned())).collect();
        for moved in &committed.moved {
            self.over.insert(moved.key.clone(), moved.after.clone());
        }
        if let Err(refusal) = check.check(self, &committed) {
            for (key, before) in before {
                match before {
                    Some(before) => drop(self.over.insert(key, before)),
                    None => drop(self.over.remove(&key)),
                }
            }
            return Err(refusal);
        }
        self.revision = committed.revision;
        self.trial = committed.on_trial(self.trial.take());
        Ok(committed)
    }
}
