//! Counters without contention: each worker writes its own cells with plain stores, a scrape adds them up.

use super::account::{By, METHODS, Outcome, Split};
use super::histogram::{self, Histogram};
use super::tally::{Count, Tally};
use std::time::Duration;

/// What went wrong with a request at an upstream: the label `error` of `shadowcat_proxy_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// No connection: refused, unreachable, or the TLS handshake failed.
    Connect,
    /// No connection, no answer, or no next byte in time.
    Timeout,
    /// Closed or reset before the whole answer was there.
    Closed,
    /// Not HTTP/1.1, or ambiguous framing.
    Protocol,
    /// All its connections are in use.
    Busy,
}

impl Fault {
    pub const ALL: [Fault; 5] = [Fault::Connect, Fault::Timeout, Fault::Closed, Fault::Protocol, Fault::Busy];

    pub fn label(self) -> &'static str {
        match self {
            Fault::Connect => "connect",
            Fault::Timeout => "timeout",
            Fault::Closed => "closed",
            Fault::Protocol => "protocol",
            Fault::Busy => "busy",
        }
    }
}

/// A state of a breaker: the label `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    pub const ALL: [BreakerState; 3] = [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen];

    pub fn label(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// Where time goes: the label `part`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    Queue,
    Connect,
    Upstream,
    Own,
}

impl Part {
    pub const ALL: [Part; 4] = [Part::Queue, Part::Connect, Part::Upstream, Part::Own];

    pub fn label(self) -> &'static str {
        match self {
            Part::Queue => "queue",
            Part::Connect => "connect",
            Part::Upstream => "upstream",
            Part::Own => "own",
        }
    }

    fn of(self, split: &Split) -> Duration {
        match self {
            Part::Queue => split.queue,
            Part::Connect => split.connect,
            Part::Upstream => split.upstream,
            Part::Own => split.own,
        }
    }
}

/// What one worker counts of one upstream.
#[derive(Default)]
pub struct UpstreamCells {
    /// Tries: a request that moves on is counted where it goes.
    pub requests: Count,
    /// From the request's head to the end of the answer; of a stream without end to the end of its head.
    pub duration: Histogram,
    pub connects: Count,
    pub reuses: Count,
    pub retries: Count,
    pub idle: Count,
    faults: [Count; Fault::ALL.len()],
    outcomes: [Count; Outcome::ALL.len()],
    /// Changes of a breaker to this state.
    breaker: [Count; BreakerState::ALL.len()],
    /// Microseconds.
    parts: [Count; Part::ALL.len()],
}

impl UpstreamCells {
    pub fn fault(&self, fault: Fault) {
        self.faults[fault as usize].add(1);
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].value()
    }

    pub fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].add(1);
    }

    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].value()
    }

    pub fn breaker_is(&self, state: BreakerState) {
        self.breaker[state as usize].add(1);
    }

    pub fn breaker_changes(&self, state: BreakerState) -> u64 {
        self.breaker[state as usize].value()
    }

    pub fn took(&self, split: &Split, now: Duration) {
        self.duration.record(split.total, now);
        for (part, count) in Part::ALL.into_iter().zip(&self.parts) {
            count.add(part.of(split).as_micros() as u64);
        }
    }

    pub fn part_seconds(&self, part: Part) -> f64 {
        self.parts[part as usize].value() as f64 / 1e6
    }
}

/// What the writer of the session store counts.
pub struct StoreCells {
    /// Of sessions that ended.
    pub lives: Histogram,
    pub commits: Histogram,
}

impl Default for StoreCells {
    fn default() -> StoreCells {
        StoreCells { lives: Histogram::new(&histogram::LIVES), commits: Histogram::new(&histogram::PARTS) }
    }
}

/// What one worker counts of one MCP method, or of one tool.
#[derive(Default)]
pub struct CallCells {
    outcomes: [Count; Outcome::ALL.len()],
    pub duration: Histogram,
}

impl CallCells {
    pub fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].add(1);
    }

    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].value()
    }
}

/// Answers by status.
pub struct Statuses([Count; 600 - Statuses::FIRST]);

impl Statuses {
    const FIRST: usize = 100;

