//! What keys mean: which instances are chosen, and what they shall do. Pure.

use super::shop::{BASE, CAST, SERVICES, Switch};

/// Which instances keys are about: those of one service in the baseline, one of them, or those of a lane.
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
            'q' => return Act::End,
            _ => {}
        }
        Act::Look
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("{} {}", SERVICES[self.service], self.targets()[self.target])
    }

    /// Whether an instance of the cast is chosen.
    pub fn has(&self, index: usize) -> bool {
        let (service, lane, name) = CAST[index];
        let target = self.targets()[self.target];
        service == SERVICES[self.service] && (lane == target || name == target)
    }

    /// All that can be chosen of the service: the baseline, its first instance, and the lane that it has.
    fn targets(&self) -> Vec<&'static str> {
        let own = CAST.iter().filter(|(service, ..)| *service == SERVICES[self.service]);
        let lanes = own.filter(|(_, lane, _)| *lane != BASE).map(|(_, lane, _)| *lane);
        [BASE, "base-1"].into_iter().chain(lanes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_choose_and_switch() {
        let mut selection = Selection::default();
        // Key, what it asks for, who is chosen then.
        for (key, act, name, chosen) in [
            ('x', Act::Look, "web base", &[0, 1][..]),
            ('d', Act::Turn(Switch::Dead), "web base", &[0, 1]),
            ('3', Act::Look, "price base", &[6, 7]),
            ('b', Act::Look, "price base-1", &[6]),
            ('s', Act::Turn(Switch::Slow), "price base-1", &[6]),
            ('b', Act::Look, "price green", &[8]),
            ('f', Act::Turn(Switch::Failing), "price green", &[8]),
            ('b', Act::Look, "price base", &[6, 7]),
            ('4', Act::Look, "stock base", &[9, 10]),
            ('o', Act::Turn(Switch::Ok), "stock base", &[9, 10]),
            ('q', Act::End, "stock base", &[9, 10]),
        ] {
            assert_eq!(selection.press(key), act, "{key}");
            let found: Vec<usize> = (0..CAST.len()).filter(|index| selection.has(*index)).collect();
            assert_eq!((&selection.name()[..], &found[..]), (name, chosen), "{key}");
        }
    }
}
