//! Who was connected before this server started, and is still to come back: a server that has just started knows of nobody,
//! and that nobody lacks anything would be no answer. The names are in a file, written whenever somebody has come or gone;
//! they are words for people, and what is lost with them is a wait. Cold.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For proxies to come back: they try at least every ten seconds.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(15);
/// From one look at who is connected to the next.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Names that are kept.
const NAMES_MAX: usize = 100_000;

/// Those that are missing. Time is an argument.
#[derive(Debug)]
pub(crate) struct Awaited {
    started: Instant,
    missing: BTreeSet<Arc<str>>,
}

impl Awaited {
    pub(crate) fn new(connected_before: BTreeSet<Arc<str>>, started: Instant) -> Awaited {
        Awaited { started, missing: connected_before }
    }

    /// Somebody is back, or new. Tells whether that was one of them.
    pub(crate) fn on_come(&mut self, id: &str) -> bool {
        self.missing.remove(id)
    }

    /// Whoever is not back by now is not waited for. Tells whether that is news.
    pub(crate) fn on_time(&mut self, now: Instant) -> bool {
        let is_over = now.saturating_duration_since(self.started) >= BACK_WITHIN && !self.missing.is_empty();
        if is_over {
            self.missing.clear();
        }
        is_over
    }

    pub(crate) fn missing(&self) -> &BTreeSet<Arc<str>> {
        &self.missing
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }
}

/// The file.
pub(crate) struct Names(PathBuf);

impl Names {
    pub(crate) fn of(folder: &Path) -> Names {
        Names(folder.join("connected"))
    }

    /// Who was connected when it was written last. Where it cannot be read nobody is waited for.
    pub(crate) fn load(&self) -> BTreeSet<Arc<str>> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter(|line| !line.is_empty()).take(NAMES_MAX).map(Arc::from).collect()
    }

    /// Written anew, as a whole. It need not outlive the machine: proxies of it would not, either.
    pub(crate) fn store(&self, names: &BTreeSet<Arc<str>>) -> io::Result<()> {
        let next = self.0.with_extension("next");
        let text: String = names.iter().take(NAMES_MAX).flat_map(|name| [name, "\n"]).collect();
        fs::write(&next, text)?;
        fs::rename(&next, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_there_before_is_waited_for_but_not_for_ever() {
        let folder = std::env::temp_dir().join(format!("evenkeel-awaited-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let names = Names::of(&folder);
        assert!(names.load().is_empty(), "there is no file");
        let all: BTreeSet<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
        names.store(&all).expect("it can be written");
        assert_eq!(names.load(), all);
        fs::remove_dir_all(&folder).expect("it is ours");

        let start = Instant::now();
        let mut awaited = Awaited::new(all, start);
        let left = |awaited: &Awaited| awaited.missing().iter().map(|id| &**id).collect::<Vec<_>>().join(" ");
        for (come, is_one, expected) in [("b", true, "a c"), ("b", false, "a c"), ("new", false, "a c")] {
            assert_eq!((awaited.on_come(come), &*left(&awaited)), (is_one, expected), "{come}");
        }
        for (after, is_news, expected) in [(14_999, false, "a c"), (15_000, true, ""), (16_000, false, "")] {
            let now = start + Duration::from_millis(after);
            assert_eq!((awaited.on_time(now), &*left(&awaited)), (is_news, expected), "{after}");
        }
    }
}
