//! Exchanges of HTTP: a request, its answer, and how that ended. An exchange is on a tape once it is known on which: at once,
//! or with the answer that begins a session.

use std::borrow::Cow;

use super::{Assembly, Content, EXCHANGES_MAX, HELD_MAX, say};
use crate::base::SessionId;
use crate::tape::events::{Block, Splitter};
use crate::tape::frames::{Glance, Mark};
use crate::tape::numbers;
use crate::tape::queue::{Event, Kind, flag};
use crate::tape::shelf::{Key, Shelf};
use crate::telemetry::record::session_hash;
use crate::wire::redact::{INSTEAD, Rules};
use crate::wire::sealed;
use crate::wire::tape::{Frame, Headers, Http, Side};

/// Parameters that carry a session (2024-11-05).
const SESSION_PARAMETERS: [&str; 3] = ["sessionId", "session_id", "sessionid"];

/// A head, and what there is of the body.
#[derive(Default)]
struct Said {
    at: u64,
    head: Vec<u8>,
    body: Body,
}

#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    cut: u64,
    is_whole: bool,
    is_encoded: bool,
}

#[derive(Default)]
pub struct Exchange {
    connection: u64,
    session: Option<SessionId>,
    /// On which tape, and its number there; `None`: not known yet.
    place: Option<(Key, u64)>,
    /// Not on the tape yet.
    request: Option<Said>,
    response: Option<Said>,
    /// Of a body whose head is on the tape.
    request_body: Option<Body>,
    response_body: Option<Body>,
    events: Option<Splitter>,
    /// The id that it asks with, and the frame.
    asked: Option<(String, Mark)>,
    request_frame: Option<Mark>,
    upstream: String,
    is_own: bool,
    is_delete: bool,
    /// An answer that was on the tape with all of its body.
    is_answered: bool,
    status: u16,
}

impl Assembly {
    pub(super) fn see_exchange(&mut self, queue: usize, event: &Event, shelf: &mut Shelf) {
        let key = (queue, event.facts.exchange);
        if event.facts.kind == Kind::Request {
            if self.exchanges.len() >= EXCHANGES_MAX
                && let Some(oldest) = self.exchanges.keys().min_by_key(|(_, exchange)| *exchange).copied()
            {
                self.exchanges.remove(&oldest);
            }
            self.exchanges.insert(key, Exchange::default());
        }
        // Its request was lost, but how it ends may say on which tape.
        let mut exchange = self.exchanges.remove(&key).unwrap_or_default();
        let before = exchange.held();
        let keep = if self.held < HELD_MAX { self.keep } else { 0 };
        let mut scene = Scene { rules: &self.rules, keep, shelf, at: event.facts.at };
        let is_over = exchange.see(event, &mut scene);
        self.held = (self.held + exchange.held()).saturating_sub(before);
        if is_over {
            self.held = self.held.saturating_sub(exchange.held());
        } else {
            self.exchanges.insert(key, exchange);
        }
    }
}

/// What an exchange works with.
struct Scene<'a> {
    rules: &'a Rules,
    keep: usize,
    shelf: &'a mut Shelf,
    at: u64,
}

impl Exchange {
    /// Bytes that are kept until they are whole.
    fn held(&self) -> usize {
        let said = |said: &Option<Said>| said.as_ref().map_or(0, |said| said.body.bytes.len());
        let body = |body: &Option<Body>| body.as_ref().map_or(0, |body| body.bytes.len());
        let events = self.events.as_ref().map_or(0, Splitter::held);
        said(&self.request) + said(&self.response) + body(&self.request_body) + body(&self.response_body) + events
    }

