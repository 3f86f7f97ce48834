//! The check that every change passes: what belongs together with it is compiled as proxies would, for each Gateway by
//! itself, and must be without errors. Pure but for what it remembers, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use config::document::Key;
use config::freeze::{Freeze, Purpose};
use config::scope::Scopes;
use config::{Problem, Reader, Severity, Source};

use crate::access::Author;
use crate::server::warnings::{Before, Warnings, Whole};
use crate::store::{Cause, Check, Committed, Course, Draft, Frozen, Moved, Object, Refusal, State, Store};

/// Transactions that may be undone: more are not written at the same time.
const UNDONE_MAX: u64 = 1_000;
/// Warnings about other documents that are told of one transaction.
const ELSEWHERE_MAX: usize = 20;

/// What is remembered from one change to the next.
#[derive(Debug)]
pub(crate) struct Checker {
    scopes: Scopes,
    freezes: BTreeMap<Key, Freeze>,
    /// Documents that stand in files, with file and line.
    of_files: BTreeMap<Key, String>,
    reader: Reader,
    warnings: Warnings,
    /// What a transaction did to warnings, by its revision.
    stirred: BTreeMap<u64, Stirred>,
}

/// What a transaction did to warnings.
#[derive(Debug, Default)]
struct Stirred {
    before: Before,
    /// About documents that it did not touch: how many are new, and the first of them.
    elsewhere: (usize, Vec<Problem>),
}

impl Default for Checker {
    fn default() -> Checker {
        Checker {
            scopes: Scopes::default(),
            freezes: BTreeMap::new(),
            of_files: BTreeMap::new(),
            reader: Reader::of_parts(),
            warnings: Warnings::default(),
            stirred: BTreeMap::new(),
        }
    }
}

impl Checker {
    /// Warnings about a document.
    pub(crate) fn warnings(&self, key: &Key) -> Vec<&Problem> {
        self.warnings.about(&key.to_string())
    }

    /// How many warnings about other documents a transaction brought, and the first of them; as long as it is recent.
    pub(crate) fn elsewhere(&self, revision: u64) -> (usize, &[Problem]) {
        self.stirred.get(&revision).map_or((0, &[]), |stirred| (stirred.elsewhere.0, &stirred.elsewhere.1))
    }

    /// These stand in files from now on, and are changed nowhere else; tells which did.
    pub(crate) fn set_of_files(&mut self, places: BTreeMap<Key, String>) -> BTreeMap<Key, String> {
        std::mem::replace(&mut self.of_files, places)
    }

    /// Looks at a document as it is, with what belongs to it, for warnings; tells what was looked at.
    fn look(&mut self, state: &State, key: &Key) -> BTreeSet<Key> {
        let whole = Some(key.clone()).filter(|key| *key.kind == *"Gateway");
        let keys = match &whole {
            Some(gateway) => self.scopes.of(gateway),
            None => self.scopes.concerned([key]),
        };
        self.read(&Draft::of(state), &whole, &keys, &keys, &mut Vec::new());
        keys
    }

    fn set(&mut self, key: &Key, object: Option<&Arc<Object>>) {
        let value = object.and_then(|object| serde_json::from_str(&object.text).ok());
        self.scopes.set(key, value.as_ref());
        if *key.kind == *"ChangeFreeze" {
            match object.and_then(|object| Freeze::read(&object.text)) {
                Some(freeze) => drop(self.freezes.insert(key.clone(), freeze)),
                None => drop(self.freezes.remove(key)),
            }
        }
    }

    /// What of a transaction must not be changed now, as freezes are before it.
    fn frozen(&self, committed: &Committed) -> Vec<Frozen> {
        let Committed { time_ms, cause, author, .. } = committed;
        let role = author.role.map_or("", |role| role.word());
        let mut frozen = Vec::new();
        // Instances come and go whatever people do.
        for moved in committed.moved.iter().filter(|moved| !moved.is_only_endpoints()) {
            for freeze in self.freezes.values().filter(|freeze| !cause.breaks_glass || !freeze.is_broken_by(role)) {
                if let Some(until_ms) = freeze.until(&moved.key, cause.purpose, *time_ms) {
                    let (by, roles) = (freeze.name.clone(), freeze.roles().to_vec());
                    frozen.push(Frozen { key: moved.key.clone(), by, until_ms, roles });
                }
            }
        }
        frozen
    }

