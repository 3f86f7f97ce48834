//! One shard of the trace map: entries by id, those without a live request in the order in which they end, and whom
//! there was no room for. Every step is of the order of one, and nothing is allocated as long as no more is kept than
//! ever before. Machine, Hot.
//!
//! A live entry stays where it is, so that a request finds it again without looking. Since all entries are kept equally
//! long after their last request, a list in the order of those ends is all that it takes to forget them.

use super::Lane;

/// How long an entry is kept after its last request: what an app does in the background has the lane, too.
pub(super) const KEPT_NS: u64 = 30 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;
/// Entries that each newcomer forgets at most: one more than it needs, so that those of a rush go as well.
const FORGOTTEN_MAX: usize = 2;
/// Places of the smallest table.
const SLOTS_MIN: usize = 8;
/// No entry.
const NONE: u32 = u32::MAX;

/// What an id has been seen with.
#[derive(Debug)]
struct Entry {
    /// As two words, which need no padding.
    id: [u64; 2],
    /// None: the baseline, or nobody's if it is ambiguous.
    lane: Option<Lane>,
    /// When it is forgotten, if there is no live request.
    end_ns: u64,
    /// Requests with it that have not ended.
    live: u32,
    hash: u32,
    /// The next entry of the same chain; of free entries, the next free one.
    chained: u32,
    /// The neighbours in the order of the ends, if there is no live request.
    older: u32,
    newer: u32,
    /// Whom calls with it, since it was last live again, were made to.
    called: u16,
    /// Requests of several lanes have it.
    is_ambiguous: bool,
}

// It is what the bound of the memory is made of.
const _: () = assert!(size_of::<Entry>() == 56);

/// Requests that are not remembered, by the hash of their id. Whoever comes with that hash may have that id.
#[derive(Debug, Clone, Default)]
struct Cell {
    live: u32,
    /// When the last of them is forgotten, at the latest: in seconds, which begin with the clock.
    end_s: u32,
}

/// Where a request is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Entry(u32),
    Cell(u32),
}

/// How it stands with an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// All requests with it are in one lane; None: the baseline.
    Clear(Option<Lane>),
    /// They are not, or may not be.
    Ambiguous,
    /// It has not been seen.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<Entry>,
    /// The first entry of each chain; as many as there are entries, and a power of two.
    chains: Vec<u32>,
    free: u32,
    oldest: u32,
    newest: u32,
    /// Entries that are not free.
    used: u32,
    max: u32,
    /// Entries that were forgotten so far.
    forgotten: u64,
    /// None before the first is turned away.
    turned_away: Box<[Cell]>,
}

