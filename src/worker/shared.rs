//! What all workers see: the view (swapped whole by control) and the shared parts.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;
use rustls::ServerConfig;

use super::auth::Gate;
use super::limit::{RateLimits, Rules};
use crate::base::SessionId;
use crate::config::plan::{Plan, UpstreamPlan};
use crate::identity::Keys;
use crate::net::tls::Connector;
use crate::store::{Store, coarse_ms};
use crate::table::{Affinity, Balancer, Endpoint, Trip};
use crate::tape::Recorder;
use crate::telemetry::{Logs, Registry, WorkerCells};

/// The configuration as workers use it, built whole by control and swapped whole.
pub struct View {
    pub plan: Arc<Plan>,
    /// In the order of the plan; an upstream is known by its place here within one view, by its key across views.
    pub upstreams: Vec<Upstream>,
    /// Places by key.
    pub places: HashMap<Arc<str>, usize>,
    pub balancer: Arc<Balancer>,
    /// When breakers open; `None`: there are none.
    pub trip: Option<Trip>,
    /// What tokens are verified with, and what upstreams ask of us.
    pub keys: Option<Arc<Keys>>,
    /// `None`: nobody is asked who they are.
    pub gate: Option<Arc<Gate>>,
    pub rules: Rules,
    pub limits: Arc<RateLimits>,
}

/// One upstream server: an entry of the plan at one of the addresses that its name resolves to.
#[derive(Clone)]
pub struct Upstream {
    pub plan: Arc<UpstreamPlan>,
    /// Place of the entry in the plan.
    pub entry: usize,
    /// What sessions remember: the name of the entry, and for a DNS name the address behind an `@`, since sessions live
    /// in one process.
    pub key: Arc<str>,
    /// Tells it from all others that there are or were lately.
    pub number: usize,
    /// How many upstreams are of this entry.
    pub siblings: usize,
    /// `None` while the name does not resolve.
    pub address: Option<SocketAddr>,
    /// The same as long as it is the same server; with it stay its connections.
    pub words: Arc<Endpoint>,
    pub tls: Option<Connector>,
}

impl View {
    pub fn upstream_of(&self, key: &str) -> Option<usize> {
        self.places.get(key).copied()
    }

    pub fn upstream_numbered(&self, number: usize) -> Option<usize> {
        self.upstreams.iter().position(|upstream| upstream.number == number)
    }
}

/// The text of `/metrics`.
pub type Page = Arc<Vec<u8>>;

/// What control and other workers tell a worker.
pub enum Command {
    /// A connection that another worker accepted and has too many of.
    Adopt(TcpStream, SocketAddr),
    /// Stop accepting, finish what runs, end.
    Drain,
    /// This session ended: so do its open streams.
    EndStreams(SessionId),
    /// Panic (fault tests of debug builds only).
    Die,
}

/// The view of now, for who looks often: whether there is another one costs him no more than a load.
pub struct Published {
    view: ArcSwap<View>,
    version: AtomicU64,
}

impl Published {
    pub fn new(view: View) -> Published {
        Published { view: ArcSwap::from_pointee(view), version: AtomicU64::new(1) }
    }

    pub fn load(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    pub fn load_full(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub fn replace(&self, view: View) {
        self.view.store(Arc::new(view));
        self.version.fetch_add(1, Release);
    }

    /// Another one after each change, never 0. What is loaded afterwards is at least as new.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }
}

/// Made once by control before the first worker starts.
pub struct Shared {
    pub view: Published,
    pub store: Store,
    pub affinity: Affinity,
    pub registry: Arc<Registry>,
    /// One a worker, in order; the same cells as in the registry.
    pub workers: Vec<Arc<WorkerCells>>,
    /// Client connections of all workers: what `performance.max_connections` bounds.
    pub connections: AtomicUsize,
    /// `None`: clients speak plain HTTP. Replaced when certificates were loaded anew.
    pub tls: ArcSwapOption<ServerConfig>,
    /// Handshakes under way, of all workers.
    pub handshakes: AtomicUsize,
    /// Client connections that leave each a descriptor towards upstream, so that whoever takes all there are takes the
    /// service from nobody else.
    pub descriptors_allow: usize,
    pub inboxes: Vec<Mutex<Option<UnboundedSender<Command>>>>,
    /// Asks control for a page of metrics.
    pub scrapes: crossbeam::channel::Sender<oneshot::Sender<Page>>,
    pub logs: Arc<Logs>,
    /// `None`: nothing is recorded.
    pub recorder: Option<Arc<Recorder>>,
    pub started: Instant,
    /// The same on the clock of [`coarse_ms`], milliseconds.
    pub started_ms: u64,
    /// Readiness is 503 from here on.
    pub draining: AtomicBool,
    /// Fault paths answer (debug builds, tests only).
    pub faults: bool,
}

impl Upstream {
    /// Whether it gets new work, as far as health and refused connections say.
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.words.is_open(now_ms) && self.address.is_some()
    }
}

impl Shared {
    /// Milliseconds since the start of the process: the clock of the table and of the pools.
    pub fn now_ms(&self) -> u64 {
        coarse_ms() - self.started_ms
    }

    /// Why `/ready` is 503.
    pub fn unreadiness(&self, view: &View) -> Option<&'static str> {
        if self.draining.load(Relaxed) {
            return Some("shutting down");
        }
        if view.upstreams.is_empty() {
            return Some("no upstream is configured");
        }
        let now = self.now_ms();
        (!view.upstreams.iter().any(|upstream| upstream.is_open(now))).then_some("no upstream is reachable")
    }

    /// Tell worker `index` something; `false` if it is gone.
    pub fn tell(&self, index: usize, command: Command) -> bool {
        let inbox = self.inboxes[index].lock().unwrap_or_else(PoisonError::into_inner);
        inbox.as_ref().is_some_and(|inbox| inbox.unbounded_send(command).is_ok())
    }
}
