//! Lines of the access log and of the audit log. Whatever a client says of itself stands between quotes, escaped.

use super::moment::Dates;
use super::record::{Record, microseconds, session_hash};
use super::text::{Text, decimal, milliseconds};
use crate::wire::answer::Said;
use crate::wire::http1::head::Method;
use crate::wire::mcp::Era;
use crate::wire::trace_context::spell;

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

/// One line of the access log.
pub fn access(out: &mut Vec<u8>, dates: &mut Dates, style: Style, record: &Record) {
    let mut line = Line { out, style };
    line.begin(dates, record, "access");
    line.request(record);
    line.number("status", u64::from(record.status));
    line.outcome(record);
    line.number("retries", u64::from(record.retries));
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    line.time("total_ms", microseconds(record.split.total));
    line.time("queue_ms", microseconds(record.split.queue));
    line.time("connect_ms", microseconds(record.split.connect));
    line.time("upstream_ms", microseconds(record.split.upstream));
    line.time("own_ms", microseconds(record.split.own));
    line.ids(record);
    line.end();
}

/// One record of the audit log: JSON, whatever the other logs are.
pub fn audit(out: &mut Vec<u8>, dates: &mut Dates, record: &Record) {
    let mut line = Line { out, style: Style::Json };
    line.begin(dates, record, "audit");
    line.request(record);
    if let Some(hash) = &record.arguments {
        let mut digits = [0; 64];
        spell(hash, &mut digits);
        line.text("arguments_sha256", &digits);
    }
    // We said no before upstream was asked; what could not be delivered was allowed.
    let denied = matches!(&record.termination.0, b"PR" | b"PQ" | b"PC");
    line.word("decision", if denied { "deny" } else { "allow" });
    if let Some(rule) = record.rule {
        line.number("rule", u64::from(rule));
    }
    line.number("status", u64::from(record.status));
    line.outcome(record);
    line.time("total_ms", microseconds(record.split.total));
    line.ids(record);
    line.end();
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    style: Style,
}

impl Line<'_> {
    fn begin(&mut self, dates: &mut Dates, record: &Record, target: &str) {
        // It is told when it ended, as everything else in a log.
        let told = record.ended;
        match self.style {
            Style::Json => {
                self.out.extend_from_slice(b"{\"timestamp\":\"");
                dates.write(self.out, told);
                self.out.extend_from_slice(b"\",\"level\":\"INFO\",\"target\":\"");
                self.out.extend_from_slice(target.as_bytes());
                self.out.push(b'"');
            }
            Style::Human => {
                dates.write(self.out, told);
                self.out.extend_from_slice(b"  INFO ");
                self.out.extend_from_slice(target.as_bytes());
                self.out.push(b':');
            }
            Style::Journal => {
                self.out.extend_from_slice(b"<6> INFO ");
                self.out.extend_from_slice(target.as_bytes());
                self.out.push(b':');
            }
        }
    }

    /// Who asked for what.
    fn request(&mut self, record: &Record) {
        self.key("client");
        self.open();
        let _ = std::io::Write::write_fmt(self.out, format_args!("{}", record.client));
        self.close();
        self.kept("user", &record.principal);
        if let Some(id) = &record.session {
            self.text("session", &session_hash(id));
        }
        if !record.path.is_empty() {
            self.word("verb", verb(record.verb));
            self.kept("path", &record.path);
        }
        if let Some(method) = record.method {
            self.word("era", if record.era == Era::Modern { "modern" } else { "legacy" });
            self.word("method", method);
        }
        let key = match record.method {
            Some("tools/call") => "tool",
            Some("prompts/get") => "prompt",
            _ => "resource",
        };
        self.kept(key, &record.name);
        self.kept("upstream", &record.upstream);
    }

    /// What came of it.
    fn outcome(&mut self, record: &Record) {
        self.word("outcome", record.outcome.label());
        if let Said::Error(code) = record.said {
            self.key("code");
            if code < 0 {
                self.out.push(b'-');
            }
            decimal(self.out, u64::from(code.unsigned_abs()));
        }
        self.word("termination", record.termination.as_str());
        if !record.reason.is_empty() {
            self.word("reason", record.reason);
        }
    }

    fn ids(&mut self, record: &Record) {
        self.kept("request_id", &record.request_id);
        if record.trace.trace_id != [0; 16] {
            let mut digits = [0; 32];
            spell(&record.trace.trace_id, &mut digits);
            self.text("trace_id", &digits);
        }
        if record.trace.is_sampled {
            let mut digits = [0; 16];
            spell(&record.trace.span_id, &mut digits);
            self.text("span_id", &digits);
        }
    }

    fn end(&mut self) {
        self.out.extend_from_slice(if self.style == Style::Json { b"}\n" } else { b"\n" });
    }

    fn key(&mut self, key: &str) {
        match self.style {
            Style::Json => {
                self.out.extend_from_slice(b",\"");
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            _ => {
                self.out.push(b' ');
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
        }
    }

    fn open(&mut self) {
        if self.style == Style::Json {
            self.out.push(b'"');
        }
    }

    fn close(&mut self) {
        self.open();
    }

    /// A text of ours, which needs no escapes.
    fn text(&mut self, key: &str, text: &[u8]) {
        self.key(key);
        self.open();
        self.out.extend_from_slice(text);
        self.close();
    }

    fn word(&mut self, key: &str, word: &str) {
        self.text(key, word.as_bytes());
    }

    /// A text of somebody else, if there is one.
    fn kept<const N: usize>(&mut self, key: &str, text: &Text<N>) {
        if !text.is_empty() {
            self.key(key);
            text.quote(self.out);
        }
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        decimal(self.out, number);
    }

    fn time(&mut self, key: &str, us: u64) {
        self.key(key);
        milliseconds(self.out, us);
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
