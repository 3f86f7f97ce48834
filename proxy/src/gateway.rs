//! The life of the process: rules in, workers up, doors open; then rules that change and the signal to end.
//! The only place that reads rules, watches files and hears signals. Cold.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::{Reader, Snapshot};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{Admin, AdminAddress, Doors};
use crate::log::{AccessLog, Format, event};
use crate::process::Process;
use crate::status::Status;
use crate::{admin, cgroup, metrics, watch};

/// Kubernetes grants a pod 30 s by default.
const FINISH_WITHIN_S: u64 = 25;

/// What a gateway is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewayArgs {
    /// Rule files and folders of them (.yaml, .yml, .json); watched for changes
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Worker threads [default: one per core that the cgroup allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
    /// Where /live and /ready are answered
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub probe: Option<SocketAddr>,
    /// Where /metrics is answered
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Where /config and /stats are answered: a loopback address or the path of a unix socket
    #[arg(long, value_name = "ADDRESS:PORT | PATH")]
    pub admin: Option<AdminAddress>,
    /// Where requests are logged: a file, or - for standard output [default: nowhere]
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<PathBuf>,
    /// How they are logged
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub access_log_format: Format,
    /// After SIGTERM, how long requests in flight may take
    #[arg(long, value_name = "SECONDS", default_value_t = FINISH_WITHIN_S)]
    pub finish_within: u64,
}

impl GatewayArgs {
    /// These rule files, and everything else as it is without flags.
    pub fn of(files: Vec<PathBuf>) -> GatewayArgs {
        GatewayArgs {
            files,
            workers: None,
            probe: None,
            metrics: None,
            admin: None,
            access_log: None,
            access_log_format: Format::Json,
            finish_within: FINISH_WITHIN_S,
        }
    }
}

/// Runs a gateway until it is told to end. Exit code 1: the rules are wrong, or an address is taken.
pub fn run(args: GatewayArgs) -> ExitCode {
    let started = Instant::now();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&[format!("cannot start: {error}")]),
    };
    match runtime.block_on(live(args, started)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => fail(&problems),
    }
}

fn fail(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    ExitCode::FAILURE
}

async fn live(args: GatewayArgs, started: Instant) -> Result<(), Vec<String>> {
    let one = |error: String| vec![error];
    // Kept, so that a change costs what changed and not all the rules again.
    let mut reader = Reader::default();
    let (snapshot, warnings) = read(&mut reader, &args.files)?;

    let access_log = match &args.access_log {
        None => None,
        Some(path) => Some(
            AccessLog::start(path, args.access_log_format)
                .map_err(|error| one(format!("cannot write the access log to {}: {error}", path.display())))?,
        ),
    };
    let workers = args.workers.map_or_else(cgroup::cores, usize::from);
    let mut process =
        Process::start(workers, access_log).map_err(|error| one(format!("cannot start workers: {error}")))?;
    let status = Arc::new(Status::new());
    let snapshot = Arc::new(snapshot);
    let revision = process.apply(snapshot.clone()).map_err(one)?;
    tell(&warnings);
    status.applied(revision, snapshot, warnings);

    let registry = metrics::registry(process.shared.clone(), status.clone());
    let shared = Arc::new(Admin { status: status.clone(), shared: process.shared.clone(), registry });
    let doors = Doors { probe: args.probe, metrics: args.metrics, admin: args.admin.clone() };
    admin::open(&doors, shared).await.map_err(one)?;
    let (changed, mut changes) = tokio::sync::mpsc::channel(1);
    // A change that nobody has looked at yet stands for the ones after it.
    let noticed = move || !matches!(changed.try_send(()), Err(tokio::sync::mpsc::error::TrySendError::Closed(())));
    if let Err(error) = watch::start(args.files.clone(), noticed) {
        event("warn", &format!("rule files are not watched: {error}"));
    }
    event("info", &format!("ready with {workers} workers after {} ms", started.elapsed().as_millis()));

    let mut terminate = signal(SignalKind::terminate()).map_err(|error| one(error.to_string()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| one(error.to_string()))?;
    let mut health = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(()) = changes.recv() => reload(&mut reader, &args.files, &mut process, &status),
            _ = health.tick() => {
                if process.has_lost_a_worker() {
                    return Err(one("a worker has ended unexpectedly".into()));
                }
            }
        }
    }
    finish(&process, &status, Duration::from_secs(args.finish_within), &mut terminate).await;
    Ok(())
}

/// Reads the rules. The error is all that is wrong with them.
fn read(reader: &mut Reader, files: &[PathBuf]) -> Result<(Snapshot, Vec<String>), Vec<String>> {
    let lines = |problems: Vec<config::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    match reader.load(files).result {
        Ok(checked) => Ok((checked.snapshot, lines(checked.warnings))),
        Err(problems) => Err(lines(problems)),
    }
}

/// Puts changed rules in force, or says why they are not and leaves everything as it is.
fn reload(reader: &mut Reader, files: &[PathBuf], process: &mut Process, status: &Status) {
    let started = Instant::now();
    let (snapshot, warnings) = match read(reader, files) {
        Ok((snapshot, warnings)) => (Arc::new(snapshot), warnings),
        Err(problems) => return refuse(status, problems),
    };
    if status.snapshot().is_some_and(|current| current == snapshot) {
        return status.unchanged(warnings);
    }
    match process.apply(snapshot.clone()) {
        Ok(revision) => {
            tell(&warnings);
            status.applied(revision, snapshot, warnings);
            event("info", &format!("revision {revision} in force after {} ms", started.elapsed().as_millis()));
        }
        Err(problem) => refuse(status, vec![problem]),
    }
}

fn refuse(status: &Status, problems: Vec<String>) {
    event("error", &format!("the changed rules are refused, those before stay in force: {} problems", problems.len()));
    for problem in &problems {
        event("error", problem);
    }
    status.refused(problems);
}

fn tell(warnings: &[String]) {
    for warning in warnings {
        event("warn", warning);
    }
}

/// Ends: no new connections, requests in flight have their time; a second signal ends at once.
async fn finish(process: &Process, status: &Status, within: Duration, terminate: &mut tokio::signal::unix::Signal) {
    event("info", &format!("finishing requests in flight within {} s", within.as_secs()));
    status.finishing();
    process.finish(within);
    let deadline = Instant::now() + within + Duration::from_secs(1);
    while !process.has_finished() && Instant::now() < deadline {
        tokio::select! {
            _ = terminate.recv() => break,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    event("info", "ended");
}
