//! One thread, one output: takes what was left for it, formats, and writes in one go.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};

use super::output::Output;
use crate::telemetry::lines::{self, Pen, Style};
use crate::telemetry::{Doorbell, Journal, Logs};

/// How long lines may gather while there are many: a write for each would cost more than all the rest.
pub const PAUSE: Duration = Duration::from_millis(20);
/// As [`PAUSE`], while writing fails.
const RETRY: Duration = Duration::from_millis(100);
/// How long it sleeps when there are none; a rotated file is made anew at the latest then.
const IDLE: Duration = Duration::from_secs(1);
/// Bytes of one write, about.
const WRITE_BYTES: usize = 64 * 1024;

/// A kind of lines.
#[derive(Clone, Copy)]
pub enum Kind {
    Events,
    Access(Style),
    Audit,
}

/// Lines of one kind on their way to the output.
struct Flow {
    kind: Kind,
    /// Formatted and not yet written.
    lines: Vec<u8>,
    /// The last write failed, which was said.
    failing: bool,
}

/// What there was to write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Some,
    /// More than goes into one write.
    Much,
}

pub struct Writer {
    output: Output,
    bell: Arc<Doorbell>,
    flows: Vec<Flow>,
    logs: Arc<Logs>,
    pen: Pen,
    stop: Arc<AtomicBool>,
}

/// Ends the writer.
pub struct Running {
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl Running {
    /// Write what there is, and end; but wait at most this long for it.
    pub fn end(&self, patience: Duration) {
        self.stop.store(true, Relaxed);
        self.bell.wake();
        let _ = self.ended.recv_timeout(patience);
    }
}

/// # Errors
/// There is no thread to be had.
pub fn start(output: Output, bell: Arc<Doorbell>, kinds: Vec<Kind>, logs: Arc<Logs>) -> io::Result<Running> {
    let flows = kinds.into_iter().map(|kind| Flow { kind, lines: Vec::new(), failing: false }).collect();
    let stop: Arc<AtomicBool> = Arc::default();
    let writer = Writer { output, bell: bell.clone(), flows, logs, pen: Pen::default(), stop: stop.clone() };
    let (tell, ended) = bounded(1);
    thread::Builder::new().name("log".into()).spawn(move || {
        writer.run();
        let _ = tell.send(());
    })?;
    Ok(Running { bell, stop, ended })
}

impl Writer {
    fn run(mut self) {
        loop {
            let stopping = self.stop.load(Relaxed);
            if let Err(error) = self.output.heed_rotation() {
                tracing::error!(place = %self.output.place(), %error, "the log cannot be opened anew: the old file stays");
            }
            self.pen.dates.refresh();
            let mut found = Found::Nothing;
            for flow in &mut self.flows {
                found = found.max(flow.write(&self.logs, &mut self.pen, &mut self.output));
            }
            let failing = self.flows.iter().any(|flow| flow.failing);
            match found {
                _ if stopping && (failing || found == Found::Nothing) => return,
                Found::Nothing => {
                    let (logs, flows) = (&self.logs, &self.flows);
                    self.bell.wait(|| flows.iter().all(|flow| flow.kind.is_empty(logs)), IDLE);
                }
                _ if failing => thread::park_timeout(RETRY),
                Found::Some => thread::park_timeout(PAUSE),
                Found::Much => {}
            }
        }
    }
}

impl Kind {
    fn is_empty(self, logs: &Logs) -> bool {
        match self {
            Kind::Events => logs.events.journal().is_empty(),
            Kind::Access(_) => logs.access.as_ref().is_none_or(Journal::is_empty),
            Kind::Audit => logs.audit.as_ref().is_none_or(Journal::is_empty),
        }
    }

    /// The next line; `None`: there is none.
    fn format(self, logs: &Logs, pen: &mut Pen, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Kind::Events => out.extend_from_slice(&logs.events.take()?),
            Kind::Access(style) => lines::access(out, pen, style, &logs.access.as_ref()?.take()?),
            Kind::Audit => lines::audit(out, pen, &logs.audit.as_ref()?.take()?),
        }
        Some(())
    }

    /// Where it is counted what was written and what was not.
    fn counts(self, logs: &Logs) -> Option<(&AtomicU64, &AtomicU64)> {
        fn of<T>(journal: &Journal<T>) -> (&AtomicU64, &AtomicU64) {
            (&journal.delivered, &journal.failed)
        }
        match self {
            Kind::Events => Some(of(logs.events.journal())),
            Kind::Access(_) => logs.access.as_ref().map(of),
            Kind::Audit => logs.audit.as_ref().map(of),
        }
    }
}

impl Flow {
    /// Write what there is, up to the size of a write.
    fn write(&mut self, logs: &Logs, pen: &mut Pen, output: &mut Output) -> Found {
        while self.lines.len() < WRITE_BYTES && self.kind.format(logs, pen, &mut self.lines).is_some() {}
        if self.lines.is_empty() {
            return Found::Nothing;
        }
        let found = if self.lines.len() < WRITE_BYTES { Found::Some } else { Found::Much };
        let result = output.write(&self.lines);
        let written = result.as_ref().map_or_else(|(bytes, _)| *bytes, |()| self.lines.len());
        let ends = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
        if let Some((delivered, failed)) = self.kind.counts(logs) {
            delivered.fetch_add(ends(&self.lines[..written]), Relaxed);
            if !self.is_kept() {
                failed.fetch_add(ends(&self.lines[written..]), Relaxed);
            }
        }
        let whole = memchr::memrchr(b'\n', &self.lines[..written]).map_or(0, |end| end + 1);
        let rest = if self.is_kept() { whole } else { self.lines.len() };
        self.lines.drain(..rest);
        self.tell(output, result.err().map(|(_, error)| error));
        // What is kept is tried again, as if it were new.
        found
    }

    /// Whether what could not be written is kept, so that it is written once that works; what comes meanwhile waits in its
    /// boxes, until they are full.
    fn is_kept(&self) -> bool {
        matches!(self.kind, Kind::Audit)
    }

    /// Say once that writing fails, and once that it works again.
    fn tell(&mut self, output: &Output, error: Option<io::Error>) {
        let (place, lost) = (output.place(), if self.is_kept() { "waits" } else { "is lost" });
        match (self.failing, &error) {
            (false, Some(error)) => tracing::error!(%place, %error, "a log cannot be written: what it is told {lost}"),
            (true, None) => tracing::warn!(%place, "a log can be written again"),
            _ => {}
        }
        self.failing = error.is_some();
    }
}
