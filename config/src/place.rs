//! Where the fields of documents are written: problems that others found, and that name a document and a field, become lines
//! of the files it came from. Files that are wrong are read as far as they can be. Pure, Cold.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decode::Path;
use crate::document::{Key, key};
use crate::files::Source;
use crate::problem::{Origins, Problems};
use crate::tree::{self, Node, Value};

/// Fields that are remembered; those beyond are found as what they are part of.
const FIELDS_MAX: usize = 1_000_000;

/// The lines of all fields of some files.
#[derive(Debug, Default)]
pub struct Places {
    documents: HashMap<String, Document>,
    count: usize,
}

#[derive(Debug)]
struct Document {
    file: Arc<str>,
    /// By the field's path; that of the document is empty.
    lines: HashMap<String, u32>,
}

impl Places {
    /// Reads files for where things are in them.
    pub fn of(sources: &[Source]) -> Places {
        let mut places = Places::default();
        // Whoever asks knows already what is wrong.
        let mut problems = Problems::new(Origins::default());
        for source in sources {
            let whole = problems.origins.open(&source.name, 0);
            let Some(text) = tree::decode_utf8(&source.bytes, whole, &mut problems) else { continue };
            for part in tree::split(text) {
                for node in &tree::parse(part.text, whole, &mut problems) {
                    let Some(key) = key(node) else { continue };
                    places.add(&key, &source.name, part.lines_before, node);
                }
            }
        }
        places
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// File and line of a field of a document, `KIND/NAMESPACE/NAME`; of what it should be part of, if it is not there.
    pub fn find(&self, document: &str, field: &str) -> Option<(&str, u32)> {
        let document = self.documents.get(document)?;
        let mut field = field;
        loop {
            if let Some(line) = document.lines.get(field) {
                return Some((&document.file, *line));
            }
            field = &field[..field.rfind(['.', '[']).unwrap_or(0)];
        }
    }

    fn add(&mut self, key: &Key, file: &Arc<str>, lines_before: u32, node: &Node<'_>) {
        let mut lines = HashMap::from([(String::new(), lines_before + node.place.line)]);
        let room = FIELDS_MAX.saturating_sub(self.count);
        gather(&Path::Document, node, lines_before, room, &mut lines);
        self.count += lines.len();
        self.documents.insert(key.to_string(), Document { file: file.clone(), lines });
    }
}

fn gather(path: &Path<'_>, node: &Node<'_>, lines_before: u32, room: usize, lines: &mut HashMap<String, u32>) {
    let mut visit = |path: Path<'_>, place: &Node<'_>, node: &Node<'_>| {
        if lines.len() < room {
            lines.insert(path.to_string(), lines_before + place.place.line);
            gather(&path, node, lines_before, room, lines);
        }
    };
    match &node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter().enumerate().for_each(|(index, item)| visit(path.item(index), item, item)),
        Value::Map(entries) => {
            entries.iter().for_each(|(key, node)| visit(path.field(key.text().unwrap_or_default()), key, node));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_lines() {
        let text = "kind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - name: http\n    port: 80\n---\n- 1\n---\n\
                    kind: [\n---\n# two\nkind: Service\nmetadata:\n  name: b\n  namespace: n\n  labels: {a.b/c: d}\n";
        let places = Places::of(&[Source { name: "rules.yaml".into(), bytes: text.into() }]);
        for (document, field, line) in [
            ("Service/default/a", "", Some(1)),
            ("Service/default/a", "spec.ports[0].port", Some(6)),
            ("Service/default/a", "spec.ports[0].protocol", Some(5)),
            ("Service/default/a", "spec.ports[7].name", Some(4)),
            ("Service/default/a", "status", Some(1)),
            ("Service/n/b", "metadata.namespace", Some(16)),
            ("Service/n/b", "metadata.labels[\"a.b/c\"]", Some(17)),
            ("Service/n/c", "metadata", None),
        ] {
            let found = places.find(document, field);
            assert_eq!(found, line.map(|line| ("rules.yaml", line)), "{document} {field}");
        }
    }
}
