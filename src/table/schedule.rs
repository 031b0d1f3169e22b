//! Whose turn it is: weighted round robin, exact over all workers.
//!
//! Short rounds are precomputed as smooth weighted round robin. Longer ones would need memory for every turn, or rounding
//! that falsifies small weights: there turn `k` falls on the fraction of `k * golden ratio`, and each endpoint has a piece
//! of the unit interval as long as its share. The fractions are as evenly spread as any sequence's (Weyl 1916, the
//! three-distance theorem of Sós 1958), so that every endpoint's turns stay within a few of its exact share, at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Longest precomputed round.
const TURNS_MAX: u64 = 4096;
/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The turns and one shared counter, so that choosing is one atomic addition and a look-up.
#[derive(Debug)]
#[repr(align(128))]
pub struct Schedule {
    next: AtomicU64,
    turns: Turns,
}

#[derive(Debug)]
enum Turns {
    Round(Box<[u32]>),
    Shares(Shares),
}

impl Schedule {
    /// For `weights` of the endpoints 0, 1, ..., of which there may be as many as memory holds (up to 2^32). An endpoint
    /// of weight 0 has no turns.
    pub fn new(weights: &[u32]) -> Schedule {
        assert!(u32::try_from(weights.len()).is_ok(), "more endpoints than an index can name");
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b))).max(1);
        let total: u64 = weights.iter().map(|&weight| u64::from(weight) / divisor).sum();
        let turns = match total <= TURNS_MAX {
            true => Turns::Round(smooth_round(weights, divisor as u32)),
            false => Turns::Shares(Shares::new(weights)),
        };
        Schedule { next: AtomicU64::new(0), turns }
    }

    /// The same with the counter of `earlier`, for a reload: endpoints at the beginning are not favoured by it.
    pub fn following(self, earlier: &Schedule) -> Schedule {
        self.next.store(earlier.next.load(Relaxed), Relaxed);
        self
    }

    /// Take the next turn: whose it is. `None` without endpoints.
    #[inline]
    pub fn take(&self) -> Option<usize> {
        self.of(self.next.fetch_add(1, Relaxed))
    }

    /// Take the next turn: whose it is, and another endpoint by weight that has nothing to do with it (perhaps the same).
    #[inline]
    pub fn take_with_rival(&self) -> Option<(usize, usize)> {
        let turn = self.next.fetch_add(1, Relaxed);
        Some((self.of(turn)?, self.by_weight(mixed(turn))?))
    }

    #[inline]
    fn of(&self, turn: u64) -> Option<usize> {
        match &self.turns {
            Turns::Round(round) if round.is_empty() => None,
            Turns::Round(round) => Some(round[(turn % round.len() as u64) as usize] as usize),
            Turns::Shares(shares) => Some(shares.at(fraction(turn))),
        }
    }

    #[inline]
    fn by_weight(&self, fraction: u64) -> Option<usize> {
        match &self.turns {
            Turns::Round(round) => {
                round.get(scaled(fraction, round.len() as u64) as usize).map(|&index| index as usize)
            }
            Turns::Shares(shares) => Some(shares.at(fraction)),
        }
    }
}

/// The unit interval in pieces as long as the shares, and a guide into it (Chen and Asau 1974): a look-up is a step or two.
#[derive(Debug)]
struct Shares {
    /// Where the pieces end, in sums of weights.
    ends: Box<[u64]>,
    /// The first piece that reaches into each of equal parts of the interval.
    guide: Box<[u32]>,
}

impl Shares {
    /// Not all of `weights` are 0.
    fn new(weights: &[u32]) -> Shares {
        let mut total = 0;
        let sum = |&weight: &u32| {
            total += u64::from(weight);
            total
        };
        let ends: Box<[u64]> = weights.iter().map(sum).collect();
        let parts = 2 * ends.len() as u64;
        let mut first = 0;
        let guide = (0..parts).map(|part| {
            let start = (u128::from(part) * u128::from(total) / u128::from(parts)) as u64;
            while ends[first] <= start {
                first += 1;
            }
            first as u32
        });
        Shares { guide: guide.collect(), ends }
    }

