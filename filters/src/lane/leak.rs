//! Which requests lose their lane at an instance of the baseline: its app makes a call that names nobody, neither by a tag
//! nor by a trace that is known, and the call goes on in the baseline. Whose such a *stray* is cannot be told when it is
//! made, but when requests end: one in a lane that was under way meanwhile, and none of whose calls went to that callee,
//! has lost its lane there. Where each request makes one call of a callee the count is exact. Where some make none, one
//! that made none may be counted in place of another, of another lane at worst; but nothing is counted where all calls
//! name their request, and nothing of a callee that is called with a tag and no trace: the baseline has no tag. What an app
//! does of its own accord has no trace, either: calls of whom it also calls while no request is under way are *doubtful* for
//! a minute. Machine, Hot.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use config::consistent::hash;

/// Strays that are remembered; older ones are nobody's.
const STRAYS_MAX: usize = 64;
/// For so long a callee of an idle app is taken for one that it calls of its own accord, and is one left out.
const REMEMBERED_NS: u64 = 60_000_000_000;
/// Callees that are told apart, as bits; two that share one hide each other's strays.
const CALLEES: usize = u16::BITS as usize;

/// Why nobody knows whose a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It has no tag, and nobody looks at traces.
    NoTag,
    /// It has no trace.
    NoTrace,
    /// No request that is known has its trace.
    UnknownTrace,
    /// Requests of several lanes have its trace.
    AmbiguousTrace,
}

impl Why {
    /// What metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::NoTag => "noTag",
            Why::NoTrace => "noTrace",
            Why::UnknownTrace => "unknownTrace",
            Why::AmbiguousTrace => "ambiguousTrace",
        }
    }
}

/// A call that names nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// As `callee` tells it.
    pub callee: u16,
    /// The Service that it went to, `namespace/name`.
    pub service: Arc<str>,
    /// Why it is one.
    pub why: Why,
    /// Its callee is also called by the app of its own accord.
    pub is_doubtful: bool,
    /// What was called, for people.
    pub example: Box<str>,
}

/// The strays of an instance of the baseline. One for all threads of a process.
#[derive(Debug, Default)]
pub struct Strays {
    /// Requests under way that are in a lane.
    in_lanes: AtomicU64,
    /// Strays so far.
    count: AtomicU64,
    /// With their numbers.
    kept: Mutex<VecDeque<(u64, Stray)>>,
    /// Until when each callee is one that the app calls of its own accord.
    of_its_own_until_ns: [AtomicU64; CALLEES],
    /// Until when each callee is not looked at.
    left_out_until_ns: [AtomicU64; CALLEES],
}

/// A request in a lane that is under way. It is given back when the request has ended, however it did.
#[derive(Debug)]
#[must_use = "a request that began must end"]
pub struct Watched {
    since: u64,
}

/// The bit of whoever is called by that name.
pub fn callee(host: &[u8]) -> u16 {
    1 << (hash(host) as usize % CALLEES)
}

fn place(callee: u16) -> usize {
    callee.trailing_zeros() as usize % CALLEES
}

impl Strays {
    /// A request in a lane begins.
    pub fn begin(&self) -> Watched {
        self.in_lanes.fetch_add(1, Relaxed);
        Watched { since: self.count.load(Relaxed) }
    }

    /// A call names nobody: whether it is to be added, and as doubtful. `is_idle`: no request at all is under way.
    pub fn wants(&self, callee: u16, is_idle: impl FnOnce() -> bool, now_ns: u64) -> Option<bool> {
        let place = place(callee);
        if self.in_lanes.load(Relaxed) > 0 {
            let is_doubtful = self.of_its_own_until_ns[place].load(Relaxed) > now_ns;
            return (self.left_out_until_ns[place].load(Relaxed) <= now_ns).then_some(is_doubtful);
        }
        if is_idle() {
            self.of_its_own_until_ns[place].store(now_ns.saturating_add(REMEMBERED_NS), Relaxed);
        }
        None
    }

    /// Calls of a callee say nothing for a while.
    pub fn leave_out(&self, callee: u16, now_ns: u64) {
        self.left_out_until_ns[place(callee)].store(now_ns.saturating_add(REMEMBERED_NS), Relaxed);
    }

