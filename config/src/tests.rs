//! Tests of the whole way: the user guide's examples, arbitrary bytes, and that each field of the schema
//! counts for something.

mod bad_input;

use proptest::prelude::*;
use serde_json::Value;

use crate::freeze::Freeze;
use crate::{Checked, Reader, Snapshot, Source, load, read, schema};

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), bytes: text.as_bytes().to_vec() }
}

fn strict(text: &str) -> Checked {
    let checked = read(&[source("rules.yaml", text)]).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    assert_eq!(checked.warnings, [], "{text}");
    checked
}

#[test]
fn every_example_in_the_user_guide_is_without_problems() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
    let mut examples = 0;
    for entry in std::fs::read_dir(docs).expect("the user guide is there") {
        let path = entry.expect("the directory can be read").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a page can be read");
        for block in text.split("\n```yaml\n").skip(1) {
            let text = block.split("\n```").next().unwrap_or_default();
            let checked = strict(text);
            // As they are stored and sent, they mean the same.
            let documents = crate::document::documents(&[source("rules.yaml", text)]).expect("they have names");
            let json: Vec<String> = documents.iter().map(|document| document.value.to_string()).collect();
            assert_eq!(strict(&json.join("\n---\n")).snapshot, checked.snapshot, "{text}");
            examples += 1;
        }
    }
    assert!(examples >= 5, "only {examples} examples were found");
}

/// Documents in which every field of the schema is there and has an effect, in JSON.
fn full() -> Vec<Value> {
    let text = include_str!("tests/full.json");
    serde_json::from_str(text).expect("the fixture is JSON")
}

/// What becomes of documents, freezes among them; None if they are refused.
fn outcome(documents: &[Value]) -> Option<(Snapshot, Vec<String>)> {
    let text: Vec<String> = documents.iter().map(Value::to_string).collect();
    let checked = read(&[source("rules.json", &text.join("\n---\n"))]).ok()?;
    let freezes = text.iter().filter_map(|text| Freeze::read(text)).map(|freeze| format!("{freeze:?}"));
    Some((checked.snapshot, freezes.collect()))
}

/// Other values that the schema of a field could allow, nearest first.
fn others(value: &Value, schema: &Value) -> Vec<Value> {
    let mut others: Vec<Value> = Vec::new();
    if let Some(words) = schema["enum"].as_array() {
        others.extend(words.iter().filter(|word| *word != value).cloned());
    }
    match value {
        Value::String(text) => {
            others.extend(
                [format!("{text}x"), format!("/x{text}"), format!("1{text}"), "other".to_owned()].map(Value::from),
            );
            let known =
                ["2021-01-01T00:00:00Z", "127.0.0.9", "11.0.0.0/8", "7s", "shadow", "HTTPS", "Selector", "CONNECT"];
            others.extend(known.map(Value::from));
        }
        Value::Number(number) => match number.as_u64() {
            Some(number) => others.extend([number + 1, number.saturating_sub(1)].map(Value::from)),
            None => others.extend(number.as_f64().map(|number| Value::from(number / 2.0))),
        },
        Value::Bool(value) => others.push(Value::Bool(!value)),
        Value::Array(items) if !items.is_empty() => {
            others.push(Value::Array(items[1..].to_vec()));
            others.push(Value::Array(items[..items.len() - 1].to_vec()));
        }
        Value::Object(entries) => {
            // A mapping whose keys are the writer's own: each of its values is changed in turn.
            for (key, value) in entries {
                for other in self::others(value, &Value::Null) {
                    let mut entries = entries.clone();
                    entries.insert(key.clone(), other);
                    others.push(Value::Object(entries));
                }
            }
        }
        _ => {}
    }
    others
}

/// Stands after a list's pointer where nothing below it can be seen.
const NO_ITEM: &str = ": the fixture has no item";

/// Of what two documents leave unseen, what neither shows.
fn unseen_in_both(left: Vec<String>, right: Vec<String>) -> Vec<String> {
    let lacks = |list: &[String], field: &str| {
        list.iter().any(|one| one == field || one.strip_suffix(NO_ITEM).is_some_and(|above| field.starts_with(above)))
    };
    let mut both: Vec<String> = left.iter().filter(|field| lacks(&right, field)).cloned().collect();
    both.extend(right.iter().filter(|field| lacks(&left, field)).cloned());
    both
}

