//! From an HTTP request to what is to be sent: paths, methods, and who may ask at all.

use std::net::IpAddr;
use std::sync::Arc;

use super::events::{Reader, parse_event_id};
use super::http::{self, Reply, Request, Transport};
use super::legacy;
use super::mcp::{self, Answer, Outcome, Server, Stream};
use super::message::{self, Version};
use super::mirrored::Headers;
use super::reply;
use super::session::Session;
use super::work::Work;
use crate::wire::http1::head::Method;
use crate::wire::sse;

const JSON: &str = "application/json";

/// What the connection does next.
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

/// The beginnings of an answer to this request.
pub fn reply(request: &Request<'_>) -> Reply<'static> {
    let Transport { http10, keep_alive } = request.transport;
    Reply { content_type: JSON, close: !keep_alive, says_keep_alive: http10 && keep_alive, ..Reply::default() }
}

fn headers<'a>(request: &Request<'a>) -> Headers<'a> {
    Headers {
        session: request.session,
        version: request.version,
        method: request.mcp_method,
        name: request.mcp_name,
        region: request.region,
    }
}

/// Answers one request; `json` is room to write a body in, `out` gets the HTTP answer.
pub fn answer(server: &Server, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    json.clear();
    if request.path == b"/health" {
        http::answer(out, 200, Reply { content_type: "text/plain", ..reply(request) }, b"ok\n");
        return Next::Answered;
    }
    if server.loopback_only && !is_local(request) {
        return refuse(request, json, out, 403, "Forbidden: only local Host and Origin are served");
    }
    match (request.path, request.method) {
        (b"/mcp", Method::Post) => post(server, request, json, out),
        (b"/mcp", Method::Get) => get(server, request, json, out),
        (b"/mcp", Method::Delete) => delete(server, request, json, out),
        (b"/sse", Method::Get) => Next::OneStream(server.sessions.create(None)),
        (b"/messages", Method::Post) => message(server, request, json, out),
        (b"/mcp", _) => refuse_method(request, json, out, "POST, GET, DELETE"),
        (b"/sse", _) => refuse_method(request, json, out, "GET"),
        (b"/messages", _) => refuse_method(request, json, out, "POST"),
        _ => refuse(request, json, out, 404, "Not found: MCP is at /mcp, its 2024-11-05 transport at /sse"),
    }
}

fn post(server: &Server, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    if !is_json(request) {
        return refuse(request, json, out, 415, "Unsupported media type: send application/json");
    }
    if !request.accepts.json() && !request.accepts.events() {
        return refuse(request, json, out, 406, "Not acceptable: accept application/json and text/event-stream");
    }
    match mcp::post(server, &headers(request), request.body, json) {
        Answer::Accepted => http::answer(out, 202, reply(request), b""),
        Answer::Body(status) => http::answer(out, status, reply(request), json),
        Answer::Created(session) => {
            let reply = Reply { session: Some(session.id.as_str()), ..reply(request) };
            http::answer(out, 200, reply, json);
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
        return Next::Attach(session.standalone().attach(None), session);
    };
    let Some((number, sequence)) = parse_event_id(last) else {
        return refuse(request, json, out, 400, "Bad request: no event has this Last-Event-ID");
    };
    let reader = match session.stream(number) {
        Some(log) => log.attach(Some(sequence)),
        // Forgotten: what is left to say comes on the standalone stream.
        None => session.standalone().attach(None),
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
            http::answer(out, 200, reply(request), b"");
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
    if !is_json(request) {
        return refuse(request, json, out, 415, "Unsupported media type: send application/json");
    }
    let Some(id) = sse::query_parameter(request.path_and_query, b"sessionId") else {
        return refuse(request, json, out, 400, "Bad request: sessionId is required");
    };
    let Some(session) = server.sessions.find(id.of(request.path_and_query)).filter(|session| session.one_stream) else {
        return unknown_session(request, json, out);
    };
    let message = match message::parse(request.body) {
        Ok(message) => message,
        Err(bad) => {
            reply::error(json, bad.id, bad.code, bad.reason);
            http::answer(out, 400, reply(request), json);
            return Next::Answered;
        }
    };
    let caller = legacy::caller_of(Arc::clone(&session));
    let outcome = legacy::serve(server, &caller, message, json);
    http::answer(out, 202, reply(request), b"");
    match outcome {
        Outcome::Body(_) => session.standalone().push(json),
        Outcome::Work(work) => return Next::Background(work, session),
        Outcome::Accepted | Outcome::Listen(_) => {}
    }
    Next::Answered
}

fn refuse_method(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>, allow: &'static str) -> Next {
    reply::error(json, None, -32000, "Method not allowed");
    http::answer(out, 405, Reply { allow: Some(allow), ..reply(request) }, json);
    Next::Answered
}

fn refuse(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>, status: u16, reason: &str) -> Next {
    reply::error(json, None, -32000, reason);
    http::answer(out, status, reply(request), json);
    Next::Answered
}

/// 404 has a client begin anew (Streamable HTTP 2025-11-25, "Session Management").
fn unknown_session(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
    reply::error(json, None, -32001, "Session not found");
    http::answer(out, 404, reply(request), json);
    Next::Answered
}

fn is_json(request: &Request<'_>) -> bool {
    let kind = request.content_type.unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(JSON.as_bytes())
}

/// Against DNS rebinding: a page that a browser loaded elsewhere reaches us under its own name.
fn is_local(request: &Request<'_>) -> bool {
    let host = is_local_authority(request.host);
    let origin = request.origin.is_none_or(|origin| {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_some_and(is_local_authority)
    });
    host && origin
}

/// `host`, `host:port` or `[v6]:port` of this machine's loopback.
fn is_local_authority(authority: &[u8]) -> bool {
    let Ok(authority) = std::str::from_utf8(authority) else { return false };
    let host = match authority.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((host, port)) if port.is_empty() || port.starts_with(':') => host,
            _ => return false,
        },
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_authorities_are_loopback_only() {
        for local in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:80", "[::1]"] {
            assert!(is_local_authority(local.as_bytes()), "{local}");
        }
        for foreign in ["evil.example.com", "localhost.evil.com", "10.0.0.1", "[::2]", "[::1]x", "", "127.0.0.1.nip.io"]
        {
            assert!(!is_local_authority(foreign.as_bytes()), "{foreign}");
        }
    }
}
