//! What makes two requests the same: the method, and the params without what changes from run to run.
//!
//! Left out are `_meta` (progress tokens, trace ids, names of clients), the order of keys, white space, and how a number is
//! spelt. `initialize` is the same whoever asks.

use aws_lc_rs::digest;
use serde_json::Value;

/// What the recorder puts in the place of a secret.
const REDACTED: &str = "[redacted]";
/// Of two params, what is compared for likeness.
const COMPARED_BYTES: usize = 2000;

pub type Key = [u8; 32];

/// Params in the one form that stands for all that are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Params(Value);

impl Params {
    /// Of the text of `params`, if there is any.
    pub fn of(text: Option<&str>) -> Params {
        let mut value = match text {
            None => Value::Null,
            // Deeper than anybody nests it: the text stands for itself.
            Some(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        if let Value::Object(members) = &mut value {
            members.remove("_meta");
            if members.is_empty() {
                value = Value::Null;
            }
        }
        normalize(&mut value);
        Params(value)
    }

    pub fn text(&self) -> String {
        if self.0.is_null() { String::new() } else { self.0.to_string() }
    }

    pub fn value(self) -> Value {
        self.0
    }

    /// Whether these are those of the tape, where the tape may have secrets left out.
    pub fn fit(&self, recorded: &Params) -> bool {
        fits(&self.0, &recorded.0)
    }
}

/// What requests that are the same have in common.
pub fn key(method: &str, params: &Params) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(method.as_bytes());
    if method != "initialize" {
        context.update(b"\n");
        context.update(params.text().as_bytes());
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Of the answer that a client gave: its result or error.
pub fn answer_key(result: Option<&str>, error: Option<&str>) -> Key {
    let method = if result.is_some() { "result" } else { "error" };
    key(method, &Params::of(result.or(error)))
}

/// From 0 to 1.
pub fn likeness(one: &str, other: &str) -> f64 {
    let cut = |text: &str| {
        let mut end = text.len().min(COMPARED_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    };
    strsim::sorensen_dice(&cut(one), &cut(other))
}

/// 1.0 and 1 are one number, as for JavaScript.
fn normalize(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| !number.is_i64() && !number.is_u64())
                && float.fract() == 0.0
                && float.abs() < 9_007_199_254_740_992.0
            {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Object(members) => members.values_mut().for_each(normalize),
        _ => {}
    }
}

fn fits(now: &Value, recorded: &Value) -> bool {
    match (now, recorded) {
        (_, Value::String(text)) if text == REDACTED => true,
        (Value::String(now), Value::String(text)) if text.contains(REDACTED) => {
            let mut parts = text.split(REDACTED);
            let (first, last) = (parts.next().unwrap_or_default(), text.rsplit(REDACTED).next().unwrap_or_default());
            now.len() >= first.len() + last.len() && now.starts_with(first) && now.ends_with(last)
        }
        (Value::Array(now), Value::Array(recorded)) => {
            now.len() == recorded.len() && now.iter().zip(recorded).all(|(now, recorded)| fits(now, recorded))
        }
        (Value::Object(now), Value::Object(recorded)) => {
            now.len() == recorded.len()
                && now.iter().all(|(name, now)| recorded.get(name).is_some_and(|recorded| fits(now, recorded)))
        }
        (now, recorded) => now == recorded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        key("tools/call", &Params::of(Some(one))) == key("tools/call", &Params::of(Some(other)))
    }

    #[test]
    fn the_same_is_the_same_however_it_is_spelt() {
        assert!(same(
            r#"{"name":"a","arguments":{"x":1,"y":2}}"#,
            r#"{ "arguments": {"y":2.0, "x":1}, "name":"\u0061" }"#
        ));
        assert!(same(r#"{"name":"a","_meta":{"progressToken":7}}"#, r#"{"_meta":{"traceparent":"00"},"name":"a"}"#));
        assert!(same(r#"{"_meta":{}}"#, "{}"));
        assert!(!same(r#"{"name":"a"}"#, r#"{"name":"A"}"#));
        assert!(!same(r#"{"x":[1,2]}"#, r#"{"x":[2,1]}"#));
        assert!(!same(r#"{"arguments":{"_meta":1}}"#, r#"{"arguments":{"_meta":2}}"#), "only that of the request");
        assert_eq!(key("tools/list", &Params::of(None)), key("tools/list", &Params::of(Some("{}"))));
        assert_ne!(key("tools/list", &Params::of(None)), key("prompts/list", &Params::of(None)));
    }

    #[test]
    fn any_client_begins_the_same() {
        let of = |text| key("initialize", &Params::of(Some(text)));
        assert_eq!(of(r#"{"clientInfo":{"name":"a"}}"#), of(r#"{"clientInfo":{"name":"b"}}"#));
    }

    #[test]
    fn what_was_redacted_fits_anything() {
        let fit = |now, recorded| Params::of(Some(now)).fit(&Params::of(Some(recorded)));
        assert!(fit(r#"{"a":{"password":"hunter2"},"n":1}"#, r#"{"a":{"password":"[redacted]"},"n":1}"#));
        assert!(fit(r#"{"a":"Bearer abc."}"#, r#"{"a":"Bearer [redacted]."}"#));
        assert!(!fit(r#"{"a":"Basic abc."}"#, r#"{"a":"Bearer [redacted]."}"#));
        assert!(!fit(r#"{"a":{"password":"hunter2"},"n":2}"#, r#"{"a":{"password":"[redacted]"},"n":1}"#));
    }

    #[test]
    fn depth_is_no_way_to_break_it() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(same(&deep, &deep));
    }
}
