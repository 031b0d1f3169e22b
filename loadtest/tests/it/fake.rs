//! A server that answers what a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

pub struct Request {
    pub verb: String,
    /// As sent.
    pub head: String,
    pub body: Value,
    /// How many of this method came before, on all connections.
    pub number: usize,
}

impl Request {
    pub fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

type Answer = dyn Fn(&Request) -> String + Send + Sync;

/// Serves for as long as the process runs.
pub struct Fake {
    pub url: String,
}

impl Fake {
    /// `calls`: the whole answer to a `tools/call`; empty ends the connection. Whatever else a client needs is answered.
    pub fn start(calls: impl Fn(&Request) -> String + Send + Sync + 'static) -> Fake {
        Fake::raw(move |request| match (request.verb.as_str(), request.method()) {
            ("POST", "initialize") => {
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "f", "version": "1"}});
                let session = format!("Mcp-Session-Id: s-{}\r\n", request.number);
                answer(200, &session, &json!({"jsonrpc": "2.0", "id": request.body["id"], "result": result}))
            }
            ("POST", "tools/call") => calls(request),
            ("POST", _) => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        })
    }

    pub fn raw(answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        let (answer, counts): (Arc<Answer>, Arc<[AtomicUsize; 3]>) = (Arc::new(answer), Arc::default());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, counts) = (answer.clone(), counts.clone());
                thread::spawn(move || drop(serve(stream, &*answer, &counts)));
            }
        });
        Fake { url }
    }
}

fn serve(stream: TcpStream, answer: &Answer, counts: &[AtomicUsize; 3]) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let mut request =
            Request { verb: head.split(' ').next().unwrap_or_default().into(), head, body: Value::Null, number: 0 };
        let length = request.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        request.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let kind = match request.method() {
            "initialize" => 0,
            "tools/call" => 1,
            _ => 2,
        };
        request.number = counts[kind].fetch_add(1, Ordering::Relaxed);
        let answer = answer(&request);
        if answer.is_empty() {
            return Ok(());
        }
        writer.write_all(answer.as_bytes())?;
    }
}

/// An answer of JSON; `fields` are whole lines.
pub fn answer(status: u16, fields: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The right answer to a call.
pub fn result(request: &Request, text: &str) -> String {
    let result = json!({"content": [{"type": "text", "text": text}]});
    answer(200, "", &json!({"jsonrpc": "2.0", "id": request.body["id"], "result": result}))
}
