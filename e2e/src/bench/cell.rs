//! One cell: a workload on a proxy, between two readings of the kernel's clocks, again when the machine was busy with
//! something else. Which cells there are is `rounds`' business. Cold.

use std::time::{Duration, Instant};

use super::rounds::Contender;
use crate::Outcome;
use crate::load::{Lab, Latency, Mark, Void};
use crate::process::{CPU_LOAD, CPU_PROXY};
use crate::procfs::{self, TICK_MS, Ticks};

/// Above these the cell is measured again.
const FOREIGN_PERCENT_MAX: f64 = 8.0;
const STEAL_PERCENT_MAX: f64 = 4.0;
/// Measurements of a cell before the least disturbed one counts.
const ATTEMPTS_MAX: u32 = 4;

/// What one cell found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    /// CPU time of all threads of the proxy for each request answered.
    pub(crate) cpu_us: f64,
    pub(crate) per_second: f64,
    /// Of the proxy's CPU, by anybody.
    pub(crate) busy_percent: f64,
    /// By others, on the worse of the two CPUs.
    pub(crate) foreign_percent: f64,
    pub(crate) steal_percent: f64,
    pub(crate) latency: Option<Latency>,
    pub(crate) attempts: u32,
}

impl Cell {
    pub(crate) fn is_quiet(&self) -> bool {
        self.foreign_percent <= FOREIGN_PERCENT_MAX && self.steal_percent <= STEAL_PERCENT_MAX
    }
}

/// Measures until the machine is quiet or patience ends. A wrong answer is never repeated: it is a fact.
pub(crate) fn measure(
    lab: &mut Lab,
    contenders: &[Contender],
    subject: usize,
    time: Duration,
) -> Outcome<Result<Cell, Void>> {
    let mut best: Option<Cell> = None;
    for attempt in 1..=ATTEMPTS_MAX {
        let mut cell = match measure_once(lab, contenders, subject, time)? {
            Ok(cell) => cell,
            Err(void) => return Ok(Err(void)),
        };
        cell.attempts = attempt;
        if best.as_ref().is_none_or(|best| cell.foreign_percent < best.foreign_percent) || cell.is_quiet() {
            best = Some(cell);
        }
        if let Some(best) = &mut best {
            best.attempts = attempt;
            if best.is_quiet() {
                break;
            }
        }
    }
    Ok(Ok(best.expect("there is at least one attempt")))
}

/// All clocks at one moment.
struct Reading {
    at: Instant,
    subject_ns: u64,
    /// The other proxies of the run: idle, but known.
    others_ns: u64,
    generator_ns: u64,
    ticks: Vec<Ticks>,
}

fn measure_once(
    lab: &mut Lab,
    contenders: &[Contender],
    subject: usize,
    time: Duration,
) -> Outcome<Result<Cell, Void>> {
    let contender = &contenders[subject];
    let processes = contender.running.processes()?;
    let mut others = Vec::new();
    for (index, other) in contenders.iter().enumerate() {
        if index != subject {
            others.extend(other.running.processes()?);
        }
    }
    let read = || -> Outcome<Reading> {
        Ok(Reading {
            at: Instant::now(),
            subject_ns: procfs::cpu_ns(&processes)?,
            others_ns: procfs::cpu_ns(&others)?,
            generator_ns: procfs::cpu_ns(&[std::process::id()])?,
            ticks: procfs::ticks()?,
        })
    };
    let (mut start, mut end) = (None, None);
    let plan = contender.workload.plan(contender.running.target, contender.requests.clone(), time);
    let tally = lab.run(&plan, &mut |mark| match mark {
        Mark::Start => start = Some(read()),
        Mark::End => end = Some(read()),
    });
    let tally = match tally {
        Ok(tally) if tally.answered == 0 => return Ok(Err(Void("no request was answered".into()))),
        Ok(tally) => tally,
        Err(void) => return Ok(Err(void)),
    };
    let start = start.expect("a run that ends well has both marks")?;
    let end = end.expect("a run that ends well has both marks")?;
    let mut cell = judge(&start, &end);
    cell.cpu_us = (end.subject_ns - start.subject_ns) as f64 / 1e3 / tally.answered as f64;
    cell.per_second = tally.answered as f64 / tally.elapsed.as_secs_f64();
    cell.latency = tally.latency;
    Ok(Ok(cell))
}

/// Who used the CPUs between two readings.
fn judge(start: &Reading, end: &Reading) -> Cell {
    let wall_ns = (end.at - start.at).as_nanos() as f64;
    let percent = |time_ns: f64| (time_ns / wall_ns * 100.0).max(0.0);
    let ticks_ns = |cpu: usize, field: fn(&Ticks) -> u64| {
        let between = end.ticks.get(cpu).map_or(0, field).saturating_sub(start.ticks.get(cpu).map_or(0, field));
        (between * TICK_MS * 1_000_000) as f64
    };
    // Idle time is exact, while the other fields are sampled once a tick: what is not idle was busy.
    let busy_ns = |cpu| {
        (ticks_ns(cpu, |ticks| ticks.total) - ticks_ns(cpu, |ticks| ticks.idle) - ticks_ns(cpu, |ticks| ticks.steal))
            .min(wall_ns)
    };
    let proxies_ns = (end.subject_ns - start.subject_ns + end.others_ns - start.others_ns) as f64;
    let generator_ns = (end.generator_ns - start.generator_ns) as f64;
    let foreign_ns = (busy_ns(CPU_PROXY) - proxies_ns).max(busy_ns(CPU_LOAD) - generator_ns);
    let steal_ns = ticks_ns(CPU_PROXY, |ticks| ticks.steal).max(ticks_ns(CPU_LOAD, |ticks| ticks.steal));
    Cell {
        busy_percent: percent(busy_ns(CPU_PROXY)),
        foreign_percent: percent(foreign_ns),
        steal_percent: percent(steal_ns),
        ..Cell::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, subject_ns: u64, generator_ns: u64, ticks: [[u64; 3]; 2]) -> Reading {
        let ticks = ticks.map(|[total, idle, steal]| Ticks { total, idle, steal }).to_vec();
        Reading { at, subject_ns, others_ns: 0, generator_ns, ticks }
    }

    #[test]
    fn what_neither_proxy_nor_generator_used_is_foreign() {
        let at = Instant::now();
        let start = reading(at, 0, 0, [[0, 0, 0], [0, 0, 0]]);
        // A second: the proxy 0.7 s of 0.8 s busy, the generator all its 0.5 s, 3 ticks stolen.
        let end = reading(at + Duration::from_secs(1), 700_000_000, 500_000_000, [[100, 20, 0], [100, 47, 3]]);
        let cell = judge(&start, &end);
        assert_eq!(cell.busy_percent, 80.0);
        assert_eq!(cell.foreign_percent.round(), 10.0);
        assert_eq!(cell.steal_percent, 3.0);
        assert!(!cell.is_quiet());
    }
}
