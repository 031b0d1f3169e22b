//! Starts the workers, restarts one that dies, and ends them in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam::channel::{Receiver, Sender, after, bounded, never, select, tick, unbounded};
use futures_channel::mpsc;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::admin::{self, Desk};
use super::beats::Beats;
use super::health;
use super::metrics;
use super::publish;
use super::publisher::{self, Source, Trigger};
use super::service_manager::ServiceManager;
use crate::config::plan::{DriverChoice, Plan};
use crate::net::driver::Driver;
use crate::net::listener::Passed;
use crate::net::{acceptor, driver, listener};
use crate::store::{self, Store};
use crate::table::Affinity;
use crate::tape::Recorder;
use crate::telemetry::{Logs, Registry};
use crate::worker::{self, Command, Published, Shared};

/// Pause before a worker that died is started anew, so that one that dies at once does not spin.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// How often workers are looked after; a watchdog may want it more often.
const LOOK: Duration = Duration::from_secs(5);
/// A worker whose heartbeat stands still for this long is reported.
const STALLED: Duration = Duration::from_secs(10);
/// A worker moves twice a second; less than this says nothing about it.
const BEAT: Duration = Duration::from_millis(1500);
/// While it stops, the service manager waits this long for the next word.
const EXTENSION: Duration = Duration::from_secs(20);

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
    Ready(Driver),
    Failed(usize, io::Error),
    Ended(usize),
    Died(usize),
}

/// What a server starts with.
pub struct Start {
    pub plan: Arc<Plan>,
    /// Where later plans come from.
    pub source: Source,
    pub store: Store,
    pub logs: Arc<Logs>,
    /// `None`: nothing is recorded.
    pub recorder: Option<Arc<Recorder>>,
    pub started: Instant,
    /// Fault paths answer (debug builds, tests only).
    pub faults: bool,
    pub manager: ServiceManager,
    /// Taken in place of sockets of our own, if there are any.
    pub passed: Vec<Passed>,
}

/// Serve until SIGTERM or SIGINT. `listening` is called once, when every worker accepts.
///
/// # Errors
/// The address is in use or cannot be bound (`io::Error` with its kind), a passed socket is unfit (`listener::Unfit`), TLS
/// settings, a driver that cannot be had.
pub fn serve(start: Start, listening: impl FnOnce(SocketAddr)) -> anyhow::Result<Outcome> {
    let Start { plan, source, store, logs, recorder, started, faults, manager, passed } = start;
    let descriptors_allow = raise_descriptor_limit(&plan);
    let owns_listeners = passed.is_empty();
    let (address, listeners) = match owns_listeners {
        true => listener::bind(plan.bind, plan.workers).map_err(|error| cannot_bind(plan.bind.to_string(), error))?,
        false => listener::adopt(passed, plan.bind, plan.workers)?,
    };
    let tls = plan.tls.as_ref().map(acceptor::settings).transpose().map_err(anyhow::Error::msg)?;
    let view = publish::first_view(plan.clone()).map_err(anyhow::Error::msg)?;
    let registry: Arc<Registry> = Arc::default();
    let (scrapes, asked) = metrics::queue();
    let shared = Arc::new(Shared {
        view: Published::new(view),
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
        recorder,
        started,
        started_ms: store::coarse_ms(),
        draining: AtomicBool::new(false),
        faults,
    });
    let (events, inbox) = unbounded();
    // Before anybody hears that we listen: whoever does may tell us to stop at once.
    let (signal, signals) = signals()?;
    metrics::start(shared.clone(), asked)?;
    let health = health::start(shared.clone())?;
    let log = source.log.clone();
    let publisher = publisher::start(shared.clone(), source, health, manager.clone())?;
    let desk = Desk { shared: shared.clone(), publisher: publisher.clone(), signals: signal, log, address };
    let _admin = admin::start(&plan.admin, &Arc::new(desk))?;
    let mut fleet = Fleet { shared, plan, listeners, owns_listeners, events, publisher, manager, alive: 0 };
    for index in 0..fleet.plan.workers {
        fleet.start(index)?;
    }
    let drivers = fleet.wait_until_ready(&inbox)?;
    fleet.say_ready(address, drivers);
    listening(address);
    let outcome = fleet.supervise(&inbox, &signals)?;
    store.close();
    Ok(outcome)
}

/// The error keeps its kind, which the exit code tells.
pub fn cannot_bind(what: String, error: io::Error) -> anyhow::Error {
    let what = match error.kind() {
        io::ErrorKind::AddrInUse => format!("{what} is in use: another server listens there"),
        _ => what,
    };
    anyhow::Error::new(error).context(what)
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
    /// Each has a queue of its own; false for a socket that was passed.
    owns_listeners: bool,
    events: Sender<Event>,
    publisher: Trigger,
    manager: ServiceManager,
    alive: usize,
}

