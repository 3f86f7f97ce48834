//! The instances of Services over REST: which there are and how far they are, drains that are under way or over, and the wish
//! that one goes. Cold.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use config::document::Key;
use serde_json::{Value, json};

use crate::access::Action;
use crate::registry::{Drains, Name, Phase, Registry, Seen};
use crate::server::answer::Fault;
use crate::server::api::{Answer, Api};
use crate::server::gate::Asking;
use crate::server::metrics::Metrics;
use crate::server::roll::{Roll, receipt, untold};
use crate::store::State as Documents;

/// Receipts that are told at once.
const RECEIPTS_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/instances", get(all))
        .route("/api/v1/instances/{namespace}/{service}/{name}", get(one))
        .route("/api/v1/instances/{namespace}/{service}/{name}/drain", post(drain))
        .route("/api/v1/drains", get(drains))
}

/// Which are meant.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    namespace: Option<String>,
    service: Option<String>,
}

impl Parameters {
    fn means(&self, name: &Name) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| **namespace == *name.namespace)
            && self.service.as_ref().is_none_or(|service| **service == *name.service)
    }
}

async fn all(State(api): State<Api>, Query(parameters): Query<Parameters>) -> Answer {
    let (now, state) = (Instant::now(), api.store.state());
    let told = api.roll.look(|registry, drains, refused| {
        let meant = registry.all().filter(|(name, _)| parameters.means(name));
        let known = Known::of(&state, registry);
        let instances: Vec<Value> = meant.map(|(name, seen)| told(registry, drains, &known, name, seen, now)).collect();
        let is_meant = |name: &str| Name::parse(name).is_none_or(|name| parameters.means(&name));
        let refused = refused.iter().filter(|refused| is_meant(&refused.name)).map(|refused| {
            let ago = now.saturating_duration_since(refused.at).as_millis() as u64;
            json!({ "instance": refused.name, "reason": refused.reason, "agoMilliseconds": ago })
        });
        json!({ "instances": instances, "refused": refused.collect::<Vec<_>>() })
    });
    Ok(Json(told))
}

async fn one(State(api): State<Api>, Path(path): Path<(String, String, String)>) -> Answer {
    let (name, state) = (name(path), api.store.state());
    let found = api.roll.look(|registry, drains, _| {
        let known = Known::of(&state, registry);
        registry.get(&name).map(|seen| told(registry, drains, &known, &name, seen, Instant::now()))
    });
    found.map(Json).ok_or_else(|| absent(&name))
}

async fn drain(
    State(api): State<Api>,
    Extension(caller): Asking,
    Path(path): Path<(String, String, String)>,
) -> Result<(StatusCode, Json<Value>), Fault> {
    let name = name(path);
    caller.may(&Action::ChangeOf(&service(&name)), &format!("drain {name}"))?;
    match api.roll.ask(&name) {
        true => Ok((StatusCode::ACCEPTED, Json(json!({ "instance": name.to_string() })))),
        false => Err(absent(&name)),
    }
}

async fn drains(State(api): State<Api>, Query(parameters): Query<Parameters>) -> Answer {
    let now = Instant::now();
    let under_way = api.roll.look(|registry, drains, _| {
        let meant = registry.all().filter(|(name, _)| parameters.means(name));
        let under_way = meant.filter_map(|(name, seen)| {
            let mut so_far = match drains.get(name) {
                Some(drain) => receipt(drain, None, now),
                None => untold(name, seen.going?, now),
            };
            so_far["reason"] = Value::Null;
            so_far["waitsFor"] = Some(seen.note).filter(|note| !note.is_empty()).into();
            Some(so_far)
        });
        under_way.collect::<Vec<Value>>()
    });
    let mut over = api.roll.receipts(RECEIPTS_MAX)?;
    over.retain(|receipt| {
        Name::parse(receipt["instance"].as_str().unwrap_or_default()).is_none_or(|name| parameters.means(&name))
    });
    Ok(Json(json!({ "underWay": under_way, "over": over })))
}

