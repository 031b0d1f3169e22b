//! A peek into a JSON-RPC body: a strict push scanner (RFC 8259) that keeps what MCP routing needs and builds no tree.
//!
//! Fed in pieces of any size with the same result; what it keeps is copied into one reused buffer, so the steady state
//! allocates nothing. Keys that decide routing may stand only once at their level (also when spelled with escapes), for
//! two parsers may disagree on which of two counts; for the same reason none may look like one of them.

mod error;
mod keys;
mod members;
#[cfg(test)]
mod tests;
mod text;

pub use error::PeekError;
use keys::{Key, Place, TEXTS};

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

/// What the next byte may be. The representation makes it one byte to compare, which the one of its own choice is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
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
        literal: Literal,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Literal {
    True,
    False,
    Null,
}

/// What happens to the bytes of a string or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Nothing,
    Key,
    /// Decoded into the arena.
    Text,
    /// As received, into the arena.
    Raw,
    Hash,
}

/// Reused from request to request.
#[derive(Debug)]
pub struct Peek {
    state: State,
    /// What the value at hand is the value of.
    current: Option<Key>,
    in_key: bool,
    sink: Sink,
    /// The container at hand, and those around it from the outermost on.
    place: Place,
    depth: u8,
    around: [Place; DEPTH_MAX],
    /// Bits of [`Key`] that stood at their place in the message at hand.
    seen: u32,
    /// Of a key that escapes or the ends of pieces cut.
    key: Vec<u8>,
    key_overflow: bool,
    arena: Vec<u8>,
    capture_start: usize,
    hash: u64,
    high_surrogate: u16,
    /// Bytes of a character that a piece cut in two.
    partial: [u8; 4],
    partial_len: u8,
    kept: Kept,
    /// What counts of these is said by `kept.values`.
    spans: [Span; TEXTS],
    state_hash: u64,
    task_hash: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    /// Bits of [`Key`] whose value is in `spans`, and of [`Key::RequestState`] and [`Key::Task`] for the two hashes.
    values: u32,
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
            current: None,
            in_key: false,
            sink: Sink::Nothing,
            place: Place::Outside,
            depth: 0,
            around: [Place::Outside; DEPTH_MAX],
            seen: 0,
            key: Vec::with_capacity(KEY_BYTES_MAX),
            key_overflow: false,
            arena: Vec::with_capacity(256),
            capture_start: 0,
            hash: 0,
            high_surrogate: 0,
            partial: [0; 4],
            partial_len: 0,
            kept: Kept::default(),
            spans: [Span::EMPTY; TEXTS],
            state_hash: 0,
            task_hash: 0,
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
        (self.place, self.depth, self.seen) = (Place::Outside, 0, 0);
        self.current = None;
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
        while let Some(&byte) = bytes.get(at) {
            at = match self.state {
                State::Key | State::FirstKey if byte == b'"' => self.members(bytes, at)?,
                State::Value | State::FirstElement if byte == b'"' => self.string_value(bytes, at)?,
                State::String => at + self.string(&bytes[at..])?,
                State::Number(number) => at + self.number(number, byte)?,
                state => {
                    match state {
                        State::Escape | State::Unicode { .. } | State::LowBackslash | State::LowU => {
                            self.escape(byte)?
                        }
                        State::Literal { literal, at } => self.literal(literal, at, byte)?,
                        _ => self.structure(byte)?,
                    }
                    at + 1
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
            self.end_scalar();
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
        } else if self.keeps(Key::Method) {
            if self.has(Key::Id) { Kind::Request } else { Kind::Notification }
        } else if self.has(Key::Result) || self.has(Key::Error) {
            Kind::Response
        } else {
            Kind::Opaque
        }
    }

    pub fn method(&self) -> Option<&[u8]> {
        self.text(Key::Method).filter(|_| !self.kept.batch)
    }

    /// The id as received: raw JSON.
    pub fn id(&self) -> Option<&[u8]> {
        self.text(Key::Id).filter(|_| !self.kept.batch)
    }

    /// What `Mcp-Name` must equal: the tool's or prompt's name, the resource's URI, the task's id.
    pub fn name(&self) -> Option<&[u8]> {
        self.text(match self.method()? {
            b"tools/call" | b"prompts/get" => Key::Name,
            b"resources/read" => Key::Uri,
            method if method.starts_with(b"tasks/") => Key::TaskId,
            _ => return None,
        })
    }

    /// Whether it says that it is of the modern era (2026-07-28).
    pub fn is_modern(&self) -> bool {
        self.has(Key::MetaVersion)
    }

    /// `params._meta["io.modelcontextprotocol/protocolVersion"]`.
    pub fn protocol_version(&self) -> Option<&[u8]> {
        self.text(Key::MetaVersion)
    }

    /// `params.protocolVersion`, as `initialize` has it.
    pub fn initialize_version(&self) -> Option<&[u8]> {
        self.text(Key::ProtocolVersion)
    }

    /// `params.requestId` as received, as `notifications/cancelled` has it.
    pub fn cancelled_request_id(&self) -> Option<&[u8]> {
        self.text(Key::RequestId)
    }

    /// `params._meta.traceparent` and `tracestate`: who caused it (SEP-414).
    pub fn trace_context(&self) -> Option<(&[u8], Option<&[u8]>)> {
        Some((self.text(Key::Traceparent)?, self.text(Key::Tracestate)))
    }

    pub fn batch_has_initialize(&self) -> bool {
        self.kept.batch_has_initialize
    }

    /// Hash of the opaque `requestState`, of a request's params or an answer's result.
    pub fn request_state(&self) -> Option<u64> {
        self.keeps(Key::RequestState).then_some(self.state_hash)
    }

    /// Hash of the task's id, of a request's params or an answer's result.
    pub fn task_id_hash(&self) -> Option<u64> {
        self.keeps(Key::Task).then_some(self.task_hash)
    }

    fn has(&self, key: Key) -> bool {
        self.seen & (1 << key as u32) != 0
    }

    fn keeps(&self, key: Key) -> bool {
        self.kept.values & (1 << key as u32) != 0
    }

    fn text(&self, key: Key) -> Option<&[u8]> {
        self.keeps(key).then(|| self.spans[key as usize].of(&self.arena))
    }

    // --- structure ---------------------------------------------------------------------------------------------------

    fn structure(&mut self, byte: u8) -> Result<(), PeekError> {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Ok(());
        }
        match self.state {
            State::FirstElement if byte == b']' => self.close(),
            State::Value | State::FirstElement => return self.begin_value(byte),
            State::FirstKey if byte == b'}' => self.close(),
            State::FirstKey | State::Key => return Err(Grammar("an object key")),
            State::Colon if byte == b':' => self.state = State::Value,
            State::Colon => return Err(Grammar("no colon behind a key")),
            State::AfterValue => match byte {
                b',' if self.place.is_object() => self.state = State::Key,
                b',' if self.place.is_array() => self.state = State::Value,
                b'}' if self.place.is_object() => self.close(),
                b']' if self.place.is_array() => self.close(),
                _ => return Err(Grammar("something behind a value")),
            },
            _ => return Err(Grammar("something behind the end")),
        }
        Ok(())
    }

