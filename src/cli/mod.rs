//! L6: the command line, one file a command.

mod admin;
mod args;
mod auth;
mod config;
mod demo;
mod doctor;
mod forward;
mod health;
mod print;
mod replay;
mod serve;
mod tape;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, ServerArgs};

/// The hidden command that checks a session store in a process of its own.
const STORE_CHECK: &str = "store-check";
/// Wrong usage, as clap has it.
const EXIT_USAGE: u8 = 2;
/// A configuration that cannot work (`EX_CONFIG` of sysexits).
const EXIT_CONFIG: u8 = 78;

/// Why a command failed, and the exit code that says so.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    fn config(message: String) -> Failure {
        Failure { code: EXIT_CONFIG, message }
    }
}

/// Do what the arguments say.
///
/// # Errors
/// The message for the operator and the exit code: 1 at run time, 2 usage, 69 address in use, 78 configuration.
pub fn run() -> Result<ExitCode, Failure> {
    let Cli { command } = Cli::parse();
    match command {
        Some(Command::Reverse(args)) => serve::run(&args),
        Some(Command::Gateway(args)) => serve::run(&args),
        Some(Command::Forward(command)) => forward::run(&command),
        Some(Command::Config(command)) => config::run(&command),
        Some(Command::Metrics) => print::print(&crate::telemetry::families::reference()),
        Some(Command::Auth(command)) => auth::run(&command),
        Some(Command::Admin(args)) => admin::run(&args),
        Some(Command::Health(args)) => health::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Tape(command)) => tape::run(&command),
        Some(Command::Completions { shell }) => print::completions(shell),
        Some(Command::Man) => print::man(),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Guard(args)) => forward::guard(&args),
        Some(Command::StoreCheck { directory }) => Ok(store_check(&directory)),
        None => run_the_mode_of_the_environment(),
    }
}

/// No arguments: `SHADOWCAT_MODE` says what to start, as in a container.
fn run_the_mode_of_the_environment() -> Result<ExitCode, Failure> {
    match std::env::var("SHADOWCAT_MODE").as_deref() {
        Ok("reverse" | "gateway") => serve::run(&ServerArgs::default()),
        Ok(other) if !other.is_empty() => {
            Err(Failure { code: EXIT_USAGE, message: format!("SHADOWCAT_MODE={other}: reverse or gateway") })
        }
        // Set to nothing is not set, as everywhere.
        _ => {
            eprintln!("{}", Cli::command().render_help());
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}

fn store_check(directory: &Path) -> ExitCode {
    crate::store::check_main(directory)
}
