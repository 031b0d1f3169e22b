//! L2: what the proxy tells about itself. Workers write their own cells; a scrape adds them up.

pub mod cells;
pub mod checks;
pub mod exposition;
pub mod histogram;
mod log_filter;

pub use cells::{Count, Fault, Registry, Series, UpstreamCells, WorkerCells};
pub use log_filter::LogFilter;
