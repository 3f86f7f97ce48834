//! Which lane a request is in. At an entry the LaneGroup decides; inside, the tag is believed, which `tag` reads and
//! writes. Which endpoints a lane has is the snapshot's business, what becomes of a lane without any is the
//! balancer's. The dice and the guard are arguments. Pure, Hot.
//!
//! **Shares.** Matches come first, in the order of the lanes. Of the requests that none took, each lane draws by a hash
//! of its own: of its salt, its name and the client's sticky key. So lanes choose independently of each other, of other
//! groups, and of where a client's key happens to stand in some order.
//!
//! Two lanes may draw the same client; the first in the list has it. The later one therefore draws among what is left:
//! with 20 % before it, a lane of 5 % draws 5/80 of them, so that its part of all is 5 % as written. What follows for
//! percentages that change:
//! - A lane that grows only adds clients: its own stay. Those it adds come from the baseline and, at random, from lanes
//!   after it, which draw as many new ones from the baseline. Nobody goes from any lane back to the baseline.
//! - A lane that shrinks gives clients back to the baseline and some to lanes after it, which lose as many. So the lane
//!   whose percentage moves most should stand last: those before it never notice.
//! - The guard sends clients to the baseline and moves nobody else: lanes after it draw as if it had its whole share.

pub mod leak;
mod tag;
#[cfg(test)]
mod tests;
pub mod trace;

use std::borrow::Cow;
use std::net::IpAddr;

use config::consistent::hash;
use config::route::{RequestView, query_param};
use config::snapshot::HashKey;
use config::snapshot::lanes::{LaneGroup, LaneMatch, OnMissingKey, PathTest, Share, Text};

use crate::head::Known;
use crate::{Head, alike};

pub use tag::{Inherited, inherit, is_tagged, strip, tag};

/// What an entry decides about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decision<'g> {
    /// The lane's place in its group; None: the baseline.
    pub lane: Option<usize>,
    /// A cookie that the client is given with the answer, so that the next decision is the same.
    pub issue: Option<Issue<'g>>,
}

/// A cookie with a new sticky key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issue<'g> {
    /// Its name.
    pub cookie: &'g str,
    value: [u8; 16],
}

/// A share of all in `Share::basis_points`.
const WHOLE: u32 = 10_000;

/// Decides for a request at an entry. `dice` is a random number of this request; `guard` says how large a share of
/// requests the ready instances of a lane bear, 0 to 1, and is asked only for lanes that have a capacity guard.
pub fn decide<'g>(
    group: &'g LaneGroup,
    head: &Head,
    client: IpAddr,
    dice: u64,
    guard: impl Fn(usize) -> f64,
) -> Decision<'g> {
    let client = client.to_canonical();
    let is_matched = |one: &LaneMatch| holds(one, head, client);
    if let Some(lane) = group.lanes.iter().position(|lane| lane.matches.iter().any(is_matched)) {
        return Decision { lane: Some(lane), issue: None };
    }
    let mut issue = None;
    let mut left = WHOLE;
    for (index, lane) in group.lanes.iter().enumerate() {
        let Some(share) = lane.share.as_ref().filter(|share| share.basis_points > 0) else {
            continue;
        };
        let key = match (alike::hash(&share.sticky_by, head, client), share.on_missing, &share.sticky_by) {
            (Some(key), ..) => key,
            (None, OnMissingKey::Random, _) => dice,
            (None, OnMissingKey::Issue, HashKey::Cookie(cookie)) => {
                hash(&issue.get_or_insert_with(|| Issue::new(cookie, dice)).value)
            }
            // It has no part in this request, and takes nothing from the lanes after it.
            (None, ..) => continue,
        };
        match draw(share, key, left, || guard(index)) {
            Drawn::In => return Decision { lane: Some(index), issue },
            Drawn::HeldBack => return Decision { lane: None, issue },
            Drawn::Out => left = left.saturating_sub(share.basis_points),
        }
    }
    Decision { lane: None, issue }
}

