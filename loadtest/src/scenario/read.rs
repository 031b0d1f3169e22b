//! Tables of a scenario file, read key by key. A key that nobody asked for is unknown; every mistake is told with its
//! place, all of them at once.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shadowcat::config::Problem;
use shadowcat::config::errors::{Source, did_you_mean};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file, and what is wrong with it so far.
pub struct File {
    source: Arc<Source>,
    problems: RefCell<Vec<Problem>>,
    surroundings: Surroundings,
}

/// What a scenario may name.
#[derive(Clone, Copy)]
pub struct Surroundings {
    /// Variables that `${NAME}` may name.
    pub variable: fn(&str) -> Option<String>,
    pub file: fn(&str) -> std::io::Result<String>,
}

/// One table of it.
pub struct Table<'t> {
    file: &'t File,
    /// As messages call it.
    name: String,
    entries: &'t DeTable<'t>,
    span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
    /// Something was wrong with it: that a key is missing may be the consequence.
    broken: Cell<bool>,
}

impl File {
    pub fn new(name: &str, text: &str, surroundings: Surroundings) -> File {
        File { source: Arc::new(Source::new(name, text)), problems: RefCell::default(), surroundings }
    }

    pub fn text(&self) -> &str {
        self.source.text()
    }

    pub fn wrong(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        let place = Some((self.source.clone(), span));
        self.problems.borrow_mut().push(Problem { place, ..Problem::new(message).hint(hint) });
    }

    pub fn root<'t>(&'t self, document: &'t Spanned<DeTable<'t>>) -> Table<'t> {
        Table::new(self, "the scenario", document.get_ref(), 0..0)
    }

    /// In the order of the file.
    ///
    /// # Errors
    /// What is wrong, with its places.
    pub fn finish(self) -> Result<(), Vec<Problem>> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.place.as_ref().map_or(0, |(_, span)| span.start));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

