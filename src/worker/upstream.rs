//! Pick an upstream, take a pooled connection or make one, and give it back when nothing is in doubt.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Worker;
use super::refusal::Refusal;
use super::shared::{Shared, Upstream, View};
use crate::net::{Ahead, Buffer, Stream, within};
use crate::table::{Endpoint, InFlight};
use crate::telemetry::{Fault, UpstreamCells};

/// A view with this worker's own part of each upstream.
pub struct LocalView {
    pub view: Arc<View>,
    pub locals: Vec<Rc<Local>>,
}

/// How long before an announced end an idle connection is no longer used, so that no request crosses with the end.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// One upstream as this worker has it.
pub struct Local {
    /// Tells whether it is the same upstream in the next view.
    words: Arc<Endpoint>,
    /// Of its entry in the plan.
    pub cells: Arc<UpstreamCells>,
    /// Newest last; the newest is taken first, so that the rest may time out.
    idle: RefCell<Vec<Idle>>,
    /// No view has it any more: what still runs there is finished, and nothing is kept.
    is_gone: Cell<bool>,
}

struct Idle {
    stream: Rc<Stream>,
    ahead: Ahead,
    since: Instant,
    /// How long upstream said that it keeps the connection, less a margin.
    kept: Option<Duration>,
}

impl Idle {
    fn is_good(&mut self) -> bool {
        self.kept.is_none_or(|kept| self.since.elapsed() < kept) && self.ahead.is_quiet()
    }
}

impl LocalView {
    pub fn first(worker: usize, shared: &Shared) -> LocalView {
        let none = LocalView { view: shared.view.load_full(), locals: Vec::new() };
        let first = none.successor(worker, shared, shared.view.load_full());
        // A worker before this one may have died with connections in its pools.
        first.locals.iter().for_each(|local| local.cells.idle.set(0));
        first
    }

    /// The same for a newer view: upstreams that stay keep their connections.
    pub fn successor(&self, worker: usize, shared: &Shared, view: Arc<View>) -> LocalView {
        let mut known: HashMap<*const Endpoint, &Rc<Local>> =
            self.locals.iter().map(|local| (Arc::as_ptr(&local.words), local)).collect();
        let locals = view.upstreams.iter().map(|upstream| {
            known.remove(&Arc::as_ptr(&upstream.words)).cloned().unwrap_or_else(|| {
                let cells = shared.registry.upstream(worker, &upstream.plan.name);
                Rc::new(Local {
                    words: upstream.words.clone(),
                    cells,
                    idle: RefCell::default(),
                    is_gone: Cell::new(false),
                })
            })
        });
        let locals = locals.collect();
        known.into_values().for_each(|gone| gone.close_idle());
        LocalView { view, locals }
    }

    /// Close what was idle for too long.
    pub fn prune_pools(&self) {
        let plan = &self.view.plan;
        for (local, upstream) in self.locals.iter().zip(&self.view.upstreams) {
            let keep = plan.pool.min_idle.div_ceil(plan.workers * upstream.siblings);
            let mut idle = local.idle.borrow_mut();
            let before = idle.len();
            let old = idle.iter().take_while(|idle| idle.since.elapsed() > plan.pool.idle_timeout).count();
            let surplus = old.min(idle.len().saturating_sub(keep));
            idle.drain(..surplus);
            idle.retain_mut(Idle::is_good);
            local.cells.idle.sub((before - idle.len()) as u64);
        }
    }
}

impl Local {
    /// The newest idle connection that is still good. A byte that came while it was idle belongs to no request of ours;
    /// an end means that it is stale.
    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let pop = || idle.pop().inspect(|_| self.cells.idle.sub(1));
        std::iter::from_fn(pop).find_map(|mut idle| idle.is_good().then_some(idle))
    }

    /// The upstream is gone.
    fn close_idle(&self) {
        self.is_gone.set(true);
        let closed = self.idle.take();
        self.cells.idle.sub(closed.len() as u64);
    }
}

