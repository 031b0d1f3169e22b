//! The answer to the client, as it arrives; what is left of the request goes to upstream beside it ([`super::upload`]).
//!
//! One piece is read only after the one before it was written, so a slow reader slows the writer and no memory grows.
//! A wait owns no buffer; a read that is under way is never dropped unless its connection closes.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::connection::Client;
use super::exchange::{Exchange, Passage};
use super::inspect::Inspect;
use super::outbound::{self, Delivery};
use super::refusal::Refusal;
use super::tap;
use super::upload::Upload;
use super::upstream::{Lease, patience};
use crate::net::{self, Buffer, Either, Probe, race, soon, within};
use crate::wire::http1::body::BodyDecoder;
use crate::wire::http1::encode::{self, CHUNK_END, LAST_CHUNK};
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::{Method, Progress, ResponseHead};
use crate::wire::mcp::Era;
use crate::wire::sse::EventScanner;

/// An answer that comes [`soon`] costs no watch over the client; a limit below this is kept to the letter.
const SOON_MAX: Duration = Duration::from_millis(50);
/// What is passed on before others run, bytes: about a tenth of a millisecond.
const UNBROKEN_BYTES: usize = 256 * 1024;
/// Interim answers (1xx) before the final one.
const INTERIM_MAX: usize = 16;

/// Whether the client left, watched only once an answer takes its time.
///
/// A departure ends the exchange of a modern request, and streams of any era. In the legacy era leaving is not
/// cancelling, and half a connection may still be read.
pub struct Watch<'a> {
    exchange: &'a Exchange<'a>,
    is_stream: bool,
    watching: bool,
}

impl<'a> Watch<'a> {
    pub fn new(exchange: &'a Exchange<'a>) -> Watch<'a> {
        Watch { exchange, is_stream: exchange.request.method() == Method::Get, watching: true }
    }

    /// The answer is a stream.
    pub fn it_matters(&mut self) {
        self.is_stream = true;
    }

    async fn gone(&mut self) {
        if !self.is_stream && self.exchange.era() != Era::Modern {
            return std::future::pending().await;
        }
        poll_fn(|cx| poll_departure(self.exchange.client, &mut self.watching, cx)).await;
    }
}

/// Ready when the client left; never once it sent a request, which waits its turn and hides a departure until then.
pub fn poll_departure(client: &Client, watching: &mut bool, cx: &Context<'_>) -> Poll<()> {
    while *watching {
        let result = ready!(client.stream.poll_readable(cx));
        match client.stream.probe() {
            Probe::Ended => return Poll::Ready(()),
            Probe::Bytes => *watching = false,
            Probe::Quiet if result.is_err() => return Poll::Ready(()),
            Probe::Quiet => {}
        }
    }
    Poll::Pending
}

/// What a wait for upstream may end with, other than bytes.
enum Interrupt {
    Refused(Refusal),
    Timeout,
}

/// One read from upstream; beside it the upload goes on and, if the answer takes its time, the client is watched.
/// `limit`: for this read, not counting the time that the upload takes.
async fn read_upstream(
    mut fill: Pin<&mut impl Future<Output = (io::Result<usize>, Buffer)>>,
    upload: &mut Upload<'_>,
    watch: &mut Watch<'_>,
    limit: Option<Duration>,
) -> Result<(io::Result<usize>, Buffer), Interrupt> {
    if upload.is_running() {
        match race(fill.as_mut(), pin!(upload.finish())).await {
            Either::First(read) => return Ok(read),
            Either::Second(done) => done.map_err(Interrupt::Refused)?,
        }
    }
    let Some(limit) = limit else {
        let mut gone = pin!(watch.gone());
        return poll_fn(|cx| {
            if let Poll::Ready(read) = fill.as_mut().poll(cx) {
                return Poll::Ready(Ok(read));
            }
            gone.as_mut().poll(cx).map(|()| Err(Interrupt::Refused(Refusal::CLIENT_GONE)))
        })
        .await;
    };
    let mut limit = limit;
    if limit > SOON_MAX {
        if let Either::First(read) = race(fill.as_mut(), pin!(soon())).await {
            return Ok(read);
        }
        limit -= net::soon::TURN;
    }
    let mut gone = pin!(watch.gone());
    let answered = poll_fn(|cx| {
        if let Poll::Ready(read) = fill.as_mut().poll(cx) {
            return Poll::Ready(Ok(read));
        }
        gone.as_mut().poll(cx).map(|()| Err(Interrupt::Refused(Refusal::CLIENT_GONE)))
    });
    within(limit, answered).await.unwrap_or(Err(Interrupt::Timeout))
}