impl<'t> Table<'t> {
    fn new(file: &'t File, name: impl Into<String>, entries: &'t DeTable<'t>, span: Range<usize>) -> Table<'t> {
        let name = name.into();
        Table { file, name, entries, span, known: RefCell::default(), broken: Cell::new(false) }
    }

    /// The value of a key, which is a known one from now on.
    fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.borrow_mut().push(key);
        self.entries.get(key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Something is wrong with the value of a key, or with the whole table if that has none.
    pub fn wrong(&self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        let span = self.entries.get(key).map_or_else(|| self.span.clone(), Spanned::span);
        self.broken.set(true);
        self.file.wrong(span, message, hint);
    }

    fn expected(&self, key: &'static str, what: &str) {
        self.wrong(key, format!("`{key}` in {}: expected {what}", self.name), "");
    }

    /// A value out of what it is written as.
    fn read<T>(&self, key: &'static str, what: &str, take: impl Fn(&DeValue<'_>) -> Option<T>) -> Option<T> {
        let taken = take(self.value(key)?.get_ref());
        if taken.is_none() {
            self.expected(key, what);
        }
        taken
    }

    pub fn text(&self, key: &'static str) -> Option<String> {
        self.read(key, "text", |value| value.as_str().map(str::to_owned))
    }

    /// Text with `${NAME}` in it replaced by the variable of that name, which must be set.
    pub fn expanded(&self, key: &'static str) -> Option<String> {
        let text = self.text(key)?;
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, reference)) = rest.split_once("${") {
            let Some((name, after)) = reference.split_once('}') else {
                self.wrong(key, "`${` without its `}`", "");
                return None;
            };
            let Some(value) = (self.file.surroundings.variable)(name) else {
                self.wrong(key, format!("the variable {name} is not set"), format!("export {name}=..."));
                return None;
            };
            out.push_str(before);
            out.push_str(&value);
            rest = after;
        }
        out.push_str(rest);
        Some(out)
    }

    /// The text of another file.
    pub fn open(&self, path: &str) -> std::io::Result<String> {
        (self.file.surroundings.file)(path)
    }

    pub fn flag(&self, key: &'static str) -> Option<bool> {
        self.read(key, "true or false", |value| value.as_bool())
    }

    /// A whole number from `range`.
    pub fn count(&self, key: &'static str, range: Range<u64>) -> Option<u64> {
        let what = format!("a whole number from {} to {}", range.start, range.end);
        self.read(key, &what, |value| {
            let number = value.as_integer()?;
            let number = u64::from_str_radix(number.as_str(), number.radix()).ok()?;
            (range.start..=range.end).contains(&number).then_some(number)
        })
    }

    pub fn number(&self, key: &'static str, range: Range<f64>) -> Option<f64> {
        let what = format!("a number from {} to {}", range.start, range.end);
        self.read(key, &what, |value| number(value).filter(|number| (range.start..=range.end).contains(number)))
    }

    /// At most `most`; `may_be_zero`: nothing is a time as well.
    pub fn time(&self, key: &'static str, may_be_zero: bool, most: Duration) -> Option<Duration> {
        let least = if may_be_zero { "" } else { "more than 0 and " };
        let what = format!("a time such as \"250ms\" or \"30s\", {least}at most {}", humantime::format_duration(most));
        self.read(key, &what, |value| {
            let text = value.as_str().map(str::to_owned).or_else(|| number(value).map(|number| number.to_string()))?;
            shadowcat::config::duration(&text, may_be_zero).ok().filter(|time| *time <= most)
        })
    }

    /// Bytes from `range`.
    pub fn size(&self, key: &'static str, range: Range<u64>) -> Option<u64> {
        let shown = |bytes| bytesize::ByteSize(bytes);
        let what = format!("a size such as 250, \"64KiB\", from {} to {}", shown(range.start), shown(range.end));
        self.read(key, &what, |value| {
            let text = value.as_str().map(str::to_owned).or_else(|| number(value).map(|number| number.to_string()))?;
            let bytes = bytesize::ByteSize::from_str(&text).ok()?.as_u64();
            (range.start..=range.end).contains(&bytes).then_some(bytes)
        })
    }

    pub fn choice(&self, key: &'static str, choices: &[&'static str]) -> Option<&'static str> {
        let text = self.text(key)?;
        let found = choices.iter().find(|choice| **choice == text).copied();
        if found.is_none() {
            let message = format!("`{text}` is no `{key}`: expected one of {}", choices.join(", "));
            self.wrong(key, message, did_you_mean(&text, choices.iter().copied()));
        }
        found
    }

    pub fn texts(&self, key: &'static str) -> Vec<String> {
        let list = self.read(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|one| one.get_ref().as_str().map(str::to_owned)).collect()
        });
        list.unwrap_or_default()
    }

    /// Names and texts.
    pub fn pairs(&self, key: &'static str) -> Vec<(String, String)> {
        let pairs = self.read(key, "a table of texts", |value| {
            let entries = value.as_table()?.iter();
            entries.map(|(name, value)| Some((name.get_ref().to_string(), value.get_ref().as_str()?.into()))).collect()
        });
        pairs.unwrap_or_default()
    }

    /// A table as a JSON object.
    pub fn json(&self, key: &'static str) -> Option<Value> {
        self.read(key, "a table", |value| value.as_table().and_then(object))
    }

    pub fn table(&self, key: &'static str) -> Option<Table<'t>> {
        let value = self.value(key)?;
        match value.get_ref().as_table() {
            Some(entries) => Some(Table::new(self.file, format!("[{key}]"), entries, value.span())),
            None => {
                self.expected(key, "a table");
                None
            }
        }
    }

    pub fn tables(&self, key: &'static str) -> Vec<Table<'t>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let tables = value.get_ref().as_array().and_then(|list| {
            let tables = list.iter().map(|one| {
                let entries = one.get_ref().as_table()?;
                Some(Table::new(self.file, format!("[[{key}]]"), entries, one.span()))
            });
            tables.collect::<Option<Vec<_>>>()
        });
        tables.unwrap_or_else(|| {
            self.expected(key, &format!("tables: [[{key}]]"));
            Vec::new()
        })
    }

    /// Whatever was not asked for is a mistake. False if there was one of any kind.
    pub fn done(&self) -> bool {
        let known = self.known.borrow();
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let written = key.get_ref();
            let hint = match did_you_mean(written, known.iter().copied()) {
                hint if hint.is_empty() => format!("known here: {}", known.join(", ")),
                hint => hint,
            };
            self.file.wrong(key.span(), format!("unknown key `{written}` in {}", self.name), hint);
            self.broken.set(true);
        }
        !self.broken.get()
    }
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64),
        DeValue::Float(number) => number.as_str().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

fn object(table: &DeTable<'_>) -> Option<Value> {
    let entries = table.iter().map(|(key, value)| Some((key.get_ref().to_string(), json(value.get_ref())?)));
    entries.collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
}

/// Dates have no JSON.
fn json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => Value::from(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().ok()?),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect::<Option<Vec<_>>>()?.into(),
        DeValue::Table(entries) => object(entries)?,
    })
}
