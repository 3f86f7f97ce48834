//! What limits tell requests apart by, as a number. Hot.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use config::route::query_param;
use config::snapshot::HashKey;
use config::snapshot::policy::Key;
use foldhash::SharedSeed;
use foldhash::quality::{FoldHasher, SeedableRandomState};

use crate::Head;
use crate::rules::Facts;

/// The value of a key in a request.
#[derive(Debug)]
pub(crate) enum Value<'h> {
    Bytes(Cow<'h, [u8]>),
    V4([u8; 4]),
    V6([u8; 16]),
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::V4(octets) => octets,
            Value::V6(octets) => octets,
        }
    }
}

impl<'h> Value<'h> {
    /// What a request has; None if it lacks it. Allocates only for a query parameter with escapes.
    pub(crate) fn of(key: &Key, head: &'h Head, facts: &Facts<'h>) -> Option<Value<'h>> {
        let text = |text: &'h str| Value::Bytes(Cow::Borrowed(text.as_bytes()));
        match key {
            Key::Route => Some(text(facts.route)),
            Key::Service => Some(text(facts.service)),
            Key::Lane => facts.lane.map(text),
            Key::Caller => Some(facts.caller.map_or_else(|| Value::address(facts.client), text)),
            Key::Of(HashKey::Header(name)) => head.get(name).map(|value| Value::Bytes(Cow::Borrowed(value))),
            Key::Of(HashKey::Cookie(name)) => head.cookie(name).map(|value| Value::Bytes(Cow::Borrowed(value))),
            Key::Of(HashKey::Query(name)) => query_param(head.bytes(head.query), name.as_bytes()).map(Value::Bytes),
            Key::Of(HashKey::ClientAddress) => Some(Value::address(facts.client)),
        }
    }

    /// A value as it stands in the settings of an override.
    pub(crate) fn written<'t>(key: &Key, text: &'t str) -> Value<'t> {
        let address = || text.parse().ok().map(Value::address);
        match key {
            Key::Of(HashKey::ClientAddress) | Key::Caller => address(),
            _ => None,
        }
        .unwrap_or(Value::Bytes(Cow::Borrowed(text.as_bytes())))
    }

    fn address(address: IpAddr) -> Value<'static> {
        match address.to_canonical() {
            IpAddr::V4(address) => Value::V4(address.octets()),
            IpAddr::V6(address) => Value::V6(address.octets()),
        }
    }
}

/// All values of a request that a limit looks at, as 128 bits: two requests with other values share them by chance
/// once in 10^26 for a million values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hash {
    /// Where it is looked for.
    pub place: u64,
    /// What else tells it apart. Never 0: that is no hash.
    pub mark: u64,
}

/// What makes hashes of this process unlike those of others: nobody outside can aim at one place. Both halves are
/// foldhash with seeds that never leave the process. It is no cryptographic hash; but who cannot see hashes, nor time
/// a table whose chains are a few entries long, learns nothing to aim with.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    place: SeedableRandomState,
    mark: SeedableRandomState,
}

impl Default for Seed {
    fn default() -> Self {
        // The standard library's come from the kernel's random numbers.
        let random = || SeedableRandomState::with_seed(RandomState::new().hash_one(0), SharedSeed::global_random());
        Seed { place: random(), mark: random() }
    }
}

impl Seed {
    /// Begins with nothing.
    pub(crate) fn hasher(&self) -> Both {
        Both { place: self.place.build_hasher(), mark: self.mark.build_hasher() }
    }

    /// 64 bits of a value, for tables of few.
    pub(crate) fn short(&self, value: &[u8]) -> u64 {
        let mut hasher = self.place.build_hasher();
        hasher.write(value);
        hasher.finish()
    }
}

/// Both hashes on their way.
pub(crate) struct Both {
    place: FoldHasher<'static>,
    mark: FoldHasher<'static>,
}

impl Both {
    /// One more value, or that it is missing.
    pub(crate) fn add(&mut self, value: Option<&[u8]>) {
        // The length keeps `ab` and `c` apart from `a` and `bc`; 0 is for the missing.
        let length = value.map_or(0, |value| value.len() as u64 + 1);
        let value = value.unwrap_or_default();
        self.place.write_u64(length);
        self.place.write(value);
        self.mark.write_u64(length);
        self.mark.write(value);
    }

    pub(crate) fn finish(&self) -> Hash {
        Hash { place: self.place.finish(), mark: self.mark.finish().max(1) }
    }
}
