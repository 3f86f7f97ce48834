//! `evenkeel up`: the first minute. A gateway on a port of this machine, a shop of four services in lanes behind it, the
//! traffic of several users, and a view of what becomes of it. The parts in the order in which they matter: `shop` the
//! services, `rules` what the gateway is told, `load` the users, `judge` what answers mean, `ledger` and `told` the
//! figures, `world` what they share, `board` their texts, `screen` and `keys` the live view. Cold.

mod board;
mod call;
mod judge;
mod keys;
mod ledger;
mod load;
mod rules;
mod screen;
mod shop;
mod told;
mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use shop::Instance;
use world::World;

/// Events that are remembered.
const EVENTS_MAX: usize = 100;
/// How long requests under way may take at the end.
const FINISH_WITHIN: Duration = Duration::from_millis(1500);

/// How to try it.
#[derive(clap::Args)]
pub struct UpArgs {
    /// The gateway's port on this machine
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// End after so many seconds, with exit code 1 if anything failed or was served in a wrong lane [default: at Ctrl-C]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// One line a second in place of the live view, as if there were no terminal
    #[arg(long)]
    plain: bool,
}

/// Runs the demonstration.
pub fn run(args: UpArgs) -> ExitCode {
    let folder = Folder(std::env::temp_dir().join(format!("evenkeel-up-{}", std::process::id())));
    match show(&args, &folder.0) {
        Ok(code) => code,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::FAILURE
        }
    }
}

/// A folder that nothing is left of, whatever happens: a terminal that is closed included.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn show(args: &UpArgs, folder: &Path) -> Result<ExitCode, String> {
    let failed = |error: io::Error| format!("cannot start: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let ending = watch::Sender::new(false);
    let entered = runtime.enter();
    // From here on a signal ends it in order.
    hear_signals(&ending).map_err(failed)?;
    // The gateway cannot choose a port by itself; until it takes this one nobody else can.
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let inside = held.local_addr().map_err(failed)?;
    let instances = shop::open(inside).map_err(failed)?;
    drop(entered);

    create(folder)?;
    let rules = folder.join("rules.yaml");
    let failed = |error: io::Error| format!("cannot write {}: {error}", rules.display());
    fs::write(&rules, rules::write(args.port, inside.port(), &instances)).map_err(failed)?;
    drop(held);
    let has_terminal = io::stdout().is_terminal();
    let is_live = !args.plain && has_terminal;
    let (sender, events) = sync_channel(EVENTS_MAX);
    let door = folder.join("admin.sock");
    let gateway = start_gateway(rules.clone(), &door, is_live.then_some(sender))?;

    let edge = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let world = Arc::new(World::new(instances, edge, rules, ending));
    let driven = world.clone();
    let shop = std::thread::Builder::new()
        .name("shop".into())
        .spawn(move || runtime.block_on(open_shop(driven, door)))
        .map_err(|error| format!("cannot start the shop: {error}"))?;
    let is_timed_out = || args.seconds.is_some_and(|seconds| world.started.elapsed().as_secs() >= seconds);
    let is_over = || world.is_ending() || gateway.is_finished() || is_timed_out();
    // A view that is gone ends it like a key.
    let seen = match is_live {
        true => live(&world, events, is_over),
        false => plain(&world, is_over),
    };
    let is_lost = gateway.is_finished() && !world.is_ending();
    let is_timed_out = is_timed_out();
    world.ending.send_replace(true);
    let _ = shop.join();
    let board = world.board(&VecDeque::new());
    let seen = seen.and(write!(io::stdout(), "{}", board.summary()));
    if let Err(error) = &seen {
        // Standard error may be the terminal that is gone.
        let _ = writeln!(io::stderr(), "the view ended: {error}");
    }
    // Where it is a closed terminal, or a reader that has seen enough, that is no failure.
    let is_cut = seen.is_err_and(|error| !has_terminal && error.kind() != io::ErrorKind::BrokenPipe);
    let is_bad = board.totals.failed + board.totals.wrong > 0;
    Ok(if is_lost || is_cut || (is_timed_out && is_bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Makes the folder and none above it: where `TMPDIR` is missing, nothing shall be left behind.
fn create(folder: &Path) -> Result<(), String> {
    match fs::create_dir(folder) {
        // Of one that was killed, and had the same number.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map_err(|error| format!("cannot create {}: {error} (see TMPDIR)", folder.display())),
    }
}

/// Ends the world at the signals that people and systems send, a terminal that is closed included.
fn hear_signals(ending: &watch::Sender<bool>) -> io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signals, ending) = (signal(kind)?, ending.clone());
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                ending.send_replace(true);
            }
        });
    }
    Ok(())
}