/// What is to be known of all instances at a glance.
pub(crate) fn summary(roll: &Roll, documents: &Documents) -> Value {
    roll.look(|registry, drains, refused| {
        let unconfirmed = registry.all().filter(|(_, seen)| seen.is_unconfirmed).count();
        let braked: Vec<String> =
            registry.braked().map(|(namespace, service)| format!("{namespace}/{service}")).collect();
        let is_nowhere = |name: &Name, seen: &Seen<'_>| {
            seen.phase == Phase::Ready && (seen.place.is_nowhere() || documents.get(&service(name)).is_none())
        };
        let nowhere = registry.all().filter(|(name, seen)| is_nowhere(name, seen)).count();
        json!({
            "count": registry.all().count(),
            "unconfirmed": unconfirmed,
            "braked": braked,
            "draining": drains.all().len(),
            "nowhere": nowhere,
            "refused": refused.len(),
            "refusedNow": refused.iter().filter(|refused| refused.is_now()).count(),
        })
    })
}

/// The same for dashboards.
pub(crate) fn measure(roll: &Roll, metrics: &Metrics) {
    let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    roll.look(|registry, _, _| {
        let mut phases = ["starting", "ready", "last", "draining"].map(|word| (word, 0));
        for (_, seen) in registry.all() {
            phases.iter_mut().filter(|(word, _)| *word == seen.phase.word()).for_each(|(_, count)| *count += 1);
        }
        for (word, count) in phases {
            metrics.instances.get_or_create(&[("phase", word.to_owned())]).set(gauge(count));
        }
        metrics.instances_unconfirmed.set(gauge(registry.all().filter(|(_, seen)| seen.is_unconfirmed).count()));
        metrics.services_braked.set(gauge(registry.braked().count()));
    });
}

fn name((namespace, service, name): (String, String, String)) -> Name {
    Name { namespace: namespace.into(), service: service.into(), name: name.into() }
}

fn absent(name: &Name) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("there is no instance {name}"))
}

/// What is known beside instances, as it is now: they may come before what is said of them.
struct Known<'d> {
    documents: &'d Documents,
    lanes: Lanes,
    /// Services of which too many instances are silent, by namespace and name.
    braked: BTreeSet<(Arc<str>, Arc<str>)>,
}

impl<'d> Known<'d> {
    fn of(documents: &'d Documents, registry: &Registry) -> Known<'d> {
        Known { documents, lanes: Lanes::of(documents), braked: registry.braked().cloned().collect() }
    }
}

/// The document of an instance's Service.
pub(crate) fn service(name: &Name) -> Key {
    Key { kind: "Service".into(), namespace: name.namespace.clone(), name: name.service.clone() }
}

/// The lanes of each namespace, and what a baseline is labelled with.
struct Lanes(BTreeMap<Arc<str>, (Vec<Selector>, BTreeSet<String>)>);

type Selector = BTreeMap<String, String>;

impl Lanes {
    fn of(documents: &Documents) -> Lanes {
        Lanes::read(documents.of_kind("LaneGroup").map(|group| (group.key.namespace.clone(), &*group.text)))
    }

    /// Of the LaneGroups of namespaces, as JSON.
    fn read<'t>(groups: impl Iterator<Item = (Arc<str>, &'t str)>) -> Lanes {
        let mut lanes = BTreeMap::<Arc<str>, (Vec<Selector>, BTreeSet<String>)>::new();
        for (namespace, text) in groups {
            let written: Value = serde_json::from_str(text).unwrap_or_default();
            let spec = &written["spec"];
            let (selectors, baselines) = lanes.entry(namespace).or_default();
            let of_spec = spec["lanes"].as_array().into_iter().flatten();
            selectors.extend(of_spec.filter_map(|lane| serde_json::from_value(lane["selector"].clone()).ok()));
            baselines.insert(spec["baseline"].as_str().unwrap_or("base").to_owned());
        }
        Lanes(lanes)
    }

    /// Whether there are lanes at all.
    fn has_group(&self, namespace: &str) -> bool {
        self.0.contains_key(namespace)
    }

    /// The lane of an instance's label, if no LaneGroup of its namespace knows it.
    fn unknown<'i>(&self, namespace: &str, labels: &'i BTreeMap<Box<str>, Box<str>>) -> Option<&'i str> {
        let lane = labels.get("lane")?;
        let is_known = self.0.get(namespace).is_some_and(|(selectors, baselines)| {
            let has = |(key, value): (&String, &String)| labels.get(&**key).is_some_and(|own| **own == **value);
            baselines.contains(&**lane) || selectors.iter().any(|selector| selector.iter().all(has))
        });
        (!is_known).then_some(lane)
    }
}

