//! What a rule costs a request that it lets go: nanoseconds and allocations, each figure the best of several rounds in
//! one run. `cargo bench -p filters`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::snapshot::HashKey;
use config::snapshot::policy::{
    Abort, Action, BreakerScope, CircuitBreaker, Concurrency, ConcurrencyLimit, Effect, FaultInjection, FaultMatch,
    Key, Mode, OnMissing, Policy, RateLimit, Reply, Scope, Window,
};
use filters::Head;
use filters::rules::{Facts, Outcome, Rule, States, Step, Token, Waiter};

const ROUNDS: usize = 7;
const CALLS: u64 = 400_000;

fn reply() -> Reply {
    Reply { status: 429, body: "".into(), headers: Vec::new() }
}

fn rule(states: &States, name: &str, action: Action) -> Rule {
    let policy = Policy { name: name.into(), state_key: name.into(), mode: Mode::Enforce, action };
    Rule::new(&Arc::new(policy), states)
}

fn rate(windows: usize, by: Vec<Key>, effect: Effect) -> Action {
    let window = Window { requests: 1_000_000_000, per: Duration::from_secs(1), burst: 1_000_000_000 };
    Action::RateLimit(RateLimit {
        windows: vec![window; windows],
        by,
        on_missing: OnMissing::Shared,
        overrides: Vec::new(),
        effect,
        scope: Scope::Local,
        values_max: 1_000_000,
    })
}

/// The time and allocations of one request through a rule, from `on_request` to `on_end`.
fn measure(name: &str, rule: &Rule, head: &Head, mut client: impl FnMut() -> IpAddr) {
    let mut now_ns = 1_000_000_000_000u64;
    let mut run = |calls: u64| {
        for _ in 0..calls {
            now_ns += 1000;
            let waiter = Waiter { worker: 0, task: 1 };
            let facts = Facts {
                now_ns,
                waiter,
                client: client(),
                lane: Some("blue"),
                route: "default/web/0",
                service: "default/web:80",
                caller: None,
            };
            let mut token = Token::default();
            let step = rule.on_request(black_box(head), &facts, &mut || 7 << 60, &mut token, &mut |_| {});
            assert!(matches!(step, Step::Continue), "{name}");
            rule.on_end(now_ns + 500, &mut token, &Outcome::Served { took_ns: 2_000_000 }, &mut |_| {});
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
    println!("{name:<44} {best:>7.1} ns {allocations:>7.3} allocations");
}

/// The time of one request while two threads use the same rule, each on its own processor if there are two.
fn measure_two(name: &str, rule: &Rule, head_of: fn() -> Head) {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..2 {
            scope.spawn(move || {
                let head = head_of();
                for call in 0..4 * CALLS {
                    let facts = Facts {
                        now_ns: 2_000_000_000_000 + call * 1000,
                        waiter: Waiter { worker, task: call },
                        client: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
                        lane: None,
                        route: "",
                        service: "",
                        caller: None,
                    };
                    let mut token = Token::default();
                    black_box(rule.on_request(&head, &facts, &mut || 0, &mut token, &mut |_| {}));
                    rule.on_end(facts.now_ns, &mut token, &Outcome::Served { took_ns: 2_000_000 }, &mut |_| {});
                }
            });
        }
    });
    println!("{name:<44} {:>7.1} ns", start.elapsed().as_nanos() as f64 / (4 * CALLS) as f64);
}

fn head() -> Head {
    let mut head = Head::default();
    for (name, value) in [("host", "shop.example"), ("accept", "*/*"), ("x-user", "customer-4711"), ("x-more", "1")] {
        head.add(name, value.as_bytes());
    }
    head
}

