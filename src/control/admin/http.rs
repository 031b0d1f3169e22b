//! One HTTP/1.1 request and its answer over a blocking stream, within a time and a size.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::wire::http1::body::BodyDecoder;
use crate::wire::http1::encode;
use crate::wire::http1::framing::{self, BodyLength};
use crate::wire::http1::head::{HeadLimits, Method, Name, Progress, RequestHead};

const HEAD: HeadLimits = HeadLimits { head_bytes: 8192, fields: 64, target_bytes: 2048 };
/// From the start of a connection to the end of its request's head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Between two reads or writes of a body.
pub const STEP_TIME: Duration = Duration::from_secs(10);
/// Longest body that is read as a whole.
const BODY_BYTES_MAX: usize = 64 * 1024;
const PIECE: usize = 64 * 1024;

/// A connection.
pub trait Stream: Read + Write + Send {
    fn wait_at_most(&self, time: Duration) -> io::Result<()>;
}

impl Stream for std::net::TcpStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(STEP_TIME)))
    }
}

impl Stream for std::os::unix::net::UnixStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(STEP_TIME)))
    }
}

/// A request whose body is still to be read.
pub struct Request<'a> {
    pub method: Method,
    /// Without query.
    pub path: String,
    query: Vec<(String, String)>,
    pub host: String,
    pub has_origin: bool,
    body: Body<'a>,
}

/// What is sent back.
pub enum Answer {
    Json(u16, Value),
    Page(&'static str, Vec<u8>),
    /// The body is written by this function, piece by piece; if it fails the client sees a cut.
    Stream(Produce),
}

pub type Produce = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

impl Answer {
    pub fn error(status: u16, why: impl std::fmt::Display) -> Answer {
        Answer::Json(status, json!({ "error": why.to_string() }))
    }
}

/// Read a request, have it answered, and close.
pub fn serve(stream: &mut dyn Stream, answer: impl FnOnce(&mut Request<'_>) -> Answer) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut head = RequestHead::default();
    if let Err(answer) = read_head(stream, &mut head, &mut bytes)? {
        return write(stream, Method::Get, answer);
    }
    let method = head.method;
    let answer = match request(stream, &head, bytes) {
        Ok(mut request) => answer(&mut request),
        Err(answer) => answer,
    };
    write(stream, method, answer)
}

/// An answer without looking at the request.
pub fn turn_away(stream: &mut dyn Stream, answer: Answer) -> io::Result<()> {
    stream.wait_at_most(STEP_TIME)?;
    write(stream, Method::Get, answer)
}

fn read_head(stream: &mut dyn Stream, head: &mut RequestHead, bytes: &mut Vec<u8>) -> io::Result<Result<(), Answer>> {
    let begun = Instant::now();
    loop {
        match head.parse(bytes, &HEAD) {
            Ok(Progress::Complete) => return Ok(Ok(())),
            Ok(Progress::Incomplete) => {}
            Err(error) => return Ok(Err(Answer::error(error.status(), error))),
        }
        let left = HEAD_TIME.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        stream.wait_at_most(left.ok_or(io::ErrorKind::TimedOut)?)?;
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

fn request<'a>(stream: &'a mut dyn Stream, head: &RequestHead, mut bytes: Vec<u8>) -> Result<Request<'a>, Answer> {
    let framed = framing::request(head, &bytes).map_err(|error| Answer::error(error.status(), error))?;
    let host = head.host(&bytes).map_err(|error| Answer::error(error.status(), error))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let target = text(head.path_and_query.of(&bytes));
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), url::form_urlencoded::parse(query.as_bytes()).into_owned().collect());
    let (host, has_origin) = (text(host), head.find(&bytes, Name::Origin).is_some());
    bytes.drain(..head.len);
    let failed = |error: io::Error| Answer::error(500, error);
    stream.wait_at_most(STEP_TIME).map_err(failed)?;
    if framed.expect_continue && framed.body != BodyLength::Empty {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(failed)?;
    }
    let body = Body::new(stream, framed.body, bytes);
    Ok(Request { method: head.method, path, query, host, has_origin, body })
}

