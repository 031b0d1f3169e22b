//! Circuit breaker: one atomic word an endpoint (M. Nygard, "Release It!", chapter 5).
//!
//! ```text
//!            enough transport failures in the window
//!   closed ------------------------------------------> open <---+
//!      ^                                                |       | the probe fails
//!      |   the probe succeeds               recovery_ms |       |
//!      +-------------------------- half-open <----------+-------+
//!                                  one request at a time: the probe
//! ```
//!
//! Every change of state begins a new epoch, and a request is told the epoch in which it was let through. What it
//! reports counts in that epoch only, so an answer that comes late neither closes nor opens anything. A probe that never
//! reports gives its place up after `recovery_ms`.
//!
//! The word, from the top: state 2 bits, epoch 8, and then either (closed) the start of the window in ticks of 256 ms
//! 26, requests 14, failures 14, or (open, half-open) the time in milliseconds 54. The window's start wraps after 198
//! days: an endpoint that was idle for exactly so long may find old counts. The epoch wraps after 256 changes of state:
//! then one report that is older than 128 recoveries may count.

use std::sync::atomic::Ordering::Relaxed;

use super::sync::AtomicU64;

/// Counts above this are halved, both, so that their ratio stays.
const COUNT_MAX: u64 = (1 << 14) - 1;
const TICK_MS_LOG2: u32 = 8;
const TICKS: u64 = 1 << 26;
const TIME_MAX: u64 = (1 << 54) - 1;

/// When a breaker opens and for how long. A value, so that a reload changes it and no state is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trip {
    /// Transport failures in the window that open it; at least 1. Of windows with more than 16,383 requests
    /// `failure_ratio` alone decides.
    pub failure_threshold: u32,
    /// Failures must also be at least this part of the window's requests, 0 to 1.
    pub failure_ratio: f64,
    /// Length of the tumbling window, to 256 ms.
    pub window_ms: u64,
    /// From the opening to the first probe; also how long a probe may be silent.
    pub recovery_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

/// What a request finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Go; report how it ended.
    Closed(Epoch),
    /// Go as the one probe; report how it ended.
    Probe(Epoch),
    /// Do not go; a probe may go in so many milliseconds, at least 1.
    Refused { retry_after_ms: u64 },
}

/// In which epoch a request was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u8);

impl Pass {
    /// What to report with; `None` for a refused request, which has nothing to report.
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Pass::Closed(epoch) | Pass::Probe(epoch) => Some(epoch),
            Pass::Refused { .. } => None,
        }
    }
}

/// Times in milliseconds on the clock of the caller, which never goes back by more than the workers differ.
#[derive(Debug, Default)]
pub struct Breaker(AtomicU64);

impl Breaker {
    /// Ask for one request. At most one probe is out at a time.
    pub fn allows(&self, now: u64, trip: &Trip) -> Pass {
        let mut word = self.0.load(Relaxed);
        loop {
            let (epoch, since) = match Word::unpack(word) {
                Word::Closed { epoch, .. } => return Pass::Closed(Epoch(epoch)),
                Word::Open { epoch, since } | Word::HalfOpen { epoch, since } => (epoch, since),
            };
            let waited = now.saturating_sub(since);
            if waited < trip.recovery_ms {
                return Pass::Refused { retry_after_ms: trip.recovery_ms - waited };
            }
            let epoch = epoch.wrapping_add(1);
            match self.swap(word, Word::HalfOpen { epoch, since: now }) {
                Ok(()) => return Pass::Probe(Epoch(epoch)),
                Err(changed) => word = changed,
            }
        }
    }

    /// Whether [`allows`](Breaker::allows) would let one through. One load.
    #[inline]
    pub fn lets_through(&self, now: u64, trip: &Trip) -> bool {
        match Word::unpack(self.0.load(Relaxed)) {
            Word::Closed { .. } => true,
            Word::Open { since, .. } | Word::HalfOpen { since, .. } => now.saturating_sub(since) >= trip.recovery_ms,
        }
    }

    /// How long nobody is let through, in milliseconds; `None`: somebody would be.
    pub fn closed_for(&self, now: u64, trip: &Trip) -> Option<u64> {
        match Word::unpack(self.0.load(Relaxed)) {
            Word::Closed { .. } => None,
            Word::Open { since, .. } | Word::HalfOpen { since, .. } => {
                Some(trip.recovery_ms.saturating_sub(now.saturating_sub(since))).filter(|left| *left > 0)
            }
        }
    }

