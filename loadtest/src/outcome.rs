//! What a target came to, over all rounds, and whether that is good enough.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::scenario::{Scenario, Thresholds};
use crate::tally::{Count, Interval, Tally};

/// A thread that uses more of a core than this is no measure of anything but itself.
pub const BUSY: f64 = 0.9;

#[derive(Clone, Debug)]
pub struct Outcome {
    pub name: String,
    pub url: String,
    pub is_direct: bool,
    pub driver: &'static str,
    pub threads: usize,
    /// Measured, over all rounds.
    pub seconds: f64,
    pub interval: Duration,
    /// One round behind the other.
    pub series: Vec<Interval>,
    pub tally: Tally,
    /// Of the generator, ns.
    pub cpu: u64,
    pub unfinished: u64,
    pub rounds: Vec<Round>,
    /// Of a ramp, of the first round.
    pub steps: Vec<Step>,
    pub interrupted: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Right answers a second.
    pub rate: f64,
    /// ns.
    pub p50: u64,
    pub p99: u64,
    pub bad: u64,
}

/// One step of a ramp.
#[derive(Clone, Debug)]
pub struct Step {
    /// Requests a second that were due, and those that were answered.
    pub offered: f64,
    pub achieved: f64,
    pub bad: u64,
    pub latency: Histogram<u64>,
    /// Why the target did not keep up; empty if it did.
    pub why: String,
}

impl Outcome {
    /// All requests together.
    pub fn requests(&self, scenario: &Scenario) -> Count {
        let mut all = Count::default();
        let requests = scenario.operations.iter().zip(&self.tally.operations).filter(|(what, _)| what.is_request);
        requests.for_each(|(_, count)| all.add(count));
        all
    }

    /// One more round.
    pub fn add(&mut self, other: Outcome) {
        self.seconds += other.seconds;
        self.series.extend(other.series);
        self.tally.add(&other.tally);
        self.cpu += other.cpu;
        self.unfinished += other.unfinished;
        self.rounds.extend(other.rounds);
        self.interrupted |= other.interrupted;
    }

    /// The part of its cores that the generator used.
    pub fn busy(&self) -> f64 {
        self.cpu as f64 / 1e9 / self.seconds.max(1e-9) / self.threads as f64
    }

    /// The highest rate of a ramp that was kept up with, and why not with the next.
    pub fn saturation(&self) -> Option<(f64, &str)> {
        let last = self.steps.last()?;
        let kept = self.steps.iter().rev().find(|step| step.why.is_empty()).map_or(0.0, |step| step.offered);
        Some((kept, &last.why))
    }
}

/// One threshold, and what was there.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub target: String,
    pub what: String,
    pub wanted: String,
    pub found: String,
    pub passed: bool,
    /// About errors; else about speed.
    pub is_errors: bool,
}

/// What the scenario asks of each target; of the direct run only that nothing failed.
pub fn verdicts(scenario: &Scenario, outcomes: &[Outcome]) -> Vec<Verdict> {
    let direct = outcomes.iter().find(|outcome| outcome.is_direct);
    let direct = direct.map(|outcome| outcome.requests(scenario));
    let mut all = Vec::new();
    for outcome in outcomes {
        let requests = outcome.requests(scenario);
        let thresholds = &scenario.thresholds;
        all.push(errors(outcome, &requests, thresholds));
        if !outcome.is_direct {
            all.extend(speed(outcome, &requests, direct.as_ref(), thresholds));
        }
    }
    all
}

fn errors(outcome: &Outcome, requests: &Count, thresholds: &Thresholds) -> Verdict {
    let failed = requests.bad as f64 / (requests.good + requests.bad).max(1) as f64;
    let nothing = requests.good + requests.bad == 0;
    Verdict {
        target: outcome.name.clone(),
        what: "errors".into(),
        wanted: format!("at most {}", percent(thresholds.errors)),
        found: if nothing { "no requests at all".into() } else { format!("{} ({})", percent(failed), requests.bad) },
        passed: !nothing && failed <= thresholds.errors,
        is_errors: true,
    }
}

fn speed(outcome: &Outcome, requests: &Count, direct: Option<&Count>, thresholds: &Thresholds) -> Vec<Verdict> {
    let verdict = |what: String, wanted, found, passed| Verdict {
        target: outcome.name.clone(),
        what,
        wanted,
        found,
        passed,
        is_errors: false,
    };
    let rate = thresholds.rate.map(|least| {
        let rate = requests.good as f64 / outcome.seconds.max(1e-9);
        verdict("rate".into(), format!("at least {least:.0}/s"), format!("{rate:.0}/s"), rate >= least)
    });
    let latency = thresholds.latency.iter().map(|(quantile, name, most)| {
        let found = requests.latency.value_at_quantile(*quantile);
        let fine = u128::from(found) <= most.as_nanos() && requests.good > 0;
        verdict(
            (*name).into(),
            format!("at most {}", nanoseconds(most.as_nanos() as f64)),
            nanoseconds(found as f64),
            fine,
        )
    });
    let added = thresholds.added.iter().map(|(quantile, name, most)| {
        let wanted = format!("at most {}", nanoseconds(most.as_nanos() as f64));
        let Some(direct) = direct else {
            return verdict(format!("added {name}"), wanted, "unknown: there was no --direct".into(), false);
        };
        let found = added(requests, direct, *quantile);
        verdict(format!("added {name}"), wanted, nanoseconds(found), found <= most.as_nanos() as f64)
    });
    rate.into_iter().chain(latency).chain(added).collect()
}

/// What a target adds to a direct run at a quantile, ns.
pub fn added(target: &Count, direct: &Count, quantile: f64) -> f64 {
    target.latency.value_at_quantile(quantile) as f64 - direct.latency.value_at_quantile(quantile) as f64
}

/// A time as people read it: three digits and a unit.
pub fn nanoseconds(ns: f64) -> String {
    let (value, unit) = match ns.abs() {
        abs if abs < 999.5 => (ns, "ns"),
        abs if abs < 999.5e3 => (ns / 1e3, "us"),
        abs if abs < 999.5e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    match value.abs() {
        abs if unit == "ns" || abs >= 99.95 => format!("{value:.0} {unit}"),
        abs if abs >= 9.995 => format!("{value:.1} {unit}"),
        _ => format!("{value:.2} {unit}"),
    }
}

pub fn percent(part: f64) -> String {
    let text = format!("{:.3}", part * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_their_unit() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (950.0, "950 ns"),
            (1_234.0, "1.23 us"),
            (45_678.0, "45.7 us"),
            (999_600.0, "1.00 ms"),
            (-250_000.0, "-250 us"),
            (12_345_678.0, "12.3 ms"),
            (3_210_000_000.0, "3.21 s"),
        ] {
            assert_eq!(nanoseconds(ns), text);
        }
        assert_eq!([percent(0.0), percent(0.05), percent(0.00123)], ["0 %", "5 %", "0.123 %"]);
    }
}
