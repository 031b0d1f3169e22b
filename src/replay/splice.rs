//! Messages of then with the ids and tokens of now; every other byte is as it was recorded.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The members of a message that a replay looks at, borrowed from its text.
#[derive(Debug, Default, Deserialize)]
pub struct Message<'a> {
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub method: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "requestId")]
    request_id: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
}

/// What a request was called then, and is called now; JSON texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    pub recorded_id: Option<&'a str>,
    pub id: Option<&'a str>,
    pub recorded_token: Option<&'a str>,
    pub token: Option<&'a str>,
}

impl<'a> Message<'a> {
    pub fn parse(text: &'a str) -> Option<Message<'a>> {
        serde_json::from_str(text).ok()
    }

    /// Where a request wants to hear of its progress.
    pub fn progress_token(&self) -> Option<&'a str> {
        meta_of(self.params)?.progress_token.map(RawValue::get)
    }

    /// What a notification of progress is about.
    pub fn progresses(&self) -> Option<&'a str> {
        params_of(self.params)?.progress_token.map(RawValue::get)
    }

    /// What a notification cancels.
    pub fn cancels(&self) -> Option<&'a str> {
        params_of(self.params)?.request_id.map(RawValue::get)
    }

    /// Of 2026-07-28 or later: it says its version itself.
    pub fn is_modern(&self) -> bool {
        meta_of(self.params).is_some_and(|meta| meta.version.is_some())
    }

    /// The text, or `null`, which is no id.
    pub fn id(&self) -> Option<&'a str> {
        self.id.map(RawValue::get).filter(|id| *id != "null")
    }
}

fn params_of<'a>(params: Option<&'a RawValue>) -> Option<Params<'a>> {
    serde_json::from_str(params?.get()).ok()
}

fn meta_of<'a>(params: Option<&'a RawValue>) -> Option<Meta<'a>> {
    serde_json::from_str(params_of(params)?.meta?.get()).ok()
}

/// A message of the server for the request with these names; `None`: it is about progress that nobody asked for.
pub fn rewrite<'n>(text: &str, names: Names<'n>) -> Option<String> {
    let Some(message) = Message::parse(text) else { return Some(text.to_owned()) };
    let mut edits: Vec<(std::ops::Range<usize>, &'n str)> = Vec::new();
    let mut replace = |value: Option<&RawValue>, recorded: Option<&str>, now: Option<&'n str>| {
        if let (Some(value), Some(recorded), Some(now)) = (value, recorded, now)
            && value.get() == recorded
        {
            edits.push((place_of(value.get(), text), now));
        }
    };
    if message.method.is_none() {
        replace(message.id, names.recorded_id, names.id);
    } else if let Some(params) = params_of(message.params) {
        if params.progress_token.is_some_and(|token| Some(token.get()) == names.recorded_token) && names.token.is_none()
        {
            return None;
        }
        replace(params.progress_token, names.recorded_token, names.token);
    }
    let meta = meta_of(message.params).or_else(|| meta_of(message.result));
    replace(meta.and_then(|meta| meta.subscription), names.recorded_id, names.id);
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = text.to_owned();
    for (place, now) in edits {
        text.replace_range(place, now);
    }
    Some(text)
}

/// `part` is borrowed from `text`.
fn place_of(part: &str, text: &str) -> std::ops::Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> =
        Names { recorded_id: Some("7"), id: Some("\"new\""), recorded_token: Some("\"t\""), token: Some("99") };

    #[test]
    fn nothing_but_names_changes() {
        let answer = r#"{ "result":{"x":7, "id":7},"jsonrpc":"2.0", "id" : 7 }"#;
        assert_eq!(rewrite(answer, NAMES).unwrap(), r#"{ "result":{"x":7, "id":7},"jsonrpc":"2.0", "id" : "new" }"#);
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":"t","progress":7}}"#;
        assert_eq!(
            rewrite(progress, NAMES).unwrap(),
            r#"{"method":"notifications/progress","params":{"progressToken":99,"progress":7}}"#
        );
        let heard = r#"{"method":"notifications/x","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#;
        assert!(rewrite(heard, NAMES).unwrap().contains(r#""io.modelcontextprotocol/subscriptionId":"new""#));
        // Requests of the server keep their ids.
        let asks = r#"{"id":7,"method":"roots/list"}"#;
        assert_eq!(rewrite(asks, NAMES).unwrap(), asks);
    }

    #[test]
    fn progress_that_nobody_asked_for_is_not_told() {
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":"t","progress":7}}"#;
        assert_eq!(rewrite(progress, Names { token: None, ..NAMES }), None);
    }
}
