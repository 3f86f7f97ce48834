//! The one error of the harness: a sentence for the person who started it. Nobody branches on it, a broken measurement
//! that others act on is `load::Void`. Pure.

use std::fmt;

/// What went wrong, as a sentence.
pub struct Failure(pub String);

/// A result whose error is only ever printed.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure that says `text`.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

// `main` prints the error with Debug: the sentence, not the struct around it.
impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// Puts what was attempted in front of an error.
pub trait Because<T> {
    /// `what: error`, with `what` made only on failure.
    fn because(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> Because<T> for Result<T, E> {
    fn because(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{}: {error}", what())))
    }
}
