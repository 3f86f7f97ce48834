//! Rule files on their way to control: one body of all of them, and the way back from what control says of the body, or of
//! a document, to the user's FILE:LINE. Cold.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use config::Source;
use config::place::Places;
use serde_json::Value;

use crate::cli::client::Failure;

/// Of one request; control takes no more.
const BODY_BYTES_MAX: usize = 32 << 20;
/// What control calls the body.
const BODY: &str = "body";
/// Stands between two files.
const BETWEEN: &[u8] = b"\n---\n";
/// A byte order mark, which may stand at the start of a file only.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Which files are meant.
#[derive(Debug, Clone, clap::Args)]
pub struct Paths {
    /// Rule files and folders of them; - is standard input
    #[arg(short = 'f', long = "file", required = true, num_args = 1.., value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// What was read.
pub struct Input {
    pub body: Vec<u8>,
    /// Files by the line of the body where they begin.
    starts: Vec<(u32, usize)>,
    sources: Vec<Source>,
    places: OnceLock<Places>,
}

impl Input {
    /// Reads files and folders as `check` does.
    pub fn read(paths: &Paths) -> Result<Input, Failure> {
        let (streams, files): (Vec<PathBuf>, Vec<PathBuf>) =
            paths.paths.iter().cloned().partition(|path| path.as_os_str() == "-");
        let mut sources = match files.is_empty() {
            true => Vec::new(),
            false => config::sources(&files).map_err(|all| Failure::Usage(all.join("\n")))?,
        };
        if !streams.is_empty() {
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
            read.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
            sources.push(Source { name: "<stdin>".into(), bytes });
        }
        Input::of(sources)
    }

    fn of(sources: Vec<Source>) -> Result<Input, Failure> {
        let (mut body, mut starts, mut line) = (Vec::new(), Vec::new(), 1);
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u32;
        for (place, source) in sources.iter().enumerate() {
            if let Err(error) = std::str::from_utf8(&source.bytes) {
                let line = lines(&source.bytes[..error.valid_up_to()]) + 1;
                return Err(Failure::Usage(format!("{}:{line}: is not UTF-8", source.name)));
            }
            if place > 0 {
                body.extend_from_slice(BETWEEN);
                line += lines(BETWEEN);
            }
            starts.push((line, place));
            let bytes = source.bytes.strip_prefix(MARK).unwrap_or(&source.bytes);
            body.extend_from_slice(bytes);
            line += lines(bytes);
        }
        match body.len() > BODY_BYTES_MAX {
            true => {
                let largest = sources.iter().max_by_key(|source| source.bytes.len());
                let name = largest.map_or_else(String::new, |largest| format!("{}: ", largest.name));
                let of = if sources.len() > 1 { ", of which this file is the largest" } else { "" };
                Err(Failure::Usage(format!("{name}more than {} MiB at once{of}", BODY_BYTES_MAX >> 20)))
            }
            false => Ok(Input { body, starts, sources, places: OnceLock::new() }),
        }
    }

    /// Whether there is no document in it.
    fn is_empty(&self) -> bool {
        self.places.get_or_init(|| Places::of(&self.sources)).is_empty()
    }

    /// Control's failure, with its problems where the user finds them.
    pub fn located(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused(422, _) if self.is_empty() => Failure::Usage("there is no document in it".into()),
            Failure::Refused(status, mut answer) => {
                for problem in answer["problems"].as_array_mut().into_iter().flatten() {
                    problem["text"] = self.text(problem).into();
                }
                Failure::Refused(status, answer)
            }
            other => other,
        }
    }

    /// A problem, as `FILE:LINE: FIELD: reason (hint)`.
    pub fn text(&self, problem: &Value) -> String {
        let word = |name: &str| problem[name].as_str().unwrap_or_default();
        let line = problem["line"].as_u64().and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
        let mut text = self.place(word("where"), line, word("field"));
        if !word("field").is_empty() {
            text += &format!(": {}", word("field"));
        }
        text += &format!(": {}", self.reason(word("reason")));
        match problem["hint"].as_str() {
            Some(hint) => format!("{text} ({hint})"),
            None => text,
        }
    }

    /// `FILE:LINE` of what control calls a line of the body, or a document with a field; a document that is not here keeps its name.
    fn place(&self, name: &str, line: u32, field: &str) -> String {
        if name == BODY {
            let Some((start, place)) = self.starts.iter().rev().find(|(start, _)| *start <= line.max(1)) else {
                return name.to_owned();
            };
            let file = &self.sources[*place].name;
            return if line == 0 { file.to_string() } else { format!("{file}:{}", line - start + 1) };
        }
        let found = self.places.get_or_init(|| Places::of(&self.sources)).find(name, field);
        found.map_or_else(|| name.to_owned(), |(file, line)| format!("{file}:{line}"))
    }

    /// A reason may name other places.
    fn reason(&self, reason: &str) -> String {
        let word = |word: &str| {
            let bare = word.trim_matches(|letter: char| ",;.()\"'".contains(letter));
            let Some((name, line)) = bare.rsplit_once(':') else { return word.to_owned() };
            let Ok(line) = line.parse() else { return word.to_owned() };
            let is_document = name.split('/').count() == 3 && !name.starts_with('/');
            match name == BODY || is_document {
                true => word.replace(bare, &self.place(name, line, "")),
                false => word.to_owned(),
            }
        };
        reason.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_find_their_way_back() {
        let source = |name: &str, text: &str| Source { name: name.into(), bytes: text.into() };
        let input = Input::of(vec![
            source("a.yaml", "kind: Service\nmetadata: {name: a}\nspec:\n  ports: []\n"),
            source("b.yaml", "\u{feff}kind: Service\nmetadata:\n  name: b"),
            source("c.json", "{}\n"),
        ]);
        let input = input.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(input.body.iter().filter(|byte| **byte == b'\n').count(), 11);
        for (place, line, field, reason, expected) in [
            ("body", 1, "kind", "is wrong", "a.yaml:1: kind: is wrong"),
            ("body", 7, "kind", "is wrong", "b.yaml:1: kind: is wrong"),
            ("body", 9, "", "is there, at body:2", "b.yaml:3: is there, at a.yaml:2"),
            ("body", 11, "", "is empty", "c.json:1: is empty"),
            ("body", 0, "", "is not UTF-8", "a.yaml: is not UTF-8"),
            ("Service/default/a", 1, "spec.ports[0]", "is odd", "a.yaml:4: spec.ports[0]: is odd"),
            ("Service/default/b", 1, "spec", "as Service/default/a:1, too", "b.yaml:1: spec: as a.yaml:1, too"),
            ("Service/default/c", 1, "spec", "at 10:30", "Service/default/c: spec: at 10:30"),
        ] {
            let problem = json!({"where": place, "line": line, "field": field, "reason": reason});
            assert_eq!(input.text(&problem), expected);
        }
    }
}
