//! The LMDB environment: opened once, checked first, locked against a second server.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use rustix::fs::FlockOperation;

use super::clock::Saved;
use super::{Found, OpenError, Options, Place, ReadError, Record};
use crate::base::SessionId;

/// Sparse: address space, not disk. Never resized while it is open.
const MAP_BYTES: usize = 16 << 30;
const MEMORY_MAP_BYTES: usize = 1 << 30;
/// Reader slots, 64 bytes each.
const READERS_MAX: u32 = 512;
/// Databases: `SESSIONS` maps a name to its [`Record`], `META` holds the clock, `ENDED` names of sessions that ended though
/// their ids can still be opened: two generations, of which the older is emptied when the younger is full.
const SESSIONS: &str = "sessions";
const META: &str = "meta";
const ENDED: [&str; 2] = ["ended-0", "ended-1"];
const CLOCK: &[u8] = b"clock";
pub const DATA_FILE: &str = "data.mdb";
const LOCK_FILE: &str = "server.lock";
/// Where a new store is made before it gets its place.
const BEGINNING: &str = "beginning";
/// A check may take this long, and this long more for each GiB.
const CHECK_TIME: Duration = Duration::from_secs(30);

pub struct Environment {
    env: Env<WithoutTls>,
    sessions: Database<'static, Bytes, Bytes>,
    meta: Database<'static, Bytes, Bytes>,
    ended: [Database<'static, Bytes, Bytes>; 2],
    path: PathBuf,
    map_bytes: usize,
    flags: EnvFlags,
    /// Held for the life of the process: one server a directory.
    lock: Option<File>,
}

impl Environment {
    pub fn open(options: &Options) -> Result<Environment, OpenError> {
        match &options.place {
            Place::Directory(path) => Environment::open_directory(path, options),
            Place::Memory => Environment::open_memory(options),
        }
    }

    fn open_directory(path: &Path, options: &Options) -> Result<Environment, OpenError> {
        let io = |error| OpenError::Io { path: path.display().to_string(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = lock(path)?;
        let map_bytes = options.map_bytes.unwrap_or(MAP_BYTES);
        let data = path.join(DATA_FILE);
        if !data.try_exists().map_err(io)? {
            Environment::begin(path, map_bytes)?;
        } else if let Some((program, first)) = &options.checker
            && let Err(why) = check(program, first, path, data.metadata().map_err(io)?.len())
        {
            return Err(put_aside(path, why));
        }
        let flags = if options.relaxed { EnvFlags::NO_META_SYNC } else { EnvFlags::empty() };
        let environment = Environment::open_in(path, map_bytes, flags, Some(lock))?;
        let stale = environment.env.clear_stale_readers().unwrap_or(0);
        if stale > 0 {
            tracing::info!(stale, "cleared reader slots of a server that is gone");
        }
        Ok(environment)
    }

    /// A new store gets its name when it is whole and synced: a power cut in the middle leaves none, rather than one that
    /// looks damaged.
    fn begin(path: &Path, map_bytes: usize) -> Result<(), OpenError> {
        let io = |error| OpenError::Io { path: path.display().to_string(), error };
        let new = path.join(BEGINNING);
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&new).map_err(io)?;
        drop(Environment::open_in(&new, map_bytes, EnvFlags::empty(), None)?);
        fs::rename(new.join(DATA_FILE), path.join(DATA_FILE)).map_err(io)?;
        File::open(path).and_then(|directory| directory.sync_all()).map_err(io)?;
        // The directory may be new as well; its parent may not be ours to open.
        if let Some(parent) = path.canonicalize().ok().as_deref().and_then(Path::parent) {
            let _ = File::open(parent).and_then(|directory| directory.sync_all());
        }
        let _ = fs::remove_dir_all(&new);
        Ok(())
    }

    /// In memory the files lose their names as soon as they are open, so that nothing stays, whatever ends us.
    fn open_memory(options: &Options) -> Result<Environment, OpenError> {
        let parent = ["/dev/shm".into(), std::env::temp_dir()].into_iter().find(|path| path.is_dir());
        let parent = parent.unwrap_or_else(std::env::temp_dir);
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = parent.join(format!("shadowcat-{}-{unique}", std::process::id()));
        let io = |error| OpenError::Io { path: path.display().to_string(), error };
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(io)?;
        let map_bytes = options.map_bytes.unwrap_or(MEMORY_MAP_BYTES);
        let opened = Environment::open_in(&path, map_bytes, EnvFlags::NO_SYNC, None);
        let _ = fs::remove_dir_all(&path);
        opened
    }

    pub fn open_in(
        path: &Path,
        map_bytes: usize,
        flags: EnvFlags,
        lock: Option<File>,
    ) -> Result<Environment, OpenError> {
        let lmdb = |error: heed::Error| OpenError::Lmdb { path: path.display().to_string(), error: error.to_string() };
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(8);
        // SAFETY: the flags given here keep LMDB's integrity (no WRITE_MAP; NO_SYNC only in memory).
        unsafe { options.flags(flags) };
        // SAFETY: the directory is ours alone (the lock above, or a private name), so nobody truncates the map.
        let env = unsafe { options.open(path) }.map_err(lmdb)?;
        let txn = env.write_txn().map_err(lmdb)?;
        let databases = env.create_databases_and_commit(txn, |opener, txn| {
            let sessions = opener.create_database::<Bytes, Bytes>(txn, Some(SESSIONS))?;
            let meta = opener.create_database::<Bytes, Bytes>(txn, Some(META))?;
            let [one, other] = ENDED;
            let ended = [
                opener.create_database::<Bytes, Bytes>(txn, Some(one))?,
                opener.create_database::<Bytes, Bytes>(txn, Some(other))?,
            ];
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((sessions, meta, ended)))
        });
        let Some((sessions, meta, ended)) = databases.map_err(lmdb)?.commit() else {
            return Err(OpenError::Lmdb { path: path.display().to_string(), error: "cannot create databases".into() });
        };
        Ok(Environment { env, sessions, meta, ended, path: path.to_owned(), map_bytes, flags, lock })
    }

