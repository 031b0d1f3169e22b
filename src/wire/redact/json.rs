//! Secrets in JSON, found in one pass without a tree: what is not replaced stays as it was.
//!
//! The text may be cut, or no JSON at all: then it is gone through as far as that makes sense.

use std::borrow::Cow;

use super::path::{JsonPath, Member, Places};
use super::{INSTEAD, Rules, text};

/// What is nested deeper is replaced whole.
const DEPTH_MAX: usize = 200;
/// JSON in a text of JSON in a text, and so on.
const TEXTS_MAX: usize = 4;

struct Level {
    is_object: bool,
    /// The place of the value at hand, in a list.
    index: usize,
    /// Its name, in an object.
    key: Option<String>,
    /// All plain values below are secrets.
    is_secret: bool,
    places: Vec<Places>,
}

struct Pass<'t> {
    rules: &'t Rules,
    text: &'t str,
    /// Texts around this one.
    nested: usize,
    out: String,
    /// How much of `text` is in `out`.
    copied: usize,
    levels: Vec<Level>,
}

/// `text` without its secrets; `None`: there are none.
pub fn clean(rules: &Rules, text: &str) -> Option<String> {
    clean_within(rules, text, 0)
}

fn clean_within(rules: &Rules, text: &str, nested: usize) -> Option<String> {
    if rules.paths.is_empty() && !text::may_hold_secrets(rules, text) {
        return None;
    }
    let mut pass = Pass { rules, text, nested, out: String::new(), copied: 0, levels: Vec::new() };
    pass.run();
    if pass.copied == 0 {
        return None;
    }
    pass.out.push_str(&text[pass.copied..]);
    Some(pass.out)
}

impl Pass<'_> {
    fn run(&mut self) {
        let bytes = self.text.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at = match byte {
                b'"' => self.string(at),
                b'{' | b'[' => self.open(at),
                b'}' | b']' => {
                    self.levels.pop();
                    at + 1
                }
                b',' => {
                    if let Some(level) = self.levels.last_mut() {
                        (level.index, level.key) = (level.index + 1, None);
                    }
                    at + 1
                }
                b'-' | b'0'..=b'9' => self.number(at),
                _ => at + 1,
            };
        }
    }

    /// A key or a text, which begins here; what is behind it.
    fn string(&mut self, start: usize) -> usize {
        let end = end_of_string(self.text.as_bytes(), start);
        let whole = self.text[..end].ends_with('"') && end > start + 1;
        let inside = &self.text[start + 1..if whole { end - 1 } else { end }];
        if self.levels.last().is_some_and(|level| level.is_object && level.key.is_none()) {
            let key = unescaped(inside).into_owned();
            if let Some(level) = self.levels.last_mut() {
                level.key = Some(key);
            }
            return end;
        }
        if self.is_secret() {
            // An empty text tells nothing.
            if !inside.is_empty() {
                self.replace(start, end, &format!("\"{INSTEAD}\""));
            }
            return end;
        }
        let decoded = unescaped(inside);
        if let Some(cleaned) = self.clean_text(&decoded) {
            let spelt = serde_json::to_string(&cleaned).unwrap_or_else(|_| format!("\"{INSTEAD}\""));
            self.replace(start, end, if whole { &spelt } else { &spelt[..spelt.len() - 1] });
        }
        end
    }

    fn clean_text(&self, decoded: &str) -> Option<String> {
        let trimmed = decoded.trim_start();
        if trimmed.starts_with(['{', '[']) && self.nested < TEXTS_MAX {
            let rules = Rules { paths: Vec::new(), ..self.rules.clone() };
            let inner = clean_within(&rules, decoded, self.nested + 1);
            let cleaned = inner.as_deref().unwrap_or(decoded);
            if serde_json::from_str::<serde::de::IgnoredAny>(cleaned).is_ok() {
                return inner;
            }
            return match text::clean(self.rules, cleaned) {
                Cow::Owned(cleaned) => Some(cleaned),
                Cow::Borrowed(_) => inner,
            };
        }
        match text::clean(self.rules, decoded) {
            Cow::Owned(cleaned) => Some(cleaned),
            Cow::Borrowed(_) => None,
        }
    }

    fn number(&mut self, start: usize) -> usize {
        let rest = &self.text.as_bytes()[start..];
        let length =
            rest.iter().take_while(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).count();
        if self.is_secret() {
            self.replace(start, start + length, &format!("\"{INSTEAD}\""));
        }
        start + length
    }

    fn open(&mut self, start: usize) -> usize {
        let is_object = self.text.as_bytes()[start] == b'{';
        let places = self.places();
        let is_named = self.rules.paths.iter().zip(&places).any(|(path, &places)| path.ends(places));
        if is_named || self.levels.len() >= DEPTH_MAX {
            let end = end_of_container(self.text.as_bytes(), start);
            self.replace(start, end, &format!("\"{INSTEAD}\""));
            return end;
        }
        // Of a list under a secret's name every item is one; an object there may be a schema.
        let is_secret = !is_object && self.is_secret_by_name();
        self.levels.push(Level { is_object, index: 0, key: None, is_secret, places });
        start + 1
    }

    /// Whether the plain value at hand is a secret.
    fn is_secret(&self) -> bool {
        self.is_secret_by_name() || self.rules.paths.iter().zip(self.places()).any(|(path, places)| path.ends(places))
    }

    fn is_secret_by_name(&self) -> bool {
        self.levels.last().is_some_and(|level| {
            level.is_secret || level.key.as_deref().is_some_and(|key| self.rules.names.is_secret(key))
        })
    }

    /// Where the value at hand stands, for each path.
    fn places(&self) -> Vec<Places> {
        let paths = self.rules.paths.iter();
        match self.levels.last() {
            None => paths.map(|_| JsonPath::START).collect(),
            Some(level) => {
                let member = match &level.key {
                    Some(key) => Member::Name(key),
                    None => Member::Index(level.index),
                };
                paths.zip(&level.places).map(|(path, &places)| path.step(places, member)).collect()
            }
        }
    }

    fn replace(&mut self, start: usize, end: usize, with: &str) {
        self.out.push_str(&self.text[self.copied..start]);
        self.out.push_str(with);
        self.copied = end;
    }
}

/// Behind the closing quote of the string that begins at `start`, or the end of the text.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

fn end_of_container(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// What a string says; with what cannot be decoded it stands for itself.
fn unescaped(inside: &str) -> Cow<'_, str> {
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    serde_json::from_str::<String>(&format!("\"{inside}\"")).map_or(Cow::Borrowed(inside), Cow::Owned)
}
