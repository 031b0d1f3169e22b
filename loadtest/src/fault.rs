//! What can go wrong with a request, by kind.

use std::fmt;
use std::io;

/// Longest part of an answer that an error shows, bytes.
const SHOWN_BYTES: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection.
    Connect,
    /// No descriptors, ports or memory on this side: nothing about the target.
    Shortage,
    Tls,
    Timeout,
    /// The connection ended before the answer did.
    Closed,
    /// Any other error of a connection.
    Io,
    /// No HTTP answer, or one that two readers could read differently.
    Http,
    Status(u16),
    /// Neither JSON nor events.
    ContentType,
    NotJson,
    /// An answer to something else.
    WrongId,
    /// An event stream that ended without the answer.
    NoAnswer,
    /// A JSON-RPC error, by its code.
    Rpc(i32),
    /// A tool's result that is an error.
    Tool,
    /// A result without what it had to contain.
    WrongResult,
    TooLarge,
    /// An event stream that ended by itself.
    StreamEnded,
    FewEvents,
    /// More kinds than are told apart.
    Other,
}

/// One of them, with what was seen.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub detail: String,
}

impl Fault {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Fault {
        Fault { kind, detail: detail.into() }
    }

    /// With the beginning of what came instead.
    pub fn showing(kind: Kind, bytes: &[u8]) -> Fault {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]);
        Fault::new(kind, text.chars().filter(|c| !c.is_control()).collect::<String>())
    }

    pub fn of_io(kind: Kind, error: &io::Error) -> Fault {
        let kind = if shadowcat::net::is_shortage(error) { Kind::Shortage } else { kind };
        Fault::new(kind, error.to_string())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Kind::Status(status) => return write!(f, "status {status}"),
            Kind::Rpc(code) => return write!(f, "JSON-RPC error {code}"),
            Kind::Connect => "connection refused or failed",
            Kind::Shortage => "no descriptors, ports or memory here",
            Kind::Tls => "TLS handshake failed",
            Kind::Timeout => "timed out",
            Kind::Closed => "closed before the answer",
            Kind::Io => "connection broke",
            Kind::Http => "malformed HTTP",
            Kind::ContentType => "neither JSON nor events",
            Kind::NotJson => "not a JSON-RPC answer",
            Kind::WrongId => "answer to another id",
            Kind::NoAnswer => "event stream without the answer",
            Kind::Tool => "tool error",
            Kind::WrongResult => "wrong result",
            Kind::TooLarge => "answer too large",
            Kind::StreamEnded => "stream ended early",
            Kind::FewEvents => "stream with too few events",
            Kind::Other => "others",
        };
        f.write_str(text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_str() {
            "" => self.kind.fmt(f),
            detail => write!(f, "{}: {detail}", self.kind),
        }
    }
}
