//! Spans as OTLP sends them (opentelemetry-proto 1.x, `trace.v1`), encoded straight from records, with the attributes of
//! OpenTelemetry's semantic conventions for HTTP and MCP.
//!
//! A request is a `SERVER` span; what upstream was asked is a `CLIENT` span below it.

use std::time::{Duration, Instant};

use super::account::Outcome;
use super::lines::{Pen, verb};
use super::moment::Dates;
use super::record::{Record, place};
use super::text::{Kept, Text, address, decimal};
use crate::wire::answer::Said;
use crate::wire::protobuf::{bytes, fixed32, fixed64, length_of, long_message, message, number};
use crate::wire::trace_context::SpanContext;

/// A sampled request. It may cost allocations.
pub struct Sampled {
    pub record: Record,
    pub begun: Instant,
    pub traced: Box<Traced>,
    /// The message's id as received; empty: none.
    pub rpc_id: Text<40>,
    pub is_tls: bool,
    pub asked: Option<Asked>,
}

/// What else holds for a sampled request, from its beginning on.
#[derive(Debug, Default)]
pub struct Traced {
    /// Of the span that stands for what upstream is asked.
    pub client_span_id: [u8; 8],
    /// The context of the HTTP request, where another one, of the message, is the parent.
    pub link: Option<SpanContext>,
    /// What belongs to the parent, and goes on to upstream.
    pub tracestate: Option<Box<[u8]>>,
    /// The version of MCP as the client says it.
    pub protocol: Text<16>,
    pub user_agent: Text<64>,
}

/// How upstream was asked.
pub struct Asked {
    pub at: Instant,
    pub host: Box<str>,
    pub port: u16,
    /// Without a query.
    pub url: Box<str>,
}

/// The values of `SpanKind` and `StatusCode`.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const ERROR: u64 = 2;
/// Of `Span.flags`, besides those of the trace: whether the parent is remote is known, and it is.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;
const TRACE_SAMPLED: u32 = 1;

