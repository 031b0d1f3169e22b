//! `docs/CONFIGURATION.md`, made from the schema.

use std::fmt::Write;

use super::environment::variable_of;
use super::schema::{API_KEY_KEYS, KEYS, Key, RULE_KEYS, SECTIONS, UPSTREAM_KEYS};
use super::unbuilt;
use super::values::Kind;

/// How values are written and which of them wins.
const INTRODUCTION: &str = include_str!("reference.md");

/// The reference as Markdown.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for (feature, by) in unbuilt::list() {
        let _ = writeln!(out, "| {by} | {feature} |");
    }
    for (section, about) in SECTIONS {
        let title = if *section == "upstreams" { "[[upstreams]]".into() } else { format!("[{section}]") };
        let _ = write!(out, "\n## `{title}`\n\n{about}\n");
        if *section == "upstreams" {
            table(&mut out, UPSTREAM_KEYS.iter(), upstream_variable);
            continue;
        }
        table(&mut out, KEYS.iter().filter(|key| key.section == *section), variable);
        if *section == "auth" {
            for (title, keys) in [("[[auth.rules]]", RULE_KEYS), ("[[auth.api_keys]]", API_KEY_KEYS)] {
                let _ = write!(out, "\n### `{title}`\n");
                table(&mut out, keys.iter(), |_| String::new());
            }
        }
    }
    out
}

fn table<'k>(out: &mut String, keys: impl Iterator<Item = &'k Key>, variable: impl Fn(&Key) -> String) {
    out.push_str("\n| key | value | default | variable | |\n|---|---|---|---|---|\n");
    for key in keys {
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        let kind = key.kind.describe();
        let _ = writeln!(out, "| `{}` | {kind} | {default} | {} | {} |", key.name, variable(key), key.about);
    }
}

fn variable(key: &Key) -> String {
    if matches!(key.kind, Kind::Tables(_)) { String::new() } else { format!("`{}`", variable_of(key)) }
}

fn upstream_variable(key: &Key) -> String {
    format!("`SHADOWCAT_UPSTREAMS_<NAME>_{}`", key.name.to_uppercase())
}
