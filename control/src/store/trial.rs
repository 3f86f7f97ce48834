//! Transactions that some proxies try first: kept with their documents as they were, until they are promoted or taken
//! back, so that a control that starts anew knows what is not everybody's. Pure, Cold.

use std::sync::Arc;

use config::document::Key;
use config::freeze::Purpose;
use serde_json::{Value, json};

use crate::access::Author;
use crate::store::state::{Cause, Change, Committed, Expected, Moved, Object};

/// What a transaction means for what is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It goes to everybody at once.
    Straight,
    /// Some proxies try it first.
    Trial(Terms),
    /// What is on trial at this revision is everybody's.
    Promotes(u64),
    /// What is on trial at this revision is as it was.
    TakesBack(u64),
}

/// How something is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// By whom.
    pub share: Share,
    /// For how long after the last of them has it.
    pub bake_ms: u64,
}

/// How many of the proxies whom it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl Moved {
    /// Whether a Service has other instances than before, some of them, and is what it was in everything else. What is
    /// hardly meant about them (a lane that is not there) is found with the next change of a rule.
    pub fn is_only_endpoints(&self) -> bool {
        let has_some = |object: &Option<Arc<Object>>| {
            let (rest, endpoints) = apart(object.as_ref()?);
            endpoints.as_array().is_some_and(|endpoints| !endpoints.is_empty()).then_some(rest)
        };
        let (before, after) = (has_some(&self.before), has_some(&self.after));
        *self.key.kind == *"Service" && before.is_some() && before == after
    }

    /// A document as it was before a trial that changed it so, and what became of it since: instances that came and went
    /// meanwhile have come and gone. None: somebody has changed its rules since, which stays.
    pub fn as_before(&self, now: Option<&Arc<Object>>) -> Option<Option<Arc<str>>> {
        let text = |object: &Option<Arc<Object>>| object.as_ref().map(|object| object.text.clone());
        if now.map(|object| &object.text) == self.after.as_ref().map(|object| &object.text) {
            return Some(text(&self.before));
        }
        let (after, now) = (apart(self.after.as_ref()?), apart(now?));
        if *self.key.kind != *"Service" || after.0 != now.0 {
            return None;
        }
        let Some(before) = &self.before else { return Some(None) };
        let (mut rest, _) = apart(before);
        if rest["spec"]["dns"].is_null() && !now.1.is_null() {
            rest["spec"]["endpoints"] = now.1;
        }
        Some(Some(rest.to_string().into()))
    }
}

impl Committed {
    /// What brings everything back to how it was before this was tried.
    pub fn way_back(&self, now: impl Fn(&Key) -> Option<Arc<Object>>) -> Vec<Change> {
        let change = |moved: &Moved| {
            let found = now(&moved.key);
            let expected = found.as_ref().map_or(Expected::Absent, |object| Expected::Revision(object.revision));
            Some(Change { key: moved.key.clone(), text: moved.as_before(found.as_ref())?, expected })
        };
        self.moved.iter().filter_map(change).collect()
    }

    /// Whether it changes nothing but instances: nothing refers to them, and each is right by itself.
    pub fn is_only_endpoints(&self) -> bool {
        self.moved.iter().all(Moved::is_only_endpoints)
    }

    /// Whether it is a revision: something is other than before.
    pub fn is_made(&self) -> bool {
        !self.shifts.is_empty() || self.is_of_documents()
    }

    /// Whether it is one that people made: history and watchers tell of it.
    pub fn is_of_documents(&self) -> bool {
        !self.moved.is_empty() || matches!(self.cause.course, Course::Promotes(_) | Course::TakesBack(_))
    }

    /// What is on trial after it, if that was so before.
    pub(super) fn on_trial(self: &Arc<Committed>, before: Option<Arc<Committed>>) -> Option<Arc<Committed>> {
        match self.cause.course {
            Course::Straight => before,
            Course::Trial(_) => Some(self.clone()),
            Course::Promotes(_) | Course::TakesBack(_) => None,
        }
    }

    /// As it is kept while it is on trial.
    pub(super) fn trial_text(&self) -> Option<String> {
        let Course::Trial(terms) = self.cause.course else { return None };
        let (count, percent) = match terms.share {
            Share::Count(count) => (Some(count), None),
            Share::Percent(percent) => (None, Some(percent)),
        };
        let object = |object: &Arc<Object>| json!([object.created, object.revision, &*object.text]);
        let moved = |moved: &Moved| {
            json!({
                "object": moved.key.to_string(),
                "before": moved.before.as_ref().map(object),
                "after": moved.after.as_ref().map(object),
            })
        };
        let kept = json!({
            "revision": self.revision,
            "time": self.time_ms,
            "author": *self.author.name,
            "message": *self.message,
            "count": count,
            "percent": percent,
            "bake": terms.bake_ms,
            "objects": self.moved.iter().map(moved).collect::<Vec<_>>(),
        });
        Some(kept.to_string())
    }

