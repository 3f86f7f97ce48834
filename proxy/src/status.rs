//! What the process knows of its own configuration and life, for probes and for people. Written by the main
//! thread, read by whoever asks. Cold.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use config::Snapshot;
use config::snapshot::discovery::Discovery;
use serde_json::{Value, json};

use crate::dns::Names;
use crate::edges::Edges;
use crate::subscription::Fare;

/// The state of the process, shared with the admin side.
pub(crate) struct Status {
    inner: Mutex<Inner>,
    names: Mutex<Names>,
    /// None: rules come from files.
    control: Mutex<Option<ControlStatus>>,
    /// Requests that have ended, and those that failed.
    fare: [AtomicU64; 2],
    /// Those of them that lanes are about.
    edges: Mutex<Arc<Edges>>,
    pub(crate) started: Instant,
}

/// The way to control.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlStatus {
    pub(crate) address: String,
    pub(crate) is_connected: bool,
    /// Up to which everything is in force here.
    pub(crate) revision: u64,
}

struct Inner {
    revision: u64,
    snapshot: Option<Arc<Snapshot>>,
    applied_at: Option<String>,
    warnings: Vec<String>,
    /// Why the newest rules are not in force; empty if they are.
    problems: Vec<String>,
    refused_at: Option<String>,
    reloads_applied: u64,
    reloads_refused: u64,
    finishing: bool,
    /// The instance beside which this proxy stands goes.
    leaving: bool,
    /// It is not ready.
    lacks_app: bool,
}

impl Status {
    /// Of a process that has no configuration.
    pub(crate) fn new() -> Status {
        Status {
            inner: Mutex::new(Inner {
                revision: 0,
                snapshot: None,
                applied_at: None,
                warnings: Vec::new(),
                problems: Vec::new(),
                refused_at: None,
                reloads_applied: 0,
                reloads_refused: 0,
                finishing: false,
                leaving: false,
                lacks_app: false,
            }),
            names: Mutex::default(),
            control: Mutex::default(),
            fare: Default::default(),
            edges: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Requests that have ended by now, and those of them that failed.
    pub(crate) fn set_fare(&self, requests: u64, failed: u64) {
        self.fare[0].store(requests, Relaxed);
        self.fare[1].store(failed, Relaxed);
    }

    /// Where requests of lanes went so far.
    pub(crate) fn set_edges(&self, edges: Edges) {
        *self.edges.lock().expect("no holder of this lock can panic") = Arc::new(edges);
    }

    /// As they were set last.
    pub(crate) fn edges(&self) -> Arc<Edges> {
        self.edges.lock().expect("no holder of this lock can panic").clone()
    }

    /// As it was set last.
    pub(crate) fn fare(&self) -> Fare {
        let [requests, failed] = [0, 1].map(|place: usize| self.fare[place].load(Relaxed));
        Fare { requests, failed }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().expect("no holder of this lock can panic"))
    }

    /// A revision is in force on all workers.
    pub(crate) fn applied(&self, revision: u64, snapshot: Arc<Snapshot>, warnings: Vec<String>) {
        self.with(|inner| {
            inner.revision = revision;
            inner.snapshot = Some(snapshot);
            inner.applied_at = Some(crate::log::timestamp());
            inner.warnings = warnings;
            inner.problems.clear();
            inner.refused_at = None;
            inner.reloads_applied += 1;
        });
    }

    /// The same rules are in force with other addresses.
    pub(crate) fn readdressed(&self, revision: u64, snapshot: Arc<Snapshot>) {
        self.with(|inner| {
            inner.revision = revision;
            inner.snapshot = Some(snapshot);
            inner.applied_at = Some(crate::log::timestamp());
        });
    }

    /// Changes what is known of the way to control.
    pub(crate) fn control(&self, change: impl FnOnce(&mut ControlStatus)) {
        change(self.control.lock().expect("no holder of this lock can panic").get_or_insert_default());
    }

    /// What is known of the way to control, if rules come from there.
    pub(crate) fn control_status(&self) -> Option<ControlStatus> {
        self.control.lock().expect("no holder of this lock can panic").clone()
    }

    /// Names of Services and their addresses.
    pub(crate) fn names<T>(&self, act: impl FnOnce(&mut Names) -> T) -> T {
        act(&mut self.names.lock().expect("no holder of this lock can panic"))
    }

    /// The rules read are those in force; whether others had been refused before.
    pub(crate) fn unchanged(&self, warnings: Vec<String>) -> bool {
        self.with(|inner| {
            inner.warnings = warnings;
            inner.problems.clear();
            inner.refused_at.take().is_some()
        })
    }

    /// New rules were refused; what was in force stays.
    pub(crate) fn refused(&self, problems: Vec<String>) {
        self.with(|inner| {
            inner.problems = problems;
            inner.refused_at = Some(crate::log::timestamp());
            inner.reloads_refused += 1;
        });
    }

    /// Whether the last rules were refused for this and nothing else.
    pub(crate) fn is_refused_for(&self, problem: &str) -> bool {
        self.with(|inner| matches!(&inner.problems[..], [known] if known == problem))
    }

    /// The process has been told to end.
    pub(crate) fn finishing(&self) {
        self.with(|inner| inner.finishing = true);
    }

    /// Whether new requests should come here.
    pub(crate) fn is_ready(&self) -> bool {
        self.with(|inner| inner.revision > 0 && !inner.finishing && !inner.leaving && !inner.lacks_app)
    }

    /// Whether rules are in force.
    pub(crate) fn has_rules(&self) -> bool {
        self.with(|inner| inner.revision > 0)
    }

    /// The instance beside which this proxy stands goes.
    pub(crate) fn leaving(&self) {
        self.with(|inner| inner.leaving = true);
    }

    /// Whether that instance is ready.
    pub(crate) fn set_app(&self, is_ready: bool) {
        self.with(|inner| inner.lacks_app = !is_ready);
    }

    /// The snapshot in force.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.with(|inner| inner.snapshot.clone())
    }

