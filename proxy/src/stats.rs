//! What is counted, by one worker each: a worker writes its own counters with plain stores, the scrape on
//! the main thread reads and adds them up. Names and labels are Istio's, so that dashboards fit. Hot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use filters::lane::leak::Why;

/// Upper bounds of the buckets of every histogram, as Envoy has them by default. Durations are kept in
/// microseconds and told in milliseconds, so their bounds are these times 1,000.
pub(crate) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the owning worker may call this: it is no atomic addition.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// For gauges that count what is there.
    pub(crate) fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(count), Relaxed);
    }

    /// For gauges.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// For a maximum since the last look, whose loss of one update does no harm.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Relaxed)
    }

    /// Any thread may read.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram with one writer; counts are per bucket, not cumulative.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Bounds are multiplied by this: 1,000 for microseconds told in milliseconds.
    scale: f64,
    pub(crate) buckets: [Counter; BOUNDS.len() + 1],
    pub(crate) sum: Counter,
}

impl Histogram {
    fn new(scale: f64) -> Histogram {
        Histogram { scale, buckets: Default::default(), sum: Counter::default() }
    }

    pub(crate) fn observe(&self, value: u64) {
        let scaled = value as f64 / self.scale;
        let bucket = BOUNDS.iter().position(|bound| scaled <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.sum.add(value);
    }

    /// The sum in the unit of the bounds.
    pub(crate) fn sum_scaled(&self) -> f64 {
        self.sum.get() as f64 / self.scale
    }
}

/// What the series of one request is told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SeriesKey {
    /// Who counts: the `destination` beside its instance, else the `source`.
    pub(crate) reporter: &'static str,
    /// The Service's name, or `unknown` where none was chosen.
    pub(crate) service: Arc<str>,
    /// Its namespace, or `unknown`.
    pub(crate) namespace: Arc<str>,
    /// The lane that the request was in; None: the baseline.
    pub(crate) lane: Option<Arc<str>>,
    /// The status in the log: 499 for a client that went away.
    pub(crate) status: u16,
    /// The reason of a failure, `-` without one.
    pub(crate) flag: &'static str,
}

/// The counters of requests with the same labels.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) key: SeriesKey,
    pub(crate) duration_us: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
}

impl Series {
    pub(crate) fn new(key: SeriesKey) -> Series {
        Series {
            key,
            duration_us: Histogram::new(1_000.0),
            request_bytes: Histogram::new(1.0),
            response_bytes: Histogram::new(1.0),
        }
    }

    /// How many requests were counted: each has one duration.
    pub(crate) fn requests(&self) -> u64 {
        self.duration_us.buckets.iter().map(Counter::get).sum()
    }
}

/// A way out of a lane: the lane, the cluster and the reason.
pub(crate) type Fallback = (Arc<str>, Arc<str>, &'static str);

/// What LaneGroups in shadow would have decided.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShadowLanes {
    /// Requests by group and lane; None: the baseline.
    pub(crate) requests: BTreeMap<(Arc<str>, Option<Arc<str>>), u64>,
    /// Those of them that would not have been served by their lane, by group and as other fallbacks.
    pub(crate) fallbacks: BTreeMap<(Arc<str>, Fallback), u64>,
}

/// Where a lane leaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leak {
    /// A request of the lane was served by the baseline here, and its call of that Service (`namespace/name`) was no more in
    /// the lane.
    Lost(Arc<str>, Why),
    /// Perhaps that: the app calls that Service of its own accord, too.
    Doubtful(Arc<str>),
    /// A request that was not of the lane came to this instance, which is, from that workload; empty: from outside the mesh.
    Untagged(Box<str>),
}

/// How often, and what the last one was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaked {
    pub(crate) count: u64,
    pub(crate) at: SystemTime,
    /// Method, host and path.
    pub(crate) example: Box<str>,
}

/// By lane.
pub(crate) type Leaks = BTreeMap<(Arc<str>, Leak), Leaked>;

