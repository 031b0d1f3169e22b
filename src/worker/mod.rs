//! L4, the data plane: one thread, one ring, its own listener, buffers, upstream connections and metric cells.
//!
//! The files in the order in which a request meets them:
//!
//! ```text
//! accept      take the connection, or hand it to a worker with less to do
//! connection  one client: keep-alive loop, read a head
//! exchange    ONE REQUEST: the whole story, and the only caller of the stages below
//!   guard       framing, Host, Origin                        -> Request
//!   local       /health /ready /metrics, metadata of the resource
//!   login       browsers: /login, the way back, /logout      (cookies, page)
//!   auth        who asks, and whether that one may           -> Caller
//!   envelope    what MCP says: era, method, id, name         -> Envelope
//!   session     whose session it is                          -> Session
//!   limit       how much one may ask
//!   upstream    pick, pool, connect                          -> Lease
//!   outbound    the heads that leave, rebuilt
//!   relay       bodies both ways: backpressure, event streams, cancellation
//! flow        a stream without end, once its request is forgotten
//! refusal     every stage's error -> status, JSON-RPC code, metric reason
//! account     what a request came to, told once when it ends
//! report      what of that logs and traces are told
//! tap         copies of what was said, for the recorder
//! ```

mod accept;
mod account;
mod arrival;
mod auth;
mod connection;
mod cookies;
mod envelope;
mod exchange;
mod flow;
mod guard;
mod inspect;
mod limit;
mod local;
mod login;
mod outbound;
mod page;
mod refusal;
mod relay;
mod report;
mod session;
mod shared;
mod tap;
mod upload;
mod upstream;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::{Duration, Instant};

use futures_channel::mpsc::UnboundedReceiver;

use crate::base::{Random, Slab};
use crate::net::driver::Driver;
use crate::net::{self, Buffer, stream};
use crate::store::Store;
use crate::telemetry::tally::Mirror;
use crate::telemetry::{CallCells, WorkerCells};
use crate::wire::http1::head::{HeadLimits, RequestHead, ResponseHead};
use crate::wire::json::Peek;
pub use accept::Place;
pub use auth::Gate;
pub use limit::{RateLimits, Rules};
pub use shared::{Command, Page, Published, Shared, Upstream, View};

/// How often a worker looks after idle connections, open streams and its heartbeat.
const HOUSEKEEPING: Duration = Duration::from_millis(1000 / TICKS_A_SECOND);
const TICKS_A_SECOND: u64 = 2;
/// How long a drain waits for the first request of a connection that was just made.
const NEWCOMERS: Duration = Duration::from_millis(500);
/// Scratch space kept for reuse.
const SCRATCH_MAX: usize = 64;

/// One worker. Lives on its thread only; tasks hold it by `Rc`.
pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    cells: Arc<WorkerCells>,
    /// The view of the latest look; replaced when `shared.view` was.
    view: RefCell<Rc<upstream::LocalView>>,
    view_version: Cell<u64>,
    sessions: session::Hot,
    told: limit::Told,
    retry_budget: upstream::RetryBudget,
    remembered: auth::Remembered,
    /// For the ids of traces.
    random: Random,
    /// Places in the audit log that are kept for calls under way.
    audit_places: Cell<usize>,
    /// The tools that metrics name.
    tools: RefCell<Mirror<CallCells>>,
    #[expect(clippy::vec_box, reason = "connections take and give the boxes, which keeps their futures small")]
    scratch: RefCell<Vec<Box<Scratch>>>,
    connections: RefCell<Slab<Rc<Flags>>>,
    next_connection: Cell<u64>,
    /// Exchanges that were recorded so far.
    exchanges: Cell<u64>,
    draining: Cell<bool>,
    /// Turns of the housekeeping, each [`HOUSEKEEPING`].
    ticks: Cell<u64>,
}

