//! One request of a check over a connection of its own, and what comes of it.

use std::io;

use serde_json::Value;

use crate::net::buffer::SMALL_BYTES;
use crate::net::{self, Buffer, Stream};
use crate::wire::http1::body::{BodyDecoder, BodyError};
use crate::wire::http1::encode;
use crate::wire::http1::framing::{self, BodyLength};
use crate::wire::http1::head::{HeadLimits, Method, Name, Progress, ResponseHead};
use crate::wire::mcp::header;
use crate::wire::sse::EventReader;
use crate::worker::Upstream;

/// Largest part of an answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Interim answers (1xx) before the final one.
const INTERIM_MAX: usize = 16;

/// Why a check is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the name does not resolve")]
    Unresolved,
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("no answer in time")]
    Timeout,
    #[error("the connection ended before the answer did: {0}")]
    Closed(String),
    #[error("status {0}")]
    Status(u16),
    #[error("bad answer: {0}")]
    Answer(String),
    /// No reason to think worse of the upstream.
    #[error("not checked: {0}")]
    Ours(String),
}

impl Failure {
    /// The label `outcome`.
    pub fn label(&self) -> &'static str {
        match self {
            Failure::Unresolved => "unresolved",
            Failure::Connect(_) => "connect",
            Failure::Timeout => "timeout",
            Failure::Closed(_) => "closed",
            Failure::Status(_) => "status",
            Failure::Answer(_) => "answer",
            Failure::Ours(_) => "skipped",
        }
    }
}

fn answer(error: impl ToString) -> Failure {
    Failure::Answer(error.to_string())
}

/// What is asked.
pub struct Question<'a> {
    pub method: &'static str,
    pub path: &'a str,
    /// Names and values.
    pub fields: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

impl Question<'_> {
    fn encode(&self, upstream: &Upstream, credential: Option<(&str, &str)>) -> Buffer {
        let mut out = Buffer::small();
        let bytes = out.vec();
        encode::request_line(bytes, self.method.as_bytes(), self.path.as_bytes());
        encode::field(bytes, b"Host", upstream.plan.authority.as_bytes());
        encode::field(
            bytes,
            b"User-Agent",
            concat!("shadowcat/", env!("CARGO_PKG_VERSION"), " (health check)").as_bytes(),
        );
        for (name, value) in self.fields.iter().copied().chain(credential) {
            encode::field(bytes, name.as_bytes(), value.as_bytes());
        }
        if self.method == "POST" {
            encode::content_length(bytes, self.body.len() as u64);
        }
        encode::field(bytes, b"Connection", b"close");
        encode::end(bytes);
        bytes.extend_from_slice(self.body);
        out
    }

    fn method(&self) -> Method {
        match self.method {
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            _ => Method::Get,
        }
    }
}

/// An answer whose head was read.
pub struct Answer {
    pub status: u16,
    /// `Mcp-Session-Id`.
    pub session: Option<Vec<u8>>,
    is_stream: bool,
    stream: Stream,
    /// What was read and is not decoded.
    input: Buffer,
    decoder: BodyDecoder,
}

/// Ask.
///
/// # Errors
/// No connection, no TLS, no valid head.
pub async fn ask(
    upstream: &Upstream,
    limits: &HeadLimits,
    credential: Option<(&str, &str)>,
    question: &Question<'_>,
) -> Result<Answer, Failure> {
    let stream = connect(upstream).await?;
    // Why a write failed is what the answer, or its lack, tells.
    let _ = stream.write_all(question.encode(upstream, credential)).await;
    let (mut head, mut input) = (ResponseHead::default(), Buffer::small());
    let mut interim = 0;
    loop {
        match head.parse(input.bytes(), limits).map_err(answer)? {
            Progress::Complete if head.status >= 200 => break,
            Progress::Complete => {
                interim += 1;
                if interim > INTERIM_MAX || head.status == 101 {
                    return Err(answer(format!("status {} and no final one", head.status)));
                }
                input.consume(head.len);
                head.reset();
            }
            Progress::Incomplete => {
                if fill(&stream, &mut input).await? == 0 {
                    return Err(Failure::Closed("end of input".into()));
                }
            }
        }
    }
    let bytes = input.bytes();
    let framed = framing::response(&head, bytes, question.method()).map_err(answer)?;
    let kind = head.find(bytes, Name::ContentType).unwrap_or_default();
    let is_stream = kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"));
    let session = head.find(bytes, Name::McpSessionId).map(<[u8]>::to_vec);
    input.consume(head.len);
    let decoder = BodyDecoder::new(framed.body, None);
    let empty = framed.body == BodyLength::Empty;
    Ok(Answer { status: head.status, session, is_stream: is_stream && !empty, stream, input, decoder })
}

