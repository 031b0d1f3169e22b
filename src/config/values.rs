//! The kinds of options: what each takes, and its value once read.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::document::{self, Node, Tree};
use super::errors::did_you_mean;
use super::items;
use super::schema::Key;

/// What may be written for an option.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Text,
    /// Text that is never shown.
    Secret,
    /// A name in metrics and logs.
    Label,
    Path,
    /// `http://` or `https://`.
    Url,
    /// The path of a request.
    Route,
    Address,
    Bool,
    /// A whole number from, to.
    Count(u64, u64),
    /// From 0 to 1.
    Ratio,
    /// Longer than nothing.
    Duration,
    DurationOrZero,
    /// `none`: no limit.
    DurationOrNone,
    /// Bytes from, to.
    Size(u64, u64),
    /// `none`: no limit.
    SizeOrNone,
    Choice(&'static [&'static str]),
    List(Item),
    /// A table of texts.
    Attributes,
    /// Tables with these keys.
    Tables(&'static [Key]),
}

/// What a list holds.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    Text,
    Host,
    Origin,
    Range,
    Route,
    Scope,
    Choice(&'static [&'static str]),
}

/// What an option was set to.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Bool(bool),
    Count(u64),
    Ratio(f64),
    /// `None`: no limit.
    Duration(Option<Duration>),
    /// Bytes; `None`: no limit.
    Size(Option<u64>),
    Address(SocketAddr),
    List(Vec<String>),
    Attributes(Vec<(String, String)>),
}

/// Why a value was not taken, and where in it.
#[derive(Clone, Debug)]
pub struct Wrong {
    pub message: String,
    pub hint: String,
    pub span: Range<usize>,
}

/// Algorithms that a key of the issuer can verify; none of them works with a shared or an absent key.
pub const ALGORITHMS: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

impl Kind {
    pub fn describe(self) -> String {
        let text = match self {
            Kind::Text | Kind::Label => "text",
            Kind::Secret => "secret",
            Kind::Path => "path",
            Kind::Url => "URL",
            Kind::Route => "path of a request",
            Kind::Address => "address:port",
            Kind::Bool => "true or false",
            Kind::Count(..) => "number",
            Kind::Ratio => "number from 0 to 1",
            Kind::Duration | Kind::DurationOrZero => "time",
            Kind::DurationOrNone => "time or `none`",
            Kind::Size(..) => "size",
            Kind::SizeOrNone => "size or `none`",
            Kind::Choice(choices) => return quoted(choices),
            Kind::List(Item::Choice(choices)) => return format!("list of {}", quoted(choices)),
            Kind::List(Item::Text) => "list of texts",
            Kind::List(Item::Host) => "list of host names",
            Kind::List(Item::Origin) => "list of origins",
            Kind::List(Item::Range) => "list of address ranges",
            Kind::List(Item::Route) => "list of paths",
            Kind::List(Item::Scope) => "list of scopes",
            Kind::Attributes => "table of texts",
            Kind::Tables(_) => "list of tables",
        };
        text.to_owned()
    }

    /// As an error asks for it.
    fn expected(self) -> String {
        match self {
            Kind::Text | Kind::Label | Kind::Secret => "expected text".into(),
            Kind::Bool => "expected true or false".into(),
            Kind::Choice(choices) => format!("expected one of {}", quoted(choices)),
            Kind::Address => "expected an address with its port such as \"127.0.0.1:8080\"".into(),
            _ => format!("expected a {}", self.describe()),
        }
    }

    /// The value that `node` spells.
    ///
    /// # Errors
    /// What was expected in its place.
    pub fn read(self, node: &Node) -> Result<Value, Wrong> {
        let wrong = |message: String| Wrong { message, hint: String::new(), span: node.span.clone() };
        match self {
            Kind::List(item) => return list(item, node),
            Kind::Attributes => return attributes(node),
            Kind::Tables(_) => return Err(wrong("expected tables, which only a file can hold".into())),
            _ => {}
        }
        let text = match (&node.tree, self) {
            (Tree::Bool(value), Kind::Bool) => return Ok(Value::Bool(*value)),
            (Tree::Loose(text), _) => text.as_str(),
            (Tree::Text(text), _) if self.is_text() => text.as_str(),
            (Tree::Number(number), _) if self.is_number() => number.as_str(),
            // A version such as 1.3 is easily written without quotes.
            (Tree::Number(number), Kind::Choice(choices)) if choices.contains(&number.as_str()) => number.as_str(),
            _ => return Err(wrong(format!("{}, found {}", self.expected(), node.type_name()))),
        };
        if text.is_empty() {
            return Err(wrong(format!("{}, found nothing", self.expected())));
        }
        match (self, self.value(text)) {
            (Kind::Choice(choices), Err(message)) => {
                Err(Wrong { hint: did_you_mean(text, choices.iter().copied()), ..wrong(message) })
            }
            (_, value) => value.map_err(wrong),
        }
    }

