//! L3: the session store, the only LMDB code.
//!
//! Workers read in place (a read transaction is begun and dropped per look-up, never held) and write through one writer
//! thread, which commits what waits in groups and then wakes all who wait. What a client was told is on disk first.
//!
//! ```text
//! worker --find--> LMDB map            worker --create/end/touch--> bounded queue --> writer --commit--> LMDB
//!                                              <-------- completion (oneshot) --------'
//! ```

mod clock;
mod environment;
mod record;
mod writer;

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam::channel::{Sender, bounded};
use futures_channel::oneshot;

use crate::base::SessionId;
use crate::telemetry::StoreCells;
pub use clock::{Clock, coarse_ms};
use environment::Environment;
pub use environment::check_main;
pub use record::{Principal, Record, Transport};
use writer::{Move, Write};

/// Writes that may wait; beyond, new sessions are refused.
const QUEUE: usize = 8192;
/// Ended sessions of sealed ids that are remembered, at least; at most twice as many. 50 bytes each.
const ENDED_KEPT: u64 = 65_536;

pub struct Options {
    pub place: Place,
    /// A session that is not used for this long ends.
    pub timeout: Duration,
    pub max_sessions: u64,
    pub cleanup_interval: Duration,
    /// A power cut may lose the last commits, never integrity (NO_META_SYNC).
    pub relaxed: bool,
    /// Program and first arguments that check a directory's store in a process of its own (see [`check_main`]).
    pub checker: Option<(PathBuf, Vec<OsString>)>,
    pub clock: Clock,
    /// Size of the memory map, bytes: the most that the store can ever hold. `None`: by place.
    pub map_bytes: Option<usize>,
    /// The zero of the clock that metrics are read with.
    pub started: Instant,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            place: Place::Memory,
            timeout: Duration::from_secs(300),
            max_sessions: 10_000,
            cleanup_interval: Duration::from_secs(60),
            relaxed: false,
            checker: None,
            clock: Clock::system(),
            map_bytes: None,
            started: Instant::now(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory that holds the LMDB environment; made if it is not there.
    Directory(PathBuf),
    /// The same in memory, gone with the process.
    Memory,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the session store {path} is in use by another server (pid {pid}); give this one a session.database_path of its own"
    )]
    InUse { path: String, pid: String },
    #[error(
        "the session store {path} is damaged ({why}); the damaged file is kept as {kept}; starting again begins with an empty store"
    )]
    Damaged { path: String, why: String, kept: String },
    #[error("the session store {path}: {error}")]
    Io { path: String, error: io::Error },
    #[error("the session store {path}: {error}")]
    Lmdb { path: String, error: String },
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Lmdb(String),
    #[error("a session's record is damaged or of a newer version")]
    Record,
    #[error("the store is being opened anew")]
    OpeningAnew,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error("too many writes wait")]
    Busy,
    #[error("{0}")]
    Commit(String),
    #[error("the store is closed")]
    Closed,
}

/// What the store knows of a session whose id says by itself what it is (`wire::sealed`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Live(Record),
    /// It ended here; its id is to open nothing more.
    Ended,
    /// Begun elsewhere, not used here for `timeout`, or not kept for want of room.
    Unknown,
}

/// What a scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub active: u64,
    pub created_total: u64,
    pub adopted_total: u64,
    pub ended_total: u64,
    pub expired_total: u64,
    pub commits_total: u64,
    pub commit_failures_total: u64,
    pub touches_dropped_total: u64,
    pub adoptions_dropped_total: u64,
    pub entries: u64,
    pub used_bytes: u64,
    pub map_bytes: u64,
    /// Writes that wait, and how many may.
    pub queue: (u64, u64),
}

/// One for all workers; clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    queue: Sender<Write>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Inner {
    /// None while the writer opens it anew.
    environment: ArcSwapOption<Environment>,
    timeout_ms: u64,
    touch_interval: Duration,
    max_sessions: u64,
    clock: clock::StoreClock,
    /// Sessions that live, and those that may begin: what `max_sessions` bounds.
    taken: AtomicU64,
    ended_epoch: AtomicU64,
    counters: Counters,
    started: Instant,
    /// Written by the writer alone.
    cells: StoreCells,
}

