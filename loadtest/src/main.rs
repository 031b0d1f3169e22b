//! Load for MCP servers and proxies.
//!
//! ```text
//! args       what was asked
//! scenario   a TOML file -> users, their work, thresholds
//! target     a URL -> an address, and how to speak TLS with it
//! run        one run: threads are started, heard, put together
//!   thread     a runtime, users, a tally
//!   user       a session, and the same work again and again
//!   client     one connection: connect, send, receive
//!   pace       waits to the microsecond
//! outcome    what a target came to, and whether that is good enough
//! report     for a terminal, a program, a browser
//! ```
//!
//! `message`, `answer`, `schedule`, `fault` and `tally` do no I/O and read no clock. HTTP, JSON, events and sockets are the
//! proxy's own (`shadowcat::wire`, `shadowcat::net`).

mod answer;
mod args;
mod client;
mod fault;
mod message;
mod outcome;
mod pace;
mod progress;
mod report;
mod run;
mod scenario;
mod schedule;
mod tally;
mod target;
mod thread;
mod user;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use args::Args;
use outcome::{Outcome, Verdict};
use progress::Progress;
use scenario::{Pace, Scenario};
use target::Target;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_ERRORS: u8 = 3;
const EXIT_THRESHOLD: u8 = 4;
const EXIT_SCENARIO: u8 = 78;

/// Descriptors besides those of connections.
const DESCRIPTORS_ELSE: u64 = 64;

/// Why nothing came of it.
struct Failure {
    code: u8,
    message: String,
}

fn failure(code: u8, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

fn main() -> ExitCode {
    // One provider for the whole process, before anything can ask rustls for its default.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match execute(&Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("loadtest: {}", failure.message.trim_end());
            ExitCode::from(failure.code)
        }
    }
}

fn execute(args: &Args) -> Result<u8, Failure> {
    if args.list {
        let all: Vec<_> = scenario::built_in().collect();
        let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        all.iter().for_each(|(name, about)| println!("{name:<width$}  {about}"));
        return Ok(0);
    }
    let scenario = Arc::new(scenario_of(args)?);
    if args.check {
        println!("{}: {}", scenario.name, scenario.about);
        return Ok(0);
    }
    let targets = targets(args, &scenario)?;
    allow_descriptors(&scenario)?;
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let outcomes = run_all(args, &scenario, &targets)?;
    let verdicts = outcome::verdicts(&scenario, &outcomes);
    write(args, &scenario, &outcomes, &verdicts, &started)?;
    Ok(code(&verdicts))
}

fn scenario_of(args: &Args) -> Result<Scenario, Failure> {
    let wanted = args.scenario.as_deref().unwrap_or_default();
    let mut scenario = scenario::load(wanted).map_err(|problems| {
        let count = problems.len();
        let text: String = problems.iter().take(50).map(ToString::to_string).collect();
        failure(EXIT_SCENARIO, format!("the scenario has {count} error{}\n\n{text}", if count == 1 { "" } else { "s" }))
    })?;
    scenario.duration = args.duration.unwrap_or(scenario.duration);
    scenario.warmup = args.warmup.unwrap_or(scenario.warmup);
    scenario.threads = args.threads.map_or(scenario.threads, |threads| threads as usize);
    if args.connections.is_some() || args.rate.is_some() {
        let [users] = &mut scenario.users[..] else {
            let message = "--connections and --rate are for scenarios with one group of users; change the file instead";
            return Err(failure(EXIT_USAGE, message));
        };
        users.connections = args.connections.map_or(users.connections, |connections| connections as usize);
        if let Some(rate) = args.rate {
            if !rate.is_finite() || rate <= 0.0 {
                return Err(failure(EXIT_USAGE, "--rate: expected a number above 0"));
            }
            users.pace = Pace::Open { rate, poisson: matches!(users.pace, Pace::Open { poisson: true, .. }) };
        }
    }
    Ok(scenario)
}

