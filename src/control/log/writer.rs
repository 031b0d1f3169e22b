//! One thread, one output: takes what was left for it, formats, and writes in one go.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};

use super::output::Output;
use crate::telemetry::{Doorbell, Logs};

/// How long lines may gather while there are many: a write for each would cost more than all the rest.
pub const PAUSE: Duration = Duration::from_millis(10);
/// How long it sleeps when there are none; a rotated file is made anew at the latest then.
const IDLE: Duration = Duration::from_secs(1);
/// Bytes of one write, about.
const WRITE_BYTES: usize = 64 * 1024;

/// A kind of lines.
pub enum Kind {
    Events,
}

/// Lines of one kind on their way to the output.
struct Flow {
    kind: Kind,
    /// Formatted and not yet written.
    lines: Vec<u8>,
    /// The last write failed, which was said.
    failing: bool,
}

pub struct Writer {
    output: Output,
    bell: Arc<Doorbell>,
    flows: Vec<Flow>,
    logs: Arc<Logs>,
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
    let writer = Writer { output, bell: bell.clone(), flows, logs, stop: stop.clone() };
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
            if self.write_all() {
                thread::park_timeout(PAUSE);
            } else if stopping {
                return;
            } else {
                let (logs, flows) = (&self.logs, &self.flows);
                self.bell.wait(|| flows.iter().all(|flow| flow.kind.is_empty(logs)), IDLE);
            }
        }
    }

    /// Whether there was anything.
    fn write_all(&mut self) -> bool {
        let mut any = false;
        for flow in &mut self.flows {
            any |= flow.write(&self.logs, &mut self.output);
        }
        any
    }
}

impl Kind {
    fn is_empty(&self, logs: &Logs) -> bool {
        match self {
            Kind::Events => logs.events.journal().is_empty(),
        }
    }

    /// The next line; `false`: there is none.
    fn format(&self, logs: &Logs, out: &mut Vec<u8>) -> bool {
        match self {
            Kind::Events => logs.events.take().map(|line| out.extend_from_slice(&line)).is_some(),
        }
    }

    fn counts<'l>(&self, logs: &'l Logs) -> (&'l AtomicU64, &'l AtomicU64) {
        match self {
            Kind::Events => (&logs.events.journal().delivered, &logs.events.journal().failed),
        }
    }
}

impl Flow {
    fn write(&mut self, logs: &Logs, output: &mut Output) -> bool {
        self.lines.clear();
        while self.lines.len() < WRITE_BYTES && self.kind.format(logs, &mut self.lines) {}
        if self.lines.is_empty() {
            return false;
        }
        let result = output.write(&self.lines);
        let written = result.as_ref().map_or_else(|(bytes, _)| *bytes, |()| self.lines.len());
        let ends = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
        let (delivered, failed) = self.kind.counts(logs);
        delivered.fetch_add(ends(&self.lines[..written]), Relaxed);
        failed.fetch_add(ends(&self.lines[written..]), Relaxed);
        self.tell(output, result.err().map(|(_, error)| error));
        true
    }

    /// Say once that writing fails, and once that it works again.
    fn tell(&mut self, output: &Output, error: Option<io::Error>) {
        let place = output.place();
        match (self.failing, &error) {
            (false, Some(error)) => tracing::error!(%place, %error, "a log cannot be written: its lines are lost"),
            (true, None) => tracing::warn!(%place, "a log can be written again"),
            _ => {}
        }
        self.failing = error.is_some();
    }
}
