//! How far an instance is, what its proxy says of that, and how it may end: words, and what they are called. Pure, Cold.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{INSTANCES_MAX, Name};

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its application is not ready.
    Starting,
    /// Callers use it.
    Ready,
    /// It wants to go, and is the last one.
    Last {
        /// When it goes at the latest.
        deadline: Instant,
        /// When callers are told after all.
        told: Instant,
    },
    /// Callers are to forget it.
    Draining {
        /// When it goes at the latest.
        deadline: Instant,
    },
    /// It goes, and callers never knew it.
    Unknown {
        /// When it goes at the latest.
        deadline: Instant,
    },
}

/// What a proxy says of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is not ready.
    Starting,
    /// It is ready.
    Ready,
    /// It goes.
    Draining {
        /// For how long it has been going.
        since: Duration,
        /// How long it may still take.
        within: Duration,
    },
    /// It has gone.
    Ended {
        /// How long that took.
        since: Duration,
    },
}

/// An instance that is gone without a drain, though callers were told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Which.
    pub name: Name,
    /// Since when it was going, or silent.
    pub since: Instant,
    /// How it went.
    pub how: Departed,
}

/// How an instance went without a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departed {
    /// Nobody spoke for it any more, until its lease was over.
    Lease,
    /// The same, until another one had its name or address.
    Replaced,
    /// It went while control was away, and said so later.
    Unseen,
    /// It went as the last one, before callers were told.
    Untold,
    /// It went, or fell silent, while control was away.
    Away,
}

/// Why an instance is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another process of that name is there.
    NameTaken(SocketAddr),
    /// Another instance is there.
    AddressTaken(SocketAddr, Name),
    /// There are too many.
    TooMany,
}

impl Phase {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Last { .. } => "last",
            Phase::Draining { .. } | Phase::Unknown { .. } => "draining",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NameTaken(address) => {
                write!(formatter, "another process of that name is there, at {address}: give each a name of its own")
            }
            Refusal::AddressTaken(address, name) => write!(formatter, "{name} is at {address}"),
            Refusal::TooMany => write!(formatter, "the Service has {INSTANCES_MAX} instances already"),
        }
    }
}
