//! What is other in one document than in another, field by field. Pure, Cold.

use serde_json::{Value, json};

/// One field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    /// Such as `spec.rules[0].backendRefs[1].weight`.
    pub field: String,
    /// Null: it was not there.
    pub before: Value,
    /// Null: it is not there.
    pub after: Value,
}

impl Difference {
    pub(crate) fn json(&self) -> Value {
        json!({ "field": self.field, "before": self.before, "after": self.after })
    }
}

/// All of them, in the order of the fields. A list that became longer or shorter differs at its end.
pub(crate) fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), before, after, &mut found);
    found
}

fn compare(field: String, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let inner = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                compare(inner, &of(before), &of(after), found);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for index in 0..before.len().max(after.len()) {
                let of = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                compare(format!("{field}[{index}]"), &of(before), &of(after), found);
            }
        }
        _ if before == after => {}
        _ => found.push(Difference { field, before: before.clone(), after: after.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named() {
        for (before, after, expected) in [
            (json!({"a": 1}), json!({"a": 1}), &[][..]),
            (json!({"a": 1}), json!({"a": 2, "b": {"c": 3}}), &["a: 1 > 2", "b: null > {\"c\":3}"]),
            (json!({"l": [1, {"w": 9}]}), json!({"l": [1, {"w": 8}, 2]}), &["l[1].w: 9 > 8", "l[2]: null > 2"]),
            (json!({"l": [1]}), json!({"l": {}}), &["l: [1] > {}"]),
            (Value::Null, json!({"a": 1}), &[": null > {\"a\":1}"]),
        ] {
            let found = differences(&before, &after);
            let shown: Vec<String> =
                found.iter().map(|one| format!("{}: {} > {}", one.field, one.before, one.after)).collect();
            assert_eq!(shown, expected, "{before} and {after}");
        }
    }
}