/// What parsing one request needs, kept from request to request so that the steady state allocates nothing.
#[derive(Default)]
struct Scratch {
    head: RequestHead,
    /// The bytes of `head`, of the request at hand or the one before on the same connection, and by which limits it was let
    /// in.
    bytes: Buffer,
    limits: Option<HeadLimits>,
    repeated: Repeated,
    peek: Peek,
    answer: ResponseHead,
    shown: outbound::Shown,
}

/// What was found of a head, for requests of the same connection that repeat it.
#[derive(Default)]
struct Repeated {
    admitted: Option<guard::Admitted>,
    session: Option<session::Resumed>,
    written: outbound::Written,
}

impl Repeated {
    /// Another head came.
    fn forget(&mut self) {
        (self.admitted, self.session) = (None, None);
        self.written.forget();
    }
}

/// What a connection is doing: how a drain finds out whom to wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before its first request, which may be on its way: a drain leaves it a moment.
    New,
    /// Between requests.
    Idle,
    /// A request is under way; it will be finished.
    Busy,
    /// A stream without end (GET, subscriptions); a drain ends it. Holds the upstream's descriptor.
    Streaming(i32),
}

/// One connection in the worker's list. Written by its task, read by the drain.
struct Flags {
    /// Among those of this worker.
    number: u64,
    client_fd: i32,
    phase: Cell<Phase>,
    /// Wakes its task: at a drain, if that is an endless stream, which ends between two events; and at the next tick, if it
    /// rests.
    waker: OnceCell<Waker>,
    /// A descriptor that is being written to, and the tick at which that is given up (0: nothing is). A timer for each
    /// write would cost more than this look at all of them twice a second.
    write_by: Cell<(i32, u64)>,
    /// The tick at which a client that asks for nothing is left (0: it is not waited for).
    idle_by: Cell<u64>,
    /// It is between two requests and still has all it needs for one: at the next tick it looks whether it is to have that any
    /// longer.
    is_resting: Cell<bool>,
}

impl Flags {
    fn wake(&self) {
        self.waker.get().into_iter().for_each(Waker::wake_by_ref);
    }
}

/// Run worker `index` on this thread until it has drained. Called inside the runtime.
pub async fn run(
    index: usize,
    driver: Driver,
    shared: Arc<Shared>,
    place: Place,
    mut inbox: UnboundedReceiver<Command>,
    ready: impl FnOnce(),
) {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    shared.registry.runs_on(index, driver.name(), driver.flags(), thread.unsigned_abs().into());
    let worker = Rc::new(Worker::new(index, shared));
    let _mourner = Mourner(worker.clone());
    let accepting = accept::start(&worker, place);
    net::spawn(housekeeping(worker.clone()));
    ready();
    while let Ok(command) = inbox.recv().await {
        match command {
            Command::Adopt(stream, peer) => connection::start(&worker, stream, peer),
            Command::Drain => break,
            Command::EndStreams(session) => worker.sessions.end_streams(&session),
            Command::Die => panic!("asked to die by a fault test"),
        }
    }
    accepting.stop().await;
    worker.drain();
    let begun = Instant::now();
    while !worker.connections.borrow().is_empty() {
        net::sleep(Duration::from_millis(5)).await;
        if begun.elapsed() >= NEWCOMERS {
            worker.end_newcomers();
        }
    }
}

/// When a worker dies its tasks are never run again and hold their connections: end those, so that nobody waits.
struct Mourner(Rc<Worker>);

impl Drop for Mourner {
    fn drop(&mut self) {
        let lost = self.0.connections.borrow();
        self.0.shared.connections.fetch_sub(lost.len(), Relaxed);
        for flags in lost.values() {
            stream::end(flags.client_fd);
            if let Phase::Streaming(upstream) = flags.phase.get() {
                stream::end(upstream);
            }
        }
    }
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Worker {
        let cells = shared.registry.worker(index);
        cells.connections.set(0);
        cells.streams.set(0);
        cells.queued.set(0);
        let view = upstream::LocalView::first(index, &shared);
        Worker {
            index,
            cells,
            view: RefCell::new(Rc::new(view)),
            view_version: Cell::new(0),
            sessions: session::Hot::default(),
            told: limit::Told::default(),
            retry_budget: upstream::RetryBudget::default(),
            remembered: auth::Remembered::default(),
            random: Random::new(Store::random()),
            audit_places: Cell::new(0),
            tools: RefCell::default(),
            scratch: RefCell::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            exchanges: Cell::new(0),
            draining: Cell::new(shared.draining.load(Relaxed)),
            ticks: Cell::new(1),
            shared,
        }
    }

