//! Keeps what is in force on disk, beside everything else: the newest state, one write at a time. Cold.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use config::xds::client::Client;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::copy::{Copy, Folder};
use crate::log::event;

/// How exactly it is known when control was last heard.
const TOUCH_EVERY: Duration = Duration::from_secs(10);

/// What there is to write, and where.
pub(super) struct Keeper {
    folder: Option<Arc<Folder>>,
    /// Something else is in force than is written.
    pub(super) is_due: bool,
    writing: Option<JoinHandle<io::Result<()>>>,
    touched_at: Option<Instant>,
    /// That it does not work; again only after it did.
    is_told: bool,
}

impl Keeper {
    pub(super) fn new(folder: Option<Folder>) -> Keeper {
        Keeper { folder: folder.map(Arc::new), is_due: false, writing: None, touched_at: None, is_told: false }
    }

    /// Looks at what is due.
    pub(super) async fn keep(&mut self, client: &Client, is_connected: bool) {
        let Some(folder) = self.folder.clone() else { return };
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        if let Some(writing) = self.writing.take() {
            // It has ended: nobody waits here.
            match writing.await {
                Ok(Err(error)) => {
                    self.is_due = true;
                    if !std::mem::replace(&mut self.is_told, true) {
                        event("error", &format!("the configuration in force cannot be kept on disk: {error}"));
                    }
                }
                Ok(Ok(())) => {
                    if std::mem::take(&mut self.is_told) {
                        event("info", "the configuration in force is kept on disk again");
                    }
                }
                Err(_) => {}
            }
        }
        if std::mem::take(&mut self.is_due) {
            let held = client.held().iter().map(|(name, held)| (name.clone(), held.clone())).collect();
            let taken_ms = jiff::Timestamp::now().as_millisecond();
            let copy = Copy { revision: client.revision(), taken_ms, held };
            self.writing = Some(tokio::task::spawn_blocking(move || folder.save(&copy)));
        } else if is_connected && self.touched_at.is_none_or(|at| at.elapsed() >= TOUCH_EVERY) {
            self.touched_at = Some(Instant::now());
            self.writing = Some(tokio::task::spawn_blocking(move || match folder.touch() {
                // Nothing has been in force so far.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                touched => touched,
            }));
        }
    }
}
