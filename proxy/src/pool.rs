//! Idle connections to one endpoint, of one worker: the last used is used first, so that few stay warm and
//! the rest can end. A connection of which anything has been heard while idle is never used. Hot.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use crate::driver::{Socket, TaskId};
use crate::slots::{Slot, Slots};

/// A connection to an endpoint, and its part of the bound on them, if there is one.
pub(crate) struct Link {
    pub(crate) socket: Socket,
    pub(crate) slot: Option<Slot>,
}

/// A connection without a request.
struct Idle {
    link: Link,
    /// Since when it is unused.
    since: Duration,
    /// When it must no longer be used, in the driver's time.
    until: Duration,
}

/// The idle connections to one endpoint.
#[derive(Default)]
pub(crate) struct Pool {
    /// The most recently used at the back.
    idle: RefCell<VecDeque<Idle>>,
}

impl Pool {
    /// A connection that may be used, now belonging to the running task.
    pub(crate) fn take(&self, now: Duration) -> Option<Link> {
        self.take_idle(now).map(|(link, _)| link)
    }

    /// The same, and how long it was not used.
    pub(crate) fn take_idle(&self, now: Duration) -> Option<(Link, Duration)> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop_back() {
            // The end, a reset or stray bytes: whichever it is, no request may go there (RFC 9112 9.2, 9.5).
            if candidate.until > now && !candidate.link.socket.has_news() {
                candidate.link.socket.adopt();
                return Some((candidate.link, now.saturating_sub(candidate.since)));
            }
        }
        None
    }

    /// Whether there is a connection that may be used.
    pub(crate) fn has_any(&self, now: Duration) -> bool {
        self.idle.borrow().iter().any(|candidate| candidate.until > now)
    }

    /// Keeps a connection from now until `until`; beyond `count_max` the least recently used one is closed. News of it
    /// go to `keeper`.
    pub(crate) fn give(&self, link: Link, now: Duration, until: Duration, count_max: usize, keeper: TaskId) {
        if count_max == 0 || link.socket.has_news() {
            return;
        }
        link.socket.set_owner(keeper);
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= count_max {
            idle.pop_front();
        }
        idle.push_back(Idle { link, since: now, until });
    }

    /// Closes what cannot be used any more, and tells how many are left.
    pub(crate) fn sweep(&self, now: Duration) -> usize {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|candidate| candidate.until > now && !candidate.link.socket.has_news());
        if idle.is_empty() && idle.capacity() > 64 {
            *idle = VecDeque::new();
        }
        idle.len()
    }

    /// Closes what a new bound on connections leaves no room for: those that nobody has counted, and those beyond it.
    pub(crate) fn shrink(&self, slots: &Slots) {
        self.idle.borrow_mut().retain(|idle| idle.link.slot.is_some());
        while slots.is_over()
            && let Some(oldest) = self.idle.borrow_mut().pop_front()
        {
            drop(oldest);
        }
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

/// How long an idle connection may be kept: as configured, but a second less than the peer says it keeps it, so
/// that a request and the peer's close do not meet on the way.
pub(crate) fn idle_timeout(configured: Duration, peer_seconds: Option<u32>) -> Duration {
    match peer_seconds {
        Some(seconds) => configured.min(Duration::from_secs(u64::from(seconds.saturating_sub(1)))),
        None => configured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_may_shorten_the_idle_time() {
        let check = |configured: u64, peer: Option<u32>, expected: u64| {
            assert_eq!(idle_timeout(Duration::from_secs(configured), peer), Duration::from_secs(expected));
        };
        check(60, None, 60);
        check(60, Some(5), 4);
        check(3, Some(5), 3);
        check(60, Some(1), 0);
        check(60, Some(0), 0);
    }
}
