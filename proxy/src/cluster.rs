//! What all workers know of a cluster together: which endpoints failed too often or said that they are not well, who is
//! new, how many requests and connections there are, and how much may be retried. It outlives revisions: a cluster that
//! stays keeps it. Hot where a request touches it, which writes nothing that others read unless something is wrong.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use config::Snapshot;
use config::snapshot::discovery::Discovery;
use config::snapshot::{Cluster, Endpoint, Outlier};

use crate::budget::Budget;
use crate::log::event;
use crate::shadow::TrialState;
use crate::slots::Slots;

/// An ejection is no longer than this, however often it was repeated, unless a single one is.
const EJECTION_MAX: Duration = Duration::from_secs(300);
/// An endpoint to which no connection can be made is left alone for so long, twice as long each time in a row.
const REFUSAL: Duration = Duration::from_secs(1);
const REFUSAL_MAX: Duration = Duration::from_secs(8);

/// What the process knows of one cluster.
pub(crate) struct ClusterState {
    pub(crate) name: Arc<str>,
    /// Moves whenever something changes that the choice of an endpoint depends on.
    epoch: AtomicU64,
    /// By address and incarnation: another process is another endpoint.
    endpoints: Mutex<HashMap<(SocketAddr, u64), Weak<EndpointState>>>,
    /// Requests under way, lent to workers in part.
    pub(crate) requests: AtomicI64,
    /// Connections.
    pub(crate) connections: Slots,
    pub(crate) budget: Budget,
    /// Where a TrafficPolicy is or was in shadow.
    pub(crate) trial: OnceLock<Box<TrialState>>,
    /// Its endpoints have been known: those that come are new.
    is_settled: AtomicBool,
    /// A request went to it since somebody looked; kept only where control tells its endpoints.
    is_used: AtomicBool,
}

/// What the process knows of one endpoint of a cluster. Times are in nanoseconds since the process's start, 0 is never.
#[derive(Debug, Default)]
pub(crate) struct EndpointState {
    ejections: Ejections,
    /// Those of a policy in shadow, which nobody sees.
    pub(crate) tried: Ejections,
    /// Since when it may be used; 0 for one that was there from the beginning.
    ready_since: AtomicU64,
    health: AtomicU8,
    /// It goes, and said so itself.
    is_leaving: AtomicBool,
    /// Until when it is left alone since no connection to it could be made, and how many times in a row that was.
    refused_until: AtomicU64,
    refusals: AtomicU32,
}

/// How often an endpoint failed, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    /// In a row.
    failures: AtomicU32,
    until: AtomicU64,
    /// How many times in a row it was ejected.
    times: AtomicU32,
    /// Over all time, for people.
    total: AtomicU64,
}

/// What comes of failures in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ejection {
    /// The endpoint is left alone.
    Ejected {
        /// In a row.
        failures: u32,
        length: Duration,
    },
    /// It would be, if not as many were as may be.
    TooMany,
}

/// What active checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Health {
    /// Nothing yet.
    Unproven,
    /// It is well.
    Well,
    /// It is not.
    Unwell,
}

/// All clusters that workers know, by name.
#[derive(Default)]
pub(crate) struct ClusterStates(Mutex<HashMap<Arc<str>, Weak<ClusterState>>>);

impl ClusterStates {
    /// The state of a cluster of that name and of its endpoints, those that are known already or new ones. Endpoints that
    /// come with the cluster itself are not new: there is nobody who could spare them.
    pub(crate) fn join(
        &self,
        cluster: &Cluster,
        workers: usize,
        now: Duration,
    ) -> (Arc<ClusterState>, Vec<Arc<EndpointState>>) {
        let mut known = self.0.lock().expect("no holder of this lock can panic");
        let state = match known.get(&cluster.name).and_then(Weak::upgrade) {
            Some(state) => state,
            None => {
                known.retain(|_, state| state.strong_count() > 0);
                let state = Arc::new(ClusterState::new(cluster.name.clone(), workers));
                known.insert(cluster.name.clone(), Arc::downgrade(&state));
                state
            }
        };
        let mut endpoints = state.endpoints.lock().expect("no holder of this lock can panic");
        let joined = cluster.endpoints.iter().map(|endpoint| {
            let key = (endpoint.address, endpoint.incarnation);
            if let Some(known) = endpoints.get(&key).and_then(Weak::upgrade) {
                return known;
            }
            let fresh = Arc::new(EndpointState::default());
            if state.is_settled.load(Relaxed) {
                fresh.ready_since.store(nanos(now), Relaxed);
            }
            endpoints.insert(key, Arc::downgrade(&fresh));
            fresh
        });
        let joined: Vec<_> = joined.collect();
        endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        drop(endpoints);
        state.is_settled.fetch_or(!cluster.is_awaited(), Relaxed);
        (state, joined)
    }

