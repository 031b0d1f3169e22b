//! The one thread that writes: it takes what waits, commits it in one transaction, and wakes all who wait.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use futures_channel::oneshot;

use super::environment::{Environment, Unopened};
use super::{ENDED_KEPT, Inner, Record, Reservation, WriteError};
use crate::base::SessionId;

/// Writes in one transaction.
const BATCH: usize = 512;
/// Expired sessions removed in one transaction, so that a clean-up never keeps new sessions waiting for long.
const CLEANUP_BATCH: usize = 1000;
/// Touches that wait to be saved; beyond, they are saved at once.
const TOUCHES_MAX: usize = 10_000;

pub enum Write {
    Create {
        reservation: Reservation,
        id: SessionId,
        record: Record,
        done: Done,
    },
    /// A session that began elsewhere; nobody waits for it.
    Adopt {
        reservation: Reservation,
        id: SessionId,
        record: Record,
    },
    End {
        id: SessionId,
        done: Done,
    },
    Touch {
        id: SessionId,
        at_ms: u64,
    },
    Move(Box<Move>),
    /// End sessions that nobody has used for this long, or only count them.
    CleanUp {
        idle_ms: u64,
        dry_run: bool,
        done: oneshot::Sender<Result<u64, WriteError>>,
    },
    Replace(Replacement),
    Close,
}

/// Another file in the place of the store's.
pub struct Replacement {
    /// The directory with a whole store that was checked; `None`: a copy of this store without its free pages.
    pub new: Option<PathBuf>,
    /// The name under which the old file is kept.
    pub kept: Option<PathBuf>,
    pub done: Done,
}

/// A session that goes on at another upstream.
pub struct Move {
    pub id: SessionId,
    pub record: Record,
    /// Where it must still be: the upstream, and upstream's id.
    pub from: (String, String),
    pub done: Done,
}

pub type Done = oneshot::Sender<Result<(), WriteError>>;

pub fn start(inner: Arc<Inner>, writes: Receiver<Write>, cleanup: Duration) -> io::Result<JoinHandle<()>> {
    let flush = (inner.touch_interval / 2).min(Duration::from_secs(1));
    let now = Instant::now();
    let writer = Writer {
        inner,
        writes,
        touched: BTreeMap::new(),
        creates: Vec::new(),
        ends: Vec::new(),
        flush: Every { period: flush, due: now + flush },
        cleanup: Every { period: cleanup, due: now + cleanup },
        readers: Every { period: Duration::from_secs(60), due: now + Duration::from_secs(60) },
        unopened: None,
        failures_seen: 0,
    };
    thread::Builder::new().name("store".into()).spawn(move || writer.run())
}

struct Writer {
    inner: Arc<Inner>,
    writes: Receiver<Write>,
    /// The latest use of sessions, not saved yet; in the order of the store.
    touched: BTreeMap<SessionId, u64>,
    creates: Vec<Create>,
    ends: Vec<(SessionId, Done)>,
    flush: Every,
    cleanup: Every,
    readers: Every,
    /// The store, while its disk refuses to have it opened anew.
    unopened: Option<Unopened>,
    /// Failed commits after which the store was looked at.
    failures_seen: u64,
}

/// The last owner of it, once the look-ups that are under way have ended: microseconds.
fn alone(mut environment: Arc<Environment>) -> Environment {
    loop {
        match Arc::try_unwrap(environment) {
            Ok(environment) => return environment,
            Err(shared) => environment = shared,
        }
        std::thread::yield_now();
    }
}

struct Create {
    reservation: Reservation,
    id: SessionId,
    record: Record,
    /// `None`: it began elsewhere.
    done: Option<Done>,
}

/// Why sessions go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Ended,
    /// Nobody used them here. Those of sealed ids may be in use elsewhere: they are forgotten, not ended.
    TimedOut,
}

/// What a transaction did.
struct Committed {
    /// For each session to begin, whether it did: one that began elsewhere may be known here already, or have ended.
    begun: Vec<bool>,
    /// The lives of the sessions that ended, milliseconds.
    lives: Vec<u64>,
}

struct Every {
    period: Duration,
    due: Instant,
}

impl Every {
    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.due;
        if due {
            self.due = now + self.period;
        }
        due
    }
}