/// No answer: why, and whether upstream said nothing at all, so that it may not even have seen the request.
pub struct Unanswered {
    pub refusal: Refusal,
    pub silent: bool,
}

/// The final answer's head, parsed into `head`; interim ones are passed on. The buffer starts with the head.
pub async fn answer_head(
    exchange: &Exchange<'_>,
    lease: &Lease,
    head: &mut ResponseHead,
    upload: &mut Upload<'_>,
    watch: &mut Watch<'_>,
) -> Result<Buffer, Unanswered> {
    let begun = Instant::now();
    exchange.account.sent.set(Some(begun));
    let limits = &exchange.plan().limits.head;
    let mut buffer: Option<Buffer> = None;
    let mut interims = 0;
    head.reset();
    let fail = |refusal, silent| Unanswered { refusal, silent };
    loop {
        if let Some(bytes) = buffer.as_mut().filter(|buffer| !buffer.is_empty()) {
            match head.parse(bytes.bytes(), limits) {
                Ok(Progress::Complete) if (100..200).contains(&head.status) => {
                    interims += 1;
                    // A switch of protocols that nobody asked for, or an endless preface.
                    if head.status == 101 || interims > INTERIM_MAX {
                        return Err(fail(Refusal::UPSTREAM_PROTOCOL, false));
                    }
                    Box::pin(pass_interim(exchange, head, bytes)).await.map_err(|refusal| fail(refusal, false))?;
                    bytes.consume(head.len);
                    head.reset();
                    continue;
                }
                Ok(Progress::Complete) => return Ok(buffer.unwrap_or_default()),
                Ok(Progress::Incomplete) if bytes.room() == 0 => {
                    bytes.make_room((bytes.len() * 2).max(limits.head_bytes + 1));
                }
                Ok(Progress::Incomplete) => {}
                Err(error) => {
                    tracing::warn!(upstream = exchange.name(lease), %error, "upstream's answer is not valid");
                    return Err(fail(Refusal::UPSTREAM_PROTOCOL, false));
                }
            }
        }
        // Upstream's time begins when it has the whole request.
        let waited = match upload.sent {
            _ if upload.is_running() || (interims == 0 && buffer.is_none()) => Duration::ZERO,
            sent => sent.unwrap_or(begun).elapsed(),
        };
        let limit = Some(patience(exchange.upstream_timeout().saturating_sub(waited), exchange.deadline));
        let silent = interims == 0 && buffer.is_none();
        let read = pin!(lease.read_message(buffer.take().unwrap_or_default()));
        match read_upstream(read, upload, watch, limit).await {
            Ok((Ok(1..), filled)) => buffer = Some(filled),
            Ok(_) => return Err(fail(Refusal::UPSTREAM_CLOSED, silent)),
            Err(Interrupt::Timeout) => return Err(fail(exchange.timeout_refusal(), silent)),
            Err(Interrupt::Refused(refusal)) => return Err(fail(refusal, false)),
        }
    }
}

