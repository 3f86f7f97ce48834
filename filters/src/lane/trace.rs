//! The trace map: a request keeps its lane through a service that forwards nothing but its trace header. A sidecar's
//! inbound side remembers `trace id -> lane` for what it hands to its app, the baseline, too; its outbound side looks
//! up the id that the app's own calls carry anyway. Both may be on any thread. Machine, Hot.
//!
//! Traces are what apps send on, and apps and clients send strange things. One rule stands above the others: **a lane
//! that is told is that of every request that the caller can have meant.** Where that is not certain, none is told,
//! which costs a lane and never gives a wrong one. It follows:
//!
//! - Whatever goes to the app is entered before the app sees it, with all its ids, and is live until it has ended.
//! - An entry lives for 30 s beyond its last request, since apps do things in the background. Live ones are never
//!   evicted.
//! - Requests of one id in one lane share an entry. One in another lane makes the id *ambiguous*, while it is live or
//!   kept, and so it stays as long as it is kept: it is not used. An id that all clients repeat is never used.
//! - A full map forgets what has ended and then turns newcomers away. These are not remembered, but not forgotten
//!   either: as long as one would be kept, an id that may be the same is ambiguous from its first request on, or a
//!   later request would lend its lane to the calls of the one turned away. (Ids are told apart by a few bits there.
//!   When half as much again comes as there is room for, every third of those with room is doubted, too.)
//! - A request may have several ids, and which of them the app sends on is not known before. So all are entered, and a
//!   call has a lane if all of its ids that are known name the same: at least one is that of its request.
//! - Lanes are names, not places in some configuration: one that is replaced while a request is under way changes
//!   nothing.
//!
//! What no sidecar can know: requests that reached the app past it or before it began, and what an app does for one
//! that ended more than 30 s ago. Of these an id that is used again may be told wrong, one that is not is unknown.
//!
//! **Bounds.** Sharded by id, each shard with a short lock: a hash table that grows with what is in it, up to
//! [`TraceMap::bytes_max`], 7.2 MB for the default of 100,000 entries. One shard is full before all are, at some 94 %.
//! With 30 s each, that many entries bear 3,300 requests a second whose ids are all different.

mod id;
mod start;
mod table;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::snapshot::lanes::LaneGroup;

use crate::lane::trace::table::{Place, Standing, Table};
use crate::rules::key::Seed;

pub use id::{IDS_MAX, Ids, traceparent};
pub use start::{must_start, start, start_or_continue};

/// Entries of a map, unless said otherwise.
pub const ENTRIES_MAX: usize = 100_000;
/// Shards for each thread that uses the map: two of them rarely want the same.
const SHARDS_EACH: usize = 8;
const SHARDS_MAX: usize = 256;
/// Entries of a shard that it is made for: a table that grows is moved, which takes this shard some 10 µs.
const SHARD_ENTRIES: usize = 2048;
/// Fewer are not worth a shard.
const SHARD_ENTRIES_MIN: usize = 256;
/// Entries that a sweep forgets in each shard.
const SWEPT_MAX: usize = 256;

/// A lane by its names, so that it is known under any configuration. One is made for each lane of a snapshot; copies
/// are as cheap as those of an `Arc`.
#[derive(Debug, Clone)]
pub struct Lane(Arc<Names>);

#[derive(Debug, PartialEq, Eq)]
struct Names {
    group: Arc<str>,
    name: Arc<str>,
}

impl Lane {
    /// A lane of a group (`namespace/name`).
    pub fn new(group: Arc<str>, name: Arc<str>) -> Lane {
        Lane(Arc::new(Names { group, name }))
    }

