//! All of a store as lines of JSON, and a store of such lines: for moving, and for backups. The store that it is about is
//! run by nobody at that time. Cold.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use config::document::{Key, key_of};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction};
use serde_json::{Value, json};

use crate::registry::{Instance, Name};
use crate::store::disk::{Disk, DiskError, FORMAT, META, NOW, OBJECTS, REVISIONS, TRIAL, VERSIONS};
use crate::store::folder;
use crate::store::ledger::{AUDIT, FILES, INSTANCES, REFUSED, TOKENS};
use crate::store::state::Committed;
use crate::store::token::Token;

/// Of one line: a document of 32 MiB, in which every byte is escaped.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Writes everything that is in the store of a folder, and tells how many lines that were.
pub fn export(folder: &Path, out: &mut dyn Write) -> Result<u64, DiskError> {
    let disk = folder::open(folder)?;
    folder::read(folder, || put(&disk, out))
}

/// Makes the store of a folder, in which there is none so far or one without anything in it, from what was written; all
/// of it or nothing.
pub fn import(folder: &Path, input: &mut dyn BufRead) -> Result<u64, DiskError> {
    match folder::is_there(folder)? {
        true => take(&*folder::open(folder)?.database()?, input),
        false => folder::begin(folder, |disk| take(&*disk.database()?, input)),
    }
}

/// Makes an empty store in a folder that has none.
pub fn begin(folder: &Path) -> Result<(), DiskError> {
    folder::begin(folder, |_| Ok(()))
}

fn put(disk: &Disk, out: &mut dyn Write) -> Result<u64, DiskError> {
    let read = disk.database()?.begin_read()?;
    let mut lines = Lines { out, count: 0 };
    let revision = read.open_table(META)?.get("revision")?.map_or(0, |revision| revision.value());
    lines.add(&json!({ "store": "evenkeel", "format": FORMAT, "revision": revision }))?;
    for entry in read.open_table(OBJECTS)?.iter()? {
        let (name, value) = entry?;
        let (created, revision, text) = value.value();
        let document = parsed(text)?;
        lines.add(&json!({ "object": name.value(), "created": created, "revision": revision, "is": document }))?;
    }
    for entry in read.open_table(VERSIONS)?.iter()? {
        let (place, text) = entry?;
        let (name, revision) = place.value();
        let document = text.value().map(parsed).transpose()?;
        lines.add(&json!({ "version": name, "revision": revision, "is": document }))?;
    }
    for entry in read.open_table(TOKENS)?.iter()? {
        let (name, text) = entry?;
        lines.add(&json!({ "token": name.value(), "is": parsed(text.value())? }))?;
    }
    for (word, table) in [("history", REVISIONS), ("audit", AUDIT), ("refused", REFUSED)] {
        for entry in read.open_table(table)?.iter()? {
            let (number, text) = entry?;
            lines.add(&json!({ word: number.value(), "is": parsed(text.value())? }))?;
        }
    }
    for entry in read.open_table(TRIAL)?.iter()? {
        let (place, text) = entry?;
        lines.add(&json!({ "trial": place.value(), "is": parsed(text.value())? }))?;
    }
    for entry in read.open_table(INSTANCES)?.iter()? {
        let (name, text) = entry?;
        lines.add(&json!({ "instance": name.value(), "is": parsed(text.value())? }))?;
    }
    for entry in read.open_table(FILES)?.iter()? {
        lines.add(&json!({ "file": entry?.0.value() }))?;
    }
    let count = lines.count;
    lines.add(&json!({ "end": count }))?;
    lines.out.flush().map_err(|error| DiskError(error.to_string()))?;
    Ok(count + 1)
}

