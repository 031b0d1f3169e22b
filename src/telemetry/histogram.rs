//! A log-linear histogram that one thread writes and any thread reads: quantiles of the last minute, and buckets that only
//! grow.
//!
//! The quantiles come from 16 buckets an octave of microseconds (at most 6 % off) in six windows of ten seconds, so that
//! they do not freeze; the few buckets of `le`, which add over replicas, and the sum are kept beside them for ever. The
//! windows take 11 KiB, and are made when the first value comes: in the whole process up to [`WINDOWS_BYTES_MAX`], beyond
//! which a histogram does without quantiles.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Memory for windows, of the whole process.
pub const WINDOWS_BYTES_MAX: usize = 64 << 20;
/// What they take now.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// log2 of the buckets an octave.
const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// Octaves above the first, linear one: the last bucket starts at about 71 minutes.
const OCTAVES: usize = 28;
const BUCKETS: usize = SUB * (OCTAVES + 1);
const WINDOWS: usize = 6;
const WINDOW_SECONDS: u64 = 10;

/// Upper ends of the buckets of `le`, microseconds; a last one has no end.
pub type Bounds = [u64; 15];

/// Of requests, half a millisecond to a minute.
pub static REQUESTS: Bounds = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
];
/// Of their parts, ten microseconds to ten seconds.
pub static PARTS: Bounds =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];
/// Of lives of sessions, a second to a month.
pub static LIVES: Bounds = {
    const S: u64 = 1_000_000;
    const HOUR: u64 = 3600 * S;
    [
        S,
        5 * S,
        15 * S,
        60 * S,
        300 * S,
        900 * S,
        1800 * S,
        HOUR,
        3 * HOUR,
        6 * HOUR,
        12 * HOUR,
        24 * HOUR,
        72 * HOUR,
        168 * HOUR,
        720 * HOUR,
    ]
};

/// Written by the one thread that owns it (plain loads and stores, no read-modify-write), read at a scrape.
pub struct Histogram {
    bounds: &'static Bounds,
    counts: [AtomicU64; 16],
    sum_us: AtomicU64,
    windows: OnceLock<Box<[Window; WINDOWS]>>,
    /// There was no room for windows.
    is_coarse: AtomicBool,
}

struct Window {
    /// Number of the ten-second period that the buckets count, plus one.
    period: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

const WINDOWS_BYTES: usize = size_of::<[Window; WINDOWS]>();

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new(&REQUESTS)
    }
}

impl Drop for Histogram {
    fn drop(&mut self) {
        if self.windows.get().is_some() {
            HELD.fetch_sub(WINDOWS_BYTES, Relaxed);
        }
    }
}

impl Histogram {
    pub fn new(bounds: &'static Bounds) -> Histogram {
        Histogram {
            bounds,
            counts: Default::default(),
            sum_us: AtomicU64::new(0),
            windows: OnceLock::new(),
            is_coarse: AtomicBool::new(false),
        }
    }

    /// Count one `value`. `now` is the time since some fixed point, the same for all histograms of the process.
    #[inline]
    pub fn record(&self, value: Duration, now: Duration) {
        let us = value.as_secs().saturating_mul(1_000_000) + u64::from(value.subsec_micros());
        let count = &self.counts[self.bounds.partition_point(|&end| end < us)];
        count.store(count.load(Relaxed) + 1, Relaxed);
        self.sum_us.store(self.sum_us.load(Relaxed).wrapping_add(us), Relaxed);
        let Some(windows) = self.windows.get().map(|windows| &**windows).or_else(|| self.make_windows()) else {
            return;
        };
        let period = now.as_secs() / WINDOW_SECONDS + 1;
        let window = &windows[period as usize % WINDOWS];
        if window.period.load(Relaxed) != period {
            for bucket in &window.buckets {
                bucket.store(0, Relaxed);
            }
            window.period.store(period, Relaxed);
        }
        let bucket = &window.buckets[bucket_of(us)];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
    }

    #[cold]
    fn make_windows(&self) -> Option<&[Window; WINDOWS]> {
        if self.is_coarse.load(Relaxed) {
            return None;
        }
        if HELD.fetch_add(WINDOWS_BYTES, Relaxed) + WINDOWS_BYTES > WINDOWS_BYTES_MAX {
            HELD.fetch_sub(WINDOWS_BYTES, Relaxed);
            self.is_coarse.store(true, Relaxed);
            return None;
        }
        let window = |_| Window { period: AtomicU64::new(0), buckets: std::array::from_fn(|_| AtomicU32::new(0)) };
        Some(self.windows.get_or_init(|| Box::new(std::array::from_fn(window))))
    }
}

