//! YAML, as `--auth-config` takes it. The one place that knows the YAML library, which is young.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::document::{Entry, Node, SyntaxError, Tree};

/// Read YAML of one document. Duplicate keys, more than one document and documents that unfold without end are errors.
///
/// # Errors
/// The first mistake.
pub fn from_yaml(text: &str) -> Result<Node, SyntaxError> {
    match serde_saphyr::from_str::<Spanned<Plain>>(text) {
        Ok(root) => Ok(node(root, text)),
        Err(error) => {
            let span = error.location().map(|place| span(place, text));
            let first = error.without_snippet().to_string();
            let first = first.lines().next().unwrap_or("this is no YAML").trim_start_matches("error: ");
            // The place is told by our own excerpt.
            let message = first.find(" at line ").map_or(first, |at| &first[..at]).to_owned();
            Err(SyntaxError { message, span })
        }
    }
}

/// YAML's own types; keys are text.
enum Plain {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<Plain>>),
    Table(Vec<(Spanned<String>, Spanned<Plain>)>),
}

fn node(value: Spanned<Plain>, text: &str) -> Node {
    let place = span(value.referenced, text);
    let tree = match value.value {
        Plain::Null => Tree::Null,
        Plain::Bool(value) => Tree::Bool(value),
        Plain::Number(number) => Tree::Number(number),
        Plain::Text(text) => Tree::Text(text),
        Plain::List(items) => Tree::List(items.into_iter().map(|item| node(item, text)).collect()),
        Plain::Table(pairs) => {
            let entry = |(key, value): (Spanned<String>, Spanned<Plain>)| Entry {
                key_span: span(key.referenced, text),
                key: key.value,
                node: node(value, text),
            };
            Tree::Table(pairs.into_iter().map(entry).collect())
        }
    };
    Node { tree, span: place }
}

fn span(place: Location, text: &str) -> std::ops::Range<usize> {
    let start = match place.span().byte_offset() {
        Some(offset) => offset as usize,
        None => offset_of(place, text),
    };
    let length = place.span().byte_len().unwrap_or_default() as usize;
    let end = start.saturating_add(length).min(text.len());
    let start = start.min(end);
    // Block values reach to the line after them.
    let trimmed = text.get(start..end).map_or(end - start, |value| value.trim_end().len());
    start..start + trimmed
}

/// By line and column, both from one, where the library gives no offset.
fn offset_of(place: Location, text: &str) -> usize {
    let line = (place.line() as usize).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let column = (place.column() as usize).saturating_sub(1);
    let within = text[start..].char_indices().take_while(|(_, c)| *c != '\n').nth(column);
    within.map_or(start, |(at, _)| start + at)
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plain, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain::Null)
    }

    fn visit_none<E>(self) -> Result<Plain, E> {
        Ok(Plain::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Plain, D::Error> {
        Plain::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Plain, E> {
        Ok(Plain::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Plain, E> {
        Ok(Plain::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Plain, E> {
        Ok(Plain::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Plain, E> {
        Ok(Plain::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Plain, E> {
        Ok(Plain::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Plain, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Plain::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Plain, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = entries.next_entry()? {
            pairs.push(pair);
        }
        Ok(Plain::Table(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<Entry> {
        match from_yaml(text).unwrap().tree {
            Tree::Table(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_keep_their_types_and_places() {
        let text = "# auth\nenabled: true\nleeway: 30\nscopes:\n  - read\n  - \"write\"\nissuer: https://x.example\n";
        let found = entries(text);
        assert!(matches!(found[0].node.tree, Tree::Bool(true)));
        assert!(matches!(&found[1].node.tree, Tree::Number(n) if n == "30"));
        assert!(matches!(&found[2].node.tree, Tree::List(items) if items.len() == 2));
        assert_eq!(&text[found[1].key_span.clone()], "leeway");
        assert_eq!(&text[found[1].node.span.clone()], "30");
        assert_eq!(&text[found[3].node.span.clone()], "https://x.example");
    }

    #[test]
    fn mistakes_have_a_place() {
        let error = from_yaml("é: 1\n  b: 5\n").unwrap_err();
        assert_eq!(error.span.map(|span| span.start), Some("é: 1\n  b".len()), "{}", error.message);
        assert!(!error.message.contains("line"), "{}", error.message);
        assert!(from_yaml("a: 1\na: 2\n").is_err());
        assert!(from_yaml("a: 1\n---\nb: 2\n").is_err());
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "# nothing\n", "---\n"] {
            assert!(matches!(from_yaml(text).map(|node| node.tree), Ok(Tree::Null)), "{text:?}");
        }
    }
}
