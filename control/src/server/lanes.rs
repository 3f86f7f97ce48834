//! Lanes over the graph of calls, as proxies tell it: which way requests of each lane went in the last ten minutes, where
//! the baseline served them, and where they leaked. It begins anew with control. Time is an argument. Machine, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use config::wire::evenkeel::v1::LaneEdge;
use serde_json::{Value, json};

use crate::server::api::{Answer, Api};

/// What is told is of so many periods, the one that has begun among them.
const PERIODS: usize = 10;
const PERIOD: Duration = Duration::from_secs(60);
/// Ways that are remembered; others are not counted.
const EDGES_MAX: usize = 20_000;
/// Services that a new instance is told of, since others of its Service call them.
const CALLED_MAX: usize = 100;
/// Of a name that a proxy tells.
const TEXT_BYTES_MAX: usize = 600;

pub(crate) fn routes() -> Router<Api> {
    Router::new().route("/api/v1/lanes", get(all))
}

/// Which are meant.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// Of this namespace.
    namespace: Option<String>,
    lane: Option<String>,
}

async fn all(State(api): State<Api>, Query(parameters): Query<Parameters>) -> Answer {
    Ok(Json(api.lanes.tell(parameters.namespace.as_deref(), parameters.lane.as_deref(), Instant::now())))
}

/// Everything that proxies told.
#[derive(Debug)]
pub(crate) struct Lanes {
    began: Instant,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    edges: BTreeMap<Edge, Traffic>,
    /// The period in which those that nobody uses any more were looked for.
    swept: Option<u64>,
}

/// A way of requests of one lane. Who calls is `KIND/NAMESPACE/NAME` where it told so itself, else `NAMESPACE/NAME`; empty: from
/// outside the mesh. Who is called is a Service. An empty lane is the baseline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    lane: Arc<str>,
    from: Arc<str>,
    to: Arc<str>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    absent: u64,
    not_ready: u64,
    lost: u64,
    untagged: u64,
    doubtful: u64,
    refused: u64,
}

/// Rings of periods; the place of a period is its number modulo their count.
#[derive(Debug, Default)]
struct Traffic {
    periods: [Counts; PERIODS],
    /// The number of the newest.
    newest: u64,
    /// The last leak: what and why, and when in milliseconds since 1970.
    last: Option<(Box<str>, Box<str>, u64)>,
}

impl Counts {
    fn of(edge: &LaneEdge) -> Counts {
        let &LaneEdge { requests, absent, not_ready, lost, untagged, doubtful, refused, .. } = edge;
        Counts { requests, absent, not_ready, lost, untagged, doubtful, refused }
    }

    fn add(&mut self, other: &Counts) {
        // Whoever tells may tell anything.
        self.requests = self.requests.saturating_add(other.requests);
        self.absent = self.absent.saturating_add(other.absent);
        self.not_ready = self.not_ready.saturating_add(other.not_ready);
        self.lost = self.lost.saturating_add(other.lost);
        self.untagged = self.untagged.saturating_add(other.untagged);
        self.doubtful = self.doubtful.saturating_add(other.doubtful);
        self.refused = self.refused.saturating_add(other.refused);
    }

    fn leaks(&self) -> u64 {
        self.lost.saturating_add(self.untagged)
    }
}

impl Traffic {
    /// Empties the periods that are over for so long that their place is needed.
    fn turn(&mut self, period: u64) {
        let over = period.saturating_sub(self.newest).min(PERIODS as u64);
        for number in 0..over {
            self.periods[((period - number) % PERIODS as u64) as usize] = Counts::default();
        }
        self.newest = self.newest.max(period);
    }

    fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        self.periods.iter().for_each(|counts| sum.add(counts));
        sum
    }
}

impl Lanes {
    pub(crate) fn new(now: Instant) -> Lanes {
        Lanes { began: now, known: Mutex::default() }
    }

    /// Takes what a workload (`KIND/NAMESPACE/NAME`) tells, but for what cannot be.
    pub(crate) fn take(&self, workload: &str, edges: &[LaneEdge], now: Instant) {
        let Some((_, own)) = workload.split_once('/') else { return };
        let is_long = |edge: &LaneEdge| {
            [&edge.from, &edge.to, &edge.lane, &edge.example, &edge.reason]
                .iter()
                .any(|text| text.len() > TEXT_BYTES_MAX)
        };
        let period = self.period(now);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { edges: known, swept } = &mut *known;
        for told in edges.iter().filter(|edge| !is_long(edge)) {
            // Each tells of itself: as the caller, or as who is called.
            let (from, to) = match told.to.is_empty() {
                false => (workload, &*told.to),
                true => (&*told.from, own),
            };
            let edge = Edge { lane: (*told.lane).into(), from: from.into(), to: to.into() };
            if known.len() >= EDGES_MAX && !known.contains_key(&edge) {
                if swept.replace(period) != Some(period) {
                    known.retain(|_, traffic| {
                        traffic.turn(period);
                        traffic.sum() != Counts::default()
                    });
                }
                if known.len() >= EDGES_MAX {
                    continue;
                }
            }
            let traffic = known.entry(edge).or_default();
            traffic.turn(period);
            traffic.periods[(period % PERIODS as u64) as usize].add(&Counts::of(told));
            if !told.example.is_empty() && traffic.last.as_ref().is_none_or(|last| last.2 <= told.example_ms) {
                traffic.last = Some(((*told.example).into(), (*told.reason).into(), told.example_ms));
            }
        }
    }

