//! The life of the control server: its store, the check that every change passes, and the doors. Cold.

#[rustfmt::skip]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
mod ads;
mod answer;
mod api;
mod check;
mod diff;
mod feed;
mod fleet;
mod followers;
mod metrics;
mod progress;
mod status;
mod streams;
mod wait;
mod warnings;

pub(crate) use diff::differences;
pub(crate) use wait::duration;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;

use crate::server::ads::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use crate::server::check::Checker;
use crate::server::feed::Feed;
use crate::server::fleet::Fleet;
use crate::server::streams::Streams;
use crate::store::Store;

/// How often a proxy is asked whether it is still there, and how long it may take to say so: a machine that fell over
/// shall not be waited for, one that is only slow shall be named by those who wait.
const ALIVE_EVERY: Duration = Duration::from_secs(30);
const ALIVE_WITHIN: Duration = Duration::from_secs(30);

/// What it is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlArgs {
    /// Where everything is kept; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    pub data: PathBuf,
    /// Where the REST API is served. Without TLS, so a loopback address only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15012")]
    pub listen: SocketAddr,
    /// Where proxies get their configuration (xDS over gRPC). Without TLS, so a loopback address only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15010")]
    pub xds: SocketAddr,
}

/// Runs until it is told to end.
pub async fn run(args: ControlArgs) -> Result<(), String> {
    if let Some(open) = [args.listen, args.xds].iter().find(|address| !address.ip().is_loopback()) {
        return Err(format!("{open} is no loopback address, and there is no TLS yet"));
    }
    let checker = Arc::new(Mutex::new(Checker::default()));
    let store = Store::open(&args.data, Box::new(checker.clone())).map_err(|error| error.to_string())?;
    let listen = async |address: SocketAddr| {
        let listener =
            TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok::<_, String>((listener, address))
    };
    let ((api, api_address), (xds, xds_address)) = (listen(args.listen).await?, listen(args.xds).await?);
    let fleet = Arc::new(Fleet::new(store.clone()));
    let feed = Arc::new(Feed::new(fleet.clone()));
    let streams = Streams::new(feed.clone(), fleet.clone());
    let revision = store.state().revision();
    let now = jiff::Timestamp::now();
    eprintln!("{now} revision {revision}, api on http://{api_address}, xds on http://{xds_address}");
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
    let router = api::router(api::Api { store: store.clone(), checker, feed: feed.clone(), fleet });
    let discovery = AggregatedDiscoveryServiceServer::new(streams);
    let incoming = futures_util::stream::unfold(xds, |xds| async move {
        let accepted = xds.accept().await.map(|(socket, _)| socket);
        Some((accepted, xds))
    });
    let served = async {
        tokio::select! {
            served = axum::serve(api, router) => served.map_err(|error| error.to_string()),
            served = Server::builder()
                .http2_keepalive_interval(Some(ALIVE_EVERY))
                .http2_keepalive_timeout(Some(ALIVE_WITHIN))
                .add_service(discovery).serve_with_incoming(incoming) => {
                served.map_err(|error| error.to_string())
            }
            () = feed.run(store) => Err("the store has ended".into()),
        }
    };
    tokio::select! {
        // Open watches have no end: whoever was answered has been, the others see the connection close.
        () = ended => Ok(()),
        served = served => served,
    }
}
