//! `tape show`: what was said, a line a frame, as it is read.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use super::filter::{About, Filter};
use super::over::{self, Item, finish, indented, short, took};
use super::{failure, list};
use crate::cli::Failure;
use crate::cli::admin::args::Output;
use crate::wire::tape::{Frame, Head, Http, Side};

/// # Errors
/// A tape cannot be read, or has no such frame.
pub fn run(tapes: &[PathBuf], filter: &Filter, frame: Option<u64>, output: Output) -> Result<ExitCode, Failure> {
    let mut out = over::output();
    for (number, path) in tapes.iter().enumerate() {
        match frame {
            Some(seq) => whole(path, seq, &mut out)?,
            None if output == Output::Json => lines(path, filter, &mut out)?,
            None => table(path, filter, number > 0, &mut out)?,
        }
    }
    finish(out)?;
    Ok(ExitCode::SUCCESS)
}

/// The lines themselves.
fn lines(path: &Path, filter: &Filter, out: &mut impl Write) -> Result<(), Failure> {
    over::frames(path, filter, |head, item| {
        if let Item::Frame { line, .. } = item
            && filter.wants_tape(head)
        {
            out.write_all(line)?;
            out.write_all(b"\n")?;
        }
        Ok(filter.wants_tape(head))
    })
    .map(drop)
}

fn table(path: &Path, filter: &Filter, again: bool, out: &mut impl Write) -> Result<(), Failure> {
    let head = crate::tape::head_of(path).map_err(failure)?;
    if !filter.wants_tape(&head) {
        return Ok(());
    }
    let titles = title(path, &head, again);
    let mut begun = false;
    over::frames(path, filter, |_, item| {
        if !std::mem::replace(&mut begun, true) {
            out.write_all(titles.as_bytes())?;
        }
        match item {
            Item::Frame { frame, about, .. } => row(frame, &about, out)?,
            Item::Gap(gap) => {
                writeln!(out, "{:>7}  {} frames could not be recorded: the queue was full", "", gap.frames)?
            }
        }
        Ok(true)
    })?;
    if !begun {
        eprintln!("{}: no frames that are wanted", path.display());
    }
    Ok(())
}

fn title(path: &Path, head: &Head, again: bool) -> String {
    let name = short(&path.to_string_lossy(), 80);
    let server = short(&list::server(head), 60);
    let between = if again { "\n" } else { "" };
    format!(
        "{between}{name}: {} {server}, {}\n{:>7}  {:>12}  {:6}  {:8}  {:26}  {:22}  {:>9}  {:>9}  NOTE\n",
        list::transport(head),
        short(&head.started, 30),
        "FRAME",
        "TIME",
        "FROM",
        "WHAT",
        "METHOD",
        "NAME",
        "TOOK",
        "BYTES"
    )
}

fn row(frame: &Frame<'_>, about: &About, out: &mut impl Write) -> std::io::Result<()> {
    let time = format!("{}.{:06}", frame.us / 1_000_000, frame.us % 1_000_000);
    let from = match frame.from {
        Side::Client => "client",
        Side::Server => "server",
        Side::Proxy => "proxy",
    };
    let of = |text: &Option<String>, room: usize| text.as_deref().map_or_else(String::new, |text| short(text, room));
    let time_taken = about.answers.as_ref().map(|asked| took(frame.us.saturating_sub(asked.us))).unwrap_or_default();
    let bytes = bytes(frame);
    let line = format!(
        "{:>7}  {time:>12}  {from:6}  {:8}  {:26}  {:22}  {time_taken:>9}  {bytes:>9}  {}",
        frame.seq,
        kind(frame),
        of(&about.method, 26),
        of(&about.name, 22),
        note(frame)
    );
    writeln!(out, "{}", line.trim_end())
}

fn kind(frame: &Frame<'_>) -> &'static str {
    match (&frame.rpc, &frame.http) {
        (Some(rpc), _) if rpc.id.is_some() => "request",
        (Some(_), _) => "notice",
        _ if frame.answers.is_some() => "answer",
        (_, Some(Http::Request { .. })) => "request",
        (_, Some(Http::Response { .. })) => "response",
        (_, Some(Http::Body)) => "body",
        (_, Some(Http::Event { .. })) => "event",
        (_, Some(Http::Comment)) => "comment",
        (_, Some(Http::End { .. })) => "end",
        _ if frame.stream.is_some() => "stderr",
        _ if frame.message.is_some() => "message",
        _ if frame.text.is_some() => "text",
        _ => "bytes",
    }
}

fn bytes(frame: &Frame<'_>) -> u64 {
    let kept = match (&frame.message, &frame.text, &frame.base64) {
        (Some(message), ..) => message.get().len(),
        (_, Some(text), _) => text.len(),
        (.., Some(text)) => text.len() / 4 * 3,
        _ => 0,
    };
    kept as u64 + frame.cut
}

fn note(frame: &Frame<'_>) -> String {
    let mut notes = Vec::new();
    match &frame.http {
        Some(Http::Request { method, target, .. }) => notes.push(format!("{method} {target}")),
        Some(Http::Response { status, headers }) => {
            let kind = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            notes.push(kind.map_or_else(|| status.to_string(), |(_, kind)| format!("{status} {kind}")));
        }
        Some(Http::Event { id: Some(id), .. }) => notes.push(format!("event {id}")),
        Some(Http::End { how }) => notes.push(how.to_string()),
        _ => {}
    }
    if frame.error {
        notes.push(failed(frame));
    }
    if frame.stream.is_some()
        && let Some(text) = &frame.text
    {
        notes.push(text.trim_end().to_owned());
    }
    if frame.redacted {
        notes.push("redacted".to_owned());
    }
    if frame.cut > 0 {
        notes.push(format!("{} bytes more were not kept", frame.cut));
    }
    short(&notes.join(", "), 120)
}

/// What an error says of itself.
fn failed(frame: &Frame<'_>) -> String {
    let message: Value =
        frame.message.and_then(|message| serde_json::from_str(message.get()).ok()).unwrap_or(Value::Null);
    match (&message["error"], message["result"]["content"][0]["text"].as_str()) {
        (Value::Object(error), _) => {
            let code = error.get("code").map(ToString::to_string).unwrap_or_default();
            format!("error {code} {}", error.get("message").and_then(Value::as_str).unwrap_or_default())
        }
        (_, Some(text)) => format!("error {text}"),
        _ => "error".to_owned(),
    }
}

/// One frame, indented.
fn whole(path: &Path, seq: u64, out: &mut impl Write) -> Result<(), Failure> {
    let mut found = false;
    over::frames(path, &Filter::default(), |_, item| {
        let Item::Frame { frame, line, .. } = item else { return Ok(true) };
        if frame.seq != seq {
            return Ok(true);
        }
        found = true;
        writeln!(out, "{}", indented(&String::from_utf8_lossy(line)))?;
        Ok(false)
    })?;
    if found { Ok(()) } else { Err(failure(format!("{}: it has no frame {seq}", path.display()))) }
}
