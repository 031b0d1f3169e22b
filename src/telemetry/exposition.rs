//! The text of `/metrics` (Prometheus text format 0.0.4).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary};
use prometheus::{Encoder, TextEncoder};

use super::cells::{Count, Fault, Series, UpstreamCells};
use super::histogram::{Histogram, Merged};
use super::logs::Logs;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The quantiles of every summary.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// What the session store and the process add to the workers' cells.
#[derive(Debug, Default)]
pub struct Sessions {
    pub active: u64,
    pub total: u64,
    pub adopted: u64,
    pub expired: u64,
    pub commits: u64,
    pub commit_failures: u64,
    pub touches_dropped: u64,
    pub used_bytes: u64,
}

/// Rate limits by key: `global`, `session`, `address`, `user:NAME`, `tool:NAME`.
#[derive(Debug, Default)]
pub struct Rates {
    pub exceeded: Vec<(String, u64)>,
    pub remaining: Vec<(String, u64)>,
}

/// The whole page. `now` is the clock that the histograms were recorded with.
pub fn render(
    series: &Series,
    sessions: &Sessions,
    rates: &Rates,
    logs: &Logs,
    durations: &Histogram,
    now: Duration,
) -> Vec<u8> {
    let mut families = Vec::new();
    session_families(&mut families, sessions, durations, now);
    upstream_families(&mut families, series, now);
    rate_families(&mut families, rates);
    process_families(&mut families, series);
    log_families(&mut families, logs);
    families.retain(|family: &MetricFamily| !family.get_metric().is_empty());
    let mut text = Vec::with_capacity(8192);
    // Writing into a vector cannot fail, and the families above are well-formed; an empty page would show otherwise.
    let _ = TextEncoder::new().encode(&families, &mut text);
    text
}

fn session_families(out: &mut Vec<MetricFamily>, sessions: &Sessions, durations: &Histogram, now: Duration) {
    let http = || vec![label("transport", "http")];
    out.push(gauge("shadowcat_sessions_active", "Sessions that are alive.", [(http(), sessions.active)]));
    out.push(counter("shadowcat_sessions_total", "Sessions begun since the start.", [(http(), sessions.total)]));
    let help = "Sessions that began at another replica and came here; one of a sealed id that rested may count again.";
    out.push(counter("shadowcat_sessions_adopted_total", help, [(vec![], sessions.adopted)]));
    let mut merged = Merged::default();
    merged.add(durations, now);
    let help = "Life of the sessions that ended in the last minute.";
    out.push(summary("shadowcat_session_duration_seconds", help, [(vec![], merged)]));
    let none = Vec::new;
    out.push(counter("shadowcat_sessions_expired_total", "Sessions that timed out.", [(none(), sessions.expired)]));
    out.push(counter("shadowcat_store_commits_total", "Commits of the session store.", [(none(), sessions.commits)]));
    let help = "Commits of the session store that failed.";
    out.push(counter("shadowcat_store_commit_failures_total", help, [(none(), sessions.commit_failures)]));
    let help = "Last-seen updates dropped because the store's queue was full.";
    out.push(counter("shadowcat_store_touches_dropped_total", help, [(none(), sessions.touches_dropped)]));
    out.push(gauge("shadowcat_store_used_bytes", "Bytes of the store in use.", [(none(), sessions.used_bytes)]));
}

