//! All that is on its way to the logs, and what became of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::events::Events;
use super::outbox::{Doorbell, Journal};

/// Made once, before the first worker.
pub struct Logs {
    pub events: Events,
}

/// What became of the lines of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The label `log` in metrics.
    pub kind: &'static str,
    pub written: u64,
    /// There was no room for them.
    pub no_room: u64,
    /// Writing them failed.
    pub unwritten: u64,
}

impl Logs {
    pub fn new(events: Arc<Doorbell>) -> Logs {
        Logs { events: Events::new(events) }
    }

    pub fn tallies(&self) -> Vec<Tally> {
        vec![tally("events", self.events.journal())]
    }
}

fn tally<T>(kind: &'static str, journal: &Journal<T>) -> Tally {
    Tally {
        kind,
        written: journal.delivered.load(Relaxed),
        no_room: journal.lost(),
        unwritten: journal.failed.load(Relaxed),
    }
}