fn take(database: &Database, input: &mut dyn BufRead) -> Result<u64, DiskError> {
    let write = database.begin_write()?;
    let is_empty = write.open_table(META)?.get("revision")?.is_none()
        && write.open_table(TOKENS)?.is_empty()?
        && write.open_table(AUDIT)?.is_empty()?
        && write.open_table(REFUSED)?.is_empty()?;
    if !is_empty {
        return Err(DiskError("there is something in it already, and it is imported into an empty one only".into()));
    }
    let (mut count, mut revision) = (0, None);
    let mut line = Vec::new();
    loop {
        let wrong = |reason: &dyn std::fmt::Display| DiskError(format!("line {}: {reason}", count + 1));
        line.clear();
        let length = (&mut *input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if length.map_err(|error| wrong(&error))? == 0 {
            return Err(wrong(&"it breaks off; nothing was imported"));
        }
        let value: Value = serde_json::from_slice(&line).map_err(|error| wrong(&error))?;
        match (revision, value["end"].as_u64()) {
            (None, _) => revision = Some(head(&value).map_err(|reason| wrong(&reason))?),
            (Some(_), Some(end)) if end == count => break,
            (Some(_), Some(end)) => return Err(wrong(&format!("{count} lines came, and {end} were written"))),
            (Some(revision), None) => row(&write, revision, &value).map_err(|DiskError(reason)| wrong(&reason))?,
        }
        count += 1;
    }
    if let Some(revision @ 1..) = revision {
        write.open_table(META)?.insert("revision", revision)?;
    }
    write.commit()?;
    Ok(count + 1)
}

/// What the first line says of all others: the last revision.
fn head(value: &Value) -> Result<u64, String> {
    if value["store"] != "evenkeel" {
        return Err("it is no export of a store".into());
    }
    match (value["format"].as_u64(), value["revision"].as_u64()) {
        (Some(FORMAT), Some(revision)) => Ok(revision),
        _ => Err(format!("its format is {}, and this build knows {FORMAT}", value["format"])),
    }
}

/// Writes one line where it belongs.
fn row(write: &WriteTransaction, last: u64, value: &Value) -> Result<(), DiskError> {
    let wrong = |reason: &str| DiskError(reason.to_owned());
    let word = |field: &str| value[field].as_str();
    let number = |field: &str| value[field].as_u64();
    let is = &value["is"];
    let revision = || {
        number("revision").filter(|revision| (1..=last).contains(revision)).ok_or_else(|| wrong("revision is wrong"))
    };
    let named = |name: &str| match Key::parse(name) {
        Some(key) if is.is_null() || key_of(is).as_ref() == Some(&key) => Ok(()),
        _ => Err(wrong("the document is not what it is called")),
    };
    if let Some(name) = word("object") {
        named(name)?;
        let created = number("created").ok_or_else(|| wrong("created is missing"))?;
        write.open_table(OBJECTS)?.insert(name, (created, revision()?, &*is.to_string()))?;
    } else if let Some(name) = word("version") {
        named(name)?;
        let text = (!is.is_null()).then(|| is.to_string());
        write.open_table(VERSIONS)?.insert((name, revision()?), text.as_deref())?;
    } else if let Some(name) = word("token") {
        let token = Token::parse(&is.to_string()).filter(|token| *token.identity.name == *name);
        token.ok_or_else(|| wrong("it is no token"))?;
        write.open_table(TOKENS)?.insert(name, &*is.to_string())?;
    } else if let Some(place) = word("trial") {
        let text = is.to_string();
        Some(place)
            .filter(|place| *place == NOW)
            .and_then(|_| Committed::parse_trial(&text))
            .ok_or_else(|| wrong("it is nothing that could be on trial"))?;
        write.open_table(TRIAL)?.insert(place, &*text)?;
    } else if let Some(name) = word("instance") {
        let text = is.to_string();
        Name::parse(name).zip(Instance::parse(&text)).ok_or_else(|| wrong("it is no instance"))?;
        write.open_table(INSTANCES)?.insert(name, &*text)?;
    } else if let Some(name) = word("file") {
        Key::parse(name).ok_or_else(|| wrong("it is no name of a document"))?;
        write.open_table(FILES)?.insert(name, ())?;
    } else if let Some(number) = number("history").filter(|number| (1..=last).contains(number)) {
        write.open_table(REVISIONS)?.insert(number, &*is.to_string())?;
    } else if let Some(number) = number("audit") {
        write.open_table(AUDIT)?.insert(number, &*is.to_string())?;
    } else if let Some(number) = number("refused") {
        write.open_table(REFUSED)?.insert(number, &*is.to_string())?;
    } else {
        return Err(wrong("it is nothing of a store"));
    }
    Ok(())
}

/// Lines on their way.
struct Lines<'o> {
    out: &'o mut dyn Write,
    count: u64,
}

impl Lines<'_> {
    fn add(&mut self, value: &Value) -> Result<(), DiskError> {
        self.count += 1;
        writeln!(self.out, "{value}").map_err(|error| DiskError(error.to_string()))
    }
}

fn parsed(text: &str) -> Result<Value, DiskError> {
    serde_json::from_str(text).map_err(|error| DiskError(format!("{error} in {text:?}")))
}
