//! What control knows, and never forgets once it has said so: documents, one revision counter over all of them, and
//! what each revision changed. One thread writes; whoever waits for it at the same time is written in one go, and hears
//! only when that is on disk. Cold.
//!
//! Which transactions are good, and what they come to, is `state`'s business, how that lies on disk `disk`'s.

mod disk;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use config::document::Key;
use tokio::sync::{oneshot, watch};

pub use disk::{Disk, DiskError, File, Record, Version};
pub use state::{Change, Committed, Draft, Expected, Moved, Object, Refusal, State, Transaction};

/// Transactions that wait; more are refused.
const LINE_MAX: usize = 10_000;
/// Transactions that are written in one go.
const BATCH_MAX: usize = 1_000;
/// Revisions that watchers may be behind; those that are further behind look at everything again.
const RECENT_MAX: usize = 10_000;

/// What the store is asked to do.
struct Command {
    transaction: Transaction,
    answer: oneshot::Sender<Result<Arc<Committed>, Refusal>>,
}

/// Who looks at what transactions would come to.
pub trait Check: Send {
    /// This is what there is at the start.
    fn begin(&mut self, state: &State);

    /// A transaction is made, in a draft where it is already, unless this says why it must not.
    fn check(&mut self, draft: &Draft<'_>, committed: &Committed) -> Result<(), Refusal>;

    /// A transaction that passed is not made after all; the last one first.
    fn undo(&mut self, committed: &Committed);
}

/// One that others look into, too.
impl<C: Check> Check for Arc<Mutex<C>> {
    fn begin(&mut self, state: &State) {
        self.lock().unwrap_or_else(PoisonError::into_inner).begin(state);
    }

    fn check(&mut self, draft: &Draft<'_>, committed: &Committed) -> Result<(), Refusal> {
        self.lock().unwrap_or_else(PoisonError::into_inner).check(draft, committed)
    }

    fn undo(&mut self, committed: &Committed) {
        self.lock().unwrap_or_else(PoisonError::into_inner).undo(committed);
    }
}

/// A handle of the store. The store ends when all handles are gone.
#[derive(Clone)]
pub struct Store {
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
}

struct Shared {
    state: RwLock<State>,
    /// With the moment they were on disk.
    recent: Mutex<VecDeque<(Instant, Arc<Committed>)>>,
    revision: watch::Sender<u64>,
    disk: Arc<Disk>,
}

/// What a watcher missed.
#[derive(Debug)]
pub enum Missed {
    /// These, in order.
    Changes(Vec<Arc<Committed>>),
    /// More than is remembered.
    TooMuch,
}

impl Store {
    /// Opens the store in this folder, or begins one.
    pub fn open(folder: &Path, check: Box<dyn Check>) -> Result<Store, DiskError> {
        std::fs::create_dir_all(folder).map_err(|error| DiskError(format!("{}: {error}", folder.display())))?;
        let file = folder.join("store.redb");
        Store::start(Disk::open(File::Path(file))?, check)
    }

    /// Runs the store that lies on a disk.
    pub fn start(disk: Disk, mut check: Box<dyn Check>) -> Result<Store, DiskError> {
        let state = disk.load()?;
        check.begin(&state);
        let (commands, receiver) = sync_channel(LINE_MAX);
        let shared = Arc::new(Shared {
            revision: watch::Sender::new(state.revision()),
            state: RwLock::new(state),
            recent: Mutex::new(VecDeque::new()),
            disk: Arc::new(disk),
        });
        let writer = shared.clone();
        let thread = std::thread::Builder::new().name("store".into());
        thread.spawn(move || write(&writer, &receiver, check)).map_err(|error| DiskError(error.to_string()))?;
        Ok(Store { commands, shared })
    }

    /// Carries out a transaction. Once this returns `Ok`, nothing can undo it.
    pub async fn commit(&self, transaction: Transaction) -> Result<Arc<Committed>, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command { transaction, answer }).map_err(|_| Refusal::Busy)?;
        answered.await.unwrap_or(Err(Refusal::Unavailable("the store has ended".into())))
    }

    /// Everything as it is now. Writers wait as long as this is held.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told the revision with each change.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    /// What has changed since a revision.
    pub fn since(&self, revision: u64) -> Missed {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = recent.front().map_or(*self.shared.revision.borrow() + 1, |(_, first)| first.revision);
        if revision + 1 < oldest {
            return Missed::TooMuch;
        }
        let start = recent.partition_point(|(_, committed)| committed.revision <= revision);
        Missed::Changes(recent.range(start..).map(|(_, committed)| committed.clone()).collect())
    }

    /// What a revision changed, and when it was on disk. None: it is of another life of the store, or long ago.
    pub fn recent(&self, revision: u64) -> Option<(Instant, Arc<Committed>)> {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let place = recent.binary_search_by_key(&revision, |(_, committed)| committed.revision).ok()?;
        recent.get(place).cloned()
    }

    /// The last revisions before one, newest first, with what they changed.
    pub fn history(&self, before: u64, count: usize) -> Result<Vec<Record>, DiskError> {
        self.shared.disk.history(before, count)
    }

    /// The versions of a document that are remembered, newest first.
    pub fn versions(&self, key: &Key, count: usize) -> Result<Vec<Version>, DiskError> {
        self.shared.disk.versions(key, count)
    }

    /// What would bring everything, or some of it, back to how it was at a revision.
    pub fn way_back(&self, revision: u64, is_meant: impl Fn(&Key) -> bool) -> Result<Vec<Change>, DiskError> {
        self.shared.disk.way_back(revision, is_meant)
    }
}

/// The life of the writer: whoever waits is served in one go.
fn write(shared: &Shared, receiver: &Receiver<Command>, mut check: Box<dyn Check>) {
    while let Ok(first) = receiver.recv() {
        let mut batch = Vec::new();
        let mut answers = Vec::new();
        let state = shared.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut draft = Draft::of(&state);
        for Command { transaction, answer } in std::iter::once(first).chain(receiver.try_iter()).take(BATCH_MAX) {
            let decided = draft.decide(transaction, jiff::Timestamp::now().as_millisecond());
            let decided = decided.and_then(|committed| draft.take(committed, &mut *check));
            batch.extend(decided.as_ref().ok().filter(|committed| !committed.moved.is_empty()).cloned());
            answers.push((answer, decided));
        }
        drop(state);
        let written = if batch.is_empty() { Ok(()) } else { shared.disk.write(&batch) };
        if let Err(error) = &written {
            // Nobody has heard of it, so nothing happened.
            batch.iter().rev().for_each(|committed| check.undo(committed));
            for (_, decided) in &mut answers {
                if decided.as_ref().is_ok_and(|committed| !committed.moved.is_empty()) {
                    *decided = Err(Refusal::Unavailable(error.to_string()));
                }
            }
        } else if let Some(last) = batch.last() {
            shared.state.write().unwrap_or_else(PoisonError::into_inner).follow(&batch);
            let mut recent = shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            recent.extend(batch.iter().map(|committed| (now, committed.clone())));
            let surplus = recent.len().saturating_sub(RECENT_MAX);
            recent.drain(..surplus);
            drop(recent);
            shared.revision.send_replace(last.revision);
        }
        for (answer, decided) in answers {
            // Who went away does not need to know.
            let _ = answer.send(decided);
        }
    }
}
