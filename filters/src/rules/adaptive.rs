//! How many requests a service can work on at the same time without letting them wait inside, learnt from how long they
//! take. Samples in, limits out. Machine, Hot.
//!
//! As in TCP Vegas (Brakmo and Peterson 1995) and the gradient limiters of Netflix' concurrency-limits and Envoy's
//! adaptive concurrency filter, requests that take longer than at low load wait inside the service. Other than those:
//!
//! - It goes by means and their standard errors, not by minima or single samples: a service with two kinds of requests
//!   is not slow because the slow kind came, and the mean is what Little's law is about.
//! - It never lowers the limit for a comparison with the past. Where requests take longer than they used to, the limit
//!   is lowered *a little and for a moment*: if they take shorter then, they waited for each other and the limit was too
//!   high; if not, the service has become slower and this is the new latency at low load (as BBR's ProbeRTT, Cardwell
//!   et al. 2016, but seldom, and by a quarter). What is above the lowered limit waits meanwhile.
//! - A limit that holds nobody up may be far too high all the same, where there are few clients and fewer slots. So
//!   what runs is lowered in the same way from time to time, ever more seldom where that shows nothing, and only as long
//!   as those who wait for it find room if it ends. Where there is no queue nobody waits for that.
//! - It raises the limit only where it holds someone up, so that it does not drift away in quiet times.

/// Where a limit begins; from here it grows by half with each look.
const LIMIT_FIRST: u32 = 64;
/// Latency above that of low load that shows that requests begin to wait for each other: the limit stays.
const WAITING_RATIO: f64 = 1.10;
/// ... and that they do: the limit is put to the test.
const CROWDED_RATIO: f64 = 1.25;
/// The lowered limit, as a share of the limit.
const LOWERED_SHARE: f64 = 0.75;
/// Latency that went down by less than this when the limit was lowered has not gone down.
const SAME_RATIO: f64 = 0.93;
/// Above what is needed to keep the service busy.
const HEADROOM: f64 = 1.1;
/// A limit that only just holds is put to the test again after so many latencies.
const TEST_EVERY: f64 = 60.0;
/// What runs below a limit is put to the test again after so many latencies at first ...
const PROBE_EVERY: f64 = 30.0;
/// ... and after so many times that at most.
const PATIENCE_MAX: f64 = 64.0;
/// What runs is lowered to this share then: further, since a doubtful result is none here.
const PROBED_SHARE: f64 = 0.6;
/// Fewer requests than this say nothing about whether they wait for each other.
const PROBED_RUNNING_MIN: f64 = 4.0;
const NS_PER_MS: f64 = 1e6;
const NS_PER_S: f64 = 1e9;

/// One request that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub now_ns: u64,
    pub took_ns: u64,
    /// Requests that ran, this one among them.
    pub running: u32,
    /// It says how slow the service is, never how fast.
    pub is_failure: bool,
}

/// What follows from samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    pub limit: u32,
    /// The limit if it is not lowered.
    pub limit_full: u32,
    pub lowered_from_ns: u64,
    pub lowered_until_ns: u64,
    /// If not 0, it was lowered though it held nobody up, and that ends when so many run and wait.
    pub probe_load_max: u32,
}

impl Setting {
    /// A limit that is not lowered and never was.
    pub(crate) fn plain(limit: u32) -> Setting {
        Setting { limit, limit_full: limit, lowered_from_ns: 0, lowered_until_ns: 0, probe_load_max: 0 }
    }
}

/// Samples of a time, summed up.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    from_ns: u64,
    count: f64,
    took: f64,
    took_squares: f64,
    running: f64,
}

/// What they say.
#[derive(Debug, Clone, Copy)]
struct Latency {
    mean: f64,
    /// Standard error of the mean.
    error: f64,
    /// Mean of requests that ran.
    running: f64,
}

impl Sums {
    fn add(&mut self, sample: &Sample) {
        let took = sample.took_ns as f64;
        self.count += 1.0;
        self.took += took;
        self.took_squares += took * took;
        self.running += f64::from(sample.running);
    }

