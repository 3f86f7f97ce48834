//! Child processes that end with their guard, on the CPU they belong to, and directories that vanish with theirs.
//! What runs in them is decided by `peers` and `bench`. Cold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{Because, Failure, Outcome};

/// The CPU of the proxy under test.
pub const CPU_PROXY: usize = 0;
/// The CPU of generator and backend.
pub const CPU_LOAD: usize = 1;

/// A child that is asked to end, then killed, by its own handle, at the latest when the guard is dropped.
pub struct Guard {
    child: Child,
    ended: bool,
}

impl Guard {
    /// Starts `command` on one CPU.
    pub fn start(command: &mut Command, cpu: usize) -> Outcome<Guard> {
        // A child inherits the affinity of the thread that starts it; pinning it before its first instruction in any
        // other way would take unsafe code.
        let before = sched_getaffinity(None)?;
        pin_to(cpu)?;
        let child = command.spawn().because(|| format!("starting {}", command.get_program().to_string_lossy()));
        sched_setaffinity(None, &before)?;
        Ok(Guard { child: child?, ended: false })
    }

    /// Starts `command` wherever the scheduler likes it.
    pub fn start_anywhere(command: &mut Command) -> Outcome<Guard> {
        let child = command.spawn().because(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        Ok(Guard { child, ended: false })
    }

    /// The id of the child.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs; `Err` with its exit status when it does not.
    pub fn check(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                self.ended = true;
                Err(Failure(format!("process {} ended early: {status}", self.child.id())))
            }
        }
    }

    /// Sends `signal` and waits up to `patience`; `None` when the child had to be killed.
    pub fn end(&mut self, signal: Signal, patience: Duration) -> Outcome<Option<ExitStatus>> {
        if !self.ended {
            // The child is not yet waited for, so the id is still its own.
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        self.wait(patience)
    }

    /// Waits up to `patience` for the child to end by itself, then kills it.
    pub fn wait(&mut self, patience: Duration) -> Outcome<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()?;
        self.ended = true;
        Ok(None)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.ended {
            // nginx's master must get the chance to end its worker, hence first the signal that asks.
            let _ = self.end(Signal::TERM, Duration::from_secs(3));
        }
    }
}

/// Pins the calling thread to one CPU.
pub fn pin_to(cpu: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).because(|| format!("pinning to CPU {cpu}"))
}

/// A directory of our own under the system's temporary directory, removed with the guard.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Creates it; `name` only helps a person who looks.
    pub fn create(name: &str) -> Outcome<Scratch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("evenkeel-e2e-{}-{number}-{name}", std::process::id()));
        fs::create_dir(&path).because(|| format!("creating {}", path.display()))?;
        Ok(Scratch { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one file into it.
    pub fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).because(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_ends_its_child_and_a_scratch_its_directory() {
        let scratch = Scratch::create("test").unwrap();
        let path = scratch.write("a", "b").unwrap();
        drop(scratch);
        assert!(!path.exists());

        let guard = Guard::start(Command::new("sleep").arg("60"), CPU_PROXY).unwrap();
        let proc_path = PathBuf::from(format!("/proc/{}", guard.id()));
        assert!(proc_path.exists());
        drop(guard);
        assert!(!proc_path.exists());
    }
}
