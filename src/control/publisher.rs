//! The one thread that replaces views: after a signal, when a file changed, and when a name resolves to something else.
//!
//! ```text
//! SIGHUP, or a file that changed and then rested --read and check--> refused: said, counted, everything as it was
//!                                                               \--> a view and certificates, swapped in one after the other
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::health::Notice;
use super::service_manager::ServiceManager;
use super::{publish, resolve};
use crate::config::plan::Plan;
use crate::config::schema;
use crate::net::acceptor;
use crate::telemetry::LogFilter;
use crate::worker::{Shared, View};

/// How often the files are looked at. A file that changed is read once two looks in a row found it the same, so that
/// nobody reads half of it.
const LOOK: Duration = Duration::from_millis(500);
/// Orders that wait.
const ORDERS: usize = 8;
/// How long somebody waits for the outcome of an order: names may take long to resolve.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often names are resolved anew.
const RESOLVE: Duration = Duration::from_secs(10);

/// Where plans come from.
pub struct Source {
    /// Sets what is logged.
    pub log: Arc<LogFilter>,
    /// Read the configuration as at the start; what is wrong with it as text for the operator.
    pub read: Box<dyn Fn() -> Result<Plan, String> + Send>,
    /// The files that it is written in.
    pub files: Vec<PathBuf>,
}

/// Tells the publisher to read the configuration anew, or to change it for the moment.
#[derive(Clone)]
pub struct Trigger(Sender<Order>);

/// What the publisher is asked for, and who waits for the outcome.
enum Order {
    Reload(Option<Sender<Result<(), String>>>),
    Weigh { upstream: String, weight: u32, answer: Sender<Result<u32, String>> },
}

impl Trigger {
    /// Not waited for.
    pub fn pull(&self) {
        // A full queue reads it anyway, or is about to.
        let _ = self.0.try_send(Order::Reload(None));
    }

    /// Read the configuration, and wait for what came of it; `None`: that takes too long.
    pub fn reload(&self) -> Option<Result<(), String>> {
        self.ask(|answer| Order::Reload(Some(answer)))
    }

    /// Let an upstream have another weight until the next reload: the one of before.
    pub fn weigh(&self, upstream: String, weight: u32) -> Option<Result<u32, String>> {
        self.ask(|answer| Order::Weigh { upstream, weight, answer })
    }

    fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = bounded(1);
        self.0.try_send(order(answer)).ok()?;
        answered.recv_timeout(PATIENCE).ok()
    }
}

/// Start the thread; it ends with the process.
///
/// # Errors
/// There is no thread to be had.
pub fn start(shared: Arc<Shared>, source: Source, health: Notice, manager: ServiceManager) -> std::io::Result<Trigger> {
    let (pull, pulled) = bounded(ORDERS);
    let publisher = Publisher { seen: Prints::default(), pending: None, shared, source, health, manager };
    thread::Builder::new().name("publisher".into()).spawn(move || publisher.run(&pulled))?;
    Ok(Trigger(pull))
}

struct Publisher {
    shared: Arc<Shared>,
    source: Source,
    health: Notice,
    manager: ServiceManager,
    /// The files as they are in use.
    seen: Prints,
    /// The files as the latest look found them, if that differs.
    pending: Option<Prints>,
}

/// What tells that files changed; links are followed, which is how Kubernetes swaps them.
#[derive(Clone, Default, PartialEq, Eq)]
struct Prints {
    configuration: Vec<Print>,
    /// Certificates, keys and roots, which the configuration names.
    secrets: Vec<Print>,
}

type Print = Option<(SystemTime, u64, u64)>;