/// A connection to an upstream, ours until dropped (closed) or given back.
pub struct Lease {
    pub stream: Rc<Stream>,
    /// The read of the answer, if it is under way already.
    ahead: Cell<Option<Ahead>>,
    /// Place of the upstream in the view.
    pub index: usize,
    /// Whether it served a request before, so that it may have died unnoticed.
    pub reused: bool,
    /// What the answer said of how long the connection may stay idle.
    kept: Cell<Option<Duration>>,
    local: Rc<Local>,
    _in_flight: InFlight,
}

impl Lease {
    /// Keep the connection for later. Only after a whole answer to a wholly sent request, with nothing left over.
    pub fn give_back(self, view: &LocalView) {
        let (plan, upstream) = (&view.view.plan, &view.view.upstreams[self.index]);
        let mut idle = self.local.idle.borrow_mut();
        if !self.local.is_gone.get() && idle.len() < plan.pool.max_size.div_ceil(plan.workers * upstream.siblings) {
            let ahead = self.stream.read_ahead();
            idle.push(Idle { stream: self.stream, ahead, since: Instant::now(), kept: self.kept.get() });
            self.local.cells.idle.add(1);
        }
    }

    /// Heed the answer's `Keep-Alive: timeout=SECONDS` (RFC 2068 section 19.7.1.1): a connection whose end is near would
    /// lose a request that must not be sent twice.
    pub fn heed_keep_alive(&self, field: Option<&[u8]>) {
        let parameters = field.into_iter().flat_map(|value| value.split(|byte| *byte == b','));
        let seconds = parameters.filter_map(|one| one.trim_ascii().strip_prefix(b"timeout=")).find_map(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            text.parse::<u32>().ok()
        });
        let kept = seconds.map(|seconds| Duration::from_secs(seconds.into()).saturating_sub(KEEP_ALIVE_MARGIN));
        self.kept.set(kept);
    }

    /// Read some of the answer.
    pub async fn read(&self, buffer: impl FnOnce() -> Buffer) -> (io::Result<usize>, Buffer) {
        match self.ahead.take() {
            Some(ahead) => ahead.finish().await,
            None => self.stream.read(buffer()).await,
        }
    }

    pub fn cells(&self) -> &UpstreamCells {
        &self.local.cells
    }
}

/// A connection for one request. `pinned`: only that upstream will do. `fresh`: no pooled connection.
///
/// Without a pin, an upstream that refuses is passed over: nothing was sent, so the request may go elsewhere.
///
/// # Errors
/// 503 without upstreams, when all connections are in use or health checks found none that works, 502 when none accepts, 504 when none does in time,
/// 404 for a session whose upstream has refused for so long that it is taken for lost.
pub async fn lease(worker: &Worker, view: &LocalView, pinned: Option<usize>, fresh: bool) -> Result<Lease, Refusal> {
    if let Some(index) = pinned {
        return open(worker, view, index, fresh).await;
    }
    let upstreams = &view.view.upstreams;
    if upstreams.is_empty() {
        return Err(Refusal::NO_UPSTREAM);
    }
    let mut tried: Vec<usize> = Vec::new();
    let mut refusal = Refusal::UPSTREAM_CONNECT;
    let now = worker.now_ms();
    for index in view.view.schedule.turn() {
        if tried.contains(&index) || !upstreams[index].words.is_open(now) {
            continue;
        }
        match open(worker, view, index, fresh).await {
            Ok(lease) => return Ok(lease),
            Err(error) => refusal = error,
        }
        tried.push(index);
        if tried.len() == upstreams.len() {
            return Err(refusal);
        }
        view.locals[index].cells.retries.add(1);
    }
    // None is open: better to try the one whose pause ends first than to refuse unseen, unless checks saw it.
    let is_down = |index: &usize| upstreams[*index].words.marked_down_since().is_some();
    let closed = (0..upstreams.len()).filter(|index| !tried.contains(index) && !is_down(index));
    match closed.min_by_key(|&index| upstreams[index].words.closed_until()) {
        Some(index) => open(worker, view, index, fresh).await,
        None if tried.is_empty() => Err(Refusal::UPSTREAM_UNHEALTHY),
        None => Err(refusal),
    }
}

