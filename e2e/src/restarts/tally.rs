//! What has become of requests and restarts, as figures. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Way;
use super::chain::Why;

/// Failures that are kept; all are counted.
const KEPT_MAX: usize = 10_000;
/// Failures and duplicates that are told.
const TOLD_MAX: usize = 20;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Caller {
    /// A client of the gateway, in turn with others.
    Client,
    /// One that asks once in seven seconds.
    Rare,
    /// Outside the mesh, at the first service's instances.
    Outside,
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Caller::Client => "a client",
            Caller::Rare => "a client that asks rarely",
            Caller::Outside => "the caller outside",
        })
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    /// Since the load began.
    pub(super) at: Duration,
    pub(super) number: u64,
    /// Who asked whom.
    pub(super) caller: Caller,
    pub(super) target: String,
    pub(super) why: Why,
    /// What was being done meanwhile.
    pub(super) restart: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failed { at, number, caller, target, why, restart } = self;
        write!(formatter, "{:.3} s, request {number}, {caller} at {target}, {restart}: {why}", at.as_secs_f64())
    }
}

/// Times, and their percentiles.
pub(super) struct Times(Histogram<u32>);

impl Default for Times {
    fn default() -> Times {
        // From a microsecond to ten minutes with three digits; later values count as ten minutes.
        Times(Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("the bounds are valid"))
    }
}

impl Times {
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e6;
        let (p50, p99, max) = (at(0.5), at(0.99), self.0.max() as f64 / 1e6);
        match self.0.len() {
            0 => formatter.write_str("none"),
            count => write!(formatter, "p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms of {count}"),
        }
    }
}

/// Requests so far.
#[derive(Default)]
pub(super) struct Tally {
    answered: u64,
    failed: u64,
    asked: BTreeMap<Caller, u64>,
    kept: Vec<Failed>,
    /// Of those that were answered, from when each was due.
    latency: Times,
    /// Connections that were closed while nothing was under way, without a word before.
    pub(super) closed_idle: u64,
    /// The longest time for which the callers did not come to their turn: nobody's fault but that of a busy machine.
    overslept_max: Duration,
}

impl Tally {
    pub(super) fn answered(&mut self, caller: Caller, took: Duration) {
        *self.asked.entry(caller).or_default() += 1;
        self.answered += 1;
        self.latency.record(took);
    }

    pub(super) fn failed(&mut self, failed: Failed) {
        *self.asked.entry(failed.caller).or_default() += 1;
        self.failed += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(failed);
        }
    }

    /// The callers came to their turn so late.
    pub(super) fn overslept(&mut self, time: Duration) {
        self.overslept_max = self.overslept_max.max(time);
    }

    /// All, and those that failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.answered + self.failed, self.failed)
    }
}

/// An instance that has gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone {
    /// From when it was told to go until each caller had forgotten it.
    pub(super) forgotten: Option<Duration>,
    /// Until its last process had ended.
    pub(super) exit: Duration,
    pub(super) is_at_once: bool,
    /// Why its drain was over.
    pub(super) reason: String,
    pub(super) cut: u64,
    pub(super) late: u64,
    /// What did not go as it should.
    pub(super) troubles: Vec<String>,
}

/// Instances that were replaced.
#[derive(Default)]
pub(super) struct Restarts {
    pub(super) count: u64,
    at_once: u64,
    forgotten: Times,
    not_forgotten: u64,
    exit: Times,
    reasons: BTreeMap<String, u64>,
    cut: u64,
    late: u64,
    troubles: Vec<String>,
}

impl Restarts {
    pub(super) fn note(&mut self, gone: Gone) {
        self.count += 1;
        self.at_once += u64::from(gone.is_at_once);
        match gone.forgotten {
            Some(time) => self.forgotten.record(time),
            None => self.not_forgotten += 1,
        }
        self.exit.record(gone.exit);
        *self.reasons.entry(gone.reason).or_default() += 1;
        self.cut += gone.cut;
        self.late += gone.late;
        self.troubles.extend(gone.troubles);
    }
}

/// All of it.
pub struct Found {
    pub(super) tally: Tally,
    pub(super) restarts: Restarts,
    pub(super) duplicated: u64,
    /// Request, and which instances.
    pub(super) duplicates: Vec<String>,
    pub(super) replays: Replays,
    pub(super) way: Way,
    pub(super) elapsed: Duration,
}

/// Requests that a proxy has sent again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Replays {
    pub(super) gateway: u64,
    pub(super) sidecars: u64,
    /// Sidecars that tell nothing of it.
    pub(super) silent: u64,
}

impl Found {
    /// Nothing failed, nothing was served twice, and everybody ended as told.
    pub fn is_good(&self) -> bool {
        self.failed() == 0 && self.duplicated == 0 && self.restarts.troubles.is_empty()
    }

    /// Requests, whatever has become of them.
    pub fn requests(&self) -> u64 {
        self.tally.counts().0
    }

    /// Those that failed.
    pub fn failed(&self) -> u64 {
        self.tally.counts().1
    }