async fn pass_interim(exchange: &Exchange<'_>, head: &ResponseHead, bytes: &Buffer) -> Result<(), Refusal> {
    // 100 was between us and upstream; and HTTP/1.0 knows no interim answers (RFC 9110 section 15.2).
    if head.status == 100 || exchange.request.is_http10() {
        return Ok(());
    }
    let mut out = Buffer::small();
    outbound::interim(out.vec(), head, bytes.bytes());
    exchange.write_client(out).await
}

/// An answer whose head is about to be sent.
pub struct Answer {
    /// Upstream's head and what came with it.
    pub bytes: Buffer,
    pub head_len: usize,
    pub decoder: BodyDecoder,
    pub delivery: Delivery,
    pub is_stream: bool,
}

/// How far an answer was passed on.
pub enum Relayed {
    /// All of it; `clean`: upstream's connection holds nothing more.
    Whole { clean: bool },
    /// It is a stream without end, and goes on as a [`Flow`](super::flow::Flow).
    Flows(Rest),
}

/// Send the head in `out` and the body as it comes; `begun` is set once the client may have seen something.
///
/// # Errors
/// Upstream's or the client's failure in the middle: what the client has must stay visibly incomplete.
#[expect(clippy::too_many_arguments, reason = "each is lent or given away on its own")]
pub async fn answer(
    exchange: &Exchange<'_>,
    lease: &Lease,
    mut out: Buffer,
    answer: Answer,
    begun: &mut bool,
    inspect: &mut Inspect,
    upload: &mut Upload<'_>,
    watch: &mut Watch<'_>,
) -> Result<Relayed, Refusal> {
    let Answer { mut bytes, head_len, decoder, delivery, is_stream } = answer;
    let chunked = delivery.body == BodyLength::Chunked;
    let mut rest =
        Rest { decoder, events: is_stream.then(EventScanner::default), chunked, surplus: false, unbroken: 0 };
    bytes.consume(head_len);
    // The first piece leaves together with the head: a second send is a second wake-up of the peer.
    rest.shape(&mut bytes, inspect, exchange).await?;
    if chunked {
        append_framed(&mut out, bytes.bytes(), rest.is_done());
    } else {
        out.vec().extend_from_slice(bytes.bytes());
    }
    drop(bytes);
    *begun = true;
    if rest.is_done() {
        exchange.write_client(out).await?;
        return Ok(Relayed::Whole { clean: !rest.surplus });
    }
    exchange.write_client_now(out).await?;
    if is_stream && exchange.envelope.endless && !upload.is_running() {
        return Ok(Relayed::Flows(rest));
    }
    // Boxed, so that the many answers that come in one piece stay small.
    Box::pin(pass_rest(exchange, lease, rest, inspect, upload, watch)).await
}

/// The rest of an answer.
pub struct Rest {
    decoder: BodyDecoder,
    /// Of a stream.
    events: Option<EventScanner>,
    chunked: bool,
    surplus: bool,
    /// Bytes that were passed on since others ran.
    unbroken: usize,
}

async fn pass_rest(
    exchange: &Exchange<'_>,
    lease: &Lease,
    mut rest: Rest,
    inspect: &mut Inspect,
    upload: &mut Upload<'_>,
    watch: &mut Watch<'_>,
) -> Result<Relayed, Refusal> {
    let is_stream = rest.events.is_some();
    while !rest.is_done() {
        let size = exchange.plan().stream_buffer_bytes;
        let fresh = || if is_stream { Buffer::small_streaming() } else { Buffer::streaming(size) };
        let limit = (!is_stream).then(|| patience(exchange.upstream_timeout(), exchange.deadline));
        let (came, piece) = match read_upstream(pin!(lease.read(fresh)), upload, watch, limit).await {
            Ok(read) => read,
            Err(Interrupt::Timeout) => return Err(exchange.timeout_refusal()),
            Err(Interrupt::Refused(refusal)) => return Err(refusal),
        };
        rest.pass(came, piece, inspect, exchange).await?;
        if is_stream && exchange.envelope.endless && !upload.is_running() {
            return Ok(Relayed::Flows(rest));
        }
    }
    Ok(Relayed::Whole { clean: !rest.surplus })
}

