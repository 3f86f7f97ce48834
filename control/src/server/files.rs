//! Documents that stand in files of control's machine: read at the start and whenever the files change, kept with all
//! others, and changed nowhere else. What is wrong with them is told with file and line, and changes nothing. Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use config::document::{self, Document, Key};
use config::freeze::Purpose;
use config::place::Places;
use config::{Problem, Source};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::access::Author;
use crate::log;
use crate::server::Watch;
use crate::server::check::Checker;
use crate::store::{Cause, Change, Committed, Course, Expected, Frozen, Refusal, Store, Transaction};

/// Where they could not be written, it is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Where a freeze holds them, it is looked again after this at the latest.
const FREEZE_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Problems of one reading that are told.
const TOLD_MAX: usize = 1_000;
/// And of those, shown to whoever asks.
const SHOWN_MAX: usize = 20;

/// What is read, and where it goes.
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    store: Store,
    checker: Arc<Mutex<Checker>>,
    changed: Arc<Notify>,
    /// When they are to be read again though nothing has changed.
    again: Option<Duration>,
    refused: Arc<Refused>,
}

/// What is wrong with files, for whoever asks; as long as something is.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<Option<(SystemTime, Vec<String>)>>);

impl Refused {
    /// Since when they are refused, and all that is wrong, the first of it. None: what they say is kept.
    pub(crate) fn told(&self) -> Option<Value> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, lines) = refused.as_ref()?;
        let since = jiff::Timestamp::try_from(*since).and_then(|time| jiff::Timestamp::from_second(time.as_second()));
        let since = since.map(|time| time.to_string()).unwrap_or_default();
        let first: Vec<&str> =
            lines.iter().take(SHOWN_MAX).map(|line| line.strip_prefix("error: ").unwrap_or(line)).collect();
        Some(json!({ "since": since, "count": lines.len(), "first": first }))
    }

    /// Tells whether they were refused before.
    fn set(&self, lines: Option<Vec<String>>) -> bool {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = refused.as_ref().map(|(since, _)| *since);
        *refused = lines.map(|lines| (since.unwrap_or_else(SystemTime::now), lines));
        since.is_some()
    }
}

/// Why files were not taken. What was there before stays.
struct Trouble {
    /// Each of what is wrong.
    lines: Vec<String>,
    /// When it may be otherwise, without a change of the files.
    again: Option<Duration>,
}

/// What files say.
struct Read {
    sources: Vec<Source>,
    documents: Vec<Document>,
}

impl Files {
    /// Takes files for the first time. Where nothing of them was ever taken, it is an error if they are wrong; else those of
    /// before stay, as while it runs. Without files, documents of earlier ones are like others from now on.
    pub(crate) async fn open(
        paths: Vec<PathBuf>,
        store: Store,
        checker: Arc<Mutex<Checker>>,
        watch: Watch,
    ) -> Result<Files, String> {
        let changed = Arc::new(Notify::new());
        let refused = Arc::default();
        let mut files = Files { paths, store, checker, changed: changed.clone(), again: None, refused };
        let known = files.store.of_files().map_err(|error| error.to_string())?;
        if files.paths.is_empty() {
            let released = if known.is_empty() { Ok(()) } else { files.store.set_of_files(BTreeSet::new()).await };
            return released.map(|()| files).map_err(|error| error.to_string());
        }
        let notice = move || {
            changed.notify_one();
            true
        };
        watch(files.paths.clone(), Box::new(notice)).map_err(|error| format!("files cannot be watched: {error}"))?;
        match files.take().await {
            Err(trouble) if known.is_empty() => Err(trouble.lines.join("\n")),
            Err(trouble) => {
                // Until they are right, what was taken from them is not for others to change.
                let places = known.into_iter().map(|key| (key, "files, which are wrong now".to_owned())).collect();
                files.checker().set_of_files(places);
                files.tell(trouble);
                Ok(files)
            }
            Ok(()) => Ok(files),
        }
    }

