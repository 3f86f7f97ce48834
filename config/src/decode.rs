//! Trees become typed values. [`Decode`] is implemented once per type and gives both the reader, which
//! collects every problem, and the JSON Schema; so the two cannot disagree. The types themselves are
//! `model`'s and `value`'s. Pure, Cold.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde_json::json;

use crate::problem::{Place, Problems};
use crate::tree::{Node, Value, Word};

/// A type that can be read from a tree.
pub(crate) trait Decode: Sized {
    /// The value, or None after telling why there is none.
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self>;

    /// What `decode` accepts, as JSON Schema (draft 2020-12).
    fn schema() -> serde_json::Value;
}

/// The way from a document to one of its fields; written out only when a problem names it.
#[derive(Clone, Copy)]
pub(crate) enum Path<'p> {
    /// The document itself.
    Document,
    /// A field of a mapping.
    Field(&'p Path<'p>, &'p str),
    /// An item of a list.
    Item(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// A field below this one.
    pub(crate) fn field<'p>(&'p self, name: &'p str) -> Path<'p> {
        Path::Field(self, name)
    }

    /// An item of this list.
    pub(crate) fn item(&self, index: usize) -> Path<'_> {
        Path::Item(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Document => Ok(()),
            Path::Item(list, index) => write!(out, "{list}[{index}]"),
            Path::Field(parent, name) => {
                let is_plain =
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_<".contains(&byte));
                match (is_plain, parent) {
                    (true, Path::Document) => out.write_str(name),
                    (true, _) => write!(out, "{parent}.{name}"),
                    (false, _) => write!(out, "{parent}[{name:?}]"),
                }
            }
        }
    }
}

/// Says that a node is not of the shape expected.
pub(crate) fn refuse_shape(node: &Node<'_>, path: &Path<'_>, expected: &str, problems: &mut Problems) {
    problems.error(node.place, path, format!("must be {expected}, not {}", node.describe()));
}

/// The text of a node that must be one.
pub(crate) fn text<'n>(node: &'n Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<&'n str> {
    match (node.word(), node.text()) {
        (Some(Word::Text), Some(text)) => Some(text),
        (Some(Word::Null), _) | (None, _) => {
            refuse_shape(node, path, "a text", problems);
            None
        }
        (_, text) => {
            let hint = format!("write \"{}\" in quotes", text.unwrap_or_default());
            let reason = format!("must be a text, not {}", node.describe());
            problems.error_with_hint(node.place, path, reason, hint);
            None
        }
    }
}

/// Reads a text through a function that says what is wrong with it.
pub(crate) fn text_as<T>(
    node: &Node<'_>,
    path: &Path<'_>,
    problems: &mut Problems,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let text = text(node, path, problems)?;
    parse(text).map_err(|reason| problems.error(node.place, path, reason)).ok()
}

/// A value that knows where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct At<T> {
    /// The value.
    pub value: T,
    /// Where it starts.
    pub place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Decode> Decode for At<T> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        Some(At { value: T::decode(node, path, problems)?, place: node.place })
    }

    fn schema() -> serde_json::Value {
        T::schema()
    }
}

/// A list of MIN to MAX items.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List<T, const MIN: usize, const MAX: usize>(Vec<T>);

impl<T, const MIN: usize, const MAX: usize> Default for List<T, MIN, MAX> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T, const MIN: usize, const MAX: usize> List<T, MIN, MAX> {
    /// What stands for a list that is absent.
    pub(crate) fn of(items: impl Into<Vec<T>>) -> Self {
        List(items.into())
    }
}

impl<T, const MIN: usize, const MAX: usize> Deref for List<T, MIN, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Decode, const MIN: usize, const MAX: usize> Decode for List<T, MIN, MAX> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let Value::List(nodes) = &node.value else {
            refuse_shape(node, path, "a list", problems);
            return None;
        };
        if nodes.len() < MIN || nodes.len() > MAX {
            let reason = format!("has {} items and must have {MIN} to {MAX}", nodes.len());
            problems.error(node.place, path, reason);
        }
        let mut items = Vec::with_capacity(nodes.len().min(MAX));
        let mut is_whole = true;
        for (index, node) in nodes.iter().enumerate().take(MAX) {
            match T::decode(node, &path.item(index), problems) {
                Some(item) => items.push(item),
                None => is_whole = false,
            }
        }
        is_whole.then_some(List(items))
    }

    fn schema() -> serde_json::Value {
        json!({"type": "array", "items": T::schema(), "minItems": MIN, "maxItems": MAX})
    }
}

/// A mapping whose keys are the writer's own, of at most MAX entries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dictionary<K: Ord, V, const MAX: usize>(BTreeMap<K, At<V>>);

impl<K: Ord, V, const MAX: usize> Default for Dictionary<K, V, MAX> {
    fn default() -> Self {
        Dictionary(BTreeMap::new())
    }
}

impl<K: Ord, V, const MAX: usize> Deref for Dictionary<K, V, MAX> {
    type Target = BTreeMap<K, At<V>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Decode + Ord, V: Decode, const MAX: usize> Decode for Dictionary<K, V, MAX> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let Value::Map(nodes) = &node.value else {
            refuse_shape(node, path, "a mapping", problems);
            return None;
        };
        if nodes.len() > MAX {
            problems.error(node.place, path, format!("has {} entries and must have at most {MAX}", nodes.len()));
            return None;
        }
        let mut entries = BTreeMap::new();
        let mut is_whole = true;
        for (key_node, node) in nodes {
            let path = path.field(key_node.text().unwrap_or_default());
            let key = K::decode(key_node, &path, problems);
            let value = At::<V>::decode(node, &path, problems);
            match (key, value) {
                (Some(key), Some(value)) => drop(entries.insert(key, value)),
                _ => is_whole = false,
            }
        }
        is_whole.then_some(Dictionary(entries))
    }

    fn schema() -> serde_json::Value {
        let (names, values) = (K::schema(), V::schema());
        json!({"type": "object", "propertyNames": names, "additionalProperties": values, "maxProperties": MAX})
    }
}

impl Decode for bool {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        match node.word() {
            Some(Word::Bool(value)) => Some(value),
            _ => {
                refuse_shape(node, path, "true or false", problems);
                None
            }
        }
    }

    fn schema() -> serde_json::Value {
        json!({"type": "boolean"})
    }
}
