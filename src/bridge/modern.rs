//! The modern era, 2026-07-28: every request goes to the one process that all share, under an id of ours.

use std::time::Duration;

use super::Server;
use super::answers::{self, Asked};
use super::message::{Parts, error_code};
use super::shared::{NotTaken, Open};
use crate::net::within;
use crate::origin::message::MODERN_VERSION;
use crate::origin::{Late, Next, Outgoing, Whole};
use crate::wire::jsonrpc;
use crate::wire::mcp::code;

/// How long a server that has never answered may think about whether it knows this era. Some that do not never answer, and
/// clients take an error for the advice to begin in the other era.
const DISCOVERY: Duration = Duration::from_secs(10);

const SPEAKS_OTHER: &str = "Method not found: the server does not answer requests of this protocol version";

pub fn request(server: &Server, asked: &mut Asked<'_>, text: &str, id: &str, method: &str, parts: &Parts<'_>) -> Next {
    // Over stdin and stdout, servers look at a version when they are first asked, and at none of this later.
    if let Some(version) = parts.version.as_deref().filter(|version| *version != MODERN_VERSION) {
        let mut data = format!("{{\"supported\":[\"{MODERN_VERSION}\"],\"requested\":").into_bytes();
        jsonrpc::string(&mut data, version);
        data.push(b'}');
        let data = String::from_utf8(data).expect("text of text");
        let reason = "Unsupported protocol version";
        return asked.refuse_with(400, Some(id), code::UNSUPPORTED_VERSION, reason, &data);
    }
    if !parts.capabilities {
        let reason = "Invalid params: _meta lacks io.modelcontextprotocol/clientCapabilities";
        return asked.refuse(400, Some(id), code::INVALID_PARAMS, reason);
    }
    if method == "tools/call"
        && let Err(why) = server.shared.check_parameters(asked.request, parts)
    {
        return asked.refuse(400, Some(id), code::HEADER_MISMATCH, &why);
    }
    let call = match server.shared.call(text, id, method, parts) {
        Ok(call) => call,
        Err(NotTaken::SpeaksOther) => return asked.refuse(404, Some(id), code::METHOD_NOT_FOUND, SPEAKS_OTHER),
        Err(NotTaken::Resting { seconds, why }) => {
            return asked.refuse_for_now(
                Some(id),
                &format!("{why}; it is started again with the next request"),
                seconds,
            );
        }
        Err(NotTaken::TooMany) => return asked.refuse_for_now(Some(id), "too many requests are running", 1),
        Err(NotTaken::NotStarted(why)) => return asked.not_started(Some(id), why),
        Err(NotTaken::Refused(why)) => return asked.not_taken(Some(id), why),
    };
    let is_probe = method == "server/discover" && !call.open.has_answered();
    let id: Box<str> = id.into();
    Next::Later(Box::pin(async move {
        let mut reader = call.reader;
        // Dropped with the answer, wherever that is by then: who leaves cancels.
        let open: Open = call.open;
        if is_probe && within(DISCOVERY, reader.settled()).await.is_err() {
            let mut json = Vec::new();
            jsonrpc::error(&mut json, Some(id.as_bytes()), code::METHOD_NOT_FOUND, SPEAKS_OTHER, None);
            return Late::Body(Whole { status: 404, session: None, json });
        }
        match answers::whole(reader).await {
            Ok(json) => Late::Body(Whole { status: status(&json), session: None, json: json.into() }),
            Err(reader) => Late::Stream(Outgoing::new(reader, move |_| drop(open))),
        }
    }))
}

/// What HTTP says of an answer (Streamable HTTP 2026-07-28): what a method says of its own request is no failure of the transport.
fn status(json: &[u8]) -> u16 {
    /// A capability that the client would need.
    const MISSING_CAPABILITY: i64 = -32021;
    const PARSE_ERROR: i64 = code::PARSE_ERROR as i64;
    const INVALID_REQUEST: i64 = code::INVALID_REQUEST as i64;
    const METHOD_NOT_FOUND: i64 = code::METHOD_NOT_FOUND as i64;
    const HEADER_MISMATCH: i64 = code::HEADER_MISMATCH as i64;
    const UNSUPPORTED_VERSION: i64 = code::UNSUPPORTED_VERSION as i64;
    match error_code(json) {
        Some(METHOD_NOT_FOUND) => 404,
        Some(PARSE_ERROR | INVALID_REQUEST | HEADER_MISMATCH | UNSUPPORTED_VERSION | MISSING_CAPABILITY) => 400,
        _ => 200,
    }
}