fn start_gateway(
    rules: PathBuf,
    door: &Path,
    events: Option<SyncSender<String>>,
) -> Result<JoinHandle<ExitCode>, String> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let admin = door.display().to_string().parse().map(Some)?;
    let of = proxy::ProcessArgs::of(vec![rules]);
    let process = proxy::ProcessArgs { workers: Some(1), finish_within: 1, ready: Some(ready), admin, events, ..of };
    let args = proxy::GatewayArgs { process, name: None };
    let running = std::thread::Builder::new()
        .name("gateway".into())
        .spawn(move || proxy::run(args))
        .map_err(|error| format!("cannot start the gateway: {error}"))?;
    // Not by asking its port: another program may answer there. One that fails tells why and drops the sender.
    match is_ready.recv_timeout(Duration::from_secs(10)) {
        Ok(()) => Ok(running),
        Err(RecvTimeoutError::Timeout) => Err("the gateway did not start in time".into()),
        Err(RecvTimeoutError::Disconnected) => {
            // It says why before it ends.
            let _ = running.join();
            Err("the gateway did not start (--port takes another port)".into())
        }
    }
}

/// Lets the users shop until the world ends, and those under way finish.
async fn open_shop(world: Arc<World>, door: PathBuf) {
    tokio::spawn(told::follow(world.clone(), door));
    let mut browsers = load::start(&world);
    // Its sender lives in the world.
    let _ = world.ending.subscribe().wait_for(|is_ending| *is_ending).await;
    let _ = tokio::time::timeout(FINISH_WITHIN, async { while browsers.join_next().await.is_some() {} }).await;
}

/// One line a second.
fn plain(world: &World, is_over: impl Fn() -> bool) -> io::Result<()> {
    let mut out = io::stdout();
    let edge = world.edge;
    writeln!(out, "gateway   http://{edge}")?;
    writeln!(out, "rules     {} (change them: they are reloaded)", world.rules.display())?;
    writeln!(out, "try it    curl http://{edge}/    curl -H 'x-user: alice' http://{edge}/    (Ctrl-C ends it)\n")?;
    for second in 1.. {
        let at = world.started + Duration::from_secs(second);
        while Instant::now() < at {
            if is_over() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let board = world.board(&VecDeque::new());
        if second == 1 {
            // Who served whom says more of lanes than figures.
            for figures in board.lanes.iter().filter(|figures| !figures.said.is_empty()) {
                writeln!(out, "{:9} {}", figures.lane, figures.said)?;
            }
            writeln!(out)?;
        }
        writeln!(out, "{}", board.line())?;
    }
    Ok(())
}

/// What the gateway tells, and what keys did.
struct Events {
    receiver: Receiver<String>,
    /// What addresses are called.
    names: Vec<(String, String)>,
    lines: VecDeque<String>,
}

impl Events {
    fn add(&mut self, line: String) {
        self.lines.push_back(line);
        if self.lines.len() > EVENTS_MAX {
            self.lines.pop_front();
        }
    }

    fn collect(&mut self) -> &VecDeque<String> {
        while let Ok(line) = self.receiver.try_recv() {
            let event = board::event(&line, &self.names);
            self.add(event);
        }
        &self.lines
    }
}

/// The live view.
fn live(world: &World, receiver: Receiver<String>, is_over: impl Fn() -> bool) -> io::Result<()> {
    let name = |known: &Arc<Instance>| (known.address.to_string(), format!("{} {}", known.service, known.name));
    let names = world.instances.iter().map(name).collect();
    let events = RefCell::new(Events { receiver, names, lines: VecDeque::new() });
    let board = || world.board(events.borrow_mut().collect());
    screen::run(board, is_over, |selection, switch| {
        let chosen = world.instances.iter().enumerate().filter(|(index, _)| selection.has(*index));
        chosen.for_each(|(_, instance)| instance.turn(switch));
        events.borrow_mut().add(format!("you: {} is {}", selection.name(), switch.word()));
    })
}
