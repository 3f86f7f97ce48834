//! What is shown, as texts, whether on a screen or in a log. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::ledger::{LaneFigures, Totals};
use super::shop::Switch;
use super::told::PolicyFigures;

/// What rates of instances are of.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples kept at most.
const SAMPLES_MAX: usize = 64;

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// Since the start.
    pub uptime: Duration,
    /// Where clients come.
    pub edge: String,
    /// The file of rules.
    pub rules: String,
    /// One for each lane.
    pub lanes: Vec<LaneFigures>,
    /// In the order of the shop.
    pub instances: Vec<InstanceFigures>,
    /// In the order of the gateway.
    pub policies: Vec<PolicyFigures>,
    /// All lanes.
    pub totals: Totals,
    /// Attempts after a failed one, by the gateway.
    pub retries: u64,
    /// What was not as expected, and how often.
    pub problems: Vec<(String, u64)>,
    /// The gateway's, and what keys did; the newest last.
    pub events: Vec<String>,
}

/// How an instance does.
#[derive(Debug, Clone)]
pub struct InstanceFigures {
    /// Its service.
    pub service: &'static str,
    /// Its lane.
    pub lane: &'static str,
    /// Its name in the service.
    pub name: &'static str,
    /// What the gateway thinks of it, and the seconds that it leaves it alone.
    pub state: Option<(String, Option<u64>)>,
    /// How it behaves.
    pub switch: Switch,
    /// Requests that reach it in a second.
    pub per_second: f64,
}

/// Counts of the last seconds, from which rates are made.
#[derive(Debug, Default)]
pub struct Rates {
    samples: VecDeque<(Duration, Vec<u64>)>,
}

impl Rates {
    /// Remembers the counts at a moment.
    pub fn take(&mut self, at: Duration, counts: Vec<u64>) {
        self.samples.push_back((at, counts));
        let is_old = |(then, _): &(Duration, Vec<u64>)| at.saturating_sub(*then) > WINDOW;
        while self.samples.len() > SAMPLES_MAX || self.samples.front().is_some_and(is_old) {
            self.samples.pop_front();
        }
    }

    /// What one of the counts grows by in a second.
    pub fn per_second(&self, index: usize) -> f64 {
        let (Some((from, first)), Some((to, last))) = (self.samples.front(), self.samples.back()) else { return 0.0 };
        let grown = last.get(index).unwrap_or(&0).saturating_sub(*first.get(index).unwrap_or(&0));
        let seconds = to.saturating_sub(*from).as_secs_f64();
        if seconds > 0.0 { grown as f64 / seconds } else { 0.0 }
    }
}

impl LaneFigures {
    /// For a table: lane, requests in a second, share, p50, p99, failed, wrong lane, limited, lanes that served.
    pub fn cells(&self) -> [String; 9] {
        let Totals { failed, wrong, limited, .. } = self.totals;
        [
            self.lane.into(),
            format!("{:.0}", self.per_second),
            format!("{:.0}%", self.share * 100.0),
            milliseconds(self.p50),
            milliseconds(self.p99),
            failed.to_string(),
            wrong.to_string(),
            limited.to_string(),
            lanes_of(&self.said),
        ]
    }
}

impl InstanceFigures {
    /// Requests in a second, and what is not as usual.
    pub fn words(&self) -> String {
        let mut words = vec![format!("{:.0}/s", self.per_second)];
        if self.switch != Switch::Ok {
            words.push(self.switch.word().to_uppercase());
        }
        match &self.state {
            None => words.push("unknown".into()),
            Some((state, None)) if state == "ready" => {}
            Some((state, None)) => words.push(state.clone()),
            Some((state, Some(seconds))) => words.push(format!("{state} {seconds}s")),
        }
        words.join(" ")
    }

    /// Whether somebody should look at it.
    pub fn is_well(&self) -> bool {
        self.switch == Switch::Ok && self.state.as_ref().is_some_and(|(state, _)| state == "ready")
    }
}

impl PolicyFigures {
    /// For a table: kind and name, admitted, refused, how it stands.
    pub fn cells(&self) -> [String; 4] {
        let PolicyFigures { name, admitted, refused, standing, .. } = self;
        [name.clone(), admitted.to_string(), refused.to_string(), standing.clone()]
    }
}

