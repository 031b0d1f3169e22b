//! The text of `/metrics` (Prometheus text format 0.0.4), from the cells of all workers and what else is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramValue, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary,
};
use prometheus::{Encoder, TextEncoder};

use super::account::{By, METHODS, MethodId, Outcome};
use super::cells::{BreakerState, CallCells, Fault, Part, StoreCells, UpstreamCells, WorkerCells};
use super::families::{self as f, Family, Kind};
use super::histogram::{Merged, windows_bytes};
use super::logs::{LineCounts, Logs};
use super::registry::{Loss, Registry, WorkerEntry};
use super::tally::{Count, OTHER, Tally};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The quantiles of every summary.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// What a page is made from.
pub struct Scrape<'a> {
    pub registry: &'a Registry,
    /// The clock that histograms were recorded with.
    pub now: Duration,
    pub sessions: Sessions,
    pub store: &'a StoreCells,
    pub rates: Rates,
    pub endpoints: Vec<EndpointNow>,
    /// `None`: the kernel does not say.
    pub process: Option<Process>,
    pub logs: &'a Logs,
    /// `None`: nothing is recorded.
    pub tapes: Option<Tapes>,
}

/// What the recorder knows.
#[derive(Debug, Default)]
pub struct Tapes {
    pub frames: u64,
    pub bytes: u64,
    pub no_room: u64,
    pub unwritten: u64,
    pub active: u64,
    pub deleted: u64,
    pub is_stopped: bool,
    pub cpu_seconds: f64,
}

/// What the session store knows.
#[derive(Debug, Default)]
pub struct Sessions {
    pub active: u64,
    pub total: u64,
    pub adopted: u64,
    pub ended: u64,
    pub expired: u64,
    pub commits: u64,
    pub commit_failures: u64,
    pub touches_dropped: u64,
    pub adoptions_dropped: u64,
    pub entries: u64,
    pub used_bytes: u64,
    pub map_bytes: u64,
    /// Writes that wait, and how many may.
    pub queue: (u64, u64),
}

/// Rate limits by key: `global`, `session`, `address`, `user:NAME`, `tool:NAME`.
#[derive(Debug, Default)]
pub struct Rates {
    pub exceeded: BTreeMap<String, u64>,
    pub remaining: BTreeMap<String, u64>,
}

/// One server of an upstream, as it is now.
#[derive(Debug)]
pub struct EndpointNow {
    pub upstream: String,
    pub endpoint: String,
    pub in_use: u64,
    pub waiting: u64,
    pub is_drained: bool,
    /// `None`: there are no breakers.
    pub breaker: Option<BreakerState>,
}

/// What the kernel says of the process.
#[derive(Debug, Default)]
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: f64,
    pub virtual_bytes: f64,
    pub threads: f64,
    pub open_fds: f64,
    pub max_fds: f64,
    /// CPU time of each worker's thread, where it is known.
    pub workers: Vec<Option<f64>>,
}

/// The whole page.
pub fn render(scrape: &Scrape<'_>) -> Vec<u8> {
    let mut page = Page::default();
    let workers = Workers::new(scrape.registry.workers());
    sessions(&mut page, scrape);
    upstreams(&mut page, scrape);
    parts(&mut page, scrape, &workers);
    mcp(&mut page, scrape, &workers);
    clients(&mut page, &workers);
    rates(&mut page, scrape);
    endpoints(&mut page, scrape);
    store(&mut page, scrape);
    logs(&mut page, scrape.logs);
    tapes(&mut page, scrape.tapes.as_ref());
    process(&mut page, scrape, &workers);
    page.text()
}

const NONE: [&str; 0] = [];

