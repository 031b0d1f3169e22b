//! What the proxy answers when a stage says no: one table of status, JSON-RPC code and metric reason.
//!
//! Bodies are JSON-RPC error objects with the request's id where it is known (MCP, Transports), so that a client that
//! understands nothing else understands the refusal.

use super::account::Open;
use super::connection::Client;
use super::{Worker, outbound, tap};
use crate::net::{Buffer, within};
use crate::telemetry::Fault;
use crate::wire::http1::body::BodyError;
use crate::wire::http1::framing::FramingError;
use crate::wire::http1::head::HeadError;
use crate::wire::json::PeekError;
use crate::wire::jsonrpc;
use crate::wire::mcp::code;

/// A no: who asked wrongly, or what failed.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: i32,
    /// The label `reason` in metrics, and in the log.
    pub reason: &'static str,
    message: &'static str,
    /// Whether the connection must close: where framing is in doubt, or input is left that nobody will read.
    pub close: bool,
    /// Seconds for `Retry-After`.
    retry_after: Option<u32>,
    /// What few of them have: every result of a stage has room for a refusal, and nearly none is one.
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default)]
struct More {
    /// In place of the message of the table.
    message: Option<String>,
    /// `WWW-Authenticate`.
    challenge: Option<Box<str>>,
    /// Why it is 429.
    exceeded: Option<Exceeded>,
    /// The rule of `[[auth.rules]]` that says so, from 1.
    rule: Option<u16>,
}

/// A rate limit that has been reached.
#[derive(Clone, Copy, Debug)]
pub struct Exceeded {
    /// What it counts by.
    pub kind: &'static str,
    pub limit: u64,
    pub window_s: u64,
    /// Seconds until the next request would be granted.
    pub reset_s: u64,
}

/// JSON-RPC server error (the range that JSON-RPC leaves to servers) for what the proxy itself refuses.
const SERVER: i32 = -32000;

const fn no(status: u16, code: i32, reason: &'static str, message: &'static str) -> Refusal {
    Refusal { status, code, reason, message, close: false, retry_after: None, more: None }
}

const fn fatal(mut refusal: Refusal) -> Refusal {
    refusal.close = true;
    refusal
}

const fn later(seconds: u32, mut refusal: Refusal) -> Refusal {
    refusal.retry_after = Some(seconds);
    refusal
}

