//! A peek into a JSON-RPC body: a strict push scanner (RFC 8259) that keeps what MCP routing needs and builds no tree.
//!
//! Fed in pieces of any size with the same result; what it keeps is copied into one reused buffer, so the steady state
//! allocates nothing. Keys that decide routing may stand only once at their level (also when spelled with escapes), for
//! two parsers may disagree on which of two counts; for the same reason none may look like one of them.

mod error;
mod keys;
#[cfg(test)]
mod tests;
mod text;

pub use error::PeekError;
use keys::{Key, Place};

use crate::base::Span;

/// Deepest nesting.
const DEPTH_MAX: usize = 128;
/// Longest values that are kept, bytes.
const METHOD_BYTES_MAX: usize = 256;
const ID_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 8 * 1024;
/// Keys are told apart by their first bytes up to this; a longer one is none of ours.
const KEY_BYTES_MAX: usize = 64;

use PeekError::{Grammar, TooLong};

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Notification,
    Response,
    /// An array (2025-03-26).
    Batch,
    /// JSON, but no JSON-RPC message.
    Opaque,
}

/// What the next byte may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// Behind `[`: a value or `]`.
    FirstElement,
    /// Behind `{`: a key or `}`.
    FirstKey,
    /// Behind a comma in an object.
    Key,
    Colon,
    AfterValue,
    String,
    Escape,
    /// Hexadecimal digits of `\u` still to come, and the value so far.
    Unicode {
        left: u8,
        value: u16,
    },
    /// A high surrogate wants `\`, then `u`.
    LowBackslash,
    LowU,
    Number(Number),
    Literal {
        text: &'static [u8],
        at: u8,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

/// What happens to the bytes of a string or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Nothing,
    Key,
    /// Decoded into the arena.
    Text {
        max: usize,
        what: &'static str,
    },
    /// As received, into the arena.
    Raw {
        max: usize,
        what: &'static str,
    },
    Hash,
}

/// Reused from request to request.
#[derive(Debug)]
pub struct Peek {
    state: State,
    /// Bit i: the container at depth i + 1 is an object.
    objects: u128,
    depth: usize,
    places: [Place; 6],
    /// Bits of [`Key`] that stood at their place in the message at hand.
    seen: u32,
    key: Vec<u8>,
    key_overflow: bool,
    /// What the value at hand is the value of.
    current: Option<Key>,
    in_key: bool,
    sink: Sink,
    arena: Vec<u8>,
    capture_start: usize,
    hash: u64,
    high_surrogate: u16,
    /// Bytes of a character that a piece cut in two.
    partial: [u8; 4],
    partial_len: u8,
    kept: Kept,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    method: Option<Span>,
    id: Option<Span>,
    name: Option<Span>,
    uri: Option<Span>,
    task_id: Option<Span>,
    meta_version: Option<Span>,
    initialize_version: Option<Span>,
    request_id: Option<Span>,
    traceparent: Option<Span>,
    tracestate: Option<Span>,
    state_hash: Option<u64>,
    task_hash: Option<u64>,
    batch: bool,
    batch_has_initialize: bool,
    wrong_type: Option<&'static str>,
    /// The first key that a lenient parser would take for one of ours.
    lookalike: Option<&'static str>,
}

impl Default for Peek {
    fn default() -> Peek {
        Peek {
            state: State::Value,
            objects: 0,
            depth: 0,
            places: [Place::Elsewhere; 6],
            seen: 0,
            key: Vec::with_capacity(KEY_BYTES_MAX),
            key_overflow: false,
            current: None,
            in_key: false,
            sink: Sink::Nothing,
            arena: Vec::with_capacity(256),
            capture_start: 0,
            hash: 0,
            high_surrogate: 0,
            partial: [0; 4],
            partial_len: 0,
            kept: Kept::default(),
        }
    }
}

impl Peek {
    pub fn new() -> Peek {
        Peek::default()
    }

    /// Forget the body, keep the memory.
    pub fn reset(&mut self) {
        self.state = State::Value;
        self.depth = 0;
        self.seen = 0;
        self.key.clear();
        (self.key_overflow, self.current) = (false, None);
        (self.in_key, self.sink) = (false, Sink::Nothing);
        self.arena.clear();
        (self.high_surrogate, self.partial_len) = (0, 0);
        self.kept = Kept::default();
    }

