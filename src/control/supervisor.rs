//! Starts the workers, restarts one that dies, and ends them in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::channel::{Receiver, Sender, after, bounded, never, select, tick, unbounded};
use futures_channel::mpsc;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::health;
use super::metrics;
use super::publish;
use super::publisher::{self, Source, Trigger};
use crate::config::plan::{DriverChoice, Plan};
use crate::net::{acceptor, driver, listener};
use crate::store::{self, Store};
use crate::table::Affinity;
use crate::telemetry::{Logs, Registry};
use crate::worker::{self, Command, Shared};

/// Pause before a worker that died is started anew, so that one that dies at once does not spin.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// A worker whose heartbeat stands still for this long is reported.
const STALLED: Duration = Duration::from_secs(10);

/// How a server ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that ran was finished.
    Drained,
    /// `timeouts.shutdown` was over, or a second signal came.
    CutShort,
}

/// What a thread tells the supervisor.
enum Event {
    Ready,
    Failed(usize, io::Error),
    Ended(usize),
    Died(usize),
}

/// What there is before the first worker.
pub struct Start {
    pub store: Store,
    pub logs: Arc<Logs>,
    pub started: Instant,
    /// Fault paths answer (debug builds, tests only).
    pub faults: bool,
}

/// Serve `plan`, and what `source` says later, until SIGTERM or SIGINT. `listening` is called once, when every worker accepts.
///
/// # Errors
/// The address is in use or cannot be bound (`io::Error` with its kind), TLS settings, a driver that cannot be had.
pub fn serve(
    plan: Arc<Plan>,
    source: Source,
    start: Start,
    listening: impl FnOnce(SocketAddr),
) -> anyhow::Result<Outcome> {
    let Start { store, logs, started, faults } = start;
    let descriptors_allow = raise_descriptor_limit(&plan);
    let (address, listeners) = listener::bind(plan.bind, plan.workers)?;
    let tls = plan.tls.as_ref().map(acceptor::settings).transpose().map_err(anyhow::Error::msg)?;
    let view = publish::first_view(plan.clone()).map_err(anyhow::Error::msg)?;
    let registry: Arc<Registry> = Arc::default();
    let (scrapes, asked) = metrics::queue();
    let shared = Arc::new(Shared {
        view: ArcSwap::from_pointee(view),
        store: store.clone(),
        affinity: Affinity::default(),
        workers: (0..plan.workers).map(|index| registry.worker(index)).collect(),
        registry,
        connections: AtomicUsize::new(0),
        tls: ArcSwapOption::new(tls),
        handshakes: AtomicUsize::new(0),
        descriptors_allow,
        inboxes: (0..plan.workers).map(|_| Mutex::new(None)).collect(),
        scrapes,
        logs,
        started,
        started_ms: store::coarse_ms(),
        draining: AtomicBool::new(false),
        faults,
    });
    let (events, inbox) = unbounded();
    // Before anybody hears that we listen: whoever does may tell us to stop at once.
    let signals = signals()?;
    metrics::start(shared.clone(), asked)?;
    let health = health::start(shared.clone())?;
    let publisher = publisher::start(shared.clone(), source, health)?;
    let mut fleet = Fleet { shared, plan, listeners, events, publisher, alive: 0 };
    for index in 0..fleet.plan.workers {
        fleet.start(index)?;
    }
    fleet.wait_until_ready(&inbox)?;
    listening(address);
    let outcome = fleet.supervise(&inbox, &signals)?;
    store.close();
    Ok(outcome)
}

/// As many descriptors as we may have; how many clients that is, if each may need one more towards upstream.
fn raise_descriptor_limit(plan: &Plan) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let wanted = 2 * plan.limits.connections_max as u64;
    let Some(allowed) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    if allowed < wanted {
        tracing::warn!(allowed, wanted, "fewer file descriptors than performance.max_connections may need");
    }
    let checks = if plan.health.is_some() { plan.upstreams.len().min(health::CHECKS_MAX) as u64 } else { 0 };
    let own = 24 + 8 * plan.workers as u64 + checks;
    (allowed.saturating_sub(own) / 2).max(4) as usize
}

struct Fleet {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    /// Kept so that a restarted worker finds its queue; emptied by the drain.
    listeners: Vec<TcpListener>,
    events: Sender<Event>,
    publisher: Trigger,
    alive: usize,
}

