//! The benchmarks: which exist, what the command line asks for, and their order. One run, every proxy in it,
//! interleaved; the figure is CPU time per request as a ratio in the same round. Cold.

mod callgrind;
mod cell;
mod gate;
mod governed;
mod machine;
mod memory;
mod ratio;
mod rounds;
mod sidecar;
mod strace;
mod table;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use crate::load::Lab;
use crate::peers::{self, Kind, Launch};
use crate::process::{CPU_LOAD, pin_to};
use crate::{Failure, Outcome};

use rounds::Contender;
use workload::Workload;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// GET with 1 KiB answers, keep-alive, saturated.
    Get,
    /// The same at 20,000 requests a second, open loop, with latencies.
    Open,
    /// POST of 16 KiB, answered by as much, saturated.
    Post,
    /// A new connection for each request, saturated and at 8,000 a second, open loop.
    Connect,
    /// Resident memory, idle and with 1,000 used connections.
    Memory,
    /// 10,000 mixed routes used uniformly against 10; evenkeel only.
    Routes,
    /// GET with everything on: a hundred routes, lanes, three rules, ejection, retries, metrics; evenkeel and one peer
    /// that has nothing of it.
    Governed,
    /// A call through two sidecars, beside a gateway; evenkeel only.
    Sidecar,
    /// All of them.
    All,
}

/// Arguments of `e2e bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    name: Name,
    /// Rounds, each with every proxy once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds measured in each cell
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Proxies, comma-separated; the others are compared with haproxy, or with the first where it is missing. Naming
    /// one twice shows the spread of equals
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Kind>,
    /// Another evenkeel binary than the one of this workspace
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Count instructions and system calls per request instead, and fail above the limits
    #[arg(long)]
    gate: bool,
}

/// A proxy and its program.
struct Installed {
    kind: Kind,
    program: PathBuf,
}

/// Measures and prints; `false` when a limit is broken or a cell is void.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    if std::thread::available_parallelism()?.get() <= CPU_LOAD {
        return Err(Failure::new("two CPUs are needed: one for the proxy, one for generator and backend"));
    }
    if !(0.1..=600.0).contains(&arguments.seconds) {
        return Err(Failure::new("--seconds must be between 0.1 and 600"));
    }
    let kinds = match (&arguments.peers[..], arguments.gate) {
        ([], true) => vec![Kind::Evenkeel],
        ([], false) if [Name::Routes, Name::Sidecar].contains(&arguments.name) => vec![Kind::Evenkeel],
        ([], false) => vec![Kind::Haproxy, Kind::Nginx, Kind::Envoy, Kind::Evenkeel],
        (some, _) => some.to_vec(),
    };
    // Builds and installations come first, before this thread is pinned and anything measured.
    let installed = kinds
        .into_iter()
        .map(|kind| Ok(Installed { kind, program: peers::program(kind, arguments.bin.as_deref())? }))
        .collect::<Outcome<Vec<_>>>()?;
    pin_to(CPU_LOAD)?;
    let mut lab = Lab::open()?;
    println!("{}", machine::describe(&installed));
    if arguments.gate {
        return gate::run(&mut lab, &installed);
    }
    let mut good = true;
    let mut rows = Vec::new();
    for workload in Workload::ALL {
        if [workload.name(), Name::All].contains(&arguments.name) {
            let contenders = start_all(&mut lab, &installed, workload)?;
            let cell_time = Duration::from_secs_f64(arguments.seconds);
            rows.push(rounds::run(&mut lab, workload.title(), &contenders, arguments.rounds, cell_time)?);
        }
    }
    if !rows.is_empty() {
        good &= rows.iter().all(table::Row::is_whole);
        println!("{}", table::ratios_table(&rows));
        println!("{}", table::details(&rows));
    }
    if [Name::Memory, Name::All].contains(&arguments.name) {
        println!("{}", memory::run(&mut lab, &installed)?);
    }
    if [Name::Governed, Name::All].contains(&arguments.name) {
        let cell_time = Duration::from_secs_f64(arguments.seconds);
        let (row, moved) = governed::run(&mut lab, &installed, arguments.rounds, cell_time)?;
        good &= row.is_whole() && moved.is_good();
        println!("{}", table::ratios_table(std::slice::from_ref(&row)));
        println!("{}{moved}", table::details(&[row]));
    }
    if [Name::Sidecar, Name::All].contains(&arguments.name) {
        let cell_time = Duration::from_secs_f64(arguments.seconds);
        let (rows, memory) = sidecar::run(&mut lab, &installed, arguments.rounds, cell_time)?;
        good &= rows.iter().all(table::Row::is_whole);
        println!("{}", table::ratios_table(&rows));
        println!("{}{memory}", table::details(&rows));
    }
    let ours = installed.iter().find(|installed| installed.kind == Kind::Evenkeel);
    match (arguments.name, ours) {
        (Name::Routes, None) => return Err(Failure::new("routes are measured of evenkeel only")),
        (Name::Routes | Name::All, Some(ours)) => {
            let contenders = workload::routes(&mut lab, ours)?;
            let cell_time = Duration::from_secs_f64(arguments.seconds);
            let row = rounds::run(&mut lab, "GET, mixed routes", &contenders, arguments.rounds, cell_time)?;
            good &= row.is_whole();
            println!("{}", table::ratios_table(std::slice::from_ref(&row)));
            println!("{}", table::details(&[row]));
        }
        _ => {}
    }
    Ok(good)
}

fn start_all(lab: &mut Lab, installed: &[Installed], workload: Workload) -> Outcome<Vec<Contender>> {
    let mut contenders: Vec<Contender> = Vec::new();
    for installed in installed {
        let mut launch = Launch::new(installed.kind, &installed.program);
        launch.defer_accept = workload.name() == Name::Connect;
        let name = installed.kind.name();
        let twins = contenders.iter().filter(|contender| contender.label.starts_with(name)).count();
        let label = if twins == 0 { name.to_owned() } else { format!("{name} ({})", twins + 1) };
        let running = launch.start(lab)?;
        contenders.push(Contender { label, workload, requests: workload.requests(), running });
    }
    Ok(contenders)
}
