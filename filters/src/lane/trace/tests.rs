//! The trace map: its rules as a table, its bounds, and every interleaving of a few steps.

mod simulation;

use super::table::KEPT_NS;
use super::*;
use crate::rules::tests::{Dice, MS, S};

/// The lane that a row calls `blue`, or `other.blue` of another group; `-` is the baseline.
fn lane(text: &str) -> Option<Lane> {
    let (group, name) = text.split_once('.').unwrap_or(("g", text));
    (text != "-").then(|| Lane::new(format!("default/{group}").into(), name.into()))
}

fn told(lookup: &Lookup) -> String {
    match lookup {
        Lookup::Lane(None) => "-".to_owned(),
        Lookup::Lane(Some(lane)) if lane.group() == "default/g" => lane.name().to_owned(),
        Lookup::Lane(Some(lane)) => format!("{}.{}", lane.group().trim_start_matches("default/"), lane.name()),
        Lookup::Ambiguous => "ambiguous".to_owned(),
        Lookup::Unknown => "unknown".to_owned(),
    }
}

/// Each letter is an id.
fn ids(letters: &str) -> Ids {
    let mut ids = Ids::default();
    letters.bytes().for_each(|letter| ids.add(u128::from(letter)));
    ids
}

/// Plays a script on a map, and tells what was found. `1+xy:blue`: request 1 with the ids x and y begins in lane blue.
/// `1.`: it ends. `x?`: a call with that id. `@30.5`: it is so many seconds.
fn play(map: &TraceMap, script: &str) -> String {
    let (mut now_ns, mut found, mut live) = (0, Vec::new(), std::collections::HashMap::new());
    for step in script.split_whitespace() {
        if let Some(seconds) = step.strip_prefix('@') {
            now_ns = (seconds.parse::<f64>().expect("seconds") * 1e9) as u64;
        } else if let Some(letters) = step.strip_suffix('?') {
            let peeked = map.peek(&ids(letters), now_ns);
            found.push(told(&map.find(&ids(letters), 0, now_ns)));
            assert_eq!(Some(told(&peeked)).as_ref(), found.last(), "{script}");
        } else if let Some(request) = step.strip_suffix('.') {
            map.leave(live.remove(request).expect("a live request"), now_ns);
        } else {
            let (request, begins) = step.split_once('+').expect("a step");
            let (letters, name) = begins.split_once(':').expect("ids and a lane");
            live.insert(request, map.enter(&ids(letters), lane(name).as_ref(), now_ns));
        }
    }
    found.join(" ")
}

fn check(script: &str, expected: &str) {
    assert_eq!(play(&TraceMap::new(100, 1), script), expected, "{script}");
}

#[test]
fn a_request_keeps_its_lane_by_its_id() {
    check("x?", "unknown");
    check("1+x:blue x? y?", "blue unknown");
    check("1+x:- x?", "-");
    check("1+x:blue 2+y:- 3+z:green x? y? z?", "blue - green");
    // As long as it is live, and 30 s.
    check("1+x:blue @100000 x? 1. x? @100029.999 x? @100030 x?", "blue blue blue unknown");
    check("1+x:- 1. @29 x? @30 x?", "- unknown");
    // From the last of its requests on.
    check("1+x:blue 2+x:blue 1. @31 x? 2. @60.9 x? @61 x?", "blue blue unknown");
    check("1+x:blue 1. @20 2+x:blue @40 x? 2. @69 x? @70 x?", "blue blue unknown");
    // After that it is a new one, in whichever lane.
    check("1+x:blue 1. @30 2+x:- x? 2. @60 3+x:green x?", "- green");
    // Others go before it and after it in the order of the ends.
    check("1+x:blue 2+y:blue 3+z:blue 2. 1. 3. @1 4+x:blue @30 5+w:- x? y? z? 4. @59 x? @60 x?", {
        "blue unknown unknown blue unknown"
    });
}

