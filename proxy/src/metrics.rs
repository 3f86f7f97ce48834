//! Adds up what the workers counted and tells it in Prometheus' words, with Istio's names. Cold: the main
//! thread may be slow without touching a request.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use filters::rules::{Figures, Phase};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::census::{self, Census};
use crate::guards::Guards;
use crate::shadow;
use crate::shared::Shared;
use crate::stats::{BOUNDS, Histogram, Leak, Series, SeriesKey, ShadowLanes, WorkerStats};
use crate::status::Status;

/// A series that nobody can add to any more is told for so long after its last change.
const EXPIRY: Duration = Duration::from_secs(600);

/// One series over all workers.
#[derive(Default, Clone)]
pub(crate) struct Sum {
    pub(crate) requests: u64,
    pub(crate) histograms: [HistogramSum; 3],
}

/// One histogram over all workers.
#[derive(Default, Clone)]
pub(crate) struct HistogramSum {
    pub(crate) buckets: [u64; BOUNDS.len() + 1],
    pub(crate) sum: f64,
}

impl HistogramSum {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.sum += histogram.sum_scaled();
    }
}

/// Remembers when series were last seen to change.
#[derive(Default)]
pub(crate) struct Expiry {
    seen: Mutex<HashMap<(usize, SeriesKey), (u64, Instant)>>,
}

/// Adds up the workers' series and drops those that have ended.
pub(crate) fn sum(stats: &[WorkerStats], expiry: &Expiry, now: Instant) -> BTreeMap<SeriesKey, Sum> {
    let mut all: BTreeMap<SeriesKey, Sum> = BTreeMap::new();
    let mut seen = expiry.seen.lock().expect("no holder of this lock can panic");
    for (worker, stats) in stats.iter().enumerate() {
        let keep = |series: &Series| {
            let count = series.requests();
            let entry = seen.entry((worker, series.key.clone())).or_insert((count, now));
            if entry.0 != count {
                *entry = (count, now);
            }
            now.duration_since(entry.1) < EXPIRY
        };
        let add = |series: &Series| {
            let sum = all.entry(series.key.clone()).or_default();
            sum.requests += series.requests();
            let histograms = [&series.duration_us, &series.request_bytes, &series.response_bytes];
            for (sum, histogram) in sum.histograms.iter_mut().zip(histograms) {
                sum.add(histogram);
            }
        };
        stats.visit(add, keep);
    }
    seen.retain(|(_, key), _| all.contains_key(key));
    all
}

/// Everything the process tells in one scrape.
pub(crate) struct Scrape {
    pub(crate) shared: Arc<Shared>,
    pub(crate) status: Arc<Status>,
    pub(crate) expiry: Expiry,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scrape").finish_non_exhaustive()
    }
}

/// The registry that `text` encodes.
pub(crate) fn registry(shared: Arc<Shared>, status: Arc<Status>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { shared, status, expiry: Expiry::default() }));
    registry
}

