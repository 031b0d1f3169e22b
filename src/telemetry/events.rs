//! What the program says of itself (`tracing`), as lines on their way to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::outbox::{Doorbell, Journal};

/// Lines that wait at most, and their bytes.
const LINES_MAX: usize = 4096;
const BYTES_MAX: usize = 4 << 20;

/// Lines as they were formatted, each with its end. A line is an exception, not the steady state: it may cost an allocation.
pub struct Events {
    journal: Journal<Box<[u8]>>,
    waiting: AtomicUsize,
}

impl Events {
    pub fn new(bell: Arc<Doorbell>) -> Events {
        Events { journal: Journal::new(1, LINES_MAX, bell), waiting: AtomicUsize::new(0) }
    }

    /// From whatever thread; never waits.
    pub fn leave(&self, line: Box<[u8]>) {
        let bytes = line.len();
        if self.waiting.fetch_add(bytes, Relaxed) + bytes > BYTES_MAX {
            self.waiting.fetch_sub(bytes, Relaxed);
            self.journal.outbox(0).lose();
        } else if !self.journal.leave(0, line) {
            self.waiting.fetch_sub(bytes, Relaxed);
        }
    }

    pub fn take(&self) -> Option<Box<[u8]>> {
        let line = self.journal.take()?;
        self.waiting.fetch_sub(line.len(), Relaxed);
        Some(line)
    }

    pub fn journal(&self) -> &Journal<Box<[u8]>> {
        &self.journal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_bytes_are_bounded() {
        let events = Events::new(Arc::default());
        (0..5).for_each(|_| events.leave(vec![0; 1 << 20].into()));
        assert_eq!(events.journal().lost(), 1);
        while events.take().is_some() {}
        (0..LINES_MAX + 3).for_each(|_| events.leave(Box::new([0])));
        assert_eq!(events.journal().lost(), 4);
    }
}
