//! The messages that clients send, with what of their parameters the demo reads, borrowed from the request's body.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::origin::message as plain;
pub use crate::origin::message::{MODERN_VERSION, Malformed, Version, batch, is_batch, is_id};

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

/// Reads one message.
pub fn parse(body: &[u8]) -> Result<Message<'_>, Malformed<'_>> {
    Ok(match plain::parse(body)? {
        plain::Message::Request { id, method, params } => {
            Message::Request { id, method, params: read(params, Some(id))? }
        }
        plain::Message::Notification { method, params } => {
            Message::Notification { method, params: read(params, None)? }
        }
        plain::Message::Response { id, result } => Message::Response { id, result },
    })
}

fn read<'a>(params: Option<&'a RawValue>, id: Option<&'a str>) -> Result<Params<'a>, Malformed<'a>> {
    let reason = "Invalid params: a member has the wrong type or occurs twice";
    let read = params.map_or(Ok(Params::default()), |raw| serde_json::from_str(raw.get()));
    read.map_err(|_| Malformed { code: -32602, reason, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_methods_need() {
        let call = br#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"echo","x":1}}"#;
        let Ok(Message::Request { id: "\"a\"", method, params }) = parse(call) else { panic!("no request") };
        assert_eq!((&*method, &*params.name), ("tools/call", "echo"));
        let bad = parse(br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":5}}"#).unwrap_err();
        assert_eq!((bad.code, bad.id), (-32602, Some("1")));
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
