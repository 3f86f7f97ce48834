//! The one definition of each type that people write: `object!` and `words!` turn a table of fields or of
//! words into the type, its reader and its JSON Schema. What the types are is `model`'s business. Pure, Cold.

use crate::decode::{Decode, Path, refuse_shape};
use crate::problem::{Place, Problems};
use crate::tree::{Node, Value};

/// Defines a mapping with fixed fields. Each field is `required`, `optional` (an Option) or `defaulted`
/// (absent means the value after `or`); `ignored` names are accepted unread, `refused` ones are known words
/// of the API that this build does not enforce; `check` sees what no single field can.
macro_rules! object {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $( $(#[doc = $doc:literal])* $mode:ident $field:ident: $type:ty = $key:literal $(or $default:expr)?, )*
        }
        $(ignored { $($ignored:literal),* $(,)? })?
        $(refused { $($refused:literal),* $(,)? })?
        $(check $check:path;)?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name {
            /// Where it starts.
            #[allow(dead_code, reason = "each type has it, whether or not a problem names it")]
            pub place: $crate::problem::Place,
            $( $(#[doc = $doc])* pub $field: object!(@type $mode $type), )*
        }

        impl $crate::decode::Decode for $name {
            fn decode(
                node: &$crate::tree::Node<'_>,
                path: &$crate::decode::Path<'_>,
                problems: &mut $crate::problem::Problems,
            ) -> Option<Self> {
                let names = $crate::object::Names {
                    known: &[$($key),*],
                    ignored: &[$($($ignored),*)?],
                    refused: &[$($($refused),*)?],
                };
                let fields = $crate::object::Fields::open(node, path, &names, problems)?;
                $( let $field = object!(@read $mode fields $key problems $($default)?); )*
                let whole = $name { place: node.place, $( $field: $field?, )* };
                $( $check(&whole, path, problems); )?
                Some(whole)
            }

            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                #[allow(unused_mut, reason = "a type may have no required field")]
                let mut required: Vec<&str> = Vec::new();
                $(
                    let mut field = <$type as $crate::decode::Decode>::schema();
                    $crate::object::describe(&mut field, concat!($($doc),*));
                    properties.insert($key.to_owned(), field);
                    object!(@require $mode required $key);
                )*
                for ignored in [$($($ignored),*)?] as [&str; _] {
                    let about = "Accepted and ignored.";
                    properties.insert(ignored.to_owned(), serde_json::json!({ "description": about }));
                }
                serde_json::json!({
                    "type": "object",
                    "description": concat!($($about),*).trim(),
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                })
            }
        }
    };
    (@type optional $type:ty) => { Option<$type> };
    (@type $mode:ident $type:ty) => { $type };
    (@read required $fields:ident $key:literal $problems:ident) => { $fields.required($key, $problems) };
    (@read optional $fields:ident $key:literal $problems:ident) => { $fields.optional($key, $problems) };
    (@read defaulted $fields:ident $key:literal $problems:ident $default:expr) => {
        $fields.optional($key, $problems).map(|value| value.unwrap_or_else(|| $default))
    };
    (@require required $list:ident $key:literal) => { $list.push($key) };
    (@require $mode:ident $list:ident $key:literal) => {};
}

/// Defines an enumeration of words; `refused` ones are known to the API and not enforced by this build.
macro_rules! words {
    (
        $(#[doc = $about:literal])*
        $name:ident { $( $(#[doc = $doc:literal])* $variant:ident = $word:literal, )* }
        $(refused { $($refused:literal),* $(,)? })?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $( $(#[doc = $doc])* $variant, )* }

        impl $name {
            /// As it is written.
            #[allow(dead_code, reason = "each enumeration has it, whether or not somebody writes its words")]
            pub(crate) fn word(self) -> &'static str {
                match self { $( $name::$variant => $word, )* }
            }
        }

        impl $crate::decode::Decode for $name {
            fn decode(
                node: &$crate::tree::Node<'_>,
                path: &$crate::decode::Path<'_>,
                problems: &mut $crate::problem::Problems,
            ) -> Option<Self> {
                match $crate::decode::text(node, path, problems)? {
                    $( $word => Some($name::$variant), )*
                    other => {
                        $crate::object::refuse_word(node, path, other, &[$($word),*], &[$($($refused),*)?], problems);
                        None
                    }
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "type": "string", "enum": [$($word),*] })
            }
        }
    };
}

pub(crate) use {object, words};

/// What `object!` knows of a mapping's keys.
pub(crate) struct Names<'k> {
    /// Read into the type.
    pub known: &'k [&'k str],
    /// Accepted unread: Kubernetes' own.
    pub ignored: &'k [&'k str],
    /// Known to the API, not enforced by this build.
    pub refused: &'k [&'k str],
}

/// A mapping whose keys are all known.
pub(crate) struct Fields<'n, 's, 'p> {
    node: &'n Node<'s>,
    entries: &'n [(Node<'s>, Node<'s>)],
    path: &'p Path<'p>,
}

