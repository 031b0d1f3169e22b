//! Tapes for tests, as a recorder would write them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shadowcat::wire::tape::{Frame, Head, Http, Rpc, Server, Side, Transport, VERSION, Why, Writer};

pub struct Making {
    writer: Writer,
    pub bytes: Vec<u8>,
    us: u64,
    exchange: u64,
    seq: u64,
}

impl Making {
    pub fn new(transport: Transport, session: Option<&str>) -> Making {
        let server = match transport {
            Transport::Stdio => Server { command: vec!["server".into(), "--all".into()], upstream: None },
            Transport::Http => Server { command: vec![], upstream: Some("http://127.0.0.1:1".into()) },
        };
        let head = Head {
            version: VERSION,
            id: "0123456789abcdef0123456789abcdef".into(),
            started: "2026-11-25T20:00:00.000000Z".into(),
            software: "shadowcat 0.0.0".into(),
            transport,
            server,
            session: session.map(str::to_owned),
            part: 1,
        };
        let mut bytes = Vec::new();
        let writer = Writer::begin(&head, &mut bytes);
        Making { writer, bytes, us: 0, exchange: 0, seq: 0 }
    }

    pub fn wait(&mut self, us: u64) -> &mut Making {
        self.us += us;
        self
    }

    /// A frame with a message, as `with` goes on to make it; its number.
    pub fn message(&mut self, from: Side, message: &Value, with: impl FnOnce(&mut Frame<'_>)) -> u64 {
        let text = message.to_string();
        let id = message.get("id").map(|id| serde_json::value::to_raw_value(id).unwrap());
        let mut frame = Frame::new(self.us, from);
        frame.hold(text.as_bytes());
        if let Some(method) = message["method"].as_str() {
            let params = &message["params"];
            let name = params["name"].as_str().or_else(|| params["uri"].as_str()).map(Cow::Borrowed);
            frame.rpc = Some(Rpc { method: method.into(), name, id: id.as_deref() });
        }
        frame.error = message.get("error").is_some() || message["result"]["isError"] == true;
        with(&mut frame);
        self.seq = self.writer.frame(frame, &mut self.bytes);
        self.seq
    }

    pub fn client(&mut self, message: &Value) -> u64 {
        self.message(Side::Client, message, |_| {})
    }

    pub fn server(&mut self, message: &Value, answers: Option<u64>) -> u64 {
        self.message(Side::Server, message, |frame| frame.answers = answers)
    }

    /// A request and its answer a millisecond later, over stdio.
    pub fn call(&mut self, id: u64, method: &str, params: Value, result: Value) {
        let asked = self.client(&request(id, method, params));
        self.wait(1000).server(&json!({ "jsonrpc": "2.0", "id": id, "result": result }), Some(asked));
    }

    fn http(&mut self, from: Side, http: Http<'_>, with: impl FnOnce(&mut Frame<'_>)) -> u64 {
        let mut frame = Frame::new(self.us, from);
        (frame.http, frame.exchange, frame.connection) = (Some(http), Some(self.exchange), Some(1));
        with(&mut frame);
        self.seq = self.writer.frame(frame, &mut self.bytes);
        self.seq
    }

    /// A new exchange whose request has this message; frame of the request, and the exchange.
    pub fn post(&mut self, message: &Value) -> (u64, u64) {
        self.post_answering(message, None)
    }

    pub fn post_answering(&mut self, message: &Value, answers: Option<u64>) -> (u64, u64) {
        self.exchange += 1;
        let exchange = self.exchange;
        let headers =
            vec![("host".into(), "127.0.0.1:8080".into()), ("content-type".into(), "application/json".into())];
        let http = Http::Request { method: "POST".into(), target: "/mcp".into(), headers };
        let seq = self.message(Side::Client, message, |frame| {
            (frame.http, frame.exchange, frame.connection) = (Some(http), Some(exchange), Some(1));
            frame.answers = answers;
        });
        (seq, exchange)
    }

    /// A GET or DELETE.
    pub fn ask(&mut self, method: &str, headers: &[(&str, &str)]) -> (u64, u64) {
        self.exchange += 1;
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let http = Http::Request { method: method.into(), target: "/mcp".into(), headers };
        (self.http(Side::Client, http, |_| {}), self.exchange)
    }