impl Writer {
    fn run(mut self) {
        loop {
            let next = self.flush.due.min(self.cleanup.due).min(self.readers.due);
            let mut closing = match self.writes.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(write) => self.sort(write),
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            while !closing && self.creates.len() + self.ends.len() < BATCH && self.touched.len() < TOUCHES_MAX {
                match self.writes.try_recv() {
                    Ok(write) => closing = self.sort(write),
                    Err(_) => break,
                }
            }
            self.commit_changes();
            let now = Instant::now();
            let flush = self.flush.is_due(now);
            if flush || self.touched.len() >= TOUCHES_MAX {
                self.save_touches(false);
            }
            if self.cleanup.is_due(now) {
                closing |= self.remove_expired();
            }
            if self.readers.is_due(now) {
                if let Ok(environment) = self.environment() {
                    environment.clear_stale_readers();
                }
                self.warn_when_nearly_full();
            }
            let failures = self.inner.counters.failures.load(Relaxed);
            let is_suspect = if self.unopened.is_some() { flush } else { failures > self.failures_seen };
            if is_suspect {
                self.mend();
            }
            self.failures_seen = failures;
            if closing {
                // Also what came during the clean-up.
                return self.save_touches(true);
            }
        }
    }

    fn environment(&self) -> heed::Result<Arc<Environment>> {
        let opening = || io::Error::new(io::ErrorKind::NotConnected, "the store is being opened anew");
        self.inner.environment.load_full().ok_or_else(|| heed::Error::Io(opening()))
    }

    /// After a disk failed in the last write of a commit LMDB wants to be opened anew. What it answered holds: the last
    /// commit that was finished is what it opens with.
    fn mend(&mut self) {
        let opened = match (self.unopened.take(), self.environment()) {
            (Some(unopened), _) => unopened.open(),
            (None, Ok(environment)) if environment.has_given_up() => {
                tracing::error!("the session store failed in the middle of a commit and is opened anew");
                drop(environment);
                match self.inner.environment.swap(None).map(alone) {
                    Some(environment) => environment.open_anew(),
                    None => return,
                }
            }
            _ => return,
        };
        match opened {
            Ok(environment) => {
                self.show(environment);
                tracing::info!("the session store is open again");
            }
            Err((error, unopened)) => {
                tracing::error!(%error, "the session store cannot be opened anew yet");
                self.unopened = Some(unopened);
            }
        }
    }

    /// Workers hear that something changed only when there is something to look at.
    fn show(&self, environment: Environment) {
        let live = environment.count().unwrap_or(0);
        self.inner.environment.store(Some(Arc::new(environment)));
        self.recount(live);
    }

    /// Go on with another file. Look-ups fail for the moment in between, and no write is lost.
    fn replace(&mut self, new: Option<PathBuf>, kept: Option<&Path>) -> Result<(), WriteError> {
        let failed = |error: &dyn std::fmt::Display| WriteError::Upkeep(error.to_string());
        let new = match new {
            Some(new) => new,
            None => self
                .environment()
                .map_err(|error| failed(&error))
                .and_then(|environment| super::upkeep::compacted(&environment).map_err(|error| failed(&error)))?,
        };
        let environment = self.inner.environment.swap(None).map(alone);
        let environment = environment.ok_or_else(|| failed(&"it is being opened anew"))?;
        match environment.replaced_by(&new, kept) {
            Ok(environment) => {
                self.show(environment);
                Ok(())
            }
            Err((error, unopened)) => {
                self.unopened = Some(unopened);
                self.mend();
                Err(failed(&error))
            }
        }
    }

    /// A commit that failed at its end may be there all the same: its sessions were told to nobody, and they expire.
    fn recount(&self, live: u64) {
        let Inner { taken, counters, ended_epoch, .. } = &*self.inner;
        let before = counters.active.swap(live, Relaxed);
        taken.fetch_add(live.wrapping_sub(before), AcqRel);
        ended_epoch.fetch_add(1, Release);
    }

    /// `true`: the store closes.
    fn sort(&mut self, write: Write) -> bool {
        match write {
            Write::Create { reservation, id, record, done } => {
                self.creates.push(Create { reservation, id, record, done: Some(done) });
            }
            Write::Adopt { reservation, id, record } => {
                self.creates.push(Create { reservation, id, record, done: None });
            }
            Write::End { id, done } => self.ends.push((id, done)),
            Write::Touch { id, at_ms } => {
                self.touched.insert(id, at_ms);
            }
            Write::Move(moved) => self.relocate(*moved),
            // What came before it is committed first.
            Write::CleanUp { idle_ms, dry_run, done } => {
                self.commit_changes();
                let _ = done.send(self.clean_up(idle_ms, dry_run));
            }
            Write::Replace(Replacement { new, kept, done }) => {
                self.commit_changes();
                self.save_touches(true);
                let _ = done.send(self.replace(new, kept.as_deref()));
            }
            Write::Close => return true,
        }
        false
    }

