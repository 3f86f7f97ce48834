//! Consistent hashing: which endpoint a hash belongs to, so that few requests move when endpoints come and go. Every
//! proxy builds the same tables from the same endpoints. Pure; building is Cold, looking up Hot.

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
#[derive(Debug, Clone, PartialEq)]
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
        let mut table = vec![FREE; PLACES].into_boxed_slice();
        let heaviest = endpoints.iter().map(|endpoint| endpoint.weight).max().unwrap_or(0);
        // Each endpoint's next place, the step to the one after, and the turns that its weight has earned.
        let mut seats: Vec<(usize, usize, f64)> = endpoints
            .iter()
            .map(|endpoint| {
                let name = endpoint.address.to_string();
                let offset = xxh3_64_with_seed(name.as_bytes(), 1) as usize % PLACES;
                let step = xxh3_64_with_seed(name.as_bytes(), 2) as usize % (PLACES - 1) + 1;
                (offset, step, 0.0)
            })
            .collect();
        let mut filled = 0;
        while filled < PLACES && heaviest > 0 {
            for (index, (place, step, turns)) in seats.iter_mut().enumerate() {
                *turns += f64::from(endpoints[index].weight) / f64::from(heaviest);
                if *turns < 1.0 || filled == PLACES {
                    continue;
                }
                *turns -= 1.0;
                while table[*place] != FREE {
                    *place = (*place + *step) % PLACES;
                }
                table[*place] = index as u32;
                filled += 1;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let endpoint = |(index, weight): (usize, &u32)| Endpoint {
            address: ([10, 0, (index / 250) as u8, (index % 250) as u8 + 1], 80).into(),
            weight: *weight,
            zone: None,
            labels: Default::default(),
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
