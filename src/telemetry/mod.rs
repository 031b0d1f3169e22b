//! L2: what the proxy tells about itself. Workers write their own cells; a scrape adds them up.

pub mod account;
pub mod cells;
pub mod checks;
pub mod exposition;
pub mod families;
pub mod histogram;
mod log_filter;
pub mod registry;
pub mod tally;

pub use cells::{BreakerState, CallCells, Fault, StoreCells, UpstreamCells, WorkerCells};
pub use log_filter::LogFilter;
pub use registry::{Loss, Registry};
pub use tally::Count;
