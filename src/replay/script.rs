//! What a tape holds for those who replay it: for each thing that a client said, the course of what the server said because of it.
//!
//! Over stdio, and on streams that carry everything, the tape does not say why the server said something. An answer belongs to its
//! request, progress to the request with its token, and all else to the one request that is open, else to what the client said last.
//! In an HTTP exchange a stream belongs to its request.

use std::collections::HashMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use super::canon::{self, Key, Params};
use super::splice::Message;
use crate::tape;
use crate::wire::tape::{Entry, Frame, Head, Http, Line, Side, Transport};

/// Steps of all courses; each takes some 100 bytes.
const STEPS_MAX: usize = 8_000_000;
/// A modern client hears of changes on the stream of this.
const LISTEN: &str = "subscriptions/listen";

#[derive(Debug)]
pub struct Script {
    pub head: Head,
    file: File,
    /// The first is what the server says by itself.
    pub courses: Vec<Course>,
    /// Requests that are the same, in the order of the tape.
    pub calls: HashMap<Key, Vec<usize>>,
    /// Requests of a method.
    pub methods: HashMap<Box<str>, Vec<usize>>,
    /// Notifications of a method that led to something.
    pub notices: HashMap<Box<str>, Vec<usize>>,
    pub facts: Facts,
    /// Lines that could not be read, and frames that were not recorded.
    pub damaged: u64,
    pub lost: u64,
}

/// What the tape says of the server besides messages.
#[derive(Debug, Default)]
pub struct Facts {
    /// It gave out session ids.
    pub has_sessions: bool,
    /// There are requests of 2026-07-28 or later, and such that begin with `initialize`.
    pub is_modern: bool,
    pub is_legacy: bool,
    /// HTTP with SSE as of 2024-11-05: the path of the stream.
    pub one_stream: Option<String>,
    /// Path of what was posted.
    pub path: Option<String>,
    /// Of a GET for a stream, and of a DELETE.
    pub get_status: Option<u16>,
    pub delete_status: Option<u16>,
}

/// What one thing that the client said led to.
#[derive(Debug, Default)]
pub struct Course {
    /// Frame, and place of its line.
    pub seq: u64,
    pub line: Place,
    pub method: Box<str>,
    pub name: Option<Box<str>>,
    /// Something in it was replaced.
    pub redacted: bool,
    /// Of a request, JSON text.
    pub id: Option<Box<str>>,
    pub token: Option<Box<str>>,
    pub reply: Reply,
    pub steps: Vec<Step>,
    pub answered: bool,
    /// The client cancelled, or left.
    pub left_open: bool,
    last_us: u64,
}

/// How a request was answered over HTTP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reply {
    /// 0: nothing is known of it.
    pub status: u16,
    pub is_stream: bool,
}

#[derive(Debug)]
pub struct Step {
    /// After the step before, or the client's word that it waited for.
    pub wait_us: u64,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// A frame of the server's. `last`: the request is answered with it.
    Say { line: Place, to: To, last: bool },
    /// The client's answer to the request with this id came here; `None` if it was not kept whole.
    Await { id: Box<str>, answer: Option<Key> },
    /// The server closed the stream and was to be asked for the rest.
    Break,
}

/// Where something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// In answer to the request itself.
    Own,
    /// On the stream that a GET opens.
    Standalone,
    /// In answer to another request, which listens.
    Of(usize),
}

/// A line in the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    offset: u64,
    bytes: u32,
}

