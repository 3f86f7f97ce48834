//! Whether a request is tried again after an attempt that failed. A request that an endpoint may have seen is repeated
//! only if its method allows that (RFC 9110 9.2.2) and the policy asks for it; one that no endpoint can have seen harms
//! nobody. Pure, Hot.
//!
//! What the kernel tells of acknowledged bytes (`tcpi_bytes_acked`) proves nothing here: an endpoint that takes a request,
//! acts on it and dies at once resets the connection before its delayed acknowledgement, and the reset's own number is
//! not counted. So of a request of which one byte was written, nothing is presumed.

use std::time::Duration;

use config::snapshot::Retries;

use crate::balance::below;
use crate::error::{Kind, ProxyError, Reached, Side};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The failure is the answer.
    GiveUp,
    /// Another attempt that is nobody's fault: what was chosen went away meanwhile, or closed an idle connection.
    Anew(Again),
    /// A retry: counted, and paid from the budget.
    Retry(Again),
}

/// How the next attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Again {
    /// On a new connection.
    pub(crate) fresh: bool,
    /// From the request's first byte, some of which were sent.
    pub(crate) rewind: bool,
}

/// A request, as far as repeating it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) is_idempotent: bool,
    /// All that was sent of it is still at hand.
    pub(crate) can_rewind: bool,
    /// The failed attempt used a pooled connection.
    pub(crate) reused: bool,
    /// It was repeated once already because a pooled connection ended.
    pub(crate) was_stale: bool,
    /// Something of an answer has gone to the client.
    pub(crate) is_answered: bool,
}

/// What becomes of a request after an error.
pub(crate) fn after(error: ProxyError, request: Request, policy: &Retries) -> Next {
    if request.is_answered {
        return Next::GiveUp;
    }
    let repeatable = request.is_idempotent && request.can_rewind;
    let rewound = Again { fresh: false, rewind: true };
    match (error.kind, error.reached) {
        (Kind::Vanished, _) => Next::Anew(Again::default()),
        // Whoever is there now says that nothing was done with it.
        (Kind::Misdirected, _) if request.can_rewind => Next::Anew(Again { fresh: false, rewind: true }),
        // The peer had closed an idle connection, as it may whenever it likes (RFC 9112 9.3.1).
        (_, Reached::Nothing) if error.is_stale(request.reused) => Next::Anew(Again { fresh: true, rewind: false }),
        // It may also have ended because of this very request: once is enough, and `attempts: 0` is none at all.
        (_, Reached::Sent)
            if error.is_stale(request.reused) && repeatable && !request.was_stale && policy.attempts > 0 =>
        {
            Next::Anew(Again { fresh: true, rewind: true })
        }
        _ if error.side != Side::Upstream => Next::GiveUp,
        (Kind::Connect | Kind::ConnectTimeout | Kind::Gone, Reached::Nothing) if policy.connect_failure => {
            Next::Retry(Again::default())
        }
        // The proxy before the endpoint had no connection, and says so.
        (Kind::Connect, Reached::Answered) if policy.connect_failure && request.can_rewind => Next::Retry(rewound),
        (Kind::Gone, _) if policy.reset && repeatable => Next::Retry(rewound),
        (Kind::AnswerTimeout, Reached::Sent) if policy.timeout && repeatable => Next::Retry(rewound),
        (Kind::Status, _) if repeatable => Next::Retry(rewound),
        _ => Next::GiveUp,
    }
}

/// Whether an answer with this status is one that the policy repeats: the first question, since most are not.
#[inline]
pub(crate) fn is_asked_for(status: u16, policy: &Retries) -> bool {
    policy.codes.contains(&status)
}

/// Whether an answer with this status may be followed by another attempt. `Retry-After` is the service's own word on when
/// to come back: where it says later than now, it is the client's to know.
pub(crate) fn on_status(status: u16, retry_after: Option<&[u8]>, request: Request, policy: &Retries) -> bool {
    let comes_later = retry_after.is_some_and(|value| value != b"0");
    is_asked_for(status, policy) && request.is_idempotent && request.can_rewind && !comes_later
}

