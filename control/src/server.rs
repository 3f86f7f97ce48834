//! The life of the control server: its store, the check that every change passes, and the doors. Cold.

mod admin;
mod admission;
mod answer;
mod api;
mod authority;
mod canary;
mod check;
mod emergency;
mod feed;
mod files;
mod fleet;
mod followers;
mod gate;
mod grpc;
mod guard;
mod instances;
mod join;
mod lanes;
mod limits;
mod listen;
mod metrics;
mod openapi;
mod places;
mod progress;
mod rates;
mod reports;
mod roll;
mod status;
mod streams;
mod tokens;
mod trials;
mod wait;
mod warnings;
mod wire;

pub(crate) use admin::reset_admin;
pub(crate) use authority::make_folder;
pub(crate) use wait::duration;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use crate::log;
use crate::server::authority::Authority;
use crate::server::check::Checker;
use crate::server::feed::Feed;
use crate::server::files::Files;
use crate::server::fleet::{Fleet, Names};
use crate::server::grpc::Services;
use crate::server::guard::Guard;
use crate::server::join::Joins;
use crate::server::lanes::Lanes;
use crate::server::limits::Pace;
use crate::server::listen::Door;
use crate::server::metrics::Metrics;
use crate::server::rates::Rates;
use crate::server::reports::{Listeners, Reports};
use crate::server::roll::Roll;
use crate::server::streams::Streams;
use crate::server::trials::Trials;
use crate::store::Store;

/// Connections to the REST API.
const API_CONNECTIONS_MAX: usize = 1_024;
/// Connections of proxies, if there may be as many open files.
const XDS_CONNECTIONS_MAX: usize = 50_000;
/// Open files that are no connections.
const FILES_OWN: usize = 64;

/// What it is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlArgs {
    /// Where everything is kept; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    pub data: PathBuf,
    /// Where the REST API is served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15012")]
    pub listen: SocketAddr,
    /// Where proxies get their configuration (xDS over gRPC)
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15010")]
    pub xds: SocketAddr,
    /// Another name or address of this server, for its certificate; may be there several times
    #[arg(long = "name", value_name = "NAME", conflicts_with = "plaintext")]
    pub names: Vec<String>,
    /// Without TLS, and whoever has no token is admin: everybody on this machine. On loopback addresses only
    #[arg(long)]
    pub plaintext: bool,
    /// Rule files and folders of them, whose documents are changed nowhere else; watched for changes; may be there several times
    #[arg(short = 'f', long = "files", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Requests to the REST API that one token may make in a second
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests_per_second: u32,
}

/// Tells, on a thread of its own, whenever something of these files and folders has changed, until it hears false.
pub type Watch = fn(Vec<PathBuf>, Box<dyn FnMut() -> bool + Send>) -> std::io::Result<()>;

