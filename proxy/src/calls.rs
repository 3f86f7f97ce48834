//! Which Services a sidecar is told of beside its own: those that its instance calls, for as long as it does, and for a
//! moment those that are not there. However many names an instance asks for, so many are known at most. Machine, Cold.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::demand::Orders;

/// Names that are wanted at the same time.
const NAMES_MAX: usize = 1_000;
/// For so long it is known that there is no such Service.
const ABSENT_KEPT: Duration = Duration::from_secs(5);
/// Nobody waits longer for an answer.
const ASKED_KEPT: Duration = Duration::from_secs(1);
/// From one new name to the next, on the average, and how far names may be ahead of that: each makes control hear four
/// messages, of which it takes only so many.
const NEW_EVERY: Duration = Duration::from_millis(5);
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Looks without a use in between after which a Service is given up.
const LOOKS_UNUSED_MAX: u32 = 10;

/// What is known of a name that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing so far, since then.
    Asked(Duration),
    /// It is there; so many looks ago it was used.
    There(u32),
    /// There is no such Service, until it is asked for anew after this.
    Absent(Duration),
}

/// The names that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    names: BTreeMap<Arc<str>, State>,
    /// When the next new name would come, if they came at equal distances.
    due: Duration,
    /// Services that were there and were given up, and when: control confirms that, which says nothing of whether they are
    /// there.
    given_up: BTreeMap<Arc<str>, Duration>,
}

impl Calls {
    /// Of a proxy that had these already before it ended.
    pub(crate) fn new(known: impl IntoIterator<Item = Arc<str>>) -> Calls {
        let names = known.into_iter().map(|name| (name, State::There(0))).take(NAMES_MAX).collect();
        Calls { names, ..Calls::default() }
    }

    /// A call waits for this.
    pub(crate) fn use_now(&mut self, name: &Arc<str>, now: Duration) -> Orders {
        let mut orders = Orders::default();
        // Who asks in vain may ask again.
        if self.names.contains_key(name) || self.due > now + AHEAD_MAX {
            return orders;
        }
        if self.names.len() >= NAMES_MAX {
            let Some(other) = self.least_needed(now) else { return orders };
            if let Some(State::There(_)) = self.names.remove(&other) {
                self.given_up.insert(other.clone(), now);
            }
            orders.forget.push(other);
        }
        self.due = self.due.max(now) + NEW_EVERY;
        self.names.insert(name.clone(), State::Asked(now));
        orders.want.push(name.clone());
        orders
    }

    /// Control has said whether there is such a Service. What is not wanted any more is nobody's.
    pub(crate) fn hear(&mut self, name: &str, is_there: bool, now: Duration) {
        if self.given_up.remove(name).is_some() && !is_there {
            return;
        }
        let Some(state) = self.names.get_mut(name) else { return };
        *state = match (*state, is_there) {
            (State::There(looks), true) => State::There(looks),
            (_, true) => State::There(0),
            (_, false) => State::Absent(now + ABSENT_KEPT),
        };
    }

    /// Told from time to time: gives up what is not there.
    pub(crate) fn tick(&mut self, now: Duration) -> Orders {
        self.given_up.retain(|_, since| now < *since + ASKED_KEPT);
        self.give_up(|state| matches!(state, State::Absent(until) if now >= *until))
    }

    /// Looks at what was used since the last look.
    pub(crate) fn look(&mut self, is_used: impl Fn(&str) -> bool, now: Duration) -> Orders {
        for (name, state) in &mut self.names {
            if let State::There(looks) = state {
                *looks = if is_used(name) { 0 } else { *looks + 1 };
            }
        }
        let orders = self.give_up(|state| matches!(state, State::There(looks) if *looks > LOOKS_UNUSED_MAX));
        self.given_up.extend(orders.forget.iter().map(|name| (name.clone(), now)));
        orders
    }

    /// Those that are known not to be there.
    pub(crate) fn absent(&self) -> HashSet<Arc<str>> {
        let absent = self.names.iter().filter(|(_, state)| matches!(state, State::Absent(_)));
        absent.map(|(name, _)| name.clone()).collect()
    }

    fn give_up(&mut self, is_done: impl Fn(&State) -> bool) -> Orders {
        let forget: Vec<Arc<str>> =
            self.names.extract_if(.., |_, state| is_done(state)).map(|(name, _)| name).collect();
        Orders { want: Vec::new(), forget }
    }

