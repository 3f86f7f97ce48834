//! A service of so many slots with a queue of its own, a limit before it, and clients that come at random: event by
//! event, in simulated time, the same for the same seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use config::snapshot::policy::{Action, Concurrency, ConcurrencyLimit, Mode};

use crate::Head;
use crate::rules::tests::{Dice, MS, S, facts, policy, reply};
use crate::rules::{Facts, Outcome, Rule, States, Step, Ticket, Token, Waiter};

/// How long the service works on one request, in milliseconds.
type Work = fn(&mut Dice, second: f64) -> f64;

/// What is simulated.
struct World {
    slots: usize,
    /// Requests a second, at random.
    offered: f64,
    /// If not 0: in place of that so many clients, each with one request after the other.
    clients: usize,
    work: Work,
    seconds: u64,
    queue: u32,
    limit_max: u32,
    seed: u64,
}

/// What came of it, for each second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    served: u32,
    refused: u32,
    limit: u32,
    /// Ends of requests while the limit was lowered.
    lowered: u32,
    /// Sum of what requests took in the service, in milliseconds.
    took_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Done(usize),
    AsksAgain(usize),
}

struct Request {
    token: Token,
    sent_ns: u64,
    is_over: bool,
}

struct Simulation {
    rule: Rule,
    world: World,
    dice: Dice,
    now_ns: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    requests: Vec<Request>,
    busy: usize,
    inside: VecDeque<usize>,
    seconds: Vec<Second>,
    woken: Vec<usize>,
}

impl Simulation {
    fn run(world: World) -> Vec<Second> {
        let action = Action::ConcurrencyLimit(ConcurrencyLimit {
            limit: Concurrency::Adaptive { min: 4, max: world.limit_max },
            queue_max: world.queue,
            queue_timeout: Duration::from_millis(250),
            reply: reply(503),
        });
        let mut simulation = Simulation {
            rule: Rule::new(&policy(Mode::Enforce, action), &States::default()),
            dice: Dice(world.seed),
            now_ns: S,
            events: BinaryHeap::new(),
            count: 0,
            requests: Vec::new(),
            busy: 0,
            inside: VecDeque::new(),
            seconds: vec![Second::default(); world.seconds as usize],
            woken: Vec::new(),
            world,
        };
        for _ in 0..simulation.world.clients.max(1) {
            simulation.at(S, Event::Arrives);
        }
        while let Some(Reverse((now_ns, _, event))) = simulation.events.pop() {
            simulation.now_ns = now_ns;
            if simulation.second() >= simulation.world.seconds as usize {
                break;
            }
            simulation.handle(event);
        }
        simulation.seconds
    }

    fn at(&mut self, at_ns: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at_ns, self.count, event)));
    }

    fn second(&self) -> usize {
        ((self.now_ns - S) / S) as usize
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrives => {
                if self.world.clients == 0 {
                    let gap = self.dice.exponential(1e9 / self.world.offered) as u64;
                    self.at(self.now_ns + gap.max(1), Event::Arrives);
                }
                self.requests.push(Request { token: Token::default(), sent_ns: 0, is_over: false });
                self.ask(self.requests.len() - 1, true);
            }
            Event::AsksAgain(index) => {
                let request = &self.requests[index];
                if !request.is_over && request.sent_ns == 0 {
                    self.ask(index, false);
                }
            }
            Event::Done(index) => {
                self.busy -= 1;
                if let Some(next) = self.inside.pop_front() {
                    self.work(next);
                }
                let request = &mut self.requests[index];
                request.is_over = true;
                let took_ns = self.now_ns - request.sent_ns;
                let woken = &mut self.woken;
                let mut wake = |waiter: Waiter| woken.push(waiter.task as usize);
                self.rule.on_end(self.now_ns, &mut request.token, &Outcome::Served { took_ns }, &mut wake);
                let Rule::ConcurrencyLimit(rule) = &self.rule else { panic!("it is a limit") };
                let (limit, is_lowered) = (rule.figures().limit, rule.gate.is_lowered());
                let second = self.second();
                let second = &mut self.seconds[second];
                second.served += 1;
                second.took_ms += took_ns as f64 / MS as f64;
                second.limit = limit;
                second.lowered += u32::from(is_lowered);
                self.come_again();
            }
        }
        for index in std::mem::take(&mut self.woken) {
            self.at(self.now_ns, Event::AsksAgain(index));
        }
    }

    fn ask(&mut self, index: usize, is_first: bool) {
        let client = Ipv4Addr::from((index % 10) as u32).into();
        let facts = Facts { client, ..facts(self.now_ns, index as u64) };
        let token = &mut self.requests[index].token;
        let woken = &mut self.woken;
        let mut wake = |waiter: Waiter| woken.push(waiter.task as usize);
        let step = match is_first {
            true => self.rule.on_request(&Head::default(), &facts, &mut || 0, token, &mut wake),
            false => self.rule.on_ticket(&facts, token, &mut wake),
        };
        match step {
            Step::Continue => {
                self.requests[index].sent_ns = self.now_ns;
                if self.busy < self.world.slots {
                    self.work(index);
                } else {
                    self.inside.push_back(index);
                }
            }
            Step::Wait(Ticket::Slot { until_ns } | Ticket::Until(until_ns)) => {
                self.at(until_ns, Event::AsksAgain(index));
            }
            Step::Respond(_) => {
                self.requests[index].is_over = true;
                let second = self.second();
                self.seconds[second].refused += 1;
                self.come_again();
            }
        }
    }

    fn come_again(&mut self) {
        if self.world.clients > 0 {
            self.at(self.now_ns + 1, Event::Arrives);
        }
    }

    fn work(&mut self, index: usize) {
        self.busy += 1;
        let second = (self.now_ns - S) as f64 / S as f64;
        let took_ns = (self.world.work)(&mut self.dice, second) * MS as f64;
        self.at(self.now_ns + took_ns as u64, Event::Done(index));
    }
}

