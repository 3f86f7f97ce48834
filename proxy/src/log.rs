//! What people read: events of the process on standard error, and the access log through a bounded ring to
//! a thread of its own, so that a slow disk or terminal never holds a request up. Cold, but for `offer`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait for the log's thread; more are dropped and counted.
const RING_LINES: usize = 16 * 1024;

/// Tells an event of the process: `time level message` on standard error.
pub fn event(level: &str, message: &str) {
    // In one write, so that it stays a line where others write there, too. Nobody to tell that standard error is gone.
    let _ = io::stderr().write_all(format!("{} {level:5} {message}\n", timestamp()).as_bytes());
}

/// How access log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Words a person reads.
    Text,
}

/// What the log's thread is told.
#[derive(Debug)]
enum Message {
    /// Write this line.
    Line(Vec<u8>),
    /// The file was moved away: open its name anew.
    Reopen,
}

/// The way of a line to the log's thread.
#[derive(Debug)]
pub(crate) struct AccessLog {
    pub(crate) format: Format,
    sender: SyncSender<Message>,
    dropped: AtomicU64,
}

impl AccessLog {
    /// Opens the log (`-` is standard output) and starts its thread, which ends with the last sender.
    pub(crate) fn start(target: &Path, format: Format) -> io::Result<AccessLog> {
        let file = open(target)?;
        let target = target.to_path_buf();
        let (sender, receiver) = sync_channel(RING_LINES);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(receiver, file, &target))?;
        Ok(AccessLog { format, sender, dropped: AtomicU64::new(0) })
    }

    /// Hands a line over, or drops it when the ring is full.
    pub(crate) fn offer(&self, line: Vec<u8>) {
        if self.sender.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Opens the file anew, after logrotate or its like moved it away. Waits for room in the ring.
    pub(crate) fn reopen(&self) {
        // The thread lives as long as this sender.
        let _ = self.sender.send(Message::Reopen);
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

fn open(target: &Path) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target.as_os_str() == "-" {
        true => Box::new(io::stdout()),
        false => Box::new(OpenOptions::new().create(true).append(true).open(target)?),
    })
}

fn write_lines(receiver: Receiver<Message>, mut file: Box<dyn Write + Send>, target: &Path) {
    const BATCH_BYTES: usize = 64 * 1024;
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    let mut failed = false;
    while let Ok(first) = receiver.recv() {
        let mut reopen = false;
        for message in std::iter::once(first).chain(receiver.try_iter()) {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Reopen => reopen = true,
            }
            if reopen || batch.len() >= BATCH_BYTES {
                break;
            }
        }
        let result = file.write_all(&batch).and_then(|()| file.flush());
        if let (Err(error), false) = (&result, failed) {
            event("error", &format!("access log: {error}; lines are lost until it can be written again"));
        }
        failed = result.is_err();
        batch.clear();
        if reopen {
            match open(target) {
                Ok(opened) => file = opened,
                Err(error) => event("error", &format!("access log: {error}; the old file is written on")),
            }
        }
    }
}

/// Now as RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Now as IMF-fixdate for `Date` (RFC 9110 5.6.7), and how long it is right.
pub(crate) fn http_date() -> (String, Duration) {
    let now = jiff::Timestamp::now();
    let text = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&now)
        .expect("the years of this clock can be written");
    (text, Duration::from_nanos(1_000_000_000 - now.subsec_nanosecond().clamp(0, 999_999_999) as u64))
}
