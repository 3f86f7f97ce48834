//! The store on disk: redb, whose transactions survive a crash whole or not at all. Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use config::document::Key;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde_json::{Value, json};

use crate::access::Author;
use crate::store::audit::Attempt;
use crate::store::ledger;
use crate::store::state::{Change, Committed, Expected, Object, State};
use crate::store::token::{Token, Tokens};
use crate::store::trial::Course;

/// Documents as they are: created, changed, text.
pub(super) const OBJECTS: TableDefinition<'_, &str, (u64, u64, &str)> = TableDefinition::new("objects");
/// Documents as they were after a revision; None: removed.
pub(super) const VERSIONS: TableDefinition<'_, (&str, u64), Option<&str>> = TableDefinition::new("versions");
/// Revisions: time, author, message, keys, as JSON.
pub(super) const REVISIONS: TableDefinition<'_, u64, &str> = TableDefinition::new("revisions");
/// What is on trial, under `NOW`, as JSON.
pub(super) const TRIAL: TableDefinition<'_, &str, &str> = TableDefinition::new("trial");
/// The only place there is in it so far.
pub(super) const NOW: &str = "now";
/// What is known of the store itself.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const FORMAT: u64 = 1;

/// Revisions that are remembered.
const REVISIONS_KEPT: u64 = 100_000;
/// Versions of a document that are remembered, beside the one in force.
const VERSIONS_KEPT: usize = 100;

/// Of pages in memory, beside the documents: history and audit are read seldom, and redb would take 1 GiB.
const CACHE_BYTES: usize = 32 << 20;

/// Why the disk did not do as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskError(pub String);

impl fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the store: {}", self.0)
    }
}

impl<E: Into<redb::Error>> From<E> for DiskError {
    fn from(error: E) -> DiskError {
        DiskError(error.into().to_string())
    }
}

/// Where the store lies.
#[derive(Debug, Clone)]
pub enum File {
    /// A file.
    Path(PathBuf),
    /// Nowhere.
    #[cfg(test)]
    Memory,
    /// Where there may be no room.
    #[cfg(test)]
    Faulty(crate::store::faulty::Faulty),
}

/// A revision as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub revision: u64,
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// Who made it.
    pub author: String,
    /// Why.
    pub message: String,
    /// What it changed.
    pub keys: Vec<String>,
}

/// A document as it was after a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The one that changed it.
    pub revision: u64,
    /// None: it was removed.
    pub text: Option<Arc<str>>,
}

/// What is written: each with its entry in the audit.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Documents that changed.
    Documents(Arc<Committed>),
    /// Instances that are told otherwise.
    Instances(Arc<Committed>),
    /// A token that was made, or revoked.
    Token {
        /// Who did it.
        author: Author,
        /// Milliseconds since 1970.
        time_ms: i64,
        /// That of the documents at that time.
        revision: u64,
        /// Its name.
        name: Arc<str>,
        /// None: it is revoked.
        token: Option<Arc<Token>>,
    },
    /// What was refused, and when, in milliseconds since 1970.
    Attempt(Attempt, i64),
    /// What remains of a drain, as JSON.
    Receipt(String),
    /// These documents stand in files, and no others.
    OfFiles(BTreeSet<Key>),
}

/// The open store.
pub struct Disk {
    file: File,
    /// After a write that failed, redb wants to be opened again.
    database: Mutex<Option<Arc<Database>>>,
}

impl Disk {
    /// Opens it; a file that another process has open is an error.
    pub fn open(file: File) -> Result<Disk, DiskError> {
        let database = open(&file)?;
        let format = begin(&database).map_err(|error| match &file {
            File::Path(path) => told(path, error),
            #[cfg(test)]
            _ => error.into(),
        })?;
        if format != FORMAT {
            return Err(DiskError(format!("its format is {format}, and this build knows {FORMAT}")));
        }
        Ok(Disk { file, database: Mutex::new(Some(Arc::new(database))) })
    }

