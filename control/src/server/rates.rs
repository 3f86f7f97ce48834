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

/// What a proxy tells: what was since it was last heard.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    pub(crate) all: Counts,
    /// Of those, what was before the rules that it has in force now.
    pub(crate) earlier: Counts,
    /// The revision of these; 0: it does not say.
    pub(crate) revision: u64,
}

impl Counts {
    fn without(self, other: Counts) -> Counts {
        Counts { requests: self.requests - other.requests, failed: self.failed - other.failed }
    }

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

    /// What is to be said of what was tried, and is not worse.
    pub(crate) fn verdict(self) -> String {
        match self.share() {
            None => format!("too few requests to tell ({:.0})", self.requests),
            Some(_) => format!("failed requests: {}", self.text()),
        }
    }

    fn text(self) -> String {
        let percent = if self.requests > 0.0 { 100.0 * self.failed / self.requests } else { 0.0 };
        format!("{:.0} of {:.0} ({percent:.1} %)", self.failed, self.requests)
    }
}

/// How requests fare around a trial.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fares {
    /// Where it is tried.
    pub(crate) tried: Counts,
    /// There, before.
    before: Counts,
    /// Everywhere else, meanwhile and before.
    elsewhere: Counts,
    elsewhere_before: Counts,
}

/// In which way requests fare worse where something is tried than before, and than elsewhere meanwhile. What fails as
/// often elsewhere, or did so before, is nobody's fault who tries something; but what became well elsewhere since would
/// have become well there, too (difference in differences).
pub(crate) fn worse(fares: &Fares) -> Option<String> {
    let Fares { tried, before, elsewhere, elsewhere_before } = *fares;
    let share = tried.share().filter(|_| tried.failed >= FAILED_MIN)?;
    let mended = match (elsewhere_before.share(), elsewhere.share()) {
        (Some(before), Some(now)) => (before - now).max(0.0),
        _ => 0.0,
    };
    let usual = (before.share().unwrap_or(0.0) - mended).max(elsewhere.share().unwrap_or(0.0));
    // Where half of all fail, half as many again would be all: it is enough if half of what was well no longer is.
    let much = (usual * FACTOR).min((1.0 + usual) / 2.0);
    (share > usual + MARGIN && share > much).then(|| {
        let [tried, before, elsewhere] = [tried, before, elsewhere].map(Counts::text);
        format!("requests fail where it is tried: {tried}; before {before}, elsewhere {elsewhere}")
    })
}

/// Everything that was told.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    usual: HashMap<Arc<str>, (Counts, Instant)>,
    trial: Option<Trial>,
    /// Who tried what was taken back, and was not heard since it has what was before, from this revision on.
    returning: (u64, BTreeSet<Arc<str>>),
}

#[derive(Debug)]
struct Trial {
    revision: u64,
    ids: BTreeSet<Arc<str>>,
    fares: Fares,
    is_over: bool,
}

impl Trial {
    /// What of this is usual for who tells it: not what the trial did.
    fn take(&mut self, id: &str, told: Told) -> Counts {
        let Told { all, earlier, revision } = told;
        if self.is_over {
            return all;
        }
        match (self.ids.contains(id), revision) {
            (false, _) => {
                self.fares.elsewhere.add(all);
                all
            }
            // A proxy that does not know better.
            (true, 0) => {
                self.fares.tried.add(all);
                Counts::default()
            }
            (true, revision) if revision < self.revision => all,
            (true, _) => {
                self.fares.tried.add(all.without(earlier));
                earlier
            }
        }
    }
}