#[derive(Default)]
struct Counters {
    active: AtomicU64,
    created: AtomicU64,
    adopted: AtomicU64,
    ended: AtomicU64,
    expired: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    touches_dropped: AtomicU64,
    adoptions_dropped: AtomicU64,
}

impl Store {
    /// Open or make the store, and start its writer.
    ///
    /// # Errors
    /// Another server has it; it is damaged (and has been put aside); the place cannot be used.
    pub fn open(options: Options) -> Result<Store, OpenError> {
        let environment = Environment::open(&options)?;
        let saved = environment.saved_clock();
        let clock = clock::StoreClock::resume(options.clock.clone(), saved);
        let touch_interval = (options.timeout / 8).clamp(Duration::from_millis(50), Duration::from_secs(30));
        let live = environment.count().map_err(|error| environment.open_error(error.to_string()))?;
        let inner = Arc::new(Inner {
            environment: ArcSwapOption::from_pointee(environment),
            timeout_ms: options.timeout.as_millis() as u64,
            touch_interval,
            max_sessions: options.max_sessions,
            clock,
            taken: AtomicU64::new(live),
            ended_epoch: AtomicU64::new(0),
            counters: Counters { active: AtomicU64::new(live), ..Counters::default() },
            started: options.started,
            cells: StoreCells::default(),
        });
        let (queue, writes) = bounded(QUEUE);
        let writer = writer::start(inner.clone(), writes, options.cleanup_interval);
        let writer = writer.map_err(|error| OpenError::Io { path: "its writer".to_owned(), error })?;
        Ok(Store { inner, queue, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Store time in milliseconds: monotonic while the process runs, going on where it was after a restart.
    pub fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    /// The live session of this id.
    pub fn find(&self, id: &SessionId) -> Result<Option<Record>, ReadError> {
        let environment = self.inner.environment.load();
        let record = environment.as_ref().ok_or(ReadError::OpeningAnew)?.find(id)?;
        Ok(record.filter(|record| !self.inner.is_expired(record, self.now_ms())))
    }

    /// What is known of a session whose id is sealed. One that timed out and was not removed yet lives: whether it is still
    /// used elsewhere is not known here.
    pub fn look_up(&self, id: &SessionId) -> Result<Found, ReadError> {
        self.inner.environment.load().as_ref().ok_or(ReadError::OpeningAnew)?.look_up(id)
    }

    /// Unix seconds.
    pub fn wall_seconds(&self) -> u64 {
        self.inner.clock.to_save().wall_ms / 1000
    }

    /// Room for one session; `None` at `max_sessions`. Given back on drop, unless a session began with it.
    pub fn reserve(&self) -> Option<Reservation> {
        let max = self.inner.max_sessions;
        let room = self.inner.taken.fetch_update(AcqRel, Acquire, |taken| (taken < max).then_some(taken + 1));
        room.ok().map(|_| Reservation { inner: Some(self.inner.clone()) })
    }

    /// Begin a session. Resolves when it is committed.
    pub fn create(&self, reservation: Reservation, id: SessionId, record: Record) -> Commit {
        self.submit(|done| Write::Create { reservation, id, record, done })
    }

    /// Keep a session that began elsewhere, unless it ended here or there is no room. Not waited for.
    pub fn adopt(&self, id: SessionId, record: Record) {
        let Some(reservation) = self.reserve() else { return };
        if self.queue.try_send(Write::Adopt { reservation, id, record }).is_err() {
            self.inner.counters.adoptions_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Let a session go on with what `record` says of its upstream, if it is still where `from` says (the upstream, and
    /// upstream's id): of two that move it at once the first wins. Resolves when that is committed; [`find`](Store::find)
    /// tells what holds.
    pub fn relocate(&self, id: SessionId, record: Record, from: (String, String)) -> Commit {
        self.submit(|done| Write::Move(Box::new(Move { id, record, from, done })))
    }

    /// End a session; fine if it is not there. Resolves when nobody finds it any more.
    pub fn end(&self, id: SessionId) -> Commit {
        self.submit(|done| Write::End { id, done })
    }

    fn submit(&self, write: impl FnOnce(oneshot::Sender<Result<(), WriteError>>) -> Write) -> Commit {
        let (done, waiting) = oneshot::channel();
        match self.queue.try_send(write(done)) {
            Ok(()) => Commit(Ok(waiting)),
            Err(_) => Commit(Err(Some(WriteError::Busy))),
        }
    }

    /// The session is in use now. Not waited for; dropped and counted if the queue is full.
    pub fn touch(&self, id: SessionId) {
        if self.queue.try_send(Write::Touch { id, at_ms: self.now_ms() }).is_err() {
            self.inner.counters.touches_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Changes after a commit that ended sessions: copies that were read before are to be read again.
    pub fn ended_epoch(&self) -> u64 {
        self.inner.ended_epoch.load(Acquire)
    }

    /// How often a session in use is to be touched. Sessions end two of these after their timeout, so that saving
    /// touches never ends one early.
    pub fn touch_interval(&self) -> Duration {
        self.inner.touch_interval
    }

    /// A new random id.
    pub fn new_id(&self) -> SessionId {
        SessionId::from_random(Store::random())
    }

    /// Random bytes for ids and nonces.
    pub fn random<const N: usize>() -> [u8; N] {
        let mut random = [0u8; N];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            // The CSPRNG cannot fail once seeded; if it ever does, ids still never repeat (keyed hashes of the kernel's
            // randomness).
            for part in random.chunks_mut(8) {
                part.copy_from_slice(&RandomState::new().build_hasher().finish().to_ne_bytes()[..part.len()]);
            }
        }
        random
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.inner.counters;
        let environment = self.inner.environment.load();
        let (used_bytes, map_bytes) = environment.as_ref().map_or((0, 0), |open| open.size());
        Stats {
            active: counters.active.load(Relaxed),
            created_total: counters.created.load(Relaxed),
            adopted_total: counters.adopted.load(Relaxed),
            ended_total: counters.ended.load(Relaxed),
            expired_total: counters.expired.load(Relaxed),
            commits_total: counters.commits.load(Relaxed),
            commit_failures_total: counters.failures.load(Relaxed),
            touches_dropped_total: counters.touches_dropped.load(Relaxed),
            adoptions_dropped_total: counters.adoptions_dropped.load(Relaxed),
            entries: environment.as_ref().and_then(|open| open.count().ok()).unwrap_or(0),
            used_bytes,
            map_bytes,
            queue: (self.queue.len() as u64, QUEUE as u64),
        }
    }

    /// Times that the writer took.
    pub fn cells(&self) -> &StoreCells {
        &self.inner.cells
    }

    /// Commit what waits and stop the writer.
    pub fn close(self) {
        let _ = self.queue.send(Write::Close);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

impl Inner {
    fn is_expired(&self, record: &Record, now_ms: u64) -> bool {
        let slack = 2 * self.touch_interval.as_millis() as u64;
        now_ms > record.seen_ms.saturating_add(self.timeout_ms).saturating_add(slack)
    }
}

/// The right to begin one session.
pub struct Reservation {
    inner: Option<Arc<Inner>>,
}

impl Reservation {
    /// The session began: its place stays taken until it ends.
    fn keep(mut self) {
        self.inner = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(inner) = &self.inner {
            inner.taken.fetch_sub(1, AcqRel);
        }
    }
}

/// Resolves when a write is on disk, or cannot be.
pub struct Commit(Result<oneshot::Receiver<Result<(), WriteError>>, Option<WriteError>>);

impl Future for Commit {
    type Output = Result<(), WriteError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(waiting) => Pin::new(waiting).poll(cx).map(|done| done.unwrap_or(Err(WriteError::Closed))),
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(WriteError::Busy))),
        }
    }
}
