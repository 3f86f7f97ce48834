//! Which endpoint one attempt goes to: a choice by what this worker has measured, by turns, or by a hash of the
//! request. What an endpoint is good for beyond that is others' business. Pure but for the measures. Hot.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use config::consistent;
use config::route::query_param;
use config::snapshot::{Balance, Cluster, HashKey};
use filters::Head;

use crate::error::{ProxyError, Side};

/// How fast what was measured is forgotten: to a third in this time.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts as, however fast it came: who refuses everything at once must not look like the best.
const FAILURE: Duration = Duration::from_secs(1);

/// What a worker knows of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: Cell<u32>,
    /// Peak-sensitive moving average of the time to the first byte, and when it was right: a higher value counts at
    /// once, a lower one slowly (peak EWMA, as in Finagle's load balancer).
    latency_ns: Cell<f64>,
    measured_at: Cell<Duration>,
}

/// Counts an attempt for as long as it lives.
pub(crate) struct InFlight<'l>(&'l Load);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl Load {
    /// An attempt begins.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(self)
    }

    /// The first byte of an answer came after so long, or a failure.
    pub(crate) fn measured(&self, now: Duration, took: Duration, is_failure: bool) {
        let took = if is_failure { took.max(FAILURE) } else { took }.as_nanos().max(1) as f64;
        let kept = self.kept(now);
        let before = self.latency_ns.get() * kept;
        self.latency_ns.set(if took > before { took } else { before + took * (1.0 - kept) });
        self.measured_at.set(now);
    }

    /// The share of the last value that still counts.
    fn kept(&self, now: Duration) -> f64 {
        (-now.saturating_sub(self.measured_at.get()).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// How long one more request would take, in no unit. One that nobody has measured is tried, by one request.
    fn cost(&self, now: Duration, weight: f64) -> f64 {
        let in_flight = f64::from(self.in_flight.get()) / weight;
        match self.latency_ns.get() {
            0.0 => in_flight * FAILURE.as_nanos() as f64,
            latency => latency * self.kept(now) * (in_flight + 1.0),
        }
    }
}

/// What a cluster's balance needs beside the measures.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// Sums of weights up to each endpoint; None where all weigh the same.
    sums: Option<Vec<u64>>,
    turns: RefCell<Turns>,
}

/// Weighted round robin: who has had the smallest share of its weight is next (stride scheduling, Waldspurger 1995).
#[derive(Debug, Default)]
struct Turns {
    next: usize,
    /// How far each has come, in strides that no number of requests makes overflow, with its weight and index.
    queue: BinaryHeap<Reverse<(u128, u64, usize)>>,
}

impl Balancer {
    /// For a cluster's endpoints. Workers begin at different turns, so that few requests do not all meet at the first.
    pub(crate) fn new(cluster: &Cluster, dice: u64) -> Balancer {
        let weights = || cluster.endpoints.iter().map(|endpoint| u64::from(endpoint.weight));
        let first = weights().next();
        let is_even = weights().all(|weight| Some(weight) == first);
        let add = |sum: &mut u64, weight: u64| {
            *sum += weight;
            Some(*sum)
        };
        let sums: Option<Vec<u64>> = (!is_even).then(|| weights().scan(0, add).collect());
        let count = cluster.endpoints.len().max(1) as u64;
        let mut turns = Turns { next: (dice % count) as usize, queue: BinaryHeap::new() };
        if sums.is_some() && cluster.settings.balance == Balance::RoundRobin {
            turns.queue =
                weights().enumerate().map(|(index, weight)| Reverse((stride(weight) / 2, weight, index))).collect();
        }
        Balancer { sums, turns: RefCell::new(turns) }
    }

