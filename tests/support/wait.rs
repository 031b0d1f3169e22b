//! Waiting for a state of another process.

use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen: far above what it takes, so that a loaded machine changes no result.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long something that must not happen is waited for.
pub const QUIET: Duration = Duration::from_millis(250);

/// Ask until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        // The state of another process sends no event: ask again shortly.
        thread::park_timeout(Duration::from_millis(4));
    }
}

/// Ask until it is so.
pub fn wait_until(what: &str, mut ask: impl FnMut() -> bool) {
    wait_for(what, || ask().then_some(()));
}
