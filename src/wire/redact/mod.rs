//! What must not reach a disk, and what stands in its place.
//!
//! By default: values under names that say what they are (`password`, `GITHUB_TOKEN`, `Authorization`), and texts that look
//! like what they are (bearer credentials, JWTs, well-known keys), in JSON at any depth, also in JSON within its texts, in
//! heads, queries, and plain text. More is named by configuration. What is not replaced stays as it was, to the byte.

mod json;
mod names;
mod path;
#[cfg(test)]
mod tests;
mod text;

use std::borrow::Cow;

use regex::Regex;

pub use names::Names;
pub use path::JsonPath;
pub use text::{PATTERN_BYTES_MAX, pattern};

/// What stands in the place of a secret.
pub const INSTEAD: &str = "[redacted]";

/// What counts as a secret.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub names: Names,
    /// Fields of heads, in lower case, besides those whose names say it.
    pub headers: Vec<String>,
    pub paths: Vec<JsonPath>,
    pub patterns: Vec<Regex>,
}

impl Rules {
    /// Text of whatever kind; borrowed if nothing in it is a secret.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let is_json = text.trim_start().starts_with(['{', '[']);
        if !is_json {
            return text::clean(self, text);
        }
        // What follows a JSON text, or the part of one, is no JSON: that is looked at as text once more.
        match json::clean(self, text) {
            Some(cleaned) if serde_json::from_str::<serde::de::IgnoredAny>(&cleaned).is_ok() => Cow::Owned(cleaned),
            Some(cleaned) => Cow::Owned(text::clean(self, &cleaned).into_owned()),
            None if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => Cow::Borrowed(text),
            None => text::clean(self, text),
        }
    }

    /// Bytes of whatever kind. `None`: they hold a secret, and are no text in which it could be replaced.
    pub fn bytes<'t>(&self, bytes: &'t [u8]) -> Option<Cow<'t, [u8]>> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Some(match self.text(text) {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            }),
            Err(_) => {
                let text = String::from_utf8_lossy(bytes);
                (self.text(&text) == text).then_some(Cow::Borrowed(bytes))
            }
        }
    }

    /// The value of a field of a head.
    pub fn field<'t>(&self, name: &str, value: &'t str) -> Cow<'t, str> {
        let named = self.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
        match named || self.names.is_secret(name) {
            true if value.is_empty() => Cow::Borrowed(value),
            true => Cow::Borrowed(INSTEAD),
            false => text::clean(self, value),
        }
    }

    /// The arguments of a command: what is text in one, and what stands behind a flag that says so.
    pub fn arguments(&self, arguments: &[String]) -> Vec<String> {
        let mut out: Vec<String> = Vec::with_capacity(arguments.len());
        for (at, argument) in arguments.iter().enumerate() {
            let flag = at.checked_sub(1).map(|before| arguments[before].trim_start_matches('-'));
            let is_value = flag.is_some_and(|flag| arguments[at - 1].starts_with('-') && self.names.is_secret(flag));
            out.push(match is_value && !argument.starts_with('-') {
                true => INSTEAD.to_owned(),
                false => self.text(argument).into_owned(),
            });
        }
        out
    }
}