fn sessions(page: &mut Page, scrape: &Scrape<'_>) {
    let Sessions { active, total, adopted, ended, expired, .. } = scrape.sessions;
    page.add(&f::SESSIONS_ACTIVE, [(["http"], active)]);
    page.add(&f::SESSIONS, [(["http"], total)]);
    page.add(&f::SESSIONS_ADOPTED, [(NONE, adopted)]);
    page.add(&f::SESSIONS_ENDED, [(NONE, ended)]);
    page.add(&f::SESSIONS_EXPIRED, [(NONE, expired)]);
    let lives = Merged::of([&scrape.store.lives], scrape.now);
    page.merged(&f::SESSION_DURATION, &f::SESSION_SECONDS, [(NONE, lives)]);
}

fn upstreams(page: &mut Page, scrape: &Scrape<'_>) {
    let upstreams = scrape.registry.upstreams();
    let sum = |cells: &[(usize, Arc<UpstreamCells>)], value: &dyn Fn(&UpstreamCells) -> u64| {
        cells.iter().map(|(_, cells)| value(cells)).sum::<u64>()
    };
    let each = |value: fn(&UpstreamCells) -> &Count| {
        let of = move |cells: &UpstreamCells| value(cells).value();
        upstreams.iter().map(move |(name, cells)| ([name.as_str()], sum(cells, &of)))
    };
    page.add(&f::PROXY_REQUESTS, each(|cells| &cells.requests));
    let durations = upstreams
        .iter()
        .map(|(name, cells)| ([name.as_str()], Merged::of(cells.iter().map(|(_, cells)| &cells.duration), scrape.now)));
    page.merged(&f::PROXY_DURATION, &f::PROXY_SECONDS, durations);
    let errors = upstreams.iter().flat_map(|(name, cells)| {
        Fault::ALL.map(|fault| ([name.as_str(), fault.label()], sum(cells, &|cells| cells.faults(fault))))
    });
    page.add(&f::PROXY_ERRORS, errors.filter(|(_, count)| *count > 0));
    let outcomes = upstreams.iter().flat_map(|(name, cells)| {
        Outcome::ALL.map(|outcome| ([name.as_str(), outcome.label()], sum(cells, &|cells| cells.outcomes(outcome))))
    });
    page.add(&f::PROXY_OUTCOMES, outcomes.filter(|(_, count)| *count > 0));
    let parts = upstreams.iter().flat_map(|(name, cells)| {
        let seconds = |part| cells.iter().map(|(_, cells)| cells.part_seconds(part)).sum::<f64>();
        Part::ALL.map(|part| ([name.as_str(), part.label()], seconds(part)))
    });
    page.add(&f::PROXY_PARTS, parts.filter(|(_, seconds)| *seconds > 0.0));
    page.add(&f::UPSTREAM_CONNECTS, each(|cells| &cells.connects));
    page.add(&f::UPSTREAM_REUSES, each(|cells| &cells.reuses));
    page.add(&f::UPSTREAM_RETRIES, each(|cells| &cells.retries));
    page.add(&f::UPSTREAM_IDLE, each(|cells| &cells.idle));
    let changes = upstreams.iter().flat_map(|(name, cells)| {
        BreakerState::ALL.map(|to| ([name.as_str(), to.label()], sum(cells, &|cells| cells.breaker_changes(to))))
    });
    page.add(&f::BREAKER_CHANGES, changes.filter(|(_, count)| *count > 0));
}

fn parts(page: &mut Page, scrape: &Scrape<'_>, workers: &Workers) {
    let parts = Part::ALL.map(|part| {
        let histograms = workers.cells().map(|cells| &cells.parts[part as usize]);
        ([part.label()], Merged::of(histograms, scrape.now))
    });
    page.merged(&f::PART_DURATION, &f::PART_SECONDS, parts);
}

