//! All that is on its way to logs and collectors, and what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::events::Events;
use super::outbox::{Doorbell, Journal};
use super::record::{Audited, Record};
use super::spans::Sampled;

/// Lines of the access log that wait at most, a worker: more than it makes in the time that lines gather.
const ACCESS_PLACES: usize = 4096;
/// The same where only errors have lines.
const ERROR_PLACES: usize = 1024;
/// Records of the audit log that wait at most, a worker.
const AUDIT_PLACES: usize = 4096;
/// Sampled requests that wait at most, a worker.
const SPAN_PLACES: usize = 2048;

/// Made once, before the first worker.
pub struct Logs {
    pub events: Events,
    /// `None`: no request gets a line.
    pub access: Option<Journal<Record>>,
    /// `None`: tool calls are not recorded.
    pub audit: Option<Journal<Audited>>,
    /// `None`: nothing is traced.
    pub spans: Option<Journal<Box<Sampled>>>,
    pub span_counts: SpanCounts,
}

/// What became of spans. Written by the thread that sends them.
#[derive(Debug, Default)]
pub struct SpanCounts {
    pub exported: AtomicU64,
    /// The collector did not want them.
    pub rejected: AtomicU64,
    /// It could not be reached, or had no room, for as long as they were kept.
    pub unavailable: AtomicU64,
    /// Batches that were sent once more.
    pub retries: AtomicU64,
}

/// What there is, and who is woken to empty it.
pub struct Wanted {
    pub workers: usize,
    pub events: Arc<Doorbell>,
    pub access: Option<(Arc<Doorbell>, Access)>,
    pub audit: Option<Arc<Doorbell>>,
    pub spans: Option<Arc<Doorbell>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    All,
    Errors,
}

/// What became of the lines of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineCounts {
    /// The label `log` in metrics.
    pub kind: &'static str,
    pub written: u64,
    /// There was no room for them.
    pub no_room: u64,
    /// Writing them failed.
    pub unwritten: u64,
}

impl Logs {
    pub fn new(wanted: Wanted) -> Logs {
        let Wanted { workers, events, access, audit, spans } = wanted;
        let places = |access| if access == Access::All { ACCESS_PLACES } else { ERROR_PLACES };
        Logs {
            events: Events::new(events),
            access: access.map(|(bell, access)| Journal::new(workers, places(access), bell)),
            audit: audit.map(|bell| Journal::new(workers, AUDIT_PLACES, bell)),
            spans: spans.map(|bell| Journal::new(workers, SPAN_PLACES, bell)),
            span_counts: SpanCounts::default(),
        }
    }

    pub fn line_counts(&self) -> Vec<LineCounts> {
        let mut counts = vec![count("events", self.events.journal())];
        counts.extend(self.access.as_ref().map(|journal| count("access", journal)));
        counts.extend(self.audit.as_ref().map(|journal| count("audit", journal)));
        counts
    }
}

fn count<T>(kind: &'static str, journal: &Journal<T>) -> LineCounts {
    LineCounts {
        kind,
        written: journal.delivered.load(Relaxed),
        no_room: journal.lost(),
        unwritten: journal.failed.load(Relaxed),
    }
}