fn upstream_families(out: &mut Vec<MetricFamily>, series: &Series, now: Duration) {
    let each = |value: fn(&UpstreamCells) -> u64| {
        series
            .upstreams
            .iter()
            .map(move |(name, cells)| (vec![label("upstream", name)], cells.iter().map(|c| value(c)).sum()))
            .collect::<Vec<_>>()
    };
    out.push(counter("shadowcat_proxy_requests_total", "Requests sent to an upstream.", each(|c| c.requests.value())));
    let durations = series.upstreams.iter().map(|(name, cells)| {
        let mut merged = Merged::default();
        cells.iter().for_each(|cells| merged.add(&cells.duration, now));
        (vec![label("upstream", name)], merged)
    });
    let help = "Request to end of answer (event streams: to its head), last minute.";
    out.push(summary("shadowcat_proxy_request_duration_seconds", help, durations));
    let errors = series.upstreams.iter().flat_map(|(name, cells)| {
        Fault::ALL.into_iter().filter_map(move |fault| {
            let sum: u64 = cells.iter().map(|cells| cells.faults(fault)).sum();
            (sum > 0).then(|| (vec![label("upstream", name), label("error", fault.label())], sum))
        })
    });
    out.push(counter("shadowcat_proxy_errors_total", "Requests that failed at an upstream, by reason.", errors));
    let connects = each(|c| c.connects.value());
    out.push(counter("shadowcat_upstream_connects_total", "Connections made to an upstream.", connects));
    let reuses = each(|c| c.reuses.value());
    out.push(counter("shadowcat_upstream_reuses_total", "Requests that found a pooled connection.", reuses));
    let retries = each(|c| c.retries.value());
    out.push(counter("shadowcat_upstream_retries_total", "Requests sent once more or moved on.", retries));
    out.push(gauge("shadowcat_upstream_idle_connections", "Pooled connections.", each(|c| c.idle.value())));
    let healthy = series.checks.healthy.iter().map(|((name, endpoint), &healthy)| {
        (vec![label("upstream", name), label("endpoint", endpoint)], u64::from(healthy))
    });
    out.push(gauge("shadowcat_upstream_healthy", "Whether health checks let it have new work.", healthy));
    let outcomes = series
        .checks
        .outcomes
        .iter()
        .map(|((name, outcome), &count)| (vec![label("upstream", name), label("outcome", outcome)], count));
    out.push(counter("shadowcat_health_checks_total", "Health checks, by outcome.", outcomes));
}

fn rate_families(out: &mut Vec<MetricFamily>, rates: &Rates) {
    let by_key = |values: &[(String, u64)]| {
        values.iter().map(|(key, value)| (vec![label("key", key)], *value)).collect::<Vec<_>>()
    };
    let help = "Requests refused by a rate limit.";
    out.push(counter("shadowcat_rate_limit_exceeded_total", help, by_key(&rates.exceeded)));
    let help = "Requests that a key may still make at once.";
    out.push(gauge("shadowcat_rate_limit_remaining", help, by_key(&rates.remaining)));
}

fn process_families(out: &mut Vec<MetricFamily>, series: &Series) {
    let workers = |value: fn(&super::WorkerCells) -> &Count| {
        series
            .workers
            .iter()
            .enumerate()
            .map(move |(index, (cells, ..))| (vec![label("worker", &index.to_string())], value(cells).value()))
            .collect::<Vec<_>>()
    };
    out.push(gauge("shadowcat_connections_active", "Client connections.", workers(|c| &c.connections)));
    out.push(counter("shadowcat_connections_total", "Client connections accepted.", workers(|c| &c.accepted)));
    let help = "Accepts that failed (out of descriptors).";
    out.push(counter("shadowcat_accept_errors_total", help, workers(|c| &c.accept_errors)));
    out.push(counter("shadowcat_requests_total", "Requests of all kinds.", workers(|c| &c.requests)));
    out.push(gauge("shadowcat_streams_active", "Open event streams.", workers(|c| &c.streams)));
    let help = "Requests that wait for a place at an upstream.";
    out.push(gauge("shadowcat_upstream_queue", help, workers(|c| &c.queued)));
    let help = "Reads that failed and were not sent to another upstream, for want of proxy.retry_budget.";
    out.push(counter("shadowcat_upstream_retries_denied_total", help, workers(|c| &c.retries_denied)));
    out.push(counter("shadowcat_connection_panics_total", "Connections lost to a panic.", workers(|c| &c.panics)));
    let restarts = [(vec![], series.restarts)];
    out.push(counter("shadowcat_worker_restarts_total", "Workers that died and were started anew.", restarts));
    let outcome = |outcome, count| (vec![label("outcome", outcome)], count);
    let reloads = [outcome("taken", series.reloads.0), outcome("refused", series.reloads.1)];
    out.push(counter("shadowcat_config_reloads_total", "Configurations read while running, by outcome.", reloads));
    let help = "Whether the latest configuration that was read is the one in use.";
    let good = [(vec![], u64::from(!series.reload_failed))];
    out.push(gauge("shadowcat_config_last_reload_successful", help, good));
    let refusals = series.refusals.iter().map(|(reason, &count)| (vec![label("reason", reason)], count));
    out.push(counter("shadowcat_refusals_total", "Requests that the proxy refused itself, by reason.", refusals));
    let denials = series.denials.iter().map(|(reason, &count)| (vec![label("reason", reason)], count));
    out.push(counter("shadowcat_auth_failures_total", "Credentials that were not taken, by reason.", denials));
    let logins = series.logins.iter().map(|(outcome, &count)| (vec![label("outcome", outcome)], count));
    out.push(counter("shadowcat_auth_logins_total", "Logins of browsers that came back, by outcome.", logins));
    let handshakes = series.handshakes.iter().map(|(outcome, &count)| (vec![label("outcome", outcome)], count));
    out.push(counter("shadowcat_tls_handshakes_total", "TLS handshakes with clients, by outcome.", handshakes));
    let drivers = series.workers.iter().enumerate().map(|(index, (_, driver, flags))| {
        (vec![label("worker", &index.to_string()), label("driver", driver), label("flags", flags)], 1)
    });
    out.push(gauge("shadowcat_driver_info", "The I/O driver of a worker.", drivers));
    let build = [(vec![label("version", env!("CARGO_PKG_VERSION"))], 1)];
    out.push(gauge("shadowcat_build_info", "This program.", build));
}

