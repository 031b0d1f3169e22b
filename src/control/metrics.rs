//! The page of metrics, made on a thread of its own, so that no worker stands still for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::{fs, io, thread};

use crossbeam::channel::{Receiver, Sender, bounded};
use futures_channel::oneshot;

use crate::table::breaker::State;
use crate::tape;
use crate::telemetry::exposition::{self, EndpointNow, Process, Rates, Scrape, Sessions, Tapes};
use crate::telemetry::{BreakerState, WorkerCells};
use crate::worker::{Page, Shared};

/// Who may wait for a page; beyond, they are told to come back.
const WAITING_MAX: usize = 16;
/// How much less of a CPU the thread gets where workers want it.
const NICENESS: i32 = 19;
/// How long it keeps a CPU from one that wakes up (Linux 6.12; before, about 3 ms).
const SLICE_NS: u64 = 100_000;

pub type Asked = oneshot::Sender<Page>;

pub fn queue() -> (Sender<Asked>, Receiver<Asked>) {
    bounded(WAITING_MAX)
}

pub fn start(shared: Arc<Shared>, asked: Receiver<Asked>) -> io::Result<()> {
    thread::Builder::new().name("metrics".into()).spawn(move || {
        stand_back();
        while let Ok(first) = asked.recv() {
            // All who wait get one page, made after they asked.
            let waiting: Vec<Asked> = std::iter::once(first).chain(asked.try_iter()).collect();
            // If that fails they are answered with an error, and the next may have more luck.
            let Ok(page) = catch_unwind(AssertUnwindSafe(|| Arc::new(page(&shared)))) else { continue };
            for asked in waiting {
                let _ = asked.send(page.clone());
            }
        }
    })?;
    Ok(())
}

/// Let workers go first (sched_setattr(2)). Where that is refused the thread has as much of a CPU as the others.
fn stand_back() {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    }
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: NICENESS,
        priority: 0,
        runtime_ns: SLICE_NS,
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: the structure is as the kernel's first version of it and says its size; it is read and not kept.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "the thread of metrics cannot stand back behind the workers");
    }
}

/// The page of now. Takes milliseconds where there are many upstreams: not for a worker.
pub fn page(shared: &Shared) -> Vec<u8> {
    let before = cpu_ns_of("/proc/thread-self");
    let view = shared.view.load_full();
    let stats = shared.store.stats();
    let sessions = Sessions {
        active: stats.active,
        total: stats.created_total,
        adopted: stats.adopted_total,
        ended: stats.ended_total,
        expired: stats.expired_total,
        commits: stats.commits_total,
        commit_failures: stats.commit_failures_total,
        touches_dropped: stats.touches_dropped_total,
        adoptions_dropped: stats.adoptions_dropped_total,
        entries: stats.entries,
        used_bytes: stats.used_bytes,
        map_bytes: stats.map_bytes,
        queue: stats.queue,
    };
    let rates = Rates {
        exceeded: view.limits.exceeded(&shared.workers),
        remaining: view.limits.remaining(&view.rules, shared.started),
    };
    let endpoints = view.upstreams.iter().map(|upstream| EndpointNow {
        upstream: upstream.plan.name.clone(),
        endpoint: upstream.address.map_or_else(|| upstream.plan.authority.clone(), |address| address.to_string()),
        in_use: upstream.words.in_flight().into(),
        waiting: upstream.words.waiting() as u64,
        is_drained: upstream.words.is_drained(),
        breaker: view.trip.as_ref().map(|_| match upstream.words.breaker() {
            State::Closed => BreakerState::Closed,
            State::Open => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }),
    });
    let page = exposition::render(&Scrape {
        registry: &shared.registry,
        now: shared.started.elapsed(),
        sessions,
        store: shared.store.cells(),
        rates,
        endpoints: endpoints.collect(),
        process: process(shared),
        logs: &shared.logs,
        tapes: shared.recorder.as_ref().map(|recorder| tapes(&recorder.counts)),
    });
    if let (Some(before), Some(after)) = (before, cpu_ns_of("/proc/thread-self")) {
        shared.registry.scrape_cpu_ns.fetch_add(after - before, Relaxed);
    }
    page
}

fn tapes(counts: &tape::Counts) -> Tapes {
    Tapes {
        frames: counts.frames.load(Relaxed),
        bytes: counts.bytes.load(Relaxed),
        no_room: counts.no_room.load(Relaxed),
        unwritten: counts.unwritten.load(Relaxed),
        active: counts.open.load(Relaxed),
        deleted: counts.deleted.load(Relaxed),
        is_stopped: counts.is_stopped.load(Relaxed),
        cpu_seconds: counts.cpu_ns.load(Relaxed) as f64 / 1e9,
    }
}

/// What `/proc` says of this process (proc_pid_stat(5)); `None` where it says nothing.
fn process(shared: &Shared) -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may contain anything: fields are counted from behind it.
    let fields: Vec<f64> = stat.rsplit(')').next()?.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let cpu_of = |cells: &Arc<WorkerCells>| {
        let ns = cpu_ns_of(&format!("/proc/self/task/{}", cells.thread.value()))?;
        Some(ns as f64 / 1e9)
    };
    Some(Process {
        cpu_seconds: (field(14)? + field(15)?) * tick,
        resident_bytes: field(24)? * rustix::param::page_size() as f64,
        virtual_bytes: field(23)?,
        threads: field(20)?,
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as f64 - 1.0,
        max_fds: limit.map_or(f64::INFINITY, |limit| limit as f64),
        workers: shared.workers.iter().map(cpu_of).collect(),
    })
}

/// How long a thread was on a CPU.
fn cpu_ns_of(thread: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("{thread}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}
