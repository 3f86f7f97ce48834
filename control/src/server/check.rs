//! The check that every change passes: what belongs together with it is compiled as proxies would, for each Gateway by
//! itself, and must be without errors. Pure but for what it remembers, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use config::document::Key;
use config::scope::Scopes;
use config::{Problem, Reader, Severity, Source};

use crate::store::{Check, Committed, Draft, Object, Refusal, State};

/// What is remembered from one change to the next.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    scopes: Scopes,
    reader: Reader,
    /// What is hardly meant as it stands, by document.
    warnings: BTreeMap<Arc<str>, Vec<Problem>>,
}

impl Checker {
    /// Warnings about a document.
    pub(crate) fn warnings(&self, key: &Key) -> &[Problem] {
        self.warnings.get(&*key.to_string()).map_or(&[], Vec::as_slice)
    }

    fn set(&mut self, key: &Key, object: Option<&Arc<Object>>) {
        let value = object.and_then(|object| serde_json::from_str(&object.text).ok());
        self.scopes.set(key, value.as_ref());
    }

    /// Compiles what belongs together.
    fn read(&mut self, draft: &Draft<'_>, keys: &BTreeSet<Key>, problems: &mut Vec<Problem>) {
        let source = |object: &Arc<Object>| Source {
            name: object.key.to_string().into(),
            bytes: object.text.as_bytes().to_vec(),
        };
        let sources: Vec<Source> = keys.iter().filter_map(|key| draft.get(key)).map(source).collect();
        let found = match self.reader.read(&sources) {
            Ok(checked) => checked.warnings,
            Err(all) => {
                problems.extend(all.into_iter().filter(|problem| problem.severity == Severity::Error));
                return;
            }
        };
        for source in &sources {
            self.warnings.remove(&source.name);
        }
        for warning in found {
            self.warnings.entry(warning.file.clone()).or_default().push(warning);
        }
    }
}

impl Check for Checker {
    fn begin(&mut self, state: &State) {
        for object in state.objects() {
            self.set(&object.key, Some(object));
        }
    }

    /// Problems name a document where they name a file elsewhere.
    fn check(&mut self, draft: &Draft<'_>, committed: &Committed) -> Result<(), Refusal> {
        let mut gateways = BTreeSet::new();
        for moved in &committed.moved {
            gateways.extend(self.scopes.gateways(&moved.key));
        }
        for moved in &committed.moved {
            self.set(&moved.key, moved.after.as_ref());
        }
        for moved in &committed.moved {
            gateways.extend(self.scopes.gateways(&moved.key));
        }
        let mut problems = Vec::new();
        let mut rest = self.scopes.concerned(committed.moved.iter().map(|moved| &moved.key));
        for gateway in gateways {
            let keys = self.scopes.of_gateway(&gateway);
            self.read(draft, &keys, &mut problems);
            rest.retain(|key| !keys.contains(key));
        }
        // What no Gateway knows of.
        if !rest.is_empty() {
            self.read(draft, &rest, &mut problems);
        }
        if problems.is_empty() {
            return Ok(());
        }
        self.undo(committed);
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.to_string()));
        Err(Refusal::Wrong(problems))
    }

    fn undo(&mut self, committed: &Committed) {
        for moved in &committed.moved {
            self.set(&moved.key, moved.before.as_ref());
        }
    }
}
