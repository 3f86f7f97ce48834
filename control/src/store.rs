//! What control knows, and never forgets once it has said so: documents, one revision counter over all of them, and
//! what each revision changed. One thread writes; whoever waits for it at the same time is written in one go, and hears
//! only when that is on disk. Cold.
//!
//! Which transactions are good, and what they come to, is `state`'s business, how that lies on disk `disk`'s. Tokens
//! (`token`) and what is said of all this (`audit`) lie in tables beside it (`ledger`).

mod audit;
mod disk;
pub mod dump;
#[cfg(test)]
mod faulty;
mod folder;
mod ledger;
mod state;
#[cfg(test)]
mod tests;
mod token;
mod trial;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use config::document::Key;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::access::Author;
use crate::log;
use crate::registry::{Instance, Name};

pub use audit::Attempt;
#[cfg(test)]
pub use disk::File;
pub use disk::{Disk, DiskError, Entry, Record, Version};
pub use state::{Cause, Change, Committed, Draft, Expected, Frozen, Moved, Object, Refusal, State, Transaction};
pub use token::{SECRET_BYTES, Token, TokenChange, TokenRefusal, Tokens, hash, secret};
pub use trial::{Course, Share, Terms};

/// How long a disk may not say whether it has what was written, and from one question to the next.
const IN_DOUBT_MAX: Duration = Duration::from_secs(10);
const IN_DOUBT_PAUSE: Duration = Duration::from_millis(10);
/// Transactions that wait; more are refused.
const LINE_MAX: usize = 10_000;
/// Transactions that are written in one go.
const BATCH_MAX: usize = 1_000;
/// Revisions that watchers may be behind; those that are further behind look at everything again.
const RECENT_MAX: usize = 10_000;

/// What the store is asked to do.
enum Command {
    /// A transaction.
    Transact(Transaction, oneshot::Sender<Result<Arc<Committed>, Refusal>>),
    /// A change of a token.
    Token(TokenChange, Author, oneshot::Sender<Result<(), TokenRefusal>>),
    /// Instances that are told so from now on; None: no longer.
    Shift(Vec<(Name, Option<Instance>)>, oneshot::Sender<Result<Arc<Committed>, Refusal>>),
    /// What remains of a drain, as JSON.
    Receipt(String),
    /// An attempt that was refused.
    Note(Attempt),
    /// Which documents stand in files.
    OfFiles(BTreeSet<Key>, oneshot::Sender<Result<(), DiskError>>),
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
    tokens: watch::Sender<Arc<Tokens>>,
    disk: Arc<Disk>,
}

/// What lies on a disk at the start.
struct Found {
    state: State,
    tokens: Tokens,
    /// Of the last write.
    number: u64,
}

impl Found {
    fn on(disk: &Disk) -> Result<Found, DiskError> {
        Ok(Found { state: disk.load()?, tokens: disk.tokens()?, number: disk.last()? })
    }
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
    /// Opens the store in this folder; begins one, if nothing in it says that there was one.
    pub fn open(folder: &Path, check: Box<dyn Check>) -> Result<Store, DiskError> {
        Store::read(folder, folder::open_or_begin(folder)?, check)
    }

    /// Opens the store in this folder, which has one.
    pub fn open_existing(folder: &Path, check: Box<dyn Check>) -> Result<Store, DiskError> {
        Store::read(folder, folder::open(folder)?, check)
    }

    fn read(folder: &Path, disk: Disk, check: Box<dyn Check>) -> Result<Store, DiskError> {
        let found = || Found::on(&disk).map_err(|DiskError(reason)| folder::damaged(folder, &reason));
        let found = folder::read(folder, found)?;
        Store::run(disk, found, check)
    }

    /// Runs the store that lies on a disk.
    #[cfg(test)]
    pub fn start(disk: Disk, check: Box<dyn Check>) -> Result<Store, DiskError> {
        let found = Found::on(&disk)?;
        Store::run(disk, found, check)
    }

    fn run(disk: Disk, found: Found, mut check: Box<dyn Check>) -> Result<Store, DiskError> {
        let Found { state, tokens, number } = found;
        check.begin(&state);
        let (commands, receiver) = sync_channel(LINE_MAX);
        let shared = Arc::new(Shared {
            revision: watch::Sender::new(state.revision()),
            state: RwLock::new(state),
            recent: Mutex::new(VecDeque::new()),
            tokens: watch::Sender::new(Arc::new(tokens)),
            disk: Arc::new(disk),
        });
        let writer = shared.clone();
        let thread = std::thread::Builder::new().name("store".into());
        thread.spawn(move || write(&writer, &receiver, check, number)).map_err(|error| DiskError(error.to_string()))?;
        Ok(Store { commands, shared })
    }

