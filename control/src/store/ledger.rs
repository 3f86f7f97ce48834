//! Tokens, the audit, instances, and which documents stand in files, on disk: tables of the same file as the documents, so that what
//! belongs together is written together. Cold.

use std::collections::BTreeSet;

use config::document::Key;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde_json::Value;

use crate::registry::{Instance, Name};
use crate::store::audit;
use crate::store::disk::{DiskError, Entry};
use crate::store::token::{Token, Tokens};

/// Tokens by name, as JSON.
pub(super) const TOKENS: TableDefinition<'_, &str, &str> = TableDefinition::new("tokens");
/// What was changed, in order, as JSON.
pub(super) const AUDIT: TableDefinition<'_, u64, &str> = TableDefinition::new("audit");
/// What was tried in vain, in the same order. Apart, so that whoever tries a lot does not push out what was changed.
pub(super) const REFUSED: TableDefinition<'_, u64, &str> = TableDefinition::new("refused");

/// Documents that stand in files of control's machine.
pub(super) const FILES: TableDefinition<'_, &str, ()> = TableDefinition::new("files");

/// Instances that callers are told of, as JSON, by `namespace/service/name`. What was is nobody's concern: there is no
/// history of them.
pub(super) const INSTANCES: TableDefinition<'_, &str, &str> = TableDefinition::new("instances");

/// What remains of drains, in order, as JSON.
pub(super) const RECEIPTS: TableDefinition<'_, u64, &str> = TableDefinition::new("receipts");

/// Drains that are remembered.
const RECEIPTS_KEPT: u64 = 10_000;
/// Changes that are remembered.
const AUDIT_KEPT: u64 = 100_000;
/// Attempts that are remembered.
const REFUSED_KEPT: u64 = 10_000;

/// Makes the tables.
pub(super) fn begin(write: &WriteTransaction) -> Result<(), redb::Error> {
    write.open_table(TOKENS)?;
    write.open_table(AUDIT)?;
    write.open_table(REFUSED)?;
    write.open_table(FILES)?;
    write.open_table(INSTANCES)?;
    write.open_table(RECEIPTS)?;
    Ok(())
}

/// All tokens.
pub(super) fn tokens(read: &ReadTransaction) -> Result<Tokens, DiskError> {
    let mut tokens = Vec::new();
    for entry in read.open_table(TOKENS)?.iter()? {
        let (name, text) = entry?;
        let token = Token::parse(text.value());
        tokens.push(token.ok_or_else(|| DiskError(format!("token {:?} cannot be understood", name.value())))?);
    }
    Ok(Tokens::of(tokens))
}

/// All instances that callers are told of.
pub(super) fn instances(read: &ReadTransaction) -> Result<Vec<(Name, Instance)>, DiskError> {
    let mut instances = Vec::new();
    for entry in read.open_table(INSTANCES)?.iter()? {
        let (name, text) = entry?;
        let found = Name::parse(name.value()).zip(Instance::parse(text.value()));
        instances.push(found.ok_or_else(|| DiskError(format!("instance {:?} cannot be understood", name.value())))?);
    }
    Ok(instances)
}

/// The documents that stand in files.
pub(super) fn of_files(read: &ReadTransaction) -> Result<BTreeSet<Key>, DiskError> {
    let mut keys = BTreeSet::new();
    for entry in read.open_table(FILES)?.iter()? {
        let (name, _) = entry?;
        let no_name = || DiskError(format!("{:?} is no name of a document", name.value()));
        keys.insert(Key::parse(name.value()).ok_or_else(no_name)?);
    }
    Ok(keys)
}

/// Writes the tokens of these entries, and what the audit says of all of them.
pub(super) fn write(write: &WriteTransaction, entries: &[Entry]) -> Result<(), DiskError> {
    let (mut tokens, mut audit, mut refused) =
        (write.open_table(TOKENS)?, write.open_table(AUDIT)?, write.open_table(REFUSED)?);
    let mut number = last(&audit)?.max(last(&refused)?);
    for entry in entries {
        number += 1;
        match entry {
            Entry::Documents(committed) => append(&mut audit, number, &audit::of_documents(committed), AUDIT_KEPT)?,
            Entry::Token { author, time_ms, revision, name, token } => {
                match token {
                    Some(token) => drop(tokens.insert(&**name, &*token.text())?),
                    None => drop(tokens.remove(&**name)?),
                }
                let told = audit::of_token(author, *time_ms, *revision, name, token.as_deref());
                append(&mut audit, number, &told, AUDIT_KEPT)?;
            }
            Entry::OfFiles(keys) => {
                let mut files = write.open_table(FILES)?;
                files.retain(|_, ()| false)?;
                for key in keys {
                    files.insert(&*key.to_string(), ())?;
                }
            }
            // They are told where they are asked for, and are nobody's doing.
            Entry::Instances(committed) => {
                let mut instances = write.open_table(INSTANCES)?;
                for shift in &committed.shifts {
                    let name = shift.name.to_string();
                    match &shift.after {
                        Some(instance) => drop(instances.insert(&*name, &*instance.text())?),
                        None => drop(instances.remove(&*name)?),
                    }
                }
            }
            Entry::Receipt(receipt) => {
                let mut receipts = write.open_table(RECEIPTS)?;
                let number = last(&receipts)? + 1;
                receipts.insert(number, &**receipt)?;
                if redb::ReadableTableMetadata::len(&receipts)? > RECEIPTS_KEPT {
                    receipts.pop_first()?;
                }
            }
            Entry::Attempt(attempt, time_ms) => {
                append(&mut refused, number, &audit::of_attempt(attempt, *time_ms), REFUSED_KEPT)?;
            }
        }
    }
    Ok(())
}

/// What remains of the last drains, newest first.
pub(super) fn receipts(read: &ReadTransaction, count: usize) -> Result<Vec<Value>, DiskError> {
    let mut found = Vec::new();
    for entry in read.open_table(RECEIPTS)?.iter()?.rev().take(count) {
        found.push(serde_json::from_str(entry?.1.value()).unwrap_or_default());
    }
    Ok(found)
}

/// The last entries of the audit before one, newest first, with their numbers.
pub(super) fn audit(read: &ReadTransaction, before: u64, count: usize) -> Result<Vec<(u64, Value)>, DiskError> {
    let mut found = Vec::new();
    for table in [AUDIT, REFUSED] {
        for entry in read.open_table(table)?.range(..before)?.rev().take(count) {
            let (number, text) = entry?;
            found.push((number.value(), serde_json::from_str(text.value()).unwrap_or_default()));
        }
    }
    found.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.truncate(count);
    Ok(found)
}

fn last(table: &Table<'_, u64, &'static str>) -> Result<u64, DiskError> {
    Ok(table.last()?.map_or(0, |(number, _)| number.value()))
}

fn append(table: &mut Table<'_, u64, &'static str>, number: u64, entry: &Value, kept: u64) -> Result<(), DiskError> {
    table.insert(number, &*entry.to_string())?;
    // Numbers have gaps where the other table has an entry: so the oldest goes, as soon as there are too many.
    if redb::ReadableTableMetadata::len(table)? > kept {
        table.pop_first()?;
    }
    Ok(())
}