    /// In whose piece the fraction lies, given in 2^64ths.
    #[inline]
    fn at(&self, fraction: u64) -> usize {
        let place = scaled(fraction, self.ends[self.ends.len() - 1]);
        let mut piece = self.guide[scaled(fraction, self.guide.len() as u64) as usize] as usize;
        while self.ends[piece] <= place {
            piece += 1;
        }
        piece
    }
}

/// That fraction, in 2^64ths, of `whole`.
#[inline]
pub(super) fn scaled(fraction: u64, whole: u64) -> u64 {
    ((u128::from(fraction) * u128::from(whole)) >> 64) as u64
}

/// The fraction on which turn `k` falls, in 2^64ths.
#[inline]
pub(super) fn fraction(turn: u64) -> u64 {
    turn.wrapping_mul(GOLDEN)
}

/// A number that shows nothing of `turn` (the finalizer of SplitMix64; Steele, Lea and Flood 2014).
#[inline]
fn mixed(turn: u64) -> u64 {
    let z = fraction(turn);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// One round in which endpoint `i` has `weights[i] / divisor` turns, spread as evenly as can be (the rule of nginx's
/// upstream module: each turn every endpoint gains its weight, the richest is taken and pays the total).
fn smooth_round(weights: &[u32], divisor: u32) -> Box<[u32]> {
    let weights: Vec<i64> = weights.iter().map(|&weight| i64::from(weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            for (credit, &weight) in credit.iter_mut().zip(&weights) {
                *credit += weight;
            }
            let richest = (0..credit.len()).rev().max_by_key(|&i| credit[i]).unwrap_or(0);
            credit[richest] -= total;
            richest as u32
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(schedule: &Schedule, len: usize, turns: u64) -> Vec<u64> {
        let mut counts = vec![0; len];
        for _ in 0..turns {
            counts[schedule.take().unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn turns_are_exact_to_the_weights_and_evenly_spread() {
        let schedule = Schedule::new(&[10, 5]);
        let picks: Vec<usize> = (0..3000).map(|_| schedule.take().unwrap()).collect();
        assert_eq!(picks.iter().filter(|&&i| i == 0).count(), 2000);
        assert!(picks.windows(3).all(|w| w.contains(&1)));
        assert_eq!(Schedule::new(&[]).take(), None);
    }

    #[test]
    fn a_thousand_weights_keep_their_shares_at_any_time() {
        let weights: Vec<u32> = (1..=1000).collect();
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let schedule = Schedule::new(&weights);
        let (mut seen, mut turns) = (vec![0u64; 1000], 0);
        for more in [100_000, 900_000, 1_000_000] {
            turns += more;
            for (seen, count) in seen.iter_mut().zip(counts(&schedule, 1000, more)) {
                *seen += count;
            }
            for (weight, &count) in weights.iter().zip(&seen) {
                let exact = f64::from(*weight) / total * turns as f64;
                let allowed = (exact * 0.02).max(3.0);
                assert!(
                    (count as f64 - exact).abs() <= allowed,
                    "weight {weight}: {count} of {turns}, exactly {exact}"
                );
            }
        }
    }

    #[test]
    fn weights_far_apart_are_not_rounded() {
        let schedule = Schedule::new(&[1_000_000, 1, 0]);
        let counts = counts(&schedule, 3, 3_000_003);
        assert!((2..=4).contains(&counts[1]), "{counts:?}");
        assert_eq!(counts[2], 0);
    }

    #[test]
    fn more_endpoints_than_sixteen_bits_can_name() {
        let schedule = Schedule::new(&vec![1; 70_000]);
        let counts = counts(&schedule, 70_000, 700_000);
        assert!(counts.iter().all(|count| (7..=13).contains(count)));
    }

    #[test]
    fn a_reload_goes_on_where_the_last_was() {
        let first = Schedule::new(&[1, 1, 1]);
        first.take();
        let second = Schedule::new(&[1, 1, 1]).following(&first);
        assert_eq!(second.take(), Some(1));
    }
}
