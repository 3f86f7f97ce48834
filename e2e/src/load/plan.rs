//! What a run of the generator shall do and what it found: requests, connections, arrivals, bounds. Doing it is
//! `lab`'s business. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A request as it goes over the wire, and the length of the body that must come back with status 200.
#[derive(Clone)]
pub struct Request {
    pub(crate) bytes: Rc<[u8]>,
    pub(crate) answer_length: u64,
}

/// Length of the body that the backend answers to every GET.
pub(crate) const GET_ANSWER_LENGTH: u64 = 1024;

/// The GET of every published figure, for `host` and `path`, with `tenant` as its `X-Tenant`.
pub fn get(host: &str, path: &str, tenant: &str) -> Request {
    Request { bytes: head("GET", host, path, tenant, "").into_bytes().into(), answer_length: GET_ANSWER_LENGTH }
}

/// The same GET as a service calls another.
pub fn get_inside(host: &str, path: &str, tenant: &str) -> Request {
    let text = head("GET", host, path, tenant, "X-Forwarded-For: 10.0.0.7\r\n");
    Request { bytes: text.into_bytes().into(), answer_length: GET_ANSWER_LENGTH }
}

/// The same GET that asks for the end of its connection.
pub fn get_closing(host: &str, path: &str, tenant: &str) -> Request {
    let text = head("GET", host, path, tenant, "Connection: close\r\n");
    Request { bytes: text.into_bytes().into(), answer_length: GET_ANSWER_LENGTH }
}

/// The same as a POST of `length` bytes, which the backend answers with as many.
pub fn post(host: &str, path: &str, tenant: &str, length: usize) -> Request {
    let mut bytes = head("POST", host, path, tenant, &format!("Content-Length: {length}\r\n")).into_bytes();
    bytes.resize(bytes.len() + length, b'p');
    Request { bytes: bytes.into(), answer_length: length as u64 }
}

fn head(method: &str, host: &str, path: &str, tenant: &str, extra: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lg/0.1\r\nAccept: */*\r\n\
         Accept-Encoding: gzip, deflate\r\nX-Internal: drop-me\r\nX-Tenant: {tenant}\r\n\
         Cookie: sid=0123456789abcdef\r\n{extra}\r\n"
    )
}

/// When requests are due.
#[derive(Clone, Copy, PartialEq)]
pub enum Arrival {
    /// Closed loop: whenever fewer than this many are under way.
    Saturated {
        /// Requests under way at any time.
        in_flight: usize,
    },
    /// Open loop: at random times, whatever the proxy does.
    Poisson {
        /// Mean rate.
        per_second: f64,
    },
}

/// How requests share connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// This many, used in turn for as long as the run lasts.
    Kept(usize),
    /// A new one for each request, from several loopback addresses; the proxy must close it.
    PerRequest,
}

/// How long a run lasts.
#[derive(Clone, Copy)]
pub enum Span {
    /// Warm up, then measure, for a time each.
    Time {
        /// Before the first mark.
        warm: Duration,
        /// Between the marks.
        measured: Duration,
    },
    /// Exactly this many requests, all of them measured.
    Count(u64),
}

/// One run.
pub struct Plan {
    /// Where the proxy listens.
    pub target: SocketAddr,
    /// Used uniformly, in random order.
    pub requests: Vec<Request>,
    /// When requests are due.
    pub arrival: Arrival,
    /// How they share connections.
    pub connections: Connections,
    /// How long the run lasts when all goes well.
    pub span: Span,
    /// The bound on the whole run, after which it is void.
    pub time_max: Duration,
    /// Leave the connections open and idle at the end, until `Lab::hang_up`.
    pub keep_open: bool,
}

/// A moment of a run at which the caller may read clocks and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Measuring starts.
    Start,
    /// Measuring ends.
    End,
}

/// What a run found between its marks.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests answered.
    pub answered: u64,
    /// Time between the marks.
    pub elapsed: Duration,
    /// From the time a request was due to its whole answer; open loop only.
    pub latency: Option<Latency>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Half of all requests took no longer.
    pub p50_us: f64,
    /// 99 % took no longer.
    pub p99_us: f64,
    /// 99.9 % took no longer.
    pub p999_us: f64,
}

/// Why a run counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Void(pub String);

impl fmt::Display for Void {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VOID: {}", self.0)
    }
}

impl std::error::Error for Void {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_the_published_one() {
        let request = get("svc-a.mesh.local", "/api/v1/items/42?q=abc", "t-17");
        let expected = "GET /api/v1/items/42?q=abc HTTP/1.1\r\nHost: svc-a.mesh.local\r\nUser-Agent: lg/0.1\r\n\
            Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nX-Internal: drop-me\r\nX-Tenant: t-17\r\n\
            Cookie: sid=0123456789abcdef\r\n\r\n";
        assert_eq!(std::str::from_utf8(&request.bytes).unwrap(), expected);
    }

    #[test]
    fn a_post_is_the_same_with_a_length_and_a_body() {
        let request = post("h", "/", "t", 5);
        assert!(request.bytes.ends_with(b"Cookie: sid=0123456789abcdef\r\nContent-Length: 5\r\n\r\nppppp"));
        assert_eq!(request.answer_length, 5);
    }
}
