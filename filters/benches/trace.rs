//! What the trace map costs a request: nanoseconds and allocations, each figure the best of several rounds in one run.
//! `cargo bench -p filters --bench trace`.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use config::snapshot::lanes::TraceHeaders;
use filters::Head;
use filters::lane::trace::{ENTRIES_MAX, Ids, Lane, Lookup, TraceMap, start, start_or_continue};

const ROUNDS: usize = 7;
const CALLS: u64 = 200_000;
const S: u64 = 1_000_000_000;

/// The time and allocations of one call.
fn measure<T>(name: &str, mut call: impl FnMut(u64) -> T) {
    let mut number = 0;
    let mut run = |calls: u64| {
        for _ in 0..calls {
            number += 1;
            black_box(call(number));
        }
    };
    run(CALLS);
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run(CALLS);
            start.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .fold(f64::MAX, f64::min);
    let allocations = allocation_counter::measure(|| run(10_000)).count_total as f64 / 10_000.0;
    println!("{name:<52} {best:>7.1} ns {allocations:>7.3} allocations");
}

/// Numbers that look like dice (SplitMix64).
fn dice(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

fn head() -> Head {
    let mut head = Head::default();
    for (name, value) in [("host", "shop.example"), ("accept", "*/*"), ("x-user", "customer-4711"), ("x-more", "1")] {
        head.add(name, value.as_bytes());
    }
    head
}

/// A request with a trace of its own.
fn traced(number: u64) -> Head {
    let mut head = head();
    start(&mut head, TraceHeaders::default(), || dice(number));
    head
}

fn lane() -> Lane {
    Lane::new("default/shop".into(), "blue".into())
}

/// One request from its begin to its end, with one call of its app.
fn request(map: &TraceMap, ids: &Ids, lane: Option<&Lane>, now_ns: u64) {
    let token = map.enter(ids, lane, now_ns);
    let found = map.find(black_box(ids), 0, now_ns + 1000);
    assert!(matches!(found, Lookup::Lane(_)));
    map.leave(token, now_ns + 2000);
}

/// Ids of requests, each only once while it is kept.
fn all_ids(seed: u64) -> Vec<Ids> {
    (0..CALLS).map(|number| Ids::of(&traced(number + seed))).collect()
}

/// The time of a request while two threads use the map, each on its own processor if there are two.
fn measure_two(name: &str, map: &TraceMap, ids_of: impl Fn(u64) -> Vec<Ids> + Sync) {
    let barrier = Barrier::new(2);
    let took = |thread: u64| {
        let (ids, lane) = (ids_of(thread), lane());
        barrier.wait();
        let start = Instant::now();
        for round in 0..ROUNDS as u64 {
            for (number, ids) in (0..).zip(&ids) {
                request(map, ids, Some(&lane), (round * 100 + 1) * S + number * 500_000);
            }
        }
        start.elapsed().as_nanos() as f64 / (ROUNDS as u64 * ids.len() as u64) as f64
    };
    let slowest = std::thread::scope(|scope| {
        let threads = [0, 1].map(|thread| scope.spawn(move || took(thread)));
        threads.map(|thread| thread.join().expect("it does not panic")).into_iter().fold(0.0, f64::max)
    });
    println!("{name:<52} {slowest:>7.1} ns");
}

fn main() {
    let (plain, with_trace) = (head(), traced(1));
    let mut with_all = traced(1);
    with_all.add("b3", b"463ac35c9f6413ad-b7ad6b7169203331");
    with_all.add("sw8", b"1-VFJBQ0VJRA==-U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=-SVBQT1JU");
    let lane = lane();

    measure("ids, of a head without any", |_| Ids::of(black_box(&plain)));
    measure("ids, traceparent", |_| Ids::of(black_box(&with_trace)));
    measure("ids, traceparent, b3 and sw8", |_| Ids::of(black_box(&with_all)));
    let mut sound = traced(2);
    measure("a trace goes on", |number| start_or_continue(&mut sound, TraceHeaders::default, || dice(number)));
    let mut client = Head::default();
    measure("a client's trace is replaced, its head made anew", |number| {
        client.clear();
        client.receive(b"");
        client.add("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        start(&mut client, TraceHeaders::default(), || dice(number));
    });

    let ids = all_ids(0);
    let at = |number: u64| &ids[(number % CALLS) as usize];
    let small = TraceMap::new(ENTRIES_MAX, 1);
    measure("enter, find and leave, one id, one lane", |number| {
        request(&small, &ids[0], Some(&lane), S + number);
    });
    let busy = TraceMap::new(ENTRIES_MAX, 1);
    measure("enter, find and leave, 1,000 new ids a second", |number| {
        request(&busy, at(number), Some(&lane), S + number * 1_000_000);
    });
    let crowded = TraceMap::new(ENTRIES_MAX, 1);
    measure("enter, find and leave, 3,000 new ids a second", |number| {
        request(&crowded, at(number), Some(&lane), S + number * 333_333);
    });
    println!("    {:?}", crowded.figures());
    measure("find, unknown", |number| crowded.find(at(number * 7), 0, 10_000 * S));
    let full = TraceMap::new(ENTRIES_MAX, 1);
    for ids in &ids {
        let _live = full.enter(ids, Some(&lane), S);
    }
    measure("enter, find and leave, full of live ones", |number| {
        let ids = Ids::of(black_box(&with_trace));
        let token = full.enter(&ids, Some(&lane), S + number);
        black_box(full.find(&ids, 0, S + number));
        full.leave(token, S + number);
    });
    println!("    {} bytes at most", full.bytes_max());

    println!("two threads, one map:");
    measure_two("enter, find and leave, 2,000 new ids a second each", &TraceMap::new(ENTRIES_MAX * 4, 2), |thread| {
        all_ids(thread * CALLS)
    });
    measure_two("enter, find and leave, all the same id", &TraceMap::new(ENTRIES_MAX, 2), |_| {
        vec![Ids::of(&traced(1)); CALLS as usize]
    });
}