    /// What is wrong with them.
    pub(crate) fn refused(&self) -> Arc<Refused> {
        self.refused.clone()
    }

    /// Takes what changes, for as long as it runs.
    pub(crate) async fn follow(mut self) {
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = nap(self.again) => {}
            }
            self.again = None;
            match self.take().await {
                Ok(()) if self.refused.set(None) => log::tell("files are taken again: what they say is kept"),
                Ok(()) => {}
                Err(trouble) => self.tell(trouble),
            }
        }
    }

    fn tell(&mut self, Trouble { lines, again }: Trouble) {
        lines.iter().for_each(log::plain);
        log::tell("files are refused, and what was taken from them before stays");
        self.refused.set(Some(lines));
        self.again = again;
    }

    /// Makes what files say so, all of it or nothing.
    async fn take(&self) -> Result<(), Trouble> {
        let paths = self.paths.clone();
        let read = tokio::task::spawn_blocking(move || read(&paths)).await;
        let read = read.map_err(|error| Trouble::once(vec![error.to_string()]))?.map_err(Trouble::once)?;
        let places: BTreeMap<Key, String> = read
            .documents
            .iter()
            .map(|document| (document.key.clone(), format!("{}:{}", document.file, document.line)))
            .collect();
        let known = self.store.of_files().map_err(|error| Trouble::again(error.to_string()))?;
        let mut all: BTreeSet<Key> = places.keys().cloned().collect();
        let is_same = all == known;
        let gone: Vec<Key> = known.difference(&all).cloned().collect();
        all.extend(known.iter().cloned());
        if !is_same {
            // First both: whatever happens from here on, nothing of them is forgotten.
            self.store.set_of_files(all.clone()).await.map_err(|error| Trouble::again(error.to_string()))?;
        }
        // Nobody else changes what comes, from before it comes.
        let before = self.checker().set_of_files(BTreeMap::new());
        let both = before.iter().chain(&places).map(|(key, place)| (key.clone(), place.clone())).collect();
        self.checker().set_of_files(both);
        match self.store.commit(transaction(&read.documents, gone)).await {
            Ok(committed) => {
                self.checker().set_of_files(places.clone());
                if !is_same {
                    let written = self.store.set_of_files(places.into_keys().collect()).await;
                    written.map_err(|error| Trouble::again(error.to_string()))?;
                }
                self.tell_taken(&committed, &read.sources);
                Ok(())
            }
            Err(refusal) => {
                self.checker().set_of_files(before);
                let trouble = told(refusal, &read.sources);
                match is_same {
                    true => Err(trouble),
                    false => {
                        let written = self.store.set_of_files(known).await;
                        // It is told again with the next reading.
                        Err(Trouble { again: trouble.again.or(written.is_err().then_some(RETRY_AFTER)), ..trouble })
                    }
                }
            }
        }
    }

    fn tell_taken(&self, committed: &Committed, sources: &[Source]) {
        let count = committed.moved.len();
        if count == 0 {
            return;
        }
        let places = Places::of(sources);
        let checker = self.checker();
        for problem in committed.moved.iter().flat_map(|moved| checker.warnings(&moved.key)) {
            log::plain(format_args!("warning: {}", located(problem, &places)));
        }
        let documents = if count == 1 { "document" } else { "documents" };
        let removed = match committed.moved.iter().filter(|moved| moved.after.is_none()).count() {
            0 => String::new(),
            removed => format!(", {removed} of them removed"),
        };
        log::tell(format_args!("revision {}: {count} {documents} of files changed{removed}", committed.revision));
    }

    fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trouble {
    fn once(lines: Vec<String>) -> Trouble {
        Trouble { lines, again: None }
    }

    fn again(line: String) -> Trouble {
        Trouble { lines: vec![format!("error: {line}")], again: Some(RETRY_AFTER) }
    }
}

