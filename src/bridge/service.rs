//! From an HTTP request to the era that it belongs to.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::answers::Asked;
use super::message::Parts;
use super::{SECRET_FIELD, Server, legacy, modern};
use crate::net::sleep;
use crate::origin::message::{self, MODERN_VERSION, Message};
use crate::origin::{Next, Request, Service, refusal};
use crate::wire::http1::head::Method;
use crate::wire::mcp::code;

/// How often it is looked for sessions that nobody uses.
const TEND: Duration = Duration::from_secs(1);

impl Service for Server {
    /// The proxy in front has limits of its own.
    const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

    fn answer(self: &Arc<Self>, request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) -> Next {
        // Host, Origin and whatever else keeps others out is checked by the proxy in front, so that nobody may go round it.
        let shown = request.other(SECRET_FIELD.as_bytes()).ok().flatten().unwrap_or_default();
        if verify_slices_are_equal(shown, self.secret.as_bytes()).is_err() {
            refusal::refuse(request, json, out, 403, "Forbidden: this address is for the proxy in front");
            return Next::Answered;
        }
        if !matches!(request.path, b"/mcp" | b"/") {
            refusal::refuse(request, json, out, 404, "Not found: MCP is at /mcp");
            return Next::Answered;
        }
        let mut asked = Asked { request, json, out };
        match request.method {
            Method::Post => post(self, &mut asked),
            Method::Get => legacy::get(self, &mut asked),
            Method::Delete => legacy::delete(self, &mut asked),
            _ => {
                refusal::refuse_method(request, asked.json, asked.out, "POST, GET, DELETE");
                Next::Answered
            }
        }
    }
}

fn post(server: &Arc<Server>, asked: &mut Asked<'_>) -> Next {
    let request = asked.request;
    if !request.is_json() {
        return asked.refuse(415, None, refusal::REFUSED, "Unsupported media type: send application/json");
    }
    if !request.accepts.json() || !request.accepts.events() {
        let reason = "Not acceptable: accept application/json and text/event-stream";
        return asked.refuse(406, None, refusal::REFUSED, reason);
    }
    let Ok(text) = std::str::from_utf8(request.body) else {
        return asked.refuse(400, None, code::PARSE_ERROR, "Parse error: the body is not UTF-8");
    };
    if message::is_batch(request.body) {
        return legacy::batch(server, asked, request.body);
    }
    let message = match message::parse(request.body) {
        Ok(message) => message,
        Err(bad) => return asked.refuse(400, bad.id, bad.code, bad.reason),
    };
    let (id, method, params) = match &message {
        Message::Request { id, method, params } => (Some(*id), Some(method), *params),
        Message::Notification { method, params } => (None, Some(method), *params),
        Message::Response { .. } => (None, None, None),
    };
    let Some(parts) = Parts::of(params) else { return legacy::bad_params(asked, id) };
    // `_meta` decides (versioning page, "dual-era server"), and `initialize` without it is always legacy.
    let says_modern = request.version == Some(MODERN_VERSION.as_bytes()) && method.is_some_and(|m| m != "initialize");
    match (&message, parts.version.is_some(), says_modern) {
        (Message::Request { id, method, .. }, true, _) => modern::request(server, asked, text, id, method, &parts),
        // A server that is asked without it would take the whole process for one of the other era.
        (Message::Request { id, .. }, false, true) => {
            let reason = "Invalid params: _meta lacks io.modelcontextprotocol/protocolVersion";
            asked.refuse(400, Some(id), code::INVALID_PARAMS, reason)
        }
        // The modern era defines no client notifications over HTTP.
        (_, true, _) | (_, _, true) => asked.done(202),
        (_, false, false) => legacy::post(server, asked, text, &message, &parts),
    }
}

/// Ends sessions that nobody uses.
pub async fn tend(server: Arc<Server>) {
    loop {
        sleep(TEND).await;
        server.sessions.end_idle(server.session_timeout, |session| session.is_busy());
    }
}