fn mcp(page: &mut Page, scrape: &Scrape<'_>, workers: &Workers) {
    let tools = scrape.registry.tools.entries();
    let mut calls: Vec<(&str, &str, Vec<&CallCells>)> = Vec::new();
    for (method, name) in METHODS.into_iter().enumerate() {
        let tool = if method == MethodId::TOOLS_CALL.index() { OTHER } else { "" };
        calls.push((name, tool, workers.cells().map(|cells| &cells.calls[method]).collect()));
    }
    for tool in tools.iter() {
        calls.push((MethodId::TOOLS_CALL.label(), &tool.name, tool.cells.iter().map(|(_, cells)| &**cells).collect()));
    }
    let outcomes = calls.iter().flat_map(|(method, tool, cells)| {
        let sum = |outcome| cells.iter().map(|cells| cells.outcomes(outcome)).sum::<u64>();
        Outcome::ALL.map(|outcome| ([*method, *tool, outcome.label()], sum(outcome)))
    });
    page.add(&f::MCP_REQUESTS, outcomes.filter(|(_, count)| *count > 0));
    let durations = calls.iter().map(|(method, tool, cells)| {
        ([*method, *tool], Merged::of(cells.iter().map(|cells| &cells.duration), scrape.now))
    });
    page.merged(&f::MCP_DURATION, &f::MCP_SECONDS, durations);
    page.add(&f::MCP_ERRORS, workers.tallied(|cells| &cells.rpc_errors, |code| code.to_string()));
}

fn clients(page: &mut Page, workers: &Workers) {
    page.add(&f::REQUESTS, workers.each(|cells| &cells.requests));
    let ended = By::ALL.map(|by| ([by.label()], workers.cells().map(|cells| cells.ended_by(by)).sum::<u64>()));
    page.add(&f::REQUESTS_ENDED, ended);
    let mut statuses = BTreeMap::new();
    for (status, count) in workers.cells().flat_map(|cells| cells.statuses.values()) {
        *statuses.entry(status).or_default() += count;
    }
    page.add(&f::RESPONSES, statuses.iter().map(|(status, &count): (_, &u64)| ([status.to_string()], count)));
    let text = |label: &'static str| label.to_owned();
    page.add(&f::REFUSALS, workers.tallied(|cells| &cells.refusals, text));
    page.add(&f::AUTH_FAILURES, workers.tallied(|cells| &cells.denials, text));
    page.add(&f::AUTH_LOGINS, workers.tallied(|cells| &cells.logins, text));
    page.add(&f::TLS_HANDSHAKES, workers.tallied(|cells| &cells.handshakes, text));
    page.add(&f::RECEIVED, workers.each(|cells| &cells.bytes_in));
    page.add(&f::SENT, workers.each(|cells| &cells.bytes_out));
    page.add(&f::STREAMS, workers.each(|cells| &cells.streams));
    page.add(&f::CONNECTIONS_ACTIVE, workers.each(|cells| &cells.connections));
    page.add(&f::CONNECTIONS, workers.each(|cells| &cells.accepted));
    page.add(&f::CONNECTION_PANICS, workers.each(|cells| &cells.panics));
    page.add(&f::ACCEPT_ERRORS, workers.each(|cells| &cells.accept_errors));
    page.add(&f::ACCEPT_PAUSES, workers.each(|cells| &cells.accept_pauses));
    page.add(&f::UPSTREAM_QUEUE, workers.each(|cells| &cells.queued));
    page.add(&f::UPSTREAM_RETRIES_DENIED, workers.each(|cells| &cells.retries_denied));
}

fn rates(page: &mut Page, scrape: &Scrape<'_>) {
    let by_key = |values: &BTreeMap<String, u64>| values.clone().into_iter().map(|(key, value)| ([key], value));
    page.add(&f::RATE_EXCEEDED, by_key(&scrape.rates.exceeded));
    page.add(&f::RATE_REMAINING, by_key(&scrape.rates.remaining));
}

