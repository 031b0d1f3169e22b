//! The result for those who read it: a terminal, a program, a browser.

mod html;
mod json;
mod terminal;

pub use html::page;
pub use json::document;
pub use terminal::text;

use hdrhistogram::Histogram;

/// Counts of times by powers of two, each cut into so many parts: the upper end of a part in ns, and its count. Parts
/// between the first and the last are there even if nothing is in them.
pub fn parts(histogram: &Histogram<u64>, in_two: f64) -> Vec<(f64, u64)> {
    let part = |ns: u64| ((ns.max(1) as f64).log2() * in_two).floor() as i64;
    let mut parts: Vec<(f64, u64)> = Vec::new();
    let mut first = 0;
    for value in histogram.iter_recorded() {
        let part = part(value.value_iterated_to());
        if parts.is_empty() {
            first = part;
        }
        while first + parts.len() as i64 <= part {
            let end = (first + parts.len() as i64 + 1) as f64;
            parts.push(((end / in_two).exp2(), 0));
        }
        if let Some((_, count)) = parts.last_mut() {
            *count += value.count_since_last_iteration();
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_time_once_and_have_no_gaps() {
        let mut histogram = crate::tally::histogram(3);
        for ns in [1_000, 1_000, 30_000, 31_000, 8_000_000] {
            histogram.saturating_record(ns);
        }
        let parts = parts(&histogram, 1.0);
        assert_eq!(parts.iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert!(parts.windows(2).all(|pair| (pair[1].0 / pair[0].0 - 2.0).abs() < 1e-9));
        assert_eq!(parts[0], (1024.0, 2));
    }
}
