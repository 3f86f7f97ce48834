//! Tells when rule files have changed. The kernel's word is only a hint: after it, the set is left alone
//! until nothing has changed for a moment, since editors and tools write in several steps; and where the kernel
//! says nothing (network file systems), what `stat` tells is compared every second. Cold.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;

/// How long nothing may change before the set counts as whole.
const SETTLE: Duration = Duration::from_millis(50);
/// A set that never comes to rest is read anyway.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How often `stat` is asked.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What `stat` tells of each file: changes whenever the file or what a link points to does.
type Fingerprint = BTreeMap<PathBuf, (u64, u64, i64, i64, u64)>;

/// Watches `paths`, calling `changed` on a thread of its own until it returns false.
pub fn start(paths: Vec<PathBuf>, mut changed: impl FnMut() -> bool + Send + 'static) -> std::io::Result<()> {
    let mut notices = Notices::new();
    notices.watch(&paths);
    let mut known = fingerprint(&paths);
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        loop {
            let hinted = notices.wait(POLL_INTERVAL);
            if hinted {
                let started = Instant::now();
                while notices.wait(SETTLE) && started.elapsed() < SETTLE_MAX {}
            }
            let now = fingerprint(&paths);
            if now != known || hinted {
                known = now;
                notices.watch(&paths);
                if !changed() {
                    return;
                }
            }
        }
    })?;
    Ok(())
}

/// The kernel's notices, where there are any.
struct Notices {
    inotify: Option<OwnedFd>,
}

impl Notices {
    fn new() -> Notices {
        Notices { inotify: inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok() }
    }

    /// Watches the folders in which the files and the targets of links lie: an editor's rename replaces the file, so
    /// that a watch on the file itself would be lost.
    fn watch(&self, paths: &[PathBuf]) {
        let Some(inotify) = &self.inotify else { return };
        let flags = inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::ATTRIB;
        let folder_of = |path: &Path| match path.is_dir() {
            true => path.to_path_buf(),
            false => path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")).to_path_buf(),
        };
        for path in paths {
            let mut folders = vec![folder_of(path)];
            for file in files(path) {
                folders.extend(fs::canonicalize(file).ok().map(|target| folder_of(&target)));
            }
            folders.dedup();
            for folder in folders {
                // A folder that cannot be watched is still looked at every second.
                let _ = inotify::add_watch(inotify, &folder, flags);
            }
        }
    }

    /// Whether something was heard within `timeout`.
    fn wait(&mut self, timeout: Duration) -> bool {
        let Some(inotify) = &self.inotify else {
            std::thread::sleep(timeout);
            return false;
        };
        let timeout =
            rustix::time::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        if !matches!(poll(&mut [PollFd::new(inotify, PollFlags::IN)], Some(&timeout)), Ok(1)) {
            return false;
        }
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut room);
        let mut heard = false;
        while reader.next().is_ok() {
            heard = true;
        }
        heard
    }
}

fn files(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => vec![path.to_path_buf()],
    }
}

fn fingerprint(paths: &[PathBuf]) -> Fingerprint {
    let mut all = Fingerprint::new();
    for file in paths.iter().flat_map(|path| files(path)) {
        // Follows links, so that a swapped target shows.
        if let Ok(stat) = fs::metadata(&file) {
            all.insert(file, (stat.dev(), stat.ino(), stat.mtime(), stat.mtime_nsec(), stat.size()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A watched folder of its own.
    fn watched(name: &str) -> (PathBuf, Receiver<()>) {
        let folder = std::env::temp_dir().join(format!("evenkeel-watch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("a.yaml"), "1").expect("a file");
        let (sender, receiver) = channel();
        start(vec![folder.clone()], move || sender.send(()).is_ok()).expect("a thread");
        (folder, receiver)
    }

    fn check(name: &str, change: impl FnOnce(&Path)) {
        let (folder, changes) = watched(name);
        change(&folder);
        changes.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|_| panic!("{name} was not noticed"));
        // What was written in several steps is told once.
        assert!(changes.recv_timeout(SETTLE).is_err(), "{name} was told twice");
        let _ = fs::remove_dir_all(&folder);
    }

    #[test]
    fn a_file_written_in_place_is_noticed() {
        check("write", |folder| fs::write(folder.join("a.yaml"), "22").expect("a write"));
    }

    #[test]
    fn an_editors_rename_is_noticed() {
        check("rename", |folder| {
            fs::write(folder.join(".a.swp"), "22").expect("a write");
            fs::rename(folder.join(".a.swp"), folder.join("a.yaml")).expect("a rename");
        });
    }

    #[test]
    fn a_set_written_in_steps_is_told_once() {
        check("steps", |folder| {
            for number in 0..20 {
                fs::write(folder.join(format!("{number}.yaml")), "1").expect("a write");
            }
        });
    }

    #[test]
    fn a_config_map_swap_is_noticed() {
        let folder = std::env::temp_dir().join(format!("evenkeel-watch-map-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for version in ["..1", "..2"] {
            fs::create_dir_all(folder.join(version)).expect("a folder");
            fs::write(folder.join(version).join("a.yaml"), version).expect("a file");
        }
        symlink("..1", folder.join("..data")).expect("a link");
        symlink("..data/a.yaml", folder.join("a.yaml")).expect("a link");
        let (sender, receiver) = channel();
        start(vec![folder.clone()], move || sender.send(()).is_ok()).expect("a thread");
        symlink("..2", folder.join("..data_tmp")).expect("a link");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a rename");
        receiver.recv_timeout(Duration::from_secs(10)).expect("the swap was not noticed");
        let _ = fs::remove_dir_all(&folder);
    }
}
