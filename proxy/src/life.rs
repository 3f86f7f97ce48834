//! The life of a gateway or a sidecar: rules in, workers up, doors open; then rules that change and the signal to end.
//! The only place that reads rules, watches files and hears signals; what is in force is `revision`'s business. Cold.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::Reader;
use config::Snapshot;
use filters::lane::trace::TraceMap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::{Admin, Doors, Drain};
use crate::args::{Beside, GatewayArgs, ProcessArgs, SidecarArgs, Start};
use crate::dns::Dns;
use crate::instance::{self, Instance};
use crate::log::{AccessLog, event};
use crate::origin::{First, News, Next, Origin};
use crate::process::Process;
use crate::revision::{InForce, Rules};
use crate::stats::{Counter, WorkerStats};
use crate::status::Status;
use crate::subscription::{Answer, Known, Standing, Updates, Voice};
use crate::{admin, edges, metrics};

/// From one look at which endpoints are used to the next.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Calls of an application whose time is over may take so much longer.
const FINISH_AT_LEAST: Duration = Duration::from_secs(1);

/// How much the main thread gives way to workers, of 19.
const MAIN_NICENESS: i32 = 10;

/// Runs a gateway until it is told to end. Exit code 1: the rules are wrong, or an address is taken.
pub fn run(args: GatewayArgs) -> ExitCode {
    begin(Start::of_gateway(args))
}

/// Runs a Service's proxy beside one of its instances, as `run` does a gateway.
pub fn run_sidecar(args: SidecarArgs) -> ExitCode {
    begin(Start::of_sidecar(args))
}

