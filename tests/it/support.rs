//! A proxy process, scripted upstreams, and a client that speaks bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long something that must not happen is waited for.
pub const QUIET: Duration = Duration::from_millis(300);

// --- the proxy -------------------------------------------------------------------------------------------------------

pub struct Builder {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    driver: String,
    wrapper: Vec<String>,
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    pub child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Proxy {
    pub fn builder(driver: &str) -> Builder {
        Builder {
            arguments: Vec::new(),
            environment: Vec::new(),
            driver: driver.to_owned(),
            wrapper: Vec::new(),
        }
    }

    /// One worker more than one, sessions in memory.
    pub fn before(driver: &str, upstreams: &[&Upstream]) -> Builder {
        let mut builder = Proxy::builder(driver).set("session.store", "memory");
        for upstream in upstreams {
            builder = builder.upstream(&format!("http://{}", upstream.address));
        }
        builder
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the proxy to end", || self.child.try_wait().unwrap())
    }

    /// What it said on stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn metrics(&self) -> Metrics {
        let answer = self.connect().exchange(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(answer.status, 200);
        Metrics(String::from_utf8(answer.body).unwrap())
    }

    /// Resident memory, bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the proxy said:\n{}", self.log());
        }
    }
}

impl Builder {
    pub fn argument(mut self, argument: &str) -> Builder {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn set(self, key: &str, value: &str) -> Builder {
        self.argument("--set").argument(&format!("{key}={value}"))
    }

    pub fn upstream(self, url: &str) -> Builder {
        self.argument("--upstream").argument(url)
    }

    pub fn workers(self, workers: usize) -> Builder {
        self.argument("--workers").argument(&workers.to_string())
    }

    pub fn variable(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Run under another program, e.g. `prlimit`.
    pub fn under(mut self, wrapper: &[&str]) -> Builder {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_shadowcat").to_owned();
        let mut words = self.wrapper.clone();
        words.push(binary);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("reverse").args(&self.arguments);
        if !self.arguments.iter().any(|argument| argument == "--bind") {
            command.args(["--bind", "127.0.0.1:0"]);
        }
        if !self.arguments.iter().any(|argument| argument == "--workers") {
            command.args(["--workers", "2"]);
        }
        command.args(["--driver", &self.driver]);
        command.env_remove("RUST_LOG").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Start it and wait until it listens; and be sure that it runs on the driver that was asked for.
    pub fn start(self) -> Proxy {
        let mut child = self.command().spawn().unwrap();
        let (log, lines) = collect(child.stderr.take().unwrap());
        let address = loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on http://") {
                        break address.trim().parse().unwrap();
                    }
                }
                Err(_) => panic!("the proxy does not listen: {}", log.lock().unwrap()),
            }
        };
        let proxy = Proxy { child, address, log };
        let label = format!("driver=\"{}\"", self.driver);
        let metrics = proxy.metrics();
        assert!(metrics.0.contains(&label), "not on {}: {}", self.driver, metrics.0);
        proxy
    }

    /// Run it to its end: exit code and what it said.
    pub fn fail(self) -> (Option<i32>, String) {
        let mut child = self.command().spawn().unwrap();
        let (log, lines) = collect(child.stderr.take().unwrap());
        let status = wait_for("it to end", || child.try_wait().unwrap());
        while lines.recv_timeout(PATIENCE).is_ok() {}
        let said = log.lock().unwrap().clone();
        (status.code(), said)
    }
}

fn collect(stream: impl Read + Send + 'static) -> (Arc<Mutex<String>>, Receiver<String>) {
    let log: Arc<Mutex<String>> = Arc::default();
    let (tell, lines) = channel();
    let kept = log.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            kept.lock().unwrap().push_str(&format!("{line}\n"));
            let _ = tell.send(line);
        }
    });
    (log, lines)
}

