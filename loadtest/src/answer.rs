//! The bytes of one answer, and whether it is the right one. Sans-io: fed in pieces of any size.

use std::sync::Arc;

use memchr::memmem::Finder;
use shadowcat::wire::answer::{Form, Listener, Said};
use shadowcat::wire::http1::body::BodyDecoder;
use shadowcat::wire::http1::framing::{self, BodyLength};
use shadowcat::wire::http1::head::{HeadLimits, Method, Name, Progress, ResponseHead};
use shadowcat::wire::json::{Kind as Message, Peek};

use crate::fault::{Fault, Kind};
use crate::message::Id;

const HEAD_LIMITS: HeadLimits = HeadLimits { head_bytes: 64 * 1024, fields: 128, target_bytes: 0 };
/// Longest body that is looked into, bytes.
const BODY_BYTES_MAX: usize = 128 << 20;
/// Room for bodies that is kept from one answer to the next, bytes.
const KEPT_BYTES: usize = 256 * 1024;
/// Heads before the last one (1xx).
const INTERIM_MAX: u32 = 16;

/// What the answer must be.
#[derive(Clone, Debug)]
pub enum Want {
    /// To a request: the result for this id.
    Result { id: Id, to_tool: bool, contains: Option<Arc<Finder<'static>>> },
    /// To a notification.
    Accepted,
    /// To a DELETE; a server may say that it lets nobody end a session (405).
    Ended,
    /// Nothing but this status.
    Status(u16),
    /// An event stream, of which the head alone is read here.
    Stream,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    More,
    Done,
}

/// Reads one answer after the other.
pub struct Reader {
    want: Want,
    head: ResponseHead,
    interim: u32,
    /// Behind the head.
    body: Option<BodyDecoder>,
    /// Of a body that comes in pieces.
    kept: Vec<u8>,
    is_events: bool,
    is_json: bool,
    keep_alive: bool,
    session: Vec<u8>,
    peek: Peek,
    verdict: Result<(), Fault>,
    /// Bytes of this answer.
    pub bytes: u64,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            want: Want::Accepted,
            head: ResponseHead::default(),
            interim: 0,
            body: None,
            kept: Vec::new(),
            is_events: false,
            is_json: false,
            keep_alive: false,
            session: Vec::new(),
            peek: Peek::new(),
            verdict: Ok(()),
            bytes: 0,
        }
    }
}

impl Reader {
    /// The next answer.
    pub fn begin(&mut self, want: Want) {
        self.want = want;
        self.head.reset();
        self.interim = 0;
        self.body = None;
        self.kept.clear();
        if self.kept.capacity() > KEPT_BYTES {
            self.kept = Vec::new();
        }
        self.session.clear();
        self.verdict = Ok(());
        self.bytes = 0;
    }

