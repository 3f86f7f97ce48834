//! Instances as others see them, and where requests find them. Pure, Cold.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Instance, Phase, Record};

/// Where requests find an instance, by what documents say: others with the same can serve them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The lane that it is in; empty: the baseline, however that is called.
    pub lane: Box<str>,
    /// The ports of its Service that it serves.
    pub ports: BTreeSet<Box<str>>,
}

impl Place {
    /// Whether no request finds it: its Service has none of its ports.
    pub fn is_nowhere(&self) -> bool {
        self.ports.is_empty()
    }
}

/// An instance as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<'r> {
    /// What it is.
    pub instance: &'r Instance,
    /// How far it is.
    pub phase: Phase,
    /// Nobody speaks for it.
    pub is_unconfirmed: bool,
    /// Somebody wants it to go.
    pub is_asked: bool,
    /// Callers were told of it before control started: nobody knows who they are.
    pub is_from_before: bool,
    /// Since when it goes, if it does.
    pub going: Option<Instant>,
    /// Why its proxy says that it is not ready, or what it waits for.
    pub note: &'r str,
    /// Where requests find it.
    pub place: &'r Place,
    /// Its application is not ready, and callers use it since there is no other.
    pub is_unwell: bool,
}

pub(super) fn seen(record: &Record) -> Seen<'_> {
    Seen {
        instance: &record.instance,
        phase: record.phase,
        is_unconfirmed: record.stream.is_none(),
        is_asked: record.is_asked,
        is_from_before: record.is_from_before,
        going: record.going,
        note: &record.note,
        place: &record.place,
        is_unwell: record.is_unwell && record.phase == Phase::Ready,
    }
}
