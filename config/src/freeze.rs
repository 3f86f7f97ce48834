//! Whether a document may be changed now: what ChangeFreezes say of it. Who enforces that is the control server. Time is an
//! argument. Pure, Cold.

use std::time::Duration;

use cronexpr::{Crontab, MakeTimestamp};

use crate::document::Key;
use crate::model::change_freeze::{Exempt, Spec, Window as Written};
use crate::model::{Documents, Object};
use crate::problem::{Origins, Problems};
use crate::tree;

/// Beginnings of windows that overlap, one after the other, that are looked at: more is for ever.
const CHAIN_MAX: usize = 1_000;

/// One ChangeFreeze.
#[derive(Debug, Clone)]
pub struct Freeze {
    /// `namespace/name`.
    pub name: String,
    namespaces: Vec<String>,
    kinds: Vec<String>,
    windows: Vec<Window>,
    exempt: Vec<Exempt>,
    roles: Vec<String>,
}

#[derive(Debug, Clone)]
enum Window {
    Once { start_ms: i64, duration: Duration },
    Again { crontab: Box<Crontab>, duration: Duration },
}

/// What a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Something shall be otherwise.
    Change,
    /// Something shall be as it was.
    Rollback,
    /// A limit for an emergency, or its end.
    EmergencyLimit,
}

impl Freeze {
    /// What the text of a document says; None: it is no ChangeFreeze.
    pub fn read(text: &str) -> Option<Freeze> {
        let mut problems = Problems::new(Origins::default());
        let origin = problems.origins.open(&"".into(), 0);
        let mut documents = Documents::default();
        for node in tree::parse(text, origin, &mut problems).iter() {
            crate::model::read(node, &mut documents, &mut problems);
        }
        documents.change_freezes.first().filter(|_| !problems.has_errors()).map(|object| Freeze::of(object))
    }

    fn of(Object { metadata, spec, .. }: &Object<Spec>) -> Freeze {
        let scope = spec.scope.as_ref();
        let texts = |list: Option<Vec<String>>| list.unwrap_or_default();
        let roles =
            spec.break_glass.as_ref().map(|glass| glass.roles.iter().map(|role| role.as_str().to_owned()).collect());
        Freeze {
            name: metadata.to_string(),
            namespaces: texts(scope.map(|scope| scope.namespaces.iter().map(|one| one.as_str().to_owned()).collect())),
            kinds: texts(scope.map(|scope| scope.kinds.iter().map(|one| one.as_str().to_owned()).collect())),
            windows: spec.windows.iter().filter_map(window).collect(),
            exempt: spec.allow.iter().copied().collect(),
            roles: roles.unwrap_or_else(|| vec!["admin".into()]),
        }
    }

    /// Until when a document must not be changed, in milliseconds since 1970, if that is so now. A freeze protects itself,
    /// too, wherever it stands.
    pub fn until(&self, key: &Key, purpose: Purpose, now_ms: i64) -> Option<i64> {
        let has = |list: &[String], word: &str| list.is_empty() || list.iter().any(|one| one == word);
        let is_itself = *key.kind == *"ChangeFreeze" && format!("{}/{}", key.namespace, key.name) == self.name;
        let is_meant = has(&self.namespaces, &key.namespace) && has(&self.kinds, &key.kind);
        let is_exempt = match purpose {
            Purpose::Change => false,
            Purpose::Rollback => self.exempt.contains(&Exempt::Rollback),
            Purpose::EmergencyLimit => self.exempt.contains(&Exempt::EmergencyLimit),
        };
        if !is_itself && (!is_meant || is_exempt) {
            return None;
        }
        self.windows.iter().filter_map(|window| window.until(now_ms)).max()
    }

    /// Those who may break it.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// Whether one with this role may break it.
    pub fn is_broken_by(&self, role: &str) -> bool {
        self.roles.iter().any(|known| known == role)
    }
}

impl Window {
    /// The end of it, if it is open.
    fn until(&self, now_ms: i64) -> Option<i64> {
        let after = |start_ms: i64, duration: &Duration| {
            start_ms.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
        };
        match self {
            Window::Once { start_ms, duration } => {
                let end = after(*start_ms, duration);
                (*start_ms <= now_ms && now_ms < end).then_some(end)
            }
            Window::Again { crontab, duration } => {
                let length = after(0, duration);
                let next = |ms: i64| {
                    let from = MakeTimestamp::from_millisecond(ms).ok()?;
                    Some(crontab.find_next(from).ok()?.timestamp().as_millisecond())
                };
                // Whatever began after this is open, and so is what begins before that ends.
                let mut end = after(next(now_ms - length).filter(|start| *start <= now_ms)?, duration);
                for _ in 0..CHAIN_MAX {
                    match next(end - length).filter(|start| *start <= end) {
                        Some(start) if after(start, duration) > end => end = after(start, duration),
                        _ => break,
                    }
                }
                Some(end)
            }
        }
    }
}

