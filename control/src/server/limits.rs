//! How much of control one client may take: so often, so much at a time. Time is an argument. Machine, Cold.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Clients whose pace is remembered; those who are on time again are forgotten first.
const CLIENTS_MAX: usize = 20_000;

/// So often, and so often at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// On average.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// Who has come how often: the generic cell rate algorithm, with one time for each client.
#[derive(Debug)]
pub(crate) struct Paces<K> {
    pace: Pace,
    /// When each would have come last, had it kept to its average.
    due: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Paces<K> {
    pub(crate) fn new(pace: Pace) -> Paces<K> {
        Paces { pace, due: Mutex::default() }
    }

    /// Whether a client may come now; the error is how long it should wait.
    pub(crate) fn admit(&self, client: K, now: Instant) -> Result<(), Duration> {
        let mut due = lock(&self.due);
        if due.len() >= CLIENTS_MAX && !due.contains_key(&client) {
            due.retain(|_, due| *due > now);
            if due.len() >= CLIENTS_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let due = due.entry(client).or_insert(now);
        *due = self.pace.admit(*due, now)?;
        Ok(())
    }
}

impl Pace {
    /// When the next one is due. The error is how long it is too early.
    pub(crate) fn admit(&self, due: Instant, now: Instant) -> Result<Instant, Duration> {
        let interval = Duration::from_secs(1) / self.per_second.max(1);
        let due = due.max(now);
        let early = (due - now).saturating_sub(interval * self.burst.saturating_sub(1));
        if early.is_zero() { Ok(due + interval) } else { Err(early) }
    }
}

/// Places that are taken and given back, so many in all and so many by one client.
#[derive(Debug)]
pub(crate) struct Places<K: Eq + Hash> {
    all_max: usize,
    each_max: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    each: HashMap<K, usize>,
}

/// Some of them, given back at the end.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    places: Arc<Places<K>>,
    client: K,
    count: usize,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(crate) fn new(all_max: usize, each_max: usize) -> Arc<Places<K>> {
        Arc::new(Places { all_max, each_max, taken: Mutex::new(Taken { all: 0, each: HashMap::new() }) })
    }

    /// None: there are not so many left, for this client or at all.
    pub(crate) fn take(self: &Arc<Self>, client: &K, count: usize) -> Option<Place<K>> {
        let mut place = Place { places: self.clone(), client: client.clone(), count: 0 };
        place.grow(count).then_some(place)
    }
}

impl<K: Eq + Hash + Clone> Place<K> {
    /// Takes more; false: there are not so many left.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let mut taken = lock(&self.places.taken);
        let own = taken.each.get(&self.client).copied().unwrap_or(0);
        if taken.all + more > self.places.all_max || own + more > self.places.each_max {
            return false;
        }
        taken.all += more;
        taken.each.insert(self.client.clone(), own + more);
        self.count += more;
        true
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        taken.all -= self.count;
        if let Some(own) = taken.each.get_mut(&self.client) {
            *own -= self.count;
            if *own == 0 {
                taken.each.remove(&self.client);
            }
        }
    }
}

/// Whom an address stands for: one of IPv6 has as many as it likes of the same /64.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
        address => address,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_its_average() {
        let paces = Paces::new(Pace { per_second: 10, burst: 3 });
        let start = Instant::now();
        for (client, at_ms, expected) in [
            ("a", 0, Ok(())),
            ("a", 0, Ok(())),
            ("a", 0, Ok(())),
            ("a", 0, Err(100)),
            ("b", 0, Ok(())),
            ("a", 60, Err(40)),
            ("a", 100, Ok(())),
            ("a", 100, Err(100)),
            ("a", 10_000, Ok(())),
            ("a", 10_000, Ok(())),
            ("a", 10_000, Ok(())),
            ("a", 10_001, Err(99)),
        ] {
            let admitted = paces.admit(client, start + Duration::from_millis(at_ms));
            assert_eq!(admitted, expected.map_err(Duration::from_millis), "{client} at {at_ms}");
        }
    }

    #[test]
    fn clients_without_number_cost_no_memory() {
        let paces = Paces::new(Pace { per_second: 1, burst: 1 });
        let now = Instant::now();
        let admitted = (0..CLIENTS_MAX + 5).filter(|client| paces.admit(*client, now).is_ok()).count();
        assert_eq!(admitted, CLIENTS_MAX);
        assert!(paces.admit(CLIENTS_MAX, now + Duration::from_secs(2)).is_ok(), "the others are on time again");
        assert_eq!(lock(&paces.due).len(), 1);
    }

    #[test]
    fn places_are_given_back() {
        let places = Places::new(4, 3);
        let mut a = places.take(&"a", 2);
        assert!(a.is_some() && places.take(&"a", 2).is_none() && places.take(&"b", 3).is_none());
        let b = places.take(&"b", 1);
        assert!(b.is_some());
        assert!(a.as_mut().is_some_and(|place| place.grow(1) && !place.grow(1)));
        drop((a, b));
        assert!(places.take(&"c", 3).is_some() && lock(&places.taken).each.is_empty());
    }

    #[test]
    fn sources_are_told_apart() {
        for (address, expected) in
            [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::")]
        {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(source(parse(address)), parse(expected));
        }
    }
}