    /// `true`: that was the end.
    fn see(&mut self, event: &Event, scene: &mut Scene<'_>) -> bool {
        let flags = event.facts.flags;
        let is = |flag| flags & flag != 0;
        match event.facts.kind {
            Kind::Request => {
                let numbers = numbers(&event.text);
                self.connection = numbers.first().copied().unwrap_or(0);
                let cut = numbers.get(1).copied().unwrap_or(0);
                self.session = session(&event.text[16.min(event.text.len())..]);
                self.is_delete = event.head.starts_with(b"DELETE ");
                let mut said = Said { at: scene.at, head: event.head.clone(), body: Body::default() };
                said.body.is_encoded = is(flag::ENCODED);
                said.body.add(&event.body, cut, is(flag::LAST), scene.keep);
                self.request = Some(said);
                if !is(flag::BEGINS) {
                    self.settle(scene);
                }
            }
            Kind::RequestBody => {
                let cut = numbers(&event.text).first().copied().unwrap_or(0);
                let body = self.request.as_mut().map(|said| &mut said.body).or(self.request_body.as_mut());
                if let Some(body) = body {
                    body.add(&event.body, cut, is(flag::LAST), scene.keep);
                }
                if is(flag::LAST) {
                    self.end_request_body(scene);
                }
            }
            Kind::Session => self.session = session(&event.text).or(self.session),
            Kind::Response => {
                self.is_own = is(flag::OWN);
                self.upstream = String::from_utf8_lossy(&event.text[8.min(event.text.len())..]).into_owned();
                self.status = status(&event.head);
                let mut said = Said { at: scene.at, head: event.head.clone(), body: Body::default() };
                said.body.is_encoded = is(flag::ENCODED);
                let cut = numbers(&event.text).first().copied().unwrap_or(0);
                said.body.add(&event.body, cut, is(flag::LAST), scene.keep);
                self.response = Some(said);
                if is(flag::EVENTS) && !is(flag::ENCODED) {
                    self.events = Some(Splitter::default());
                }
                // The first event of a stream may begin a session (2024-11-05).
                if self.events.is_none() || self.session.is_some() {
                    self.settle(scene);
                }
                if self.place.is_some() && (is(flag::LAST) || self.events.is_some()) {
                    self.respond(scene);
                }
            }
            Kind::ResponseBody => self.see_body(event, scene),
            Kind::End => {
                self.end(event, scene);
                return true;
            }
            Kind::Bytes => {}
        }
        false
    }

    fn see_body(&mut self, event: &Event, scene: &mut Scene<'_>) {
        let is_last = event.facts.flags & flag::LAST != 0;
        let cut = numbers(&event.text).first().copied().unwrap_or(0);
        self.settle(scene);
        if self.events.is_some() {
            if self.response.is_some() {
                self.respond(scene);
            }
            let mut events = self.events.take().unwrap_or_default();
            events.feed(&event.body, scene.keep, |block| self.tell(block, scene));
            self.events = Some(events);
            return;
        }
        match (&mut self.response, &mut self.response_body) {
            (Some(said), _) => said.body.add(&event.body, cut, is_last, scene.keep),
            (None, Some(body)) => body.add(&event.body, cut, is_last, scene.keep),
            (None, None) => return,
        }
        self.respond(scene);
        if is_last && let Some(body) = self.response_body.take() {
            self.frame_of_body(body, false, scene);
        }
    }

    /// It is known on which tape it belongs.
    fn settle(&mut self, scene: &mut Scene<'_>) {
        if self.place.is_none() {
            let key = self.session.as_ref().map(session_hash);
            let at = self.request.as_ref().map_or(scene.at, |said| said.at);
            self.place = Some((key, scene.shelf.begin_exchange(key, at)));
        }
        let Some(said) = self.request.take() else { return };
        let (method, target, headers, redacted) = request_head(scene.rules, &said.head);
        let mut frame = self.frame(Side::Client);
        frame.http = Some(Http::Request { method, target, headers });
        frame.redacted = redacted;
        let mut body = said.body;
        let content = if body.is_whole { body.content() } else { Content::default() };
        let put = self.put(frame, content, said.at, None, scene);
        self.request_frame = put;
        self.asks(content.bytes, put);
        if !body.is_whole {
            body.is_whole = false;
            self.request_body = Some(body);
        }
    }

    fn asks(&mut self, content: &[u8], put: Option<Mark>) {
        let glance = Glance::of(content).filter(|glance| glance.is_request());
        if let (Some(id), Some(put)) = (glance.and_then(|glance| glance.id), put) {
            self.asked = Some((id.get().to_owned(), put));
        }
    }

    fn end_request_body(&mut self, scene: &mut Scene<'_>) {
        // Before the tape is known the head waits with it.
        if let Some(body) = self.request_body.take() {
            self.frame_of_body(body, true, scene);
        }
    }

