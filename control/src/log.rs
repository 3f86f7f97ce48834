//! What control tells of itself: lines on standard error, each with its time. Cold.

use std::fmt;
use std::io::Write as _;

/// Tells a line. Where standard error cannot be written (a full disk, a reader that has gone), nobody hears it, and nothing else
/// depends on that.
pub fn tell(line: impl fmt::Display) {
    plain(format_args!("{} {line}", now()));
}

/// A line without its time: what is wrong with a file, as commands tell it.
pub fn plain(line: impl fmt::Display) {
    // In one write, so that it stays a line where others write there, too.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// To the millisecond.
fn now() -> impl fmt::Display {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