fn main() {
    let states = States::default();
    let head = head();
    let one = || IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let reject = || Effect::Reject(reply());
    let header = || vec![Key::Of(HashKey::Header("x-user".into()))];
    let address = || vec![Key::Of(HashKey::ClientAddress)];

    measure("rate, one window", &rule(&states, "a", rate(1, vec![], reject())), &head, one);
    measure("rate, two windows", &rule(&states, "b", rate(2, vec![], reject())), &head, one);
    measure("rate, by header, one value", &rule(&states, "c", rate(1, header(), reject())), &head, one);
    let by_two = header().into_iter().chain(address()).collect();
    measure("rate, by header and address, two windows", &rule(&states, "d", rate(2, by_two, reject())), &head, one);
    let warm_up = Effect::WarmUp { period: Duration::from_secs(30), cold_factor: 3.0, reply: reply() };
    measure("rate, warm-up", &rule(&states, "e", rate(1, vec![], warm_up)), &head, one);
    let queue = Effect::Queue { wait_max: Duration::from_secs(1), reply: reply() };
    measure("rate, queue, nobody waits", &rule(&states, "f", rate(1, vec![], queue)), &head, one);

    // A limit so slow that no value lapses while this runs: all million are live.
    let mut action = rate(1, address(), reject());
    if let Action::RateLimit(limit) = &mut action {
        limit.windows = vec![Window { requests: 1_000_000, per: Duration::from_secs(1_000_000), burst: 1_000_000 }];
    }
    let million = rule(&states, "g", action);
    let mut next = 0u32;
    let mut all = || {
        next = (next + 1) % 1_000_000;
        // An odd multiplier visits all of them in an order that no prefetcher knows.
        IpAddr::V4(Ipv4Addr::from(next.wrapping_mul(2_654_435_761)))
    };
    let bytes = allocation_counter::measure(|| measure("(first round of a million)", &million, &head, &mut all));
    measure("rate, by address, a million values", &million, &head, &mut all);
    let figures = million.figures();
    println!("    {} values, {} overflowed, {} bytes at most", figures.values, figures.overflowed, bytes.bytes_max);

    let concurrency = |limit| {
        Action::ConcurrencyLimit(ConcurrencyLimit {
            limit,
            queue_max: 128,
            queue_timeout: Duration::from_millis(250),
            reply: reply(),
        })
    };
    measure("concurrency, fixed", &rule(&states, "h", concurrency(Concurrency::Fixed(64))), &head, one);
    let adaptive = Concurrency::Adaptive { min: 4, max: 1024 };
    measure("concurrency, adaptive", &rule(&states, "i", concurrency(adaptive)), &head, one);

    let breaker = Action::CircuitBreaker(CircuitBreaker {
        per: BreakerScope::Service,
        slow_calls: Some((Duration::from_millis(200), 0.5)),
        error_ratio: Some(0.3),
        error_count: None,
        window: Duration::from_secs(10),
        calls_min: 20,
        open_for: Duration::from_secs(5),
        probes: 5,
        fallback: reply(),
    });
    measure("breaker, closed", &rule(&states, "j", breaker.clone()), &head, one);
    let fault = Action::FaultInjection(FaultInjection {
        matches: vec![FaultMatch { headers: vec![("x-user".into(), "customer-4711".into())], lanes: Vec::new() }],
        delay: None,
        abort: Some(Abort { reply: reply(), share: 0.01 }),
    });
    measure("fault, one header matches", &rule(&states, "k", fault), &head, one);

    println!("two threads, one rule:");
    measure_two("rate, one window", &rule(&states, "l", rate(1, vec![], reject())), self::head);
    measure_two("rate, two windows", &rule(&states, "m", rate(2, vec![], reject())), self::head);
    measure_two("rate, by header, one value", &rule(&states, "n", rate(1, header(), reject())), self::head);
    measure_two("concurrency, fixed", &rule(&states, "o", concurrency(Concurrency::Fixed(64))), self::head);
    measure_two("concurrency, adaptive", &rule(&states, "p", concurrency(adaptive)), self::head);
    measure_two("breaker, closed", &rule(&states, "q", breaker), self::head);
}
