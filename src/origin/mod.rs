//! L4: an HTTP/1.1 server with event streams, for the MCP servers that are part of this program.
//!
//! ```text
//! server      accept, one runtime a thread
//! connection  one connection: read a request whole, answer it      (http: heads and bodies)
//!   Service     what the server at hand says to a request          -> Next
//! relay       an event log to the client
//! events      one stream's events, resumable                       (streams: those of a session)
//! message     JSON-RPC as clients send it                         (mirrored: headers that repeat parts of it)
//! local       who may ask where nobody stands in front            (refusal: whole answers that say no)
//! ```
//!
//! It knows framing, streams and sessions, and no method of MCP.

mod connection;
mod events;
mod http;
pub mod local;
pub mod message;
pub mod mirrored;
pub mod refusal;
mod relay;
mod server;
mod sessions;
mod streams;

use std::pin::Pin;
use std::sync::Arc;

pub use events::{EventLog, Reader, Step, parse_event_id};
pub use http::{Accepts, JSON, Refused, Reply, Request, Transport, answer};
pub use server::{Running, spawn};
pub use sessions::{Session, Sessions, new_id};
pub use streams::Streams;

use crate::base::SessionId;

/// What an origin server is, besides HTTP.
pub trait Service: Send + Sync + 'static {
    /// Bytes of one request body, decoded.
    const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024;

    /// Answers one request, on the thread of its connection. `json` is room to write a body in; `out` gets the HTTP answer
    /// if that is all ([`Next::Answered`]), else nothing.
    fn answer(self: &Arc<Self>, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next;
}

/// What the connection does next.
pub enum Next {
    /// The whole answer was appended.
    Answered,
    /// Send this stream.
    Stream(Outgoing),
    /// Wait for the answer. It is dropped if the client leaves first.
    Later(Pin<Box<dyn Future<Output = Late>>>),
}

/// An answer that took its time.
pub enum Late {
    Body(Whole),
    Stream(Outgoing),
}

/// A whole answer; without a body if `json` is empty.
pub struct Whole {
    pub status: u16,
    pub session: Option<SessionId>,
    pub json: Vec<u8>,
}

/// An answer as an event stream.
pub struct Outgoing {
    pub reader: Reader,
    /// For `Mcp-Session-Id`.
    pub session: Option<SessionId>,
    /// Sent ahead of the log's events, as they stand in a stream.
    pub first: Vec<u8>,
    /// Told how the stream ended, or dropped with it.
    pub done: Box<dyn FnOnce(Ended)>,
}

impl Outgoing {
    pub fn new(reader: Reader, done: impl FnOnce(Ended) + 'static) -> Outgoing {
        Outgoing { reader, session: None, first: Vec::new(), done: Box::new(done) }
    }
}

/// How a stream ended, as far as this connection is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything was said, and sent.
    Whole,
    /// Another connection took it over.
    Displaced,
    /// The client left, or takes nothing any more.
    ClientLeft,
}
