//! Who was connected before this server started, and is still to come back: a server that has just started knows of nobody,
//! and that nobody lacks anything would be no answer. The names are in a file, written whenever somebody has come or gone;
//! they are words for people, and what is lost with them is a wait. Cold.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For proxies to come back: they try at least every ten seconds. Where there are very many it takes longer, and it is waited
/// for as long as they keep coming.
const BACK_WITHIN: Duration = Duration::from_secs(15);
const NEXT_WITHIN: Duration = Duration::from_secs(5);
/// For the last of them.
const BACK_MAX: Duration = Duration::from_secs(60);
/// From one look at who is connected to the next.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Names that are kept.
const NAMES_MAX: usize = 100_000;

/// Those that are missing. Time is an argument.
#[derive(Debug)]
pub(crate) struct Awaited {
    started: Instant,
    /// When the last of them came back.
    came: Instant,
    missing: BTreeSet<Arc<str>>,
}

impl Awaited {
    pub(crate) fn new(connected_before: BTreeSet<Arc<str>>, started: Instant) -> Awaited {
        Awaited { started, came: started, missing: connected_before }
    }

    /// Somebody is back, or new. Tells whether that was one of them.
    pub(crate) fn on_come(&mut self, id: &str, now: Instant) -> bool {
        let is_one = self.missing.remove(id);
        if is_one {
            self.came = now;
        }
        is_one
    }

    /// Whoever is not back by now is not waited for any more, and is told, once.
    pub(crate) fn on_time(&mut self, now: Instant) -> BTreeSet<Arc<str>> {
        let [since_start, since_last] = [self.started, self.came].map(|time| now.saturating_duration_since(time));
        let is_over = since_start >= BACK_MAX || since_start >= BACK_WITHIN && since_last >= NEXT_WITHIN;
        if is_over { std::mem::take(&mut self.missing) } else { BTreeSet::new() }
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
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(text.as_bytes())?;
        drop(file);
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
        // Whoever comes, and when, in milliseconds; who is left then, and whether that is news.
        for (after, come, is_news, expected) in [
            (0, None, false, "a b c"),
            (1, Some("b"), true, "a c"),
            (2, Some("b"), false, "a c"),
            (3, Some("new"), false, "a c"),
            (14_000, Some("a"), true, "c"),
            (15_000, None, false, "c"),
            (18_999, None, false, "c"),
            (19_000, None, true, ""),
            (20_000, None, false, ""),
        ] {
            let now = start + Duration::from_millis(after);
            let seen = match come {
                None => !awaited.on_time(now).is_empty(),
                Some(id) => awaited.on_come(id, now),
            };
            assert_eq!((seen, &*left(&awaited)), (is_news, expected), "{after}");
        }
        // However they trickle in, there is an end.
        let mut awaited = Awaited::new((0..100).map(|number| format!("{number:02}").into()).collect(), start);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            assert!(awaited.on_come(&format!("{second:02}"), now) && awaited.on_time(now).is_empty(), "{second}");
        }
        assert_eq!((awaited.on_time(start + BACK_MAX).len(), awaited.missing().len()), (40, 0));
    }
}
