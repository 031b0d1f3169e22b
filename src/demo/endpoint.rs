//! From an HTTP request to what is to be sent: paths, methods, and who may ask at all.

use std::sync::Arc;

use super::legacy;
use super::mcp::{self, Answer, Outcome, Server, Stream};
use super::message::{self, Version};
use super::mirrored::Headers;
use super::reply;
use super::session::{self, Session};
use super::work::Work;
use crate::origin::{self, Reader, Reply, Request, local, parse_event_id, refusal};
use crate::wire::http1::head::Method;
use crate::wire::sse;

/// What is to be done for the rest of the answer.
pub enum Next {
    /// The whole answer was appended.
    Answered,
    /// Send the stream of a call.
    Call(Stream),
    /// Send the stream that a GET opened; the session is there to forget what was delivered.
    Attach(Reader, Arc<Session>),
    /// Send the one stream of a 2024-11-05 session, which ends with it.
    OneStream(Arc<Session>),
    /// 2024-11-05: answered with 202; the work writes to its session's stream.
    Background(Work, Arc<Session>),
}

fn headers<'a>(request: &Request<'a>) -> Headers<'a> {
    Headers {
        session: request.session,
        version: request.version,
        method: request.mcp_method,
        name: request.mcp_name,
        // Of two, none: the call is refused for that where the region matters.
        region: request.other(b"mcp-param-region").unwrap_or_default(),
    }
}

/// Answers one request; `json` is room to write a body in, `out` gets the HTTP answer.
pub fn answer(server: &Server, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    if request.path == b"/health" {
        origin::answer(out, 200, Reply { content_type: "text/plain", ..Reply::to(request) }, b"ok\n");
        return Next::Answered;
    }
    if server.loopback_only && !local::is_local(request) {
        return refuse(request, json, out, 403, "Forbidden: only local Host and Origin are served");
    }
    match (request.path, request.method) {
        (b"/mcp", Method::Post) => post(server, request, json, out),
        (b"/mcp", Method::Get) => get(server, request, json, out),
        (b"/mcp", Method::Delete) => delete(server, request, json, out),
        (b"/sse", Method::Get) => Next::OneStream(session::create(&server.sessions, None)),
        (b"/messages", Method::Post) => message(server, request, json, out),
        (b"/mcp", _) => refuse_method(request, json, out, "POST, GET, DELETE"),
        (b"/sse", _) => refuse_method(request, json, out, "GET"),
        (b"/messages", _) => refuse_method(request, json, out, "POST"),
        _ => refuse(request, json, out, 404, "Not found: MCP is at /mcp, its 2024-11-05 transport at /sse"),
    }
}

fn post(server: &Server, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    if !request.is_json() {
        return refuse(request, json, out, 415, "Unsupported media type: send application/json");
    }
    if !request.accepts.json() && !request.accepts.events() {
        return refuse(request, json, out, 406, "Not acceptable: accept application/json and text/event-stream");
    }
    match mcp::post(server, &headers(request), request.body, json) {
        Answer::Accepted => origin::answer(out, 202, Reply::to(request), b""),
        Answer::Body(status) => origin::answer(out, status, Reply::to(request), json),
        Answer::Created(session) => {
            let reply = Reply { session: Some(session.id.as_str()), ..Reply::to(request) };
            origin::answer(out, 200, reply, json);
        }
        Answer::Stream(stream) if request.accepts.events() => return Next::Call(stream),
        // Dropping the works cancels those without a session; the others are taken out here.
        Answer::Stream(stream) => {
            stream.works.iter().for_each(|work| work.forget());
            return refuse(request, json, out, 406, "Not acceptable: this call answers with text/event-stream");
        }
    }
    Next::Answered
}

/// Opens the standalone stream, or resumes the one that `Last-Event-ID` is of.
fn get(server: &Server, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    if server.stateless {
        return refuse_method(request, json, out, "POST");
    }
    if !request.accepts.events() {
        return refuse(request, json, out, 406, "Not acceptable: accept text/event-stream");
    }
    let session = match session(server, request, json, out) {
        Ok(session) => session,
        Err(next) => return next,
    };
    let Some(last) = request.last_event_id else {
        return Next::Attach(session.streams.standalone().attach(None), session);
    };
    let Some((number, sequence)) = parse_event_id(last) else {
        return refuse(request, json, out, 400, "Bad request: no event has this Last-Event-ID");
    };
    let reader = match session.streams.find(number) {
        Some(log) => log.attach(Some(sequence)),
        // Forgotten: what is left to say comes on the standalone stream.
        None => session.streams.standalone().attach(None),
    };
    Next::Attach(reader, session)
}

fn delete(server: &Server, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    if server.stateless {
        return refuse_method(request, json, out, "POST");
    }
    match session(server, request, json, out) {
        Ok(session) => {
            server.sessions.end(&session.id);
            origin::answer(out, 200, Reply::to(request), b"");
            Next::Answered
        }
        Err(next) => next,
    }
}

/// The session of a GET or DELETE.
fn session(
    server: &Server,
    request: &Request<'_>,
    json: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Arc<Session>, Next> {
    let headers = headers(request);
    if headers.version.is_some_and(|version| Version::parse(version).is_none()) {
        return Err(refuse(request, json, out, 400, "Bad request: unsupported MCP-Protocol-Version"));
    }
    let Some(id) = headers.session else {
        return Err(refuse(request, json, out, 400, "Bad request: Mcp-Session-Id is required"));
    };
    server.sessions.find(id).ok_or_else(|| unknown_session(request, json, out))
}

/// POST of the 2024-11-05 transport: 202, and the answer on the session's stream.
fn message(server: &Server, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    if !request.is_json() {
        return refuse(request, json, out, 415, "Unsupported media type: send application/json");
    }
    let Some(id) = sse::query_parameter(request.path_and_query, b"sessionId") else {
        return refuse(request, json, out, 400, "Bad request: sessionId is required");
    };
    let Some(session) = server.sessions.find(id.of(request.path_and_query)).filter(|session| session.streams.is_one())
    else {
        return unknown_session(request, json, out);
    };
    let message = match message::parse(request.body) {
        Ok(message) => message,
        Err(bad) => {
            reply::error(json, bad.id, bad.code, bad.reason);
            origin::answer(out, 400, Reply::to(request), json);
            return Next::Answered;
        }
    };
    let caller = legacy::caller_of(Arc::clone(&session));
    let outcome = legacy::serve(server, &caller, message, json);
    origin::answer(out, 202, Reply::to(request), b"");
    match outcome {
        Outcome::Body(_) => session.streams.standalone().push(json),
        Outcome::Work(work) => return Next::Background(work, session),
        Outcome::Accepted | Outcome::Listen(_) => {}
    }
    Next::Answered
}

fn refuse_method(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>, allow: &'static str) -> Next {
    refusal::refuse_method(request, json, out, allow);
    Next::Answered
}

fn refuse(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>, status: u16, reason: &str) -> Next {
    refusal::refuse(request, json, out, status, reason);
    Next::Answered
}

fn unknown_session(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    refusal::unknown_session(request, json, out);
    Next::Answered
}
