//! One request and its answer between two sockets: both bodies flow at the same time, each no faster than
//! its reader takes it. What is sent where was decided before; this only moves bytes. Hot.

use std::io::{self, IoSlice};
use std::task::Poll;

use crate::buffer::Output;
use crate::driver::Socket;
use crate::h1::{BodyDecoder, BodyStep, Framing, Refusal, write_chunk_head, write_last_chunk};
use crate::mirror::Copies;
use crate::wire::Wire;

/// Re-framed bytes waiting to be written, beyond which no more are taken from the source.
const OUTPUT_BYTES_HIGH: usize = 32 * 1024;

/// A body's first data up to this size are copied behind the head: one plain write of both costs the kernel less
/// than a gathering one.
const JOINED_BYTES_MAX: usize = 2 * 1024;

/// A request that is larger than this, head included, is not kept for another attempt or for copies.
pub(crate) const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What ended a direction before its message did.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The side that sends broke the protocol.
    Refused(Refusal),
    /// The side that sends closed or reset in the middle.
    SourceGone,
    /// The side that receives closed or reset.
    SinkGone,
    /// More than the listener allows.
    TooLarge,
}

/// One direction: a head that goes first, then a body, read in one framing and written in the same or another.
pub(crate) struct Pump {
    decoder: BodyDecoder,
    /// Data leave in chunks, whatever framing they came in.
    chunked_out: bool,
    out: Option<Output>,
    /// Bytes at the front of the source's input that leave as they are.
    direct: usize,
    /// Body bytes taken from the source.
    pub(crate) body_bytes: u64,
    body_bytes_max: u64,
    /// Bytes that the sink's socket has taken.
    pub(crate) written: u64,
    /// Whether the last wait was for the sink: who is slow.
    pub(crate) waits_for_sink: bool,
    end_written: bool,
    ends_sink: bool,
    /// All that was written, as long as it is little enough to be written again.
    kept: Option<Vec<u8>>,
    /// What is done with all of it in the end.
    copies: Option<Box<Copies>>,
}

impl Pump {
    /// A message without a body whose head is still to come.
    pub(crate) fn new() -> Pump {
        Pump {
            decoder: BodyDecoder::new(Framing::None),
            chunked_out: false,
            out: None,
            direct: 0,
            body_bytes: 0,
            body_bytes_max: u64::MAX,
            written: 0,
            waits_for_sink: false,
            end_written: false,
            ends_sink: false,
            kept: None,
            copies: None,
        }
    }

    /// Keeps what is written, so that `rewind` can write it again.
    pub(crate) fn keep(mut self) -> Pump {
        self.kept = Some(Vec::new());
        self
    }

    /// Keeps what is written, and sends it to others when it is whole.
    pub(crate) fn keep_for(mut self, copies: Copies) -> Pump {
        self.copies = Some(Box::new(copies));
        self.keep()
    }

    /// Whether all that was written is at hand.
    pub(crate) fn can_rewind(&self) -> bool {
        self.kept.is_some()
    }

    /// Begins again with the first byte.
    pub(crate) fn rewind(&mut self) {
        let Some(kept) = self.kept.replace(Vec::new()) else { return };
        let mut out = Output::lend();
        out.bytes.extend_from_slice(&kept);
        out.bytes.extend_from_slice(self.out.as_ref().map_or(&[], Output::pending));
        self.out = Some(out);
        self.written = 0;
    }

    /// Refuses bodies beyond so many bytes.
    pub(crate) fn with_body_max(mut self, bytes_max: Option<u64>) -> Pump {
        self.body_bytes_max = bytes_max.unwrap_or(u64::MAX);
        self
    }

    /// Whether any of a body in `framing` has been read from the source.
    pub(crate) fn has_begun(&self, framing: Framing) -> bool {
        self.body_bytes > 0 || self.decoder.has_begun(framing)
    }

    /// Whether the whole message has been read from the source.
    pub(crate) fn is_read(&self) -> bool {
        self.decoder.is_done() && self.direct == 0
    }

