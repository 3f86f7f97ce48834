//! Which proxies try a change of rules before all others, and what becomes of it: it waits, it is everybody's, or it is
//! taken back. Time is an argument. Pure, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use config::consistent;

use crate::store::Share;

/// For a proxy to take what it was sent, or to come back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// For the last proxy that tries it to come back, where all of them have gone.
const GONE_MAX: Duration = Duration::from_secs(3);

/// A proxy that may try something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its node's id.
    pub(crate) id: Arc<str>,
    /// Empty: it did not say.
    pub(crate) zone: Arc<str>,
}

/// Who tries a revision, of those whom it concerns: by a hash, so that it is not always the same, and one of each zone
/// after the other. A trial of everybody is none: at least one does without, and who is alone tries nothing.
pub(crate) fn choose(candidates: &[Candidate], share: Share, revision: u64) -> BTreeSet<Arc<str>> {
    let ids: BTreeSet<&Arc<str>> = candidates.iter().map(|candidate| &candidate.id).collect();
    let asked = match share {
        Share::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
        Share::Percent(percent) => (ids.len() * percent.min(100) as usize).div_ceil(100),
    };
    let count = asked.min(ids.len().saturating_sub(1));
    let place = |id: &str| consistent::hash(format!("{revision} {id}").as_bytes());
    let mut zones: BTreeMap<&Arc<str>, BTreeSet<(u64, &Arc<str>)>> = BTreeMap::new();
    for Candidate { id, zone } in candidates {
        zones.entry(zone).or_default().insert((place(id), id));
    }
    let mut turns: Vec<(usize, u64, &Arc<str>)> = Vec::new();
    for ids in zones.values() {
        turns.extend(ids.iter().enumerate().map(|(turn, (place, id))| (turn, *place, *id)));
    }
    turns.sort_unstable();
    let mut chosen = BTreeSet::new();
    for (_, _, id) in turns {
        if chosen.len() < count {
            chosen.insert(id.clone());
        }
    }
    chosen
}

/// What is seen of a trial.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// How many try it.
    pub(crate) chosen: usize,
    /// How many of them have it in force.
    pub(crate) has: usize,
    /// Who refused it, and why.
    pub(crate) refused: Option<(Arc<str>, String)>,
    /// Who has not taken it, and is connected.
    pub(crate) late: Vec<Arc<str>>,
    /// Who is not connected.
    pub(crate) gone: Vec<Arc<str>>,
    /// Since when none of them is connected.
    pub(crate) none_for: Option<Duration>,
    /// In which way their requests fare worse.
    pub(crate) worse: Option<String>,
    /// And how they fare, in words.
    pub(crate) fared: String,
    /// Since it began.
    pub(crate) begun_for: Duration,
    /// Since all of them had it in force.
    pub(crate) in_force_for: Option<Duration>,
}

/// What becomes of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing so far.
    Wait,
    /// It is good, for this reason.
    Promote(String),
    /// It is not.
    TakeBack(String),
}

/// What becomes of a trial that bakes for so long.
pub(crate) fn judge(seen: &Seen, bake: Duration) -> Verdict {
    let names = |list: &[Arc<str>]| list.iter().map(|id| &**id).collect::<Vec<_>>().join(", ");
    if seen.chosen == 0 {
        return Verdict::Promote("no two proxies are connected whom it concerns".into());
    }
    if let Some((id, reason)) = &seen.refused {
        return Verdict::TakeBack(format!("{id} refused it: {reason}"));
    }
    if let Some(worse) = &seen.worse {
        return Verdict::TakeBack(worse.clone());
    }
    if seen.none_for.is_some_and(|time| time > GONE_MAX) {
        return Verdict::TakeBack(format!("who tried it has gone: {}", names(&seen.gone)));
    }
    let patience = match seen.in_force_for {
        None => PATIENCE,
        Some(_) => bake + PATIENCE,
    };
    let time = seen.in_force_for.unwrap_or(seen.begun_for);
    match (seen.has == seen.chosen, seen.in_force_for.is_some_and(|time| time >= bake)) {
        (true, true) => {
            Verdict::Promote(format!("in force on {} for {:.1} s, {}", count(seen.has), bake.as_secs_f64(), seen.fared))
        }
        (false, _) if time > patience && !seen.late.is_empty() => {
            Verdict::TakeBack(format!("it is still not in force on {}", names(&seen.late)))
        }
        (false, _) if time > patience => Verdict::TakeBack(format!("who tried it has gone: {}", names(&seen.gone))),
        _ => Verdict::Wait,
    }
}