fn window(written: &Written) -> Option<Window> {
    let duration = written.duration.0;
    if let Some(start) = &written.start {
        return Some(Window::Once { start_ms: start.0.milliseconds(), duration });
    }
    let zone = written.time_zone.as_ref().map_or("UTC", |zone| zone.as_str());
    let crontab = cron(written.cron.as_ref()?.as_str(), zone).ok()?;
    Some(Window::Again { crontab: Box::new(crontab), duration })
}

/// A schedule in a time zone.
pub(crate) fn cron(schedule: &str, zone: &str) -> Result<Crontab, cronexpr::Error> {
    cronexpr::parse_crontab(&format!("{schedule} {zone}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(spec: &str) -> Freeze {
        let text = format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: ChangeFreeze, metadata: {{name: night}}, spec: {{{spec}}}}}"
        );
        Freeze::read(&text).unwrap_or_else(|| panic!("{text}"))
    }

    fn ms(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().expect("rows are times").as_millisecond()
    }

    #[test]
    fn windows_open_and_close() {
        let once = "windows: [{start: \"2026-12-31T18:00:00+08:00\", duration: 12h}]";
        let fridays = "windows: [{cron: \"0 18 * * 5\", timeZone: Asia/Shanghai, duration: 60h}]";
        let hours = "windows: [{cron: \"0 9-17 * * *\", duration: 90m}]";
        let spring = "windows: [{cron: \"30 2 * * *\", timeZone: Europe/Berlin, duration: 1h}]";
        for (spec, now, until) in [
            (once, "2026-12-31T09:59:59Z", None),
            (once, "2026-12-31T10:00:00Z", Some("2026-12-31T22:00:00Z")),
            (once, "2026-12-31T21:59:59Z", Some("2026-12-31T22:00:00Z")),
            (once, "2026-12-31T22:00:00Z", None),
            // From Friday, 18:00 in Shanghai, to Monday, 6:00.
            (fridays, "2026-11-20T09:59:00Z", None),
            (fridays, "2026-11-20T10:00:00Z", Some("2026-11-22T22:00:00Z")),
            (fridays, "2026-11-22T21:00:00Z", Some("2026-11-22T22:00:00Z")),
            (fridays, "2026-11-22T22:00:00Z", None),
            // One after the other is one.
            (hours, "2026-11-20T09:00:00Z", Some("2026-11-20T18:30:00Z")),
            (hours, "2026-11-20T08:00:00Z", None),
            // On the day without 2:30 it begins when that would have been.
            (spring, "2026-03-28T01:45:00Z", Some("2026-03-28T02:30:00Z")),
        ] {
            let key = Key { kind: "Service".into(), namespace: "default".into(), name: "web".into() };
            assert_eq!(freeze(spec).until(&key, Purpose::Change, ms(now)), until.map(ms), "{spec} at {now}");
        }
    }

    #[test]
    fn it_is_about_what_it_says() {
        let open = "windows: [{start: \"2026-01-01T00:00:00Z\", duration: 1h}]";
        let now = ms("2026-01-01T00:30:00Z");
        for (spec, kind, namespace, purpose, is_frozen) in [
            ("", "Service", "any", Purpose::Change, true),
            ("scope: {namespaces: [shop]}", "Service", "shop", Purpose::Change, true),
            ("scope: {namespaces: [shop]}", "Service", "other", Purpose::Change, false),
            ("scope: {kinds: [HTTPRoute]}", "Service", "shop", Purpose::Change, false),
            ("scope: {kinds: [HTTPRoute], namespaces: [shop]}", "HTTPRoute", "shop", Purpose::Change, true),
            ("", "Service", "any", Purpose::Rollback, true),
            ("allow: [rollback]", "Service", "any", Purpose::Rollback, false),
            ("allow: [rollback]", "Service", "any", Purpose::EmergencyLimit, true),
            ("allow: [emergencyLimit]", "RateLimit", "any", Purpose::EmergencyLimit, false),
            ("scope: {kinds: [HTTPRoute]}", "ChangeFreeze", "default", Purpose::Change, true),
            ("allow: [rollback]", "ChangeFreeze", "default", Purpose::Rollback, true),
        ] {
            let key = Key { kind: kind.into(), namespace: namespace.into(), name: "night".into() };
            let spec = if spec.is_empty() { open.to_owned() } else { format!("{spec}, {open}") };
            assert_eq!(freeze(&spec).until(&key, purpose, now).is_some(), is_frozen, "{spec} {key} {purpose:?}");
        }
        assert!(freeze(open).is_broken_by("admin") && !freeze(open).is_broken_by("operator"));
        let glass = freeze(&format!("{open}, breakGlass: {{roles: [operator]}}"));
        assert!(!glass.is_broken_by("admin") && glass.is_broken_by("operator"));
    }
}