impl Script {
    /// # Errors
    /// The file cannot be read, is no tape, or too large to be replayed.
    pub fn read(path: &Path) -> Result<Script, tape::Error> {
        let mut reading = Reading::new(tape::head_of(path)?);
        let mut too_large = false;
        tape::read(path, |entry, _| {
            reading.line(entry);
            too_large = reading.steps > STEPS_MAX;
            if too_large { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let path = path.to_owned();
        if too_large {
            let why = format!("more than {STEPS_MAX} frames are too many to replay");
            return Err(tape::Error::NoTape { path, why });
        }
        match File::open(&path) {
            Ok(file) => Ok(reading.finish(file)),
            Err(error) => Err(tape::Error::Io { path, error }),
        }
    }

    /// Hands out a frame of the tape; `None`: it cannot be read any more.
    pub fn frame<T>(&self, place: Place, see: impl FnOnce(&Frame<'_>) -> T) -> Option<T> {
        let mut line = Vec::new();
        tape::line_at(&self.file, place.offset, place.bytes as usize, &mut line).ok()?;
        serde_json::from_slice(&line).ok().map(|frame: Frame<'_>| see(&frame))
    }

    /// The params of a recorded request.
    pub fn params(&self, course: usize) -> Params {
        let read = |frame: &Frame<'_>| {
            let message = message_of(frame);
            Params::of(message.and_then(|message| message.params).map(serde_json::value::RawValue::get))
        };
        self.frame(self.courses[course].line, read).unwrap_or_else(|| Params::of(None))
    }

    pub fn calls(&self) -> usize {
        self.calls.values().map(Vec::len).sum()
    }
}

/// What it says, on one line or on several.
fn message_of<'a>(frame: &'a Frame<'_>) -> Option<Message<'a>> {
    let text = frame.message.map(serde_json::value::RawValue::get).or(frame.text.as_deref())?;
    Message::parse(text)
}

/// A tape as far as it has been read.
struct Reading {
    script: Script,
    steps: usize,
    /// Requests of the client that are not answered, by id.
    open: HashMap<Box<str>, usize>,
    tokens: HashMap<Box<str>, usize>,
    /// Requests of the server that are not answered, by frame: whose they are.
    asked: HashMap<u64, (usize, Box<str>)>,
    /// What the client said last.
    latest: usize,
    exchanges: HashMap<u64, Exchange>,
    /// Which request, or else the stream of a GET, an event id was on.
    events: HashMap<Box<str>, Option<usize>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Exchange {
    course: Option<usize>,
    kind: Kind,
    is_stream: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Post,
    Get,
    Delete,
}

impl Reading {
    fn new(head: Head) -> Reading {
        let facts = Facts { has_sessions: head.session.is_some(), ..Facts::default() };
        // A file that reads as empty, until the tape's own is there.
        let file = File::open("/dev/null").expect("every system has it");
        let script = Script {
            head,
            file,
            courses: vec![Course { left_open: true, ..Course::default() }],
            calls: HashMap::new(),
            methods: HashMap::new(),
            notices: HashMap::new(),
            facts,
            damaged: 0,
            lost: 0,
        };
        Reading {
            script,
            steps: 0,
            open: HashMap::new(),
            tokens: HashMap::new(),
            asked: HashMap::new(),
            latest: 0,
            exchanges: HashMap::new(),
            events: HashMap::new(),
        }
    }

    fn finish(mut self, file: File) -> Script {
        let facts = &mut self.script.facts;
        // Over stdio a process is a session, which over HTTP needs an id.
        facts.has_sessions |= facts.is_legacy && self.script.head.transport == Transport::Stdio;
        Script { file, ..self.script }
    }

    fn line(&mut self, entry: &Entry<'_>) {
        match &entry.line {
            Ok(Line::Frame(frame)) => {
                let place = Place { offset: entry.offset, bytes: entry.bytes.len() as u32 };
                if self.script.head.transport == Transport::Stdio {
                    self.stdio(frame, place);
                } else {
                    self.http(frame, place);
                }
            }
            Ok(Line::Gap(gap)) => self.script.lost += gap.frames,
            Ok(_) => {}
            Err(_) => self.script.damaged += 1,
        }
    }

    fn stdio(&mut self, frame: &Frame<'_>, place: Place) {
        if frame.stream.is_some() {
            return;
        }
        if frame.from == Side::Client {
            self.client(frame, place);
        } else {
            self.anything(frame, place);
        }
    }

    /// Something of the server's, of which only its content says what it belongs to.
    fn anything(&mut self, frame: &Frame<'_>, place: Place) {
        let message = message_of(frame).unwrap_or_default();
        let answers = message.id().filter(|_| message.method.is_none()).and_then(|id| self.open.remove(id));
        let (course, last) = match (answers, message.progresses()) {
            (Some(course), _) => (course, true),
            (None, Some(token)) => (self.tokens.get(token).copied().unwrap_or(self.latest), false),
            (None, None) => {
                let mut open = self.open.values();
                let only = open.next().filter(|_| open.next().is_none());
                (only.copied().unwrap_or(self.latest), false)
            }
        };
        if last {
            self.script.courses[course].answered = true;
        }
        self.asks(&message, course, frame.seq);
        // Of a request itself: what nobody asked for has no place but the stream that is for that.
        let to = if self.script.courses[course].id.is_some() { To::Own } else { To::Standalone };
        self.step(course, frame.us, What::Say { line: place, to, last });
    }

    /// Remember a request of the server's.
    fn asks(&mut self, message: &Message<'_>, course: usize, seq: u64) {
        if let (Some(id), Some(_)) = (message.id(), &message.method) {
            self.asked.insert(seq, (course, id.into()));
        }
    }

    fn step(&mut self, course: usize, us: u64, what: What) {
        let course = &mut self.script.courses[course];
        // Of an answer in pieces, the last one is the end.
        if let (What::Say { last: true, .. }, Some(Step { what: What::Say { last, .. }, .. })) =
            (&what, course.steps.last_mut())
        {
            *last = false;
        }
        let wait_us = us.saturating_sub(course.last_us);
        course.last_us = us;
        course.steps.push(Step { wait_us, what });
        self.steps += 1;
    }

    /// A message of the client's; the request or notification that it is.
    fn client(&mut self, frame: &Frame<'_>, place: Place) -> Option<usize> {
        let message = message_of(frame)?;
        let Some(method) = &message.method else {
            let by_id = || {
                let mut asked = self.asked.iter();
                asked.find(|(_, (_, id))| Some(&**id) == message.id()).map(|(seq, _)| *seq)
            };
            let (course, id) = frame.answers.or_else(by_id).and_then(|seq| self.asked.remove(&seq))?;
            let [result, error] =
                [message.result, message.error].map(|value| value.map(serde_json::value::RawValue::get));
            let answer = (!frame.redacted && frame.cut == 0).then(|| canon::answer_key(result, error));
            self.step(course, frame.us, What::Await { id, answer });
            self.latest = course;
            return None;
        };
        let number = self.script.courses.len();
        let mut course = Course {
            seq: frame.seq,
            line: place,
            method: method.as_ref().into(),
            name: frame.rpc.as_ref().and_then(|rpc| rpc.name.as_deref()).map(Into::into),
            redacted: frame.redacted,
            last_us: frame.us,
            ..Course::default()
        };
        match message.id() {
            Some(id) => {
                course.id = Some(id.into());
                course.token = message.progress_token().map(Into::into);
                let params = Params::of(message.params.map(serde_json::value::RawValue::get));
                self.script.calls.entry(canon::key(method, &params)).or_default().push(number);
                self.script.methods.entry(method.as_ref().into()).or_default().push(number);
                self.open.insert(id.into(), number);
                if let Some(token) = &course.token {
                    self.tokens.insert(token.clone(), number);
                }
                self.script.facts.is_modern |= message.is_modern();
                self.script.facts.is_legacy |= &**method == "initialize" && !message.is_modern();
            }
            None => {
                course.left_open = true;
                self.script.notices.entry(method.as_ref().into()).or_default().push(number);
                let cancelled = message.cancels().filter(|_| &**method == "notifications/cancelled");
                if let Some(cancelled) = cancelled.and_then(|id| self.open.remove(id)) {
                    self.script.courses[cancelled].left_open = true;
                }
            }
        }
        self.script.courses.push(course);
        self.latest = number;
        Some(number)
    }

    fn http(&mut self, frame: &Frame<'_>, place: Place) {
        let Some(number) = frame.exchange else { return };
        let mut exchange = self.exchanges.get(&number).copied().unwrap_or_default();
        match &frame.http {
            Some(Http::Request { method, target, headers }) => exchange = self.request(method, target, headers),
            Some(Http::Response { status, headers }) => self.response(&mut exchange, *status, headers),
            Some(Http::Event { id, event, .. }) => {
                if event.as_deref() == Some("endpoint") {
                    // What it names is of then; a new one is made.
                    let facts = &mut self.script.facts;
                    facts.one_stream = Some(facts.path.clone().unwrap_or_default());
                    facts.has_sessions = true;
                } else {
                    self.event(exchange, id.as_deref(), frame, place);
                }
            }
            Some(Http::End { how }) => {
                self.end(exchange, how, frame.us);
                self.exchanges.remove(&number);
                return;
            }
            _ => {}
        }
        if frame.from == Side::Client {
            if exchange.kind == Kind::Post {
                exchange.course = self.client(frame, place).or(exchange.course);
            }
        } else if !exchange.is_stream && frame.content().is_some() {
            self.body(exchange, frame, place);
        }
        self.exchanges.insert(number, exchange);
    }

    fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)],
    ) -> Exchange {
        let path = || target.split('?').next().unwrap_or_default().to_owned();
        let kind = match method {
            "GET" => Kind::Get,
            "DELETE" => Kind::Delete,
            _ => {
                self.script.facts.path.get_or_insert_with(path);
                Kind::Post
            }
        };
        let mut exchange = Exchange { kind, ..Exchange::default() };
        if kind == Kind::Get {
            if self.script.facts.one_stream.is_none() && self.script.facts.path.is_none() {
                // Only if it is one of those will there be an endpoint, and then this is where it was asked for.
                self.script.facts.path = Some(path());
            }
            let last = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("last-event-id"));
            exchange.course = last.and_then(|(_, id)| self.events.get(&**id).copied().flatten());
        }
        exchange
    }

    fn response(
        &mut self,
        exchange: &mut Exchange,
        status: u16,
        headers: &[(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)],
    ) {
        let field = |wanted: &str| headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let kind = field("content-type").map(|(_, kind)| kind.as_ref()).unwrap_or_default();
        exchange.is_stream = kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream");
        let facts = &mut self.script.facts;
        match exchange.kind {
            Kind::Post => facts.has_sessions |= field("mcp-session-id").is_some(),
            // Of a GET for something else nothing follows.
            Kind::Get if exchange.is_stream || status == 405 => drop(facts.get_status.get_or_insert(status)),
            Kind::Get => {}
            Kind::Delete => drop(facts.delete_status.get_or_insert(status)),
        }
        if let (Some(course), Kind::Post) = (exchange.course, exchange.kind) {
            self.script.courses[course].reply = Reply { status, is_stream: exchange.is_stream };
        }
    }

    /// An answer without a stream, or a piece of it.
    fn body(&mut self, exchange: Exchange, frame: &Frame<'_>, place: Place) {
        let Some(course) = exchange.course.filter(|_| exchange.kind == Kind::Post) else { return };
        self.script.courses[course].answered = true;
        if let Some(id) = self.script.courses[course].id.clone() {
            self.open.remove(&id);
        }
        self.step(course, frame.us, What::Say { line: place, to: To::Own, last: true });
    }

    fn event(&mut self, exchange: Exchange, id: Option<&str>, frame: &Frame<'_>, place: Place) {
        if self.script.facts.one_stream.is_some() {
            return self.anything(frame, place);
        }
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            self.events.insert(id.into(), exchange.course);
        }
        let message = message_of(frame).unwrap_or_default();
        let (course, to) = match exchange.course {
            // What comes later on such a stream comes because of something else.
            Some(listens) if *self.script.courses[listens].method == *LISTEN && self.latest != listens => {
                (self.latest, To::Of(listens))
            }
            Some(course) => (course, To::Own),
            None => (self.latest, To::Standalone),
        };
        let is_answer = message.method.is_none() && message.id().is_some();
        let last = is_answer && to == To::Own && message.id() == self.script.courses[course].id.as_deref();
        if last {
            self.script.courses[course].answered = true;
            self.open.remove(message.id().unwrap_or_default());
        }
        self.asks(&message, course, frame.seq);
        self.step(course, frame.us, What::Say { line: place, to, last });
    }

    fn end(&mut self, exchange: Exchange, how: &str, us: u64) {
        let Some(course) = exchange.course else { return };
        if exchange.is_stream && !self.script.courses[course].answered {
            if how == "complete" {
                self.step(course, us, What::Break);
            } else {
                self.script.courses[course].left_open = true;
            }
        } else if how != "complete" && !self.script.courses[course].answered {
            self.script.courses[course].left_open = true;
        }
    }
}