impl Fleet {
    fn start(&mut self, index: usize) -> io::Result<()> {
        let listener = self.listeners[index].try_clone()?;
        let (tell, inbox) = mpsc::unbounded();
        *self.shared.inboxes[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        let (shared, plan, events) = (self.shared.clone(), self.plan.clone(), self.events.clone());
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let mut farewell = Farewell { index, events: events.clone(), orderly: false };
            pin(index, plan.workers);
            let choice = match plan.driver {
                DriverChoice::Auto => driver::Choice::Auto,
                DriverChoice::IoUring => driver::Choice::IoUring,
                DriverChoice::Epoll => driver::Choice::Epoll,
            };
            let ready = events.clone();
            let result = driver::run(choice, move |driver| {
                worker::run(index, driver, shared, listener, inbox, move || {
                    let _ = ready.send(Event::Ready);
                })
            });
            farewell.orderly = true;
            if let Err(error) = result {
                let _ = events.send(Event::Failed(index, error));
            }
        })?;
        self.alive += 1;
        Ok(())
    }

    fn wait_until_ready(&self, inbox: &Receiver<Event>) -> anyhow::Result<()> {
        let mut waiting = self.plan.workers;
        while waiting > 0 {
            match inbox.recv()? {
                Event::Ready => waiting -= 1,
                Event::Failed(_, error) => {
                    let hint = "this kernel or container refuses io_uring with the flags it needs; try --driver auto";
                    return Err(anyhow::Error::new(error).context(hint));
                }
                Event::Ended(index) | Event::Died(index) => anyhow::bail!("worker {index} died while it started"),
            }
        }
        Ok(())
    }

    fn supervise(&mut self, inbox: &Receiver<Event>, signals: &Receiver<i32>) -> anyhow::Result<Outcome> {
        let watchdog = tick(STALLED);
        let mut beats = vec![u64::MAX; self.plan.workers];
        let mut deadline = never();
        let mut draining = false;
        while self.alive > 0 {
            select! {
                recv(inbox) -> event => match event? {
                    Event::Ready => {}
                    Event::Failed(index, error) => tracing::error!(index, %error, "a worker has no driver"),
                    Event::Ended(_) => self.alive -= 1,
                    Event::Died(index) => {
                        self.alive -= 1;
                        if !draining {
                            tracing::error!(index, "a worker died and is started anew");
                            self.shared.registry.restarts.fetch_add(1, Relaxed);
                            pause();
                            self.start(index)?;
                        }
                    }
                },
                recv(signals) -> signal => {
                    if signal == Ok(SIGHUP) {
                        self.publisher.pull();
                        continue;
                    }
                    if draining {
                        tracing::warn!("told twice to stop: stopping now");
                        return Ok(Outcome::CutShort);
                    }
                    draining = true;
                    deadline = after(self.shared.view.load().plan.timeouts.shutdown);
                    self.drain();
                },
                recv(deadline) -> _ => {
                    tracing::warn!("timeouts.shutdown is over: cutting what still runs");
                    return Ok(Outcome::CutShort);
                },
                recv(watchdog) -> _ => self.watch(&mut beats),
            }
        }
        Ok(Outcome::Drained)
    }

    /// Readiness is 503 first; then each worker empties its queue, closes it, and finishes what runs.
    fn drain(&mut self) {
        tracing::info!("draining");
        self.shared.draining.store(true, Relaxed);
        // The workers hold duplicates: a queue closes when its worker has emptied it.
        self.listeners.clear();
        for index in 0..self.plan.workers {
            self.shared.tell(index, Command::Drain);
        }
    }

    fn watch(&self, beats: &mut [u64]) {
        for (index, (cells, last)) in self.shared.workers.iter().zip(beats).enumerate() {
            let now = cells.heartbeat.value();
            if now == *last {
                tracing::error!(index, "a worker stands still");
            }
            *last = now;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the supervisor's thread, not a worker")]
fn pause() {
    thread::sleep(RESTART_PAUSE);
}

/// Tells the supervisor that a worker's thread ends, whatever the reason.
struct Farewell {
    index: usize,
    events: Sender<Event>,
    orderly: bool,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let event = if self.orderly { Event::Ended(self.index) } else { Event::Died(self.index) };
        let _ = self.events.send(event);
    }
}

/// SIGTERM, SIGINT and SIGHUP, on a thread of their own.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (tell, told) = bounded(4);
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let _ = tell.try_send(signal);
        }
    })?;
    Ok(told)
}

/// Worker `index` on a CPU of its own, where there are enough.
fn pin(index: usize, workers: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    if workers > cpus.len() {
        return;
    }
    let mut one = CpuSet::new();
    one.set(cpus[index]);
    if let Err(error) = sched_setaffinity(None, &one) {
        tracing::debug!(index, %error, "cannot pin a worker to a CPU");
    }
}