    /// The head of the answer, with its body if that is whole.
    fn respond(&mut self, scene: &mut Scene<'_>) {
        let Some(said) = self.response.take() else { return };
        let (headers, redacted) = response_head(scene.rules, &said.head);
        let mut frame = self.frame(if self.is_own { Side::Proxy } else { Side::Server });
        frame.http = Some(Http::Response { status: self.status, headers });
        frame.redacted = redacted;
        frame.error = self.status >= 400;
        let upstream = std::mem::take(&mut self.upstream);
        frame.upstream = (!upstream.is_empty()).then_some(Cow::Borrowed(upstream.as_str()));
        let body = said.body;
        self.is_answered = body.is_whole;
        let content = if body.is_whole { body.content() } else { Content::default() };
        self.put(frame, content, said.at, self.request_frame, scene);
        if !body.is_whole && self.events.is_none() {
            self.response_body = Some(body);
        }
    }

    fn frame_of_body(&mut self, body: Body, is_request: bool, scene: &mut Scene<'_>) {
        let mut frame = self.frame(match (is_request, self.is_own) {
            (true, _) => Side::Client,
            (false, true) => Side::Proxy,
            (false, false) => Side::Server,
        });
        frame.http = Some(Http::Body);
        let content = body.content();
        let put = self.put(frame, content, scene.at, None, scene);
        if is_request {
            self.asks(content.bytes, put);
        }
    }

    /// An event of a stream.
    fn tell(&self, block: Block, scene: &mut Scene<'_>) {
        let at = scene.at;
        for comment in &block.comments {
            let mut frame = self.frame(Side::Server);
            frame.http = Some(Http::Comment);
            self.put(frame, Content { bytes: comment, cut: 0, is_text: true }, at, None, scene);
        }
        let Block { id, event, retry, data, cut, .. } = block;
        if data.is_none() && id.is_none() && event.is_none() && retry.is_none() {
            return;
        }
        let mut data = data.unwrap_or_default();
        if event.as_deref() == Some("endpoint")
            && let Ok(text) = std::str::from_utf8(&data)
        {
            data = hide_session(text).into_owned().into_bytes();
        }
        let mut frame = self.frame(Side::Server);
        frame.http = Some(Http::Event { id: id.map(Cow::Owned), event: event.map(Cow::Owned), retry });
        self.put(frame, Content { bytes: &data, cut, is_text: false }, at, None, scene);
    }

    fn end(&mut self, event: &Event, scene: &mut Scene<'_>) {
        let numbers = numbers(&event.text);
        let (frames, bytes) = (numbers.first().copied().unwrap_or(0), numbers.get(1).copied().unwrap_or(0));
        let mut how = &event.text[16.min(event.text.len())..];
        if event.facts.flags & flag::SESSION != 0 {
            let (named, rest) = how.split_at(SessionId::LEN.min(how.len()));
            self.session = session(named).or(self.session);
            how = rest;
        }
        let was_asked = self.request.is_some() || self.place.is_some() || frames > 0;
        if !was_asked {
            return;
        }
        self.settle(scene);
        let Some((key, _)) = self.place else { return };
        if let Some(body) = self.request_body.take() {
            self.frame_of_body(body, true, scene);
        }
        self.respond(scene);
        if let Some(body) = self.response_body.take() {
            self.frame_of_body(body, false, scene);
        }
        if let Some(block) = self.events.as_mut().and_then(Splitter::rest) {
            self.tell(block, scene);
        }
        if frames > 0 {
            scene.shelf.lose(key, scene.at, frames, bytes);
        }
        // What is answered in one frame has ended with that.
        if how != b"complete" || !self.is_answered || frames > 0 {
            let mut frame = self.frame(Side::Proxy);
            frame.http = Some(Http::End { how: String::from_utf8_lossy(how).into_owned().into() });
            self.put(frame, Content::default(), scene.at, None, scene);
        }
        scene.shelf.end_exchange(key);
        let has_ended = self.is_delete && (200..300).contains(&self.status) && !self.is_own;
        if has_ended && key.is_some() {
            scene.shelf.finish(key);
        }
    }

    fn frame(&self, from: Side) -> Frame<'static> {
        let mut frame = Frame::new(0, from);
        frame.connection = Some(self.connection);
        frame.exchange = self.place.map(|(_, number)| number);
        frame
    }

    fn put(
        &self,
        frame: Frame<'_>,
        content: Content<'_>,
        at: u64,
        answers: Option<Mark>,
        scene: &mut Scene<'_>,
    ) -> Option<Mark> {
        let (key, _) = self.place?;
        let asked = self.asked.as_ref().map(|(id, frame)| (id.as_str(), *frame));
        say(scene.rules, scene.shelf, key, at, frame, content, answers, asked)
    }
}