    pub fn count(&self, status: u16) {
        // 0: there was no answer.
        if let Some(count) = usize::from(status).checked_sub(Self::FIRST).and_then(|at| self.0.get(at)) {
            count.add(1);
        }
    }

    /// Those that there were.
    pub fn values(&self) -> impl Iterator<Item = (u16, u64)> {
        let values = self.0.iter().enumerate().map(|(at, count)| ((at + Self::FIRST) as u16, count.value()));
        values.filter(|(_, count)| *count > 0)
    }
}

/// What one worker counts of its clients; on cache lines of its own.
#[repr(align(128))]
pub struct WorkerCells {
    pub connections: Count,
    pub accepted: Count,
    pub accept_errors: Count,
    /// Rests of the accept loop, for want of descriptors or of places for connections.
    pub accept_pauses: Count,
    pub panics: Count,
    /// Counts up while the worker is alive.
    pub heartbeat: Count,
    /// Its thread, as the kernel numbers it.
    pub thread: Count,
    /// Requests of all kinds, also those that no upstream saw.
    pub requests: Count,
    /// Open event streams.
    pub streams: Count,
    /// Requests that wait for a place at an upstream.
    pub queued: Count,
    /// Reads that were not sent to another upstream for want of a budget.
    pub retries_denied: Count,
    pub bytes_in: Count,
    pub bytes_out: Count,
    pub statuses: Statuses,
    ended: [Count; By::ALL.len()],
    /// The parts of requests that upstream was asked for; of queue and connect only where there was a wait.
    pub parts: [Histogram; Part::ALL.len()],
    /// By method; those of `tools/call` are of the tools that have no name of their own.
    pub calls: [CallCells; METHODS.len()],
    /// JSON-RPC errors by code.
    pub rpc_errors: Tally<i32>,
    /// Refused by a rate limit, by kind: who has no name of his own.
    pub limited: Tally<&'static str>,
    pub refusals: Tally<&'static str>,
    pub denials: Tally<&'static str>,
    pub handshakes: Tally<&'static str>,
    pub logins: Tally<&'static str>,
}

impl Default for WorkerCells {
    fn default() -> WorkerCells {
        WorkerCells {
            connections: Count::default(),
            accepted: Count::default(),
            accept_errors: Count::default(),
            accept_pauses: Count::default(),
            panics: Count::default(),
            heartbeat: Count::default(),
            thread: Count::default(),
            requests: Count::default(),
            streams: Count::default(),
            queued: Count::default(),
            retries_denied: Count::default(),
            bytes_in: Count::default(),
            bytes_out: Count::default(),
            statuses: Statuses(std::array::from_fn(|_| Count::default())),
            ended: Default::default(),
            parts: std::array::from_fn(|_| Histogram::new(&histogram::PARTS)),
            calls: std::array::from_fn(|_| CallCells::default()),
            rpc_errors: Tally::default(),
            limited: Tally::default(),
            refusals: Tally::default(),
            denials: Tally::default(),
            handshakes: Tally::default(),
            logins: Tally::default(),
        }
    }
}

impl WorkerCells {
    /// Count a refusal by reason.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.count(reason);
    }

    /// Count a credential that was not taken, by reason.
    pub fn denied(&self, reason: &'static str) {
        self.denials.count(reason);
    }

    /// Count a TLS handshake by how it ended.
    pub fn handshake(&self, outcome: &'static str) {
        self.handshakes.count(outcome);
    }

    /// Count a login of a browser by how it ended.
    pub fn login(&self, outcome: &'static str) {
        self.logins.count(outcome);
    }

    pub fn ended(&self, by: By) {
        self.ended[by as usize].add(1);
    }

    pub fn ended_by(&self, by: By) -> u64 {
        self.ended[by as usize].value()
    }

    /// Where the time of a request went; `was_asked`: upstream was sent it.
    pub fn took(&self, split: &Split, was_asked: bool, now: Duration) {
        for (part, histogram) in Part::ALL.into_iter().zip(&self.parts) {
            let (took, is_wait) = (part.of(split), matches!(part, Part::Queue | Part::Connect));
            let happened = if is_wait { !took.is_zero() } else { was_asked };
            if happened {
                histogram.record(took, now);
            }
        }
    }
}
