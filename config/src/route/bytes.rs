//! Keys and small maps that lie where they are looked at: with ten thousand routes a look-up costs what its
//! cache misses cost, so short keys are stored in place, and few entries side by side. Pure, Hot.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use foldhash::fast::RandomState;

/// Bytes that are kept in place.
const INLINE_MAX: usize = 22;
/// Entries that are compared one after the other.
const FEW_MAX: usize = 8;

/// Bytes, in place if they are few.
#[derive(Clone)]
pub(crate) enum Bytes {
    /// So many of the bytes count.
    Short(u8, [u8; INLINE_MAX]),
    /// More than fit.
    Long(Box<[u8]>),
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        let mut short = [0; INLINE_MAX];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(bytes);
                Bytes::Short(length, short)
            }
            _ => Bytes::Long(bytes.into()),
        }
    }
}

impl Bytes {
    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Bytes::Long(bytes) => bytes,
        }
    }
}

// Maps are asked with slices: a key must hash and compare as its slice does.
impl Borrow<[u8]> for Bytes {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Bytes {}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}", String::from_utf8_lossy(self.as_slice()))
    }
}

/// A map from bytes that costs one or two cache misses.
#[derive(Debug, Clone)]
pub(crate) enum ByteMap<T> {
    /// Side by side, in the order of insertion.
    Few(Vec<(Bytes, T)>),
    /// By hash.
    Many(HashMap<Bytes, T, RandomState>),
}

impl<T> Default for ByteMap<T> {
    fn default() -> Self {
        ByteMap::Few(Vec::new())
    }
}

impl<T: PartialEq> PartialEq for ByteMap<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ByteMap::Few(left), ByteMap::Few(right)) => {
                left.len() == right.len() && left.iter().all(|(key, value)| other.get(key.as_slice()) == Some(value))
            }
            (ByteMap::Many(left), ByteMap::Many(right)) => left == right,
            _ => false,
        }
    }
}

impl<T> ByteMap<T> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&T> {
        match self {
            ByteMap::Few(list) => list.iter().find(|(known, _)| known.as_slice() == key).map(|(_, value)| value),
            ByteMap::Many(map) => map.get(key),
        }
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            ByteMap::Few(list) => list.is_empty(),
            ByteMap::Many(map) => map.is_empty(),
        }
    }

    /// The value of a key, made if there is none.
    pub(crate) fn entry(&mut self, key: &[u8], make: impl FnOnce() -> T) -> &mut T {
        if let ByteMap::Few(list) = self
            && list.len() >= FEW_MAX
            && !list.iter().any(|(known, _)| known.as_slice() == key)
        {
            *self = ByteMap::Many(list.drain(..).collect());
        }
        match self {
            ByteMap::Many(map) => map.entry(key.into()).or_insert_with(make),
            ByteMap::Few(list) => {
                let known = list.iter().position(|(known, _)| known.as_slice() == key);
                let position = known.unwrap_or_else(|| {
                    list.push((key.into(), make()));
                    list.len() - 1
                });
                &mut list[position].1
            }
        }
    }

    /// All values, in no order.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let (few, many) = match self {
            ByteMap::Few(list) => (Some(list), None),
            ByteMap::Many(map) => (None, Some(map)),
        };
        let few = few.into_iter().flatten().map(|(_, value)| value);
        few.chain(many.into_iter().flat_map(HashMap::values_mut))
    }
}
