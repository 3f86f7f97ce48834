//! What sidecars cost: a call that goes out through one and comes in through another, beside a gateway, which is one proxy in
//! place of two; how much later its answer is; and the memory of one that knows very many Services. Cold.

use std::fmt::Write;
use std::time::Duration;

use super::Installed;
use super::memory::resident_mb;
use super::rounds::{self, Contender};
use super::table::Row;
use super::workload::Workload;
use crate::load::{Arrival, Connections, Lab, Plan, Span};
use crate::peers::{Kind, Launch, sidecars};
use crate::{Failure, Outcome};

/// Services that one knows.
const SERVICES: usize = 100;
const CONNECTIONS: usize = 64;
const REQUESTS: u64 = 20_000;
/// For it to give back what it gives back.
const REST: Duration = Duration::from_secs(2);

/// Measures both workloads.
pub(crate) fn run(lab: &mut Lab, installed: &[Installed], count: u32, time: Duration) -> Outcome<(Vec<Row>, String)> {
    let ours = installed.iter().find(|installed| installed.kind == Kind::Evenkeel);
    let program = &ours.ok_or_else(|| Failure::new("sidecars are measured of evenkeel only"))?.program;
    let mut rows = Vec::new();
    for workload in [Workload::Get, Workload::Hop] {
        let gateway = Launch::new(Kind::Evenkeel, program).start(lab)?;
        let pair = sidecars::start_pair(lab, program)?;
        let contenders = [
            Contender { label: "gateway".into(), workload, requests: workload.requests(), running: gateway },
            Contender { label: "two sidecars".into(), workload, requests: vec![sidecars::call()], running: pair },
        ];
        rows.push(rounds::run(lab, workload.title(), &contenders, count, time)?);
    }
    Ok((rows, memory(lab, program)?))
}

/// The memory of one, before and after it has called each of many Services.
fn memory(lab: &mut Lab, program: &std::path::Path) -> Outcome<String> {
    let (running, requests) = sidecars::start_among(lab, program, SERVICES)?;
    lab.rest(REST)?;
    let idle = resident_mb(&running)?;
    let plan = Plan {
        target: running.target,
        requests,
        arrival: Arrival::Saturated { in_flight: CONNECTIONS },
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
    let mut text = format!("| RSS MB of a sidecar | idle | after {REQUESTS} calls of all of them |\n|---|---|---|\n");
    writeln!(text, "| {SERVICES} Services | {idle:.1} | {used} |").expect("a String takes all");
    Ok(text)
}