/// What is said of this process with every batch: the resource, and the scope's head.
pub struct Envelope {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Envelope {
    pub fn new(service: &str, attributes: &[(String, String)]) -> Envelope {
        let (mut resource, mut scope) = (Vec::new(), Vec::new());
        let said = |name: &str| attributes.iter().any(|(key, _)| key == name);
        let own = [
            ("service.name", service),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("telemetry.sdk.name", "shadowcat"),
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ];
        for (key, value) in own.into_iter().filter(|(key, _)| *key == "service.name" || !said(key)) {
            text(&mut resource, 1, key, value.as_bytes());
        }
        for (key, value) in attributes.iter().filter(|(key, _)| key != "service.name") {
            text(&mut resource, 1, key, value.as_bytes());
        }
        message(&mut scope, 1, |out| {
            bytes(out, 1, b"shadowcat");
            bytes(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
        });
        Envelope { resource, scope }
    }

    /// What of `ExportTraceServiceRequest` stands before spans of so many bytes, which [`encode`] made.
    pub fn head(&self, spans: usize) -> Vec<u8> {
        let (scope_spans, mut inner) = (self.scope.len() + spans, Vec::with_capacity(self.resource.len() + 16));
        bytes(&mut inner, 1, &self.resource);
        length_of(&mut inner, 2, scope_spans);
        let mut out = Vec::with_capacity(inner.len() + self.scope.len() + 16);
        length_of(&mut out, 1, inner.len() + scope_spans);
        out.extend_from_slice(&inner);
        out.extend_from_slice(&self.scope);
        out
    }
}

/// Append the spans of one request; how many there are.
pub fn encode(out: &mut Vec<u8>, pen: &mut Pen, sampled: &Sampled) -> u64 {
    long_message(out, 2, |out| server(out, pen, sampled));
    if let Some(asked) = &sampled.asked {
        long_message(out, 2, |out| client(out, &pen.dates, sampled, asked));
    }
    1 + u64::from(sampled.asked.is_some())
}

fn server(out: &mut Vec<u8>, pen: &mut Pen, sampled: &Sampled) {
    let (record, trace) = (&sampled.record, sampled.record.trace);
    let has_parent = trace.parent_id != [0; 8];
    let parent = has_parent.then_some(trace.parent_id);
    identity(out, record, trace.span_id, parent, sampled.traced.tracestate.as_deref());
    frame(out, record, SERVER, [sampled.begun, record.ended].map(|moment| pen.dates.since_epoch(moment)));
    text(out, 9, "http.request.method", verb(record.verb).as_bytes());
    kept(out, "url.path", record.text(place::PATH));
    text(out, 9, "url.scheme", if sampled.is_tls { b"https" } else { b"http" });
    text(out, 9, "network.protocol.name", b"http");
    text(out, 9, "network.protocol.version", b"1.1");
    text(out, 9, "network.transport", b"tcp");
    with(out, "client.address", |out| address(out, record.client));
    kept(out, "user_agent.original", sampled.traced.user_agent.kept());
    kept(out, "enduser.id", record.text(place::PRINCIPAL));
    kept(out, "mcp.protocol.version", sampled.traced.protocol.kept());
    if let Some(id) = &record.session {
        text(out, 9, "mcp.session.id", &pen.hashes.of(id));
    }
    of_message(out, sampled);
    kept(out, "shadowcat.upstream", record.text(place::UPSTREAM));
    text(out, 9, "shadowcat.termination", &record.termination.0);
    if !record.reason.is_empty() {
        text(out, 9, "shadowcat.reason", record.reason.as_bytes());
    }
    ended(out, record, record.status >= 500);
    if let Some(link) = sampled.traced.link {
        message(out, 13, |out| {
            bytes(out, 1, &link.trace_id);
            bytes(out, 2, &link.span_id);
            fixed32(out, 6, u32::from(link.is_sampled) | PARENT_KNOWN | PARENT_REMOTE);
        });
    }
    let remote = if has_parent { PARENT_REMOTE } else { 0 };
    fixed32(out, 16, TRACE_SAMPLED | PARENT_KNOWN | remote);
}

fn client(out: &mut Vec<u8>, dates: &Dates, sampled: &Sampled, asked: &Asked) {
    let (record, trace) = (&sampled.record, sampled.record.trace);
    let tracestate = sampled.traced.tracestate.as_deref();
    identity(out, record, sampled.traced.client_span_id, Some(trace.span_id), tracestate);
    frame(out, record, CLIENT, [asked.at, record.ended].map(|moment| dates.since_epoch(moment)));
    text(out, 9, "http.request.method", verb(record.verb).as_bytes());
    text(out, 9, "url.full", asked.url.as_bytes());
    text(out, 9, "server.address", asked.host.as_bytes());
    integer(out, "server.port", u64::from(asked.port));
    text(out, 9, "network.protocol.version", b"1.1");
    if record.retries > 0 {
        integer(out, "http.request.resend_count", u64::from(record.retries));
    }
    of_message(out, sampled);
    kept(out, "shadowcat.upstream", record.text(place::UPSTREAM));
    ended(out, record, record.status >= 400);
    fixed32(out, 16, TRACE_SAMPLED | PARENT_KNOWN);
}

fn identity(out: &mut Vec<u8>, record: &Record, id: [u8; 8], parent: Option<[u8; 8]>, tracestate: Option<&[u8]>) {
    bytes(out, 1, &record.trace.trace_id);
    bytes(out, 2, &id);
    if let Some(state) = tracestate {
        bytes(out, 3, state);
    }
    if let Some(parent) = parent {
        bytes(out, 4, &parent);
    }
}

/// Name, kind and times.
fn frame(out: &mut Vec<u8>, record: &Record, kind: u64, [start, end]: [Duration; 2]) {
    message(out, 5, |out| match record.method() {
        Some(method) => {
            out.extend_from_slice(method.as_bytes());
            // A resource's URI would make as many names as there are resources.
            if matches!(method, "tools/call" | "prompts/get") && !record.text(place::NAME).is_empty() {
                out.push(b' ');
                record.text(place::NAME).append(out);
            }
        }
        None => out.extend_from_slice(verb(record.verb).as_bytes()),
    });
    number(out, 6, kind);
    fixed64(out, 7, nanoseconds(start));
    fixed64(out, 8, nanoseconds(end));
}

fn nanoseconds(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What MCP says of it.
fn of_message(out: &mut Vec<u8>, sampled: &Sampled) {
    let record = &sampled.record;
    let Some(method) = record.method() else { return };
    text(out, 9, "mcp.method.name", method.as_bytes());
    match method {
        "tools/call" => {
            text(out, 9, "gen_ai.operation.name", b"execute_tool");
            kept(out, "gen_ai.tool.name", record.text(place::NAME));
        }
        "prompts/get" => kept(out, "gen_ai.prompt.name", record.text(place::NAME)),
        _ => kept(out, "mcp.resource.uri", record.text(place::NAME)),
    }
    kept(out, "jsonrpc.request.id", sampled.rpc_id.kept());
}

/// The answer, and what went wrong. Of a `SERVER` span a status below 500 is the client's error, not ours.
fn ended(out: &mut Vec<u8>, record: &Record, is_error: bool) {
    if record.status != 0 {
        integer(out, "http.response.status_code", u64::from(record.status));
    }
    let mut digits = Vec::new();
    let what: &[u8] = match (record.outcome, record.said) {
        (Outcome::Failed, _) => record.reason.as_bytes(),
        (Outcome::Refused, _) if is_error => record.reason.as_bytes(),
        (Outcome::ToolError, _) => b"tool_error",
        (Outcome::RpcError | Outcome::HttpError, Said::Error(code)) => {
            digits.extend_from_slice(code.to_string().as_bytes());
            text(out, 9, "rpc.response.status_code", &digits);
            &digits
        }
        _ if is_error => {
            decimal(&mut digits, u64::from(record.status));
            &digits
        }
        _ => return,
    };
    text(out, 9, "error.type", what);
    message(out, 15, |out| number(out, 3, ERROR));
}

/// A `KeyValue` of a text.
fn text(out: &mut Vec<u8>, field: u32, key: &str, value: &[u8]) {
    message(out, field, |out| {
        bytes(out, 1, key.as_bytes());
        message(out, 2, |out| bytes(out, 1, value));
    });
}

/// As [`text`], of what somebody else said, if it said so; always UTF-8, as Protocol Buffers ask.
fn kept(out: &mut Vec<u8>, key: &str, value: Kept<'_>) {
    if !value.is_empty() {
        with(out, key, |out| value.append(out));
    }
}

/// As [`text`], of a text that is written.
fn with(out: &mut Vec<u8>, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
    message(out, 9, |out| {
        bytes(out, 1, key.as_bytes());
        message(out, 2, |out| message(out, 1, write));
    });
}

fn integer(out: &mut Vec<u8>, key: &str, value: u64) {
    message(out, 9, |out| {
        bytes(out, 1, key.as_bytes());
        message(out, 2, |out| number(out, 3, value));
    });
}
