//! `replay`: a tape as an MCP server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::{Failure, print};
use crate::config;
use crate::config::schema::DRIVERS;
use crate::net::driver::Choice;
use crate::replay::{self, Script, Speed};
use crate::wire::tape::Transport;

#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The recording
    #[arg(value_name = "TAPE")]
    tape: PathBuf,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000", value_parser = config::address, conflicts_with = "stdio")]
    bind: SocketAddr,
    /// Speak over stdin and stdout, whatever the tape was recorded of
    #[arg(long)]
    stdio: bool,
    /// How fast: realtime, fast (nothing is waited for), or a factor such as 2x
    #[arg(long, value_name = "SPEED", default_value = "realtime", value_parser = Speed::parse)]
    speed: Speed,
    /// How to do I/O
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = PossibleValuesParser::new(DRIVERS))]
    driver: String,
}

/// # Errors
/// The tape cannot be read, or the address not be bound.
pub fn run(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let script = Script::read(&args.tape).map_err(|error| Failure { code: 1, message: error.to_string() })?;
    let name = args.tape.display();
    for (count, what) in [
        (script.damaged, "lines cannot be read"),
        (script.lost, "frames were not recorded"),
        (script.cut, "messages of the client were not kept whole (record.body_bytes)"),
    ] {
        if count > 0 {
            eprintln!("shadowcat: {name}: {count} {what}, and are missing here");
        }
    }
    if script.calls() == 0 {
        return Err(Failure {
            code: 1,
            message: format!("{name}: there is no request on this tape, so nothing to replay"),
        });
    }
    let script = Arc::new(script);
    if args.stdio {
        replay::serve_stdio(script, args.speed)
            .map_err(|error| Failure { code: 1, message: format!("replay: {error}") })?;
        return Ok(ExitCode::SUCCESS);
    }
    let choice = match args.driver.as_str() {
        "io_uring" => Choice::IoUring,
        "epoll" => Choice::Epoll,
        _ => Choice::Auto,
    };
    let (calls, transport) = (script.calls(), script.head.transport);
    let (running, path) = replay::spawn(script, args.speed, args.bind, choice).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::AddrInUse { super::serve::EXIT_UNAVAILABLE } else { 1 };
        Failure { code, message: format!("{}: {error}", args.bind) }
    })?;
    let of = if transport == Transport::Stdio { "stdio" } else { "HTTP" };
    print::say(&format!("replay of {name} ({of}, {calls} requests) listening on http://{}{path}", running.address));
    running.join();
    Ok(ExitCode::SUCCESS)
}