    /// The lanes of a namespace, or all; the baseline, too, where no lane is named.
    fn tell(&self, namespace: Option<&str>, lane: Option<&str>, now: Instant) -> Value {
        let lanes = self.recent(now, |edge| {
            let is_of =
                namespace.is_none_or(|namespace| edge.to.split_once('/').is_some_and(|(of, _)| of == namespace));
            is_of && lane.is_none_or(|lane| lane == &*edge.lane)
        });
        let told = lanes.iter().map(|(lane, edges)| {
            let all: u64 = edges.iter().map(|(_, counts, _)| counts.leaks()).sum();
            let edges: Vec<Value> = edges.iter().map(|(edge, counts, last)| edge_json(edge, counts, last)).collect();
            json!({ "lane": if lane.is_empty() { Value::Null } else { json!(&**lane) }, "leaks": all, "edges": edges })
        });
        let seconds = now.saturating_duration_since(self.began).min(PERIOD * PERIODS as u32).as_secs();
        json!({ "seconds": seconds, "lanes": told.collect::<Vec<_>>() })
    }

    /// The Services that instances of a workload (`KIND/NAMESPACE/NAME`) have called lately, each `namespace/name`.
    pub(crate) fn called_by(&self, workload: &str, now: Instant) -> Vec<String> {
        let edges = self.recent(now, |edge| *edge.from == *workload);
        let called: BTreeSet<&Arc<str>> = edges.values().flatten().map(|(edge, ..)| &edge.to).collect();
        called.into_iter().take(CALLED_MAX).map(|service| service.to_string()).collect()
    }

    /// Ways on which lanes leak, with how often, the most frequent first.
    pub(crate) fn leaks(&self, now: Instant) -> Value {
        let lanes = self.recent(now, |_| true);
        let mut leaks: Vec<_> = lanes.values().flatten().filter(|(_, counts, _)| counts.leaks() > 0).collect();
        leaks.sort_by_key(|(_, counts, _)| std::cmp::Reverse(counts.leaks()));
        let told = leaks.iter().map(|(edge, counts, last)| {
            let mut told = edge_json(edge, counts, last);
            told["lane"] = json!(&*edge.lane);
            told
        });
        told.collect()
    }

    /// What was lately, by lane.
    fn recent(&self, now: Instant, is_meant: impl Fn(&Edge) -> bool) -> BTreeMap<Arc<str>, Vec<(Edge, Counts, Last)>> {
        let period = self.period(now);
        let known = &mut self.known.lock().unwrap_or_else(PoisonError::into_inner).edges;
        let mut lanes: BTreeMap<Arc<str>, Vec<(Edge, Counts, Last)>> = BTreeMap::new();
        for (edge, traffic) in known.iter_mut().filter(|(edge, _)| is_meant(edge)) {
            traffic.turn(period);
            let counts = traffic.sum();
            if counts != Counts::default() {
                lanes.entry(edge.lane.clone()).or_default().push((edge.clone(), counts, traffic.last.clone()));
            }
        }
        lanes
    }

    /// Numbers from one, so that a new ring is empty.
    fn period(&self, now: Instant) -> u64 {
        1 + now.saturating_duration_since(self.began).as_secs() / PERIOD.as_secs()
    }
}

type Last = Option<(Box<str>, Box<str>, u64)>;

