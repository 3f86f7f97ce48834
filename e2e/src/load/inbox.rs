//! Finds whole messages in what a connection received: head, then body, one message at a time. Judging heads is
//! `head`'s business, the answer is the caller's. Machine.

use super::body::Body;
use super::head::{Head, Judge};

/// A message that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) body_length: u64,
    pub(crate) close: bool,
    pub(crate) echo: bool,
}

/// The message that a connection is receiving.
#[derive(Default)]
pub(crate) struct Inbox {
    /// A head that came in pieces; empty, and so not copied, in the common case.
    held: Vec<u8>,
    open: Option<(Head, Body)>,
}

impl Inbox {
    /// Whether a message has begun and not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some() || !self.held.is_empty()
    }

    /// Takes received bytes; a message when one is whole. Neither end ever has two messages under way, so bytes after
    /// a whole one are a fault.
    pub(crate) fn take(&mut self, bytes: &[u8], judge: &mut Judge) -> Result<Option<Message>, String> {
        if self.held.is_empty() {
            return self.take_joined(bytes, judge);
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        self.take_joined(&joined, judge)
    }

    fn take_joined(&mut self, bytes: &[u8], judge: &mut Judge) -> Result<Option<Message>, String> {
        let mut rest = bytes;
        if self.open.is_none() {
            let Some(head) = judge.judge(bytes)? else {
                self.held.extend_from_slice(bytes);
                return Ok(None);
            };
            rest = &bytes[head.length..];
            self.open = Some((head, Body::new(head.framing)));
        }
        let Some((head, body)) = &mut self.open else { return Ok(None) };
        rest = &rest[body.take(rest)?..];
        if !body.is_complete() {
            return Ok(None);
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes after the end of a message", rest.len()));
        }
        let message = Message { body_length: body.received(), close: head.close, echo: head.echo };
        self.open = None;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::Side;
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx-proxy: lab\r\n\r\nabc";

    #[test]
    fn a_message_is_found_however_it_is_cut() {
        for step in 1..=ANSWER.len() {
            let (mut inbox, mut judge) = (Inbox::default(), Judge::new(Side::Client));
            for round in 0..2 {
                let found: Vec<Message> =
                    ANSWER.chunks(step).filter_map(|part| inbox.take(part, &mut judge).unwrap()).collect();
                let expected = Message { body_length: 3, close: false, echo: false };
                assert_eq!(found, [expected], "pieces of {step}, round {round}");
                assert!(!inbox.is_open());
            }
        }
    }

    #[test]
    fn bytes_after_a_message_are_a_fault() {
        let mut bytes = ANSWER.to_vec();
        bytes.push(b'x');
        let fault = Inbox::default().take(&bytes, &mut Judge::new(Side::Client));
        assert_eq!(fault, Err("1 bytes after the end of a message".into()));
    }
}
