//! Connections to a cluster, when there is a bound on them: so many over all workers, and a line of requests that wait,
//! first come first served whichever worker they are on. Who gives a connection back hands it to the first in the line,
//! with its socket if that is still good. Cold as long as nobody waits.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cluster::ClusterState;
use crate::driver::{Socket, TaskId};
use crate::pool::Link;
use crate::shared::Shared;

/// A bound on connections over the process.
pub(crate) struct Slots {
    used: AtomicU32,
    /// As the rules in force have it; those that were taken under others may be more.
    max: AtomicU32,
    /// How long the line is, to be seen without taking its lock.
    waiting: AtomicUsize,
    line: Mutex<VecDeque<Arc<Waiter>>>,
}

/// A request in the line.
pub(crate) struct Waiter {
    pub(crate) worker: usize,
    pub(crate) task: TaskId,
    grant: Mutex<Option<Grant>>,
}

/// A place in the line.
pub(crate) struct Joined {
    pub(crate) waiter: Arc<Waiter>,
    /// Who has got a slot by this and is to be woken, perhaps the same.
    pub(crate) first: Option<Arc<Waiter>>,
}

/// What a request was waiting for.
pub(crate) enum Grant {
    /// It may open a connection.
    Slot,
    /// It may use this one, which is to that endpoint.
    Connection(OwnedFd, SocketAddr),
}

/// A connection's part of the bound, for as long as it lives.
pub(crate) struct Slot {
    pub(crate) state: Arc<ClusterState>,
    shared: Arc<Shared>,
    /// It belongs to somebody else now.
    is_passed_on: bool,
}

impl Slot {
    /// For a slot that was taken or granted.
    pub(crate) fn new(state: Arc<ClusterState>, shared: Arc<Shared>) -> Slot {
        Slot { state, shared, is_passed_on: false }
    }

    /// Gives the connection to whoever waits for one, or ends it if there are too many; back if neither is so.
    pub(crate) fn hand_over(mut self, socket: Socket, address: SocketAddr) -> Result<(), Link> {
        if self.state.connections.is_over() {
            // The bound was lowered: this one ends here, whoever waits.
            return Ok(());
        }
        if self.state.connections.waiting() == 0 {
            return Err(Link { socket, slot: Some(self) });
        }
        let Ok(descriptor) = socket.into_descriptor() else {
            // The slot goes on without it.
            return Ok(());
        };
        // Whoever waited may just have left: then the connection ends here.
        if let Ok(waiter) = self.state.connections.hand(Grant::Connection(descriptor, address)) {
            self.is_passed_on = true;
            self.shared.wake(&waiter);
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_passed_on
            && let Some(waiter) = self.state.connections.release()
        {
            self.shared.wake(&waiter);
        }
    }
}

/// Without a bound.
impl Default for Slots {
    fn default() -> Slots {
        let (used, max, waiting, line) = Default::default();
        let slots = Slots { used, max, waiting, line };
        slots.bound(None);
        slots
    }
}

impl Slots {
    /// The bound is this from now on.
    pub(crate) fn bound(&self, max: Option<u32>) {
        self.max.store(max.unwrap_or(u32::MAX), SeqCst);
    }

    /// Whether there is a bound.
    pub(crate) fn is_bounded(&self) -> bool {
        self.max.load(SeqCst) != u32::MAX
    }

    /// Whether more are in use than there may be: a bound was lowered.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.max.load(SeqCst)
    }

    /// Takes a slot if there is one and nobody waits for it.
    pub(crate) fn try_take(&self, max: u32) -> bool {
        self.waiting.load(SeqCst) == 0 && self.take(max)
    }

    fn take(&self, max: u32) -> bool {
        self.used.fetch_update(SeqCst, SeqCst, |used| (used < max).then_some(used + 1)).is_ok()
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(SeqCst)
    }

    /// Requests in the line.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Joins the line, unless it is as long as it may be. Whom to wake comes with it, if a slot was free after all.
    pub(crate) fn wait(&self, worker: usize, task: TaskId, max: u32, waiting_max: u32) -> Option<Joined> {
        let mut line = self.lock();
        if line.len() >= waiting_max as usize {
            return None;
        }
        let waiter = Arc::new(Waiter { worker, task, grant: Mutex::new(None) });
        line.push_back(waiter.clone());
        self.waiting.store(line.len(), SeqCst);
        // Whoever gave a slot back before it saw the line has left it free.
        let first = self.take(max).then(|| self.pop(&mut line)).flatten();
        first.iter().for_each(|first| first.give(Grant::Slot));
        Some(Joined { waiter, first })
    }

