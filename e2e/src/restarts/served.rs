//! Finds requests that a service has served twice. Numbers of requests are dense, so that what is remembered of each is two
//! bytes for each service. Pure.

/// Duplicates that are named; all are counted.
const NAMED_MAX: usize = 1_000;
/// Numbers that are remembered; a run ends before.
pub(super) const NUMBERS_MAX: u64 = 16 << 20;

/// Who has served what.
#[derive(Default)]
pub(super) struct Served {
    names: Vec<String>,
    /// For each service, by the number of the request: one more than the place of the instance in `names`.
    services: [Vec<u16>; 3],
    duplicates: Vec<Duplicate>,
    count: u64,
}

/// A request that instances of one service have served, both of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Duplicate {
    pub(super) number: u64,
    pub(super) first: String,
    pub(super) second: String,
}

impl Served {
    /// One more instance; it is to be known by what this returns.
    pub(super) fn join(&mut self, name: &str) -> u16 {
        self.names.push(name.to_owned());
        u16::try_from(self.names.len()).expect("a run has fewer instances")
    }

    /// An instance begins to serve a request, all of which it has.
    pub(super) fn note(&mut self, service: usize, number: u64, instance: u16) {
        if number >= NUMBERS_MAX {
            return;
        }
        let (known, place) = (&mut self.services[service], number as usize);
        if known.len() <= place {
            known.resize(place + 1, 0);
        }
        let before = std::mem::replace(&mut known[place], instance);
        if before != 0 {
            self.count += 1;
            if self.duplicates.len() < NAMED_MAX {
                let [first, second] = [before, instance].map(|one| self.names[usize::from(one) - 1].clone());
                self.duplicates.push(Duplicate { number, first, second });
            }
        }
    }

    /// All of them, by number.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn duplicates(&self) -> &[Duplicate] {
        &self.duplicates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_serves_twice_is_named_with_both_instances() {
        let check = |notes: &[(&str, u64)], expected: &[(u64, &str, &str)]| {
            let mut served = Served::default();
            let names = ["front-1", "front-2", "middle-1"];
            let instances = names.map(|name| served.join(name));
            for (name, number) in notes {
                let place = names.iter().position(|known| known == name).expect("a name of this test");
                served.note(usize::from(name.starts_with("middle")), *number, instances[place]);
            }
            let found: Vec<(u64, &str, &str)> =
                served.duplicates().iter().map(|one| (one.number, &*one.first, &*one.second)).collect();
            assert_eq!(found, expected, "{notes:?}");
            assert_eq!(served.count(), expected.len() as u64);
        };
        check(&[], &[]);
        check(&[("front-1", 0), ("front-2", 1), ("front-1", 2)], &[]);
        // The next service serves it, too.
        check(&[("front-1", 5), ("middle-1", 5)], &[]);
        check(&[("front-1", 5), ("front-2", 5)], &[(5, "front-1", "front-2")]);
        check(&[("front-1", 0), ("front-1", 0)], &[(0, "front-1", "front-1")]);
        check(
            &[("front-1", 9), ("front-2", 3), ("front-2", 9), ("front-1", 9), ("middle-1", 9)],
            &[(9, "front-1", "front-2"), (9, "front-2", "front-1")],
        );
        check(&[("front-1", NUMBERS_MAX), ("front-2", NUMBERS_MAX)], &[]);
    }
}