    fn begin_value(&mut self, byte: u8) -> Result<(), PeekError> {
        match byte {
            b'{' | b'[' => self.open(byte == b'{'),
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
            b't' => self.begin_literal(Literal::True),
            b'f' => self.begin_literal(Literal::False),
            b'n' => self.begin_literal(Literal::Null),
            _ => Err(Grammar("a value")),
        }
    }

    fn begin_string(&mut self) {
        self.in_key = false;
        self.begin_capture(true);
        if self.sink == Sink::Raw {
            self.arena.push(b'"');
        }
        self.state = State::String;
    }

    fn begin_literal(&mut self, literal: Literal) -> Result<(), PeekError> {
        self.state = State::Literal { literal, at: 1 };
        Ok(())
    }

    fn literal(&mut self, literal: Literal, at: u8, byte: u8) -> Result<(), PeekError> {
        let text = literal.text();
        if byte != text[usize::from(at)] {
            return Err(Grammar("literal"));
        }
        self.state = State::Literal { literal, at: at + 1 };
        if usize::from(at) + 1 < text.len() {
            return Ok(());
        }
        if self.current == Some(Key::Id) && literal == Literal::Null {
            self.begin_capture(false);
            self.keep(text)?;
        } else {
            self.mark_wrong_type();
            self.sink = Sink::Nothing;
        }
        self.end_scalar();
        Ok(())
    }

