//! The modern era, 2026-07-28: no handshake, no session, every request checked on its own.

use std::sync::Arc;

use super::catalog;
use super::hub::{self, LISTEN_URIS_MAX, Listen};
use super::mcp::{Caller, Outcome, Server, common, success};
use super::message::{Level, MODERN_VERSION, Params};
use super::mirrored::{self, Headers};
use super::reply::{self, Caching, Style, string, text};
use crate::origin::EventLog;

/// Answers one request.
pub fn request(
    server: &Server,
    headers: &Headers<'_>,
    id: &str,
    method: &str,
    params: &Params<'_>,
    out: &mut Vec<u8>,
) -> Outcome {
    let caller = match verify(headers, id, method, params, out) {
        Ok(caller) => caller,
        Err(outcome) => return outcome,
    };
    match method {
        "server/discover" => discover(id, out),
        "subscriptions/listen" => listen(server, id, params, out),
        _ => common(server, &caller, id, method, params, out).unwrap_or_else(|| {
            reply::error(out, Some(id), -32601, "Method not found");
            Outcome::Body(404)
        }),
    }
}

/// Versions, required `_meta` members, mirrored headers, in this order.
fn verify(
    headers: &Headers<'_>,
    id: &str,
    method: &str,
    params: &Params<'_>,
    out: &mut Vec<u8>,
) -> Result<Caller, Outcome> {
    let mut refuse = |code, reason: &str| {
        reply::error(out, Some(id), code, reason);
        Err(Outcome::Body(400))
    };
    let Some(meta) = params.meta.as_ref().filter(|meta| !meta.version.is_empty()) else {
        return refuse(-32602, "Invalid params: _meta lacks io.modelcontextprotocol/protocolVersion");
    };
    match headers.version {
        None => return refuse(-32020, "Header mismatch: MCP-Protocol-Version is missing"),
        Some(version) if version != meta.version.as_bytes() => {
            return refuse(-32020, "Header mismatch: MCP-Protocol-Version is not the version in _meta");
        }
        Some(_) => {}
    }
    if meta.version != MODERN_VERSION {
        reply::unsupported_version(out, Some(id), &meta.version);
        return Err(Outcome::Body(400));
    }
    let Some(capabilities) = &meta.capabilities else {
        return refuse(-32602, "Invalid params: _meta lacks io.modelcontextprotocol/clientCapabilities");
    };
    if let Err(reason) = mirrored::verify(headers, method, params) {
        return refuse(-32020, reason);
    }
    let level = match &*meta.log_level {
        "" => None,
        level => match Level::parse(level) {
            Some(level) => Some(level),
            None => return refuse(-32602, "Invalid params: unknown log level"),
        },
    };
    let elicits = capabilities.elicits_by_form();
    Ok(Caller { style: Style::Modern, version: MODERN_VERSION, session: None, elicits, level })
}

fn discover(id: &str, out: &mut Vec<u8>) -> Outcome {
    success(out, id, Style::Modern, Caching::Public, |out| {
        text(out, r#""supportedVersions":[""#);
        text(out, MODERN_VERSION);
        text(out, r#""],"capabilities":"#);
        text(out, catalog::CAPABILITIES_MODERN);
        text(out, r#","instructions":"#);
        string(out, catalog::INSTRUCTIONS);
    })
}

/// Only changes of resources can be listened to: the demo's lists never change.
fn listen(server: &Server, id: &str, params: &Params<'_>, out: &mut Vec<u8>) -> Outcome {
    let Some(filter) = &params.notifications else {
        reply::error(out, Some(id), -32602, "Invalid params: notifications is required");
        return Outcome::Body(400);
    };
    let known = filter.resource_subscriptions.iter().filter(|uri| catalog::exists(uri));
    let uris = known.take(LISTEN_URIS_MAX).map(|uri| Box::from(&**uri)).collect();
    let listen = Arc::new(Listen { id: id.into(), uris, log: EventLog::plain() });
    hub::acknowledge(&listen);
    server.hub.listen(&listen);
    Outcome::Listen(listen)
}
