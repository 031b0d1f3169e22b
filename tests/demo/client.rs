//! A connection that says what it wants byte by byte, and reads answers and event streams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use super::PATIENCE;

pub const MODERN: &str = "2026-07-28";

pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    /// Of an event stream: what came with the head.
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

#[derive(Debug, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub kind: Option<String>,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the demo listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Client { stream, unread: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the demo reads");
    }

    /// POSTs with the fields given, each as `Name: value\r\n`.
    pub fn post(&mut self, fields: &str, body: &Value) -> Answer {
        self.send(post("/mcp", fields, &body.to_string()));
        self.answer()
    }

    pub fn get(&mut self, path: &str, fields: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{fields}\r\n"));
        self.answer()
    }

    pub fn delete(&mut self, fields: &str) -> Answer {
        self.send(format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        self.answer()
    }

    /// The head of the next answer.
    pub fn head(&mut self) -> Answer {
        let end = self.until(b"\r\n\r\n");
        let head = String::from_utf8(self.take(end)).expect("ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let fields = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.into(), value.into()));
        Answer { status, fields: fields.collect(), body: Vec::new() }
    }

    /// The next answer: whole, or of a stream its head.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if let Some(length) = answer.field("content-length").map(|length| length.parse().expect("a number")) {
            while self.unread.len() < length {
                assert_ne!(self.more(), 0, "the body is cut");
            }
            answer.body = self.take(length);
        }
        answer
    }

    /// The next event of a chunked stream, without comments; `None` behind the last chunk.
    pub fn event(&mut self) -> Option<Event> {
        loop {
            let line = self.until(b"\r\n");
            let size = String::from_utf8(self.take(line)).expect("ASCII");
            let size = usize::from_str_radix(size.trim_end(), 16).expect("a chunk size");
            while self.unread.len() < size + 2 {
                assert_ne!(self.more(), 0, "the chunk is cut");
            }
            let chunk = String::from_utf8(self.take(size + 2)).expect("UTF-8");
            let chunk = chunk.strip_suffix("\r\n").filter(|chunk| !chunk.is_empty())?;
            let (first, rest) = chunk.split_once("\n\n").expect("whole events in a chunk");
            if !rest.is_empty() {
                // Put the rest back as a chunk of its own.
                let again = format!("{:x}\r\n{rest}\r\n", rest.len());
                self.unread.splice(..0, again.into_bytes());
            }
            let of =
                |name: &str| first.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().into());
            if !first.starts_with(':') {
                return Some(Event { id: of("id:"), kind: of("event:"), data: of("data:").unwrap_or_default() });
            }
        }
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.event()).collect()
    }

    fn until(&mut self, mark: &[u8]) -> usize {
        loop {
            if let Some(at) = self.unread.windows(mark.len()).position(|window| window == mark) {
                return at + mark.len();
            }
            assert_ne!(self.more(), 0, "the connection ended: {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    fn more(&mut self) -> usize {
        let mut room = [0; 4096];
        let read = self.stream.read(&mut room).expect("an answer in time");
        self.unread.extend_from_slice(&room[..read]);
        read
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.unread.drain(..bytes).collect()
    }

    /// All that comes until the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() > 0 {}
        std::mem::take(&mut self.unread)
    }

    pub fn is_closed(&mut self) -> bool {
        self.more() == 0
    }
}

/// A POST as bytes; each of `fields` is `Name: value\r\n`.
pub fn post(path: &str, fields: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

pub fn call(id: u64, tool: &str, arguments: Value) -> Value {
    request(id, "tools/call", json!({"name": tool, "arguments": arguments}))
}

pub fn with_progress(mut call: Value, token: &str) -> Value {
    call["params"]["_meta"] = json!({"progressToken": token});
    call
}

/// Opens a session; gives the fields that later requests need.
pub fn open(client: &mut Client, version: &str, capabilities: Value) -> String {
    let params =
        json!({"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}});
    let answer = client.post("", &request(0, "initialize", params));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["result"]["protocolVersion"], version);
    let session = answer.field("mcp-session-id").expect("a session").to_owned();
    format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: {version}\r\n")
}

pub fn modern(client: &mut Client, mut message: Value) -> Answer {
    let fields = modern_fields(&mut message);
    client.post(&fields, &message)
}

/// Adds the `_meta` of the modern era; gives the header fields that mirror the message.
pub fn modern_fields(message: &mut Value) -> String {
    let meta = &mut message["params"]["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = MODERN.into();
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    let mut fields =
        format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {}\r\n", message["method"].as_str().unwrap_or(""));
    for name in ["name", "uri"] {
        if let Some(value) = message["params"][name].as_str() {
            fields += &format!("Mcp-Name: {value}\r\n");
        }
    }
    fields
}