    /// Compiles what belongs together, for what there is to say about some of it.
    fn read(
        &mut self,
        draft: &Draft<'_>,
        whole: &Whole,
        keys: &BTreeSet<Key>,
        about: &BTreeSet<Key>,
        problems: &mut Vec<Problem>,
    ) -> Before {
        let mut found = match self.reader.read(&sources(draft, keys)) {
            Ok(checked) => checked.warnings,
            Err(all) => {
                problems.extend(all.into_iter().filter(|problem| problem.severity == Severity::Error));
                return Before::new();
            }
        };
        let names: BTreeSet<Arc<str>> =
            about.iter().filter(|key| draft.get(key).is_some()).map(|key| key.to_string().into()).collect();
        found.retain(|warning| names.contains(&warning.file) && !is_elsewhere(draft, keys, warning));
        let mut before = self.warnings.replace(whole, &names, found);
        if whole.is_some() {
            // They do not stand alone.
            before.extend(self.warnings.replace(&None, &names, Vec::new()));
        }
        before
    }
}

/// Looks at everything once, for the warnings about what was there at the start: Gateways first, then what belongs to none.
pub(crate) fn look_at_all(store: &Store, checker: &Mutex<Checker>) {
    let keys: Vec<Key> = store.state().objects().map(|object| object.key.clone()).collect();
    let (gateways, others): (Vec<Key>, Vec<Key>) = keys.into_iter().partition(|key| *key.kind == *"Gateway");
    let mut seen = BTreeSet::new();
    for key in gateways.into_iter().chain(others) {
        if !seen.contains(&key) {
            // Whoever changes something waits for one Gateway at most.
            let state = store.state();
            seen.extend(checker.lock().unwrap_or_else(PoisonError::into_inner).look(&state, &key));
        }
    }
}

/// Documents as they are written, each named.
fn sources(draft: &Draft<'_>, keys: &BTreeSet<Key>) -> Vec<Source> {
    let source =
        |object: &Arc<Object>| Source { name: object.key.to_string().into(), bytes: object.text.as_bytes().to_vec() };
    keys.iter().filter_map(|key| draft.get(key)).map(source).collect()
}

/// What belongs together is looked at by itself: to it, others seem to be missing.
fn is_elsewhere(draft: &Draft<'_>, keys: &BTreeSet<Key>, warning: &Problem) -> bool {
    warning.missing().is_some_and(|key| !keys.contains(&key) && draft.get(&key).is_some())
}

impl Check for Checker {
    fn begin(&mut self, state: &State) {
        for object in state.objects() {
            self.set(&object.key, Some(object));
        }
    }

    fn check(&mut self, draft: &Draft<'_>, committed: &Committed) -> Result<(), Refusal> {
        let has_rules = !committed.is_only_endpoints();
        self.permit(draft, committed, has_rules)?;
        if has_rules { self.judge(draft, committed) } else { Ok(()) }
    }

    fn undo(&mut self, committed: &Committed) {
        for moved in &committed.moved {
            self.set(&moved.key, moved.before.as_ref());
        }
        self.warnings.restore(self.stirred.remove(&committed.revision).unwrap_or_default().before);
    }
}

/// A look at what a transaction would come to, also where it would not be permitted now.
pub(crate) struct Dry<'c> {
    pub(crate) checker: &'c mut Checker,
    /// Why not.
    pub(crate) refusal: Option<Refusal>,
}