impl Rest {
    pub fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// A stream that stands between two events.
    pub fn is_between_events(&self) -> bool {
        self.events.as_ref().is_some_and(EventScanner::at_boundary)
    }

    /// The client can tell the end from what follows, also if the answer was [cut](Rest::cut).
    pub fn is_framed_to_its_end(&self) -> bool {
        self.chunked || self.is_done()
    }

    /// Upstream's connection holds nothing more.
    pub fn is_clean(&self) -> bool {
        self.is_done() && !self.surplus
    }

    /// Pass on what was read.
    #[expect(clippy::manual_async_fn, reason = "one would hold the piece twice, and thousands of streams hold this")]
    pub fn pass(
        &mut self,
        came: io::Result<usize>,
        mut piece: Buffer,
        inspect: &mut Inspect,
        passage: &Passage<'_>,
    ) -> impl Future<Output = Result<(), Refusal>> {
        async move {
            match came {
                Ok(0) if self.decoder.end_of_input().is_ok() => {}
                Ok(1..) => self.shape(&mut piece, inspect, passage).await?,
                _ => return Err(Refusal::UPSTREAM_CLOSED),
            }
            if self.chunked {
                frame(&mut piece, self.is_done());
            }
            if piece.is_empty() {
                return Ok(());
            }
            let length = piece.len();
            passage.write_client_now(piece).await?;
            take_turns(&mut self.unbroken, length).await;
            Ok(())
        }
    }

    /// End the answer where it is.
    pub async fn cut(&self, passage: &Passage<'_>) -> Result<(), Refusal> {
        if self.chunked {
            let mut end = Buffer::for_message(LAST_CHUNK.len());
            end.vec().extend_from_slice(LAST_CHUNK);
            passage.write_client_now(end).await?;
        }
        Ok(())
    }

    /// Decode a piece in place, let it be inspected.
    async fn shape(&mut self, piece: &mut Buffer, inspect: &mut Inspect, passage: &Passage<'_>) -> Result<(), Refusal> {
        let decoded = self.decoder.decode(piece.bytes_mut()).map_err(|error| {
            tracing::warn!(%error, "upstream's answer is not valid");
            Refusal::UPSTREAM_PROTOCOL
        })?;
        self.surplus |= decoded.consumed < piece.len();
        piece.truncate(decoded.data);
        passage.account.listener.borrow_mut().hear(piece.bytes(), self.decoder.is_done());
        if let Some(instead) = inspect.see(passage, piece.bytes(), self.decoder.is_done()) {
            *piece = Buffer::from_vec(instead.await?);
        }
        tap::answer_piece(passage, piece.bytes(), self.decoder.is_done());
        if let Some(events) = &mut self.events {
            events.feed(piece.bytes());
        }
        Ok(())
    }
}

/// Where both peers keep pace, nothing ever has to be waited for: let others run after every [`UNBROKEN_BYTES`].
pub async fn take_turns(unbroken: &mut usize, bytes: usize) {
    *unbroken += bytes;
    if *unbroken >= UNBROKEN_BYTES {
        *unbroken = 0;
        Box::pin(net::others_first()).await;
    }
}

/// Frame a piece as a chunk in place, and the end behind it.
pub fn frame(piece: &mut Buffer, last: bool) {
    if !piece.is_empty() {
        let head = encode::chunk_head(piece.len());
        piece.frame_as_chunk(head.as_bytes(), CHUNK_END);
    }
    if last {
        piece.vec().extend_from_slice(LAST_CHUNK);
    }
}

fn append_framed(out: &mut Buffer, data: &[u8], last: bool) {
    let out = out.vec();
    if !data.is_empty() {
        out.extend_from_slice(encode::chunk_head(data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
    if last {
        out.extend_from_slice(LAST_CHUNK);
    }
}