fn endpoints(page: &mut Page, scrape: &Scrape<'_>) {
    let each = |value: fn(&EndpointNow) -> u64| {
        scrape.endpoints.iter().map(move |now| ([now.upstream.as_str(), now.endpoint.as_str()], value(now)))
    };
    page.add(&f::UPSTREAM_IN_USE, each(|now| now.in_use));
    page.add(&f::UPSTREAM_WAITING, each(|now| now.waiting));
    page.add(&f::UPSTREAM_DRAINED, each(|now| u64::from(now.is_drained)));
    let states = scrape.endpoints.iter().filter_map(|now| Some((now, now.breaker?))).flat_map(|(now, is)| {
        let labels = |state: BreakerState| [now.upstream.as_str(), now.endpoint.as_str(), state.label()];
        BreakerState::ALL.map(|state| (labels(state), u64::from(state == is)))
    });
    page.add(&f::BREAKER_STATE, states);
    let found = scrape.registry.checks.findings();
    let healthy = found.healthy.iter();
    let healthy = healthy.map(|((name, endpoint), &healthy)| ([name, endpoint], u64::from(healthy)));
    page.add(&f::UPSTREAM_HEALTHY, healthy);
    let outcomes = found.outcomes.iter().map(|((name, outcome), &count)| ([name.as_str(), *outcome], count));
    page.add(&f::HEALTH_CHECKS, outcomes);
}

fn store(page: &mut Page, scrape: &Scrape<'_>) {
    let Sessions { entries, used_bytes, map_bytes, commits, commit_failures, queue, .. } = scrape.sessions;
    page.add(&f::STORE_ENTRIES, [(NONE, entries)]);
    page.add(&f::STORE_USED, [(NONE, used_bytes)]);
    page.add(&f::STORE_MAP, [(NONE, map_bytes)]);
    page.add(&f::STORE_COMMITS, [(NONE, commits)]);
    page.add(&f::STORE_COMMIT_FAILURES, [(NONE, commit_failures)]);
    let times = Merged::of([&scrape.store.commits], scrape.now);
    page.merged(&f::STORE_COMMIT_DURATION, &f::STORE_COMMIT_SECONDS, [(NONE, times)]);
    page.add(&f::STORE_QUEUE, [(NONE, queue.0)]);
    page.add(&f::STORE_QUEUE_LIMIT, [(NONE, queue.1)]);
}

fn process(page: &mut Page, scrape: &Scrape<'_>, workers: &Workers) {
    let registry = scrape.registry;
    let commit = option_env!("SHADOWCAT_COMMIT").unwrap_or("");
    page.add(&f::BUILD_INFO, [([env!("CARGO_PKG_VERSION"), commit], 1u64)]);
    let drivers = workers.each(|cells| &cells.requests).zip(&workers.entries);
    page.add(&f::DRIVER_INFO, drivers.map(|(([index], _), entry)| ([index, entry.driver, entry.flags], 1u64)));
    page.add(&f::WORKER_BEATS, workers.each(|cells| &cells.heartbeat));
    page.add(&f::WORKER_RESTARTS, [(NONE, registry.restarts.load(Relaxed))]);
    let (taken, refused) = (registry.reloads.load(Relaxed), registry.reloads_refused.load(Relaxed));
    page.add(&f::RELOADS, [(["taken"], taken), (["refused"], refused)]);
    page.add(&f::RELOAD_GOOD, [(NONE, u64::from(!registry.reload_failed.load(Relaxed)))]);
    let Sessions { touches_dropped, adoptions_dropped, .. } = scrape.sessions;
    page.add(&f::DROPPED, [(["session_touches"], touches_dropped), (["session_adoptions"], adoptions_dropped)]);
    page.add(&f::DROPPED, Loss::ALL.map(|what| ([what.label()], registry.losses(what))));
    page.add(&f::QUANTILE_BYTES, [(NONE, windows_bytes() as u64)]);
    page.add(&f::QUANTILES_MISSING, [(NONE, page.coarse)]);
    page.add(&f::SCRAPE_CPU, [(NONE, registry.scrape_cpu_ns.load(Relaxed) as f64 / 1e9)]);
    page.add(&f::PROCESS_START, [(NONE, registry.started_at)]);
    let Some(process) = &scrape.process else { return };
    let cpu = workers.names.iter().zip(&process.workers).filter_map(|(index, cpu)| Some(([index], (*cpu)?)));
    page.add(&f::WORKER_CPU, cpu);
    for (family, value) in [
        (&f::PROCESS_CPU, process.cpu_seconds),
        (&f::PROCESS_RESIDENT, process.resident_bytes),
        (&f::PROCESS_VIRTUAL, process.virtual_bytes),
        (&f::PROCESS_THREADS, process.threads),
        (&f::PROCESS_OPEN_FDS, process.open_fds),
        (&f::PROCESS_MAX_FDS, process.max_fds),
    ] {
        page.add(family, [(NONE, value)]);
    }
}

