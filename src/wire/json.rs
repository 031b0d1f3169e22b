//! A peek into a JSON-RPC body: a strict push scanner (RFC 8259) that keeps what MCP routing needs and builds no tree.
//!
//! Fed in pieces of any size with the same result; what it keeps is copied into one reused buffer, so the steady state
//! allocates nothing. Keys that decide routing may stand only once at their level (also when spelled with escapes), for
//! two parsers may disagree on which of two counts.

use crate::base::Span;
use crate::wire::mcp::{PROTOCOL_VERSION_META, code};

/// Deepest nesting.
const DEPTH_MAX: usize = 128;
/// Longest values that are kept, bytes.
const METHOD_BYTES_MAX: usize = 256;
const ID_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 8 * 1024;
/// Keys are told apart by their first bytes up to this; a longer one is none of ours.
const KEY_BYTES_MAX: usize = 64;

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    #[error("the body is not valid JSON: {0}")]
    Grammar(&'static str),
    #[error("the key `{0}` stands twice")]
    Duplicate(&'static str),
    #[error("`{0}` is too long")]
    TooLong(&'static str),
    #[error("`{0}` has the wrong type")]
    Type(&'static str),
}

impl PeekError {
    /// The JSON-RPC code that tells the client.
    pub fn code(&self) -> i32 {
        match self {
            PeekError::Grammar(_) => code::PARSE_ERROR,
            _ => code::INVALID_REQUEST,
        }
    }
}

use PeekError::{Duplicate, Grammar, TooLong};

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

/// Where a container stands, as far as anything in it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Place {
    Elsewhere,
    Batch,
    Message,
    Params,
    Meta,
    Result,
    Task,
}

/// Keys that matter, each at its place. The number is its bit in `seen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Key {
    Jsonrpc,
    Method,
    Id,
    Params,
    Result,
    Error,
    Name,
    Uri,
    TaskId,
    ProtocolVersion,
    RequestState,
    RequestId,
    Meta,
    MetaVersion,
    Task,
    ResultState,
    ResultTaskId,
    TaskTaskId,
}

fn key_at(place: Place, key: &[u8]) -> Option<(Key, &'static str)> {
    Some(match (place, key) {
        (Place::Message, b"jsonrpc") => (Key::Jsonrpc, "jsonrpc"),
        (Place::Message, b"method") => (Key::Method, "method"),
        (Place::Message, b"id") => (Key::Id, "id"),
        (Place::Message, b"params") => (Key::Params, "params"),
        (Place::Message, b"result") => (Key::Result, "result"),
        (Place::Message, b"error") => (Key::Error, "error"),
        (Place::Params, b"name") => (Key::Name, "params.name"),
        (Place::Params, b"uri") => (Key::Uri, "params.uri"),
        (Place::Params, b"taskId") => (Key::TaskId, "params.taskId"),
        (Place::Params, b"protocolVersion") => (Key::ProtocolVersion, "params.protocolVersion"),
        (Place::Params, b"requestState") => (Key::RequestState, "params.requestState"),
        (Place::Params, b"requestId") => (Key::RequestId, "params.requestId"),
        (Place::Params, b"_meta") => (Key::Meta, "params._meta"),
        (Place::Meta, key) if key == PROTOCOL_VERSION_META.as_bytes() => (Key::MetaVersion, PROTOCOL_VERSION_META),
        (Place::Result, b"requestState") => (Key::ResultState, "result.requestState"),
        (Place::Result, b"taskId") => (Key::ResultTaskId, "result.taskId"),
        (Place::Result, b"task") => (Key::Task, "result.task"),
        (Place::Task, b"taskId") => (Key::TaskTaskId, "result.task.taskId"),
        _ => return None,
    })
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
    state_hash: Option<u64>,
    task_hash: Option<u64>,
    batch: bool,
    batch_has_initialize: bool,
    wrong_type: Option<&'static str>,
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
        let (mut key, mut arena) = (std::mem::take(&mut self.key), std::mem::take(&mut self.arena));
        key.clear();
        arena.clear();
        *self = Peek {
            state: State::Value,
            objects: 0,
            depth: 0,
            places: [Place::Elsewhere; 6],
            seen: 0,
            key,
            key_overflow: false,
            current: None,
            in_key: false,
            sink: Sink::Nothing,
            arena,
            capture_start: 0,
            hash: 0,
            high_surrogate: 0,
            partial: [0; 4],
            partial_len: 0,
            kept: Kept::default(),
        };
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
        match self.kept.wrong_type {
            Some(what) if self.kept.batch || self.has(Key::Jsonrpc) => Err(PeekError::Type(what)),
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
            State::FirstKey | State::Key if byte == b'"' => {
                self.in_key = true;
                self.key.clear();
                self.key_overflow = false;
                self.sink = if self.place() == Place::Elsewhere { Sink::Nothing } else { Sink::Key };
                self.state = State::String;
                Ok(())
            }
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
                self.in_key = false;
                self.begin_capture(true);
                if let Sink::Raw { .. } = self.sink {
                    self.arena.push(b'"');
                }
                self.state = State::String;
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

    // --- strings -----------------------------------------------------------------------------------------------------

    /// A run of a string up to its end, an escape, or the end of the piece; how many bytes that was.
    fn string(&mut self, bytes: &[u8]) -> Result<usize, PeekError> {
        let stop = memchr::memchr2(b'"', b'\\', bytes);
        let run = &bytes[..stop.unwrap_or(bytes.len())];
        self.check_text(run, stop.is_some())?;
        self.keep(run)?;
        match stop.map(|at| bytes[at]) {
            Some(b'"') => self.end_string()?,
            Some(_) => self.state = State::Escape,
            None => {}
        }
        Ok(run.len() + usize::from(stop.is_some()))
    }

    /// No control characters, and valid UTF-8 over the ends of pieces.
    fn check_text(&mut self, run: &[u8], ends: bool) -> Result<(), PeekError> {
        if run.iter().any(|&byte| byte < 0x20) {
            return Err(Grammar("a control character in a string"));
        }
        if self.partial_len == 0 && run.is_ascii() {
            return Ok(());
        }
        let mut rest = run;
        while self.partial_len > 0 {
            let Some((&byte, after)) = rest.split_first() else { break };
            rest = after;
            self.partial[usize::from(self.partial_len)] = byte;
            self.partial_len += 1;
            match std::str::from_utf8(&self.partial[..usize::from(self.partial_len)]) {
                Ok(_) => self.partial_len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Grammar("not UTF-8")),
            }
        }
        if let Err(error) = std::str::from_utf8(rest) {
            if error.error_len().is_some() {
                return Err(Grammar("not UTF-8"));
            }
            let cut = &rest[error.valid_up_to()..];
            self.partial[..cut.len()].copy_from_slice(cut);
            self.partial_len = cut.len() as u8;
        }
        if ends && self.partial_len > 0 { Err(Grammar("not UTF-8")) } else { Ok(()) }
    }

    fn escape(&mut self, byte: u8) -> Result<(), PeekError> {
        if let Sink::Raw { .. } = self.sink {
            if self.state == State::Escape {
                self.keep(b"\\")?;
            }
            self.keep(&[byte])?;
        }
        match self.state {
            State::Escape => {
                let plain = match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => {
                        self.state = State::Unicode { left: 4, value: 0 };
                        return Ok(());
                    }
                    _ => return Err(Grammar("escape")),
                };
                self.state = State::String;
                self.keep_decoded(&[plain])
            }
            State::Unicode { left, value } => {
                let digit = (byte as char).to_digit(16).ok_or(Grammar("escape"))?;
                let value = value << 4 | digit as u16;
                if left > 1 {
                    self.state = State::Unicode { left: left - 1, value };
                    return Ok(());
                }
                self.unicode(value)
            }
            State::LowBackslash if byte == b'\\' => {
                if let Sink::Raw { .. } = self.sink {}
                self.state = State::LowU;
                Ok(())
            }
            State::LowU if byte == b'u' => {
                self.state = State::Unicode { left: 4, value: 0 };
                Ok(())
            }
            _ => Err(Grammar("a lone surrogate")),
        }
    }

    fn unicode(&mut self, value: u16) -> Result<(), PeekError> {
        let high = std::mem::take(&mut self.high_surrogate);
        let scalar = match (high, value) {
            (0, 0xd800..=0xdbff) => {
                self.high_surrogate = value;
                self.state = State::LowBackslash;
                return Ok(());
            }
            (0, 0xdc00..=0xdfff) => return Err(Grammar("a lone surrogate")),
            (0, plain) => u32::from(plain),
            (high, 0xdc00..=0xdfff) => 0x10000 + ((u32::from(high) - 0xd800) << 10) + (u32::from(value) - 0xdc00),
            _ => return Err(Grammar("a lone surrogate")),
        };
        self.state = State::String;
        let mut utf8 = [0; 4];
        let text = char::from_u32(scalar).ok_or(Grammar("escape"))?.encode_utf8(&mut utf8);
        self.keep_decoded(text.as_bytes())
    }

    fn end_string(&mut self) -> Result<(), PeekError> {
        if !self.in_key {
            if let Sink::Raw { .. } = self.sink {
                self.arena.push(b'"');
            }
            return self.end_scalar();
        }
        self.in_key = false;
        self.state = State::Colon;
        self.current = None;
        if self.sink == Sink::Key
            && !self.key_overflow
            && let Some((key, spelled)) = key_at(self.place(), &self.key)
        {
            if self.has(key) {
                return Err(Duplicate(spelled));
            }
            self.seen |= 1 << key as u32;
            self.current = Some(key);
        }
        Ok(())
    }

    // --- numbers -----------------------------------------------------------------------------------------------------

    fn number(&mut self, number: Number, byte: u8) -> Result<usize, PeekError> {
        let next = match (number, byte) {
            (Number::Minus, b'0') => Number::Zero,
            (Number::Minus, b'1'..=b'9') | (Number::Integer, b'0'..=b'9') => Number::Integer,
            (Number::Zero | Number::Integer, b'.') => Number::Point,
            (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
            (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::Exponent,
            (Number::Exponent, b'+' | b'-') => Number::ExponentSign,
            (Number::Exponent | Number::ExponentSign | Number::ExponentDigits, b'0'..=b'9') => Number::ExponentDigits,
            _ if ends_a_number(number) => {
                self.end_scalar()?;
                return Ok(0);
            }
            _ => return Err(Grammar("number")),
        };
        self.keep(&[byte])?;
        self.state = State::Number(next);
        Ok(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(body: &[u8]) -> Result<Peek, PeekError> {
        let mut peek = Peek::new();
        peek.feed(body)?;
        peek.finish()?;
        Ok(peek)
    }

    #[test]
    fn finds_what_routing_needs_whatever_the_order() {
        let body = br#" {"params":{"arguments":{"method":"x","name":[1]},"name":"a\u0064d","_meta":{"progressToken":1,
            "io.modelcontextprotocol/protocolVersion":"2026-07-28"}},"method":"tools/call","id":"\u00e9-1","jsonrpc":"2.0"} "#;
        let found = peek(body).unwrap();
        assert_eq!(found.kind(), Kind::Request);
        assert_eq!(found.method(), Some(b"tools/call".as_slice()));
        assert_eq!(found.name(), Some(b"add".as_slice()));
        assert_eq!(found.id(), Some(br#""\u00e9-1""#.as_slice()));
        assert_eq!(found.protocol_version(), Some(b"2026-07-28".as_slice()));
        assert!(found.is_modern());
    }

    #[test]
    fn tells_kinds_apart() {
        let kind = |body: &str| peek(body.as_bytes()).unwrap().kind();
        assert_eq!(kind(r#"{"jsonrpc":"2.0","method":"ping","id":null}"#), Kind::Request);
        assert_eq!(kind(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), Kind::Notification);
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Kind::Response);
        assert_eq!(kind(r#"[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"a"}]"#), Kind::Batch);
        assert_eq!(kind(r#"{"client_name":"x","id":{}}"#), Kind::Opaque);
        assert_eq!(kind("12.5e-1"), Kind::Opaque);
        assert!(peek(br#"[{"jsonrpc":"2.0","method":"initialize","id":1}]"#).unwrap().batch_has_initialize());
    }

    #[test]
    fn routing_keys_may_stand_only_once_also_with_escapes() {
        for body in [
            r#"{"jsonrpc":"2.0","method":"a","m\u0065thod":"b","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"jsonrpc":"2.0","params":{},"params":{}}"#,
            r#"[{"method":"a","method":"b"}]"#,
            r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"1","io.modelcontextprotocol\/protocolVersion":"2"}}}"#,
        ] {
            let error = peek(body.as_bytes()).unwrap_err();
            assert!(matches!(error, Duplicate(_)), "{body}: {error}");
            assert_eq!(error.code(), -32600);
        }
        // The same names elsewhere are nobody's business.
        peek(br#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"name":1,"name":2}}}"#).unwrap();
        peek(br#"[{"method":"a","id":1},{"method":"a","id":1}]"#).unwrap();
    }

    #[test]
    fn wrong_types_are_refused_in_json_rpc_only() {
        assert_eq!(peek(br#"{"jsonrpc":"2.0","method":1}"#).unwrap_err(), PeekError::Type("method"));
        assert_eq!(peek(br#"{"id":[],"jsonrpc":"2.0","method":"a"}"#).unwrap_err(), PeekError::Type("id"));
        assert_eq!(peek(br#"{"id":true,"jsonrpc":"2.0"}"#).unwrap_err(), PeekError::Type("id"));
        peek(br#"{"id":[]}"#).unwrap();
    }

    #[test]
    fn bounds_hold() {
        let long = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "m".repeat(257));
        assert_eq!(peek(long.as_bytes()).unwrap_err(), TooLong("method"));
        let deep = [b"[".repeat(129), b"]".repeat(129)].concat();
        assert!(peek(&deep).is_err());
        peek(&deep[1..257]).unwrap();
    }

    #[test]
    fn the_same_state_hashes_alike_in_request_and_answer() {
        let request = peek(br#"{"params":{"requestState":"a\u0062c","taskId":"t"},"method":"tasks/get"}"#).unwrap();
        let answer = peek(br#"{"result":{"requestState":"abc","task":{"taskId":"t"}}}"#).unwrap();
        assert!(request.request_state().is_some());
        assert_eq!(request.request_state(), answer.request_state());
        assert_eq!(request.task_id_hash(), answer.task_id_hash());
        assert_eq!(request.name(), Some(b"t".as_slice()));
    }

    fn agrees_with_serde(body: &[u8]) {
        let ours = peek(body);
        let theirs = serde_json::from_slice::<serde_json::Value>(body);
        match (&ours, &theirs) {
            (Ok(_), Ok(_)) | (Err(_), Err(_)) | (Err(Duplicate(_) | TooLong(_) | PeekError::Type(_)), _) => {}
            // Numbers beyond f64 are grammar to us and out of range to a tree.
            (Ok(_), Err(error)) if error.to_string().contains("out of range") => {}
            _ => panic!("{:?}: ours {:?}, serde_json {theirs:?}", String::from_utf8_lossy(body), ours.err()),
        }
    }

    #[test]
    fn agrees_with_serde_json_on_what_is_json() {
        for body in [
            "",
            " ",
            "{}",
            "[]",
            "[1,]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "01",
            "-",
            "-0",
            "1.",
            "1.e1",
            "1e",
            "1e+",
            "1e+5",
            "tru",
            "true",
            "nullx",
            r#""\ud83d\ude00""#,
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\x""#,
            r#""\u12g4""#,
            "\"\u{7f}é😀\"",
            "\"\t\"",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "[[]",
            "]",
            "1 1",
            "\u{feff}{}",
            r#"{"a":[{"b":[null,false,-1.5E+10]}]}"#,
        ] {
            agrees_with_serde(body.as_bytes());
        }
        for body in [b"\"\xff\"".as_slice(), b"\"\xc3\"", b"\"\xe2\x82\"", b"\"\xed\xa0\x80\"", b"\"\xc3\\n\""] {
            agrees_with_serde(body);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_chunking_gives_the_same_result(
            body in proptest::collection::vec(proptest::sample::select(PIECES), 0..24),
            cuts in proptest::collection::vec(0usize..200, 0..12),
        ) {
            let body = body.concat();
            let whole = peek(body.as_bytes());
            let mut pieces = Peek::new();
            let mut ends: Vec<usize> = cuts.iter().map(|&cut| cut.min(body.len())).chain([0, body.len()]).collect();
            ends.sort_unstable();
            let fed = ends.windows(2).try_for_each(|w| pieces.feed(&body.as_bytes()[w[0]..w[1]]));
            let result = fed.and_then(|()| pieces.finish());
            proptest::prop_assert_eq!(whole.as_ref().map(|_| ()).map_err(|e| *e), result);
            if let Ok(whole) = whole {
                proptest::prop_assert_eq!(whole.method(), pieces.method());
                proptest::prop_assert_eq!(whole.id(), pieces.id());
                proptest::prop_assert_eq!(whole.name(), pieces.name());
                proptest::prop_assert_eq!(whole.request_state(), pieces.request_state());
            }
            agrees_with_serde(body.as_bytes());
        }
    }

    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"method\":",
        "\"id\":",
        "\"params\":{",
        "\"name\":",
        "\"jsonrpc\":\"2.0\",",
        "\"a\\u00e9\\ud83d\\ude00\"",
        "\"é😀\"",
        "1",
        "-0.5e3",
        "null",
        "true",
        " ",
        "\"tools/call\"",
        "\\u0041",
        "\\",
        "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}",
        "\"requestState\":\"x\"",
    ];
}
