//! One connection: read a request whole, answer it in one send, again.

use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;

use super::http::{self, Framing, HEAD_LIMITS, JSON, Refused, Reply, Request};
use super::{Late, Next, Service, relay};
use crate::net::{Buffer, Either, Expired, Stream, race, within};
use crate::wire::http1::body::BodyDecoder;
use crate::wire::http1::framing::BodyLength;
use crate::wire::http1::head::{Method, Progress, RequestHead};
use crate::wire::jsonrpc;
use crate::wire::mcp::code;

/// How long a connection may wait between requests: longer than proxies keep theirs pooled.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client that began a request may send nothing of it.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to receive what one send holds.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a refused client's remaining bytes are read, so that it gets to see the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that sends this much ahead of its answer is watched no longer.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a wait for an answer lasts before it is begun anew.
const WATCH_TURN: Duration = Duration::from_secs(60);

/// Least room of a read, bytes.
const READ_BYTES: usize = 4 * 1024;
/// Room that grew beyond this for one body is given back, bytes.
const KEPT_BYTES: usize = 64 * 1024;

pub struct Connection {
    pub stream: Stream,
    /// Bytes that came and are not served yet.
    pub input: Buffer,
    head: RequestHead,
    /// The bytes of a head whose body did not come along with it.
    head_bytes: Vec<u8>,
    /// Such a body, or a chunked one.
    body: Vec<u8>,
    /// Room for a body of ours.
    json: Vec<u8>,
}

/// Serves a connection until either side ends it.
pub async fn serve<S: Service>(stream: Stream, service: Arc<S>) {
    let mut connection = Connection {
        stream,
        input: Buffer::default(),
        head: RequestHead::default(),
        head_bytes: Vec::new(),
        body: Vec::new(),
        json: Vec::new(),
    };
    // An error here is the peer's: it left, or broke the transport.
    let _ended = connection.run(&service).await;
}

/// Where the request at hand is.
#[derive(Clone, Copy)]
enum Place {
    /// All in `input`; this many bytes with its body.
    Input(usize),
    /// In `head_bytes` and `body`, and out of `input`.
    Apart,
}

/// Why a connection ends.
enum End {
    /// The client is done, or gone.
    Silent(io::Error),
    /// It gets told with this status.
    Refused(u16),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Silent(error)
    }
}

impl From<Refused> for End {
    fn from(Refused(status): Refused) -> End {
        End::Refused(status)
    }
}

impl Connection {
    async fn run<S: Service>(&mut self, service: &Arc<S>) -> io::Result<()> {
        loop {
            match self.exchange(service).await {
                Ok(true) => {}
                Ok(false) => {
                    self.stream.shutdown().await;
                    return Ok(());
                }
                Err(End::Silent(error)) => return Err(error),
                Err(End::Refused(status)) => return self.refuse(status).await,
            }
        }
    }

    /// Reads and answers one request; false if the connection ends.
    async fn exchange<S: Service>(&mut self, service: &Arc<S>) -> Result<bool, End> {
        self.receive_head().await?;
        let framing = http::frame(&self.head, self.input.bytes(), S::BODY_BYTES_MAX)?;
        let place = self.receive_body(framing, S::BODY_BYTES_MAX).await?;
        let (bytes, body) = match place {
            Place::Input(used) => self.input.bytes()[..used].split_at(self.head.len),
            Place::Apart => (&self.head_bytes[..], &self.body[..]),
        };
        let request = Request::new(&self.head, bytes, body, framing.transport)?;
        let reply = Reply::to(&request);
        let mut output = Buffer::small();
        self.json.clear();
        let next = service.answer(&request, &mut self.json, output.vec());
        if self.head.method == Method::Head {
            // All that an answer to HEAD may not have is its body (RFC 9110 section 9.3.2).
            let end = memmem::find(output.bytes(), b"\r\n\r\n").map_or(0, |at| at + 4);
            output.truncate(end);
        }
        if let Place::Input(used) = place {
            self.input.consume(used);
        }
        for room in [&mut self.body, &mut self.json] {
            if room.capacity() > KEPT_BYTES {
                *room = Vec::new();
            }
        }
        let late = match next {
            Next::Answered => {
                self.send(output).await?;
                return Ok(framing.transport.keep_alive);
            }
            Next::Stream(stream) => Late::Stream(stream),
            Next::Later(answer) => match self.patiently(answer).await? {
                Some(late) => late,
                None => return Ok(false),
            },
        };
        let alive = match late {
            Late::Stream(stream) => relay::run(self, framing.transport, reply, output, stream).await?,
            Late::Body(whole) => {
                let session = whole.session.as_ref().map(|id| id.as_str());
                http::answer(output.vec(), whole.status, Reply { session, ..reply }, &whole.json);
                self.send(output).await?;
                true
            }
        };
        Ok(alive && framing.transport.keep_alive)
    }

