//! One POST in, its answer out: which era it belongs to, and what both eras share.
//!
//! ```text
//! post -> modern::request            a body with modern `_meta`, or a modern version header
//!      -> legacy::post -> message    everything else: sessions, batches
//!                 `-> tools::call    either era; what takes time becomes a Work
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_channel::oneshot;

use super::catalog::{self, Catalog};
use super::hub::{Hub, Listen};
use super::message::{self, Level, MODERN_VERSION, Message, Params};
use super::mirrored::Headers;
use super::reply::{self, Caching, Style, string, text};
use super::request_state::Sealer;
use super::session::Session;
use super::work::Work;
use super::{legacy, modern, tools};
use crate::origin::{EventLog, Sessions};

/// What all workers of one demo server share.
pub struct Server {
    /// Random, to tell replicas apart; `whoami` shows it.
    pub replica: Box<str>,
    /// Issue no legacy sessions.
    pub stateless: bool,
    /// Refuse what names another host than this machine's loopback.
    pub loopback_only: bool,
    pub sessions: Sessions<Session>,
    pub hub: Hub,
    pub catalog: Catalog,
    pub sealer: Sealer,
    /// Calls of `whoami` outside of sessions.
    pub calls: AtomicU64,
    pub works: Arc<Counters>,
}

/// What became of the calls that take time; `whoami` shows it, for who tests cancellation.
#[derive(Debug, Default)]
pub struct Counters {
    pub running: AtomicU64,
    pub cancelled: AtomicU64,
}

impl Server {
    pub fn new(replica: Box<str>, stateless: bool, loopback_only: bool) -> Server {
        Server {
            replica,
            stateless,
            loopback_only,
            sessions: Sessions::default(),
            hub: Hub::default(),
            catalog: Catalog::default(),
            sealer: Sealer::new(),
            calls: AtomicU64::new(0),
            works: Arc::default(),
        }
    }
}

/// On whose behalf a request is served.
pub struct Caller {
    pub style: Style,
    pub version: &'static str,
    /// Legacy era, unless the server is stateless.
    pub session: Option<Arc<Session>>,
    /// The client can be asked by form.
    pub elicits: bool,
    /// The least level of log messages that the client wants.
    pub level: Option<Level>,
}

/// What one message comes to.
pub enum Outcome {
    /// A notification or an answer: nothing to say.
    Accepted,
    /// The JSON was appended to the buffer; this is the HTTP status.
    Body(u16),
    Work(Work),
    Listen(Arc<Listen>),
}

/// What one POST comes to.
pub enum Answer {
    /// 202 without a body.
    Accepted,
    /// The JSON was appended to the buffer.
    Body(u16),
    /// As `Body(200)`, and the session's id goes into `Mcp-Session-Id`.
    Created(Arc<Session>),
    Stream(Stream),
}

/// An answer as an event stream.
pub struct Stream {
    pub log: Arc<EventLog>,
    /// Run one after the other; their messages and answers go to `log`.
    pub works: Vec<Work>,
    /// Where works that outlive the connection belong.
    pub session: Option<Arc<Session>>,
    /// Works that end with the connection: dropping the handles cancels them.
    pub guards: Vec<oneshot::Sender<()>>,
    /// Kept while the stream is open.
    pub listen: Option<Arc<Listen>>,
}

/// Answers a POST to the MCP endpoint.
pub fn post(server: &Server, headers: &Headers<'_>, body: &[u8], out: &mut Vec<u8>) -> Answer {
    if message::is_batch(body) {
        return legacy::batch(server, headers, body, out);
    }
    let message = match message::parse(body) {
        Ok(message) => message,
        Err(bad) => {
            reply::error(out, bad.id, bad.code, bad.reason);
            return Answer::Body(400);
        }
    };
    match message {
        Message::Request { id, method, params } if is_modern(headers, &method, &params) => {
            match modern::request(server, headers, id, &method, &params, out) {
                Outcome::Accepted => Answer::Accepted,
                Outcome::Body(status) => Answer::Body(status),
                Outcome::Work(work) => Answer::Stream(stream(None, vec![work])),
                Outcome::Listen(listen) => Answer::Stream(Stream {
                    log: Arc::clone(&listen.log),
                    works: Vec::new(),
                    session: None,
                    guards: Vec::new(),
                    listen: Some(listen),
                }),
            }
        }
        // The modern era defines no client notifications over HTTP.
        Message::Notification { method, params } if is_modern(headers, &method, &params) => Answer::Accepted,
        message => legacy::post(server, headers, message, out),
    }
}

