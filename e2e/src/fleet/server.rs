//! The control server of a fleet, as a process, and what is asked of it. Cold.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::line::Way;
use crate::fleet::shop::{self, Size};
use crate::kit::{Peer, evenkeel, free_port, until};
use crate::process::{Guard, Scratch};
use crate::{Because, Failure, Outcome, procfs};

/// Clients that change endpoints at the same time.
const WRITERS: usize = 32;

/// A control server.
pub struct Server {
    guard: Guard,
    folder: Scratch,
    /// Where the REST API is.
    pub api: SocketAddr,
    /// Where proxies connect.
    pub xds: SocketAddr,
    is_tls: bool,
}

impl Server {
    /// Starts one that knows nothing, with TLS or in plaintext.
    pub fn start(is_tls: bool) -> Outcome<Server> {
        let [api, xds] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let folder = Scratch::create("fleet")?;
        let guard = start(&folder, api, xds, is_tls)?;
        Ok(Server { guard, folder, api, xds, is_tls })
    }

    /// Kills it, and starts the next one at the same place.
    pub fn restart(&mut self) -> Outcome<()> {
        self.guard.end(Signal::KILL, Duration::from_secs(5))?;
        self.guard = start(&self.folder, self.api, self.xds, self.is_tls)?;
        Ok(())
    }

    /// How proxies reach it.
    pub fn way(&self) -> Outcome<Way> {
        if !self.is_tls {
            return Ok(Way::plain(self.xds));
        }
        let data = self.folder.path().join("data");
        let token = std::fs::read_to_string(data.join("admin.token")).because(|| "the token".to_owned())?;
        Way::tls(self.xds, &data.join("ca.crt"), token.trim())
    }

    /// Makes changes, and tells their revision once they are in force everywhere, as control sees it.
    pub async fn apply_and_wait(&self, documents: &str) -> Outcome<u64> {
        let mut command = self.apply_command();
        command.args(["--wait", "--timeout", "120s"]);
        run(command, documents.to_owned()).await
    }

    fn apply_command(&self) -> Command {
        let mut command = Command::new(evenkeel());
        let scheme = if self.is_tls { "https" } else { "http" };
        command.args(["apply", "-f", "-", "-o", "json", "--server", &format!("{scheme}://{}", self.api)]);
        if self.is_tls {
            command.arg("--data").arg(self.folder.path().join("data"));
        }
        command
    }

    /// Makes changes, and tells their revision.
    pub async fn apply(&self, documents: &str) -> Outcome<u64> {
        if self.is_tls {
            return run(self.apply_command(), documents.to_owned()).await;
        }
        let (api, documents) = (self.api, documents.to_owned());
        tokio::task::spawn_blocking(move || apply(&mut Peer::connect(api), &documents))
            .await
            .because(|| "a change".to_owned())?
    }

    /// Changes endpoints of Services that one Gateway uses, so many times a second. Returns how many changes were stored.
    pub async fn churn(&self, size: Size, per_second: usize, time: Duration) -> Outcome<u64> {
        let begun = Instant::now();
        let total = (per_second as u64) * time.as_secs();
        let writer = |writer: u64| {
            let api = self.api;
            tokio::task::spawn_blocking(move || -> Outcome<u64> {
                let mut peer = Peer::connect(api);
                let mut stored = 0;
                for number in (writer..total).step_by(WRITERS) {
                    let due = begun + Duration::from_secs_f64(number as f64 / per_second as f64);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let place = number as usize;
                    let name = shop::own(place % size.gateways, place / size.gateways % shop::OWN);
                    apply(&mut peer, &shop::service(&name, size.endpoints, 7 + number))?;
                    stored += 1;
                }
                Ok(stored)
            })
        };
        let writers: Vec<_> = (0..WRITERS as u64).map(writer).collect();
        let mut stored = 0;
        for writer in writers {
            stored += writer.await.because(|| "a writer".to_owned())??;
        }
        Ok(stored)
    }

    /// Time on a CPU so far.
    pub fn cpu(&self) -> Outcome<Duration> {
        Ok(Duration::from_nanos(procfs::cpu_ns(&[self.guard.id()])?))
    }

    /// Resident memory.
    pub fn resident_kib(&self) -> Outcome<u64> {
        procfs::resident_kib(self.guard.id())
    }
}

/// What the command line says of a change: its revision.
async fn run(mut command: Command, documents: String) -> Outcome<u64> {
    let output = tokio::task::spawn_blocking(move || -> Outcome<Output> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().expect("it has one").write_all(documents.as_bytes())?;
        Ok(child.wait_with_output()?)
    });
    let output = output.await.because(|| "a change".to_owned())??;
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let said = || Failure(format!("evenkeel apply: {}", String::from_utf8_lossy(&output.stderr)));
    value["revision"].as_u64().filter(|_| output.status.success()).ok_or_else(said)
}

fn start(folder: &Scratch, api: SocketAddr, xds: SocketAddr, is_tls: bool) -> Outcome<Guard> {
    let mut command = Command::new(evenkeel());
    // The bound on what one client may ask is not what is measured.
    command
        .args(["control", "--requests-per-second", "100000", "--data"])
        .arg(folder.path().join("data"))
        .args((!is_tls).then_some("--plaintext"));
    command.args(["--listen", &api.to_string(), "--xds", &xds.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
    let log = std::fs::File::create(folder.path().join("log"))?;
    let guard = Guard::start_anywhere(command.stderr(log))?;
    until("a control server that answers", || Peer::try_connect(api).ok());
    Ok(guard)
}

/// Makes changes, and tells their revision.
pub fn apply(peer: &mut Peer, documents: &str) -> Outcome<u64> {
    let length = documents.len();
    peer.send(format!("POST /api/v1/objects HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{documents}"));
    let answer = peer.read().map_err(|ended| Failure(format!("control: {ended:?}")))?;
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    value["revision"].as_u64().ok_or_else(|| Failure(format!("control: {} {}", answer.status(), answer.text())))
}
