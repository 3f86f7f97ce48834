//! What somebody makes of the bytes of one request. Pure.

use std::fmt;

/// An opinion on the first request of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is one, and this is how it reads.
    Accepted(Reading),
    /// It is none, in the words of who says it.
    Refused(String),
    /// More bytes are needed.
    Unfinished,
}

/// One request as read.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Reading {
    /// The method.
    pub method: Vec<u8>,
    /// The target.
    pub target: Vec<u8>,
    /// Names in lower case, and values without blanks around them.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body's data.
    pub body: Vec<u8>,
    /// Bytes up to its end, where it is known.
    pub end: Option<usize>,
}

impl Reading {
    /// The first word in which two readings differ.
    pub fn difference(&self, other: &Reading) -> Option<&'static str> {
        if self.method != other.method {
            return Some("method");
        }
        if self.target != other.target {
            return Some("target");
        }
        if self.fields != other.fields {
            return Some("fields");
        }
        if self.body != other.body {
            return Some("body");
        }
        (self.end.is_some() && other.end.is_some() && self.end != other.end).then_some("end")
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method.escape_ascii(), self.target.escape_ascii())?;
        for (name, value) in &self.fields {
            write!(formatter, " | {}: {}", name.escape_ascii(), value.escape_ascii())?;
        }
        write!(formatter, " || {} || end {:?}", self.body.escape_ascii(), self.end)
    }
}
