//! `evenkeel up`: the first minute. Control, a gateway on a port of this machine, and a shop of four services in lanes, each
//! instance with a sidecar: all of them processes of this binary; the traffic of several users, and a view of what becomes of
//! it while instances come and go. The parts in the order in which they matter: `leash` what ends with what, `child` a
//! process, `mesh` control and gateway, `rules` what they are told, `instance` an application with its sidecar (`app`, `ports`),
//! `shop` who stands where, `deeds` what becomes of them; `load` the users, `call` how they ask, `judge` what answers mean;
//! `ledger`, `rates`, `told`, `heard` and `events` what is known, `world` all of it, `board` its texts, `screen` and `keys` the live
//! view. Cold.

mod app;
mod board;
mod call;
mod child;
mod deeds;
mod events;
mod heard;
mod instance;
mod judge;
mod keys;
mod leash;
mod ledger;
mod load;
mod mesh;
mod ports;
mod rates;
mod rules;
mod screen;
mod shop;
mod told;
mod world;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use child::Stage;
use events::Events;
use leash::Leash;
use mesh::Mesh;
use world::World;

pub use leash::end_with;

/// How long requests under way may take at the end.
const FINISH_WITHIN: Duration = Duration::from_millis(1500);
/// What `--keys` have begun may take so much longer than `--seconds`.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// How to try it.
#[derive(clap::Args)]
pub struct UpArgs {
    /// The gateway's port on this machine
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// End after so many seconds, and once what keys have begun is done, with exit code 1 if anything failed or was served in a
    /// wrong lane [default: at Ctrl-C]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// One line a second in place of the live view, as if there were no terminal
    #[arg(long)]
    plain: bool,
    /// Press these keys of the live view one after the other, a second apart, once traffic flows: 2r restarts cart
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    keys: Option<String>,
    /// Remove this folder when nobody holds the other end of standard input: what `up` starts for its own end.
    #[arg(long, value_name = "FOLDER", hide = true)]
    sweep: Option<PathBuf>,
}

/// Runs the demonstration.
pub fn run(args: UpArgs) -> ExitCode {
    if let Some(folder) = &args.sweep {
        return leash::sweep(folder);
    }
    match show(args) {
        Ok(code) => code,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: UpArgs) -> Result<ExitCode, String> {
    let failed = |error: io::Error| format!("cannot start: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let ending = watch::Sender::new(false);
    // From here on a signal ends it in order.
    runtime.block_on(async { hear_signals(&ending) }).map_err(failed)?;
    // The last to go: nothing is left, whatever happens.
    let leash = Leash::make()?;
    let has_terminal = io::stdout().is_terminal();
    let is_live = !args.plain && has_terminal;
    let (folder, pipe) = (leash.path().to_owned(), leash.end().map_err(failed)?);
    let events = Arc::new(Events::new(!is_live, &folder));
    let stage = Arc::new(Stage { folder, pipe, events });

    // Children end with the thread that starts them.
    let (ready, opened) = sync_channel(1);
    let (of_life, seconds) = (ending.clone(), args.seconds);
    let life = move || runtime.block_on(live(stage, args.port, args.keys, of_life, ready));
    let life = std::thread::Builder::new().name("shop".into()).spawn(life).map_err(failed)?;
    let world = match opened.recv() {
        Ok(world) => world?,
        // It was told to end before it began.
        Err(_) if *ending.borrow() => return Ok(ExitCode::SUCCESS),
        Err(_) => return Err("the shop did not open".into()),
    };
    let is_timed_out = || {
        let late = |seconds: u64| world.uptime().checked_sub(Duration::from_secs(seconds));
        seconds.and_then(late).is_some_and(|late| !world.is_busy() || late > BUSY_MAX)
    };
    let is_over = || world.is_ending() || life.is_finished() || is_timed_out();
    // A view that is gone ends it like a key.
    let seen = match is_live {
        true => screen::run(|| world.board(), is_over, |key| world.press(key)),
        false => plain(&world, is_over),
    };
    let is_lost = life.is_finished() && !world.is_ending();
    let is_timed_out = is_timed_out();
    world.ending.send_replace(true);
    let _ = life.join();
    let board = world.board();
    let seen = seen.and(write!(io::stdout(), "{}", board.summary()));
    if let Err(error) = &seen {
        // Standard error may be the terminal that is gone.
        let _ = writeln!(io::stderr(), "the view ended: {error}");
    }
    // Where it is a closed terminal, or a reader that has seen enough, that is no failure.
    let is_cut = seen.is_err_and(|error| !has_terminal && error.kind() != io::ErrorKind::BrokenPipe);
    let is_bad = board.totals.failed + board.totals.wrong > 0 || board.restart.is_some();
    Ok(if is_lost || is_cut || (is_timed_out && is_bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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

/// The life of all of it: the mesh comes up, the shop opens, users come, keys act, until the world ends. Then those under way
/// finish; children are killed with their thread, since nobody needs them any more.
async fn live(
    stage: Arc<Stage>,
    port: u16,
    keys: Option<String>,
    ending: watch::Sender<bool>,
    ready: SyncSender<Result<Arc<World>, String>>,
) {
    let mut is_ending = ending.subscribe();
    // Its sender is here, and in the world.
    let mut ends = async || drop(is_ending.wait_for(|is_ending| *is_ending).await);
    let opened = tokio::select! {
        opened = open(stage, port, ending.clone()) => opened,
        () = ends() => return,
    };
    let (world, orders) = match opened {
        Ok(opened) => opened,
        Err(problem) => return drop(ready.send(Err(problem))),
    };
    let mut browsers = load::start(&world);
    tokio::spawn(told::follow(world.clone()));
    tokio::spawn(heard::follow(world.clone()));
    tokio::spawn(deeds::follow(world.clone(), orders));
    if let Some(keys) = keys {
        tokio::spawn(deeds::play(world.clone(), keys));
    }
    // Whoever looks may have gone.
    let _ = ready.send(Ok(world));
    ends().await;
    let _ = tokio::time::timeout(FINISH_WITHIN, async { while browsers.join_next().await.is_some() {} }).await;
}

/// Comes when everybody is ready.
async fn open(
    stage: Arc<Stage>,
    port: u16,
    ending: watch::Sender<bool>,
) -> Result<(Arc<World>, tokio::sync::mpsc::Receiver<world::Order>), String> {
    let file = stage.folder.join("rules.yaml");
    fs::write(&file, rules::write(port)).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let mesh = Mesh::start(&stage, &file, port).await?;
    let (world, orders) = World::new(stage, mesh, file, ending);
    let world = Arc::new(world);
    deeds::open(&world).await?;
    world.mesh.ready().await?;
    world.begin();
    Ok((world, orders))
}

/// One line a second.
fn plain(world: &World, is_over: impl Fn() -> bool) -> io::Result<()> {
    let mut out = io::stdout();
    let (edge, api, admin) = (world.mesh.edge, world.mesh.api, world.mesh.admin.display());
    writeln!(out, "gateway   http://{edge}")?;
    writeln!(out, "rules     {} (change them: control takes them)", world.rules.display())?;
    writeln!(out, "try it    curl http://{edge}/    curl -H 'x-user: alice' http://{edge}/    (Ctrl-C ends it)")?;
    writeln!(out, "look      EVENKEEL_SERVER={api} evenkeel get instances    (get drains, get proxies, status)")?;
    writeln!(out, "ask       evenkeel explain --admin {admin} GET http://{edge}/ -H 'x-user: alice'\n")?;
    for second in 1.. {
        let at = Duration::from_secs(second);
        while world.uptime() < at {
            if is_over() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let board = world.board();
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
