//! Adds up what the load met: totals since the start, and rates, latencies and shares of the last seconds. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::judge::{Judgement, Verdict};
use super::shop::LANES;

/// What rates and latencies are of.
const WINDOW: Duration = Duration::from_secs(5);
/// Answers in the window; older ones leave it early. The load brings 500.
const RECENT_MAX: usize = 4096;
/// Kinds of problems told apart; more are one.
const PROBLEMS_MAX: usize = 32;

/// One answer in the window.
struct Recent {
    at: Duration,
    lane: &'static str,
    latency: Duration,
    is_failure: bool,
}

/// The book of all answers.
#[derive(Default)]
pub struct Ledger {
    recent: VecDeque<Recent>,
    lanes: BTreeMap<&'static str, Totals>,
    said: BTreeMap<&'static str, String>,
    problems: BTreeMap<String, u64>,
}

/// Since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// All answers.
    pub answered: u64,
    /// Statuses and bodies that were not expected, or no answer.
    pub failed: u64,
    /// Instances of another lane.
    pub wrong: u64,
    /// Refused by a limit, as expected.
    pub limited: u64,
    /// Answers in which the breaker's fallback stood in for a service.
    pub fallbacks: u64,
}

/// How a lane does.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneFigures {
    /// Its name.
    pub lane: &'static str,
    /// Requests in a second.
    pub per_second: f64,
    /// Its part of all requests, 0 to 1.
    pub share: f64,
    /// Of answers that were not refused by a limit.
    pub p50: Duration,
    /// As above.
    pub p99: Duration,
    /// The part of failed and wrongly served requests, 0 to 1.
    pub failing: f64,
    /// Since the start.
    pub totals: Totals,
    /// Who served the last request that went well.
    pub said: String,
}

impl Ledger {
    /// Enters one answer, which said who served.
    pub fn add(&mut self, at: Duration, latency: Duration, judgement: &Judgement, said: &str) {
        let Judgement { lane, verdict, .. } = judgement;
        let totals = self.lanes.entry(lane).or_default();
        totals.answered += 1;
        if matches!(verdict, Verdict::Good | Verdict::Fallback) {
            self.said.insert(lane, said.trim_end().to_owned());
        }
        let problem = match verdict {
            Verdict::Good => None,
            Verdict::Fallback => {
                totals.fallbacks += 1;
                None
            }
            Verdict::Limited => {
                totals.limited += 1;
                // An answer of no service says nothing of latencies.
                return;
            }
            Verdict::Unexpected(what) => {
                totals.failed += 1;
                Some(format!("unexpected: {what}"))
            }
            Verdict::WrongLane(what) => {
                totals.wrong += 1;
                Some(format!("wrong lane: {what}"))
            }
        };
        self.recent.push_back(Recent { at, lane, latency, is_failure: problem.is_some() });
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        if let Some(problem) = problem {
            let known = self.problems.contains_key(&problem) || self.problems.len() < PROBLEMS_MAX;
            *self.problems.entry(if known { problem } else { "others".into() }).or_insert(0) += 1;
        }
    }

    /// How each lane does at `now`.
    pub fn figures(&mut self, now: Duration) -> Vec<LaneFigures> {
        let from = now.saturating_sub(WINDOW);
        while self.recent.front().is_some_and(|recent| recent.at < from) {
            self.recent.pop_front();
        }
        let seconds = now.min(WINDOW).as_secs_f64().max(0.1);
        let figures = |lane: &'static str| {
            let of_lane = || self.recent.iter().filter(|recent| recent.lane == lane);
            let mut latencies: Vec<Duration> = of_lane().map(|recent| recent.latency).collect();
            latencies.sort_unstable();
            let failed = of_lane().filter(|recent| recent.is_failure).count();
            LaneFigures {
                lane,
                per_second: latencies.len() as f64 / seconds,
                share: part(latencies.len(), self.recent.len()),
                p50: quantile(&latencies, 0.5),
                p99: quantile(&latencies, 0.99),
                failing: part(failed, latencies.len()),
                totals: self.lanes.get(lane).copied().unwrap_or_default(),
                said: self.said.get(lane).cloned().unwrap_or_default(),
            }
        };
        LANES.into_iter().map(figures).collect()
    }

    /// All lanes together, since the start.
    pub fn totals(&self) -> Totals {
        self.lanes.values().fold(Totals::default(), |sum, lane| Totals {
            answered: sum.answered + lane.answered,
            failed: sum.failed + lane.failed,
            wrong: sum.wrong + lane.wrong,
            limited: sum.limited + lane.limited,
            fallbacks: sum.fallbacks + lane.fallbacks,
        })
    }

    /// What went wrong and how often, the most frequent first.
    pub fn problems(&self) -> Vec<(&str, u64)> {
        let mut problems: Vec<(&str, u64)> = self.problems.iter().map(|(what, count)| (&what[..], *count)).collect();
        problems.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        problems
    }
}

fn part(some: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

/// The smallest value that at least this part of all do not exceed.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let hundred: Vec<Duration> = (1..=100).map(ms).collect();
        for (sorted, at, expected) in [
            (&hundred[..], 0.5, 50),
            (&hundred[..], 0.99, 99),
            (&hundred[..], 1.0, 100),
            (&hundred[..1], 0.99, 1),
            (&hundred[..2], 0.5, 1),
            (&hundred[..0], 0.5, 0),
        ] {
            assert_eq!(quantile(sorted, at), ms(expected), "{at} of {}", sorted.len());
        }
    }

    #[test]
    fn rates_are_of_the_window_and_totals_of_all() {
        let mut ledger = Ledger::default();
        let judged = |lane: &'static str, verdict: Verdict| Judgement { lane, is_told: true, verdict };
        // Two a second in base, one in blue which fails at second 7, and one that is limited.
        for second in 0..10 {
            let at = Duration::from_secs(second);
            ledger.add(at, ms(10), &judged("base", Verdict::Good), "who");
            ledger.add(at, ms(30), &judged("base", Verdict::Fallback), "who");
            ledger.add(at, ms(0), &judged("base", Verdict::Limited), "who");
            let verdict = if second == 7 { Verdict::Unexpected("503 ".into()) } else { Verdict::Good };
            ledger.add(at, ms(20), &judged("blue", verdict), "who");
        }
        ledger.add(ms(9_000), ms(1), &judged("blue", Verdict::WrongLane("x".into())), "who");
        let told = |figures: &LaneFigures| {
            let LaneFigures { lane, per_second, share, p50, p99, failing, .. } = figures;
            format!("{lane} {per_second:.1}/s {:.0}% {p50:?} {p99:?} failing {failing:.2}", share * 100.0)
        };
        let all: Vec<String> = ledger.figures(ms(9_500)).iter().map(told).collect();
        assert_eq!(
            all,
            [
                "base 2.0/s 62% 10ms 30ms failing 0.00",
                "blue 1.2/s 38% 20ms 20ms failing 0.33",
                "green 0.0/s 0% 0ns 0ns failing 0.00",
            ]
        );
        let totals = Totals { answered: 41, failed: 1, wrong: 1, limited: 10, fallbacks: 10 };
        assert_eq!(ledger.totals(), totals);
        assert_eq!(ledger.problems(), [("unexpected: 503 ", 1), ("wrong lane: x", 1)]);
    }
}
