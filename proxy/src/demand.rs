//! Which endpoints a proxy wants to be told: all that its rules name while those are few, else those that requests have
//! used, until they are not used any more. Pure, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Looks without a use in between after which endpoints are given up.
const LOOKS_UNUSED_MAX: u32 = 10;

/// What is wanted and why.
#[derive(Debug)]
pub(crate) struct Demand {
    /// As many are wanted without having been used.
    preload_max: usize,
    needed: BTreeSet<Arc<str>>,
    /// Wanted; how many looks ago each was used.
    wanted: BTreeMap<Arc<str>, u32>,
}

/// What control is to be asked for, and what not any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) want: Vec<Arc<str>>,
    pub(crate) forget: Vec<Arc<str>>,
}

impl Demand {
    /// Of a proxy that has these already, since it used them before it ended.
    pub(crate) fn new(preload_max: usize, used: impl IntoIterator<Item = Arc<str>>) -> Demand {
        let wanted = used.into_iter().map(|resource| (resource, 0)).collect();
        Demand { preload_max, needed: BTreeSet::new(), wanted }
    }

    /// The rules in force name these. `are_all_used`: something weighs the endpoints of all of them against each other.
    pub(crate) fn need(&mut self, resources: BTreeSet<Arc<str>>, are_all_used: bool) -> Orders {
        self.needed = resources;
        let mut orders = Orders::default();
        let needed = &self.needed;
        self.wanted.retain(|resource, _| {
            let stays = needed.contains(resource);
            if !stays {
                orders.forget.push(resource.clone());
            }
            stays
        });
        if are_all_used || self.is_preloaded() {
            let new = self.needed.iter().filter(|resource| !self.wanted.contains_key(*resource));
            orders.want.extend(new.cloned());
            self.wanted.extend(orders.want.iter().map(|resource| (resource.clone(), 0)));
        }
        orders
    }

    /// A request waits for these; None: no rule names them any more, or they are on their way.
    pub(crate) fn use_now(&mut self, resource: &Arc<str>) -> Option<Arc<str>> {
        let is_new = self.needed.contains(resource) && self.wanted.insert(resource.clone(), 0).is_none();
        is_new.then(|| resource.clone())
    }

    /// Looks at what was used since the last look.
    pub(crate) fn look(&mut self, are_all_used: bool, is_used: impl Fn(&str) -> bool) -> Orders {
        let mut orders = Orders::default();
        if are_all_used || self.is_preloaded() {
            return orders;
        }
        self.wanted.retain(|resource, looks| {
            *looks = if is_used(resource) { 0 } else { *looks + 1 };
            if *looks > LOOKS_UNUSED_MAX {
                orders.forget.push(resource.clone());
            }
            *looks <= LOOKS_UNUSED_MAX
        });
        orders
    }

    fn is_preloaded(&self) -> bool {
        self.needed.len() <= self.preload_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> BTreeSet<Arc<str>> {
        text.split_whitespace().map(Arc::from).collect()
    }

    fn shown(orders: Orders) -> String {
        let want = orders.want.iter().map(|resource| format!("+{resource}"));
        let forget = orders.forget.iter().map(|resource| format!("-{resource}"));
        want.chain(forget).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn few_are_wanted_at_once_and_many_when_they_are_used() {
        let mut demand = Demand::new(2, names("old"));
        assert_eq!(shown(demand.need(names("a b"), false)), "+a +b -old");
        assert_eq!(shown(demand.need(names("b c"), false)), "+c -a");
        // Too many: what is there stays, what is new waits for a request.
        assert_eq!(shown(demand.need(names("b c d"), false)), "");
        assert_eq!(demand.use_now(&"d".into()).as_deref(), Some("d"));
        assert_eq!(demand.use_now(&"d".into()), None, "it is on its way");
        assert_eq!(demand.use_now(&"e".into()), None, "no rule names it");
        assert_eq!(shown(demand.need(names("b c d e"), true)), "+e");
    }

    #[test]
    fn what_is_not_used_is_given_up() {
        let mut demand = Demand::new(0, []);
        demand.need(names("a b"), false);
        for resource in ["a", "b"] {
            demand.use_now(&resource.into());
        }
        for look in 0..=LOOKS_UNUSED_MAX {
            let expected = if look == LOOKS_UNUSED_MAX { "-b" } else { "" };
            assert_eq!(shown(demand.look(false, |resource| resource == "a")), expected, "look {look}");
        }
        assert_eq!(demand.use_now(&"b".into()).as_deref(), Some("b"), "and asked for anew");
        for _ in 0..2 * LOOKS_UNUSED_MAX {
            assert_eq!(shown(demand.look(true, |_| false)), "", "all are weighed");
        }
    }
}
