//! Active health checks: one thread that asks every upstream how it is, and marks in the table who takes new work.
//!
//! ```text
//! one task an upstream:  check at once .. interval (give or take a tenth) .. check
//! unhealthy_threshold bad ones in a row: marked down; healthy_threshold good ones: up again
//! a view that is new: upstreams that are gone are forgotten, new ones asked at once, all anew if the checks changed
//! ```
//!
//! Checks go over the client of the data path (`net::Stream`, `wire::http1`), each over a connection of its own, so
//! that no pooled one is disturbed.

mod mcp;
mod places;
mod probe;

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

use self::mcp::Whom;
use self::places::Places;
use self::probe::Failure;
use super::keys::jittered;
use crate::config::plan::{HealthPlan, HealthProtocol};
use crate::net::driver::{self, Choice};
use crate::net::{self, Either, race, within};
use crate::table::Endpoint;
use crate::wire::mcp::Era;
use crate::worker::{Shared, Upstream, View};

/// Checks under way at a time. Each has a descriptor; a session that one began is ended over one more.
pub const CHECKS_MAX: usize = 64;

/// Tells the thread that there is another view.
#[derive(Clone)]
pub struct Notice(UnboundedSender<()>);

impl Notice {
    pub fn give(&self) {
        // The thread ends with the process only.
        let _ = self.0.unbounded_send(());
    }
}

/// Start the thread; it ends with the process.
///
/// # Errors
/// There is no thread to be had.
pub fn start(shared: Arc<Shared>) -> io::Result<Notice> {
    let (tell, told) = unbounded();
    thread::Builder::new().name("health".into()).spawn(move || {
        // A few small exchanges: epoll does, and no ring is taken from the workers.
        let ended = driver::run(Choice::Epoll, move |_| Health::new(shared).run(told));
        if let Err(error) = ended {
            tracing::error!(%error, "no health checks: no event loop for them");
        }
    })?;
    Ok(Notice(tell))
}

struct Health {
    shared: Arc<Shared>,
    places: Rc<Places>,
    /// What the checks under way go by.
    plan: Option<HealthPlan>,
    watched: HashMap<*const Endpoint, Watched>,
}

/// One upstream that is checked. Dropped, its task ends, and nothing is known against the upstream any more.
struct Watched {
    patient: Rc<Patient>,
    /// The checks changed: begin anew.
    again: UnboundedSender<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.patient.discharge();
    }
}

/// What is known of one upstream.
struct Patient {
    shared: Arc<Shared>,
    words: Arc<Endpoint>,
    /// Labels in metrics.
    name: String,
    endpoint: String,
    /// In a row; one of them is 0.
    good: Cell<u32>,
    bad: Cell<u32>,
    /// In which an MCP server answered.
    era: Cell<Option<Era>>,
    told_of_leaks: Rc<Cell<bool>>,
}

impl Health {
    fn new(shared: Arc<Shared>) -> Health {
        Health { shared, places: Places::new(CHECKS_MAX), plan: None, watched: HashMap::new() }
    }

    async fn run(mut self, mut told: UnboundedReceiver<()>) {
        loop {
            self.follow(&self.shared.view.load_full());
            if told.recv().await.is_err() {
                return;
            }
        }
    }

    /// Watch the upstreams of this view and no others.
    fn follow(&mut self, view: &View) {
        let changed = self.plan != view.plan.health;
        self.plan.clone_from(&view.plan.health);
        let mut before = std::mem::take(&mut self.watched);
        let upstreams = view.upstreams.iter().filter(|_| self.plan.is_some());
        let mut new = Vec::new();
        for upstream in upstreams {
            match before.remove(&Arc::as_ptr(&upstream.words)) {
                Some(watched) => {
                    if changed {
                        let _ = watched.again.unbounded_send(());
                    }
                    self.watched.insert(Arc::as_ptr(&upstream.words), watched);
                }
                None => new.push(upstream),
            }
        }
        // First, since a new one may have the labels of one that is gone.
        drop(before);
        for upstream in new {
            self.watched.insert(Arc::as_ptr(&upstream.words), self.watch(upstream));
        }
    }

    fn watch(&self, upstream: &Upstream) -> Watched {
        let (again, told) = unbounded();
        let address = upstream.address.map(|address| address.to_string());
        let patient = Rc::new(Patient {
            shared: self.shared.clone(),
            words: upstream.words.clone(),
            name: upstream.plan.name.clone(),
            endpoint: address.unwrap_or_else(|| upstream.plan.authority.clone()),
            good: Cell::new(0),
            bad: Cell::new(0),
            era: Cell::new(None),
            told_of_leaks: Rc::default(),
        });
        patient.tell();
        net::spawn(attend(patient.clone(), self.places.clone(), told));
        Watched { patient, again }
    }
}

