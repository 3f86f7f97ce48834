//! Memory lent to a connection while bytes are in it. A worker keeps what was given back, the last used
//! first, since its lines are still in the cache. Hot.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::Poll;

use crate::driver::Socket;

/// One read of this size brings a POST of 16 KiB with its head.
pub(crate) const BUFFER_BYTES: usize = 32 * 1024;
/// Buffers kept by a worker while nobody needs them.
const BUFFERS_KEPT: usize = 64;
/// Output kept with its memory up to this size.
const OUTPUT_BYTES_KEPT: usize = 64 * 1024;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static OUTPUTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    // Boxed, so that lending one moves a pointer and a request's future stays small.
    #[allow(clippy::vec_box, reason = "the box is what is lent")]
    static HEADS: RefCell<Vec<Box<filters::Head>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read and not used up.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one.
    pub(crate) fn lend() -> Buffer {
        let bytes = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        Buffer { bytes, start: 0, end: 0 }
    }

    /// What has been read and not used up.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Uses up bytes at the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for a read: never empty unless the buffer is full.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes of `space` were filled.
    pub(crate) fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.bytes.len());
    }

    /// Whether all room is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start == self.bytes.len()
    }

    /// Makes room for a head of up to `bytes_max`; such a buffer is not kept.
    pub(crate) fn grow(&mut self, bytes_max: usize) {
        let size = (self.bytes.len() * 2).min(bytes_max.max(self.bytes.len()));
        self.bytes.resize(size, 0);
    }

    /// Whether nothing is left in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == BUFFER_BYTES {
            give_back(&BUFFERS, std::mem::take(&mut self.bytes));
        }
    }
}

/// Bytes to be written, and how many of them have been.
pub(crate) struct Output {
    /// What is to be written.
    pub(crate) bytes: Vec<u8>,
    written: usize,
}

impl Output {
    /// An empty one.
    pub(crate) fn lend() -> Output {
        Output { bytes: OUTPUTS.with_borrow_mut(Vec::pop).unwrap_or_default(), written: 0 }
    }

    /// Writes what is left. Ready(Ok) when all of it was taken.
    pub(crate) fn poll_write(&mut self, socket: &Socket) -> Poll<io::Result<()>> {
        while !self.pending().is_empty() {
            match socket.poll_writable() {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            match socket.try_write(&[IoSlice::new(self.pending())], false) {
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What has not been written.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Whether a part has been written, and the rest must follow.
    pub(crate) fn is_begun(&self) -> bool {
        self.written > 0
    }

    /// So many bytes of `pending` were written.
    pub(crate) fn advance(&mut self, count: usize) {
        self.written += count;
        if self.written == self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() <= OUTPUT_BYTES_KEPT && bytes.capacity() > 0 {
            bytes.clear();
            give_back(&OUTPUTS, bytes);
        }
    }
}

/// A head that goes back to its worker when dropped.
pub(crate) struct LentHead(Option<Box<filters::Head>>);

impl LentHead {
    /// An empty one.
    pub(crate) fn lend() -> LentHead {
        let mut head = HEADS.with_borrow_mut(Vec::pop).unwrap_or_default();
        head.clear();
        LentHead(Some(head))
    }
}

impl std::ops::Deref for LentHead {
    type Target = filters::Head;
    fn deref(&self) -> &filters::Head {
        self.0.as_ref().expect("taken only by drop")
    }
}

impl std::ops::DerefMut for LentHead {
    fn deref_mut(&mut self) -> &mut filters::Head {
        self.0.as_mut().expect("taken only by drop")
    }
}

impl Drop for LentHead {
    fn drop(&mut self) {
        if let Some(head) = self.0.take() {
            give_back(&HEADS, head);
        }
    }
}

/// Keeps a thing for the next borrower. At the end of a thread its lists are gone before some that would still
/// give back to them; then the thing is simply dropped.
fn give_back<T>(list: &'static std::thread::LocalKey<RefCell<Vec<T>>>, thing: T) {
    let _ = list.try_with(|list| {
        let mut list = list.borrow_mut();
        if list.len() < BUFFERS_KEPT {
            list.push(thing);
        }
    });
}