    /// Whether LMDB gave it up: after the last write of a commit failed, it refuses everything until it is opened anew.
    pub fn has_given_up(&self) -> bool {
        matches!(self.env.read_txn(), Err(heed::Error::Mdb(heed::MdbError::Panic)))
    }

    /// The same store anew, under the same lock. One in memory has no name that it could be opened by, and no disk that
    /// fails.
    pub fn open_anew(self) -> Result<Environment, (OpenError, Unopened)> {
        let Environment { env, path, map_bytes, flags, lock, .. } = self;
        drop(env);
        Unopened { path, map_bytes, flags, lock }.open()
    }

    pub fn open_error(&self, error: String) -> OpenError {
        OpenError::Lmdb { path: self.path.display().to_string(), error }
    }

    pub fn find(&self, id: &SessionId) -> Result<Option<Record>, ReadError> {
        let lmdb = |error: heed::Error| ReadError::Lmdb(error.to_string());
        let txn = self.env.read_txn().map_err(lmdb)?;
        match self.sessions.get(&txn, id.as_bytes()).map_err(lmdb)? {
            Some(bytes) => Record::decode(bytes).map(Some).ok_or(ReadError::Record),
            None => Ok(None),
        }
    }

    /// The session of this name, or whether it ended here.
    pub fn look_up(&self, id: &SessionId) -> Result<Found, ReadError> {
        let lmdb = |error: heed::Error| ReadError::Lmdb(error.to_string());
        let txn = self.env.read_txn().map_err(lmdb)?;
        if let Some(bytes) = self.sessions.get(&txn, id.as_bytes()).map_err(lmdb)? {
            return Record::decode(bytes).map(Found::Live).ok_or(ReadError::Record);
        }
        let ended = self.has_ended(&txn, id).map_err(lmdb)?;
        Ok(if ended { Found::Ended } else { Found::Unknown })
    }

