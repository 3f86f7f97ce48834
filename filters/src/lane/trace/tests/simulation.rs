//! The map against a list of facts: every interleaving of a few steps, many random ones, and two threads at once.
//! Whatever happens, a call never gets another lane than that of any request it can have been made for.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;

/// A request, as somebody who forgets nothing saw it.
#[derive(Debug, Clone)]
struct Fact {
    ids: Ids,
    lane: Option<Lane>,
    entered_ns: u64,
    left_ns: Option<u64>,
}

impl Fact {
    /// When nothing is known of it any more.
    fn end_ns(&self) -> u64 {
        self.left_ns.map_or(u64::MAX, |left_ns| left_ns + KEPT_NS)
    }
}

/// A map, and the facts beside it.
struct World {
    map: TraceMap,
    now_ns: u64,
    facts: Vec<Fact>,
    live: Vec<(usize, Token)>,
}

impl World {
    fn new(entries_max: usize) -> World {
        World { map: TraceMap::new(entries_max, 1), now_ns: 0, facts: Vec::new(), live: Vec::new() }
    }

    fn enter(&mut self, ids: Ids, lane: Option<Lane>) {
        let token = self.map.enter(&ids, lane.as_ref(), self.now_ns);
        self.live.push((self.facts.len(), token));
        self.facts.push(Fact { ids, lane, entered_ns: self.now_ns, left_ns: None });
    }

    fn leave(&mut self, index: usize) {
        let (fact, token) = self.live.remove(index);
        self.map.leave(token, self.now_ns);
        self.facts[fact].left_ns = Some(self.now_ns);
    }

    /// What a map without bounds says of an id: by the requests since it was last forgotten.
    fn expected_of(&self, id: u128) -> Lookup {
        let mut lanes: Vec<&Option<Lane>> = Vec::new();
        let mut end_ns = 0;
        for fact in self.facts.iter().filter(|fact| fact.ids.as_slice().contains(&id)) {
            if end_ns <= fact.entered_ns {
                lanes.clear();
            }
            lanes.push(&fact.lane);
            end_ns = end_ns.max(fact.end_ns());
        }
        match lanes.first() {
            Some(first) if end_ns > self.now_ns => match lanes.iter().all(|lane| lane == first) {
                true => Lookup::Lane((*first).clone()),
                false => Lookup::Ambiguous,
            },
            _ => Lookup::Unknown,
        }
    }

    fn expected(&self, ids: &Ids) -> Lookup {
        let said: Vec<Lookup> = ids.as_slice().iter().map(|id| self.expected_of(*id)).collect();
        let mut known = said.iter().filter(|one| **one != Lookup::Unknown);
        let Some(first) = known.next() else { return Lookup::Unknown };
        if known.all(|one| one == first) { first.clone() } else { Lookup::Ambiguous }
    }

    /// Whether what was found is the lane of every request that may make calls with one of these ids.
    fn check_safe(&self, ids: &Ids, found: &Lookup, context: &dyn std::fmt::Debug) {
        let Lookup::Lane(found) = found else { return };
        for fact in self.facts.iter().filter(|fact| fact.end_ns() > self.now_ns) {
            let is_meant = ids.as_slice().iter().any(|id| fact.ids.as_slice().contains(id));
            assert!(!is_meant || fact.lane == *found, "{found:?} for {fact:?} at {}: {context:?}", self.now_ns);
        }
    }

    /// What is found, as it should be: exactly so if there is room for all.
    fn find(&self, ids: &Ids, is_roomy: bool, context: &dyn std::fmt::Debug) -> Lookup {
        let found = self.map.find(ids, 0, self.now_ns);
        self.check_safe(ids, &found, context);
        if is_roomy {
            assert_eq!(found, self.expected(ids), "{ids:?} at {}: {context:?}", self.now_ns);
        }
        found
    }
}

