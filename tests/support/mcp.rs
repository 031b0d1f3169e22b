//! MCP messages, and a small MCP server whose sessions can be looked at.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::client::{RawClient, Response};
use super::http::{get, post_json, post_with};
use super::proxy::Proxy;
use super::upstream::{Conversation, FakeUpstream, Request};
use super::wait::PATIENCE;

pub const LEGACY: &str = "2025-11-25";
pub const MODERN: &str = "2026-07-28";

/// A legacy `initialize` with this id.
pub fn initialize(id: u64) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"{LEGACY}","capabilities":{{}},"clientInfo":{{"name":"t","version":"1"}}}}}}"#
    )
}

/// A legacy request without parameters.
pub fn request(id: u64, method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#)
}

pub fn call(id: u64, tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#)
}

/// `_meta` of a modern request.
pub const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

/// A modern request whose `params` are `_meta` and these.
pub fn modern(id: u64, method: &str, params: &str) -> String {
    let comma = if params.is_empty() { "" } else { "," };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}{META}}}}}"#)
}

/// The fields that a modern request must carry.
pub fn modern_fields(method: &str, name: Option<&str>) -> String {
    let name = name.map(|name| format!("Mcp-Name: {name}\r\n")).unwrap_or_default();
    format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {method}\r\n{name}")
}

/// A modern `tools/call`, head and body.
pub fn modern_call(id: u64, tool: &str, params: &str) -> Vec<u8> {
    let comma = if params.is_empty() { "" } else { "," };
    let body = modern(id, "tools/call", &format!(r#""name":"{tool}"{comma}{params}"#));
    post_json("/mcp", &modern_fields("tools/call", Some(tool)), &body)
}

/// The fields of a request in a session.
pub fn session_fields(session: &str) -> String {
    format!("MCP-Protocol-Version: {LEGACY}\r\nMcp-Session-Id: {session}\r\n")
}

pub fn in_session(session: &str, body: &str) -> Vec<u8> {
    post_json("/mcp", &session_fields(session), body)
}

pub fn delete(session: &str) -> Vec<u8> {
    post_with("DELETE", "/mcp", &session_fields(session), b"")
}

pub fn listen(session: &str, fields: &str) -> Vec<u8> {
    get("/mcp", &format!("Accept: text/event-stream\r\n{}{fields}", session_fields(session)))
}

/// Begin a session through the proxy: the answer, and the id that the client sees.
pub fn begin_session(proxy: &Proxy) -> (Response, String) {
    let answer = proxy.ask(&post_json("/mcp", "", &initialize(1)));
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.one("mcp-session-id").expect("a session id").to_owned();
    (answer, id)
}

/// Begin a session on a connection that stays.
pub fn begin_session_on(client: &mut RawClient) -> String {
    let answer = client.ask(&post_json("/mcp", "", &initialize(1)));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.one("mcp-session-id").expect("a session id").to_owned()
}

/// A legacy MCP server with sessions. Every answer names the replica and the session as it knows it.
pub struct Replica {
    pub upstream: FakeUpstream,
    sessions: Arc<Mutex<HashSet<String>>>,
    streams: Arc<Mutex<Vec<Sender<Push>>>>,
}

/// What an open stream of a [`Replica`] is told to do.
#[derive(Clone, Debug)]
pub enum Push {
    /// Raw bytes, in a chunk.
    Bytes(Vec<u8>),
    /// End the stream in order.
    End,
}

struct Server {
    name: &'static str,
    next: Mutex<u64>,
    sessions: Arc<Mutex<HashSet<String>>>,
    streams: Arc<Mutex<Vec<Sender<Push>>>>,
}

impl Replica {
    pub fn new(name: &'static str) -> Replica {
        Replica::at("127.0.0.1:0", name)
    }

    pub fn at(address: &str, name: &'static str) -> Replica {
        let sessions: Arc<Mutex<HashSet<String>>> = Arc::default();
        let streams: Arc<Mutex<Vec<Sender<Push>>>> = Arc::default();
        let server = Server { name, next: Mutex::new(1), sessions: sessions.clone(), streams: streams.clone() };
        let upstream = FakeUpstream::at(address, move |conversation| server.serve(conversation));
        Replica { upstream, sessions, streams }
    }

    /// The ids of its live sessions.
    pub fn sessions(&self) -> HashSet<String> {
        self.sessions.lock().expect("sessions").clone()
    }

    pub fn forget_sessions(&self) {
        self.sessions.lock().expect("sessions").clear();
    }

    /// Say something on every open GET stream.
    pub fn push(&self, push: &Push) {
        self.streams.lock().expect("streams").retain(|stream| stream.send(push.clone()).is_ok());
    }
}

impl Server {
    fn serve(&self, conversation: &mut Conversation) {
        while let Some(request) = conversation.request() {
            let session = request.head.one("mcp-session-id").map(str::to_owned);
            let known = session.as_ref().is_some_and(|id| self.sessions.lock().expect("sessions").contains(id));
            match (request.head.method(), session) {
                ("POST", None) if request.json()["method"] == "initialize" => self.initialize(conversation, &request),
                ("POST", None) => self.answer(conversation, &request, ""),
                (_, Some(_)) if !known => {
                    let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"upstream: Session not found"}}"#;
                    conversation.respond_json(404, "", body);
                }
                ("POST", Some(session)) => self.answer(conversation, &request, &session),
                ("DELETE", Some(session)) => {
                    self.sessions.lock().expect("sessions").remove(&session);
                    conversation.tell(format!("ended {session}"));
                    conversation.respond(200, "", "");
                }
                ("GET", Some(session)) => {
                    if !self.stream(conversation, &request, &session) {
                        return;
                    }
                }
                _ => conversation.respond(405, "", ""),
            }
        }
    }

    fn initialize(&self, conversation: &mut Conversation, request: &Request) {
        let session = {
            let mut next = self.next.lock().expect("next");
            *next += 1;
            format!("{}-secret-{}", self.name, *next)
        };
        self.sessions.lock().expect("sessions").insert(session.clone());
        let result = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"{LEGACY}","capabilities":{{}},"serverInfo":{{"name":"{}","version":"1"}}}}}}"#,
            request.json()["id"],
            self.name
        );
        conversation.respond_json(200, &format!("Mcp-Session-Id: {session}\r\n"), &result);
    }

    fn answer(&self, conversation: &mut Conversation, request: &Request, session: &str) {
        let message = request.json();
        if message.get("id").is_none() || message.get("method").is_none() {
            conversation.tell(format!("{} got {}", self.name, request.text()));
            return conversation.respond(202, "", "");
        }
        let result = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"replica":"{}","session":"{session}"}}}}"#,
            message["id"], self.name
        );
        conversation.respond_json(200, "", &result);
    }

    /// A GET stream: greets, then does what it is told. `false`: the connection is over.
    fn stream(&self, conversation: &mut Conversation, request: &Request, session: &str) -> bool {
        let (push, pushed): (_, Receiver<Push>) = channel();
        self.streams.lock().expect("streams").push(push);
        conversation.begin_events("");
        let last = request.head.one("last-event-id").unwrap_or("none");
        conversation.send_chunk(format!("id: {}-1\ndata: {session} after {last}\n\n", self.name).as_bytes());
        while let Ok(push) = pushed.recv_timeout(PATIENCE * 6) {
            match push {
                Push::Bytes(bytes) => {
                    if !conversation.send_chunk(&bytes) {
                        return false;
                    }
                }
                Push::End => {
                    conversation.end_chunks();
                    return true;
                }
            }
        }
        false
    }
}
