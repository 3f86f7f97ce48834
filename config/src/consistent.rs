//! Consistent hashing: which endpoint a hash belongs to, so that few requests move when endpoints come and go. Every
//! proxy builds the same tables from the same endpoints. Pure; building is Cold, looking up Hot.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::snapshot::{Balance, Endpoint};

/// Points on a ring for an endpoint whose weight is the mean; with 160 of them shares differ by some 8 %.
const POINTS_EACH: f64 = 160.0;
/// Points on a ring at most, so that weights cannot make it grow without bound.
const POINTS_MAX: usize = 1 << 20;
/// Places in Maglev's table: a prime, and for up to some 600 endpoints more than a hundred for each.
const PLACES: usize = 65_537;

/// The same for the same bytes in every process and version.
pub fn hash(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, 0)
}

/// Endpoints by hash.
// `Eq` makes `Arc`s of it compare by address first, which is what most comparisons of two snapshots come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consistent {
    /// Points in order of their hash, each with the index of its endpoint.
    Ring(Box<[(u64, u32)]>),
    /// An endpoint's index in each place.
    Maglev(Box<[u32]>),
}

impl Consistent {
    /// The table of a way to balance; None if that needs none.
    pub fn of(balance: Balance, endpoints: &[&Endpoint]) -> Option<Consistent> {
        match balance {
            Balance::RingHash => Some(Consistent::ring(endpoints)),
            Balance::Maglev => Some(Consistent::maglev(endpoints)),
            Balance::PeakEwma | Balance::RoundRobin | Balance::LeastRequest => None,
        }
    }

    /// Points of each endpoint's address on a ring, in number by weight (Karger et al. 1997; ketama, Jones 2007).
    fn ring(endpoints: &[&Endpoint]) -> Consistent {
        let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        let points_max = POINTS_MAX as f64;
        let points_total = (POINTS_EACH * endpoints.len() as f64).min(points_max);
        let mut points = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let share = f64::from(endpoint.weight) / total as f64;
            let count = (share * points_total).round().max(1.0) as u64;
            let name = endpoint.address.to_string();
            points.extend((0..count).map(|point| (xxh3_64_with_seed(name.as_bytes(), point + 1), index as u32)));
        }
        points.sort_unstable();
        Consistent::Ring(points.into())
    }

    /// Places filled in turn by each endpoint's own permutation of them, more often by those of larger weight
    /// (Eisenbud et al., "Maglev", NSDI 2016, section 3.4; weights as Envoy has them).
    fn maglev(endpoints: &[&Endpoint]) -> Consistent {
        const FREE: u32 = u32::MAX;
        // A place without an endpoint would be nobody's index.
        if endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            return Consistent::Maglev(Box::default());
        }
        let mut table = vec![FREE; PLACES].into_boxed_slice();
        // Each endpoint's next place, and the step to the one after.
        let seat = |endpoint: &&Endpoint| {
            let name = endpoint.address.to_string();
            let offset = xxh3_64_with_seed(name.as_bytes(), 1) as usize % PLACES;
            (offset, xxh3_64_with_seed(name.as_bytes(), 2) as usize % (PLACES - 1) + 1)
        };
        let mut seats: Vec<(usize, usize)> = endpoints.iter().map(seat).collect();
        for index in turns(endpoints).take(PLACES) {
            let (place, step) = &mut seats[index];
            while table[*place] != FREE {
                *place = (*place + *step) % PLACES;
            }
            table[*place] = index as u32;
        }
        Consistent::Maglev(table)
    }

    /// The endpoints for a hash: its own first, then those that take over from it, some of them more than once.
    pub fn at(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (start, length) = match self {
            Consistent::Ring(points) => (points.partition_point(|(point, _)| *point < hash), points.len()),
            Consistent::Maglev(table) => (hash as usize % table.len().max(1), table.len()),
        };
        (start..start + length).map(move |place| match self {
            Consistent::Ring(points) => points[place % length].1 as usize,
            Consistent::Maglev(table) => table[place % length] as usize,
        })
    }
}

