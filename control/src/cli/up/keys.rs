//! What keys mean: which places are chosen, and what shall become of who stands there. Pure.

use super::app::{BASE, Switch};
use super::shop::{LANE_OF, PLACES, SERVICES};

/// Which places keys are about: those of one service in the baseline, one of them, or those of its lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    service: usize,
    target: usize,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing, but that something else may be chosen now.
    Look,
    /// The chosen instances shall behave so.
    Turn(Switch),
    /// They forget their trace, or do no more.
    Trace,
    /// One after the other is replaced: the chosen ones, or all.
    Restart { all: bool },
    /// One of them is killed.
    Kill,
    /// Control is killed, or comes back.
    Control,
    /// Lane green gets more of the others, or less.
    Lane,
    /// The end.
    End,
}

impl Selection {
    /// Takes a key.
    pub fn press(&mut self, key: char) -> Act {
        match key {
            '1'..='4' => *self = Selection { service: key as usize - '1' as usize, target: 0 },
            'b' => self.target = (self.target + 1) % self.targets().len(),
            's' => return Act::Turn(Switch::Slow),
            'f' => return Act::Turn(Switch::Failing),
            'd' => return Act::Turn(Switch::Dead),
            'o' => return Act::Turn(Switch::Ok),
            't' => return Act::Trace,
            'r' => return Act::Restart { all: false },
            'R' => return Act::Restart { all: true },
            'k' => return Act::Kill,
            'c' => return Act::Control,
            'l' => return Act::Lane,
            'q' => return Act::End,
            _ => {}
        }
        Act::Look
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("{} {}", SERVICES[self.service], self.targets()[self.target].0)
    }

    /// Whether a place of the shop is chosen.
    pub fn has(&self, index: usize) -> bool {
        let (_, from, to) = self.targets()[self.target];
        index / PLACES == self.service && (from..to).contains(&(index % PLACES))
    }

    /// All that can be chosen of the service, from and to which of its places: the baseline, its first one, and its lane.
    fn targets(&self) -> [(&'static str, usize, usize); 3] {
        [(BASE, 0, PLACES / 2), ("base (first)", 0, 1), (LANE_OF[self.service], PLACES / 2, PLACES)]
    }
}

/// The keys that `--keys` may have.
pub fn parse(keys: &str) -> Result<String, String> {
    match keys.chars().find(|key| !"1234bsfdotrRkclq".contains(*key)) {
        None => Ok(keys.to_owned()),
        Some(key) => Err(format!("{key:?} is no key (see the last lines of the live view)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_choose_and_act() {
        let mut selection = Selection::default();
        // Key, what it asks for, who is chosen then.
        for (key, act, name, chosen) in [
            ('x', Act::Look, "web base", &[0, 1][..]),
            ('d', Act::Turn(Switch::Dead), "web base", &[0, 1]),
            ('3', Act::Look, "price base", &[8, 9]),
            ('b', Act::Look, "price base (first)", &[8]),
            ('s', Act::Turn(Switch::Slow), "price base (first)", &[8]),
            ('b', Act::Look, "price green", &[10, 11]),
            ('f', Act::Turn(Switch::Failing), "price green", &[10, 11]),
            ('b', Act::Look, "price base", &[8, 9]),
            ('4', Act::Look, "stock base", &[12, 13]),
            ('o', Act::Turn(Switch::Ok), "stock base", &[12, 13]),
            ('r', Act::Restart { all: false }, "stock base", &[12, 13]),
            ('R', Act::Restart { all: true }, "stock base", &[12, 13]),
            ('t', Act::Trace, "stock base", &[12, 13]),
            ('k', Act::Kill, "stock base", &[12, 13]),
            ('c', Act::Control, "stock base", &[12, 13]),
            ('l', Act::Lane, "stock base", &[12, 13]),
            ('q', Act::End, "stock base", &[12, 13]),
        ] {
            assert_eq!(selection.press(key), act, "{key}");
            let found: Vec<usize> = (0..SERVICES.len() * PLACES).filter(|index| selection.has(*index)).collect();
            assert_eq!((&selection.name()[..], &found[..]), (name, chosen), "{key}");
            assert!(key == 'x' || parse(&key.to_string()).is_ok());
        }
        assert_eq!(parse("4bz").expect_err("no key"), "'z' is no key (see the last lines of the live view)");
    }
}
