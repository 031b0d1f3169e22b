//! What MCP says of a request: a peek into the body before upstream sees a byte of it.

use super::connection::{Client, fill};
use super::guard::Request;
use super::refusal::Refusal;
use crate::config::plan::Plan;
use crate::net::buffer::SMALL_BYTES;
use crate::net::{Buffer, within};
use crate::wire::http1::body::BodyDecoder;
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::{Method, Name};
use crate::wire::json::{Kind, Peek};
use crate::wire::mcp::{self, Era};

/// A body of which no more came yet waits in a small buffer, bytes.
const SLOW_BYTES: usize = 1024;
/// By how much the memory of a body grows at a time: what came is copied then, and what is to come takes none until it is written.
const GROWTH: usize = 4;

/// What the stages after this one need to know; the rest stays in the peek.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    pub era: Era,
    /// A legacy `initialize`: a session may begin.
    pub initializes: bool,
    /// Safe to send once more: HTTP's safe and idempotent methods, MCP's reads.
    pub repeatable: bool,
    /// A JSON-RPC message, or a batch of them.
    pub is_message: bool,
    /// A stream without end: GET, or `subscriptions/listen`.
    pub endless: bool,
    /// Hash of the opaque state or task that binds a modern request to the replica that issued it.
    pub affinity: Option<u64>,
}

/// The body as far as it was read.
pub struct Intake {
    /// Decoded body bytes that upstream has not seen.
    pub body: Buffer,
    /// What follows the request on the connection (pipelining), or undecoded bytes of the rest of the body.
    pub rest: Buffer,
    pub decoder: BodyDecoder,
    /// The peek goes on while the rest streams.
    pub peeking: bool,
}

impl Intake {
    pub fn is_whole(&self) -> bool {
        self.decoder.is_done()
    }
}

/// Read what must be read before upstream is asked. `input` holds what followed the head.
///
/// # Errors
/// Bad framing or JSON (400), a body over the limit (413) or too slow (408), headers that contradict a modern body.
pub async fn read(
    plan: &Plan,
    client: &Client,
    request: &Request<'_>,
    input: Buffer,
    peek: &mut Peek,
) -> Result<(Envelope, Intake), Refusal> {
    let decoder = BodyDecoder::new(request.body(), plan.limits.body_bytes_max);
    let mut intake = Intake { body: input, rest: Buffer::default(), decoder, peeking: false };
    let idempotent = matches!(request.method(), Method::Get | Method::Head | Method::Options | Method::Delete);
    let endless = request.method() == Method::Get;
    let plain = Envelope {
        era: Era::Legacy,
        initializes: false,
        repeatable: idempotent,
        is_message: false,
        endless,
        affinity: None,
    };
    if request.body() == BodyLength::Empty {
        std::mem::swap(&mut intake.body, &mut intake.rest);
        return Ok((plain, intake));
    }
    if request.expects_continue() && intake.body.is_empty() {
        let mut go_on = Buffer::small();
        go_on.vec().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        let told = Box::pin(within(plan.timeouts.write, client.stream.write_all(go_on))).await;
        if !matches!(told, Ok((Ok(()), _))) {
            return Err(Refusal::CLIENT_GONE);
        }
    }
    if request.method() != Method::Post || !request.is_json() {
        decode(&mut intake, 0)?;
        return Ok((plain, intake));
    }
    if request.find(Name::ContentEncoding).is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::CODING.closing());
    }
    intake.peeking = true;
    scan(&mut intake, 0, peek)?;
    if !intake.is_whole() {
        Box::pin(read_up_to_the_limit(plan, client, request, &mut intake, peek)).await?;
    }
    if intake.is_whole() {
        conclude(request, peek)?;
    }
    let era = if peek.is_modern() { Era::Modern } else { Era::Legacy };
    let method = peek.method();
    let envelope = Envelope {
        era,
        initializes: era == Era::Legacy && (method == Some(b"initialize") || peek.batch_has_initialize()),
        repeatable: intake.is_whole() && method.is_some_and(mcp::is_read_method),
        is_message: peek.kind() != Kind::Opaque,
        endless: method == Some(b"subscriptions/listen"),
        affinity: peek.request_state().or_else(|| peek.task_id_hash()).filter(|_| era == Era::Modern),
    };
    Ok((envelope, intake))
}