    fn value(self, text: &str) -> Result<Value, String> {
        Ok(match self {
            Kind::Bool => Value::Bool(items::boolean(text)?),
            Kind::Count(min, max) => Value::Count(items::count(text, min, max)?),
            Kind::Ratio => Value::Ratio(items::ratio(text)?),
            Kind::DurationOrNone if text == "none" => Value::Duration(None),
            Kind::Duration | Kind::DurationOrNone => Value::Duration(Some(items::duration(text, false)?)),
            Kind::DurationOrZero => Value::Duration(Some(items::duration(text, true)?)),
            Kind::SizeOrNone if text == "none" => Value::Size(None),
            Kind::SizeOrNone => Value::Size(Some(items::size(text, 0, u64::MAX)?)),
            Kind::Size(min, max) => Value::Size(Some(items::size(text, min, max)?)),
            Kind::Address => Value::Address(items::address(text)?),
            Kind::Choice(choices) if !choices.contains(&text) => return Err(self.expected()),
            _ => {
                match self {
                    Kind::Url => drop(items::url(text)?),
                    Kind::Route => items::route(text)?,
                    Kind::Label => items::label(text)?,
                    Kind::Path if text.contains('\0') => return Err("expected a path, found a NUL".into()),
                    _ => {}
                }
                Value::Text(text.to_owned())
            }
        })
    }

    /// Whether quotes are right in a file. Times and sizes are both: 30 and "30s".
    fn is_text(self) -> bool {
        !matches!(self, Kind::Bool | Kind::Count(..) | Kind::Ratio)
    }

    fn is_number(self) -> bool {
        matches!(self, Kind::Count(..) | Kind::Ratio | Kind::Size(..) | Kind::SizeOrNone)
            || matches!(self, Kind::Duration | Kind::DurationOrZero | Kind::DurationOrNone)
    }
}

fn quoted(choices: &[&str]) -> String {
    choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ")
}

/// A list; text alone is a list of one. Outside of files items are parted by commas, or written as in TOML.
fn list(item: Item, node: &Node) -> Result<Value, Wrong> {
    let one;
    let nodes: &[Node] = match &node.tree {
        Tree::List(nodes) => nodes,
        Tree::Text(_) => std::slice::from_ref(node),
        Tree::Loose(text) => {
            one = loose_list(text);
            &one
        }
        _ => {
            let message = format!("{}, found {}", Kind::List(item).expected(), node.type_name());
            return Err(Wrong { message, hint: String::new(), span: node.span.clone() });
        }
    };
    let mut texts = Vec::with_capacity(nodes.len());
    for node in nodes {
        let wrong = |message| Wrong { message, hint: String::new(), span: node.span.clone() };
        let (Tree::Text(text) | Tree::Loose(text)) = &node.tree else {
            return Err(wrong(format!("expected text in this list, found {}", node.type_name())));
        };
        texts.push(item.value(text).map_err(wrong)?);
    }
    Ok(Value::List(texts))
}

fn loose_list(text: &str) -> Vec<Node> {
    match as_toml(text, '[') {
        Some(Tree::List(nodes)) => nodes,
        _ => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Node::loose).collect(),
    }
}

fn attributes(node: &Node) -> Result<Value, Wrong> {
    let wrong = |node: &Node, message| Wrong { message, hint: String::new(), span: node.span.clone() };
    let parsed;
    let entries = match &node.tree {
        Tree::Table(entries) => entries,
        Tree::Loose(text) => match as_toml(text, '{') {
            Some(Tree::Table(entries)) => {
                parsed = entries;
                &parsed
            }
            _ => return loose_attributes(text).map_err(|message| wrong(node, message)),
        },
        _ => return Err(wrong(node, format!("expected a table of texts, found {}", node.type_name()))),
    };
    let mut pairs = Vec::with_capacity(entries.len());
    for entry in entries {
        let text = match &entry.node.tree {
            Tree::Text(text) | Tree::Loose(text) | Tree::Number(text) => text.clone(),
            Tree::Bool(value) => value.to_string(),
            _ => return Err(wrong(&entry.node, format!("expected text, found {}", entry.node.type_name()))),
        };
        pairs.push((entry.key.clone(), text));
    }
    Ok(Value::Attributes(pairs))
}

