//! What the kernel says about CPU time and memory: schedstat, /proc/stat, VmRSS. Judging the figures is `bench::cell`'s
//! business. Cold.

use std::fs;

use crate::{Because, Failure, Outcome};

/// Length of one tick of /proc/stat in milliseconds: USER_HZ is 100 on every Linux that Debian ships.
pub const TICK_MS: u64 = 10;

/// CPU ticks of one CPU since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Everything, idle included.
    pub total: u64,
    /// Idle, and idle waiting for a disk.
    pub idle: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
}

/// A process and all its descendants, parents first.
pub fn family(root: u32) -> Outcome<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that ends meanwhile is no descendant worth counting.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat"))
            && let Some(parent) = parent_in(&stat)
        {
            parents.push((id, parent));
        }
    }
    let mut members = vec![root];
    let mut next = 0;
    while let Some(&member) = members.get(next) {
        members.extend(parents.iter().filter(|(_, parent)| *parent == member).map(|(id, _)| *id));
        next += 1;
    }
    Ok(members)
}

/// Nanoseconds on a CPU of all threads of the processes.
pub fn cpu_ns(processes: &[u32]) -> Outcome<u64> {
    let mut sum_ns = 0;
    for process in processes {
        let tasks = format!("/proc/{process}/task");
        for task in fs::read_dir(&tasks).because(|| tasks.clone())? {
            let path = task?.path().join("schedstat");
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            sum_ns += running_ns_in(&text).ok_or_else(|| Failure(format!("{}: {text:?}", path.display())))?;
        }
    }
    Ok(sum_ns)
}

/// Resident set of a process in KiB.
pub fn resident_kib(process: u32) -> Outcome<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).because(|| path.clone())?;
    resident_kib_in(&text).ok_or_else(|| Failure(format!("{path} has no VmRSS")))
}

/// The ticks of every CPU, by number.
pub fn ticks() -> Outcome<Vec<Ticks>> {
    Ok(ticks_in(&fs::read_to_string("/proc/stat")?))
}

fn running_ns_in(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

fn parent_in(stat: &str) -> Option<u32> {
    // The name in parentheses may hold anything, so fields count from the last parenthesis: state, then parent.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn resident_kib_in(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_ascii_whitespace().next()?.parse().ok()
}

fn ticks_in(stat: &str) -> Vec<Ticks> {
    let mut all = Vec::new();
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        // The line "cpu" sums up all the others.
        if !words.next().is_some_and(|name| name.starts_with("cpu") && name != "cpu") {
            continue;
        }
        // user nice system idle iowait irq softirq steal; guest time after them is part of user time.
        let fields: Vec<u64> = words.take(8).filter_map(|word| word.parse().ok()).collect();
        if let [_, _, _, idle, waiting, _, _, steal] = fields[..] {
            all.push(Ticks { total: fields.iter().sum(), idle: idle + waiting, steal });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_starts_with_the_time_on_a_cpu() {
        assert_eq!(running_ns_in("28528733 2143432 65\n"), Some(28_528_733));
        assert_eq!(running_ns_in(""), None);
        assert_eq!(running_ns_in("x 1 2"), None);
    }

    #[test]
    fn a_parent_is_read_past_any_name() {
        assert_eq!(parent_in("2363 (bash) S 2362 2363 0"), Some(2362));
        assert_eq!(parent_in("7 (a) b (c) R 3 1"), Some(3));
        assert_eq!(parent_in("7"), None);
    }

    #[test]
    fn resident_memory_is_one_line_of_status() {
        assert_eq!(resident_kib_in("Name:\tx\nVmHWM:\t 9 kB\nVmRSS:\t    3980 kB\n"), Some(3980));
        assert_eq!(resident_kib_in("Name:\tkthread\n"), None);
    }

    #[test]
    fn ticks_are_read_for_every_cpu_and_not_for_their_sum() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 388 0 573 84629 9 0 6 8 0 0\ncpu1 1 2 3 4 5 6 7 8 9 9\nintr 5\n";
        let expected = [Ticks { total: 85613, idle: 84638, steal: 8 }, Ticks { total: 36, idle: 9, steal: 8 }];
        assert_eq!(ticks_in(stat), expected);
    }

    #[test]
    fn our_own_family_has_time_and_memory() {
        let family = family(std::process::id()).unwrap();
        assert_eq!(family[0], std::process::id());
        assert!(cpu_ns(&family[..1]).unwrap() > 0);
        assert!(resident_kib(family[0]).unwrap() > 0);
    }
}
