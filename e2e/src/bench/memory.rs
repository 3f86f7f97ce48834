//! Resident memory of each proxy, idle and after 1,000 keep-alive connections were used and lie idle. Cold.

use std::fmt::Write;
use std::time::Duration;

use super::Installed;
use crate::Outcome;
use crate::load::{Arrival, Connections, Lab, Plan, Request, Span};
use crate::peers::{Launch, Running, standard_get};
use crate::procfs;

const CONNECTIONS: usize = 1_000;
/// Requests under way while the connections are used in turn, each ten times.
const IN_FLIGHT: usize = 64;
const REQUESTS: u64 = 10 * CONNECTIONS as u64;
/// For a proxy to give back what it gives back.
const REST: Duration = Duration::from_secs(2);

/// Measures each proxy alone and fresh.
pub(crate) fn run(lab: &mut Lab, installed: &[Installed]) -> Outcome<String> {
    let mut text = format!("| RSS MB | idle | {CONNECTIONS} used keep-alive connections |\n|---|---|---|\n");
    for installed in installed {
        let running = Launch::new(installed.kind, &installed.program).start(lab)?;
        let cells = idle_and_used(lab, &running, vec![standard_get()], CONNECTIONS, REQUESTS)?;
        writeln!(text, "| {} | {cells} |", installed.kind.name()).expect("a String takes all");
    }
    Ok(text)
}

/// Megabytes before and after so many requests on kept connections, as two cells of a table.
pub(crate) fn idle_and_used(
    lab: &mut Lab,
    running: &Running,
    requests: Vec<Request>,
    connections: usize,
    count: u64,
) -> Outcome<String> {
    lab.rest(REST)?;
    let idle = resident_mb(running)?;
    let plan = Plan {
        target: running.target,
        requests,
        arrival: Arrival::Saturated { in_flight: IN_FLIGHT },
        connections: Connections::Kept(connections),
        span: Span::Count(count),
        time_max: Duration::from_secs(30),
        keep_open: true,
    };
    let used = match lab.run(&plan, &mut |_| {}).and_then(|_| lab.rest(REST)) {
        Ok(()) => format!("{:.1}", resident_mb(running)?),
        Err(void) => void.to_string(),
    };
    lab.hang_up();
    Ok(format!("{idle:.1} | {used}"))
}

/// `VmRSS` of the process that serves: the largest, since nginx's master only waits and shares most of its pages.
fn resident_mb(running: &Running) -> Outcome<f64> {
    let sizes_kib = running.processes()?.into_iter().map(procfs::resident_kib).collect::<Outcome<Vec<_>>>()?;
    Ok(sizes_kib.into_iter().max().unwrap_or(0) as f64 / 1024.0)
}
