//! The loop of one worker: runs the tasks that have something to do, then waits for sockets, timers and the
//! mailbox at once. What tasks do with that is their business. Hot.
//!
//! Tasks are futures that never leave this thread. A wake-up is the index of a task in a queue: sockets,
//! timers and other tasks name the task they belong to, so the `Waker` of std is never used and no wake-up
//! costs an atomic operation. Other threads reach a worker only through its mailbox.

mod sleep;
mod socket;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};

use sleep::Wheel;
pub(crate) use socket::Socket;
use socket::{Readiness, Slots};

/// Events taken from the kernel in one go; more wait for the next turn. At some 16 µs for each, mail and timers wait
/// a millisecond at most.
const EVENTS_PER_TURN: usize = 64;

/// The index of a task on this worker.
pub(crate) type TaskId = u32;

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// A task's place. The work is taken out while it runs, so that it may spawn others.
struct Place {
    work: Option<Work>,
    queued: bool,
    /// Told apart by `free` when the future has ended.
    free: bool,
}

/// The loop and everything its tasks wait on.
pub(crate) struct Driver {
    epoll: OwnedFd,
    slots: RefCell<Slots>,
    places: RefCell<Vec<Place>>,
    free_places: RefCell<Vec<TaskId>>,
    ready: RefCell<VecDeque<TaskId>>,
    /// Tasks that still run in this turn.
    due: Cell<usize>,
    turn: Cell<u64>,
    current: Cell<TaskId>,
    wheel: RefCell<Wheel>,
    origin: Instant,
    now: Cell<Duration>,
    stopped: Cell<bool>,
    panics: Cell<u64>,
    turn_ns_max: Cell<u64>,
}

impl Driver {
    /// A loop without tasks, whose time begins at `origin`.
    pub(crate) fn new(origin: Instant) -> io::Result<Rc<Driver>> {
        Ok(Rc::new(Driver {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: RefCell::default(),
            places: RefCell::default(),
            free_places: RefCell::default(),
            ready: RefCell::default(),
            due: Cell::new(0),
            turn: Cell::new(0),
            current: Cell::new(0),
            wheel: RefCell::default(),
            origin,
            now: Cell::new(Duration::ZERO),
            stopped: Cell::new(false),
            panics: Cell::new(0),
            turn_ns_max: Cell::new(0),
        }))
    }

    /// Starts a task; it first runs in this turn.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        let work: Work = Box::pin(future);
        let place = Place { work: Some(work), queued: false, free: false };
        let mut places = self.places.borrow_mut();
        let id = match self.free_places.borrow_mut().pop() {
            Some(id) => {
                places[id as usize] = place;
                id
            }
            None => {
                places.push(place);
                (places.len() - 1) as TaskId
            }
        };
        drop(places);
        self.wake(id);
        self.due.set(self.due.get() + 1);
        id
    }

    /// Lets a task run again. Waking a task that has ended does nothing; one that took over its index meanwhile
    /// sees a wake-up without a reason, which every task expects.
    pub(crate) fn wake(&self, id: TaskId) {
        if let Some(place) = self.places.borrow_mut().get_mut(id as usize)
            && !place.free
            && !place.queued
        {
            place.queued = true;
            self.ready.borrow_mut().push_back(id);
        }
    }

    /// The task that is running.
    pub(crate) fn current(&self) -> TaskId {
        self.current.get()
    }

    /// The time at the start of this turn, since the driver's own start. Deadlines are told in it.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// How often sockets were asked so far.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.get()
    }

    /// Reads the clock: for figures that people see.
    pub(crate) fn precise_now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Sets the time at which the running task is woken if nothing else did. It has one deadline: a new one
    /// replaces it.
    pub(crate) fn set_deadline(&self, at: Duration) {
        self.wheel.borrow_mut().set(self.current.get(), at);
    }

    /// Whether the running task's deadline has come.
    pub(crate) fn deadline_passed(&self) -> bool {
        self.wheel.borrow().deadline(self.current.get()) <= self.now.get()
    }

    /// Waits, and for nothing else.
    pub(crate) async fn sleep_until(&self, at: Duration) {
        self.set_deadline(at);
        std::future::poll_fn(|_| match self.now.get() >= at {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        })
        .await;
    }

    /// Ends `run` after this turn.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
    }

    /// Tasks that ended in a panic.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// The longest turn since the last call, from waking up to waiting again.
    pub(crate) fn take_turn_ns_max(&self) -> u64 {
        self.turn_ns_max.replace(0)
    }

    /// Runs until `stop`.
    pub(crate) fn run(&self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        self.now.set(self.origin.elapsed());
        while !self.stopped.get() {
            self.run_ready();
            let turn = self.origin.elapsed().saturating_sub(self.now.get()).as_nanos() as u64;
            self.turn_ns_max.set(self.turn_ns_max.get().max(turn));
            self.wait(&mut events)?;
        }
        Ok(())
    }

    /// Runs what is ready now and what is started meanwhile; what is woken meanwhile waits until sockets were asked
    /// again.
    fn run_ready(&self) {
        self.due.set(self.ready.borrow().len());
        while let Some(due) = self.due.get().checked_sub(1) {
            self.due.set(due);
            let Some(id) = self.ready.borrow_mut().pop_front() else { break };
            let work = {
                let place = &mut self.places.borrow_mut()[id as usize];
                place.queued = false;
                place.work.take()
            };
            if let Some(work) = work {
                self.run_task(id, work);
            }
        }
    }

    fn run_task(&self, id: TaskId, mut work: Work) {
        self.current.set(id);
        let mut context = Context::from_waker(Waker::noop());
        // A panic ends this connection and no other: its future is dropped like one that has ended, and what it
        // shares with others is counters and lists that are never left half changed across a call.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context).is_pending()));
        if let Ok(true) = polled {
            self.places.borrow_mut()[id as usize].work = Some(work);
            return;
        }
        if polled.is_err() {
            self.panics.set(self.panics.get() + 1);
        }
        drop(work);
        self.wheel.borrow_mut().forget(id);
        let place = &mut self.places.borrow_mut()[id as usize];
        place.free = true;
        self.free_places.borrow_mut().push(id);
    }

    fn wait(&self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let timeout = match self.ready.borrow().is_empty() {
            false => Some(Duration::ZERO),
            true => self.wheel.borrow().next_after(self.now.get()),
        };
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.now.set(self.origin.elapsed());
        self.turn.set(self.turn.get() + 1);
        for event in events.iter() {
            let owner = self.slots.borrow_mut().record(event.data.u64(), Readiness::from_epoll(event.flags));
            if let Some(owner) = owner {
                self.wake(owner);
            }
        }
        while let Some(id) = self.wheel.borrow_mut().expire(self.now.get()) {
            self.wake(id);
        }
        Ok(())
    }

    fn register(&self, descriptor: impl AsFd, key: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, descriptor, EventData::new_u64(key), flags)?)
    }

    fn unregister(&self, descriptor: impl AsFd) {
        // What is not registered any more is what was asked for.
        let _ = epoll::delete(&self.epoll, descriptor);
    }

    /// Drops every task, and with it every socket and buffer that it holds.
    pub(crate) fn clear(&self) {
        let places = std::mem::take(&mut *self.places.borrow_mut());
        drop(places);
    }
}