/// The metrics as OpenMetrics text.
pub(crate) fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("writing to memory does not fail");
    text
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sums = sum(&self.shared.stats, &self.expiry, Instant::now());
        self.encode_requests(&mut encoder, &sums)?;
        let total = |read: fn(&WorkerStats) -> u64| self.shared.stats.iter().map(read).sum::<u64>();
        let (applied, refused) = self.status.reloads();
        let dropped = self.shared.access_log.as_ref().map_or(0, |log| log.dropped());
        let counters: [(&str, &str, u64); 15] = [
            ("evenkeel_downstream_connections_opened", "Connections accepted", total(|s| s.connections_opened.get())),
            (
                "evenkeel_downstream_connections_refused",
                "Connections closed at once, at a bound",
                total(|s| s.connections_refused.get()),
            ),
            (
                "evenkeel_downstream_connections_handed",
                "Connections handed to a worker with fewer",
                total(|s| s.connections_handed.get()),
            ),
            ("evenkeel_accept_errors", "Accepts that failed", total(|s| s.accept_errors.get())),
            (
                "evenkeel_upstream_connections_opened",
                "Connections to endpoints",
                total(|s| s.upstream_connections_opened.get()),
            ),
            (
                "evenkeel_upstream_stale",
                "Requests sent again since a pooled connection had been closed",
                total(|s| s.upstream_stale.get()),
            ),
            ("evenkeel_retries", "Attempts after a failed one", total(|s| s.retries.get())),
            (
                "evenkeel_retries_over_budget",
                "Attempts that were not made since the budget was spent",
                total(|s| s.retries_over_budget.get()),
            ),
            ("evenkeel_overflows", "Requests refused at a bound of a TrafficPolicy", total(|s| s.overflows.get())),
            (
                "evenkeel_lanes_differ",
                "Requests whose header and baggage named different lanes",
                total(|s| s.lanes_differ.get()),
            ),
            (
                "evenkeel_lanes_stripped",
                "Requests of clients that said something of lanes, which was removed",
                total(|s| s.lanes_stripped.get()),
            ),
            ("evenkeel_panics", "Connections ended by a panic", total(|s| s.panics.get())),
            ("evenkeel_access_log_dropped", "Access log lines dropped", dropped),
            ("evenkeel_config_applied", "Revisions put in force", applied),
            ("evenkeel_config_refused", "Rule sets refused", refused),
        ];
        for (name, help, value) in counters {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        let turn = self.shared.stats.iter().map(|s| s.turn_ns_max.take()).max().unwrap_or(0);
        let revision = self.shared.stats.iter().map(|s| s.revision.get()).min().unwrap_or(0);
        let gauges: [(&str, &str, f64); 5] = [
            (
                "evenkeel_downstream_connections",
                "Open connections of clients",
                total(|s| s.connections_open.get()) as f64,
            ),
            (
                "evenkeel_requests_in_flight",
                "Requests without an end yet",
                total(|s| s.requests_in_flight.get()) as f64,
            ),
            ("evenkeel_config_revision", "The revision in force on all workers", revision as f64),
            (
                "evenkeel_worker_turn_seconds_max",
                "The longest turn of a worker since the last scrape",
                turn as f64 / 1e9,
            ),
            ("evenkeel_uptime_seconds", "Since the start", self.status.started.elapsed().as_secs_f64()),
        ];
        let of_control = self.status.control_status().map(|control| {
            [
                (
                    "evenkeel_control_connected",
                    "Whether control is heard: 1, or 0 while its last rules stay in force",
                    f64::from(u8::from(control.is_connected)),
                ),
                (
                    "evenkeel_control_revision",
                    "Control's revision up to which everything is in force",
                    control.revision as f64,
                ),
                (
                    "evenkeel_control_awaiting_requests",
                    "Requests that wait for endpoints which control has not told",
                    self.shared.awaiting.load(Relaxed) as f64,
                ),
            ]
        });
        for (name, help, value) in gauges.into_iter().chain(of_control.into_iter().flatten()) {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let snapshot = self.status.snapshot();
        self.encode_lanes(&mut encoder)?;
        self.encode_leaks(&mut encoder)?;
        self.encode_shadow_lanes(&mut encoder)?;
        self.encode_traces(&mut encoder)?;
        self.encode_mirrors(&mut encoder)?;
        self.encode_names(&mut encoder)?;
        encode_rules(&mut encoder, &self.shared.guards())?;
        encode_clusters(&mut encoder, &snapshot.map_or(Vec::new(), |snapshot| census::take(&snapshot, &self.shared)))
    }
}

