//! The rest of a request's body, towards upstream.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use super::connection::fill;
use super::envelope::{self, Intake};
use super::exchange::Exchange;
use super::refusal::Refusal;
use super::relay::{frame, take_turns};
use super::tap;
use crate::net::{Buffer, Stream, within};
use crate::wire::http1::framing::BodyLength;
use crate::wire::json::Peek;

/// The rest of a request body on its way to upstream, beside whatever else the exchange waits for.
pub struct Upload<'a> {
    running: Option<Running<'a>>,
    /// What followed the request on the connection, once the upload is through.
    pub rest: Option<Buffer>,
    /// When that was.
    pub sent: Option<Instant>,
}

/// Boxed, so that the many exchanges without an upload stay small.
type Running<'a> = Pin<Box<dyn Future<Output = Result<Buffer, Refusal>> + 'a>>;

impl<'a> Upload<'a> {
    /// Nothing is left to send.
    pub fn none() -> Upload<'a> {
        Upload { running: None, rest: None, sent: None }
    }

    pub fn start(
        exchange: &'a Exchange<'a>,
        upstream: &'a Stream,
        intake: Intake,
        peek: &'a RefCell<&mut Peek>,
    ) -> Self {
        let running: Running<'a> = Box::pin(upload(exchange, upstream, intake, peek));
        Upload { running: Some(running), rest: None, sent: None }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub async fn finish(&mut self) -> Result<(), Refusal> {
        if let Some(running) = &mut self.running {
            let result = running.as_mut().await;
            self.running = None;
            self.rest = Some(result?);
            self.sent = Some(Instant::now());
        }
        Ok(())
    }
}

/// Stream the rest of the body. A write that upstream refuses is no error here: it may have answered already, and
/// what it answered, or that it did not, is found by the reader.
async fn upload(
    exchange: &Exchange<'_>,
    upstream: &Stream,
    intake: Intake,
    peek: &RefCell<&mut Peek>,
) -> Result<Buffer, Refusal> {
    let plan = exchange.plan();
    let limit = exchange.upstream_timeout();
    let chunked = exchange.request.body() == BodyLength::Chunked;
    let Intake { mut decoder, peeking, .. } = intake;
    let mut unbroken = 0;
    loop {
        match within(plan.timeouts.body, exchange.client.stream.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Refusal::CLIENT_GONE),
            Err(_) => return Err(Refusal::BODY_TIMEOUT),
        }
        let mut piece = Buffer::streaming(plan.stream_buffer_bytes);
        match within(plan.timeouts.body, fill(exchange.client, &mut piece)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Err(Refusal::CLIENT_GONE),
            Err(_) => return Err(Refusal::BODY_TIMEOUT),
        }
        let decoded = decoder.decode(piece.bytes_mut()).map_err(|error| Refusal::body(error).closing())?;
        let mut rest = Buffer::default();
        if decoder.is_done() && decoded.consumed < piece.len() {
            rest = Buffer::small();
            rest.vec().extend_from_slice(&piece.bytes()[decoded.consumed..]);
        }
        piece.truncate(decoded.data);
        exchange.account.received(piece.len());
        if peeking {
            let mut peek = peek.borrow_mut();
            peek.feed(piece.bytes()).map_err(|error| Refusal::json(&error).closing())?;
            if decoder.is_done() {
                // The last piece is held back until the whole is known to be sound, so that upstream never acts on it.
                envelope::conclude(exchange.request, &mut peek).map_err(Refusal::closing)?;
                if peek.is_modern() {
                    exchange.is_modern_after_all();
                }
            }
        }
        tap::request_piece(exchange, piece.bytes(), decoder.is_done());
        if chunked {
            frame(&mut piece, decoder.is_done());
        }
        take_turns(&mut unbroken, piece.len()).await;
        if !piece.is_empty() && !matches!(within(limit, upstream.write_all(piece)).await, Ok((Ok(()), _))) {
            // Not sent whole: the connection is not used again, since `rest` stays unset.
            return std::future::pending().await;
        }
        if decoder.is_done() {
            return Ok(rest);
        }
    }
}