fn targets(args: &Args, scenario: &Scenario) -> Result<Vec<Target>, Failure> {
    if args.target.is_empty() && args.direct.is_none() {
        return Err(failure(EXIT_USAGE, "no target: --target http://127.0.0.1:8080/mcp"));
    }
    let all = args.target.iter().map(|text| (text, false)).chain(args.direct.iter().map(|text| (text, true)));
    let targets = all.map(|(text, is_direct)| Target::new(text, is_direct, args.ca.as_deref(), scenario.timeout));
    let targets = targets.collect::<Result<Vec<_>, _>>().map_err(|error| failure(EXIT_USAGE, error))?;
    for (index, target) in targets.iter().enumerate() {
        if targets[..index].iter().any(|other| other.name == target.name) {
            let message = format!("two targets are called `{}`: give them names (--target a=http://...)", target.name);
            return Err(failure(EXIT_USAGE, message));
        }
    }
    Ok(targets)
}

/// Every connection takes a descriptor, and its user may not be asked to raise the limit if it can be done here.
fn allow_descriptors(scenario: &Scenario) -> Result<(), Failure> {
    let connections: usize = scenario.users.iter().map(|users| users.connections).sum();
    let wanted = connections as u64 + DESCRIPTORS_ELSE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised =
        Rlimit { current: limit.maximum.map_or(Some(wanted), |most| Some(most.min(wanted))), maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    match getrlimit(Resource::Nofile).current {
        Some(current) if current < wanted => {
            let message =
                format!("{connections} connections need {wanted} descriptors, and {current} are allowed (ulimit -n)");
            Err(failure(EXIT_FAILED, message))
        }
        _ => Ok(()),
    }
}

/// All targets in turn, so many times.
fn run_all(args: &Args, scenario: &Arc<Scenario>, targets: &[Target]) -> Result<Vec<Outcome>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    listen_for_interrupt(&interrupted);
    let mut outcomes: Vec<Option<Outcome>> = targets.iter().map(|_| None).collect();
    let mut progress = Progress::new(args.quiet);
    for round in 0..args.rounds {
        // Whoever is first in a round is another one each time.
        for turn in 0..targets.len() {
            let index = (turn + round as usize) % targets.len();
            let target = &targets[index];
            if interrupted.load(Ordering::Relaxed) {
                break;
            }
            let which = if args.rounds > 1 { format!(" {}/{}", round + 1, args.rounds) } else { String::new() };
            progress.begin(format!("{}{which}", target.name), scenario.duration);
            let outcome = run::once(scenario, target, args.choice(), &interrupted, &mut progress);
            let outcome = outcome.map_err(|error| failure(EXIT_FAILED, error))?;
            match &mut outcomes[index] {
                Some(all) => all.add(outcome),
                none => *none = Some(outcome),
            }
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// The first interrupt ends the run and shows what there is; the second ends the program.
fn listen_for_interrupt(interrupted: &Arc<AtomicBool>) {
    use signal_hook::{consts::SIGINT, flag};
    let _ = flag::register_conditional_default(SIGINT, interrupted.clone());
    let _ = flag::register(SIGINT, interrupted.clone());
}

fn write(
    args: &Args,
    scenario: &Scenario,
    outcomes: &[Outcome],
    verdicts: &[Verdict],
    started: &str,
) -> Result<(), Failure> {
    let document = report::document(scenario, outcomes, verdicts, started);
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let save = |path: &Path, text: String| {
        std::fs::write(path, text)
            .map_err(|error| failure(EXIT_FAILED, format!("cannot write {}: {error}", path.display())))
    };
    if to_stdout {
        println!("{document:#}");
    } else {
        print!("{}", report::text(scenario, outcomes, verdicts));
        if let Some(path) = &args.json {
            save(path, format!("{document:#}\n"))?;
        }
    }
    match &args.html {
        Some(path) => save(path, report::page(&document)),
        None => Ok(()),
    }
}

fn code(verdicts: &[Verdict]) -> u8 {
    let failed = |is_errors| verdicts.iter().any(|verdict| !verdict.passed && verdict.is_errors == is_errors);
    match (failed(true), failed(false)) {
        (true, _) => EXIT_ERRORS,
        (false, true) => EXIT_THRESHOLD,
        (false, false) => 0,
    }
}