/// What clusters are like now.
fn encode_clusters(encoder: &mut DescriptorEncoder<'_>, all: &[Census]) -> fmt::Result {
    let gauge = MetricType::Gauge;
    let mut family = encoder.encode_descriptor("evenkeel_endpoints", "Endpoints by what they are", None, gauge)?;
    for census in all {
        for (state, count) in census.counts() {
            let labels = [("cluster", census.cluster.name.to_string()), ("state", state.to_owned())];
            family.encode_family(&labels)?.encode_gauge(&(count as u64))?;
        }
    }
    type Figure = fn(&Census) -> Option<u64>;
    let figures: [(&str, &str, Figure); 3] = [
        ("evenkeel_cluster_panic", "Whether endpoints are asked though none is well", |of| {
            Some(of.is_panicking().into())
        }),
        ("evenkeel_connections", "Connections within a bound", |of| of.connections.map(u64::from)),
        ("evenkeel_waiting", "Requests that wait for a connection", |of| Some(of.waiting as u64)),
    ];
    for (name, help, figure) in figures {
        let mut family = encoder.encode_descriptor(name, help, None, gauge)?;
        for (census, figure) in all.iter().filter_map(|census| Some((census, figure(census)?))) {
            let labels = [("cluster", census.cluster.name.to_string())];
            family.encode_family(&labels)?.encode_gauge(&figure)?;
        }
    }
    let help = "Times that endpoints were left alone";
    let mut family = encoder.encode_descriptor("evenkeel_ejections", help, None, MetricType::Counter)?;
    for census in all {
        let labels = [("cluster", census.cluster.name.to_string())];
        let ejections: u64 = census.endpoints.iter().map(|(_, _, ejections)| ejections).sum();
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&ejections, None)?;
    }
    Ok(())
}

impl Scrape {
    fn encode_names(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Names of Services by what is known of their addresses";
        let mut family = encoder.encode_descriptor("evenkeel_dns_names", help, None, MetricType::Gauge)?;
        for (state, count) in self.status.names(|names| names.counts()) {
            family.encode_family(&[("state", state)])?.encode_gauge(&(count as u64))?;
        }
        Ok(())
    }

