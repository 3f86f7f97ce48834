//! A running `evenkeel gateway` with its rules in a folder of its own, and everything it tells about itself. It ends
//! with the value. Cold.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::rules::PORT;
use super::{Message, PATIENCE, Peer, Rules, evenkeel, free_port, until};
use crate::process::{Guard, Scratch};
use crate::procfs;

/// The file with the rules.
const RULES: &str = "rules.yaml";

/// How a gateway shall be started.
pub struct Launch {
    yaml: String,
    workers: usize,
    flags: Vec<String>,
    program: Vec<String>,
    cpu: Option<usize>,
    config_map: bool,
    chroot: Option<PathBuf>,
    control: Option<SocketAddr>,
}

/// A gateway.
pub struct Gateway {
    guard: Guard,
    scratch: Scratch,
    port: u16,
    doors: SocketAddr,
}

impl Launch {
    /// With these rules and one worker.
    pub fn new(yaml: impl Into<String>) -> Launch {
        let program = vec![evenkeel().display().to_string(), "gateway".into()];
        let (yaml, flags, cpu, chroot, control) = (yaml.into(), Vec::new(), None, None, None);
        Launch { yaml, workers: 1, flags, program, cpu, config_map: false, chroot, control }
    }

    /// Under a control server, as one of the Gateway that tests have.
    pub fn under(control: SocketAddr) -> Launch {
        Launch::named(control, "default/edge")
    }

    /// Under a control server, as one of this Gateway.
    pub fn named(control: SocketAddr, gateway: &str) -> Launch {
        Launch::of(control).flags(&["--name", gateway])
    }

    /// Under a control server.
    pub(super) fn of(control: SocketAddr) -> Launch {
        Launch { control: Some(control), ..Launch::new("") }
    }

    /// So many workers.
    pub fn workers(mut self, count: usize) -> Launch {
        self.workers = count;
        self
    }

    /// More flags.
    pub fn flags(mut self, flags: &[&str]) -> Launch {
        self.flags.extend(flags.iter().map(|flag| flag.to_string()));
        self
    }

    /// Another program, with the words that stand before the flags.
    pub fn program(mut self, words: &[&str]) -> Launch {
        self.program = words.iter().map(|word| word.to_string()).collect();
        self
    }

    /// On one CPU.
    pub fn on(mut self, cpu: usize) -> Launch {
        self.cpu = Some(cpu);
        self
    }

    /// Its rules lie behind links, as Kubernetes mounts a ConfigMap.
    pub fn config_map(mut self) -> Launch {
        self.config_map = true;
        self
    }

    /// This static binary, by a user without rights, in a root folder with nothing but it and the rules. Needs root.
    pub fn chroot(mut self, binary: &Path, words: &[&str]) -> Launch {
        self.chroot = Some(binary.to_path_buf());
        self.program = words.iter().map(|word| word.to_string()).collect();
        self
    }

    /// Starts it, without waiting for anything.
    pub fn spawn(self) -> Gateway {
        let scratch = Scratch::create("gateway").expect("a folder");
        let port = free_port();
        let doors = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = scratch.path().join("rules");
        fs::create_dir(&folder).expect("a folder");
        let yaml = self.yaml.replace(PORT, &port.to_string());
        if self.config_map {
            link_version(&folder, 1, &yaml);
            symlink(format!("..data/{RULES}"), folder.join(RULES)).expect("a link");
        } else {
            fs::write(folder.join(RULES), yaml).expect("a file");
        }
        let mut command = match &self.chroot {
            None => Command::new(&self.program[0]),
            Some(binary) => {
                fs::copy(binary, scratch.path().join("program")).expect("a copy");
                let mut command = Command::new("chroot");
                command.arg("--userspec=65532:65532").arg(scratch.path()).arg("/program");
                command
            }
        };
        let seen_folder = if self.chroot.is_some() { PathBuf::from("/rules") } else { folder };
        let words = if self.chroot.is_some() { &self.program[..] } else { &self.program[1..] };
        let log = fs::File::create(scratch.path().join("stderr")).expect("a file");
        let out = fs::File::create(scratch.path().join("stdout")).expect("a file");
        command.args(words);
        match self.control {
            None => command.arg("-f").arg(seen_folder),
            Some(control) => command.args(["--control", &control.to_string()]),
        };
        command.args(["--workers", &self.workers.to_string(), "--admin", &doors.to_string()]);
        command.args(self.flags.iter().map(|flag| flag.replace(PORT, &port.to_string())));
        command.stdin(Stdio::null()).stdout(out).stderr(log);
        let guard = match self.cpu {
            Some(cpu) => Guard::start(&mut command, cpu),
            None => Guard::start_anywhere(&mut command),
        };
        Gateway { guard: guard.expect("evenkeel can be started"), scratch, port, doors }
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Gateway {
        let mut gateway = self.spawn();
        until("a gateway that is ready", || {
            if let Err(failure) = gateway.guard.check() {
                panic!("{failure}\n{}", gateway.stderr());
            }
            gateway.get("/ready").filter(|answer| answer.status() == 200)
        });
        gateway
    }
}

impl Gateway {
    /// Starts one with these rules and one worker.
    pub fn start(rules: &Rules) -> Gateway {
        Launch::new(rules.yaml()).start()
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// A new client.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.address())
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.guard.id()
    }

    /// The folder with its rules.
    pub fn rules_folder(&self) -> PathBuf {
        self.scratch.path().join("rules")
    }

    /// A folder that vanishes with it.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Rules with this gateway's port.
    pub fn fill(&self, yaml: &str) -> String {
        yaml.replace(PORT, &self.port.to_string())
    }

