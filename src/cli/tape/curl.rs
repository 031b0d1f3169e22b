//! A shell script that asks a server the same again, with curl. Everything of the tape stands in it quoted: in single quotes, in
//! comments of one line, or in a here-document whose end it does not hold.

use std::io::{self, Write};
use std::path::Path;

use super::failure;
use super::filter::Filter;
use super::over::{self, Item, short};
use crate::cli::Failure;
use crate::wire::tape::{Frame, Head, Http, Side, Transport};

const LEGACY: &str = "initialize";
const MODERN_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// Made by curl itself, of the tape's own connection, or not for others to say.
const LEFT_OUT: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "expect",
    "te",
    "trailer",
    "mcp-session-id",
];

/// # Errors
/// The tape cannot be read.
pub fn write(path: &Path, filter: &Filter, head: &Head, out: &mut impl Write) -> Result<(), Failure> {
    let mut script = Script { out, waiting: None, numbers: 0 };
    let begun = script.begin(head);
    begun.map_err(failure)?;
    over::frames(path, filter, |_, item| {
        if let Item::Frame { frame, .. } = item
            && frame.from == Side::Client
        {
            match head.transport {
                Transport::Http => script.http(frame)?,
                Transport::Stdio => script.stdio(frame)?,
            }
        }
        Ok(true)
    })?;
    match script.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failure(error)),
        _ => Ok(()),
    }
}

struct Script<'a, W> {
    out: &'a mut W,
    /// A head whose body comes in later frames.
    waiting: Option<Request>,
    numbers: u64,
}

struct Request {
    exchange: Option<u64>,
    seq: u64,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: u64,
    /// Of its message, where it has one.
    rpc: Option<(String, bool)>,
    redacted: bool,
}

impl<W: Write> Script<'_, W> {
    fn begin(&mut self, head: &Head) -> io::Result<()> {
        let upstream = head.server.upstream.as_deref().unwrap_or("http://127.0.0.1:8080");
        let origin = url::Url::parse(upstream)
            .map_or_else(|_| "http://127.0.0.1:8080".to_owned(), |url| url.origin().ascii_serialization());
        let out = &mut self.out;
        writeln!(out, "#!/bin/sh")?;
        writeln!(
            out,
            "# The requests of a tape, to a server: sh SCRIPT [URL]; $TOKEN is sent as a bearer token if it is set."
        )?;
        writeln!(out, "# tape {}, started {}", short(&head.id, 40), short(&head.started, 40))?;
        writeln!(out, "server=${{1:-{}}}", quoted(&origin))?;
        writeln!(out, "session= heads=$(mktemp) || exit 1")?;
        writeln!(out, "trap 'rm -f \"$heads\"' EXIT")?;
        writeln!(out, "# Sends standard input; keeps the session that the server begins.")?;
        writeln!(out, "ask() {{")?;
        writeln!(out, "  target=$1 method=$2; shift 2")?;
        writeln!(
            out,
            "  curl -sS -X \"$method\" -D \"$heads\" ${{session:+-H \"Mcp-Session-Id: $session\"}} ${{TOKEN:+-H \"Authorization: Bearer $TOKEN\"}} \"$@\" \"$server$target\" || exit 1"
        )?;
        writeln!(out, "  new=$(sed -n 's/^[Mm]cp-[Ss]ession-[Ii]d: *\\([!-~]*\\).*/\\1/p' \"$heads\")")?;
        writeln!(out, "  session=${{new:-$session}}")?;
        writeln!(out, "  echo")?;
        writeln!(out, "}}")
    }

    fn http(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let rpc = frame.rpc.as_ref().map(|rpc| (rpc.method.to_string(), rpc.id.is_some()));
        if let Some(Http::Request { method, target, headers }) = &frame.http {
            self.flush()?;
            self.waiting = Some(Request {
                exchange: frame.exchange,
                seq: frame.seq,
                method: method.to_string(),
                target: target.to_string(),
                headers: headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
                body: frame.content().unwrap_or_default().into_owned(),
                cut: frame.cut,
                rpc,
                redacted: frame.redacted,
            });
        } else if let Some(request) = self.waiting.as_mut().filter(|request| request.exchange == frame.exchange) {
            request.body.extend_from_slice(&frame.content().unwrap_or_default());
            request.cut += frame.cut;
            request.rpc = request.rpc.take().or(rpc);
            request.redacted |= frame.redacted;
        }
        Ok(())
    }

    /// The same message, as a client would post it.
    fn stdio(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let Some(message) = frame.message else { return Ok(()) };
        let text = message.get();
        let mut headers = vec![
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("Accept".to_owned(), "application/json, text/event-stream".to_owned()),
        ];
        if let Some(rpc) = &frame.rpc {
            let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            if let Some(version) = value["params"]["_meta"][MODERN_KEY].as_str() {
                headers.push(("MCP-Protocol-Version".to_owned(), version.to_owned()));
                headers.push(("Mcp-Method".to_owned(), rpc.method.to_string()));
                headers.extend(rpc.name.as_ref().map(|name| ("Mcp-Name".to_owned(), name.to_string())));
            }
        }
        self.waiting = Some(Request {
            exchange: None,
            seq: frame.seq,
            method: "POST".to_owned(),
            target: "/mcp".to_owned(),
            headers,
            body: text.as_bytes().to_vec(),
            cut: frame.cut,
            rpc: frame.rpc.as_ref().map(|rpc| (rpc.method.to_string(), rpc.id.is_some())),
            redacted: frame.redacted,
        });
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(request) = self.waiting.take() else { return Ok(()) };
        let out = &mut self.out;
        let what = request.rpc.as_ref().map_or(request.target.as_str(), |(method, _)| method.as_str());
        writeln!(out, "\n# frame {}: {} {}", request.seq, short(&request.method, 10), short(what, 80))?;
        if request.redacted {
            writeln!(out, "# something in it was redacted")?;
        }
        let answer = request.method == "POST" && request.rpc.is_none() && !request.body.is_empty();
        let left_out = match request.method.as_str() {
            "GET" => Some("a stream of the server's, which has no end"),
            _ if request.cut > 0 => Some("its body was not kept whole"),
            _ if answer => Some("an answer to a request of the server's, whose id is another one now"),
            _ => None,
        };
        if let Some(why) = left_out {
            return writeln!(out, "# left out: {why}");
        }
        if request.rpc.as_ref().is_some_and(|(method, _)| method == LEGACY) {
            writeln!(out, "session=")?;
        }
        write!(out, "ask {} {}", quoted(&request.target), quoted(&request.method))?;
        for (name, value) in &request.headers {
            let said = LEFT_OUT.iter().any(|left_out| name.eq_ignore_ascii_case(left_out));
            let secret = value.contains("[redacted]");
            if !said && !secret {
                write!(out, " \\\n  -H {}", quoted(&format!("{name}: {value}")))?;
            }
        }
        if request.body.is_empty() {
            return writeln!(out);
        }
        let text = String::from_utf8_lossy(&request.body);
        let mut end = "END".to_owned();
        while text.lines().any(|line| line == end) {
            self.numbers += 1;
            end = format!("END{}", self.numbers);
        }
        writeln!(out, " \\\n  --data-binary @- <<'{end}'\n{text}\n{end}")
    }
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_tape_is_an_order_for_the_shell() {
        assert_eq!(quoted("a'; rm -rf / #"), r"'a'\''; rm -rf / #'");
    }
}
