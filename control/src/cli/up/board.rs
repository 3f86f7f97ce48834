//! What is shown, as texts, whether on a screen or in a log. Pure.

use std::time::Duration;

use super::app::Switch;
use super::keys::Selection;
use super::ledger::{LaneFigures, Totals};
use super::told::{PolicyFigures, Standing};

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// Since the start.
    pub uptime: Duration,
    /// Where clients come.
    pub edge: String,
    /// The file of rules.
    pub rules: String,
    /// Control's REST API.
    pub api: String,
    /// How long control has not answered. None: it does.
    pub control_gone: Option<Duration>,
    /// How old the rules are.
    pub rules_age: Option<Duration>,
    /// Receipts of drains.
    pub drains: usize,
    /// The newest.
    pub last_drain: Option<String>,
    /// Of a restart that is under way, how many have been replaced, of how many.
    pub restart: Option<(usize, usize)>,
    /// One for each lane.
    pub lanes: Vec<LaneFigures>,
    /// In the order of the shop.
    pub instances: Vec<InstanceFigures>,
    /// In the order of their names.
    pub policies: Vec<PolicyFigures>,
    /// All lanes.
    pub totals: Totals,
    /// Attempts after a failed one, of all proxies.
    pub retries: u64,
    /// What was not as expected, and how often.
    pub problems: Vec<(String, u64)>,
    /// What happened; the newest last.
    pub events: Vec<String>,
    /// What keys are about.
    pub selection: Selection,
}

/// How an instance does.
#[derive(Debug, Clone)]
pub struct InstanceFigures {
    /// Its service.
    pub service: &'static str,
    /// Its lane.
    pub lane: &'static str,
    /// Its name. None: nobody stands there.
    pub name: Option<String>,
    /// What control and callers think of it where that is not as usual, and the seconds that it is left alone.
    pub trouble: Option<(String, Option<u64>)>,
    /// How it behaves.
    pub switch: Switch,
    /// Whether it passes no trace on.
    pub forgets_trace: bool,
    /// Requests that reach it in a second.
    pub per_second: f64,
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
    /// What it is called, and what is not as usual or else its requests in a second. Short: `#3 54/s` of `web-3`.
    pub fn words(&self) -> String {
        let number = self.name.as_ref().and_then(|name| Some(name.rsplit_once('-')?.1));
        let Some(number) = number else { return "nobody".into() };
        let told = self.troubles().into_iter().next();
        format!("#{number} {}", told.unwrap_or_else(|| format!("{:.0}/s", self.per_second)))
    }

    /// All that is not as usual, the gravest first.
    pub fn troubles(&self) -> Vec<String> {
        let switch = (self.switch != Switch::Ok).then(|| self.switch.word().to_uppercase());
        let trace = self.forgets_trace.then(|| "NO TRACE".to_owned());
        let told = self.trouble.as_ref().map(|(state, seconds)| match seconds {
            None => state.clone(),
            Some(seconds) => format!("{state} {seconds}s"),
        });
        [switch, trace, told].into_iter().flatten().collect()
    }

    /// Whether nobody needs to look at it.
    pub fn is_well(&self) -> bool {
        self.name.is_some() && self.troubles().is_empty()
    }
}

impl PolicyFigures {
    /// In a line: kind and name, admitted, refused, how it stands.
    pub fn words(&self) -> String {
        let PolicyFigures { name, admitted, refused, standing } = self;
        let stands = match standing {
            Standing::Breaker { of, open: 0, opened } => format!("closed at {of}, {opened} openings"),
            Standing::Breaker { of, open, opened } => format!("OPEN at {open} of {of}, {opened} openings"),
            Standing::Slots { busiest, limit, waiting } => format!("{busiest} of {limit} under way, {waiting} wait"),
            Standing::Values(values) => format!("{values} users"),
        };
        format!("{name:22} {admitted:>6} passed {refused:>5} refused  {stands}")
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
        parts.extend(self.last_drain.as_ref().map(|last| format!("{} drained, last {last}", self.drains)));
        parts.extend(self.restart.map(|(done, all)| format!("{done} of {all} restarted")));
        parts.extend(self.control_gone.map(|_| format!("control {}", self.control())));
        let open = self.policies.iter().filter(|policy| policy.is_open());
        parts.extend(open.map(|policy| format!("{} is open", policy.name)));
        let unwell = self.instances.iter().filter(|instance| !instance.is_well());
        parts.extend(unwell.map(|instance| match &instance.name {
            Some(name) => format!("{name} {}", instance.troubles().join(" ")),
            None if self.has_another(instance) => format!("one of {} {} is gone", instance.service, instance.lane),
            None => format!("nobody is {} {}", instance.service, instance.lane),
        }));
        parts.join(" | ")
    }

    /// Whether somebody stands beside a place that is empty.
    fn has_another(&self, empty: &InstanceFigures) -> bool {
        let is_beside = |one: &InstanceFigures| (one.service, one.lane) == (empty.service, empty.lane);
        self.instances.iter().any(|one| is_beside(one) && one.name.is_some())
    }