    pub fn has_ended(&self, txn: &RoTxn<'_>, id: &SessionId) -> heed::Result<bool> {
        for generation in &self.ended {
            if generation.get(txn, id.as_bytes())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Remember that it ended, at least until `max` others did after it.
    pub fn put_ended(&self, txn: &mut RwTxn<'_>, id: &SessionId, max: u64) -> heed::Result<()> {
        // One of the two is full and the older, or the second is empty.
        let younger = usize::from(self.ended[0].len(txn)? >= max);
        self.ended[younger].put(txn, id.as_bytes(), b"")?;
        if self.ended[younger].len(txn)? >= max {
            self.ended[1 - younger].clear(txn)?;
        }
        Ok(())
    }

    pub fn count(&self) -> heed::Result<u64> {
        let txn = self.env.read_txn()?;
        self.sessions.len(&txn)
    }

    /// Sessions from `from` on (all from the start if `None`), at most `limit`, and where to go on.
    pub fn scan(&self, from: Option<SessionId>, limit: usize) -> heed::Result<Vec<(SessionId, Option<Record>)>> {
        let txn = self.env.read_txn()?;
        let start =
            from.as_ref().map_or(std::ops::Bound::Unbounded, |id| std::ops::Bound::Excluded(&id.as_bytes()[..]));
        let range = (start, std::ops::Bound::Unbounded);
        let mut found = Vec::new();
        for item in self.sessions.range(&txn, &range)?.take(limit) {
            let (key, value) = item?;
            if let Some(id) = SessionId::from_stored(key) {
                found.push((id, Record::decode(value)));
            }
        }
        Ok(found)
    }

    /// Sessions to `keep` whose names begin with `prefix` and come behind all that begin with `after`, at most `limit`.
    pub fn scan_names(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        keep: impl Fn(&Record) -> bool,
    ) -> heed::Result<Vec<(SessionId, Record)>> {
        let txn = self.env.read_txn()?;
        // No byte of a name is as high as this.
        let behind = after.map(|after| [after, &[0xff]].concat());
        let from = behind.as_deref().map_or(prefix, |behind| behind.max(prefix));
        // LMDB knows no empty key.
        let start = if from.is_empty() { std::ops::Bound::Unbounded } else { std::ops::Bound::Included(from) };
        let range = (start, std::ops::Bound::Unbounded);
        let mut found = Vec::new();
        for item in self.sessions.range(&txn, &range)? {
            let (key, value) = item?;
            if found.len() == limit || !key.starts_with(prefix) {
                break;
            }
            let record = Record::decode(value).filter(&keep);
            found.extend(SessionId::from_stored(key).zip(record));
        }
        Ok(found)
    }

    /// Let all ages begin `by_ms` later, and the clock at `saved`.
    pub fn shift(&self, by_ms: i64, saved: Saved) -> heed::Result<()> {
        let mut txn = self.write()?;
        let mut from = None;
        loop {
            let some = self.scan(from, 10_000)?;
            let Some((last, _)) = some.last() else { break };
            from = Some(*last);
            for (id, record) in some {
                let Some(mut record) = record else { continue };
                record.created_ms = record.created_ms.saturating_add_signed(by_ms);
                record.seen_ms = record.seen_ms.saturating_add_signed(by_ms);
                self.put(&mut txn, &id, &record)?;
            }
        }
        self.save_clock(&mut txn, saved)?;
        txn.commit()
    }

    /// All that is committed now, without the pages that are free; writers go on meanwhile.
    pub fn copy(&self, file: &mut File) -> heed::Result<()> {
        self.env.copy_to_file(file, heed::CompactionOption::Enabled)
    }

    /// Where files of this store may be made; `None` in memory.
    pub fn directory(&self) -> Option<&Path> {
        self.lock.as_ref().map(|_| self.path.as_path())
    }

    /// Go on with the store of another directory in the place of this one, which is kept under the name `kept`.
    ///
    /// # Errors
    /// It cannot be opened. Where its file could not take its place, the old one is opened by [`Unopened::open`].
    pub fn replaced_by(self, new: &Path, kept: Option<&Path>) -> Result<Environment, (OpenError, Unopened)> {
        let Environment { env, path, map_bytes, flags, lock, .. } = self;
        drop(env);
        let unopened = Unopened { path, map_bytes, flags, lock };
        // Readers of the old file are no readers of the new one.
        let _ = fs::remove_file(unopened.path.join("lock.mdb"));
        let data = unopened.path.join(DATA_FILE);
        let moved = kept
            .map_or(Ok(()), |kept| fs::hard_link(&data, kept))
            .and_then(|()| fs::rename(new.join(DATA_FILE), &data))
            .and_then(|()| File::open(&unopened.path)?.sync_all());
        match moved {
            Ok(()) => unopened.open(),
            Err(error) => Err((OpenError::Io { path: unopened.path.display().to_string(), error }, unopened)),
        }
    }

    pub fn write(&self) -> heed::Result<RwTxn<'_>> {
        self.env.write_txn()
    }

    pub fn get_in(&self, txn: &RwTxn<'_>, id: &SessionId) -> heed::Result<Option<Record>> {
        Ok(self.sessions.get(txn, id.as_bytes())?.and_then(Record::decode))
    }

    pub fn put(&self, txn: &mut RwTxn<'_>, id: &SessionId, record: &Record) -> heed::Result<()> {
        self.sessions.put(txn, id.as_bytes(), &record.encode())
    }

    /// Whether it was there.
    pub fn delete(&self, txn: &mut RwTxn<'_>, id: &SessionId) -> heed::Result<bool> {
        self.sessions.delete(txn, id.as_bytes())
    }

    pub fn save_clock(&self, txn: &mut RwTxn<'_>, saved: Saved) -> heed::Result<()> {
        let bytes = [saved.wall_ms.to_le_bytes(), saved.store_ms.to_le_bytes()].concat();
        self.meta.put(txn, CLOCK, &bytes)
    }

    pub fn saved_clock(&self) -> Option<Saved> {
        let txn = self.env.read_txn().ok()?;
        let bytes: [u8; 16] = self.meta.get(&txn, CLOCK).ok()??.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Some(Saved { wall_ms: word(0), store_ms: word(8) })
    }

    pub fn clear_stale_readers(&self) {
        let _ = self.env.clear_stale_readers();
    }

    /// Bytes in use, and bytes of the map.
    pub fn size(&self) -> (u64, u64) {
        const PAGE: u64 = 4096;
        (self.env.info().last_page_number as u64 * PAGE + PAGE, self.map_bytes as u64)
    }
}

/// A store that is closed for the moment, and whose directory is still ours.
pub struct Unopened {
    path: PathBuf,
    map_bytes: usize,
    flags: EnvFlags,
    lock: Option<File>,
}

impl Unopened {
    pub fn open(mut self) -> Result<Environment, (OpenError, Unopened)> {
        match Environment::open_in(&self.path, self.map_bytes, self.flags, None) {
            Ok(environment) => Ok(Environment { lock: self.lock.take(), ..environment }),
            Err(error) => Err((error, self)),
        }
    }
}

/// Take the directory for this process.
fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io { path: path.display().to_string(), error };
    let name = path.join(LOCK_FILE);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(name).map_err(io)?;
    if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io(error.into()));
        }
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        return Err(OpenError::InUse { path: path.display().to_string(), pid: pid.trim().to_owned() });
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// The process that has the store of this directory open.
pub fn held_by(path: &Path) -> Option<String> {
    let mut file = File::open(path.join(LOCK_FILE)).ok()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Some(pid.trim().to_owned())
        }
        _ => None,
    }
}

