//! A child process, which is this program: its start, what it says, and its end. Who starts it again is others' business. Cold.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, PipeWriter};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::events::Events;

/// Of what it said, as much is told when it ends badly.
const LAST_LINES: usize = 3;

/// What all children are started with.
pub struct Stage {
    /// Where everything is kept.
    pub folder: PathBuf,
    /// Held by each child: the folder is swept when nobody does.
    pub pipe: PipeWriter,
    /// Where they are heard.
    pub events: Arc<Events>,
}

/// A running child, or one that has ended. When nobody knows it any more, it is killed.
pub struct Child {
    signals: UnboundedSender<Signal>,
    exit: watch::Receiver<Option<ExitStatus>>,
    words: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts it by the thread of the runtime, with whose end it ends.
    pub fn start(stage: &Stage, name: &str, args: Vec<OsString>) -> io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--ends-with", &std::process::id().to_string()]).args(args);
        // What the terminal sends to `up` is not for its children: they are ended in order.
        command.process_group(0).kill_on_drop(true);
        command.stdin(stage.pipe.try_clone()?).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let words = Arc::default();
        let stderr = child.stderr.take().expect("it is piped");
        let heard = tokio::spawn(hear(stderr, name.to_owned(), stage.events.clone(), Arc::clone(&words)));
        let (signals, told) = unbounded_channel();
        let (exited, exit) = watch::channel(None);
        tokio::spawn(keep(child, heard, told, exited));
        Ok(Child { signals, exit, words })
    }

    /// Sends a signal to it, if it runs.
    pub fn signal(&self, signal: Signal) {
        let _ = self.signals.send(signal);
    }

    /// Comes when it has ended.
    pub async fn ended(&self) -> String {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.map_or("it cannot be waited for".into(), |status| status.to_string())
    }

    /// Whether it has.
    pub fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// The last that it said.
    pub fn last_words(&self) -> String {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Hands signals on as long as its number is its own, which is until it was waited for.
async fn keep(
    mut child: tokio::process::Child,
    heard: JoinHandle<()>,
    mut signals: UnboundedReceiver<Signal>,
    exited: watch::Sender<Option<ExitStatus>>,
) {
    loop {
        tokio::select! {
            status = child.wait() => {
                // Its last words come first.
                let _ = heard.await;
                exited.send_replace(status.ok());
                return;
            }
            signal = signals.recv() => {
                let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                if let Some(pid) = pid {
                    let _ = kill_process(pid, signal.unwrap_or(Signal::KILL));
                }
                if signal.is_none() {
                    exited.send_replace(child.wait().await.ok());
                    return;
                }
            }
        }
    }
}

async fn hear(stderr: ChildStderr, name: String, events: Arc<Events>, words: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        events.hear(&name, &line);
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_back(line);
        if words.len() > LAST_LINES {
            words.pop_front();
        }
    }
}