    /// Leaves the line, with what was granted meanwhile.
    pub(crate) fn leave(&self, waiter: &Arc<Waiter>) -> Option<Grant> {
        let mut line = self.lock();
        line.retain(|other| !Arc::ptr_eq(other, waiter));
        self.waiting.store(line.len(), SeqCst);
        drop(line);
        waiter.take()
    }

    /// Hands a slot and its connection to the first in the line, who is to be woken; back if there is nobody.
    pub(crate) fn hand(&self, grant: Grant) -> Result<Arc<Waiter>, Grant> {
        match self.pop(&mut self.lock()) {
            Some(first) => {
                first.give(grant);
                Ok(first)
            }
            None => Err(grant),
        }
    }

    /// Gives a slot to the first in the line, who is to be woken, or back.
    pub(crate) fn release(&self) -> Option<Arc<Waiter>> {
        let mut line = self.lock();
        let first = if self.is_over() { None } else { self.pop(&mut line) };
        match &first {
            Some(first) => first.give(Grant::Slot),
            // Under the lock, so that nobody joins the line in between and misses it.
            None => drop(self.used.fetch_sub(1, SeqCst)),
        }
        first
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Waiter>>> {
        self.line.lock().expect("no holder of this lock can panic")
    }

    fn pop(&self, line: &mut VecDeque<Arc<Waiter>>) -> Option<Arc<Waiter>> {
        let first = line.pop_front();
        self.waiting.store(line.len(), SeqCst);
        first
    }
}

impl Waiter {
    fn give(&self, grant: Grant) {
        *self.grant.lock().expect("no holder of this lock can panic") = Some(grant);
    }

    /// What was granted, once.
    pub(crate) fn take(&self) -> Option<Grant> {
        self.grant.lock().expect("no holder of this lock can panic").take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_go_to_those_who_waited_in_their_order() {
        let slots = Slots::default();
        let join = |worker| slots.wait(worker, 0, 2, 3);
        assert!(slots.try_take(2) && slots.try_take(2) && !slots.try_take(2));
        let [first, second, third] = [1, 2, 3].map(|worker| join(worker).expect("there is room for three"));
        assert!(join(4).is_none(), "the line has its bound");
        assert!(first.first.is_none() && slots.waiting() == 3);
        // The second is gone before its turn.
        assert!(slots.leave(&second.waiter).is_none());
        assert_eq!(slots.release().map(|woken| woken.worker), Some(1));
        assert!(matches!(first.waiter.take(), Some(Grant::Slot)) && first.waiter.take().is_none());
        assert_eq!(slots.release().map(|woken| woken.worker), Some(3));
        // The third is gone when its turn has come: what it was given goes on.
        assert!(matches!(slots.leave(&third.waiter), Some(Grant::Slot)));
        assert!(slots.release().is_none() && slots.release().is_none());
        assert_eq!((slots.used(), slots.waiting()), (0, 0));
        assert!(slots.hand(Grant::Slot).is_err(), "nobody waits");
    }

    #[test]
    fn a_bound_that_is_lowered_is_reached_before_anybody_gets_a_slot() {
        let slots = Slots::default();
        assert!(!slots.is_bounded() && !slots.is_over());
        slots.bound(Some(3));
        assert!((0..3).all(|_| slots.try_take(3)));
        slots.bound(Some(1));
        assert!(slots.is_bounded() && slots.is_over());
        let waits = slots.wait(1, 0, 1, 1).expect("there is room");
        for (woken, used) in [(None, 2), (None, 1), (Some(1), 1), (None, 0)] {
            assert_eq!((slots.release().map(|woken| woken.worker), slots.used()), (woken, used));
        }
        assert!(waits.waiter.take().is_some());
    }

    #[test]
    fn who_joins_when_a_slot_is_free_has_it() {
        let slots = Slots::default();
        let joined = slots.wait(7, 3, 1, 1).expect("there is room");
        assert!(joined.first.is_some_and(|first| Arc::ptr_eq(&first, &joined.waiter)));
        assert!(joined.waiter.take().is_some() && slots.used() == 1 && slots.waiting() == 0);
    }
}
