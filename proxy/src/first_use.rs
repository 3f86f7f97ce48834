//! The first use of a cluster whose endpoints control has not told, or of a Service that it has not told of: asks for them,
//! and lets the request wait for them, in a line of bounded length and for a bounded time. Hot where control is used, else
//! not run at all.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use config::route::RequestView as _;
use config::sidecar::service_of;
use config::snapshot::discovery::{Discovery, Told};
use config::snapshot::{Bind, Calls};
use filters::Head;

use crate::connection::Client;
use crate::driver::TaskId;
use crate::error::{Kind, ProxyError};
use crate::view::ClusterView;
use crate::worker::{BindView, Worker};

/// Requests of all workers that wait at the same time.
const LINE_MAX: usize = 1_024;
/// How long each of them waits.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Whether the endpoints of a cluster are known, for who cannot wait; if not, control is asked for them.
pub(crate) fn are_known(worker: &Worker, cluster: &ClusterView) -> bool {
    let Discovery::Control(Told { resource, instances, .. }) = &cluster.cluster.discovery else { return true };
    let is_first = cluster.state.touch();
    if instances.is_none() && is_first {
        worker.shared.ask_control_for(resource);
    }
    instances.is_some()
}

/// The cluster as it is once its endpoints are known, which most often they are; and control's endpoints are in use now.
pub(crate) async fn ensure(
    worker: &Rc<Worker>,
    client: &Client,
    cluster: Rc<ClusterView>,
    deadline: Duration,
) -> Result<Rc<ClusterView>, ProxyError> {
    let Discovery::Control(Told { resource, instances, .. }) = &cluster.cluster.discovery else {
        return Ok(cluster);
    };
    cluster.state.touch();
    if instances.is_some() {
        return Ok(cluster);
    }
    // Whoever asks has a place, so that questions are bounded, too.
    let _place = Place::take(worker).ok_or(ProxyError::here(Kind::Awaited))?;
    worker.shared.ask_control_for(resource);
    let driver = &worker.driver;
    let until = driver.now() + WAIT_MAX;
    // Without a place among the events the end of the client is noticed later.
    let _ = client.wire.socket.watch();
    driver.set_deadline(until.min(deadline));
    std::future::poll_fn(|_| {
        match worker.view().cluster(&cluster.cluster.name) {
            None => return Poll::Ready(Err(ProxyError::here(Kind::NoEndpoint))),
            Some(cluster) if !cluster.cluster.is_awaited() => return Poll::Ready(Ok(cluster)),
            Some(_) => {}
        }
        if client.wire.socket.is_ended() {
            // Who has gone, or will send no more, holds no place in a line.
            return Poll::Ready(Err(ProxyError::downstream(Kind::Gone)));
        }
        match driver.now() {
            now if now >= deadline => Poll::Ready(Err(ProxyError::here(Kind::RequestTimeout))),
            now if now >= until => Poll::Ready(Err(ProxyError::here(Kind::Awaited))),
            _ => Poll::Pending,
        }
    })
    .await
}

/// Why no rule takes a request: there is none for it, or no Service has the name that is called, or nothing is known of it.
#[cold]
pub(crate) fn missing(listener: &Bind, head: &Head) -> Kind {
    let Some(calls) = &listener.calls else { return Kind::NoRoute };
    match listener.table.has_service(head.host()) {
        true if listener.table.has_service(head.authority()) => Kind::NoRoute,
        // It has no such port.
        true => Kind::NoService,
        false if calls.by_use && collection(calls, head).is_some() => Kind::Unheard,
        false => Kind::NoService,
    }
}

/// What control is asked for of the Service that a request calls.
fn collection(calls: &Calls, head: &Head) -> Option<Arc<str>> {
    let host = std::str::from_utf8(head.host()).ok()?;
    service_of(host, &calls.namespace).map(|(namespace, service)| format!("Service/{namespace}/{service}/*").into())
}

/// Waits until control has said whether there is the Service that a request calls. What it returns is `Unheard` if there is:
/// rules that are in force by then know it.
#[cold]
pub(crate) async fn hear_of(worker: &Rc<Worker>, client: &Client, bind: &BindView, head: &Head) -> ProxyError {
    let is_known = || {
        let place = worker.place(bind);
        place.is_some_and(|(view, index)| view.snapshot.binds[index].table.has_service(head.host()))
    };
    let place = worker.place(bind);
    let asked = place.and_then(|(view, index)| collection(view.snapshot.binds[index].calls.as_ref()?, head));
    let Some(asked) = asked else { return ProxyError::here(Kind::NoService) };
    if worker.shared.is_absent(&asked) {
        return ProxyError::here(Kind::NoService);
    }
    // Whoever asks has a place, so that questions are bounded, too.
    let Some(_place) = Place::take(worker) else { return ProxyError::here(Kind::Awaited) };
    worker.shared.ask_control_for(&asked);
    let driver = &worker.driver;
    let until = driver.now() + WAIT_MAX;
    // Without a place among the events the end of the client is noticed later.
    let _ = client.wire.socket.watch();
    driver.set_deadline(until);
    std::future::poll_fn(|_| {
        Poll::Ready(if is_known() {
            ProxyError::here(Kind::Unheard)
        } else if worker.shared.is_absent(&asked) {
            ProxyError::here(Kind::NoService)
        } else if client.wire.socket.is_ended() {
            // Who has gone, or will send no more, holds no place in a line.
            ProxyError::downstream(Kind::Gone)
        } else if driver.now() >= until {
            ProxyError::here(Kind::Awaited)
        } else {
            return Poll::Pending;
        })
    })
    .await
}

/// A place in the line, given up however the wait ends.
struct Place<'w> {
    worker: &'w Worker,
    task: TaskId,
}

impl Place<'_> {
    /// None: the line is full.
    fn take(worker: &Worker) -> Option<Place<'_>> {
        if worker.shared.awaiting.fetch_add(1, Relaxed) >= LINE_MAX {
            worker.shared.awaiting.fetch_sub(1, Relaxed);
            return None;
        }
        let task = worker.driver.current();
        worker.awaiting.borrow_mut().insert(task);
        Some(Place { worker, task })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.worker.awaiting.borrow_mut().remove(&self.task);
        self.worker.shared.awaiting.fetch_sub(1, Relaxed);
    }
}
