//! A JSON Schema of the file, made from the same table as the reference: for editors, and for checks without this program.

use serde_json::{Map, Value, json};

use super::schema::{KEYS, Key, SECTIONS, UPSTREAM_KEYS};
use super::values::{Item, Kind};

/// Of a file in TOML, or of the same as JSON.
pub fn json_schema() -> Value {
    let mut sections = Map::new();
    for (section, about) in SECTIONS {
        let schema = match *section {
            "upstreams" => json!({ "type": "array", "items": table(UPSTREAM_KEYS.iter(), about) }),
            _ => table(KEYS.iter().filter(|key| key.section == *section), about),
        };
        sections.insert((*section).to_owned(), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of shadowcat",
        "type": "object",
        "properties": sections,
        "additionalProperties": false,
        "$defs": {
            "expanded": { "type": "string", "pattern": "\\$\\{", "description": "A reference to the environment." },
        },
    })
}

fn table<'k>(keys: impl Iterator<Item = &'k Key>, about: &str) -> Value {
    let properties: Map<String, Value> = keys.map(|key| (key.name.to_owned(), property(key))).collect();
    json!({ "type": "object", "description": about, "properties": properties, "additionalProperties": false })
}

fn property(key: &Key) -> Value {
    let mut schema = kind(key.kind);
    schema["description"] = key.about.into();
    if !key.default.is_empty() {
        schema["default"] = key.default.into();
    }
    schema
}

/// What may be written for it. Everything but tables may also be a reference to the environment.
fn kind(kind: Kind) -> Value {
    let time = json!([{ "type": "number", "minimum": 0 }, { "type": "string", "pattern": "^([0-9.]+$|[0-9])" }]);
    let size = json!([{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]" }]);
    let or = |known: Value, also: Value| {
        let mut all: Vec<Value> = known.as_array().cloned().unwrap_or_default();
        all.push(also);
        Value::Array(all)
    };
    let none = json!({ "const": "none" });
    let any_of = match kind {
        Kind::Text | Kind::Secret | Kind::Label | Kind::Path | Kind::Url | Kind::Route | Kind::Address => {
            return json!({ "type": "string" });
        }
        Kind::Bool => json!([{ "type": "boolean" }]),
        Kind::Count(min, max) => json!([{ "type": "integer", "minimum": min, "maximum": max }]),
        Kind::Ratio => json!([{ "type": "number", "minimum": 0, "maximum": 1 }]),
        Kind::Duration | Kind::DurationOrZero => time,
        Kind::DurationOrNone => or(time, none),
        Kind::Size(..) => size,
        Kind::SizeOrNone => or(size, none),
        // A version such as 1.3 may stand without quotes.
        Kind::Choice(choices) => {
            let numbers: Vec<f64> = choices.iter().filter_map(|choice| choice.parse().ok()).collect();
            let texts = json!([{ "enum": choices }]);
            if numbers.is_empty() { texts } else { or(texts, json!({ "enum": numbers })) }
        }
        Kind::List(item) => json!([{ "type": "array", "items": one(item) }, one(item)]),
        Kind::Attributes => {
            let text = json!({ "type": ["string", "number", "boolean"] });
            return json!({ "type": "object", "additionalProperties": text });
        }
        Kind::Tables(keys) => return json!({ "type": "array", "items": table(keys.iter(), "") }),
    };
    json!({ "anyOf": or(any_of, json!({ "$ref": "#/$defs/expanded" })) })
}

fn one(item: Item) -> Value {
    match item {
        Item::Choice(choices) => json!({ "enum": choices }),
        _ => json!({ "type": "string" }),
    }
}