    /// A request that was let through had an answer, whatever its status. True if that closed the breaker.
    pub fn succeeded(&self, epoch: Epoch, now: u64, trip: &Trip) -> bool {
        self.report(epoch, now, trip, 0) == Some(State::Closed)
    }

    /// A request that was let through failed in transport. True if that opened the breaker.
    pub fn failed(&self, epoch: Epoch, now: u64, trip: &Trip) -> bool {
        self.report(epoch, now, trip, 1) == Some(State::Open)
    }

    /// What the word says; an open breaker stays so until somebody asks to pass, however long that takes.
    pub fn state(&self) -> State {
        match Word::unpack(self.0.load(Relaxed)) {
            Word::Closed { .. } => State::Closed,
            Word::Open { .. } => State::Open,
            Word::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// The state that this report changed to, if it changed it.
    fn report(&self, reported: Epoch, now: u64, trip: &Trip, failures: u64) -> Option<State> {
        let mut word = self.0.load(Relaxed);
        loop {
            let old = Word::unpack(word);
            if old.epoch() != reported.0 {
                return None;
            }
            let epoch = reported.0.wrapping_add(1);
            let (next, change) = match old {
                Word::Open { .. } => return None,
                Word::HalfOpen { .. } if failures > 0 => (Word::Open { epoch, since: now }, Some(State::Open)),
                Word::HalfOpen { .. } => (Word::closed(epoch, now), Some(State::Closed)),
                Word::Closed { window, .. } => {
                    let window = window.with(now, trip, failures);
                    match failures > 0 && window.trips(trip) {
                        true => (Word::Open { epoch, since: now }, Some(State::Open)),
                        false => (Word::Closed { epoch: reported.0, window }, None),
                    }
                }
            };
            match self.swap(word, next) {
                Ok(()) => return change,
                Err(changed) => word = changed,
            }
        }
    }

    fn swap(&self, old: u64, new: Word) -> Result<(), u64> {
        self.0.compare_exchange(old, new.pack(), Relaxed, Relaxed).map(drop)
    }
}

/// The word, unpacked.
#[derive(Clone, Copy)]
enum Word {
    Closed {
        epoch: u8,
        window: Window,
    },
    Open {
        epoch: u8,
        since: u64,
    },
    /// A probe is out since then.
    HalfOpen {
        epoch: u8,
        since: u64,
    },
}

impl Word {
    fn closed(epoch: u8, now: u64) -> Word {
        Word::Closed { epoch, window: Window { start: tick(now), requests: 0, failures: 0 } }
    }

    fn epoch(self) -> u8 {
        match self {
            Word::Closed { epoch, .. } | Word::Open { epoch, .. } | Word::HalfOpen { epoch, .. } => epoch,
        }
    }

    fn unpack(word: u64) -> Word {
        let (epoch, since) = ((word >> 54) as u8, word & TIME_MAX);
        match word >> 62 {
            0 => {
                let (start, requests, failures) = (since >> 28, since >> 14 & COUNT_MAX, since & COUNT_MAX);
                Word::Closed { epoch, window: Window { start, requests, failures } }
            }
            1 => Word::Open { epoch, since },
            _ => Word::HalfOpen { epoch, since },
        }
    }

    fn pack(self) -> u64 {
        let (state, rest) = match self {
            Word::Closed { window, .. } => (0, window.start << 28 | window.requests << 14 | window.failures),
            Word::Open { since, .. } => (1, since & TIME_MAX),
            Word::HalfOpen { since, .. } => (2, since & TIME_MAX),
        };
        state << 62 | u64::from(self.epoch()) << 54 | rest
    }
}

/// Requests that reported since `start`, and those of them that failed.
#[derive(Clone, Copy)]
struct Window {
    start: u64,
    requests: u64,
    failures: u64,
}

impl Window {
    fn with(mut self, now: u64, trip: &Trip, failures: u64) -> Window {
        let age = tick(now).wrapping_sub(self.start) % TICKS;
        // A clock that is a little behind another worker's looks like nearly a whole lap.
        let is_over = age >= (trip.window_ms >> TICK_MS_LOG2).clamp(1, TICKS / 2) && age < TICKS - 1;
        if is_over {
            self = Window { start: tick(now), requests: 0, failures: 0 };
        }
        if self.requests == COUNT_MAX {
            self.requests /= 2;
            self.failures /= 2;
        }
        self.requests += 1;
        self.failures += failures;
        self
    }

    fn trips(self, trip: &Trip) -> bool {
        let mut threshold = u64::from(trip.failure_threshold).max(1);
        if self.requests > COUNT_MAX / 2 {
            // The counts may have been halved, and then the threshold may be out of their reach.
            threshold = threshold.min((trip.failure_ratio * (COUNT_MAX / 2) as f64) as u64);
        }
        self.failures >= threshold && self.failures as f64 >= trip.failure_ratio * self.requests as f64
    }
}

fn tick(now: u64) -> u64 {
    (now >> TICK_MS_LOG2) % TICKS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRIP: Trip = Trip { failure_threshold: 3, failure_ratio: 0.5, window_ms: 10_240, recovery_ms: 5_000 };

    fn pass(breaker: &Breaker, now: u64) -> Epoch {
        breaker.allows(now, &TRIP).epoch().expect("let through")
    }

    fn opened(now: u64) -> Breaker {
        let breaker = Breaker::default();
        for left in (0..3).rev() {
            let epoch = pass(&breaker, now);
            assert_eq!(breaker.failed(epoch, now, &TRIP), left == 0);
        }
        breaker
    }

    #[test]
    fn opens_at_the_threshold_if_the_ratio_is_met() {
        assert_eq!(opened(1_000).state(), State::Open);
        let breaker = Breaker::default();
        let epoch = pass(&breaker, 0);
        for _ in 0..4 {
            breaker.succeeded(epoch, 0, &TRIP);
        }
        assert!((0..3).all(|_| !breaker.failed(epoch, 0, &TRIP)), "three of seven are fewer than half");
        assert!(breaker.failed(epoch, 0, &TRIP), "four of eight are half");
    }

    #[test]
    fn failures_of_an_earlier_window_do_not_count() {
        let breaker = Breaker::default();
        let epoch = pass(&breaker, 0);
        breaker.failed(epoch, 0, &TRIP);
        breaker.failed(epoch, 10_239, &TRIP);
        assert!(!breaker.failed(epoch, 10_240, &TRIP));
        assert!(!breaker.failed(epoch, 10_241, &TRIP));
        assert!(breaker.failed(epoch, 20_000, &TRIP));
    }

    #[test]
    fn one_probe_at_a_time_and_a_silent_one_gives_its_place_up() {
        let breaker = opened(1_000);
        assert_eq!(breaker.allows(5_999, &TRIP), Pass::Refused { retry_after_ms: 1 });
        assert!(!breaker.lets_through(5_999, &TRIP) && breaker.lets_through(6_000, &TRIP));
        let lost = breaker.allows(6_000, &TRIP);
        assert!(matches!(lost, Pass::Probe(_)));
        assert_eq!(breaker.allows(6_001, &TRIP), Pass::Refused { retry_after_ms: 4_999 });
        let second = breaker.allows(11_000, &TRIP);
        assert!(matches!(second, Pass::Probe(_)));
        // The one that was given up reports after all: no effect either way.
        assert!(!breaker.succeeded(lost.epoch().unwrap(), 11_001, &TRIP));
        assert!(!breaker.failed(lost.epoch().unwrap(), 11_002, &TRIP));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(breaker.succeeded(second.epoch().unwrap(), 11_003, &TRIP));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn what_began_before_the_opening_changes_nothing_after_it() {
        let breaker = Breaker::default();
        let before = pass(&breaker, 0);
        for _ in 0..3 {
            breaker.failed(before, 1_000, &TRIP);
        }
        assert!(!breaker.succeeded(before, 2_000, &TRIP));
        assert_eq!(breaker.state(), State::Open);
        let probe = pass(&breaker, 6_000);
        assert!(!breaker.succeeded(before, 6_001, &TRIP) && !breaker.failed(before, 6_001, &TRIP));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(breaker.succeeded(probe, 6_002, &TRIP));
        assert!((0..10).all(|_| !breaker.failed(before, 6_003, &TRIP)));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_failed_probe_opens_it_for_another_recovery() {
        let breaker = opened(1_000);
        let probe = pass(&breaker, 6_000);
        assert!(breaker.failed(probe, 6_500, &TRIP));
        assert_eq!(breaker.allows(11_499, &TRIP), Pass::Refused { retry_after_ms: 1 });
        assert!(matches!(breaker.allows(11_500, &TRIP), Pass::Probe(_)));
    }

    #[test]
    fn a_change_of_the_settings_keeps_the_state() {
        let breaker = opened(1_000);
        let shorter = Trip { recovery_ms: 1_000, ..TRIP };
        assert!(matches!(breaker.allows(2_000, &shorter), Pass::Probe(_)));
    }

    #[test]
    fn the_ratio_decides_among_very_many_requests() {
        let breaker = Breaker::default();
        let trip = Trip { failure_threshold: 1_000, failure_ratio: 0.01, ..TRIP };
        let epoch = pass(&breaker, 0);
        let request = |i: u64| {
            if i.is_multiple_of(200) { breaker.failed(epoch, 1, &trip) } else { breaker.succeeded(epoch, 1, &trip) }
        };
        assert!((0..100_000).all(|i| !request(i)), "half a percent is fewer than one");
        assert!((0..1_000).any(|_| breaker.failed(epoch, 1, &trip)));
    }

    #[test]
    fn ticks_wrap_without_a_lapse() {
        let lap = TICKS << TICK_MS_LOG2;
        let breaker = Breaker::default();
        let epoch = pass(&breaker, lap - 1_000);
        breaker.failed(epoch, lap - 1_000, &TRIP);
        breaker.failed(epoch, lap + 1_000, &TRIP);
        assert!(breaker.failed(epoch, lap + 2_000, &TRIP), "one window on both sides of the wrap");
        assert_eq!(breaker.allows(lap + 6_999, &TRIP), Pass::Refused { retry_after_ms: 1 });
        // Open for years, then asked.
        assert!(matches!(breaker.allows(40 * lap, &TRIP), Pass::Probe(_)));
    }

    /// The same in plain fields, one step after another.
    struct Model {
        state: State,
        epoch: u64,
        since: u64,
        window: (u64, u32, u32),
    }

    impl Model {
        fn enter(&mut self, state: State, now: u64) {
            (self.state, self.since, self.epoch) = (state, now, self.epoch + 1);
            self.window = (now >> TICK_MS_LOG2, 0, 0);
        }

        fn report(&mut self, epoch: u64, now: u64, failed: bool) {
            if epoch != self.epoch {
                return;
            }
            match self.state {
                State::Open => {}
                State::HalfOpen => self.enter(if failed { State::Open } else { State::Closed }, now),
                State::Closed => {
                    let tick = now >> TICK_MS_LOG2;
                    if tick - self.window.0 >= TRIP.window_ms >> TICK_MS_LOG2 {
                        self.window = (tick, 0, 0);
                    }
                    self.window.1 += 1;
                    self.window.2 += u32::from(failed);
                    let (_, requests, failures) = self.window;
                    if failed && failures >= TRIP.failure_threshold && f64::from(failures) >= f64::from(requests) * 0.5
                    {
                        self.enter(State::Open, now);
                    }
                }
            }
        }
    }

    proptest! {
        /// Any requests at any times, any of them reported in any order or never.
        #[test]
        fn does_what_the_sequential_model_does(
            start in 0u64..3 * (TICKS << TICK_MS_LOG2),
            steps in proptest::collection::vec((0u64..4_000, 0u8..5, any::<prop::sample::Index>()), 1..200)
        ) {
            let breaker = Breaker(AtomicU64::new(Word::closed(0, start).pack()));
            let mut model = Model { state: State::Closed, epoch: 0, since: 0, window: (start >> TICK_MS_LOG2, 0, 0) };
            let mut out: Vec<(Epoch, u64)> = Vec::new();
            let mut now = start;
            for (wait, step, which) in steps {
                now += wait;
                if step < 2 {
                    let pass = breaker.allows(now, &TRIP);
                    let waited = now - model.since;
                    if model.state == State::Closed {
                        prop_assert!(matches!(pass, Pass::Closed(_)));
                    } else if waited < TRIP.recovery_ms {
                        prop_assert_eq!(pass, Pass::Refused { retry_after_ms: TRIP.recovery_ms - waited });
                    } else {
                        prop_assert!(matches!(pass, Pass::Probe(_)));
                        model.enter(State::HalfOpen, now);
                    }
                    out.extend(pass.epoch().map(|epoch| (epoch, model.epoch)));
                } else if !out.is_empty() {
                    let (epoch, known) = out.swap_remove(which.index(out.len()));
                    // The word's epoch is one byte; reports older than that are not what this is about.
                    prop_assume!(model.epoch - known < 256);
                    let failed = step < 4;
                    match failed {
                        true => breaker.failed(epoch, now, &TRIP),
                        false => breaker.succeeded(epoch, now, &TRIP),
                    };
                    model.report(known, now, failed);
                }
                prop_assert_eq!(breaker.state(), model.state);
            }
        }
    }
}