    fn open(&mut self, object: bool) -> Result<(), PeekError> {
        let Some(around) = self.around.get_mut(usize::from(self.depth)) else {
            return Err(Grammar("nested too deeply"));
        };
        *around = self.place;
        self.depth += 1;
        self.place = match (self.place, self.current, object) {
            (Place::Outside, _, true) => Place::Message,
            (Place::Outside, _, false) => {
                self.kept.batch = true;
                Place::Batch
            }
            (Place::Batch, _, true) => {
                self.seen = 0;
                Place::Message
            }
            (_, Some(Key::Params), true) => Place::Params,
            (_, Some(Key::Meta), true) => Place::Meta,
            (_, Some(Key::Result), true) => Place::Result,
            (_, Some(Key::Task), true) => Place::Task,
            _ => {
                self.mark_wrong_type();
                if object { Place::Object } else { Place::Array }
            }
        };
        self.current = None;
        self.state = if object { State::FirstKey } else { State::FirstElement };
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.place = self.around[usize::from(self.depth)];
        self.current = None;
        self.state = State::AfterValue;
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
            Some(Key::Id | Key::RequestId) => Sink::Raw,
            Some(Key::RequestState | Key::ResultState | Key::ResultTaskId | Key::TaskTaskId) if string => {
                self.hash = HASH_START;
                Sink::Hash
            }
            Some(key) if string && (key as usize) < TEXTS => Sink::Text,
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
            Sink::Raw | Sink::Text => self.keep_in_arena(bytes),
            _ => self.keep_decoded(bytes),
        }
    }

    /// Bytes of the value.
    fn keep_decoded(&mut self, bytes: &[u8]) -> Result<(), PeekError> {
        match self.sink {
            Sink::Nothing | Sink::Raw => Ok(()),
            Sink::Key => {
                self.key_overflow |= self.key.len() + bytes.len() > KEY_BYTES_MAX;
                if !self.key_overflow {
                    self.key.extend_from_slice(bytes);
                }
                Ok(())
            }
            Sink::Text => self.keep_in_arena(bytes),
            Sink::Hash => {
                self.hash = hash_on(self.hash, bytes);
                Ok(())
            }
        }
    }

    fn keep_in_arena(&mut self, bytes: &[u8]) -> Result<(), PeekError> {
        let max = match self.current {
            Some(Key::Id | Key::RequestId) => ID_BYTES_MAX,
            Some(Key::Method | Key::MetaVersion | Key::ProtocolVersion) => METHOD_BYTES_MAX,
            _ => NAME_BYTES_MAX,
        };
        if self.arena.len() - self.capture_start + bytes.len() > max {
            return Err(TooLong(self.current.map_or("", Key::value)));
        }
        self.arena.extend_from_slice(bytes);
        Ok(())
    }

    /// A string, number or literal is whole.
    fn end_scalar(&mut self) {
        self.state = State::AfterValue;
        let (sink, current) = (std::mem::replace(&mut self.sink, Sink::Nothing), self.current.take());
        let Some(key) = current.filter(|_| sink != Sink::Nothing) else { return };
        let span = Span { start: self.capture_start as u32, len: (self.arena.len() - self.capture_start) as u32 };
        let kept = match key {
            Key::RequestState | Key::ResultState => {
                self.state_hash = finish_hash(self.hash);
                Key::RequestState
            }
            Key::ResultTaskId | Key::TaskTaskId => {
                self.task_hash = finish_hash(self.hash);
                Key::Task
            }
            key => {
                self.spans[key as usize] = span;
                key
            }
        };
        self.kept.values |= 1 << kept as u32;
        if key == Key::TaskId {
            self.task_hash = finish_hash(hash_on(HASH_START, span.of(&self.arena)));
            self.kept.values |= 1 << Key::Task as u32;
        }
        if self.kept.batch && key == Key::Method {
            self.kept.batch_has_initialize |= span.of(&self.arena) == b"initialize";
        }
    }
}

impl Literal {
    fn text(self) -> &'static [u8] {
        match self {
            Literal::True => b"true",
            Literal::False => b"false",
            Literal::Null => b"null",
        }
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