    /// Those that a service has served twice.
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Instances that were replaced.
    pub fn restarts(&self) -> u64 {
        self.restarts.count
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { tally, restarts, duplicated, duplicates, replays, .. } = self;
        let asked = |caller| tally.asked.get(&caller).copied().unwrap_or_default();
        let (requests, failed) = tally.counts();
        let seconds = self.elapsed.as_secs_f64();
        let way = match self.way {
            Way::Mesh => "",
            Way::Direct => ", without sidecars",
            Way::Envoy => ", through Envoy",
        };
        writeln!(
            formatter,
            "{requests} requests in {seconds:.0} s{way} ({} by clients that ask rarely, {} from outside): {failed} failed, \
             {duplicated} duplicated",
            asked(Caller::Rare),
            asked(Caller::Outside),
        )?;
        let stall = tally.overslept_max;
        writeln!(
            formatter,
            "latency from when a request was due: {}; the callers' own thread came up to {stall:.1?} late",
            tally.latency
        )?;
        writeln!(formatter, "idle connections that were closed without a word before: {}", tally.closed_idle)?;
        let Replays { gateway, sidecars, silent } = replays;
        writeln!(
            formatter,
            "replays: {gateway} by the gateway, {sidecars} by sidecars ({silent} sidecars do not tell)"
        )?;
        writeln!(formatter, "restarts: {}, {} of their apps ended at once", restarts.count, restarts.at_once)?;
        if self.way == Way::Mesh {
            let Restarts { forgotten, not_forgotten, .. } = restarts;
            writeln!(formatter, "told to go until forgotten: {forgotten}; {not_forgotten} were not forgotten")?;
        }
        write!(formatter, "told to go until exit: {}", restarts.exit)?;
        if self.way == Way::Mesh {
            write!(formatter, "\nreceipts: {} requests cut, {} late", restarts.cut, restarts.late)?;
            restarts.reasons.iter().try_for_each(|(reason, count)| write!(formatter, "\n  {count} x {reason}"))?;
        }
        let told = |kind: &str, text: String| format!("\n{kind}: {text}");
        let failures = tally.kept.iter().map(|failed| told("failed", failed.to_string()));
        let troubles = restarts.troubles.iter().map(|trouble| told("trouble", trouble.clone()));
        let duplicates = duplicates.iter().map(|duplicate| told("duplicated", duplicate.clone()));
        let lines = failures.take(TOLD_MAX).chain(duplicates.take(TOLD_MAX)).chain(troubles.take(TOLD_MAX));
        lines.into_iter().try_for_each(|line| formatter.write_str(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let mut tally = Tally::default();
        (1..=98).for_each(|ms| tally.answered(Caller::Client, Duration::from_millis(ms)));
        tally.answered(Caller::Rare, Duration::from_millis(99));
        tally.answered(Caller::Outside, Duration::from_millis(100));
        let (replays, elapsed) = (Replays { silent: 9, ..Replays::default() }, Duration::from_secs(2));
        let restarts = Restarts::default();
        Found { tally, restarts, duplicated: 0, duplicates: Vec::new(), replays, way: Way::Mesh, elapsed }
    }

    #[test]
    fn percentiles_are_of_all_that_was_answered() {
        let mut times = Times::default();
        assert_eq!(times.to_string(), "none");
        (1..=100).for_each(|ms| times.record(Duration::from_millis(ms)));
        assert_eq!(times.to_string(), "p50 50.0 ms, p99 99.0 ms, max 100.0 ms of 100");
        times.record(Duration::from_secs(3_600));
        assert!(times.to_string().contains("max 600"), "{times}");
    }

    #[test]
    fn whatever_is_not_as_it_should_be_is_told() {
        let gone = Gone {
            forgotten: Some(Duration::from_millis(4)),
            exit: Duration::from_millis(500),
            is_at_once: true,
            reason: "all have forgotten it".into(),
            ..Gone::default()
        };
        let failed = Failed {
            at: Duration::from_millis(1_234),
            number: 7,
            caller: Caller::Client,
            target: "the gateway".into(),
            why: Why::Status(503, "UH".into()),
            restart: "restart 2: middle-1 drains".into(),
        };
        let check = |change: &dyn Fn(&mut Found), is_good: bool, expected: &str| {
            let mut found = found();
            change(&mut found);
            assert_eq!(found.is_good(), is_good, "{found}");
            assert!(found.to_string().contains(expected), "{expected} is not in\n{found}");
        };
        check(
            &|_| {},
            true,
            "100 requests in 2 s (1 by clients that ask rarely, 1 from outside): 0 failed, 0 duplicated",
        );
        check(&|found| found.restarts.note(gone.clone()), true, "restarts: 1, 1 of their apps ended at once");
        check(&|found| found.restarts.note(gone.clone()), true, "until forgotten: p50 4.0 ms");
        check(&|found| found.restarts.note(gone.clone()), true, "\n  1 x all have forgotten it");
        check(&|found| found.restarts.note(Gone::default()), true, "; 1 were not forgotten");
        check(
            &|found| found.tally.failed(failed.clone()),
            false,
            "\nfailed: 1.234 s, request 7, a client at the gateway, restart 2: middle-1 drains: 503 \"UH\"",
        );
        check(&|found| found.duplicated = 1, false, "0 failed, 1 duplicated");
        let killed = Gone { troubles: vec!["front-1 had to be killed".into()], ..gone.clone() };
        check(&|found| found.restarts.note(killed.clone()), false, "\ntrouble: front-1 had to be killed");
        let many = |found: &mut Found| (0..50).for_each(|_| found.tally.failed(failed.clone()));
        let mut found = found();
        many(&mut found);
        assert_eq!(found.to_string().matches("\nfailed: ").count(), TOLD_MAX);
        assert_eq!((found.requests(), found.failed()), (150, 50));
    }
}
