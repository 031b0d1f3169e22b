//! A proxy process, scripted upstreams, and a client that speaks bytes.

mod client;
mod mcp;
mod proxy;
mod upstream;

use std::thread;
use std::time::{Duration, Instant};

pub use client::*;
pub use mcp::*;
pub use proxy::*;
pub use upstream::*;

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long something that must not happen is waited for.
pub const QUIET: Duration = Duration::from_millis(300);

/// Ask until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The first value of a field of a head.
pub fn field(head: &str, name: &str) -> Option<String> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}