impl Table {
    /// For so many entries at most.
    pub(super) fn new(max: u32) -> Table {
        Table {
            entries: Vec::new(),
            chains: Vec::new(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
            used: 0,
            max,
            forgotten: 0,
            turned_away: Box::default(),
        }
    }

    /// Bytes of such a table at most, beside itself.
    pub(super) fn bytes_max(max: u32) -> usize {
        let cells = cells(max);
        max as usize * size_of::<Entry>() + cells.max(SLOTS_MIN) * size_of::<u32>() + cells * size_of::<Cell>()
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A request with an id begins. Tells whether the id is ambiguous; where it is counted says whether there was room.
    pub(super) fn enter(&mut self, id: u128, hash: u32, lane: Option<&Lane>, now_ns: u64) -> (Place, bool) {
        self.forget(now_ns, FORGOTTEN_MAX);
        match self.find(id, hash) {
            Some(at) if self.entries[at as usize].is_kept(now_ns) => {
                self.join(at, lane);
                return (Place::Entry(at), self.entries[at as usize].is_ambiguous);
            }
            // The clocks of two threads differ by a turn: it has ended, though it is not the oldest.
            Some(at) => self.remove(at),
            None => {}
        }
        if self.used == self.max {
            return (Place::Cell(self.turn_away(hash)), false);
        }
        // One of those turned away may have the same id and another lane.
        let is_ambiguous = self.is_doubtful(hash, now_ns);
        let lane = lane.filter(|_| !is_ambiguous).cloned();
        (Place::Entry(self.insert(id, hash, lane, is_ambiguous)), is_ambiguous)
    }

    /// A request ends. Tells whom calls with its id were made to.
    pub(super) fn leave(&mut self, place: Place, now_ns: u64) -> u16 {
        let end_ns = now_ns.saturating_add(KEPT_NS);
        match place {
            Place::Entry(at) => {
                let entry = &mut self.entries[at as usize];
                entry.live -= 1;
                let called = entry.called;
                if entry.live == 0 {
                    entry.end_ns = end_ns;
                    self.append(at);
                }
                called
            }
            Place::Cell(at) => {
                let cell = &mut self.turned_away[at as usize];
                cell.live -= 1;
                cell.end_s = cell.end_s.max(end_ns.div_ceil(SECOND_NS) as u32);
                // Nothing is known of it: whatever was called may have been by it.
                u16::MAX
            }
        }
    }

    /// A call with an id is made to these.
    pub(super) fn mark(&mut self, id: u128, hash: u32, callees: u16) -> bool {
        let found = self.find(id, hash);
        if let Some(at) = found {
            self.entries[at as usize].called |= callees;
        }
        found.is_some()
    }

    /// What is known of an id, with which a call is made to these.
    pub(super) fn standing(&mut self, id: u128, hash: u32, callees: u16, now_ns: u64) -> Standing {
        let is_doubtful = self.is_doubtful(hash, now_ns);
        let entry = self.find(id, hash).map(|at| &mut self.entries[at as usize]);
        match entry.filter(|entry| entry.is_kept(now_ns)) {
            None if is_doubtful => Standing::Ambiguous,
            None => Standing::Unknown,
            Some(entry) if entry.is_ambiguous => Standing::Ambiguous,
            Some(entry) => {
                entry.called |= callees;
                Standing::Clear(entry.lane.clone())
            }
        }
    }

    /// Forgets so many of those that have ended at most.
    pub(super) fn forget(&mut self, now_ns: u64, max: usize) {
        for _ in 0..max {
            let oldest = self.oldest;
            if oldest == NONE || self.entries[oldest as usize].is_kept(now_ns) {
                return;
            }
            self.remove(oldest);
        }
    }

    fn find(&self, id: u128, hash: u32) -> Option<u32> {
        let id = words(id);
        let mut at = *self.chains.get(self.chain(hash))?;
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.id == id {
                return Some(at);
            }
            at = entry.chained;
        }
        None
    }

    /// One more request for an entry that is kept.
    fn join(&mut self, at: u32, lane: Option<&Lane>) {
        let entry = &mut self.entries[at as usize];
        entry.live += 1;
        let is_first = entry.live == 1;
        if !entry.is_ambiguous && entry.lane.as_ref() != lane {
            entry.is_ambiguous = true;
            entry.lane = None;
        }
        if is_first {
            entry.called = 0;
            self.unlink(at);
        }
    }

    fn insert(&mut self, id: u128, hash: u32, lane: Option<Lane>, is_ambiguous: bool) -> u32 {
        let entry = Entry {
            id: words(id),
            lane,
            end_ns: 0,
            live: 1,
            hash,
            chained: NONE,
            older: NONE,
            newer: NONE,
            called: 0,
            is_ambiguous,
        };
        let at = self.free;
        let at = if at == NONE {
            self.push(entry)
        } else {
            self.free = self.entries[at as usize].chained;
            self.entries[at as usize] = entry;
            at
        };
        self.used += 1;
        self.enchain(at);
        at
    }

    /// Makes room for one more than there have ever been.
    fn push(&mut self, entry: Entry) -> u32 {
        let count = self.entries.len();
        if count == self.entries.capacity() {
            let more = count.max(SLOTS_MIN).min(self.max as usize - count);
            self.entries.reserve_exact(more);
        }
        if count == self.chains.len() {
            self.chains = vec![NONE; (count * 2).max(SLOTS_MIN)];
            // Nobody is free, or it would have the place.
            (0..count as u32).for_each(|at| self.enchain(at));
        }
        self.entries.push(entry);
        count as u32
    }

    /// Forgets an entry without a live request.
    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let entry = &mut self.entries[at as usize];
        let (after, hash) = (entry.chained, entry.hash);
        (entry.lane, entry.chained) = (None, self.free);
        (self.free, self.used, self.forgotten) = (at, self.used - 1, self.forgotten + 1);
        let chain = self.chain(hash);
        let mut before = self.chains[chain];
        if before == at {
            self.chains[chain] = after;
            return;
        }
        while self.entries[before as usize].chained != at {
            before = self.entries[before as usize].chained;
        }
        self.entries[before as usize].chained = after;
    }

    /// Puts an entry at the front of its chain.
    fn enchain(&mut self, at: u32) {
        let chain = self.chain(self.entries[at as usize].hash);
        self.entries[at as usize].chained = std::mem::replace(&mut self.chains[chain], at);
    }

    fn chain(&self, hash: u32) -> usize {
        hash as usize & self.chains.len().wrapping_sub(1)
    }

    /// Makes an entry the last to end.
    fn append(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        match before {
            NONE => self.oldest = at,
            before => self.entries[before as usize].newer = at,
        }
        let entry = &mut self.entries[at as usize];
        (entry.older, entry.newer) = (before, NONE);
    }

    /// Takes an entry out of the order of those that end.
    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, .. } = self.entries[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    fn turn_away(&mut self, hash: u32) -> u32 {
        if self.turned_away.is_empty() {
            self.turned_away = vec![Cell::default(); cells(self.max)].into();
        }
        let at = hash as usize & (self.turned_away.len() - 1);
        self.turned_away[at].live += 1;
        at as u32
    }

    /// Whether somebody with that hash was turned away and has not been over for long enough.
    fn is_doubtful(&self, hash: u32, now_ns: u64) -> bool {
        let Some(last) = self.turned_away.len().checked_sub(1) else { return false };
        let cell = &self.turned_away[hash as usize & last];
        cell.live > 0 || u64::from(cell.end_s) * SECOND_NS > now_ns
    }
}

impl Entry {
    fn is_kept(&self, now_ns: u64) -> bool {
        self.live > 0 || self.end_ns > now_ns
    }
}

fn words(id: u128) -> [u64; 2] {
    [(id >> 64) as u64, id as u64]
}

/// Cells of a table: as many as it has entries, so that one is rarely shared when few are turned away.
fn cells(max: u32) -> usize {
    (max as usize).next_power_of_two()
}
