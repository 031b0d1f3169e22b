//! Answers that the proxy must look into: the `endpoint` event of a 2024-11-05 server, and the opaque state of a modern
//! one when there are several replicas. All others pass unseen.

use std::pin::Pin;

use super::exchange::Passage;
use super::refusal::Refusal;
use super::session::{self, Birth, OpenStream};
use crate::store::{Reservation, Transport};
use crate::wire::json::Peek;
use crate::wire::sse::{self, EventReader};

/// Longest first event that is held back while it may be an `endpoint` event, bytes.
const ENDPOINT_BYTES_MAX: usize = 8 * 1024;

pub enum Inspect {
    Nothing,
    /// A GET stream without a session: its first event may begin one.
    Endpoint(Box<Opening>),
    /// It began one, which lives as long as the stream.
    Began(Box<OpenStream>),
    /// Remember which replica issues `requestState` and tasks.
    State(Box<State>),
}

/// What goes to the client in place of a piece.
pub type Instead<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, Refusal>> + 'a>>;

pub struct Opening {
    held: Vec<u8>,
    /// A comment was passed on as far as it came.
    in_comment: bool,
    upstream: usize,
    reserved: Option<Reservation>,
    begun: Option<Box<OpenStream>>,
}

pub struct State {
    peek: Peek,
    events: Option<EventReader>,
    upstream: usize,
}

impl Inspect {
    pub fn endpoint(upstream: usize, reserved: Option<Reservation>) -> Inspect {
        Inspect::Endpoint(Box::new(Opening { held: Vec::new(), in_comment: false, upstream, reserved, begun: None }))
    }

    pub fn state(upstream: usize, is_stream: bool) -> Inspect {
        Inspect::State(Box::new(State { peek: Peek::new(), events: is_stream.then(EventReader::default), upstream }))
    }

    /// One decoded piece of the body; `last`: there is no more. `None`: it is passed on as it is.
    ///
    /// # Errors
    /// A session that cannot begin.
    pub fn see<'a>(&'a mut self, passage: &'a Passage<'_>, piece: &[u8], last: bool) -> Option<Instead<'a>> {
        match self {
            Inspect::Nothing | Inspect::Began(_) => None,
            Inspect::State(state) => {
                state.see(passage, piece, last);
                None
            }
            Inspect::Endpoint(opening) => {
                opening.held.extend_from_slice(piece);
                Some(Box::pin(self.open(passage, last)))
            }
        }
    }

    async fn open(&mut self, passage: &Passage<'_>, last: bool) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::new();
        if let Inspect::Endpoint(opening) = self
            && opening.take_blocks(passage, last, &mut out).await?
        {
            *self = opening.begun.take().map_or(Inspect::Nothing, Inspect::Began);
        }
        Ok(out)
    }

    /// The session that began in the stream, which is over.
    pub fn began(self) -> Option<Box<OpenStream>> {
        if let Inspect::Began(stream) = self { Some(stream) } else { None }
    }
}

impl Opening {
    /// Pass on what cannot be part of an `endpoint` event, at once; hold back what can, up to its blank line, before
    /// which nobody acts on it. `true`: it is decided, and everything was passed on.
    async fn take_blocks(&mut self, passage: &Passage<'_>, last: bool, out: &mut Vec<u8>) -> Result<bool, Refusal> {
        loop {
            let line_end = self.held.iter().position(|b| matches!(b, b'\r' | b'\n'));
            match self.held.first() {
                None => return Ok(last),
                _ if self.in_comment => {
                    let through = line_end.map_or(self.held.len(), |at| at + 1);
                    self.in_comment = line_end.is_none();
                    out.extend(self.held.drain(..through));
                }
                Some(b':') => self.in_comment = true,
                Some(b'\r' | b'\n') => out.extend(self.held.drain(..1)),
                // `event`, `id`, `retry` and a byte order mark may come before the data of an endpoint.
                Some(_) if !last && may_name_an_endpoint(&self.held) => {
                    let Some(end) = sse::block_end(&self.held) else { return Ok(false) };
                    let rest = self.held.split_off(end);
                    let block = std::mem::replace(&mut self.held, rest);
                    if says_anything(&block) {
                        self.open(passage, &block, out).await?;
                        out.append(&mut self.held);
                        return Ok(true);
                    }
                    out.extend_from_slice(&block);
                }
                Some(_) => {
                    out.append(&mut self.held);
                    return Ok(true);
                }
            }
        }
    }

    /// The first event, with our id in the place of upstream's if it begins a session.
    async fn open(&mut self, passage: &Passage<'_>, block: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let Some((parameter, span)) = endpoint_session(block) else {
            out.extend_from_slice(block);
            return Ok(());
        };
        let birth = Birth {
            caller: passage.caller,
            initialize: None,
            upstream: self.upstream,
            upstream_session: &block[span.clone()],
            protocol: b"2024-11-05",
            transport: Transport::HttpSse { parameter },
        };
        let begun = session::begin(passage.worker, passage.view, self.reserved.take(), birth).await?;
        // Logs and tapes are told whose stream this is.
        passage.account.session.set(Some(begun.id));
        let client = passage.client.stream.fd();
        self.begun = Some(Box::new(session::open_stream(passage.worker, begun.id, client, begun.epoch)));
        out.extend_from_slice(&block[..span.start]);
        out.extend_from_slice(begun.shown.as_bytes());
        out.extend_from_slice(&block[span.end..]);
        Ok(())
    }
}

/// Whether an unfinished block may be an `endpoint` event: not if its data is a JSON message, as in all later streams.
fn may_name_an_endpoint(held: &[u8]) -> bool {
    let known = held.len().min(b"data:".len());
    let begins_well = match held[0] {
        b'd' => {
            held[..known] == b"data:"[..known]
                && matches!(held[known..].trim_ascii_start().first(), None | Some(b'/' | b'h'))
        }
        first => matches!(first, b'e' | b'i' | b'r' | 0xef),
    };
    begins_well && held.len() <= ENDPOINT_BYTES_MAX
}

/// Whether a block is an event, rather than comments or fields that nobody acts on.
fn says_anything(block: &[u8]) -> bool {
    let mut reader = EventReader::default();
    reader.feed(block).is_err() || reader.next_event().is_some()
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

impl State {
    fn see(&mut self, passage: &Passage<'_>, piece: &[u8], last: bool) {
        let Some(events) = &mut self.events else {
            if self.peek.feed(piece).is_ok() && last && self.peek.finish().is_ok() {
                remember(passage, &self.peek, self.upstream);
            }
            return;
        };
        if events.feed(piece).is_err() {
            return;
        }
        while let Some(event) = events.next_event() {
            self.peek.reset();
            if self.peek.feed(event.data).is_ok() && self.peek.finish().is_ok() {
                remember(passage, &self.peek, self.upstream);
            }
        }
    }
}

fn remember(passage: &Passage<'_>, peek: &Peek, upstream: usize) {
    for key in [peek.request_state(), peek.task_id_hash()].into_iter().flatten() {
        passage.worker.shared.affinity.remember(key, passage.view.view.upstreams[upstream].number);
    }
}
