//! Lines for a tape.

use std::fmt::Debug;

use serde::Serialize;

use super::crc32c::Crc32c;
use super::line::{Checkpoint, End, Frame, Gap, Head, Why};
use super::{CHECKPOINT_FRAMES, VERSION};

/// The lines of one tape, in their order. It knows what was appended and not what became of that: whoever cannot write a
/// line goes back to the copy of before it.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Of the last frame.
    seq: u64,
    /// Time of the last frame.
    us: u64,
    bytes: u64,
    since_checkpoint: Crc32c,
    checkpointed: u64,
    dropped: u64,
}

#[derive(Debug, Serialize)]
struct GapLine {
    gap: Gap,
}

#[derive(Debug, Serialize)]
struct CheckpointLine {
    checkpoint: Checkpoint,
}

#[derive(Debug, Serialize)]
struct EndLine {
    end: End,
}

impl Writer {
    /// A new tape, whose head is appended to `out`.
    pub fn begin(head: &Head, out: &mut Vec<u8>) -> Writer {
        debug_assert_eq!(head.version, VERSION);
        let mut writer =
            Writer { seq: 0, us: 0, bytes: 0, since_checkpoint: Crc32c::default(), checkpointed: 0, dropped: 0 };
        writer.append(head, out);
        writer
    }

    /// Append a frame; its number. Time does not go back.
    pub fn frame(&mut self, mut frame: Frame<'_>, out: &mut Vec<u8>) -> u64 {
        self.seq += 1;
        self.us = self.us.max(frame.us);
        (frame.seq, frame.us) = (self.seq, self.us);
        self.append(&frame, out);
        self.seq
    }

    pub fn gap(&mut self, gap: Gap, out: &mut Vec<u8>) {
        self.dropped += gap.frames;
        self.append(&GapLine { gap }, out);
    }

    /// Append a checkpoint, if there is anything that it would vouch for.
    pub fn checkpoint(&mut self, out: &mut Vec<u8>) {
        if self.since_checkpoint == Crc32c::default() {
            return;
        }
        let crc32c = format!("{:08x}", self.since_checkpoint.value());
        let checkpoint = Checkpoint { seq: self.seq, bytes: self.bytes, crc32c };
        self.append(&CheckpointLine { checkpoint }, out);
        (self.since_checkpoint, self.checkpointed) = (Crc32c::default(), self.seq);
    }

    /// Append the last checkpoint and the end.
    pub fn end(&mut self, why: Why, out: &mut Vec<u8>) {
        self.checkpoint(out);
        self.append(&EndLine { end: End { why, frames: self.seq, dropped: self.dropped } }, out);
    }

    /// Whether frames were appended since the last checkpoint.
    pub fn has_unchecked(&self) -> bool {
        self.seq > self.checkpointed
    }

    pub fn wants_checkpoint(&self) -> bool {
        self.seq - self.checkpointed >= CHECKPOINT_FRAMES
    }

    /// Of all lines so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of frames so far.
    pub fn frames(&self) -> u64 {
        self.seq
    }

    fn append(&mut self, line: &(impl Serialize + Debug), out: &mut Vec<u8>) {
        let start = out.len();
        let written = serde_json::to_writer(&mut *out, line);
        debug_assert!(written.is_ok(), "{line:?}");
        out.push(b'\n');
        self.since_checkpoint.feed(&out[start..]);
        self.bytes += (out.len() - start) as u64;
    }
}
