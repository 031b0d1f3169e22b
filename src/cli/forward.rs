//! `forward`: stand in front of one server for one client, on this machine.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Failure;
use crate::stdio;

#[derive(Clone, Debug, Subcommand)]
pub enum ForwardCommand {
    /// Start a server that speaks over stdin and stdout, and pass everything on both ways, signals and exit code too
    Stdio(StdioArgs),
}

#[derive(Clone, Debug, Args)]
pub struct StdioArgs {
    /// How long the server may take to end once the client closed its stdin: then SIGTERM, and after as long again SIGKILL
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// The server and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// # Errors
/// The system refuses pipes, processes or threads.
pub fn run(command: &ForwardCommand) -> Result<ExitCode, Failure> {
    let ForwardCommand::Stdio(args) = command;
    let code = stdio::forward(args.server(), None)
        .map_err(|error| Failure { code: 1, message: format!("forward stdio: {error}") })?;
    Ok(ExitCode::from(code))
}

impl StdioArgs {
    pub fn server(&self) -> stdio::Server {
        let (program, arguments) = self.command.split_first().expect("clap asks for one");
        stdio::Server { program: program.clone(), arguments: arguments.to_vec(), grace: self.grace }
    }
}