/// Whose turn it is, again and again: the heaviest has one in each round, one of a third of its weight in each third.
/// What this costs follows the number of turns, whatever the weights.
fn turns<'e>(endpoints: &'e [&Endpoint]) -> Box<dyn Iterator<Item = usize> + 'e> {
    let heaviest = endpoints.iter().map(|endpoint| endpoint.weight).max().unwrap_or(0);
    if endpoints.iter().all(|endpoint| endpoint.weight == heaviest) {
        return Box::new((0..endpoints.len()).cycle());
    }
    // A round, in which several have their turn in their order; whose it is; and which of its turns.
    let round =
        move |index: usize, turn: u64| (turn * u64::from(heaviest)).div_ceil(u64::from(endpoints[index].weight));
    let with_weight = (0..endpoints.len()).filter(|index| endpoints[*index].weight > 0);
    let mut next: BinaryHeap<_> = with_weight.map(|index| Reverse((round(index, 1), index, 1))).collect();
    Box::new(std::iter::from_fn(move || {
        let mut first = next.peek_mut()?;
        let Reverse((_, index, turn)) = *first;
        *first = Reverse((round(index, turn + 1), index, turn + 1));
        Some(index)
    }))
}

/// Builds tables, each once, and keeps those of one configuration for the next: most stay the same, and building one
/// costs as much as reading a thousand endpoints.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    known: HashMap<Members, Arc<Consistent>, RandomState>,
    /// Those of the configuration before.
    before: HashMap<Members, Arc<Consistent>, RandomState>,
}

/// All that a table depends on.
type Members = (Balance, Box<[(SocketAddr, u32)]>);

impl Tables {
    /// Starts a configuration.
    pub(crate) fn renew(&mut self) {
        self.before = std::mem::take(&mut self.known);
    }

    /// The table of these endpoints in this order; None if that way to balance needs none.
    pub(crate) fn table(&mut self, balance: Balance, endpoints: &[&Endpoint]) -> Option<Arc<Consistent>> {
        if !matches!(balance, Balance::RingHash | Balance::Maglev) {
            return None;
        }
        let members = (balance, endpoints.iter().map(|endpoint| (endpoint.address, endpoint.weight)).collect());
        if let Some(known) = self.known.get(&members) {
            return Some(known.clone());
        }
        let kept = self.before.remove(&members);
        let table = kept.or_else(|| Consistent::of(balance, endpoints).map(Arc::new))?;
        self.known.insert(members, table.clone());
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let endpoint = |(index, weight): (usize, &u32)| Endpoint {
            address: ([10, 0, (index / 250) as u8, (index % 250) as u8 + 1], 80).into(),
            weight: *weight,
            zone: None,
            labels: Default::default(),
            incarnation: 0,
        };
        weights.iter().enumerate().map(endpoint).collect()
    }

    const KEYS: u64 = 100_000;

    fn owner(table: &Consistent, key: u64) -> usize {
        table.at(hash(&key.to_le_bytes())).next().expect("there are endpoints")
    }

    fn tables(endpoints: &[Endpoint]) -> [(Consistent, f64); 2] {
        // How far a share may be from its own: a ring of 160 points has a deviation of 1/sqrt(160).
        let endpoints: Vec<&Endpoint> = endpoints.iter().collect();
        [(Consistent::ring(&endpoints), 0.35), (Consistent::maglev(&endpoints), 0.05)]
    }

