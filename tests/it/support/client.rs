//! A client that speaks bytes and reads strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::{PATIENCE, QUIET, field, find};

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
