//! Counters without contention: each worker writes its own cells with plain stores, a scrape adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::checks::{Checks, Findings};
use super::histogram::Histogram;

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What went wrong with a request at an upstream: the label `error` of `shadowcat_proxy_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// No connection: refused, unreachable, or the TLS handshake failed.
    Connect,
    /// No connection, no answer, or no next byte in time.
    Timeout,
    /// Closed or reset before the whole answer was there.
    Closed,
    /// Not HTTP/1.1, or ambiguous framing.
    Protocol,
    /// All its connections are in use.
    Busy,
}

impl Fault {
    pub const ALL: [Fault; 5] = [Fault::Connect, Fault::Timeout, Fault::Closed, Fault::Protocol, Fault::Busy];

    pub fn label(self) -> &'static str {
        match self {
            Fault::Connect => "connect",
            Fault::Timeout => "timeout",
            Fault::Closed => "closed",
            Fault::Protocol => "protocol",
            Fault::Busy => "busy",
        }
    }
}

/// What one worker counts of one upstream.
#[derive(Default)]
pub struct UpstreamCells {
    pub requests: Count,
    /// From the request's head to the end of the answer; of an SSE stream to the end of its head.
    pub duration: Histogram,
    pub connects: Count,
    pub reuses: Count,
    pub retries: Count,
    pub idle: Count,
    faults: [Count; Fault::ALL.len()],
}

impl UpstreamCells {
    pub fn fault(&self, fault: Fault) {
        self.faults[fault as usize].add(1);
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].value()
    }
}

/// What one worker counts of its clients; on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub struct WorkerCells {
    pub connections: Count,
    pub accepted: Count,
    pub accept_errors: Count,
    pub panics: Count,
    /// Counts up while the worker is alive.
    pub heartbeat: Count,
    /// Requests of all kinds, also those that no upstream saw.
    pub requests: Count,
    /// Open event streams.
    pub streams: Count,
    /// Requests that wait for a place at an upstream.
    pub queued: Count,
    /// Reads that were not sent to another upstream for want of a budget.
    pub retries_denied: Count,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    denials: Mutex<BTreeMap<&'static str, u64>>,
    handshakes: Mutex<BTreeMap<&'static str, u64>>,
    logins: Mutex<BTreeMap<&'static str, u64>>,
}

impl WorkerCells {
    /// Count a refusal by reason. Takes this worker's own lock, which only a scrape ever contends for; a refusal is not
    /// the steady state.
    pub fn refused(&self, reason: &'static str) {
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Count a credential that was not taken, by reason. As [`refused`](WorkerCells::refused).
    pub fn denied(&self, reason: &'static str) {
        *self.denials.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Count a TLS handshake by how it ended. As [`refused`](WorkerCells::refused).
    pub fn handshake(&self, outcome: &'static str) {
        *self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
    }

    /// Count a login of a browser by how it ended. As [`refused`](WorkerCells::refused).
    pub fn login(&self, outcome: &'static str) {
        *self.logins.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
    }

    fn logins(&self) -> BTreeMap<&'static str, u64> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn handshakes(&self) -> BTreeMap<&'static str, u64> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn denials(&self) -> BTreeMap<&'static str, u64> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All cells of the process. Its lock is taken when a worker starts or a configuration changes, and at a scrape.
#[derive(Default)]
pub struct Registry {
    inner: Mutex<Inner>,
    /// Workers that died and were started anew.
    pub restarts: AtomicU64,
    /// Configurations that were taken since the start.
    pub reloads: AtomicU64,
    pub reloads_refused: AtomicU64,
    /// The latest one was refused.
    pub reload_failed: AtomicBool,
    pub checks: Checks,
}

#[derive(Default)]
struct Inner {
    workers: Vec<(Arc<WorkerCells>, &'static str, &'static str)>,
    upstreams: BTreeMap<String, Vec<(usize, Arc<UpstreamCells>)>>,
}

/// Everything of one upstream, or all refusals of the process, as a scrape sees them.
pub struct Series {
    pub workers: Vec<(Arc<WorkerCells>, &'static str, &'static str)>,
    pub upstreams: Vec<(String, Vec<Arc<UpstreamCells>>)>,
    pub refusals: BTreeMap<&'static str, u64>,
    pub denials: BTreeMap<&'static str, u64>,
    pub handshakes: BTreeMap<&'static str, u64>,
    pub logins: BTreeMap<&'static str, u64>,
    pub restarts: u64,
    /// Taken, refused.
    pub reloads: (u64, u64),
    pub reload_failed: bool,
    pub checks: Findings,
}

impl Registry {
    /// The cells of worker `index`, which a restarted worker finds as they were.
    pub fn worker(&self, index: usize) -> Arc<WorkerCells> {
        let mut inner = self.lock();
        while inner.workers.len() <= index {
            inner.workers.push((Arc::default(), "none", ""));
        }
        inner.workers[index].0.clone()
    }

    /// Worker `index` runs on this driver.
    pub fn runs_on(&self, index: usize, driver: &'static str, flags: &'static str) {
        let cells = self.worker(index);
        self.lock().workers[index] = (cells, driver, flags);
    }

    /// The cells of worker `index` for the upstream of this name.
    pub fn upstream(&self, index: usize, name: &str) -> Arc<UpstreamCells> {
        let mut inner = self.lock();
        let cells = inner.upstreams.entry(name.to_owned()).or_default();
        if let Some((_, found)) = cells.iter().find(|(worker, _)| *worker == index) {
            return found.clone();
        }
        let new: Arc<UpstreamCells> = Arc::default();
        cells.push((index, new.clone()));
        new
    }

    pub fn series(&self) -> Series {
        let inner = self.lock();
        let (mut refusals, mut denials, mut handshakes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut logins = BTreeMap::new();
        for (cells, ..) in &inner.workers {
            for (reason, count) in cells.refusals() {
                *refusals.entry(reason).or_default() += count;
            }
            for (outcome, count) in cells.handshakes() {
                *handshakes.entry(outcome).or_default() += count;
            }
            for (outcome, count) in cells.logins() {
                *logins.entry(outcome).or_default() += count;
            }
            for (reason, count) in cells.denials() {
                *denials.entry(reason).or_default() += count;
            }
        }
        Series {
            workers: inner.workers.clone(),
            upstreams: inner
                .upstreams
                .iter()
                .map(|(name, cells)| (name.clone(), cells.iter().map(|(_, cells)| cells.clone()).collect()))
                .collect(),
            refusals,
            denials,
            handshakes,
            logins,
            restarts: self.restarts.load(Relaxed),
            reloads: (self.reloads.load(Relaxed), self.reloads_refused.load(Relaxed)),
            reload_failed: self.reload_failed.load(Relaxed),
            checks: self.checks.findings(),
        }
    }

    /// Clients connected to worker `index`, and to all workers.
    pub fn connections(cells: &[Arc<WorkerCells>], index: usize) -> (u64, u64) {
        (cells[index].connections.value(), cells.iter().map(|cells| cells.connections.value()).sum())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
