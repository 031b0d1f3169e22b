//! `demo`: the built-in MCP server alone.

use std::process::ExitCode;

use super::Failure;
use super::args::DemoArgs;
use crate::demo;

/// # Errors
/// The address cannot be bound.
pub fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let running = demo::spawn(args.bind, args.workers).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::AddrInUse { super::serve::EXIT_UNAVAILABLE } else { 1 };
        Failure { code, message: format!("{}: {error}", args.bind) }
    })?;
    eprintln!("demo MCP server listening on http://{}/mcp", running.address);
    running.join();
    Ok(ExitCode::SUCCESS)
}