    #[test]
    fn shares_follow_weights() {
        for weights in [&[1, 1, 1, 1][..], &[1; 20], &[1, 2, 3, 4], &[1000, 1], &[7]] {
            let endpoints = endpoints(weights);
            for (table, tolerance) in tables(&endpoints) {
                let mut counts = vec![0u64; weights.len()];
                (0..KEYS).for_each(|key| counts[owner(&table, key)] += 1);
                for (weight, count) in weights.iter().zip(&counts) {
                    let expected =
                        KEYS as f64 * f64::from(*weight) / weights.iter().map(|one| f64::from(*one)).sum::<f64>();
                    let off = (*count as f64 - expected).abs();
                    assert!(off <= expected * tolerance + 400.0, "{weights:?}: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn an_endpoint_that_goes_moves_little_else() {
        let before = endpoints(&[1; 10]);
        let mut after = before.clone();
        after.remove(3);
        let name = |endpoints: &[Endpoint], index: usize| endpoints[index].address;
        for ((old, _), (new, _)) in tables(&before).into_iter().zip(tables(&after)) {
            let moved = (0..KEYS)
                .filter(|key| owner(&old, *key) != 3)
                .filter(|key| name(&before, owner(&old, *key)) != name(&after, owner(&new, *key)))
                .count();
            let most = if matches!(old, Consistent::Ring(_)) { 0 } else { KEYS as usize / 25 };
            assert!(moved <= most, "{moved} of {KEYS} moved");
        }
    }

    #[test]
    fn maglev_is_filled_round_by_round() {
        // The same by the words of the paper, round by round and with exact fractions.
        let by_rounds = |endpoints: &[Endpoint]| {
            let heaviest = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).max().expect("there are some");
            let mut table = vec![u32::MAX; PLACES];
            let mut earned = vec![0; endpoints.len()];
            let mut next: Vec<usize> = vec![0; endpoints.len()];
            let mut free = PLACES;
            while free > 0 {
                for (index, endpoint) in endpoints.iter().enumerate() {
                    earned[index] += u64::from(endpoint.weight);
                    if earned[index] < heaviest || free == 0 {
                        continue;
                    }
                    earned[index] -= heaviest;
                    let name = endpoint.address.to_string();
                    let offset = xxh3_64_with_seed(name.as_bytes(), 1) as usize % PLACES;
                    let step = xxh3_64_with_seed(name.as_bytes(), 2) as usize % (PLACES - 1) + 1;
                    let mut place = (offset + step * next[index]) % PLACES;
                    while table[place] != u32::MAX {
                        next[index] += 1;
                        place = (offset + step * next[index]) % PLACES;
                    }
                    table[place] = index as u32;
                    free -= 1;
                }
            }
            Consistent::Maglev(table.into())
        };
        for weights in [&[1, 1, 1][..], &[3, 1, 2], &[7], &[1000, 1, 999, 333], &[1_000_000, 1]] {
            let endpoints = endpoints(weights);
            let built = Consistent::maglev(&endpoints.iter().collect::<Vec<_>>());
            assert!(built == by_rounds(&endpoints), "{weights:?}");
        }
        for nobody in [Consistent::ring(&[]), Consistent::maglev(&[])] {
            assert_eq!(nobody.at(42).next(), None);
        }
    }

    #[test]
    fn tables_are_kept_as_long_as_a_configuration_needs_them() {
        let endpoints = endpoints(&[1, 2, 3]);
        let all: Vec<&Endpoint> = endpoints.iter().collect();
        let mut tables = Tables::default();
        let first = tables.table(Balance::Maglev, &all).expect("a table");
        assert!(Arc::ptr_eq(&first, &tables.table(Balance::Maglev, &all).expect("a table")));
        for other in [
            tables.table(Balance::RingHash, &all).expect("a table"),
            tables.table(Balance::Maglev, &all[1..]).expect("a table"),
        ] {
            assert!(first != other);
        }
        tables.renew();
        assert!(Arc::ptr_eq(&first, &tables.table(Balance::Maglev, &all).expect("a table")));
        assert_eq!((tables.known.len(), tables.before.len()), (1, 2));
        tables.renew();
        tables.renew();
        assert!(
            !Arc::ptr_eq(&first, &tables.table(Balance::Maglev, &all).expect("a table"))
                && Arc::strong_count(&first) == 1
        );
    }

    #[test]
    fn everybody_takes_over_in_the_end_and_tables_do_not_change() {
        for (table, _) in tables(&endpoints(&[1, 5, 2])) {
            let mut seen: Vec<usize> = table.at(42).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, [0, 1, 2]);
        }
        for (table, expected) in tables(&endpoints(&[1; 5])).iter().map(|(table, _)| table).zip(EXPECTED) {
            let owners: Vec<usize> = (0..12).map(|key| owner(table, key)).collect();
            assert_eq!(owners, expected, "other versions and proxies must choose the same");
        }
    }

    const EXPECTED: [[usize; 12]; 2] = [[4, 1, 1, 1, 1, 3, 1, 0, 3, 2, 3, 0], [3, 3, 2, 1, 3, 4, 2, 0, 0, 4, 0, 3]];
}
