//! ListenerPolicy in shadow: which connections, heads and bodies it would have refused, and where it would have lost
//! patience. A wait is judged when it is over, however it ended. Pure but for the counts.

use std::sync::Arc;
use std::time::Duration;

use config::snapshot::shadow::ListenerShadow;
use serde_json::{Value, json};

use crate::h1::{Framing, HeadLimits, Refusal};
use crate::record::Record;
use crate::shadow::{Tally, Would};

/// A ListenerPolicy in shadow at one address.
pub(crate) struct ListenerTrial {
    settings: Arc<ListenerShadow>,
    tally: Arc<Tally>,
}

/// What a connection waits for between requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For a head, or all of it; the first head's time begins with the connection.
    Head,
    /// For the first byte of a request after another.
    Idle,
}

/// A request's head, as far as bounds look at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'h> {
    /// With the start line.
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
    /// As it was sent.
    pub(crate) target: &'h [u8],
}

impl<'h> Head<'h> {
    /// A head that is there, or is larger than the bounds in force; None: it is not all there, or is none.
    pub(crate) fn of(
        parsed: &Result<Option<usize>, Refusal>,
        limits: HeadLimits,
        head: &'h filters::Head,
    ) -> Option<Head<'h>> {
        let (target, fields) = (head.bytes(head.path), head.fields().len());
        let (bytes, fields) = match parsed {
            Ok(bytes) => ((*bytes)?, fields),
            Err(Refusal::HeadTooLarge | Refusal::TargetTooLong) => (limits.bytes_max + 1, fields),
            Err(Refusal::TooManyFields) => (head.text().len(), limits.fields_max + 1),
            Err(_) => return None,
        };
        Some(Head { bytes, fields, target })
    }
}

impl ListenerTrial {
    pub(crate) fn new(settings: &Arc<ListenerShadow>, tally: Arc<Tally>) -> ListenerTrial {
        ListenerTrial { settings: settings.clone(), tally }
    }

    /// Whether a connection would have been closed at once: beside `open` others, of which so many would have been, too.
    pub(crate) fn refuses(&self, open: u32, refused: u32) -> bool {
        let is_refused = would_refuse(self.settings.connections_max, open, refused);
        if is_refused {
            self.tally.count(Would::Refuse);
        }
        is_refused
    }

    /// A wait is over. What would have come of it is the next request's to tell, if there is one.
    pub(crate) fn waited(&self, wait: Wait, took: Duration) -> Option<Would> {
        let would = given_up(&self.settings, wait, took);
        would.into_iter().for_each(|would| self.tally.count(would));
        would
    }

    /// A head is there, or was refused.
    pub(crate) fn head_came(&self, head: &Head<'_>) -> Option<Would> {
        let would = of_head(&self.settings, head);
        would.into_iter().for_each(|would| self.tally.count(would));
        would
    }

    /// What would have come of a head is said of its request.
    pub(crate) fn note(&self, record: &mut Record, would: Would) {
        record.would(self.settings.name.clone(), would.word());
    }

    /// A request is over.
    pub(crate) fn ended(&self, record: &mut Record, framing: Framing) {
        if self.settings.body_progress_timeout.is_some_and(|limit| record.body_pause_max() >= limit) {
            self.tally.count_for(record, Would::BodyProgressTimeout);
        }
        if is_too_large(&self.settings, framing, record.request_body_bytes) {
            self.tally.count_for(record, Would::BodyTooLarge);
        }
    }

    /// What a request with this head and body would meet. Nothing is counted.
    pub(crate) fn peek(&self, head: Option<&Head<'_>>, framing: Framing) -> Value {
        let is_large = is_too_large(&self.settings, framing, 0);
        let status = match head.and_then(|head| of_head(&self.settings, head)) {
            Some(Would::EncodedSlash) => Some(400),
            Some(_) => Some(431),
            None => is_large.then_some(413),
        };
        let verdict = if status.is_some() { "refuse" } else { "watch" };
        let mut told = json!({"policy": self.settings.name.to_string(), "mode": "shadow", "verdict": verdict});
        if let Some(status) = status {
            told["status"] = json!(status);
        }
        told
    }
}

/// Those that would have been refused are open all the same, and take nobody's place.
fn would_refuse(max: Option<u32>, open: u32, refused: u32) -> bool {
    max.is_some_and(|max| open.saturating_sub(refused) >= max)
}

