//! A client that sends any bytes and reads answers strictly.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::http::{BodyFraming, Head};
use super::wait::{PATIENCE, QUIET};
use super::wire::{Broken, Ending, Input, Wire};

pub struct RawClient {
    pub wire: Wire,
}

/// A whole answer.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(500)];
        write!(f, "{:?} + {} bytes {:?}", self.head, self.body.len(), String::from_utf8_lossy(shown))
    }
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?} {}", self.head, self.text()))
    }

    pub fn one(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    pub fn closes(&self) -> bool {
        self.head.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// What became of a request, for answers that may break.
#[derive(Clone, Debug)]
pub enum Outcome {
    Whole(Response),
    /// A head and part of a body, and then visibly not the rest.
    Cut {
        head: Head,
        body: Vec<u8>,
        why: Broken,
    },
    /// Not even a head.
    Nothing(Broken),
}

impl Outcome {
    /// The status, 0 where there is none.
    pub fn status(&self) -> u16 {
        match self {
            Outcome::Whole(response) => response.status,
            Outcome::Cut { head, .. } => head.status().unwrap_or(0),
            Outcome::Nothing(_) => 0,
        }
    }

    pub fn is_cut(&self) -> bool {
        matches!(self, Outcome::Cut { why: Broken::Ended(_), .. } | Outcome::Nothing(Broken::Ended(_)))
    }

    /// Body bytes, as far as they came.
    pub fn body(&self) -> &[u8] {
        match self {
            Outcome::Whole(response) => &response.body,
            Outcome::Cut { body, .. } => body,
            Outcome::Nothing(_) => b"",
        }
    }
}

impl RawClient {
    pub fn connect(address: SocketAddr) -> RawClient {
        RawClient { wire: Wire::new(TcpStream::connect(address).expect("the proxy accepts")) }
    }

    /// From another address of this machine.
    pub fn connect_from(source: &str, address: SocketAddr) -> RawClient {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let source: SocketAddr = format!("{source}:0").parse().expect("an address");
        socket.bind(&source.into()).expect("an address of this machine");
        socket.connect(&address.into()).expect("the proxy accepts");
        RawClient { wire: Wire::new(socket.into()) }
    }

    /// A second reader and writer of the same connection, for another thread.
    pub fn another_handle(&self) -> RawClient {
        assert!(self.wire.pending().is_empty());
        RawClient { wire: Wire::new(self.wire.socket().try_clone().expect("a second handle")) }
    }

    pub fn send(&mut self, bytes: &[u8]) -> &mut RawClient {
        self.wire.send(bytes);
        self
    }

    /// Each piece in a packet of its own.
    pub fn send_in_pieces(&mut self, bytes: &[u8], piece: usize) -> &mut RawClient {
        for piece in bytes.chunks(piece) {
            self.wire.send(piece);
        }
        self
    }

    pub fn finish_sending(&mut self) -> &mut RawClient {
        self.wire.finish_sending();
        self
    }

    /// Send a request and read its answer, which must be whole.
    pub fn ask(&mut self, request: &[u8]) -> Response {
        self.send(request);
        let method = String::from_utf8_lossy(request.split(|&b| b == b' ').next().unwrap_or_default()).into_owned();
        self.response_to(&method)
    }

    /// The next answer to a GET or POST, which must be whole.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub fn response_to(&mut self, method: &str) -> Response {
        match self.outcome_of(method) {
            Outcome::Whole(response) => response,
            other => panic!("no whole answer: {other:?}"),
        }
    }

    pub fn outcome(&mut self) -> Outcome {
        self.outcome_of("GET")
    }

    pub fn outcome_of(&mut self, method: &str) -> Outcome {
        let head = match self.wire.head() {
            Ok(head) => head,
            Err(why) => return Outcome::Nothing(why),
        };
        let framing = match head.status().and_then(|_| head.response_framing(method)) {
            Ok(framing) => framing,
            Err(why) => panic!("a bad answer of the proxy: {why}"),
        };
        let mut body = Vec::new();
        match self.wire.body(framing, &mut body) {
            Ok(()) => Outcome::Whole(Response { status: head.status().unwrap_or(0), head, body }),
            Err(Broken::Malformed(why)) => panic!("a bad body of the proxy: {why}"),
            Err(why) => Outcome::Cut { head, body, why },
        }
    }

    /// Only the head of the next answer; its body is read with [`chunk`](RawClient::chunk) or as raw bytes.
    pub fn head(&mut self) -> Head {
        self.wire.head().expect("the head of an answer")
    }

    /// The head of a stream, which must be 200 and chunked.
    pub fn stream_head(&mut self) -> Head {
        let head = self.head();
        assert_eq!(head.status(), Ok(200), "{head:?}");
        assert_eq!(head.response_framing("GET"), Ok(BodyFraming::Chunked), "{head:?}");
        head
    }

    /// The next chunk; `None` for the last one.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        self.wire.chunk(&mut Vec::new()).expect("a chunk")
    }

    /// Body bytes of a chunked answer until they end with `what`, however they were cut into chunks.
    pub fn stream_until(&mut self, what: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        while !body.ends_with(what) {
            match self.chunk() {
                Some(chunk) => body.extend(chunk),
                None => panic!("the stream ended after {:?}", String::from_utf8_lossy(&body)),
            }
        }
        body
    }

    /// The connection ends with not a byte more.
    pub fn expect_end(&mut self) -> Ending {
        let (rest, ending) = self.wire.rest(PATIENCE);
        assert!(rest.is_empty(), "surplus bytes: {:?}", String::from_utf8_lossy(&rest));
        ending.expect("an end of the connection")
    }

    /// No byte and no end for a while.
    pub fn expect_quiet(&mut self) {
        assert_eq!(self.wire.pending(), b"");
        assert_eq!(self.wire.fill(QUIET), Input::Quiet, "{:?}", String::from_utf8_lossy(self.wire.pending()));
    }

    /// Whether the connection still serves, without asking anything.
    pub fn is_open(&mut self, patience: Duration) -> bool {
        self.wire.fill(patience) == Input::Quiet
    }
}