    fn latency(&self) -> Latency {
        let mean = self.took / self.count;
        let variance = (self.took_squares / self.count - mean * mean).max(0.0);
        Latency { mean: mean.max(1.0), error: (variance / self.count).sqrt(), running: self.running / self.count }
    }
}

impl Latency {
    /// Whether it is above a multiple of another beyond doubt.
    fn is_above(&self, ratio: f64, other: &Latency) -> bool {
        self.mean - ratio * other.mean > 2.0 * self.error.hypot(ratio * other.error)
    }

    /// Between this and another.
    fn moved(&self, other: &Latency, share: f64) -> Latency {
        let between = |from: f64, to: f64| from + (to - from) * share;
        Latency { mean: between(self.mean, other.mean), error: between(self.error, other.error), ..*self }
    }
}

/// What the limit is doing.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// It stands, and is looked at from time to time.
    Stands,
    /// It is lowered, and those above it have still to end.
    Draining { before: Latency },
    /// Those that began before it was lowered have still to end.
    Settling { before: Latency, until_ns: u64 },
    /// What ends now began under the lowered limit.
    Measuring { before: Latency },
}

/// One service's limit.
#[derive(Debug)]
pub(crate) struct Learner {
    min: u32,
    max: u32,
    /// Of the queue.
    places: u32,
    limit: u32,
    /// While it is lowered: to this.
    lowered: u32,
    /// While it is lowered: though it held nobody up.
    is_probe: bool,
    probe_load_max: u32,
    /// Grows with each such time that showed nothing.
    patience: f64,
    /// Latency at low load.
    base: Option<Latency>,
    phase: Phase,
    sums: Sums,
    /// What ends before this began under another limit.
    look_from_ns: u64,
    /// The last test left the limit too high: the next look tests it again.
    is_too_high: bool,
    /// Grows by half, not by a tenth.
    is_fast: bool,
    lowered_from_ns: u64,
    lowered_until_ns: u64,
    /// Not put to the test before.
    test_after_ns: u64,
    tested_at_ns: u64,
    probed_at_ns: u64,
}

impl Default for Learner {
    fn default() -> Self {
        Learner {
            min: 1,
            max: u32::MAX,
            places: 0,
            limit: LIMIT_FIRST,
            lowered: LIMIT_FIRST,
            is_probe: false,
            probe_load_max: 0,
            patience: 1.0,
            base: None,
            phase: Phase::Stands,
            sums: Sums::default(),
            look_from_ns: 0,
            is_too_high: false,
            is_fast: true,
            lowered_from_ns: 0,
            lowered_until_ns: 0,
            test_after_ns: 0,
            tested_at_ns: 0,
            probed_at_ns: 0,
        }
    }
}

impl Learner {
    /// Keeps the limit between these from now on. Only where there are places to wait may it hold
    /// requests up to learn.
    pub(crate) fn bound(&mut self, min: u32, max: u32, places: u32) -> Setting {
        self.places = places;
        self.min = min.max(1);
        self.max = max.max(self.min);
        self.limit = self.limit.clamp(self.min, self.max);
        self.setting()
    }

    /// A request is over. `was_reached` tells, once, whether the limit held someone up since it was asked last.
    pub(crate) fn on_sample(&mut self, sample: Sample, was_reached: impl FnOnce() -> bool) -> Option<Setting> {
        let now_ns = sample.now_ns;
        if sample.is_failure && self.base.is_none_or(|base| (sample.took_ns as f64) < base.mean) {
            return None;
        }
        match self.phase {
            Phase::Stands if now_ns < self.look_from_ns => None,
            Phase::Stands => {
                self.add(&sample);
                if !self.has_seen_enough(now_ns) {
                    return None;
                }
                self.look(now_ns, was_reached())
            }
            _ if now_ns > self.lowered_until_ns => self.on_time(now_ns),
            Phase::Draining { before } => {
                if sample.running <= self.lowered {
                    self.phase = Phase::Settling { before, until_ns: now_ns.saturating_add(before.mean as u64) };
                }
                None
            }
            Phase::Settling { before, until_ns } => {
                if now_ns >= until_ns {
                    self.phase = Phase::Measuring { before };
                    self.sums = Sums { from_ns: now_ns, ..Sums::default() };
                }
                None
            }
            Phase::Measuring { before } => {
                self.add(&sample);
                let seen_ns = now_ns.saturating_sub(self.sums.from_ns) as f64;
                let is_exact = self.sums.latency().error < 0.03 * before.mean || seen_ns > 3.0 * before.mean;
                if self.sums.count < 20.0 || seen_ns < before.mean || !is_exact {
                    return None;
                }
                let lowered = self.sums.latency();
                self.conclude(now_ns, &before, &lowered);
                self.look_from_ns = now_ns.saturating_add(lowered.mean as u64);
                Some(self.stand(now_ns))
            }
        }
    }