    pub fn respond(&mut self, of: (u64, u64), status: u16, headers: &[(&str, &str)], message: Option<&Value>) {
        let owned = |text: &str| Cow::Owned(text.to_owned());
        let headers = headers.iter().map(|(name, value)| (owned(name), owned(value))).collect();
        let http = Http::Response { status, headers };
        let fill = |frame: &mut Frame<'_>| {
            (frame.answers, frame.exchange) = (Some(of.0), Some(of.1));
            frame.error |= status >= 400;
        };
        match message {
            None => self.http(Side::Server, http, fill),
            Some(message) => self.message(Side::Server, message, |frame| {
                frame.http = Some(http);
                fill(frame);
            }),
        };
    }

    /// An event on a stream; one that only names a place has no message.
    pub fn event(&mut self, exchange: u64, id: Option<&str>, message: Option<&Value>, answers: Option<u64>) -> u64 {
        let event = message.map(|_| Cow::Borrowed("message"));
        let http = Http::Event { id: id.map(|id| Cow::Owned(id.to_owned())), event, retry: None };
        match message {
            None => self.http(Side::Server, http, |frame| frame.exchange = Some(exchange)),
            Some(message) => self.message(Side::Server, message, |frame| {
                (frame.http, frame.exchange, frame.answers) = (Some(http), Some(exchange), answers);
            }),
        }
    }

    pub fn end(&mut self, exchange: u64, how: &str) {
        let http = Http::End { how: how.into() };
        self.http(Side::Proxy, http, |frame| frame.exchange = Some(exchange));
    }

    pub fn checkpoint(&mut self) {
        self.writer.checkpoint(&mut self.bytes);
    }

    /// The whole tape as a file.
    pub fn write(mut self, directory: &Path, name: &str) -> PathBuf {
        self.writer.checkpoint(&mut self.bytes);
        self.writer.end(Why::Finished, &mut self.bytes);
        let path = directory.join(name);
        std::fs::write(&path, &self.bytes).unwrap();
        path
    }
}

