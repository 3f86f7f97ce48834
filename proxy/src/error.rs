//! What can go wrong on a request's way, as data: whose fault, what kind, how much had been sent. One table
//! turns each kind into the status, the body and the flag that people see. Pure, Cold.

use crate::h1::Refusal;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's.
    Upstream,
    /// The configuration's, or ours.
    Here,
}

/// How much of this request the endpoint can have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// No byte: it may be sent again, whatever it is.
    Nothing,
    /// Perhaps some of it, and no byte of an answer came.
    Sent,
    /// A part of the answer came.
    Answered,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The peer's bytes break the protocol.
    Refused(Refusal),
    /// More interim answers than any service has a reason for.
    InterimFlood,
    /// No head, or not all of it, in time.
    HeadTimeout,
    /// The body stopped coming or being taken.
    BodyStalled,
    /// The body is larger than the listener allows.
    BodyTooLarge,
    /// The peer closed or reset the connection in the middle.
    Gone,
    /// A WebSocket or other upgrade, which this build does not do.
    Upgrade,
    /// No rule for this host and path.
    NoRoute,
    /// The rule names a backend that does not exist.
    NoCluster,
    /// The backend has no endpoint.
    NoEndpoint,
    /// Control has not told the backend's endpoints.
    Awaited,
    /// Control has not said whether there is a Service of that name.
    Unheard,
    /// No Service has that name.
    NoService,
    /// It was meant for an instance of another Service, which was here before.
    Misdirected,
    /// The request's lane has no endpoint that is ready, and may not be left.
    NoLane,
    /// No connection to the endpoint.
    Connect,
    /// The endpoint was removed while the connection to it was under way; it is not used.
    Vanished,
    /// No connection to the endpoint in time.
    ConnectTimeout,
    /// No answer in time.
    AnswerTimeout,
    /// The whole exchange took longer than the rule allows.
    RequestTimeout,
    /// An answer whose status is followed by another attempt.
    Status,
    /// As many requests to the cluster, or waiting for a connection to it, as its policy allows.
    Overflow,
    /// No connection became free in time.
    PendingTimeout,
    /// The instance goes, and it was still under way when there was no more time.
    Cut,
    /// No descriptor, no memory: the process is at a bound.
    Exhausted,
}

impl Kind {
    /// Whether there was nobody to serve the request, so that other rules may still know somebody.
    pub(crate) fn finds_nobody(self) -> bool {
        matches!(self, Kind::NoEndpoint | Kind::NoLane | Kind::Vanished | Kind::Awaited | Kind::Unheard)
    }
}

/// One failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyError {
    /// Whose fault it is.
    pub side: Side,
    /// What happened.
    pub kind: Kind,
    /// How much had been sent.
    pub reached: Reached,
}

impl ProxyError {
    /// The client's fault, before anything was sent on.
    pub fn downstream(kind: Kind) -> ProxyError {
        ProxyError { side: Side::Downstream, kind, reached: Reached::Nothing }
    }

    /// The endpoint's fault.
    pub fn upstream(kind: Kind, reached: Reached) -> ProxyError {
        ProxyError { side: Side::Upstream, kind, reached }
    }

    /// Nobody's fault outside.
    pub fn here(kind: Kind) -> ProxyError {
        ProxyError { side: Side::Here, kind, reached: Reached::Nothing }
    }

    /// Whether the peer had closed a pooled connection while the request was on its way to it.
    pub fn is_stale(&self, reused: bool) -> bool {
        reused && self.side == Side::Upstream && self.kind == Kind::Gone && self.reached != Reached::Answered
    }

