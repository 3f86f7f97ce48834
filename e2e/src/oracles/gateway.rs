//! Gateways of others with our backend behind them: a request is accepted if something of it reaches the backend, and
//! a second request behind it shows where they think it ends. Cold.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{Failure, Outcome, need};

use super::backend::Backend;
use super::ours::Ours;
use super::reading::{Reading, Verdict};

/// A running gateway; process and files end with this.
pub(super) struct Gateway {
    address: SocketAddr,
    backend: Backend,
    child: Child,
    scratch: PathBuf,
}

/// What follows every request.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: next\r\nConnection: close\r\n\r\n";
/// A gateway that is silent so long waits for more.
const PATIENCE: Duration = Duration::from_millis(250);

impl Gateway {
    /// HAProxy with its defaults.
    pub fn haproxy() -> Outcome<Gateway> {
        let program = need("haproxy")?;
        Gateway::start("haproxy.cfg", include_str!("haproxy.cfg"), |file, _| {
            let mut command = Command::new(&program);
            command.args(["-q", "-db", "-f"]).arg(file);
            command
        })
    }

    /// nginx with its defaults.
    pub fn nginx() -> Outcome<Gateway> {
        let program = need("nginx")?;
        Gateway::start("nginx.conf", include_str!("nginx.conf"), |file, scratch| {
            let mut command = Command::new(&program);
            command.arg("-p").arg(scratch).arg("-c").arg(file).args(["-e", "stderr"]);
            command
        })
    }

    fn start(name: &str, text: &str, command: impl Fn(&PathBuf, &PathBuf) -> Command) -> Outcome<Gateway> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let scratch = std::env::temp_dir().join(format!("evenkeel-oracles-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&scratch)?;
        let backend = Backend::start()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = scratch.join(name);
        let text = text.replace("{{listen}}", &address.to_string());
        std::fs::write(&file, text.replace("{{backend}}", &backend.address.to_string()))?;
        let mut command = command(&file, &scratch);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let gateway = Gateway { address, backend, child, scratch };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                return Err(Failure(format!("{name}: nothing listens on {address}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(gateway)
    }

    /// Its opinion on the first request of `input`, as read from what reached the backend. `end` is 0 if the
    /// request behind it was understood too, and its place unknown if the connection had ended.
    pub fn judge(&mut self, input: &[u8]) -> io::Result<Verdict> {
        self.backend.take();
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        // It may refuse before it has read all.
        let _ = stream.write_all(&[input, NEXT].concat());
        let mut answers = Vec::new();
        let is_waiting = stream.read_to_end(&mut answers).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let requests = self.backend.take();
        let Some(first) = requests.first().filter(|first| !is_next(first)) else {
            return Ok(if is_waiting && answers.is_empty() {
                Verdict::Unfinished
            } else {
                Verdict::Refused(String::from_utf8_lossy(answers.get(9..12).unwrap_or(b"close")).into_owned())
            });
        };
        Ok(match Ours::of(first).sent {
            Verdict::Accepted(reading) => {
                let end = requests.get(1).map(|second| usize::from(!is_next(second)));
                Verdict::Accepted(Reading { end, ..reading })
            }
            _ => Verdict::Refused(format!("sends on what we refuse: {}", first.escape_ascii())),
        })
    }
}

fn is_next(request: &[u8]) -> bool {
    request.starts_with(b"GET /next ")
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // What is gone already needs no removal.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}