/// How long to wait before the next attempt where every endpoint was tried: up to 25 ms, then twice as much each time,
/// with full jitter, so that callers do not come back together.
pub(crate) fn pause(retries: u32, dice: u64) -> Duration {
    let longest = Duration::from_millis(25) * (1 << retries.min(4));
    Duration::from_nanos(below(longest.as_nanos() as u64, dice))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Retries = Retries {
        attempts: 2,
        connect_failure: true,
        reset: true,
        timeout: true,
        codes: Vec::new(),
        budget_ratio: 0.2,
        budget_per_second: 10,
    };

    #[test]
    fn only_what_harms_nobody_is_repeated() {
        let (get, post) = (true, false);
        let up = ProxyError::upstream;
        let default = Retries::default();
        let anew = |fresh, rewind| Next::Anew(Again { fresh, rewind });
        let retry = |rewind| Next::Retry(Again { fresh: false, rewind });
        for (error, is_idempotent, reused, policy, expected) in [
            (up(Kind::Connect, Reached::Nothing), post, false, &default, retry(false)),
            (up(Kind::ConnectTimeout, Reached::Nothing), get, false, &default, retry(false)),
            (up(Kind::Connect, Reached::Answered), post, false, &default, retry(true)),
            (up(Kind::Gone, Reached::Nothing), post, false, &default, retry(false)),
            (up(Kind::Gone, Reached::Nothing), post, true, &default, anew(true, false)),
            (up(Kind::Gone, Reached::Sent), get, true, &default, anew(true, true)),
            (up(Kind::Gone, Reached::Sent), post, true, &ALL, Next::GiveUp),
            (up(Kind::Gone, Reached::Sent), get, false, &default, Next::GiveUp),
            (up(Kind::Gone, Reached::Sent), get, false, &ALL, retry(true)),
            (up(Kind::Gone, Reached::Sent), post, false, &ALL, Next::GiveUp),
            (up(Kind::Gone, Reached::Answered), get, false, &ALL, retry(true)),
            (up(Kind::Gone, Reached::Answered), post, false, &ALL, Next::GiveUp),
            (up(Kind::AnswerTimeout, Reached::Sent), get, false, &ALL, retry(true)),
            (up(Kind::AnswerTimeout, Reached::Sent), post, false, &ALL, Next::GiveUp),
            (up(Kind::AnswerTimeout, Reached::Sent), get, false, &default, Next::GiveUp),
            (up(Kind::RequestTimeout, Reached::Sent), get, false, &ALL, Next::GiveUp),
            (up(Kind::Status, Reached::Answered), get, false, &ALL, retry(true)),
            (up(Kind::InterimFlood, Reached::Answered), get, false, &ALL, Next::GiveUp),
            (ProxyError::here(Kind::Vanished), post, false, &default, anew(false, false)),
            (ProxyError::here(Kind::Exhausted), get, false, &ALL, Next::GiveUp),
            (ProxyError::here(Kind::NoEndpoint), get, false, &ALL, Next::GiveUp),
            (ProxyError::downstream(Kind::Gone), get, false, &ALL, Next::GiveUp),
        ] {
            let request = Request { is_idempotent, can_rewind: true, reused, was_stale: false, is_answered: false };
            assert_eq!(after(error, request, policy), expected, "{error:?} {request:?}");
            assert_eq!(after(error, Request { is_answered: true, ..request }, policy), Next::GiveUp);
            let sent = Request { can_rewind: false, ..request };
            let rewinds = matches!(after(error, sent, policy), Next::Anew(again) | Next::Retry(again) if again.rewind);
            assert!(!rewinds, "{error:?}: what is not at hand cannot be sent again");
        }
    }

    #[test]
    fn a_pooled_connection_that_ends_is_made_up_for_once() {
        let gone = ProxyError::upstream(Kind::Gone, Reached::Sent);
        let get = Request { is_idempotent: true, can_rewind: true, reused: true, was_stale: false, is_answered: false };
        let none = Retries { attempts: 0, ..Retries::default() };
        let anew = Next::Anew(Again { fresh: true, rewind: true });
        for (request, policy, expected) in [
            (get, &Retries::default(), anew),
            (Request { was_stale: true, ..get }, &Retries::default(), Next::GiveUp),
            (get, &none, Next::GiveUp),
        ] {
            assert_eq!(after(gone, request, policy), expected, "{request:?} {policy:?}");
        }
    }

    #[test]
    fn statuses_are_retried_unless_the_service_says_later() {
        let policy = Retries { codes: vec![503], ..ALL };
        let get =
            Request { is_idempotent: true, can_rewind: true, reused: false, was_stale: false, is_answered: false };
        for (status, retry_after, request, expected) in [
            (503, None, get, true),
            (503, Some(&b"0"[..]), get, true),
            (503, Some(b"1"), get, false),
            (503, Some(b"Fri, 31 Dec 2027 23:59:59 GMT"), get, false),
            (500, None, get, false),
            (503, None, Request { is_idempotent: false, ..get }, false),
            (503, None, Request { can_rewind: false, ..get }, false),
        ] {
            assert_eq!(on_status(status, retry_after, request, &policy), expected, "{status} {retry_after:?}");
        }
    }
}
