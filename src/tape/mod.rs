//! L3: tapes as files. They are read by [`read`] and the like; they are written by a recorder: what workers and copies see
//! is left in queues, one each, and one thread makes tapes of it.
//!
//! ```text
//! worker --copy--> Queue --+
//! worker --copy--> Queue --+--> thread: Assembly (messages, events) -> Rules (secrets) -> Shelf (lines, files, limits)
//! ```
//!
//! Nobody who leaves something waits: a queue without room takes nothing, and the tape says what is missing. A disk that takes
//! nothing stops the recording and nothing else.

mod assembly;
mod events;
mod file;
mod frames;
mod input;
mod limits;
mod lines;
mod part;
pub mod queue;
mod shelf;
mod thread;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::config::plan::RecordPlan;
use crate::telemetry::Doorbell;
use crate::wire::tape::Server;
pub use assembly::{CLIENT, SERVER, STDERR};
pub use input::{Error, Read, Tail, head_of, line_at, read, tail_of};
use queue::{Facts, Queue};
pub use thread::Running;

/// Ending of the names of tapes.
pub const EXTENSION: &str = "tape";

/// What those see who leave something to be recorded.
pub struct Recorder {
    queues: Box<[Queue]>,
    bell: Doorbell,
    pub counts: Arc<Counts>,
    /// Where its clock begins.
    begun: Instant,
    /// Of a body or a message so much is kept.
    pub body_bytes_max: usize,
}

/// How it goes. Written by the thread, and by whoever finds no room.
#[derive(Debug, Default)]
pub struct Counts {
    pub frames: AtomicU64,
    pub bytes: AtomicU64,
    /// Frames that found no room in a queue.
    pub no_room: AtomicU64,
    /// Frames that could not be written.
    pub unwritten: AtomicU64,
    /// Tapes that are being written.
    pub open: AtomicU64,
    /// Files that limits deleted.
    pub deleted: AtomicU64,
    /// The disk takes nothing, or has not enough room.
    pub is_stopped: AtomicBool,
    /// Of the thread.
    pub cpu_ns: AtomicU64,
}

/// The numbers that an event's text begins with.
fn numbers(text: &[u8]) -> Vec<u64> {
    let (words, _) = text.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// What is recorded.
#[derive(Clone, Debug)]
pub enum Source {
    /// A process with streams, whose name is part of the tape's.
    Stdio(Server),
    Http(Server),
}

/// Whom the recorder tells how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    Log,
    /// There is no log.
    Stderr,
}

impl Recorder {
    /// With `queues` that one thread each may use.
    fn new(plan: &RecordPlan, queues: usize) -> Recorder {
        Recorder {
            queues: std::iter::repeat_with(|| Queue::new(plan.queue_bytes)).take(queues).collect(),
            bell: Doorbell::default(),
            counts: Arc::default(),
            begun: Instant::now(),
            body_bytes_max: plan.body_bytes_max,
        }
    }

    /// `moment` on the clock of the recorder.
    #[inline]
    pub fn at(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.begun).as_nanos() as u64
    }

    /// Leave something in queue `index`; `false`: there was no room.
    #[inline]
    pub fn leave(&self, index: usize, facts: Facts, text: &[u8], head: &[u8], body: &[u8]) -> bool {
        let left = self.queues[index].put(facts, text, head, body);
        if !left {
            self.counts.no_room.fetch_add(1, Relaxed);
        }
        self.bell.ring();
        left
    }

    fn is_empty(&self) -> bool {
        self.queues.iter().all(Queue::is_empty)
    }

    /// The queue whose next event happened first. What one event led to is found behind it, whichever queues they are in:
    /// who left the second had seen the first, so it is there at the latest when one looks again.
    fn first(&self) -> Option<usize> {
        let look = || (0..self.queues.len()).filter_map(|index| Some((self.queues[index].next_at()?, index))).min();
        let mut found = look()?;
        loop {
            match look()? {
                same if same == found => return Some(found.1),
                earlier => found = earlier,
            }
        }
    }
}

/// A recording that can begin: its place is there.
pub struct Prepared {
    shelf: shelf::Shelf,
    recorder: Arc<Recorder>,
    plan: RecordPlan,
}

/// Make the place of the tapes, and a file in it where the recording is one.
///
/// # Errors
/// What is wrong with the place, for the operator.
pub fn prepare(plan: &RecordPlan, source: Source, queues: usize, voice: Voice) -> Result<Prepared, String> {
    let recorder = Arc::new(Recorder::new(plan, queues));
    let shelf = shelf::Shelf::open(plan, &source, voice, recorder.counts.clone(), recorder.begun)?;
    Ok(Prepared { shelf, recorder, plan: plan.clone() })
}

impl Prepared {
    /// The file of a recording that is one.
    pub fn file(&self) -> Option<PathBuf> {
        self.shelf.only_file()
    }

    pub fn recorder(&self) -> Arc<Recorder> {
        self.recorder.clone()
    }
}
