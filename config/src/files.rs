//! The entry points: from paths to bytes ([`load`]) and from bytes to a [`Snapshot`] ([`read`]). Watching
//! files is the data plane's business. Cold; `read` is Pure.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compile::compile;
use crate::model::{self, Documents};
use crate::problem::{Place, Problem, Problems};
use crate::snapshot::Snapshot;
use crate::tree::{self, FILE_BYTES_MAX};

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

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What the data plane runs on.
    pub snapshot: Snapshot,
    /// What is hardly meant as it stands.
    pub warnings: Vec<Problem>,
}

/// What became of files.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, or everything that is wrong with it, warnings among them.
    pub result: Result<Checked, Vec<Problem>>,
    /// The files that were read or tried, in order.
    pub files: Vec<PathBuf>,
}

/// Reads files and the `.yaml`, `.yml` and `.json` files of directories, in the order of their names.
/// Directories are not descended into, and dot files are passed over, as in a mounted ConfigMap.
pub fn load(paths: &[PathBuf]) -> Loaded {
    let mut failures = Vec::new();
    let files = list(paths, &mut failures);
    let mut sources = Vec::with_capacity(files.len());
    for file in &files {
        match read_bounded(file) {
            Ok(bytes) => sources.push(Source { name: name(file), bytes }),
            Err(error) => failures.push((name(file), format!("cannot be read: {error}"))),
        }
    }
    Loaded { result: assemble(&sources, failures), files }
}

/// Turns the bytes of files into a configuration, or into everything that is wrong with them.
pub fn read(sources: &[Source]) -> Result<Checked, Vec<Problem>> {
    assemble(sources, Vec::new())
}

fn assemble(sources: &[Source], failures: Vec<(Arc<str>, String)>) -> Result<Checked, Vec<Problem>> {
    let mut problems = Problems::default();
    for (file, reason) in failures {
        let place = Place { file: problems.open(file), ..Place::default() };
        problems.error(place, "", reason);
    }
    let mut documents = Documents::default();
    for source in sources {
        read_source(source, &mut documents, &mut problems);
    }
    // With documents missing, every reference to them would look wrong: one kind of mistake at a time.
    let snapshot = match problems.has_errors() {
        true => Snapshot { binds: Vec::new(), clusters: Vec::new() },
        false => compile(&documents, &mut problems),
    };
    match problems.has_errors() {
        true => Err(problems.into_sorted()),
        false => Ok(Checked { snapshot, warnings: problems.into_sorted() }),
    }
}

fn read_source(source: &Source, documents: &mut Documents, problems: &mut Problems) {
    let file = problems.open(source.name.clone());
    let Some(text) = tree::decode_utf8(&source.bytes, file, problems) else {
        return;
    };
    let had_errors = problems.has_errors();
    // A document without content, as between two `---`, says nothing; a file of nothing else is an accident,
    // such as an editor's half-done save.
    let mut is_empty = true;
    for part in tree::split(text) {
        let nodes = tree::parse(part, file, problems);
        for node in nodes.iter().filter(|node| !node.is_null()) {
            is_empty = false;
            model::read(node, documents, problems);
        }
    }
    if is_empty && problems.has_errors() == had_errors {
        let place = Place { file, ..Place::default() };
        problems.error_with_hint(place, "", "holds no document", "remove the file or write a rule");
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
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn name(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}
