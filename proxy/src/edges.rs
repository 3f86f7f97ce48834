//! What this process knows of lanes between Services: requests by callee and lane, those that left their lane, and where
//! lanes leak, as totals since its start; and what of that control has not heard. Pure, Cold.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use config::wire::evenkeel::v1::LaneEdge;

use crate::error::{Kind, ProxyError};
use crate::stats::{Leak, Leaked, WorkerStats};

/// Edges that are told at once.
const TOLD_MAX: usize = 1_000;

/// A way of requests of one lane; empty lanes are the baseline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Edge {
    /// From here to a Service, `namespace/name`.
    To(Box<str>, Arc<str>),
    /// From a workload, or from outside the mesh if it is empty, to the instance beside which this process stands.
    From(Box<str>, Arc<str>),
}

/// What went that way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    requests: u64,
    /// Served by the baseline, by reason.
    absent: u64,
    not_ready: u64,
    lost: u64,
    untagged: u64,
    /// Perhaps lost.
    doubtful: u64,
    /// The lane is strict, and had no instance that was ready.
    refused: u64,
    /// The last leak, with its reason.
    last: Option<(Leaked, &'static str)>,
}

/// All ways.
pub(crate) type Edges = BTreeMap<Edge, Traffic>;

/// What all workers have counted.
pub(crate) fn totals(stats: &[WorkerStats]) -> Edges {
    let no_lane = ProxyError::here(Kind::NoLane).reply().flag;
    let mut edges = Edges::new();
    for stats in stats {
        stats.visit(
            |series| {
                let key = &series.key;
                if key.reporter == "source" && &*key.service != "unknown" {
                    let lane = key.lane.clone().unwrap_or_default();
                    let to = format!("{}/{}", key.namespace, key.service).into();
                    let traffic = edges.entry(Edge::To(to, lane)).or_default();
                    let count = if key.flag == no_lane { &mut traffic.refused } else { &mut traffic.requests };
                    *count += series.requests();
                }
            },
            |_| true,
        );
        for ((lane, cluster, reason), count) in stats.fallbacks() {
            // `namespace/name:port`.
            let service = cluster.rsplit_once(':').map_or(&*cluster, |(service, _)| service);
            let traffic = edges.entry(Edge::To(service.into(), lane)).or_default();
            *(if reason == "absent" { &mut traffic.absent } else { &mut traffic.not_ready }) += count;
        }
        for ((lane, leak), leaked) in stats.leaks() {
            let (edge, reason) = match leak {
                Leak::Lost(service, why) => (Edge::To((*service).into(), lane), why.as_str()),
                Leak::Untagged(from) => (Edge::From(from, lane), "untagged"),
                Leak::Doubtful(service) => {
                    // No example: those of leaks that are sure are looked for.
                    edges.entry(Edge::To((*service).into(), lane)).or_default().doubtful += leaked.count;
                    continue;
                }
            };
            let is_lost = matches!(edge, Edge::To(..));
            let traffic = edges.entry(edge).or_default();
            *(if is_lost { &mut traffic.lost } else { &mut traffic.untagged }) += leaked.count;
            if traffic.last.as_ref().is_none_or(|(last, _)| last.at < leaked.at) {
                traffic.last = Some((leaked, reason));
            }
        }
    }
    edges
}

/// What is new since `heard`, and what will have been heard when that is. Where there is more than is told at once, it begins
/// behind `after`; the last one is told, too.
pub(crate) fn news(now: &Edges, heard: &Edges, after: Option<&Edge>) -> (Vec<LaneEdge>, Edges, Option<Edge>) {
    let (mut told, mut next, mut last_told) = (Vec::new(), heard.clone(), None);
    let behind = after.map(|after| now.range((Bound::Excluded(after), Bound::Unbounded)));
    let before = match after {
        Some(after) => now.range(..=after),
        None => now.range::<Edge, _>(..),
    };
    for (edge, traffic) in behind.into_iter().flatten().chain(before) {
        let before = heard.get(edge).cloned().unwrap_or_default();
        if before == *traffic {
            continue;
        }
        if told.len() == TOLD_MAX {
            break;
        }
        next.insert(edge.clone(), traffic.clone());
        last_told = Some(edge.clone());
        // A series that nobody used for long was forgotten: less is not new.
        let since = u64::saturating_sub;
        let (from, to, lane) = match edge {
            Edge::To(to, lane) => ("", &**to, lane),
            Edge::From(from, lane) => (&**from, "", lane),
        };
        let last = traffic.last.as_ref().filter(|_| traffic.last != before.last);
        told.push(LaneEdge {
            from: from.into(),
            to: to.into(),
            lane: lane.to_string(),
            requests: since(traffic.requests, before.requests),
            absent: since(traffic.absent, before.absent),
            not_ready: since(traffic.not_ready, before.not_ready),
            lost: since(traffic.lost, before.lost),
            untagged: since(traffic.untagged, before.untagged),
            doubtful: since(traffic.doubtful, before.doubtful),
            refused: since(traffic.refused, before.refused),
            example: last.map_or(String::new(), |(leaked, _)| leaked.example.to_string()),
            reason: last.map_or(String::new(), |(_, reason)| (*reason).to_owned()),
            example_ms: last.map_or(0, |(leaked, _)| milliseconds(leaked.at)),
        });
    }
    (told, next, last_told)
}

