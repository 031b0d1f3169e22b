//! Sessions in a simulated world: what happens and what the clocks do follows from a seed, the store is the real one.
//! A failure names its seed; `SIMULATION_SEED=N cargo nextest run --test simulation` replays it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use shadowcat::base::SessionId;
use shadowcat::store::{Clock, Options, Place, Record, Store, Transport};
use tempfile::TempDir;

/// All times in milliseconds of the simulated clocks.
const TIMEOUT: u64 = 400;
/// How late a session may end: two intervals at which its use is saved.
const SLACK: u64 = 2 * 50;
const SESSIONS_MAX: usize = 12;
const STEPS: usize = 250;
const DAY: u64 = 86_400_000;

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Two clocks that the simulation turns.
#[derive(Clone, Default)]
struct Clocks {
    monotonic: Arc<AtomicU64>,
    wall: Arc<AtomicU64>,
}

impl Clocks {
    fn pass(&self, time: u64) {
        self.monotonic.fetch_add(time, SeqCst);
        self.wall.fetch_add(time, SeqCst);
    }

    fn clock(&self) -> Clock {
        let (monotonic, wall) = (self.monotonic.clone(), self.wall.clone());
        Clock {
            monotonic: Arc::new(move || Duration::from_millis(monotonic.load(SeqCst))),
            wall: Arc::new(move || Duration::from_millis(wall.load(SeqCst))),
        }
    }
}

struct World {
    random: Random,
    clocks: Clocks,
    directory: TempDir,
    store: Store,
    /// What clients know: the session, and when it was used last, in store time.
    known: BTreeMap<usize, (SessionId, u64)>,
    ended: Vec<SessionId>,
    begun: usize,
}

fn open(directory: &TempDir, clocks: &Clocks) -> Store {
    Store::open(Options {
        place: Place::Directory(directory.path().to_owned()),
        timeout: Duration::from_millis(TIMEOUT),
        max_sessions: SESSIONS_MAX as u64,
        cleanup_interval: Duration::from_millis(15),
        clock: clocks.clock(),
        ..Options::default()
    })
    .expect("a store")
}