/// Check for as long as it is watched.
async fn attend(patient: Rc<Patient>, places: Rc<Places>, mut told: UnboundedReceiver<()>) {
    let mut due = Instant::now();
    let mut is_first = true;
    loop {
        // The end comes first: what was forgotten is not judged any more. A check that is dropped closes its connection.
        match race(pin!(told.recv()), pin!(patient.round(&places, due))).await {
            Either::First(Ok(())) => {
                (due, is_first) = (Instant::now(), true);
                patient.good.set(0);
                patient.bad.set(0);
            }
            Either::First(Err(_)) => return,
            Either::Second((begun, interval)) => {
                // All begin at once: from the second check on they are spread.
                let spread = if is_first { spread(interval) } else { interval };
                (due, is_first) = (begun + jittered(spread), false);
            }
        }
    }
}

/// Some time from half the interval to all of it.
fn spread(interval: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without random bytes there is no spreading.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    interval.mul_f64(0.5 + 0.5 * f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX))
}

impl Patient {
    /// One check when it is due; when that was, and how long until the next.
    async fn round(&self, places: &Rc<Places>, due: Instant) -> (Instant, Duration) {
        net::sleep(due.saturating_duration_since(Instant::now())).await;
        let place = places.enter().await;
        let begun = Instant::now();
        let view = self.shared.view.load_full();
        let upstream = view.upstreams.iter().find(|upstream| Arc::ptr_eq(&upstream.words, &self.words));
        let (Some(upstream), Some(plan)) = (upstream, &view.plan.health) else {
            // A view that is told of in a moment.
            drop(place);
            return std::future::pending().await;
        };
        let checked = match within(plan.timeout, self.check(&view, upstream, plan)).await {
            Ok(checked) => checked,
            Err(_) => Err(Failure::Timeout),
        };
        drop(place);
        self.judge(plan, &checked);
        (begun, plan.interval)
    }

    async fn check(&self, view: &View, upstream: &Upstream, plan: &HealthPlan) -> Result<(), Failure> {
        let credential = match &view.keys {
            None => None,
            Some(keys) => keys.credential(upstream.entry).map_err(|error| Failure::Ours(error.to_string()))?,
        };
        let is_asked = credential.is_some();
        let whom = Whom {
            upstream: upstream.clone(),
            path: plan.path.clone().unwrap_or_else(|| upstream.plan.path.clone()),
            credential,
            limits: view.plan.limits.head,
            timeout: plan.timeout,
            told_of_leaks: self.told_of_leaks.clone(),
        };
        let checked = match plan.protocol {
            HealthProtocol::Http => http(&whom).await,
            HealthProtocol::Mcp => mcp::check(&whom, &self.era).await,
        };
        if let (Err(Failure::Status(401)), true, Some(keys)) = (&checked, is_asked, &view.keys) {
            keys.credential_refused(upstream.entry);
        }
        checked
    }

    /// Mark what the thresholds say, and count.
    fn judge(&self, plan: &HealthPlan, checked: &Result<(), Failure>) {
        match checked {
            Err(Failure::Ours(why)) => {
                tracing::warn!(upstream = self.name, endpoint = self.endpoint, why, "an upstream could not be checked");
            }
            Err(failure) => self.was_bad(plan, failure),
            Ok(()) => self.was_good(plan),
        }
        // Last, so that who sees the count sees the mark.
        let outcome = checked.as_ref().map_or_else(Failure::label, |()| "good");
        self.shared.registry.checks.count(&self.name, outcome);
    }

    fn was_bad(&self, plan: &HealthPlan, failure: &Failure) {
        self.good.set(0);
        self.bad.set(self.bad.get().saturating_add(1));
        let (upstream, endpoint, checks) = (&self.name, &self.endpoint, self.bad.get());
        tracing::debug!(upstream, endpoint, reason = %failure, checks, "a bad check");
        if self.is_up() && checks >= plan.unhealthy_threshold {
            self.words.mark_down(self.now_ms());
            self.tell();
            tracing::warn!(
                upstream,
                endpoint,
                reason = %failure,
                checks,
                "an upstream is unhealthy and gets no new work"
            );
        }
    }

    fn was_good(&self, plan: &HealthPlan) {
        // A pause after refused connections is over as well.
        self.words.connected(self.now_ms());
        self.bad.set(0);
        self.good.set(self.good.get().saturating_add(1));
        let (upstream, endpoint, checks) = (&self.name, &self.endpoint, self.good.get());
        if !self.is_up() && checks >= plan.healthy_threshold {
            self.words.mark_up(self.now_ms());
            self.tell();
            tracing::info!(upstream, endpoint, checks, "an upstream is healthy again");
        }
    }

    fn is_up(&self) -> bool {
        self.words.marked_down_since().is_none()
    }

    fn tell(&self) {
        self.shared.registry.checks.set_healthy(&self.name, &self.endpoint, Some(self.is_up()));
    }

    fn discharge(&self) {
        self.words.mark_up(self.now_ms());
        self.shared.registry.checks.set_healthy(&self.name, &self.endpoint, None);
    }

    /// The clock of the table.
    fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }
}

/// 2xx and 3xx are good, as nginx has it.
async fn http(whom: &Whom) -> Result<(), Failure> {
    let answer = whom.ask("GET", &[("Accept", "*/*")], b"").await?;
    if !(200..400).contains(&answer.status) {
        return Err(Failure::Status(answer.status));
    }
    answer.finish().await
}
