//! A few words for each of very many values, within a bound. What the words mean is the caller's business, but for one
//! thing: it tells which entries have lapsed, and those are as good as none. Machine, Hot.
//!
//! Shards with a short lock each hold open-addressed tables that grow with what is in them. Nothing is ever removed:
//! an entry that has lapsed is taken over by the next newcomer that comes past it, and the rest goes when the table
//! would have to grow. When it is full of live ones, newcomers share one entry.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::rules::key::Hash;

/// More would be of no use to the number of threads that a proxy has.
const SHARDS_MAX: usize = 64;
/// So many values at least make a shard of their own worthwhile.
const SHARD_VALUES: usize = 1024;
/// Entries of a table that holds its first.
const SLOTS_MIN: usize = 8;
/// Words of an entry before those of the caller: its hash.
const HASH: usize = 2;

/// Words by hash.
#[derive(Debug)]
pub(crate) struct Keyed {
    shards: Box<[Aligned]>,
    /// Words of an entry, with its hash.
    stride: usize,
    /// Entries of a shard at most.
    entries_max: usize,
    overflow: Mutex<Box<[u64]>>,
}

/// Neighbours in other cache lines.
#[derive(Debug)]
#[repr(align(64))]
struct Aligned(Mutex<Shard>);

#[derive(Debug, Default)]
struct Shard {
    /// Entries one after the other. A mark of 0 is a free one.
    table: Vec<u64>,
    /// How many entries that is.
    slots: usize,
    /// Entries that are not free.
    used: usize,
    /// Newcomers to turn away before a full table is searched for lapsed entries again.
    patience: usize,
}

impl Keyed {
    /// For about `values_max` values with so many words each.
    pub(crate) fn new(values_max: usize, words: usize) -> Keyed {
        let shards = (values_max / SHARD_VALUES).clamp(1, SHARDS_MAX).next_power_of_two();
        // Hashes do not spread quite evenly: with an eighth to spare no shard is full much before all of them are.
        let entries_max = if shards == 1 { values_max.max(1) } else { values_max / shards * 9 / 8 };
        Keyed {
            shards: (0..shards).map(|_| Aligned(Mutex::default())).collect(),
            stride: HASH + words,
            entries_max,
            overflow: Mutex::new(vec![0; words].into()),
        }
    }

    /// Acts on the words of a value, which are all 0 if it is new. `true` beside the result: they are those that all
    /// share for whom there was no room.
    pub(crate) fn with<T>(
        &self,
        hash: Hash,
        is_lapsed: impl Fn(&[u64]) -> bool,
        act: impl FnOnce(&mut [u64]) -> T,
    ) -> (T, bool) {
        let mut shard = self.shard(hash);
        if let Some(at) = shard.place(hash, self.stride, self.entries_max, is_lapsed) {
            return (act(&mut shard.table[at + HASH..at + self.stride]), false);
        }
        drop(shard);
        (act(&mut lock(&self.overflow)), true)
    }

    /// Acts on a copy of the words of a value, without making room for a new one.
    pub(crate) fn peek<T>(&self, hash: Hash, act: impl FnOnce(&mut [u64]) -> T) -> T {
        let mut words = vec![0; self.stride - HASH];
        let shard = self.shard(hash);
        if let Some(at) = shard.find(hash, self.stride) {
            words.copy_from_slice(&shard.table[at + HASH..at + self.stride]);
        }
        drop(shard);
        act(&mut words)
    }

    /// Acts on the words of a value, if it is there.
    pub(crate) fn with_present<T>(&self, hash: Hash, act: impl FnOnce(&mut [u64]) -> T) -> Option<T> {
        let mut shard = self.shard(hash);
        let at = shard.find(hash, self.stride)?;
        Some(act(&mut shard.table[at + HASH..at + self.stride]))
    }

