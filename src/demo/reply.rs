//! Writing JSON-RPC answers into a buffer that the connection owns: no tree, no allocation.

use super::message::MODERN_VERSION;

/// The `Implementation` object that the demo names itself with.
macro_rules! server_info {
    () => {
        concat!(
            r#"{"name":"shadowcat-demo","title":"Shadowcat demo server","version":""#,
            env!("CARGO_PKG_VERSION"),
            r#""}"#
        )
    };
}
pub const SERVER_INFO: &str = server_info!();

/// Member of every result of the modern era (basic page, "Per-response protocol fields").
const MODERN_META: &str = concat!(r#""_meta":{"io.modelcontextprotocol/serverInfo":"#, server_info!(), "}");

/// How long a client may keep a list or a text, in milliseconds (caching page).
const TTL_MS: &str = "60000";

/// What a result carries besides its own members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Legacy,
    Modern,
}

/// Whether clients may keep the result (modern era only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Not one of the cacheable methods.
    None,
    Public,
    /// A cacheable method whose content may change at any time.
    Stale,
}

/// Writes the answer to request `id`; `members` writes `"key":value,...`, at least one in the modern era.
pub fn result(out: &mut Vec<u8>, id: &str, style: Style, caching: Caching, members: impl FnOnce(&mut Vec<u8>)) {
    open(out, id);
    text(out, r#""result":{"#);
    if style == Style::Modern {
        text(out, r#""resultType":"complete","#);
        text(out, MODERN_META);
        match caching {
            Caching::None => {}
            Caching::Public => {
                text(out, r#","cacheScope":"public","ttlMs":"#);
                text(out, TTL_MS);
            }
            Caching::Stale => text(out, r#","cacheScope":"public","ttlMs":0"#),
        }
        out.push(b',');
    }
    members(out);
    text(out, "}}");
}

/// The modern era's interim answer: what the client must find out before it asks again (MRTR page).
pub fn input_required(out: &mut Vec<u8>, id: &str, members: impl FnOnce(&mut Vec<u8>)) {
    open(out, id);
    text(out, r#""result":{"resultType":"input_required","#);
    text(out, MODERN_META);
    out.push(b',');
    members(out);
    text(out, "}}");
}

/// Writes an error answer; `id` is `null` where the request's own is unknown.
pub fn error(out: &mut Vec<u8>, id: Option<&str>, code: i32, message: &str) {
    error_with(out, id, code, message, |_| {});
}

/// As [`error`]; `data` writes `,"data":...` or nothing.
pub fn error_with(out: &mut Vec<u8>, id: Option<&str>, code: i32, message: &str, data: impl FnOnce(&mut Vec<u8>)) {
    open(out, id.unwrap_or("null"));
    text(out, r#""error":{"code":"#);
    number(out, i64::from(code));
    text(out, r#","message":"#);
    string(out, message);
    data(out);
    text(out, "}}");
}

/// -32022 with the versions that the client may choose from (versioning page).
pub fn unsupported_version(out: &mut Vec<u8>, id: Option<&str>, requested: &str) {
    error_with(out, id, -32022, "Unsupported protocol version", |out| {
        text(out, r#","data":{"supported":[""#);
        text(out, MODERN_VERSION);
        text(out, r#""],"requested":"#);
        string(out, requested);
        out.push(b'}');
    });
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// A JSON string with its quotes, escaped.
pub fn string(out: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(out, value).expect("writing to a Vec does not fail");
}

pub fn number(out: &mut Vec<u8>, value: i64) {
    serde_json::to_writer(out, &value).expect("writing to a Vec does not fail");
}

fn open(out: &mut Vec<u8>, id: &str) {
    text(out, r#"{"jsonrpc":"2.0","id":"#);
    text(out, id);
    out.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_json_in_both_eras() {
        for style in [Style::Legacy, Style::Modern] {
            let mut out = Vec::new();
            result(&mut out, "7", style, Caching::Public, |out| text(out, r#""a":1"#));
            let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!((&value["id"], &value["result"]["a"]), (&7.into(), &1.into()));
            assert_eq!(value["result"]["ttlMs"].is_u64(), style == Style::Modern);
            assert_eq!(value["result"]["resultType"] == "complete", style == Style::Modern);
        }
    }

    #[test]
    fn errors_escape_what_the_client_sent() {
        let mut out = Vec::new();
        unsupported_version(&mut out, Some("\"x\""), "a\"\n");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["error"]["data"]["requested"], "a\"\n");
        assert_eq!(value["error"]["code"], -32022);
    }
}
