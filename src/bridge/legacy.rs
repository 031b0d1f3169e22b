//! The legacy era, 2024-11-05 to 2025-11-25: `initialize` starts a process, and everything of its session goes there as it is.

use std::sync::Arc;

use super::Server;
use super::answers::{self, Asked};
use super::message::{Parts, error_code};
use super::session::{self, NotTaken, Session};
use crate::base::SessionId;
use crate::net::spawn;
use crate::origin::message::{self, Message, Version};
use crate::origin::refusal::{NO_SESSION, REFUSED};
use crate::origin::{Ended, EventLog, Late, Next, Outgoing, Reader, Whole, parse_event_id};
use crate::wire::mcp::code;

/// Messages in one batch.
const BATCH_MAX: usize = 100;

/// A POST of one message.
pub fn post(server: &Arc<Server>, asked: &mut Asked<'_>, text: &str, message: &Message<'_>, parts: &Parts<'_>) -> Next {
    if let Message::Request { id, method, .. } = message
        && method == "initialize"
    {
        return initialize(server, asked, text, id, parts);
    }
    let id = match message {
        Message::Request { id, .. } => Some(*id),
        _ => None,
    };
    let session = match find(server, asked, id) {
        Ok(session) => session,
        Err(next) => return next,
    };
    match message {
        Message::Request { id, .. } => {
            let (log, reader) = open(&session);
            match session.call(text, id, parts, &log) {
                Ok(()) => answer(session, reader),
                Err(why) => {
                    forget(&session, &reader);
                    not_taken(asked, Some(id), why)
                }
            }
        }
        Message::Notification { method, .. } => match session.tell(text) {
            Ok(()) => {
                if let (true, Some(id)) = (method == "notifications/cancelled", parts.request_id) {
                    session.forget(id.get());
                }
                asked.done(202)
            }
            Err(why) => asked.not_taken(None, why),
        },
        Message::Response { .. } => match session.tell(text) {
            Ok(()) => asked.done(202),
            Err(why) => asked.not_taken(None, why),
        },
    }
}

/// A POST of several messages, which only 2025-03-26 knows: the server gets one after the other.
pub fn batch(server: &Arc<Server>, asked: &mut Asked<'_>, body: &[u8]) -> Next {
    let session = match find(server, asked, None) {
        Ok(session) => session,
        Err(next) => return next,
    };
    if session.version() != Version::V2025_03_26 {
        let reason = "Invalid request: this protocol version has no batches";
        return asked.refuse(400, None, code::INVALID_REQUEST, reason);
    }
    let messages = message::batch(body).unwrap_or_default();
    if messages.is_empty() || messages.len() > BATCH_MAX {
        return asked.refuse(400, None, code::INVALID_REQUEST, "Invalid request: a batch has 1 to 100 messages");
    }
    let mut parsed = Vec::with_capacity(messages.len());
    for raw in messages {
        let message = match message::parse(raw.get().as_bytes()) {
            Ok(message) => message,
            Err(bad) => return asked.refuse(400, bad.id, bad.code, bad.reason),
        };
        let params = match &message {
            Message::Request { params, .. } | Message::Notification { params, .. } => *params,
            Message::Response { .. } => None,
        };
        let Some(parts) = Parts::of(params) else { return bad_params(asked, None) };
        parsed.push((raw.get(), message, parts));
    }
    let (log, reader) = open(&session);
    let mut calls = 0;
    for (text, message, parts) in &parsed {
        let taken = match message {
            Message::Request { id, .. } => {
                calls += 1;
                session.call(text, id, parts, &log)
            }
            _ => session.tell(text).map_err(NotTaken::from),
        };
        if let Err(why) = taken {
            // What was sent is answered to nobody.
            forget(&session, &reader);
            return not_taken(asked, None, why);
        }
    }
    match calls {
        0 => {
            forget(&session, &reader);
            asked.done(202)
        }
        _ => answer(session, reader),
    }
}

/// GET: the standalone stream, or the one that `Last-Event-ID` is of.
pub fn get(server: &Arc<Server>, asked: &mut Asked<'_>) -> Next {
    if !asked.request.accepts.events() {
        return asked.refuse(406, None, REFUSED, "Not acceptable: accept text/event-stream");
    }
    let session = match find(server, asked, None) {
        Ok(session) => session,
        Err(next) => return next,
    };
    let reader = match asked.request.last_event_id.map(parse_event_id) {
        None => session.streams.standalone().attach(None),
        Some(None) => return asked.refuse(400, None, REFUSED, "Bad request: no event has this Last-Event-ID"),
        Some(Some((number, sequence))) => match session.streams.find(number) {
            Some(log) => log.attach(Some(sequence)),
            // Forgotten: what is left to say comes on the standalone stream.
            None => session.streams.standalone().attach(None),
        },
    };
    Next::Stream(stream(&session, reader, None))
}

