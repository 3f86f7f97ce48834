//! Matches that no request ever meets, since another takes the same requests before: told where that is
//! certain and cheap to see. Pure, Cold.
//!
//! A match with more conditions stands before one with fewer, and a longer path before a shorter one, so that
//! only an equal match hides another; and, since expressions come last, a prefix `/` without conditions
//! hides all expressions on its host.

use std::collections::{HashMap, HashSet};

use crate::model::Object;
use crate::model::http_route::Spec;
use crate::problem::{Place, Problems};
use crate::route::{Conditions, PathCondition, Rank, RouteEntry};

/// Warns of each hidden match once, among those that the same requests meet. Routes stand at their `Rank::age`.
pub(crate) fn warn<'e>(
    routes: &[&Object<Spec>],
    met_together: impl Iterator<Item = &'e [RouteEntry]>,
    problems: &mut Problems,
) {
    let everything = Conditions::default();
    let mut told: HashSet<Rank> = HashSet::new();
    for entries in met_together {
        #[allow(
            clippy::mutable_key_type,
            reason = "an expression hashes and compares by its pattern, which never changes"
        )]
        let mut first: HashMap<(Option<&str>, &Conditions), &RouteEntry> = HashMap::new();
        for entry in entries {
            let known = first.entry((entry.host(), entry.conditions())).or_insert(entry);
            *known = if entry.rank() < known.rank() { entry } else { known };
        }
        for entry in entries {
            let same = first.get(&(entry.host(), entry.conditions()));
            let wide = match entry.path() {
                PathCondition::Expression(_) => first.get(&(entry.host(), &everything)),
                PathCondition::Exact(_) | PathCondition::Prefix(_) => None,
            };
            let hides = |winner: &&&RouteEntry| winner.rank() != entry.rank();
            let Some(winner) = same.filter(hides).or(wide) else {
                continue;
            };
            if told.insert(entry.rank()) {
                let (place, field) = written_at(routes, entry.rank());
                let (winner_place, _) = written_at(routes, winner.rank());
                let host = entry.host().map_or_else(|| "any host".to_owned(), |host| host.to_owned());
                let at = problems.name(winner_place);
                let reason =
                    format!("is never met on {host}: rule {}, at {at}, takes its requests before", winner.rule_name());
                problems.warning(place, field, reason, None);
            }
        }
    }
}

fn written_at(routes: &[&Object<Spec>], rank: Rank) -> (Place, String) {
    let Some(route) = routes.get(rank.age as usize) else {
        return (Place::default(), String::new());
    };
    let (rule, condition) = (usize::from(rank.rule), usize::from(rank.condition));
    let Some(written) = route.spec.rules.as_ref().and_then(|rules| rules.get(rule)) else {
        return (route.place, "spec.rules".to_owned());
    };
    match written.matches.as_ref().and_then(|matches| matches.get(condition)) {
        Some(written) => (written.place, format!("spec.rules[{rule}].matches[{condition}]")),
        None => (written.place, format!("spec.rules[{rule}]")),
    }
}
