//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use shadowcat::net::driver::Choice;

/// MCP load: open loop or closed loop, both protocol eras, answers checked.
///
/// Exit code: 0 all is well; 1 it could not run; 2 usage; 3 more errors than the scenario allows; 4 a threshold was
/// missed; 78 the scenario is wrong.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, max_term_width = 110)]
pub struct Args {
    /// A scenario file, or the name of one that comes along (see --list)
    #[arg(required_unless_present = "list")]
    pub scenario: Option<String>,

    /// What to load: the URL of an MCP endpoint, with a name in front if you like (proxy=http://127.0.0.1:8080/mcp).
    /// Several are run one after the other and shown together
    #[arg(long, value_name = "[NAME=]URL")]
    pub target: Vec<String>,

    /// The same server without what is in front of it: tells what that adds
    #[arg(long, value_name = "[NAME=]URL")]
    pub direct: Option<String>,

    /// Run all targets so many times in turn and add the rounds up: what a shared machine does meanwhile meets all alike
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Take the place of the scenario's duration
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,

    /// Take the place of the scenario's warm-up
    #[arg(long, value_name = "TIME", value_parser = time_or_zero)]
    pub warmup: Option<Duration>,

    /// Take the place of the scenario's connections (of a scenario with one group of users)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub connections: Option<u64>,

    /// Take the place of the scenario's rate, a second (of a scenario with one group of users)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub rate: Option<f64>,

    /// Threads that make the load
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    pub threads: Option<u64>,

    /// auto, io_uring or epoll
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = ["auto", "io_uring", "epoll"])]
    pub driver: String,

    /// Authorities to trust in place of the system's, a PEM file
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Write the result as JSON (- for standard output, in place of the tables)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the result as one HTML page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// No progress
    #[arg(long, short)]
    pub quiet: bool,

    /// Check the scenario and end
    #[arg(long)]
    pub check: bool,

    /// The scenarios that come along
    #[arg(long)]
    pub list: bool,
}

impl Args {
    pub fn choice(&self) -> Choice {
        match self.driver.as_str() {
            "io_uring" => Choice::IoUring,
            "epoll" => Choice::Epoll,
            _ => Choice::Auto,
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    shadowcat::config::duration(text, false)
}

fn time_or_zero(text: &str) -> Result<Duration, String> {
    shadowcat::config::duration(text, true)
}
