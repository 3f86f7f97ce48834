//! One deadline per task, on a wheel of ticks. Setting a later deadline, which every request does several
//! times, is one store: the entry stays where it is and moves on when its tick comes. Pure, Hot.

use std::time::Duration;

use super::TaskId;

/// How coarse deadlines are: none is met earlier, and none later than two ticks (plus the turn under way). A
/// power of two of nanoseconds, 8.4 ms, so that no division stands on a request's way.
const TICK_BITS: u32 = 23;

/// Ticks on the wheel: a deadline further away waits in the last one and is put back from there.
const TICKS: usize = 1024;
const WORDS: usize = TICKS / 64;
const NONE: u64 = u64::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: Duration,
    /// The tick whose bucket holds the task's valid entry, or `NONE`.
    queued: u64,
    /// When that tick's bucket is looked at: deadlines from there on need no other entry.
    queued_at: Duration,
}

const UNSET: Entry = Entry { deadline: Duration::MAX, queued: NONE, queued_at: Duration::MAX };

/// All deadlines of a worker.
#[derive(Debug)]
pub(crate) struct Wheel {
    entries: Vec<Entry>,
    buckets: Vec<Vec<TaskId>>,
    occupied: [u64; WORDS],
    /// The first tick that has not been looked at.
    tick: u64,
    expired: Vec<TaskId>,
}

impl Default for Wheel {
    fn default() -> Wheel {
        Wheel {
            entries: Vec::new(),
            buckets: vec![Vec::new(); TICKS],
            occupied: [0; WORDS],
            tick: 0,
            expired: Vec::new(),
        }
    }
}

/// The tick at whose end a deadline has certainly come.
fn tick_of(at: Duration) -> u64 {
    current_tick(at) + 1
}

fn current_tick(at: Duration) -> u64 {
    (at.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(at.subsec_nanos()))) >> TICK_BITS
}

fn tick_start(tick: u64) -> Duration {
    Duration::from_nanos(tick << TICK_BITS)
}

impl Wheel {
    /// Sets or replaces a task's deadline.
    pub(crate) fn set(&mut self, id: TaskId, at: Duration) {
        let index = id as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, UNSET);
        }
        let entry = &mut self.entries[index];
        entry.deadline = at;
        if at < entry.queued_at {
            let tick = tick_of(at);
            if tick < entry.queued {
                self.queue(id, tick);
            }
        }
    }

    fn queue(&mut self, id: TaskId, tick: u64) {
        let tick = tick.clamp(self.tick, self.tick + TICKS as u64 - 1);
        let entry = &mut self.entries[id as usize];
        (entry.queued, entry.queued_at) = (tick, tick_start(tick));
        let bucket = tick as usize % TICKS;
        self.buckets[bucket].push(id);
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// A task's deadline, or `Duration::MAX`.
    pub(crate) fn deadline(&self, id: TaskId) -> Duration {
        self.entries.get(id as usize).map_or(Duration::MAX, |entry| entry.deadline)
    }

    /// The task has ended.
    pub(crate) fn forget(&mut self, id: TaskId) {
        if let Some(entry) = self.entries.get_mut(id as usize) {
            entry.deadline = Duration::MAX;
        }
    }

    /// A task whose deadline has come; call again until there is none.
    pub(crate) fn expire(&mut self, now: Duration) -> Option<TaskId> {
        let current = current_tick(now);
        while self.expired.is_empty() && self.tick <= current {
            self.turn(now);
        }
        self.expired.pop()
    }

    /// Looks at one bucket: entries overtaken by an earlier one are dropped, postponed ones move on.
    fn turn(&mut self, now: Duration) {
        let tick = self.tick;
        let bucket = tick as usize % TICKS;
        self.tick += 1;
        if self.occupied[bucket / 64] & (1 << (bucket % 64)) == 0 {
            return;
        }
        self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        for id in std::mem::take(&mut self.buckets[bucket]) {
            let entry = &mut self.entries[id as usize];
            if entry.queued != tick {
                continue;
            }
            (entry.queued, entry.queued_at) = (NONE, Duration::MAX);
            if entry.deadline <= now {
                self.expired.push(id);
            } else if entry.deadline != Duration::MAX {
                let next = tick_of(entry.deadline);
                self.queue(id, next);
            }
        }
    }

    /// How long until a bucket must be looked at; None if no deadline is set.
    pub(crate) fn next_after(&self, now: Duration) -> Option<Duration> {
        let start = self.tick as usize % TICKS;
        let mut distance = 0;
        while distance < TICKS {
            let bucket = (start + distance) % TICKS;
            let word = self.occupied[bucket / 64] >> (bucket % 64);
            if word != 0 {
                distance += word.trailing_zeros() as usize;
                // Beyond the end only the wrap-around of the first, partly passed word can be.
                let tick = self.tick + distance.min(TICKS - 1) as u64;
                return Some(tick_start(tick).saturating_sub(now));
            }
            distance += 64 - bucket % 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);
    const NOBODY: [TaskId; 0] = [];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn expired(wheel: &mut Wheel, now: Duration) -> Vec<TaskId> {
        let mut all: Vec<_> = std::iter::from_fn(|| wheel.expire(now)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn deadlines_come_in_their_tick_and_never_early() {
        let mut wheel = Wheel::default();
        wheel.set(0, ms(100));
        wheel.set(1, ms(50));
        wheel.set(2, ms(100_000));
        assert_eq!(expired(&mut wheel, ms(49)), NOBODY);
        assert_eq!(expired(&mut wheel, ms(67)), [1]);
        assert_eq!(expired(&mut wheel, ms(99)), NOBODY);
        assert_eq!(expired(&mut wheel, ms(117)), [0]);
        assert_eq!(expired(&mut wheel, ms(99_999)), NOBODY);
        assert_eq!(expired(&mut wheel, ms(100_017)), [2]);
        assert_eq!(wheel.next_after(ms(100_017)), None);
    }

    #[test]
    fn a_deadline_may_move_both_ways_and_vanish() {
        let mut wheel = Wheel::default();
        wheel.set(7, ms(60_000));
        wheel.set(7, ms(30));
        assert!(wheel.next_after(ms(0)).expect("one is set") <= ms(40));
        assert_eq!(expired(&mut wheel, ms(47)), [7]);
        wheel.set(7, ms(80));
        wheel.set(7, ms(500));
        assert_eq!(expired(&mut wheel, ms(120)), NOBODY);
        assert_eq!(expired(&mut wheel, ms(517)), [7]);
        wheel.set(7, ms(600));
        wheel.forget(7);
        assert_eq!(expired(&mut wheel, ms(10_000)), NOBODY);
    }

    #[test]
    fn any_order_of_sets_meets_every_deadline() {
        let mut state = 1u64;
        let mut dice = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        let mut wheel = Wheel::default();
        let mut wanted = [Duration::MAX; 50];
        let mut now = Duration::ZERO;
        for _ in 0..20_000 {
            let id = (dice() % 50) as usize;
            wanted[id] = now + ms(dice() % 20_000);
            wheel.set(id as TaskId, wanted[id]);
            now += ms(dice() % 30);
            for id in expired(&mut wheel, now) {
                assert!(wanted[id as usize] <= now, "{id} came early");
                wanted[id as usize] = Duration::MAX;
                wheel.set(id, Duration::MAX);
            }
            for (id, at) in wanted.iter().enumerate() {
                assert!(*at == Duration::MAX || *at + TICK * 2 >= now, "{id} is late: {at:?} at {now:?}");
            }
        }
    }
}
