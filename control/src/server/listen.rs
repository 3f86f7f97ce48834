//! The two ports: who connects gets a place or is sent away, and shakes hands in a time. Cold.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_rustls::TlsAcceptor;

use crate::server::limits::{Places, source};
use crate::server::wire::{Link, Stream, Wire};

/// For TLS to stand.
const SHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Connections that stand, and that nobody has taken over so far.
const READY_MAX: usize = 64;
/// After connections could not be accepted, mostly since there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// What becomes of a peer that is silent: asked after this, and then so often that it is gone within a minute.
const ALIVE_AFTER: Duration = Duration::from_secs(30);
const ALIVE_EVERY: Duration = Duration::from_secs(10);
const ALIVE_TRIES: u32 = 3;

/// A port.
pub(crate) struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    places: Arc<Places<IpAddr>>,
    unproved: Arc<Places<IpAddr>>,
}

impl Door {
    /// Listens. `connections_max` are held, three quarters of them by one source, and three quarters of them before they have said who
    /// they are.
    pub(crate) async fn open(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        connections_max: usize,
    ) -> Result<(Door, SocketAddr), String> {
        let failed = |error: std::io::Error| format!("cannot listen on {address}: {error}");
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let each = |all: usize| Places::new(all, all * 3 / 4);
        let (places, unproved) = (each(connections_max), each(connections_max * 3 / 4));
        Ok((Door { listener, tls: tls.map(TlsAcceptor::from), places, unproved }, address))
    }

    /// Accepts for as long as somebody takes what comes.
    pub(crate) fn start(self) -> Receiver<Wire> {
        let (sender, receiver) = channel(READY_MAX);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = self.listener.accept() => match accepted {
                        Ok((socket, address)) => self.admit(socket, address, &sender),
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    },
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }

    /// Whoever finds no place is sent away at once: it may have another control to go to.
    fn admit(&self, socket: TcpStream, address: SocketAddr, sender: &Sender<Wire>) {
        let from = source(address.ip());
        let (Some(place), Some(unproved)) = (self.places.take(&from, 1), self.unproved.take(&from, 1)) else { return };
        // Without them it still works.
        let _ = socket.set_nodelay(true);
        let _ = keep_alive(&socket);
        let link = Arc::new(Link::new(address, place, unproved));
        let (tls, sender) = (self.tls.clone(), sender.clone());
        tokio::spawn(async move {
            let stream = match tls {
                None => Stream::Plain(socket),
                // Who cannot shake hands has heard why.
                Some(tls) => match tokio::time::timeout(SHAKE_WITHIN, tls.accept(socket)).await {
                    Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                    Ok(Err(_)) | Err(_) => return,
                },
            };
            // It is too late for it when the process ends.
            let _ = sender.send(Wire::new(stream, link)).await;
        });
    }
}

fn keep_alive(socket: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, ALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, ALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, ALIVE_TRIES)?;
    let longest = ALIVE_AFTER + ALIVE_EVERY * ALIVE_TRIES;
    sockopt::set_tcp_user_timeout(socket, u32::try_from(longest.as_millis()).unwrap_or(u32::MAX))
}