fn told(registry: &Registry, drains: &Drains, known: &Known<'_>, name: &Name, seen: Seen<'_>, now: Instant) -> Value {
    let Seen { instance, phase, is_unconfirmed, is_asked, note, place, is_unwell, .. } = seen;
    let deadline = match phase {
        Phase::Last { deadline, .. } | Phase::Draining { deadline } | Phase::Unknown { deadline } => Some(deadline),
        Phase::Starting | Phase::Ready => None,
    };
    // What is not stored is not so: callers are not told of it.
    let is_told = registry.is_stored(name) && !place.is_nowhere();
    let shown = if phase == Phase::Ready && !is_told { Phase::Starting } else { phase };
    let left = deadline.map(|deadline| deadline.saturating_duration_since(now).as_millis() as u64);
    let mut notes: Vec<Cow<'_, str>> = Vec::new();
    if is_unconfirmed {
        let is_braked = known.braked.contains(&(name.namespace.clone(), name.service.clone()));
        notes.push(
            if is_braked && phase == Phase::Ready {
                "unconfirmed, and kept: so are too many of its Service"
            } else {
                "unconfirmed"
            }
            .into(),
        );
    }
    if is_asked && deadline.is_none() {
        notes.push("asked to go".into());
    }
    if known.documents.get(&service(name)).is_none() {
        notes.push("there is no such Service: nobody is told of it".into());
    }
    let unknown = instance.ports.keys().filter(|port| !port.is_empty() && !place.ports.contains(*port));
    notes.extend(unknown.map(|port| format!("its Service has no port {port}: nobody is told of that").into()));
    if let Some(lane) = known.lanes.unknown(&name.namespace, &instance.labels) {
        notes.push(match known.lanes.has_group(&name.namespace) {
            true => format!("lane {lane} is of no LaneGroup: no request goes to it").into(),
            false => format!("lane {lane} is of no LaneGroup, and there is none: it serves the requests of all").into(),
        });
    }
    if is_unwell {
        notes.push("kept, since it is the last one".into());
    }
    if !note.is_empty() {
        notes.push(if deadline.is_some() { format!("waits for {note}").into() } else { note.into() });
    }
    json!({
        "instance": name.to_string(),
        "incarnation": instance.incarnation,
        "address": instance.address,
        "ports": instance.ports,
        "weight": instance.weight,
        "zone": instance.zone,
        "labels": instance.labels,
        "phase": shown.word(),
        "unconfirmed": is_unconfirmed,
        "ready": (instance.ready_ms > 0).then_some(instance.ready_ms),
        "drainRevision": drains.get(name).map(|drain| drain.revision),
        "leftMilliseconds": left,
        "notes": notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_no_group_knows_is_told() {
        let groups = [
            ("shop", r#"{"spec": {"lanes": [{"name": "blue", "selector": {"lane": "blue"}}]}}"#),
            (
                "shop",
                r#"{"spec": {"baseline": "main", "lanes": [{"name": "red", "selector": {"lane": "r", "tier": "x"}}]}}"#,
            ),
        ];
        let lanes = Lanes::read(groups.into_iter().map(|(namespace, text)| (namespace.into(), text)));
        for (namespace, labels, expected) in [
            ("shop", &[][..], None),
            ("shop", &[("zone", "a")], None),
            ("shop", &[("lane", "blue")], None),
            ("shop", &[("lane", "base")], None),
            ("shop", &[("lane", "main")], None),
            ("shop", &[("lane", "r")], Some("r")),
            ("shop", &[("lane", "r"), ("tier", "x")], None),
            ("shop", &[("lane", "green")], Some("green")),
            // A lane is of its namespace only.
            ("far", &[("lane", "blue")], Some("blue")),
        ] {
            let labels = labels.iter().map(|(key, value)| (Box::from(*key), Box::from(*value))).collect();
            assert_eq!(lanes.unknown(namespace, &labels), expected, "{namespace} {labels:?}");
        }
    }
}
