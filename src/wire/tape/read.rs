//! Lines from a tape, in pieces of any size, in memory that no tape makes grow beyond its longest line.

use serde::Deserialize;

use super::crc32c::Crc32c;
use super::line::{Checkpoint, End, Frame, Gap, Head, Line};
use super::{LINE_BYTES_MAX, VERSION};

/// Reads one tape, or several that were put behind one another.
#[derive(Debug)]
pub struct Reader {
    line_bytes_max: usize,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were given out already.
    taken: usize,
    /// Bytes behind them that hold no line's end.
    searched: usize,
    /// No more will be fed.
    is_over: bool,
    /// Of a line that is too long, how much was passed over.
    passed_over: Option<u64>,
    /// Lines that were given out.
    lines: u64,
    /// Where the next line begins.
    offset: u64,
    /// Where the tape at hand begins.
    tape_begins: u64,
    since_checkpoint: Crc32c,
    is_no_tape: bool,
}

/// A line and where it stands.
#[derive(Debug)]
pub struct Entry<'a> {
    /// From 1.
    pub number: u64,
    /// Of its first byte.
    pub offset: u64,
    /// As it stands, without its end; empty if it is too long.
    pub bytes: &'a [u8],
    pub line: Result<Line<'a>, Damage>,
}

/// What is wrong with a line. All but the first leave the rest of the tape readable.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("not a tape: the first line is no head of one ({0})")]
    NotATape(String),
    #[error(
        "the tape is of version {0}, and this program reads up to {VERSION}: use the program that wrote it, or a later one"
    )]
    Later(u32),
    #[error("the last line is torn ({0} bytes), as after a crash; all lines before it count")]
    Torn(u64),
    #[error("{0}")]
    Unreadable(String),
    #[error("the line has {0} bytes, and at most {LINE_BYTES_MAX} are read")]
    TooLong(u64),
    #[error("the lines above were changed: their checksum is {found}, and this checkpoint says {}", checkpoint.crc32c)]
    Changed { checkpoint: Checkpoint, found: String },
    #[error("bytes are missing, or too many, above: this checkpoint says that it begins at {}, and it is at {found}", checkpoint.bytes)]
    Moved { checkpoint: Checkpoint, found: u64 },
}

/// A line by the keys that tell what it is.
#[derive(Deserialize)]
struct Keys {
    #[serde(default)]
    shadowcat_tape: Option<u32>,
    #[serde(default)]
    seq: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    gap: Option<Gap>,
    #[serde(default)]
    checkpoint: Option<Checkpoint>,
    #[serde(default)]
    end: Option<End>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl Reader {
    pub fn new() -> Reader {
        Reader::of_lines_up_to(LINE_BYTES_MAX)
    }

    pub(super) fn of_lines_up_to(line_bytes_max: usize) -> Reader {
        Reader {
            line_bytes_max,
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            is_over: false,
            passed_over: None,
            lines: 0,
            offset: 0,
            tape_begins: 0,
            since_checkpoint: Crc32c::default(),
            is_no_tape: false,
        }
    }

    /// The next piece. What was given out before is forgotten.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        self.buffer.extend_from_slice(bytes);
    }

    /// That was all.
    pub fn finish(&mut self) {
        self.is_over = true;
    }

