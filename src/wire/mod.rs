//! L1: protocol cores without I/O: bytes in, events out, time as an argument.

pub mod answer;
pub mod base64;
pub mod http1;
pub mod jose;
pub mod json;
pub mod jsonrpc;
pub mod mcp;
pub mod protobuf;
pub mod proxy_protocol;
pub mod redact;
pub mod sealed;
pub mod sse;
pub mod tape;
pub mod trace_context;
