//! Requests of the corpus with one to three things wrong, and composed ones with nothing or one thing, the same for the
//! same seed. Pure.

use super::{compose, corpus};

/// The mutation of that number.
pub(super) fn mutation(seed: u64, index: u64) -> Vec<u8> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
    let corpus = corpus::requests();
    let (mut request, mutations) = match dice.below(2) {
        0 => (dice.pick(&corpus).clone(), 1 + dice.below(3)),
        _ => (compose::request(&mut dice), dice.below(2)),
    };
    for _ in 0..mutations {
        let other = dice.pick(&corpus).clone();
        mutate(&mut request, &other, &mut dice);
    }
    request
}

fn mutate(request: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(request.len() + 1);
    match dice.below(8) {
        0 => {
            if let Some(byte) = request.get_mut(at) {
                *byte = *dice.pick(b"\0\t\n\r \"#%+,-./0159:;=?@AZ[\\]_az{|}~\x7f\x80\xff\x0b\x1f");
            }
        }
        1 | 2 => {
            let token = dice.pick(&corpus::TOKENS);
            request.splice(at..at, token.iter().copied());
        }
        3 => {
            let end = (at + 1 + dice.below(3)).min(request.len());
            request.drain(at.min(end)..end);
        }
        4 => {
            let line = line_at(request, at).to_vec();
            let place = line_start(request, dice.below(request.len() + 1));
            request.splice(place..place, line);
        }
        5 => {
            let line = line_at(other, dice.below(other.len() + 1)).to_vec();
            let place = line_start(request, at);
            request.splice(place..place, line);
        }
        6 => {
            // Another end for a line.
            if let Some(found) = request[at..].windows(2).position(|two| two == b"\r\n") {
                let end =
                    *dice.pick(&[&b"\n"[..], b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b" \r\n", b"\t\r\n", b"\0\r\n", b""]);
                request.splice(at + found..at + found + 2, end.iter().copied());
            }
        }
        _ => {
            if let Some(byte) = request.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
    }
}

fn line_start(bytes: &[u8], at: usize) -> usize {
    bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |feed| feed + 1)
}

fn line_at(bytes: &[u8], at: usize) -> &[u8] {
    let start = line_start(bytes, at);
    let end = bytes[start..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |feed| start + feed + 1);
    &bytes[start..end]
}

/// splitmix64 (Steele, Lea and Flood 2014).
pub(super) struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
