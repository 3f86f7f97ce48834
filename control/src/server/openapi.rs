//! What the REST API is, for programs: an OpenAPI 3.1 document, which tests compare with the routes that there are. Cold.

use axum::Router;
use axum::routing::get;

/// Written by hand, and read by nobody here.
const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/openapi.json", get(document))
}

async fn document() -> ([(&'static str, &'static str); 1], &'static str) {
    ([("content-type", "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

    /// Paths and methods of the routes in a source file.
    fn routes_of(text: &str, found: &mut BTreeSet<(String, String)>) {
        // In pieces, so that this file does not find itself.
        for route in text.split(&[".rou", "te("].concat()).skip(1) {
            let Some((path, rest)) = route.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
                continue;
            };
            let mut depth = 1;
            let inside = |letter: &char| {
                depth += i32::from(*letter == '(') - i32::from(*letter == ')');
                depth > 0
            };
            let handlers: String = rest.chars().take_while(inside).collect();
            for method in METHODS {
                let is_there = handlers.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == method);
                if is_there {
                    found.insert((path.to_owned(), method.to_owned()));
                }
            }
        }
    }

    #[test]
    fn each_route_is_in_it_and_nothing_else() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server");
        let mut routes = BTreeSet::new();
        for entry in std::fs::read_dir(folder).expect("the sources").flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            routes_of(&text, &mut routes);
        }
        let document: Value = serde_json::from_str(DOCUMENT).expect("JSON");
        let mut written = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for method in METHODS.into_iter().filter(|method| operations[method].is_object()) {
                written.insert((path.clone(), method.to_owned()));
            }
        }
        assert_eq!(written, routes);
        assert!(routes.len() > 20, "{routes:?}");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