    async fn receive_head(&mut self) -> Result<(), End> {
        self.head.reset();
        loop {
            let began = !self.input.is_empty();
            if began && self.head.parse(self.input.bytes(), &HEAD_LIMITS).map_err(Refused::from)? == Progress::Complete
            {
                return Ok(());
            }
            match within(if began { READ_TIMEOUT } else { IDLE_TIMEOUT }, self.fill()).await {
                Ok(read) => require(read?)?,
                Err(_) if began => return Err(End::Refused(408)),
                Err(_) => return Err(End::Silent(io::ErrorKind::TimedOut.into())),
            }
        }
    }

    /// Mostly the body came along with its head and stays where it is; else it is gathered.
    async fn receive_body(&mut self, framing: Framing, body_max: u64) -> Result<Place, End> {
        let at_hand = match framing.length {
            BodyLength::Empty => Some(0),
            BodyLength::Length(length) => Some(length as usize),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        if let Some(used) = at_hand.map(|length| self.head.len + length).filter(|used| *used <= self.input.len()) {
            return Ok(Place::Input(used));
        }
        self.head_bytes.clear();
        self.head_bytes.extend_from_slice(&self.input.bytes()[..self.head.len]);
        self.input.consume(self.head.len);
        self.body.clear();
        if framing.expects_continue && self.input.is_empty() {
            self.send(Buffer::from_vec(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())).await?;
        }
        let mut decoder = BodyDecoder::new(framing.length, Some(body_max));
        loop {
            let decoded = decoder.decode(self.input.bytes_mut()).map_err(|error| Refused(error.status()))?;
            self.body.extend_from_slice(&self.input.bytes()[..decoded.data]);
            self.input.consume(decoded.consumed);
            if decoder.is_done() {
                return Ok(Place::Apart);
            }
            match within(READ_TIMEOUT, self.fill()).await {
                Ok(read) => require(read?)?,
                Err(_) => return Err(End::Refused(408)),
            }
        }
    }

    /// What `future` comes to; `None` if the client left first.
    async fn patiently<T>(&mut self, mut future: Pin<Box<dyn Future<Output = T>>>) -> io::Result<Option<T>> {
        loop {
            match self.attend(WATCH_TURN, Pin::new(&mut future)).await? {
                Some(Ok(value)) => return Ok(Some(value)),
                Some(Err(Expired)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Waits for `future`, but no longer than `limit`, and watches the client meanwhile; `None` if it left.
    pub async fn attend<F: Future>(
        &mut self,
        limit: Duration,
        mut future: Pin<&mut F>,
    ) -> io::Result<Option<Result<F::Output, Expired>>> {
        loop {
            // Until the client sends something its connection needs no buffer.
            if self.input.is_empty() {
                self.input = Buffer::default();
            }
            let watched = self.input.len() < AHEAD_BYTES_MAX;
            let client = within(limit, async {
                match watched {
                    true => self.stream.readable().await,
                    false => pending().await,
                }
            });
            match race(future.as_mut(), pin!(client)).await {
                Either::First(value) => return Ok(Some(Ok(value))),
                Either::Second(Ok(readable)) => readable?,
                Either::Second(Err(Expired)) => return Ok(Some(Err(Expired))),
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Sends all of it.
    pub async fn send(&mut self, output: Buffer) -> io::Result<()> {
        match within(WRITE_TIMEOUT, self.stream.write_all(output)).await {
            Ok((sent, _)) => sent,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Appends what the client sent to `input`; 0 when it sends no more. Not to be dropped half way
    /// unless the connection ends.
    pub async fn fill(&mut self) -> io::Result<usize> {
        let mut input = std::mem::take(&mut self.input);
        if input.is_empty() {
            input = Buffer::small();
        }
        if input.room() < READ_BYTES {
            input.make_room(input.len() + READ_BYTES);
        }
        let (read, input) = self.stream.read(input).await;
        self.input = input;
        read
    }

    /// Answers what is no request, and lets the client read the answer before the reset that closing
    /// over unread bytes would send.
    async fn refuse(&mut self, status: u16) -> io::Result<()> {
        self.json.clear();
        let reason = "Bad request: the HTTP request was refused";
        jsonrpc::error(&mut self.json, None, code::INVALID_REQUEST, reason, None);
        let reply = Reply { content_type: JSON, close: true, ..Reply::default() };
        let mut output = Buffer::small();
        http::answer(output.vec(), status, reply, &self.json);
        self.send(output).await?;
        self.stream.shutdown().await;
        let drained = within(LINGER_TIMEOUT, async {
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

/// Nothing read is the end of input.
fn require(read: usize) -> io::Result<()> {
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