/// Runs until it is told to end.
pub async fn run(args: ControlArgs, watch: Watch) -> Result<(), String> {
    let open = [args.listen, args.xds].into_iter().find(|address| !address.ip().is_loopback());
    if let Some(open) = open.filter(|_| args.plaintext) {
        return Err(format!("{open} is no loopback address: --plaintext is not for others"));
    }
    authority::make_folder(&args.data)?;
    let checker = Arc::new(Mutex::new(Checker::default()));
    let store = Store::open(&args.data, Box::new(checker.clone())).map_err(|error| error.to_string())?;
    let files = Files::open(args.files.clone(), store.clone(), checker.clone(), watch).await?;
    let authority = if args.plaintext { None } else { Some(Arc::new(open_authority(&args)?)) };
    let tls = |protocol| authority.clone().map(|authority| authority::config(authority, protocol));
    let xds_max = xds_connections();
    let (api, api_address) = Door::open(args.listen, tls("http/1.1"), API_CONNECTIONS_MAX).await?;
    let (xds, xds_address) = Door::open(args.xds, tls("h2"), xds_max).await?;
    let pace = Pace { per_second: args.requests_per_second, burst: 2 * args.requests_per_second };
    let guard = Guard::new(store.clone(), args.plaintext, pace);
    let names = Names::of(&args.data);
    let metrics = Arc::new(Metrics::default());
    let roll = Roll::new(store.clone(), metrics.clone());
    let fleet = Arc::new(Fleet::new(store.clone(), metrics, roll.clone(), names.load()));
    let feed = Arc::new(Feed::new(fleet.clone(), roll.clone()));
    let streams = Streams::new(feed.clone(), fleet.clone(), guard.clone());
    if !args.plaintext {
        admin::give(&store, &args.data).await?;
    }
    tell(authority.as_deref(), store.state().revision(), api_address, xds_address);
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(terminate), Ok(interrupt)] = &mut ends else { return Err("signals cannot be heard".into()) };
    let ended = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let (looked_at, looking) = (store.clone(), checker.clone());
    // It ends with the process, whoever ends that.
    std::thread::spawn(move || check::look_at_all(&looked_at, &looking));
    let rates = Arc::new(Mutex::new(Rates::default()));
    let lanes = Arc::new(Lanes::new(Instant::now()));
    let joins = Joins::new(guard.clone(), roll.clone(), lanes.clone());
    let told = Listeners { rates: rates.clone(), lanes: lanes.clone() };
    let reports = Reports::new(guard.clone(), feed.clone(), fleet.clone(), told);
    let trials = Arc::new(Trials::new(store.clone(), feed.clone(), fleet.clone(), rates));
    let all = api::Api {
        store: store.clone(),
        checker,
        feed: feed.clone(),
        fleet: fleet.clone(),
        trials: trials.clone(),
        roll: roll.clone(),
        lanes,
        files: files.refused(),
    };
    let router = api::router(all, guard);
    let served = async {
        tokio::select! {
            () = gate::serve(api.start(), router) => Err("the REST API has ended".into()),
            () = grpc::serve(xds.start(), Services { streams, reports, joins }) => Err("the xDS port is closed".into()),
            () = files.follow() => Err("files are no longer followed".into()),
            () = emergency::reap(store.clone()) => Err("the store has ended".into()),
            () = fleet.keep_names(names) => Err("nobody looks after who is connected".into()),
            () = trials.keep() => Err("the store has ended".into()),
            () = roll.clone().keep() => Err("nobody looks after instances".into()),
            () = feed.run(store) => Err("the store has ended".into()),
            () = renew(authority) => Err("certificates are no longer renewed".into()),
        }
    };
    tokio::select! {
        // Open watches have no end: whoever was answered has been, the others see the connection close.
        () = ended => Ok(()),
        served = served => served,
    }
}

fn open_authority(args: &ControlArgs) -> Result<Authority, String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let addresses = [args.listen, args.xds].map(|address| address.ip());
    Authority::open(&args.data, authority::names(&host, &addresses, &args.names))
}

/// The first lines that it says.
fn tell(authority: Option<&Authority>, revision: u64, api: SocketAddr, xds: SocketAddr) {
    let scheme = if authority.is_some() { "https" } else { "http" };
    match authority {
        Some(authority) => {
            if authority.is_remade {
                log::tell(format_args!(
                    "{} was not there, and is made anew from ca.key: whoever has the old file still believes control, \
                     whoever has its fingerprint needs the new one",
                    authority.path.display()
                ));
            }
            log::tell(format_args!(
                "the CA is in {}, its SHA-256 is {}",
                authority.path.display(),
                authority.fingerprint
            ));
        }
        None => log::tell("without TLS, and without a token everybody on this machine is admin"),
    }
    log::tell(format_args!("revision {revision}, api on {scheme}://{api}, xds on {scheme}://{xds}"));
}

/// Shows another certificate long before the one that is shown ends.
async fn renew(authority: Option<Arc<Authority>>) {
    let Some(authority) = authority else { return std::future::pending().await };
    loop {
        tokio::time::sleep(authority::LOOKED_AT_EVERY).await;
        if let Err(problem) = authority.renew(std::time::SystemTime::now()) {
            log::tell(problem);
        }
    }
}

/// As many as there may be open files, at most.
fn xds_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What the administrator allows is not asked for twice; without it there are fewer connections.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = if raised.is_ok() { limit.maximum } else { limit.current };
    let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    files.saturating_sub(API_CONNECTIONS_MAX + FILES_OWN).clamp(1, XDS_CONNECTIONS_MAX)
}
