//! The result as one JSON document; the page in the browser is drawn from the same. Times are nanoseconds.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::parts;
use crate::outcome::{Outcome, Verdict, added};
use crate::scenario::{Pace, QUANTILES, Scenario, Users};
use crate::tally::{Count, Interval};

/// Of the layout of the document.
const FORMAT: u32 = 1;

pub fn document(scenario: &Scenario, outcomes: &[Outcome], verdicts: &[Verdict], started: &str) -> Value {
    let direct = outcomes.iter().find(|outcome| outcome.is_direct).map(|outcome| outcome.requests(scenario));
    let added: Vec<Value> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_direct)
        .filter_map(|outcome| {
            let (target, direct) = (outcome.requests(scenario), direct.as_ref()?);
            let times = QUANTILES.iter().map(|(quantile, name)| (key(name), added(&target, direct, *quantile).into()));
            Some(json!({"target": outcome.name, "latency": Value::Object(times.collect())}))
        })
        .collect();
    let thresholds: Vec<Value> = verdicts
        .iter()
        .map(|verdict| {
            json!({
                "target": verdict.target, "what": verdict.what, "wanted": verdict.wanted, "found": verdict.found,
                "passed": verdict.passed,
            })
        })
        .collect();
    json!({
        "format": FORMAT,
        "generator": {
            "name": "shadowcat-loadtest",
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": rustix::system::uname().release().to_string_lossy(),
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        },
        "started": started,
        "scenario": {
            "name": scenario.name,
            "about": scenario.about,
            "duration_s": scenario.duration.as_secs_f64(),
            "warmup_s": scenario.warmup.as_secs_f64(),
            "users": scenario.users.iter().map(users).collect::<Vec<_>>(),
        },
        "targets": outcomes.iter().map(|outcome| target(scenario, outcome)).collect::<Vec<_>>(),
        "added": added,
        "thresholds": thresholds,
        "passed": verdicts.iter().all(|verdict| verdict.passed),
    })
}

/// `p99.9` has a dot that programs would have to quote.
fn key(name: &str) -> String {
    name.replace('.', "")
}

fn users(users: &Users) -> Value {
    let pace = match users.pace {
        Pace::Closed { think } => json!({"loop": "closed", "think_s": think.as_secs_f64()}),
        Pace::Open { rate, poisson } => json!({"loop": "open", "rate": rate, "arrivals": arrivals(poisson)}),
        Pace::Ramp { from, to, steps, poisson, .. } => {
            json!({"loop": "ramp", "from": from, "to": to, "steps": steps, "arrivals": arrivals(poisson)})
        }
    };
    json!({
        "name": users.name,
        "connections": users.connections,
        "version": users.version,
        "pace": pace,
        "requests_per_connection": users.requests_per_connection,
        "tokens": users.tokens.len(),
        "work": users.work.iter().map(|work| json!({"name": work.name, "weight": work.weight})).collect::<Vec<_>>(),
    })
}

fn arrivals(poisson: bool) -> &'static str {
    if poisson { "poisson" } else { "constant" }
}

fn target(scenario: &Scenario, outcome: &Outcome) -> Value {
    let all = outcome.requests(scenario);
    let tally = &outcome.tally;
    let seconds = outcome.seconds.max(1e-9);
    let requests = all.good + all.bad;
    let operations = scenario.operations.iter().zip(&tally.operations).filter(|(_, count)| count.good + count.bad > 0);
    let errors = tally
        .errors
        .iter()
        .map(|(kind, errors)| json!({"kind": kind.to_string(), "count": errors.count, "first": errors.first}));
    let late = tally.late.as_ref().filter(|late| !late.is_empty());
    json!({
        "name": outcome.name,
        "url": outcome.url,
        "direct": outcome.is_direct,
        "seconds": outcome.seconds,
        "requests": requests,
        "errors": all.bad,
        "rate": all.good as f64 / seconds,
        "bytes": tally.bytes,
        "events": tally.events,
        "unsent": tally.unsent,
        "unfinished": outcome.unfinished,
        "sessions_lost": tally.sessions_lost,
        "interrupted": outcome.interrupted,
        "latency": times(&all.latency),
        "service": times(&all.service),
        "percentiles": percentiles(&all.latency),
        "histogram": parts(&all.latency, 8.0),
        "errors_by_kind": errors.collect::<Vec<_>>(),
        "operations": operations.map(|(what, count)| operation(&what.name, what.is_request, count, seconds)).collect::<Vec<_>>(),
        "interval_s": outcome.interval.as_secs_f64(),
        "series": outcome.series.iter().map(|interval| point(interval, outcome.interval.as_secs_f64())).collect::<Vec<_>>(),
        "rounds": outcome.rounds.iter().map(|round| {
            json!({"rate": round.rate, "p50": round.p50, "p99": round.p99, "errors": round.bad})
        }).collect::<Vec<_>>(),
        "steps": outcome.steps.iter().map(|step| json!({
            "offered": step.offered, "achieved": step.achieved, "errors": step.bad,
            "p50": step.latency.value_at_quantile(0.5), "p99": step.latency.value_at_quantile(0.99), "why": step.why,
        })).collect::<Vec<_>>(),
        "saturation": outcome.saturation().map(|(rate, why)| json!({"rate": rate, "why": why})),
        "generator": {
            "driver": outcome.driver,
            "threads": outcome.threads,
            "cpu_ns_per_request": outcome.cpu as f64 / requests.max(1) as f64,
            "busy": outcome.busy(),
            "late": late.map(times),
        },
    })
}

fn operation(name: &str, is_request: bool, count: &Count, seconds: f64) -> Value {
    json!({
        "name": name, "request": is_request, "good": count.good, "errors": count.bad,
        "rate": count.good as f64 / seconds, "latency": times(&count.latency),
    })
}

fn times(histogram: &Histogram<u64>) -> Value {
    let at = |quantile| histogram.value_at_quantile(quantile);
    json!({
        "count": histogram.len(),
        "min": if histogram.is_empty() { 0 } else { histogram.min() }, "mean": histogram.mean(), "stdev": histogram.stdev(),
        "p50": at(0.5), "p75": at(0.75), "p90": at(0.9), "p95": at(0.95), "p99": at(0.99), "p999": at(0.999),
        "p9999": at(0.9999), "max": histogram.max(),
    })
}

/// Quantile and time, closer together towards 1.
fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    histogram.iter_quantiles(8).map(|value| (value.quantile_iterated_to(), value.value_iterated_to())).collect()
}

fn point(interval: &Interval, seconds: f64) -> Value {
    let at = |quantile| interval.latency.value_at_quantile(quantile);
    json!({
        "rate": interval.good as f64 / seconds, "errors": interval.bad as f64 / seconds,
        "events": interval.events as f64 / seconds, "bytes": interval.bytes as f64 / seconds,
        "connections": interval.connections,
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": interval.latency.max(),
    })
}
