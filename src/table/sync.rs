//! What threads meet on, of what is model-checked, in one place: `tests/loom` has a module of its own here.

pub use std::hint::spin_loop;
pub use std::sync::OnceLock;
pub use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, fence};

pub use atomic_waker::AtomicWaker;
pub use crossbeam::queue::SegQueue;

/// How many may have left a line before anybody sweeps.
pub const GONE_LEAST: u32 = 64;