#[test]
fn every_interleaving_of_six_steps() {
    let lanes = [lane("-"), lane("blue")];
    let calls = [ids("x"), ids("y"), ids("xy")];
    for (entries_max, is_roomy) in [(100, true), (1, false)] {
        let mut steps = [0; 6];
        loop {
            let mut world = World::new(entries_max);
            for (place, step) in steps.iter().enumerate() {
                match step {
                    0 | 1 => world.enter(ids("x"), lanes[*step].clone()),
                    2 => world.enter(ids("xy"), lanes[0].clone()),
                    3 => world.enter(ids("y"), lanes[1].clone()),
                    4 if !world.live.is_empty() => world.leave(0),
                    5 if world.live.len() > 1 => world.leave(world.live.len() - 1),
                    6 => world.now_ns += 15 * S,
                    _ => {}
                }
                for call in &calls {
                    world.find(call, is_roomy, &(entries_max, &steps[..=place]));
                }
            }
            let Some(next) = steps.iter().position(|step| *step < 6) else { break };
            steps[next] += 1;
            steps[..next].fill(0);
        }
    }
}

#[test]
fn random_requests_are_never_in_a_wrong_lane() {
    let lanes = [lane("-"), lane("blue"), lane("green"), lane("other.blue")];
    let mut totals = Figures::default();
    for seed in 0..60 {
        // Maps with room for all, with much too little, and in between; ids that return often or rarely.
        let entries_max = [1000, 3, 12][seed as usize % 3];
        let letters = [8, 40][seed as usize / 3 % 2];
        let mut dice = Dice(seed);
        let mut world = World::new(entries_max);
        for step in 0..1500 {
            let context = (seed, step);
            let mut some = |most: u64| {
                let mut ids = Ids::default();
                (0..dice.roll() % most + 1).for_each(|_| ids.add(u128::from(dice.roll() % letters + 1)));
                ids
            };
            let (entering, calling) = (some(2), some(3));
            match dice.roll() % 4 {
                // Most ids keep to a lane, as those of proper traces do.
                0 => {
                    let lane = match dice.roll() % 8 {
                        0 => dice.roll(),
                        _ => entering.as_slice()[0] as u64,
                    };
                    world.enter(entering, lanes[lane as usize % lanes.len()].clone());
                }
                1 | 2 if !world.live.is_empty() => world.leave(dice.roll() as usize % world.live.len()),
                _ => world.now_ns += dice.exponential(3e9) as u64,
            }
            world.find(&calling, entries_max == 1000, &context);
            if step % 50 == 0 {
                for id in 1..=letters {
                    world.find(
                        &{
                            let mut ids = Ids::default();
                            ids.add(u128::from(id));
                            ids
                        },
                        entries_max == 1000,
                        &context,
                    );
                }
                world.map.sweep(world.now_ns);
                assert!(world.map.figures().entries <= entries_max as u64);
            }
            // What is over for long is of no use to anybody; the facts of one id stay together.
            if step % 100 == 0 && world.facts.iter().all(|fact| fact.end_ns() <= world.now_ns) {
                world.facts.clear();
            }
        }
        let figures = world.map.figures();
        totals.found += figures.found;
        totals.ambiguous += figures.ambiguous;
        totals.refused += figures.refused;
        totals.expired += figures.expired;
        while !world.live.is_empty() {
            world.leave(0);
        }
        world.map.sweep(world.now_ns + KEPT_NS);
        assert_eq!(world.map.figures().entries, 0, "seed {seed}");
    }
    let Figures { found, ambiguous, refused, expired, .. } = totals;
    assert!(found.min(ambiguous).min(refused).min(expired) > 1000, "all of it happened: {totals:?}");
}

#[test]
fn threads_that_share_ids_find_no_other_lane() {
    for entries_max in [64, 4] {
        let (map, clock) = (TraceMap::new(entries_max, 2), AtomicU64::new(0));
        let found = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (map, clock, found) = (&map, &clock, &found);
                scope.spawn(move || {
                    let mut dice = Dice(thread);
                    let lanes = [lane("-"), lane("blue")];
                    for _ in 0..100_000 {
                        let mut now_ns = || clock.fetch_add(dice.roll() % (8 * S), SeqCst);
                        let (entered_ns, found_ns, left_ns) = (now_ns(), now_ns(), now_ns());
                        let mut ids = Ids::default();
                        ids.add(u128::from(dice.roll() % 12 + 1));
                        let lane = &lanes[usize::from(dice.roll().is_multiple_of(8))];
                        let token = map.enter(&ids, lane.as_ref(), entered_ns);
                        if let Lookup::Lane(told) = map.find(&ids, 0, found_ns) {
                            assert_eq!(told, *lane);
                            found.fetch_add(1, SeqCst);
                        }
                        map.leave(token, left_ns);
                    }
                });
            }
        });
        assert!(found.into_inner() > 1000);
    }
}
