//! A tape over HTTP: the paths, methods and sessions of the server that was recorded, in its era.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::conversation::{Called, Conversation};
use super::splice::Message;
use super::stage::RunId;
use super::{Script, Speed};
use crate::net::driver::Choice;
use crate::net::spawn as start;
use crate::origin::{
    self, Late, Next, Outgoing, Reply, Request, Running, Service, Sessions, Whole, local, message, new_id, refusal,
};
use crate::wire::http1::head::Method;
use crate::wire::sse;
use crate::wire::tape::Transport;

/// Where clients look, whatever the path was.
const PATH: &str = "/mcp";
/// Where clients post in 2024-11-05; the one of the tape held an id of then.
const MESSAGES: &str = "/messages";

struct Replay {
    script: Arc<Script>,
    speed: Speed,
    sessions: Sessions<Conversation>,
    /// Of all who have no session.
    shared: Arc<Conversation>,
    loopback_only: bool,
}

/// Serve the tape on `bind`; where that is, and the path to it.
///
/// # Errors
/// The address cannot be bound.
pub fn spawn(script: Arc<Script>, speed: Speed, bind: SocketAddr, choice: Choice) -> io::Result<(Running, String)> {
    let facts = &script.facts;
    let path = facts.one_stream.clone().or_else(|| facts.path.clone()).unwrap_or_else(|| PATH.to_owned());
    let shared = Conversation::new(&script, speed, None);
    let (task, loopback_only) = (Arc::clone(&shared), bind.ip().is_loopback());
    let replay = Arc::new(Replay { script, speed, sessions: Sessions::default(), shared, loopback_only });
    // One thread: the tasks of conversations run beside the connections that they are for.
    let running = origin::spawn("replay", bind, 1, choice, &replay, move || start(task.play()))?;
    Ok((running, path))
}

impl Service for Replay {
    fn answer(self: &Arc<Self>, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
        if request.path == b"/health" {
            origin::answer(out, 200, Reply { content_type: "text/plain", ..Reply::to(request) }, b"ok\n");
            return Next::Answered;
        }
        if self.loopback_only && !local::is_local(request) {
            refusal::refuse(request, json, out, 403, "Forbidden: only local Host and Origin are served");
            return Next::Answered;
        }
        let facts = &self.script.facts;
        let is = |path: &Option<String>| path.as_ref().is_some_and(|path| path.as_bytes() == request.path);
        if facts.one_stream.is_some() {
            match request.method {
                Method::Get if is(&facts.one_stream) => return self.one_stream(),
                Method::Post if request.path == MESSAGES.as_bytes() => return self.message(request, json, out),
                _ => {}
            }
        } else if is(&facts.path) || request.path == PATH.as_bytes() {
            match request.method {
                Method::Post => return self.post(request, json, out),
                Method::Get => return self.get(request, json, out),
                Method::Delete => return self.delete(request, json, out),
                _ => refusal::refuse_method(request, json, out, "POST, GET, DELETE"),
            }
            return Next::Answered;
        }
        refusal::refuse(request, json, out, 404, "Not found: the tape has no such path");
        Next::Answered
    }
}

impl Replay {
    fn post(self: &Arc<Self>, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
        let Some(text) = text_of(request, json, out) else { return Next::Answered };
        let message = Message::parse(text).unwrap_or_default();
        let begins = message.method.as_deref() == Some("initialize") && !message.is_modern();
        let by_header = request.version == Some(message::MODERN_VERSION.as_bytes()) && !begins;
        let is_modern = message.is_modern() || by_header;
        let conversation = if is_modern || !self.script.facts.has_sessions {
            Arc::clone(&self.shared)
        } else if begins && self.script.facts.is_legacy {
            self.begin()
        } else if begins {
            Arc::clone(&self.shared)
        } else {
            match self.session(request, json, out) {
                Some(session) => session,
                None => return Next::Answered,
            }
        };
        let leaving_cancels = is_modern;
        match conversation.hear(text) {
            Called::Taken => origin::answer(out, 202, Reply::to(request), b""),
            Called::Answer(answer) => origin::answer(out, 200, Reply::to(request), answer.as_bytes()),
            Called::Later(later, run) => {
                let waiting = Waiting { conversation, run, cancels: leaving_cancels, is_answered: false };
                return Next::Later(Box::pin(async move {
                    // As a whole, so that it is dropped with the future.
                    let mut waiting = waiting;
                    let answer = later.await;
                    waiting.is_answered = true;
                    // The session ended.
                    let gone = Whole { status: 404, session: None, json: Vec::new() };
                    Late::Body(answer.unwrap_or(gone))
                }));
            }
            Called::Stream(reader, run) => {
                if !request.accepts.events() {
                    conversation.ended(run, origin::Ended::ClientLeft, true);
                    let reason = "Not acceptable: on the tape this is answered with text/event-stream";
                    refusal::refuse(request, json, out, 406, reason);
                    return Next::Answered;
                }
                let session = conversation.id.filter(|_| begins);
                let done = move |how| conversation.ended(run, how, leaving_cancels);
                return Next::Stream(Outgoing { session, ..Outgoing::new(reader, done) });
            }
        }
        Next::Answered
    }