    /// What makes room: what is not there, what nobody waits for any more, what has not been used for the longest time.
    fn least_needed(&self, now: Duration) -> Option<Arc<str>> {
        let need = |state: &State| match state {
            State::Absent(until) => Some((0, *until)),
            State::Asked(since) if now >= *since + ASKED_KEPT => Some((1, *since)),
            State::There(looks @ 1..) => Some((2, Duration::from_secs(u64::from(u32::MAX - looks)))),
            State::Asked(_) | State::There(_) => None,
        };
        let needs = self.names.iter().filter_map(|(name, state)| Some((need(state)?, name)));
        needs.min().map(|(_, name)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn shown(orders: Orders) -> String {
        let want = orders.want.iter().map(|name| format!("+{name}"));
        let forget = orders.forget.iter().map(|name| format!("-{name}"));
        want.chain(forget).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_service_is_asked_for_once_and_absence_is_known_for_a_while() {
        let mut calls = Calls::new(["old".into()]);
        assert_eq!(shown(calls.use_now(&"old".into(), MS(0))), "", "it was there before");
        assert_eq!(shown(calls.use_now(&"a".into(), MS(0))), "+a");
        assert_eq!(shown(calls.use_now(&"a".into(), MS(1))), "", "it is on its way");
        calls.hear("a", false, MS(10));
        calls.hear("nobody's", false, MS(10));
        assert_eq!(calls.absent().into_iter().collect::<Vec<_>>(), ["a".into()]);
        assert_eq!(shown(calls.use_now(&"a".into(), MS(20))), "");
        assert_eq!(shown(calls.tick(MS(5_009))), "");
        assert_eq!(shown(calls.tick(MS(5_010))), "-a");
        assert_eq!(shown(calls.use_now(&"a".into(), MS(5_011))), "+a", "and asked for anew");
        calls.hear("a", false, MS(5_020));
        // It was made meanwhile: whoever is subscribed hears of it.
        calls.hear("a", true, MS(5_030));
        assert!(calls.absent().is_empty());
        assert_eq!(shown(calls.tick(MS(60_000))), "");
    }

    #[test]
    fn what_is_not_called_is_given_up() {
        let mut calls = Calls::new(["a".into(), "b".into()]);
        for look in 0..=LOOKS_UNUSED_MAX {
            let expected = if look == LOOKS_UNUSED_MAX { "-b" } else { "" };
            assert_eq!(shown(calls.look(|name| name == "a", MS(0))), expected, "look {look}");
        }
        // It is called again before control has confirmed that it was given up: that is no answer to this.
        assert_eq!(shown(calls.use_now(&"b".into(), MS(1))), "+b");
        calls.hear("b", false, MS(2));
        assert!(calls.absent().is_empty());
        calls.hear("b", true, MS(3));
        calls.hear("b", false, MS(4));
        assert_eq!(calls.absent().len(), 1, "it was removed");
    }

    #[test]
    fn so_many_names_and_no_more() {
        let name = |number: usize| Arc::<str>::from(format!("s{number:04}"));
        let mut calls = Calls::default();
        for number in 0..NAMES_MAX {
            calls.use_now(&name(number), MS(0));
            calls.hear(&name(number), number > 1, MS(number as u64));
        }
        // What is not there goes first, then nothing: all others were used since the last look.
        assert_eq!(shown(calls.use_now(&name(5_000), MS(2_000))), "+s5000 -s0000");
        assert_eq!(shown(calls.use_now(&name(5_001), MS(2_000))), "+s5001 -s0001");
        assert_eq!(shown(calls.use_now(&name(5_002), MS(2_000))), "");
        // Nobody waits for an answer that long.
        assert_eq!(shown(calls.use_now(&name(5_003), MS(3_000))), "+s5003 -s5000");
        calls.look(|name| name != "s0007" && name != "s0008", MS(3_000));
        calls.look(|name| name != "s0008", MS(3_000));
        assert_eq!(shown(calls.use_now(&name(5_004), MS(3_000))), "+s5004 -s5001");
        assert_eq!(shown(calls.use_now(&name(5_005), MS(3_000))), "+s5005 -s0008");
        assert_eq!(calls.names.len(), NAMES_MAX);
    }

    #[test]
    fn new_names_come_at_a_pace() {
        let mut calls = Calls::default();
        let mut asked = |now: u64| {
            let new = |number: usize| {
                let orders = calls.use_now(&format!("{now} {number}").into(), MS(now));
                orders.want.iter().for_each(|name| calls.hear(name, false, MS(now)));
                orders.want.len()
            };
            (0..2_000).map(new).sum::<usize>()
        };
        assert_eq!([asked(0), asked(1_000), asked(60_000)], [1_001, 200, 1_001]);
    }
}
