//! Whose turn it is: smooth weighted round robin, exact over all workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Longest precomputed round; weights whose round would be longer are scaled down to fit.
const TURNS_MAX: u64 = 4096;

/// A round precomputed from the weights and one shared counter, so that choosing is one atomic addition.
#[derive(Debug)]
#[repr(align(128))]
pub struct Schedule {
    next: AtomicU64,
    turns: Vec<u16>,
}

impl Schedule {
    /// For `weights` of the endpoints 0, 1, ...; each at least 1.
    pub fn new(weights: &[u32]) -> Schedule {
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b))).max(1);
        let mut weights: Vec<u64> = weights.iter().map(|&w| u64::from(w) / divisor).collect();
        let total: u64 = weights.iter().sum();
        if total > TURNS_MAX {
            for weight in &mut weights {
                *weight = (*weight * TURNS_MAX / total).max(1);
            }
        }
        Schedule { next: AtomicU64::new(0), turns: smooth_round(&weights) }
    }

    /// The endpoints in the order in which to try them now: the one whose turn it is, then those that follow.
    pub fn turn(&self) -> impl Iterator<Item = usize> {
        let len = self.turns.len();
        let first = if len == 0 { 0 } else { (self.next.fetch_add(1, Relaxed) % len as u64) as usize };
        (0..len).map(move |i| usize::from(self.turns[(first + i) % len]))
    }
}

/// One round in which endpoint `i` has `weights[i]` turns, spread as evenly as can be (the rule of nginx's upstream
/// module: each turn every endpoint gains its weight, the richest is taken and pays the total).
fn smooth_round(weights: &[u64]) -> Vec<u16> {
    let total: u64 = weights.iter().sum();
    let mut credit = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            for (credit, &weight) in credit.iter_mut().zip(weights) {
                *credit += weight as i64;
            }
            let richest = (0..credit.len()).rev().max_by_key(|&i| credit[i]).unwrap_or(0);
            credit[richest] -= total as i64;
            richest as u16
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_exact_to_the_weights_and_evenly_spread() {
        let schedule = Schedule::new(&[10, 5]);
        let picks: Vec<usize> = (0..3000).map(|_| schedule.turn().next().unwrap()).collect();
        assert_eq!(picks.iter().filter(|&&i| i == 0).count(), 2000);
        assert!(picks.windows(3).all(|w| w.contains(&1)));
    }

    #[test]
    fn every_endpoint_is_offered_when_the_first_is_closed() {
        let schedule = Schedule::new(&[3, 1, 1]);
        for _ in 0..5 {
            let mut seen: Vec<usize> = schedule.turn().collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, [0, 1, 2]);
        }
    }

    #[test]
    fn huge_weights_are_scaled() {
        let schedule = Schedule::new(&[1_000_003, 1]);
        assert!(schedule.turns.len() <= 4097);
        assert!(schedule.turns.contains(&1));
        assert_eq!(Schedule::new(&[]).turn().count(), 0);
    }
}
