//! Store time: ages that neither a clock jump nor a restart can upset.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where time comes from; tests bring their own.
#[derive(Clone)]
pub struct Clock {
    /// Since some fixed point; never goes back.
    pub monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Since 1970; may jump.
    pub wall: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    pub fn system() -> Clock {
        // From zero at the start of the process: the machine may be up for longer than a store has counted.
        let start = coarse_ms();
        Clock {
            monotonic: Arc::new(move || Duration::from_millis(coarse_ms() - start)),
            wall: Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        }
    }
}

/// Milliseconds of the monotonic clock. A few of them late, for a fifth of what the exact time costs.
pub fn coarse_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for the write; this clock is there since Linux 2.6.32, and without it the time stands still.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// A pair of wall time and store time, milliseconds, as saved in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    pub wall_ms: u64,
    pub store_ms: u64,
}

/// Goes on from the saved time by what the wall clock says has passed (never back); from there the monotonic clock counts.
pub struct StoreClock {
    clock: Clock,
    offset_ms: u64,
}

impl StoreClock {
    pub fn resume(clock: Clock, saved: Option<Saved>) -> StoreClock {
        let wall_ms = (clock.wall)().as_millis() as u64;
        let base = saved.map_or(1, |saved| saved.store_ms + wall_ms.saturating_sub(saved.wall_ms));
        let monotonic_ms = (clock.monotonic)().as_millis() as u64;
        StoreClock { clock, offset_ms: base.saturating_sub(monotonic_ms) }
    }

    pub fn now_ms(&self) -> u64 {
        self.offset_ms + (self.clock.monotonic)().as_millis() as u64
    }

    /// What to save now.
    pub fn to_save(&self) -> Saved {
        Saved { wall_ms: (self.clock.wall)().as_millis() as u64, store_ms: self.now_ms() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_up_for_long_makes_no_session_older() {
        let clock = Clock::system();
        let wall_ms = (clock.wall)().as_millis() as u64;
        // As a store has it that was begun a moment ago, wherever that was.
        let store = StoreClock::resume(clock, Some(Saved { wall_ms, store_ms: 5 }));
        assert!((5..2005).contains(&store.now_ms()), "{}", store.now_ms());
    }
}
