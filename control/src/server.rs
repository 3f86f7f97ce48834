//! The life of the control server: its store, the check that every change passes, and the doors. Cold.

mod answer;
mod api;
mod check;
mod diff;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::server::check::Checker;
use crate::store::Store;

/// What it is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlArgs {
    /// Where everything is kept; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    pub data: PathBuf,
    /// Where the REST API is served. Without TLS, so a loopback address only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15012")]
    pub listen: SocketAddr,
}

/// Runs until it is told to end.
pub async fn run(args: ControlArgs) -> Result<(), String> {
    if !args.listen.ip().is_loopback() {
        return Err(format!("{} is no loopback address, and there is no TLS yet", args.listen));
    }
    let checker = Arc::new(Mutex::new(Checker::default()));
    let store = Store::open(&args.data, Box::new(checker.clone())).map_err(|error| error.to_string())?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    eprintln!("{} revision {}, api on http://{address}", jiff::Timestamp::now(), store.state().revision());
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(terminate), Ok(interrupt)] = &mut ends else { return Err("signals cannot be heard".into()) };
    let ended = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let served = axum::serve(listener, api::router(store, checker));
    tokio::select! {
        // Open watches have no end: whoever was answered has been, the others see the connection close.
        () = ended => Ok(()),
        served = served => served.map_err(|error| error.to_string()),
    }
}
