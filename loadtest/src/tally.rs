//! What came of it: histograms, counts and errors. Every thread has one of its own; they are added up at the end, and
//! intervals as they pass.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::fault::{Fault, Kind};

/// Times are kept in nanoseconds; longer ones count as this.
const LONGEST_NS: u64 = 1_000_000_000_000;
/// Kinds of errors that are told apart.
const KINDS_MAX: usize = 64;
/// Longest intervals are many: of these the digits of a quantile are two, elsewhere three.
const DIGITS: u8 = 3;
const INTERVAL_DIGITS: u8 = 2;

pub fn histogram(digits: u8) -> Histogram<u64> {
    // From 64 ns, which is then the step up to 131 us.
    Histogram::new_with_bounds(64, LONGEST_NS, digits).expect("bounds in order")
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Count {
    pub good: u64,
    pub bad: u64,
    /// Of good ones, from when they were due, ns.
    pub latency: Histogram<u64>,
    /// Of the same, from when they were sent, ns.
    pub service: Histogram<u64>,
}

impl Default for Count {
    fn default() -> Count {
        Count { good: 0, bad: 0, latency: histogram(DIGITS), service: histogram(DIGITS) }
    }
}

impl Count {
    pub fn add(&mut self, other: &Count) {
        self.good += other.good;
        self.bad += other.bad;
        self.latency.add(&other.latency).expect("the same bounds");
        self.service.add(&other.service).expect("the same bounds");
    }
}

/// A piece of the run, by when answers came.
#[derive(Clone, Debug)]
pub struct Interval {
    pub good: u64,
    pub bad: u64,
    pub bytes: u64,
    pub events: u64,
    /// Open connections at its end.
    pub connections: u64,
    pub latency: Histogram<u64>,
}

impl Default for Interval {
    fn default() -> Interval {
        Interval { good: 0, bad: 0, bytes: 0, events: 0, connections: 0, latency: histogram(INTERVAL_DIGITS) }
    }
}

impl Interval {
    pub fn add(&mut self, other: &Interval) {
        self.good += other.good;
        self.bad += other.bad;
        self.bytes += other.bytes;
        self.events += other.events;
        self.connections += other.connections;
        self.latency.add(&other.latency).expect("the same bounds");
    }
}

/// An error of a kind: how often, and what the first one said.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    pub count: u64,
    pub first: String,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub operations: Vec<Count>,
    pub errors: BTreeMap<Kind, Errors>,
    pub bytes: u64,
    pub events: u64,
    /// Requests that were due and never sent, since no connection was free.
    pub unsent: u64,
    /// Sessions that the target forgot and that were begun anew.
    pub sessions_lost: u64,
    /// How late requests left that a free connection waited to send: the generator's own delay, ns.
    pub late: Option<Histogram<u64>>,
}

impl Tally {
    pub fn new(operations: usize) -> Tally {
        Tally { operations: vec![Count::default(); operations], late: Some(histogram(DIGITS)), ..Tally::default() }
    }

    pub fn fault(&mut self, fault: Fault) {
        let known = self.errors.contains_key(&fault.kind) || self.errors.len() < KINDS_MAX;
        let errors = self.errors.entry(if known { fault.kind } else { Kind::Other }).or_default();
        errors.count += 1;
        if errors.count == 1 {
            errors.first = fault.detail;
        }
    }

    pub fn add(&mut self, other: &Tally) {
        self.operations.resize(self.operations.len().max(other.operations.len()), Count::default());
        self.operations.iter_mut().zip(&other.operations).for_each(|(own, other)| own.add(other));
        for (kind, errors) in &other.errors {
            let own = self.errors.entry(*kind).or_default();
            own.count += errors.count;
            if own.first.is_empty() {
                own.first.clone_from(&errors.first);
            }
        }
        self.bytes += other.bytes;
        self.events += other.events;
        self.unsent += other.unsent;
        self.sessions_lost += other.sessions_lost;
        if let Some(other) = &other.late {
            self.late.get_or_insert_with(|| histogram(DIGITS)).add(other).expect("the same bounds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_to_three_digits_from_microseconds_to_minutes() {
        let mut histogram = histogram(DIGITS);
        for ns in [1_000u64, 37_500, 1_234_567, 250_000_000, 59_000_000_000] {
            histogram.clear();
            histogram.saturating_record(ns);
            let kept = histogram.value_at_quantile(0.5);
            let error = kept.abs_diff(ns) as f64 / ns as f64;
            assert!(error < 0.065 && (ns < 64_000 || error < 0.001), "{ns} became {kept}");
        }
    }

    #[test]
    fn made_up_kinds_cost_no_memory() {
        let mut tally = Tally::new(1);
        for code in 0..1000 {
            tally.fault(Fault::new(Kind::Rpc(code), "no"));
        }
        assert_eq!(tally.errors.len(), KINDS_MAX + 1);
        assert_eq!(tally.errors.values().map(|errors| errors.count).sum::<u64>(), 1000);
    }
}
