//! What is wrong with a configuration, said so that its writer can find and mend it: one [`Problem`] per
//! mistake, all of them at once. Who prints them, and whether warnings count, is the command's business. Pure.

use std::fmt;
use std::sync::Arc;

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
pub struct Place {
    /// Which of the files that were read.
    pub(crate) file: u32,
    /// Counted from 1; 0 for the file as a whole.
    pub(crate) line: u32,
    /// Counted from 1; 0 for the file as a whole.
    pub(crate) column: u32,
}

/// Gathers problems while a configuration is read.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    files: Vec<Arc<str>>,
    list: Vec<Problem>,
}

impl Problems {
    /// Problems told at most: a file of nonsense shall not produce a larger one of complaints.
    pub(crate) const MAX: usize = 1_000;

    /// Starts a file; places in it are made with the number returned.
    pub(crate) fn open(&mut self, file: Arc<str>) -> u32 {
        self.files.push(file);
        (self.files.len() - 1) as u32
    }

    /// `FILE:LINE` of a place, for problems that name a second one.
    pub(crate) fn name(&self, place: Place) -> String {
        format!("{}:{}", self.file(place), place.line)
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

    /// All of them, in the order of the files and of the lines within them.
    pub(crate) fn into_sorted(mut self) -> Vec<Problem> {
        let rank = |problem: &Problem| self.files.iter().position(|file| *file == problem.file);
        self.list.sort_by_cached_key(|problem| (rank(problem), problem.line, problem.column, problem.severity));
        self.list.dedup();
        self.list
    }

    fn file(&self, place: Place) -> &Arc<str> {
        &self.files[place.file as usize]
    }

    fn push(&mut self, severity: Severity, place: Place, field: String, reason: String, hint: Option<String>) {
        // An error is always kept, whatever stands before it: a refusal without its reason helps nobody.
        if self.list.len() >= Self::MAX && (severity == Severity::Warning || self.has_errors()) {
            return;
        }
        let file = self.file(place).clone();
        self.list.push(Problem { severity, file, line: place.line, column: place.column, field, reason, hint });
    }
}