fn loose_attributes(text: &str) -> Result<Value, String> {
    let pair = |item: &str| {
        let (key, value) = item.split_once('=').ok_or_else(|| format!("expected NAME=VALUE, found `{item}`"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(Value::Attributes(items.map(pair).collect::<Result<_, String>>()?))
}

/// `text` as the value it is in TOML, if it begins like one.
fn as_toml(text: &str, first: char) -> Option<Tree> {
    if !text.trim_start().starts_with(first) {
        return None;
    }
    match document::from_toml(&format!("value = {text}")) {
        (Node { tree: Tree::Table(mut entries), .. }, errors) if errors.is_empty() && entries.len() == 1 => {
            entries.pop().map(|entry| entry.node.tree)
        }
        _ => None,
    }
}

impl Item {
    fn value(self, text: &str) -> Result<String, String> {
        match self {
            Item::Host => return items::host(text),
            Item::Origin => return items::origin(text),
            Item::Range => drop(items::cidr(text)?),
            Item::Route => items::route(text).map_err(|expected| format!("`{text}`: {expected}"))?,
            Item::Scope => items::scope(text)?,
            Item::Text if text.is_empty() => return Err("expected text in this list, found nothing".into()),
            Item::Choice(choices) if !choices.contains(&text) => {
                return Err(format!("`{text}` is none of {}", quoted(choices)));
            }
            Item::Text | Item::Choice(_) => {}
        }
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(tree: Tree) -> Node {
        Node { tree, span: 0..0 }
    }

    fn text(text: &str) -> Node {
        node(Tree::Text(text.into()))
    }

    #[test]
    fn kinds_refuse_what_they_are_not() {
        let number = |text: &str| node(Tree::Number(text.into()));
        assert!(Kind::Count(1, 9).read(&number("9")).is_ok());
        assert!(Kind::Count(1, 9).read(&number("0")).is_err());
        assert!(Kind::Count(1, 9).read(&text("9")).is_err());
        assert!(Kind::Count(1, 9).read(&Node::loose("9")).is_ok());
        assert!(Kind::Bool.read(&number("1")).is_err());
        assert!(Kind::Bool.read(&text("true")).is_err());
        assert!(Kind::Bool.read(&Node::loose("TRUE")).is_ok());
        assert!(Kind::Text.read(&number("1")).is_err());
        assert!(Kind::Text.read(&text("")).is_err());
        assert!(Kind::Address.read(&text("8080")).is_err());
        assert!(Kind::Choice(&["1.2", "1.3"]).read(&number("1.3")).is_ok());
        assert!(Kind::List(Item::Text).read(&number("3")).is_err());
        assert!(Kind::Text.read(&node(Tree::Time)).is_err());
    }

    #[test]
    fn choices_suggest_the_nearest() {
        let wrong = Kind::Choice(&["auto", "io_uring", "epoll"]).read(&text("iouring")).unwrap_err();
        assert_eq!(wrong.hint, "did you mean `io_uring`?");
    }

    #[test]
    fn none_is_no_limit() {
        assert_eq!(Kind::SizeOrNone.read(&text("none")).unwrap(), Value::Size(None));
        assert_eq!(Kind::SizeOrNone.read(&text("1KiB")).unwrap(), Value::Size(Some(1024)));
        assert_eq!(Kind::DurationOrNone.read(&text("none")).unwrap(), Value::Duration(None));
        assert!(Kind::Duration.read(&text("none")).is_err());
    }

    #[test]
    fn lists_are_written_by_commas_or_as_in_toml() {
        let read = |node: &Node| Kind::List(Item::Text).read(node).map_err(|wrong| wrong.message);
        let both = Ok(Value::List(vec!["a".into(), "b".into()]));
        assert_eq!(read(&Node::loose("a, b,")), both);
        assert_eq!(read(&Node::loose("[\"a\", \"b\"]")), both);
        assert_eq!(read(&text("a,b")), Ok(Value::List(vec!["a,b".into()])));
        assert_eq!(read(&Node::loose("")), Ok(Value::List(vec![])));
    }

    #[test]
    fn attributes_are_written_as_pairs_or_as_in_toml() {
        let read = |text| Kind::Attributes.read(&Node::loose(text)).map_err(|wrong| wrong.message);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(read("a=1, b=x=y"), Ok(Value::Attributes(vec![pair("a", "1"), pair("b", "x=y")])));
        assert_eq!(read("{ a = \"1\" }"), Ok(Value::Attributes(vec![pair("a", "1")])));
        assert!(read("a").is_err());
    }
}
