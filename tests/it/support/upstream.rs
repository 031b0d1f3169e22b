//! Upstreams that do what a script says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{PATIENCE, QUIET, field, find};

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
