//! What an administrator does with the store as a whole: look through it, end old sessions, copy it, replace it.
//!
//! All of it blocks, and is for threads that may. A copy is taken in a read transaction, so that writers go on; another
//! file takes the store's place in the writer's thread, so that no write falls in between.
//!
//! ```text
//! restore: bytes --> DIR/restoring/data.mdb, synced --> checked in a child process --> ages shifted --> the writer renames it
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heed::EnvFlags;

use super::environment::{self, DATA_FILE, Environment};
use super::writer::{Replacement, Write};
use super::{ReadError, Record, Store, WriteError};
use crate::base::SessionId;

/// Where files are made that are to become the store's.
const RESTORING: &str = "restoring";
const COMPACTING: &str = "compacting";

#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error("another backup, restore or compaction is under way")]
    Busy,
    #[error("sessions are in memory, where there is no file to replace")]
    InMemory,
    #[error("it cannot be restored: {0}")]
    Unfit(String),
    #[error("{path}: {error}")]
    Io { path: String, error: io::Error },
    #[error("{0}")]
    Store(String),
}

impl From<WriteError> for UpkeepError {
    fn from(error: WriteError) -> UpkeepError {
        UpkeepError::Store(error.to_string())
    }
}

/// What a restore or a compaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub sessions: u64,
    /// Bytes of the file before and after.
    pub before: u64,
    pub after: u64,
    /// Where the file of before is kept.
    pub kept: Option<PathBuf>,
}

impl Store {
    /// Live sessions whose names begin with `prefix`, behind those that begin with `after`, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(SessionId, Record)>, ReadError> {
        let now = self.now_ms();
        let environment = self.inner.environment.load_full().ok_or(ReadError::OpeningAnew)?;
        let is_live = |record: &Record| !self.inner.is_expired(record, now);
        let found = environment.scan_names(prefix.as_bytes(), after.map(str::as_bytes), limit, is_live);
        found.map_err(|error| ReadError::Lmdb(error.to_string()))
    }

    /// End the sessions that nobody has used for so long, or only count them.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn clean_up(&self, idle: Duration, dry_run: bool) -> Result<u64, WriteError> {
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        self.submit(|done| Write::CleanUp { idle_ms, dry_run, done }).wait()
    }

    /// A copy of what is committed now, into an empty file.
    ///
    /// # Errors
    /// Another one is under way, or it cannot be read or written.
    pub fn back_up(&self, file: &mut File) -> Result<(), UpkeepError> {
        let _alone = self.alone()?;
        let environment = self.inner.environment.load_full();
        let environment = environment.ok_or_else(|| UpkeepError::Store(ReadError::OpeningAnew.to_string()))?;
        environment.copy(file).map_err(|error| UpkeepError::Store(error.to_string()))
    }

    /// Go on with the sessions of a backup, whose ages go on from when it was taken.
    ///
    /// # Errors
    /// It is damaged or no backup: then nothing changed. The disk is full, the sessions are in memory.
    pub fn restore(&self, backup: &mut dyn Read) -> Result<Compacted, UpkeepError> {
        let _alone = self.alone()?;
        let (home, before) = self.home()?;
        let making = Making::begin(home.join(RESTORING))?;
        let made = making.receive(backup, self.map_bytes())?;
        if let Some((program, first)) = &self.inner.checker {
            environment::check(program, first, &making.0, made).map_err(UpkeepError::Unfit)?;
        }
        self.set_clock(&making.0).map_err(UpkeepError::Unfit)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let kept = home.join(format!("{DATA_FILE}.before-restore-{now}"));
        self.replace(Some(making.0.clone()), Some(kept.clone()))?;
        Ok(Compacted { sessions: self.stats().active, before, after: size(&home), kept: Some(kept) })
    }

    /// Give free pages back to the file system.
    ///
    /// # Errors
    /// As [`restore`](Store::restore).
    pub fn compact(&self) -> Result<Compacted, UpkeepError> {
        let _alone = self.alone()?;
        let (home, before) = self.home()?;
        let result = self.replace(None, None);
        let _ = fs::remove_dir_all(home.join(COMPACTING));
        result?;
        Ok(Compacted { sessions: self.stats().active, before, after: size(&home), kept: None })
    }

    fn alone(&self) -> Result<MutexGuard<'_, ()>, UpkeepError> {
        match self.inner.upkeep.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => Err(UpkeepError::Busy),
        }
    }

    /// The store's directory, and the size of its file.
    fn home(&self) -> Result<(PathBuf, u64), UpkeepError> {
        let environment = self.inner.environment.load_full();
        let environment = environment.ok_or_else(|| UpkeepError::Store(ReadError::OpeningAnew.to_string()))?;
        let home = environment.directory().ok_or(UpkeepError::InMemory)?.to_owned();
        let bytes = size(&home);
        Ok((home, bytes))
    }

    fn map_bytes(&self) -> u64 {
        self.stats().map_bytes
    }

    fn replace(&self, new: Option<PathBuf>, kept: Option<PathBuf>) -> Result<(), WriteError> {
        self.submit(|done| Write::Replace(Replacement { new, kept, done })).wait()
    }

    /// The time between a backup and its restore does not count: who comes back finds the session with the time that it
    /// had left.
    fn set_clock(&self, making: &Path) -> Result<(), String> {
        let lmdb = |error: heed::Error| error.to_string();
        let map_bytes = self.map_bytes() as usize;
        let new =
            Environment::open_in(making, map_bytes, EnvFlags::empty(), None).map_err(|error| error.to_string())?;
        let now = self.inner.clock.to_save();
        let then = new.saved_clock().map_or(now.store_ms, |saved| saved.store_ms);
        new.shift(now.store_ms as i64 - then as i64, now).map_err(lmdb)
    }
}

/// A copy without free pages in a directory of its own, for the writer.
pub fn compacted(environment: &Environment) -> Result<PathBuf, UpkeepError> {
    let home = environment.directory().ok_or(UpkeepError::InMemory)?;
    let making = Making::begin(home.join(COMPACTING))?;
    let mut file = making.create()?;
    environment.copy(&mut file).map_err(|error| UpkeepError::Store(error.to_string()))?;
    file.sync_all().map_err(|error| making.failed(error))?;
    Ok(making.keep())
}

/// A directory with a file that may become the store's; gone when dropped.
struct Making(PathBuf);

impl Making {
    fn begin(path: PathBuf) -> Result<Making, UpkeepError> {
        let making = Making(path);
        match fs::remove_dir_all(&making.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(making.failed(error)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&making.0).map_err(|error| making.failed(error))?;
        Ok(making)
    }

    fn create(&self) -> Result<File, UpkeepError> {
        let mut options = OpenOptions::new();
        let made = options.read(true).write(true).create_new(true).mode(0o600).open(self.0.join(DATA_FILE));
        made.map_err(|error| self.failed(error))
    }

    /// Its length.
    fn receive(&self, from: &mut dyn Read, max: u64) -> Result<u64, UpkeepError> {
        let mut file = self.create()?;
        let received = io::copy(&mut from.take(max + 1), &mut file);
        let length =
            received.and_then(|length| file.sync_all().map(|()| length)).map_err(|error| self.failed(error))?;
        if length > max {
            return Err(UpkeepError::Unfit(format!("it is longer than the {max} bytes that a store can have")));
        }
        Ok(length)
    }

    fn failed(&self, error: io::Error) -> UpkeepError {
        UpkeepError::Io { path: self.0.display().to_string(), error }
    }

    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn size(home: &Path) -> u64 {
    fs::metadata(home.join(DATA_FILE)).map_or(0, |data| data.len())
}
