//! A server that does with each connection what a script says, and keeps every byte that it received.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::http::Head;
use super::wait::{PATIENCE, QUIET, wait_until};
use super::wire::{Broken, Ending, Input, Plain, Transport, Wire};

pub struct FakeUpstream {
    pub address: SocketAddr,
    state: Arc<State>,
    events: Mutex<Receiver<String>>,
    listener: TcpListener,
}

#[derive(Default)]
struct State {
    accepted: AtomicUsize,
    open: AtomicUsize,
    streams: Mutex<Vec<Weak<TcpStream>>>,
    /// One a connection, in order.
    received: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    requests: Mutex<Vec<Request>>,
    /// What a strict reader could not accept of what the proxy sent.
    violations: Mutex<Vec<String>>,
}

/// A whole request as the upstream got it.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Request {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, `Null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// One accepted connection, for its script.
pub struct Conversation {
    pub wire: Wire,
    pub number: usize,
    state: Arc<State>,
    tell: Sender<String>,
}

/// Turns an accepted socket into what the script talks over (plain TCP, or TLS).
type Wrap = dyn Fn(Arc<TcpStream>) -> Option<Box<dyn Transport>> + Send + Sync;

impl FakeUpstream {
    pub fn new(script: impl Fn(&mut Conversation) + Send + Sync + 'static) -> FakeUpstream {
        FakeUpstream::at("127.0.0.1:0", script)
    }

    pub fn at(address: &str, script: impl Fn(&mut Conversation) + Send + Sync + 'static) -> FakeUpstream {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        FakeUpstream::on(listener, |stream| Some(Box::new(Plain(stream))), script)
    }

