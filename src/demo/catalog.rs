//! What the demo offers besides its tools' behaviour: lists, resources, a prompt, completions.

use std::sync::atomic::{AtomicU64, Ordering};

use super::message::{Argument, Reference};
use super::reply::{string, text};

pub const README: &str = "demo://readme";
/// Changes every second: a steady source of `notifications/resources/updated`.
pub const CLOCK: &str = "demo://clock";
const ITEM_PREFIX: &str = "demo://item/";

/// Items of the template run from 0 to here.
const ITEMS_MAX: u32 = 9_999;
/// Completion values in one answer (completion page).
const COMPLETIONS_MAX: usize = 100;

pub const INSTRUCTIONS: &str = "A server to try MCP clients and proxies on. Tools: echo, add, slow (progress), \
     ask (elicitation), touch (resource updates), whoami (which replica and session answered).";

pub const CAPABILITIES_LEGACY: &str =
    r#"{"completions":{},"logging":{},"prompts":{},"resources":{"subscribe":true},"tools":{}}"#;
/// `logging` has no method in the modern era, but the tools honour the level in `_meta`.
pub const CAPABILITIES_MODERN: &str = CAPABILITIES_LEGACY;

pub const TOOLS: &str = concat!(
    r#""tools":["#,
    r#"{"name":"echo","title":"Echo","description":"Answers with the text it was given.","#,
    r#""inputSchema":{"type":"object","properties":{"text":{"type":"string","description":"What to answer"}},"#,
    r#""required":["text"]},"annotations":{"readOnlyHint":true}},"#,
    r#"{"name":"add","title":"Add","description":"Adds two numbers.","#,
    r#""inputSchema":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]},"#,
    r#""outputSchema":{"type":"object","properties":{"sum":{"type":"number"}},"required":["sum"]},"#,
    r#""annotations":{"readOnlyHint":true}},"#,
    r#"{"name":"slow","title":"Slow","description":"Takes its time, reports progress, and can be cancelled.","#,
    r#""inputSchema":{"type":"object","properties":{"#,
    r#""steps":{"type":"integer","minimum":1,"maximum":100000,"default":5,"description":"How many steps"},"#,
    r#""interval":{"type":"integer","minimum":0,"maximum":60000,"default":200,"description":"Milliseconds a step"}}},"#,
    r#""annotations":{"readOnlyHint":true}},"#,
    r#"{"name":"ask","title":"Ask","description":"Asks the user for a name (elicitation) and greets them.","#,
    r#""inputSchema":{"type":"object","properties":{"question":{"type":"string","default":"What is your name?"}}}},"#,
    r#"{"name":"touch","title":"Touch","description":"Tells subscribers that a resource changed.","#,
    r#""inputSchema":{"type":"object","properties":{"uri":{"type":"string","default":"demo://readme"}}}},"#,
    r#"{"name":"whoami","title":"Who am I","description":"Tells which replica and session answered, and counts the calls.","#,
    r#""inputSchema":{"type":"object","properties":{"#,
    r#""region":{"type":"string","description":"Echoed; travels in a header as well","x-mcp-header":"Region"}}},"#,
    r#""outputSchema":{"type":"object","properties":{"replica":{"type":"string"},"session":{"type":["string","null"]},"#,
    r#""version":{"type":"string"},"calls":{"type":"integer"},"running":{"type":"integer"},"#,
    r#""cancelled":{"type":"integer"},"region":{"type":"string"}},"#,
    r#""required":["replica","session","version","calls","running","cancelled"]},"annotations":{"readOnlyHint":true}}"#,
    "]"
);

pub const RESOURCES: &str = concat!(
    r#""resources":["#,
    r#"{"uri":"demo://readme","name":"readme","title":"Read me","description":"What this server is","mimeType":"text/markdown"},"#,
    r#"{"uri":"demo://clock","name":"clock","title":"Clock","description":"Changes every second","mimeType":"text/plain"}"#,
    "]"
);

pub const TEMPLATES: &str = concat!(
    r#""resourceTemplates":["#,
    r#"{"uriTemplate":"demo://item/{n}","name":"item","title":"Item","description":"Item n, 0 to 9999","mimeType":"text/plain"}"#,
    "]"
);

pub const PROMPTS: &str = concat!(
    r#""prompts":["#,
    r#"{"name":"greet","title":"Greet","description":"Asks for a greeting.","arguments":["#,
    r#"{"name":"name","description":"Whom to greet","required":true},"#,
    r#"{"name":"style","description":"formal, casual or brief","required":false}]}"#,
    "]"
);

const STYLES: [&str; 3] = ["brief", "casual", "formal"];
const NAMES: [&str; 6] = ["Ada", "Alan", "Barbara", "Edsger", "Grace", "Leslie"];

const README_TEXT: &str = "# Shadowcat demo server\n\nSpeaks MCP 2024-11-05 to 2026-07-28 over HTTP.\n\n\
     Try the tools `echo`, `add`, `slow`, `ask`, `touch` and `whoami`, the prompt `greet` and the \
     resource template `demo://item/{n}`.\n";

/// Resources whose content changes; the rest of the catalog is fixed.
#[derive(Debug, Default)]
pub struct Catalog {
    ticks: AtomicU64,
    touches: AtomicU64,
}