impl Request<'_> {
    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON of this shape.
    ///
    /// # Errors
    /// It is too long or something else, which the client is told.
    pub fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Answer> {
        let mut text = Vec::new();
        let read = (&mut self.body).take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut text);
        read.map_err(|error| Answer::error(400, format!("the body: {error}")))?;
        if text.len() > BODY_BYTES_MAX {
            return Err(Answer::error(413, "the body is too long"));
        }
        serde_json::from_slice(&text).map_err(|error| Answer::error(400, format!("the body: {error}")))
    }

    pub fn body(&mut self) -> &mut dyn Read {
        &mut self.body
    }
}

/// A body as it comes.
pub struct Body<'a> {
    stream: &'a mut dyn Read,
    decoder: BodyDecoder,
    /// As received, but for what was decoded in place: that is `decoded`.
    raw: Vec<u8>,
    decoded: std::ops::Range<usize>,
}

impl<'a> Body<'a> {
    /// `raw`: what came with the head.
    pub fn new(stream: &'a mut dyn Read, length: BodyLength, raw: Vec<u8>) -> Body<'a> {
        Body { stream, decoder: BodyDecoder::new(length, None), raw, decoded: 0..0 }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        while self.decoded.is_empty() {
            if self.decoder.is_done() {
                return Ok(0);
            }
            if self.raw.is_empty() {
                self.raw.resize(PIECE, 0);
                let n = self.stream.read(&mut self.raw)?;
                self.raw.truncate(n);
                if n == 0 {
                    return self.decoder.end_of_input().map(|()| 0).map_err(invalid);
                }
            }
            let done = self.decoder.decode(&mut self.raw).map_err(invalid)?;
            self.decoded = 0..done.data;
            if done.data == 0 {
                self.raw.clear();
            }
        }
        let n = self.decoded.len().min(out.len());
        out[..n].copy_from_slice(&self.raw[self.decoded.start..self.decoded.start + n]);
        self.decoded.start += n;
        if self.decoded.is_empty() {
            self.raw.clear();
        }
        Ok(n)
    }
}

fn write(stream: &mut dyn Stream, method: Method, answer: Answer) -> io::Result<()> {
    let (status, kind, body) = match answer {
        Answer::Json(status, value) => {
            let mut text = serde_json::to_vec(&value).map_err(io::Error::other)?;
            text.push(b'\n');
            (status, "application/json", text)
        }
        Answer::Page(kind, body) => (200, kind, body),
        Answer::Stream(produce) => return write_stream(stream, produce),
    };
    let mut out = head(status, kind);
    encode::content_length(&mut out, body.len() as u64);
    encode::end(&mut out);
    if method != Method::Head {
        out.extend_from_slice(&body);
    }
    stream.write_all(&out)
}

fn head(status: u16, kind: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    encode::status_line(&mut out, status, b"");
    encode::field(&mut out, b"Content-Type", kind.as_bytes());
    encode::field(&mut out, b"Cache-Control", b"no-store");
    encode::field(&mut out, b"X-Content-Type-Options", b"nosniff");
    encode::field(&mut out, b"Connection", b"close");
    out
}

/// In chunks, with the last one only if all of it is there.
fn write_stream(stream: &mut dyn Stream, produce: Produce) -> io::Result<()> {
    let mut out = head(200, "application/octet-stream");
    encode::chunked(&mut out);
    encode::end(&mut out);
    stream.write_all(&out)?;
    produce(&mut Chunks(stream))?;
    stream.write_all(encode::LAST_CHUNK)
}

struct Chunks<'a>(&'a mut dyn Stream);

impl Write for Chunks<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if !piece.is_empty() {
            self.0.write_all(encode::chunk_head(piece.len()).as_bytes())?;
            self.0.write_all(piece)?;
            self.0.write_all(encode::CHUNK_END)?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