    /// A conversation with a session of its own.
    fn begin(&self) -> Arc<Conversation> {
        let id = new_id();
        let conversation = Conversation::new(&self.script, self.speed, Some(id));
        self.sessions.insert(id, Arc::clone(&conversation));
        start(Arc::clone(&conversation).play());
        conversation.open();
        conversation
    }

    fn get(&self, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
        let facts = &self.script.facts;
        // Over stdio everybody hears what is said by itself.
        let streams = facts.get_status == Some(200) || self.script.head.transport == Transport::Stdio;
        if !streams {
            refusal::refuse_method(request, json, out, "POST, DELETE");
            return Next::Answered;
        }
        if !request.accepts.events() {
            refusal::refuse(request, json, out, 406, "Not acceptable: accept text/event-stream");
            return Next::Answered;
        }
        let conversation = if facts.has_sessions {
            match self.session(request, json, out) {
                Some(session) => session,
                None => return Next::Answered,
            }
        } else {
            Arc::clone(&self.shared)
        };
        let after = request.last_event_id.and_then(|id| std::str::from_utf8(id).ok());
        match conversation.attach(after) {
            Some(reader) => Next::Stream(Outgoing::new(reader, |_| {})),
            None => {
                refusal::refuse(request, json, out, 400, "Bad request: no event has this Last-Event-ID");
                Next::Answered
            }
        }
    }

    fn delete(&self, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
        if let Some(session) = self.session(request, json, out) {
            let status = self.script.facts.delete_status.unwrap_or(200);
            if let Some(id) = session.id.filter(|_| status < 300) {
                self.sessions.end(&id);
            }
            origin::answer(out, status, Reply::to(request), b"");
        }
        Next::Answered
    }

    /// The session that the request names; else it has been refused.
    fn session(&self, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Option<Arc<Conversation>> {
        let Some(id) = request.session else {
            refusal::refuse(request, json, out, 400, "Bad request: Mcp-Session-Id is required");
            return None;
        };
        let found = self.sessions.find(id);
        if found.is_none() {
            refusal::unknown_session(request, json, out);
        }
        found
    }

    /// 2024-11-05: the stream that carries everything; its end is that of the session.
    fn one_stream(self: &Arc<Self>) -> Next {
        let conversation = self.begin();
        let id = conversation.id.expect("it was begun with one");
        let first = format!("event: endpoint\ndata: {MESSAGES}?sessionId={}\n\n", id.as_str()).into_bytes();
        let reader = conversation.attach(None).expect("it has a stream");
        let replay = Arc::clone(self);
        let done = move |_| {
            replay.sessions.end(&id);
        };
        Next::Stream(Outgoing { first, ..Outgoing::new(reader, done) })
    }

    /// POST of 2024-11-05: 202, and the answer on the session's stream.
    fn message(&self, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
        let Some(text) = text_of(request, json, out) else { return Next::Answered };
        let id = sse::query_parameter(request.path_and_query, b"sessionId");
        match id.and_then(|id| self.sessions.find(id.of(request.path_and_query))) {
            Some(session) => {
                if let Called::Answer(answer) = session.hear(text) {
                    session.say(answer);
                }
                origin::answer(out, 202, Reply::to(request), b"");
            }
            None => refusal::unknown_session(request, json, out),
        }
        Next::Answered
    }
}

/// Dropped before the answer is there, it tells that the client left.
struct Waiting {
    conversation: Arc<Conversation>,
    run: RunId,
    cancels: bool,
    is_answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_answered {
            self.conversation.ended(self.run, origin::Ended::ClientLeft, self.cancels);
        }
    }
}

/// The body, if it is text that says it is JSON; else the request has been refused.
fn text_of<'a>(request: &Request<'a>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Option<&'a str> {
    if !request.is_json() {
        refusal::refuse(request, json, out, 415, "Unsupported media type: send application/json");
        return None;
    }
    match std::str::from_utf8(request.body) {
        Ok(text) => Some(text),
        Err(_) => {
            refusal::refuse(request, json, out, 400, "Bad request: the body is not UTF-8");
            None
        }
    }
}