    fn encode_lanes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums = BTreeMap::new();
        for ((lane, cluster, reason), count) in self.shared.stats.iter().flat_map(WorkerStats::fallbacks) {
            *sums.entry((lane, cluster, reason)).or_insert(0) += count;
        }
        let help = "Requests that went to the baseline since their lane was not there or not ready";
        let mut family = encoder.encode_descriptor("evenkeel_lane_fallbacks", help, None, MetricType::Counter)?;
        for ((lane, cluster, reason), count) in sums {
            let labels = [("lane", lane.to_string()), ("cluster", cluster.to_string()), ("reason", reason.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_leaks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let own = self.shared.own.get().map_or("", |own| own);
        let (mut sums, mut doubtful) = (BTreeMap::new(), BTreeMap::new());
        for ((lane, leak), leaked) in self.shared.stats.iter().flat_map(WorkerStats::leaks) {
            let (from, to, reason) = match &leak {
                Leak::Lost(service, why) => (own, &**service, why.as_str()),
                Leak::Untagged(from) => (&**from, own, "untagged"),
                Leak::Doubtful(service) => {
                    let labels = [("lane", &*lane), ("from", own), ("to", service)];
                    *doubtful.entry(labels.map(|(name, value)| (name, value.to_owned()))).or_insert(0) += leaked.count;
                    continue;
                }
            };
            let labels = [("lane", &*lane), ("from", from), ("to", to), ("reason", reason)];
            *sums.entry(labels.map(|(name, value)| (name, value.to_owned()))).or_insert(0) += leaked.count;
        }
        let help =
            "Requests that were lost to their lane on the way, or came to an instance of a lane that they are not in";
        let mut family = encoder.encode_descriptor("evenkeel_lane_leaks", help, None, MetricType::Counter)?;
        for (labels, count) in sums {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        let help = "Requests that were perhaps lost to their lane: the application calls there of its own accord, too";
        let mut family = encoder.encode_descriptor("evenkeel_lane_doubts", help, None, MetricType::Counter)?;
        for (labels, count) in doubtful {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_shadow_lanes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ShadowLanes { requests, fallbacks } = shadow::lanes(&self.shared, self.status.snapshot().as_deref());
        let counter = MetricType::Counter;
        let help = "Requests by the lane that a LaneGroup in shadow would have put them into";
        let mut family = encoder.encode_descriptor("evenkeel_shadow_lanes", help, None, counter)?;
        for ((group, lane), count) in requests {
            let labels = [("policy", format!("LaneGroup {group}")), ("lane", lane.as_deref().unwrap_or("-").into())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        let help = "Requests that a lane in shadow would not have served: it is absent, not ready, or they are refused";
        let mut family = encoder.encode_descriptor("evenkeel_shadow_lane_fallbacks", help, None, counter)?;
        for ((group, (lane, cluster, reason)), count) in fallbacks {
            let labels = [
                ("policy", format!("LaneGroup {group}")),
                ("lane", lane.to_string()),
                ("cluster", cluster.to_string()),
                ("reason", reason.to_owned()),
            ];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    /// Where there is a trace map.
    fn encode_traces(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(traces) = self.shared.traces.get() else { return Ok(()) };
        let figures = traces.figures();
        let help = "Traces whose lane is known";
        let name = "evenkeel_trace_map_entries";
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&figures.entries)?;
        let entered =
            [("remembered", figures.remembered), ("ambiguous", figures.ambiguous), ("refused", figures.refused)];
        let found = [
            ("found", figures.found),
            ("unknown", figures.unknown),
            ("ambiguous", figures.unused),
            ("no_id", figures.without_id),
        ];
        for (name, help, outcomes) in [
            (
                "evenkeel_trace_map_requests",
                "Requests to the instance, by whether their traces tell a lane",
                &entered[..],
            ),
            ("evenkeel_trace_map_lookups", "Calls without a tag, by what their traces tell", &found),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (outcome, count) in outcomes {
                family.encode_family(&[("outcome", *outcome)])?.encode_counter::<NoLabelSet, u64, f64>(count, None)?;
            }
        }
        Ok(())
    }

    fn encode_mirrors(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums = BTreeMap::new();
        for ((cluster, result), count) in self.shared.stats.iter().flat_map(WorkerStats::mirrors) {
            *sums.entry((cluster, result)).or_insert(0) += count;
        }
        let help = "Copies of requests by what became of them";
        let mut family = encoder.encode_descriptor("evenkeel_mirrored", help, None, MetricType::Counter)?;
        for ((cluster, result), count) in sums {
            let labels = [("cluster", cluster.to_string()), ("result", result.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>, sums: &BTreeMap<SeriesKey, Sum>) -> fmt::Result {
        let mut family =
            encoder.encode_descriptor("istio_requests", "Requests that have ended", None, MetricType::Counter)?;
        for (key, sum) in sums {
            family.encode_family(&labels(key))?.encode_counter::<NoLabelSet, u64, f64>(&sum.requests, None)?;
        }
        let histograms = [
            ("istio_request_duration_milliseconds", "From the end of a request's head to the last byte of its answer"),
            ("istio_request_bytes", "Bodies of requests"),
            ("istio_response_bytes", "Bodies of answers"),
        ];
        for (index, (name, help)) in histograms.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (key, sum) in sums {
                let HistogramSum { buckets, sum } = &sum.histograms[index];
                let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
                let count = buckets.iter().map(|(_, count)| count).sum();
                family.encode_family(&labels(key))?.encode_histogram::<NoLabelSet>(*sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

/// What the rules of traffic protection did, and how they stand.
fn encode_rules(encoder: &mut DescriptorEncoder<'_>, guards: &Guards) -> fmt::Result {
    type Figure = fn(&Figures) -> u64;
    let all: Vec<(String, Figures)> =
        guards.all().into_iter().map(|rule| (rule.policy().state_key.to_string(), rule.figures())).collect();
    let results: [(&str, Figure); 5] = [
        ("admitted", |figures| figures.admitted),
        ("refused", |figures| figures.refused),
        ("delayed", |figures| figures.delayed),
        ("shadowRefused", |figures| figures.shadow_refused),
        ("overflowed", |figures| figures.overflowed),
    ];
    let help = "Requests by what a policy did with them";
    let mut family = encoder.encode_descriptor("evenkeel_policy_requests", help, None, MetricType::Counter)?;
    for (policy, figures) in &all {
        for (result, figure) in results {
            let labels = [("policy", policy.clone()), ("result", result.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&figure(figures), None)?;
        }
    }
    for tally in guards.tallies() {
        for (result, count) in tally.figures() {
            let labels = [("policy", tally.policy.to_string()), ("result", result.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
    }
    let gauges: [(&str, &str, Figure); 5] = [
        ("evenkeel_policy_values", "Values that a RateLimit counts apart", |figures| figures.values),
        ("evenkeel_policy_in_flight", "Requests under way within a ConcurrencyLimit", |figures| {
            figures.in_flight.into()
        }),
        ("evenkeel_policy_limit", "Requests that a ConcurrencyLimit lets be under way", |figures| figures.limit.into()),
        ("evenkeel_policy_waiting", "Requests that wait at a ConcurrencyLimit", |figures| figures.waiting.into()),
        ("evenkeel_policy_open", "0: a breaker is closed, 1: it probes, 2: it is open", |figures| {
            match figures.phase {
                Phase::Closed => 0,
                Phase::HalfOpen => 1,
                Phase::Open => 2,
            }
        }),
    ];
    for (name, help, figure) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (policy, figures) in &all {
            family.encode_family(&[("policy", policy.clone())])?.encode_gauge(&figure(figures))?;
        }
    }
    Ok(())
}

/// Istio's labels, as far as they are known here.
fn labels(key: &SeriesKey) -> [(&'static str, String); 9] {
    [
        ("reporter", key.reporter.into()),
        ("destination_service", format!("{}.{}", key.service, key.namespace)),
        ("destination_service_name", key.service.to_string()),
        ("destination_service_namespace", key.namespace.to_string()),
        ("request_protocol", "http".into()),
        ("response_code", key.status.to_string()),
        ("response_flags", key.flag.into()),
        ("connection_security_policy", "none".into()),
        ("lane", key.lane.as_deref().unwrap_or("-").into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_and_ended_series_expire() {
        let stats = [WorkerStats::default(), WorkerStats::default()];
        let expiry = Expiry::default();
        let (service, namespace) = ("web".into(), "default".into());
        let key = SeriesKey { reporter: "source", service, namespace, lane: None, status: 200, flag: "-" };
        let series: Vec<_> = stats.iter().map(|stats| stats.series(key.clone())).collect();
        for series in &series {
            series.duration_us.observe(700);
        }
        let start = Instant::now();
        let check = |after: Duration, expected: Option<u64>| {
            let sums = sum(&stats, &expiry, start + after);
            assert_eq!(sums.get(&key).map(|sum| sum.requests), expected, "after {after:?}");
        };
        check(Duration::ZERO, Some(2));
        check(EXPIRY * 2, Some(2));
        drop(series);
        check(EXPIRY * 2, Some(2));
        check(EXPIRY * 3 - Duration::from_secs(1), Some(2));
        check(EXPIRY * 3, None);
    }

    #[test]
    fn the_last_bucket_has_the_name_that_prometheus_wants() {
        let shared = Shared::new(1, 1, None, None).expect("a mailbox");
        let (service, namespace) = ("web".into(), "default".into());
        let key = SeriesKey { reporter: "source", service, namespace, lane: None, status: 200, flag: "-" };
        shared.stats[0].series(key).duration_us.observe(700);
        let text = text(&registry(shared, Arc::new(Status::new())));
        let bucket = |line: &&str| line.starts_with("istio_request_duration_milliseconds_bucket{le=\"+Inf\"");
        let last = text.lines().find(bucket).unwrap_or_else(|| panic!("no +Inf in\n{text}"));
        assert!(last.ends_with(" 1"), "{last}");
    }
}
