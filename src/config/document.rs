//! A parsed document, whatever language it was written in: values with their places.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One value and the bytes it was read from (0..0 outside of files).
#[derive(Clone, Debug)]
pub struct Node {
    pub tree: Tree,
    pub span: Range<usize>,
}

#[derive(Clone, Debug)]
pub enum Tree {
    Null,
    Bool(bool),
    /// Decimal, as a whole number or a fraction.
    Number(String),
    /// Text that a file says is text.
    Text(String),
    /// Text whose writer had no types at hand (variables, flags, expansions): it may spell any value.
    Loose(String),
    /// A date or time, which no option takes.
    Time,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

impl Node {
    pub fn loose(text: &str) -> Node {
        Node { tree: Tree::Loose(text.to_owned()), span: 0..0 }
    }

    /// What it is called in an error.
    pub fn type_name(&self) -> &'static str {
        match self.tree {
            Tree::Null => "nothing",
            Tree::Bool(_) => "true or false",
            Tree::Number(_) => "a number",
            Tree::Text(_) | Tree::Loose(_) => "text",
            Tree::Time => "a date or time",
            Tree::List(_) => "a list",
            Tree::Table(_) => "a table",
        }
    }
}

/// A mistake in the language itself.
#[derive(Clone, Debug)]
pub struct SyntaxError {
    pub message: String,
    pub span: Option<Range<usize>>,
}

/// Read TOML; with errors, the node is what could be made out in spite of them.
pub fn from_toml(text: &str) -> (Node, Vec<SyntaxError>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let errors = errors
        .into_iter()
        .map(|error| SyntaxError { span: error.span(), message: error.message().to_owned() })
        .collect();
    let span = root.span();
    (Node { tree: table(root.get_ref()), span }, errors)
}

fn table(table: &DeTable<'_>) -> Tree {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        Entry { key: name.to_string(), key_span: key.span(), node: node(value) }
    };
    Tree::Table(table.iter().map(entry).collect())
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let tree = match value.get_ref() {
        DeValue::String(text) => Tree::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Tree::Number(number.to_string()),
            Err(_) => Tree::Number(number.to_string()),
        },
        DeValue::Float(number) => Tree::Number(number.as_str().to_owned()),
        DeValue::Boolean(value) => Tree::Bool(*value),
        DeValue::Datetime(_) => Tree::Time,
        DeValue::Array(items) => Tree::List(items.iter().map(node).collect()),
        DeValue::Table(entries) => table(entries),
    };
    Node { tree, span: value.span() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> String {
        let (root, errors) = from_toml(text);
        assert!(errors.is_empty(), "{errors:?}");
        match root.tree {
            Tree::Table(entries) => match &entries[0].node.tree {
                Tree::Number(number) => number.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_of_every_base_become_decimal() {
        assert_eq!(number("a = 0x10"), "16");
        assert_eq!(number("a = 0b11"), "3");
        assert_eq!(number("a = 1_000"), "1000");
        assert_eq!(number("a = -5"), "-5");
        assert_eq!(number("a = 0.5"), "0.5");
    }

    #[test]
    fn several_syntax_errors_are_found_at_once() {
        let (_, errors) = from_toml("a = \nb = [1\n\n[c\n");
        assert!(errors.len() >= 2, "{errors:?}");
    }
}
