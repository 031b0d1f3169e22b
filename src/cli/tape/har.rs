//! HTTP archives (HAR 1.2): an entry for each exchange, in the order in which they ended. Over stdio there is no HTTP: an entry
//! for each call, to a URL of the form `stdio://PROGRAM/METHOD`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::failure;
use super::filter::{Filter, unix_us};
use super::over::{self, Item};
use crate::cli::Failure;
use crate::wire::tape::{Frame, Head, Http, Side, Transport};

/// Of a body, what an entry keeps.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Exchanges that are open at once; the oldest is written as it is.
const OPEN_MAX: usize = 1024;

/// A request and what came back, as far as it has been read.
#[derive(Default)]
struct Entry {
    began_us: u64,
    answered_us: Option<u64>,
    ended_us: u64,
    method: String,
    url: String,
    request_headers: Vec<(String, String)>,
    request: Body,
    status: u16,
    response_headers: Vec<(String, String)>,
    response: Body,
    is_stream: bool,
    how: String,
    connection: Option<u64>,
}

#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    cut: u64,
}

impl Body {
    fn add(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(BODY_BYTES_MAX - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.cut += (bytes.len() - kept) as u64;
    }

    fn take(&mut self, frame: &Frame<'_>) {
        self.add(&frame.content().unwrap_or_default());
        self.cut += frame.cut;
    }
}

/// # Errors
/// The tape cannot be read.
pub fn write(path: &Path, filter: &Filter, head: &Head, out: &mut impl Write) -> Result<(), Failure> {
    let mut archive = Archive { head, out, between: "", open: BTreeMap::new() };
    let begun = archive.begin();
    let read = begun.map_err(failure).and_then(|()| {
        over::frames(path, filter, |_, item| {
            if let Item::Frame { frame, .. } = item {
                match head.transport {
                    Transport::Http => archive.http(frame)?,
                    Transport::Stdio => archive.stdio(frame)?,
                }
            }
            Ok(true)
        })
    });
    read?;
    match archive.finish() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failure(error)),
        _ => Ok(()),
    }
}

struct Archive<'a, W> {
    head: &'a Head,
    out: &'a mut W,
    between: &'static str,
    open: BTreeMap<u64, Entry>,
}

impl<W: Write> Archive<'_, W> {
    fn begin(&mut self) -> io::Result<()> {
        let creator = json!({ "name": "shadowcat", "version": env!("CARGO_PKG_VERSION") });
        let comment = format!("from the tape {} of {}", self.head.id, self.head.software);
        let comment = Value::String(comment);
        write!(
            self.out,
            "{{\"log\":{{\"version\":\"1.2\",\"creator\":{creator},\"comment\":{comment},\"pages\":[],\"entries\":["
        )
    }

    fn finish(&mut self) -> io::Result<()> {
        for (_, entry) in std::mem::take(&mut self.open) {
            self.entry(entry)?;
        }
        self.out.write_all(b"\n]}}\n")
    }

    fn entry(&mut self, entry: Entry) -> io::Result<()> {
        self.out.write_all(self.between.as_bytes())?;
        self.between = ",";
        writeln!(self.out)?;
        serde_json::to_writer(&mut *self.out, &entry.in_json(self.head))?;
        Ok(())
    }

    fn opened(&mut self, number: u64, entry: Entry) -> io::Result<()> {
        self.open.insert(number, entry);
        if self.open.len() > OPEN_MAX
            && let Some((_, oldest)) = self.open.pop_first()
        {
            self.entry(oldest)?;
        }
        Ok(())
    }

    fn http(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let Some(number) = frame.exchange else { return Ok(()) };
        if let Some(Http::Request { method, target, headers }) = &frame.http {
            let mut entry =
                Entry { began_us: frame.us, ended_us: frame.us, method: method.to_string(), ..Entry::default() };
            entry.request_headers = owned(headers);
            entry.url = url(self.head, &entry.request_headers, target);
            entry.connection = frame.connection;
            entry.request.take(frame);
            return self.opened(number, entry);
        }
        let Some(entry) = self.open.get_mut(&number) else { return Ok(()) };
        entry.ended_us = frame.us;
        match &frame.http {
            Some(Http::Response { status, headers }) => {
                entry.answered_us = Some(frame.us);
                entry.status = *status;
                entry.response_headers = owned(headers);
                entry.response.take(frame);
            }
            Some(Http::Event { id, event, retry }) => {
                entry.is_stream = true;
                entry.response.add(&event_text(id.as_deref(), event.as_deref(), *retry, frame));
                entry.response.cut += frame.cut;
            }
            Some(Http::Comment) => {
                entry.is_stream = true;
                let comment = frame.content().unwrap_or_default();
                entry.response.add(&[b":", &comment[..], b"\n\n"].concat());
            }
            Some(Http::End { how }) => {
                entry.how = how.to_string();
                if let Some(entry) = self.open.remove(&number) {
                    self.entry(entry)?;
                }
            }
            _ if frame.from == Side::Client => entry.request.take(frame),
            _ => entry.response.take(frame),
        }
        Ok(())
    }

    fn stdio(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        if let Some(rpc) = &frame.rpc {
            let program = self.head.server.command.first().map_or("server", String::as_str);
            let program = program.rsplit('/').next().unwrap_or(program);
            let clean = |text: &str| -> String {
                text.chars().map(|c| if c.is_ascii_alphanumeric() || "-._/".contains(c) { c } else { '-' }).collect()
            };
            let whose = if frame.from == Side::Client { clean(program) } else { "client".to_owned() };
            let mut entry =
                Entry { began_us: frame.us, ended_us: frame.us, method: "POST".to_owned(), ..Entry::default() };
            entry.url = format!("stdio://{whose}/{}", clean(&rpc.method));
            entry.request.take(frame);
            if rpc.id.is_some() {
                return self.opened(frame.seq, entry);
            }
            entry.status = 202;
            return self.entry(entry);
        }
        if let Some(mut entry) = frame.answers.and_then(|seq| self.open.remove(&seq)) {
            entry.ended_us = frame.us;
            entry.answered_us = Some(frame.us);
            entry.status = 200;
            entry.response.take(frame);
            return self.entry(entry);
        }
        Ok(())
    }
}

