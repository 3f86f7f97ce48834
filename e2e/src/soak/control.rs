//! A gateway under control whose rules change a hundred times a second, in turn with spans in which nothing changes: no
//! request may fail, no connection end, no worker stand still, and a request costs what it costs without. Cold.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{CONNECTIONS, REQUESTS_PER_SECOND, STALL_MAX, TOLD_WITHIN, longest_turn};
use crate::fleet::server::{Server, apply};
use crate::kit::{Launch, Peer, until};
use crate::load::{Arrival, Connections, Lab, Plan, Span};
use crate::peers::standard_get;
use crate::process::CPU_PROXY;
use crate::{Failure, Outcome};

/// Changes in a second.
const CHANGES_PER_SECOND: u32 = 100;
/// Spans without changes, and with.
const ROUNDS: u32 = 6;
/// CPU of a request while rules change, for each without.
const COST_MAX: f64 = 1.05;

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    answered: u64,
    changes: u64,
    /// From the last change to its effect.
    caught_up: Duration,
    calm: Spent,
    changing: Spent,
}

/// In all spans of one sort.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    cpu: Duration,
    answered: u64,
    longest_turn: Duration,
}

impl Spent {
    fn micros_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.answered as f64
    }
}

impl Found {
    /// Whether nothing stood still, and nothing became dear.
    pub fn is_good(&self) -> bool {
        self.changing.longest_turn <= STALL_MAX && self.cost() <= COST_MAX
    }

    fn cost(&self) -> f64 {
        self.changing.micros_each() / self.calm.micros_each()
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Found { answered, changes, caught_up, calm, changing } = self;
        write!(
            formatter,
            "{answered} requests on {CONNECTIONS} connections, 0 failed, 0 connections lost\n\
             {changes} changes of rules, the last in force {caught_up:.0?} after the end\n\
             longest turn of a worker: {:.2?} (without changes {:.2?}; at most {STALL_MAX:?} is allowed)\n\
             CPU of a request: {:.1} us (without changes {:.1} us), {:.3} times as much (at most {COST_MAX})",
            changing.longest_turn,
            calm.longest_turn,
            changing.micros_each(),
            calm.micros_each(),
            self.cost(),
        )
    }
}

/// Changes rules for so long, and leaves them alone for as long.
pub fn run(time: Duration) -> Outcome<Found> {
    let mut lab = Lab::open()?;
    let server = Server::start(false)?;
    let rules = include_str!("../../peers/evenkeel.yaml").replace("{{backend}}", &lab.backend_port().to_string());
    let gateway = Launch::named(server.xds, "default/bench").on(CPU_PROXY).spawn();
    let mut peer = Peer::connect(server.api);
    apply(&mut peer, &gateway.fill(&rules))?;
    until("a gateway that is ready", || gateway.get("/ready").filter(|answer| answer.status() == 200));
    let route = rules.split("\n---\n").find(|document| document.contains("kind: HTTPRoute"));
    let route = route.ok_or(Failure::new("the rules have a route"))?;
    let changed =
        |number: u64| route.replace("value: lab", &format!("value: lab}}, {{name: x-round, value: \"{number}\""));

    let span = time / ROUNDS;
    let plan = Plan {
        target: gateway.address(),
        requests: vec![standard_get()],
        arrival: Arrival::Poisson { per_second: REQUESTS_PER_SECOND },
        connections: Connections::Kept(CONNECTIONS),
        span: Span::Time { warm: Duration::from_millis(500), measured: span },
        time_max: span + Duration::from_secs(30),
        keep_open: false,
    };
    let failed = |void: crate::load::Void| Failure(format!("{void}\nthe gateway said:\n{}", gateway.stderr()));
    let mut found = Found::default();
    lab.rest(TOLD_WITHIN).map_err(failed)?;
    longest_turn(&gateway);
    for _ in 0..ROUNDS {
        for changes in [false, true] {
            let (before, ended) = (gateway.cpu_time(), AtomicBool::new(!changes));
            let (tally, made) = std::thread::scope(|scope| {
                let writer = scope.spawn(|| change_until(&ended, &mut peer, found.changes, &changed));
                let tally = lab.run(&plan, &mut |_| {});
                ended.store(true, Relaxed);
                (tally, writer.join())
            });
            let tally = tally.map_err(failed)?;
            found.changes = made.map_err(|_| Failure::new("the thread that changes rules panicked"))??;
            found.answered += tally.answered;
            let spent = if changes { &mut found.changing } else { &mut found.calm };
            spent.cpu += gateway.cpu_time() - before;
            spent.answered += tally.answered;
            lab.rest(TOLD_WITHIN).map_err(failed)?;
            spent.longest_turn = spent.longest_turn.max(longest_turn(&gateway));
        }
    }
    let begun = Instant::now();
    let last = apply(&mut peer, &changed(0))?;
    until("the last change in force", || (gateway.metric("evenkeel_control_revision") >= last as f64).then_some(()));
    found.caught_up = begun.elapsed();
    Ok(found)
}

/// Makes changes until it is over, each when it is due; returns how many there were in all.
fn change_until(
    ended: &AtomicBool,
    peer: &mut Peer,
    before: u64,
    changed: &(impl Fn(u64) -> String + Sync),
) -> Outcome<u64> {
    let (begun, mut made) = (Instant::now(), 0);
    while !ended.load(Relaxed) {
        made += 1;
        apply(peer, &changed(before + made))?;
        let due = begun + Duration::from_secs(made) / CHANGES_PER_SECOND;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(before + made)
}