/// Places where lanes leak that one worker counts; callers outside may call themselves anything.
const LEAKS_MAX: usize = 256;

/// Copies of requests by cluster and what became of them.
pub(crate) type Mirrored = BTreeMap<(Arc<str>, &'static str), u64>;

/// Everything that one worker counts.
#[derive(Debug, Default)]
pub(crate) struct WorkerStats {
    /// Requests that have ended.
    pub(crate) requests: Counter,
    /// Those of them that count as failed.
    pub(crate) failed: Counter,
    series: Mutex<Vec<Arc<Series>>>,
    pub(crate) connections_opened: Counter,
    pub(crate) connections_open: Counter,
    /// Connections closed at once, since a bound was reached.
    pub(crate) connections_refused: Counter,
    /// Connections accepted here and handed to a worker with fewer.
    pub(crate) connections_handed: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) upstream_connections_opened: Counter,
    /// Attempts after a failed one.
    pub(crate) retries: Counter,
    /// Those that were not made, since the budget was spent.
    pub(crate) retries_over_budget: Counter,
    /// Requests whose header and baggage named different lanes.
    pub(crate) lanes_differ: Counter,
    /// Requests of clients that said something of lanes, which was removed.
    pub(crate) lanes_stripped: Counter,
    /// Requests that left their lane.
    fallbacks: Mutex<BTreeMap<Fallback, u64>>,
    leaks: Mutex<Leaks>,
    shadow_lanes: Mutex<ShadowLanes>,
    /// Copies of requests, by cluster and what became of them.
    mirrored: Mutex<Mirrored>,
    /// Requests refused at a cluster's bounds.
    pub(crate) overflows: Counter,
    /// Requests sent again on a fresh connection, since a pooled one had been closed.
    pub(crate) upstream_stale: Counter,
    pub(crate) requests_in_flight: Counter,
    /// Requests to the instance beside which this proxy stands: all that came, those that are being served, and when the
    /// last one began or ended, in milliseconds since the start of the process.
    pub(crate) inbound: Counter,
    pub(crate) inbound_in_flight: Counter,
    pub(crate) inbound_at_ms: Counter,
    /// When the last one came that no proxy of the mesh sent; 0: none did.
    pub(crate) outside_at_ms: Counter,
    /// Those that were meant for another Service.
    pub(crate) misdirected: Counter,
    pub(crate) panics: Counter,
    /// The longest turn of the loop since the last scrape.
    pub(crate) turn_ns_max: Counter,
    /// The revision in force on this worker.
    pub(crate) revision: Counter,
}

impl WorkerStats {
    /// A request left its lane for the baseline.
    pub(crate) fn fell_back(&self, lane: &Arc<str>, cluster: &Arc<str>, reason: &'static str) {
        let mut fallbacks = self.fallbacks.lock().expect("no holder of this lock can panic");
        *fallbacks.entry((lane.clone(), cluster.clone(), reason)).or_default() += 1;
    }

    /// How often that happened.
    pub(crate) fn fallbacks(&self) -> BTreeMap<Fallback, u64> {
        self.fallbacks.lock().expect("no holder of this lock can panic").clone()
    }

    /// A lane has leaked.
    #[cold]
    pub(crate) fn leaked(&self, lane: &Arc<str>, leak: Leak, example: Box<str>) {
        let mut leaks = self.leaks.lock().expect("no holder of this lock can panic");
        let (key, at) = ((lane.clone(), leak), SystemTime::now());
        // Doubts leave room for what is sure.
        let most = if matches!(key.1, Leak::Doubtful(_)) { LEAKS_MAX / 2 } else { LEAKS_MAX };
        if leaks.len() < most || leaks.contains_key(&key) {
            let leaked = leaks.entry(key).or_insert_with(|| Leaked { count: 0, at, example: Box::default() });
            *leaked = Leaked { count: leaked.count + 1, at, example };
        }
    }

