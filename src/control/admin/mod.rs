//! The administrator's way in: HTTP with JSON over a unix socket, and a few pages over TCP.
//!
//! ```text
//! admin socket (0600, owner or root) --accept--> one request, one answer --desk--> store, publisher, supervisor, table
//! admin.bind (anybody who reaches it) -accept--> pages that only read -----'
//! ```
//!
//! A thread accepts for each of the two, and each connection is served on a thread of its own, at most
//! `CONNECTIONS_MAX` at a time. Nothing here runs on a worker, and no worker waits for it.

mod desk;
mod http;
mod listen;
pub mod sessions;
mod upstreams;

pub use desk::Desk;
pub use http::Body;
pub use listen::{Listening, start};

/// Connections of each listener that are served at a time; the next ones are told to come again.
const CONNECTIONS_MAX: usize = 8;
