//! The atomics of what is model-checked, in one place: `tests/loom` has a module of its own here.

pub use std::sync::atomic::{AtomicU32, AtomicU64, fence};