fn logs(page: &mut Page, logs: &Logs) {
    let counts = logs.line_counts();
    page.add(&f::LOG_LINES, counts.iter().map(|log| ([log.kind], log.written)));
    let lost = |log: &LineCounts| [([log.kind, "no_room"], log.no_room), ([log.kind, "unwritten"], log.unwritten)];
    page.add(&f::LOG_LOST, counts.iter().flat_map(lost));
    let Some(spans) = &logs.spans else { return };
    let counts = &logs.span_counts;
    page.add(&f::SPANS_EXPORTED, [(NONE, counts.exported.load(Relaxed))]);
    let (unavailable, rejected) = (counts.unavailable.load(Relaxed), counts.rejected.load(Relaxed));
    page.add(
        &f::SPANS_DROPPED,
        [(["no_room"], spans.lost()), (["unavailable"], unavailable), (["rejected"], rejected)],
    );
    page.add(&f::SPANS_RETRIES, [(NONE, counts.retries.load(Relaxed))]);
}

fn tapes(page: &mut Page, tapes: Option<&Tapes>) {
    let Some(tapes) = tapes else { return };
    page.add(&f::TAPE_FRAMES, [(NONE, tapes.frames)]);
    page.add(&f::TAPE_BYTES, [(NONE, tapes.bytes)]);
    page.add(&f::TAPE_LOST, [(["no_room"], tapes.no_room), (["unwritten"], tapes.unwritten)]);
    page.add(&f::TAPES_ACTIVE, [(NONE, tapes.active)]);
    page.add(&f::TAPES_DELETED, [(NONE, tapes.deleted)]);
    page.add(&f::TAPE_STOPPED, [(NONE, u64::from(tapes.is_stopped))]);
    page.add(&f::TAPE_CPU, [(NONE, tapes.cpu_seconds)]);
}

/// The workers, with their numbers as text.
struct Workers {
    entries: Vec<WorkerEntry>,
    names: Vec<String>,
}

impl Workers {
    fn new(entries: Vec<WorkerEntry>) -> Workers {
        let names = (0..entries.len()).map(|index| index.to_string()).collect();
        Workers { entries, names }
    }

    fn cells(&self) -> impl Iterator<Item = &WorkerCells> {
        self.entries.iter().map(|entry| &*entry.cells)
    }

    fn each(&self, value: fn(&WorkerCells) -> &Count) -> impl Iterator<Item = ([&str; 1], u64)> {
        self.names.iter().zip(self.cells()).map(move |(name, cells)| ([name.as_str()], value(cells).value()))
    }

    /// A tally of all workers; labels that found no slot are `other`.
    fn tallied<L: Copy + PartialEq + 'static>(
        &self,
        tally: fn(&WorkerCells) -> &Tally<L>,
        text: fn(L) -> String,
    ) -> impl Iterator<Item = ([String; 1], u64)> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (label, count) in self.cells().flat_map(|cells| tally(cells).values()) {
            *sums.entry(label.map_or_else(|| OTHER.to_owned(), text)).or_default() += count;
        }
        sums.into_iter().map(|(label, count)| ([label], count))
    }
}