    /// Entries, lapsed ones among them.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(&shard.0).used).sum()
    }

    fn shard(&self, hash: Hash) -> MutexGuard<'_, Shard> {
        // From the top: the place in the table is from the bottom.
        let index = (u128::from(hash.place) * self.shards.len() as u128) >> 64;
        lock(&self.shards[index as usize].0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Offsets of the entries that a hash may be at, in the order they are looked through. Any number of entries will
    /// do, so that a table is no larger than it has to be: what is in the cache is what makes it fast.
    #[inline]
    fn chain(&self, hash: Hash, stride: usize) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots;
        let first = (u64::from(hash.place as u32) * slots as u64) >> 32;
        let mut at = first as usize * stride;
        (0..slots).map(move |_| {
            let found = at;
            at += stride;
            if at == slots * stride {
                at = 0;
            }
            found
        })
    }

    /// The offset of an entry.
    fn find(&self, hash: Hash, stride: usize) -> Option<usize> {
        for at in self.chain(hash, stride) {
            match &self.table[at..at + HASH] {
                [place, mark] if (*place, *mark) == (hash.place, hash.mark) => return Some(at),
                [_, 0] => return None,
                _ => {}
            }
        }
        None
    }

    /// The offset of an entry, which is made if it is not there; None if there is no room.
    fn place(
        &mut self,
        hash: Hash,
        stride: usize,
        entries_max: usize,
        is_lapsed: impl Fn(&[u64]) -> bool,
    ) -> Option<usize> {
        let mut lapsed = None;
        for at in self.chain(hash, stride) {
            let entry = &self.table[at..at + stride];
            if entry[0] == hash.place && entry[1] == hash.mark {
                return Some(at);
            }
            if entry[1] == 0 {
                break;
            }
            if lapsed.is_none() && is_lapsed(&entry[HASH..]) {
                lapsed = Some(at);
            }
        }
        if let Some(at) = lapsed {
            self.write(at, hash, stride);
            return Some(at);
        }
        let is_full = self.used >= entries_max;
        if is_full && self.patience > 0 {
            self.patience -= 1;
            return None;
        }
        if is_full || (self.used + 1) * 4 > self.slots * 3 {
            let before = self.used;
            self.rebuild(stride, entries_max, is_lapsed);
            // A table full of live ones is not searched for each of those who find it so.
            let is_worth_it = (before - self.used) * 8 >= before;
            self.patience = if is_worth_it { 0 } else { before / 8 };
            if self.used >= entries_max {
                return None;
            }
        }
        let at = self.free(hash, stride);
        self.used += 1;
        self.write(at, hash, stride);
        Some(at)
    }

    fn write(&mut self, at: usize, hash: Hash, stride: usize) {
        self.table[at..at + stride].fill(0);
        self.table[at] = hash.place;
        self.table[at + 1] = hash.mark;
    }

    /// The free entry that a hash comes to.
    fn free(&self, hash: Hash, stride: usize) -> usize {
        self.chain(hash, stride).find(|at| self.table[at + 1] == 0).expect("a quarter of the entries is always free")
    }

    /// Leaves out what has lapsed and makes room for the rest and as much again, as far as the bound allows.
    fn rebuild(&mut self, stride: usize, entries_max: usize, is_lapsed: impl Fn(&[u64]) -> bool) {
        let is_live = |entry: &&[u64]| entry[1] != 0 && !is_lapsed(&entry[HASH..]);
        let live = self.table.chunks_exact(stride).filter(is_live).count();
        let wanted = (live + live / 2 + 1).min(entries_max.max(live + 1));
        self.slots = (wanted * 4).div_ceil(3).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.table, vec![0; self.slots * stride]);
        self.used = live;
        for entry in old.chunks_exact(stride).filter(is_live) {
            let at = self.free(Hash { place: entry[0], mark: entry[1] }, stride);
            self.table[at..at + stride].copy_from_slice(entry);
        }
    }
}

#[cfg(test)]
mod tests;
