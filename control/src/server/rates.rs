//! How requests fare, as proxies tell it: what was usual for each lately, and what is so for those that try something and
//! for all others while they do. Time is an argument. Machine, Cold.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a minute ago counts half.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Proxies of which it is known what is usual; those that have said nothing for a while make room for others.
const PROXIES_MAX: usize = 20_000;
const SILENT_MAX: Duration = Duration::from_secs(600);

/// With fewer requests nothing is told from them.
const REQUESTS_MIN: f64 = 20.0;
/// So many that failed may be by chance.
const FAILED_MIN: f64 = 5.0;
/// A share that is greater by less than this is not worse.
const MARGIN: f64 = 0.05;
/// Nor one that is greater by less than this factor.
const FACTOR: f64 = 1.5;

/// Requests that have ended, and those of them that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) requests: f64,
    pub(crate) failed: f64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.requests += other.requests;
        self.failed += other.failed;
    }

    fn faded(self, time: Duration) -> Counts {
        let factor = 0.5_f64.powf(time.as_secs_f64() / HALF_LIFE.as_secs_f64());
        Counts { requests: self.requests * factor, failed: self.failed * factor }
    }

    /// None: there are too few to tell.
    fn share(self) -> Option<f64> {
        (self.requests >= REQUESTS_MIN).then(|| self.failed / self.requests)
    }

    fn text(self) -> String {
        let percent = if self.requests > 0.0 { 100.0 * self.failed / self.requests } else { 0.0 };
        format!("{:.0} of {:.0} ({percent:.1} %)", self.failed, self.requests)
    }
}

/// In which way requests fare worse where something is tried than before, and than elsewhere meanwhile. What fails as
/// often elsewhere, or did so before, is nobody's fault who tries something.
pub(crate) fn worse(tried: Counts, before: Counts, elsewhere: Counts) -> Option<String> {
    let share = tried.share().filter(|_| tried.failed >= FAILED_MIN)?;
    let usual = before.share().unwrap_or(0.0).max(elsewhere.share().unwrap_or(0.0));
    (share > usual + MARGIN && share > usual * FACTOR).then(|| {
        let [tried, before, elsewhere] = [tried, before, elsewhere].map(Counts::text);
        format!("requests fail where it is tried: {tried}; before {before}, elsewhere {elsewhere}")
    })
}

/// Everything that was told.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    usual: HashMap<Arc<str>, (Counts, Instant)>,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    revision: u64,
    ids: BTreeSet<Arc<str>>,
    before: Counts,
    tried: Counts,
    elsewhere: Counts,
}

impl Rates {
    /// A proxy tells what was since it was last heard. False: it was heard just now.
    pub(crate) fn take(&mut self, id: &str, counts: Counts, now: Instant, every: Duration) -> bool {
        if let Some((usual, at)) = self.usual.get_mut(id) {
            let time = now.saturating_duration_since(*at);
            if time < every {
                return false;
            }
            *usual = usual.faded(time);
            usual.add(counts);
            *at = now;
        } else {
            if self.usual.len() >= PROXIES_MAX {
                self.usual.retain(|_, (_, at)| now.saturating_duration_since(*at) < SILENT_MAX);
            }
            if self.usual.len() < PROXIES_MAX {
                self.usual.insert(id.into(), (counts, now));
            }
        }
        if let Some(trial) = &mut self.trial {
            match trial.ids.contains(id) {
                true => trial.tried.add(counts),
                false => trial.elsewhere.add(counts),
            }
        }
        true
    }

    /// In which way requests fare worse for those that try this revision, since it was first asked for.
    pub(crate) fn worse(&mut self, revision: u64, ids: &BTreeSet<Arc<str>>, now: Instant) -> Option<String> {
        if let Some(trial) = self.trial.as_ref().filter(|trial| trial.revision == revision) {
            return worse(trial.tried, trial.before, trial.elsewhere);
        }
        let mut before = Counts::default();
        for (usual, at) in ids.iter().filter_map(|id| self.usual.get(id)) {
            before.add(usual.faded(now.saturating_duration_since(*at)));
        }
        let (tried, elsewhere) = (Counts::default(), Counts::default());
        self.trial = Some(Trial { revision, ids: ids.clone(), before, tried, elsewhere });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(failed: u32, requests: u32) -> Counts {
        Counts { requests: requests.into(), failed: failed.into() }
    }

    #[test]
    fn worse_is_what_is_usual_nowhere() {
        for (tried, before, elsewhere, expected) in [
            (counts(0, 100), counts(0, 100), counts(0, 100), false),
            (counts(50, 100), counts(0, 100), counts(0, 100), true),
            (counts(6, 100), counts(0, 100), counts(0, 100), true),
            (counts(5, 100), counts(0, 100), counts(0, 100), false),
            // Too few to tell.
            (counts(10, 19), counts(0, 100), counts(0, 100), false),
            (counts(4, 20), counts(0, 100), counts(0, 100), false),
            (counts(20, 20), counts(0, 0), counts(0, 0), true),
            // It was so before, or is so everywhere.
            (counts(50, 100), counts(50, 100), counts(0, 100), false),
            (counts(50, 100), counts(0, 100), counts(45, 100), false),
            (counts(80, 100), counts(50, 100), counts(0, 100), true),
            (counts(70, 100), counts(50, 100), counts(0, 100), false),
            // What is not known does not excuse anything.
            (counts(50, 100), counts(5, 5), counts(19, 19), true),
        ] {
            let found = worse(tried, before, elsewhere);
            assert_eq!(found.is_some(), expected, "{tried:?} {before:?} {elsewhere:?}: {found:?}");
        }
        let words = worse(counts(31, 40), counts(0, 120), counts(3, 300));
        let expected =
            "requests fail where it is tried: 31 of 40 (77.5 %); before 0 of 120 (0.0 %), elsewhere 3 of 300 (1.0 %)";
        assert_eq!(words.as_deref(), Some(expected));
    }

    #[test]
    fn what_is_told_counts_for_who_tells_it() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let ids: BTreeSet<Arc<str>> = ["a".into()].into();
        let mut rates = Rates::default();
        assert!(rates.take("a", counts(0, 1_000), start, second));
        assert!(!rates.take("a", counts(9, 9), start + second / 2, second), "it was heard just now");
        assert_eq!(rates.worse(7, &ids, start + second), None);
        for (time, id, told, is_worse) in [
            (2, "b", counts(90, 100), false),
            (3, "a", counts(90, 100), false),
            (4, "b", counts(0, 900), true),
            (5, "a", counts(0, 900), false),
        ] {
            let now = start + time * second;
            assert!(rates.take(id, told, now, second));
            assert_eq!(rates.worse(7, &ids, now).is_some(), is_worse, "{time}");
        }
        // Another one begins with what is usual then; what is long ago hardly counts.
        assert_eq!(rates.worse(8, &ids, start + 600 * second), None);
        let before = rates.trial.as_ref().map(|trial| trial.before.requests);
        assert!(before.is_some_and(|requests| (1.0..3.0).contains(&requests)), "{before:?}");
    }

    #[test]
    fn whoever_tells_cannot_fill_it() {
        let now = Instant::now();
        let mut rates = Rates::default();
        for number in 0..PROXIES_MAX + 10 {
            assert!(rates.take(&number.to_string(), counts(0, 1), now, Duration::ZERO));
        }
        assert_eq!(rates.usual.len(), PROXIES_MAX);
        assert!(rates.take("new", counts(0, 1), now + SILENT_MAX, Duration::ZERO));
        assert_eq!(rates.usual.len(), 1);
    }
}