    /// The resources of whose clusters some were used since the last call.
    pub(crate) fn used(&self, snapshot: &Snapshot) -> HashSet<Arc<str>> {
        let known = self.0.lock().expect("no holder of this lock can panic");
        let is_used = |name: &Arc<str>| {
            let state = known.get(name).and_then(Weak::upgrade);
            state.is_some_and(|state| state.is_used.swap(false, Relaxed))
        };
        let used = snapshot.clusters.iter().filter_map(|cluster| match &cluster.discovery {
            Discovery::Control(told) if is_used(&cluster.name) => Some(told.resource.clone()),
            _ => None,
        });
        used.collect()
    }

    /// The state of a cluster that workers know, with that of its endpoints.
    pub(crate) fn find(&self, cluster: &Cluster) -> Option<(Arc<ClusterState>, Vec<Arc<EndpointState>>)> {
        let state = self.0.lock().expect("no holder of this lock can panic").get(&cluster.name)?.upgrade()?;
        let known = state.endpoints.lock().expect("no holder of this lock can panic");
        let of = |endpoint: &Endpoint| known.get(&(endpoint.address, endpoint.incarnation))?.upgrade();
        let endpoints = cluster.endpoints.iter().map(of).collect::<Option<Vec<_>>>()?;
        drop(known);
        Some((state, endpoints))
    }
}

impl ClusterState {
    fn new(name: Arc<str>, workers: usize) -> ClusterState {
        ClusterState {
            name,
            epoch: AtomicU64::new(1),
            endpoints: Mutex::default(),
            requests: AtomicI64::new(0),
            connections: Slots::default(),
            budget: Budget::new(workers),
            trial: OnceLock::new(),
            is_settled: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
        }
    }

    /// A request goes to it. Returns whether it is the first since somebody looked.
    pub(crate) fn touch(&self) -> bool {
        // Most often it is known already, and then nobody's cache is disturbed.
        let is_first = !self.is_used.load(Relaxed);
        if is_first {
            self.is_used.store(true, Relaxed);
        }
        is_first
    }

