//! The accept loop: a cap, a pause when descriptors run out, and a hand-over where one worker got too many.

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

pub fn start(worker: &Rc<Worker>, listener: StdListener) -> Accepting {
    let (stop, stopped) = oneshot::channel();
    let (done, ended) = oneshot::channel();
    let worker = worker.clone();
    net::spawn(async move {
        run(worker, listener, stopped).await;
        let _ = done.send(());
    });
    Accepting { stop, ended }
}

async fn run(worker: Rc<Worker>, listener: StdListener, stopped: oneshot::Receiver<()>) {
    let listener = match Listener::adopt(&listener) {
        Ok(adopted) => adopted,
        Err(error) => {
            tracing::error!(worker = worker.index, %error, "cannot listen");
            return;
        }
    };
    let mut stopped = pin!(stopped);
    loop {
        let ready = match race(stopped.as_mut(), pin!(listener.ready())).await {
            Either::First(_) => break,
            Either::Second(ready) => ready,
        };
        if ready.is_err() || !accept_batch(&worker, &listener) {
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
fn accept_batch(worker: &Rc<Worker>, listener: &Listener) -> bool {
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
                match less_busy(worker, total as u64) {
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

/// The kernel hashes connections over the workers, and long streams stay where they fell: a worker well above the mean
/// gives new ones away.
fn less_busy(worker: &Worker, total: u64) -> Option<usize> {
    let workers = &worker.shared.workers;
    let mean = total / workers.len() as u64;
    if worker.cells.connections.value() <= mean + mean / 4 + 8 {
        return None;
    }
    let (index, _) = workers.iter().enumerate().min_by_key(|(_, cells)| cells.connections.value())?;
    (index != worker.index).then_some(index)
}

fn hand_over(worker: &Rc<Worker>, other: usize, stream: std::net::TcpStream, peer: std::net::SocketAddr) {
    let told = stream.try_clone().is_ok_and(|copy| worker.shared.tell(other, Command::Adopt(copy, peer)));
    if !told {
        connection::start(worker, stream, peer);
    }
}