impl Publisher {
    fn run(mut self, pulled: &Receiver<Order>) {
        self.seen = self.prints();
        let mut resolve = Instant::now() + RESOLVE;
        loop {
            match pulled.recv_timeout(LOOK) {
                Ok(Order::Reload(None)) => drop(self.reload("a signal")),
                Ok(Order::Reload(Some(answer))) => drop(answer.send(self.reload("an administrator"))),
                Ok(Order::Weigh { upstream, weight, answer }) => drop(answer.send(self.weigh(&upstream, weight))),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= resolve {
                self.resolve();
                resolve = Instant::now() + RESOLVE;
            }
        }
    }

    fn look(&mut self) {
        let now = self.prints();
        if now == self.seen {
            self.pending = None;
        } else if self.pending.as_ref() == Some(&now) {
            match now.configuration == self.seen.configuration {
                true => self.load_certificates(),
                false => drop(self.reload("a file that changed")),
            }
        } else {
            self.pending = Some(now);
        }
    }

    /// Read the configuration, and take all of it or nothing.
    fn reload(&mut self, why: &str) -> Result<(), String> {
        let prints = self.prints();
        self.manager.reloading();
        let outcome = self.replace();
        // What is wrong is said once, not at every look.
        (self.seen, self.pending) = (prints, None);
        let registry = &self.shared.registry;
        match &outcome {
            Ok(()) => {
                registry.reloads.fetch_add(1, Relaxed);
                registry.reload_failed.store(false, Relaxed);
                tracing::info!(why, "the configuration was loaded anew");
                self.manager.ready("running; the configuration was loaded anew");
            }
            Err(error) => {
                registry.reloads_refused.fetch_add(1, Relaxed);
                registry.reload_failed.store(true, Relaxed);
                tracing::error!(why, "the new configuration is refused, the old one stays: {error}");
                self.manager.ready(&format!("running; the new configuration is refused, the old one stays: {error}"));
            }
        }
        outcome
    }

    /// The plan of now with one weight changed: what is read anew knows nothing of it.
    fn weigh(&self, upstream: &str, weight: u32) -> Result<u32, String> {
        let range = 1..=schema::WEIGHT_MAX;
        if !range.contains(&u64::from(weight)) {
            return Err(format!("a weight is from 1 to {}; to send no new work there, drain it", schema::WEIGHT_MAX));
        }
        let view = self.shared.view.load_full();
        let mut plan = Plan::clone(&view.plan);
        let names = || plan.upstreams.iter().map(|upstream| upstream.name.as_str()).take(20).collect::<Vec<_>>();
        let unknown = format!("no upstream is named `{upstream}`; there are: {}", names().join(", "));
        let found = plan.upstreams.iter_mut().find(|plan| plan.name == upstream).ok_or(unknown)?;
        let before = std::mem::replace(&mut found.weight, weight);
        self.show(publish::weighed_anew(&view, Arc::new(plan)));
        Ok(before)
    }

    fn replace(&self) -> Result<(), String> {
        let plan = Arc::new((self.source.read)()?);
        let view = self.shared.view.load_full();
        let fixed = view.plan.fixed_since_start(&plan);
        if !fixed.is_empty() {
            return Err(format!("{} cannot change without a restart", fixed.join(", ")));
        }
        let tls = plan.tls.as_ref().map(acceptor::settings).transpose().map_err(certificates_stay)?;
        let next = publish::next_view(plan, &view)?;
        if tls.is_some() {
            tracing::info!("loaded the certificates anew");
        }
        self.shared.tls.store(tls);
        self.show(next);
        Ok(())
    }

    /// New connections get the new certificates; those that there are go on.
    fn load_certificates(&mut self) {
        (self.seen, self.pending) = (self.prints(), None);
        let view = self.shared.view.load_full();
        let tls = view.plan.tls.as_ref().map(acceptor::settings).transpose();
        match tls.and_then(|tls| Ok((tls, publish::next_view(view.plan.clone(), &view)?))) {
            Ok((tls, next)) => {
                self.shared.tls.store(tls);
                self.show(next);
                tracing::info!("loaded the certificates anew");
            }
            Err(error) => tracing::error!("{}", certificates_stay(error)),
        }
    }

    fn resolve(&self) {
        let view = self.shared.view.load_full();
        if !view.upstreams.iter().any(|upstream| resolve::is_name(&upstream.plan.host)) {
            return;
        }
        if let Some(next) = publish::resolved_anew(&view) {
            self.show(next);
        }
    }

    fn show(&self, view: View) {
        self.shared.view.replace(view);
        self.health.give();
    }

    fn prints(&self) -> Prints {
        let print = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len(), found.ino()))
        };
        Prints {
            configuration: self.source.files.iter().map(print).collect(),
            secrets: self.shared.view.load().plan.secret_files().map(print).collect(),
        }
    }
}

fn certificates_stay(error: String) -> String {
    format!("the certificates cannot be loaded; the old ones stay: {error}")
}
