//! The log: a thread for each place that lines go to, so that nobody else ever waits for a pipe or a disk.
//!
//! ```text
//! tracing, on any thread --lines--> Events  --+
//! workers --------------records--> Journal  --+--> a thread: format, write in one go --> stdout, stderr, a file
//! ```
//!
//! What finds no room, and what cannot be written, is counted and lost; but what the audit log took it writes once it can.

mod events;
mod output;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::{AccessLog, LogFormat, LogOutput, Plan};
use crate::telemetry::lines::Style;
use crate::telemetry::{Access, Doorbell, LogFilter, Logs, Wanted};
use output::Output;
use writer::{Kind, Running};

/// How long the end of the program waits for a log that takes nothing.
const FAREWELL: Duration = Duration::from_secs(1);

/// The running log. Dropped at the end of the program, it writes what is still there.
pub struct Log {
    pub logs: Arc<Logs>,
    pub filter: Arc<LogFilter>,
    writers: Vec<Running>,
}

/// Open what the plan names and log from here on. `spans`: who is woken for spans, if there are any.
///
/// # Errors
/// A file that cannot be opened, with the key that names it; a log that runs already.
pub fn start(plan: &Plan, spans: Option<Arc<Doorbell>>) -> Result<Log, String> {
    let log = &plan.log;
    let mut places = Places::default();
    let events = places.bell("logging.output", &log.output, Kind::Events)?;
    let style = match log.format {
        LogFormat::Json => |_: &Output| Style::Json,
        LogFormat::Human => |output: &Output| if output.is_journal() { Style::Journal } else { Style::Human },
    };
    let access = match log.access {
        AccessLog::Off => None,
        AccessLog::All => Some(Access::All),
        AccessLog::Errors => Some(Access::Errors),
    };
    let kind = |output: &Output| Kind::Access(style(output));
    let access = match access {
        Some(access) => Some((places.bell_of("logging.access_output", &log.access_output, kind)?, access)),
        None => None,
    };
    let audit = log.audit.as_ref().map(|place| places.bell("logging.audit", place, Kind::Audit)).transpose()?;
    let logs = Arc::new(Logs::new(Wanted { workers: plan.workers, events, access, audit, spans }));
    let filter = Arc::new(events::install(log, &places.0[0].output, logs.clone())?);
    // The hook that there is writes to stderr itself, and a worker would wait for that.
    std::panic::set_hook(Box::new(|panic| {
        let (thread, text) = (std::thread::current(), panic.to_string().replace('\n', " "));
        tracing::error!(thread = thread.name(), "{text}");
    }));
    let writers = places.0.into_iter().map(|place| writer::start(place.output, place.bell, place.kinds, logs.clone()));
    let writers = writers.collect::<Result<_, _>>().map_err(|error| format!("the log: {error}"))?;
    Ok(Log { logs, filter, writers })
}

/// Where lines go: one thread each, so that a file that is named twice is opened once.
#[derive(Default)]
struct Places(Vec<Place>);

struct Place {
    output: Output,
    bell: Arc<Doorbell>,
    kinds: Vec<Kind>,
}

impl Places {
    /// Whom to wake for this kind of lines, which go there.
    fn bell(&mut self, key: &str, place: &LogOutput, kind: Kind) -> Result<Arc<Doorbell>, String> {
        self.bell_of(key, place, |_| kind)
    }

    fn bell_of(
        &mut self,
        key: &str,
        place: &LogOutput,
        kind: impl FnOnce(&Output) -> Kind,
    ) -> Result<Arc<Doorbell>, String> {
        let at = match self.0.iter().position(|known| known.output.place() == place) {
            Some(at) => at,
            None => {
                let output = Output::open(place).map_err(|error| format!("{key} {place}: {error}"))?;
                self.0.push(Place { output, bell: Arc::default(), kinds: Vec::new() });
                self.0.len() - 1
            }
        };
        let place = &mut self.0[at];
        place.kinds.push(kind(&place.output));
        Ok(place.bell.clone())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.writers.iter().for_each(|writer| writer.end(FAREWELL));
    }
}