    /// Its group, `namespace/name`.
    pub fn group(&self) -> &str {
        &self.0.group
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The places of its group and of the lane in it, if there still is such a lane: as `lane::inherit` tells them.
    pub fn place(&self, groups: &[Arc<LaneGroup>]) -> Option<(usize, usize)> {
        let group = groups.iter().position(|group| *group.name == *self.group())?;
        let lane = groups[group].lanes.iter().position(|lane| *lane.name == *self.name())?;
        Some((group, lane))
    }
}

impl PartialEq for Lane {
    fn eq(&self, other: &Lane) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Lane {}

/// Lanes by trace id. One for all threads of a process.
#[derive(Debug)]
pub struct TraceMap {
    shards: Box<[Shard]>,
    /// Entries of a shard.
    entries_max: u32,
    /// Nobody outside can aim at one chain.
    seed: Seed,
    without_id: AtomicU64,
}

/// What a call's ids say of its lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The lane of the request that it is made for; None: the baseline.
    Lane(Option<Lane>),
    /// Requests of several lanes have them, or may have: somebody was turned away.
    Ambiguous,
    /// No request with them was handed to the app in the last 30 s, or it has none.
    Unknown,
}

/// A request that is live. It is given back when the request has ended, however it did: one that is dropped keeps its
/// entries for ever.
#[derive(Debug, Default)]
#[must_use = "a request that was entered must leave"]
pub struct Token {
    held: [Held; IDS_MAX],
    count: u8,
}

/// Where one id of a request is counted.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    place: u32,
    shard: u16,
    is_turned_away: bool,
}

/// What a map has done so far, in requests; those of several ids may be counted in several ways, but once in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Entries now, those that have ended but are not forgotten among them.
    pub entries: u64,
    /// Entries forgotten.
    pub expired: u64,
    /// Inbound: remembered in their lane, or in the baseline.
    pub remembered: u64,
    /// Inbound: made an id ambiguous, or found it so.
    pub ambiguous: u64,
    /// Inbound: not remembered, since the map was full.
    pub refused: u64,
    /// Outbound: found their lane, or the baseline.
    pub found: u64,
    /// Outbound: have ids, and no request is known with them.
    pub unknown: u64,
    /// Outbound: an id of theirs is ambiguous, or two name different lanes.
    pub unused: u64,
    /// Outbound: have no id.
    pub without_id: u64,
}

/// Neighbours in other cache lines.
#[derive(Debug)]
#[repr(align(64))]
struct Shard {
    table: Mutex<Table>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    entries: AtomicU64,
    expired: AtomicU64,
    remembered: AtomicU64,
    ambiguous: AtomicU64,
    refused: AtomicU64,
    found: AtomicU64,
    unknown: AtomicU64,
    unused: AtomicU64,
}

impl TraceMap {
    /// For so many entries at most, and so many threads.
    pub fn new(entries_max: usize, threads: usize) -> TraceMap {
        let wanted = (threads * SHARDS_EACH).max(entries_max / SHARD_ENTRIES).min(SHARDS_MAX).next_power_of_two();
        let worthwhile = (entries_max / SHARD_ENTRIES_MIN).max(1);
        let shards = wanted.min(1 << worthwhile.ilog2());
        let each = (entries_max / shards).min(u32::MAX as usize / 2) as u32;
        let shard = |_| Shard { table: Mutex::new(Table::new(each)), counts: Counts::default() };
        TraceMap {
            shards: (0..shards).map(shard).collect(),
            entries_max: each,
            seed: Seed::default(),
            without_id: AtomicU64::new(0),
        }
    }

    /// Bytes that it takes at most, a seventh of them only once it is full.
    pub fn bytes_max(&self) -> usize {
        self.shards.len() * (size_of::<Shard>() + Table::bytes_max(self.entries_max))
    }

    /// A request with these ids goes to the app; None: the baseline.
    pub fn enter(&self, ids: &Ids, lane: Option<&Lane>, now_ns: u64) -> Token {
        let mut token = Token::default();
        let (mut is_clear, mut is_ambiguous, mut is_refused) = (false, false, false);
        for id in ids.as_slice() {
            let (index, hash) = self.locate(*id);
            let shard = &self.shards[index];
            let mut table = shard.table();
            let (place, is_shared) = table.enter(*id, hash, lane, now_ns);
            shard.counts.follow(&table);
            drop(table);
            let is_turned_away = matches!(place, Place::Cell(_));
            is_refused |= is_turned_away;
            is_ambiguous |= is_shared;
            is_clear |= !is_turned_away && !is_shared;
            let (Place::Entry(place) | Place::Cell(place)) = place;
            token.held[usize::from(token.count)] = Held { place, shard: index as u16, is_turned_away };
            token.count += 1;
        }
        if let Some(last) = token.held().last() {
            let counts = &self.shards[usize::from(last.shard)].counts;
            bump_if(&counts.remembered, is_clear);
            bump_if(&counts.ambiguous, is_ambiguous);
            bump_if(&counts.refused, is_refused);
        }
        token
    }