fn owned(headers: &[(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn url(head: &Head, headers: &[(String, String)], target: &str) -> String {
    if target.starts_with("http://") || target.starts_with("https://") {
        return target.to_owned();
    }
    let host =
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, host)| format!("http://{host}"));
    let upstream = || head.server.upstream.as_ref().map(|url| url.trim_end_matches('/').to_owned());
    host.or_else(upstream).unwrap_or_else(|| "http://server.invalid".to_owned()) + target
}

/// An event as it stood in its stream, but for the spelling of line ends.
fn event_text(id: Option<&str>, event: Option<&str>, retry: Option<u64>, frame: &Frame<'_>) -> Vec<u8> {
    let mut text = String::new();
    if let Some(id) = id {
        text += &format!("id: {id}\n");
    }
    if let Some(event) = event {
        text += &format!("event: {event}\n");
    }
    if let Some(retry) = retry {
        text += &format!("retry: {retry}\n");
    }
    if let Some(data) = frame.content() {
        String::from_utf8_lossy(&data).lines().for_each(|line| text += &format!("data: {line}\n"));
    }
    (text + "\n").into_bytes()
}

impl Entry {
    fn in_json(&self, head: &Head) -> Value {
        let ms = |us: u64| us as f64 / 1e3;
        let answered = self.answered_us.unwrap_or(self.ended_us);
        let named = |headers: &[(String, String)]| -> Vec<Value> {
            headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
        };
        let kind = |headers: &[(String, String)], otherwise: &str| -> String {
            let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            found.map_or_else(|| otherwise.to_owned(), |(_, kind)| kind.clone())
        };
        let query: Vec<Value> = url::Url::parse(&self.url).map_or_else(
            |_| Vec::new(),
            |url| url.query_pairs().map(|(name, value)| json!({ "name": name, "value": value })).collect(),
        );
        let mut request = json!({
            "method": self.method, "url": self.url, "httpVersion": "HTTP/1.1", "cookies": [], "headers": named(&self.request_headers),
            "queryString": query, "headersSize": -1, "bodySize": self.request.bytes.len() as u64 + self.request.cut,
        });
        if !self.request.bytes.is_empty() {
            let text = String::from_utf8_lossy(&self.request.bytes);
            request["postData"] =
                json!({ "mimeType": kind(&self.request_headers, "application/json"), "params": [], "text": text });
            note_cut(&mut request["postData"], self.request.cut);
        }
        let otherwise = if self.is_stream { "text/event-stream" } else { "application/json" };
        let size = self.response.bytes.len() as u64 + self.response.cut;
        let mut content = json!({ "size": size, "mimeType": kind(&self.response_headers, otherwise) });
        match std::str::from_utf8(&self.response.bytes) {
            Ok(text) => content["text"] = json!(text),
            Err(_) => {
                content["text"] = json!(crate::wire::tape::encode_base64(&self.response.bytes));
                content["encoding"] = json!("base64");
            }
        }
        note_cut(&mut content, self.response.cut);
        let mut entry = json!({
            "startedDateTime": time_of(head, self.began_us), "time": ms(self.ended_us - self.began_us), "request": request,
            "response": {
                "status": self.status, "statusText": "", "httpVersion": "HTTP/1.1", "cookies": [],
                "headers": named(&self.response_headers), "content": content, "redirectURL": "", "headersSize": -1, "bodySize": size,
            },
            "cache": {},
            "timings": { "send": 0, "wait": ms(answered - self.began_us), "receive": ms(self.ended_us - answered) },
        });
        if let Some(connection) = self.connection {
            entry["connection"] = json!(connection.to_string());
        }
        if !self.how.is_empty() && self.how != "complete" {
            entry["comment"] = json!(self.how);
        }
        entry
    }
}

fn note_cut(of: &mut Value, cut: u64) {
    if cut > 0 {
        of["comment"] = json!(format!("{cut} bytes more are not here"));
    }
}

/// When a frame was, in the form that archives have.
fn time_of(head: &Head, us: u64) -> String {
    let started = unix_us(&head.started).and_then(|us| u64::try_from(us).ok()).unwrap_or(0);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(started.saturating_add(us))).to_string()
}
