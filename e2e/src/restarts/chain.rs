//! What goes through the chain: a request with its number, and what an answer must say of it. The number stands in the path,
//! since the services send on nothing of a head but `traceparent`; a POST has it in its body, too. Pure.

use std::fmt;
use std::time::Duration;

/// The services, in the order in which a request passes them.
pub(super) const SERVICES: [&str; 3] = ["front", "middle", "back"];
/// Body of a POST.
pub(super) const POST_BYTES: usize = 16 << 10;
/// What takes longer has failed.
pub(super) const TIME_MAX: Duration = Duration::from_secs(10);
/// A request that passes the chain and is not counted.
pub(super) const WARM_UP: &str = "/warm-up";
/// Of a failed answer's text, what is kept.
const EXCERPT_BYTES_MAX: usize = 200;

/// The bytes of a request. `traceparent`: of a trace of its own for each.
pub(super) fn request(number: u64, is_post: bool) -> Vec<u8> {
    let trace = format!("00-{number:032x}-{number:016x}-00");
    let (method, length) = if is_post { ("POST", POST_BYTES) } else { ("GET", 0) };
    let framing = if is_post { format!("Content-Length: {length}\r\n") } else { String::new() };
    let head = format!(
        "{method} /{number} HTTP/1.1\r\nHost: front\r\nx-request-id: restarts-{number}\r\ntraceparent: {trace}\r\n{framing}\r\n"
    );
    let mut bytes = head.into_bytes();
    if is_post {
        bytes.extend_from_slice(&body(number));
    }
    bytes
}

/// The body of a POST: its number, a space, and enough of something else.
pub(super) fn body(number: u64) -> Vec<u8> {
    let mut body = format!("{number} ").into_bytes();
    body.resize(POST_BYTES, b'p');
    body
}

/// The number in a path.
pub(super) fn number(path: &str) -> Option<u64> {
    path.strip_prefix('/')?.parse().ok()
}

/// Whether a body is whole, and that of the request with this number. None: one that has no number.
pub(super) fn is_own_body(number: Option<u64>, body: &[u8]) -> bool {
    let text = number.map_or(Vec::new(), |number| format!("{number} ").into_bytes());
    body.is_empty() || (body.len() == POST_BYTES && body.starts_with(&text))
}

/// How long an instance works on a request: evenly from nothing to twice the mean, by the number.
pub(super) fn work(number: u64, mean_ms: u64) -> Duration {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Duration::from_millis(mixed % (2 * mean_ms + 1))
}

/// What an instance says: its own name before what the next one said. The last one says the number.
pub(super) fn passed(name: &str, after: &str) -> String {
    format!("{name} {after}")
}

/// Why a request has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Not 200, and what stood in the body.
    Status(u16, String),
    /// Not from an instance of each service, or another request's.
    Path(String),
    /// No answer: where, and what came instead.
    Broken(&'static str, String),
    Late,
    /// The caller from outside knows nobody.
    Nobody,
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Status(status, text) => write!(formatter, "{status} {text:?}"),
            Why::Path(text) => write!(formatter, "an answer that is not of this request and three services: {text:?}"),
            Why::Broken(doing, what) => write!(formatter, "{doing}: {what}"),
            Why::Late => write!(formatter, "no answer within {TIME_MAX:?}"),
            Why::Nobody => formatter.write_str("no instance is ready"),
        }
    }
}

/// Whether an answer is the right one.
pub(super) fn judge(number: Option<u64>, status: u16, body: &[u8]) -> Result<(), Why> {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT_BYTES_MAX)]).into_owned();
    if status != 200 {
        return Err(Why::Status(status, text));
    }
    let mut words = text.split(' ');
    let is_of = |service: &str, word: &str| word.rsplit_once('-').is_some_and(|(stem, _)| stem == service);
    let is_whole = SERVICES.iter().all(|service| words.next().is_some_and(|word| is_of(service, word)))
        && words.next().map(|word| word.parse().ok()) == Some(number)
        && words.next().is_none();
    if is_whole { Ok(()) } else { Err(Why::Path(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_or_says_why_not() {
        let check = |status: u16, body: &str, expected: &str| {
            let found = judge(Some(7), status, body.as_bytes()).map_or_else(|why| why.to_string(), |()| "good".into());
            assert_eq!(found, expected, "{status} {body:?}");
        };
        let path = "an answer that is not of this request and three services: ";
        check(200, "front-1 middle-22 back-3 7", "good");
        check(503, "front-1 middle-22 back-3 7", "503 \"front-1 middle-22 back-3 7\"");
        check(502, "front-1: calling middle: connection reset", "502 \"front-1: calling middle: connection reset\"");
        for wrong in [
            "",
            "front-1 middle-1 7",
            "front-1 middle-1 back-1",
            "front-1 middle-1 back-1 8",
            "front-1 middle-1 back-1 x",
            "front-1 back-1 middle-1 7",
            "front-1 front-2 back-1 7",
            "front-1 middle-1 back-1 7 7",
        ] {
            check(200, wrong, &format!("{path}{wrong:?}"));
        }
        check(500, &"x".repeat(1_000), &format!("500 {:?}", "x".repeat(EXCERPT_BYTES_MAX)));
        let others = [
            (Why::Broken("reading an answer", "closed".into()), "reading an answer: closed"),
            (Why::Late, "no answer within 10s"),
            (Why::Nobody, "no instance is ready"),
        ];
        others.into_iter().for_each(|(why, expected)| assert_eq!(why.to_string(), expected));
    }

    #[test]
    fn a_request_has_its_number_in_path_and_body() {
        let get = String::from_utf8(request(7, false)).unwrap();
        let expected = "GET /7 HTTP/1.1\r\nHost: front\r\nx-request-id: restarts-7\r\n\
            traceparent: 00-00000000000000000000000000000007-0000000000000007-00\r\n\r\n";
        assert_eq!(get, expected);
        let post = request(7, true);
        assert!(post.starts_with(b"POST /7 HTTP/1.1\r\n") && post.ends_with(&body(7)));
        assert_eq!((number("/7"), number("/warm-up"), number("7")), (Some(7), None, None));
    }

    #[test]
    fn work_has_its_mean_and_both_ends() {
        let all: Vec<u64> = (0..10_000).map(|number| work(number, 5).as_millis() as u64).collect();
        assert_eq!((all.iter().min(), all.iter().max()), (Some(&0), Some(&10)));
        let sum: u64 = all.iter().sum();
        assert!((49_000..51_000).contains(&sum), "{sum}");
        assert!((0..100).all(|number| work(number, 0).is_zero()));
    }

    #[test]
    fn a_body_that_is_cut_or_of_another_is_not_its_own() {
        for (number, body, expected) in [
            (Some(7), body(7), true),
            (Some(7), Vec::new(), true),
            (Some(7), body(77), false),
            (Some(77), body(7), false),
            (Some(7), body(7)[1..].to_vec(), false),
            (None, Vec::new(), true),
        ] {
            assert_eq!(is_own_body(number, &body), expected, "{number:?} {:?}", body.get(..4));
        }
    }
}
