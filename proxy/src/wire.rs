//! A socket together with the bytes that were read from it and not used up: what each side of an exchange
//! is. Holds a buffer only while there is something in it. Hot.

use std::io;
use std::task::Poll;

use crate::buffer::Buffer;
use crate::driver::Socket;

/// One side of an exchange.
pub(crate) struct Wire {
    /// Its socket.
    pub(crate) socket: Socket,
    input: Option<Buffer>,
    /// The peer has sent its end; what is in the input came before it.
    pub(crate) ended: bool,
}

impl Wire {
    /// A side of which nothing has been read.
    pub(crate) fn new(socket: Socket) -> Wire {
        Wire { socket, input: None, ended: false }
    }

    /// What has been read and not used up.
    pub(crate) fn input(&self) -> &[u8] {
        self.input.as_ref().map_or(&[], Buffer::filled)
    }

    /// Uses up bytes at the front, and gives the buffer back when it is empty.
    pub(crate) fn consume(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let input = self.input.as_mut().expect("bytes are consumed only where there are some");
        input.consume(count);
        if input.is_empty() {
            self.input = None;
        }
    }

    /// Reads once. Ready(Ok(0)): the peer's end, or the buffer is full (`is_full` tells).
    pub(crate) fn poll_fill(&mut self) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        loop {
            match self.socket.poll_readable() {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            let input = self.input.get_or_insert_with(Buffer::lend);
            let space = input.space();
            if space.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let read = self.socket.try_read(space);
            match read {
                Ok(count) => {
                    input.fill(count);
                    self.ended = count == 0;
                    if input.is_empty() {
                        self.input = None;
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) => {
                    if input.is_empty() {
                        self.input = None;
                    }
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.ended = true;
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }

    /// Whether no more can be read before something is used up.
    pub(crate) fn is_full(&self) -> bool {
        self.input.as_ref().is_some_and(Buffer::is_full)
    }

    /// Makes room for a larger head.
    pub(crate) fn grow(&mut self, bytes_max: usize) {
        self.input.get_or_insert_with(Buffer::lend).grow(bytes_max);
    }

    /// Whether nothing was read that has not been used up, and the peer has not ended.
    pub(crate) fn is_quiet(&self) -> bool {
        self.input.is_none() && !self.ended
    }
}