    pub(super) fn database(&self) -> Result<Arc<Database>, DiskError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*database {
            return Ok(database.clone());
        }
        let opened = Arc::new(open(&self.file)?);
        *database = Some(opened.clone());
        Ok(opened)
    }

    /// Everything that is on it.
    pub fn load(&self) -> Result<State, DiskError> {
        let read = self.database()?.begin_read()?;
        let revision = read.open_table(META)?.get("revision")?.map_or(0, |revision| revision.value());
        let mut objects = Vec::new();
        for entry in read.open_table(OBJECTS)?.iter()? {
            let (name, value) = entry?;
            let (created, revision, text) = value.value();
            objects.push(Object { key: key(name.value())?, created, revision, text: text.into() });
        }
        let unread = || DiskError("what is on trial cannot be understood".into());
        let trial = read.open_table(TRIAL)?.get(NOW)?;
        let trial = trial.map(|text| Committed::parse_trial(text.value()).ok_or_else(unread)).transpose()?;
        let instances = ledger::instances(&read)?;
        Ok(State::new(revision, objects, trial).with_instances(instances))
    }

    /// All tokens.
    pub fn tokens(&self) -> Result<Tokens, DiskError> {
        ledger::tokens(&self.database()?.begin_read()?)
    }

    /// The documents that stand in files.
    pub fn of_files(&self) -> Result<BTreeSet<Key>, DiskError> {
        ledger::of_files(&self.database()?.begin_read()?)
    }

    /// The last entries of the audit before one, newest first, with their numbers.
    pub fn audit(&self, before: u64, count: usize) -> Result<Vec<(u64, Value)>, DiskError> {
        ledger::audit(&self.database()?.begin_read()?, before, count)
    }

    /// What remains of the last drains, newest first.
    pub fn receipts(&self, count: usize) -> Result<Vec<Value>, DiskError> {
        ledger::receipts(&self.database()?.begin_read()?, count)
    }

    /// Writes what was decided, all of it or nothing; it is on disk when this returns. After an error it may be there or
    /// not, which `last` tells by the number.
    pub fn write(&self, batch: &[Entry], number: u64) -> Result<(), DiskError> {
        let database = self.database()?;
        let written = write(&database, batch, number);
        if written.is_err() {
            // It does not say whether it can go on: the next write opens it anew, which mends what a crash could leave.
            *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        written
    }

    /// The number of the last write that is there; it is on disk when this returns.
    pub fn last(&self) -> Result<u64, DiskError> {
        let found = self.database().and_then(|database| {
            let write = database.begin_write()?;
            let last = write.open_table(META)?.get("write")?.map_or(0, |last| last.value());
            // What was found may never have been synchronised.
            write.commit()?;
            Ok(last)
        });
        if found.is_err() {
            *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        found
    }

    /// The last revisions before one, newest first.
    pub fn history(&self, before: u64, count: usize) -> Result<Vec<Record>, DiskError> {
        let read = self.database()?.begin_read()?;
        let table = read.open_table(REVISIONS)?;
        let mut records = Vec::new();
        for entry in table.range(..before)?.rev().take(count) {
            let (revision, text) = entry?;
            records.push(record(revision.value(), text.value())?);
        }
        Ok(records)
    }

    /// The versions of a document, newest first.
    pub fn versions(&self, key: &Key, count: usize) -> Result<Vec<Version>, DiskError> {
        let name = key.to_string();
        let read = self.database()?.begin_read()?;
        let table = read.open_table(VERSIONS)?;
        let mut versions = Vec::new();
        for entry in table.range((&*name, 0)..=(&*name, u64::MAX))?.rev().take(count) {
            let (place, text) = entry?;
            versions.push(Version { revision: place.value().1, text: text.value().map(Arc::from) });
        }
        Ok(versions)
    }

    /// What undoes every revision after this one, as far as it is meant.
    pub fn way_back(&self, revision: u64, is_meant: impl Fn(&Key) -> bool) -> Result<Vec<Change>, DiskError> {
        let read = self.database()?.begin_read()?;
        let (revisions, versions) = (read.open_table(REVISIONS)?, read.open_table(VERSIONS)?);
        let last = read.open_table(META)?.get("revision")?.map_or(0, |last| last.value());
        let first = revisions.first()?.map_or(0, |(first, _)| first.value());
        // Between two that are remembered nothing but instances came and went.
        let is_known = revision == 0 || revision >= first || revisions.len()? < REVISIONS_KEPT;
        if revision > last || !is_known {
            return Err(DiskError(format!("revision {revision} is not remembered")));
        }
        let mut names = BTreeMap::new();
        for entry in revisions.range(revision + 1..)? {
            let (number, text) = entry?;
            for name in record(number.value(), text.value())?.keys {
                names.insert(name, ());
            }
        }
        let mut changes = Vec::new();
        for name in names.into_keys() {
            let key = key(&name)?;
            if !is_meant(&key) {
                continue;
            }
            let then = versions.range((&*name, 0)..=(&*name, revision))?.next_back().transpose()?;
            let text = match then {
                Some((_, text)) => text.value().map(Arc::from),
                // It was made later, unless its versions of then are forgotten.
                None => match versions.range((&*name, revision + 1)..=(&*name, u64::MAX))?.count() > VERSIONS_KEPT {
                    true => {
                        return Err(DiskError(format!(
                            "{name} as it was at revision {revision} is not remembered: of each document the last \
                             {VERSIONS_KEPT} versions are (--kind and -n roll back a part)"
                        )));
                    }
                    false => None,
                },
            };
            changes.push(Change { key, text, expected: Expected::Anything });
        }
        Ok(changes)
    }
}

fn open(file: &File) -> Result<Database, DiskError> {
    match file {
        // One that has gone while it was in use is not begun anew.
        File::Path(path) => builder().open(path).map_err(|error| told(path, error.into())),
        #[cfg(test)]
        File::Memory => Ok(Database::builder().create_with_backend(redb::backends::InMemoryBackend::new())?),
        #[cfg(test)]
        File::Faulty(disk) => Ok(Database::builder().create_with_backend(disk.clone())?),
    }
}

/// Makes the tables that are not there, and tells the format. Of another one nothing is touched.
fn begin(database: &Database) -> Result<u64, redb::Error> {
    let write = database.begin_write()?;
    let format = write.open_table(META)?.get("format")?.map_or(FORMAT, |format| format.value());
    if format == FORMAT {
        write.open_table(META)?.insert("format", FORMAT)?;
        write.open_table(OBJECTS)?;
        write.open_table(VERSIONS)?;
        write.open_table(REVISIONS)?;
        write.open_table(TRIAL)?;
        ledger::begin(&write)?;
        write.commit()?;
    }
    Ok(format)
}

/// Makes an empty file one that can be opened.
pub(super) fn create(path: &Path) -> Result<(), DiskError> {
    builder().create(path).map(drop).map_err(|error| told(path, error.into()))
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn told(path: &Path, error: redb::Error) -> DiskError {
    use ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::DatabaseAlreadyOpen => {
            DiskError(format!("{}: it is open already (is control running there?)", path.display()))
        }
        redb::Error::Corrupted(reason) => damaged(path, &reason),
        redb::Error::Io(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => {
            damaged(path, &error.to_string())
        }
        error => DiskError(format!("{}: {error}", path.display())),
    }
}

/// That a file is no store any more, and what to do.
pub(super) fn damaged(path: &Path, reason: &str) -> DiskError {
    DiskError(format!(
        "{} is damaged, or is none: {reason}. Bring it back from a backup, or make another from an export, in a new \
         folder: `evenkeel control import --data FOLDER < EXPORT`",
        path.display()
    ))
}

fn write(database: &Database, batch: &[Entry], number: u64) -> Result<(), DiskError> {
    let write = database.begin_write()?;
    write.open_table(META)?.insert("write", number)?;
    ledger::write(&write, batch)?;
    let revision = batch.iter().filter_map(|entry| match entry {
        Entry::Documents(committed) | Entry::Instances(committed) => Some(committed.revision),
        _ => None,
    });
    if let Some(last) = revision.max() {
        write.open_table(META)?.insert("revision", last)?;
    }
    let batch: Vec<&Committed> = batch
        .iter()
        .filter_map(|entry| if let Entry::Documents(committed) = entry { Some(&**committed) } else { None })
        .collect();
    if !batch.is_empty() {
        let mut objects = write.open_table(OBJECTS)?;
        let mut versions = write.open_table(VERSIONS)?;
        let mut revisions = write.open_table(REVISIONS)?;
        let mut trial = write.open_table(TRIAL)?;
        for committed in &batch {
            match (committed.trial_text(), committed.cause.course) {
                (Some(text), _) => drop(trial.insert(NOW, &*text)?),
                (None, Course::Promotes(_) | Course::TakesBack(_)) => drop(trial.remove(NOW)?),
                (None, _) => {}
            }
            let mut keys = Vec::with_capacity(committed.moved.len());
            for moved in &committed.moved {
                let name = moved.key.to_string();
                match &moved.after {
                    Some(object) => drop(objects.insert(&*name, (object.created, object.revision, &*object.text))?),
                    None => drop(objects.remove(&*name)?),
                }
                versions.insert((&*name, committed.revision), moved.after.as_ref().map(|object| &*object.text))?;
                forget_versions(&mut versions, &name)?;
                keys.push(name);
            }
            let Committed { time_ms, author, message, .. } = committed;
            let record =
                json!({ "time": time_ms, "author": *author.name, "message": **message, "keys": keys }).to_string();
            revisions.insert(committed.revision, &*record)?;
            // Numbers have gaps where instances came and went: so the oldest goes, as soon as there are too many.
            if revisions.len()? > REVISIONS_KEPT {
                revisions.pop_first()?;
            }
        }
    }
    write.commit()?;
    Ok(())
}

fn forget_versions(
    versions: &mut redb::Table<'_, (&'static str, u64), Option<&'static str>>,
    name: &str,
) -> Result<(), DiskError> {
    // One is added at a time, so at most one is too many.
    let surplus = {
        let mut kept = versions.range((name, 0)..=(name, u64::MAX))?.rev().skip(VERSIONS_KEPT + 1);
        kept.next().transpose()?.map(|(place, _)| place.value().1)
    };
    if let Some(revision) = surplus {
        versions.remove((name, revision))?;
    }
    Ok(())
}

fn key(name: &str) -> Result<Key, DiskError> {
    let mut parts = name.splitn(3, '/').map(Arc::from);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(kind), Some(namespace), Some(name)) => Ok(Key { kind, namespace, name }),
        _ => Err(DiskError(format!("{name:?} is no name of a document"))),
    }
}

fn record(revision: u64, text: &str) -> Result<Record, DiskError> {
    let record: Value =
        serde_json::from_str(text).map_err(|error| DiskError(format!("revision {revision}: {error}")))?;
    let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let keys = record["keys"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Ok(Record {
        revision,
        time_ms: record["time"].as_i64().unwrap_or(0),
        author: text("author"),
        message: text("message"),
        keys: keys.collect(),
    })
}