impl Board {
    /// All of it in one line, for a log.
    pub fn line(&self) -> String {
        let lanes: Vec<String> = self.lanes.iter().map(lane).collect();
        let mut parts = vec![format!("{:4}s  {}", self.uptime.as_secs(), lanes.join(" | "))];
        let Totals { failed, wrong, limited, fallbacks, .. } = self.totals;
        parts.push(format!("{limited} limited, {failed} failed, {wrong} wrong lane"));
        let also = [(fallbacks, "fallbacks"), (self.retries, "retries")];
        parts.extend(also.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        let open = self.policies.iter().filter(|policy| policy.is_open);
        parts.extend(open.map(|policy| format!("{} {}", policy.name, policy.standing)));
        let unwell = self.instances.iter().filter(|instance| !instance.is_well());
        parts.extend(unwell.map(|instance| format!("{} {} {}", instance.service, instance.name, instance.words())));
        parts.join(" | ")
    }

    /// The last words, each a line.
    pub fn summary(&self) -> String {
        let Totals { answered, failed, wrong, limited, fallbacks } = self.totals;
        let mut text = format!(
            "ended after {} s: {answered} answered, {limited} limited, {fallbacks} by fallback, {failed} failed, \
             {wrong} in a wrong lane\n",
            self.uptime.as_secs()
        );
        for LaneFigures { lane, totals, .. } in &self.lanes {
            text += &format!(
                "  {lane}: {} answered, {} failed, {} in a wrong lane\n",
                totals.answered, totals.failed, totals.wrong
            );
        }
        for (problem, count) in &self.problems {
            text += &format!("  {count} times {problem}\n");
        }
        text
    }
}

/// An event of the gateway with the time of the day alone, and with names of instances in place of addresses.
pub fn event(line: &str, names: &[(String, String)]) -> String {
    let timed = line.split_once(' ').and_then(|(time, rest)| Some((time.split_once('T')?.1.get(..8)?, rest)));
    let mut told = timed.map_or_else(|| line.to_owned(), |(time, rest)| format!("{time} {rest}"));
    for (address, name) in names {
        // The log names the cluster first, which the name of the instance says, too.
        if let Some((lead, rest)) = told.split_once(&format!(": {address} ")) {
            let lead = lead.rsplit_once(' ').map_or("", |(lead, _)| lead);
            told = format!("{lead} {name} {rest}");
        }
    }
    told
}

/// Of each hop that served only its lane: `web(blue) > cart(base)` is `blue > base`.
fn lanes_of(said: &str) -> String {
    let lane = |hop: &str| Some(hop.split_once('(')?.1.trim_end_matches(')').to_owned());
    said.split(" > ").filter_map(lane).collect::<Vec<_>>().join(" > ")
}

fn lane(figures: &LaneFigures) -> String {
    let LaneFigures { lane, per_second, share, p50, p99, .. } = figures;
    let (p50, p99) = (milliseconds(*p50), milliseconds(*p99));
    format!("{lane} {per_second:.0}/s {:.0}% {p50}/{p99} ms", share * 100.0)
}

fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms == 0.0 {
        "-".into()
    } else if ms < 9.95 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A board on which something of everything happens.
    pub fn sample() -> Board {
        let ms = Duration::from_millis;
        let lane = |lane: &'static str, per_second: f64, totals: Totals| LaneFigures {
            lane,
            per_second,
            share: per_second / 100.0,
            p50: ms(24),
            p99: ms(31),
            failing: 0.0,
            totals,
            said: format!("web({lane}) > cart(base)"),
        };
        let instance = |name: &'static str, state: &str, seconds: Option<u64>, switch: Switch| InstanceFigures {
            service: "price",
            lane: "base",
            name,
            state: Some((state.into(), seconds)),
            switch,
            per_second: 12.4,
        };
        Board {
            uptime: Duration::from_secs(61),
            edge: "http://127.0.0.1:8080".into(),
            rules: "/tmp/rules.yaml".into(),
            lanes: vec![
                lane("base", 70.0, Totals { answered: 4000, failed: 3, limited: 7, ..Totals::default() }),
                lane("blue", 30.0, Totals { answered: 2000, wrong: 1, ..Totals::default() }),
            ],
            instances: vec![
                instance("base-1", "ready", None, Switch::Ok),
                instance("base-2", "ejected", Some(4), Switch::Failing),
            ],
            policies: vec![PolicyFigures {
                name: "CircuitBreaker price".into(),
                admitted: 9,
                refused: 2,
                standing: "open, opened 1 times".into(),
                is_open: true,
            }],
            totals: Totals { answered: 6000, failed: 3, wrong: 1, limited: 7, fallbacks: 0 },
            retries: 5,
            problems: vec![("unexpected: 503 ".into(), 3)],
            events: vec!["price base-2 is failing".into()],
        }
    }

    #[test]
    fn a_board_fits_a_line_and_ends_with_a_summary() {
        assert_eq!(
            sample().line(),
            "  61s  base 70/s 70% 24/31 ms | blue 30/s 30% 24/31 ms | 7 limited, 3 failed, 1 wrong lane | 5 retries \
             | CircuitBreaker price open, opened 1 times | price base-2 12/s FAILING ejected 4s"
        );
        assert_eq!(
            sample().summary(),
            "ended after 61 s: 6000 answered, 7 limited, 0 by fallback, 3 failed, 1 in a wrong lane\n  \
             base: 4000 answered, 3 failed, 0 in a wrong lane\n  blue: 2000 answered, 0 failed, 1 in a wrong lane\n  \
             3 times unexpected: 503 \n"
        );
    }

    #[test]
    fn events_have_the_time_of_the_day_and_names() {
        let names = [("127.0.0.1:7001".to_owned(), "web base-1".to_owned())];
        for (line, expected) in [
            ("2026-11-21T10:08:13.872Z info  listening", "10:08:13 info  listening"),
            (
                "2026-11-21T10:08:13.872Z warn  default/web:80: 127.0.0.1:7001 is ejected for 5s",
                "10:08:13 warn  web base-1 is ejected for 5s",
            ),
            (
                "2026-11-21T10:08:13.872Z warn  default/web:80: 127.0.0.1:70010 x",
                "10:08:13 warn  default/web:80: 127.0.0.1:70010 x",
            ),
            ("something else", "something else"),
        ] {
            assert_eq!(event(line, &names), expected);
        }
    }

    #[test]
    fn rates_are_of_the_last_seconds() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(0), 0.0);
        for (at, count) in [(0, 0), (1, 100), (2, 110), (6, 150), (7, 160)] {
            rates.take(Duration::from_secs(at), vec![count, 7]);
        }
        assert_eq!((rates.per_second(0), rates.per_second(1), rates.per_second(9)), (10.0, 0.0, 0.0));
    }

    #[test]
    fn times_have_two_or_three_digits() {
        for (us, expected) in [(0, "-"), (740, "0.7"), (9_940, "9.9"), (9_960, "10"), (123_456, "123")] {
            assert_eq!(milliseconds(Duration::from_micros(us)), expected);
        }
    }
}