/// Changes each field that the schema knows below `pointer` and asks whether anybody noticed. Fields that are
/// accepted and ignored have no type in the schema.
fn check_fields(
    documents: &[Value],
    index: usize,
    before: &(Snapshot, Vec<String>),
    pointer: &str,
    schema: &Value,
    unseen: &mut Vec<String>,
) {
    let here = documents[index].pointer(pointer);
    let with = |value: Option<Value>| {
        let mut changed = documents.to_vec();
        let (parent, name) = pointer.rsplit_once('/')?;
        let parent = changed[index].pointer_mut(parent)?;
        match (value, parent) {
            (Some(value), Value::Object(fields)) => drop(fields.insert(name.to_owned(), value)),
            (Some(value), Value::Array(items)) => *items.get_mut(name.parse::<usize>().ok()?)? = value,
            (None, Value::Object(fields)) => drop(fields.remove(name)?),
            (None, Value::Array(items)) => drop(items.remove(name.parse().ok()?)),
            _ => return None,
        }
        Some(outcome(&changed))
    };
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            if property
                .get("type")
                .or(property.get("anyOf"))
                .or(property.get("enum"))
                .or(property.get("const"))
                .is_some()
            {
                check_fields(documents, index, before, &format!("{pointer}/{name}"), property, unseen);
            }
        }
        return;
    }
    if let (Some(items), Some(Value::Array(list))) = (schema.get("items"), here) {
        // A field of an item may be set in any of the items: that of one type of filter, say.
        let mut unseen_in_all: Option<Vec<String>> = None;
        for position in 0..list.len() {
            let mut unseen_here = Vec::new();
            check_fields(documents, index, before, &format!("{pointer}/{position}"), items, &mut unseen_here);
            let general: Vec<String> = unseen_here
                .iter()
                .map(|field| field.replacen(&format!("{pointer}/{position}"), &format!("{pointer}/*"), 1))
                .collect();
            unseen_in_all = Some(match unseen_in_all {
                None => general,
                Some(before) => before.into_iter().filter(|field| general.contains(field)).collect(),
            });
        }
        match unseen_in_all {
            Some(fields) => unseen.extend(fields),
            None => unseen.push(format!("{pointer}{NO_ITEM}")),
        }
        return;
    }
    let Some(value) = here else {
        return unseen.push(pointer.to_owned());
    };
    // Some change makes another snapshot, or every other value is refused: a value that is only checked for its
    // form, and then dropped, is found out.
    let mut is_refused = None;
    for other in others(value, schema).into_iter().map(Some).chain([None]) {
        let is_removal = other.is_none();
        match with(other) {
            Some(Some(after)) if after != *before => return,
            Some(after) if !is_removal => is_refused = Some(after.is_none() && is_refused != Some(false)),
            _ => {}
        }
    }
    if is_refused != Some(true) {
        unseen.push(pointer.to_owned());
    }
}

/// An object's name is for others to refer to, and its age decides only where claims can collide.
const IDENTITY_ONLY: &[(&str, &str)] = &[
    ("Gateway", "/metadata/creationTimestamp"),
    ("Service", "/metadata/creationTimestamp"),
    ("ReferenceGrant", "/metadata/creationTimestamp"),
    ("ReferenceGrant", "/metadata/name"),
    ("ListenerPolicy", "/metadata/name"),
    ("ChangeFreeze", "/metadata/creationTimestamp"),
    ("TrafficPolicy", "/metadata/name"),
    // Two spellings of one version.
    ("ReferenceGrant", "/apiVersion"),
];

#[test]
fn every_field_of_the_schema_changes_the_snapshot_or_is_refused() {
    let documents = full();
    let schema = schema();
    let before = outcome(&documents).expect("the fixture itself is right");
    for kind in schema["$defs"].as_object().expect("the schema has definitions").keys() {
        // A kind may have several documents in the fixture; a field must count in one of them.
        let mut unseen: Option<Vec<String>> = None;
        for (index, document) in documents.iter().enumerate().filter(|(_, document)| document["kind"] == **kind) {
            assert!(document.is_object());
            let mut unseen_here = Vec::new();
            check_fields(&documents, index, &before, "", &schema["$defs"][kind], &mut unseen_here);
            unseen = Some(match unseen {
                None => unseen_here,
                Some(before) => unseen_in_both(before, unseen_here),
            });
        }
        let identity = |field: &String| IDENTITY_ONLY.contains(&(kind, field));
        unseen.iter_mut().for_each(|fields| fields.retain(|field| !identity(field)));
        assert_eq!(unseen, Some(Vec::new()), "{kind}: nothing changes with these, or the fixture lacks them");
    }
}