#[test]
fn an_id_of_two_lanes_is_not_used() {
    check("1+x:blue 2+x:green x?", "ambiguous");
    check("1+x:blue 2+x:- x?", "ambiguous");
    check("1+x:- 2+x:blue x?", "ambiguous");
    check("1+x:blue 2+x:other.blue x?", "ambiguous");
    // Whoever ends, it stays so.
    check("1+x:blue 2+x:- 1. x? 2. x?", "ambiguous ambiguous");
    check("1+x:blue 2+x:- 2. x? @31 x? 1. @61 x?", "ambiguous ambiguous unknown");
    check("1+x:blue 2+x:- 1. 2. @29 x? 3+x:blue 3. @58 x? @59 x?", "ambiguous ambiguous unknown");
    check("1+x:blue 2+x:- 1. 2. @30 3+x:blue x?", "blue");
    // One that has ended may do things in the background.
    check("1+x:blue 1. @29.9 2+x:- x? 2. @59.8 x?", "ambiguous ambiguous");
    // What was found before was right then.
    check("1+x:blue x? 2+x:green x? 3+x:blue x?", "blue ambiguous ambiguous");
    // Nobody else is concerned.
    check("1+x:blue 2+y:- 3+x:- x? y?", "ambiguous -");
}

#[test]
fn several_ids_must_agree() {
    check("1+xy:blue x? y? xy? yz? zw?", "blue blue blue blue unknown");
    check("1+x:blue 2+y:blue xy?", "blue");
    check("1+x:blue 2+y:- xy? yx?", "ambiguous ambiguous");
    check("1+xz:blue 2+yz:- x? y? z? xz? yz? zw?", "blue - ambiguous ambiguous ambiguous ambiguous");
    check("1+xy:blue 1. @20 2+y:blue @30 x? y? xy?", "unknown blue blue");
    check("1+xxyx:blue 1. @30 x? y?", "unknown unknown");
    check("1+abcdef:blue d? e?", "blue unknown");
}

#[test]
fn a_full_map_turns_newcomers_away_and_lends_no_lanes() {
    let check = |max, script, expected| assert_eq!(play(&TraceMap::new(max, 1), script), expected, "{max}: {script}");
    // All ids share one cell where there is one entry: whoever has no room makes all others doubtful.
    check(1, "1+x:blue 2+y:green x? y?", "blue ambiguous");
    check(1, "1+x:blue 2+x:blue x? 1. 2. 3+y:green x? y?", "blue blue ambiguous");
    check(0, "1+x:blue 2+y:blue x? y?", "ambiguous ambiguous");
    // What has ended makes room, and nothing that is live.
    check(2, "1+x:blue 2+y:blue 2. @30 3+z:- x? y? z?", "blue unknown -");
    check(1, "1+x:blue 1. @29 2+y:green x? @30 3+z:- x? z?", "blue ambiguous ambiguous");
    // Somebody in blue was turned away, and somebody in another lane has the same id.
    check(1, "1+w:blue 1. 2+x:blue @30 3+x:- x?", "ambiguous");
    check(1, "1+w:blue 1. 2+x:blue 2. @30 3+x:- x?", "-");
    check(1, "1+w:blue 1. @0.5 2+x:blue 2. @30.4 3+x:- x? 3. @61 4+x:- x?", "ambiguous -");
    check(1, "1+w:blue 1. 2+x:- 3+x:blue @30 2. @59 4+x:green x?", "ambiguous");
    check(1, "1+w:blue 1. 2+x:- 3+x:blue @30 2. 3. @60 4+x:green x?", "green");
    // One id has room and the other has not.
    check(1, "1+xy:blue x? y? xy? 1. @30 2+y:- x? y?", "blue ambiguous ambiguous unknown -");
    check(
        1,
        "1+xy:blue 1. @29.5 2+y:- x? y? 2. @59.5 3+y:green y? 3. @90 4+y:green y?",
        "blue ambiguous ambiguous green",
    );
}

#[test]
fn what_happens_is_counted_once_for_a_request() {
    let map = TraceMap::new(3, 1);
    let check = |script: &str, expected: Figures| {
        play(&map, script);
        assert_eq!(map.figures(), expected, "{script}");
    };
    let figures = Figures { entries: 2, remembered: 3, ..Figures::default() };
    check("1+x:blue 2+x:blue 3+y:- 1. 2. 3.", figures);
    let figures = Figures { found: 2, unknown: 1, without_id: 2, ..figures };
    check("x? y? z? ? ?", figures);
    let figures = Figures { ambiguous: 2, unused: 1, ..figures };
    check("4+xy:green 5+x:blue x? 4. 5.", figures);
    let figures = Figures { entries: 3, refused: 2, remembered: 4, ..figures };
    check("6+z:- 7+w:- 8+uv:- 6. 7. 8.", figures);
    // One is forgotten by the way.
    let figures = Figures { entries: 2, expired: 2, remembered: 5, ..figures };
    check("@90 a+1:- a.", figures);
    map.sweep(KEPT_NS * 3);
    let figures = Figures { entries: 1, expired: 3, ..figures };
    assert_eq!(map.figures(), figures);
    map.sweep(KEPT_NS * 4);
    assert_eq!(map.figures(), Figures { entries: 0, expired: 4, ..figures });
}

