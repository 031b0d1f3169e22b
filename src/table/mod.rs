//! L3: the only shared mutable memory: plain atomics, one or two cache lines an entry, no locks.
//!
//! Workers and control read and write single words. Where two must agree (places and who waits for one), `endpoint` says
//! how they do; `tests/loom/` checks it over all interleavings.

pub mod affinity;
pub mod balancer;
pub mod breaker;
pub mod endpoint;
pub mod limits;
pub mod schedule;
mod sync;
pub mod waiting;

pub use affinity::Affinity;
pub use balancer::{Balancer, Policy, Rules};
pub use breaker::{Breaker, Epoch, Pass, Trip};
pub use endpoint::{Endpoint, InFlight};
pub use limits::{Limits, Rate, Verdict};
pub use schedule::Schedule;
pub use waiting::{Line, Waiting};
