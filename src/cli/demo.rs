//! `demo`: the built-in MCP server alone.

use std::process::ExitCode;

use super::args::DemoArgs;
use super::{Failure, print};
use crate::demo::Demo;
use crate::net::driver::Choice;

/// # Errors
/// The address cannot be bound.
pub fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let driver = match args.driver.as_str() {
        "io_uring" => Choice::IoUring,
        "epoll" => Choice::Epoll,
        _ => Choice::Auto,
    };
    let demo = Demo { workers: args.workers as usize, driver, ..Demo::new(args.bind) };
    let running = demo.spawn().map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::AddrInUse { super::serve::EXIT_UNAVAILABLE } else { 1 };
        Failure { code, message: format!("{}: {error}", args.bind) }
    })?;
    print::say(&format!("demo MCP server listening on http://{}/mcp", running.address));
    running.join();
    Ok(ExitCode::SUCCESS)
}