#[test]
fn the_schema_refuses_what_it_does_not_know() {
    fn check(schema: &Value, path: &str) {
        if schema["type"] == "object" && schema.get("properties").is_some() {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            for (name, property) in schema["properties"].as_object().expect("properties are a mapping") {
                assert!(
                    property.get("description").is_some() || ["apiVersion", "kind"].contains(&&**name),
                    "{path}/{name}"
                );
                check(property, &format!("{path}/{name}"));
            }
        }
        if let Some(items) = schema.get("items") {
            check(items, &format!("{path}/*"));
        }
    }
    for (kind, schema) in schema()["$defs"].as_object().expect("the schema has definitions") {
        check(schema, kind);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_a_problem_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let outcome = read(&[Source { name: "any".into(), bytes }]);
        prop_assert!(outcome.is_err());
    }

    #[test]
    fn yaml_like_text_is_never_a_panic(text in "([-{}\\[\\]:,#&*!|>'\"%@`?~ \\n\\t]|[a-z]{1,3}|---\\n|\\.\\.\\.\\n|[0-9]|- |: |\\? |\\u{feff}|é|\\r|\\\\){0,80}") {
        let _ = read(&[source("any", &text)]);
    }

    #[test]
    fn damaged_rules_are_never_a_panic(position in any::<prop::sample::Index>(), insert in ".{0,3}", cut in 0_usize..4) {
        let text: String = full().iter().map(|document| format!("{document}\n---\n")).collect();
        let mut characters: Vec<char> = text.chars().collect();
        let at = position.index(characters.len());
        let end = (at + cut).min(characters.len());
        characters.splice(at..end, insert.chars());
        let _ = read(&[source("any", &characters.into_iter().collect::<String>())]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_that_is_kept_says_what_a_new_one_says(
        readings in proptest::collection::vec(
            proptest::collection::vec((0_usize..60, 0_usize..4, any::<prop::sample::Index>()), 1..14), 1..8),
    ) {
        let documents: Vec<String> = full().iter().map(Value::to_string).collect();
        let mut kept = Reader::default();
        for reading in readings {
            // Documents come in any order, some twice, on other lines, in other files, and some damaged.
            let mut files = [String::new(), String::new()];
            for (document, change, position) in reading {
                let mut text = documents[document % documents.len()].clone();
                match change {
                    1 => text = text.replacen("\"port\"", "\n\n\"port\"", 1),
                    2 => drop(text.remove(position.index(text.len()))),
                    _ => {}
                }
                files[change % 2] += &format!("---\n{}{text}\n", "\n".repeat(change));
            }
            let sources = [source("a.json", &files[0]), source("b.json", &files[1])];
            prop_assert_eq!(kept.read(&sources), read(&sources));
        }
    }
}

#[test]
fn directories_are_read_as_a_config_map_is_mounted() {
    let directory = std::env::temp_dir().join(format!("evenkeel-config-{}", std::process::id()));
    let hidden = directory.join("..data");
    std::fs::create_dir_all(&hidden).expect("the directory can be made");
    let service = |name: &str| {
        format!("{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: []}}}}")
    };
    for name in ["b.yaml", "a.json", "c.yml", "notes.txt"] {
        std::fs::write(hidden.join(name), service("x")).expect("the file can be written");
        std::os::unix::fs::symlink(format!("..data/{name}"), directory.join(name)).expect("the link can be made");
    }
    std::fs::write(directory.join(".hidden.yaml"), "?").expect("the file can be written");
    let loaded = load(&[directory.clone(), directory.join("a.json"), directory.join("gone.yaml")]);
    std::fs::remove_dir_all(&directory).expect("the directory can be removed");
    let names: Vec<_> = loaded.files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    assert_eq!(names, ["a.json", "b.yaml", "c.yml", "gone.yaml"]);
    let problems = loaded.result.expect_err("a Service has a port");
    let reasons: Vec<_> = problems.iter().map(|problem| problem.reason.as_str()).collect();
    assert_eq!(reasons[0], "cannot be read: No such file or directory (os error 2)");
    assert_eq!(&reasons[1..], ["has 0 items and must have 1 to 64"; 3]);
}
