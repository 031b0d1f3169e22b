//! MCP over those: requests, and a small server with sessions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Answer, Client, Upstream};

/// A POST of a JSON body to /mcp; `fields` are whole lines.
pub fn post(fields: &str, body: &str) -> Vec<u8> {
    post_to("/mcp", fields, body)
}

pub fn post_to(path: &str, fields: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub fn get(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").into_bytes()
}

pub const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

pub fn session_field(id: &str) -> String {
    format!("Mcp-Session-Id: {id}\r\n")
}

/// A small legacy MCP server: issues sessions `NAME-1`, `NAME-2`, ..., knows its own, and says who it is.
pub fn session_server(name: &'static str) -> Upstream {
    session_server_at("127.0.0.1:0", name, Arc::default())
}

pub type Known = Arc<Mutex<BTreeMap<String, usize>>>;

/// The same at an address, with sessions that outlive it.
pub fn session_server_at(address: &str, name: &'static str, known: Known) -> Upstream {
    Upstream::at(address, move |conversation| {
        while let Some(request) = conversation.request() {
            let id = request.field("mcp-session-id");
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let mut known = known.lock().unwrap();
            match id {
                None if body.contains("\"initialize\"") => {
                    let id = format!("{name}-{}", known.len() + 1);
                    known.insert(id.clone(), 0);
                    let result = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25"}}"#;
                    let fields = format!("Content-Type: application/json\r\nMcp-Session-Id: {id}\r\n");
                    conversation.answer(200, &fields, result);
                }
                None => conversation.answer(400, "", "no session"),
                Some(id) if !known.contains_key(&id) => conversation.answer(404, "", "unknown to upstream"),
                Some(id) if request.method() == "DELETE" => {
                    known.remove(&id);
                    conversation.tell(&format!("deleted {id}"));
                    conversation.answer(200, "", "");
                }
                Some(id) if request.method() == "GET" => {
                    conversation.begin_events(&format!("Mcp-Session-Id: {id}\r\n"));
                    let last = request.field("last-event-id").unwrap_or_default();
                    conversation.chunked(&format!("data: {id} after {last}\n\n"));
                    drop(known);
                    conversation.wait_for_close();
                    conversation.tell(&format!("stream of {id} closed"));
                    return;
                }
                Some(id) => {
                    let count = known.get_mut(&id).unwrap();
                    *count += 1;
                    let text = format!("{id} {count}");
                    let fields = format!("Content-Type: application/json\r\nMcp-Session-Id: {id}\r\n");
                    drop(known);
                    conversation.answer(200, &fields, &format!(r#"{{"jsonrpc":"2.0","id":2,"result":"{text}"}}"#));
                }
            }
        }
    })
}

/// Begin a session through the proxy; its id.
pub fn begin_session(client: &mut Client) -> String {
    let answer = client.exchange(&post("", INITIALIZE));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.field("mcp-session-id").expect("a session id")
}

/// One call in a session: what upstream says.
pub fn call(client: &mut Client, id: &str) -> Answer {
    client.exchange(&post(&session_field(id), r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#))
}
