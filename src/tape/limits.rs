//! How much room tapes may take: the oldest go first. What is not a tape, or is in use, is let alone.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::EXTENSION;

/// How a tape begins.
const FIRST: &[u8] = b"{\"shadowcat_tape\":";
/// A file takes at least this much of a disk.
const BLOCK: u64 = 4096;

#[derive(Debug)]
struct Found {
    path: PathBuf,
    bytes: u64,
    changed: SystemTime,
}

/// What tidying up came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Of the tapes that are there.
    pub bytes: u64,
    pub deleted: u64,
}

/// Delete the tapes in `directory` that are too old, and then the oldest, until the rest fits.
///
/// # Errors
/// The directory cannot be read.
pub fn tidy(
    directory: &Path,
    mine: impl Fn(&Path) -> bool,
    bytes_max: Option<u64>,
    age_max: Option<Duration>,
) -> io::Result<Tidied> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.filter_map(Result::ok) {
        let path = entry.path();
        let (true, Ok(meta)) = (path.extension().is_some_and(|it| it == EXTENSION), entry.metadata()) else { continue };
        if meta.is_file() && mine(&path) {
            let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Found { path, bytes: meta.len().max(BLOCK), changed });
        }
    }
    found.sort_by_key(|found| found.changed);
    let now = SystemTime::now();
    let mut tidied = Tidied { bytes: found.iter().map(|found| found.bytes).sum(), deleted: 0 };
    for Found { path, bytes, changed } in found {
        let is_old = age_max.is_some_and(|age| now.duration_since(changed).is_ok_and(|is| is > age));
        let is_too_much = bytes_max.is_some_and(|max| tidied.bytes > max);
        if (is_old || is_too_much) && delete(&path) {
            tidied.bytes -= bytes;
            tidied.deleted += 1;
        }
    }
    Ok(tidied)
}

/// Whether it was a tape that nobody writes, and is gone.
fn delete(path: &Path) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut first = [0; FIRST.len()];
    let is_tape = file.read_exact(&mut first).is_ok() && first == FIRST;
    is_tape && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && fs::remove_file(path).is_ok()
}

/// Bytes that we may still write there; `None`: the system does not say.
pub fn free(directory: &Path) -> Option<u64> {
    let stat = statvfs(directory).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn file(directory: &Path, name: &str, bytes: &[u8], age: u64) -> File {
        let path = directory.join(name);
        fs::write(&path, bytes).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        file
    }

    fn names(directory: &Path) -> BTreeSet<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_oldest_tapes_go_first_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let tape = [FIRST, &[b'x'; 10_000]].concat();
        file(path, "a.tape", &tape, 500);
        let in_use = file(path, "b.tape", &tape, 400);
        flock(&in_use, FlockOperation::NonBlockingLockShared).unwrap();
        file(path, "c.tape", &tape, 300);
        file(path, "d.tape", &tape, 200);
        file(path, "foreign.tape", b"mine", 900);
        file(path, "notes.txt", &tape, 900);
        let tidied = tidy(path, |_| true, Some(36_000), None).unwrap();
        assert_eq!(tidied, Tidied { bytes: 3 * tape.len() as u64 + BLOCK, deleted: 1 });
        assert_eq!(tidy(path, |_| true, None, Some(Duration::from_secs(250))).unwrap().deleted, 1);
        let left = ["b.tape", "d.tape", "foreign.tape", "notes.txt"].map(str::to_owned);
        assert_eq!(names(path), left.into());
        assert_eq!(tidy(path, |path| path.ends_with("b.tape"), Some(0), None).unwrap().deleted, 0);
        assert!(free(path).is_some_and(|bytes| bytes > 0));
    }
}
