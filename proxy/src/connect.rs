//! A connection to an endpoint: a pooled one, a new one, or where there is a bound on them the one that becomes free
//! next; and whose fault it is if there is none. Hot.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};

use crate::attempt::{Attempt, Deadlines};
use crate::cluster::ClusterState;
use crate::connection::Client;
use crate::driver::{Driver, Socket};
use crate::error::{Kind, ProxyError, Reached};
use crate::listen;
use crate::pool::Link;
use crate::slots::{Grant, Joined, Slot, Waiter};
use crate::view::EndpointView;
use crate::worker::Worker;

/// A connection for an attempt.
pub(crate) struct Obtained {
    /// Where it goes: the endpoint that was picked, or another whose connection became free.
    pub(crate) endpoint: Rc<EndpointView>,
    pub(crate) means: Means,
    /// How long it was not used; zero for one that is new.
    pub(crate) idle: Duration,
}

impl Obtained {
    fn new(endpoint: Rc<EndpointView>, means: Means) -> Obtained {
        Obtained { endpoint, means, idle: Duration::ZERO }
    }
}

/// How to get it.
pub(crate) enum Means {
    /// It is there.
    Pooled(Link),
    /// It is still to be opened, within the bound on connections if there is one.
    Open(Option<Slot>),
}

/// A pooled connection for the attempt, which most have; nothing is waited for.
pub(crate) fn pooled(attempt: &Attempt<'_>) -> Option<Obtained> {
    if attempt.fresh_only {
        return None;
    }
    let (link, idle) = attempt.endpoint.pool.take_idle(attempt.guard.worker.driver.now())?;
    Some(Obtained { endpoint: attempt.endpoint.clone(), means: Means::Pooled(link), idle })
}

/// The right to open a connection for the attempt, or one that became free while it waited.
pub(crate) async fn obtain(attempt: &Attempt<'_>, client: &Client) -> Result<Obtained, ProxyError> {
    let worker = &attempt.guard.worker;
    let now = worker.driver.now();
    let (endpoint, state) = (attempt.endpoint.clone(), &attempt.cluster.state);
    let Some(max) = attempt.cluster.cluster.settings.bounds.connections_max else {
        return Ok(Obtained::new(endpoint, Means::Open(None)));
    };
    if state.connections.try_take(max) {
        let slot = Slot::new(state.clone(), worker.shared.clone());
        return Ok(Obtained::new(endpoint, Means::Open(Some(slot))));
    }
    if state.connections.waiting() == 0
        && let Some((_, Link { slot: Some(slot), .. })) = attempt.cluster.take_idle(now)
    {
        // One that is idle makes room for one that is needed.
        return Ok(Obtained::new(endpoint, Means::Open(Some(slot))));
    }
    wait_in_line(attempt, client, max).await
}

/// A place in the line, given up however the wait ends.
struct InLine<'a> {
    worker: &'a Worker,
    state: &'a Arc<ClusterState>,
    waiter: Arc<Waiter>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if self.state.connections.leave(&self.waiter).is_some() {
            // What was granted goes on to the next.
            drop(Slot::new(self.state.clone(), self.worker.shared.clone()));
        }
    }
}

async fn wait_in_line(attempt: &Attempt<'_>, client: &Client, max: u32) -> Result<Obtained, ProxyError> {
    let (worker, state) = (&attempt.guard.worker, &attempt.cluster.state);
    let settings = &attempt.cluster.cluster.settings;
    let driver = &worker.driver;
    let joined = state.connections.wait(worker.id, driver.current(), max, settings.bounds.pending_max);
    let Joined { waiter, first } = joined.ok_or(ProxyError::here(Kind::Overflow))?;
    if let Some(first) = first {
        worker.shared.wake(&first);
    }
    let place = InLine { worker, state, waiter };
    worker.shared.ask_for_connections(worker.id, state);
    // Without a place among the events the end of the client is noticed later.
    let _ = client.wire.socket.watch();
    let Deadlines { request, attempt: this, .. } = attempt.deadlines;
    driver.set_deadline((driver.now() + settings.connect_timeout).min(this).min(request));
    let grant = std::future::poll_fn(|_| {
        if let Some(grant) = place.waiter.take() {
            return Poll::Ready(Ok(grant));
        }
        if client.wire.socket.is_ended() {
            // Who has gone, or will send no more, holds no place in a line.
            return Poll::Ready(Err(ProxyError::downstream(Kind::Gone)));
        }
        match driver.deadline_passed() {
            true => Poll::Ready(Err(ProxyError::here(Kind::PendingTimeout))),
            false => Poll::Pending,
        }
    })
    .await?;
    let slot = Slot::new(state.clone(), worker.shared.clone());
    if let Grant::Connection(descriptor, address) = grant
        && let Some(endpoint) = worker.view().cluster(&state.name).and_then(|cluster| cluster.endpoint(address))
    {
        let link = Link { socket: Socket::new(driver, descriptor), slot: Some(slot) };
        return Ok(Obtained::new(endpoint, Means::Pooled(link)));
    }
    Ok(Obtained::new(attempt.endpoint.clone(), Means::Open(Some(slot))))
}

/// Opens a connection to an endpoint.
pub(crate) async fn connect(attempt: &Attempt<'_>, endpoint: &EndpointView) -> Result<Socket, ProxyError> {
    let worker = &attempt.guard.worker;
    let driver = &worker.driver;
    let started = match begin_connect(endpoint.address) {
        Err(Errno::MFILE | Errno::NFILE) => {
            // Idle connections are worth less than a request.
            worker.view().endpoints().for_each(|endpoint| endpoint.pool.clear());
            worker.shared.shed_idle();
            begin_connect(endpoint.address)
        }
        started => started,
    };
    let deadlines = attempt.deadlines;
    let connect = driver.now() + attempt.cluster.cluster.settings.connect_timeout;
    let socket = establish(driver, started, connect.min(deadlines.attempt).min(deadlines.request)).await?;
    if endpoint.removed.get() {
        return Err(ProxyError::here(Kind::Vanished));
    }
    worker.stats().upstream_connections_opened.add(1);
    Ok(socket)
}

/// Opens a connection that nobody but its opener knows of.
pub(crate) async fn connect_alone(
    driver: &Rc<Driver>,
    address: SocketAddr,
    deadline: Duration,
) -> Result<Socket, ProxyError> {
    establish(driver, begin_connect(address), deadline).await
}

async fn establish(
    driver: &Rc<Driver>,
    started: Result<(OwnedFd, bool), Errno>,
    deadline: Duration,
) -> Result<Socket, ProxyError> {
    let (descriptor, is_connected) = started.map_err(not_connected)?;
    let socket = match is_connected {
        true => Socket::new(driver, descriptor),
        false => Socket::new_waiting(driver, descriptor),
    };
    driver.set_deadline(deadline);
    std::future::poll_fn(|_| match socket.poll_writable() {
        Poll::Pending if driver.deadline_passed() => {
            Poll::Ready(Err(ProxyError::upstream(Kind::ConnectTimeout, Reached::Nothing)))
        }
        other => other.map_err(|_| ProxyError::here(Kind::Exhausted)),
    })
    .await?;
    match sockopt::socket_error(socket.descriptor()) {
        Ok(Err(error)) => Err(not_connected(error)),
        _ => Ok(socket),
    }
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