/// Where tools or methods are told apart, what a request does must be seen: a body that is JSON by its type, as far as it
/// was looked into whole, and one message.
///
/// # Errors
/// 415, 413, 400.
pub fn must_be_seen(request: &Request<'_>, peek: &Peek, whole: bool) -> Result<(), Refusal> {
    if request.method() == Method::Post && request.body() != BodyLength::Empty && !request.is_json() {
        return Err(Refusal::NOT_JSON.closing());
    }
    if !whole {
        return Err(Refusal::BODY_TOO_LONG);
    }
    if peek.kind() == Kind::Batch {
        return Err(Refusal::BATCH);
    }
    Ok(())
}

/// The end of the body: its JSON is whole, and a modern request's headers say what it says.
///
/// # Errors
/// 400, in both cases.
pub fn conclude(request: &Request<'_>, peek: &mut Peek) -> Result<(), Refusal> {
    peek.finish().map_err(|error| Refusal::json(&error))?;
    if !peek.is_modern() {
        return Ok(());
    }
    for name in [Name::McpProtocolVersion, Name::McpMethod, Name::McpName] {
        if request.head.fields.is_repeated(name) {
            return Err(Refusal::mismatch("a repeated MCP header".to_owned()));
        }
    }
    let (version, method, name) =
        (request.find(Name::McpProtocolVersion), request.find(Name::McpMethod), request.find(Name::McpName));
    mcp::check_headers(peek, version, method, name).map_err(|mismatch| Refusal::mismatch(mismatch.to_string()))
}

async fn read_up_to_the_limit(
    plan: &Plan,
    client: &Client,
    request: &Request<'_>,
    intake: &mut Intake,
    peek: &mut Peek,
) -> Result<(), Refusal> {
    let limit = plan.limits.peek_bytes_max;
    let mut seen = intake.body.len();
    while !intake.is_whole() && seen <= limit {
        let expected = match request.body() {
            BodyLength::Length(length) => (length as usize).min(limit + 1),
            _ => 0,
        };
        // Memory follows what came, not what was announced: a slow client costs a few times what it sent.
        if seen <= SLOW_BYTES {
            intake.body = Buffer::head(intake.body.bytes());
        }
        match within(plan.timeouts.body, client.stream.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Refusal::CLIENT_GONE),
            Err(_) => return Err(Refusal::BODY_TIMEOUT),
        }
        if intake.body.room() == 0 || seen <= SLOW_BYTES {
            let most = if expected > seen { expected.max(SLOW_BYTES * 2) } else { limit + SMALL_BYTES };
            intake.body.make_room((seen * GROWTH).max(SMALL_BYTES).min(most));
        }
        match within(plan.timeouts.body, fill(client, &mut intake.body)).await {
            Ok(Ok(1..)) => {}
            // The client left in the middle of its request: nobody is there to be told.
            Ok(_) => return Err(Refusal::CLIENT_GONE),
            Err(_) => return Err(Refusal::BODY_TIMEOUT),
        }
        scan(intake, seen, peek)?;
        seen = intake.body.len();
    }
    Ok(())
}

/// Decode and look into what came behind the first `seen` bytes.
fn scan(intake: &mut Intake, seen: usize, peek: &mut Peek) -> Result<(), Refusal> {
    decode(intake, seen)?;
    let fed = peek.feed(&intake.body.bytes()[seen..]);
    fed.map_err(|error| if intake.is_whole() { Refusal::json(&error) } else { Refusal::json(&error).closing() })
}

/// Decode in place what lies behind the first `done` bytes of the body; what follows the body goes to `rest`.
fn decode(intake: &mut Intake, done: usize) -> Result<(), Refusal> {
    let decoded = intake.decoder.decode(&mut intake.body.bytes_mut()[done..]).map_err(Refusal::body)?;
    if intake.decoder.is_done() && done + decoded.consumed < intake.body.len() {
        let mut rest = Buffer::small();
        rest.vec().extend_from_slice(&intake.body.bytes()[done + decoded.consumed..]);
        intake.rest = rest;
    }
    intake.body.truncate(done + decoded.data);
    Ok(())
}