    /// The request has ended. Tells whom calls with its ids were made to, as `find` and `mark` were told; all, if that is not
    /// known.
    pub fn leave(&self, token: Token, now_ns: u64) -> u16 {
        token.held().iter().fold(0, |called, held| {
            let place = if held.is_turned_away { Place::Cell(held.place) } else { Place::Entry(held.place) };
            called | self.shards[usize::from(held.shard)].table().leave(place, now_ns)
        })
    }

    /// A call with these ids, whose lane is known, is made to these callees. Says whether a request that is known has one.
    pub fn mark(&self, ids: &Ids, callees: u16) -> bool {
        ids.as_slice().iter().fold(false, |is_known, id| {
            let (index, hash) = self.locate(*id);
            self.shards[index].table().mark(*id, hash, callees) | is_known
        })
    }

    /// What the ids of a call of the app, made to these callees, say of its lane.
    pub fn find(&self, ids: &Ids, callees: u16, now_ns: u64) -> Lookup {
        let (lookup, last) = self.look(ids, callees, now_ns);
        let Some(Shard { counts, .. }) = last else {
            bump_if(&self.without_id, true);
            return lookup;
        };
        let counter = match lookup {
            Lookup::Lane(_) => &counts.found,
            Lookup::Ambiguous => &counts.unused,
            Lookup::Unknown => &counts.unknown,
        };
        bump_if(counter, true);
        lookup
    }

    /// As `find`, for a call that nobody makes: nothing is counted.
    pub fn peek(&self, ids: &Ids, now_ns: u64) -> Lookup {
        self.look(ids, 0, now_ns).0
    }

    /// What the ids say, and the shard of the last of them.
    fn look(&self, ids: &Ids, callees: u16, now_ns: u64) -> (Lookup, Option<&Shard>) {
        let (mut said, mut is_ambiguous): (Option<Option<Lane>>, bool) = (None, false);
        let mut last = None;
        for id in ids.as_slice() {
            let (index, hash) = self.locate(*id);
            let shard = last.insert(&self.shards[index]);
            let standing = shard.table().standing(*id, hash, callees, now_ns);
            match (standing, &said) {
                (Standing::Unknown, _) => {}
                (Standing::Ambiguous, _) => is_ambiguous = true,
                (Standing::Clear(lane), None) => said = Some(lane),
                (Standing::Clear(lane), Some(first)) => is_ambiguous |= lane != *first,
            }
        }
        let lookup = match said {
            _ if is_ambiguous => Lookup::Ambiguous,
            Some(lane) => Lookup::Lane(lane),
            None => Lookup::Unknown,
        };
        (lookup, last)
    }

    /// Forgets what has ended where nobody comes to do it, a part at a time: to be called every second or so.
    pub fn sweep(&self, now_ns: u64) {
        for shard in &self.shards {
            let mut table = shard.table();
            table.forget(now_ns, SWEPT_MAX);
            shard.counts.follow(&table);
        }
    }

    /// What it has done. Takes no lock.
    pub fn figures(&self) -> Figures {
        let sum = |counter: fn(&Counts) -> &AtomicU64| {
            self.shards.iter().map(|shard| counter(&shard.counts).load(Relaxed)).sum()
        };
        Figures {
            entries: sum(|counts| &counts.entries),
            expired: sum(|counts| &counts.expired),
            remembered: sum(|counts| &counts.remembered),
            ambiguous: sum(|counts| &counts.ambiguous),
            refused: sum(|counts| &counts.refused),
            found: sum(|counts| &counts.found),
            unknown: sum(|counts| &counts.unknown),
            unused: sum(|counts| &counts.unused),
            without_id: self.without_id.load(Relaxed),
        }
    }

    /// The shard of an id, and where it is in there.
    fn locate(&self, id: u128) -> (usize, u32) {
        let hash = self.seed.short(&id.to_le_bytes());
        // From the top: the place in the table is from the bottom.
        let index = (u128::from(hash) * self.shards.len() as u128) >> 64;
        (index as usize, hash as u32)
    }
}

impl Token {
    fn held(&self) -> &[Held] {
        &self.held[..usize::from(self.count)]
    }
}

impl Shard {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Who has the lock is the only one to write these.
    fn follow(&self, table: &Table) {
        self.entries.store(u64::from(table.used()), Relaxed);
        self.expired.store(table.forgotten(), Relaxed);
    }
}

fn bump_if(counter: &AtomicU64, happened: bool) {
    if happened {
        counter.fetch_add(1, Relaxed);
    }
}