impl Body {
    fn add(&mut self, bytes: &[u8], cut: u64, is_last: bool, keep: usize) {
        // What is encoded cannot be looked into for secrets.
        let room = if self.is_encoded { 0 } else { keep.saturating_sub(self.bytes.len()) };
        let (kept, over) = bytes.split_at(room.min(bytes.len()));
        self.bytes.extend_from_slice(kept);
        self.cut += over.len() as u64 + cut;
        self.is_whole |= is_last;
    }

    fn content(&self) -> Content<'_> {
        Content { bytes: &self.bytes, cut: self.cut, is_text: false }
    }
}

fn session(text: &[u8]) -> Option<SessionId> {
    SessionId::from_stored(text)
}

fn status(head: &[u8]) -> u16 {
    std::str::from_utf8(head.get(9..12).unwrap_or_default()).ok().and_then(|code| code.parse().ok()).unwrap_or(0)
}

// --- heads -----------------------------------------------------------------------------------------------------------

/// Method, target, fields, and whether anything was replaced.
fn request_head<'a>(rules: &Rules, head: &'a [u8]) -> (Cow<'a, str>, Cow<'a, str>, Headers<'a>, bool) {
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let hidden = hide_session(target);
    let cleaned = rules.text(&hidden);
    let redacted = *cleaned != *hidden;
    let target = cleaned.into_owned();
    let (headers, more) = fields(rules, lines);
    (method.into(), target.into(), headers, redacted || more)
}

fn response_head<'a>(rules: &Rules, head: &'a [u8]) -> (Headers<'a>, bool) {
    let lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    fields(rules, lines.skip(1))
}

fn fields<'a>(rules: &Rules, lines: impl Iterator<Item = &'a [u8]>) -> (Headers<'a>, bool) {
    let (mut headers, mut redacted) = (Headers::new(), false);
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default().trim_ascii());
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        let value = match name.eq_ignore_ascii_case("mcp-session-id") {
            true => Cow::Owned(hash_of(value.as_bytes())),
            false => {
                let cleaned = rules.field(&name, &value);
                redacted |= *cleaned != *value;
                Cow::Owned(cleaned.into_owned())
            }
        };
        headers.push((name, value));
    }
    (headers, redacted)
}

/// What stands for the id of a session.
fn hash_of(id: &[u8]) -> String {
    // What cannot be one may be anything.
    let named = SessionId::parse(id).or_else(|| sealed::name_of(id));
    named.map_or_else(|| INSTEAD.to_owned(), |id| format!("sha256:{}", String::from_utf8_lossy(&session_hash(&id))))
}

/// A target, or the URL of an `endpoint` event, without the id of a session in its query.
fn hide_session(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    let hidden = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if SESSION_PARAMETERS.contains(&name) => {
            Cow::Owned(format!("{name}={}", hash_of(value.as_bytes())))
        }
        _ => Cow::Borrowed(pair),
    });
    let hidden: Vec<Cow<'_, str>> = hidden.collect();
    Cow::Owned(format!("{path}?{}", hidden.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_lose_their_secrets_and_nothing_else() {
        let head = b"POST /m?sessionId=aGVsbG8taGVsbG8taGVsbG8taGVsbG8t&token=abc&x=1 HTTP/1.1\r\nHost: a\r\n\
            Authorization: Bearer abc\r\nMcp-Session-Id: aGVsbG8taGVsbG8taGVsbG8taGVsbG8t\r\nCookie: a=b\r\nAccept: */*\r\n\r\n";
        let (method, target, headers, redacted) = request_head(&Rules::default(), head);
        let hash = hash_of(b"aGVsbG8taGVsbG8taGVsbG8taGVsbG8t");
        assert!(hash.starts_with("sha256:") && hash.len() == 23);
        assert_eq!((&*method, redacted), ("POST", true));
        assert_eq!(target, format!("/m?sessionId={hash}&token={INSTEAD}&x=1"));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("Host", "a"),
            ("Authorization", INSTEAD),
            ("Mcp-Session-Id", &hash),
            ("Cookie", INSTEAD),
            ("Accept", "*/*"),
        ];
        assert_eq!(headers, expected);
        let (headers, redacted) = response_head(&Rules::default(), b"HTTP/1.1 200 OK\r\nA:  b \r\n\r\n");
        assert_eq!((headers, redacted), (vec![("A".into(), "b".into())], false));
    }
}