    /// Time passes without samples: a limit is not lowered for longer than it said.
    pub(crate) fn on_time(&mut self, now_ns: u64) -> Option<Setting> {
        let before = match self.phase {
            Phase::Draining { before } | Phase::Settling { before, .. } | Phase::Measuring { before } => before,
            Phase::Stands => return None,
        };
        if now_ns <= self.lowered_until_ns {
            return None;
        }
        self.be_patient();
        self.test_after_ns = now_ns.saturating_add((10.0 * before.mean) as u64);
        Some(self.stand(now_ns))
    }

    /// Someone would have to wait for another reason than a probe: it ends.
    pub(crate) fn cancel_probe(&mut self, now_ns: u64) -> Setting {
        if self.is_probe && !matches!(self.phase, Phase::Stands) {
            self.be_patient();
            return self.stand(now_ns);
        }
        self.setting()
    }

    fn be_patient(&mut self) {
        if self.is_probe {
            self.patience = (2.0 * self.patience).min(PATIENCE_MAX);
        }
    }

    fn add(&mut self, sample: &Sample) {
        if self.sums.count == 0.0 {
            self.sums.from_ns = sample.now_ns;
        }
        self.sums.add(sample);
    }

    /// A growing limit is looked at often, another one when its latency is known well.
    fn has_seen_enough(&self, now_ns: u64) -> bool {
        let seen_ns = now_ns.saturating_sub(self.sums.from_ns) as f64;
        let count = self.sums.count;
        if count < 10.0 || (count < 30.0 && seen_ns < NS_PER_S) {
            return false;
        }
        let latency = self.sums.latency();
        let is_exact = latency.error < 0.05 * latency.mean || seen_ns > NS_PER_S.max(4.0 * latency.mean);
        seen_ns >= latency.mean.min(NS_PER_S) && (self.is_fast || is_exact)
    }

    fn look(&mut self, now_ns: u64, was_reached: bool) -> Option<Setting> {
        let seen = self.sums.latency();
        self.sums = Sums::default();
        let base = *self.base.get_or_insert(seen);
        if seen.mean < 0.7 * base.mean && base.is_above(1.0, &seen) {
            // Much faster than it was. Less than that may be chance, and the least of many chances is none.
            self.base = Some(seen);
        } else if seen.mean < base.mean || !was_reached {
            self.base = Some(base.moved(&seen, 0.2));
        }
        if !was_reached {
            return self.probe(now_ns, seen);
        }
        let is_held = seen.running > 0.8 * f64::from(self.limit);
        let is_too_high = std::mem::take(&mut self.is_too_high);
        let is_due = now_ns as f64 > self.tested_at_ns as f64 + TEST_EVERY * seen.mean;
        let is_crowded = seen.is_above(CROWDED_RATIO, &base) && now_ns >= self.test_after_ns;
        if self.is_fast && (is_crowded || seen.is_above(WAITING_RATIO, &base)) {
            // What ended so far began under lower limits: the next look is a long one at this limit.
            self.is_fast = false;
            self.look_from_ns = now_ns.saturating_add((1.5 * seen.mean) as u64);
            return None;
        }
        if is_held && (is_crowded || is_too_high) {
            return self.lower(now_ns, seen);
        }
        if seen.is_above(WAITING_RATIO, &base) {
            return if is_held && is_due { self.lower(now_ns, seen) } else { None };
        }
        let step = if self.is_fast { self.limit / 2 } else { self.limit / 10 };
        self.limit = self.limit.saturating_add(step.max(1)).min(self.max);
        self.look_from_ns = now_ns.saturating_add(seen.mean as u64);
        Some(self.setting())
    }