impl Check for Dry<'_> {
    fn begin(&mut self, state: &State) {
        self.checker.begin(state);
    }

    fn check(&mut self, draft: &Draft<'_>, committed: &Committed) -> Result<(), Refusal> {
        let has_rules = !committed.is_only_endpoints();
        self.refusal = self.checker.permit(draft, committed, has_rules).err();
        if has_rules { self.checker.judge(draft, committed) } else { Ok(()) }
    }

    fn undo(&mut self, committed: &Committed) {
        self.checker.undo(committed);
    }
}

impl Checker {
    /// Whether it may be made at all, here and now. Without rules in it there is nothing but endpoints.
    fn permit(&self, draft: &Draft<'_>, committed: &Committed, has_rules: bool) -> Result<(), Refusal> {
        if committed.author != Author::files() {
            let place = |moved: &Moved| Some((moved.key.clone(), self.of_files.get(&moved.key)?.clone()));
            let of_files: Vec<(Key, String)> = committed.moved.iter().filter_map(place).collect();
            if !of_files.is_empty() {
                return Err(Refusal::OfFiles(of_files));
            }
        }
        if !has_rules {
            return Ok(());
        }
        let Cause { purpose, course, .. } = committed.cause;
        let is_return = matches!(course, Course::TakesBack(_));
        if let Some(trial) = draft.trial().filter(|_| !is_return && purpose != Purpose::EmergencyLimit) {
            let (revision, author) = (trial.revision, trial.author.name.clone());
            return Err(Refusal::OnTrial { revision, author });
        }
        // What is taken back was right when it was made, and is what most proxies have.
        let frozen = if is_return { Vec::new() } else { self.frozen(committed) };
        if frozen.is_empty() { Ok(()) } else { Err(Refusal::Frozen(frozen)) }
    }

    fn gateways(&self, key: &Key) -> impl Iterator<Item = Key> + use<> {
        self.scopes.roots(key).into_iter().filter(|root| *root.kind == *"Gateway")
    }

    /// Whether it is right. Problems name a document where they name a file elsewhere.
    fn judge(&mut self, draft: &Draft<'_>, committed: &Committed) -> Result<(), Refusal> {
        let is_return = matches!(committed.cause.course, Course::TakesBack(_));
        let mut gateways = BTreeSet::new();
        for moved in &committed.moved {
            gateways.extend(self.gateways(&moved.key));
        }
        for moved in &committed.moved {
            self.set(&moved.key, moved.after.as_ref());
        }
        for moved in &committed.moved {
            gateways.extend(self.gateways(&moved.key));
        }
        let (mut problems, mut before) = (Vec::new(), Before::new());
        let mut rest = self.scopes.concerned(committed.moved.iter().map(|moved| &moved.key));
        for gateway in gateways {
            let keys = self.scopes.of(&gateway);
            before.extend(self.read(draft, &Some(gateway), &keys, &keys, &mut problems));
            rest.retain(|key| !keys.contains(key));
        }
        // What no Gateway knows of.
        if !rest.is_empty() {
            let keys = self.scopes.with_references(&rest);
            before.extend(self.read(draft, &None, &keys, &rest, &mut problems));
        }
        // Lanes of a namespace meet at each Service of it, whichever Gateways decide.
        let of_lanes = committed.moved.iter().filter(|moved| *moved.key.kind == *"LaneGroup");
        for namespace in of_lanes.map(|moved| &moved.key.namespace).collect::<BTreeSet<_>>() {
            let all = sources(draft, &self.scopes.lane_groups(namespace));
            let found = self.reader.read(&all).err().unwrap_or_default();
            problems.extend(found.into_iter().filter(|problem| problem.severity == Severity::Error));
        }
        let touched = committed.moved.iter().map(|moved| moved.key.to_string().into()).collect();
        let mut news = self.warnings.news(&before, &touched);
        let count = news.len();
        news.truncate(ELSEWHERE_MAX);
        self.stirred.insert(committed.revision, Stirred { before, elsewhere: (count, news) });
        self.stirred.retain(|revision, _| revision + UNDONE_MAX > committed.revision);
        if problems.is_empty() || is_return {
            return Ok(());
        }
        self.undo(committed);
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.to_string()));
        Err(Refusal::Wrong(problems))
    }
}