/// The table.
impl Refusal {
    pub const HEADER_TIMEOUT: Refusal =
        fatal(no(408, SERVER, "header_timeout", "the request's head did not arrive in time"));
    pub const BODY_TIMEOUT: Refusal =
        fatal(no(408, SERVER, "body_timeout", "the request's body did not arrive in time"));
    pub const BODY_TOO_LONG: Refusal =
        fatal(no(413, SERVER, "body_too_long", "the request's body is longer than limits.body_bytes"));
    pub const CODING: Refusal = no(415, SERVER, "content_coding", "an encoded JSON body cannot be checked");
    pub const NOT_JSON: Refusal =
        no(415, SERVER, "not_json", "where tools are told apart, a body must be application/json");
    /// Nobody is there to be told; the status is nginx's, for logs.
    pub const CLIENT_GONE: Refusal = fatal(no(499, SERVER, "client_gone", "the client left"));
    pub const METHOD: Refusal = fatal(no(405, SERVER, "method", "CONNECT and TRACE are not served"));
    pub const HOST: Refusal = no(403, SERVER, "host", "this Host is not served here; see proxy.allowed_hosts");
    pub const ORIGIN: Refusal = no(403, SERVER, "origin", "this Origin is not allowed; see proxy.allowed_origins");
    pub const CROSS_SITE: Refusal =
        no(403, SERVER, "cross_site", "the cookie of a login counts for requests of our own pages only");
    pub const CREDENTIALS: Refusal = no(400, code::INVALID_REQUEST, "credentials", "more than one credential");
    pub const TOKEN_IN_QUERY: Refusal =
        no(400, code::INVALID_REQUEST, "token_in_query", "a token belongs into the Authorization field");
    pub const BATCH: Refusal = no(400, code::INVALID_REQUEST, "batch", "batches are not allowed here");
    pub const AUTH_CLOSED: Refusal = no(
        503,
        SERVER,
        "auth_closed",
        "authentication is on, and nothing says how to verify a credential: see [auth] jwks_url, issuer",
    );
    pub const NO_CREDENTIAL: Refusal =
        later(5, no(503, SERVER, "no_credential", "no credential for upstream could be had"));
    pub const AUTH_UNAVAILABLE: Refusal =
        later(5, no(503, SERVER, "auth_unavailable", "credentials cannot be verified now"));
    pub const SESSION_HEADER: Refusal =
        no(400, code::INVALID_REQUEST, "session_header", "more than one Mcp-Session-Id");
    pub const SESSION_UNKNOWN: Refusal = no(404, -32001, "session_unknown", "Session not found");
    pub const SESSIONS_FULL: Refusal =
        later(10, no(503, SERVER, "sessions_full", "no room for another session; see session.max_sessions"));
    pub const STORE: Refusal = later(5, no(503, SERVER, "store", "the session store cannot be written now"));
    pub const STORE_READ: Refusal = later(5, no(503, SERVER, "store", "the session store cannot be read now"));
    pub const AUDIT_FULL: Refusal =
        later(5, no(503, SERVER, "audit_full", "tool calls cannot be recorded now; see logging.audit_required"));
    pub const NO_UPSTREAM: Refusal = later(
        30,
        no(503, SERVER, "no_upstream", "no upstream is configured: start with --upstream URL or add [[upstreams]]"),
    );
    pub const UPSTREAM_BUSY: Refusal =
        later(1, no(503, SERVER, "upstream_busy", "all connections to upstream are in use"));
    pub const UPSTREAM_UNHEALTHY: Refusal =
        later(5, no(503, SERVER, "upstream_unhealthy", "no upstream works, as far as health checks say"));
    pub const UPSTREAM_CONNECT: Refusal = no(502, SERVER, "upstream_connect", "upstream does not accept connections");
    /// Ours to mend, and nobody else's fault.
    pub const NO_RESOURCES: Refusal =
        later(1, no(503, SERVER, "no_resources", "the proxy is out of file descriptors, ports or memory"));
    pub const CONNECT_TIMEOUT: Refusal = no(504, SERVER, "upstream_timeout", "upstream did not accept in time");
    pub const UPSTREAM_TIMEOUT: Refusal = no(504, SERVER, "upstream_timeout", "upstream did not answer in time");
    pub const REQUEST_TIMEOUT: Refusal = no(504, SERVER, "request_timeout", "the request took too long");
    pub const UPSTREAM_CLOSED: Refusal =
        no(502, SERVER, "upstream_closed", "upstream closed the connection before it answered");
    pub const UPSTREAM_PROTOCOL: Refusal = no(502, SERVER, "upstream_protocol", "upstream's answer is not valid");

    pub fn head(error: HeadError) -> Refusal {
        let reason = match error.status() {
            431 => "head_too_large",
            414 => "target_too_long",
            505 => "version",
            _ => "head_malformed",
        };
        fatal(no(error.status(), code::INVALID_REQUEST, reason, "")).saying(error.to_string())
    }

    pub fn framing(error: FramingError) -> Refusal {
        let reason = if error.status() == 417 { "expectation" } else { "framing" };
        fatal(no(error.status(), code::INVALID_REQUEST, reason, "")).saying(error.to_string())
    }

    pub fn body(error: BodyError) -> Refusal {
        if error.status() == 413 {
            return Refusal::BODY_TOO_LONG;
        }
        fatal(no(400, code::INVALID_REQUEST, "body_malformed", "")).saying(error.to_string())
    }

    pub fn json(error: &PeekError) -> Refusal {
        no(400, error.code(), "json", "").saying(error.to_string())
    }

    pub fn mismatch(message: String) -> Refusal {
        no(400, code::HEADER_MISMATCH, "header_mismatch", "").saying(message)
    }

    pub fn unauthorized(challenge: Box<str>) -> Refusal {
        let refusal = no(401, SERVER, "unauthorized", "a valid credential is needed");
        refusal.with(More { challenge: Some(challenge), ..More::default() })
    }

    pub fn forbidden(challenge: Box<str>) -> Refusal {
        let refusal = no(403, SERVER, "insufficient_scope", "the credential does not allow this");
        refusal.with(More { challenge: Some(challenge), ..More::default() })
    }

