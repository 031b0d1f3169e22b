//! Every interleaving of a few requests at one breaker.

use std::sync::Arc;

use loom::thread;
use shadowcat_loom::breaker::{Breaker, Epoch, Pass, State, Trip};
use shadowcat_loom::check;

const TRIP: Trip = Trip { failure_threshold: 1, failure_ratio: 0.0, window_ms: 10_000, recovery_ms: 1_000 };
const OPENED: u64 = 1_000;
const RECOVERED: u64 = 2_000;

fn opened() -> (Arc<Breaker>, Epoch) {
    let breaker = Arc::new(Breaker::default());
    let before = breaker.allows(OPENED, &TRIP).epoch().unwrap();
    assert!(breaker.failed(before, OPENED, &TRIP));
    (breaker, before)
}

fn half_open() -> (Arc<Breaker>, Epoch, Epoch) {
    let (breaker, before) = opened();
    let Pass::Probe(probe) = breaker.allows(RECOVERED, &TRIP) else { panic!("the first after recovery is the probe") };
    (breaker, before, probe)
}

/// Each of `work` on a thread of its own, the last on this one; what they return, in their order.
fn together<T: 'static>(mut work: Vec<Box<dyn FnOnce() -> T>>) -> Vec<T> {
    let last = work.pop().unwrap();
    let threads: Vec<_> = work.into_iter().map(thread::spawn).collect();
    let last = last();
    threads.into_iter().map(|thread| thread.join().unwrap()).chain([last]).collect()
}

fn count(results: &[bool]) -> usize {
    results.iter().filter(|&&result| result).count()
}

#[test]
fn of_three_that_ask_after_recovery_one_is_the_probe() {
    check(None, || {
        let (breaker, _) = opened();
        let asks = (0..3).map(|_| {
            let breaker = breaker.clone();
            Box::new(move || matches!(breaker.allows(RECOVERED, &TRIP), Pass::Probe(_))) as Box<dyn FnOnce() -> bool>
        });
        assert_eq!(count(&together(asks.collect())), 1);
        assert_eq!(breaker.state(), State::HalfOpen);
    });
}

#[test]
fn two_that_fail_at_once_open_it_once() {
    check(None, || {
        let breaker = Arc::new(Breaker::default());
        let reports = (0..3).map(|_| {
            let breaker = breaker.clone();
            let epoch = breaker.allows(OPENED, &TRIP).epoch().unwrap();
            Box::new(move || breaker.failed(epoch, OPENED, &TRIP)) as Box<dyn FnOnce() -> bool>
        });
        assert_eq!(count(&together(reports.collect())), 1);
        assert_eq!(breaker.state(), State::Open);
    });
}

#[test]
fn no_report_is_lost_below_the_threshold() {
    const THREE: Trip = Trip { failure_threshold: 3, ..TRIP };
    check(None, || {
        let breaker = Arc::new(Breaker::default());
        let epoch = breaker.allows(OPENED, &THREE).epoch().unwrap();
        let reports = [true, false, true].map(|failed| {
            let breaker = breaker.clone();
            Box::new(move || match failed {
                true => breaker.failed(epoch, OPENED, &THREE),
                false => breaker.succeeded(epoch, OPENED, &THREE),
            }) as Box<dyn FnOnce() -> bool>
        });
        assert_eq!(count(&together(reports.into())), 0);
        assert!(breaker.failed(epoch, OPENED, &THREE), "the third failure opens");
    });
}

/// The probe's own report twice over, against one of an earlier epoch and one that asks.
fn probe_reports(failed: bool) {
    check(None, move || {
        let (breaker, before, probe) = half_open();
        let (first, late, asks) = (breaker.clone(), breaker.clone(), breaker.clone());
        let report = move |breaker: &Breaker, epoch| match failed {
            true => breaker.failed(epoch, RECOVERED + 1, &TRIP),
            false => breaker.succeeded(epoch, RECOVERED + 1, &TRIP),
        };
        let results = together(vec![
            Box::new(move || report(&first, probe)) as Box<dyn FnOnce() -> bool>,
            // The opposite, from before the opening: it changes nothing, whenever it comes.
            Box::new(move || match failed {
                true => late.succeeded(before, RECOVERED + 1, &TRIP),
                false => late.failed(before, RECOVERED + 1, &TRIP),
            }),
            Box::new(move || matches!(asks.allows(RECOVERED + 1, &TRIP), Pass::Probe(_))),
        ]);
        assert_eq!(results, [true, false, false]);
        assert_eq!(breaker.state(), if failed { State::Open } else { State::Closed });
        assert!(!report(&breaker, probe), "its epoch is over");
    });
}

#[test]
fn a_probe_that_succeeds_closes_it_and_late_failures_change_nothing() {
    probe_reports(false);
}

#[test]
fn a_probe_that_fails_opens_it_and_late_successes_change_nothing() {
    probe_reports(true);
}

#[test]
fn a_silent_probe_gives_its_place_to_one_other_and_its_late_report_counts_only_before() {
    const LATER: u64 = RECOVERED + 1_000;
    check(None, || {
        let (breaker, _, silent) = half_open();
        let asks = || {
            let breaker = breaker.clone();
            Box::new(move || matches!(breaker.allows(LATER, &TRIP), Pass::Probe(_))) as Box<dyn FnOnce() -> bool>
        };
        let late = breaker.clone();
        let results = together(vec![asks(), asks(), Box::new(move || late.failed(silent, LATER, &TRIP))]);
        let (probes, reported) = (count(&results[..2]), results[2]);
        // Either the silent one spoke in time, or another took its place, and never both.
        assert_eq!(probes + usize::from(reported), 1);
        assert_eq!(breaker.state(), if reported { State::Open } else { State::HalfOpen });
    });
}