impl<'n, 's, 'p> Fields<'n, 's, 'p> {
    /// Tells every key that is not known.
    pub(crate) fn open(
        node: &'n Node<'s>,
        path: &'p Path<'p>,
        names: &Names<'_>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            refuse_shape(node, path, "a mapping", problems);
            return None;
        };
        for (key_node, _) in entries {
            let key = key_node.text().unwrap_or_default();
            if names.known.contains(&key) || names.ignored.contains(&key) {
                continue;
            }
            let field = path.field(key);
            if names.refused.contains(&key) {
                problems.error(key_node.place, field, "is not enforced by this build");
                continue;
            }
            match nearest(key, names.known) {
                Some(known) => {
                    let hint = format!("did you mean {known}?");
                    problems.error_with_hint(key_node.place, field, "is not a known field", hint);
                }
                None => problems.error(key_node.place, field, "is not a known field"),
            }
        }
        Some(Fields { node, entries, path })
    }

    /// A field that must be there. None after telling a problem.
    pub(crate) fn required<T: Decode>(&self, key: &'static str, problems: &mut Problems) -> Option<T> {
        match self.get(key) {
            Some(node) => T::decode(node, &self.path.field(key), problems),
            None => {
                problems.error(self.node.place, self.path.field(key), "is missing");
                None
            }
        }
    }

    /// A field that may be absent or null. The outer None is after telling a problem.
    pub(crate) fn optional<T: Decode>(&self, key: &'static str, problems: &mut Problems) -> Option<Option<T>> {
        match self.get(key) {
            Some(node) => T::decode(node, &self.path.field(key), problems).map(Some),
            None => Some(None),
        }
    }

    fn get(&self, key: &str) -> Option<&'n Node<'s>> {
        self.entries
            .iter()
            .find(|(name, _)| name.text() == Some(key))
            .map(|(_, node)| node)
            .filter(|node| !node.is_null())
    }
}

/// Tells that of fields that exclude each other none or several are there.
pub(crate) fn exactly_one(fields: &[(&str, bool)], place: Place, path: &Path<'_>, problems: &mut Problems) {
    if fields.iter().filter(|(_, is_there)| *is_there).count() != 1 {
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        problems.error(place, path, format!("must have exactly one of {}", names.join(", ")));
    }
}

/// Tells that a word is not one of those allowed.
pub(crate) fn refuse_word(
    node: &Node<'_>,
    path: &Path<'_>,
    word: &str,
    allowed: &[&str],
    refused: &[&str],
    problems: &mut Problems,
) {
    if refused.contains(&word) {
        return problems.error(node.place, path, format!("{word} is not enforced by this build"));
    }
    let reason = match allowed {
        [only] => format!("{word:?} must be {only}"),
        _ => format!("{word:?} is not one of {}", allowed.join(", ")),
    };
    match nearest(word, allowed) {
        Some(known) => problems.error_with_hint(node.place, path, reason, format!("did you mean {known}?")),
        None => problems.error(node.place, path, reason),
    }
}

/// Puts the documentation of a field into its schema.
pub(crate) fn describe(schema: &mut serde_json::Value, about: &str) {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".to_owned(), about.trim().into());
    }
}

/// The known word that differs in case only, or in at most a third of its letters.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // The cost of a comparison is bounded by what a typing error can be.
    if word.len() > 64 {
        return None;
    }
    let distance = |candidate: &str| distance(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase());
    let (best, errors) = known.iter().map(|candidate| (*candidate, distance(candidate))).min_by_key(|pair| pair.1)?;
    (errors <= 2.min(best.len() / 3)).then_some(best)
}

/// Letters to insert, remove or change (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