fn given_up(settings: &ListenerShadow, wait: Wait, took: Duration) -> Option<Would> {
    let (limit, would) = match wait {
        Wait::Head => (settings.head_timeout, Would::HeadTimeout),
        Wait::Idle => (settings.idle_timeout, Would::IdleTimeout),
    };
    limit.filter(|limit| took >= *limit).map(|_| would)
}

/// As it is read: its size first, then what its path says.
fn of_head(settings: &ListenerShadow, head: &Head<'_>) -> Option<Would> {
    let is_large = settings.head_bytes_max.is_some_and(|max| head.bytes > max as usize)
        || settings.header_count_max.is_some_and(|max| head.fields > usize::from(max));
    match () {
        () if is_large => Some(Would::HeadTooLarge),
        () if settings.rejects_encoded_slash && has_encoded_slash(head.target) => Some(Would::EncodedSlash),
        () => None,
    }
}

/// By what was announced, and else by what came.
fn is_too_large(settings: &ListenerShadow, framing: Framing, came: u64) -> bool {
    let announced = if let Framing::Length(length) = framing { length } else { 0 };
    settings.request_body_bytes_max.is_some_and(|max| announced.max(came) > max)
}

/// Whether the path of a target has `%2F` or `%5C`, which `%252F` is not.
fn has_encoded_slash(target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = &rest[at + 1..];
        if let [b'2', b'f' | b'F', ..] | [b'5', b'c' | b'C', ..] = rest {
            return true;
        }
        rest = rest.get(2..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ListenerShadow {
        ListenerShadow {
            name: "ListenerPolicy default/x".into(),
            connections_max: Some(2),
            head_timeout: Some(Duration::from_secs(1)),
            idle_timeout: Some(Duration::from_secs(5)),
            body_progress_timeout: None,
            request_body_bytes_max: Some(10),
            head_bytes_max: Some(100),
            header_count_max: Some(3),
            rejects_encoded_slash: true,
        }
    }

    #[test]
    fn connections_that_would_be_refused_take_no_place() {
        let mut refused = 0;
        // Open before it; each stays.
        let judged: Vec<bool> = (0..5)
            .map(|open| {
                let is_refused = would_refuse(Some(2), open, refused);
                refused += u32::from(is_refused);
                is_refused
            })
            .collect();
        assert_eq!(judged, [false, false, true, true, true]);
        // One of the first two has gone: there is a place again, though four are open.
        assert!(!would_refuse(Some(2), 4, 3) && would_refuse(Some(2), 5, 3));
        assert!(!would_refuse(None, 1_000_000, 0));
    }

    #[test]
    fn waits_are_judged_by_what_they_wait_for() {
        let (s, none) = (Duration::from_secs, ListenerShadow { head_timeout: None, idle_timeout: None, ..settings() });
        for (wait, took, expected) in [
            (Wait::Head, s(0), None),
            (Wait::Head, s(1), Some(Would::HeadTimeout)),
            (Wait::Idle, s(4), None),
            (Wait::Idle, s(6), Some(Would::IdleTimeout)),
        ] {
            assert_eq!(given_up(&settings(), wait, took), expected, "{wait:?} {took:?}");
            assert_eq!(given_up(&none, wait, took), None, "what is not written is not tried");
        }
    }

    #[test]
    fn heads_and_bodies_are_judged_by_their_size() {
        for (bytes, fields, target, expected) in [
            (100, 3, &b"/a"[..], None),
            (101, 3, b"/a", Some(Would::HeadTooLarge)),
            (10, 4, b"/a%2fb", Some(Would::HeadTooLarge)),
            (10, 1, b"/a%2fb", Some(Would::EncodedSlash)),
            (10, 1, b"/a%5Cb?x", Some(Would::EncodedSlash)),
            (10, 1, b"http://a/b%2Fc", Some(Would::EncodedSlash)),
            (10, 1, b"/a?b=%2F", None),
            (10, 1, b"/a%252Fb", None),
            (10, 1, b"/a%2", None),
            (10, 1, b"/%20%2e%", None),
        ] {
            let head = Head { bytes, fields, target };
            assert_eq!(of_head(&settings(), &head), expected, "{head:?}");
        }
        for (framing, came, expected) in [
            (Framing::None, 0, false),
            (Framing::Length(10), 10, false),
            (Framing::Length(11), 0, true),
            (Framing::Chunked, 10, false),
            (Framing::Chunked, 11, true),
        ] {
            assert_eq!(is_too_large(&settings(), framing, came), expected, "{framing:?} {came}");
        }
    }
}
