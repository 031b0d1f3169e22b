//! Pick an upstream, take a pooled connection or make one, and give it back when nothing is in doubt.
//!
//! ```text
//! choose  which upstream, and a place there     pool  connections that wait for their next request
//! ```

mod choose;
mod pool;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Worker;
use super::refusal::Refusal;
use super::shared::Upstream;
use crate::net::{self, Buffer, Stream, within};
use crate::table::{Epoch, InFlight, Pass, Trip};
use crate::telemetry::account::Account;
use crate::telemetry::{BreakerState, Fault, UpstreamCells};
pub use choose::{RetryBudget, Wanted, lease};
pub use pool::LocalView;
use pool::{Idle, Local};

/// How long before an announced end an idle connection is no longer used, so that no request crosses with the end.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A connection to an upstream, ours until dropped (closed) or given back.
pub struct Lease {
    pub stream: Box<Stream>,
    /// Place of the upstream in the view.
    pub index: usize,
    /// Whether it served a request before, so that it may have died unnoticed.
    pub reused: bool,
    /// What the answer said of how long the connection may stay idle.
    kept: Cell<Option<Duration>>,
    local: Rc<Local>,
    /// In which the breaker let it through, until it is told how that went.
    epoch: Cell<Option<Epoch>>,
    _place: InFlight,
}

impl Lease {
    /// Keep the connection for later. Only after a whole answer to a wholly sent request, with nothing left over.
    pub fn give_back(self, worker: &Worker, view: &LocalView) {
        // An answer to a request that upstream has not taken to its end.
        if self.stream.has_mail() {
            return;
        }
        self.local.keep(view, self.index, self.stream, self.kept.get(), worker.now_ms());
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
        // An answer that takes its time owns no buffer meanwhile.
        if let Err(error) = self.stream.readable().await {
            return (Err(error), Buffer::default());
        }
        self.stream.read(buffer()).await
    }

    /// Read a message, or the rest of one of which `buffer` has the beginning.
    pub fn read_message(&self, buffer: Buffer) -> impl Future<Output = (io::Result<usize>, Buffer)> {
        self.stream.read_message(buffer)
    }

    /// Upstream answered, whatever it said.
    pub fn answered(&self, worker: &Worker, view: &LocalView) {
        let upstream = &view.view.upstreams[self.index];
        // Also over a pooled connection: who answers is there.
        if upstream.words.has_refused() {
            upstream.words.connected(worker.now_ms());
        }
        tell(worker, upstream, &self.local.cells, view.view.trip.as_ref(), self.epoch.take(), false);
    }

    /// Upstream closed, was reset, or did not answer in time.
    pub fn failed(&self, worker: &Worker, view: &LocalView) {
        let upstream = &view.view.upstreams[self.index];
        tell(worker, upstream, &self.local.cells, view.view.trip.as_ref(), self.epoch.take(), true);
    }

    pub fn cells(&self) -> &UpstreamCells {
        &self.local.cells
    }
}

/// A connection to this upstream, where `place` was taken.
async fn open(
    worker: &Worker,
    view: &LocalView,
    index: usize,
    place: InFlight,
    wanted: Wanted<'_>,
) -> Result<Lease, Refusal> {
    let upstream = &view.view.upstreams[index];
    let local = &view.locals[index];
    let epoch = match view.view.trip.as_ref().map(|trip| upstream.words.allows(worker.now_ms(), trip)) {
        Some(Pass::Refused { retry_after_ms }) => return Err(Refusal::breaker_open(retry_after_ms)),
        pass => {
            if let Some(Pass::Probe(_)) = pass {
                local.cells.breaker_is(BreakerState::HalfOpen);
            }
            pass.and_then(Pass::epoch)
        }
    };
    let pooled = if wanted.fresh { None } else { local.take_idle(worker.now_ms()) };
    let (stream, reused) = match pooled {
        Some(Idle { stream, .. }) => {
            local.cells.reuses.add(1);
            (stream, true)
        }
        None => (Box::pin(connected(worker, view, index, epoch, wanted.account)).await?, false),
    };
    let (local, epoch) = (local.clone(), Cell::new(epoch));
    Ok(Lease { stream, index, reused, kept: Cell::new(None), local, epoch, _place: place })
}

/// A new connection.
async fn connected(
    worker: &Worker,
    view: &LocalView,
    index: usize,
    epoch: Option<Epoch>,
    account: Option<&Account>,
) -> Result<Box<Stream>, Refusal> {
    let (upstream, local, trip) = (&view.view.upstreams[index], &view.locals[index], view.view.trip.as_ref());
    let begun = Instant::now();
    let connected = within(view.view.plan.timeouts.connect, connect(upstream)).await;
    account.into_iter().for_each(|account| account.connecting.set(account.connecting.get() + begun.elapsed()));
    match connected {
        Ok(Ok(stream)) => {
            upstream.words.connected(worker.now_ms());
            local.cells.connects.add(1);
            Ok(Box::new(stream))
        }
        Ok(Err(error)) if net::is_shortage(&error) => {
            tracing::error!(upstream = %upstream.key, %error, "cannot make a connection");
            Err(Refusal::NO_RESOURCES)
        }
        Ok(Err(error)) => {
            tracing::warn!(upstream = %upstream.key, %error, "cannot connect to upstream");
            tell(worker, upstream, &local.cells, trip, epoch, true);
            Err(failed(worker, upstream, &local.cells, Fault::Connect))
        }
        Err(_) => {
            tracing::warn!(upstream = %upstream.key, "upstream does not accept in time");
            tell(worker, upstream, &local.cells, trip, epoch, true);
            Err(failed(worker, upstream, &local.cells, Fault::Timeout))
        }
    }
}

/// Tell the upstream's breaker how a request ended.
fn tell(
    worker: &Worker,
    upstream: &Upstream,
    cells: &UpstreamCells,
    trip: Option<&Trip>,
    epoch: Option<Epoch>,
    failed: bool,
) {
    let (Some(trip), Some(epoch)) = (trip, epoch) else { return };
    let now = worker.now_ms();
    if failed && upstream.words.failed(epoch, now, trip) {
        cells.breaker_is(BreakerState::Open);
        tracing::warn!(upstream = %upstream.key, "too many requests failed: the breaker opens");
    } else if !failed && upstream.words.succeeded(epoch, now, trip) {
        cells.breaker_is(BreakerState::Closed);
        tracing::info!(upstream = %upstream.key, "the breaker closes");
    }
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
