//! A tape that is read: over its lines from the beginning, or one line again.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::wire::tape::{Damage, End, Entry, Frame, Head, LINE_BYTES_MAX, Line, Reader};

/// Read in one go.
const PIECE_BYTES: usize = 256 << 10;
/// A head is far shorter.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// From the end, where the last frame and the end are looked for.
const TAIL_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: it is a directory; `shadowcat tape list` shows the tapes in it", path.display())]
    Directory { path: PathBuf },
    #[error("{}: {why}", path.display())]
    NoTape { path: PathBuf, why: String },
}

/// What a reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Whole,
    /// Whoever was shown the lines has seen enough.
    Stopped,
}

/// The lines of a tape one after the other, in constant memory. `see` gets how many bytes were read with each; the first line is
/// a head.
///
/// # Errors
/// The file cannot be read, or is no tape.
pub fn read(path: &Path, mut see: impl FnMut(&Entry<'_>, u64) -> ControlFlow<()>) -> Result<Read, Error> {
    let mut file = open(path)?;
    let mut reader = Reader::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut read = 0;
    let mut over = false;
    loop {
        while let Some(entry) = reader.next_entry() {
            if let Err(why @ (Damage::NotATape(_) | Damage::Later(_))) = &entry.line {
                return Err(Error::NoTape { path: path.to_owned(), why: why.to_string() });
            }
            if see(&entry, read).is_break() {
                return Ok(Read::Stopped);
            }
        }
        if over {
            break;
        }
        let came = patiently(|| file.read(&mut piece)).map_err(|error| Error::Io { path: path.to_owned(), error })?;
        if came == 0 {
            over = true;
            reader.finish();
        } else {
            read += came as u64;
            reader.feed(&piece[..came]);
        }
    }
    if read == 0 {
        return Err(Error::NoTape { path: path.to_owned(), why: "not a tape: the file is empty".to_owned() });
    }
    Ok(Read::Whole)
}

/// The head, for who looks no further.
///
/// # Errors
/// As [`read`].
pub fn head_of(path: &Path) -> Result<Head, Error> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    let failed = |error| Error::Io { path: path.to_owned(), error };
    file.take(HEAD_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(failed)?;
    let mut reader = Reader::new();
    reader.feed(&bytes);
    reader.finish();
    let no = |why: String| Error::NoTape { path: path.to_owned(), why };
    match reader.next_entry().map(|entry| entry.line) {
        Some(Ok(Line::Head(head))) => Ok(head),
        Some(Err(why)) => Err(no(why.to_string())),
        _ => Err(no("not a tape: the file is empty".to_owned())),
    }
}

/// How a tape ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail {
    /// Of the last whole frame.
    pub seq: u64,
    pub us: u64,
    pub end: Option<End>,
    pub bytes: u64,
}

/// The end of a tape, without what is before. A last frame longer than a MiB is not seen.
///
/// # Errors
/// As [`read`].
pub fn tail_of(path: &Path) -> Result<Tail, Error> {
    let file = open(path)?;
    let failed = |error| Error::Io { path: path.to_owned(), error };
    let bytes = file.metadata().map_err(failed)?.len();
    let from = bytes.saturating_sub(TAIL_BYTES);
    let mut piece = vec![0; (bytes - from) as usize];
    file.read_exact_at(&mut piece, from).map_err(failed)?;
    let mut tail = Tail { bytes, ..Tail::default() };
    for line in piece.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")) {
        if let Ok(frame) = serde_json::from_slice::<Frame<'_>>(line) {
            (tail.seq, tail.us) = (frame.seq, frame.us);
        } else if let Ok(Ending { end }) = serde_json::from_slice(line) {
            tail.end = Some(end);
        }
    }
    Ok(tail)
}

#[derive(serde::Deserialize)]
struct Ending {
    end: End,
}

/// A line again, of a file that grows at most.
///
/// # Errors
/// It cannot be read, or the file has become shorter.
pub fn line_at(file: &File, offset: u64, bytes: usize, line: &mut Vec<u8>) -> io::Result<()> {
    line.resize(bytes.min(LINE_BYTES_MAX), 0);
    file.read_exact_at(line, offset)
}

fn open(path: &Path) -> Result<File, Error> {
    let failed = |error| Error::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(Error::Directory { path: path.to_owned() });
    }
    Ok(file)
}

fn patiently(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