    /// Rare, so in a transaction of its own.
    fn relocate(&mut self, moved: Move) {
        let Move { id, record, from, done } = moved;
        let result = (|| {
            let environment = self.environment()?;
            let mut txn = environment.write()?;
            let is_there = environment
                .get_in(&txn, &id)?
                .is_some_and(|now| (now.upstream.as_str(), now.upstream_session.as_str()) == (&from.0, &from.1));
            if is_there {
                environment.put(&mut txn, &id, &record)?;
            }
            txn.commit()
        })();
        let counters = &self.inner.counters;
        if result.is_ok() { &counters.commits } else { &counters.failures }.fetch_add(1, Relaxed);
        // What workers remember of it is out of date.
        self.inner.ended_epoch.fetch_add(1, Release);
        let _ = done.send(result.map_err(|error: heed::Error| WriteError::Commit(error.to_string())));
    }

    fn commit_changes(&mut self) {
        if self.creates.is_empty() && self.ends.is_empty() {
            return;
        }
        let (creates, ends) = (std::mem::take(&mut self.creates), std::mem::take(&mut self.ends));
        match self.try_commit(&creates, &ends, Cause::Ended) {
            Ok(committed) => {
                self.settle_creates(creates, Ok(&committed.begun));
                self.settle_ends(ends, committed.lives, None);
            }
            Err(error) => {
                let error = WriteError::Commit(error.to_string());
                let alone = if creates.is_empty() { None } else { Some(self.try_commit(&[], &ends, Cause::Ended)) };
                self.settle_creates(creates, Err(&error));
                // Ending sessions needs less room than beginning them, and makes some.
                match alone {
                    Some(Ok(committed)) => self.settle_ends(ends, committed.lives, None),
                    Some(Err(_)) | None => self.settle_ends(ends, Vec::new(), Some(&error)),
                }
            }
        }
    }

    fn try_commit(&self, creates: &[Create], ends: &[(SessionId, Done)], cause: Cause) -> heed::Result<Committed> {
        let Inner { counters, cells, started, .. } = &*self.inner;
        let now = Instant::now();
        let result = (|| {
            let environment = self.environment()?;
            let mut txn = environment.write()?;
            let mut begun = Vec::with_capacity(creates.len());
            for Create { id, record, done, .. } in creates {
                let begins =
                    done.is_some() || (environment.get_in(&txn, id)?.is_none() && !environment.has_ended(&txn, id)?);
                if begins {
                    environment.put(&mut txn, id, record)?;
                }
                begun.push(begins);
            }
            let mut lives = Vec::new();
            for (id, _) in ends {
                let record = environment.get_in(&txn, id)?;
                if environment.delete(&mut txn, id)? {
                    lives.push(record.map_or(0, |record| self.inner.clock.now_ms().saturating_sub(record.created_ms)));
                }
                if cause == Cause::Ended && id.is_derived() {
                    environment.put_ended(&mut txn, id, ENDED_KEPT)?;
                }
            }
            txn.commit()?;
            Ok(Committed { begun, lives })
        })();
        cells.commits.record(now.elapsed(), started.elapsed());
        let counter = if result.is_ok() { &counters.commits } else { &counters.failures };
        counter.fetch_add(1, Relaxed);
        result
    }

    fn settle_creates(&self, creates: Vec<Create>, committed: Result<&[bool], &WriteError>) {
        let counters = &self.inner.counters;
        for (at, Create { reservation, done, .. }) in creates.into_iter().enumerate() {
            let result = match committed {
                Ok(begun) if begun[at] => {
                    reservation.keep();
                    counters.active.fetch_add(1, Relaxed);
                    let counter = if done.is_some() { &counters.created } else { &counters.adopted };
                    counter.fetch_add(1, Relaxed);
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error.clone()),
            };
            if let Some(done) = done {
                let _ = done.send(result);
            }
        }
    }

    fn settle_ends(&mut self, ends: Vec<(SessionId, Done)>, lives: Vec<u64>, error: Option<&WriteError>) {
        if error.is_none() && !ends.is_empty() {
            self.count_ended(&lives);
        }
        for (id, done) in ends {
            if error.is_none() {
                self.touched.remove(&id);
            }
            let _ = done.send(error.map_or(Ok(()), |error| Err(error.clone())));
        }
    }