fn even(_: &mut Dice, _: f64) -> f64 {
    50.0
}

fn even_and_short(_: &mut Dice, _: f64) -> f64 {
    10.0
}

fn random_and_short(dice: &mut Dice, _: f64) -> f64 {
    dice.exponential(10.0)
}

fn random(dice: &mut Dice, _: f64) -> f64 {
    dice.exponential(50.0)
}

fn two_kinds(dice: &mut Dice, _: f64) -> f64 {
    if dice.share() < 0.9 { 2.0 } else { 50.0 }
}

fn slower(_: &mut Dice, second: f64) -> f64 {
    if second < 20.0 { 50.0 } else { 500.0 }
}

fn slower_at_random(dice: &mut Dice, second: f64) -> f64 {
    dice.exponential(if second < 20.0 { 50.0 } else { 500.0 })
}

fn slower_for_a_while(_: &mut Dice, second: f64) -> f64 {
    if (20.0..50.0).contains(&second) { 500.0 } else { 50.0 }
}

fn three_times_slower(_: &mut Dice, second: f64) -> f64 {
    if second < 20.0 { 50.0 } else { 150.0 }
}

fn world(seed: u64) -> World {
    World { slots: 100, offered: 1000.0, clients: 0, work: even, seconds: 30, queue: 128, limit_max: 1024, seed }
}

fn served(seconds: &[Second]) -> f64 {
    seconds.iter().map(|second| f64::from(second.served)).sum::<f64>() / seconds.len() as f64
}

fn limits(seconds: &[Second]) -> Vec<u32> {
    seconds.iter().map(|second| second.limit).collect()
}

const SEEDS: std::ops::Range<u64> = 0..3;

/// What is offered above capacity is refused, the rest is served as fast as it can be, and not slowly.
#[test]
fn overload_leaves_the_service_busy_and_quick() {
    // For the last column see below: a service of few slots and random times is learnt slowly, since a limit begins far
    // above what is right for it, and its latencies are few and depend on each other.
    let rows: [(usize, f64, Work, f64); 8] = [
        (100, 3.0, even, 100.0),
        (100, 10.0, even, 100.0),
        (100, 3.0, random, 100.0),
        (100, 10.0, random, 100.0),
        (10, 3.0, even, 100.0),
        (10, 10.0, random, 300.0),
        (400, 3.0, even, 100.0),
        (400, 3.0, random, 100.0),
    ];
    for (slots, times, work, took_ms_max) in rows {
        for seed in SEEDS {
            let capacity = slots as f64 * 20.0;
            let world = World { slots, offered: capacity * times, work, seconds: 30, ..world(seed) };
            let seconds = Simulation::run(world);
            let goodput = served(&seconds) / capacity;
            let story = format!("{slots} slots, {times} x, seed {seed}");
            assert!(goodput >= 0.95, "{story}: {goodput} {:?}", limits(&seconds));
            let last = &seconds[20..];
            let took = last.iter().map(|second| second.took_ms).sum::<f64>() / served(last) / last.len() as f64;
            assert!(took < took_ms_max, "{story}: {took} ms of 50, {:?}", limits(&seconds));
        }
    }
}

/// The slow kind of request is no reason to refuse any.
#[test]
fn two_kinds_of_requests_at_half_the_capacity_lose_nobody() {
    for seed in SEEDS {
        for queue in [128, 32] {
            let mean_ms = 0.9 * 2.0 + 0.1 * 50.0;
            let offered = 0.5 * 100.0 / mean_ms * 1000.0;
            let world = World { offered, work: two_kinds, seconds: 60, queue, ..world(seed) };
            let seconds = Simulation::run(world);
            let refused: u32 = seconds.iter().map(|second| second.refused).sum();
            assert_eq!(refused, 0, "seed {seed}: {:?}", limits(&seconds));
        }
    }
}