    /// Whoever chose at another epoch has to look again.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    fn changed(&self) {
        self.epoch.fetch_add(1, Relaxed);
    }

    /// An attempt at an endpoint ended well or not.
    pub(crate) fn tell(
        &self,
        endpoint: &EndpointState,
        address: SocketAddr,
        failed: bool,
        now: Duration,
        settings: &Outlier,
    ) {
        let ejection = self.judge(endpoint, |endpoint| &endpoint.ejections, failed, now, settings);
        if let Some(Ejection::Ejected { failures, length }) = ejection {
            self.changed();
            let name = &self.name;
            event("warn", &format!("{name}: {address} is ejected for {length:?} after {failures} failures in a row"));
        }
    }

    /// The same for a policy in shadow: nobody is left alone. To those that would be, requests go on, and say nothing.
    pub(crate) fn would_tell(
        &self,
        endpoint: &EndpointState,
        failed: bool,
        now: Duration,
        settings: &Outlier,
    ) -> Option<Ejection> {
        if endpoint.tried.is_ejected(now) {
            return None;
        }
        self.judge(endpoint, |endpoint| &endpoint.tried, failed, now, settings)
    }

    fn judge(
        &self,
        endpoint: &EndpointState,
        of: impl Fn(&EndpointState) -> &Ejections,
        failed: bool,
        now: Duration,
        settings: &Outlier,
    ) -> Option<Ejection> {
        let own = of(endpoint);
        if !failed {
            // Most of the time this reads what nobody writes.
            if own.failures.load(Relaxed) != 0 {
                own.failures.store(0, Relaxed);
            }
            return None;
        }
        let failures = own.failures.fetch_add(1, Relaxed) + 1;
        if failures < settings.failures || own.is_ejected(now) {
            return None;
        }
        let endpoints = self.endpoints.lock().expect("no holder of this lock can panic");
        let all = || endpoints.values().filter_map(Weak::upgrade);
        let (count, ejected) = (all().count(), all().filter(|other| of(other).is_ejected(now)).count());
        if own.is_ejected(now) {
            return None;
        }
        if !may_eject(count, ejected, settings.ejected_percent_max) {
            // Told once for a row of failures, not for each that makes it longer.
            return (failures == settings.failures).then_some(Ejection::TooMany);
        }
        let times = ejections_in_a_row(own.times.load(Relaxed), own.until(), now, settings.interval);
        let length = ejection_length(times, settings.ejection);
        own.failures.store(0, Relaxed);
        own.times.store(times, Relaxed);
        own.total.fetch_add(1, Relaxed);
        own.until.store(nanos(now + length).max(1), Relaxed);
        Some(Ejection::Ejected { failures, length })
    }

    /// An endpoint says that it goes: it is left alone, as long as there is another.
    #[cold]
    pub(crate) fn leaves(&self, endpoint: &EndpointState) {
        if !endpoint.is_leaving.swap(true, Relaxed) {
            self.changed();
        }
    }

    /// No connection to an endpoint could be made: it is left alone for a moment, as long as there is another.
    #[cold]
    pub(crate) fn refused(&self, endpoint: &EndpointState, address: SocketAddr, now: Duration) {
        let before = endpoint.refused_until.load(Relaxed);
        let length = refusal_length(endpoint.refusals.load(Relaxed));
        // Of several that find it out together one counts.
        let is_news = before <= nanos(now)
            && endpoint.refused_until.compare_exchange(before, nanos(now + length), Relaxed, Relaxed).is_ok();
        if is_news {
            self.changed();
            if endpoint.refusals.fetch_add(1, Relaxed) == 0 {
                event("warn", &format!("{}: {address} takes no connection: others are used", self.name));
            }
        }
    }

    /// A connection to an endpoint was made.
    pub(crate) fn connected(&self, endpoint: &EndpointState, address: SocketAddr) {
        // Most of the time this reads what nobody writes.
        if endpoint.refusals.load(Relaxed) != 0 && endpoint.refusals.swap(0, Relaxed) != 0 {
            endpoint.refused_until.store(0, Relaxed);
            self.changed();
            event("info", &format!("{}: {address} takes connections again", self.name));
        }
    }

    /// What active checks say now of an endpoint.
    pub(crate) fn checked(&self, endpoint: &EndpointState, address: SocketAddr, health: Health, now: Duration) {
        let before = endpoint.health();
        if before == health {
            return;
        }
        endpoint.health.store(health as u8, Relaxed);
        if health == Health::Well && before == Health::Unwell {
            endpoint.ready_since.store(nanos(now).max(1), Relaxed);
        }
        self.changed();
        match health {
            Health::Unwell => event("warn", &format!("{}: {address} is not well: it is not used", self.name)),
            Health::Well if before == Health::Unwell => {
                event("info", &format!("{}: {address} is well again", self.name))
            }
            Health::Well | Health::Unproven => {}
        }
    }
}

impl Ejections {
    fn until(&self) -> Duration {
        Duration::from_nanos(self.until.load(Relaxed))
    }

    /// Whether the endpoint is left alone.
    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        self.until() > now
    }
}

impl EndpointState {
    /// Until when it is left alone; in the past if it is not.
    pub(crate) fn ejected_until(&self) -> Duration {
        self.ejections.until()
    }

    /// Until when it is left alone since no connection could be made; in the past if it is not.
    pub(crate) fn refused_until(&self) -> Duration {
        Duration::from_nanos(self.refused_until.load(Relaxed))
    }