    /// What came: how much of it is done with, and whether the answer is whole. Of a stream, its head is the answer.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn feed(&mut self, input: &mut [u8]) -> Result<(usize, Step), Fault> {
        let mut used = 0;
        while self.body.is_none() {
            match self.head.parse(&input[used..], &HEAD_LIMITS).map_err(|error| http(&error))? {
                Progress::Incomplete => return Ok((used, Step::More)),
                Progress::Complete => {
                    self.take_head(&input[used..])?;
                    used += self.head.len;
                    self.bytes += self.head.len as u64;
                }
            }
        }
        if self.is_stream() {
            return Ok((used, Step::Done));
        }
        let Some(body) = &mut self.body else { return Ok((used, Step::More)) };
        let piece = &mut input[used..];
        let decoded = body.decode(piece).map_err(|error| http(&error))?;
        used += decoded.consumed;
        self.bytes += decoded.consumed as u64;
        let is_done = body.is_done();
        let data = &piece[..decoded.data];
        if is_done && self.kept.is_empty() {
            self.verdict = self.judge(data);
            return Ok((used, Step::Done));
        }
        self.kept.extend_from_slice(data);
        if self.kept.len() > BODY_BYTES_MAX {
            return Err(Fault::new(Kind::TooLarge, format!("more than {BODY_BYTES_MAX} bytes")));
        }
        if is_done {
            self.judge_kept();
        }
        Ok((used, if is_done { Step::Done } else { Step::More }))
    }

    /// The connection ended.
    ///
    /// # Errors
    /// And the answer had not.
    pub fn end(&mut self) -> Result<(), Fault> {
        let ends_so = self.body.as_mut().is_some_and(|body| body.end_of_input().is_ok());
        if !ends_so {
            let said = if self.bytes == 0 { "without a byte of it" } else { "in the middle of it" };
            return Err(Fault::new(Kind::Closed, said));
        }
        self.judge_kept();
        Ok(())
    }

    /// Whether the answer that is whole is the one that was wanted.
    pub fn verdict(&mut self) -> Result<(), Fault> {
        std::mem::replace(&mut self.verdict, Ok(()))
    }

    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The session that the answer names.
    pub fn session(&self) -> Option<&str> {
        std::str::from_utf8(&self.session).ok().filter(|session| !session.is_empty())
    }

    /// What decodes the body of a stream.
    pub fn stream_body(&mut self) -> Option<BodyDecoder> {
        self.body.take()
    }

    /// An event stream where one was wanted; any other answer is read to its end.
    fn is_stream(&self) -> bool {
        matches!(self.want, Want::Stream) && self.head.status == 200 && self.is_events
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let status = self.head.status;
        if status == 101 {
            return Err(Fault::new(Kind::Http, "101 that nobody asked for"));
        }
        if status < 200 {
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(Fault::new(Kind::Http, "too many interim answers"));
            }
            // What `feed` takes off is the length of the head, which stays.
            let len = self.head.len;
            self.head.reset();
            self.head.len = len;
            return Ok(());
        }
        let framing = framing::response(&self.head, bytes, Method::Post).map_err(|error| http(&error))?;
        // What ends with its connection has no other end.
        self.keep_alive = framing.keep_alive && framing.body != BodyLength::UntilClose;
        self.body = Some(BodyDecoder::new(framing.body, None));
        let kind = self.head.find(bytes, Name::ContentType).unwrap_or_default();
        let kind = kind.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
        self.is_events = kind.eq_ignore_ascii_case(b"text/event-stream");
        self.is_json = kind.eq_ignore_ascii_case(b"application/json");
        if let Some(session) = self.head.find(bytes, Name::McpSessionId) {
            self.session.extend_from_slice(session);
        }
        Ok(())
    }

    fn judge_kept(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        self.verdict = self.judge(&kept);
        self.kept = kept;
    }

    fn judge(&mut self, body: &[u8]) -> Result<(), Fault> {
        let status = self.head.status;
        let wanted = match &self.want {
            Want::Result { id, to_tool, contains } if status == 200 => {
                Wanted { id, to_tool: *to_tool, contains: contains.as_deref() }
            }
            Want::Accepted if matches!(status, 200 | 202 | 204) => return Ok(()),
            Want::Ended if matches!(status, 200 | 202 | 204 | 405) => return Ok(()),
            Want::Status(wanted) if *wanted == status => return Ok(()),
            Want::Stream if status == 200 => return Err(Fault::new(Kind::ContentType, "no event stream")),
            _ => return Err(Fault::showing(Kind::Status(status), body)),
        };
        if self.is_events {
            return wanted.in_events(&mut self.peek, body);
        }
        if !self.is_json {
            return Err(Fault::showing(Kind::ContentType, body));
        }
        wanted.in_message(&mut self.peek, body).unwrap_or_else(|| Err(Fault::showing(Kind::NotJson, body)))
    }
}

struct Wanted<'a> {
    id: &'a Id,
    to_tool: bool,
    contains: Option<&'a Finder<'static>>,
}