fn begin(start: Result<Start, String>) -> ExitCode {
    let started = Instant::now();
    let start = match start {
        Ok(start) => start,
        Err(problem) => return fail(&[problem]),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&[format!("cannot start: {error}")]),
    };
    let lived = runtime.block_on(live(start, started));
    // A read of rules that hangs is not waited for.
    runtime.shutdown_background();
    match lived {
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

async fn live(start: Start, started: Instant) -> Result<(), Vec<String>> {
    let Start { workload, workers, process: args, beside } = start;
    let (standing, stands) = watch::channel(Standing::Starting(String::new()));
    let (told, known) = watch::channel(Known::default());
    // Where there is no control nobody says anything.
    let (voice, silence) = match (&beside, &args.control) {
        (Some(beside), Some(_)) => (Some(Voice { member: beside.member.clone(), standing: stands, known: told }), None),
        _ => (None, Some(told)),
    };
    let one = |error: String| vec![error];
    let status = Arc::new(Status::new());
    let mut origin = Origin::of(&args, workload.clone(), status.clone(), voice).map_err(one)?;
    // What is wrong with files is told before anything else is done.
    let first = match &mut origin {
        Origin::Files(..) => Some(origin.first().await?),
        Origin::Control(_) => None,
    };

    let access_log = match &args.access_log {
        None => None,
        Some(path) => Some(
            AccessLog::start(path, args.access_log_format)
                .map_err(|error| one(format!("cannot write the access log to {}: {error}", path.display())))?,
        ),
    };
    let process = Process::start(workers, access_log, args.zone.as_deref().map(Box::from))
        .map_err(|error| one(format!("cannot start workers: {error}")))?;
    process.shared.states.set_replicas(args.replicas);
    // It is the only place where this is set; and so below.
    let _ = process.shared.own.set(workload.cluster().into());
    if let Some(beside) = &beside {
        let _ = process.shared.traces.set(TraceMap::new(beside.trace_map_entries, workers));
    }
    status.set_app(beside.is_none());
    // Where cores are short, reading rules and telling metrics give way to requests. On Linux this is the calling
    // thread's, and that of threads it starts from here on; the workers run already. Without it all still works.
    let _ = rustix::process::setpriority_process(None, MAIN_NICENESS);
    // The doors first: a start that fails on one of them must not have taken a single connection.
    let registry = metrics::registry(process.shared.clone(), status.clone());
    let drain = beside.as_ref().and_then(|beside| Some(Drain::new(beside.drain_token.clone()?, beside.terms.within)));
    let shared = Arc::new(Admin { status: status.clone(), shared: process.shared.clone(), registry, drain });
    let doors = Doors { probe: args.probe, metrics: args.metrics, admin: args.admin.clone() };
    admin::open(&doors, shared.clone()).await.map_err(one)?;
    let mut signals = Signals::listen().map_err(one)?;
    let first = match first {
        Some(first) => first,
        // Probes are answered meanwhile: it lives, and is not ready.
        None => tokio::select! {
            first = origin.first() => first?,
            () = signals.ends.recv() => return Ok(()),
        },
    };
    // Kept, so that a change costs what changed and not all the rules again.
    let First { reader, rules, updates, answer } = first;
    check_descriptors(process.shared.connections_max, &rules.0).map_err(one)?;
    let (asks, asked) = unbounded_channel();
    let _ = process.shared.asks.set(asks);
    let dns = Dns::new(status.clone(), args.resolvers.clone());
    let of_workers = process.shared.clone();
    let in_force = InForce::start(process, status.clone(), dns, rules, updates).await.map_err(one)?;
    let instance = beside.map(|Beside { check, terms, .. }| {
        Instance { terms, check, standing, known, silence, shared: of_workers, status }.start()
    });
    if let (Some(instance), Some(drain)) = (&instance, &shared.drain) {
        drain.begin(instance.clone());
    }
    event("info", &format!("ready with {workers} workers after {} ms", started.elapsed().as_millis()));
    if let Some(answer) = answer {
        // Control may have gone meanwhile.
        let _ = answer.send(Ok(()));
    }
    run_until_signal(&args, in_force, origin, reader, signals, asked, instance).await
}

/// Serves, follows changed rules, and ends when told to.
async fn run_until_signal(
    args: &ProcessArgs,
    mut in_force: InForce,
    mut origin: Origin,
    reader: Reader,
    mut signals: Signals,
    mut asked: UnboundedReceiver<Arc<str>>,
    mut instance: Option<instance::Handle>,
) -> Result<(), Vec<String>> {
    let (changed, mut changes) = tokio::sync::mpsc::channel(1);
    let by_hand = changed.clone();
    // A change that nobody has looked at yet stands for the ones after it.
    let noticed = move || !matches!(changed.try_send(()), Err(tokio::sync::mpsc::error::TrySendError::Closed(())));
    if let Origin::Files(files, _) = &origin
        && let Err(error) = crate::watch::start(files.clone(), noticed)
    {
        event("warn", &format!("rule files are not watched, SIGHUP reads them again: {error}"));
    }

    let mut reader = Some(reader);
    let mut reading = None;
    let mut refused_before = 0;
    let mut health = tokio::time::interval(Duration::from_secs(1));
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        if std::mem::take(&mut in_force.has_new_rules) {
            origin.follow(in_force.rules());
        }
        tokio::select! {
            () = signals.ends.recv() => match &mut instance {
                Some(instance) if !instance.is_to_end() => instance.end(),
                _ => break,
            },
            () = over(&mut instance) => break,
            _ = signals.hangup.recv() => ask(&by_hand),
            _ = signals.user1.recv() => reopen_log(&in_force.process),
            _ = signals.user2.recv() => event("info", "SIGUSR2 has no meaning here"),
            Some(()) = changes.recv(), if reader.is_some() => {
                reading = reader.take().map(|reader| Reading::start(reader, origin.again()));
            }
            news = origin.news(reader.is_some()) => match news {
                News::Rules(next) => reading = reader.take().map(|reader| Reading::start(reader, next)),
                News::Endpoints(update) => in_force.take_endpoints(&update.updates, update.answer),
                News::Services(heard) => {
                    let shared = &in_force.process.shared;
                    shared.set_absent(origin.hear(&heard, shared.origin.elapsed()));
                }
            },
            read = async { reading.as_mut().expect("checked").await }, if reading.is_some() => {
                reading = None;
                let Reading { reader: kept, rules, updates, answer, started } =
                    read.map_err(|error| vec![format!("reading rules: {error}")])?;
                reader = Some(kept);
                in_force.take(rules, updates, started, answer);
            }
            () = in_force.is_due() => in_force.advance(),
            Some(resource) = asked.recv() => origin.use_now(&resource, in_force.process.shared.origin.elapsed()),
            _ = looks.tick() => {
                let used = in_force.process.shared.clusters.used(in_force.rules());
                let now = in_force.process.shared.origin.elapsed();
                origin.look(in_force.rules(), |resource| used.contains(resource), now);
            }
            _ = health.tick() => {
                if in_force.process.has_lost_a_worker() {
                    return Err(vec!["a worker has ended unexpectedly".into()]);
                }
                let shared = &in_force.process.shared;
                if let Some(absent) = origin.tick(shared.origin.elapsed()) {
                    shared.set_absent(absent);
                }
                if let Some(traces) = shared.traces.get() {
                    traces.sweep(shared.origin.elapsed().as_nanos() as u64);
                }
                // An address that another process held may be free by now.
                if in_force.may_succeed_later {
                    ask(&by_hand);
                }
                if std::mem::take(&mut in_force.has_succeeded_late) {
                    origin.tell_again();
                }
                let sum = |count: fn(&WorkerStats) -> &Counter| {
                    in_force.process.shared.stats.iter().map(|stats| count(stats).get()).sum()
                };
                let status = &in_force.status;
                let before = status.fare();
                status.set_fare(sum(|stats| &stats.requests), sum(|stats| &stats.failed));
                // Of an instance they tell new ones of its Service whom to know.
                let is_asked_for = |rules: &Snapshot| {
                    !rules.lane_groups.is_empty() || rules.binds.iter().any(|bind| bind.instance_of.is_some())
                };
                if status.fare() != before && status.snapshot().is_some_and(|rules| is_asked_for(&rules)) {
                    status.set_edges(edges::totals(&shared.stats));
                }
                refused_before = tell_refused(&in_force.process, refused_before);
            }
        }
    }
    let within = Duration::from_secs(args.finish_within);
    // An instance has one time for all of it. What its application still waits for may be about to come.
    let within = instance.map_or(within, |instance| within.min(instance.left().max(FINISH_AT_LEAST)));
    finish(&mut in_force, &mut origin, within, &mut signals.ends).await;
    origin.end().await;
    Ok(())
}