pub fn request(id: u64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

pub fn notice(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

pub fn initialize(id: u64) -> Value {
    let client = json!({ "name": "test", "version": "1" });
    request(id, "initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client }))
}

pub fn initialized(id: u64) -> Value {
    let server = json!({ "name": "recorded", "version": "7" });
    let result = json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": server });
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

pub fn echo(text: &str) -> Value {
    json!({ "name": "echo", "arguments": { "text": text } })
}

pub fn says(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

/// Over stdio: a handshake, two calls that are the same with different answers, one with progress, one that asks the client, one
/// that fails.
pub fn stdio() -> Making {
    let mut tape = Making::new(Transport::Stdio, None);
    let asked = tape.client(&initialize(0));
    tape.wait(5000).server(&initialized(0), Some(asked));
    tape.client(&notice("notifications/initialized", json!({})));
    tape.wait(300).server(&notice("notifications/tools/list_changed", json!({})), None);
    tape.call(1, "tools/call", echo("hello"), says("first"));
    tape.call(2, "tools/call", echo("hello"), says("second"));
    let slow = json!({ "name": "slow", "arguments": {}, "_meta": { "progressToken": "then" } });
    let asked = tape.client(&request(3, "tools/call", slow));
    for step in 1..=3 {
        tape.wait(20_000)
            .server(&notice("notifications/progress", json!({ "progressToken": "then", "progress": step })), None);
    }
    tape.wait(20_000).server(&json!({ "jsonrpc": "2.0", "id": 3, "result": says("slow") }), Some(asked));
    let asked = tape.client(&request(4, "tools/call", json!({ "name": "ask", "arguments": {} })));
    let elicits = tape.wait(100).server(&request(70, "elicitation/create", json!({ "message": "who?" })), None);
    let answer = json!({ "jsonrpc": "2.0", "id": 70, "result": { "action": "accept", "content": { "name": "Ada" } } });
    tape.wait(9000).message(Side::Client, &answer, |frame| frame.answers = Some(elicits));
    tape.wait(100).server(&json!({ "jsonrpc": "2.0", "id": 4, "result": says("Ada") }), Some(asked));
    let asked = tape.client(&request(5, "tools/call", json!({ "name": "nowhere" })));
    let error = json!({ "code": -32602, "message": "Unknown tool: nowhere" });
    tape.wait(100).server(&json!({ "jsonrpc": "2.0", "id": 5, "error": error }), Some(asked));
    tape
}

pub const STREAM: (&str, &str) = ("content-type", "text/event-stream");
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// Over HTTP with a session: JSON, streams with event ids, one that the server closed before the answer, the stream of a GET, and a
/// request of the server's.
pub fn http() -> Making {
    let mut tape = Making::new(Transport::Http, Some("sha256:0123456789abcdef"));
    let of = tape.post(&initialize(0));
    tape.wait(1000).respond(of, 200, &[JSON, ("mcp-session-id", "sha256:0123456789abcdef")], Some(&initialized(0)));
    tape.end(of.1, "complete");
    let of = tape.post(&notice("notifications/initialized", json!({})));
    tape.respond(of, 202, &[], None);
    tape.end(of.1, "complete");
    let get = tape.ask("GET", &[("accept", "text/event-stream")]);
    tape.respond(get, 200, &[STREAM], None);
    tape.event(get.1, Some("g0"), None, None);

    let of = tape.post(&request(1, "tools/call", echo("json")));
    tape.wait(2000).respond(of, 200, &[JSON], Some(&json!({ "jsonrpc": "2.0", "id": 1, "result": says("json") })));
    tape.end(of.1, "complete");
    tape.wait(500).event(
        get.1,
        Some("g1"),
        Some(&notice("notifications/resources/updated", json!({ "uri": "a://b" }))),
        None,
    );

    let of = tape.post(&request(2, "tools/call", echo("stream")));
    tape.respond(of, 200, &[STREAM], None);
    tape.event(of.1, Some("s0"), None, None);
    tape.wait(100).event(of.1, Some("s1"), Some(&notice("notifications/message", json!({ "data": 1 }))), None);
    tape.wait(100).event(
        of.1,
        Some("s2"),
        Some(&json!({ "jsonrpc": "2.0", "id": 2, "result": says("stream") })),
        Some(of.0),
    );
    tape.end(of.1, "complete");

    // Closed by the server, and resumed by the client.
    let of = tape.post(&request(3, "tools/call", echo("resumed")));
    tape.respond(of, 200, &[STREAM], None);
    tape.event(of.1, Some("r0"), None, None);
    tape.wait(100).event(of.1, Some("r1"), Some(&notice("notifications/message", json!({ "data": 2 }))), None);
    tape.end(of.1, "complete");
    let again = tape.wait(1000).ask("GET", &[("accept", "text/event-stream"), ("last-event-id", "r1")]);
    tape.respond(again, 200, &[STREAM], None);
    tape.wait(100).event(
        again.1,
        Some("r2"),
        Some(&json!({ "jsonrpc": "2.0", "id": 3, "result": says("resumed") })),
        Some(of.0),
    );
    tape.end(again.1, "complete");

    let of = tape.post(&request(4, "tools/call", json!({ "name": "ask", "arguments": {} })));
    tape.respond(of, 200, &[STREAM], None);
    let elicits =
        tape.event(of.1, Some("a1"), Some(&request(70, "elicitation/create", json!({ "message": "who?" }))), None);
    let answer = json!({ "jsonrpc": "2.0", "id": 70, "result": { "action": "accept" } });
    let posted = tape.wait(100).post_answering(&answer, Some(elicits));
    tape.respond(posted, 202, &[], None);
    tape.end(posted.1, "complete");
    tape.event(of.1, Some("a2"), Some(&json!({ "jsonrpc": "2.0", "id": 4, "result": says("asked") })), Some(of.0));
    tape.end(of.1, "complete");

    let of = tape.post(&request(5, "tools/call", json!({ "name": "nowhere" })));
    let error = json!({ "jsonrpc": "2.0", "id": 5, "error": { "code": -32602, "message": "no '; such\ntool" } });
    tape.respond(of, 400, &[JSON], Some(&error));
    tape.end(of.1, "complete");
    tape.end(get.1, "cut: the client left");
    let of = tape.ask("DELETE", &[]);
    tape.respond(of, 200, &[], None);
    tape.end(of.1, "complete");
    tape
}
