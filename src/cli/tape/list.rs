//! `tape list`: the tapes in a directory.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::filter::Filter;
use super::over::{self, short, took};
use super::{failure, tapes_in};
use crate::cli::Failure;
use crate::cli::admin::args::Output;
use crate::cli::print::{print, titled};
use crate::tape;
use crate::wire::tape::{Head, Transport};

/// # Errors
/// The directory or a tape in it cannot be read.
pub fn run(directory: &Path, filter: &Filter, output: Output) -> Result<ExitCode, Failure> {
    let mut rows = Vec::new();
    let mut table =
        titled(&["tape", "started", "lasted", "transport", "server", "session", "frames", "size", "state"], &[2, 6, 7]);
    for (path, head) in tapes_in(directory)? {
        if !filter.wants_tape(&head) {
            continue;
        }
        let mut wanted = None;
        if filter.asks_for_frames() {
            let mut count = 0_u64;
            over::frames(&path, filter, |_, _| {
                count += 1;
                Ok(true)
            })?;
            if count == 0 {
                continue;
            }
            wanted = Some(count);
        }
        let tail = tape::tail_of(&path).map_err(failure)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let state = tail.end.map_or(Value::Null, |end| json!(end.why));
        table.add_row([
            short(&name, 60),
            short(head.started.split('.').next().unwrap_or_default(), 24),
            took(tail.us),
            transport(&head).to_owned(),
            short(&server(&head), 44),
            head.session.as_deref().map_or_else(|| "-".to_owned(), |session| short(session, 12)),
            wanted.map_or_else(|| tail.seq.to_string(), |wanted| format!("{wanted} of {}", tail.seq)),
            bytesize::ByteSize(tail.bytes).to_string(),
            state.as_str().unwrap_or("open or cut off").to_owned(),
        ]);
        rows.push(json!({
            "tape": path.to_string_lossy(), "id": head.id, "part": head.part, "started": head.started, "seconds": tail.us as f64 / 1e6,
            "transport": transport(&head), "server": head.server, "session": head.session, "software": head.software,
            "frames": tail.seq, "frames_wanted": wanted, "bytes": tail.bytes, "end": state,
        }));
    }
    if output == Output::Json {
        return print(&format!("{:#}\n", json!({ "tapes": rows })));
    }
    if rows.is_empty() {
        eprintln!("no tapes in {}{}", directory.display(), if filter.is_any() { " that are wanted" } else { "" });
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("{table}\n"))
}

pub fn transport(head: &Head) -> &'static str {
    match head.transport {
        Transport::Stdio => "stdio",
        Transport::Http => "http",
    }
}

/// What answers, in words.
pub fn server(head: &Head) -> String {
    match &head.server.upstream {
        Some(upstream) => upstream.clone(),
        None if head.server.command.is_empty() => "-".to_owned(),
        None => head.server.command.join(" "),
    }
}