/// The service becomes ten times slower for good after 20 s, so that its capacity is a tenth.
#[test]
fn a_slower_service_is_used_to_nine_tenths_after_ten_seconds() {
    // Where latency is random a test of the limit takes longer and may find too little; over many such times little is
    // missing.
    for (work, part_s, least) in [(slower as Work, 5, 0.9), (slower_at_random, 10, 0.85), (slower_at_random, 60, 0.9)] {
        for offered in [300.0, 1000.0, 6000.0] {
            for seed in SEEDS {
                let world = World { offered, work, seconds: 90, ..world(seed) };
                let seconds = Simulation::run(world);
                for (index, part) in seconds[30..].chunks(part_s).enumerate() {
                    let share = served(part) / 200.0;
                    // Chance alone moves 1000 requests by 3 %.
                    assert!(
                        share >= least,
                        "offered {offered}, seed {seed}: {share} from {} s, {:?}",
                        30 + part_s * index,
                        limits(&seconds)
                    );
                }
                let took = seconds[40..].iter().map(|second| second.took_ms).sum::<f64>()
                    / served(&seconds[40..])
                    / (seconds.len() - 40) as f64;
                assert!(took < 1500.0, "offered {offered}, seed {seed}: {took} ms of 500, {:?}", limits(&seconds));
            }
        }
    }
}

/// Three fifths of the clients run at any time and the others have just room enough to wait. The limit is lowered to see
/// whether the service has become slower, and nobody is refused for that: those it holds up have places of their own.
#[test]
fn nobody_is_refused_for_measuring() {
    for seed in SEEDS {
        let world =
            World { clients: 100, limit_max: 64, queue: 36, work: three_times_slower, seconds: 60, ..world(seed) };
        let seconds = Simulation::run(world);
        let refused: u32 = seconds.iter().map(|second| second.refused).sum();
        let lowered: u32 = seconds.iter().map(|second| second.lowered).sum();
        assert_eq!(refused, 0, "seed {seed}: {:?}", limits(&seconds));
        assert!(lowered > 0, "seed {seed}: it was never lowered, so that this shows nothing");
    }
}

#[test]
fn a_service_that_is_as_fast_as_before_is_used_as_before() {
    for seed in SEEDS {
        let world = World { offered: 6000.0, work: slower_for_a_while, seconds: 80, ..world(seed) };
        let seconds = Simulation::run(world);
        let share = served(&seconds[55..]) / 2000.0;
        assert!(share >= 0.95, "seed {seed}: {share} {:?}", limits(&seconds));
    }
}

/// 32 clients never meet the limit that is there at first, and all wait in a service that works on 4 at once.
#[test]
fn few_clients_of_a_small_service_wait_before_it() {
    // Where times are random it takes longer, and a limit goes up and down more.
    for (work, from, limit_max) in [(even_and_short as Work, 10, 12), (random_and_short, 20, 32)] {
        for seed in SEEDS {
            let world = World { slots: 4, clients: 32, limit_max: 64, work, seconds: 40, ..world(seed) };
            let seconds = Simulation::run(world);
            let goodput = served(&seconds) / 400.0;
            let limits = limits(&seconds);
            assert!(goodput >= 0.95, "seed {seed}: {goodput} {limits:?}");
            assert!(limits[from..].iter().all(|limit| *limit <= limit_max), "seed {seed}: {limits:?}");
            assert!(limits[from..].iter().sum::<u32>() as usize <= 12 * (40 - from), "seed {seed}: {limits:?}");
            assert!(seconds.iter().all(|second| second.refused == 0), "seed {seed}: {limits:?}");
        }
    }
}

/// A limit that is far away is not lowered for good, and next to no queue is enough for those who wait to see that.
#[test]
fn a_service_that_is_not_busy_stays_as_it_is() {
    for (work, offered) in [(even as Work, 500.0), (random, 500.0), (two_kinds, 3500.0)] {
        for seed in SEEDS {
            let world = World { offered, work, queue: 1, seconds: 60, ..world(seed) };
            let seconds = Simulation::run(world);
            let refused: u32 = seconds.iter().map(|second| second.refused).sum();
            let lowered: u32 = seconds.iter().map(|second| second.lowered).sum();
            assert_eq!(refused, 0, "seed {seed}, {offered} a second: {:?}", limits(&seconds));
            assert!(lowered > 0, "seed {seed}: it was never lowered, so that this shows nothing");
            assert!(f64::from(lowered) < 0.05 * 60.0 * served(&seconds), "seed {seed}: {lowered} under a lower limit");
        }
    }
}
