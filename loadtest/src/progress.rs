//! What is told on stderr while it runs: one line that changes on a terminal, else a line now and then.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::outcome::nanoseconds;
use crate::tally::Interval;

/// How often, on a terminal and elsewhere.
const TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(5);

pub struct Progress {
    quiet: bool,
    terminal: bool,
    what: String,
    duration: Duration,
    told: Option<Instant>,
    /// Since it was told.
    since: Interval,
    intervals: u32,
    bad: u64,
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        let terminal = stderr().is_terminal();
        Progress {
            quiet,
            terminal,
            what: String::new(),
            duration: Duration::ZERO,
            told: None,
            since: Interval::default(),
            intervals: 0,
            bad: 0,
        }
    }

    pub fn begin(&mut self, what: String, duration: Duration) {
        *self = Progress { what, duration, ..Progress::new(self.quiet) };
    }

    pub fn warming(&mut self, passed: Duration, warmup: Duration) {
        if self.terminal && !warmup.is_zero() {
            self.say(&format!("warming up, {:.1} of {:.1} s", passed.as_secs_f64(), warmup.as_secs_f64()));
        }
    }

    /// The `number`th interval, from 1.
    pub fn interval(&mut self, interval: &Interval, length: Duration, number: usize) {
        // Connections are a level; the rest adds up.
        self.since.connections = 0;
        self.since.add(interval);
        self.intervals += 1;
        self.bad += interval.bad;
        let pause = if self.terminal { TERMINAL } else { ELSEWHERE };
        if self.told.is_some_and(|told| told.elapsed() < pause) {
            return;
        }
        self.told = Some(Instant::now());
        let since = std::mem::take(&mut self.since);
        let seconds = length.as_secs_f64() * f64::from(std::mem::take(&mut self.intervals));
        let quantile = |quantile| nanoseconds(since.latency.value_at_quantile(quantile) as f64);
        let mut text = format!(
            "{:>5.1} of {:.1} s {:>8.0}/s  p50 {:>7}  p99 {:>7}  {} open",
            length.as_secs_f64() * number as f64,
            self.duration.as_secs_f64(),
            since.good as f64 / seconds,
            quantile(0.5),
            quantile(0.99),
            since.connections,
        );
        if since.events > 0 {
            text += &format!("  {:.0} events/s", since.events as f64 / seconds);
        }
        if self.bad > 0 {
            text += &format!("  {} errors", self.bad);
        }
        self.say(&text);
    }

    /// The line that changed is of no use any more.
    pub fn end(&mut self) {
        if self.terminal && !self.quiet {
            eprint!("\r\x1b[K");
            let _ = stderr().flush();
        }
    }

    fn say(&self, text: &str) {
        match (self.quiet, self.terminal) {
            (true, _) => {}
            (false, true) => {
                eprint!("\r\x1b[K{}: {text}", self.what);
                let _ = stderr().flush();
            }
            (false, false) => eprintln!("{}: {text}", self.what),
        }
    }
}
