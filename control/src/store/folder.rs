//! The folder of a store: whether there is one, may be one, and what is told of one that cannot be read.
//!
//! The store is the first thing that is made in the folder, and appears whole or not at all. So a start that was cut
//! short leaves either nothing or a store, and whoever finds the CA without a store has lost one: proxies would be told
//! that there are no rules. Cold.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::store::disk::{self, Disk, DiskError, File};

/// What control makes in the folder when it has a store.
const LATER: [&str; 4] = ["ca.key", "ca.crt", "admin.token", "connected"];

/// Opens the store of a folder; at the first start there it begins one.
pub(super) fn open_or_begin(folder: &Path) -> Result<Disk, DiskError> {
    if !is_there(folder)? {
        let later: Vec<&str> = LATER.into_iter().filter(|name| folder.join(name).exists()).collect();
        if !later.is_empty() {
            return Err(lost(folder, &later));
        }
        begin(folder, |_| Ok(()))?;
    }
    read(folder, || Disk::open(File::Path(file(folder))))
}

/// Opens the store of a folder that has one.
pub(super) fn open(folder: &Path) -> Result<Disk, DiskError> {
    match is_there(folder)? {
        true => read(folder, || Disk::open(File::Path(file(folder)))),
        false => Err(DiskError(format!("there is none in {}", folder.display()))),
    }
}

/// Whether a folder has a store. An empty file is none.
pub(super) fn is_there(folder: &Path) -> Result<bool, DiskError> {
    let file = file(folder);
    match fs::metadata(&file) {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(&file, &error)),
    }
}

/// Makes the store of a folder that has none, with what is filled in: all of it or nothing. Readable for nobody else.
pub(super) fn begin<T>(folder: &Path, fill: impl FnOnce(&Disk) -> Result<T, DiskError>) -> Result<T, DiskError> {
    fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    let lock = fs::File::open(folder).map_err(|error| failed(folder, &error))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
        return Err(DiskError(format!("{}: another process begins one there", folder.display())));
    }
    if is_there(folder)? {
        return Err(DiskError(format!("there is one in {} already", folder.display())));
    }
    let (file, next) = (file(folder), folder.join("store.next"));
    // What a start that was cut short left behind.
    let _ = fs::remove_file(&next);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(&next).map_err(|error| failed(&next, &error))?;
    let filled = disk::create(&next).and_then(|()| fill(&Disk::open(File::Path(next.clone()))?));
    let filled = filled.inspect_err(|_| drop(fs::remove_file(&next)))?;
    fs::rename(&next, &file).and_then(|()| lock.sync_all()).map_err(|error| failed(&file, &error))?;
    Ok(filled)
}

/// Reads what is in a store. Where bytes are not what was written, some of it cannot even be an error: redb panics.
pub(super) fn read<T>(folder: &Path, read: impl FnOnce() -> Result<T, DiskError>) -> Result<T, DiskError> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let done = catch_unwind(AssertUnwindSafe(read));
    set_hook(hook);
    done.unwrap_or_else(|_| Err(damaged(folder, "what is in it makes no sense")))
}

/// That what is in a store is not what was written.
pub(super) fn damaged(folder: &Path, reason: &str) -> DiskError {
    disk::damaged(&file(folder), reason)
}

fn file(folder: &Path) -> PathBuf {
    folder.join("store.redb")
}

fn lost(folder: &Path, later: &[&str]) -> DiskError {
    let (file, folder) = (file(folder), folder.display());
    let how = if file.exists() { "is empty" } else { "is not there" };
    DiskError(format!(
        "{} {how}, and {} of an earlier start {}: is the disk mounted? Bring it back from a backup, or from an export \
         with `evenkeel control import --data {folder} < EXPORT`; `evenkeel control new --data {folder}` begins with \
         nothing, which takes all rules from proxies",
        file.display(),
        later.join(", "),
        if later.len() == 1 { "is" } else { "are" },
    ))
}

fn failed(path: &Path, error: &io::Error) -> DiskError {
    DiskError(format!("{}: {error}", path.display()))
}
