//! `config show`: what holds, and who said so; secrets stay secret.

use std::fmt::Write;

use super::layers::{Layers, Setting};
use super::schema::{KEYS, SECTIONS, UPSTREAM_KEYS};
use super::values::{Kind, Raw};

/// The configuration as TOML; `origins`: with who said each value.
pub fn show(layers: &Layers, origins: bool) -> String {
    let mut out = String::new();
    for (section, _) in SECTIONS {
        if *section == "upstreams" {
            for upstream in &layers.upstreams {
                let _ = writeln!(out, "[[upstreams]]");
                for key in UPSTREAM_KEYS {
                    line(&mut out, key.name, key.kind, key.default, upstream.settings.get(key.name), origins);
                }
                out.push('\n');
            }
            continue;
        }
        let mut lines = String::new();
        for key in KEYS.iter().filter(|key| key.section == *section) {
            line(&mut lines, key.name, key.kind, key.default, layers.get(&key.path()), origins);
        }
        if layers.settings.keys().any(|path| path.starts_with(&format!("{section}."))) || is_always_shown(section) {
            let _ = write!(out, "[{section}]\n{lines}\n");
        }
    }
    out
}

/// Sections whose defaults hold without being mentioned.
fn is_always_shown(section: &str) -> bool {
    matches!(section, "proxy" | "session" | "limits" | "timeouts" | "performance" | "pool" | "logging")
}

fn line(out: &mut String, name: &str, kind: Kind, default: &str, setting: Option<&Setting>, origins: bool) {
    let (value, origin) = match setting {
        Some(_) if kind == Kind::Secret => ("\"***\"".to_owned(), setting.map(|s| s.origin.to_string())),
        Some(setting) => (literal(kind, &setting.raw), Some(setting.origin.to_string())),
        None if default.is_empty() => return,
        None => (literal(kind, &Raw::Text(default.to_owned())), None),
    };
    let _ = match (origins, origin) {
        (true, Some(origin)) => writeln!(out, "{name} = {value} # {origin}"),
        (true, None) => writeln!(out, "{name} = {value} # default"),
        (false, _) => writeln!(out, "{name} = {value}"),
    };
}

fn literal(kind: Kind, raw: &Raw) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    match kind {
        Kind::Bool | Kind::Count(..) | Kind::Ratio => raw.text(),
        Kind::Duration | Kind::Size if raw.text().parse::<f64>().is_ok() => raw.text(),
        Kind::List => format!("[{}]", raw.list().iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")),
        Kind::Attributes => match raw {
            Raw::Attributes(pairs) => {
                let pairs: Vec<String> =
                    pairs.iter().map(|(key, value)| format!("{} = {}", quoted(key), quoted(value))).collect();
                format!("{{ {} }}", pairs.join(", "))
            }
            _ => "{}".into(),
        },
        Kind::Url => quoted(&without_password(&raw.text())),
        _ => quoted(&raw.text()),
    }
}

fn without_password(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() => {
            let _ = url.set_password(Some("***"));
            url.to_string()
        }
        _ => text.to_owned(),
    }
}
