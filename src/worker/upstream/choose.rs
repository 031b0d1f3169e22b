//! Which upstream a request goes to: where its session lives, else whose turn it is of those that are open.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{Lease, LocalView, open};
use crate::net::within;
use crate::table::{Endpoint, InFlight, Waiting};
use crate::telemetry::Fault;
use crate::telemetry::account::Account;
use crate::worker::Worker;
use crate::worker::refusal::Refusal;

/// Where a request may go.
#[derive(Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Its session lives there and nowhere else.
    pub pinned: Option<usize>,
    /// No pooled connection: the one before had died.
    pub fresh: bool,
    /// These failed it already. With any, it waits in no line.
    pub avoid: &'a [usize],
    /// Is told how long it waited, and for what.
    pub account: Option<&'a Account>,
}

/// A connection for one request.
///
/// Without a pin, an upstream that refuses is passed over: nothing was sent, so the request may go elsewhere.
///
/// # Errors
/// 503 without upstreams, when all are out, or when no place comes free in time; 502 when none accepts, 504 when none
/// does in time.
pub async fn lease(worker: &Worker, view: &LocalView, wanted: Wanted<'_>) -> Result<Lease, Refusal> {
    match wanted.pinned {
        Some(index) => lease_of(worker, view, index, wanted).await,
        None => lease_any(worker, view, wanted).await,
    }
}

async fn lease_of(worker: &Worker, view: &LocalView, index: usize, wanted: Wanted<'_>) -> Result<Lease, Refusal> {
    let words = &view.view.upstreams[index].words;
    let place = match words.enter() {
        Some(place) => place,
        None => {
            let waiting = words.wait(worker.now_ms());
            let patience = view.view.plan.balance.queue_timeout;
            let busy = |refusal| {
                view.locals[index].cells.fault(Fault::Busy);
                refusal
            };
            Box::pin(in_line(worker, patience, waiting, wanted.account)).await.map_err(busy)?
        }
    };
    open(worker, view, index, place, wanted).await
}

async fn lease_any(worker: &Worker, view: &LocalView, wanted: Wanted<'_>) -> Result<Lease, Refusal> {
    let (upstreams, balancer) = (&view.view.upstreams, &view.view.balancer);
    if upstreams.is_empty() {
        return Err(Refusal::NO_UPSTREAM);
    }
    let mut tried = wanted.avoid.to_vec();
    let mut refused = None;
    loop {
        let now = worker.now_ms();
        let found = match balancer.enter(now, |index| tried.contains(&index)) {
            Some(found) => Some(found),
            // A moved request has waited enough, but one that lately refused connections may be back.
            None if !wanted.avoid.is_empty() => paused(worker, view, &tried),
            None => Box::pin(with_patience(worker, view, wanted, &tried, refused.is_none())).await?,
        };
        let Some((index, place)) = found else { return Err(refused.unwrap_or(Refusal::UPSTREAM_CONNECT)) };
        match open(worker, view, index, place, wanted).await {
            Ok(lease) => return Ok(lease),
            Err(refusal) => refused = Some(refusal),
        }
        tried.push(index);
        if tried.len() < upstreams.len() {
            view.locals[index].cells.retries.add(1);
            wanted.account.into_iter().for_each(|account| account.retries.set(account.retries.get() + 1));
        }
    }
}

/// No upstream can take the request at once: wait for one that is full, or try one that lately refused connections.
/// `Ok(None)`: all were tried.
///
/// # Errors
/// 503 if none is to be had; `untried`: nothing worse was found before.
async fn with_patience(
    worker: &Worker,
    view: &LocalView,
    wanted: Wanted<'_>,
    tried: &[usize],
    untried: bool,
) -> Result<Option<(usize, InFlight)>, Refusal> {
    let (upstreams, balancer, trip) = (&view.view.upstreams, &view.view.balancer, view.view.trip.as_ref());
    let now = worker.now_ms();
    let left = || (0..upstreams.len()).filter(|index| !tried.contains(index));
    if left().any(|index| upstreams[index].words.accepts(now, trip)) {
        let patience = view.view.plan.balance.queue_timeout;
        let place = in_line(worker, patience, balancer.wait(now), wanted.account).await?;
        // The line is that of all views: a place at an upstream that this request does not know is of no use to it.
        let index = balancer.index_of(place.endpoint()).ok_or(Refusal::UPSTREAM_BUSY)?;
        return Ok(Some((index, place)));
    }
    let paused = paused(worker, view, tried);
    if paused.is_some() || !untried || left().next().is_none() {
        return Ok(paused);
    }
    let broken = trip.and_then(|trip| left().filter_map(|index| upstreams[index].words.broken_for(now, trip)).min());
    Err(broken.map_or(Refusal::UPSTREAM_UNHEALTHY, Refusal::breaker_open))
}

/// Better to try the one whose pause ends first than to refuse unseen; one that checks, a breaker or the administrator
/// took out is left alone.
fn paused(worker: &Worker, view: &LocalView, tried: &[usize]) -> Option<(usize, InFlight)> {
    let (upstreams, trip, now) = (&view.view.upstreams, view.view.trip.as_ref(), worker.now_ms());
    let paused = (0..upstreams.len())
        .filter(|index| !tried.contains(index) && upstreams[*index].words.is_only_paused(now, trip));
    let index = paused.min_by_key(|&index| upstreams[index].words.closed_until())?;
    Some((index, upstreams[index].words.enter()?))
}

/// Wait for a place, but not for ever.
async fn in_line(
    worker: &Worker,
    patience: Duration,
    waiting: Option<Waiting<Endpoint>>,
    account: Option<&Account>,
) -> Result<InFlight, Refusal> {
    let waiting = waiting.ok_or(Refusal::UPSTREAM_BUSY)?;
    worker.cells.queued.add(1);
    let begun = Instant::now();
    let place = within(patience, waiting).await;
    worker.cells.queued.sub(1);
    account.into_iter().for_each(|account| account.queued.set(account.queued.get() + begun.elapsed()));
    place.map_err(|_| Refusal::UPSTREAM_BUSY)
}

/// How many failed reads may still be sent to another upstream: a part of the requests of late, so that an outage is
/// not answered with a storm (the idea of Finagle's `RetryBudget`).
pub struct RetryBudget(Cell<f64>);

impl RetryBudget {
    /// What there is at the start, and at most.
    const START: f64 = 10.0;
    const MOST: f64 = 100.0;

    /// One request more.
    pub fn deposit(&self, part: f64) {
        self.0.set((self.0.get() + part).min(Self::MOST));
    }

    /// Whether one may be sent again.
    pub fn withdraw(&self) -> bool {
        let left = self.0.get() - 1.0;
        if left >= 0.0 {
            self.0.set(left);
        }
        left >= 0.0
    }
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget(Cell::new(Self::START))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again() {
        let budget = RetryBudget::default();
        (0..10).for_each(|_| assert!(budget.withdraw()));
        assert!(!budget.withdraw());
        (0..10).for_each(|_| budget.deposit(0.2));
        let sent = (0..10).filter(|_| budget.withdraw()).count();
        assert!((1..=2).contains(&sent), "{sent}");
        (0..10_000).for_each(|_| budget.deposit(1.0));
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 100);
    }
}
