//! Documents one by one, as values: what is stored, sent and compared where files are no more. What is wrong inside of
//! one is the reader's business. Pure, Cold.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use crate::files::Source;
use crate::problem::{Origins, Place, Problem, Problems};
use crate::tree::{self, Node, Word};

/// What tells a document from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Such as `HTTPRoute`.
    pub kind: Arc<str>,
    /// `default` if none is written.
    pub namespace: Arc<str>,
    /// Within kind and namespace.
    pub name: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What tells it from others.
    pub key: Key,
    /// All of it. Read as YAML it means what the document meant.
    pub value: Value,
    /// Where it stands.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: u32,
}

/// All documents of these files, or why they cannot be told from each other: what is no YAML, lacks a kind or a name,
/// or has those of another.
pub fn documents(sources: &[Source]) -> Result<Vec<Document>, Vec<Problem>> {
    let mut problems = Problems::new(Origins::default());
    let mut found: Vec<Document> = Vec::new();
    let mut seen: HashMap<Key, (Arc<str>, u32)> = HashMap::new();
    for source in sources {
        let whole = problems.origins.open(&source.name, 0);
        let Some(text) = tree::decode_utf8(&source.bytes, whole, &mut problems) else { continue };
        for part in tree::split(text) {
            let origin = problems.origins.open(&source.name, part.lines_before);
            for node in tree::parse(part.text, origin, &mut problems).iter().filter(|node| !node.is_null()) {
                let Some(key) = key(node, &mut problems) else { continue };
                let line = part.lines_before + node.place.line;
                if let Some((file, line)) = seen.insert(key.clone(), (source.name.clone(), line)) {
                    let reason = format!("{key} is there already, at {file}:{line}");
                    problems.error(node.place, "metadata.name", reason);
                }
                found.push(Document { key, value: value(node), file: source.name.clone(), line });
            }
        }
    }
    let is_refused = problems.has_errors();
    let (list, _) = problems.into_sorted(sources.iter().map(|source| &source.name));
    if is_refused { Err(list) } else { Ok(found) }
}

/// What a value calls itself; None: it is no document.
pub fn key_of(document: &Value) -> Option<Key> {
    let metadata = &document["metadata"];
    Some(Key {
        kind: document["kind"].as_str()?.into(),
        namespace: metadata["namespace"].as_str().unwrap_or("default").into(),
        name: metadata["name"].as_str()?.into(),
    })
}

fn key(node: &Node<'_>, problems: &mut Problems) -> Option<Key> {
    let mut required = |place: Place, field: &str, found: Option<&Node<'_>>| {
        let text = found.and_then(Node::text).filter(|text| !text.is_empty());
        if text.is_none() {
            problems.error(place, field, "is missing");
        }
        text.map(Arc::from)
    };
    let metadata = field(node, "metadata");
    let kind = required(node.place, "kind", field(node, "kind"));
    let place = metadata.map_or(node.place, |metadata| metadata.place);
    let name = required(place, "metadata.name", metadata.and_then(|metadata| field(metadata, "name")));
    let namespace = metadata.and_then(|metadata| field(metadata, "namespace")?.text()).unwrap_or("default");
    Some(Key { kind: kind?, namespace: namespace.into(), name: name? })
}

fn field<'n, 's>(node: &'n Node<'s>, key: &str) -> Option<&'n Node<'s>> {
    match &node.value {
        tree::Value::Map(entries) => entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value),
        _ => None,
    }
}

/// The same as JSON. A number that JSON does not know is its text, which no field takes for a number either.
fn value(node: &Node<'_>) -> Value {
    match &node.value {
        tree::Value::List(items) => items.iter().map(value).collect(),
        tree::Value::Map(entries) => {
            let entry = |(key, node): &(Node<'_>, Node<'_>)| (key.text().unwrap_or_default().to_owned(), value(node));
            Value::Object(entries.iter().map(entry).collect::<Map<_, _>>())
        }
        tree::Value::Scalar(scalar) => match scalar.word() {
            Word::Null => Value::Null,
            Word::Bool(is) => Value::Bool(is),
            Word::Integer(number) => Value::Number(number.into()),
            Word::Float => {
                let number = scalar.text.parse().ok().and_then(Number::from_f64);
                number.map_or_else(|| Value::String(scalar.text.clone().into_owned()), Value::Number)
            }
            Word::Text => Value::String(scalar.text.clone().into_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { name: "rules.yaml".into(), bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn documents_are_told_from_each_other() {
        let text = "kind: A\nmetadata: {name: a}\nspec: {n: 1, f: 0.5, t: 'on', l: [~, true]}\n---\n---\n\
                    {kind: B, metadata: {name: b, namespace: n}}\n";
        let found = documents(&[source(text)]).expect("they are right");
        let shown: Vec<String> =
            found.iter().map(|document| format!("{}:{} {}", document.line, document.key, document.value)).collect();
        let expected = [
            r#"1:A/default/a {"kind":"A","metadata":{"name":"a"},"spec":{"f":0.5,"l":[null,true],"n":1,"t":"on"}}"#,
            r#"6:B/n/b {"kind":"B","metadata":{"name":"b","namespace":"n"}}"#,
        ];
        assert_eq!(shown, expected);
        assert!(found.iter().all(|document| key_of(&document.value).as_ref() == Some(&document.key)));
    }

    #[test]
    fn what_has_no_name_is_a_problem() {
        for (text, expected) in [
            ("kind: A\nmetadata: {}", &["rules.yaml:2: metadata.name: is missing"][..]),
            ("a: b", &["rules.yaml:1: kind: is missing", "rules.yaml:1: metadata.name: is missing"]),
            ("[1]", &["rules.yaml:1: kind: is missing", "rules.yaml:1: metadata.name: is missing"]),
            ("kind: [", &["rules.yaml:2: is not YAML: while parsing a node, did not find expected node content"]),
            (
                "{kind: A, metadata: {name: a}}\n---\n{kind: A, metadata: {name: a, namespace: default}}",
                &["rules.yaml:3: metadata.name: A/default/a is there already, at rules.yaml:1"],
            ),
        ] {
            let problems = documents(&[source(text)]).expect_err(text);
            assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
