//! A sidecar as a process, and what the kubelet asks of it. The only place that knows the command line and the probe port of
//! `evenkeel proxy`. Cold.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::ask::ask;
use crate::kit::{evenkeel, free_port};
use crate::process::{Guard, Scratch};
use crate::{Because, Failure, Outcome};

/// From the order to go to the end of all patience, as the sidecar knows it.
const DRAIN_WITHIN: Duration = Duration::from_secs(27);
/// A pod's grace after that order: who is still there is killed.
const GRACE: Duration = Duration::from_secs(30);
/// Whoever may ask for a drain knows this.
const TOKEN: &str = "the-kubelet-knows-this-word";
/// Of what it said, as much is told when it ends badly.
const LAST_LINES: usize = 5;

/// A running sidecar.
pub(super) struct Sidecar {
    guard: Guard,
    log: PathBuf,
    pub(super) places: Places,
}

/// Where a sidecar listens; its app calls the next service through `outbound`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) inbound: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) probe: SocketAddr,
    metrics: SocketAddr,
}

impl Places {
    pub(super) fn free() -> Places {
        let [inbound, outbound, probe, metrics] =
            [(); 4].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        Places { inbound, outbound, probe, metrics }
    }
}

impl Sidecar {
    /// Starts the sidecar of an instance whose app is there.
    pub(super) fn start(
        folder: &Scratch,
        control: SocketAddr,
        service: &str,
        name: &str,
        app: SocketAddr,
        places: Places,
    ) -> Outcome<Sidecar> {
        let Places { inbound, outbound, probe, metrics } = places;
        let token = folder.write("drain.token", TOKEN)?;
        let log = folder.path().join(format!("{name}.log"));
        let mut command = Command::new(evenkeel());
        command.args(["proxy", "--control", &control.to_string(), "--namespace", "default"]);
        command.args(["--service", service, "--instance", name, "--app", &app.to_string()]);
        command.args(["--inbound", &inbound.to_string(), "--outbound", &outbound.to_string()]);
        command.args(["--probe", &probe.to_string(), "--drain-within", &DRAIN_WITHIN.as_secs().to_string()]);
        command.args(["--metrics", &metrics.to_string()]);
        command.arg("--drain-token-file").arg(token);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let guard = Guard::start_anywhere(&mut command)?;
        Ok(Sidecar { guard, log, places })
    }

    /// Whether it still runs; an error tells its last words.
    pub(super) fn check(&mut self) -> Outcome<()> {
        self.guard.check().because(|| self.last_words())
    }

    /// `GET /drain`, as a preStop hook does: answered when it is drained.
    pub(super) fn drain(&self) -> Outcome<()> {
        let (status, body) =
            ask(self.places.probe, "GET /drain", &format!("Authorization: Bearer {TOKEN}\r\n"), "", GRACE)?;
        let is_told = serde_json::from_str::<serde_json::Value>(&body).is_ok_and(|told| told.is_object());
        if status == 200 && is_told { Ok(()) } else { Err(Failure(format!("GET /drain: {status} {body}"))) }
    }

    /// SIGTERM, and its end. An error: it had to be killed, or says that it failed.
    pub(super) fn end(&mut self) -> Outcome<()> {
        match self.guard.end(Signal::TERM, GRACE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Failure(format!("{status}: {}", self.last_words()))),
            None => Err(Failure(format!("killed after {GRACE:?}: {}", self.last_words()))),
        }
    }

    /// Requests that it has sent again. None: it does not tell.
    pub(super) fn replays(&self) -> Option<u64> {
        let (status, text) = ask(self.places.metrics, "GET /metrics", "", "", Duration::from_secs(2)).ok()?;
        (status == 200).then(|| sum_of(&text, "evenkeel_retries_total"))
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join(" | ")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // At the end of a run nobody is to be waited for.
        let _ = self.guard.end(Signal::KILL, Duration::from_secs(1));
    }
}

/// The sum of all samples of a name.
fn sum_of(metrics: &str, name: &str) -> u64 {
    let values = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::Backend;

    /// What is told of a drain, and of the end after it, of a sidecar that is this script.
    fn check(script: &str, answer: &str, expected: [&str; 2]) {
        let folder = Scratch::create("sidecar").unwrap();
        let log = folder.write("log", "one\ntwo\n").unwrap();
        let answer = format!("HTTP/1.1 {answer}");
        let of_script = answer.clone();
        let backend = Backend::start(move |served| {
            served.request();
            served.peer.send(&of_script);
        });
        let (mut started, stdout) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(stdout);
        let guard = Guard::start_anywhere(&mut command).unwrap();
        drop(command);
        // It says a word when it is ready to be told.
        std::io::Read::read_exact(&mut started, &mut [0; 1]).unwrap();
        let places = Places { probe: backend.address(), ..Places::free() };
        let mut sidecar = Sidecar { guard, log, places };
        let shown = |outcome: Outcome<()>| outcome.map_or_else(|failure| failure.0, |()| "good".into());
        assert_eq!([shown(sidecar.drain()), shown(sidecar.end())], expected, "{script} {answer}");
        let request = backend.only_request();
        assert_eq!(request.start, "GET /drain HTTP/1.1");
        assert_eq!(request.get("authorization"), Some("Bearer the-kubelet-knows-this-word"));
    }

    #[test]
    fn a_drain_is_answered_with_an_object_and_the_end_is_a_good_one() {
        let obeys = |code: u8| format!("trap 'exit {code}' TERM; echo; while true; do sleep 0.01; done");
        check(&obeys(0), "200 OK\r\nContent-Length: 2\r\n\r\n{}", ["good", "good"]);
        check(&obeys(0), "200 OK\r\nContent-Length: 2\r\n\r\nno", ["GET /drain: 200 no", "good"]);
        check(&obeys(0), "401 No\r\nContent-Length: 2\r\n\r\n{}", ["GET /drain: 401 {}", "good"]);
        let said = "one | two";
        check(&obeys(3), "200 OK\r\nContent-Length: 2\r\n\r\n{}", ["good", &format!("exit status: 3: {said}")]);
        check(
            "echo; exec sleep 60",
            "200 OK\r\nContent-Length: 2\r\n\r\n{}",
            ["good", &format!("signal: 15 (SIGTERM): {said}")],
        );
    }

    #[test]
    fn replays_are_the_sum_of_their_samples() {
        let metrics = "# TYPE a counter\nevenkeel_retries_total 3\nevenkeel_retries_total{x=\"y z\"} 4\nevenkeel_retries_total_b 9\n";
        assert_eq!(sum_of(metrics, "evenkeel_retries_total"), 7);
        assert_eq!(sum_of("", "evenkeel_retries_total"), 0);
    }
}
