//! Shadowcat: a proxy for MCP servers.
//!
//! | layer | modules | what it is |
//! |---|---|---|
//! | L6 | `cli` | one file a command |
//! | L5 | `control`, `demo`, `bridge`, `replay` | the side that may block: supervisor, DNS, signals; the built-in MCP server; stdio servers behind HTTP; a tape as a server |
//! | L4 | `worker`, `origin` | the data plane: one thread, one ring; an HTTP server for MCP servers of our own |
//! | L3 | `net`, `store`, `table`, `stdio`, `tape` | the only monoio I/O, the only LMDB code, the only shared mutable memory, servers as child processes, tapes as files |
//! | L2 | `config`, `identity`, `telemetry` | file as written and plan as run; tokens, keys, principals; metrics and logs |
//! | L1 | `wire` | sans-io: HTTP/1.1, JSON-RPC, SSE, MCP |
//! | L0 | `base` | spans, ids, limits |
//!
//! A module imports only lower layers, and inside L3 and L2 none imports its neighbour
//! (`tests/tidy.rs` holds this table against every `use crate::`).
//!
//! The life of a request: `worker::accept` takes the connection, `worker::connection` reads a head,
//! `worker::exchange` runs the stages in order (envelope, route, session, upstream, relay), each
//! consuming the proof of the one before; `worker::refusal` turns every stage's error into one answer.

pub mod base;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod identity;
pub mod net;
pub mod origin;
pub mod replay;
pub mod stdio;
pub mod store;
pub mod table;
pub mod tape;
pub mod telemetry;
pub mod wire;
pub mod worker;