    /// The index of the endpoint for one attempt; None if there is none. `hash` is of the request, where the balance is
    /// by hash; `load` tells an endpoint's.
    pub(crate) fn pick<'l>(
        &self,
        cluster: &Cluster,
        load: impl Fn(usize) -> &'l Load,
        now: Duration,
        hash: Option<u64>,
        mut dice: impl FnMut() -> u64,
    ) -> Option<usize> {
        let count = cluster.endpoints.len();
        if count < 2 {
            return count.checked_sub(1);
        }
        let by_hash = || cluster.groups[0].consistent.as_ref()?.at(hash?).next();
        match cluster.settings.balance {
            Balance::RoundRobin => Some(self.turns.borrow_mut().take(count)),
            Balance::RingHash | Balance::Maglev => by_hash().or_else(|| Some(self.draw(count, dice()))),
            Balance::LeastRequest => {
                let (one, other) = self.draw_two(count, &mut dice);
                let used = |index: usize| f64::from(load(index).in_flight.get()) / self.relative(cluster, index);
                Some(if used(other) < used(one) { other } else { one })
            }
            Balance::PeakEwma => {
                let (one, other) = self.draw_two(count, &mut dice);
                let cost = |index: usize| load(index).cost(now, self.relative(cluster, index));
                Some(if cost(other) < cost(one) { other } else { one })
            }
        }
    }

    /// An endpoint's weight as a multiple of the mean.
    fn relative(&self, cluster: &Cluster, index: usize) -> f64 {
        match &self.sums {
            None => 1.0,
            Some(sums) => {
                let mean = sums.last().map_or(1.0, |total| *total as f64) / sums.len() as f64;
                f64::from(cluster.endpoints[index].weight) / mean
            }
        }
    }

    /// One at random, by weight.
    fn draw(&self, count: usize, dice: u64) -> usize {
        match &self.sums {
            None => below(count as u64, dice) as usize,
            Some(sums) => {
                let point = below(sums.last().copied().unwrap_or(1), dice);
                sums.partition_point(|sum| *sum <= point)
            }
        }
    }

    /// Two at random: different ones where all weigh the same. Where they do not, each by weight, so that the same may
    /// come twice and then is taken: a light one must not be half of every pair.
    fn draw_two(&self, count: usize, dice: &mut impl FnMut() -> u64) -> (usize, usize) {
        let one = self.draw(count, dice());
        if self.sums.is_some() {
            return (one, self.draw(count, dice()));
        }
        let other = below(count as u64 - 1, dice()) as usize;
        (one, if other >= one { other + 1 } else { other })
    }
}

impl Turns {
    fn take(&mut self, count: usize) -> usize {
        let Some(mut first) = self.queue.peek_mut() else {
            let index = self.next % count;
            self.next = (index + 1) % count;
            return index;
        };
        let Reverse((at, weight, index)) = *first;
        *first = Reverse((at + stride(weight), weight, index));
        index
    }
}

/// How far an endpoint moves back with each request.
fn stride(weight: u64) -> u128 {
    (1 << 40) / u128::from(weight.max(1))
}

/// Maps uniform dice to a number below `bound` without the bias of a remainder: multiply-shift (Lemire 2019).
pub(crate) fn below(bound: u64, dice: u64) -> u64 {
    ((u128::from(dice) * u128::from(bound)) >> 64) as u64
}

/// What an attempt says of its endpoint: whether it failed, or None if it says nothing. `reused`: on a pooled
/// connection, which an endpoint may close whenever nothing is under way (RFC 9112 9.5).
pub(crate) fn judge(outcome: Result<u16, &ProxyError>, reused: bool) -> Option<bool> {
    match outcome {
        Ok(status) => Some(status >= 500),
        Err(error) if error.side != Side::Upstream || error.is_stale(reused) => None,
        Err(_) => Some(true),
    }
}

/// The hash of the first of `keys` that a request has.
pub(crate) fn hash(keys: &[HashKey], head: &Head, client: IpAddr) -> Option<u64> {
    keys.iter().find_map(|key| match key {
        HashKey::Header(name) => head.get(name).map(consistent::hash),
        HashKey::Cookie(name) => cookie(head, name).map(consistent::hash),
        HashKey::Query(name) => {
            query_param(head.bytes(head.query), name.as_bytes()).map(|value| consistent::hash(&value))
        }
        HashKey::ClientAddress => Some(match client {
            IpAddr::V4(address) => consistent::hash(&address.octets()),
            IpAddr::V6(address) => consistent::hash(&address.octets()),
        }),
    })
}

/// The value of a cookie (RFC 6265 4.2.1).
fn cookie<'h>(head: &'h Head, name: &str) -> Option<&'h [u8]> {
    head.get_all("cookie").flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
    })
}

#[cfg(test)]
mod tests;
