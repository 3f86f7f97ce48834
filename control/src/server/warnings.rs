//! What is hardly meant as it stands, by document and by the Gateway as part of which it was looked at; and what that was
//! before, for changes that are not made after all. Pure, Cold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use config::Problem;
use config::document::Key;

/// The Gateway as part of which documents were looked at; None: they belong to none.
pub(crate) type Whole = Option<Key>;
/// What is to be put back: a document's warnings as part of a whole.
pub(crate) type Before = Vec<(Whole, Arc<str>, Vec<Problem>)>;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    by_document: HashMap<Arc<str>, BTreeMap<Whole, Vec<Problem>>>,
    by_whole: BTreeMap<Whole, BTreeSet<Arc<str>>>,
}

impl Warnings {
    /// Those about a document, each once.
    pub(crate) fn about(&self, document: &str) -> Vec<&Problem> {
        let mut found: Vec<&Problem> = Vec::new();
        for problem in self.by_document.get(document).into_iter().flat_map(BTreeMap::values).flatten() {
            if !found.contains(&problem) {
                found.push(problem);
            }
        }
        found
    }

    /// These documents were looked at as part of a whole, with these warnings. Of a Gateway they are all there are.
    pub(crate) fn replace(&mut self, whole: &Whole, documents: &BTreeSet<Arc<str>>, found: Vec<Problem>) -> Before {
        let mut now: BTreeMap<Arc<str>, Vec<Problem>> = BTreeMap::new();
        let warned = self.by_whole.get(whole).into_iter().flatten();
        for document in warned.filter(|document| whole.is_some() || documents.contains(*document)) {
            now.insert(document.clone(), Vec::new());
        }
        for problem in found {
            now.entry(problem.file.clone()).or_default().push(problem);
        }
        now.into_iter().map(|(document, problems)| self.set(whole.clone(), document, problems)).collect()
    }

    /// Those about other documents than these that were not there before.
    pub(crate) fn news(&self, before: &Before, except: &BTreeSet<Arc<str>>) -> Vec<Problem> {
        let documents: BTreeSet<&Arc<str>> =
            before.iter().map(|(_, document, _)| document).filter(|document| !except.contains(*document)).collect();
        let mut news = Vec::new();
        for document in documents {
            let replaced = |whole: &Whole| before.iter().any(|(one, about, _)| one == whole && about == document);
            let kept = self.by_document.get(document).into_iter().flatten().filter(|(whole, _)| !replaced(whole));
            let old = before.iter().filter(|(_, about, _)| about == document).flat_map(|(.., problems)| problems);
            let old: Vec<&Problem> = old.chain(kept.flat_map(|(_, problems)| problems)).collect();
            news.extend(self.about(document).into_iter().filter(|problem| !old.contains(problem)).cloned());
        }
        news
    }

    /// What was replaced is so again.
    pub(crate) fn restore(&mut self, before: Before) {
        for (whole, document, problems) in before.into_iter().rev() {
            self.set(whole, document, problems);
        }
    }

    fn set(&mut self, whole: Whole, document: Arc<str>, problems: Vec<Problem>) -> (Whole, Arc<str>, Vec<Problem>) {
        let warned = self.by_whole.entry(whole.clone()).or_default();
        let wholes = self.by_document.entry(document.clone()).or_default();
        let before = match problems.is_empty() {
            true => {
                warned.remove(&document);
                wholes.remove(&whole)
            }
            false => {
                warned.insert(document.clone());
                wholes.insert(whole.clone(), problems)
            }
        };
        if warned.is_empty() {
            self.by_whole.remove(&whole);
        }
        if wholes.is_empty() {
            self.by_document.remove(&document);
        }
        (whole, document, before.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use config::Severity;

    use super::*;

    fn warning(document: &str, reason: &str) -> Problem {
        let (file, reason) = (document.into(), reason.into());
        Problem { severity: Severity::Warning, file, line: 1, column: 1, field: String::new(), reason, hint: None }
    }

    fn shown(warnings: &Warnings) -> String {
        let about = |document: &str| {
            let reasons: Vec<&str> = warnings.about(document).iter().map(|problem| &*problem.reason).collect();
            format!("{document}: {}", reasons.join(","))
        };
        ["a", "b"].map(about).join(" ")
    }

    #[test]
    fn each_whole_has_its_own() {
        let gateway = |name: &str| Some(Key { kind: "Gateway".into(), namespace: "d".into(), name: name.into() });
        let documents = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<BTreeSet<Arc<str>>>();
        let mut warnings = Warnings::default();
        let mut undo = Vec::new();
        for (whole, looked_at, found, expected, of_a) in [
            (gateway("g"), &["a", "b"][..], &[("a", "odd"), ("b", "odd")][..], "a: odd b: odd", "odd"),
            (gateway("h"), &["a"], &[("a", "odd"), ("a", "vain")], "a: odd,vain b: odd", "vain"),
            // What has left a Gateway is none of its business any more.
            (gateway("g"), &["a"], &[], "a: odd,vain b: ", ""),
            (None, &["b"], &[("b", "alone")], "a: odd,vain b: alone", ""),
            (None, &["a"], &[], "a: odd,vain b: alone", ""),
            (gateway("h"), &[], &[], "a:  b: alone", ""),
        ] {
            let before = shown(&warnings);
            let found = found.iter().map(|(document, reason)| warning(document, reason)).collect();
            let replaced = warnings.replace(&whole, &documents(looked_at), found);
            let news = warnings.news(&replaced, &documents(&["b"]));
            let told: Vec<&str> = news.iter().map(|problem| &*problem.reason).collect();
            assert_eq!((&*shown(&warnings), &*told.join(",")), (expected, of_a));
            undo.push((before, replaced));
        }
        for (expected, before) in undo.into_iter().rev() {
            warnings.restore(before);
            assert_eq!(shown(&warnings), expected);
        }
        assert!(warnings.by_document.is_empty() && warnings.by_whole.is_empty());
    }
}