    pub fn exceeded(exceeded: Exceeded) -> Refusal {
        let message = format!("rate limit exceeded ({}): try again in {} s", exceeded.kind, exceeded.reset_s);
        let retry_after = u32::try_from(exceeded.reset_s).unwrap_or(u32::MAX);
        let refusal = later(retry_after, no(429, SERVER, "rate_limit", ""));
        refusal.with(More { message: Some(message), exceeded: Some(exceeded), ..More::default() })
    }

    pub fn breaker_open(retry_after_ms: u64) -> Refusal {
        let seconds = u32::try_from(retry_after_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        later(seconds, no(503, SERVER, "breaker_open", "upstream failed too often and is left alone for a while"))
    }

    pub fn closing(mut self) -> Refusal {
        self.close = true;
        self
    }

    /// By the rule of `[[auth.rules]]` with this number.
    pub fn by_rule(mut self, rule: Option<u16>) -> Refusal {
        self.more.get_or_insert_default().rule = rule;
        self
    }

    pub fn rule(&self) -> Option<u16> {
        self.more.as_ref()?.rule
    }

    fn message(&self) -> &str {
        self.more.as_ref().and_then(|more| more.message.as_deref()).unwrap_or(self.message)
    }

    fn saying(self, message: String) -> Refusal {
        self.with(More { message: Some(message), ..More::default() })
    }

    fn with(mut self, more: More) -> Refusal {
        self.more = Some(Box::new(more));
        self
    }

    /// The fault to count at the upstream, if one is to blame.
    pub fn fault(&self) -> Option<Fault> {
        match self.reason {
            "upstream_busy" => Some(Fault::Busy),
            "upstream_connect" => Some(Fault::Connect),
            "upstream_timeout" | "request_timeout" => Some(Fault::Timeout),
            "upstream_closed" => Some(Fault::Closed),
            "upstream_protocol" => Some(Fault::Protocol),
            _ => None,
        }
    }
}

/// Send the refusal; how many bytes that was, and whether they were sent: nothing else may be sent if not. `keep`: whether the request was read to its end, so that the connection may go
/// on; `open`: the request, if it had a head.
pub async fn answer(
    worker: &Worker,
    client: &Client,
    refusal: &Refusal,
    id: Option<&[u8]>,
    keep: bool,
    open: Option<&Open<'_>>,
) -> (usize, bool) {
    worker.cells.refused(refusal.reason);
    tracing::debug!(
        status = refusal.status,
        reason = refusal.reason,
        peer = %client.peer,
        message = refusal.message(),
        "refused a request"
    );
    let mut body = Vec::with_capacity(256);
    jsonrpc::error(&mut body, id, refusal.code, refusal.message(), None);
    let mut out = Buffer::small();
    let more = refusal.more.as_deref();
    outbound::own_head(out.vec(), refusal.status, "application/json", body.len(), keep && !refusal.close, |out| {
        if refusal.status == 405 {
            crate::wire::http1::encode::field(out, b"Allow", b"GET, HEAD, POST, DELETE, OPTIONS");
        }
        if let Some(challenge) = more.and_then(|more| more.challenge.as_deref()) {
            crate::wire::http1::encode::field(out, b"WWW-Authenticate", challenge.as_bytes());
        }
        if let Some(Exceeded { kind, limit, window_s, reset_s }) = more.and_then(|more| more.exceeded) {
            // draft-ietf-httpapi-ratelimit-headers-10.
            let policy = format!("\"{kind}\";q={limit};w={window_s}");
            crate::wire::http1::encode::field(out, b"RateLimit-Policy", policy.as_bytes());
            let state = format!("\"{kind}\";r=0;t={reset_s}");
            crate::wire::http1::encode::field(out, b"RateLimit", state.as_bytes());
        }
        if let Some(seconds) = refusal.retry_after {
            crate::wire::http1::encode::field(out, b"Retry-After", seconds.to_string().as_bytes());
        }
    });
    out.vec().extend_from_slice(&body);
    open.into_iter().for_each(|open| tap::own_answer(open, out.bytes()));
    let (patience, length) = (worker.view().view.plan.timeouts.write, out.len());
    let written = within(patience, client.stream.write_all(out)).await;
    (length, matches!(written, Ok((Ok(()), _))))
}