impl Wanted<'_> {
    /// Whether a message is the right answer; `None` if it is no answer.
    fn in_message(&self, peek: &mut Peek, message: &[u8]) -> Option<Result<(), Fault>> {
        peek.reset();
        if peek.feed(message).and_then(|()| peek.finish()).is_err() {
            return Some(Err(Fault::showing(Kind::NotJson, message)));
        }
        if peek.kind() != Message::Response {
            return None;
        }
        let mut listener = Listener::new(Form::Json, self.to_tool);
        listener.hear(message, true);
        Some(match listener.said() {
            _ if peek.id() != Some(self.id) => {
                let id = String::from_utf8_lossy(peek.id().unwrap_or(b"none"));
                let wanted = String::from_utf8_lossy(self.id);
                Err(Fault::new(Kind::WrongId, format!("{id} where {wanted} was asked")))
            }
            Said::Error(code) => Err(Fault::showing(Kind::Rpc(code), message)),
            Said::ToolError => Err(Fault::showing(Kind::Tool, message)),
            _ if self.contains.is_some_and(|text| text.find(message).is_none()) => {
                Err(Fault::showing(Kind::WrongResult, message))
            }
            _ => Ok(()),
        })
    }

    /// The first answer among the messages of an event stream.
    fn in_events(&self, peek: &mut Peek, stream: &[u8]) -> Result<(), Fault> {
        let mut joined = Vec::new();
        let mut data: Option<&[u8]> = None;
        for line in lines(stream) {
            if let Some(value) = line.strip_prefix(b"data:") {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                match data {
                    None => data = Some(value),
                    Some(first) => {
                        if joined.is_empty() {
                            joined.extend_from_slice(first);
                        }
                        joined.push(b'\n');
                        joined.extend_from_slice(value);
                    }
                }
            } else if line.is_empty() {
                let message = if joined.is_empty() { data.take() } else { Some(&joined[..]) };
                let message = message.filter(|message| !message.is_empty());
                if let Some(verdict) = message.and_then(|message| self.in_message(peek, message)) {
                    return verdict;
                }
                joined.clear();
                data = None;
            }
        }
        Err(Fault::showing(Kind::NoAnswer, stream))
    }
}

/// Each with any of the three line ends, without it.
fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\r', b'\n', text).unwrap_or(text.len());
        let line = &text[..end];
        let behind = if text[end..].starts_with(b"\r\n") { end + 2 } else { (end + 1).min(text.len()) };
        text = &text[behind..];
        Some(line)
    })
}

