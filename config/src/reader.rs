//! The entry points: from files or their bytes to a [`Snapshot`], or to everything that is wrong with them.
//! A [`Reader`] that is kept reads again only the documents that changed. Cold; apart from `load` Pure.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compile::{Kept, Subject, compile};
use crate::files::{self, Source};
use crate::model::{self, Documents};
use crate::problem::{Origins, Place, Problem, Problems, Severity};
use crate::sidecar::{Called, Sidecar};
use crate::snapshot::Snapshot;
use crate::tree;

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

/// Loads files and directories once; see [`Reader::load`].
pub fn load(paths: &[PathBuf]) -> Loaded {
    Reader::default().load(paths)
}

/// Reads the bytes of files once; see [`Reader::read`].
pub fn read(sources: &[Source]) -> Result<Checked, Vec<Problem>> {
    Reader::default().read(sources)
}

/// Readings in which a document may be missing before it is forgotten: while files are half-written, or where different
/// parts of a whole are read in turn.
const READINGS_KEPT: u64 = 4;
const PARTS_KEPT: u64 = 2_000;
/// Documents that are remembered for other parts than the last ones.
const PARTS_DOCUMENTS_MAX: usize = 50_000;

/// Reads configurations one after the other. Documents, regular expressions and tables of consistent hashing that
/// stay the same cost next to nothing the second time; what comes out is the same as with a new one.
#[derive(Debug, Default)]
pub struct Reader {
    known: HashMap<Box<str>, Known>,
    origins: Origins,
    kept: Kept,
    reading: u64,
    origin: Origin,
    subject: Subject,
    reads_parts: bool,
}

/// What was read, without any problem, of one part of a file.
#[derive(Debug)]
struct Known {
    origin: u32,
    documents: Documents,
    /// The last reading that met it.
    reading: u64,
}

/// Whose documents are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// People's: all that is known of a Service stands in its document.
    #[default]
    Files,
    /// Those that control sends: it tells endpoints apart from their Services.
    Control,
    /// Those that control keeps: instances may speak for themselves.
    Store,
}

impl Reader {
    /// A reader of such documents.
    pub fn new(origin: Origin) -> Reader {
        Reader { origin, ..Reader::default() }
    }

    /// The same for a Service's instance, in place of Gateways.
    pub fn beside(self, sidecar: Sidecar) -> Reader {
        Reader { subject: Subject::Sidecar { sidecar, called: None }, ..self }
    }

    /// From now on a sidecar may call only these Services of those that are there.
    pub fn calls(&mut self, services: Called) {
        if let Subject::Sidecar { called, .. } = &mut self.subject {
            *called = Some(services);
        }
    }

    /// A reader that is given different parts of a whole in turn, each of up to two thousand at least once in that many
    /// readings.
    pub fn of_parts() -> Reader {
        Reader { reads_parts: true, origin: Origin::Store, ..Reader::default() }
    }

    /// Reads files and the `.yaml`, `.yml` and `.json` files of directories, in the order of their names.
    /// Directories are not descended into, and dot files are passed over, as in a mounted ConfigMap.
    pub fn load(&mut self, paths: &[PathBuf]) -> Loaded {
        let found = files::gather(paths);
        Loaded { result: self.assemble(&found.sources, &found.failures), files: found.files }
    }

    /// Turns the bytes of files into a configuration, or into everything that is wrong with them.
    pub fn read(&mut self, sources: &[Source]) -> Result<Checked, Vec<Problem>> {
        self.assemble(sources, &[])
    }