    fn probe(&mut self, now_ns: u64, seen: Latency) -> Option<Setting> {
        let due_ns = self.probed_at_ns as f64 + self.patience * PROBE_EVERY * seen.mean;
        let lowered = ((seen.running * PROBED_SHARE) as u32).max(self.min);
        let has_enough = seen.running >= PROBED_RUNNING_MIN && f64::from(lowered) < 0.9 * seen.running;
        if (now_ns as f64) < due_ns || !has_enough || self.places == 0 || lowered >= self.limit {
            return None;
        }
        // Those who waited begin all at once, and until they end others come in place of those that ran.
        let room = f64::from(self.limit) * 0.875 + f64::from(self.places) * 0.5 - seen.running * 0.5;
        if seen.running > room {
            return None;
        }
        self.probe_load_max = room as u32 + 1;
        self.probed_at_ns = now_ns;
        Some(self.lower_to(lowered, now_ns, seen, true))
    }

    fn lower(&mut self, now_ns: u64, before: Latency) -> Option<Setting> {
        self.tested_at_ns = now_ns;
        let lowered = ((f64::from(self.limit) * LOWERED_SHARE) as u32).max(self.min);
        if lowered == self.limit {
            // There is nothing to lower, so that it does not matter what the latency at low load is.
            self.base = Some(before);
            return None;
        }
        Some(self.lower_to(lowered, now_ns, before, false))
    }

    fn lower_to(&mut self, lowered: u32, now_ns: u64, before: Latency, is_probe: bool) -> Setting {
        self.lowered = lowered;
        self.is_probe = is_probe;
        self.phase = Phase::Draining { before };
        self.lowered_from_ns = now_ns;
        self.lowered_until_ns = now_ns.saturating_add((8.0 * before.mean + 50.0 * NS_PER_MS) as u64);
        self.setting()
    }

    fn conclude(&mut self, now_ns: u64, before: &Latency, lowered: &Latency) {
        let ratio = lowered.mean / before.mean;
        let base = self.base.unwrap_or(*lowered);
        if self.is_probe {
            // Chance must not lower a limit that nobody asked to lower: latency has to go down as far as what runs does.
            let went_down = lowered.running / before.running;
            let is_beyond_doubt = before.mean - lowered.mean > 4.0 * before.error.hypot(lowered.error);
            if ratio >= (went_down + 1.0) / 2.0 || !is_beyond_doubt {
                self.be_patient();
                return;
            }
            self.patience = 1.0;
            self.is_fast = false;
        }
        if ratio < SAME_RATIO && before.is_above(1.0, lowered) {
            // If latency went down about as far as the limit, requests still waited for each other, and even the lowered
            // limit was too high; if not, these did not. Then Little's law says what is needed: what goes through times
            // the latency that it has when it does not wait.
            let went_down = lowered.running / before.running;
            self.is_too_high = ratio < (went_down + 1.0) / 2.0;
            let needed = lowered.running.max(before.running * ratio) * HEADROOM;
            self.limit = (needed.ceil() as u32).clamp(self.min, self.limit.max(self.min));
            if !self.is_too_high || lowered.mean < base.mean {
                self.base = Some(*lowered);
            }
            self.test_after_ns = now_ns;
        } else {
            self.is_fast = lowered.mean > 1.5 * base.mean;
            self.base = Some(*lowered);
            self.test_after_ns = now_ns.saturating_add((10.0 * lowered.mean) as u64);
        }
    }

    /// The limit is as it was, or what was concluded.
    fn stand(&mut self, now_ns: u64) -> Setting {
        self.phase = Phase::Stands;
        self.lowered_until_ns = now_ns;
        self.sums = Sums::default();
        self.setting()
    }

    fn setting(&self) -> Setting {
        let is_lowered = !matches!(self.phase, Phase::Stands);
        Setting {
            limit: if is_lowered { self.lowered.min(self.limit) } else { self.limit },
            limit_full: self.limit,
            lowered_from_ns: self.lowered_from_ns,
            lowered_until_ns: self.lowered_until_ns,
            probe_load_max: if is_lowered && self.is_probe { self.probe_load_max } else { 0 },
        }
    }
}