    /// Whether control is there, and how old the rules are.
    pub fn control(&self) -> String {
        let state = match self.control_gone {
            None => "alive".to_owned(),
            Some(gone) => format!("DEAD for {} s", gone.as_secs()),
        };
        state + &self.rules_age.map(|age| format!(", rules {} s old", age.as_secs())).unwrap_or_default()
    }

    /// The last drain, and a restart that is under way.
    pub fn drain(&self) -> String {
        let restart = self.restart.map(|(done, all)| format!("restarted {done} of {all}; ")).unwrap_or_default();
        let last = self.last_drain.as_deref().unwrap_or("nobody was let go so far");
        let head = format!("drains {}", self.drains);
        format!("{head:9} {restart}{last}")
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
        if let Some(last) = &self.last_drain {
            text += &format!("  {} drained, last {last}\n", self.drains);
        }
        if let Some((done, all)) = self.restart {
            text += &format!("  a restart was cut off: {done} of {all} were replaced\n");
        }
        for (problem, count) in &self.problems {
            text += &format!("  {count} times {problem}\n");
        }
        text
    }
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
        let instance = |name: &str, trouble: Option<(&str, Option<u64>)>, switch: Switch| InstanceFigures {
            service: "price",
            lane: "base",
            name: (!name.is_empty()).then(|| name.to_owned()),
            trouble: trouble.map(|(state, seconds)| (state.to_owned(), seconds)),
            switch,
            forgets_trace: name == "price-3",
            per_second: 12.4,
        };
        let policy =
            |name: &str, standing: Standing| PolicyFigures { name: name.into(), admitted: 9, refused: 2, standing };
        Board {
            uptime: Duration::from_secs(61),
            edge: "http://127.0.0.1:8080".into(),
            rules: "/tmp/rules.yaml".into(),
            api: "127.0.0.1:43211".into(),
            control_gone: Some(Duration::from_secs(3)),
            rules_age: Some(Duration::from_secs(61)),
            drains: 116,
            last_drain: Some("price-12 forgotten by 18 of 18 after 14.1 ms, gone after 110 ms".into()),
            restart: None,
            lanes: vec![
                lane("base", 70.0, Totals { answered: 4000, failed: 3, limited: 7, ..Totals::default() }),
                lane("blue", 30.0, Totals { answered: 2000, wrong: 1, ..Totals::default() }),
                lane("green", 0.0, Totals::default()),
            ],
            instances: vec![
                instance("price-1", None, Switch::Ok),
                instance("price-12", Some(("ejected", Some(4))), Switch::Failing),
                instance("price-3", Some(("draining", None)), Switch::Ok),
                instance("", None, Switch::Dead),
            ],
            policies: vec![
                policy("CircuitBreaker price", Standing::Breaker { of: 4, open: 1, opened: 1 }),
                policy("ConcurrencyLimit stock", Standing::Slots { busiest: 3, limit: 16, waiting: 0 }),
                policy("RateLimit per-user", Standing::Values(6)),
            ],
            totals: Totals { answered: 6000, failed: 3, wrong: 1, limited: 7, fallbacks: 0 },
            retries: 5,
            problems: vec![("unexpected: 503 ".into(), 3), ("wrong lane: price > stock".into(), 1)],
            events: vec!["price-12 is failing".into()],
            selection: Selection::default(),
        }
    }

    #[test]
    fn a_board_fits_a_line_and_ends_with_a_summary() {
        assert_eq!(
            sample().line(),
            "  61s  base 70/s 70% 24/31 ms | blue 30/s 30% 24/31 ms | green 0/s 0% 24/31 ms | 7 limited, 3 failed, \
             1 wrong lane | 5 retries | 116 drained, last price-12 forgotten by 18 of 18 after 14.1 ms, gone after 110 ms \
             | control DEAD for 3 s, rules 61 s old | CircuitBreaker price is open | price-12 FAILING \
             ejected 4s | price-3 NO TRACE draining | one of price base is gone"
        );
        assert_eq!(
            Board { restart: Some((3, 16)), ..sample() }.summary(),
            "ended after 61 s: 6000 answered, 7 limited, 0 by fallback, 3 failed, 1 in a wrong lane\n  \
             base: 4000 answered, 3 failed, 0 in a wrong lane\n  blue: 2000 answered, 0 failed, 1 in a wrong lane\n  \
             green: 0 answered, 0 failed, 0 in a wrong lane\n  \
             116 drained, last price-12 forgotten by 18 of 18 after 14.1 ms, gone after 110 ms\n  \
             a restart was cut off: 3 of 16 were replaced\n  3 times unexpected: 503 \n  1 times wrong lane: price > stock\n"
        );
    }

    #[test]
    fn times_have_two_or_three_digits() {
        for (us, expected) in [(0, "-"), (740, "0.7"), (9_940, "9.9"), (9_960, "10"), (123_456, "123")] {
            assert_eq!(milliseconds(Duration::from_micros(us)), expected);
        }
    }
}
