//! Answers that the proxy must look into: the `endpoint` event of a 2024-11-05 server, and the opaque state of a modern
//! one when there are several replicas. All others pass unseen.

use super::exchange::Exchange;
use super::refusal::Refusal;
use super::session::{self, Birth};
use crate::base::SessionId;
use crate::store::{Reservation, Transport};
use crate::wire::json::Peek;
use crate::wire::sse::{self, EventReader};

/// Longest first event that is held back while it may be an `endpoint` event, bytes.
const ENDPOINT_BYTES_MAX: usize = 8 * 1024;

pub enum Inspect {
    Nothing,
    /// A GET stream without a session: its first event may begin one.
    Endpoint(Opening),
    /// Remember which replica issues `requestState` and tasks.
    State(Box<State>),
}

/// What goes to the client in place of the piece.
pub enum Seen {
    Unchanged,
    Instead(Vec<u8>),
}

pub struct Opening {
    held: Vec<u8>,
    upstream: usize,
    reserved: Option<Reservation>,
    begun: std::rc::Rc<std::cell::Cell<Option<SessionId>>>,
}

pub struct State {
    peek: Peek,
    events: Option<EventReader>,
    upstream: usize,
}

impl Inspect {
    /// `begun` gets the id of the session that the first event begins.
    pub fn endpoint(
        upstream: usize,
        reserved: Option<Reservation>,
        begun: std::rc::Rc<std::cell::Cell<Option<SessionId>>>,
    ) -> Inspect {
        Inspect::Endpoint(Opening { held: Vec::new(), upstream, reserved, begun })
    }

    pub fn state(upstream: usize, is_stream: bool) -> Inspect {
        Inspect::State(Box::new(State { peek: Peek::new(), events: is_stream.then(EventReader::default), upstream }))
    }

    /// One decoded piece of the body; `last`: there is no more.
    ///
    /// # Errors
    /// A session that cannot begin.
    pub async fn see(&mut self, exchange: &Exchange<'_>, piece: &[u8], last: bool) -> Result<Seen, Refusal> {
        match self {
            Inspect::Nothing => Ok(Seen::Unchanged),
            Inspect::State(state) => {
                state.see(exchange, piece, last);
                Ok(Seen::Unchanged)
            }
            Inspect::Endpoint(opening) => {
                opening.held.extend_from_slice(piece);
                if opening.may_be_endpoint() && !last && !ends_an_event(&opening.held) {
                    return Ok(Seen::Instead(Vec::new()));
                }
                let bytes = Box::pin(opening.open(exchange)).await?;
                *self = Inspect::Nothing;
                Ok(Seen::Instead(bytes))
            }
        }
    }
}

impl Opening {
    /// Whether the stream still looks like `event: endpoint`.
    fn may_be_endpoint(&self) -> bool {
        let start = self.held.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.held);
        let known = start.len().min(b"event:".len());
        self.held.len() <= ENDPOINT_BYTES_MAX && start[..known] == b"event:"[..known]
    }

    /// The held bytes, with our id in the place of upstream's if they begin a session.
    async fn open(&mut self, exchange: &Exchange<'_>) -> Result<Vec<u8>, Refusal> {
        let held = std::mem::take(&mut self.held);
        let Some((parameter, span)) = endpoint_session(&held) else { return Ok(held) };
        let id = session::begin(
            exchange.worker,
            self.reserved.take(),
            Birth {
                upstream: &exchange.view.view.upstreams[self.upstream].plan.name,
                upstream_session: &held[span.clone()],
                protocol: b"2024-11-05",
                transport: Transport::HttpSse { parameter },
            },
        )
        .await?;
        self.begun.set(Some(id));
        Ok([&held[..span.start], id.as_bytes().as_slice(), &held[span.end..]].concat())
    }
}

/// Name of the parameter and place of its value, if the bytes start with an `endpoint` event that names a session.
fn endpoint_session(held: &[u8]) -> Option<(String, std::ops::Range<usize>)> {
    let mut reader = EventReader::default();
    reader.feed(held).ok()?;
    let event = reader.next_event()?;
    if event.event != b"endpoint" {
        return None;
    }
    let (name, value) = sse::endpoint_session(event.data)?;
    let parameter = String::from_utf8(name.of(event.data).to_vec()).ok()?;
    // The data stands in the raw bytes as it is: an endpoint is one line.
    let at = memchr::memmem::find(held, event.data)?;
    let start = at + value.start as usize;
    Some((parameter, start..start + value.len as usize))
}

/// Whether a blank line has come.
fn ends_an_event(bytes: &[u8]) -> bool {
    [b"\n\n".as_slice(), b"\r\n\r\n", b"\r\r"].iter().any(|end| memchr::memmem::find(bytes, end).is_some())
}

impl State {
    fn see(&mut self, exchange: &Exchange<'_>, piece: &[u8], last: bool) {
        let Some(events) = &mut self.events else {
            if self.peek.feed(piece).is_ok() && last && self.peek.finish().is_ok() {
                remember(exchange, &self.peek, self.upstream);
            }
            return;
        };
        if events.feed(piece).is_err() {
            return;
        }
        while let Some(event) = events.next_event() {
            self.peek.reset();
            if self.peek.feed(event.data).is_ok() && self.peek.finish().is_ok() {
                remember(exchange, &self.peek, self.upstream);
            }
        }
    }
}

fn remember(exchange: &Exchange<'_>, peek: &Peek, upstream: usize) {
    for key in [peek.request_state(), peek.task_id_hash()].into_iter().flatten() {
        exchange.worker.shared.affinity.remember(key, upstream);
    }
}