    /// The word for what was wrong with a message, for the log.
    pub fn detail(&self) -> &'static str {
        match self.kind {
            Kind::Refused(refusal) => refusal.reason(),
            _ => "",
        }
    }

    /// What the client and the log are told.
    pub fn reply(&self) -> Reply {
        use Kind::*;
        let (status, body, flag) = match (self.side, self.kind) {
            (Side::Upstream, Refused(_)) => (502, "the service sent an invalid answer\n", "UPE"),
            (_, InterimFlood) => (502, "the service sent an invalid answer\n", "UPE"),
            (_, Refused(refusal)) => (refusal.status(), refused_body(refusal.status()), "DPE"),
            (Side::Upstream, Gone) => (502, "the service closed the connection\n", "UC"),
            (_, Gone) => (499, "", "DC"),
            (_, HeadTimeout) => (408, "the request did not arrive in time\n", "RT"),
            (Side::Upstream, BodyStalled) => (504, "the service stopped in mid-answer\n", "UT"),
            (_, BodyStalled) => (408, "the request body did not arrive in time\n", "SI"),
            (_, BodyTooLarge) => (413, "the request body is too large\n", "BL"),
            (_, Upgrade) => (501, "upgrades are not supported here\n", "UU"),
            (_, NoRoute) => (404, "no route for this host and path\n", "NR"),
            (_, NoCluster) => (500, "the route has no valid backend\n", "NC"),
            (_, NoEndpoint) => (503, "no endpoint is available\n", "UH"),
            (_, Awaited) => (503, "the endpoints of the service are not known yet\n", "CP"),
            (_, Unheard) => (503, "the service is not known yet\n", "CP"),
            (_, NoService) => (404, "no service has this name, or it has not this port\n", "NS"),
            (Side::Upstream, Misdirected) => (503, "no endpoint is available\n", "UH"),
            (_, Misdirected) => (421, "another service is here\n", "MD"),
            (_, NoLane) => (503, "the lane has no endpoint\n", "NL"),
            (_, Vanished) => (503, "no endpoint is available\n", "UH"),
            (_, Connect) => (503, "the service cannot be reached\n", "UF"),
            (_, ConnectTimeout) => (503, "the service cannot be reached in time\n", "UF"),
            (_, AnswerTimeout) => (504, "the service did not answer in time\n", "UT"),
            (_, RequestTimeout) => (504, "the request took too long\n", "UT"),
            // Another attempt follows; this is what is said if there is no endpoint for it.
            (_, Status) => (503, "no endpoint is available\n", "UH"),
            (_, Overflow | PendingTimeout) => (503, "the service is too busy\n", "UO"),
            (_, Cut) => (503, "the instance has gone\n", "LR"),
            (_, Exhausted) => (503, "too busy\n", "UO"),
        };
        Reply { status, body, flag }
    }
}

/// An answer of our own to a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The status; 499 is never sent, it stands in the log for a client that went away.
    pub status: u16,
    /// Plain text that names no internals.
    pub body: &'static str,
    /// The reason in log and metrics, in Envoy's letters where Envoy has them.
    pub flag: &'static str,
}

fn refused_body(status: u16) -> &'static str {
    match status {
        400 => "the request is malformed\n",
        414 => "the request target is too long\n",
        421 => "https is not served over plain connections\n",
        417 => "this expectation cannot be met\n",
        431 => "the request head is too large\n",
        501 => "this method or coding is not supported\n",
        505 => "this version of HTTP is not supported\n",
        _ => "the request cannot be served\n",
    }
}

/// The reason phrase of the statuses that we send ourselves.
pub(crate) fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_status_and_flag() {
        let check = |error: ProxyError, status: u16, flag: &str| {
            let reply = error.reply();
            assert_eq!((reply.status, reply.flag), (status, flag), "{error:?}");
            assert!(status == 499 || !reason_phrase(status).is_empty(), "{status} has no reason phrase");
        };
        check(ProxyError::here(Kind::NoRoute), 404, "NR");
        check(ProxyError::here(Kind::NoCluster), 500, "NC");
        check(ProxyError::here(Kind::NoEndpoint), 503, "UH");
        check(ProxyError::here(Kind::NoLane), 503, "NL");
        check(ProxyError::here(Kind::Unheard), 503, "CP");
        check(ProxyError::here(Kind::NoService), 404, "NS");
        check(ProxyError::here(Kind::Misdirected), 421, "MD");
        check(ProxyError::upstream(Kind::Misdirected, Reached::Answered), 503, "UH");
        check(ProxyError::here(Kind::Cut), 503, "LR");
        check(ProxyError::here(Kind::Exhausted), 503, "UO");
        check(ProxyError::here(Kind::Overflow), 503, "UO");
        check(ProxyError::here(Kind::PendingTimeout), 503, "UO");
        check(ProxyError::here(Kind::RequestTimeout), 504, "UT");
        check(ProxyError::downstream(Kind::Gone), 499, "DC");
        check(ProxyError::downstream(Kind::HeadTimeout), 408, "RT");
        check(ProxyError::downstream(Kind::BodyStalled), 408, "SI");
        check(ProxyError::downstream(Kind::BodyTooLarge), 413, "BL");
        check(ProxyError::downstream(Kind::Upgrade), 501, "UU");
        check(ProxyError::upstream(Kind::Connect, Reached::Nothing), 503, "UF");
        check(ProxyError::upstream(Kind::ConnectTimeout, Reached::Nothing), 503, "UF");
        check(ProxyError::upstream(Kind::Gone, Reached::Sent), 502, "UC");
        check(ProxyError::upstream(Kind::AnswerTimeout, Reached::Sent), 504, "UT");
        check(ProxyError::upstream(Kind::BodyStalled, Reached::Answered), 504, "UT");
    }
}
