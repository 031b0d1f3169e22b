//! One connection: read a request whole, answer it in one send, again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use monoio::buf::{IoBufMut, SliceMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::time::timeout;

use super::endpoint::{self, Next, Received};
use super::http::{self, Refused, Reply, Request};
use super::mcp::Server;
use super::relay;
use super::reply;
use super::work;

/// How long a connection may wait between requests: longer than proxies keep theirs pooled.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a request may take to arrive, from its first byte on, between two reads.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take no byte of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a refused client's remaining bytes are read, so that it gets to see the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

const READ_BYTES: usize = 8 * 1024;
/// Buffers that grew beyond this for one request shrink again.
const KEPT_BYTES: usize = 64 * 1024;

pub struct Connection {
    pub stream: TcpStream,
    /// Bytes that came and are not served yet; the current request begins at 0.
    pub input: Vec<u8>,
    /// What the next send carries.
    pub output: Vec<u8>,
    /// Room for a body of ours.
    json: Vec<u8>,
    /// Room for a chunked body of theirs.
    scratch: Vec<u8>,
}

/// Serves a connection until either side ends it.
pub async fn serve(stream: TcpStream, server: Arc<Server>) {
    let mut connection = Connection {
        stream,
        input: Vec::with_capacity(READ_BYTES),
        output: Vec::with_capacity(1024),
        json: Vec::with_capacity(1024),
        scratch: Vec::new(),
    };
    // An error here is the peer's: it left, or broke the transport.
    let _ended = connection.run(&server).await;
}

impl Connection {
    async fn run(&mut self, server: &Arc<Server>) -> io::Result<()> {
        loop {
            let (request, used) = match self.receive().await? {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                Err(Refused(status)) => return self.refuse(status).await,
            };
            let keep_alive = self.exchange(server, &request, used).await?;
            if !keep_alive {
                return self.stream.shutdown().await;
            }
            if self.input.capacity() > KEPT_BYTES && self.input.is_empty() {
                self.input = Vec::with_capacity(READ_BYTES);
                self.scratch = Vec::new();
            }
        }
    }

    /// Reads until a whole request is in `input`; gives it with its bytes. `None` when the client is
    /// done, or idle for too long.
    async fn receive(&mut self) -> io::Result<Result<Option<(Request, usize)>, Refused>> {
        let mut continued = false;
        loop {
            let head = match http::head(&self.input) {
                Ok(head) => head,
                Err(refused) => return Ok(Err(refused)),
            };
            if let Some(request) = head {
                match request.body(&self.input, &mut self.scratch) {
                    Ok(Some((_, used))) => return Ok(Ok(Some((request, used)))),
                    Ok(None) => {}
                    Err(refused) => return Ok(Err(refused)),
                }
                if request.expects_continue && !continued {
                    continued = true;
                    self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    self.send().await?;
                }
            }
            let began = !self.input.is_empty();
            match timeout(if began { READ_TIMEOUT } else { IDLE_TIMEOUT }, self.fill()).await {
                Ok(Ok(0)) => return Ok(Ok(None)),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) if began => return Ok(Err(Refused(408))),
                Err(_) => return Ok(Ok(None)),
            }
        }
    }

    /// Answers the request at the front of `input` and takes it out; false if the connection ends.
    async fn exchange(&mut self, server: &Arc<Server>, request: &Request, used: usize) -> io::Result<bool> {
        let body = match request.has_chunked_body() {
            true => &self.scratch[..],
            false => &self.input[request.head_bytes..used],
        };
        let received = Received { request, buffer: &self.input, body };
        let reply = received.reply();
        let next = endpoint::answer(server, received, &mut self.json, &mut self.output);
        self.input.drain(..used);
        let alive = match next {
            Next::Answered => {
                self.send().await?;
                true
            }
            Next::Background(task, session) => {
                monoio::spawn(work::run_all(vec![task], session.standalone(), false));
                self.send().await?;
                true
            }
            Next::Call(stream) => relay::call(self, request, reply, stream).await?,
            Next::Attach(reader, session) => relay::attach(self, request, reply, reader, &session).await?,
            Next::OneStream(session) => {
                let sent = relay::one_stream(self, request, reply, &session).await;
                server.sessions.end(&session.id);
                sent?
            }
        };
        Ok(alive && request.keep_alive)
    }

    /// Sends `output` whole and empties it.
    pub async fn send(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        let (sent, mut output) = match timeout(WRITE_TIMEOUT, self.stream.write_all(output)).await {
            Ok(written) => written,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        output.clear();
        if output.capacity() <= KEPT_BYTES {
            self.output = output;
        }
        sent.map(|_| ())
    }

    /// Appends what the client sent to `input`; 0 when it sends no more. Not to be dropped half way
    /// unless the connection ends.
    pub async fn fill(&mut self) -> io::Result<usize> {
        let mut input = std::mem::take(&mut self.input);
        let length = input.len();
        input.reserve(READ_BYTES);
        let room: SliceMut<Vec<u8>> = input.slice_mut(length..);
        let (read, room) = self.stream.read(room).await;
        self.input = room.into_inner();
        read
    }

    /// Answers what is no request, and lets the client read the answer before the reset that closing
    /// over unread bytes would send.
    async fn refuse(&mut self, status: u16) -> io::Result<()> {
        self.json.clear();
        reply::error(&mut self.json, None, -32600, "Bad request: the HTTP request was refused");
        let reply = Reply { content_type: "application/json", close: true, ..Reply::default() };
        http::answer(&mut self.output, status, reply, &self.json);
        self.send().await?;
        self.stream.shutdown().await?;
        let drained = timeout(LINGER_TIMEOUT, async {
            loop {
                self.input.clear();
                if self.fill().await? == 0 {
                    return io::Result::Ok(());
                }
            }
        });
        drained.await.unwrap_or(Ok(()))
    }
}