/// The session id as text, for a field that goes back.
pub fn session_field(session: &[u8]) -> Option<(&'static str, &str)> {
    Some((header::SESSION_ID, std::str::from_utf8(session).ok()?))
}

impl Answer {
    /// Read on to the end, which an event stream need not have and a long body not reach.
    pub async fn finish(mut self) -> Result<(), Failure> {
        while !self.is_stream && self.decoder.received() <= ANSWER_BYTES_MAX {
            if self.piece().await?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// The JSON-RPC response in it: the body, or the first response of an event stream.
    pub async fn message(mut self) -> Result<Value, Failure> {
        let (mut body, mut events) = (Vec::new(), EventReader::default());
        while let Some(piece) = self.piece().await? {
            if self.is_stream {
                events.feed(&piece).map_err(answer)?;
                while let Some(event) = events.next_event() {
                    if let Some(message) = serde_json::from_slice(event.data).ok().filter(is_response) {
                        return Ok(message);
                    }
                }
            } else {
                body.extend_from_slice(&piece);
            }
            if self.decoder.received() > ANSWER_BYTES_MAX {
                return Err(answer("too long"));
            }
        }
        let message: Value = serde_json::from_slice(&body).map_err(|_| answer("not a JSON-RPC response"))?;
        if is_response(&message) { Ok(message) } else { Err(answer("not a JSON-RPC response")) }
    }

    /// The next bytes of the body; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let decoded = self.decoder.decode(self.input.bytes_mut()).map_err(answer)?;
            let data = self.input.bytes()[..decoded.data].to_vec();
            self.input.clear();
            if !data.is_empty() {
                return Ok(Some(data));
            }
            if self.decoder.is_done() {
                return Ok(None);
            }
            if fill(&self.stream, &mut self.input).await? == 0 {
                return match self.decoder.end_of_input() {
                    Ok(()) => Ok(None),
                    Err(error @ BodyError::Premature) => Err(Failure::Closed(error.to_string())),
                    Err(error) => Err(answer(error)),
                };
            }
        }
    }
}

fn is_response(message: &Value) -> bool {
    message["jsonrpc"] == "2.0" && (message.get("result").is_some() || message.get("error").is_some())
}

async fn connect(upstream: &Upstream) -> Result<Stream, Failure> {
    let stream = Stream::connect(upstream.address.ok_or(Failure::Unresolved)?).await.map_err(connecting)?;
    match &upstream.tls {
        None => Ok(stream),
        Some(connector) => connector.handshake(stream).await.map_err(connecting),
    }
}

fn connecting(error: io::Error) -> Failure {
    match net::is_shortage(&error) {
        true => Failure::Ours(error.to_string()),
        false => Failure::Connect(error.to_string()),
    }
}

async fn fill(stream: &Stream, input: &mut Buffer) -> Result<usize, Failure> {
    if input.room() == 0 {
        input.make_room(input.len() + SMALL_BYTES);
    }
    let (read, filled) = stream.read(std::mem::take(input)).await;
    *input = filled;
    read.map_err(|error| Failure::Closed(error.to_string()))
}
