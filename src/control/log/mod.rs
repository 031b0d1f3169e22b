//! The log: a thread for each place that lines go to, so that nobody else ever waits for a pipe or a disk.
//!
//! ```text
//! tracing, on any thread --lines--> Events --> a thread: write in one go --> stdout, stderr, a file
//! ```
//!
//! What finds no room, and what cannot be written, is counted and lost.

mod events;
mod output;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::LogPlan;
use crate::telemetry::{Doorbell, Logs};
pub use events::Filter;
use output::Output;
use writer::{Kind, Running};

/// How long the end of the program waits for a log that takes nothing.
const FAREWELL: Duration = Duration::from_secs(1);

/// The running log. Dropped at the end of the program, it writes what is still there.
pub struct Log {
    pub logs: Arc<Logs>,
    pub filter: Filter,
    writers: Vec<Running>,
}

/// Open what the plan names and log from here on.
///
/// # Errors
/// A file that cannot be opened, with the key that names it; a log that runs already.
pub fn start(plan: &LogPlan) -> Result<Log, String> {
    let place = &plan.output;
    let output = Output::open(place).map_err(|error| format!("logging.output {place}: {error}"))?;
    let bell: Arc<Doorbell> = Arc::default();
    let logs = Arc::new(Logs::new(bell.clone()));
    let filter = events::install(plan, &output, logs.clone())?;
    let writer = writer::start(output, bell, vec![Kind::Events], logs.clone());
    Ok(Log { logs, filter, writers: vec![writer.map_err(|error| error.to_string())?] })
}

impl Drop for Log {
    fn drop(&mut self) {
        self.writers.iter().for_each(|writer| writer.end(FAREWELL));
    }
}
