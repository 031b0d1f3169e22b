//! Whole answers that refuse a request, as a client's library tells them apart.

use super::http::{self, Reply, Request};
use crate::wire::jsonrpc;

/// `Bad request` and the like.
pub const REFUSED: i32 = -32000;
/// What clients know by its status.
pub const NO_SESSION: i32 = -32001;

/// Refuses with this status and reason.
pub fn refuse(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>, status: u16, reason: &str) {
    say(request, json, out, status, REFUSED, reason);
}

/// 405.
pub fn refuse_method(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>, allow: &'static str) {
    jsonrpc::error(json, None, REFUSED, "Method not allowed", None);
    http::answer(out, 405, Reply { allow: Some(allow), ..Reply::to(request) }, json);
}

/// 404 has a client begin anew (Streamable HTTP 2025-11-25, "Session Management").
pub fn unknown_session(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>) {
    say(request, json, out, 404, NO_SESSION, "Session not found");
}

fn say(request: &Request<'_>, json: &mut Vec<u8>, out: &mut Vec<u8>, status: u16, code: i32, reason: &str) {
    jsonrpc::error(json, None, code, reason, None);
    http::answer(out, status, Reply::to(request), json);
}