fn edge_json(edge: &Edge, counts: &Counts, last: &Last) -> Value {
    let &Counts { requests, absent, not_ready, lost, untagged, doubtful, refused } = counts;
    let last = last.as_ref().filter(|_| counts.leaks() > 0);
    json!({
        "from": &*edge.from,
        "to": &*edge.to,
        "requests": requests,
        "inLane": requests.saturating_sub(absent).saturating_sub(not_ready),
        "absent": absent,
        "notReady": not_ready,
        "lost": lost,
        "untagged": untagged,
        "doubtful": doubtful,
        "refused": refused,
        "lastLeak": last.map(|(request, reason, at)| json!({ "request": &**request, "reason": &**reason, "at": at })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An edge in words: `FROM>TO LANE REQUESTS ABSENT NOTREADY LOST UNTAGGED DOUBTFUL REFUSED`.
    fn edge(words: &str) -> LaneEdge {
        let words: Vec<&str> = words.split(' ').collect();
        let (from, to) = words[0].split_once('>').expect("a way");
        let number = |place: usize| words.get(place).map_or(0, |word| word.parse().expect("a number"));
        let [requests, absent, not_ready, lost, untagged, doubtful, refused] = [2, 3, 4, 5, 6, 7, 8].map(number);
        let (example, reason) =
            if lost + untagged > 0 { ("GET a/1".into(), "noTrace".into()) } else { Default::default() };
        LaneEdge {
            from: from.into(),
            to: to.into(),
            lane: words[1].trim_matches('-').into(),
            requests,
            absent,
            not_ready,
            lost,
            untagged,
            doubtful,
            refused,
            example,
            reason,
            example_ms: 7,
        }
    }

    fn told(lanes: &Lanes, now: Instant) -> Vec<String> {
        let told = lanes.tell(None, None, now);
        let lanes = told["lanes"].as_array().expect("a list").iter();
        let edges = lanes.flat_map(|lane| {
            lane["edges"].as_array().expect("a list").iter().map(move |edge| {
                let number = |name: &str| edge[name].as_u64().expect("a number");
                let counts = ["inLane", "absent", "notReady", "lost", "untagged", "doubtful", "refused"];
                let counts = counts.map(|name| number(name).to_string());
                let word = |name: &str| edge[name].as_str().expect("a text");
                format!("{} {}>{} {}", lane["lane"].as_str().unwrap_or("-"), word("from"), word("to"), counts.join(" "))
            })
        });
        edges.collect()
    }

    #[test]
    fn who_tells_is_one_end_and_it_fades() {
        let start = Instant::now();
        let lanes = Lanes::new(start);
        let take = |workload: &str, edges: &[&str], minute: u32| {
            let edges: Vec<LaneEdge> = edges.iter().map(|words| edge(words)).collect();
            lanes.take(workload, &edges, start + minute * PERIOD)
        };
        take("Gateway/shop/edge", &[">shop/web - 9", ">shop/web blue 5 1 1"], 0);
        // Whatever it says of who else calls, it is itself that calls.
        take(
            "Service/shop/web",
            &["shop/x>shop/stock blue 3 0 0 2", "shop/cart> blue 0 0 0 0 1", ">shop/mail blue 0 0 0 0 0 6 4"],
            1,
        );
        take("Service/shop/web", &[">shop/stock blue 4"], 2);
        let now = |minute: u32| start + minute * PERIOD;
        assert_eq!(
            told(&lanes, now(2)),
            [
                "- Gateway/shop/edge>shop/web 9 0 0 0 0 0 0",
                "blue Gateway/shop/edge>shop/web 3 1 1 0 0 0 0",
                "blue Service/shop/web>shop/mail 0 0 0 0 0 6 4",
                "blue Service/shop/web>shop/stock 7 0 0 2 0 0 0",
                "blue shop/cart>shop/web 0 0 0 0 1 0 0"
            ]
        );
        assert_eq!(lanes.called_by("Service/shop/web", now(2)), ["shop/mail", "shop/stock"]);
        assert_eq!(lanes.called_by("Service/shop/mail", now(2)), [""; 0]);
        let leaks = lanes.leaks(now(2));
        assert_eq!(leaks.as_array().map(Vec::len), Some(2), "{leaks}");
        assert_eq!(leaks[0]["lastLeak"]["request"], "GET a/1", "{leaks}");
        assert_eq!(told(&lanes, now(10)).len(), 3);
        assert_eq!(told(&lanes, now(11)), ["blue Service/shop/web>shop/stock 4 0 0 0 0 0 0"]);
        assert!(told(&lanes, now(12)).is_empty() && told(&lanes, now(1_000)).is_empty());
        lanes.take("", &[edge(">shop/a blue 1")], start);
        lanes.take("Service/shop/web", &[edge(&format!(">{} blue 1", "x".repeat(601)))], start);
    }

    #[test]
    fn whoever_tells_cannot_fill_it() {
        let start = Instant::now();
        let lanes = Lanes::new(start);
        for number in 0..EDGES_MAX + 10 {
            let edges = [edge(&format!(">shop/{number} blue 1"))];
            lanes.take("Service/shop/web", &edges, start);
        }
        assert_eq!(told(&lanes, start).len(), EDGES_MAX);
        lanes.take("Service/shop/web", &[edge(">shop/new blue 1")], start + 20 * PERIOD);
        assert_eq!(told(&lanes, start + 20 * PERIOD).len(), 1);
    }
}