fn milliseconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use filters::lane::leak::Why;

    use super::*;
    use crate::stats::SeriesKey;

    fn serve(stats: &WorkerStats, service: &str, lane: Option<&str>, count: u64) {
        end(stats, service, lane, (200, "-"), count);
    }

    fn refuse(stats: &WorkerStats, service: &str, lane: &str, count: u64) {
        end(stats, service, Some(lane), (503, ProxyError::here(Kind::NoLane).reply().flag), count);
    }

    fn end(stats: &WorkerStats, service: &str, lane: Option<&str>, (status, flag): (u16, &'static str), count: u64) {
        let key = SeriesKey {
            reporter: "source",
            service: service.into(),
            namespace: "shop".into(),
            lane: lane.map(Arc::from),
            status,
            flag,
        };
        (0..count).for_each(|_| stats.series(key.clone()).duration_us.observe(1));
    }

    fn lines(told: &[LaneEdge]) -> Vec<String> {
        let line = |edge: &LaneEdge| {
            let LaneEdge { from, to, lane, requests, absent, not_ready, lost, untagged, doubtful, .. } = edge;
            let counts = format!("{requests} {absent} {not_ready} {lost} {untagged} {doubtful} {}", edge.refused);
            format!("{from}>{to} {lane}: {counts} {} {}", edge.example, edge.reason)
        };
        told.iter().map(|edge| line(edge).trim().to_owned()).collect()
    }

    #[test]
    fn what_is_new_is_told_once() {
        let stats = [WorkerStats::default(), WorkerStats::default()];
        serve(&stats[0], "web", None, 3);
        serve(&stats[0], "web", Some("blue"), 4);
        serve(&stats[1], "web", Some("blue"), 1);
        refuse(&stats[0], "web", "blue", 2);
        let (blue, web) = (Arc::from("blue"), Arc::from("shop/web:80"));
        stats[1].fell_back(&blue, &web, "absent");
        stats[0].fell_back(&blue, &web, "notReady");
        let now = totals(&stats);
        let (told, heard, _) = news(&now, &Edges::new(), None);
        assert_eq!(lines(&told), [">shop/web : 3 0 0 0 0 0 0", ">shop/web blue: 5 1 1 0 0 0 2"]);
        assert!(news(&now, &heard, None).0.is_empty());
        serve(&stats[1], "web", Some("blue"), 2);
        stats[0].leaked(&blue, Leak::Lost("shop/stock".into(), Why::NoTrace), "GET a/1".into());
        stats[0].leaked(&blue, Leak::Lost("shop/stock".into(), Why::NoTrace), "GET a/2".into());
        stats[1].leaked(&blue, Leak::Untagged("".into()), "GET b/".into());
        stats[1].leaked(&blue, Leak::Doubtful("shop/stock".into()), "GET a/3".into());
        let now = totals(&stats);
        let (told, heard, _) = news(&now, &heard, None);
        let expected = [
            ">shop/stock blue: 0 0 0 2 0 1 0 GET a/2 noTrace",
            ">shop/web blue: 2 0 0 0 0 0 0",
            "> blue: 0 0 0 0 1 0 0 GET b/ untagged",
        ];
        assert_eq!(lines(&told), expected);
        assert!(news(&now, &heard, None).0.is_empty());
        // What was forgotten is not new, and what comes after it is.
        let (_, heard, _) = news(&totals(&stats[..1]), &heard, None);
        serve(&stats[0], "web", Some("blue"), 2);
        let (told, ..) = news(&totals(&stats[..1]), &heard, None);
        assert_eq!(lines(&told), [">shop/web blue: 2 0 0 0 0 0 0"]);
    }

    #[test]
    fn what_is_too_much_is_told_later() {
        let stats = [WorkerStats::default()];
        (0..TOLD_MAX + 5).for_each(|number| serve(&stats[0], &number.to_string(), Some("blue"), 1));
        let now = totals(&stats);
        let (first, heard, last) = news(&now, &Edges::new(), None);
        let (rest, heard, _) = news(&now, &heard, last.as_ref());
        assert_eq!((first.len(), rest.len(), news(&now, &heard, None).0.len()), (TOLD_MAX, 5, 0));
        // Who was not told is not kept from it by those that have more to tell.
        let (again, ..) = news(&now, &Edges::new(), last.as_ref());
        assert_eq!(again[..5], rest[..]);
    }
}
