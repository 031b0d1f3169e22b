//! The legacy era, 2024-11-05 to 2025-11-25: `initialize`, sessions, batches in one revision of it.

use std::sync::Arc;

use super::catalog;
use super::mcp::{Answer, Caller, Outcome, Server, common, invalid, no_resource, stream, success};
use super::message::{self, Level, Message, Params, Version, is_id};
use super::mirrored::Headers;
use super::reply::{self, Caching, SERVER_INFO, Style, string, text};
use super::session::{self, Handshake, Session};

/// Messages in one batch.
const BATCH_MAX: usize = 100;

/// Answers a POST of one message to the MCP endpoint.
pub fn post(server: &Server, headers: &Headers<'_>, message: Message<'_>, out: &mut Vec<u8>) -> Answer {
    if let Message::Request { id, method, params } = &message
        && method == "initialize"
    {
        return initialize(server, headers, id, params, out);
    }
    let id = match &message {
        Message::Request { id, .. } => Some(*id),
        _ => None,
    };
    let caller = match caller(server, headers, id, out) {
        Ok(caller) => caller,
        Err(answer) => return answer,
    };
    match serve(server, &caller, message, out) {
        Outcome::Accepted | Outcome::Listen(_) => Answer::Accepted,
        Outcome::Body(status) => Answer::Body(status),
        Outcome::Work(work) => Answer::Stream(stream(caller.session, vec![work])),
    }
}

/// Answers a POST of several messages, which only 2025-03-26 knows.
pub fn batch(server: &Server, headers: &Headers<'_>, body: &[u8], out: &mut Vec<u8>) -> Answer {
    let caller = match caller(server, headers, None, out) {
        Ok(caller) => caller,
        Err(answer) => return answer,
    };
    let mut refuse = |code, reason| {
        reply::error(out, None, code, reason);
        Answer::Body(400)
    };
    if caller.version != Version::V2025_03_26.as_str() {
        return refuse(-32600, "Invalid request: this protocol version has no batches");
    }
    let Some(messages) = message::batch(body) else {
        return refuse(-32700, "Parse error: the body is not valid JSON");
    };
    if messages.is_empty() || messages.len() > BATCH_MAX {
        return refuse(-32600, "Invalid request: a batch has 1 to 100 messages");
    }
    let (mut bodies, mut works) = (Vec::new(), Vec::new());
    for raw in messages {
        let mut one = Vec::new();
        match message::parse(raw.get().as_bytes()) {
            Err(bad) => {
                reply::error(&mut one, bad.id, bad.code, bad.reason);
                bodies.push(one);
            }
            Ok(message) => match serve(server, &caller, message, &mut one) {
                Outcome::Accepted | Outcome::Listen(_) => {}
                Outcome::Body(_) => bodies.push(one),
                Outcome::Work(work) => works.push(work),
            },
        }
    }
    if !works.is_empty() {
        let stream = stream(caller.session, works);
        bodies.iter().for_each(|body| stream.log.push(body));
        return Answer::Stream(stream);
    }
    if bodies.is_empty() {
        return Answer::Accepted;
    }
    out.push(b'[');
    out.extend_from_slice(&bodies.join(&b","[..]));
    out.push(b']');
    Answer::Body(200)
}

/// Answers one message in its session: also the entry of the 2024-11-05 transport.
pub fn serve(server: &Server, caller: &Caller, message: Message<'_>, out: &mut Vec<u8>) -> Outcome {
    match message {
        Message::Request { id, method, params } => request(server, caller, id, &method, &params, out),
        Message::Notification { method, params } => {
            if method == "notifications/cancelled"
                && let (Some(session), Some(id)) = (&caller.session, params.request_id)
                && is_id(id.get())
            {
                session.stop(id.get());
            }
            Outcome::Accepted
        }
        Message::Response { id, result } => {
            if let Some(session) = &caller.session {
                session.answer(id, result.map(|raw| raw.get()));
            }
            Outcome::Accepted
        }
    }
}

/// The caller that a session speaks for.
pub fn caller_of(session: Arc<Session>) -> Caller {
    Caller {
        style: Style::Legacy,
        version: session.version().as_str(),
        elicits: session.elicits(),
        level: session.level(),
        session: Some(session),
    }
}

