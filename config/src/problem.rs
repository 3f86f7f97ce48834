//! What is wrong with a configuration, said so that its writer can find and mend it: one [`Problem`] per
//! mistake, all of them at once. Who prints them, and whether warnings count, is the command's business. Pure.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::document::Key;

/// Whether a problem stops the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot be understood, or claims what it may not: the whole configuration is refused.
    Error,
    /// It has a meaning, though hardly the one intended: dangling, overlapping or shadowed.
    Warning,
}

/// One mistake. Shown as `FILE:LINE: FIELD: reason (hint)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it stops the configuration from being used.
    pub severity: Severity,
    /// The file's name, as given or found.
    pub file: Arc<str>,
    /// Counted from 1; 0 where the file as a whole is meant.
    pub line: u32,
    /// Counted from 1; 0 where the file as a whole is meant.
    pub column: u32,
    /// Such as `spec.rules[2].matches[0].path`; empty where a document or a file as a whole is meant.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to write instead, if that is known.
    pub hint: Option<String>,
}

/// How a warning about a document that is missing begins.
const MISSING: &str = "there is no ";

/// Why a reference to a Gateway, or to one of its listeners, leads nowhere.
pub(crate) fn no_gateway(namespace: &str, name: &str, listener: Option<&str>) -> String {
    let of = listener.map_or_else(String::new, |listener| format!(" with a listener {listener:?}"));
    format!("{MISSING}Gateway {namespace}/{name}{of}")
}

impl Problem {
    /// The document that it says is missing, or has no such part: where only some documents are read, it may be elsewhere.
    pub fn missing(&self) -> Option<Key> {
        let mut words = self.reason.strip_prefix(MISSING)?.split(' ');
        let (kind, name) = (words.next()?, words.next()?.trim_end_matches(':'));
        let (namespace, name) = name.split_once('/')?;
        Some(Key { kind: kind.into(), namespace: namespace.into(), name: name.into() })
    }

    /// Whether that is a document that this one is attached to.
    pub(crate) fn is_about_attachment(&self) -> bool {
        ["spec.targetRefs[", "spec.parentRefs["].iter().any(|field| self.field.starts_with(field))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.file)?;
        if self.line > 0 {
            write!(out, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(out, ": {}", self.field)?;
        }
        write!(out, ": {}", self.reason)?;
        match &self.hint {
            Some(hint) => write!(out, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Where something is written. Small, so that every part of a document can carry one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    /// Which of the origins known to [`Origins`].
    pub origin: u32,
    /// Within the origin, counted from 1; 0 for the file as a whole.
    pub line: u32,
    /// Counted from 1; 0 for the file as a whole.
    pub column: u32,
}

impl Place {
    /// An origin as a whole.
    pub(crate) fn of(origin: u32) -> Self {
        Place { origin, ..Place::default() }
    }
}

/// Where documents stand in files. A document that moves keeps its origin, so that what was read of it before
/// need not be read again.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    list: Vec<Origin>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Origin {
    file: Arc<str>,
    lines_before: u32,
}

impl Origins {
    /// A number for a document that follows so many lines of a file.
    pub(crate) fn open(&mut self, file: &Arc<str>, lines_before: u32) -> u32 {
        let origin = Origin { file: file.clone(), lines_before };
        match self.free.pop() {
            Some(free) => {
                self.list[free as usize] = origin;
                free
            }
            None => {
                self.list.push(origin);
                (self.list.len() - 1) as u32
            }
        }
    }

    /// The document stands there now.
    pub(crate) fn reopen(&mut self, number: u32, file: &Arc<str>, lines_before: u32) {
        self.list[number as usize] = Origin { file: file.clone(), lines_before };
    }

    /// The number may be given away.
    pub(crate) fn close(&mut self, number: u32) {
        self.free.push(number);
    }
}

/// Gathers problems while a configuration is read.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// Where the documents stand.
    pub(crate) origins: Origins,
    list: Vec<Problem>,
    /// Beyond `MAX`.
    untold: usize,
}

impl Problems {
    /// Problems told at most: a file of nonsense shall not produce a larger one of complaints.
    pub(crate) const MAX: usize = 1_000;

    /// None yet, with the origins of documents read before.
    pub(crate) fn new(origins: Origins) -> Self {
        Problems { origins, list: Vec::new(), untold: 0 }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.untold
    }

    /// `FILE:LINE` of a place, for problems that name a second one.
    pub(crate) fn name(&self, place: Place) -> String {
        let origin = &self.origins.list[place.origin as usize];
        format!("{}:{}", origin.file, origin.lines_before + place.line)
    }

    /// Records that something cannot be used.
    pub(crate) fn error(&mut self, place: Place, field: impl fmt::Display, reason: impl Into<String>) {
        self.push(Severity::Error, place, field.to_string(), reason.into(), None);
    }

    /// Records that something cannot be used, and what to write instead.
    pub(crate) fn error_with_hint(
        &mut self,
        place: Place,
        field: impl fmt::Display,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(Severity::Error, place, field.to_string(), reason.into(), Some(hint.into()));
    }

    /// Records that something is hardly meant as it stands.
    pub(crate) fn warning(
        &mut self,
        place: Place,
        field: impl fmt::Display,
        reason: impl Into<String>,
        hint: Option<&str>,
    ) {
        self.push(Severity::Warning, place, field.to_string(), reason.into(), hint.map(str::to_owned));
    }

    /// Whether the configuration is refused.
    pub(crate) fn has_errors(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// All of them, in the order of these files and of the lines within them; those of other files first.
    pub(crate) fn into_sorted<'f>(self, files: impl Iterator<Item = &'f Arc<str>>) -> (Vec<Problem>, Origins) {
        let ranks: HashMap<&Arc<str>, usize> = files.zip(0..).collect();
        let mut list = self.list;
        list.sort_by_cached_key(|problem| {
            (ranks.get(&problem.file).copied(), problem.line, problem.column, problem.severity)
        });
        list.dedup();
        if let (1.., Some(last)) = (self.untold, list.last()) {
            let reason = format!("{} more problems are not shown", self.untold);
            let last = Problem { line: 0, column: 0, field: String::new(), reason, hint: None, ..last.clone() };
            list.push(last);
        }
        (list, self.origins)
    }

    fn push(&mut self, severity: Severity, place: Place, field: String, reason: String, hint: Option<String>) {
        // An error is always kept, whatever stands before it: a refusal without its reason helps nobody.
        if self.list.len() >= Self::MAX && (severity == Severity::Warning || self.has_errors()) {
            self.untold += 1;
            return;
        }
        let origin = &self.origins.list[place.origin as usize];
        let line = if place.line == 0 { 0 } else { origin.lines_before + place.line };
        let file = origin.file.clone();
        self.list.push(Problem { severity, file, line, column: place.column, field, reason, hint });
    }
}