fn log_families(out: &mut Vec<MetricFamily>, logs: &Logs) {
    let tallies = logs.tallies();
    let written = tallies.iter().map(|tally| (vec![label("log", tally.kind)], tally.written));
    out.push(counter("shadowcat_log_lines_total", "Lines written to a log.", written));
    let lost = tallies.iter().flat_map(|tally| {
        [("no_room", tally.no_room), ("unwritten", tally.unwritten)]
            .map(|(reason, count)| (vec![label("log", tally.kind), label("reason", reason)], count))
    });
    let help =
        "Lines of a log that are lost: there was no room for them while the log took nothing, or writing failed.";
    out.push(counter("shadowcat_log_lines_lost_total", help, lost));
    if let Some(spans) = &logs.spans {
        let (none, counts) = (Vec::new, &logs.span_counts);
        let exported = counts.exported.load(Relaxed);
        out.push(counter("shadowcat_spans_exported_total", "Spans that the collector took.", [(none(), exported)]));
        let dropped = [
            ("no_room", spans.lost()),
            ("unavailable", counts.unavailable.load(Relaxed)),
            ("rejected", counts.rejected.load(Relaxed)),
        ];
        let dropped = dropped.map(|(reason, count)| (vec![label("reason", reason)], count));
        let help = "Spans that reached no collector; of no_room the requests that had them.";
        out.push(counter("shadowcat_spans_dropped_total", help, dropped));
        let retries = counts.retries.load(Relaxed);
        out.push(counter("shadowcat_spans_retries_total", "Batches of spans sent once more.", [(none(), retries)]));
    }
}

type Labels = Vec<LabelPair>;

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter(name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, value)| {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(labels);
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

fn gauge(name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        let mut metric = Metric::from_label(labels);
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics.collect())
}

fn summary(name: &str, help: &str, values: impl IntoIterator<Item = (Labels, Merged)>) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, merged)| {
        let quantiles = QUANTILES.map(|q| {
            let mut quantile = Quantile::default();
            quantile.set_quantile(q);
            quantile.set_value(merged.quantile(q));
            quantile
        });
        let mut summary = Summary::default();
        summary.set_sample_count(merged.count);
        summary.set_sample_sum(merged.sum_seconds);
        summary.set_quantile(quantiles.to_vec());
        let mut metric = Metric::from_label(labels);
        metric.set_summary(summary);
        metric
    });
    family(name, help, MetricType::SUMMARY, metrics.collect())
}