    /// Puts other rules in the place of the old ones, in one step.
    pub fn write(&self, yaml: &str) {
        let folder = self.rules_folder();
        fs::write(folder.join(".next"), self.fill(yaml)).expect("a file");
        fs::rename(folder.join(".next"), folder.join(RULES)).expect("a file");
    }

    /// Puts another version behind the links of a ConfigMap, as the kubelet does.
    pub fn swap(&self, version: u32, yaml: &str) {
        link_version(&self.rules_folder(), version, &self.fill(yaml));
        fs::remove_dir_all(self.rules_folder().join(format!("..{}", version - 1))).expect("the version before");
    }

    /// Waits until a revision after that is in force on all workers.
    pub fn wait_for_revision_after(&self, before: u64) -> Duration {
        until("the next revision", || (self.revision() > before).then_some(())).1
    }

    /// Changes the rules and waits until they are in force on all workers; tells how long that took.
    pub fn reload(&self, yaml: &str) -> Duration {
        let before = self.revision();
        self.write(yaml);
        self.wait_for_revision_after(before)
    }

    /// Changes the rules and waits until they are refused; tells the problems.
    pub fn reload_refused(&self, yaml: &str) -> Vec<String> {
        let before = self.config()["refused"].clone();
        self.write(yaml);
        let (refused, _) = until("a refusal", || Some(self.config()["refused"].clone()).filter(|now| *now != before));
        let problems = refused["problems"].as_array().expect("a list");
        problems.iter().map(|problem| problem.as_str().expect("a text").to_owned()).collect()
    }

    /// Asks the admin door. None: there is none, or it is shut.
    pub fn get(&self, path: &str) -> Option<Message> {
        let mut peer = Peer::try_connect(self.doors).ok()?;
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"));
        peer.read().ok()
    }

    /// Tells the admin door something, and what it answers.
    pub fn post(&self, path: &str, body: &str) -> Option<Message> {
        let mut peer = Peer::try_connect(self.doors).ok()?;
        let length = body.len();
        peer.send(format!(
            "POST {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        peer.read().ok()
    }

    /// Where the admin door is.
    pub fn admin(&self) -> SocketAddr {
        self.doors
    }

    fn document(&self, path: &str) -> Value {
        let answer = self.get(path).unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.stderr()));
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.text()))
    }

    /// `/config`.
    pub fn config(&self) -> Value {
        self.document("/config")
    }

    /// The revision in force.
    pub fn revision(&self) -> u64 {
        self.config()["revision"].as_u64().expect("a number")
    }

    /// `/stats`.
    pub fn stats(&self) -> Value {
        self.document("/stats")
    }

    /// `/endpoints`: the states of those of one service's port, in the order of the rules.
    pub fn endpoint_states(&self, cluster: &str) -> Vec<String> {
        let clusters = self.document("/endpoints");
        let found = clusters.as_array().expect("a list").iter().find(|known| known["name"] == *cluster);
        let endpoints = found.map(|found| found["endpoints"].as_array().expect("a list").iter());
        let state = |endpoint: &Value| endpoint["state"].as_str().expect("a word").to_owned();
        endpoints.map_or_else(Vec::new, |endpoints| endpoints.map(state).collect())
    }

    /// `/policies`: the figures of one, such as `RateLimit default/users`.
    pub fn policy(&self, key: &str) -> Value {
        let all = self.document("/policies");
        let found = all.as_array().expect("a list").iter().find(|known| known["policy"] == *key);
        found.unwrap_or_else(|| panic!("no {key} in {all}")).clone()
    }

    /// One figure of `/stats` of each worker.
    pub fn stat(&self, name: &str) -> Vec<u64> {
        let stats = self.stats();
        let workers = stats["workers"].as_array().expect("a list");
        workers.iter().map(|worker| worker[name].as_u64().unwrap_or_else(|| panic!("no {name}"))).collect()
    }

    /// `/metrics`.
    pub fn metrics(&self) -> String {
        self.get("/metrics").expect("an answer").text()
    }

    /// The sum of all samples whose line starts so.
    pub fn metric(&self, start: &str) -> f64 {
        let metrics = self.metrics();
        let lines = metrics.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The lines it wrote to its standard error.
    pub fn stderr(&self) -> String {
        whole_lines(&self.scratch.path().join("stderr"))
    }

    /// The lines it wrote to its standard output.
    pub fn stdout(&self) -> String {
        whole_lines(&self.scratch.path().join("stdout"))
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        procfs::resident_kib(self.id()).expect("the process runs")
    }

    /// Time on a CPU so far.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(procfs::cpu_ns(&[self.id()]).expect("the process runs"))
    }

    /// Waits until nothing is left of what clients did.
    pub fn settle(&self) {
        let rest = || (self.stat("requestsInFlight").iter().sum::<u64>(), self.stat("connections").iter().sum::<u64>());
        until("no request and no connection in the gateway", || (rest() == (0, 0)).then_some(()));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw).expect("an id of a process");
        rustix::process::kill_process(id, signal).expect("the process is ours");
    }

    /// Waits for its end. None: it had to be killed.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        self.guard.wait(PATIENCE).expect("a child can be waited for")
    }
}

/// What a process wrote to this file so far, without a last line of which only a part can be read: a write is visible
/// page by page.
fn whole_lines(path: &Path) -> String {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
    text
}

/// Lets `..data` point to a folder with these rules, in one step.
fn link_version(folder: &Path, version: u32, yaml: &str) {
    let name = format!("..{version}");
    fs::create_dir(folder.join(&name)).expect("a folder");
    fs::write(folder.join(&name).join(RULES), yaml).expect("a file");
    symlink(&name, folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a link");
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let stderr = self.stderr();
        if std::thread::panicking() {
            eprintln!("the gateway said:\n{stderr}");
        } else {
            assert!(!stderr.contains("panicked at"), "the gateway panicked:\n{stderr}");
        }
    }
}
