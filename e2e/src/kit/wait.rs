//! Waiting for a condition instead of a time. Cold.

use std::time::{Duration, Instant};

/// How long anything may take that should take no time; a test that waits for so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is there, and tells how long that took. Panics after `PATIENCE`.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> (T, Duration) {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return (answer, started.elapsed());
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