    /// Carries out a transaction. Once this returns `Ok`, nothing can undo it.
    pub async fn commit(&self, transaction: Transaction) -> Result<Arc<Committed>, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command::Transact(transaction, answer)).map_err(|_| Refusal::Busy)?;
        answered.await.unwrap_or(Err(Refusal::Unavailable("the store has ended".into())))
    }

    /// Instances are told so from now on; None: no longer. Once this returns `Ok`, nothing can undo it.
    pub async fn shift(&self, told: Vec<(Name, Option<Instance>)>) -> Result<Arc<Committed>, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command::Shift(told, answer)).map_err(|_| Refusal::Busy)?;
        answered.await.unwrap_or(Err(Refusal::Unavailable("the store has ended".into())))
    }

    /// Makes or revokes a token. Once this returns `Ok`, nothing can undo it.
    pub async fn change_token(&self, change: TokenChange, author: Author) -> Result<(), TokenRefusal> {
        let (answer, answered) = oneshot::channel();
        let busy = |_| TokenRefusal::Unavailable("too many changes wait; try again".into());
        self.commands.try_send(Command::Token(change, author, answer)).map_err(busy)?;
        answered.await.unwrap_or(Err(TokenRefusal::Unavailable("the store has ended".into())))
    }

    /// Writes down what remains of a drain, as soon as there is time for it.
    pub fn keep_receipt(&self, receipt: String) {
        // Where so much waits, it is not what is lost first.
        let _ = self.commands.try_send(Command::Receipt(receipt));
    }

    /// What remains of the last drains, newest first.
    pub fn receipts(&self, count: usize) -> Result<Vec<Value>, DiskError> {
        self.shared.disk.receipts(count)
    }

    /// Writes down what was refused, as soon as there is time for it.
    pub fn note(&self, attempt: Attempt) {
        // Where so much waits, who was refused is not what is lost first.
        let _ = self.commands.try_send(Command::Note(attempt));
    }

    /// Writes down which documents stand in files.
    pub async fn set_of_files(&self, keys: BTreeSet<Key>) -> Result<(), DiskError> {
        let (answer, answered) = oneshot::channel();
        let busy = |_| DiskError("too many changes wait; try again".into());
        self.commands.try_send(Command::OfFiles(keys, answer)).map_err(busy)?;
        answered.await.unwrap_or(Err(DiskError("it has ended".into())))
    }

    /// The documents that stand in files, as it was written down.
    pub fn of_files(&self) -> Result<BTreeSet<Key>, DiskError> {
        self.shared.disk.of_files()
    }

    /// Everybody who is known, and told with each change of that.
    pub fn tokens(&self) -> watch::Receiver<Arc<Tokens>> {
        self.shared.tokens.subscribe()
    }

    /// The last entries of the audit before one, newest first, with their numbers.
    pub fn audit(&self, before: u64, count: usize) -> Result<Vec<(u64, Value)>, DiskError> {
        self.shared.disk.audit(before, count)
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

/// Whom to tell what became of a command.
enum Answer {
    Transact(oneshot::Sender<Result<Arc<Committed>, Refusal>>, Result<Arc<Committed>, Refusal>),
    Token(oneshot::Sender<Result<(), TokenRefusal>>, Result<(), TokenRefusal>),
    OfFiles(oneshot::Sender<Result<(), DiskError>>, Result<(), DiskError>),
}

impl Answer {
    /// What could not be written did not happen.
    fn fail(&mut self, error: &DiskError) {
        match self {
            Answer::Transact(_, decided) if decided.as_ref().is_ok_and(|committed| committed.is_made()) => {
                *decided = Err(Refusal::Unavailable(error.to_string()));
            }
            Answer::Token(_, decided) if decided.is_ok() => {
                *decided = Err(TokenRefusal::Unavailable(error.to_string()));
            }
            Answer::OfFiles(_, decided) => *decided = Err(error.clone()),
            Answer::Transact(..) | Answer::Token(..) => {}
        }
    }

    fn send(self) {
        // Who went away does not need to know.
        match self {
            Answer::Transact(answer, decided) => drop(answer.send(decided)),
            Answer::Token(answer, decided) => drop(answer.send(decided)),
            Answer::OfFiles(answer, decided) => drop(answer.send(decided)),
        }
    }
}

/// The life of the writer: whoever waits is served in one go.
fn write(shared: &Shared, receiver: &Receiver<Command>, mut check: Box<dyn Check>, mut number: u64) {
    let mut is_failing = false;
    while let Ok(first) = receiver.recv() {
        let mut batch = Vec::new();
        let mut entries = Vec::new();
        let mut answers = Vec::new();
        let state = shared.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut draft = Draft::of(&state);
        let mut tokens = shared.tokens.borrow().clone();
        for command in std::iter::once(first).chain(receiver.try_iter()).take(BATCH_MAX) {
            let time_ms = jiff::Timestamp::now().as_millisecond();
            match command {
                Command::Transact(transaction, answer) => {
                    let decided = draft.decide(transaction, time_ms);
                    let decided = decided.and_then(|committed| draft.take(committed, &mut *check));
                    let made = decided.as_ref().ok().filter(|committed| committed.is_made());
                    batch.extend(made.cloned());
                    entries.extend(made.cloned().map(Entry::Documents));
                    answers.push(Answer::Transact(answer, decided));
                }
                Command::Shift(told, answer) => {
                    let committed = draft.shift(told, time_ms);
                    if committed.is_made() {
                        batch.push(committed.clone());
                        entries.push(Entry::Instances(committed.clone()));
                    }
                    answers.push(Answer::Transact(answer, Ok(committed)));
                }
                Command::Token(change, author, answer) => {
                    let decided = Arc::make_mut(&mut tokens).change(&change).map(|(name, token)| {
                        entries.push(Entry::Token { author, time_ms, revision: draft.revision(), name, token });
                    });
                    answers.push(Answer::Token(answer, decided));
                }
                Command::OfFiles(keys, answer) => {
                    entries.push(Entry::OfFiles(keys));
                    answers.push(Answer::OfFiles(answer, Ok(())));
                }
                Command::Receipt(receipt) => entries.push(Entry::Receipt(receipt)),
                Command::Note(attempt) => entries.push(Entry::Attempt(attempt, time_ms)),
            }
        }
        drop(state);
        let written = if entries.is_empty() {
            Ok(())
        } else {
            number += 1;
            shared.disk.write(&entries, number).or_else(|error| match is_there(&shared.disk, number) {
                true => Ok(()),
                false => Err(error),
            })
        };
        if !entries.is_empty() && std::mem::replace(&mut is_failing, written.is_err()) != is_failing {
            match &written {
                Ok(()) => log::tell("changes can be written again"),
                Err(error) => {
                    log::tell(format_args!("{error}: no change can be made; proxies go on with what they have"))
                }
            }
        }
        if let Err(error) = &written {
            // Nobody has heard of it, so nothing happened.
            let made = batch.iter().rev().filter(|committed| committed.is_of_documents());
            made.for_each(|committed| check.undo(committed));
            answers.iter_mut().for_each(|answer| answer.fail(error));
        } else {
            shared.follow(&batch);
            let is_other = !Arc::ptr_eq(&tokens, &shared.tokens.borrow());
            if is_other {
                shared.tokens.send_replace(tokens);
            }
        }
        answers.into_iter().for_each(Answer::send);
    }
}

/// Whether a write that failed is there all the same: where in it the disk failed decides that, and what is there will be
/// there after a start. A disk that does not tell ends the process: another start finds out, and until then proxies go on
/// without control.
fn is_there(disk: &Disk, number: u64) -> bool {
    let deadline = Instant::now() + IN_DOUBT_MAX;
    loop {
        match disk.last() {
            Ok(last) => return last == number,
            Err(_) if Instant::now() < deadline => std::thread::sleep(IN_DOUBT_PAUSE),
            Err(error) => {
                log::tell(format_args!("{error}: whether the last change was written is not known; ending"));
                std::process::exit(1);
            }
        }
    }
}

impl Shared {
    /// Takes what has been written.
    fn follow(&self, batch: &[Arc<Committed>]) {
        let Some(last) = batch.last() else { return };
        self.state.write().unwrap_or_else(PoisonError::into_inner).follow(batch);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        recent.extend(batch.iter().map(|committed| (now, committed.clone())));
        let surplus = recent.len().saturating_sub(RECENT_MAX);
        recent.drain(..surplus);
        drop(recent);
        self.revision.send_replace(last.revision);
    }
}
