//! What the audit says: an entry for each change, written with it, and for attempts that were refused. Pure, Cold.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::access::Author;
use crate::diff::{Difference, differences};
use crate::store::state::{Committed, Object};
use crate::store::token::Token;
use crate::store::trial::Course;

/// Of the differences in one entry. What has more tells which documents only: their versions are in the history.
const DIFFERENCES_BYTES_MAX: usize = 16 << 10;

/// What somebody tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Who, as far as that is known.
    pub author: Author,
    /// What.
    pub action: String,
    /// Why not.
    pub reason: String,
    /// How many such attempts this stands for.
    pub count: u64,
}

/// A transaction that is made.
pub(super) fn of_documents(committed: &Committed) -> Value {
    let mut bytes_left = DIFFERENCES_BYTES_MAX;
    let objects: Vec<Value> = committed
        .moved
        .iter()
        .map(|moved| {
            let change = word(moved.before.is_some(), moved.after.is_some());
            let mut told = json!({ "object": moved.key.to_string(), "change": change });
            // What is too long is not read either.
            let size: usize = [&moved.before, &moved.after].into_iter().flatten().map(|object| object.text.len()).sum();
            if bytes_left > 0 && size <= 8 * DIFFERENCES_BYTES_MAX {
                let found = differences(&value(moved.before.as_ref()), &value(moved.after.as_ref()));
                let found = Value::from(found.iter().map(Difference::json).collect::<Vec<_>>());
                let length = found.to_string().len();
                if length <= bytes_left {
                    told["differences"] = found;
                }
                bytes_left = bytes_left.saturating_sub(length);
            }
            told
        })
        .collect();
    let mut entry = entry(&committed.author, committed.time_ms, "changed");
    entry["revision"] = committed.revision.into();
    entry["message"] = (*committed.message).into();
    if committed.cause.breaks_glass {
        // Whether a freeze was in the way or not: it was meant to be broken.
        entry["breaksGlass"] = true.into();
    }
    match committed.cause.course {
        Course::Straight => {}
        Course::Trial(_) => entry["canary"] = true.into(),
        Course::Promotes(revision) => entry["promotes"] = revision.into(),
        Course::TakesBack(revision) => entry["takesBack"] = revision.into(),
    }
    entry["objects"] = objects.into();
    entry
}

/// A token that was made, replaced or revoked.
pub(super) fn of_token(author: &Author, time_ms: i64, revision: u64, name: &str, token: Option<&Token>) -> Value {
    let mut entry = entry(author, time_ms, if token.is_some() { "created token" } else { "revoked token" });
    entry["revision"] = revision.into();
    entry["token"] = token.map_or_else(|| json!({ "name": name }), Token::shown);
    entry
}

/// An attempt.
pub(super) fn of_attempt(attempt: &Attempt, time_ms: i64) -> Value {
    let mut entry = entry(&attempt.author, time_ms, "refused");
    entry["attempt"] = (*attempt.action).into();
    entry["reason"] = (*attempt.reason).into();
    entry["count"] = attempt.count.into();
    entry
}

fn entry(author: &Author, time_ms: i64, action: &str) -> Value {
    json!({
        "time": jiff::Timestamp::from_millisecond(time_ms).map(|time| time.to_string()).unwrap_or_default(),
        "who": (!author.name.is_empty()).then_some(&*author.name),
        "role": author.role.map(|role| role.word()),
        "from": author.from.map(|address| address.to_string()),
        "action": action,
    })
}

fn word(was_there: bool, is_there: bool) -> &'static str {
    match (was_there, is_there) {
        (false, _) => "created",
        (_, false) => "removed",
        _ => "changed",
    }
}

fn value(object: Option<&Arc<Object>>) -> Value {
    object.and_then(|object| serde_json::from_str(&object.text).ok()).unwrap_or_default()
}