    /// What `trial_text` wrote.
    pub(super) fn parse_trial(text: &str) -> Option<Committed> {
        let kept: Value = serde_json::from_str(text).ok()?;
        let number = |name: &str| kept[name].as_u64();
        let share = match (number("count"), number("percent")) {
            (Some(count), _) => Share::Count(count.try_into().ok()?),
            (None, percent) => Share::Percent(percent?.try_into().ok()?),
        };
        let moved = |one: &Value| {
            let key = Key::parse(one["object"].as_str()?)?;
            let object = |value: &Value| {
                let (created, revision) = (value[0].as_u64()?, value[1].as_u64()?);
                Some(Arc::new(Object { key: key.clone(), created, revision, text: value[2].as_str()?.into() }))
            };
            Some(Moved { before: object(&one["before"]), after: object(&one["after"]), key })
        };
        let course = Course::Trial(Terms { share, bake_ms: number("bake")? });
        Some(Committed {
            revision: number("revision")?,
            time_ms: kept["time"].as_i64()?,
            author: Author { name: kept["author"].as_str()?.into(), role: None, from: None },
            message: kept["message"].as_str()?.into(),
            cause: Cause { purpose: Purpose::Change, breaks_glass: false, course },
            moved: kept["objects"].as_array()?.iter().map(moved).collect::<Option<_>>()?,
            shifts: Vec::new(),
        })
    }
}

/// A document without its instances, and those.
fn apart(object: &Arc<Object>) -> (Value, Value) {
    let mut value: Value = serde_json::from_str(&object.text).unwrap_or_default();
    let endpoints = value["spec"].as_object_mut().and_then(|spec| spec.remove("endpoints"));
    (value, endpoints.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { kind: "Service".into(), namespace: "default".into(), name: "a".into() }
    }

    /// `PORT: ENDPOINTS`, or nothing.
    fn object(text: &str) -> Option<Arc<Object>> {
        let (port, endpoints) = text.split_once(':')?;
        let mut spec = json!({ "port": port });
        if !endpoints.is_empty() {
            spec["endpoints"] = endpoints.split(',').collect();
        }
        let text = json!({ "kind": "Service", "spec": spec }).to_string().into();
        Some(Arc::new(Object { key: key(), created: 1, revision: 1, text }))
    }

    fn shown(text: Option<&str>) -> String {
        let Some(text) = text else { return "-".into() };
        let value: Value = serde_json::from_str(text).expect("JSON");
        let endpoints = value["spec"]["endpoints"].as_array().into_iter().flatten().filter_map(Value::as_str);
        format!("{}:{}", value["spec"]["port"].as_str().expect("a port"), endpoints.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn what_is_taken_back_is_as_it_was_but_for_what_others_did() {
        // As it was, as the trial made it, as it is; what it comes to.
        for (before, after, now, expected) in [
            ("80:a", "81:a", "81:a", "80:a"),
            ("80:a", "81:b", "81:b", "80:a"),
            ("80:a", "81:a", "81:a,b", "80:a,b"),
            ("80:a", "81:b", "81:c", "80:c"),
            ("80:a", "81:a", "82:a", "stays"),
            ("80:a", "81:a", "-", "stays"),
            ("-", "81:a", "81:a", "-"),
            ("-", "81:a", "81:b", "-"),
            ("80:a", "-", "-", "80:a"),
            ("80:a", "-", "82:a", "stays"),
        ] {
            let moved = Moved { key: key(), before: object(before), after: object(after) };
            let found = moved.as_before(object(now).as_ref());
            let found = found.map_or("stays".to_owned(), |text| shown(text.as_deref()));
            assert_eq!(found, expected, "{before} {after} {now}");
        }
    }

    #[test]
    fn a_trial_is_read_as_it_was_written() {
        for share in [Share::Count(2), Share::Percent(10)] {
            let course = Course::Trial(Terms { share, bake_ms: 5_000 });
            let committed = Committed {
                revision: 7,
                time_ms: 12,
                author: Author { name: "ann".into(), role: None, from: None },
                message: "try".into(),
                cause: Cause { purpose: Purpose::Change, breaks_glass: false, course },
                moved: vec![Moved { key: key(), before: None, after: object("80:a") }],
                shifts: Vec::new(),
            };
            let text = committed.trial_text().expect("it is one");
            assert_eq!(Committed::parse_trial(&text), Some(committed));
        }
        assert_eq!(Committed::parse_trial("{}"), None);
    }
}
