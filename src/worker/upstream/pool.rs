//! Connections that wait for their next request, by upstream; those of this worker alone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::net::Stream;
use crate::table::Endpoint;
use crate::telemetry::UpstreamCells;
use crate::worker::shared::{Shared, View};

/// A view with this worker's own part of each upstream.
pub struct LocalView {
    pub view: Arc<View>,
    /// Of the views of this worker, from 1.
    pub number: u32,
    pub locals: Vec<Rc<Local>>,
}

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

pub(super) struct Idle {
    /// Boxed once for all its requests: it is moved often.
    pub stream: Box<Stream>,
    /// Milliseconds of the worker's clock.
    since_ms: u64,
    /// How long upstream said that it keeps the connection, less a margin.
    kept: Option<Duration>,
}

impl Idle {
    fn is_good(&self, now_ms: u64) -> bool {
        self.kept.is_none_or(|kept| self.age(now_ms) < kept) && self.stream.is_quiet()
    }

    fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.since_ms))
    }
}

impl LocalView {
    pub fn first(worker: usize, shared: &Shared) -> LocalView {
        let none = LocalView { view: shared.view.load_full(), number: 0, locals: Vec::new() };
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
        LocalView { view, number: self.number + 1, locals }
    }

    /// Close what was idle for too long.
    pub fn prune_pools(&self, now_ms: u64) {
        let plan = &self.view.plan;
        for (local, upstream) in self.locals.iter().zip(&self.view.upstreams) {
            let keep = plan.pool.min_idle.div_ceil(plan.workers * upstream.siblings);
            let mut idle = local.idle.borrow_mut();
            let before = idle.len();
            let old = idle.iter().take_while(|idle| idle.age(now_ms) > plan.pool.idle_timeout).count();
            let surplus = old.min(idle.len().saturating_sub(keep));
            idle.drain(..surplus);
            idle.retain(|idle| idle.is_good(now_ms));
            local.cells.idle.sub((before - idle.len()) as u64);
        }
    }
}

impl Local {
    /// The newest idle connection that is still good. A byte that came while it was idle belongs to no request of ours;
    /// an end means that it is stale.
    pub(super) fn take_idle(&self, now_ms: u64) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let pop = || idle.pop().inspect(|_| self.cells.idle.sub(1));
        std::iter::from_fn(pop).find_map(|idle| idle.is_good(now_ms).then_some(idle))
    }

    /// Keep a connection; `kept`: for how long upstream said that it keeps its end.
    pub(super) fn keep(
        &self,
        view: &LocalView,
        index: usize,
        stream: Box<Stream>,
        kept: Option<Duration>,
        now_ms: u64,
    ) {
        let (plan, upstream) = (&view.view.plan, &view.view.upstreams[index]);
        let mut idle = self.idle.borrow_mut();
        if !self.is_gone.get() && idle.len() < plan.pool.max_size.div_ceil(plan.workers * upstream.siblings) {
            stream.put_aside();
            idle.push(Idle { stream, since_ms: now_ms, kept });
            self.cells.idle.add(1);
        }
    }

    /// The upstream is gone.
    fn close_idle(&self) {
        self.is_gone.set(true);
        let closed = self.idle.take();
        self.cells.idle.sub(closed.len() as u64);
    }
}