    /// How often that happened.
    pub(crate) fn leaks(&self) -> Leaks {
        self.leaks.lock().expect("no holder of this lock can panic").clone()
    }

    /// A group in shadow would have put a request into a lane, or left it in the baseline.
    pub(crate) fn shadow_lane(&self, group: &Arc<str>, lane: Option<&Arc<str>>) {
        let mut lanes = self.shadow_lanes.lock().expect("no holder of this lock can panic");
        *lanes.requests.entry((group.clone(), lane.cloned())).or_default() += 1;
    }

    /// A request would have left a lane in shadow.
    pub(crate) fn shadow_fell_back(&self, group: &Arc<str>, lane: &Arc<str>, cluster: &Arc<str>, reason: &'static str) {
        let mut lanes = self.shadow_lanes.lock().expect("no holder of this lock can panic");
        *lanes.fallbacks.entry((group.clone(), (lane.clone(), cluster.clone(), reason))).or_default() += 1;
    }

    /// How often that happened.
    pub(crate) fn shadow_lanes(&self) -> ShadowLanes {
        self.shadow_lanes.lock().expect("no holder of this lock can panic").clone()
    }

    /// Forgets groups that are not in shadow any more.
    pub(crate) fn keep_shadow_lanes(&self, is_there: impl Fn(&str) -> bool) {
        let mut lanes = self.shadow_lanes.lock().expect("no holder of this lock can panic");
        lanes.requests.retain(|(group, _), _| is_there(group));
        lanes.fallbacks.retain(|(group, _), _| is_there(group));
    }

    /// Something became of a copy of a request.
    pub(crate) fn mirrored(&self, cluster: &Arc<str>, result: &'static str) {
        let mut mirrored = self.mirrored.lock().expect("no holder of this lock can panic");
        *mirrored.entry((cluster.clone(), result)).or_default() += 1;
    }

    /// How often that happened.
    pub(crate) fn mirrors(&self) -> Mirrored {
        self.mirrored.lock().expect("no holder of this lock can panic").clone()
    }

    /// The series of that key, new or known; a worker asks once and keeps the answer.
    pub(crate) fn series(&self, key: SeriesKey) -> Arc<Series> {
        let mut all = self.series.lock().expect("no holder of this lock can panic");
        if let Some(known) = all.iter().find(|series| series.key == key) {
            return known.clone();
        }
        let new = Arc::new(Series::new(key));
        all.push(new.clone());
        new
    }

    /// Calls `each` with every series, and drops those that no worker uses any more and that `keep` gives up.
    pub(crate) fn visit(&self, mut each: impl FnMut(&Series), mut keep: impl FnMut(&Series) -> bool) {
        let mut all = self.series.lock().expect("no holder of this lock can panic");
        all.retain(|series| Arc::strong_count(series) > 1 || keep(series));
        all.iter().for_each(|series| each(series));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_puts_values_below_their_bound() {
        let histogram = Histogram::new(1_000.0);
        for us in [0, 500, 501, 1_000, 3_600_000_000, 3_600_000_001] {
            histogram.observe(us);
        }
        let counts: Vec<u64> = histogram.buckets.iter().map(Counter::get).collect();
        assert_eq!((counts[0], counts[1], counts[18], counts[19]), (2, 2, 1, 1));
    }

    #[test]
    fn series_live_as_long_as_somebody_uses_them() {
        let stats = WorkerStats::default();
        let (service, namespace) = ("web".into(), "default".into());
        let key = SeriesKey { reporter: "source", service, namespace, lane: None, status: 200, flag: "-" };
        let series = stats.series(key.clone());
        assert!(Arc::ptr_eq(&series, &stats.series(key)));
        let count = || {
            let mut count = 0;
            stats.visit(|_| count += 1, |_| false);
            count
        };
        assert_eq!(count(), 1);
        drop(series);
        assert_eq!(count(), 0);
    }
}
