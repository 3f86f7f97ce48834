//! What sidecars cost: a call that goes out through one and comes in through another, beside a gateway, which is one proxy in
//! place of two; how much later its answer is; and the memory of one that knows very many Services. Cold.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::Installed;
use super::memory;
use super::rounds::{self, Contender};
use super::table::Row;
use super::workload::Workload;
use crate::load::Lab;
use crate::peers::{Kind, Launch, sidecars};
use crate::{Failure, Outcome};

/// Services that one knows.
const SERVICES: usize = 100;
const CONNECTIONS: usize = 64;
const REQUESTS: u64 = 20_000;

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
    Ok((rows, of_many(lab, program)?))
}

/// The memory of one, before and after it has called each of many Services.
fn of_many(lab: &mut Lab, program: &Path) -> Outcome<String> {
    let (running, requests) = sidecars::start_among(lab, program, SERVICES)?;
    let cells = memory::idle_and_used(lab, &running, requests, CONNECTIONS, REQUESTS)?;
    let mut text = format!("| RSS MB of a sidecar | idle | after {REQUESTS} calls of all of them |\n|---|---|---|\n");
    writeln!(text, "| {SERVICES} Services | {cells} |").expect("a String takes all");
    Ok(text)
}