    pub fn on(
        listener: TcpListener,
        wrap: impl Fn(Arc<TcpStream>) -> Option<Box<dyn Transport>> + Send + Sync + 'static,
        script: impl Fn(&mut Conversation) + Send + Sync + 'static,
    ) -> FakeUpstream {
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let (tell, events) = channel();
        let accepting = listener.try_clone().expect("a second handle");
        let (shared, wrap): (_, Arc<Wrap>) = (state.clone(), Arc::new(wrap));
        let script = Arc::new(script);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let stream = Arc::new(stream);
                shared.streams.lock().expect("streams").push(Arc::downgrade(&stream));
                let number = shared.accepted.fetch_add(1, SeqCst) + 1;
                let record = Arc::new(Mutex::new(Vec::new()));
                shared.received.lock().expect("received").push(record.clone());
                shared.open.fetch_add(1, SeqCst);
                let (state, tell, script, wrap) = (shared.clone(), tell.clone(), script.clone(), wrap.clone());
                thread::spawn(move || {
                    let _open = Open(state.clone());
                    let _ = stream.set_nodelay(true);
                    let Some(transport) = wrap(stream) else { return };
                    let wire = Wire::over(transport).recording_to(record);
                    script(&mut Conversation { wire, number, state, tell });
                });
            }
        });
        FakeUpstream { address, state, events: Mutex::new(events), listener }
    }

    /// Answers every request with 200 and `body`.
    pub fn answering(body: &'static str) -> FakeUpstream {
        FakeUpstream::new(move |conversation| {
            while conversation.request().is_some() {
                conversation.respond(200, "", body);
            }
        })
    }

    /// Answers every request with these bytes, and keeps the connection.
    pub fn saying(answer: impl Into<Vec<u8>>) -> FakeUpstream {
        let answer = answer.into();
        FakeUpstream::new(move |conversation| {
            while conversation.request().is_some() {
                conversation.send(&answer);
            }
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stop listening and end every connection, as a server does whose process ends.
    pub fn stop(self) {
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for stream in self.state.streams.lock().expect("streams").drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        wait_until("the scripts to end", || self.open_connections() == 0);
    }

    /// Every byte of every connection, in the order in which the connections came.
    pub fn received(&self) -> Vec<u8> {
        let received = self.state.received.lock().expect("received");
        received.iter().flat_map(|bytes| bytes.lock().expect("bytes").clone()).collect()
    }

    pub fn received_text(&self) -> String {
        String::from_utf8_lossy(&self.received()).into_owned()
    }

    /// Connections that were ever accepted.
    pub fn connections(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }

    /// Connections whose script still runs.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// The whole requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("requests").clone()
    }

    pub fn last_request(&self) -> Request {
        self.requests().pop().expect("a request")
    }

    /// What its script tells next.
    pub fn event(&self) -> String {
        self.events.lock().expect("events").recv_timeout(PATIENCE).expect("an event of the upstream")
    }

    pub fn expect_event(&self, expected: &str) {
        assert_eq!(self.event(), expected);
    }

    pub fn expect_no_event(&self) {
        if let Ok(event) = self.events.lock().expect("events").recv_timeout(QUIET) {
            panic!("unexpected: {event}");
        }
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        // Wakes the accept loop, which ends; the port is free for a successor.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let violations = self.state.violations.lock().expect("violations").clone();
        if !thread::panicking() {
            assert!(violations.is_empty(), "the proxy sent: {violations:#?}");
        }
    }
}

struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Conversation {
    /// The next whole request, strictly read; `None` when the proxy closes.
    pub fn request(&mut self) -> Option<Request> {
        let head = self.head()?;
        let framing = self.accept(head.request_framing().map_err(Broken::Malformed))?;
        let mut body = Vec::new();
        let read = self.wire.body(framing, &mut body);
        self.accept(read)?;
        let request = Request { head, body };
        self.state.requests.lock().expect("requests").push(request.clone());
        Some(request)
    }

    /// The next head alone.
    pub fn head(&mut self) -> Option<Head> {
        let head = self.wire.head();
        self.accept(head)
    }

    /// The next chunk of a request body; `Some(None)`: the last one.
    pub fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let chunk = self.wire.chunk(&mut Vec::new());
        self.accept(chunk)
    }

    fn accept<T>(&self, read: Result<T, Broken>) -> Option<T> {
        if let Err(Broken::Malformed(why)) = &read {
            self.state.violations.lock().expect("violations").push(why.clone());
        }
        read.ok()
    }

    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.send(bytes)
    }

    /// An answer with a length; `fields` are whole lines.
    pub fn respond(&mut self, status: u16, fields: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Status\r\n{fields}Content-Length: {length}\r\n\r\n");
        self.send(&[head.as_bytes(), body.as_bytes()].concat());
    }

    pub fn respond_json(&mut self, status: u16, fields: &str, body: &str) {
        self.respond(status, &format!("Content-Type: application/json\r\n{fields}"), body);
    }

    /// The head of an event stream in chunks.
    pub fn begin_events(&mut self, fields: &str) {
        self.begin_chunks(&format!("Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n{fields}"));
    }

    pub fn begin_chunks(&mut self, fields: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    }

    /// `false`: the proxy does not take it any more.
    pub fn send_chunk(&mut self, data: &[u8]) -> bool {
        let size = format!("{:x}\r\n", data.len());
        self.send(&[size.as_bytes(), data, b"\r\n"].concat())
    }

    pub fn end_chunks(&mut self) {
        self.send(b"0\r\n\r\n");
    }

    pub fn tell(&self, event: impl Into<String>) {
        let _ = self.tell.send(event.into());
    }

    /// End with an RST. Nothing may be said afterwards.
    pub fn reset(&self) {
        let socket = SockRef::from(self.wire.socket());
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Wait until the proxy ends the connection, whatever it sends until then.
    pub fn wait_for_end(&mut self) -> Ending {
        loop {
            match self.wire.fill(Duration::from_secs(120)) {
                Input::Bytes(_) => {}
                Input::Ended(ending) => return ending,
                Input::Quiet => return Ending::Orderly,
            }
        }
    }
}

/// An address where connections are refused; nobody else gets it while the value lives.
pub struct Refusing {
    pub address: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    pub fn new() -> Refusing {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        Refusing { address, _socket: socket }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// An address whose queue is full, so that a connect gets no answer at all.
pub struct Silent {
    pub address: SocketAddr,
    _listener: Socket,
    _queue: Vec<TcpStream>,
}

impl Silent {
    pub fn new() -> Silent {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("listen");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, QUIET) {
            queue.push(stream);
        }
        Silent { address, _listener: listener, _queue: queue }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
