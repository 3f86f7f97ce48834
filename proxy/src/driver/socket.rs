//! Non-blocking sockets of one worker. A connection is registered with epoll only when a task first has to
//! wait for it, edge-triggered and once for its life; a read that fills less than it could has emptied the
//! socket, so no read is spent on being told so. A listening socket is level-triggered: one that accepts as
//! many as it likes is told of the others, so no accept is spent on being told that there are none. Hot.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::{Driver, TaskId};

/// What a socket can be asked for now, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Readiness(u8);

impl Readiness {
    const READ: Readiness = Readiness(1);
    const WRITE: Readiness = Readiness(2);
    /// The peer will send no more, or the connection is broken: a read tells which.
    const PEER_CLOSED: Readiness = Readiness(4);
    /// Nothing can go either way any more.
    const BROKEN: Readiness = Readiness(8);

    pub(super) fn from_epoll(flags: EventFlags) -> Readiness {
        let mut bits = 0;
        if flags.intersects(EventFlags::IN) {
            bits |= Self::READ.0;
        }
        if flags.intersects(EventFlags::OUT) {
            bits |= Self::WRITE.0;
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            bits |= Self::READ.0 | Self::PEER_CLOSED.0;
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            bits |= Self::WRITE.0 | Self::BROKEN.0;
        }
        Readiness(bits)
    }

    fn has(self, other: Readiness) -> bool {
        self.0 & other.0 != 0
    }
}

/// What the driver knows of a registered socket.
#[derive(Debug)]
struct Slot {
    /// Tells an event of this socket from a late one of its predecessor.
    generation: u32,
    readiness: Readiness,
    owner: TaskId,
    free: bool,
}

/// The registered sockets of a worker.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    fn insert(&mut self, owner: TaskId) -> (u32, u64) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, readiness: Readiness(0), owner, free: true });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        *slot = Slot { generation: slot.generation.wrapping_add(1), readiness: Readiness(0), owner, free: false };
        (index, u64::from(slot.generation) << 32 | u64::from(index))
    }

    fn remove(&mut self, index: u32) {
        self.slots[index as usize].free = true;
        self.free.push(index);
    }

    /// Notes an event and names the task to wake.
    pub(super) fn record(&mut self, key: u64, readiness: Readiness) -> Option<TaskId> {
        let slot = self.slots.get_mut(key as u32 as usize)?;
        if slot.free || slot.generation != (key >> 32) as u32 {
            return None;
        }
        slot.readiness.0 |= readiness.0;
        Some(slot.owner)
    }
}

const UNREGISTERED: u32 = u32::MAX;

/// A non-blocking socket. Dropping it closes it.
pub(crate) struct Socket {
    descriptor: OwnedFd,
    driver: Rc<Driver>,
    slot: Cell<u32>,
    /// Whether a read or write may be tried before the socket is registered.
    untried: Cell<Readiness>,
    trigger: EventFlags,
}

/// What a connection wants to hear of: each change, once.
const EDGES: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

impl Socket {
    /// Takes over a descriptor that is already non-blocking, and presumes it readable and writable.
    pub(crate) fn new(driver: &Rc<Driver>, descriptor: OwnedFd) -> Socket {
        Socket {
            descriptor,
            driver: driver.clone(),
            slot: Cell::new(UNREGISTERED),
            untried: Cell::new(Readiness(Readiness::READ.0 | Readiness::WRITE.0)),
            trigger: EDGES,
        }
    }

    /// Takes over a listening descriptor: in each turn it is readable while connections wait.
    pub(crate) fn new_listening(driver: &Rc<Driver>, descriptor: OwnedFd) -> Socket {
        let mut socket = Socket::new(driver, descriptor);
        socket.trigger = EventFlags::IN;
        socket
    }

    /// Takes over a descriptor on which nothing can be done before an event says so: a connect under way.
    pub(crate) fn new_waiting(driver: &Rc<Driver>, descriptor: OwnedFd) -> Socket {
        let socket = Socket::new(driver, descriptor);
        socket.untried.set(Readiness(0));
        socket
    }

    /// The descriptor, for options and addresses.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// From now on the running task is woken by this socket's events.
    pub(crate) fn adopt(&self) {
        self.set_owner(self.driver.current());
    }

    /// From now on that task is woken by this socket's events.
    pub(crate) fn set_owner(&self, owner: TaskId) {
        if self.slot.get() != UNREGISTERED {
            self.driver.slots.borrow_mut().slots[self.slot.get() as usize].owner = owner;
        }
    }

    fn readiness(&self) -> Readiness {
        match self.slot.get() {
            UNREGISTERED => self.untried.get(),
            index => self.driver.slots.borrow().slots[index as usize].readiness,
        }
    }

