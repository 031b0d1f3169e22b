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
use crate::net::acceptor;
use crate::worker::{Shared, View};

/// How often the files are looked at. A file that changed is read once two looks in a row found it the same, so that
/// nobody reads half of it.
const LOOK: Duration = Duration::from_millis(500);
/// How often names are resolved anew.
const RESOLVE: Duration = Duration::from_secs(10);

/// Where plans come from.
pub struct Source {
    /// Read the configuration as at the start; what is wrong with it as text for the operator.
    pub read: Box<dyn Fn() -> Result<Plan, String> + Send>,
    /// The files that it is written in.
    pub files: Vec<PathBuf>,
}

/// Tells the publisher to read the configuration anew.
#[derive(Clone)]
pub struct Trigger(Sender<()>);

impl Trigger {
    pub fn pull(&self) {
        // A full queue will do it anyway.
        let _ = self.0.try_send(());
    }
}

/// Start the thread; it ends with the process.
///
/// # Errors
/// There is no thread to be had.
pub fn start(shared: Arc<Shared>, source: Source, health: Notice, manager: ServiceManager) -> std::io::Result<Trigger> {
    let (pull, pulled) = bounded(1);
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
    fn run(mut self, pulled: &Receiver<()>) {
        self.seen = self.prints();
        let mut resolve = Instant::now() + RESOLVE;
        loop {
            match pulled.recv_timeout(LOOK) {
                Ok(()) => self.reload("a signal"),
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
                false => self.reload("a file that changed"),
            }
        } else {
            self.pending = Some(now);
        }
    }

    /// Read the configuration, and take all of it or nothing.
    fn reload(&mut self, why: &str) {
        let prints = self.prints();
        self.manager.reloading();
        let outcome = self.replace();
        // What is wrong is said once, not at every look.
        (self.seen, self.pending) = (prints, None);
        let registry = &self.shared.registry;
        match outcome {
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
        self.shared.view.store(Arc::new(view));
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
