//! `reverse` and `gateway`: load the configuration, open the store, serve.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::args::ServerArgs;
use super::{Failure, print, record};
use crate::config::plan::{Durability, Plan, StoreKind};
use crate::control::{self, Outcome, ServiceManager, Source, Start, log, otlp};
use crate::net::listener::Unfit;
use crate::store::{self, OpenError, Store};
use crate::{config, demo, tape};

/// Address in use (`EX_UNAVAILABLE` of sysexits).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Checking a large store takes long; a service manager is told that it may.
const STORE_CHECK_TIME: Duration = Duration::from_secs(600);

/// What to say to whoever started a server, besides the address at which it listens.
pub type Banner = fn(SocketAddr) -> String;

/// Run a server until it is told to stop.
///
/// # Errors
/// As [`serve`].
pub fn run(args: &ServerArgs) -> Result<ExitCode, Failure> {
    serve(args.sources(), |sources| {
        if !args.demo {
            return Ok(None);
        }
        let demo = start_demo()?;
        sources.upstreams = vec![format!("http://{}", demo.address)];
        sources.in_memory = true;
        Ok(Some(demo::banner as Banner))
    })
    .map(exit_code)
}

/// What a server that ended leaves with.
pub fn exit_code(outcome: Outcome) -> ExitCode {
    ExitCode::from(match outcome {
        Outcome::Drained => 0,
        Outcome::CutShort => 1,
    })
}

/// Run a server until it is told to stop; `behind` starts what is to stand behind it, and adds to the settings where that is.
///
/// # Errors
/// 78 for a configuration that cannot work, 69 for an address in use, 1 for everything at run time.
pub fn serve(
    mut sources: config::Sources,
    behind: impl FnOnce(&mut config::Sources) -> Result<Option<Banner>, Failure>,
) -> Result<Outcome, Failure> {
    // SAFETY: nothing started a thread yet.
    let (manager, passed) = unsafe { ServiceManager::from_environment() }.map_err(Failure::config)?;
    let banner = behind(&mut sources)?;
    let loaded = config::load(&sources).map_err(|errors| Failure::config(errors.to_string()))?;
    let bell = loaded.plan.telemetry.as_ref().map(|_| Arc::default());
    let log = log::start(&loaded.plan, bell.clone()).map_err(Failure::config)?;
    for warning in &loaded.warnings {
        print::say(&format!("shadowcat: warning: {warning}"));
    }
    let plan = Arc::new(loaded.plan);
    let files = loaded.layers.file.iter().chain(&sources.auth_config).cloned().collect();
    let source = Source { log: log.filter.clone(), read: Box::new(move || read_again(&sources)), files };
    let traces = plan.telemetry.as_ref().zip(bell).map(|(traces, bell)| otlp::start(traces, bell, log.logs.clone()));
    let _traces = traces.transpose().map_err(Failure::config)?;
    let recording = plan.record.as_ref().map(|record| record::start(record, &plan)).transpose()?;
    let recorder = recording.as_ref().map(tape::Running::recorder);
    let started = Instant::now();
    manager.starting("opening the session store", STORE_CHECK_TIME);
    let store = open_store(&plan, started)?;
    let listening = |address: SocketAddr| announce(address, &plan, banner);
    let faults = cfg!(debug_assertions) && std::env::var_os("SHADOWCAT_FAULTS").is_some();
    let logs = log.logs.clone();
    let start = Start { plan: plan.clone(), source, store, logs, recorder, started, faults, manager, passed };
    control::serve(start, listening).map_err(|error| serve_failure(&error))
}

/// The configuration as it is now, with the flags and variables of the start.
fn read_again(sources: &config::Sources) -> Result<Plan, String> {
    let loaded = config::load(sources).map_err(|errors| errors.to_string())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.plan)
}

fn serve_failure(error: &anyhow::Error) -> Failure {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    if kind == Some(std::io::ErrorKind::AddrInUse) {
        return Failure { code: EXIT_UNAVAILABLE, message: error.to_string() };
    }
    if error.is::<Unfit>() {
        return Failure::config(error.to_string());
    }
    Failure { code: 1, message: format!("{error:#}") }
}

fn start_demo() -> Result<demo::Running, Failure> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    demo::Demo { behind_proxy: true, ..demo::Demo::new(loopback) }
        .spawn()
        .map_err(|error| Failure { code: 1, message: format!("the demo server: {error}") })
}

fn announce(address: SocketAddr, plan: &Plan, banner: Option<Banner>) {
    let scheme = if plan.tls.is_some() { "https" } else { "http" };
    let mut lines = vec![format!("shadowcat {} listening on {scheme}://{address}", env!("CARGO_PKG_VERSION"))];
    if plan.upstreams.is_empty() {
        lines.push("no upstream yet: requests get 503; start with --upstream URL".to_owned());
    }
    lines.extend(banner.map(|banner| banner(address)));
    print::say(&lines.join("\n"));
}

/// The store as `plan` describes it.
pub fn store_options(plan: &Plan) -> store::Options {
    let session = &plan.session;
    let place = match session.store {
        StoreKind::Memory => store::Place::Memory,
        StoreKind::Lmdb => store::Place::Directory(session.path.clone()),
    };
    store::Options {
        place,
        timeout: session.timeout,
        max_sessions: session.max_sessions,
        cleanup_interval: session.cleanup_interval,
        relaxed: session.durability == Durability::Relaxed,
        checker: std::env::current_exe().ok().map(|program| (program, vec![super::STORE_CHECK.into()])),
        ..store::Options::default()
    }
}

fn open_store(plan: &Plan, started: Instant) -> Result<Store, Failure> {
    Store::open(store::Options { started, ..store_options(plan) }).map_err(|error| {
        let code = if matches!(error, OpenError::InUse { .. }) { EXIT_UNAVAILABLE } else { 1 };
        Failure { code, message: error.to_string() }
    })
}
