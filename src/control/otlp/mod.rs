//! Spans to a collector, by OTLP over gRPC, from a thread with an event loop of its own.
//!
//! ```text
//! workers --sampled requests--> Journal --batch, encode--> Client --gRPC--> the collector
//! ```
//!
//! A collector that is down, slow or busy is asked again for a while; meanwhile boxes fill, and what finds no room is counted.
//! No request waits for any of it. [ADR 11](../../../docs/adr/0011-otlp-by-hand.md) says why the usual libraries are not used.

mod client;
mod status;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use crossbeam::channel::{Receiver, bounded};
use tokio::time::{sleep, timeout};

use crate::config::plan::TelemetryPlan;
use crate::telemetry::lines::Pen;
use crate::telemetry::spans::{self, Envelope};
use crate::telemetry::{Doorbell, Logs};
use client::Client;
use status::Verdict;

/// Sampled requests of one batch, each with up to two spans.
const BATCH_REQUESTS: usize = 512;
/// How long spans gather.
const GATHER: Duration = Duration::from_millis(200);
/// Tries of one batch, and the first pause between two; each is twice the one before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that a collector may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the end of the program waits for the last spans to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// The running exporter. Dropped at the end of the program, it sends what is still there.
pub struct Exporter {
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.bell.wake();
        let _ = self.ended.recv_timeout(FAREWELL + Duration::from_millis(500));
    }
}

/// Send the spans of `logs` from here on; `bell` rings for them.
///
/// # Errors
/// No root certificates for an `https://` collector, or no thread.
pub fn start(plan: &TelemetryPlan, bell: Arc<Doorbell>, logs: Arc<Logs>) -> Result<Exporter, String> {
    let client = Client::new(&plan.collector)?;
    let envelope = Envelope::new(&plan.service_name, &plan.resource_attributes);
    let stop: Arc<AtomicBool> = Arc::default();
    let sender = Sender {
        client,
        envelope,
        logs,
        bell: bell.clone(),
        stop: stop.clone(),
        pen: Pen::default(),
        encoded: Vec::new(),
        message: BytesMut::new(),
        failing: false,
    };
    let (tell, ended) = bounded(1);
    let run = move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(sender.run());
        // A look-up of a name may still be under way on a thread of the runtime's.
        runtime.shutdown_background();
        let _ = tell.send(());
        Ok(())
    };
    let spawned = thread::Builder::new().name("otlp".into()).spawn(move || {
        if let Err(error) = run() {
            tracing::error!(%error, "traces cannot be sent");
        }
    });
    spawned.map_err(|error| format!("traces: {error}"))?;
    Ok(Exporter { bell, stop, ended })
}

struct Sender {
    client: Client,
    envelope: Envelope,
    logs: Arc<Logs>,
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    pen: Pen,
    /// Spans of a batch, kept for the next.
    encoded: Vec<u8>,
    message: BytesMut,
    /// The last batch could not be sent, which was said.
    failing: bool,
}

impl Sender {
    async fn run(mut self) {
        while !self.stop.load(Relaxed) {
            poll_fn(|cx| {
                let nothing =
                    || !self.stop.load(Relaxed) && self.logs.spans.as_ref().is_none_or(|spans| spans.is_empty());
                self.bell.poll(cx, nothing)
            })
            .await;
            if !self.stop.load(Relaxed) {
                sleep(GATHER).await;
            }
            while self.send_batch().await {}
        }
        // One try each for what is left, and not for ever.
        let _ = timeout(FAREWELL, async { while self.send_batch().await {} }).await;
    }

    /// Whether there may be more at once.
    async fn send_batch(&mut self) -> bool {
        let logs = self.logs.clone();
        let Some(journal) = &logs.spans else { return false };
        self.pen.dates.refresh();
        let (mut batch, mut requests, mut count) = (std::mem::take(&mut self.encoded), 0, 0);
        batch.clear();
        while requests < BATCH_REQUESTS
            && let Some(sampled) = journal.take()
        {
            count += spans::encode(&mut batch, &mut self.pen, &sampled);
            requests += 1;
        }
        if requests == 0 {
            self.encoded = batch;
            return false;
        }
        let counts = &logs.span_counts;
        let message = self.framed(&batch);
        self.encoded = batch;
        match self.deliver(message).await {
            Verdict::Taken { rejected } => {
                counts.exported.fetch_add(count.saturating_sub(rejected), Relaxed);
                counts.rejected.fetch_add(rejected.min(count), Relaxed);
            }
            Verdict::Refused(why) => self.lost(&counts.rejected, count, &why),
            Verdict::Later(why, _) => self.lost(&counts.unavailable, count, &why),
        }
        requests == BATCH_REQUESTS
    }

    /// Behind the head that gRPC puts before a message: not compressed, and its length.
    fn framed(&mut self, spans: &[u8]) -> Bytes {
        let head = self.envelope.head(spans.len());
        let length = head.len() + spans.len();
        // The memory of the message before, if that was sent.
        self.message.reserve(length + 5);
        self.message.put_u8(0);
        self.message.put_u32(length as u32);
        self.message.put_slice(&head);
        self.message.put_slice(spans);
        self.message.split().freeze()
    }

    /// Send a batch, again if that makes sense.
    async fn deliver(&mut self, batch: Bytes) -> Verdict {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.client.export(batch.clone()).await {
                Verdict::Later(why, asked) if !self.stop.load(Relaxed) => {
                    self.complain(&why);
                    self.logs.span_counts.retries.fetch_add(1, Relaxed);
                    self.rest(asked.unwrap_or(pause).min(PAUSE_MAX)).await;
                    pause *= 2;
                }
                Verdict::Taken { rejected } => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("traces are sent again");
                    }
                    return Verdict::Taken { rejected };
                }
                verdict => return verdict,
            }
        }
        self.client.export(batch).await
    }

    /// Wait, but not once the program ends.
    async fn rest(&self, mut pause: Duration) {
        while !pause.is_zero() && !self.stop.load(Relaxed) {
            let part = pause.min(GATHER);
            sleep(part).await;
            pause -= part;
        }
    }

    fn lost(&mut self, counter: &AtomicU64, count: u64, why: &str) {
        counter.fetch_add(count, Relaxed);
        self.complain(why);
    }

    /// Say once that it does not work.
    fn complain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(collector = %self.client.name(), why, "traces cannot be sent");
        }
    }
}
