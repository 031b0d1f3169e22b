//! Which keys matter, and where.

use crate::wire::mcp::PROTOCOL_VERSION_META;

/// Where a container stands, as far as anything in it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// In no container at all.
    Outside,
    Array,
    Batch,
    Object,
    // Objects with keys that matter.
    Message,
    Params,
    Meta,
    Result,
    Task,
}

impl Place {
    pub fn is_object(self) -> bool {
        self as u8 >= Place::Object as u8
    }

    pub fn is_array(self) -> bool {
        matches!(self, Place::Array | Place::Batch)
    }

    pub fn has_keys(self) -> bool {
        self as u8 > Place::Object as u8
    }
}

/// Keys that matter, each at its place. The number is its bit in `seen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    // Those whose text is kept.
    Method,
    Id,
    Name,
    Uri,
    TaskId,
    ProtocolVersion,
    RequestId,
    MetaVersion,
    Traceparent,
    Tracestate,
    // The others.
    Jsonrpc,
    Params,
    Result,
    Error,
    RequestState,
    Meta,
    Task,
    ResultState,
    ResultTaskId,
    TaskTaskId,
    Arguments,
}

/// How many keys have a text that is kept.
pub const TEXTS: usize = Key::Tracestate as usize + 1;

impl Key {
    /// How errors spell it where it stands twice.
    pub fn spelled(self) -> &'static str {
        match self {
            Key::Jsonrpc => "jsonrpc",
            Key::Method => "method",
            Key::Id => "id",
            Key::Params => "params",
            Key::Result => "result",
            Key::Error => "error",
            Key::Name => "params.name",
            Key::Uri => "params.uri",
            Key::TaskId => "params.taskId",
            Key::ProtocolVersion => "params.protocolVersion",
            Key::RequestState => "params.requestState",
            Key::RequestId => "params.requestId",
            Key::Arguments => "params.arguments",
            Key::Meta => "params._meta",
            Key::MetaVersion => PROTOCOL_VERSION_META,
            Key::Traceparent => "params._meta.traceparent",
            Key::Tracestate => "params._meta.tracestate",
            Key::ResultState => "result.requestState",
            Key::ResultTaskId => "result.taskId",
            Key::Task => "result.task",
            Key::TaskTaskId => "result.task.taskId",
        }
    }

    /// How errors spell its value.
    pub fn value(self) -> &'static str {
        match self {
            Key::MetaVersion | Key::ProtocolVersion => "protocolVersion",
            Key::Traceparent => "traceparent",
            Key::Tracestate => "tracestate",
            key => key.spelled(),
        }
    }
}

/// The key that matters at this place. By comparisons: patterns of bytes are told apart one byte after the other.
#[inline(never)]
pub fn key_at(place: Place, key: &[u8]) -> Option<Key> {
    Some(match (place, key.len()) {
        (Place::Message, 7) if key == b"jsonrpc" => Key::Jsonrpc,
        (Place::Message, 2) if key == b"id" => Key::Id,
        (Place::Message, 6) if key == b"method" => Key::Method,
        (Place::Message, 6) if key == b"params" => Key::Params,
        (Place::Message, 6) if key == b"result" => Key::Result,
        (Place::Message, 5) if key == b"error" => Key::Error,
        (Place::Params, 4) if key == b"name" => Key::Name,
        (Place::Params, 9) if key == b"arguments" => Key::Arguments,
        (Place::Params, 5) if key == b"_meta" => Key::Meta,
        (Place::Params, 3) if key == b"uri" => Key::Uri,
        (Place::Params, 6) if key == b"taskId" => Key::TaskId,
        (Place::Params, 15) if key == b"protocolVersion" => Key::ProtocolVersion,
        (Place::Params, 12) if key == b"requestState" => Key::RequestState,
        (Place::Params, 9) if key == b"requestId" => Key::RequestId,
        (Place::Meta, _) if key == PROTOCOL_VERSION_META.as_bytes() => Key::MetaVersion,
        (Place::Meta, 11) if key == b"traceparent" => Key::Traceparent,
        (Place::Meta, 10) if key == b"tracestate" => Key::Tracestate,
        (Place::Result, 12) if key == b"requestState" => Key::ResultState,
        (Place::Result, 6) if key == b"taskId" => Key::ResultTaskId,
        (Place::Result, 4) if key == b"task" => Key::Task,
        (Place::Task, 6) if key == b"taskId" => Key::TaskTaskId,
        _ => return None,
    })
}

/// The key that a lenient parser would take this for, which is none of ours: other case, the two characters outside of
/// ASCII that fold into it, a NUL and what follows it (as parsers of Go have it: CVE-2026-27896, GHSA-q382-vc8q-7jhj).
pub fn lookalike_at(place: Place, key: &[u8]) -> Option<&'static str> {
    const MESSAGE: &[&str] = &["jsonrpc", "method", "id", "params", "result", "error"];
    const PARAMS: &[&str] =
        &["name", "uri", "taskId", "protocolVersion", "requestState", "requestId", "arguments", "_meta"];
    const META: &[&str] = &[PROTOCOL_VERSION_META];
    let names = match place {
        Place::Message => MESSAGE,
        Place::Params => PARAMS,
        Place::Meta => META,
        _ => return None,
    };
    // Nearly every key is plain, and as long as none of these.
    if key.iter().all(|byte| (1..0x80).contains(byte)) {
        return names.iter().copied().find(|name| name.as_bytes().eq_ignore_ascii_case(key));
    }
    let mut folded = [0; super::KEY_BYTES_MAX];
    let (mut rest, mut length) = (key, 0);
    loop {
        (folded[length], rest) = match rest {
            [] | [0, ..] => break,
            [0xc5, 0xbf, rest @ ..] => (b's', rest),
            [0xe2, 0x84, 0xaa, rest @ ..] => (b'k', rest),
            [byte, rest @ ..] => (*byte, rest),
        };
        length += 1;
    }
    names.iter().copied().find(|name| name.as_bytes().eq_ignore_ascii_case(&folded[..length]))
}
