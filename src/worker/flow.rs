//! A stream without end, once it has begun: what is left of its exchange.
//!
//! It may last for hours, and there are thousands of them. So the request is forgotten, with all that was needed to read and
//! send it, and what an event passes through lies close together: what is in no cache is most of what an event costs.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::account::{self, Ledger};
use super::connection::{After, Client};
use super::exchange::{Exchange, Passage};
use super::inspect::Inspect;
use super::refusal::Refusal;
use super::relay::{Rest, poll_departure};
use super::session::{self, OpenStream, Session};
use super::upstream::{Lease, LocalView};
use super::{Phase, Scratch, Worker};
use crate::net::{Buffer, Foresight};
use crate::telemetry::account::{By, Ended};
use crate::wire::json::Peek;

/// What a running one takes: beyond, the allocator's next class has a fifth more.
const BYTES_MAX: usize = 1280;

pub struct Flow {
    flowing: Flowing,
    view: Rc<LocalView>,
    ledger: Ledger,
    /// What was seen of the request's message, if it had one.
    peek: Option<Box<Peek>>,
}

/// What an exchange leaves to its stream.
pub struct Flowing {
    pub lease: Lease,
    pub flows: Box<Flows>,
    /// What becomes of the client's connection when the stream ends well.
    pub after: After,
    /// Upstream's connection may serve again then.
    pub reusable: bool,
}

pub struct Flows {
    pub rest: Rest,
    pub inspect: Inspect,
    pub streaming: Streaming,
}

/// An open event stream: counted, known to the drain, and keeping its session alive.
pub struct Streaming {
    worker: Rc<Worker>,
    _session: Option<OpenStream>,
}

impl Flow {
    pub fn of(flowing: Flowing, view: &Rc<LocalView>, ledger: Ledger, scratch: &mut Scratch) -> Box<Flow> {
        let peek = ledger.has_message().then(|| Box::new(std::mem::take(&mut scratch.peek)));
        Box::new(Flow { flowing, view: view.clone(), ledger, peek })
    }

    /// Pass the stream on to its end, which is that of its exchange.
    ///
    /// A function that makes a future: of an `async fn` each part would have its place twice, as it came and as it is used.
    pub fn run<'a>(self: Box<Flow>, worker: &'a Rc<Worker>, client: &'a Client) -> Running<'a> {
        let Flow { flowing: Flowing { lease, flows, after, reusable }, view, ledger, peek } = *self;
        let Flows { mut rest, mut inspect, streaming } = *flows;
        let caller = ledger.caller();
        let foresights = lease.stream.foresight().zip(client.stream.foresight());
        let ending = foresights.as_ref().map(|(foresight, _)| foresight.clone());
        let running = Box::pin(async move {
            let open = ledger.open(worker, &view, client);
            let (account, tap) = (&open.account, &open.tap);
            let passage = Passage { worker, view: &view, client, caller: &caller, account, tap };
            let mut passed = pass(&passage, &lease, &mut rest, &mut inspect).await;
            if let Some(stream) = inspect.began() {
                // A 2024-11-05 session lives as long as its stream.
                let ended = Box::pin(session::end(worker, stream.id())).await;
                passed = ended.and(passed);
            }
            drop(streaming);
            client.enter(Phase::Busy);
            let after = match passed {
                Ok(()) if rest.is_framed_to_its_end() => after,
                // A drain cut it before the length that it announced: nothing may be taken for the rest.
                Ok(()) => After::Close,
                Err(refusal) => {
                    refusal.fault().into_iter().for_each(|fault| lease.cells().fault(fault));
                    account::refused(account, &refusal, false);
                    worker.cells.refused(refusal.reason);
                    After::Abort
                }
            };
            open.close(&peek.unwrap_or_default());
            ending.inspect(Foresight::ends);
            if reusable && rest.is_clean() && after != After::Abort {
                lease.give_back(worker, &view);
            }
            after
        });
        debug_assert!(size_of_val(&*running) <= BYTES_MAX, "{} bytes", size_of_val(&*running));
        foresights.inspect(|(foresight, peer)| foresight.is_of(&*running, peer));
        running
    }
}

/// A stream that is passed on.
pub type Running<'a> = Pin<Box<dyn Future<Output = After> + 'a>>;

impl Streaming {
    pub fn begin(exchange: &Exchange<'_>, lease: &Lease, session: Option<&Session>) -> Streaming {
        let worker = exchange.worker;
        worker.cells.streams.add(1);
        if exchange.envelope.endless {
            exchange.client.enter(Phase::Streaming(lease.stream.fd()));
        }
        let client = exchange.client.stream.fd();
        let open = |session: &Session| session::open_stream(worker, session.id, client, session.epoch());
        Streaming { worker: worker.clone(), _session: session.map(open) }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.worker.cells.streams.sub(1);
    }
}

/// What a wait for an event ends with.
enum Came {
    Bytes(io::Result<usize>, Buffer),
    /// The client left.
    Departure,
    /// The worker drains, and the stream stands between two events.
    Drain,
}

#[expect(clippy::manual_async_fn, reason = "one would hold what it is given twice")]
fn pass(
    passage: &Passage<'_>,
    lease: &Lease,
    rest: &mut Rest,
    inspect: &mut Inspect,
) -> impl Future<Output = Result<(), Refusal>> {
    async move {
        let (mut reading, mut watching) = (None, true);
        while !rest.is_done() {
            let between_events = rest.is_between_events();
            let came = poll_fn(|cx| {
                if let Poll::Ready((came, piece)) = poll_piece(lease, &mut reading, cx) {
                    return Poll::Ready(Came::Bytes(came, piece));
                }
                if poll_departure(passage.client, &mut watching, cx).is_ready() {
                    return Poll::Ready(Came::Departure);
                }
                if between_events && passage.worker.is_draining() {
                    return Poll::Ready(Came::Drain);
                }
                Poll::Pending
            });
            match came.await {
                Came::Bytes(came, piece) => rest.pass(came, piece, inspect, passage).await?,
                Came::Departure => return Err(Refusal::CLIENT_GONE),
                Came::Drain => {
                    passage.account.ended.set(Ended { by: By::Drain, reason: "drain", early: false });
                    return rest.cut(passage).await;
                }
            }
        }
        Ok(())
    }
}

/// A read that has begun and is not to be dropped.
type Reading<'a> = Option<Pin<Box<dyn Future<Output = (io::Result<usize>, Buffer)> + 'a>>>;

/// What comes from upstream, which may be silent for hours: no buffer is owned meanwhile.
fn poll_piece<'a>(
    lease: &'a Lease,
    reading: &mut Reading<'a>,
    cx: &mut Context<'_>,
) -> Poll<(io::Result<usize>, Buffer)> {
    let stream = &lease.stream;
    if stream.is_tls() {
        let read = reading.get_or_insert_with(|| Box::pin(lease.read(Buffer::small_streaming)));
        let done = ready!(read.as_mut().poll(cx));
        *reading = None;
        return Poll::Ready(done);
    }
    loop {
        if let Err(error) = ready!(stream.poll_readable(cx)) {
            return Poll::Ready((Err(error), Buffer::default()));
        }
        let mut piece = Buffer::small_streaming();
        match stream.recv(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready((done, piece)),
        }
    }
}
