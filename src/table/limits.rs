//! Rate limits that hold over all workers exactly: GCRA, one atomic word a key.
//!
//! The generic cell rate algorithm (ITU-T I.371, "virtual scheduling") keeps for a key the theoretical arrival time of
//! its next request. A word that lies in the past says nothing that an absent one would not, so a slot is taken from a
//! key only then: whoever makes up keys fills slots, and pushes nobody's state out. Where all slots of a bucket are in
//! use, further keys share one word and so one limit, until a slot is free.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Slots of one bucket: two cache lines.
const SLOTS: usize = 8;

/// `limit` requests in each `window`, of which `burst` may come at once. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From one request to the next in the steady state.
    interval: u64,
    /// How far the theoretical arrival time may run ahead.
    tolerance: u64,
}

impl Rate {
    pub fn new(limit: u64, window: Duration, burst: u64) -> Rate {
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        let interval = (window / limit.max(1)).max(1);
        Rate { interval, tolerance: interval.saturating_mul(burst.max(1)).min(u64::MAX / 4) }
    }
}

/// What a request finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Counted.
    Granted,
    /// Not counted; the time until one would be granted.
    Denied { retry_after: Duration },
}

#[derive(Default)]
struct Slot {
    /// 0: never used.
    key: AtomicU64,
    arrival: AtomicU64,
}

#[derive(Default)]
#[repr(align(128))]
struct Bucket([Slot; SLOTS]);

/// The limits of one kind of key. Shared by all workers, of fixed size, without locks.
pub struct Limits {
    buckets: Box<[Bucket]>,
    /// For the keys that find no slot, by kin; as many as buckets.
    shared: Box<[AtomicU64]>,
    /// Keyed, so that nobody can choose keys that fall into one bucket.
    hash: RandomState,
}

impl Limits {
    /// Room for at least `keys` keys that are in use at a time, 16 bytes each.
    pub fn new(keys: usize) -> Limits {
        let buckets = keys.div_ceil(SLOTS).next_power_of_two();
        Limits {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            shared: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            hash: RandomState::new(),
        }
    }

    /// The name of a key in this table.
    pub fn key(&self, name: &[u8]) -> u64 {
        self.hash.hash_one(name).max(1)
    }

    /// Count a request of `key`, if it is within the rate. `now`: nanoseconds on a clock that never goes back, not 0.
    /// `kin` names those with whom it shares a limit while the table has no slot for it; any number.
    pub fn take(&self, key: u64, kin: impl Fn() -> u64, rate: Rate, now: u64) -> Verdict {
        loop {
            let Some(slot) = self.slot(key, now) else { return charge(self.shared(kin()), rate, now) };
            let verdict = charge(&slot.arrival, rate, now);
            // Between look and charge the slot may have become somebody else's: then this counted for nobody here.
            if slot.key.load(Relaxed) == key {
                return verdict;
            }
        }
    }

    /// Give back what [`take`](Limits::take) counted, for a request that was refused for another reason.
    pub fn give_back(&self, key: u64, kin: impl Fn() -> u64, rate: Rate, now: u64) {
        let word = self.slot(key, now).map_or_else(|| self.shared(kin()), |slot| &slot.arrival);
        // Never fails: the closure always says something.
        let _ = word.fetch_update(Relaxed, Relaxed, |arrival| Some(arrival.saturating_sub(rate.interval)));
    }

    /// Requests that `key` may still make at once.
    pub fn remaining(&self, key: u64, rate: Rate, now: u64) -> u64 {
        let slot = self.bucket(key).0.iter().find(|slot| slot.key.load(Relaxed) == key);
        let ahead = slot.map_or(0, |slot| slot.arrival.load(Relaxed).saturating_sub(now));
        rate.tolerance.saturating_sub(ahead) / rate.interval
    }

    fn bucket(&self, key: u64) -> &Bucket {
        &self.buckets[(key >> 7) as usize & (self.buckets.len() - 1)]
    }

    fn shared(&self, kin: u64) -> &AtomicU64 {
        &self.shared[(kin >> 7) as usize & (self.shared.len() - 1)]
    }

    /// The slot of `key`, or one that was free and now is its own; `None` while all are in use.
    fn slot(&self, key: u64, now: u64) -> Option<&Slot> {
        let bucket = self.bucket(key);
        loop {
            if let Some(slot) = bucket.0.iter().find(|slot| slot.key.load(Relaxed) == key) {
                return Some(slot);
            }
            let slot = bucket.0.iter().find(|slot| slot.arrival.load(Relaxed) <= now)?;
            let old = slot.key.load(Relaxed);
            // Somebody else was faster, perhaps for this very key: look again.
            if slot.key.compare_exchange(old, key, Relaxed, Relaxed).is_ok() {
                return Some(slot);
            }
        }
    }
}