/// What a lane's draw says of a client.
enum Drawn {
    /// It is in the lane.
    In,
    /// It would be, if the lane had the instances for it.
    HeldBack,
    /// It is for the lanes after it.
    Out,
}

/// Whether a lane draws a client of the `left` that lanes before it have left it.
fn draw(share: &Share, key: u64, left: u32, guard: impl Fn() -> f64) -> Drawn {
    let mut mixed = [0; 24];
    mixed[..8].copy_from_slice(&share.seed[0].to_le_bytes());
    mixed[8..16].copy_from_slice(&share.seed[1].to_le_bytes());
    mixed[16..].copy_from_slice(&key.to_le_bytes());
    // Where the client stands from 0 to `left`, in parts of 2^64: exact, so that 100 % are all.
    let stands = u128::from(hash(&mixed)) * u128::from(left);
    if stands >= u128::from(share.basis_points) << 64 {
        return Drawn::Out;
    }
    if share.capacity_guard {
        let bears = guard() * f64::from(WHOLE);
        // A share that is no number bears nothing.
        if bears.is_nan() || (bears < f64::from(share.basis_points) && stands as f64 >= bears * 2f64.powi(64)) {
            return Drawn::HeldBack;
        }
    }
    Drawn::In
}

fn holds(one: &LaneMatch, head: &Head, client: IpAddr) -> bool {
    let is_method = |method: &str| head.method() == method.as_bytes();
    (one.methods.is_empty() || one.methods.iter().any(|method| is_method(method)))
        && (one.sources.is_empty() || one.sources.iter().any(|network| network.contains(&client)))
        && one.path.as_ref().is_none_or(|path| path_holds(path, head.path()))
        && one.values.iter().all(|(key, text)| match key {
            HashKey::Header(name) => joined(head, name).is_some_and(|value| is(text, &value)),
            HashKey::Cookie(name) => head.cookie(name).is_some_and(|value| is(text, value)),
            HashKey::Query(name) => query_param(head.query(), name.as_bytes()).is_some_and(|value| is(text, &value)),
            // Addresses are compared with networks.
            HashKey::ClientAddress => false,
        })
}

fn is(text: &Text, value: &[u8]) -> bool {
    match text {
        Text::Exact(expected) => expected.as_bytes() == value,
        Text::Regex(expression) => expression.is_match(value),
    }
}

fn path_holds(test: &PathTest, path: &[u8]) -> bool {
    match test {
        PathTest::Is(text) => is(text, path),
        PathTest::Prefix(prefix) => {
            let after = path.strip_prefix(prefix.as_bytes());
            after.is_some_and(|after| (after.is_empty() && !prefix.is_empty()) || after.starts_with(b"/"))
        }
    }
}

/// The values of all fields of that name as one, as routes see them (RFC 9110 5.3). Copied only if there are several.
fn joined<'h>(head: &'h Head, name: &str) -> Option<Cow<'h, [u8]>> {
    let mut values = head.get_all(name);
    let mut joined = Cow::Borrowed(values.next()?);
    let separator: &[u8] = if name == "cookie" { b"; " } else { b", " };
    for value in values {
        let joined = joined.to_mut();
        joined.extend_from_slice(separator);
        joined.extend_from_slice(value);
    }
    Some(joined)
}

impl<'g> Issue<'g> {
    fn new(cookie: &'g str, dice: u64) -> Self {
        Issue { cookie, value: hex(dice) }
    }

    /// Its value: 16 hexadecimal digits.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Puts it into an answer. It lasts a year, and scripts need not see it.
    pub fn set(&self, answer: &mut Head) {
        answer.add_with("set-cookie", Known::Other, |text| {
            text.extend_from_slice(self.cookie.as_bytes());
            text.push(b'=');
            text.extend_from_slice(&self.value);
            text.extend_from_slice(b"; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax");
        });
    }
}

/// The two digits of every byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// A number in hexadecimal digits.
pub fn hex(word: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(word.to_be_bytes()) {
        pair.copy_from_slice(&HEX[usize::from(byte)]);
    }
    digits
}