impl Catalog {
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn touch(&self) {
        self.touches.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the `contents` member of `resources/read`; false if there is no such resource.
    pub fn read(&self, out: &mut Vec<u8>, uri: &str) -> bool {
        let (kind, content) = match uri {
            README => {
                let touches = self.touches.load(Ordering::Relaxed);
                ("text/markdown", format!("{README_TEXT}\nTouched {touches} times.\n"))
            }
            CLOCK => ("text/plain", format!("{} ticks", self.ticks.load(Ordering::Relaxed))),
            _ => match item(uri) {
                Some(number) => ("text/plain", format!("Item {number}")),
                None => return false,
            },
        };
        text(out, r#""contents":[{"uri":"#);
        string(out, uri);
        text(out, r#","mimeType":"#);
        string(out, kind);
        text(out, r#","text":"#);
        string(out, &content);
        text(out, "}]");
        true
    }
}

pub fn exists(uri: &str) -> bool {
    uri == README || uri == CLOCK || item(uri).is_some()
}

fn item(uri: &str) -> Option<u32> {
    let digits = uri.strip_prefix(ITEM_PREFIX)?;
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|number| canonical && *number <= ITEMS_MAX)
}

/// Writes the members of `prompts/get` for `greet`; says what is wrong with the arguments.
pub fn greet(out: &mut Vec<u8>, name: Option<&str>, style: Option<&str>) -> Result<(), &'static str> {
    let name = name.filter(|name| !name.is_empty()).ok_or("Missing argument: name")?;
    let style = style.unwrap_or("casual");
    if !STYLES.contains(&style) {
        return Err("Unknown style: brief, casual or formal");
    }
    text(out, r#""description":"A greeting","messages":[{"role":"user","content":{"type":"text","text":"#);
    string(out, &format!("Please write a {style} greeting for {name}."));
    text(out, "}}]");
    Ok(())
}

/// Writes the `completion` member; says what is wrong with the reference.
pub fn complete(out: &mut Vec<u8>, reference: &Reference<'_>, argument: &Argument<'_>) -> Result<(), &'static str> {
    match (&*reference.kind, &*argument.name) {
        ("ref/prompt", _) if reference.name != "greet" => return Err("Unknown prompt"),
        ("ref/prompt", "name") => completion(out, NAMES.iter().map(|name| name.to_string()), &argument.value),
        ("ref/prompt", "style") => completion(out, STYLES.iter().map(|style| style.to_string()), &argument.value),
        ("ref/resource", _) if reference.uri != "demo://item/{n}" => return Err("Unknown resource template"),
        ("ref/resource", "n") => completion(out, (0..=ITEMS_MAX).map(|number| number.to_string()), &argument.value),
        ("ref/prompt" | "ref/resource", _) => return Err("Unknown argument"),
        _ => return Err("Unknown reference type"),
    }
    Ok(())
}

fn completion(out: &mut Vec<u8>, values: impl Iterator<Item = String>, typed: &str) {
    let typed = typed.to_ascii_lowercase();
    text(out, r#""completion":{"values":["#);
    let mut total = 0;
    for value in values.filter(|value| value.to_ascii_lowercase().starts_with(&typed)) {
        if total < COMPLETIONS_MAX {
            text(out, if total == 0 { "" } else { "," });
            string(out, &value);
        }
        total += 1;
    }
    text(out, &format!(r#"],"total":{total},"hasMore":{}}}"#, total > COMPLETIONS_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn object(members: &[u8]) -> Value {
        serde_json::from_slice(&[b"{", members, b"}"].concat()).expect("JSON")
    }

    #[test]
    fn the_fixed_lists_are_json() {
        let lists = [TOOLS, RESOURCES, TEMPLATES, PROMPTS].map(|list| object(list.as_bytes()));
        assert_eq!(lists[0]["tools"].as_array().map(Vec::len), Some(6));
        assert!(serde_json::from_str::<Value>(CAPABILITIES_LEGACY).is_ok());
    }

    #[test]
    fn reads_what_exists_and_nothing_else() {
        let catalog = Catalog::default();
        for uri in [README, CLOCK, "demo://item/0", "demo://item/9999"] {
            let mut out = Vec::new();
            assert!(catalog.read(&mut out, uri) && exists(uri), "{uri}");
            assert_eq!(object(&out)["contents"][0]["uri"], uri);
        }
        for uri in ["demo://item/", "demo://item/10000", "demo://item/01", "demo://item/+1", "demo://nothing", ""] {
            assert!(!catalog.read(&mut Vec::new(), uri) && !exists(uri), "{uri}");
        }
    }

    #[test]
    fn completions_are_bounded_and_say_so() {
        let reference = Reference { kind: "ref/resource".into(), name: "".into(), uri: "demo://item/{n}".into() };
        let mut out = Vec::new();
        complete(&mut out, &reference, &Argument { name: "n".into(), value: "1".into() }).expect("known");
        let completion = &object(&out)["completion"];
        assert_eq!(completion["values"].as_array().map(Vec::len), Some(100));
        assert_eq!((&completion["total"], &completion["hasMore"]), (&1111.into(), &true.into()));
    }
}
