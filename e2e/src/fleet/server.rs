//! The control server of a fleet, as a process, and what is asked of it. Cold.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

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
}

impl Server {
    /// Starts one that knows nothing.
    pub fn start() -> Outcome<Server> {
        let [api, xds] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let folder = Scratch::create("fleet")?;
        let guard = start(&folder, api, xds)?;
        Ok(Server { guard, folder, api, xds })
    }

    /// Kills it, and starts the next one at the same place.
    pub fn restart(&mut self) -> Outcome<()> {
        self.guard.end(Signal::KILL, Duration::from_secs(5))?;
        self.guard = start(&self.folder, self.api, self.xds)?;
        Ok(())
    }

    /// Makes changes, and tells their revision.
    pub async fn apply(&self, documents: &str) -> Outcome<u64> {
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

fn start(folder: &Scratch, api: SocketAddr, xds: SocketAddr) -> Outcome<Guard> {
    let mut command = Command::new(evenkeel());
    // The bound on what one client may ask is not what is measured.
    command
        .args(["control", "--plaintext", "--requests-per-second", "100000", "--data"])
        .arg(folder.path().join("data"));
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