    /// Adds a call that names nobody.
    pub fn add(&self, stray: Stray) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == STRAYS_MAX {
            kept.pop_front();
        }
        kept.push_back((self.count.fetch_add(1, Relaxed), stray));
    }

    /// A request in a lane has ended, and calls of its own went to these callees: tells where it has lost its lane, once for
    /// each callee.
    pub fn end(&self, watched: Watched, mut called: u16) -> Vec<Stray> {
        self.in_lanes.fetch_sub(1, Relaxed);
        let mut lost = Vec::new();
        if self.count.load(Relaxed) == watched.since {
            return lost;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_its =
            |called: u16, (number, stray): &(u64, Stray)| *number >= watched.since && stray.callee & called == 0;
        while let Some(place) = kept.iter().position(|known| is_its(called, known)) {
            let (_, stray) = kept.remove(place).expect("it was found there");
            called |= stray.callee;
            lost.push(stray);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// Plays a script and tells what was lost, `?` where that is doubtful. `1+`: request 1 of a lane begins. `x!`: a call of x that names nobody, while
    /// requests of the baseline are under way; `x~`: one while no request at all is. `x-`: x is left out. `1.xy`: it ends, and
    /// has called x and y itself. `@30`: it is so many seconds.
    fn check(script: &str, expected: &str) {
        let (strays, mut now_ns, mut lost) = (Strays::default(), 0, Vec::new());
        let mut live = std::collections::HashMap::new();
        // Not by their hashes, which may be the same.
        let bit = |letter: u8| 1u16 << ((letter - b'a') % 16);
        for step in script.split_whitespace() {
            if let Some(seconds) = step.strip_prefix('@') {
                now_ns = seconds.parse::<u64>().expect("seconds") * S;
            } else if let Some(request) = step.strip_suffix('+') {
                live.insert(request, strays.begin());
            } else if let Some(name) = step.strip_suffix(['!', '~']) {
                let callee = bit(name.as_bytes()[0]);
                let (service, example) = (name.into(), "GET /".into());
                if let Some(is_doubtful) = strays.wants(callee, || step.ends_with('~') && live.is_empty(), now_ns) {
                    strays.add(Stray { callee, service, why: Why::NoTrace, is_doubtful, example });
                }
            } else if let Some(name) = step.strip_suffix('-') {
                strays.leave_out(bit(name.as_bytes()[0]), now_ns);
            } else {
                let (request, called) = step.split_once('.').expect("a step");
                let called = called.bytes().fold(0, |called, letter| called | bit(letter));
                let found = strays.end(live.remove(request).expect("a live request"), called);
                let doubt = |stray: &Stray| if stray.is_doubtful { "?" } else { "" };
                lost.extend(found.iter().map(|stray| format!("{request}:{}{}", stray.service, doubt(stray))));
            }
        }
        assert_eq!(lost.join(" "), expected, "{script}");
    }

    #[test]
    fn a_lane_is_lost_where_a_request_of_it_made_no_call_of_its_own() {
        check("1+ 1.", "");
        check("1+ x! 1.", "1:x");
        check("1+ 1.x", "");
        // It was somebody else's: its own call went there, too.
        check("1+ x! 1.x", "");
        // One of several callees, and each once.
        check("1+ x! 1.y", "1:x");
        check("1+ x! y! x! 1.", "1:x 1:y");
        // One stray is one request's.
        check("1+ 2+ x! 1. 2.", "1:x");
        check("1+ 2+ x! x! 1. 2.", "1:x 2:x");
        check("1+ 2+ x! 1.x 2.", "2:x");
        // What was before it is not its.
        check("1+ x! 2+ 2. 1.", "1:x");
        // While no request is in a lane nobody looks.
        check("x! 1+ 1.", "");
    }

    #[test]
    fn whom_an_app_calls_of_its_own_accord_is_doubtful() {
        check("x~ 1+ x! 1. @59 2+ x! 2. @60 3+ x! 3.", "1:x? 2:x? 3:x");
        check("x~ 1+ x! y! 1.", "1:x? 1:y");
        // A request of the baseline is under way: it may be its.
        check("x! 1+ x! 1.", "1:x");
    }

    #[test]
    fn whom_others_call_without_a_name_is_not_looked_at() {
        check("x- 1+ x! y! 1. @60 2+ x! 2.", "1:y 2:x");
    }

    #[test]
    fn strays_that_nobody_claims_are_forgotten() {
        let strays = Strays::default();
        let long = strays.begin();
        for number in 0..STRAYS_MAX + 1 {
            let (service, example) = ("x".into(), number.to_string().into());
            strays.add(Stray { callee: 1, service, why: Why::UnknownTrace, is_doubtful: false, example });
        }
        assert_eq!(strays.kept.lock().expect("nobody panics").len(), STRAYS_MAX);
        let lost = strays.end(long, 0);
        assert_eq!(lost.iter().map(|stray| &*stray.example).collect::<Vec<_>>(), ["1"]);
        assert!(callee(b"cart").is_power_of_two());
    }
}
