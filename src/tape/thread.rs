//! The thread that makes tapes of what is in the queues.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};

use super::assembly::Assembly;
use super::queue::Event;
use super::shelf::Shelf;
use super::{Prepared, Recorder};

/// How long events may gather while there are many.
const PAUSE: Duration = Duration::from_millis(10);
/// How long it sleeps when there are none; limits are looked at, at the latest then.
const IDLE: Duration = Duration::from_millis(500);
/// Events of one pass, so that time passes for the rest as well.
const EVENTS: usize = 4096;
/// How long the end of the program waits for a disk.
const FAREWELL: Duration = Duration::from_secs(5);

/// A recording. Dropped, it ends with what is there.
pub struct Running {
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl Running {
    pub fn recorder(&self) -> Arc<Recorder> {
        self.recorder.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.recorder.bell.wake();
        let _ = self.ended.recv_timeout(FAREWELL);
    }
}

impl Prepared {
    /// Begin.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(self) -> io::Result<Running> {
        let Prepared { shelf, recorder, plan } = self;
        let stop: Arc<AtomicBool> = Arc::default();
        let (tell, ended) = bounded(1);
        let (told, assembly) = (stop.clone(), Assembly::new(plan.rules.clone(), plan.body_bytes_max));
        let theirs = recorder.clone();
        thread::Builder::new().name("tape".into()).spawn(move || {
            run(&theirs, &told, shelf, assembly);
            let _ = tell.send(());
        })?;
        Ok(Running { recorder, stop, ended })
    }
}

fn run(recorder: &Recorder, stop: &AtomicBool, mut shelf: Shelf, mut assembly: Assembly) {
    let mut event = Event::default();
    loop {
        let stopping = stop.load(Relaxed);
        let mut seen = 0;
        while seen < EVENTS
            && let Some(queue) = recorder.first()
        {
            recorder.queues[queue].take(&mut event);
            assembly.see(queue, &event, &mut shelf);
            seen += 1;
        }
        let now = recorder.at(std::time::Instant::now());
        shelf.tend(now);
        recorder.counts.cpu_ns.store(cpu_ns(), Relaxed);
        match seen {
            0 if stopping => break,
            0 => recorder.bell.wait(|| recorder.is_empty(), IDLE),
            EVENTS => {}
            _ if stopping => {}
            _ => thread::park_timeout(PAUSE),
        }
    }
    assembly.finish(recorder.at(std::time::Instant::now()), &mut shelf);
    shelf.finish_all();
}

/// Of this thread.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the whole call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