pub fn delete(server: &Arc<Server>, asked: &mut Asked<'_>) -> Next {
    match find(server, asked, None) {
        Ok(session) => {
            server.sessions.end(&session.id);
            asked.done(200)
        }
        Err(next) => next,
    }
}

fn initialize(server: &Arc<Server>, asked: &mut Asked<'_>, text: &str, id: &str, parts: &Parts<'_>) -> Next {
    if let Some(session) = asked.request.session {
        let (status, code, reason) = match server.sessions.find(session) {
            Some(_) => (400, code::INVALID_REQUEST, "Invalid request: the session is initialized already"),
            None => (404, NO_SESSION, "Session not found"),
        };
        return asked.refuse(status, Some(id), code, reason);
    }
    let Some(version) = &parts.protocol_version else {
        return asked.refuse(400, Some(id), code::INVALID_PARAMS, "Invalid params: protocolVersion is required");
    };
    let version = Version::parse(version.as_bytes()).unwrap_or(Version::LATEST);
    let (queue, lines) = match server.children.start() {
        Ok(started) => started,
        Err(why) => return asked.not_started(Some(id), why),
    };
    let session = Arc::new(Session::new(queue, version, id));
    let (log, reader) = open(&session);
    server.sessions.insert(session.id, session.clone());
    spawn(session::listen(server.clone(), session.clone(), lines));
    if let Err(why) = session.call(text, id, parts, &log) {
        server.sessions.end(&session.id);
        return not_taken(asked, Some(id), why);
    }
    // Until the client has its id, nobody can use the session.
    let unclaimed = Unclaimed { server: server.clone(), id: Some(session.id) };
    Next::Later(Box::pin(async move {
        match answers::whole(reader).await {
            Ok(json) => {
                let begun = error_code(&json).is_none();
                let session = if begun { unclaimed.claim() } else { None };
                Late::Body(Whole { status: 200, session, json: json.into() })
            }
            Err(reader) => Late::Stream(stream(&session, reader, unclaimed.claim())),
        }
    }))
}

/// A session whose id its client has not got; dropping it ends the session.
struct Unclaimed {
    server: Arc<Server>,
    id: Option<SessionId>,
}

impl Unclaimed {
    fn claim(mut self) -> Option<SessionId> {
        self.id.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.server.sessions.end(&id);
        }
    }
}

/// A new stream of the session for an answer.
fn open(session: &Session) -> (Arc<EventLog>, Reader) {
    let log = session.streams.open();
    let reader = log.attach(None);
    (log, reader)
}

/// Leaving does not cancel in this era: the stream stays for the client to resume.
fn answer(session: Arc<Session>, reader: Reader) -> Next {
    let number = reader.number();
    Next::Later(Box::pin(async move {
        match answers::whole(reader).await {
            Ok(json) => {
                number.into_iter().for_each(|number| session.streams.forget(number));
                Late::Body(Whole { status: 200, session: None, json: json.into() })
            }
            Err(reader) => Late::Stream(stream(&session, reader, None)),
        }
    }))
}

fn stream(session: &Arc<Session>, reader: Reader, id: Option<SessionId>) -> Outgoing {
    let (number, session) = (reader.number(), session.clone());
    let mut first = Vec::new();
    if session.version() >= Version::V2025_11_25 {
        reader.prime(&mut first);
    }
    let done = move |ended| {
        if let (Ended::Whole, Some(number)) = (ended, number) {
            session.streams.forget(number);
        }
    };
    Outgoing { session: id, first, ..Outgoing::new(reader, done) }
}

fn forget(session: &Session, reader: &Reader) {
    reader.number().into_iter().for_each(|number| session.streams.forget(number));
}

/// Session and version of a request (Streamable HTTP 2025-11-25, "Session Management", "Protocol Version Header").
fn find(server: &Server, asked: &mut Asked<'_>, id: Option<&str>) -> Result<Arc<Session>, Next> {
    if asked.request.version.is_some_and(|version| Version::parse(version).is_none()) {
        return Err(asked.refuse(400, id, REFUSED, "Bad request: unsupported MCP-Protocol-Version"));
    }
    let Some(session) = asked.request.session else {
        return Err(asked.refuse(400, id, REFUSED, "Bad request: Mcp-Session-Id is required"));
    };
    server.sessions.find(session).ok_or_else(|| asked.refuse(404, id, NO_SESSION, "Session not found"))
}

fn not_taken(asked: &mut Asked<'_>, id: Option<&str>, why: NotTaken) -> Next {
    match why {
        NotTaken::Twice => {
            let reason = "Invalid request: a request with this id is still running";
            asked.refuse(400, id, code::INVALID_REQUEST, reason)
        }
        NotTaken::TooMany => asked.refuse_for_now(id, "too many requests of this session are running", 1),
        NotTaken::Refused(why) => asked.not_taken(id, why),
    }
}

pub fn bad_params(asked: &mut Asked<'_>, id: Option<&str>) -> Next {
    asked.refuse(400, id, code::INVALID_PARAMS, "Invalid params: a member has the wrong type or occurs twice")
}