fn http(error: &impl std::fmt::Display) -> Fault {
    Fault::new(Kind::Http, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::id;
    use proptest::prelude::*;

    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1000000007,"result":{"content":[{"type":"text","text":"hi"}]}}"#;

    fn want(contains: Option<&str>) -> Want {
        Want::Result {
            id: id(7),
            to_tool: true,
            contains: contains.map(|text| Arc::new(Finder::new(text).into_owned())),
        }
    }

    fn json(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn chunked(kind: &str, body: &str, piece: usize) -> String {
        let mut text = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.as_bytes().chunks(piece) {
            text += &format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk));
        }
        text + "0\r\n\r\n"
    }

    /// Feed it in pieces of this size, as a connection does.
    fn read(want: Want, bytes: &[u8], piece: usize) -> Result<(), Kind> {
        let mut reader = Reader::default();
        reader.begin(want);
        let mut input = Vec::new();
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            let (used, step) = reader.feed(&mut input).map_err(|fault| fault.kind)?;
            input.drain(..used);
            if step == Step::Done {
                assert!(input.is_empty());
                assert_eq!(reader.bytes, bytes.len() as u64);
                return reader.verdict().map_err(|fault| fault.kind);
            }
        }
        reader.end().map_err(|fault| fault.kind)?;
        reader.verdict().map_err(|fault| fault.kind)
    }

    fn cases() -> Vec<(Want, String, Result<(), Kind>)> {
        let events = format!(
            ": hi\r\n\r\nid: 1\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"x\"}}\n\nevent: message\ndata: {RESULT}\n\n"
        );
        let split = RESULT.replace("\"result\"", "\ndata: \"result\"");
        let folded = format!("data: {split}\r\rdata: later\r\r");
        let error = r#"{"jsonrpc":"2.0","id":1000000007,"error":{"code":-32602,"message":"no"}}"#;
        let tool = r#"{"jsonrpc":"2.0","id":1000000007,"result":{"content":[],"isError":true}}"#;
        let until_close = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{RESULT}");
        vec![
            (want(None), json(200, RESULT), Ok(())),
            (want(Some("hi")), json(200, RESULT), Ok(())),
            (want(Some("hi")), format!("HTTP/1.1 103 Early\r\nLink: x\r\n\r\n{}", json(200, RESULT)), Ok(())),
            (want(Some("ho")), json(200, RESULT), Err(Kind::WrongResult)),
            (want(Some("hi")), chunked("application/json; charset=utf-8", RESULT, 11), Ok(())),
            (want(Some("hi")), chunked("text/event-stream", &events, 17), Ok(())),
            (want(Some("hi")), chunked("text/event-stream", &folded, 1000), Ok(())),
            (want(None), until_close, Ok(())),
            (want(None), chunked("text/event-stream", ": nothing\n\n", 5), Err(Kind::NoAnswer)),
            (want(None), json(200, &RESULT.replace("07,", "08,")), Err(Kind::WrongId)),
            (want(None), json(200, error), Err(Kind::Rpc(-32602))),
            (want(None), json(200, tool), Err(Kind::Tool)),
            (want(None), json(503, error), Err(Kind::Status(503))),
            (want(None), json(200, r#"{"jsonrpc":"2.0","id":1000000007,"result":{}"#), Err(Kind::NotJson)),
            (want(None), json(200, r#"{"jsonrpc":"2.0","method":"x"}"#), Err(Kind::NotJson)),
            (want(None), json(200, RESULT).replace("application/json", "text/html"), Err(Kind::ContentType)),
            (want(None), json(200, RESULT).replace("HTTP/1.1", "HTTP/2.0"), Err(Kind::Http)),
            (want(None), json(200, RESULT)[..120].to_owned(), Err(Kind::Closed)),
            (Want::Accepted, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".into(), Ok(())),
            (Want::Accepted, json(400, "{}"), Err(Kind::Status(400))),
            (Want::Ended, json(405, "{}"), Ok(())),
            (Want::Status(429), json(429, "{}"), Ok(())),
            (Want::Status(429), json(200, RESULT), Err(Kind::Status(200))),
            (Want::Stream, json(200, RESULT), Err(Kind::ContentType)),
            (Want::Stream, json(405, "{}"), Err(Kind::Status(405))),
        ]
    }

    #[test]
    fn right_answers_pass_and_wrong_ones_are_told_by_kind() {
        for (want, bytes, expected) in cases() {
            assert_eq!(read(want, bytes.as_bytes(), usize::MAX), expected, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_verdict(piece in 1usize..200) {
            for (want, bytes, expected) in cases() {
                prop_assert_eq!(read(want, bytes.as_bytes(), piece), expected, "{}", bytes);
            }
        }
    }

    #[test]
    fn the_head_of_a_stream_is_its_answer_and_the_events_are_left() {
        let mut reader = Reader::default();
        reader.begin(Want::Stream);
        let mut bytes = chunked("text/event-stream", "data: 1\n\n", 100).into_bytes();
        let head = memchr::memmem::find(&bytes, b"\r\n\r\n").expect("a head") + 4;
        assert_eq!(reader.feed(&mut bytes).ok(), Some((head, Step::Done)));
        assert!(reader.verdict().is_ok() && reader.stream_body().is_some());
    }

    #[test]
    fn one_reader_reads_many_answers() {
        let mut reader = Reader::default();
        for (want, bytes, expected) in cases() {
            reader.begin(want);
            let mut bytes = bytes.into_bytes();
            let fed = reader.feed(&mut bytes);
            if let Ok((_, Step::Done)) = fed {
                assert_eq!(reader.verdict().map_err(|fault| fault.kind), expected);
            }
        }
    }
}
