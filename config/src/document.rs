//! Documents one by one, as values: what is stored, sent and compared where files are no more. Each is checked by itself;
//! what is wrong with all of them together is the reader's business. Pure, Cold.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use crate::files::Source;
use crate::model::{self, Documents};
use crate::problem::{Origins, Problem, Problems};
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

impl Key {
    /// What `Display` writes; None: it is no name of a document.
    pub fn parse(text: &str) -> Option<Key> {
        let mut parts = text.splitn(3, '/').map(Arc::from);
        Some(Key { kind: parts.next()?, namespace: parts.next()?, name: parts.next()? })
    }
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

/// All documents of these files, or everything that is wrong with each of them, and those that are there twice.
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
                let problems_before = problems.count();
                model::read(node, &mut Documents::default(), &mut problems);
                let Some(key) = key(node).filter(|_| problems.count() == problems_before) else { continue };
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

pub(crate) fn key(node: &Node<'_>) -> Option<Key> {
    let metadata = field(node, "metadata")?;
    let namespace = field(metadata, "namespace").filter(|namespace| !namespace.is_null()).and_then(Node::text);
    Some(Key {
        kind: field(node, "kind")?.text()?.into(),
        namespace: namespace.unwrap_or("default").into(),
        name: field(metadata, "name")?.text()?.into(),
    })
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
        let text = "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {name: a}\n\
                    spec: {ports: [{port: 0x50, name: 'on'}]}\n---\n---\n\
                    {apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {name: b, namespace: n}, \
                    spec: {ports: [{name: http, port: 80}], dns: ~}}\n";
        let found = documents(&[source(text)]).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let shown: Vec<String> = found
            .iter()
            .map(|document| format!("{}:{} {}", document.line, document.key, document.value["spec"]))
            .collect();
        let expected = [
            r#"1:Service/default/a {"ports":[{"name":"on","port":80}]}"#,
            r#"7:Service/n/b {"dns":null,"ports":[{"name":"http","port":80}]}"#,
        ];
        assert_eq!(shown, expected);
        assert!(found.iter().all(|document| key_of(&document.value).as_ref() == Some(&document.key)));
    }

    #[test]
    fn what_is_wrong_with_one_is_told_with_its_place() {
        let service = |name: &str| {
            format!(
                "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{{name}}}, spec: {{ports: [{{name: http, port: 80}}]}}}}"
            )
        };
        for (text, expected) in [
            (service(""), "rules.yaml:1: metadata.name: is missing"),
            ("a: b".to_owned(), "rules.yaml:1: apiVersion: is missing"),
            (
                "kind: [".to_owned(),
                "rules.yaml:2: is not YAML: while parsing a node, did not find expected node content",
            ),
            (
                [service("name: a"), service("name: a, namespace: default")].join("\n---\n"),
                "rules.yaml:3: metadata.name: Service/default/a is there already, at rules.yaml:1",
            ),
        ] {
            let problems = documents(&[source(&text)]).expect_err(&text);
            assert_eq!(problems[0].to_string(), expected, "{text}");
        }
    }
}