    /// The next piece of the body.
    ///
    /// # Errors
    /// As soon as the body can no longer be accepted; nothing may be fed after that.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), PeekError> {
        let mut at = 0;
        while at < bytes.len() {
            at += match self.state {
                State::String => self.string(&bytes[at..])?,
                State::Escape | State::Unicode { .. } | State::LowBackslash | State::LowU => {
                    self.escape(bytes[at])?;
                    1
                }
                State::Number(number) => self.number(number, bytes[at])?,
                State::Literal { text, at: done } => {
                    if bytes[at] != text[usize::from(done)] {
                        return Err(Grammar("literal"));
                    }
                    let done = done + 1;
                    self.state = State::Literal { text, at: done };
                    if usize::from(done) == text.len() {
                        self.end_literal(text)?;
                    }
                    1
                }
                State::Key | State::FirstKey if bytes[at] == b'"' => self.key(&bytes[at..])?,
                State::Value if bytes[at] == b'"' => self.string_value(&bytes[at..])?,
                _ => {
                    self.structure(bytes[at])?;
                    1
                }
            };
        }
        Ok(())
    }

    /// The body is whole.
    ///
    /// # Errors
    /// It ends too early, or is a JSON-RPC message with a method or id of the wrong type.
    pub fn finish(&mut self) -> Result<(), PeekError> {
        if let State::Number(number) = self.state {
            if !ends_a_number(number) {
                return Err(Grammar("number"));
            }
            self.end_scalar()?;
        }
        if self.depth != 0 || self.state != State::AfterValue {
            return Err(Grammar("the text ends too early"));
        }
        self.state = State::Done;
        let is_rpc = self.kept.batch || self.has(Key::Jsonrpc);
        match (self.kept.lookalike, self.kept.wrong_type) {
            (Some(what), _) if is_rpc || self.has(Key::Method) || matches!(what, "jsonrpc" | "method") => {
                Err(PeekError::Lookalike(what))
            }
            (_, Some(what)) if is_rpc => Err(PeekError::Type(what)),
            _ => Ok(()),
        }
    }

    // --- what it found -----------------------------------------------------------------------------------------------

    pub fn kind(&self) -> Kind {
        if self.kept.batch {
            Kind::Batch
        } else if self.kept.method.is_some() {
            if self.has(Key::Id) { Kind::Request } else { Kind::Notification }
        } else if self.has(Key::Result) || self.has(Key::Error) {
            Kind::Response
        } else {
            Kind::Opaque
        }
    }

    pub fn method(&self) -> Option<&[u8]> {
        self.text(self.kept.method).filter(|_| !self.kept.batch)
    }

    /// The id as received: raw JSON.
    pub fn id(&self) -> Option<&[u8]> {
        self.text(self.kept.id).filter(|_| !self.kept.batch)
    }

    /// What `Mcp-Name` must equal: the tool's or prompt's name, the resource's URI, the task's id.
    pub fn name(&self) -> Option<&[u8]> {
        let span = match self.method()? {
            b"tools/call" | b"prompts/get" => self.kept.name,
            b"resources/read" => self.kept.uri,
            method if method.starts_with(b"tasks/") => self.kept.task_id,
            _ => None,
        };
        self.text(span)
    }

    /// Whether it says that it is of the modern era (2026-07-28).
    pub fn is_modern(&self) -> bool {
        self.has(Key::MetaVersion)
    }

    /// `params._meta["io.modelcontextprotocol/protocolVersion"]`.
    pub fn protocol_version(&self) -> Option<&[u8]> {
        self.text(self.kept.meta_version)
    }

    /// `params.protocolVersion`, as `initialize` has it.
    pub fn initialize_version(&self) -> Option<&[u8]> {
        self.text(self.kept.initialize_version)
    }

    /// `params.requestId` as received, as `notifications/cancelled` has it.
    pub fn cancelled_request_id(&self) -> Option<&[u8]> {
        self.text(self.kept.request_id)
    }

    /// `params._meta.traceparent` and `tracestate`: who caused it (SEP-414).
    pub fn trace_context(&self) -> Option<(&[u8], Option<&[u8]>)> {
        Some((self.text(self.kept.traceparent)?, self.text(self.kept.tracestate)))
    }

    pub fn batch_has_initialize(&self) -> bool {
        self.kept.batch_has_initialize
    }

    /// Hash of the opaque `requestState`, of a request's params or an answer's result.
    pub fn request_state(&self) -> Option<u64> {
        self.kept.state_hash
    }

    /// Hash of the task's id, of a request's params or an answer's result.
    pub fn task_id_hash(&self) -> Option<u64> {
        self.kept.task_hash
    }

    fn has(&self, key: Key) -> bool {
        self.seen & (1 << key as u32) != 0
    }

    fn text(&self, span: Option<Span>) -> Option<&[u8]> {
        span.map(|span| span.of(&self.arena))
    }

    // --- structure ---------------------------------------------------------------------------------------------------

    fn structure(&mut self, byte: u8) -> Result<(), PeekError> {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Ok(());
        }
        match self.state {
            State::Value => self.begin_value(byte),
            State::FirstElement if byte == b']' => self.close(),
            State::FirstElement => self.begin_value(byte),
            State::FirstKey if byte == b'}' => self.close(),
            State::FirstKey | State::Key => Err(Grammar("an object key")),
            State::Colon if byte == b':' => {
                self.state = State::Value;
                Ok(())
            }
            State::Colon => Err(Grammar("no colon behind a key")),
            State::AfterValue => match byte {
                b',' if self.depth > 0 => {
                    self.state = if self.in_object() { State::Key } else { State::Value };
                    Ok(())
                }
                b'}' if self.depth > 0 && self.in_object() => self.close(),
                b']' if self.depth > 0 && !self.in_object() => self.close(),
                _ => Err(Grammar("something behind a value")),
            },
            _ => Err(Grammar("something behind the end")),
        }
    }

    fn in_object(&self) -> bool {
        self.objects & (1 << (self.depth - 1)) != 0
    }

    fn place(&self) -> Place {
        match self.depth {
            depth @ 1..=6 => self.places[depth - 1],
            _ => Place::Elsewhere,
        }
    }

    fn begin_value(&mut self, byte: u8) -> Result<(), PeekError> {
        match byte {
            b'{' | b'[' => self.open(byte == b'{'),
            b'"' => {
                self.begin_string();
                Ok(())
            }
            b'-' | b'0'..=b'9' => {
                self.begin_capture(false);
                let first = match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Integer,
                };
                self.keep(&[byte])?;
                self.state = State::Number(first);
                Ok(())
            }
            b't' => self.begin_literal(b"true"),
            b'f' => self.begin_literal(b"false"),
            b'n' => self.begin_literal(b"null"),
            _ => Err(Grammar("a value")),
        }
    }

    fn begin_string(&mut self) {
        self.in_key = false;
        self.begin_capture(true);
        if let Sink::Raw { .. } = self.sink {
            self.arena.push(b'"');
        }
        self.state = State::String;
    }

    fn begin_literal(&mut self, text: &'static [u8]) -> Result<(), PeekError> {
        self.state = State::Literal { text, at: 1 };
        Ok(())
    }

    fn end_literal(&mut self, text: &'static [u8]) -> Result<(), PeekError> {
        if self.current == Some(Key::Id) && text == b"null" {
            self.begin_capture(false);
            self.keep(text)?;
        } else {
            self.mark_wrong_type();
            self.sink = Sink::Nothing;
        }
        self.end_scalar()
    }

    fn open(&mut self, object: bool) -> Result<(), PeekError> {
        if self.depth == DEPTH_MAX {
            return Err(Grammar("nested too deeply"));
        }
        let place = match (self.depth, self.place(), self.current, object) {
            (0, _, _, true) => Place::Message,
            (0, _, _, false) => {
                self.kept.batch = true;
                Place::Batch
            }
            (1, Place::Batch, _, true) => {
                self.seen = 0;
                Place::Message
            }
            (_, _, Some(Key::Params), true) => Place::Params,
            (_, _, Some(Key::Meta), true) => Place::Meta,
            (_, _, Some(Key::Result), true) => Place::Result,
            (_, _, Some(Key::Task), true) => Place::Task,
            _ => {
                self.mark_wrong_type();
                Place::Elsewhere
            }
        };
        let bit = 1 << self.depth;
        self.objects = if object { self.objects | bit } else { self.objects & !bit };
        if let Some(slot) = self.places.get_mut(self.depth) {
            *slot = place;
        }
        self.depth += 1;
        self.current = None;
        self.state = if object { State::FirstKey } else { State::FirstElement };
        Ok(())
    }

    fn close(&mut self) -> Result<(), PeekError> {
        self.depth -= 1;
        self.current = None;
        self.state = State::AfterValue;
        Ok(())
    }

    /// A method or an id that is neither text nor number: an error if the message turns out to be JSON-RPC.
    fn mark_wrong_type(&mut self) {
        match self.current {
            Some(Key::Method) => self.kept.wrong_type = Some("method"),
            Some(Key::Id) => self.kept.wrong_type = Some("id"),
            _ => {}
        }
    }

    // --- what is kept ------------------------------------------------------------------------------------------------

    fn begin_capture(&mut self, string: bool) {
        self.capture_start = self.arena.len();
        self.sink = match self.current {
            Some(Key::Method) if string => Sink::Text { max: METHOD_BYTES_MAX, what: "method" },
            Some(Key::Id) => Sink::Raw { max: ID_BYTES_MAX, what: "id" },
            Some(Key::RequestId) => Sink::Raw { max: ID_BYTES_MAX, what: "params.requestId" },
            Some(Key::Name) if string => Sink::Text { max: NAME_BYTES_MAX, what: "params.name" },
            Some(Key::Uri) if string => Sink::Text { max: NAME_BYTES_MAX, what: "params.uri" },
            Some(Key::TaskId) if string => Sink::Text { max: NAME_BYTES_MAX, what: "params.taskId" },
            Some(Key::MetaVersion) if string => Sink::Text { max: METHOD_BYTES_MAX, what: "protocolVersion" },
            Some(Key::Traceparent) if string => Sink::Text { max: NAME_BYTES_MAX, what: "traceparent" },
            Some(Key::Tracestate) if string => Sink::Text { max: NAME_BYTES_MAX, what: "tracestate" },
            Some(Key::ProtocolVersion) if string => Sink::Text { max: METHOD_BYTES_MAX, what: "protocolVersion" },
            Some(Key::RequestState | Key::ResultState | Key::ResultTaskId | Key::TaskTaskId) if string => {
                self.hash = HASH_START;
                Sink::Hash
            }
            Some(Key::Method) => {
                self.mark_wrong_type();
                Sink::Nothing
            }
            _ => Sink::Nothing,
        };
    }

    /// Bytes that are the same in the text and in the value.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), PeekError> {
        match self.sink {
            Sink::Nothing => Ok(()),
            Sink::Raw { max, what } => self.keep_in_arena(bytes, max, what),
            _ => self.keep_decoded(bytes),
        }
    }

    /// Bytes of the value.
    fn keep_decoded(&mut self, bytes: &[u8]) -> Result<(), PeekError> {
        match self.sink {
            Sink::Nothing | Sink::Raw { .. } => Ok(()),
            Sink::Key => {
                self.key_overflow |= self.key.len() + bytes.len() > KEY_BYTES_MAX;
                if !self.key_overflow {
                    self.key.extend_from_slice(bytes);
                }
                Ok(())
            }
            Sink::Text { max, what } => self.keep_in_arena(bytes, max, what),
            Sink::Hash => {
                self.hash = hash_on(self.hash, bytes);
                Ok(())
            }
        }
    }

    fn keep_in_arena(&mut self, bytes: &[u8], max: usize, what: &'static str) -> Result<(), PeekError> {
        if self.arena.len() - self.capture_start + bytes.len() > max {
            return Err(TooLong(what));
        }
        self.arena.extend_from_slice(bytes);
        Ok(())
    }

    /// A string, number or literal is whole.
    fn end_scalar(&mut self) -> Result<(), PeekError> {
        self.state = State::AfterValue;
        let (sink, current) = (std::mem::replace(&mut self.sink, Sink::Nothing), self.current.take());
        let span = Span { start: self.capture_start as u32, len: (self.arena.len() - self.capture_start) as u32 };
        let kept = &mut self.kept;
        match (sink, current) {
            (Sink::Nothing, _) | (_, None) => {}
            (Sink::Hash, Some(Key::RequestState | Key::ResultState)) => kept.state_hash = Some(finish_hash(self.hash)),
            (Sink::Hash, _) => kept.task_hash = Some(finish_hash(self.hash)),
            (_, Some(Key::Method)) => {
                kept.batch_has_initialize |= kept.batch && span.of(&self.arena) == b"initialize";
                kept.method = Some(span);
            }
            (_, Some(Key::Id)) => kept.id = Some(span),
            (_, Some(Key::RequestId)) => kept.request_id = Some(span),
            (_, Some(Key::Name)) => kept.name = Some(span),
            (_, Some(Key::Uri)) => kept.uri = Some(span),
            (_, Some(Key::TaskId)) => {
                kept.task_hash = Some(finish_hash(hash_on(HASH_START, span.of(&self.arena))));
                kept.task_id = Some(span);
            }
            (_, Some(Key::MetaVersion)) => kept.meta_version = Some(span),
            (_, Some(Key::Traceparent)) => kept.traceparent = Some(span),
            (_, Some(Key::Tracestate)) => kept.tracestate = Some(span),
            (_, Some(Key::ProtocolVersion)) => kept.initialize_version = Some(span),
            _ => {}
        }
        Ok(())
    }
}

fn ends_a_number(number: Number) -> bool {
    matches!(number, Number::Zero | Number::Integer | Number::Fraction | Number::ExponentDigits)
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over the decoded text: the key of an affinity that is a hint, never a right.
fn hash_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spread over all bits (the finaliser of MurmurHash3).
fn finish_hash(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
