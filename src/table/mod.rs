//! L3: the only shared mutable memory: plain atomics, one cache line an entry, no locks.
//!
//! Workers and control read and write single words; nothing here spans two words that must agree.

pub mod affinity;
pub mod endpoint;
pub mod limits;
pub mod schedule;

pub use affinity::Affinity;
pub use endpoint::{Endpoint, InFlight};
pub use limits::{Limits, Rate, Verdict};
pub use schedule::Schedule;
