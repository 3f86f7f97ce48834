//! What ends with `evenkeel up`, however that ends. Children ask the kernel to be killed when the thread that started them is
//! gone: nothing has to be running for that, and it also comes after SIGKILL. The folder is swept by a process of its own, the
//! broom, which hears from a pipe that `up` and all of its children are gone: each of them holds the other end. Cold.

use std::fs;
use std::io::{self, PipeWriter, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// For the broom, once nobody holds the pipe.
const SWEPT_WITHIN: Duration = Duration::from_secs(2);

/// A folder of which nothing is left.
pub struct Leash {
    folder: PathBuf,
    /// None: at its end.
    pipe: Option<PipeWriter>,
    broom: Child,
}

impl Leash {
    /// Makes the folder and none above it: where `TMPDIR` is missing, nothing shall be left behind.
    pub fn make() -> Result<Leash, String> {
        let failed = |error: io::Error| format!("cannot start: {error}");
        let folder = std::env::temp_dir().join(format!("evenkeel-up-{}", std::process::id()));
        let (ours, theirs) = std::io::pipe().map_err(failed)?;
        // What the terminal sends to `up` is not for it, and nobody waits for its output.
        let mut broom = Command::new(std::env::current_exe().map_err(failed)?);
        broom.args(["up", "--sweep"]).arg(&folder).process_group(0);
        let broom = broom.stdin(ours).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(failed)?;
        let leash = Leash { folder, pipe: Some(theirs), broom };
        match fs::DirBuilder::new().mode(0o700).create(&leash.folder) {
            // Of one that was killed with its broom, and had the same number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => {
                created.map_err(|error| format!("cannot create {}: {error} (see TMPDIR)", leash.path().display()))?
            }
        }
        Ok(leash)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// An end of the pipe, for whoever starts children.
    pub fn end(&self) -> io::Result<PipeWriter> {
        self.pipe.as_ref().expect("it is there until the end").try_clone()
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let late = Instant::now() + SWEPT_WITHIN;
        while matches!(self.broom.try_wait(), Ok(None)) && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Where the broom could not do its work: somebody killed it, or a child hangs in the kernel.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What the broom does.
pub fn sweep(folder: &Path) -> ExitCode {
    // Nobody writes: it ends when all are gone.
    let _ = io::stdin().read(&mut [0; 1]);
    let _ = fs::remove_dir_all(folder);
    ExitCode::SUCCESS
}

/// From here on this process is killed when the thread that started it is gone. False: `parent` is gone already.
pub fn end_with(parent: u32) -> bool {
    let is_set = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    is_set && getppid().map(Pid::as_raw_nonzero).is_some_and(|pid| pid.get().unsigned_abs() == parent)
}