    /// Revisions put in force and refused so far.
    pub(crate) fn reloads(&self) -> (u64, u64) {
        self.with(|inner| (inner.reloads_applied, inner.reloads_refused))
    }

    /// `/config`: what is in force, since when, and why newer rules are not.
    pub(crate) fn config(&self) -> Value {
        let names = self.names(|names| names.document(self.started.elapsed()));
        let control = self.control_status().map(|control| {
            json!({"address": control.address, "connected": control.is_connected, "revision": control.revision})
        });
        self.with(|inner| {
            let refused = match inner.problems.is_empty() {
                true => Value::Null,
                false => json!({"at": inner.refused_at, "problems": inner.problems}),
            };
            json!({
                "revision": inner.revision,
                "appliedAt": inner.applied_at,
                "warnings": inner.warnings,
                "refused": refused,
                "listeners": inner.snapshot.iter().flat_map(|snapshot| snapshot.binds.iter()).map(|bind| json!({
                    "name": bind.name.to_string(),
                    "address": bind.address.to_string(),
                    "rules": bind.table.rules().map(|rule| rule.name.to_string()).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
                "clusters": inner.snapshot.iter().flat_map(|snapshot| &snapshot.clusters).map(|cluster| json!({
                    "name": cluster.name.to_string(),
                    "dns": match &cluster.discovery {
                        Discovery::Dns(dns) => Some(dns.name.to_string()),
                        Discovery::Written | Discovery::Control(_) => None,
                    },
                    "awaited": cluster.is_awaited(),
                    "endpoints": cluster.endpoints.iter().map(|endpoint| json!({
                        "address": endpoint.address.to_string(),
                        "weight": endpoint.weight,
                    })).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
                "names": names,
                "control": control,
            })
        })
    }
}
