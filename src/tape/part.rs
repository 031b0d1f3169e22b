//! The part of a tape that is written: lines that wait, and the file that they go to.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::Counts;
use super::file::TapeFile;
use crate::wire::tape::Writer;

/// Memory for lines that a tape keeps, bytes.
const KEPT_MAX: usize = 4096;

/// The file of a tape that is written.
pub struct Part {
    pub writer: Writer,
    /// The writer of before the lines that wait; `None`: nothing was written yet.
    pub written: Option<Writer>,
    pub lines: Vec<u8>,
    /// `None`: not made yet.
    pub file: Option<TapeFile>,
    pub checked: u64,
}

impl Part {
    pub fn write(&mut self, counts: &Counts) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let lines = std::mem::take(&mut self.lines);
        file.append(&lines)?;
        let before = self.written.as_ref().map_or(0, Writer::frames);
        counts.frames.fetch_add(self.writer.frames() - before, Relaxed);
        counts.bytes.fetch_add(lines.len() as u64, Relaxed);
        self.written = Some(self.writer.clone());
        // Its memory is used again, unless it is much.
        if lines.capacity() <= KEPT_MAX {
            self.lines = lines;
            self.lines.clear();
        }
        Ok(())
    }

    pub fn checkpoint(&mut self, at: u64) {
        self.writer.checkpoint(&mut self.lines);
        self.checked = at;
    }

    pub fn has_unchecked(&self) -> bool {
        self.writer.has_unchecked()
    }
}