    /// The next line that is whole; `None`: feed more, or that was all.
    pub fn next_entry(&mut self) -> Option<Entry<'_>> {
        if self.is_no_tape {
            return None;
        }
        let from = self.taken + self.searched;
        let Some(length) = memchr::memchr(b'\n', &self.buffer[from..]).map(|at| at + self.searched) else {
            return self.without_end();
        };
        self.searched = 0;
        let (start, end) = (self.taken, self.taken + length);
        self.taken = end + 1;
        let passed_over = self.passed_over.take();
        let whole = passed_over.unwrap_or(0) + length as u64;
        let (number, offset) = (self.lines + 1, self.offset);
        self.lines = number;
        self.offset += whole + 1;
        if passed_over.is_some() || length > self.line_bytes_max {
            self.since_checkpoint.feed(&self.buffer[start..=end]);
            return Some(Entry { number, offset, bytes: b"", line: Err(Damage::TooLong(whole)) });
        }
        let bytes = &self.buffer[start..end];
        let line = match read(bytes) {
            Ok(Line::Head(head)) if head.version > VERSION => Err(Damage::Later(head.version)),
            Ok(Line::Head(head)) => {
                (self.tape_begins, self.since_checkpoint) = (offset, Crc32c::default());
                Ok(Line::Head(head))
            }
            Ok(_) if number == 1 => Err(Damage::NotATape("it is another line".into())),
            Err(error) if number == 1 => Err(Damage::NotATape(error)),
            Ok(Line::Checkpoint(checkpoint)) => {
                let found = std::mem::take(&mut self.since_checkpoint);
                verify(checkpoint, found, offset - self.tape_begins).map(Line::Checkpoint)
            }
            other => other.map_err(Damage::Unreadable),
        };
        self.is_no_tape = matches!(line, Err(Damage::NotATape(_) | Damage::Later(_)));
        if !matches!(line, Ok(Line::Checkpoint(_)) | Err(Damage::Changed { .. } | Damage::Moved { .. })) {
            self.since_checkpoint.feed(&self.buffer[start..=end]);
        }
        Some(Entry { number, offset, bytes, line })
    }

    /// There is no end of a line in what is there.
    fn without_end(&mut self) -> Option<Entry<'_>> {
        let left = self.buffer.len() - self.taken;
        self.searched = left;
        if left > self.line_bytes_max || self.passed_over.is_some() {
            self.since_checkpoint.feed(&self.buffer[self.taken..]);
            *self.passed_over.get_or_insert(0) += left as u64;
            self.buffer.clear();
            (self.taken, self.searched) = (0, 0);
        }
        let torn = self.passed_over.unwrap_or(left as u64);
        if !self.is_over || torn == 0 {
            return None;
        }
        let (number, offset) = (self.lines + 1, self.offset);
        (self.lines, self.offset) = (number, offset + torn);
        (self.passed_over, self.taken, self.searched) = (None, self.buffer.len(), 0);
        let bytes = &self.buffer[self.buffer.len() - left.min(self.buffer.len())..];
        self.is_no_tape = number == 1;
        let damage = if number == 1 { Damage::NotATape("it has no end".into()) } else { Damage::Torn(torn) };
        Some(Entry { number, offset, bytes, line: Err(damage) })
    }
}

/// What a line says; the error is what is wrong with it.
fn read(bytes: &[u8]) -> Result<Line<'_>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the line is not UTF-8".to_owned())?;
    let words = |error: serde_json::Error| {
        // Of its own place only the column says anything.
        let text = error.to_string();
        match text.split_once(" at line ") {
            Some((what, _)) if error.column() > 0 => format!("{what} (column {})", error.column()),
            _ => text,
        }
    };
    // Frames are most lines: looked at once.
    if text.starts_with("{\"seq\":") {
        return serde_json::from_str::<Frame<'_>>(text).map(|frame| Line::Frame(Box::new(frame))).map_err(words);
    }
    let keys: Keys = serde_json::from_str(text).map_err(words)?;
    Ok(match keys {
        Keys { shadowcat_tape: Some(version), .. } if version > VERSION => Line::Head(of_later(version)),
        Keys { shadowcat_tape: Some(_), .. } => Line::Head(serde_json::from_str::<Head>(text).map_err(words)?),
        Keys { seq: Some(_), .. } => Line::Frame(Box::new(serde_json::from_str(text).map_err(words)?)),
        Keys { gap: Some(gap), .. } => Line::Gap(gap),
        Keys { checkpoint: Some(checkpoint), .. } => Line::Checkpoint(checkpoint),
        Keys { end: Some(end), .. } => Line::End(end),
        _ => Line::Unknown,
    })
}

/// A head of which nothing but the version can be relied on.
fn of_later(version: u32) -> Head {
    Head {
        version,
        id: String::new(),
        started: String::new(),
        software: String::new(),
        transport: super::Transport::Http,
        server: super::Server::default(),
        session: None,
        part: 1,
    }
}

fn verify(checkpoint: Checkpoint, found: Crc32c, offset: u64) -> Result<Checkpoint, Damage> {
    if checkpoint.bytes != offset {
        return Err(Damage::Moved { checkpoint, found: offset });
    }
    let found = format!("{:08x}", found.value());
    if checkpoint.crc32c != found {
        return Err(Damage::Changed { checkpoint, found });
    }
    Ok(checkpoint)
}
