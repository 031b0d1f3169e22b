//! L3: tapes as files.

mod input;

pub use input::{Error, Read, Tail, head_of, line_at, read, tail_of};
