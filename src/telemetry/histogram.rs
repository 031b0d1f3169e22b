//! A windowed log-linear histogram that one thread writes and any thread reads.
//!
//! 16 buckets an octave of microseconds (at most 6 % off), six windows of ten seconds, so that quantiles are of the
//! last minute and do not freeze; the exact sum and count are kept beside them for ever.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// log2 of the buckets an octave.
const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// Octaves above the first, linear one: the last bucket starts at about 71 minutes.
const OCTAVES: usize = 28;
const BUCKETS: usize = SUB * (OCTAVES + 1);
const WINDOWS: usize = 6;
const WINDOW_SECONDS: u64 = 10;

/// Written by the one worker that owns it (plain loads and stores, no read-modify-write), read at a scrape.
pub struct Histogram {
    windows: [Window; WINDOWS],
    sum_us: AtomicU64,
    count: AtomicU64,
}

struct Window {
    /// Number of the ten-second period that the buckets count, plus one.
    period: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            windows: std::array::from_fn(|_| Window {
                period: AtomicU64::new(0),
                buckets: std::array::from_fn(|_| AtomicU32::new(0)),
            }),
            sum_us: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Count one `value`. `now` is the time since some fixed point, the same for all histograms of the process.
    #[inline]
    pub fn record(&self, value: Duration, now: Duration) {
        let us = value.as_micros().min(u128::from(u64::MAX)) as u64;
        let period = now.as_secs() / WINDOW_SECONDS + 1;
        let window = &self.windows[period as usize % WINDOWS];
        if window.period.load(Relaxed) != period {
            for bucket in &window.buckets {
                bucket.store(0, Relaxed);
            }
            window.period.store(period, Relaxed);
        }
        let bucket = &window.buckets[bucket_of(us)];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum_us.store(self.sum_us.load(Relaxed) + us, Relaxed);
        self.count.store(self.count.load(Relaxed) + 1, Relaxed);
    }
}

/// Several histograms added up, as a scrape shows them.
pub struct Merged {
    buckets: Vec<u64>,
    pub sum_seconds: f64,
    pub count: u64,
}

impl Default for Merged {
    fn default() -> Merged {
        Merged { buckets: vec![0; BUCKETS], sum_seconds: 0.0, count: 0 }
    }
}

impl Merged {
    pub fn add(&mut self, histogram: &Histogram, now: Duration) {
        let newest = now.as_secs() / WINDOW_SECONDS + 1;
        for window in &histogram.windows {
            let period = window.period.load(Relaxed);
            if period != 0 && period + WINDOWS as u64 > newest {
                for (sum, bucket) in self.buckets.iter_mut().zip(&window.buckets) {
                    *sum += u64::from(bucket.load(Relaxed));
                }
            }
        }
        self.sum_seconds += histogram.sum_us.load(Relaxed) as f64 / 1e6;
        self.count += histogram.count.load(Relaxed);
    }

    /// The `q` quantile of the last minute in seconds, NaN if nothing happened in it (as Prometheus clients do).
    pub fn quantile(&self, q: f64) -> f64 {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return f64::NAN;
        }
        let rank = ((q * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_us(index) as f64 / 1e6;
            }
        }
        f64::NAN
    }
}

fn bucket_of(us: u64) -> usize {
    if us < SUB as u64 {
        return us as usize;
    }
    let octave = us.ilog2() - SUB_BITS;
    let sub = (us >> octave) as usize - SUB;
    (SUB + octave as usize * SUB + sub).min(BUCKETS - 1)
}

/// The largest value of a bucket, microseconds.
fn upper_us(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let octave = (bucket - SUB) / SUB;
    let sub = (bucket - SUB) % SUB;
    (((SUB + sub + 1) as u64) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_six_percent() {
        for us in (0..2_000_000u64).step_by(37).chain([u64::from(u32::MAX)]) {
            let upper = upper_us(bucket_of(us));
            assert!(upper >= us, "{us} above its bucket's end {upper}");
            assert!((upper - us) as f64 <= us as f64 * 0.0625 + 1.0, "{us} far below {upper}");
        }
    }

    #[test]
    fn quantiles_are_of_the_last_minute_and_counts_for_ever() {
        let histogram = Histogram::default();
        let second = Duration::from_secs;
        for i in 1..=100 {
            histogram.record(Duration::from_millis(i), second(5));
        }
        let mut merged = Merged::default();
        merged.add(&histogram, second(30));
        assert!((merged.quantile(0.5) - 0.050).abs() < 0.004);
        assert!((merged.quantile(0.99) - 0.099).abs() < 0.007);
        assert_eq!(merged.count, 100);

        let mut later = Merged::default();
        later.add(&histogram, second(75));
        assert!(later.quantile(0.5).is_nan());
        assert_eq!(later.count, 100);
        assert!((later.sum_seconds - 5.05).abs() < 1e-9);
    }
}