/// Memory that windows take, of the whole process.
pub fn windows_bytes() -> usize {
    HELD.load(Relaxed)
}

/// Several histograms of the same bounds added up, as a scrape shows them.
pub struct Merged {
    bounds: &'static Bounds,
    counts: [u64; 16],
    pub sum_seconds: f64,
    /// Empty while nothing of the last minute is there.
    buckets: Vec<u64>,
    /// Histograms that had no room for windows.
    pub coarse: u64,
}

impl Merged {
    pub fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>, now: Duration) -> Merged {
        let mut merged =
            Merged { bounds: &REQUESTS, counts: [0; 16], sum_seconds: 0.0, buckets: Vec::new(), coarse: 0 };
        histograms.into_iter().for_each(|histogram| merged.add(histogram, now));
        merged
    }

    fn add(&mut self, histogram: &Histogram, now: Duration) {
        self.bounds = histogram.bounds;
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *sum += count.load(Relaxed);
        }
        self.sum_seconds += histogram.sum_us.load(Relaxed) as f64 / 1e6;
        self.coarse += u64::from(histogram.is_coarse.load(Relaxed));
        let newest = now.as_secs() / WINDOW_SECONDS + 1;
        for window in histogram.windows.get().into_iter().flat_map(|windows| windows.iter()) {
            let period = window.period.load(Relaxed);
            if period != 0 && period + WINDOWS as u64 > newest {
                self.buckets.resize(BUCKETS, 0);
                for (sum, bucket) in self.buckets.iter_mut().zip(&window.buckets) {
                    *sum += u64::from(bucket.load(Relaxed));
                }
            }
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many were at most so many seconds, for each of the bounds.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().map(|&us| us as f64 / 1e6).zip(sums)
    }

    /// These quantiles, in rising order, of the last minute in seconds; NaN if nothing happened in it (as Prometheus
    /// clients do).
    pub fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> [f64; N] {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return [f64::NAN; N];
        }
        let (mut seen, mut at) = (0, 0);
        quantiles.map(|q| {
            let rank = ((q * total as f64).ceil() as u64).clamp(1, total);
            while seen < rank {
                seen += self.buckets[at];
                at += 1;
            }
            upper_us(at - 1) as f64 / 1e6
        })
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

    const SECOND: fn(u64) -> Duration = Duration::from_secs;

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
        for i in 1..=100 {
            histogram.record(Duration::from_millis(i), SECOND(5));
        }
        let merged = Merged::of([&histogram], SECOND(30));
        let [half, most] = merged.quantiles([0.5, 0.99]);
        assert!((half - 0.050).abs() < 0.004 && (most - 0.099).abs() < 0.007, "{half} {most}");
        assert_eq!(merged.count(), 100);
        let later = Merged::of([&histogram], SECOND(75));
        assert!(later.quantiles([0.5])[0].is_nan());
        assert_eq!(later.count(), 100);
        assert!((later.sum_seconds - 5.05).abs() < 1e-9);
    }

    #[test]
    fn buckets_count_what_is_at_most_their_end() {
        let (one, other) = (Histogram::default(), Histogram::default());
        for us in [1, 500, 501, 1_000] {
            one.record(Duration::from_micros(us), SECOND(1));
        }
        other.record(SECOND(3600), SECOND(1));
        let merged = Merged::of([&one, &other], SECOND(1));
        let first: Vec<_> = merged.cumulative().take(2).collect();
        assert_eq!(first, [(0.0005, 2), (0.001, 4)]);
        assert_eq!((merged.cumulative().last(), merged.count()), (Some((60.0, 4)), 5));
    }

    #[test]
    fn beyond_the_bound_there_are_no_quantiles_and_all_counts() {
        let many: Vec<Histogram> = (0..WINDOWS_BYTES_MAX / WINDOWS_BYTES + 2).map(|_| Histogram::default()).collect();
        many.iter().for_each(|histogram| histogram.record(SECOND(1), SECOND(1)));
        assert!(windows_bytes() <= WINDOWS_BYTES_MAX);
        let merged = Merged::of(&many, SECOND(1));
        assert!(merged.coarse >= 2, "{}", merged.coarse);
        assert_eq!(merged.count(), many.len() as u64);
        drop(many);
        assert!(windows_bytes() < WINDOWS_BYTES_MAX / 2);
    }
}
