//! Active health checks: a question to each endpoint every so often, and what so many good or bad answers in a row mean.
//! One process asks once: the checker of an endpoint lives on one of the workers. Cold.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use config::consistent;
use config::snapshot::HealthCheck;

use crate::attempt::ANSWER_LIMITS;
use crate::balance::below;
use crate::buffer::LentHead;
use crate::cluster::Health;
use crate::connect::connect_alone;
use crate::driver::TaskId;
use crate::h1;
use crate::view::{ClusterView, EndpointView};
use crate::wire::Wire;
use crate::worker::Worker;

/// First questions are spread over this for each endpoint of a cluster, so that a large one is not asked all at once.
const SPREAD_EACH: Duration = Duration::from_millis(1);

/// The checkers of one worker, by cluster and endpoint.
pub(crate) type Checks = RefCell<HashMap<(Arc<str>, SocketAddr), TaskId>>;

/// After a revision: a checker for each endpoint that has none yet, and a look at their settings for the others.
pub(crate) fn renew(worker: &Rc<Worker>) {
    let view = worker.view();
    for cluster in view.clusters.iter().filter(|cluster| cluster.cluster.settings.usage.health_check.is_some()) {
        for endpoint in &cluster.endpoints {
            let key = (cluster.cluster.name.clone(), endpoint.address);
            if is_ours(worker, &key) && !worker.checks.borrow().contains_key(&key) {
                let task = worker.driver.spawn(check(worker.clone(), key.clone()));
                worker.checks.borrow_mut().insert(key, task);
            }
        }
    }
    worker.checks.borrow().values().for_each(|task| worker.driver.wake(*task));
}

/// Whether this worker, of all, asks that endpoint.
fn is_ours(worker: &Worker, (cluster, address): &(Arc<str>, SocketAddr)) -> bool {
    let hash = consistent::hash(format!("{cluster} {address}").as_bytes());
    below(worker.shared.mailboxes.len() as u64, hash) == worker.id as u64
}

/// Asks one endpoint until no revision wants that any more.
async fn check(worker: Rc<Worker>, key: (Arc<str>, SocketAddr)) {
    let (name, address) = (&*key.0, key.1);
    let mut tally = Tally::default();
    let spread = SPREAD_EACH * worker.view().cluster(name).map_or(0, |cluster| cluster.endpoints.len() as u32);
    let first = worker.driver.now() + Duration::from_nanos(below(spread.as_nanos() as u64, worker.dice()));
    let mut asked_at = None;
    while let Some((settings, ..)) = find(&worker, name, address) {
        let due = asked_at.map_or(first, |at| at + settings.interval);
        if worker.driver.now() < due {
            // Woken by time, or by a revision that may ask for another interval.
            worker.driver.set_deadline(due);
            let mut is_woken = false;
            std::future::poll_fn(|_| match std::mem::replace(&mut is_woken, true) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            continue;
        }
        asked_at = Some(worker.driver.now());
        let is_good = ask(&worker, address, &settings).await;
        // The revision of now: who has gone meanwhile is nobody's business.
        if let Some((settings, cluster, endpoint)) = find(&worker, name, address)
            && let Some(health) = tally.next(is_good, endpoint.state.health(), &settings)
        {
            cluster.state.checked(&endpoint.state, address, health, worker.driver.now());
        }
    }
    worker.checks.borrow_mut().remove(&key);
}

/// What the revision in force says of an endpoint.
fn find(worker: &Worker, name: &str, address: SocketAddr) -> Option<(HealthCheck, Rc<ClusterView>, Rc<EndpointView>)> {
    let cluster = worker.view().cluster(name)?;
    let settings = cluster.cluster.settings.usage.health_check.clone()?;
    let endpoint = cluster.endpoint(address)?;
    Some((settings, cluster, endpoint))
}

/// Whether the endpoint answers in time with a status of 200 to 299.
async fn ask(worker: &Rc<Worker>, address: SocketAddr, settings: &HealthCheck) -> bool {
    let driver = &worker.driver;
    let deadline = driver.now() + settings.timeout;
    let Ok(socket) = connect_alone(driver, address, deadline).await else { return false };
    let HealthCheck { target, host, .. } = settings;
    let question =
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: evenkeel-health\r\nConnection: close\r\n\r\n");
    let (mut sent, mut scanned) = (0, 0);
    let (mut wire, mut answer) = (Wire::new(socket), LentHead::lend());
    driver.set_deadline(deadline);
    std::future::poll_fn(|_| {
        if driver.deadline_passed() {
            return Poll::Ready(false);
        }
        while sent < question.len() {
            match wire.socket.poll_writable() {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
            match wire.socket.try_write(&[IoSlice::new(&question.as_bytes()[sent..])], false) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(false),
            }
        }
        loop {
            match h1::parse_response(wire.input(), &mut scanned, ANSWER_LIMITS, &mut answer) {
                Ok(Some(_)) if answer.status >= 200 => return Poll::Ready(answer.status < 300),
                Ok(Some(bytes)) => {
                    wire.consume(bytes);
                    (scanned, answer) = (0, LentHead::lend());
                    continue;
                }
                Ok(None) if !wire.is_full() => {}
                Ok(None) | Err(_) => return Poll::Ready(false),
            }
            match wire.poll_fill() {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Answers in a row.
#[derive(Debug, Default)]
struct Tally {
    good: u32,
    bad: u32,
}

impl Tally {
    /// What an answer makes of an endpoint; None: nothing new. The first answer decides at once.
    fn next(&mut self, is_good: bool, before: Health, settings: &HealthCheck) -> Option<Health> {
        (self.good, self.bad) = match is_good {
            true => (self.good.saturating_add(1), 0),
            false => (0, self.bad.saturating_add(1)),
        };
        match (before, is_good) {
            (Health::Unproven, true) => Some(Health::Well),
            (Health::Unproven, false) => Some(Health::Unwell),
            (Health::Unwell, true) if self.good >= settings.healthy_threshold => Some(Health::Well),
            (Health::Well, false) if self.bad >= settings.unhealthy_threshold => Some(Health::Unwell),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_answers_in_a_row_decide_and_the_first_at_once() {
        let settings = HealthCheck {
            target: "/".into(),
            host: "a".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        // `+` and `-` are answers; then what the endpoint is after each: well, unwell.
        for (answers, expected) in
            [("+", "w"), ("-", "u"), ("-+-++", "uuuuw"), ("+--+---", "wwwwwwu"), ("+---+-++", "wwwuuuuw")]
        {
            let (mut tally, mut health) = (Tally::default(), Health::Unproven);
            let told = answers.chars().map(|answer| {
                health = tally.next(answer == '+', health, &settings).unwrap_or(health);
                if health == Health::Well { 'w' } else { 'u' }
            });
            assert_eq!(told.collect::<String>(), expected, "{answers}");
        }
    }
}