impl World {
    fn new(seed: u64) -> World {
        let clocks = Clocks::default();
        clocks.wall.store(20_000 * DAY, SeqCst);
        let directory = TempDir::new().expect("a directory");
        let store = open(&directory, &clocks);
        World { random: Random(seed), clocks, directory, store, known: BTreeMap::new(), ended: Vec::new(), begun: 0 }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..25 => self.begin(),
            25..50 => self.touch(),
            50..60 => self.end(),
            60..90 => self.pass(),
            90..95 => self.jump(),
            _ => self.restart(),
        }
        self.check();
    }

    fn begin(&mut self) {
        let now = self.store.now_ms();
        let certain = self.known.values().filter(|(_, used)| now - used <= TIMEOUT).count();
        let Some(reservation) = self.store.reserve() else {
            // Those that have ended by their age hold their places until they are removed.
            return assert!(self.known.len() >= SESSIONS_MAX, "refused with {} sessions", self.known.len());
        };
        assert!(certain < SESSIONS_MAX, "{certain} sessions live, and one more may begin");
        let id = self.store.new_id();
        let record = Record {
            upstream: "a".into(),
            upstream_session: format!("theirs-{}", self.begun),
            protocol: String::new(),
            transport: Transport::StreamableHttp,
            principal: None,
            initialize: None,
            created_ms: now,
            seen_ms: now,
        };
        wait(self.store.create(reservation, id, record)).expect("a commit");
        self.known.insert(self.begun, (id, now));
        self.begun += 1;
    }

    fn pick(&mut self) -> Option<usize> {
        let at = self.random.below(self.known.len().max(1) as u64) as usize;
        self.known.keys().nth(at).copied()
    }

    /// As a worker does: only a session that is found is used.
    fn touch(&mut self) {
        let Some((id, used)) = self.pick().and_then(|number| self.known.get_mut(&number)) else { return };
        if self.store.find(id).expect("readable").is_none() {
            return;
        }
        self.store.touch(*id);
        *used = self.store.now_ms();
        // The time until it is saved is a part of the slack in the real world, and none in this one.
        let begun = Instant::now();
        while self.store.find(id).expect("readable").expect("a session in use").seen_ms < *used {
            assert!(begun.elapsed() < Duration::from_secs(20), "a use is never saved");
            thread::yield_now();
        }
    }

    fn end(&mut self) {
        let Some((id, _)) = self.pick().and_then(|number| self.known.remove(&number)) else { return };
        wait(self.store.end(id)).expect("a commit");
        self.ended.push(id);
    }

    fn pass(&mut self) {
        let before = self.store.now_ms();
        let time = self.random.below(TIMEOUT / 2);
        self.clocks.pass(time);
        assert_eq!(self.store.now_ms(), before + time);
    }

    /// Somebody sets the wall clock, to days before or behind.
    fn jump(&mut self) {
        let before = self.store.now_ms();
        let days = self.random.below(20_000);
        self.clocks.wall.store(days * DAY + 10_000 * DAY, SeqCst);
        assert_eq!(self.store.now_ms(), before, "a clock that was set moved the ages");
    }

    /// The process ends in order, and another one begins, whose monotonic clock counts from anywhere.
    fn restart(&mut self) {
        let before = self.store.now_ms();
        self.store.clone().close();
        // The directory is ours until the last handle is gone.
        let elsewhere = TempDir::new().expect("a directory");
        drop(std::mem::replace(&mut self.store, open(&elsewhere, &self.clocks)));
        let away = self.random.below(TIMEOUT);
        self.clocks.wall.fetch_add(away, SeqCst);
        if self.random.below(4) == 0 {
            self.clocks.wall.fetch_sub(self.random.below(100) * DAY, SeqCst);
        }
        self.clocks.monotonic.store(self.random.below(1000), SeqCst);
        let store = open(&self.directory, &self.clocks);
        std::mem::replace(&mut self.store, store).close();
        assert!(self.store.now_ms() >= before, "time went back over a restart");
    }

    fn check(&mut self) {
        let now = self.store.now_ms();
        let mut gone = Vec::new();
        for (number, (id, used)) in &self.known {
            let found = self.store.find(id).expect("readable");
            let age = now - used;
            match &found {
                Some(record) => {
                    assert!(age <= TIMEOUT + SLACK, "session {number} lives at {age}");
                    assert_eq!(record.upstream_session, format!("theirs-{number}"));
                }
                None => {
                    assert!(age > TIMEOUT, "session {number} ended at {age}");
                    gone.push(*number);
                }
            }
        }
        for id in &self.ended {
            assert!(self.store.find(id).expect("readable").is_none(), "a session came back");
        }
        assert!(self.store.stats().active <= SESSIONS_MAX as u64);
        // Those that are gone stay gone.
        for number in gone {
            if self.store.stats().active == 0 {
                self.ended.extend(self.known.remove(&number).map(|(id, _)| id));
            }
        }
    }

    /// When all have aged, every place is free again.
    fn finish(mut self) {
        self.clocks.pass(TIMEOUT + SLACK + 1);
        self.check();
        let begun = Instant::now();
        while self.store.stats().active > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} sessions are left", self.store.stats().active);
            thread::yield_now();
        }
        let places: Vec<_> = std::iter::from_fn(|| self.store.reserve()).collect();
        assert_eq!(places.len(), SESSIONS_MAX);
        drop(places);
        assert!(self.begun > SESSIONS_MAX, "only {} sessions began", self.begun);
        self.store.close();
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
}

#[test]
fn sessions_live_as_long_as_they_are_told_whatever_the_clocks_do() {
    let seeds = match std::env::var("SIMULATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (1..=8).collect(),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| simulate(seed));
        assert!(result.is_ok(), "SIMULATION_SEED={seed} replays it");
    }
}