fn count(number: usize) -> String {
    format!("{number} {}", if number == 1 { "proxy" } else { "proxies" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_try_it_never_all() {
        let proxies = |text: &str| -> Vec<Candidate> {
            let candidate = |word: &str| {
                let (id, zone) = word.split_once('@').unwrap_or((word, ""));
                Candidate { id: id.into(), zone: zone.into() }
            };
            text.split_whitespace().map(candidate).collect()
        };
        for (candidates, share, expected) in [
            ("", Share::Count(2), 0),
            ("a", Share::Count(2), 0),
            ("a b", Share::Count(2), 1),
            ("a b c d", Share::Count(2), 2),
            ("a b c d", Share::Count(9), 3),
            ("a b c d", Share::Percent(10), 1),
            ("a b c d", Share::Percent(50), 2),
            ("a b c d", Share::Percent(100), 3),
            // One who has just connected again counts once.
            ("a a", Share::Count(1), 0),
        ] {
            let chosen = choose(&proxies(candidates), share, 7);
            assert_eq!(chosen.len(), expected, "{candidates} {share:?}");
        }
        let zoned = proxies("a@x b@x c@x d@x e@y f@z");
        for revision in 0..20 {
            let chosen = choose(&zoned, Share::Count(3), revision);
            let zones: BTreeSet<&str> =
                zoned.iter().filter(|one| chosen.contains(&one.id)).map(|one| &*one.zone).collect();
            assert_eq!(zones.len(), 3, "{revision}");
            assert_eq!(choose(&zoned, Share::Count(3), revision), chosen, "the same each time");
        }
        let plain = proxies("a b c d e f");
        let all: BTreeSet<_> = (0..20).flat_map(|revision| choose(&plain, Share::Count(1), revision)).collect();
        assert!(all.len() > 1, "not always the same: {all:?}");
    }

    #[test]
    fn what_is_seen_decides() {
        let seconds = Duration::from_secs;
        let ids = |text: &str| text.split_whitespace().map(Arc::from).collect::<Vec<Arc<str>>>();
        let new = Seen { chosen: 2, late: ids("a b"), begun_for: seconds(1), ..Seen::default() };
        let baking = Seen { has: 2, late: ids(""), in_force_for: Some(seconds(1)), ..new.clone() };
        let done = Seen { in_force_for: Some(seconds(5)), ..baking.clone() };
        for (what, seen, expected) in [
            ("nobody tries it", Seen::default(), "+no two proxies"),
            ("it is on its way", new.clone(), ""),
            ("it is in force", baking.clone(), ""),
            ("it has baked", done.clone(), "+in force on 2 proxies for 5.0 s"),
            (
                "refused",
                Seen { refused: Some(("a".into(), "port taken".into())), ..new.clone() },
                "-a refused it: port",
            ),
            ("refused late", Seen { refused: Some(("a".into(), "no".into())), ..done.clone() }, "-a refused it: no"),
            ("worse", Seen { worse: Some("many fail".into()), ..done.clone() }, "-many fail"),
            ("not taken", Seen { begun_for: seconds(11), ..new.clone() }, "-it is still not in force on a, b"),
            ("one is gone", Seen { has: 1, gone: ids("b"), ..done.clone() }, ""),
            (
                "one stays away",
                Seen { has: 1, gone: ids("b"), in_force_for: Some(seconds(16)), ..done.clone() },
                "-who tried it has gone: b",
            ),
            (
                "both have just gone",
                Seen { has: 0, gone: ids("a b"), none_for: Some(seconds(1)), ..baking.clone() },
                "",
            ),
            (
                "both stay away",
                Seen { has: 0, gone: ids("a b"), none_for: Some(seconds(4)), ..baking },
                "-who tried it has gone: a, b",
            ),
        ] {
            let (sign, words) = match judge(&seen, seconds(5)) {
                Verdict::Wait => ("", String::new()),
                Verdict::Promote(why) => ("+", why),
                Verdict::TakeBack(why) => ("-", why),
            };
            let found = format!("{sign}{words}");
            assert!(found.starts_with(expected) && (expected.is_empty() == found.is_empty()), "{what}: {found}");
        }
    }
}
