//! What only shows in the long run: `cargo run --release -p e2e -- soak reload --seconds 30`. Rules change as fast as the
//! gateway takes them, every second set invalid, under load on kept connections: no request may fail, no connection end,
//! no worker stand still. Cold.

pub mod control;
pub mod downloads;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::kit::{Gateway, Launch};
use crate::load::{Arrival, Connections, Lab, Plan, Span};
use crate::peers::standard_get;
use crate::process::{CPU_LOAD, CPU_PROXY, pin_to};
use crate::{Failure, Outcome};

/// The longest that a worker may be away from its connections.
const STALL_MAX: Duration = Duration::from_millis(2);
/// Rules change so often at the most. The gateway lets files settle for 50 ms, so that it sees a little less.
const CHANGE_INTERVAL: Duration = Duration::from_millis(50);
const CONNECTIONS: usize = 64;
/// Enough that a stall meets requests; not so many that every turn is long.
const REQUESTS_PER_SECOND: f64 = 5_000.0;
/// A worker tells its longest turn once a second.
const TOLD_WITHIN: Duration = Duration::from_millis(1_200);

/// What to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Changes of rules under load.
    Reload,
    /// A hundred changes a second of a gateway under control.
    Control,
    /// 2,000 downloads through 6,000 changes of rules.
    Downloads,
}

/// Arguments of `e2e soak`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What to repeat
    #[arg(value_enum)]
    name: Name,
    /// For how long rules change
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// Runs and prints; false where a worker stood still for too long. A failed request or a lost connection is an error.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    let launch = |yaml: String| Launch::new(yaml).on(CPU_PROXY);
    if arguments.name == Name::Downloads {
        let found = downloads::run(launch, 2_000, 6_000)?;
        println!("{found}");
        return Ok(found.is_good());
    }
    // Built before this thread is pinned.
    crate::kit::evenkeel();
    pin_to(CPU_LOAD)?;
    if arguments.name == Name::Control {
        let found = control::run(Duration::from_secs(arguments.seconds))?;
        println!("{found}");
        return Ok(found.is_good());
    }
    let found = reload(launch, Duration::from_secs(arguments.seconds))?;
    println!("{found}");
    Ok(found.stall <= STALL_MAX)
}

/// What a run of reloads found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Requests answered, all of them well.
    pub answered: u64,
    /// Revisions in force.
    pub applied: u64,
    /// Sets refused.
    pub refused: u64,
    /// The longest time from a change to its effect.
    pub slowest: Duration,
    /// The longest turn of a worker under the same load without changes.
    pub stall_before: Duration,
    /// The longest turn of a worker while rules changed.
    pub stall: Duration,
    /// How long rules changed.
    pub elapsed: Duration,
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = (self.applied + self.refused) as f64 / self.elapsed.as_secs_f64();
        write!(
            formatter,
            "{} requests on {CONNECTIONS} connections, 0 failed, 0 connections lost\n\
             {} revisions in force and {} sets refused, {rate:.1} a second; the slowest {:.0?} after its change\n\
             longest turn of a worker: {:.2?} (without changes {:.2?}; at most {STALL_MAX:?} is allowed)",
            self.answered, self.applied, self.refused, self.slowest, self.stall, self.stall_before
        )
    }
}

/// Changes rules under load for so long.
pub fn reload(launch: impl FnOnce(String) -> Launch, time: Duration) -> Outcome<Found> {
    let mut lab = Lab::open()?;
    let rules = include_str!("../peers/evenkeel.yaml").replace("{{backend}}", &lab.backend_port().to_string());
    let gateway = launch(rules.clone()).start();
    let plan = |measured: Duration| Plan {
        target: gateway.address(),
        requests: vec![standard_get()],
        arrival: Arrival::Poisson { per_second: REQUESTS_PER_SECOND },
        connections: Connections::Kept(CONNECTIONS),
        span: Span::Time { warm: Duration::from_millis(500), measured },
        time_max: measured + Duration::from_secs(30),
        keep_open: false,
    };
    let failed = |void: crate::load::Void| Failure(format!("{void}\nthe gateway said:\n{}", gateway.stderr()));

    // The start is not what is looked at.
    lab.rest(TOLD_WITHIN).map_err(failed)?;
    longest_turn(&gateway);
    let calm = lab.run(&plan((time / 6).max(Duration::from_secs(1))), &mut |_| {}).map_err(failed)?;
    lab.rest(TOLD_WITHIN).map_err(failed)?;
    let stall_before = longest_turn(&gateway);

    let ended = AtomicBool::new(false);
    let started = Instant::now();
    let (tally, changes) = std::thread::scope(|scope| {
        let changes = scope.spawn(|| change_until(&ended, &gateway, &rules));
        let tally = lab.run(&plan(time), &mut |_| {});
        ended.store(true, Relaxed);
        (tally, changes.join())
    });
    let elapsed = started.elapsed();
    let tally = tally.map_err(failed)?;
    let changes = changes.map_err(|_| Failure::new("the thread that changes rules panicked"))?;
    lab.rest(TOLD_WITHIN).map_err(failed)?;
    let stall = longest_turn(&gateway);
    Ok(Found {
        answered: calm.answered + tally.answered,
        applied: changes.applied,
        refused: changes.refused,
        slowest: changes.slowest,
        stall_before,
        stall,
        elapsed,
    })
}

/// The longest turn since the last question.
fn longest_turn(gateway: &Gateway) -> Duration {
    Duration::from_secs_f64(gateway.metric("evenkeel_worker_turn_seconds_max"))
}

#[derive(Default)]
struct Changes {
    applied: u64,
    refused: u64,
    slowest: Duration,
}

/// Changes rules again and again; each change is waited for.
fn change_until(ended: &AtomicBool, gateway: &Gateway, rules: &str) -> Changes {
    let mut changes = Changes::default();
    // The log costs the gateway nothing to be looked at.
    let told = |word: &str| gateway.stderr().matches(word).count() as u64;
    let (applied_before, refused_before) = (told("in force after"), told("are refused"));
    let mut number = 0u64;
    while !ended.load(Relaxed) {
        let started = Instant::now();
        number += 1;
        let next = rules.replace("value: lab", &format!("value: lab}}, {{name: x-round, value: \"{number}\""));
        if number.is_multiple_of(2) {
            changes.refused += 1;
            gateway.write(&next.replace("kind: Service", "kind: Servant"));
            crate::kit::until("a refusal", || (told("are refused") - refused_before == changes.refused).then_some(()));
        } else {
            changes.applied += 1;
            gateway.write(&next);
            crate::kit::until("a revision", || {
                (told("in force after") - applied_before == changes.applied).then_some(())
            });
        }
        changes.slowest = changes.slowest.max(started.elapsed());
        std::thread::sleep(CHANGE_INTERVAL.saturating_sub(started.elapsed()));
    }
    changes
}