    /// Whether the last connection to it could not be made, however long ago.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.refusals.load(Relaxed) != 0
    }

    /// Whether it goes, and said so itself.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Relaxed)
    }

    /// How often it was, over all time.
    pub(crate) fn ejections_total(&self) -> u64 {
        self.ejections.total.load(Relaxed)
    }

    /// Since when it may be used.
    pub(crate) fn ready_since(&self) -> Option<Duration> {
        Some(self.ready_since.load(Relaxed)).filter(|since| *since > 0).map(Duration::from_nanos)
    }

    /// What active checks say.
    pub(crate) fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            1 => Health::Well,
            2 => Health::Unwell,
            _ => Health::Unproven,
        }
    }
}

/// Whether one more of `count` endpoints may be ejected: one always, as long as another is left.
fn may_eject(count: usize, ejected: usize, percent_max: u32) -> bool {
    let most = (count * percent_max as usize / 100).max(usize::from(percent_max > 0)).min(count.saturating_sub(1));
    ejected < most
}

/// Which time in a row the next ejection is: each `interval` without one since the last takes one off.
fn ejections_in_a_row(before: u32, until: Duration, now: Duration, interval: Duration) -> u32 {
    let well = now.saturating_sub(until).as_nanos() / interval.as_nanos().max(1);
    before.saturating_sub(well.try_into().unwrap_or(u32::MAX)) + 1
}

fn ejection_length(times: u32, first: Duration) -> Duration {
    first.saturating_mul(times).min(EJECTION_MAX.max(first))
}

/// After so many others in a row.
fn refusal_length(before: u32) -> Duration {
    REFUSAL.saturating_mul(1 << before.min(16)).min(REFUSAL_MAX)
}

/// Enough for five centuries.
fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_may_be_ejected_but_never_all() {
        for (count, percent, expected) in [
            (1, 100, 0),
            (2, 50, 1),
            (2, 10, 1),
            (3, 50, 1),
            (10, 50, 5),
            (10, 100, 9),
            (10, 5, 1),
            (10, 0, 0),
            (0, 50, 0),
        ] {
            let most = (0..=count).find(|ejected| !may_eject(count, *ejected, percent));
            assert_eq!(most, Some(expected), "{count} endpoints, {percent} %");
        }
    }

    #[test]
    fn who_takes_no_connection_is_left_alone_for_longer_each_time() {
        let s = Duration::from_secs;
        let (cluster, endpoint) = (ClusterState::new("web".into(), 1), EndpointState::default());
        let address = ([10, 0, 0, 1], 80).into();
        let mut epoch = cluster.epoch();
        for (now, until) in [(10, 11), (10, 11), (11, 13), (12, 13), (13, 17), (17, 25), (40, 48)] {
            cluster.refused(&endpoint, address, s(now));
            assert_eq!(endpoint.refused_until(), s(until), "at {now}");
            epoch = epoch.max(cluster.epoch());
        }
        assert_eq!(epoch, 6, "who is told of it twice looks once");
        cluster.connected(&endpoint, address);
        assert_eq!((endpoint.refused_until(), cluster.epoch()), (s(0), 7));
        cluster.connected(&endpoint, address);
        assert_eq!(cluster.epoch(), 7);
        cluster.refused(&endpoint, address, s(50));
        assert_eq!(endpoint.refused_until(), s(51));
    }

    #[test]
    fn ejections_in_a_row_grow_and_are_forgotten() {
        let s = Duration::from_secs;
        for (before, until, now, times, length) in [
            (0, 0, 100, 1, 30),
            (1, 130, 131, 2, 60),
            (2, 190, 199, 3, 90),
            (2, 190, 200, 2, 60),
            (2, 190, 1000, 1, 30),
            (20, 190, 191, 21, 300),
        ] {
            let row = ejections_in_a_row(before, s(until), s(now), s(10));
            assert_eq!((row, ejection_length(row, s(30))), (times, s(length)), "{before} {until} {now}");
        }
        assert_eq!(ejection_length(1, s(1000)), s(1000));
    }
}
