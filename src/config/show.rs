//! `config show`: what holds, and who said so; secrets stay secret.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::Loaded;
use super::items::without_userinfo;
use super::layers::{Record, Setting};
use super::plan::StoreKind;
use super::schema::{KEYS, Key, SECTIONS};
use super::sections::is_on;
use super::values::{Kind, Value};

/// The configuration as TOML, which loads again but for its secrets; `origins`: with who said each value.
pub fn show(loaded: &Loaded, origins: bool) -> String {
    let mut page = Page { out: String::new(), origins };
    for (section, _) in SECTIONS {
        if *section == "upstreams" {
            page.tables("upstreams", &loaded.layers.upstreams);
        } else {
            page.section(section, loaded);
        }
    }
    page.out
}

struct Page {
    out: String,
    origins: bool,
}

impl Page {
    fn section(&mut self, section: &str, loaded: &Loaded) {
        let layers = &loaded.layers;
        let has_switch = KEYS.iter().any(|key| key.section == section && key.name == "enabled");
        if has_switch && layers.said_in(section).next().is_none() {
            return;
        }
        let _ = writeln!(self.out, "[{section}]");
        let derived = derived(loaded);
        for key in KEYS.iter().filter(|key| key.section == section) {
            let path = key.path();
            match (layers.get(&path), derived.get(path.as_str())) {
                (None, _) if has_switch && key.name == "enabled" => {
                    self.line(key, &Value::Bool(is_on(layers, section)), "default");
                }
                (None, Some(value)) => self.line(key, value, "default"),
                (setting, _) => self.setting(key, setting),
            }
        }
        self.out.push('\n');
        for (path, tables) in layers.tables.iter().filter(|(path, _)| path.split('.').next() == Some(section)) {
            self.tables(path, tables);
        }
    }

    fn tables(&mut self, path: &str, tables: &[Record]) {
        for table in tables {
            let _ = writeln!(self.out, "[[{path}]]");
            for key in table.keys {
                self.setting(key, table.settings.get(key.name));
            }
            self.out.push('\n');
        }
    }

    fn setting(&mut self, key: &Key, setting: Option<&Setting>) {
        match setting {
            Some(setting) => self.line(key, &setting.value, &setting.origin.to_string()),
            None => {
                if let Some(value) = key.default_value() {
                    self.line(key, &value, "default");
                }
            }
        }
    }

    fn line(&mut self, key: &Key, value: &Value, origin: &str) {
        let literal = literal(key.kind, value);
        let _ = match self.origins {
            // An origin may be a file of any name; a comment ends with its line.
            true => writeln!(self.out, "{} = {literal} # {}", key.name, origin.replace(char::is_control, "?")),
            false => writeln!(self.out, "{} = {literal}", key.name),
        };
    }
}

/// Defaults that depend on the machine or on other settings.
fn derived(loaded: &Loaded) -> BTreeMap<&'static str, Value> {
    let (plan, layers) = (&loaded.plan, &loaded.layers);
    let workers = ["proxy.worker_threads", "performance.worker_threads"];
    let mut values = BTreeMap::new();
    if workers.iter().all(|path| layers.get(path).is_none()) {
        values.insert(workers[0], Value::Count(plan.workers as u64));
    }
    if plan.session.store == StoreKind::Lmdb {
        values.insert("session.database_path", Value::Text(plan.session.path.display().to_string()));
    }
    values
}

fn literal(kind: Kind, value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Text(_) if matches!(kind, Kind::Secret) => quoted("***"),
        Value::Text(text) => quoted(&without_userinfo(text)),
        Value::Bool(value) => value.to_string(),
        Value::Count(number) => number.to_string(),
        Value::Ratio(ratio) => format!("{ratio:?}"),
        Value::Duration(None) | Value::Size(None) => quoted("none"),
        Value::Duration(Some(time)) => duration(*time),
        Value::Size(Some(bytes)) => bytes.to_string(),
        Value::Address(address) => quoted(&address.to_string()),
        Value::List(items) => format!("[{}]", list(items.iter().map(|item| quoted(&without_userinfo(item))).collect())),
        Value::Attributes(pairs) => {
            let pair = |(name, value): &(String, String)| format!("{} = {}", quoted(name), quoted(value));
            format!("{{ {} }}", list(pairs.iter().map(pair).collect()))
        }
    }
}

fn duration(time: Duration) -> String {
    match time.subsec_nanos() {
        0 => time.as_secs().to_string(),
        _ => quoted(&humantime::format_duration(time).to_string()),
    }
}

/// On one line, whatever it holds.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_toml() {
        for text in ["plain", "a\"b\\c", "line\nline\t\u{7f}", "ü"] {
            let table: toml::Table = toml::from_str(&format!("x = {}", quoted(text))).unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
        }
        assert_eq!(duration(Duration::from_millis(1250)), "\"1s 250ms\"");
        assert_eq!(duration(Duration::from_secs(90)), "90");
    }
}