    fn forget(&self, what: Readiness) {
        match self.slot.get() {
            UNREGISTERED => self.untried.set(Readiness(self.untried.get().0 & !what.0)),
            index => self.driver.slots.borrow_mut().slots[index as usize].readiness.0 &= !what.0,
        }
    }

    fn register(&self) -> io::Result<()> {
        if self.slot.get() != UNREGISTERED {
            return Ok(());
        }
        let (index, key) = self.driver.slots.borrow_mut().insert(self.driver.current());
        if let Err(error) = self.driver.register(&self.descriptor, key, self.trigger) {
            self.driver.slots.borrow_mut().remove(index);
            return Err(error);
        }
        self.slot.set(index);
        Ok(())
    }

    fn poll_ready(&self, what: Readiness) -> Poll<io::Result<()>> {
        if self.readiness().has(what) {
            return Poll::Ready(Ok(()));
        }
        match self.register() {
            // An edge that came before registration is reported by the first wait.
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Ready when a read may bring something, the end or an error.
    pub(crate) fn poll_readable(&self) -> Poll<io::Result<()>> {
        self.poll_ready(Readiness::READ)
    }

    /// Ready when a write may take something.
    pub(crate) fn poll_writable(&self) -> Poll<io::Result<()>> {
        self.poll_ready(Readiness::WRITE)
    }

    /// From now on the running task hears of a reset even while it neither reads nor writes here.
    pub(crate) fn watch(&self) -> io::Result<()> {
        self.register()
    }

    /// Whether the peer is known to have reset the connection: only a socket that was waited for or is watched knows.
    pub(crate) fn is_broken(&self) -> bool {
        self.readiness().has(Readiness::BROKEN)
    }

    /// Whether the peer is known to send no more, or to have reset the connection; as `is_broken` knows it.
    pub(crate) fn is_ended(&self) -> bool {
        self.readiness().has(Readiness::PEER_CLOSED)
    }

    /// The connection without what this worker knew of it, for another worker to take over.
    pub(crate) fn into_descriptor(self) -> io::Result<OwnedFd> {
        self.unregister();
        self.descriptor.try_clone()
    }

    /// Whether the peer's end or an error has been seen, or anything at all that can be read: for an idle
    /// connection each of them means that it cannot be used.
    pub(crate) fn has_news(&self) -> bool {
        if self.slot.get() == UNREGISTERED {
            return false;
        }
        let readiness = self.readiness();
        if readiness.has(Readiness::PEER_CLOSED) || !readiness.has(Readiness::READ) {
            return readiness.has(Readiness::PEER_CLOSED);
        }
        // The last read took as much as there was room for: whether there is more only the socket knows.
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.descriptor, &mut [0u8][..], flags) {
            Err(Errno::AGAIN) => {
                self.forget(Readiness::READ);
                false
            }
            _ => true,
        }
    }

    /// Reads once. `WouldBlock` if there is nothing; Ok(0) is the peer's end.
    pub(crate) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let room = into.len();
        loop {
            match rustix::net::recv(&self.descriptor, &mut *into, rustix::net::RecvFlags::empty()) {
                Ok((read, _)) => {
                    // Less than could be: the socket is empty, and the next bytes make a new edge. The peer's end
                    // made its edge already, so that one is not forgotten.
                    if read < room && read > 0 && !self.readiness().has(Readiness::PEER_CLOSED) {
                        self.forget(Readiness::READ);
                    }
                    return Ok(read);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.forget(Readiness::READ);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes once. `WouldBlock` if nothing could be taken. `is_last`: what ends the sending side comes next, and
    /// may share the last packet with these bytes.
    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>], is_last: bool) -> io::Result<usize> {
        let flags = if is_last { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        loop {
            let written = match slices {
                [one] => rustix::net::send(&self.descriptor, one, flags),
                many => rustix::io::writev(&self.descriptor, many),
            };
            match written {
                Ok(written) => return Ok(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.forget(Readiness::WRITE);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// After an accept or any other call that said `WouldBlock` outside `try_read`; for a listening socket also when
    /// enough was accepted in this turn.
    pub(crate) fn forget_readable(&self) {
        self.forget(Readiness::READ);
    }

    /// No event of this socket is told any more, until it is waited for again.
    pub(crate) fn unregister(&self) {
        let index = self.slot.replace(UNREGISTERED);
        if index != UNREGISTERED {
            self.untried.set(Readiness(0));
            self.driver.slots.borrow_mut().remove(index);
            self.driver.unregister(&self.descriptor);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.slot.get() != UNREGISTERED {
            // Closing the descriptor takes it out of epoll: it has no duplicate.
            self.driver.slots.borrow_mut().remove(self.slot.get());
        }
    }
}