#[test]
fn lanes_are_found_again_in_any_configuration() {
    let group = |name: &str, lanes: &[&str]| crate::lane::tests::group_of("default", name, lanes);
    let groups = [group("g", &["name: a", "name: blue"]), group("h", &["name: c"])];
    let place = |text| lane(text).expect("no baseline").place(&groups);
    assert_eq!(place("blue"), Some((0, 1)));
    assert_eq!(place("h.c"), Some((1, 0)));
    assert_eq!((place("c"), place("gone"), place("other.blue")), (None, None, None));
    assert_eq!(lane("blue"), lane("blue"));
    assert_ne!(lane("blue"), lane("other.blue"));
}

#[test]
fn memory_is_bounded_and_nothing_is_allocated_once_warm() {
    let map = TraceMap::new(ENTRIES_MAX, 1);
    assert!(map.bytes_max() <= 7_200_000, "{}", map.bytes_max());
    assert!(size_of::<Token>() <= 40 && size_of::<Ids>() <= 80);
    let mut tokens = Vec::with_capacity(2 * ENTRIES_MAX);
    let mut dice = Dice(1);
    let lane = lane("blue");
    let one = |id: u64| {
        let mut ids = Ids::default();
        ids.add(u128::from(id));
        ids
    };
    let measured = allocation_counter::measure(|| {
        for _ in 0..2 * ENTRIES_MAX {
            tokens.push(map.enter(&one(dice.roll()), lane.as_ref(), 0));
        }
    });
    // A table that grows is there twice for a moment.
    assert!(measured.bytes_max as usize <= map.bytes_max() * 102 / 100, "{} bytes", measured.bytes_max);
    let Figures { entries, remembered, refused, .. } = map.figures();
    assert!((ENTRIES_MAX as u64 * 999 / 1000..=ENTRIES_MAX as u64).contains(&entries), "{entries} entries");
    assert_eq!((remembered, refused), (entries, 2 * ENTRIES_MAX as u64 - entries));
    for token in tokens {
        map.leave(token, 1);
    }
    let measured = allocation_counter::measure(|| {
        for round in 0..ENTRIES_MAX as u64 {
            let (ids, now_ns) = (one(dice.roll()), 2 * KEPT_NS + round * MS);
            let token = map.enter(&ids, lane.as_ref(), now_ns);
            assert_eq!(map.find(&ids, 0, now_ns), Lookup::Lane(lane.clone()));
            map.leave(token, now_ns);
        }
    });
    assert_eq!(measured.count_total, 0);
    // Thirty seconds of one each millisecond, and what nobody came by to forget.
    assert!((30_000..30_300).contains(&map.figures().entries), "{:?}", map.figures());
}

#[test]
fn the_first_requests_find_no_shard_full() {
    // By a normal distribution no shard of 1562 has more than 5 deviations above the mean of 1359.
    let map = TraceMap::new(ENTRIES_MAX, 1);
    let mut dice = Dice(2);
    for _ in 0..ENTRIES_MAX * 87 / 100 {
        let mut ids = Ids::default();
        ids.add(u128::from(dice.roll()) << 64 | 1);
        let _live = map.enter(&ids, None, 0);
    }
    assert_eq!(map.figures().refused, 0);
}

#[test]
fn a_map_that_is_too_small_serves_those_it_has_room_for() {
    // Requests a second, where there is room for 3,333, and how many of a hundred are remembered: those with room, less
    // those that may have the id of one without.
    for (rate, expected) in [(3000, 100..=100), (4000, 65..=75), (5000, 40..=50), (10_000, 5..=10)] {
        let map = TraceMap::new(ENTRIES_MAX, 1);
        let mut dice = Dice(rate);
        let mut before = Figures::default();
        for request in 0..rate * 90 {
            if request == rate * 60 {
                before = map.figures();
            }
            let mut ids = Ids::default();
            ids.add(u128::from(dice.roll()));
            let now_ns = request * S / rate;
            map.leave(map.enter(&ids, None, now_ns), now_ns + MS);
        }
        let part = (map.figures().remembered - before.remembered) * 100 / (rate * 30);
        assert!(expected.contains(&part), "{part} % of {rate}");
    }
}