    fn assemble(&mut self, sources: &[Source], failures: &[(Arc<str>, String)]) -> Result<Checked, Vec<Problem>> {
        self.reading += 1;
        let mut problems = Problems::new(std::mem::take(&mut self.origins));
        let mut documents = Documents::default();
        let mut passing = Vec::new();
        for (file, reason) in failures {
            let origin = problems.origins.open(file, 0);
            problems.error(Place::of(origin), "", reason.as_str());
            passing.push(origin);
        }
        for source in sources {
            self.read_source(source, &mut documents, &mut passing, &mut problems);
        }
        // With documents missing, every reference to them would look wrong: one kind of mistake at a time.
        let snapshot = match problems.has_errors() {
            true => Snapshot::default(),
            false => compile(&documents, self.origin, &self.subject, &mut self.kept, &mut problems),
        };
        let stranger = self.stranger(&documents).filter(|_| !problems.has_errors());
        let is_refused = problems.has_errors() || stranger.is_some();
        let (mut list, origins) = problems.into_sorted(sources.iter().map(|source| &source.name));
        self.origins = origins;
        self.forget(passing);
        if self.origin == Origin::Control {
            // A proxy gets its own Gateway only, and the Services that it sends to: what a policy says of others is there for
            // others.
            let is_elsewhere = |problem: &Problem| {
                let Some(missing) = problem.missing() else { return false };
                let is_meant = *missing.kind == *"Gateway" || problem.is_about_attachment();
                is_meant && !documents.has(&missing)
            };
            list.retain(|problem| problem.severity == Severity::Error || !is_elsewhere(problem));
        }
        list.extend(stranger);
        if is_refused { Err(list) } else { Ok(Checked { snapshot, warnings: list }) }
    }

    /// That files know nothing of the Service beside whose instance this is: most likely its name is wrong.
    fn stranger(&self, documents: &Documents) -> Option<Problem> {
        let (Subject::Sidecar { sidecar, .. }, Origin::Files) = (&self.subject, self.origin) else { return None };
        let Sidecar { namespace, service, .. } = sidecar;
        let mut names = documents.services.iter().map(|known| (known.metadata.namespace(), known.metadata.name()));
        let is_there = names.any(|name| name == (&**namespace, &**service));
        (!is_there).then(|| Problem {
            severity: Severity::Error,
            file: "--service".into(),
            line: 0,
            column: 0,
            field: String::new(),
            reason: format!("there is no Service {namespace}/{service} in these files"),
            hint: None,
        })
    }

    fn read_source(
        &mut self,
        source: &Source,
        documents: &mut Documents,
        passing: &mut Vec<u32>,
        problems: &mut Problems,
    ) {
        let whole = problems.origins.open(&source.name, 0);
        passing.push(whole);
        let Some(text) = tree::decode_utf8(&source.bytes, whole, problems) else {
            return;
        };
        let problems_before = problems.count();
        // A document without content, as between two `---`, says nothing; a file of nothing else is an accident,
        // such as an editor's half-done save.
        let mut is_empty = true;
        for part in tree::split(text) {
            if let Some(known) = self.known.get_mut(part.text)
                && known.reading != self.reading
            {
                known.reading = self.reading;
                problems.origins.reopen(known.origin, &source.name, part.lines_before);
                documents.extend(&known.documents);
                is_empty = false;
                continue;
            }
            let origin = problems.origins.open(&source.name, part.lines_before);
            let count_before = problems.count();
            let mut found = Documents::default();
            let mut is_part_empty = true;
            for node in tree::parse(part.text, origin, problems).iter().filter(|node| !node.is_null()) {
                is_part_empty = false;
                model::read(node, &mut found, problems);
            }
            documents.extend(&found);
            is_empty &= is_part_empty;
            // The second of two equal documents is a mistake and has a place of its own.
            let is_new = !self.known.contains_key(part.text);
            if is_new && !is_part_empty && problems.count() == count_before {
                let known = Known { origin, documents: found, reading: self.reading };
                self.known.insert(part.text.into(), known);
            } else {
                passing.push(origin);
            }
        }
        if is_empty && problems.count() == problems_before {
            problems.error_with_hint(Place::of(whole), "", "holds no document", "remove the file or write a rule");
        }
    }

    fn forget(&mut self, passing: Vec<u32>) {
        passing.into_iter().for_each(|origin| self.origins.close(origin));
        let (kept, every) = match self.reads_parts && self.known.len() <= PARTS_DOCUMENTS_MAX {
            true => (PARTS_KEPT, PARTS_KEPT / 10),
            false => (READINGS_KEPT, 1),
        };
        if !self.reading.is_multiple_of(every) {
            // A look at all that is known costs more than to read one part.
            return;
        }
        let oldest = self.reading.saturating_sub(kept);
        let origins = &mut self.origins;
        self.known.retain(|_, known| {
            let is_kept = known.reading >= oldest;
            if !is_kept {
                origins.close(known.origin);
            }
            is_kept
        });
    }
}
