//! The tape: MCP traffic as JSON Lines, written while it happens and read back by others. `docs/TAPE.md` is the format.
//!
//! [`Writer`] appends lines to a buffer, [`Reader`] takes bytes in pieces of any size and gives lines back; neither does I/O.
//! A line stands for itself, so a tape is valid at every moment of its writing, whatever ends that.

mod crc32c;
mod line;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use super::base64::{decode as decode_base64, encode as encode_base64};
pub use line::{
    Checkpoint, End, Frame, Gap, Head, Headers, Http, Line, Rpc, Server, Side, Stream, Transport, Why, as_message,
};
pub use read::{Damage, Entry, Reader};
pub use write::Writer;

/// The version of the format that is written; a reader refuses later ones.
pub const VERSION: u32 = 1;
/// Longest line, bytes, without its end; longer ones are passed over.
pub const LINE_BYTES_MAX: usize = 64 << 20;
/// Frames between two checkpoints, at most.
pub const CHECKPOINT_FRAMES: u64 = 1000;