impl Fleet {
    fn start(&mut self, index: usize) -> io::Result<()> {
        let listener = self.listeners[index].try_clone()?;
        let (tell, inbox) = mpsc::unbounded();
        *self.shared.inboxes[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        let (shared, plan, events) = (self.shared.clone(), self.plan.clone(), self.events.clone());
        let owns_listeners = self.owns_listeners;
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let mut farewell = Farewell { index, events: events.clone(), orderly: false };
            let cpu = pin(index, plan.workers).filter(|_| owns_listeners);
            let choice = match plan.driver {
                DriverChoice::Auto => driver::Choice::Auto,
                DriverChoice::IoUring => driver::Choice::IoUring,
                DriverChoice::Epoll => driver::Choice::Epoll,
            };
            let ready = events.clone();
            let result = driver::run(choice, move |driver| {
                worker::run(index, driver, shared, worker::Place { listener, cpu }, inbox, move || {
                    let _ = ready.send(Event::Ready(driver));
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

    /// The driver of each worker, as they came.
    fn wait_until_ready(&self, inbox: &Receiver<Event>) -> anyhow::Result<Vec<Driver>> {
        let mut drivers = Vec::new();
        while drivers.len() < self.plan.workers {
            match inbox.recv()? {
                Event::Ready(driver) => drivers.push(driver),
                Event::Failed(_, error) => {
                    let hint = "this kernel or container refuses io_uring with the flags it needs; try --driver auto";
                    return Err(anyhow::Error::new(error).context(hint));
                }
                Event::Ended(index) | Event::Died(index) => anyhow::bail!("worker {index} died while it started"),
            }
        }
        Ok(drivers)
    }

    fn say_ready(&self, address: SocketAddr, drivers: Vec<Driver>) {
        let on_epoll = drivers.iter().filter(|&&driver| driver == Driver::Epoll).count();
        if on_epoll > 0 && self.plan.driver == DriverChoice::Auto {
            tracing::warn!(
                workers = on_epoll,
                "io_uring is refused here, by a seccomp profile or kernel.io_uring_disabled: epoll takes its place"
            );
        }
        let driver = drivers.first().map_or("", |driver| driver.name());
        self.manager.ready(&format!("listening on {address}; workers: {} ({driver})", drivers.len()));
    }

    fn supervise(&mut self, inbox: &Receiver<Event>, signals: &Receiver<i32>) -> anyhow::Result<Outcome> {
        let look = tick(self.manager.watchdog().map_or(LOOK, |time| (time / 4).min(LOOK)));
        let mut beats = Beats::new(&self.shared.workers, Instant::now());
        let mut deadline = never();
        let mut draining = false;
        while self.alive > 0 {
            select! {
                recv(inbox) -> event => match event? {
                    Event::Ready(_) => {}
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
                recv(look) -> _ => match draining {
                    true => self.say_stopping(),
                    false => self.watch(&mut beats),
                },
            }
        }
        Ok(Outcome::Drained)
    }

    /// Readiness is 503 first; then each worker empties its queue, closes it, and finishes what runs.
    fn drain(&mut self) {
        tracing::info!("draining");
        self.shared.draining.store(true, Relaxed);
        self.say_stopping();
        // The workers hold duplicates: a queue closes when its worker has emptied it.
        self.listeners.clear();
        for index in 0..self.plan.workers {
            self.shared.tell(index, Command::Drain);
        }
    }

    /// A drain has an end of its own, `timeouts.shutdown`: until then the service manager is to wait.
    fn say_stopping(&self) {
        let connections = self.shared.connections.load(Relaxed);
        self.manager.stopping(&format!("draining; connections: {connections}"), EXTENSION);
        if self.manager.watchdog().is_some() {
            self.manager.alive();
        }
    }

    /// Whoever watches us hears that we are alive only while every worker moves.
    fn watch(&self, beats: &mut Beats) {
        let now = Instant::now();
        beats.look(&self.shared.workers, now);
        for index in beats.still_for(STALLED, now) {
            tracing::error!(index, "a worker stands still");
        }
        if self.manager.watchdog().is_some_and(|time| beats.all_within((time / 2).max(BEAT), now)) {
            self.manager.alive();
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

/// SIGTERM, SIGINT and SIGHUP, on a thread of their own; and a way to do as if one had come.
fn signals() -> io::Result<(Sender<i32>, Receiver<i32>)> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (tell, told) = bounded(4);
    let also = tell.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let _ = tell.try_send(signal);
        }
    })?;
    Ok((also, told))
}

/// Worker `index` on a CPU of its own, where there are enough.
fn pin(index: usize, workers: usize) -> Option<u32> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None).ok()?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    if workers > cpus.len() {
        return None;
    }
    let mut one = CpuSet::new();
    one.set(cpus[index]);
    if let Err(error) = sched_setaffinity(None, &one) {
        tracing::debug!(index, %error, "cannot pin a worker to a CPU");
        return None;
    }
    u32::try_from(cpus[index]).ok()
}
