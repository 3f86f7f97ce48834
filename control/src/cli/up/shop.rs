//! The shop: four services in chain, each with two instances in the baseline and two in a lane, and who stands in each place.
//! Instances come and go; places stay. Pure, but for the locks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::app::{BASE, Switch};
use super::instance::{Instance, Role};
use super::judge::Presence;

/// The services in the order in which they call each other.
pub const SERVICES: [&str; 4] = ["web", "cart", "price", "stock"];
/// All lanes, the baseline first.
pub const LANES: [&str; 3] = [BASE, "blue", "green"];
/// The lane that each service has beside the baseline. No lane has all services: what it lacks is the baseline's.
pub const LANE_OF: [&str; 4] = ["blue", "blue", "green", "blue"];
/// Places of a service: the first two in the baseline, the others in its lane.
pub const PLACES: usize = 4;
/// A place that was in trouble may be left alone by callers for so long after.
const TROUBLE_AFTER: Duration = Duration::from_secs(10);

/// Where one instance after another stands.
pub struct Place {
    /// What stands there.
    pub role: Role,
    /// One of `SERVICES`, by its number.
    pub service: usize,
    instance: Mutex<Option<Arc<Instance>>>,
    served_before: AtomicU64,
    born: Instant,
    /// Milliseconds since it was born.
    troubled_until_ms: AtomicU64,
}

/// All places.
pub struct Shop {
    /// Those of the first service first.
    pub places: Vec<Place>,
    started: [AtomicU32; SERVICES.len()],
}

impl Shop {
    /// Nobody is there so far.
    pub fn empty() -> Shop {
        let place = |index: usize| {
            let (service, born) = (index / PLACES, Instant::now());
            let lane = if index % PLACES < PLACES / 2 { BASE } else { LANE_OF[service] };
            let role = Role { service: SERVICES[service], next: SERVICES.get(service + 1).copied(), lane };
            let (served_before, troubled_until_ms) = Default::default();
            Place { role, service, instance: Mutex::default(), served_before, born, troubled_until_ms }
        };
        Shop { places: (0..SERVICES.len() * PLACES).map(place).collect(), started: Default::default() }
    }

    /// The name of the next instance of a service.
    pub fn name(&self, service: usize) -> String {
        format!("{}-{}", SERVICES[service], self.started[service].fetch_add(1, Relaxed) + 1)
    }

    /// Everybody who stands somewhere.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.places.iter().filter_map(Place::instance).collect()
    }

    /// Whether a service has somebody in a lane who should be asked.
    pub fn presence(&self, service: &str, lane: &str) -> Presence {
        let mut of_lane = self.places.iter().filter(|place| (place.role.service, place.role.lane) == (service, lane));
        let is_there = of_lane.clone().next().is_some();
        match lane == BASE || of_lane.any(|place| !place.is_troubled()) {
            _ if !is_there => Presence::Absent,
            // The baseline is the last resort, in trouble or not.
            true => Presence::Well,
            false => Presence::Troubled,
        }
    }
}

impl Place {
    /// Who stands there.
    pub fn instance(&self) -> Option<Arc<Instance>> {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on somebody else stands there, or nobody. Returns who did.
    pub fn put(&self, next: Option<Arc<Instance>>) -> Option<Arc<Instance>> {
        if next.is_none() {
            self.trouble();
        }
        let mut instance = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *instance, next);
        if let Some(before) = &before {
            self.served_before.fetch_add(before.app.served(), Relaxed);
        }
        before
    }

    /// Requests that have reached whoever stood there.
    pub fn served(&self) -> u64 {
        let now = self.instance().map_or(0, |instance| instance.app.served());
        self.served_before.load(Relaxed) + now
    }

    /// Makes whoever stands there behave so.
    pub fn turn(&self, switch: Switch) {
        self.trouble();
        if let Some(instance) = self.instance() {
            instance.app.turn(switch);
        }
    }

    /// Remembers that not all was well here just now, or that a caller thought so.
    pub fn trouble(&self) {
        self.troubled_until_ms.store((self.born.elapsed() + TROUBLE_AFTER).as_millis() as u64, Relaxed);
    }

    /// Whether callers have, or had a moment ago, a reason to leave it alone.
    fn is_troubled(&self) -> bool {
        let is_well = self.instance().is_some_and(|instance| instance.app.switch() == Switch::Ok);
        !is_well || (self.born.elapsed().as_millis() as u64) < self.troubled_until_ms.load(Relaxed)
    }
}
