//! What all workers see: the view (swapped whole by control) and the shared parts.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_channel::mpsc::UnboundedSender;
use rustls::ServerConfig;

use super::auth::Gate;
use super::limit::{RateLimits, Rules};
use crate::config::plan::{Plan, UpstreamPlan};
use crate::identity::Keys;
use crate::net::tls::Connector;
use crate::store::Store;
use crate::table::{Affinity, Endpoint, Schedule};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::{Registry, WorkerCells};

/// The configuration as workers use it, built whole by control and swapped whole.
pub struct View {
    pub plan: Arc<Plan>,
    /// In the order of the plan; an upstream is known by its place here within one view, by its name across views.
    pub upstreams: Vec<Upstream>,
    pub schedule: Arc<Schedule>,
    /// What tokens are verified with, and what upstreams ask of us.
    pub keys: Option<Arc<Keys>>,
    /// `None`: nobody is asked who they are.
    pub gate: Option<Arc<Gate>>,
    pub rules: Rules,
    pub limits: Arc<RateLimits>,
}

/// One upstream server.
pub struct Upstream {
    pub plan: UpstreamPlan,
    /// What its name resolves to; empty while it does not resolve.
    pub addresses: Vec<SocketAddr>,
    pub words: Arc<Endpoint>,
    pub tls: Option<Connector>,
}

impl View {
    pub fn upstream_named(&self, name: &str) -> Option<usize> {
        self.upstreams.iter().position(|upstream| upstream.plan.name == name)
    }
}

/// What control and other workers tell a worker.
pub enum Command {
    /// A connection that another worker accepted and has too many of.
    Adopt(TcpStream, SocketAddr),
    /// Stop accepting, finish what runs, end.
    Drain,
    /// Panic (fault tests of debug builds only).
    Die,
}

/// Made once by control before the first worker starts.
pub struct Shared {
    pub view: ArcSwap<View>,
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
    /// Lives of ended sessions; written by the store's writer thread.
    pub session_durations: Arc<Histogram>,
    pub started: Instant,
    /// Readiness is 503 from here on.
    pub draining: AtomicBool,
    /// Fault paths answer (debug builds, tests only).
    pub faults: bool,
}

impl Shared {
    /// Tell worker `index` something; `false` if it is gone.
    pub fn tell(&self, index: usize, command: Command) -> bool {
        let inbox = self.inboxes[index].lock().unwrap_or_else(PoisonError::into_inner);
        inbox.as_ref().is_some_and(|inbox| inbox.unbounded_send(command).is_ok())
    }
}