/// Comes when an instance that was told to end has gone, and its application needs its proxy no longer.
async fn over(instance: &mut Option<instance::Handle>) {
    match instance {
        Some(instance) if instance.is_to_end() => instance.over().await,
        _ => std::future::pending().await,
    }
}

/// Asks for the rules to be read again; a question that waits already stands for this one.
fn ask(changes: &tokio::sync::mpsc::Sender<()>) {
    let _ = changes.try_send(());
}

/// Rules that are being read, on a thread of their own: a file system that hangs must not take probes and signals with it.
struct Reading {
    reader: Reader,
    rules: Rules,
    updates: Updates,
    answer: Option<Answer>,
    started: Instant,
}

impl Reading {
    fn start(reader: Reader, next: Next) -> JoinHandle<Reading> {
        let started = Instant::now();
        tokio::task::spawn_blocking(move || {
            let (reader, rules) = next.text.read(reader);
            Reading { reader, rules, updates: next.updates, answer: next.answer, started }
        })
    }
}

/// The signals that mean something here.
struct Signals {
    ends: Ends,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, String> {
        let listen_for = |kind: SignalKind| signal(kind).map_err(|error| error.to_string());
        Ok(Signals {
            ends: Ends {
                terminate: listen_for(SignalKind::terminate())?,
                interrupt: listen_for(SignalKind::interrupt())?,
            },
            hangup: listen_for(SignalKind::hangup())?,
            user1: listen_for(SignalKind::user_defined1())?,
            user2: listen_for(SignalKind::user_defined2())?,
        })
    }
}

/// Those that end the process.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn reopen_log(process: &Process) {
    match &process.shared.access_log {
        Some(log) => log.reopen(),
        None => event("info", "SIGUSR1 reopens the access log; there is none"),
    }
}

/// Whether the limit of open files leaves room for connections.
fn check_descriptors(connections_max: usize, snapshot: &Snapshot) -> Result<(), String> {
    if connections_max == 0 {
        return Err("the limit of open files leaves no room for connections; raise `ulimit -n`".into());
    }
    let wanted = snapshot.binds.iter().map(|bind| bind.settings.connections_max).max().unwrap_or(0) as usize;
    // Half is what one would notice; the default asks for more than most limits give.
    if connections_max < wanted / 2 {
        let problem = format!("the limit of open files allows {connections_max} connections, a listener {wanted}");
        event("warn", &problem);
    }
    Ok(())
}

/// Tells, once a second at most, that connections are refused at a bound. Returns how many have been.
fn tell_refused(process: &Process, before: u64) -> u64 {
    let refused = process.shared.stats.iter().map(|stats| stats.connections_refused.get()).sum();
    if refused > before {
        event("warn", &format!("{} connections were refused at a bound", refused - before));
    }
    refused
}

/// Ends: no new connections, requests in flight have their time; a second signal ends at once. Until then it hears of instances
/// that go, as before: its requests are sent to none of them, and they wait for its word.
async fn finish(in_force: &mut InForce, origin: &mut Origin, within: Duration, ends: &mut Ends) {
    event("info", &format!("finishing requests in flight within {} s", within.as_secs()));
    in_force.status.finishing();
    in_force.process.finish(within);
    let deadline = Instant::now() + within + Duration::from_secs(1);
    while !in_force.process.has_finished() && Instant::now() < deadline {
        tokio::select! {
            () = ends.recv() => break,
            // Rules that change are no matter any more.
            news = origin.news(false) => if let News::Endpoints(update) = news {
                in_force.take_endpoints(&update.updates, update.answer);
            },
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    event("info", "ended");
}