/// Check a store in a process of its own: LMDB has no checksums, so damage may be a SIGBUS, an abort or a loop.
pub fn check(program: &Path, first: &[std::ffi::OsString], path: &Path, bytes: u64) -> Result<(), String> {
    let limit = CHECK_TIME + CHECK_TIME * (bytes >> 30) as u32;
    let mut child = Command::new(program)
        .args(first)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("its checker does not start: {error}"))?;
    let started = Instant::now();
    let mut stderr = child.stderr.take();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() > limit => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("reading it does not come to an end".into());
            }
            Ok(None) => pause(),
            Err(error) => return Err(error.to_string()),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = &mut stderr {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let said = said.lines().next().unwrap_or_default().to_owned();
    Err(if said.is_empty() { format!("reading it ended with {status}") } else { said })
}

#[expect(clippy::disallowed_methods, reason = "never on a worker's thread, while a child process works")]
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// What the checking process does: read every page of every database, and try (without committing) to write.
pub fn check_main(path: &Path) -> ExitCode {
    match check_pages(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn check_pages(path: &Path) -> Result<(), String> {
    let lmdb = |error: heed::Error| error.to_string();
    let length = fs::metadata(path.join(DATA_FILE)).map_err(|error| error.to_string())?.len();
    if !is_session_store(path).map_err(lmdb)? {
        return Err("it is no session store".into());
    }
    let environment =
        Environment::open_in(path, MAP_BYTES, EnvFlags::empty(), None).map_err(|error| error.to_string())?;
    let (used, _) = environment.size();
    if length < used {
        return Err(format!("the file has {length} bytes, its pages need {used}"));
    }
    let counted = environment.count().map_err(lmdb)?;
    let (mut seen, mut from) = (0, None);
    loop {
        let some = environment.scan(from, 10_000).map_err(lmdb)?;
        let Some((last, _)) = some.last() else { break };
        from = Some(*last);
        if some.iter().any(|(_, record)| record.is_none()) {
            return Err("a session's record does not match its checksum".into());
        }
        seen += some.len() as u64;
    }
    if seen != counted {
        return Err(format!("{counted} sessions are counted, {seen} can be read"));
    }
    // A compacting copy follows every page that is in use, and the list of free ones.
    let mut nowhere = OpenOptions::new().write(true).open("/dev/null").map_err(|error| error.to_string())?;
    environment.env.copy_to_file(&mut nowhere, heed::CompactionOption::Enabled).map_err(lmdb)?;
    let mut txn = environment.write().map_err(lmdb)?;
    environment.save_clock(&mut txn, Saved { wall_ms: 0, store_ms: 0 }).map_err(lmdb)?;
    txn.abort();
    Ok(())
}

/// Whether the tables are there that every session store has, before anything makes them.
fn is_session_store(path: &Path) -> heed::Result<bool> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_BYTES).max_dbs(8);
    // SAFETY: it only reads.
    unsafe { options.flags(EnvFlags::READ_ONLY) };
    // SAFETY: in the checking process, whose end is the verdict if the file is cut off under it.
    let env = unsafe { options.open(path) }?;
    let txn = env.read_txn()?;
    let there = env.open_databases_and_commit(txn, |opener, txn| {
        let both = opener.open_database::<Bytes, Bytes>(txn, Some(SESSIONS))?.is_some()
            && opener.open_database::<Bytes, Bytes>(txn, Some(META))?.is_some();
        Ok::<_, heed::Error>(CommitOrAbort::<(), _>::Abort(both))
    });
    let both = there?.abort().unwrap_or(false);
    env.prepare_for_closing().wait();
    Ok(both)
}