fn charge(word: &AtomicU64, rate: Rate, now: u64) -> Verdict {
    let mut arrival = word.load(Relaxed);
    loop {
        let next = arrival.max(now) + rate.interval;
        let ahead = next - now;
        if ahead > rate.tolerance {
            return Verdict::Denied { retry_after: Duration::from_nanos(ahead - rate.tolerance) };
        }
        match word.compare_exchange_weak(arrival, next, Relaxed, Relaxed) {
            Ok(_) => return Verdict::Granted,
            Err(changed) => arrival = changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    proptest! {
        /// The same verdicts as another implementation, at any times.
        #[test]
        fn says_what_governor_says(
            limit in 1u32..500, burst in 1u32..50, waits in proptest::collection::vec(0u64..400_000_000, 1..200)
        ) {
            let window = Duration::from_secs(60);
            let period = window / limit;
            let quota = Quota::with_period(period).unwrap().allow_burst(NonZeroU32::new(burst).unwrap());
            let clock = FakeRelativeClock::default();
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let limits = Limits::new(64);
            let rate = Rate::new(u64::from(limit), window, u64::from(burst));
            let mut now = SECOND;
            for wait in waits {
                now += wait;
                clock.advance(Duration::from_nanos(wait));
                let granted = limits.take(7, || 7, rate, now) == Verdict::Granted;
                prop_assert_eq!(granted, oracle.check().is_ok());
            }
        }
    }

    #[test]
    fn grants_exactly_the_limit_to_many_threads_together() {
        let limits = Limits::new(64);
        let rate = Rate::new(1000, Duration::from_secs(1000), 1000);
        let granted: usize = std::thread::scope(|scope| {
            let ask = || (0..1000).filter(|_| limits.take(3, || 3, rate, SECOND) == Verdict::Granted).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(granted, 1000);
    }

    #[test]
    fn tells_when_to_come_back() {
        let limits = Limits::new(64);
        let rate = Rate::new(60, Duration::from_secs(60), 2);
        assert_eq!(limits.remaining(1, rate, SECOND), 2);
        assert_eq!(limits.take(1, || 1, rate, SECOND), Verdict::Granted);
        assert_eq!(limits.take(1, || 1, rate, SECOND), Verdict::Granted);
        assert_eq!(limits.remaining(1, rate, SECOND), 0);
        assert_eq!(limits.take(1, || 1, rate, SECOND), Verdict::Denied { retry_after: Duration::from_secs(1) });
        assert_eq!(limits.take(1, || 1, rate, 2 * SECOND), Verdict::Granted);
        limits.give_back(1, || 1, rate, 2 * SECOND);
        assert_eq!(limits.take(1, || 1, rate, 2 * SECOND), Verdict::Granted);
    }

    #[test]
    fn made_up_keys_push_out_nobody_and_share_what_is_left() {
        let limits = Limits::new(SLOTS);
        let rate = Rate::new(60, Duration::from_secs(60), 1);
        for key in 1..=SLOTS as u64 {
            assert_eq!(limits.take(key, || 0, rate, SECOND), Verdict::Granted);
        }
        // No slot is left: the first of the newcomers is granted, the next finds the same word.
        assert_eq!(limits.take(100, || 0, rate, SECOND), Verdict::Granted);
        assert!((101..10_000).all(|key| limits.take(key, || 0, rate, SECOND) != Verdict::Granted));
        assert!((1..=SLOTS as u64).all(|key| limits.take(key, || 0, rate, SECOND) != Verdict::Granted));
        // When the old ones are over, their slots serve others.
        assert!((200..200 + SLOTS as u64).all(|key| limits.take(key, || 0, rate, 3 * SECOND) == Verdict::Granted));
    }

    /// One network makes up four times as many addresses as there is room for, and uses each up.
    #[test]
    fn honest_keys_are_counted_exactly_while_a_network_fills_the_table() {
        let limits = Limits::new(65_536);
        let rate = Rate::new(100, Duration::from_secs(100), 5);
        let kin = |network: u32| limits.key(&network.to_be_bytes());
        let network = kin(0);
        let early: Vec<u64> = (0..100u32).map(|user| limits.key(format!("early {user}").as_bytes())).collect();
        let count = |key: u64, kin: u64, now: u64| {
            (0..10).filter(|_| limits.take(key, || kin, rate, now) == Verdict::Granted).count()
        };
        // Three of five are used before the flood, so two are left after it.
        for &key in &early {
            assert!((0..3).all(|_| limits.take(key, || key, rate, SECOND) == Verdict::Granted));
        }
        let mut granted = 0;
        for made_up in 0..262_144u32 {
            let key = limits.key(format!("made up {made_up}").as_bytes());
            granted += (0..5).filter(|_| limits.take(key, || network, rate, SECOND) == Verdict::Granted).count();
        }
        assert!(granted <= 5 * 65_536, "{granted}");
        assert!(early.iter().all(|&key| count(key, key, SECOND) == 2));
        // Who comes now finds no room, and has a limit apart from the network's all the same.
        let late = (1..=50u32).filter(|&user| {
            let key = limits.key(format!("late {user}").as_bytes());
            count(key, kin(user), SECOND) == 5
        });
        // Words are chosen by hash: now and then two share one.
        let late = late.count();
        assert!(late >= 45, "{late} of 50");
    }
}