/// A number of a sample.
trait Value {
    fn number(self) -> f64;
}

impl Value for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Value for f64 {
    fn number(self) -> f64 {
        self
    }
}

/// The families of a page, in the order in which they came.
#[derive(Default)]
struct Page {
    families: Vec<MetricFamily>,
    /// Histograms without quantiles.
    coarse: u64,
}

impl Page {
    fn add<S: AsRef<str>, const N: usize>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = ([S; N], impl Value)>,
    ) {
        let metric = |(values, value): ([S; N], _)| {
            let mut metric = Metric::from_label(labels(family, &values));
            match family.kind {
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(Value::number(value));
                    metric.set_counter(counter);
                }
                _ => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(Value::number(value));
                    metric.set_gauge(gauge);
                }
            }
            metric
        };
        self.push(family, samples.into_iter().map(metric).collect());
    }

    /// A summary and a histogram of the same; those that nothing was counted in are left out.
    fn merged<S: AsRef<str>, const N: usize>(
        &mut self,
        summary: &Family,
        histogram: &Family,
        samples: impl IntoIterator<Item = ([S; N], Merged)>,
    ) {
        let (mut summaries, mut histograms) = (Vec::new(), Vec::new());
        for (values, merged) in samples {
            self.coarse += merged.coarse;
            if merged.count() == 0 {
                continue;
            }
            let mut metric = Metric::from_label(labels(summary, &values));
            metric.set_summary(as_summary(&merged));
            summaries.push(metric);
            let mut metric = Metric::from_label(labels(histogram, &values));
            metric.set_histogram(as_histogram(&merged));
            histograms.push(metric);
        }
        self.push(summary, summaries);
        self.push(histogram, histograms);
    }

    fn push(&mut self, family: &Family, mut metrics: Vec<Metric>) {
        match self.families.last_mut().filter(|last| last.name() == family.name) {
            Some(last) => last.mut_metric().append(&mut metrics),
            None if metrics.is_empty() => {}
            None => {
                let mut new = MetricFamily::default();
                new.set_name(family.name.to_owned());
                new.set_help(family.help.to_owned());
                new.set_field_type(match family.kind {
                    Kind::Counter => MetricType::COUNTER,
                    Kind::Gauge => MetricType::GAUGE,
                    Kind::Summary => MetricType::SUMMARY,
                    Kind::Histogram => MetricType::HISTOGRAM,
                });
                new.set_metric(metrics);
                self.families.push(new);
            }
        }
    }

    fn text(self) -> Vec<u8> {
        let mut text = Vec::with_capacity(64 * 1024);
        // Writing into a vector cannot fail, and the families are well-formed; an empty page would show otherwise.
        let _ = TextEncoder::new().encode(&self.families, &mut text);
        text
    }
}

/// The label names are those of the family.
fn labels<S: AsRef<str>, const N: usize>(family: &Family, values: &[S; N]) -> Vec<LabelPair> {
    debug_assert_eq!(family.labels.len(), N, "{}", family.name);
    let pairs = family.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.as_ref().to_owned());
        pair
    });
    pairs.collect()
}

fn as_summary(merged: &Merged) -> Summary {
    let values = QUANTILES.into_iter().zip(merged.quantiles(QUANTILES)).map(|(q, value)| {
        let mut quantile = Quantile::default();
        quantile.set_quantile(q);
        quantile.set_value(value);
        quantile
    });
    let mut summary = Summary::default();
    summary.set_sample_count(merged.count());
    summary.set_sample_sum(merged.sum_seconds);
    summary.set_quantile(values.collect());
    summary
}

fn as_histogram(merged: &Merged) -> HistogramValue {
    let buckets = merged.cumulative().map(|(end, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(end);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = HistogramValue::default();
    histogram.set_sample_count(merged.count());
    histogram.set_sample_sum(merged.sum_seconds);
    histogram.set_bucket(buckets.collect());
    histogram
}
