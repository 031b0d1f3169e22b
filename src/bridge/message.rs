//! What of a message matters here, and putting other values in its text: everything else passes as it is written.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What may be wanted of `params`, or of a `result`.
#[derive(Debug, Default)]
pub struct Parts<'a> {
    /// Modern requests say their version.
    pub version: Option<Cow<'a, str>>,
    /// Modern requests say what their client can do.
    pub capabilities: bool,
    pub progress_token: Option<&'a RawValue>,
    pub subscription: Option<&'a RawValue>,
    /// A modern request wants log messages.
    pub logs: bool,
    /// Of the tool, and for it.
    pub name: Option<Cow<'a, str>>,
    pub arguments: Option<&'a RawValue>,
    /// Of `notifications/progress`.
    pub token: Option<&'a RawValue>,
    /// Of `notifications/cancelled`.
    pub request_id: Option<&'a RawValue>,
    /// Of `initialize`, asked for or settled.
    pub protocol_version: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outer<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<Meta<'a>>,
    #[serde(borrow, default)]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    protocol_version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    log_level: Option<&'a RawValue>,
}

impl<'a> Parts<'a> {
    /// `None` if a member that matters occurs twice, or is of another type.
    pub fn of(object: Option<&'a RawValue>) -> Option<Parts<'a>> {
        let Some(object) = object else { return Some(Parts::default()) };
        let outer: Outer<'a> = serde_json::from_str(object.get()).ok()?;
        let meta = outer.meta.unwrap_or_default();
        let text = |raw: &'a RawValue| serde_json::from_str(raw.get()).ok().map(|Text(text)| text);
        Some(Parts {
            version: meta.version.filter(|version| !version.is_empty()),
            capabilities: meta.capabilities.is_some_and(|raw| raw.get().starts_with('{')),
            progress_token: meta.progress_token,
            subscription: meta.subscription,
            logs: meta.log_level.is_some(),
            name: outer.name.and_then(text),
            arguments: outer.arguments,
            token: outer.progress_token,
            request_id: outer.request_id,
            protocol_version: outer.protocol_version.and_then(text),
        })
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The code of an answer that is an error.
pub fn error_code(answer: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        error: Option<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        code: i64,
    }
    serde_json::from_slice::<Answer>(answer).ok()?.error.map(|error| error.code)
}

/// `text` as one line, with its end: outside of strings white space is white space, and inside of them there are no line ends.
pub fn line(text: &str, mut changes: Vec<(&str, String)>) -> Vec<u8> {
    changes.sort_by_key(|(old, _)| place(text, old));
    let mut out = Vec::with_capacity(text.len() + 1 + changes.len() * 24);
    let mut at = 0;
    for (old, new) in changes {
        let start = place(text, old);
        out.extend_from_slice(&text.as_bytes()[at..start]);
        out.extend_from_slice(new.as_bytes());
        at = start + old.len();
    }
    out.extend_from_slice(&text.as_bytes()[at..]);
    out.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    out.push(b'\n');
    out
}

/// Where `part` begins, which was borrowed from `text`.
fn place(text: &str, part: &str) -> usize {
    let start = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
    assert!(start + part.len() <= text.len(), "a part of this text");
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::message::{Message, parse};

    #[test]
    fn values_are_replaced_where_they_stand_and_nowhere_else() {
        let text = "{\"jsonrpc\":\"2.0\",\r\n\"params\":{\"x\":7,\"_meta\":{\"progressToken\":\"7\",\
                    \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}},\n\"id\":7,\"method\":\"m\"}";
        let Ok(Message::Request { id, params, .. }) = parse(text.as_bytes()) else { panic!("a request") };
        let parts = Parts::of(params).unwrap();
        assert_eq!(parts.version.as_deref(), Some("2026-07-28"));
        let line = line(text, vec![(id, "12".into()), (parts.progress_token.unwrap().get(), "12".into())]);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"jsonrpc\":\"2.0\",  \"params\":{\"x\":7,\"_meta\":{\"progressToken\":12,\
             \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}}, \"id\":12,\"method\":\"m\"}\n"
        );
    }

    #[test]
    fn what_occurs_twice_is_not_read() {
        let parts = |text: &'static str| Parts::of(Some(serde_json::from_str(text).unwrap()));
        assert!(parts(r#"{"_meta":{},"_meta":{}}"#).is_none());
        assert!(parts(r#"{"_meta":{"progressToken":1,"progressToken":2}}"#).is_none());
        assert!(parts(r#"{"_meta":5}"#).is_none());
        assert!(parts(r#"{"_meta":null,"a":1,"a":2,"protocolVersion":5}"#).unwrap().protocol_version.is_none());
    }

    #[test]
    fn errors_have_codes() {
        assert_eq!(error_code(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":""}}"#), Some(-32601));
        assert_eq!(error_code(br#"{"jsonrpc":"2.0","id":1,"result":{"error":{"code":1}}}"#), None);
    }
}
