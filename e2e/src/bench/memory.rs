//! Resident memory of each proxy, idle and after 1,000 keep-alive connections were used and lie idle. Cold.

use std::fmt::Write;
use std::time::Duration;

use super::Installed;
use crate::Outcome;
use crate::load::{Arrival, Connections, Lab, Plan, Span};
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
        lab.rest(REST)?;
        let idle = resident_mb(&running)?;
        let plan = Plan {
            target: running.target,
            requests: vec![standard_get()],
            arrival: Arrival::Saturated { in_flight: IN_FLIGHT },
            connections: Connections::Kept(CONNECTIONS),
            span: Span::Count(REQUESTS),
            time_max: Duration::from_secs(30),
            keep_open: true,
        };
        let used = match lab.run(&plan, &mut |_| {}).and_then(|_| lab.rest(REST)) {
            Ok(()) => format!("{:.1}", resident_mb(&running)?),
            Err(void) => void.to_string(),
        };
        lab.hang_up();
        writeln!(text, "| {} | {idle:.1} | {used} |", installed.kind.name()).expect("a String takes all");
    }
    Ok(text)
}

/// `VmRSS` of the process that serves: the largest, since nginx's master only waits and shares most of its pages.
pub(crate) fn resident_mb(running: &Running) -> Outcome<f64> {
    let sizes_kib = running.processes()?.into_iter().map(procfs::resident_kib).collect::<Outcome<Vec<_>>>()?;
    Ok(sizes_kib.into_iter().max().unwrap_or(0) as f64 / 1024.0)
}
