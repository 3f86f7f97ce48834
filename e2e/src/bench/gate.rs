//! The measurement that noise cannot touch: user instructions and system calls per request, against fixed limits. Time
//! is `rounds`' business. Cold.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Installed, callgrind, strace};
use crate::load::{Arrival, Connections, Lab, Plan, Span};
use crate::peers::{Launch, Running, standard_get};
use crate::process::{CPU_PROXY, Guard};
use crate::{Because, Failure, Outcome, need};

/// The most that a keep-alive GET may cost.
const INSTRUCTIONS_MAX: f64 = 13_000.0;
const SYSTEM_CALLS_MAX: f64 = 4.5;
/// Below this something else was measured: relaying bytes unseen takes 140.
const INSTRUCTIONS_MIN: f64 = 100.0;

/// Two run lengths under callgrind; their difference is free of start and end.
const SHORT: u64 = 2_000;
const LONG: u64 = 12_000;
const PROFILED_CONNECTIONS: usize = 16;

/// Requests under strace, which slows a proxy down so much that it is saturated by any generator.
const TRACED: u64 = 20_000;
const TRACED_CONNECTIONS: usize = 64;
/// Before them, so that all connections exist.
const TRACED_WARM: u64 = 2_000;

/// Counts for each proxy and prints; whether all keep the limits.
pub(crate) fn run(lab: &mut Lab, installed: &[Installed]) -> Outcome<bool> {
    need("valgrind")?;
    need("strace")?;
    println!("| per keep-alive GET | user instructions | system calls | limits |\n|---|---|---|---|");
    let mut good = true;
    let mut details = String::new();
    for installed in installed {
        let name = installed.kind.name();
        let short = profile(lab, installed, SHORT)?;
        let long = profile(lab, installed, LONG)?;
        let instructions = (long as f64 - short as f64) / (LONG - SHORT) as f64;
        if instructions < INSTRUCTIONS_MIN {
            return Err(Failure(format!("{name}: the profile lacks the process that serves ({short}, {long})")));
        }
        let calls = trace(lab, installed)?;
        let system_calls = calls.iter().map(|(_, count)| *count).sum::<u64>() as f64 / TRACED as f64;
        let kept = instructions <= INSTRUCTIONS_MAX && system_calls <= SYSTEM_CALLS_MAX;
        good &= kept;
        let verdict = if kept { "kept" } else { "BROKEN" };
        println!("| {name} | {instructions:.0} | {system_calls:.2} | {verdict} |");
        let frequent: Vec<String> = calls
            .iter()
            .map(|(call, count)| (call, *count as f64 / TRACED as f64))
            .filter(|(_, per_request)| *per_request >= 0.01)
            .map(|(call, per_request)| format!("{call} {per_request:.2}"))
            .collect();
        details += &format!("- {name}: {}\n", frequent.join(", "));
    }
    println!("\nLimits: {INSTRUCTIONS_MAX:.0} instructions, {SYSTEM_CALLS_MAX} system calls.\n{details}");
    Ok(good)
}

/// Instructions of a whole life with `requests` requests.
fn profile(lab: &mut Lab, installed: &Installed, requests: u64) -> Outcome<u64> {
    let mut launch = Launch::new(installed.kind, &installed.program);
    launch.wrapper =
        &["valgrind", "--tool=callgrind", "--trace-children=no", "--callgrind-out-file={{scratch}}/callgrind.%p"];
    launch.patience = Duration::from_secs(90);
    let mut running = launch.start(lab)?;
    lab.run(&plan(&running, requests, PROFILED_CONNECTIONS), &mut |_| {})?;
    running.end()?;
    // A proxy with several processes leaves a profile of each.
    let mut sum = 0;
    for entry in fs::read_dir(running.scratch.path())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("callgrind.")) {
            let text = fs::read(&path).because(|| path.display().to_string())?;
            sum += callgrind::instructions(&String::from_utf8_lossy(&text)).map_err(Failure)?;
        }
    }
    if sum == 0 { Err(Failure::new("callgrind left no profile")) } else { Ok(sum) }
}

/// System calls of `TRACED` requests on open connections.
fn trace(lab: &mut Lab, installed: &Installed) -> Outcome<Vec<(String, u64)>> {
    let running = Launch::new(installed.kind, &installed.program).start(lab)?;
    lab.run(&plan(&running, TRACED_WARM, TRACED_CONNECTIONS), &mut |_| {})?;
    let summary = running.scratch.path().join("strace");
    let processes = running.processes()?;
    let mut command = Command::new(need("strace")?);
    command.args(["-f", "-c", "-o"]).arg(&summary).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for process in &processes {
        command.args(["-p", &process.to_string()]);
    }
    let mut tracer = Guard::start(&mut command, CPU_PROXY)?;
    wait_until_traced(&processes, &mut tracer)?;
    lab.run(&plan(&running, TRACED, TRACED_CONNECTIONS), &mut |_| {})?;
    // Interrupted, strace lets go of the proxy and writes its summary.
    tracer.end(Signal::INT, Duration::from_secs(10))?;
    strace::calls(&fs::read_to_string(&summary).because(|| summary.display().to_string())?).map_err(Failure)
}

fn wait_until_traced(processes: &[u32], tracer: &mut Guard) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_traced = |status: String| !status.lines().any(|line| line == "TracerPid:\t0");
    loop {
        let mut all = true;
        for process in processes {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                all &= is_traced(fs::read_to_string(task?.path().join("status"))?);
            }
        }
        if all {
            return Ok(());
        }
        tracer.check()?;
        if Instant::now() > deadline {
            return Err(Failure::new("strace did not attach"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn plan(running: &Running, requests: u64, connections: usize) -> Plan {
    Plan {
        target: running.target,
        requests: vec![standard_get()],
        arrival: Arrival::Saturated { in_flight: connections },
        connections: Connections::Kept(connections),
        span: Span::Count(requests),
        time_max: Duration::from_secs(180),
        keep_open: false,
    }
}