    /// Whether the whole message has been written.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_read() && self.out.is_none()
    }

    /// Moves what can be moved. Ready when the whole message was written.
    pub(crate) fn poll(&mut self, source: &mut Wire, sink: &mut Wire) -> Poll<Result<(), Broken>> {
        loop {
            self.decode(source)?;
            match self.poll_write(source, sink) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::SinkGone)),
                Poll::Pending => {
                    self.waits_for_sink = true;
                    return Poll::Pending;
                }
            }
            if self.is_finished() {
                if let (Some(copies), Some(kept)) = (self.copies.take(), &self.kept) {
                    copies.send(kept);
                }
                return Poll::Ready(Ok(()));
            }
            // The end of chunks for a client of HTTP/1.0 leaves nothing to write.
            if !source.input().is_empty() && (self.decode(source)? || self.is_finished()) {
                continue;
            }
            match source.poll_fill() {
                Poll::Ready(Ok(0)) => match self.decoder.on_eof() {
                    Ok(()) => {}
                    Err(_) => return Poll::Ready(Err(Broken::SourceGone)),
                },
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::SourceGone)),
                Poll::Pending => {
                    self.waits_for_sink = false;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Looks at what was read, and tells whether there is something to write. Data that leave as they came stay
    /// where they are; others are copied once, into their new framing.
    fn decode(&mut self, source: &mut Wire) -> Result<bool, Broken> {
        while self.direct == 0 && !self.decoder.is_done() {
            if self.out.as_ref().is_some_and(|out| out.bytes.len() >= OUTPUT_BYTES_HIGH) {
                break;
            }
            let BodyStep { skip, data } = self.decoder.step(source.input()).map_err(Broken::Refused)?;
            source.consume(skip);
            if data > 0 {
                self.take_data(source, data)?;
            } else if skip == 0 {
                break;
            }
        }
        if self.chunked_out && self.decoder.is_done() && !self.end_written {
            let out = &mut self.out.get_or_insert_with(Output::lend).bytes;
            write_last_chunk(out, self.decoder.trailers());
            self.end_written = true;
        }
        Ok(self.direct > 0 || self.out.is_some())
    }

    fn take_data(&mut self, source: &mut Wire, count: usize) -> Result<(), Broken> {
        self.body_bytes += count as u64;
        if self.body_bytes > self.body_bytes_max {
            return Err(Broken::TooLarge);
        }
        if self.chunked_out {
            let out = self.out();
            write_chunk_head(out, count);
            out.extend_from_slice(&source.input()[..count]);
            out.extend_from_slice(b"\r\n");
            source.consume(count);
        } else if let Some(out) = &mut self.out
            && count <= JOINED_BYTES_MAX
        {
            out.bytes.extend_from_slice(&source.input()[..count]);
            source.consume(count);
        } else {
            self.direct = count;
        }
        Ok(())
    }

    /// Where heads are written, ahead of the body.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out.get_or_insert_with(Output::lend).bytes
    }

    /// The body that follows the head in `out`.
    pub(crate) fn begin_body(&mut self, framing: Framing, chunked_out: bool) {
        self.decoder = BodyDecoder::new(framing);
        self.chunked_out = chunked_out;
    }

    /// After this message the sending side of the sink is shut down at once.
    pub(crate) fn ends_sink(&mut self) {
        self.ends_sink = true;
    }

    /// Writes what is in `out`, ahead of any body.
    pub(crate) fn poll_flush(&mut self, sink: &Socket) -> Poll<io::Result<()>> {
        let Some(out) = &mut self.out else { return Poll::Ready(Ok(())) };
        let result = out.poll_write(sink);
        if let Poll::Ready(Ok(())) = result {
            self.out = None;
        }
        result
    }

    /// Whether what was written so far ends in the middle of a head.
    pub(crate) fn is_cut(&self) -> bool {
        self.out.as_ref().is_some_and(Output::is_begun)
    }

    fn poll_write(&mut self, source: &mut Wire, sink: &mut Wire) -> Poll<io::Result<()>> {
        while self.direct > 0 || self.out.is_some() {
            match sink.socket.poll_writable() {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            let framed = self.out.as_ref().map_or(&[][..], Output::pending);
            let direct = &source.input()[..self.direct];
            let is_last = self.ends_sink && self.decoder.is_done();
            let written = match (framed.is_empty(), direct.is_empty()) {
                (false, true) => sink.socket.try_write(&[IoSlice::new(framed)], is_last),
                (true, false) => sink.socket.try_write(&[IoSlice::new(direct)], is_last),
                _ => sink.socket.try_write(&[IoSlice::new(framed), IoSlice::new(direct)], is_last),
            };
            match written {
                Ok(count) => self.advance(source, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, source: &mut Wire, written: usize) {
        self.written += written as u64;
        let mut of_direct = written;
        if let Some(kept) = &mut self.kept {
            let framed = self.out.as_ref().map_or(&[][..], Output::pending);
            let of_framed = written.min(framed.len());
            kept.extend_from_slice(&framed[..of_framed]);
            kept.extend_from_slice(&source.input()[..written - of_framed]);
            if kept.len() > KEPT_BYTES_MAX {
                self.kept = None;
                self.copies = None;
            }
        }
        if let Some(out) = &mut self.out {
            let of_framed = written.min(out.pending().len());
            out.advance(of_framed);
            of_direct -= of_framed;
            if out.pending().is_empty() {
                self.out = None;
            }
        }
        self.direct -= of_direct;
        source.consume(of_direct);
    }
}
