//! All cells of the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cells::{CallCells, UpstreamCells, WorkerCells};
use super::checks::Checks;
use super::tally::Named;

/// Names of upstreams beyond which those that no worker has any more are forgotten.
const UPSTREAMS_KEPT: usize = 10_000;
/// Tools that have a label of their own.
const TOOLS_MAX: usize = 128;

/// What is given up under pressure rather than waited for: the label `what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Loss {
    /// Pages of metrics that were asked for while too many were being made.
    Scrapes,
}

impl Loss {
    pub const ALL: [Loss; 1] = [Loss::Scrapes];

    pub fn label(self) -> &'static str {
        match self {
            Loss::Scrapes => "scrapes",
        }
    }
}

/// Workers ask it for their cells when they start, when a configuration changes and when a tool is called for the first
/// time; its locks are held for no longer than that takes, never for a scrape.
pub struct Registry {
    workers: Mutex<Vec<WorkerEntry>>,
    upstreams: Mutex<Arc<Upstreams>>,
    pub tools: Named<CallCells>,
    losses: [AtomicU64; Loss::ALL.len()],
    /// Since the epoch, seconds; the same on every page.
    pub started_at: f64,
    /// What pages took.
    pub scrape_cpu_ns: AtomicU64,
    /// Workers that died and were started anew.
    pub restarts: AtomicU64,
    /// Configurations that were taken since the start.
    pub reloads: AtomicU64,
    pub reloads_refused: AtomicU64,
    /// The latest one was refused.
    pub reload_failed: AtomicBool,
    pub checks: Checks,
}

/// By name, the cells of each worker that has it.
pub type Upstreams = BTreeMap<String, Vec<(usize, Arc<UpstreamCells>)>>;

/// A worker's cells, and the driver that it runs on.
#[derive(Clone)]
pub struct WorkerEntry {
    pub cells: Arc<WorkerCells>,
    pub driver: &'static str,
    pub flags: &'static str,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            workers: Mutex::default(),
            upstreams: Mutex::default(),
            tools: Named::new(TOOLS_MAX),
            losses: Default::default(),
            started_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            scrape_cpu_ns: AtomicU64::default(),
            restarts: AtomicU64::default(),
            reloads: AtomicU64::default(),
            reloads_refused: AtomicU64::default(),
            reload_failed: AtomicBool::default(),
            checks: Checks::default(),
        }
    }
}

impl Registry {
    /// The cells of worker `index`, which a restarted worker finds as they were.
    pub fn worker(&self, index: usize) -> Arc<WorkerCells> {
        let mut workers = lock(&self.workers);
        while workers.len() <= index {
            workers.push(WorkerEntry { cells: Arc::default(), driver: "none", flags: "" });
        }
        workers[index].cells.clone()
    }

    /// Worker `index` runs on this driver, in this thread of the kernel's.
    pub fn runs_on(&self, index: usize, driver: &'static str, flags: &'static str, thread: u64) {
        let cells = self.worker(index);
        cells.thread.set(thread);
        lock(&self.workers)[index] = WorkerEntry { cells, driver, flags };
    }

    pub fn workers(&self) -> Vec<WorkerEntry> {
        lock(&self.workers).clone()
    }

    /// The cells of worker `index` for the upstream of this name.
    pub fn upstream(&self, index: usize, name: &str) -> Arc<UpstreamCells> {
        let mut upstreams = lock(&self.upstreams);
        let upstreams = Arc::make_mut(&mut upstreams);
        if upstreams.len() >= UPSTREAMS_KEPT && !upstreams.contains_key(name) {
            upstreams.retain(|_, cells| cells.iter().any(|(_, cells)| Arc::strong_count(cells) > 1));
        }
        let cells = upstreams.entry(name.to_owned()).or_default();
        if let Some((_, found)) = cells.iter().find(|(worker, _)| *worker == index) {
            return found.clone();
        }
        let new: Arc<UpstreamCells> = Arc::default();
        cells.push((index, new.clone()));
        new
    }

    pub fn upstreams(&self) -> Arc<Upstreams> {
        lock(&self.upstreams).clone()
    }

    pub fn lost(&self, what: Loss) {
        self.losses[what as usize].fetch_add(1, Relaxed);
    }

    pub fn losses(&self, what: Loss) -> u64 {
        self.losses[what as usize].load(Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_of_old_configurations_are_forgotten_when_there_are_many() {
        let registry = Registry::default();
        let kept = registry.upstream(0, "kept");
        kept.requests.add(7);
        for name in 0..2 * UPSTREAMS_KEPT {
            registry.upstream(0, &format!("old {name}"));
        }
        assert!(registry.upstreams().len() <= UPSTREAMS_KEPT);
        assert_eq!(registry.upstream(0, "kept").requests.value(), 7);
    }
}
