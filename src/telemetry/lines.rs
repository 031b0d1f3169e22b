//! Lines of the access log and of the audit log. Whatever a client says of itself stands between quotes, escaped.

use super::moment::Dates;
use super::record::{Audited, Hashes, Record, place};
use super::text::{address, decimal, milliseconds};
use crate::wire::answer::Said;
use crate::wire::http1::head::Method;
use crate::wire::mcp::Era;
use crate::wire::trace_context::spell;

// Keys are put together when this is compiled: a line is some twenty copies rather than a hundred.

/// A key; `quoted`: of a text of ours, which needs no escapes.
macro_rules! key {
    ($line:expr, $key:literal) => {
        $line.out.extend_from_slice(match $line.style {
            Style::Json => concat!(",\"", $key, "\":").as_bytes(),
            _ => concat!(" ", $key, "=").as_bytes(),
        })
    };
    ($line:expr, $key:literal, quoted) => {
        $line.out.extend_from_slice(match $line.style {
            Style::Json => concat!(",\"", $key, "\":\"").as_bytes(),
            _ => concat!(" ", $key, "=").as_bytes(),
        })
    };
}

macro_rules! text {
    ($line:expr, $key:literal, $text:expr) => {{
        key!($line, $key, quoted);
        $line.out.extend_from_slice($text);
        $line.close();
    }};
}

/// A text of somebody else, if there is one.
macro_rules! kept {
    ($line:expr, $key:literal, $text:expr) => {{
        let text = $text;
        if !text.is_empty() {
            key!($line, $key);
            text.quote($line.out);
        }
    }};
}

macro_rules! number {
    ($line:expr, $key:literal, $number:expr) => {{
        key!($line, $key);
        decimal($line.out, $number);
    }};
}

macro_rules! time {
    ($line:expr, $key:literal, $time:expr) => {{
        key!($line, $key);
        milliseconds($line.out, u64::from($time));
    }};
}

/// It is told when it ended, as everything else in a log.
macro_rules! begin {
    ($line:expr, $record:expr, $target:literal) => {{
        $line.out.reserve(LINE_BYTES);
        match $line.style {
            Style::Json => {
                $line.out.extend_from_slice(b"{\"timestamp\":\"");
                $line.pen.dates.write($line.out, $record.ended);
                $line.out.extend_from_slice(concat!("\",\"level\":\"INFO\",\"target\":\"", $target, "\"").as_bytes());
            }
            Style::Human => {
                $line.pen.dates.write($line.out, $record.ended);
                $line.out.extend_from_slice(concat!("  INFO ", $target, ":").as_bytes());
            }
            Style::Journal => $line.out.extend_from_slice(concat!("<6> INFO ", $target, ":").as_bytes()),
        }
    }};
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Time, then `key=value`.
    Human,
    /// As `Human` for the journal, which keeps the time itself: behind a priority (sd-daemon(3)).
    Journal,
    /// One object a line.
    Json,
}

/// A line is rarely longer.
const LINE_BYTES: usize = 768;

/// One line of the access log.
pub fn access(out: &mut Vec<u8>, pen: &mut Pen, style: Style, record: &Record) {
    let mut line = Line { out, pen, style };
    begin!(line, record, "access");
    request(&mut line, record);
    number!(line, "status", u64::from(record.status));
    outcome(&mut line, record);
    if record.retries > 0 {
        number!(line, "retries", u64::from(record.retries));
    }
    number!(line, "bytes_in", record.bytes_in);
    number!(line, "bytes_out", record.bytes_out);
    time!(line, "total_ms", record.times.total);
    if record.times.queue > 0 {
        time!(line, "queue_ms", record.times.queue);
    }
    if record.times.connect > 0 {
        time!(line, "connect_ms", record.times.connect);
    }
    if record.times.upstream > 0 {
        time!(line, "upstream_ms", record.times.upstream);
    }
    ids(&mut line, record);
    line.end();
}

/// One record of the audit log: JSON, whatever the other logs are.
pub fn audit(out: &mut Vec<u8>, pen: &mut Pen, audited: &Audited) {
    let Audited { record, arguments, rule } = audited;
    let mut line = Line { out, pen, style: Style::Json };
    begin!(line, record, "audit");
    request(&mut line, record);
    if let Some(hash) = arguments {
        text!(line, "arguments_sha256", &hexadecimal::<64>(hash));
    }
    // We said no before upstream was asked; what could not be delivered was allowed.
    let denied = matches!(&record.termination.0, b"PR" | b"PQ" | b"PC");
    text!(line, "decision", if denied { b"deny".as_slice() } else { b"allow" });
    if let Some(rule) = rule {
        number!(line, "rule", u64::from(*rule));
    }
    number!(line, "status", u64::from(record.status));
    outcome(&mut line, record);
    time!(line, "total_ms", record.times.total);
    ids(&mut line, record);
    line.end();
}

/// What whoever writes lines keeps from line to line.
#[derive(Default)]
pub struct Pen {
    pub dates: Dates,
    pub hashes: Hashes,
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    pen: &'a mut Pen,
    style: Style,
}

/// Who asked for what.
fn request(line: &mut Line<'_>, record: &Record) {
    key!(line, "client", quoted);
    address(line.out, record.client);
    line.close();
    kept!(line, "user", record.text(place::PRINCIPAL));
    if let Some(id) = &record.session {
        let hash = line.pen.hashes.of(id);
        text!(line, "session", &hash);
    }
    if !record.text(place::PATH).is_empty() {
        text!(line, "verb", verb(record.verb).as_bytes());
        kept!(line, "path", record.text(place::PATH));
    }
    if let Some(method) = record.method() {
        text!(line, "era", if record.era == Era::Modern { b"modern" } else { b"legacy" });
        text!(line, "method", method.as_bytes());
    }
    match record.method() {
        Some("tools/call") => kept!(line, "tool", record.text(place::NAME)),
        Some("prompts/get") => kept!(line, "prompt", record.text(place::NAME)),
        _ => kept!(line, "resource", record.text(place::NAME)),
    }
    kept!(line, "upstream", record.text(place::UPSTREAM));
}

/// What came of it.
fn outcome(line: &mut Line<'_>, record: &Record) {
    text!(line, "outcome", record.outcome.label().as_bytes());
    if let Said::Error(code) = record.said {
        key!(line, "code");
        if code < 0 {
            line.out.push(b'-');
        }
        decimal(line.out, u64::from(code.unsigned_abs()));
    }
    text!(line, "termination", &record.termination.0);
    if !record.reason.is_empty() {
        text!(line, "reason", record.reason.as_bytes());
    }
}

fn ids(line: &mut Line<'_>, record: &Record) {
    kept!(line, "request_id", record.text(place::REQUEST_ID));
    if record.trace.trace_id != [0; 16] {
        text!(line, "trace_id", &hexadecimal::<32>(&record.trace.trace_id));
    }
    if record.trace.is_sampled {
        text!(line, "span_id", &hexadecimal::<16>(&record.trace.span_id));
    }
}

fn hexadecimal<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut digits = [0; N];
    spell(bytes, &mut digits);
    digits
}

impl Line<'_> {
    /// Of a text in JSON.
    fn close(&mut self) {
        if self.style == Style::Json {
            self.out.push(b'"');
        }
    }

    fn end(&mut self) {
        self.out.extend_from_slice(if self.style == Style::Json { b"}\n" } else { b"\n" });
    }
}

/// The method of HTTP.
pub fn verb(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
        Method::Options => "OPTIONS",
        Method::Connect => "CONNECT",
        Method::Trace => "TRACE",
        Method::Other => "_OTHER",
    }
}
