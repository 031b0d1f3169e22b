//! A stream without end, once it has begun: what is left of its exchange.
//!
//! It may last for hours, and there are thousands of them. So the request is forgotten, with all that was needed to read and
//! send it, and what an event passes through lies close together: what is not in a cache is most of what an event costs.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::account::{self, Handed};
use super::connection::{After, Client};
use super::exchange::{Exchange, Passage};
use super::inspect::Inspect;
use super::refusal::Refusal;
use super::relay::{Rest, departure};
use super::session::{self, OpenStream, Session};
use super::upstream::{Lease, LocalView};
use super::{Phase, Scratch, Worker};
use crate::net::Buffer;
use crate::telemetry::account::{By, Ended};
use crate::wire::json::Peek;

pub struct Flow {
    flowing: Flowing,
    view: Rc<LocalView>,
    account: Handed,
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
    pub fn of(flowing: Flowing, view: &Rc<LocalView>, account: Handed, scratch: &mut Scratch) -> Box<Flow> {
        let peek = account.has_message().then(|| Box::new(std::mem::take(&mut scratch.peek)));
        Box::new(Flow { flowing, view: view.clone(), account, peek })
    }
}

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

/// Pass a stream on to its end, as the end of its exchange.
pub async fn run(worker: &Rc<Worker>, client: &Client, flow: Box<Flow>) -> After {
    let Flow { flowing: Flowing { lease, flows, after, reusable }, view, account, peek } = *flow;
    let Flows { mut rest, mut inspect, streaming } = *flows;
    let caller = account.caller.clone();
    let open = account.open(worker, &view, client);
    let passage = Passage { worker, view: &view, client, caller: &caller, account: &open.account, tap: &open.tap };
    let mut passed = pass(&passage, &lease, &mut rest, &mut inspect).await;
    if let Some(stream) = inspect.began() {
        // A 2024-11-05 session lives as long as its stream.
        let ended = Box::pin(session::end(worker, stream.id())).await;
        passed = ended.and(passed);
    }
    drop(streaming);
    client.enter(Phase::Busy);
    let after = match passed {
        Ok(()) => {
            if reusable && rest.is_clean() {
                lease.give_back(worker, &view);
            }
            after
        }
        Err(refusal) => {
            if let Some(fault) = refusal.fault() {
                lease.cells().fault(fault);
            }
            account::refused(&open.account, &refusal, false);
            worker.cells.refused(refusal.reason);
            After::Abort
        }
    };
    open.close(&peek.unwrap_or_default());
    after
}

/// What a wait for an event ends with.
enum Came {
    Bytes(std::io::Result<usize>, Buffer),
    /// The client left.
    Departure,
    /// The worker drains, and the stream stands between two events.
    Drain,
}

async fn pass(passage: &Passage<'_>, lease: &Lease, rest: &mut Rest, inspect: &mut Inspect) -> Result<(), Refusal> {
    let mut departure = pin!(departure(passage.client));
    while !rest.is_done() {
        // It may be silent for hours and owns no buffer meanwhile. Over TLS a read that has begun is not dropped.
        let mut read = pin!(lease.read(Buffer::small_streaming));
        let came = poll_fn(|cx| {
            if let Poll::Ready((came, piece)) = read.as_mut().poll(cx) {
                return Poll::Ready(Came::Bytes(came, piece));
            }
            if departure.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Came::Departure);
            }
            if rest.is_between_events() && passage.client.poll_drain(passage.worker, cx).is_ready() {
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
