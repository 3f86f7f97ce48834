//! The API's description of itself, against the API.

use std::collections::{BTreeMap, BTreeSet};

use e2e::kit::{Peer, Scratch};
use serde_json::Value;

use crate::server::Control;

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// An answer: its status, what it allows, its body.
fn ask(control: &Control, start: &str) -> (u16, BTreeSet<String>, String) {
    let mut peer = Peer::connect(control.address);
    peer.send(format!("{start} HTTP/1.1\r\nHost: control\r\nContent-Length: 0\r\n\r\n"));
    let answer = peer.read().expect("an answer");
    let allow = answer.get("allow").unwrap_or_default().split(',').map(|word| word.trim().to_lowercase()).collect();
    (answer.status(), allow, answer.text())
}

/// What a reference in the document stands for.
fn found<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}")),
        None => value,
    }
}

fn check_references(document: &Value, value: &Value) {
    found(document, value);
    match value {
        Value::Object(entries) => entries.values().for_each(|value| check_references(document, value)),
        Value::Array(items) => items.iter().for_each(|value| check_references(document, value)),
        _ => {}
    }
}

#[test]
fn the_api_is_as_it_says() {
    let folder = Scratch::create("openapi").expect("a folder");
    let control = Control::start(&folder);
    let (status, document) = control.ask("GET /openapi.json", "", "");
    assert_eq!((status, &document["openapi"]), (200, &"3.1.0".into()));
    check_references(&document, &document);
    // By the parameters that the API knows: those that are written.
    let mut written: BTreeMap<BTreeSet<String>, BTreeSet<String>> = BTreeMap::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let place = path.replace("{kind}", "Service").replace("{namespace}", "default");
        let place = place.replace("{name}", "a").replace("{service}", "a");
        assert!(!place.contains('{'), "{path}");
        let methods = METHODS.into_iter().filter(|method| operations[method].is_object());
        let mut expected: BTreeSet<String> = methods.clone().map(String::from).collect();
        if expected.contains("get") {
            expected.insert("head".into());
        }
        let (status, allowed, _) = ask(&control, &format!("OPTIONS {place}"));
        assert_eq!((status, allowed), (405, expected), "{path}");
        for method in methods {
            let parameters = operations[method]["parameters"].as_array().into_iter().flatten();
            let parameters = parameters.map(|parameter| found(&document, parameter));
            let names: BTreeSet<String> = parameters
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| parameter["name"].as_str().expect("a name").to_owned())
                .collect();
            let in_path = |name: &str| {
                operations["parameters"].as_array().into_iter().flatten().any(|parameter| {
                    let parameter = found(&document, parameter);
                    parameter["in"] == "path" && parameter["name"] == name
                })
            };
            let holes = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
            assert!(holes.clone().all(in_path), "{path}");
            // Whoever asks for what is not known is told what is.
            let (status, _, text) = ask(&control, &format!("{} {place}?nosuch=1", method.to_uppercase()));
            let known = text.split_once("unknown field `nosuch`, expected ").map(|(_, known)| known);
            let Some(known) = known else {
                assert!(names.is_empty(), "{method} {path} knows no parameters: {status} {text}");
                continue;
            };
            let known: BTreeSet<String> = known.split('`').skip(1).step_by(2).map(String::from).collect();
            assert!(status == 400 && names.is_subset(&known), "{method} {path}: {names:?} of {known:?}");
            written.entry(known).or_default().extend(names);
        }
    }
    for (known, written) in written {
        assert_eq!(written, known, "what the API knows, and what it says of that");
    }
}