/// Session and version of a request (Streamable HTTP 2025-11-25, "Session Management", "Protocol
/// Version Header").
fn caller(server: &Server, headers: &Headers<'_>, id: Option<&str>, out: &mut Vec<u8>) -> Result<Caller, Answer> {
    let mut refuse = |status, code, reason| {
        reply::error(out, id, code, reason);
        Err(Answer::Body(status))
    };
    let version = match headers.version.map(Version::parse) {
        Some(None) => return refuse(400, -32000, "Bad request: unsupported MCP-Protocol-Version"),
        Some(Some(version)) => Some(version),
        None => None,
    };
    if server.stateless {
        let version = version.unwrap_or(Version::WITHOUT_HEADER).as_str();
        return Ok(Caller { style: Style::Legacy, version, session: None, elicits: false, level: None });
    }
    let Some(session) = headers.session else {
        return refuse(400, -32000, "Bad request: Mcp-Session-Id is required");
    };
    match server.sessions.find(session) {
        Some(session) => Ok(caller_of(session)),
        None => refuse(404, -32001, "Session not found"),
    }
}

fn initialize(server: &Server, headers: &Headers<'_>, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Answer {
    if let Some(session) = headers.session.filter(|_| !server.stateless) {
        let (status, code, reason) = match server.sessions.find(session) {
            Some(_) => (400, -32600, "Invalid request: the session is initialized already"),
            None => (404, -32001, "Session not found"),
        };
        reply::error(out, Some(id), code, reason);
        return Answer::Body(status);
    }
    let Some(handshake) = negotiate(params) else {
        reply::error(out, Some(id), -32602, "Invalid params: protocolVersion is required");
        return Answer::Body(400);
    };
    initialized(out, id, handshake.version);
    match server.stateless {
        true => Answer::Body(200),
        false => Answer::Created(session::create(&server.sessions, Some(handshake))),
    }
}

/// The version that the client asks for where the demo speaks it, else the latest (lifecycle page).
fn negotiate(params: &Params<'_>) -> Option<Handshake> {
    let requested = params.protocol_version.as_bytes();
    let version = Version::parse(requested).unwrap_or(Version::LATEST);
    let elicits = params.capabilities.as_ref().is_some_and(|capabilities| capabilities.elicits_by_form());
    (!requested.is_empty()).then_some(Handshake { version, elicits })
}

fn initialized(out: &mut Vec<u8>, id: &str, version: Version) {
    reply::result(out, id, Style::Legacy, Caching::None, |out| {
        text(out, r#""protocolVersion":""#);
        text(out, version.as_str());
        text(out, r#"","capabilities":"#);
        text(out, catalog::CAPABILITIES_LEGACY);
        text(out, r#","serverInfo":"#);
        text(out, SERVER_INFO);
        text(out, r#","instructions":"#);
        string(out, catalog::INSTRUCTIONS);
    });
}

fn request(
    server: &Server,
    caller: &Caller,
    id: &str,
    method: &str,
    params: &Params<'_>,
    out: &mut Vec<u8>,
) -> Outcome {
    let empty = |out: &mut Vec<u8>| success(out, id, Style::Legacy, Caching::None, |_| {});
    match (method, &caller.session) {
        ("ping", _) => empty(out),
        ("logging/setLevel", session) => match Level::parse(&params.level) {
            Some(level) => {
                session.iter().for_each(|session| session.set_level(level));
                empty(out)
            }
            None => invalid(out, id, "Invalid params: unknown log level"),
        },
        ("resources/subscribe", Some(_)) if !catalog::exists(&params.uri) => no_resource(caller, id, &params.uri, out),
        ("resources/subscribe", Some(session)) => {
            if !session.subscribe(&params.uri) {
                return invalid(out, id, "Invalid params: too many subscriptions");
            }
            server.hub.enter(session);
            empty(out)
        }
        ("resources/unsubscribe", Some(session)) => {
            session.unsubscribe(&params.uri);
            empty(out)
        }
        // On the 2024-11-05 transport the session is there before its handshake.
        ("initialize", session) => {
            let handshake =
                negotiate(params).filter(|_| session.as_ref().is_some_and(|session| session.streams.is_one()));
            match (session, handshake) {
                (Some(session), Some(handshake)) if session.shake_hands(handshake) => {
                    initialized(out, id, handshake.version);
                }
                _ => reply::error(out, Some(id), -32600, "Invalid request: initialize is out of place here"),
            }
            Outcome::Body(200)
        }
        _ => common(server, caller, id, method, params, out).unwrap_or_else(|| {
            reply::error(out, Some(id), -32601, "Method not found");
            Outcome::Body(200)
        }),
    }
}