impl Rates {
    /// A proxy tells what was since it was last heard. False: it was heard just now.
    pub(crate) fn take(&mut self, id: &str, told: Told, now: Instant, every: Duration) -> bool {
        if self.usual.get(id).is_some_and(|(_, at)| now.saturating_duration_since(*at) < every) {
            return false;
        }
        let told = self.of_now(id, told);
        let counts = self.trial.as_mut().map_or(told.all, |trial| trial.take(id, told));
        if let Some((usual, at)) = self.usual.get_mut(id) {
            *usual = usual.faded(now.saturating_duration_since(*at));
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
        true
    }

    /// Without what a trial did that was taken back.
    fn of_now(&mut self, id: &str, told: Told) -> Told {
        let (at, ids) = &mut self.returning;
        if !ids.contains(id) {
            return told;
        }
        if told.revision > 0 && told.revision < *at {
            return Told { all: Counts::default(), earlier: Counts::default(), ..told };
        }
        ids.remove(id);
        Told { all: told.all.without(told.earlier), earlier: Counts::default(), ..told }
    }

    /// How requests fare for those that try this revision, and for all others, since it was first asked for.
    pub(crate) fn fares(&mut self, revision: u64, ids: &BTreeSet<Arc<str>>, now: Instant) -> Fares {
        if let Some(trial) = self.trial.as_mut().filter(|trial| trial.revision == revision) {
            return trial.fares;
        }
        let mut fares = Fares::default();
        for (id, (usual, at)) in &self.usual {
            let usual = usual.faded(now.saturating_duration_since(*at));
            match ids.contains(id) {
                true => fares.before.add(usual),
                false => fares.elsewhere_before.add(usual),
            }
        }
        self.trial = Some(Trial { revision, ids: ids.clone(), fares, is_over: false });
        fares
    }

    /// The trial of a revision is over: it is everybody's, or taken back at another.
    pub(crate) fn end(&mut self, revision: u64, taken_back: Option<u64>) {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.revision == revision) else { return };
        trial.is_over = true;
        if let Some(at) = taken_back {
            self.returning.0 = at;
            // Who has gone for good is not waited for.
            self.returning.1.retain(|id| self.usual.contains_key(id));
            self.returning.1.extend(trial.ids.iter().cloned());
        }
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
        let none = counts(0, 0);
        for (tried, before, elsewhere, elsewhere_before, expected) in [
            (counts(0, 100), counts(0, 100), counts(0, 100), none, false),
            (counts(50, 100), counts(0, 100), counts(0, 100), none, true),
            (counts(6, 100), counts(0, 100), counts(0, 100), none, true),
            (counts(5, 100), counts(0, 100), counts(0, 100), none, false),
            // Too few to tell.
            (counts(10, 19), counts(0, 100), counts(0, 100), none, false),
            (counts(4, 20), counts(0, 100), counts(0, 100), none, false),
            (counts(20, 20), none, none, none, true),
            // It was so before, or is so everywhere.
            (counts(50, 100), counts(50, 100), counts(0, 100), none, false),
            (counts(50, 100), counts(0, 100), counts(45, 100), none, false),
            (counts(80, 100), counts(50, 100), counts(0, 100), none, true),
            (counts(70, 100), counts(50, 100), counts(0, 100), none, false),
            // Nearly all failed before: that all do now is worse; that all did is not.
            (counts(100, 100), counts(80, 100), counts(80, 100), none, true),
            (counts(85, 100), counts(80, 100), counts(80, 100), none, false),
            (counts(100, 100), counts(100, 100), counts(0, 100), none, false),
            // It was so everywhere, and is so nowhere else any more: it would have become well there, too.
            (counts(100, 100), counts(100, 100), counts(0, 100), counts(95, 100), true),
            (counts(30, 100), counts(60, 100), counts(0, 100), counts(60, 100), true),
            (counts(30, 100), counts(30, 100), counts(0, 100), counts(0, 100), false),
            (counts(30, 100), counts(30, 100), counts(0, 100), counts(19, 19), false),
            // What is not known does not excuse anything.
            (counts(50, 100), counts(5, 5), counts(19, 19), none, true),
        ] {
            let fares = Fares { tried, before, elsewhere, elsewhere_before };
            let found = worse(&fares);
            assert_eq!(found.is_some(), expected, "{fares:?}: {found:?}");
        }
        let fares =
            Fares { tried: counts(31, 40), before: counts(0, 120), elsewhere: counts(3, 300), ..Fares::default() };
        let words = worse(&fares);
        let expected =
            "requests fail where it is tried: 31 of 40 (77.5 %); before 0 of 120 (0.0 %), elsewhere 3 of 300 (1.0 %)";
        assert_eq!(words.as_deref(), Some(expected));
        assert_eq!(counts(3, 19).verdict(), "too few requests to tell (19)");
        assert_eq!(counts(3, 300).verdict(), "failed requests: 3 of 300 (1.0 %)");
    }

    #[test]
    fn what_is_told_counts_for_who_tells_it_and_when_it_was() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let ids: BTreeSet<Arc<str>> = ["a".into()].into();
        let mut rates = Rates::default();
        let told = |all, earlier, revision| Told { all, earlier, revision };
        let none = counts(0, 0);
        assert!(rates.take("a", told(counts(0, 1_000), none, 6), start, second));
        assert!(!rates.take("a", told(counts(9, 9), none, 6), start + second / 2, second), "it was heard just now");
        assert!(worse(&rates.fares(7, &ids, start + second)).is_none());
        for (time, id, told, is_worse) in [
            (2, "b", told(counts(90, 100), none, 6), false),
            // What was before it had it.
            (3, "a", told(counts(100, 100), none, 6), false),
            (4, "a", told(counts(100, 110), counts(100, 100), 7), false),
            (5, "a", told(counts(90, 90), none, 7), false),
            (6, "b", told(counts(0, 900), none, 6), true),
            // A proxy that does not say from when.
            (7, "a", told(counts(0, 800), none, 0), false),
        ] {
            let now = start + time * second;
            assert!(rates.take(id, told, now, second));
            assert_eq!(worse(&rates.fares(7, &ids, now)).is_some(), is_worse, "{time}");
        }
        // What a trial did is not usual for who tried it, whenever that is told.
        rates.end(6, Some(8));
        rates.end(7, Some(9));
        for (time, told) in [
            (8, told(counts(50, 50), none, 7)),
            (9, told(counts(50, 60), counts(50, 50), 9)),
            (10, told(counts(0, 10), none, 9)),
        ] {
            assert!(rates.take("a", told, start + time * second, second));
        }
        let fares = rates.fares(10, &ids, start + 10 * second);
        let (failed, requests) = (fares.before.failed.round(), fares.before.requests.round());
        // 200 failed before it had it, 20 were well after it; what is longer ago counts less.
        assert!(
            (150.0..200.0).contains(&failed) && (failed + 700.0..failed + 1_020.0).contains(&requests),
            "{fares:?}"
        );
        // Another one begins with what is usual then; what is long ago hardly counts.
        let before = rates.fares(11, &ids, start + 600 * second).before.requests;
        assert!((1.0..3.0).contains(&before), "{before}");
    }

    #[test]
    fn whoever_tells_cannot_fill_it() {
        let now = Instant::now();
        let all = |all| Told { all, ..Told::default() };
        let mut rates = Rates::default();
        for number in 0..PROXIES_MAX + 10 {
            assert!(rates.take(&number.to_string(), all(counts(0, 1)), now, Duration::ZERO));
        }
        assert_eq!(rates.usual.len(), PROXIES_MAX);
        assert!(rates.take("new", all(counts(0, 1)), now + SILENT_MAX, Duration::ZERO));
        assert_eq!(rates.usual.len(), 1);
    }
}
