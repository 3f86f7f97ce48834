//! Which endpoint one attempt goes to: a choice by what this worker has measured, by turns, or by a hash of the
//! request. What an endpoint is good for beyond that is others' business. Pure but for the measures. Hot.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use config::snapshot::{Balance, Group, HashKey};
use filters::{Head, alike};

use crate::error::{ProxyError, Side};

/// How fast what was measured is forgotten: to a third in this time.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts as, however fast it came: who refuses everything at once must not look like the best.
const FAILURE: Duration = Duration::from_secs(1);
/// Of so many requests one goes to the worse of two: who was bad once, and is asked no more, could never be good again.
const PROBE_ONE_IN: u64 = 128;

/// What a worker knows of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: Cell<u32>,
    /// Peak-sensitive moving average of the time to the first byte, and when it was right: a higher value counts at
    /// once, a lower one slowly (peak EWMA, as in Finagle's load balancer).
    latency_ns: Cell<f64>,
    measured_at: Cell<Duration>,
    /// Whether the last attempt failed: it counts until one succeeds, or as long as latencies do.
    has_failed: Cell<bool>,
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
        self.has_failed.set(is_failure);
        let took = took.as_nanos().max(1) as f64;
        let kept = self.kept(now);
        let before = self.latency_ns.get() * kept;
        self.latency_ns.set(if took > before { took } else { before + took * (1.0 - kept) });
        self.measured_at.set(now);
    }

    /// The share of the last value that still counts.
    fn kept(&self, now: Duration) -> f64 {
        (-now.saturating_sub(self.measured_at.get()).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// For people: requests under way, and the latency that counts now.
    pub(crate) fn told(&self, now: Duration) -> (u32, Duration) {
        (self.in_flight.get(), Duration::from_nanos((self.latency_ns.get() * self.kept(now)) as u64))
    }

    /// How long one more request would take, in no unit. One that nobody has measured is tried, by one request.
    fn cost(&self, now: Duration, weight: f64) -> f64 {
        let in_flight = f64::from(self.in_flight.get()) / weight;
        match self.latency_ns.get() {
            0.0 => in_flight * FAILURE.as_nanos() as f64,
            latency if self.has_failed.get() => {
                latency.max(FAILURE.as_nanos() as f64) * self.kept(now) * (in_flight + 1.0)
            }
            latency => latency * self.kept(now) * (in_flight + 1.0),
        }
    }
}

/// How requests are shared among some of a cluster's endpoints, its members.
#[derive(Debug, Clone)]
pub(crate) struct Balancer {
    policy: Balance,
    /// Places among the cluster's endpoints, in their order; never empty.
    members: Vec<u32>,
    /// Sums of weights up to each member; None where all weigh the same.
    sums: Option<Vec<u64>>,
    turns: RefCell<Turns>,
}

/// Weighted round robin: who has had the smallest share of its weight is next (stride scheduling, Waldspurger 1995).
#[derive(Debug, Clone, Default)]
struct Turns {
    next: usize,
    /// How far each has come, in strides that no number of requests makes overflow, with its weight and its place among
    /// the members.
    queue: BinaryHeap<Reverse<(u128, u64, usize)>>,
}

/// Points or places of a table that are looked at for a member; beyond them any will do.
const PLACES_TRIED_MAX: usize = 4096;
/// Throws of the dice for a member that was not tried before; then they are gone through.
const THROWS_MAX: usize = 3;

/// What a choice is made with.
pub(crate) struct Question<'q> {
    pub(crate) now: Duration,
    /// The request's hash and who owns which, where the balance is by hash.
    pub(crate) hash: Option<(u64, &'q Group)>,
    /// Whether an endpoint was tried for this request, so that another is better.
    pub(crate) is_tried: &'q dyn Fn(u32) -> bool,
    /// Whether any was.
    pub(crate) is_retry: bool,
}

impl Balancer {
    /// Shares requests by weight among members, each with its weight above 0. It goes on with the turns of the one
    /// `before` it. Workers begin at different turns, so that few requests do not all meet at the first.
    pub(crate) fn new(policy: Balance, members: &[(u32, u64)], before: Option<&Balancer>, dice: u64) -> Balancer {
        let weights = || members.iter().map(|(_, weight)| *weight);
        let first = weights().next();
        let is_even = weights().all(|weight| Some(weight) == first);
        let add = |sum: &mut u64, weight: u64| {
            *sum += weight;
            Some(*sum)
        };
        let sums: Option<Vec<u64>> = (!is_even).then(|| weights().scan(0, add).collect());
        // Whose turn it was, or who stands behind them: not the same place, before which somebody may have gone or come.
        let next = before.map_or(dice as usize % members.len().max(1), |before| {
            let whose = before.members.get(before.turns.borrow().next).copied().unwrap_or_default();
            members.iter().position(|(member, _)| *member >= whose).unwrap_or(0)
        });
        let mut turns = Turns { next, queue: BinaryHeap::new() };
        if sums.is_some() && policy == Balance::RoundRobin {
            let positions = before.map(Balancer::positions).unwrap_or_default();
            let position = |member: u32, weight: u64| positions.get(&member).copied().unwrap_or(stride(weight) / 2);
            turns.queue = members
                .iter()
                .enumerate()
                .map(|(place, (member, weight))| Reverse((position(*member, *weight), *weight, place)))
                .collect();
        }
        let members = members.iter().map(|(member, _)| *member).collect();
        Balancer { policy, members, sums, turns: RefCell::new(turns) }
    }

    /// How far each member has come beyond the last.
    fn positions(&self) -> HashMap<u32, u128> {
        let turns = self.turns.borrow();
        let least = turns.queue.peek().map_or(0, |Reverse((at, _, _))| *at);
        turns.queue.iter().map(|Reverse((at, _, place))| (self.members[*place], at - least)).collect()
    }

    /// The endpoint for one attempt. `load` tells an endpoint's.
    pub(crate) fn pick<'l>(
        &self,
        question: &Question<'_>,
        load: impl Fn(u32) -> &'l Load + Copy,
        mut dice: impl FnMut() -> u64,
    ) -> u32 {
        let first = self.pick_any(question, load, &mut dice);
        if !question.is_retry || !(question.is_tried)(first) {
            return first;
        }
        let others = std::iter::repeat_with(|| self.pick_any(question, load, &mut dice)).take(THROWS_MAX);
        let mut all = self.members.iter().copied();
        others.chain(all.by_ref()).find(|member| !(question.is_tried)(*member)).unwrap_or(first)
    }

    fn pick_any<'l>(
        &self,
        question: &Question<'_>,
        load: impl Fn(u32) -> &'l Load + Copy,
        dice: &mut impl FnMut() -> u64,
    ) -> u32 {
        if let [only] = self.members[..] {
            return only;
        }
        let place = match self.policy {
            Balance::RoundRobin => self.turns.borrow_mut().take(self.members.len()),
            Balance::RingHash | Balance::Maglev => match self.owner(question) {
                Some(owner) => return owner,
                None => self.draw(dice()),
            },
            Balance::LeastRequest => {
                let (one, other) = self.draw_two(dice);
                let used = |place: usize| f64::from(load(self.members[place]).in_flight.get()) / self.relative(place);
                if used(other) < used(one) { other } else { one }
            }
            Balance::PeakEwma => {
                let (one, other) = self.draw_two(dice);
                let cost = |place: usize| load(self.members[place]).cost(question.now, self.relative(place));
                let is_probe = dice().is_multiple_of(PROBE_ONE_IN);
                if (cost(other) < cost(one)) != is_probe { other } else { one }
            }
        };
        self.members[place]
    }

    /// The first of those a hash belongs to that is a member, and was not tried.
    fn owner(&self, question: &Question<'_>) -> Option<u32> {
        let (hash, group) = question.hash?;
        let owners = group.consistent.as_ref()?.at(hash).take(PLACES_TRIED_MAX).map(|place| group.members[place]);
        let is_all = self.members.len() == group.members.len();
        let is_fit = |member: &u32| {
            (is_all || self.members.binary_search(member).is_ok())
                && !(question.is_retry && (question.is_tried)(*member))
        };
        owners.into_iter().find(is_fit)
    }

    /// A member's weight as a multiple of the mean.
    fn relative(&self, place: usize) -> f64 {
        match &self.sums {
            None => 1.0,
            Some(sums) => {
                let mean = sums.last().map_or(1.0, |total| *total as f64) / sums.len() as f64;
                let before = place.checked_sub(1).map_or(0, |before| sums[before]);
                (sums[place] - before) as f64 / mean
            }
        }
    }

    /// A place at random, by weight.
    fn draw(&self, dice: u64) -> usize {
        match &self.sums {
            None => below(self.members.len() as u64, dice) as usize,
            Some(sums) => {
                let point = below(sums.last().copied().unwrap_or(1), dice);
                sums.partition_point(|sum| *sum <= point)
            }
        }
    }

    /// Two at random: different ones where all weigh the same. Where they do not, each by weight, so that the same may
    /// come twice and then is taken: a light one must not be half of every pair.
    fn draw_two(&self, dice: &mut impl FnMut() -> u64) -> (usize, usize) {
        let one = self.draw(dice());
        if self.sums.is_some() {
            return (one, self.draw(dice()));
        }
        let other = below(self.members.len() as u64 - 1, dice()) as usize;
        (one, if other >= one { other + 1 } else { other })
    }
}

impl Turns {
    fn take(&mut self, count: usize) -> usize {
        let Some(mut first) = self.queue.peek_mut() else {
            let place = self.next % count;
            self.next = (place + 1) % count;
            return place;
        };
        let Reverse((at, weight, place)) = *first;
        *first = Reverse((at + stride(weight), weight, place));
        place
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
    keys.iter().find_map(|key| alike::hash(key, head, client))
}

#[cfg(test)]
mod tests;
