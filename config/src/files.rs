//! From paths to bytes: which files of a directory count, and how much of them is read. What the bytes mean
//! is `reader`'s business, watching files the data plane's. Cold.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::tree::FILE_BYTES_MAX;

/// Files of one configuration.
const FILES_MAX: usize = 10_000;

/// The bytes of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Stands before the line in problems.
    pub name: Arc<str>,
    /// YAML or JSON, in UTF-8.
    pub bytes: Vec<u8>,
}

/// What was found at paths.
pub(crate) struct Gathered {
    /// The files that were read or tried, in order.
    pub files: Vec<PathBuf>,
    /// The bytes of those that could be read.
    pub sources: Vec<Source>,
    /// Files and directories that could not, with the reason.
    pub failures: Vec<(Arc<str>, String)>,
}

/// Reads files and the `.yaml`, `.yml` and `.json` files of directories, in the order of their names.
/// Directories are not descended into, and dot files are passed over, as in a mounted ConfigMap.
pub(crate) fn gather(paths: &[PathBuf]) -> Gathered {
    let mut failures = Vec::new();
    let files = list(paths, &mut failures);
    let mut sources = Vec::with_capacity(files.len());
    for file in &files {
        match read_bounded(file) {
            Ok(bytes) => sources.push(Source { name: name(file), bytes }),
            Err(error) => failures.push((name(file), format!("cannot be read: {error}"))),
        }
    }
    Gathered { files, sources, failures }
}

/// The bytes of files, and of those of directories that count; or everything that cannot be read, as `FILE: reason`.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Vec<String>> {
    let found = gather(paths);
    match found.failures.is_empty() {
        true => Ok(found.sources),
        false => Err(found.failures.iter().map(|(file, reason)| format!("{file}: {reason}")).collect()),
    }
}

fn list(paths: &[PathBuf], failures: &mut Vec<(Arc<str>, String)>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match list_directory(path) {
            Ok(found) if found.is_empty() => {
                failures.push((name(path), "holds no .yaml, .yml or .json file".to_owned()));
            }
            Ok(found) => files.extend(found),
            Err(error) => failures.push((name(path), format!("cannot be read: {error}"))),
        }
    }
    let mut seen = BTreeSet::new();
    files.retain(|file| seen.insert(file.clone()));
    if files.len() > FILES_MAX {
        failures.push((name(&files[FILES_MAX]), format!("is one file too many: {FILES_MAX} are read at most")));
        files.truncate(FILES_MAX);
    }
    files
}

fn list_directory(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_rules =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|e| extension == *e));
        // `is_dir` follows links: a ConfigMap's files are links into its hidden `..data`.
        if !is_hidden && is_rules && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// One byte beyond the bound is enough to know that a file is too large.
fn read_bounded(file: &Path) -> std::io::Result<Vec<u8>> {
    // Opening a named pipe would wait for a writer that may never come.
    if !fs::metadata(file)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn name(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}