/// The text of `/metrics`.
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of the series of this name whose labels contain `labels`.
    pub fn sum(&self, name: &str, labels: &str) -> f64 {
        self.0
            .lines()
            .filter(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// Ask until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

// --- upstreams -------------------------------------------------------------------------------------------------------

/// A server that does with each connection what a script says, and keeps what it received.
pub struct Upstream {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<usize>>,
    events: Mutex<Receiver<String>>,
    listener: TcpListener,
}

/// One accepted connection, for the script.
pub struct Conversation {
    pub stream: TcpStream,
    pub number: usize,
    buffer: Vec<u8>,
    received: Arc<Mutex<Vec<u8>>>,
    tell: Sender<String>,
}

impl Upstream {
    pub fn new(script: impl Fn(&mut Conversation) + Send + Sync + 'static) -> Upstream {
        Upstream::at("127.0.0.1:0", script)
    }

    pub fn at(address: &str, script: impl Fn(&mut Conversation) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (received, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (tell, events) = channel();
        let (kept, count, script) = (received.clone(), connections.clone(), Arc::new(script));
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let number = {
                    let mut count = count.lock().unwrap();
                    *count += 1;
                    *count
                };
                let mut conversation =
                    Conversation { stream, number, buffer: Vec::new(), received: kept.clone(), tell: tell.clone() };
                let script = script.clone();
                thread::spawn(move || script(&mut conversation));
            }
        });
        Upstream { address, received, connections, events: Mutex::new(events), listener }
    }

    /// Answers every request with 200 and `body`.
    pub fn answering(body: &'static str) -> Upstream {
        Upstream::new(move |conversation| {
            while conversation.request().is_some() {
                conversation.answer(200, "", body);
            }
        })
    }

    /// Answers every request with these bytes.
    pub fn saying(answer: &'static [u8]) -> Upstream {
        Upstream::new(move |conversation| {
            while conversation.request().is_some() {
                conversation.say(answer);
            }
        })
    }

    /// Everything that it received.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// What its script tells next.
    pub fn event(&self) -> String {
        self.events.lock().unwrap().recv_timeout(PATIENCE).expect("an event of the upstream")
    }

    pub fn no_event(&self) {
        if let Ok(event) = self.events.lock().unwrap().recv_timeout(QUIET) {
            panic!("unexpected: {event}");
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Wakes the accept loop, which then ends because nobody listens any more.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// A request as an upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }

    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap()
    }
}

impl Conversation {
    /// The next whole request; `None` when the client closes.
    pub fn request(&mut self) -> Option<Seen> {
        let head = self.head()?;
        let mut body = Vec::new();
        if let Some(length) = field(&head, "content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                self.read()?;
            }
            body = self.buffer.drain(..length).collect();
        } else if field(&head, "transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        }
        Some(Seen { head, body })
    }

    /// The next head alone.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            self.read()?;
        }
    }

    /// The next chunk of a body: `Some(None)` is the last.
    pub fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let line = loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                break self.buffer.drain(..end + 2).collect::<Vec<u8>>();
            }
            self.read()?;
        };
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        while self.buffer.len() < size + 2 {
            self.read()?;
        }
        let chunk: Vec<u8> = self.buffer.drain(..size + 2).take(size).collect();
        Some((size > 0).then_some(chunk))
    }

    /// One read; `None` at the end.
    pub fn read(&mut self) -> Option<usize> {
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                let mut received = self.received.lock().unwrap();
                if received.len() < 1 << 20 {
                    received.extend_from_slice(&piece[..n]);
                }
                Some(n)
            }
        }
    }

    pub fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// An answer with a length; `fields` are whole lines.
    pub fn answer(&mut self, status: u16, fields: &str, body: &str) {
        let length = body.len();
        self.say(format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {length}\r\n\r\n{body}").as_bytes());
    }

    /// The head of an event stream.
    pub fn begin_events(&mut self, fields: &str) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n";
        self.say(format!("{head}{fields}\r\n").as_bytes());
    }

    pub fn chunked(&mut self, data: &str) {
        self.say(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes());
    }

    pub fn tell(&self, event: &str) {
        let _ = self.tell.send(event.to_owned());
    }

    /// End with a reset.
    pub fn reset(&self) {
        reset(&self.stream);
    }

    /// Wait until the other side closes.
    pub fn wait_for_close(&mut self) {
        while self.read().is_some() {}
    }
}

pub fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn fields(head: &str, name: &str) -> Vec<String> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

fn field(head: &str, name: &str) -> Option<String> {
    fields(head, name).into_iter().next()
}

// --- the client ------------------------------------------------------------------------------------------------------

/// A connection to the proxy.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer as a client saw it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Orderly,
    Reset,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn exchange(&mut self, request: &[u8]) -> Answer {
        self.send(request);
        self.answer()
    }

    /// The next answer, interim ones included.
    pub fn answer(&mut self) -> Answer {
        let head = self.head();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = Vec::new();
        if status < 200 || status == 204 || status == 304 {
        } else if let Some(length) = field(&head, "content-length") {
            body = self.take(length.parse().unwrap());
        } else if field(&head, "transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk() {
                body.extend(chunk);
            }
        } else {
            let (rest, ending) = self.rest();
            assert_eq!(ending, Ending::Orderly);
            body = rest;
        }
        Answer { status, head, body }
    }

    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.read() > 0, "the end instead of a head; so far {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    pub fn take(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.read() > 0, "the end after {} of {length} bytes", self.buffer.len());
        }
        self.buffer.drain(..length).collect()
    }

    /// The next chunk; `None` is the last.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                break self.buffer.drain(..end + 2).collect::<Vec<u8>>();
            }
            assert!(self.read() > 0, "the end instead of a chunk");
        };
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let chunk = self.take(size + 2);
        assert_eq!(&chunk[size..], b"\r\n");
        (size > 0).then(|| chunk[..size].to_vec())
    }

    fn read(&mut self) -> usize {
        let mut piece = [0; 65536];
        let n = self.stream.read(&mut piece).unwrap();
        self.buffer.extend_from_slice(&piece[..n]);
        n
    }

    /// Everything up to the end of the connection, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, Ending) {
        let mut piece = [0; 65536];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return (std::mem::take(&mut self.buffer), Ending::Orderly),
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return (std::mem::take(&mut self.buffer), Ending::Reset);
                }
                Err(error) => panic!("waiting for the end: {error}"),
            }
        }
    }

    /// Nothing comes for a while, and the connection stays.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.set_read_timeout(Some(QUIET)).unwrap();
        let mut byte = [0];
        let quiet = matches!(self.stream.peek(&mut byte), Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        quiet && self.buffer.is_empty()
    }

    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

// --- MCP -------------------------------------------------------------------------------------------------------------

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
