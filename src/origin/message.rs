//! JSON-RPC messages as they come, borrowed from their text.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Revision of MCP that opens with `initialize`, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
}

/// The modern revision: stateless, `_meta` on every request.
pub const MODERN_VERSION: &str = "2026-07-28";

impl Version {
    pub const LATEST: Version = Version::V2025_11_25;
    /// What a request without `MCP-Protocol-Version` means (Streamable HTTP, 2025-06-18 and later).
    pub const WITHOUT_HEADER: Version = Version::V2025_03_26;

    pub fn parse(text: &[u8]) -> Option<Version> {
        Some(match text {
            b"2024-11-05" => Version::V2024_11_05,
            b"2025-03-26" => Version::V2025_03_26,
            b"2025-06-18" => Version::V2025_06_18,
            b"2025-11-25" => Version::V2025_11_25,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Version::V2024_11_05 => "2024-11-05",
            Version::V2025_03_26 => "2025-03-26",
            Version::V2025_06_18 => "2025-06-18",
            Version::V2025_11_25 => "2025-11-25",
        }
    }
}

/// One message. `id` is the JSON text of a string or a number, to be echoed as it is; `params`, where there are any, are an
/// object.
#[derive(Debug)]
pub enum Message<'a> {
    Request { id: &'a str, method: Cow<'a, str>, params: Option<&'a RawValue> },
    Notification { method: Cow<'a, str>, params: Option<&'a RawValue> },
    Response { id: &'a str, result: Option<&'a RawValue> },
}

/// Why a body is no message; `id` where it could be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed<'a> {
    pub code: i32,
    pub reason: &'static str,
    pub id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Reads one message. A duplicate of a known member is refused, as a proxy before us could have
/// looked at the other one.
///
/// # Errors
/// What is wrong with it.
pub fn parse(body: &[u8]) -> Result<Message<'_>, Malformed<'_>> {
    let envelope: Envelope<'_> = serde_json::from_slice(body).map_err(|error| {
        let (code, reason) = match error.is_data() {
            true => (-32600, "Invalid request: not a JSON-RPC message"),
            false => (-32700, "Parse error: the body is not valid JSON"),
        };
        Malformed { code, reason, id: None }
    })?;
    let id = envelope.id.map(RawValue::get);
    let invalid = |reason| Malformed { code: -32600, reason, id: id.filter(|id| is_id(id)) };
    if envelope.jsonrpc != "2.0" {
        return Err(invalid("Invalid request: jsonrpc must be \"2.0\""));
    }
    if id.is_some_and(|id| !is_id(id)) {
        return Err(invalid("Invalid request: id must be a string or a number"));
    }
    if envelope.method.is_empty() {
        return match (id, envelope.result.is_some() != envelope.error.is_some()) {
            (Some(id), true) => Ok(Message::Response { id, result: envelope.result }),
            _ => Err(invalid("Invalid request: neither a method nor an answer")),
        };
    }
    // serde would also fill a struct from an array, by position.
    if envelope.params.is_some_and(|raw| !raw.get().starts_with('{')) {
        return Err(invalid("Invalid request: params must be an object"));
    }
    let (method, params) = (envelope.method, envelope.params);
    Ok(match id {
        Some(id) => Message::Request { id, method, params },
        None => Message::Notification { method, params },
    })
}

/// The messages of a batch, unparsed; `None` if the body is no array.
pub fn batch(body: &[u8]) -> Option<Vec<&RawValue>> {
    serde_json::from_slice(body).ok()
}

pub fn is_batch(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// Ids, progress tokens: a string or a number, in JSON text.
pub fn is_id(raw: &str) -> bool {
    matches!(raw.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

/// Tells `null` from an absent member.
fn present<'de, D: Deserializer<'de>>(source: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(source).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_kinds_of_message() {
        let call = br#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"echo","x":1}}"#;
        let Ok(Message::Request { id: "\"a\"", method, params }) = parse(call) else { panic!("no request") };
        assert_eq!((&*method, params.unwrap().get()), ("tools/call", r#"{"name":"echo","x":1}"#));
        let note = parse(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert!(matches!(note, Ok(Message::Notification { .. })));
        let answer = parse(br#"{"jsonrpc":"2.0","id":4,"result":null}"#);
        assert!(matches!(answer, Ok(Message::Response { id: "4", result: Some(_) })));
    }

    #[test]
    fn names_the_code_and_keeps_the_id_of_what_is_malformed() {
        let code = |body: &'static [u8]| parse(body).map_err(|bad| (bad.code, bad.id)).err();
        assert_eq!(code(b"{"), Some((-32700, None)));
        assert_eq!(code(b"5"), Some((-32600, None)));
        assert_eq!(code(br#"{"id":1,"method":"ping"}"#), Some((-32600, Some("1"))));
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#), Some((-32600, None)));
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":1}"#), Some((-32600, Some("1"))));
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#), Some((-32600, Some("1"))));
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":1,"method":"m","method":"n"}"#), Some((-32600, None)));
    }
}