    /// The configuration of now. A request takes it once, so that a change never splits it.
    fn view(&self) -> Rc<upstream::LocalView> {
        let (current, version) = (self.view.borrow().clone(), self.shared.view.version());
        if self.view_version.replace(version) == version {
            return current;
        }
        let latest = self.shared.view.load_full();
        if Arc::ptr_eq(&current.view, &latest) {
            return current;
        }
        let next = Rc::new(current.successor(self.index, &self.shared, latest));
        self.view.replace(next.clone());
        next
    }

    fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// The first tick that is at least `wait` away.
    fn ticks_from_now(&self, wait: Duration) -> u64 {
        let whole = wait.as_secs().saturating_mul(TICKS_A_SECOND);
        let part = (u64::from(wait.subsec_millis()) * TICKS_A_SECOND).div_ceil(1000);
        self.ticks.get().saturating_add(1 + part).saturating_add(whole)
    }

    /// Peers that took nothing for too long lose their connection, and so do clients that asked for nothing.
    fn end_what_takes_too_long(&self) {
        let now = self.ticks.get();
        for flags in self.connections.borrow().values() {
            let (fd, tick) = flags.write_by.get();
            if (1..=now).contains(&tick) {
                stream::end(fd);
            }
            if (1..=now).contains(&flags.idle_by.get()) {
                stream::wake_reader(flags.client_fd);
            }
            if flags.is_resting.take() {
                flags.wake();
            }
        }
    }

    /// Milliseconds since the start of the process: the clock of the table.
    fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    fn take_scratch(&self) -> Box<Scratch> {
        self.scratch.borrow_mut().pop().unwrap_or_default()
    }

    fn give_scratch(&self, mut scratch: Box<Scratch>) {
        scratch.bytes = Buffer::default();
        scratch.limits = None;
        scratch.repeated.forget();
        let mut kept = self.scratch.borrow_mut();
        if kept.len() < SCRATCH_MAX {
            kept.push(scratch);
        }
    }

    /// No new work: idle connections close now, endless streams end at an event boundary, requests are finished.
    fn drain(&self) {
        self.draining.set(true);
        for flags in self.connections.borrow().values() {
            match flags.phase.get() {
                Phase::Idle => stream::wake_reader(flags.client_fd),
                Phase::Streaming(_) => flags.wake(),
                Phase::New | Phase::Busy => {}
            }
        }
    }
}

impl Worker {
    /// Of a drain: who has not asked for anything by now will not.
    fn end_newcomers(&self) {
        let connections = self.connections.borrow();
        let newcomers = connections.values().filter(|flags| flags.phase.get() == Phase::New);
        newcomers.for_each(|flags| stream::wake_reader(flags.client_fd));
    }
}

async fn housekeeping(worker: Rc<Worker>) {
    let mut last = Instant::now();
    loop {
        net::sleep(HOUSEKEEPING.min(worker.shared.store.touch_interval())).await;
        worker.cells.heartbeat.add(1);
        worker.sessions.keep_streams_alive(&worker.shared.store);
        if last.elapsed() >= HOUSEKEEPING {
            last = Instant::now();
            worker.ticks.set(worker.ticks.get() + 1);
            worker.end_what_takes_too_long();
            let view = worker.view();
            view.prune_pools(worker.now_ms());
            // A pause that ends, or a breaker that wants a probe, wakes nobody.
            if !view.view.balancer.line().is_empty() {
                view.view.balancer.admit(worker.now_ms());
            }
        }
    }
}
