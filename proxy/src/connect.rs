//! A new connection to an endpoint, and whose fault it is if there is none. Whether a pooled one would do is
//! `attempt`'s business. Hot.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::Poll;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};

use crate::attempt::Attempt;
use crate::driver::Socket;
use crate::error::{Kind, ProxyError, Reached};
use crate::listen;

/// Opens a connection to the endpoint.
pub(crate) async fn connect(attempt: &Attempt<'_>) -> Result<Socket, ProxyError> {
    let worker = &attempt.guard.worker;
    let driver = &worker.driver;
    let started = match begin_connect(attempt.endpoint.address) {
        Err(Errno::MFILE | Errno::NFILE) => {
            // Idle connections are worth less than a request.
            worker.view().endpoints().for_each(|endpoint| endpoint.pool.clear());
            worker.shared.shed_idle();
            begin_connect(attempt.endpoint.address)
        }
        started => started,
    };
    let (descriptor, is_connected) = started.map_err(not_connected)?;
    let socket = match is_connected {
        true => Socket::new(driver, descriptor),
        false => Socket::new_waiting(driver, descriptor),
    };
    let deadlines = attempt.deadlines;
    let connect = driver.now() + attempt.cluster.cluster.settings.connect_timeout;
    driver.set_deadline(connect.min(deadlines.attempt).min(deadlines.request));
    std::future::poll_fn(|_| match socket.poll_writable() {
        Poll::Pending if driver.deadline_passed() => {
            Poll::Ready(Err(ProxyError::upstream(Kind::ConnectTimeout, Reached::Nothing)))
        }
        other => other.map_err(|_| ProxyError::here(Kind::Exhausted)),
    })
    .await?;
    if let Ok(Err(error)) = sockopt::socket_error(socket.descriptor()) {
        return Err(not_connected(error));
    }
    if attempt.endpoint.removed.get() {
        return Err(ProxyError::here(Kind::Vanished));
    }
    worker.stats().upstream_connections_opened.add(1);
    Ok(socket)
}

/// Starts to connect, and tells whether that is all.
fn begin_connect(address: SocketAddr) -> Result<(OwnedFd, bool), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    listen::tune(&socket)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// Whose fault it is that there is no connection.
fn not_connected(error: Errno) -> ProxyError {
    match error {
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL => {
            ProxyError::here(Kind::Exhausted)
        }
        _ => ProxyError::upstream(Kind::Connect, Reached::Nothing),
    }
}
