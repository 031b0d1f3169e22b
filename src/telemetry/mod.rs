//! L2: what the proxy tells about itself. Workers write their own cells; a scrape adds them up. What goes to logs is left in
//! bounded boxes.

pub mod account;
pub mod cells;
pub mod checks;
mod events;
pub mod exposition;
pub mod histogram;
pub mod lines;
mod logs;
pub mod moment;
mod outbox;
pub mod record;
pub mod spans;
pub mod text;

pub use cells::{Count, Fault, Registry, Series, UpstreamCells, WorkerCells};
pub use logs::{Access, Logs, SpanCounts, Tally, Wanted};
pub use outbox::{Doorbell, Journal, Outbox};
