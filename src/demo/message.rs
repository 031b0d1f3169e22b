//! JSON-RPC messages as clients send them, borrowed from the request's body.

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

/// The one modern revision that the demo serves: stateless, `_meta` on every request.
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

/// Syslog severities (RFC 5424 section 6.2.1), least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl Level {
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "debug" => Level::Debug,
            "info" => Level::Info,
            "notice" => Level::Notice,
            "warning" => Level::Warning,
            "error" => Level::Error,
            "critical" => Level::Critical,
            "alert" => Level::Alert,
            "emergency" => Level::Emergency,
            _ => return None,
        })
    }
}

/// One message of a body. `id` is the JSON text of a string or a number, to be echoed as it is.
#[derive(Debug)]
pub enum Message<'a> {
    Request { id: &'a str, method: Cow<'a, str>, params: Params<'a> },
    Notification { method: Cow<'a, str>, params: Params<'a> },
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

/// The members that any method of the demo reads; what a method does not know is ignored.
/// An absent string is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Params<'a> {
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub uri: Cow<'a, str>,
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub cursor: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    pub meta: Option<Meta<'a>>,
    #[serde(borrow, default)]
    pub protocol_version: Cow<'a, str>,
    #[serde(default)]
    pub capabilities: Option<Capabilities>,
    #[serde(borrow, default)]
    pub request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub level: Cow<'a, str>,
    #[serde(borrow, default, rename = "ref")]
    pub reference: Option<Reference<'a>>,
    #[serde(borrow, default)]
    pub argument: Option<Argument<'a>>,
    #[serde(borrow, default)]
    pub notifications: Option<Filter<'a>>,
    #[serde(borrow, default)]
    pub input_responses: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub request_state: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    pub progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    pub version: Cow<'a, str>,
    #[serde(default, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub capabilities: Option<Capabilities>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    pub log_level: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Capabilities {
    #[serde(default)]
    elicitation: Option<Elicitation>,
}

#[derive(Debug, Default, Deserialize)]
struct Elicitation {
    #[serde(default)]
    form: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    url: Option<serde::de::IgnoredAny>,
}

impl Capabilities {
    /// An empty `elicitation` object means form mode (elicitation page, "Capabilities").
    pub fn elicits_by_form(&self) -> bool {
        self.elicitation.as_ref().is_some_and(|modes| modes.form.is_some() || modes.url.is_none())
    }
}

#[derive(Debug, Deserialize)]
pub struct Reference<'a> {
    #[serde(borrow, default, rename = "type")]
    pub kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub uri: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub struct Argument<'a> {
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub value: Cow<'a, str>,
}

/// What a `subscriptions/listen` asks for. The demo's lists never change, so only URIs matter.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter<'a> {
    #[serde(borrow, default)]
    pub resource_subscriptions: Vec<Cow<'a, str>>,
}

/// Reads one message. A duplicate of a known member is refused, as a proxy before us could have
/// looked at the other one.
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
    let params = match envelope.params {
        None => Params::default(),
        // serde would also fill a struct from an array, by position.
        Some(raw) if !raw.get().starts_with('{') => return Err(invalid("Invalid request: params must be an object")),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| Malformed {
            code: -32602,
            reason: "Invalid params: a member has the wrong type or occurs twice",
            id,
        })?,
    };
    Ok(match id {
        Some(id) => Message::Request { id, method: envelope.method, params },
        None => Message::Notification { method: envelope.method, params },
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
        assert_eq!((&*method, &*params.name), ("tools/call", "echo"));
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
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":5}}"#), Some((-32602, Some("1"))));
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":1,"method":"m","method":"n"}"#), Some((-32600, None)));
    }

    #[test]
    fn an_empty_elicitation_capability_means_forms() {
        let forms = |text| serde_json::from_str::<Capabilities>(text).expect("valid").elicits_by_form();
        assert!(forms(r#"{"elicitation":{}}"#));
        assert!(forms(r#"{"elicitation":{"form":{},"url":{}}}"#));
        assert!(!forms(r#"{"elicitation":{"url":{}}}"#));
        assert!(!forms("{}"));
    }
}
