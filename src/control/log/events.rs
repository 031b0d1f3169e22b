//! `tracing`'s events as lines for the writer, and which of them.

use std::io::{self, Write};
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use super::output::Output;
use crate::config::plan::{LogFormat, LogPlan};
use crate::telemetry::{LogFilter, Logs};

/// Log events as the plan says; without colour where nobody sees it, and for the journal with its priority in place of the
/// time, which it keeps itself (sd-daemon(3)).
///
/// # Errors
/// Events are logged already.
pub fn install(plan: &LogPlan, output: &Output, logs: Arc<Logs>) -> Result<LogFilter, String> {
    let journal = plan.format == LogFormat::Human && output.is_journal();
    let lines = Lines { logs, priority: journal };
    let colour = output.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&plan.filter));
    let layer = fmt::layer().with_ansi(colour).with_writer(lines);
    let layer = match plan.format {
        LogFormat::Json => layer.json().boxed(),
        LogFormat::Human if journal => layer.without_time().boxed(),
        LogFormat::Human => layer.boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(|error| error.to_string())?;
    let set = move |text: &str| {
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    };
    Ok(LogFilter::new(&plan.filter, Box::new(set)))
}

struct Lines {
    logs: Arc<Logs>,
    /// Begin each with its priority.
    priority: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { logs: &self.logs, priority: None }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        Line { logs: &self.logs, priority: self.priority.then(|| priority(*about.level())) }
    }
}

/// `<3>` and so on, as in syslog.
pub fn priority(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        _ => b"<7>",
    }
}

struct Line<'a> {
    logs: &'a Logs,
    priority: Option<&'static [u8]>,
}

impl Write for Line<'_> {
    /// An event comes whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = [self.priority.unwrap_or_default(), line].concat();
        self.logs.events.leave(text.into());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