/// What files say, or all that is wrong with each of them.
fn read(paths: &[PathBuf]) -> Result<Read, Vec<String>> {
    let error = |line: &dyn std::fmt::Display| format!("error: {line}");
    let sources = config::sources(paths).map_err(|all| all.iter().map(|line| error(line)).collect::<Vec<_>>())?;
    match document::documents(&sources) {
        Ok(documents) => {
            // A full disk, or an editor at work, leaves such a file: that all of it shall go, the absence of the file says.
            let written: BTreeSet<&str> = documents.iter().map(|document| &*document.file).collect();
            let is_empty = |source: &&Source| !written.contains(&*source.name);
            let empty: Vec<String> = sources
                .iter()
                .filter(is_empty)
                .take(TOLD_MAX)
                .map(|source| error(&format!("{}: holds no document (remove the file or write a rule)", source.name)))
                .collect();
            if empty.is_empty() { Ok(Read { sources, documents }) } else { Err(empty) }
        }
        Err(problems) => Err(problems.iter().take(TOLD_MAX).map(|problem| error(problem)).collect()),
    }
}

fn transaction(documents: &[Document], gone: Vec<Key>) -> Transaction {
    let is = |document: &Document| Change {
        key: document.key.clone(),
        text: Some(document.value.to_string().into()),
        expected: Expected::Anything,
    };
    let is_not = |key: Key| Change { key, text: None, expected: Expected::Anything };
    Transaction {
        changes: documents.iter().map(is).chain(gone.into_iter().map(is_not)).collect(),
        author: Author::files(),
        message: "".into(),
        cause: Cause { purpose: Purpose::Change, breaks_glass: false, course: Course::Straight },
    }
}

fn told(refusal: Refusal, sources: &[Source]) -> Trouble {
    let places = Places::of(sources);
    let at = |key: &Key| {
        places.find(&key.to_string(), "").map_or_else(|| key.to_string(), |(file, line)| format!("{file}:{line}"))
    };
    match refusal {
        Refusal::Wrong(problems) => {
            let lines = problems.iter().take(TOLD_MAX).map(|problem| format!("error: {}", located(problem, &places)));
            Trouble::once(lines.collect())
        }
        Refusal::Frozen(frozen) => {
            let line = |one: &Frozen| {
                let until = jiff::Timestamp::from_millisecond(one.until_ms).map(|time| time.to_string());
                let until = until.unwrap_or_default();
                format!(
                    "error: {}: {} must not be changed before {until}: ChangeFreeze {}",
                    at(&one.key),
                    one.key,
                    one.by
                )
            };
            let now_ms = jiff::Timestamp::now().as_millisecond();
            let left = frozen.iter().map(|one| one.until_ms - now_ms).max().unwrap_or(0);
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
            let again = Some(left.clamp(RETRY_AFTER, FREEZE_AFTER_MAX));
            Trouble { lines: frozen.iter().take(TOLD_MAX).map(line).collect(), again }
        }
        Refusal::Busy => Trouble::again("too many changes wait".into()),
        Refusal::Unavailable(reason) => Trouble::again(reason),
        // They expect nothing, are read as documents that are there once, and are not told from themselves.
        Refusal::Conflict { key, .. } | Refusal::Twice(key) => Trouble::again(format!("{key} cannot be taken")),
        Refusal::OnTrial { revision, author } => {
            Trouble::again(format!("they wait for the end of the canary of revision {revision}, which {author} began"))
        }
        Refusal::NotOnTrial(_) | Refusal::OfFiles(_) => Trouble::again("files cannot be taken".into()),
    }
}

/// A problem where people find it: control calls a document by its name.
fn located(problem: &Problem, places: &Places) -> String {
    match places.find(&problem.file, &problem.field) {
        Some((file, line)) => Problem { file: file.into(), line, ..problem.clone() }.to_string(),
        None => problem.to_string(),
    }
}

async fn nap(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
