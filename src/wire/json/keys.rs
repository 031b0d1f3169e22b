//! Which keys matter, and where.

use crate::wire::mcp::PROTOCOL_VERSION_META;

/// Where a container stands, as far as anything in it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
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
pub enum Key {
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
    Arguments,
    Traceparent,
    Tracestate,
}

/// The key that matters at this place, and how errors spell it.
pub fn key_at(place: Place, key: &[u8]) -> Option<(Key, &'static str)> {
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
        (Place::Params, b"arguments") => (Key::Arguments, "params.arguments"),
        (Place::Params, b"_meta") => (Key::Meta, "params._meta"),
        (Place::Meta, key) if key == PROTOCOL_VERSION_META.as_bytes() => (Key::MetaVersion, PROTOCOL_VERSION_META),
        (Place::Meta, b"traceparent") => (Key::Traceparent, "params._meta.traceparent"),
        (Place::Meta, b"tracestate") => (Key::Tracestate, "params._meta.tracestate"),
        (Place::Result, b"requestState") => (Key::ResultState, "result.requestState"),
        (Place::Result, b"taskId") => (Key::ResultTaskId, "result.taskId"),
        (Place::Result, b"task") => (Key::Task, "result.task"),
        (Place::Task, b"taskId") => (Key::TaskTaskId, "result.task.taskId"),
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
