//! Messages of one call: five bytes before each say whether it is compressed, which none may be here, and how long it is
//! (gRPC over HTTP/2, Length-Prefixed-Message). Each direction has its bounds. Cold.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response, header};
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// Of one message of a proxy: names and versions of what it has.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Before each message.
const PREFIX_BYTES: usize = 5;
/// For a peer that takes nothing of what waits for it.
const TAKE_WITHIN: Duration = Duration::from_secs(30);

/// What the peer says.
pub(crate) struct Incoming {
    body: RecvStream,
    buffer: BytesMut,
}

impl Incoming {
    pub(super) fn new(body: RecvStream) -> Incoming {
        Incoming { body, buffer: BytesMut::new() }
    }

    /// The next message; None: it has said all.
    pub(crate) fn poll_next<M: Message + Default>(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<M>, Status>> {
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                if self.buffer.is_empty() {
                    // Most proxies say nothing most of the time.
                    self.buffer = BytesMut::new();
                }
                let unreadable = |error| Status::internal(format!("a message cannot be read: {error}"));
                return Poll::Ready(M::decode(message).map(Some).map_err(unreadable));
            }
            let Some(chunk) = ready!(self.body.poll_data(context)) else {
                let is_whole = self.buffer.is_empty();
                return Poll::Ready(is_whole.then_some(None).ok_or_else(|| Status::internal("a message has no end")));
            };
            let chunk = chunk.map_err(gone)?;
            // It is ours from here on: the peer may send as much again.
            self.body.flow_control().release_capacity(chunk.len()).map_err(gone)?;
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

/// The first message of what was read; None: it is not whole.
fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(&[is_compressed, ref length @ ..]) = buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    if is_compressed != 0 {
        return Err(Status::unimplemented("messages are not compressed here"));
    }
    let length = u32::from_be_bytes(*length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(Status::out_of_range(format!("a message of {length} bytes is too large: {MESSAGE_BYTES_MAX}")));
    }
    if buffer.len() < PREFIX_BYTES + length {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// A message with its prefix.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a message has at most some MiB"));
    message.encode(&mut bytes).expect("there is room");
    bytes.freeze()
}

/// What is said to the peer.
pub(crate) struct Outgoing {
    stream: SendStream<Bytes>,
    /// Of a message, what the peer has no room for so far.
    rest: Bytes,
    /// Runs while it makes none.
    stuck: Option<Pin<Box<Sleep>>>,
    has_said: bool,
}

impl Outgoing {
    /// Answers that it begins; or why it does not, and that was all.
    pub(super) fn begin<T>(respond: &mut SendResponse<Bytes>, begun: Result<T, Status>) -> Option<(Outgoing, T)> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        match begun {
            Ok(begun) => {
                // Whoever has gone does not need to know; this and below.
                let stream = respond.send_response(response, false).ok()?;
                Some((Outgoing { stream, rest: Bytes::new(), stuck: None, has_said: true }, begun))
            }
            Err(status) => {
                headers.extend(trailers(&status));
                let _ = respond.send_response(response, true);
                None
            }
        }
    }

    /// Says something, once the peer has taken all that was said before.
    pub(crate) fn say(&mut self, message: &impl Message) {
        self.rest = framed(message);
    }

    /// Ready: the peer has taken everything, or it has gone, or takes nothing.
    pub(crate) fn poll_taken(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        while !self.rest.is_empty() {
            self.stream.reserve_capacity(self.rest.len());
            let room = self.stream.capacity().min(self.rest.len());
            if room > 0 {
                self.stuck = None;
                self.has_said = true;
                self.stream.send_data(self.rest.split_to(room), false).map_err(gone)?;
                continue;
            }
            match self.stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(gone(error))),
                Poll::Ready(None) => return Poll::Ready(Err(Status::cancelled("it has gone"))),
                Poll::Pending => {
                    let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(TAKE_WITHIN)));
                    ready!(stuck.as_mut().poll(context));
                    return Poll::Ready(Err(Status::deadline_exceeded("nothing of what waits was taken")));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether anything was said since this was asked.
    pub(super) fn has_said(&mut self) -> bool {
        std::mem::take(&mut self.has_said)
    }

    /// Says how it ended. An error: the peer does not listen, and is not told.
    pub(super) fn end(&mut self, ended: Result<(), Status>) -> Result<(), Status> {
        self.has_said = true;
        let status = ended.err().unwrap_or_else(|| Status::ok(""));
        if !self.rest.is_empty() {
            self.stream.send_reset(Reason::CANCEL);
            return Err(status);
        }
        let _ = self.stream.send_trailers(trailers(&status));
        Ok(())
    }
}

/// How a call ended.
fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Only a message that cannot be written is an error, and any can be, once it is percent-encoded.
    let _ = status.add_header(&mut headers);
    headers
}

fn gone(error: h2::Error) -> Status {
    Status::cancelled(error.to_string())
}

#[cfg(test)]
mod tests {
    use config::wire::evenkeel::v1::ReportResponse;
    use tonic::Code;

    use super::*;

    #[test]
    fn messages_are_cut_out_of_what_comes() {
        let [first, second] = [1, 2].map(|next_after_ms| ReportResponse { next_after_ms });
        let whole = [framed(&first), framed(&second), framed(&ReportResponse::default())].concat();
        // However it is torn.
        for at in 0..whole.len() {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in [&whole[..at], &whole[at..]] {
                buffer.extend_from_slice(part);
                while let Some(message) = take(&mut buffer).expect("messages") {
                    found.push(ReportResponse::decode(message).expect("a message"));
                }
            }
            assert_eq!(found, [first, second, ReportResponse::default()], "torn at {at}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_may_not_be_said_is_refused_before_it_is_there() {
        for (prefix, expected) in [
            ([1, 0, 0, 0, 1], Code::Unimplemented),
            ([0, 0, 0x40, 0, 1], Code::OutOfRange),
            ([0, 0xff, 0xff, 0xff, 0xff], Code::OutOfRange),
        ] {
            let refused = take(&mut BytesMut::from(&prefix[..])).map_err(|status| status.code());
            assert_eq!(refused, Err(expected), "{prefix:?}");
        }
        assert_eq!(take(&mut BytesMut::from(&[0, 0, 0x40, 0, 0][..])).map_err(|status| status.code()), Ok(None));
    }

    #[test]
    fn any_reason_can_be_told() {
        let told = trailers(&Status::invalid_argument("\"a\nb\u{0}\" 稳"));
        assert_eq!(told.get("grpc-status").map(HeaderValue::as_bytes), Some(&b"3"[..]));
        assert!(told.contains_key("grpc-message"));
        assert_eq!(trailers(&Status::ok("")).len(), 1);
    }
}
