//! The accept loop: a cap, a pause when descriptors run out, and a fair share for each worker.
//!
//! A worker that has a CPU to itself takes the connections whose packets arrive there, so that what one client sends and gets
//! stays in one cache (`docs/adr/0021-connections-stay-on-their-cpu.md`). One that has well more than its share hands new ones
//! over.

use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_channel::oneshot;

use super::{Command, Worker, connection};
use crate::net::listener::Listener;
use crate::net::{self, Either, race};

/// Pause when accepting fails (EMFILE): without one a ring reports 1.7 million errors a second.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections taken in one turn of the loop.
const BATCH: usize = 32;
/// Connections above well more than its share that a worker keeps.
const SLACK: u64 = 2;
/// The same of those that came to its CPU: clients come in bursts, one CPU's before those of the others, and a client with a few
/// connections is served best by one worker.
const SLACK_OF_CPU: u64 = 16;

/// Ends the accept loop.
pub struct Accepting {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Accepting {
    /// Take what waits in the queue, then close it; ready when that is done.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

/// Where a worker gets its connections.
pub struct Place {
    pub listener: StdListener,
    /// The CPU that its thread runs on, if that is one alone and the listener is its own.
    pub cpu: Option<u32>,
}

pub fn start(worker: &Rc<Worker>, place: Place) -> Accepting {
    let (stop, stopped) = oneshot::channel();
    let (done, ended) = oneshot::channel();
    let worker = worker.clone();
    net::spawn(async move {
        run(worker, place, stopped).await;
        let _ = done.send(());
    });
    Accepting { stop, ended }
}

async fn run(worker: Rc<Worker>, place: Place, stopped: oneshot::Receiver<()>) {
    let listener = match Listener::adopt(&place.listener) {
        Ok(adopted) => adopted,
        Err(error) => {
            tracing::error!(worker = worker.index, %error, "cannot listen");
            return;
        }
    };
    let mut slack = SLACK;
    if let Some(cpu) = place.cpu.filter(|_| worker.shared.workers.len() > 1) {
        listener.serve_cpu(cpu);
        slack = SLACK_OF_CPU;
    }
    let mut stopped = pin!(stopped);
    loop {
        let ready = match race(stopped.as_mut(), pin!(listener.ready())).await {
            Either::First(_) => break,
            Either::Second(ready) => ready,
        };
        if ready.is_err() || !accept_batch(&worker, &listener, slack) {
            worker.cells.accept_pauses.add(1);
            net::sleep(PAUSE).await;
        }
    }
    while let Ok(Some((stream, peer))) = listener.accept() {
        worker.shared.connections.fetch_add(1, Relaxed);
        connection::start(&worker, stream, peer);
    }
}

/// `false`: a pause is due.
fn accept_batch(worker: &Rc<Worker>, listener: &Listener, slack: u64) -> bool {
    let cap = worker.shared.view.load().plan.limits.connections_max.min(worker.shared.descriptors_allow);
    for _ in 0..BATCH {
        // Counted before it is taken, so that two workers never take the last place at once.
        let total = worker.shared.connections.fetch_add(1, Relaxed);
        let accepted = if total < cap { listener.accept() } else { Err(io::ErrorKind::QuotaExceeded.into()) };
        if !matches!(accepted, Ok(Some(_))) {
            worker.shared.connections.fetch_sub(1, Relaxed);
        }
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => return false,
            Ok(Some((stream, peer))) => {
                worker.cells.accepted.add(1);
                match less_busy(worker, total, slack) {
                    Some(other) => hand_over(worker, other, stream, peer),
                    None => connection::start(worker, stream, peer),
                }
            }
            Ok(None) => return true,
            Err(error) => {
                worker.cells.accept_errors.add(1);
                tracing::warn!(worker = worker.index, %error, "cannot accept a connection");
                return false;
            }
        }
    }
    true
}

/// Whether a worker has well more than its share of `total` connections. Neither the kernel's hash nor the CPUs of packets are
/// fair, and long streams stay where they fell.
fn has_too_many(worker: &Worker, total: usize, slack: u64) -> bool {
    let mean = (total / worker.shared.workers.len()) as u64;
    worker.cells.connections.value() > mean + mean / 4 + slack
}

/// Whom a worker that has too many gives a new one.
fn less_busy(worker: &Worker, total: usize, slack: u64) -> Option<usize> {
    if !has_too_many(worker, total, slack) {
        return None;
    }
    let workers = worker.shared.workers.iter().enumerate();
    let (index, _) = workers.min_by_key(|(_, cells)| cells.connections.value())?;
    (index != worker.index).then_some(index)
}

fn hand_over(worker: &Rc<Worker>, other: usize, stream: std::net::TcpStream, peer: std::net::SocketAddr) {
    let told = stream.try_clone().is_ok_and(|copy| worker.shared.tell(other, Command::Adopt(copy, peer)));
    if !told {
        connection::start(worker, stream, peer);
    }
}
