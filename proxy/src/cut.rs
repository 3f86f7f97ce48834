//! What is told of requests that were still under way on an instance when it had no more time: how many, and the first of them
//! by name. A name is for people who look for what they lost: no query, which may hold secrets, and nothing that a terminal
//! would take for its own. Pure, Cold.

use std::net::SocketAddr;
use std::time::Duration;

use filters::Head;

use crate::hop::{self, Sent};

/// Requests that are named; all are counted.
const NAMED_MAX: usize = 16;
/// Of each part of a name.
const METHOD_BYTES_MAX: usize = 20;
const HOST_BYTES_MAX: usize = 100;
const PATH_BYTES_MAX: usize = 200;
/// Of who sent it, `NAMESPACE/NAME`.
pub(crate) const NAME_BYTES_MAX: usize = 400;

/// Those that one worker has cut, or all of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CutRequests {
    /// All of them.
    pub(crate) count: u64,
    /// The first.
    pub(crate) names: Vec<String>,
}

impl CutRequests {
    /// One more.
    pub(crate) fn note(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.names.len() < NAMED_MAX {
            self.names.push(name());
        }
    }

    /// Those of another worker.
    pub(crate) fn join(&mut self, other: CutRequests) {
        self.count += other.count;
        let room = NAMED_MAX.saturating_sub(self.names.len());
        self.names.extend(other.names.into_iter().take(room));
    }
}

/// The name of a request, with its head as it came, if that is still known.
pub(crate) fn told(head: Option<&Head>, peer: SocketAddr, took: Duration, answer_bytes: u64) -> String {
    let (what, from) = match head {
        None => ("a request".to_owned(), peer.to_string()),
        Some(head) => {
            let from = match hop::sent(head) {
                Sent::By(sender, _) => shown(head.bytes(sender), HOST_BYTES_MAX),
                Sent::Outside => peer.to_string(),
            };
            (asked(head), from)
        }
    };
    let sent = match answer_bytes {
        0 => "nothing of an answer sent".to_owned(),
        bytes => format!("{bytes} bytes of the answer sent"),
    };
    format!("{what} from {from}, under way for {:.1} s, {sent}", took.as_secs_f64())
}

/// What a request asks for: method, host and path.
pub(crate) fn asked(head: &Head) -> String {
    let part = |span, bytes_max| shown(head.bytes(span), bytes_max);
    let (method, host) = (part(head.method, METHOD_BYTES_MAX), part(head.authority, HOST_BYTES_MAX));
    format!("{method} {host}{}", part(head.path, PATH_BYTES_MAX))
}

/// Bytes as people may read them, whatever they are.
pub(crate) fn shown(bytes: &[u8], bytes_max: usize) -> String {
    let cut = &bytes[..bytes.len().min(bytes_max)];
    let rest = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{rest}", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{self, HeadLimits};

    #[test]
    fn a_request_is_told_by_what_may_be_known_of_it() {
        let (peer, took) = ("10.0.0.7:4711".parse().expect("an address"), Duration::from_millis(27_040));
        let check = |text: &str, answer_bytes: u64, expected: &str| {
            let mut head = Head::default();
            let limits = HeadLimits { bytes_max: usize::MAX, fields_max: usize::MAX };
            h1::parse_request(text.as_bytes(), &mut 0, limits, &mut head).expect("a head").expect("all of it");
            h1::check_request(&mut head, config::snapshot::EncodedSlash::Keep).expect("a request");
            assert_eq!(told(Some(&head), peer, took, answer_bytes), expected, "{text:?}");
        };
        check(
            "GET /big?token=secret HTTP/1.1\r\nHost: web\r\nX-Evenkeel-Hop: default/g default/web\r\n\r\n",
            1_048_576,
            "GET web/big from default/g, under way for 27.0 s, 1048576 bytes of the answer sent",
        );
        check(
            "POST http://web.shop:80/a?b HTTP/1.1\r\nHost: web\r\n\r\n",
            0,
            "POST web.shop:80/a from 10.0.0.7:4711, under way for 27.0 s, nothing of an answer sent",
        );
        let long = "x".repeat(300);
        check(
            &format!("GET /{long} HTTP/1.1\r\nHost: web\r\nX-Evenkeel-Hop: \u{9b}2J web\r\n\r\n"),
            1,
            &format!("GET web/{}... from \\xc2\\x9b2J, under way for 27.0 s, 1 bytes of the answer sent", &long[..199]),
        );
        assert_eq!(
            told(None, peer, took, 0),
            "a request from 10.0.0.7:4711, under way for 27.0 s, nothing of an answer sent"
        );
    }

    #[test]
    fn all_are_counted_and_the_first_are_named() {
        let mut all = CutRequests::default();
        for worker in 0..3 {
            let mut cut = CutRequests::default();
            (0..10).for_each(|number| cut.note(|| format!("{worker}-{number}")));
            all.join(cut);
        }
        assert_eq!((all.count, all.names.len()), (30, NAMED_MAX));
        assert_eq!((all.names[0].as_str(), all.names[15].as_str()), ("0-0", "1-5"));
    }
}