/// The stream that carries these works.
pub fn stream(session: Option<Arc<Session>>, mut works: Vec<Work>) -> Stream {
    let log = session.as_ref().map_or_else(EventLog::plain, |session| session.streams.open());
    let guards = works.iter_mut().filter_map(|work| work.guard.take()).collect();
    Stream { log, works, session, guards, listen: None }
}

/// `_meta` decides (versioning page, "dual-era server"). A version header from the modern era with a
/// body that lacks it is a malformed modern request, but `initialize` without it is always legacy.
fn is_modern(headers: &Headers<'_>, method: &str, params: &Params<'_>) -> bool {
    let claims = params.meta.as_ref().is_some_and(|meta| !meta.version.is_empty());
    claims || (method != "initialize" && headers.version == Some(MODERN_VERSION.as_bytes()))
}

/// The methods that both eras know; `None` for any other.
pub fn common(
    server: &Server,
    caller: &Caller,
    id: &str,
    method: &str,
    params: &Params<'_>,
    out: &mut Vec<u8>,
) -> Option<Outcome> {
    let list = match method {
        "tools/call" => return Some(tools::call(server, caller, id, params, out)),
        "resources/read" => return Some(read(server, caller, id, params, out)),
        "prompts/get" => return Some(prompt(caller, id, params, out)),
        "completion/complete" => return Some(complete(caller, id, params, out)),
        "tools/list" => catalog::TOOLS,
        "resources/list" => catalog::RESOURCES,
        "resources/templates/list" => catalog::TEMPLATES,
        "prompts/list" => catalog::PROMPTS,
        _ => return None,
    };
    Some(match params.cursor {
        // Every list fits on one page, so no cursor is ours.
        Some(_) => invalid(out, id, "Invalid params: unknown cursor"),
        None => success(out, id, caller.style, Caching::Public, |out| text(out, list)),
    })
}

fn read(server: &Server, caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    if !catalog::exists(&params.uri) {
        return no_resource(caller, id, &params.uri, out);
    }
    let caching = if params.uri == catalog::CLOCK { Caching::Stale } else { Caching::Public };
    success(out, id, caller.style, caching, |out| {
        server.catalog.read(out, &params.uri);
    })
}

/// -32602 since the modern era, -32002 before.
pub fn no_resource(caller: &Caller, id: &str, uri: &str, out: &mut Vec<u8>) -> Outcome {
    let code = if caller.style == Style::Modern { -32602 } else { -32002 };
    reply::error_with(out, Some(id), code, "Resource not found", |out| {
        text(out, r#","data":{"uri":"#);
        string(out, uri);
        out.push(b'}');
    });
    Outcome::Body(200)
}

fn prompt(caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    #[derive(Default, serde::Deserialize)]
    struct Arguments {
        name: Option<String>,
        style: Option<String>,
    }
    if params.name != "greet" {
        return invalid(out, id, "Invalid params: unknown prompt");
    }
    let arguments = params.arguments.map_or(Ok(Arguments::default()), |raw| serde_json::from_str(raw.get()));
    let Ok(arguments) = arguments else {
        return invalid(out, id, "Invalid params: a prompt's arguments are strings");
    };
    let mut members = Vec::new();
    match catalog::greet(&mut members, arguments.name.as_deref(), arguments.style.as_deref()) {
        Ok(()) => success(out, id, caller.style, Caching::None, |out| out.extend_from_slice(&members)),
        Err(reason) => invalid(out, id, reason),
    }
}

fn complete(caller: &Caller, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    let (Some(reference), Some(argument)) = (&params.reference, &params.argument) else {
        return invalid(out, id, "Invalid params: ref and argument are required");
    };
    let mut members = Vec::new();
    match catalog::complete(&mut members, reference, argument) {
        Ok(()) => success(out, id, caller.style, Caching::None, |out| out.extend_from_slice(&members)),
        Err(reason) => invalid(out, id, reason),
    }
}

pub fn success(
    out: &mut Vec<u8>,
    id: &str,
    style: Style,
    caching: Caching,
    members: impl FnOnce(&mut Vec<u8>),
) -> Outcome {
    reply::result(out, id, style, caching, members);
    Outcome::Body(200)
}

/// -32602, inside HTTP 200: the transport did its part.
pub fn invalid(out: &mut Vec<u8>, id: &str, reason: &str) -> Outcome {
    reply::error(out, Some(id), -32602, reason);
    Outcome::Body(200)
}
