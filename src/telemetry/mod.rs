//! L2: what the proxy tells about itself. Workers write their own cells; a scrape adds them up. What goes to logs is left in
//! bounded boxes.

pub mod account;
pub mod cells;
pub mod checks;
mod events;
pub mod exposition;
pub mod families;
pub mod histogram;
pub mod lines;
mod log_filter;
mod logs;
pub mod moment;
mod outbox;
pub mod record;
pub mod registry;
pub mod spans;
pub mod tally;
pub mod text;

pub use cells::{BreakerState, CallCells, Fault, StoreCells, UpstreamCells, WorkerCells};
pub use log_filter::LogFilter;
pub use logs::{Access, LineCounts, Logs, SpanCounts, Wanted};
pub use outbox::{Doorbell, Journal, Outbox};
pub use registry::{Loss, Registry};
pub use tally::Count;