    fn count_ended(&self, lives: &[u64]) {
        let Inner { taken, counters, ended_epoch, cells, started, .. } = &*self.inner;
        let count = lives.len() as u64;
        taken.fetch_sub(count, AcqRel);
        counters.active.fetch_sub(count, Relaxed);
        counters.ended.fetch_add(count, Relaxed);
        ended_epoch.fetch_add(1, Release);
        lives.iter().for_each(|&life| cells.lives.record(Duration::from_millis(life), started.elapsed()));
    }

    /// Save the latest uses, and the clock. A touch never brings back a session that ended.
    fn save_touches(&mut self, closing: bool) {
        if self.touched.is_empty() && !closing {
            return;
        }
        let Inner { counters, clock, .. } = &*self.inner;
        let result = (|| {
            let environment = self.environment()?;
            let mut txn = environment.write()?;
            for (id, &at_ms) in &self.touched {
                if let Some(mut record) = environment.get_in(&txn, id)?
                    && record.seen_ms < at_ms
                {
                    record.seen_ms = at_ms;
                    environment.put(&mut txn, id, &record)?;
                }
            }
            environment.save_clock(&mut txn, clock.to_save())?;
            txn.commit()
        })();
        match result {
            Ok(()) => {
                counters.commits.fetch_add(1, Relaxed);
                self.touched.clear();
            }
            // They are kept and saved next time; if they become too many they are dropped and counted.
            Err(error) => {
                tracing::error!(%error, "cannot save when sessions were last used");
                counters.failures.fetch_add(1, Relaxed);
                if self.touched.len() >= TOUCHES_MAX {
                    counters.touches_dropped.fetch_add(self.touched.len() as u64, Relaxed);
                    self.touched.clear();
                }
            }
        }
    }

    /// Some sessions behind `from`, and which of them nobody has used for `idle_ms`; `None` at the end.
    fn some_idle(&self, from: &mut Option<SessionId>, idle_ms: u64) -> heed::Result<Option<Vec<SessionId>>> {
        let some = self.environment()?.scan(*from, CLEANUP_BATCH)?;
        let Some((last, _)) = some.last() else { return Ok(None) };
        *from = Some(*last);
        let now = self.inner.clock.now_ms();
        let is_idle =
            |record: &Option<Record>| record.as_ref().is_none_or(|record| self.inner.is_idle(record, now, idle_ms));
        Ok(Some(some.into_iter().filter(|(_, record)| is_idle(record)).map(|(id, _)| id).collect()))
    }

    /// How many sessions ended, or would.
    fn clean_up(&mut self, idle_ms: u64, dry_run: bool) -> Result<u64, WriteError> {
        self.save_touches(true);
        let (mut from, mut count) = (None, 0);
        let failed = |error: heed::Error| WriteError::Commit(error.to_string());
        while let Some(idle) = self.some_idle(&mut from, idle_ms).map_err(failed)? {
            count += idle.len() as u64;
            if !dry_run && !idle.is_empty() {
                self.remove(&idle).map_err(failed)?;
            }
        }
        Ok(count)
    }

    /// `true`: the store closes.
    fn remove_expired(&mut self) -> bool {
        self.save_touches(true);
        let (mut from, mut closing) = (None, false);
        loop {
            let expired = match self.some_idle(&mut from, self.inner.timeout_ms) {
                Ok(Some(expired)) => expired,
                Ok(None) => return closing,
                Err(error) => {
                    tracing::error!(%error, "cannot look for expired sessions");
                    return closing;
                }
            };
            if !expired.is_empty()
                && let Err(error) = self.remove(&expired)
            {
                tracing::error!(%error, "cannot remove expired sessions");
            }
            // Whoever waits comes first.
            while let Ok(write) = self.writes.try_recv() {
                closing |= self.sort(write);
                if closing || self.creates.len() + self.ends.len() >= BATCH {
                    break;
                }
            }
            self.commit_changes();
            if closing {
                return true;
            }
        }
    }

    fn remove(&mut self, expired: &[SessionId]) -> heed::Result<()> {
        let (waiting, ends): (Vec<_>, Vec<_>) = expired
            .iter()
            .map(|&id| {
                let (done, waiting) = oneshot::channel();
                (waiting, (id, done))
            })
            .unzip();
        drop(waiting);
        let Committed { lives, .. } = self.try_commit(&[], &ends, Cause::TimedOut)?;
        self.inner.counters.expired.fetch_add(lives.len() as u64, Relaxed);
        self.settle_ends(ends, lives, None);
        Ok(())
    }

    fn warn_when_nearly_full(&self) {
        let Ok((used, map)) = self.environment().map(|environment| environment.size()) else { return };
        if used > map / 5 * 4 {
            tracing::warn!(used, map, "the session store is more than 80 % full");
        }
    }
}