fn put_aside(path: &Path, why: String) -> OpenError {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = path.join(format!("{DATA_FILE}.damaged-{now}"));
    let shown = path.display().to_string();
    if let Err(error) = fs::rename(path.join(DATA_FILE), &kept) {
        return OpenError::Io { path: shown, error: io::Error::other(format!("damaged ({why}), and {error}")) };
    }
    let _ = fs::remove_file(path.join("lock.mdb"));
    OpenError::Damaged { path: shown, why, kept: kept.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> SessionId {
        SessionId::from_digest([n; 24])
    }

    #[test]
    fn the_last_that_ended_are_remembered_and_their_number_is_bounded() {
        const MAX: u64 = 4;
        let environment = Environment::open(&Options::default()).unwrap();
        let has_ended = |n: u8| matches!(environment.look_up(&name(n)).unwrap(), Found::Ended);
        for n in 0..100 {
            assert!(!has_ended(n));
            let mut txn = environment.write().unwrap();
            // Twice is once.
            environment.put_ended(&mut txn, &name(n), MAX).unwrap();
            environment.put_ended(&mut txn, &name(n), MAX).unwrap();
            txn.commit().unwrap();
            assert!((n.saturating_sub(3)..=n).all(has_ended), "after {n}");
            let kept = (0..=n).filter(|&n| has_ended(n)).count() as u64;
            assert!(kept <= 2 * MAX, "{kept} after {n}");
        }
    }
}
