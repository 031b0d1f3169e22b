//! A file of a tape: whole lines, or none of them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Recordings may hold what no redaction finds.
const MODE: u32 = 0o600;

#[derive(Debug)]
pub struct TapeFile {
    path: PathBuf,
    /// `None`: closed for a while.
    file: Option<File>,
    /// Of whole lines.
    length: u64,
}

impl TapeFile {
    /// A file that was not there before: `stem.tape`, or else `stem-2.tape` and so on.
    pub fn create(directory: &Path, stem: &str) -> io::Result<TapeFile> {
        for copy in 1.. {
            let name = if copy == 1 { format!("{stem}.tape") } else { format!("{stem}-{copy}.tape") };
            match TapeFile::create_at(&directory.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub fn create_at(path: &Path) -> io::Result<TapeFile> {
        let file = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path)?;
        // Whoever tidies up sees that it is in use. Not all file systems can.
        let _ = flock(&file, FlockOperation::NonBlockingLockShared);
        Ok(TapeFile { path: path.to_owned(), file: Some(file), length: 0 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Let go of the descriptor; the next write takes it again.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// Append whole lines. If that fails, none of them are there.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().append(true).open(&self.path)?;
                let _ = flock(&file, FlockOperation::NonBlockingLockShared);
                file
            }
        };
        let written = file.write_all(lines);
        match &written {
            Ok(()) => self.length += lines.len() as u64,
            // What was written of it would be a torn line, in the middle once there is room again.
            Err(_) => drop(file.set_len(self.length)),
        }
        self.file = Some(file);
        written
    }

    /// A file into which nothing could be written.
    pub fn discard(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