/// Whether a session can go on at its upstream, as far as checks say.
///
/// # Errors
/// It is marked down. 404 if another one is open, where the client may start anew; the session is kept, for when the
/// upstream comes back. Else 503.
pub fn heed_checks(worker: &Worker, view: &LocalView, pinned: usize) -> Result<(), Refusal> {
    let upstreams = &view.view.upstreams;
    if upstreams[pinned].words.marked_down_since().is_none() {
        return Ok(());
    }
    let now = worker.now_ms();
    let another = upstreams.iter().any(|upstream| upstream.words.is_open(now));
    Err(if another { Refusal::SESSION_UNKNOWN } else { Refusal::UPSTREAM_UNHEALTHY })
}

async fn open(worker: &Worker, view: &LocalView, index: usize, fresh: bool) -> Result<Lease, Refusal> {
    let upstream = &view.view.upstreams[index];
    let local = view.locals[index].clone();
    let Some(in_flight) = upstream.words.enter(upstream.plan.max_connections) else {
        local.cells.fault(Fault::Busy);
        return Err(Refusal::UPSTREAM_BUSY);
    };
    if !fresh && let Some(Idle { stream, ahead, .. }) = local.take_idle() {
        local.cells.reuses.add(1);
        let (ahead, kept) = (Cell::new(Some(ahead)), Cell::new(None));
        return Ok(Lease { stream, ahead, index, reused: true, kept, local, _in_flight: in_flight });
    }
    match Box::pin(within(view.view.plan.timeouts.connect, connect(upstream))).await {
        Ok(Ok(stream)) => {
            upstream.words.connected();
            local.cells.connects.add(1);
            let (stream, ahead, kept) = (Rc::new(stream), Cell::new(None), Cell::new(None));
            Ok(Lease { stream, ahead, index, reused: false, kept, local, _in_flight: in_flight })
        }
        Ok(Err(error)) if is_ours(&error) => {
            tracing::error!(upstream = %upstream.key, %error, "cannot make a connection");
            Err(Refusal::NO_RESOURCES)
        }
        Ok(Err(error)) => {
            tracing::warn!(upstream = %upstream.key, %error, "cannot connect to upstream");
            Err(failed(worker, upstream, &local.cells, Fault::Connect))
        }
        Err(_) => {
            tracing::warn!(upstream = %upstream.key, "upstream does not accept in time");
            Err(failed(worker, upstream, &local.cells, Fault::Timeout))
        }
    }
}

/// Whether a connection failed for want of something on this side: no reason to think worse of the upstream, let alone
/// to give up its sessions.
fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

fn failed(worker: &Worker, upstream: &Upstream, cells: &UpstreamCells, fault: Fault) -> Refusal {
    cells.fault(fault);
    upstream.words.refused(worker.now_ms());
    if fault == Fault::Timeout { Refusal::CONNECT_TIMEOUT } else { Refusal::UPSTREAM_CONNECT }
}

async fn connect(upstream: &Upstream) -> io::Result<Stream> {
    let unresolved = || io::Error::new(io::ErrorKind::NotFound, format!("`{}` does not resolve", upstream.plan.host));
    let stream = Stream::connect(upstream.address.ok_or_else(unresolved)?).await?;
    match &upstream.tls {
        None => Ok(stream),
        Some(connector) => connector.handshake(stream).await,
    }
}

/// How long upstream may take for the next thing, within what is left of the whole request.
pub fn patience(limit: Duration, deadline: Option<Instant>) -> Duration {
    deadline.map_or(limit, |deadline| limit.min(deadline.saturating_duration_since(Instant::now())))
}
