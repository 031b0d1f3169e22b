//! HTTP/1.1 (RFC 9112) without I/O.

pub mod body;
pub mod encode;
mod field;
pub mod framing;
pub mod head;
mod repeats;

#[cfg(test)]
mod tests;
