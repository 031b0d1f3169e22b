//! What `admin` prints: tables for people, JSON for programs. Data on standard output.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::args::{AdminCommand, Output, SessionsCommand, UpstreamsCommand};
use crate::cli::Failure;
use crate::cli::print::{bare, print, titled};

/// # Errors
/// Standard output cannot be written; a reader that has seen enough is none.
pub fn answer(command: &AdminCommand, answer: &Value) -> Result<ExitCode, Failure> {
    let text = match command.output() {
        Output::Json => format!("{answer:#}\n"),
        Output::Table => in_words(command, answer),
    };
    print(&text)
}

fn in_words(command: &AdminCommand, answer: &Value) -> String {
    let field = |name: &str| plain(&answer[name]);
    match command {
        AdminCommand::Status { .. } => status(answer),
        AdminCommand::Upstreams(command) => match command {
            UpstreamsCommand::List { .. } => upstreams(answer),
            UpstreamsCommand::Drain { name, .. } => format!(
                "{name} is drained: no new work, its sessions go on; upstreams that are open: {}\n",
                field("open_upstreams")
            ),
            UpstreamsCommand::Enable { name, .. } => format!("{name} gets new work again\n"),
            UpstreamsCommand::Weight { name, weight, .. } => {
                format!("{name} has weight {weight}, before {}, until {}\n", field("before"), field("until"))
            }
        },
        AdminCommand::Sessions(SessionsCommand::List { .. }) => sessions(answer),
        AdminCommand::Sessions(SessionsCommand::Show { .. }) => pairs(answer),
        AdminCommand::Sessions(SessionsCommand::Kill { .. }) => {
            let killed = answer["killed"].as_array().into_iter().flatten();
            killed.map(|one| format!("ended {} of {}\n", plain(&one["id"]), plain(&one["upstream"]))).collect()
        }
        AdminCommand::LogLevel { filter: None, .. } => format!("{}\n", field("filter")),
        AdminCommand::LogLevel { filter: Some(filter), .. } => {
            format!("logged is {filter}, before {}, until the server ends\n", field("before"))
        }
        AdminCommand::Reload { .. } => "the configuration was taken\n".to_owned(),
        AdminCommand::Drain { .. } => format!("draining: it ends within {}\n", time(&answer["at_most_seconds"])),
        AdminCommand::CleanupSessions { dry_run: true, .. } => {
            format!("{} sessions would end, of {}\n", field("sessions"), field("left"))
        }
        AdminCommand::CleanupSessions { dry_run: false, .. } => {
            format!("{} sessions ended, {} are left\n", field("sessions"), field("left"))
        }
        AdminCommand::BackupSessions { .. } => {
            format!("{}: {}\n", field("file"), bytes(&answer["bytes"]))
        }
        AdminCommand::RestoreSessions { .. } => {
            format!("{} sessions restored; the store of before is kept as {}\n", field("sessions"), field("kept"))
        }
        AdminCommand::CompactSessions { .. } => format!(
            "{} sessions: {} before, {} now\n",
            field("sessions"),
            bytes(&answer["bytes_before"]),
            bytes(&answer["bytes_after"])
        ),
    }
}

fn status(answer: &Value) -> String {
    let at = |path: &str| plain(answer.pointer(path).unwrap_or(&Value::Null));
    let state = match &answer["reason"] {
        Value::String(reason) => format!("{}: {reason}", at("/state")),
        _ => at("/state"),
    };
    let store = match &answer["store"]["path"] {
        Value::String(path) => format!("lmdb, {path}"),
        _ => "memory".to_owned(),
    };
    let used = format!("{} of {}", bytes(&answer["store"]["used_bytes"]), bytes(&answer["store"]["map_bytes"]));
    let last = if answer["reloads"]["last_was_taken"] == true { "" } else { "; the last was refused" };
    let mut table = bare();
    for (name, value) in [
        ("state", state),
        ("version", at("/version")),
        ("pid", at("/pid")),
        ("up for", time(&answer["uptime_seconds"])),
        ("listens on", format!("{}{}", at("/bind"), if answer["tls"] == true { ", TLS" } else { "" })),
        ("upstreams", format!("{} open of {}", at("/upstreams/open"), at("/upstreams/all"))),
        ("connections", format!("{} of {}", at("/connections/active"), at("/connections/max"))),
        ("streams", at("/streams")),
        ("requests", at("/requests_total")),
        ("sessions", format!("{} of {}", at("/sessions/active"), at("/sessions/max"))),
        ("store", format!("{store}, {used}")),
        ("reloads", format!("{} taken, {} refused{last}", at("/reloads/taken"), at("/reloads/refused"))),
        ("log level", at("/log_level")),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    let mut workers = titled(&["worker", "driver", "connections", "streams", "requests"], &[2, 3, 4]);
    for worker in answer["workers"].as_array().into_iter().flatten() {
        let driver = match worker["flags"].as_str() {
            Some(flags) if !flags.is_empty() => format!("{} ({flags})", plain(&worker["driver"])),
            _ => plain(&worker["driver"]),
        };
        let of = |name: &str| plain(&worker[name]);
        workers.add_row([of("worker"), driver, of("connections"), of("streams"), of("requests_total")]);
    }
    format!("{table}\n\n{workers}\n")
}

fn upstreams(answer: &Value) -> String {
    let titles = ["name", "endpoint", "state", "weight", "in flight", "max", "waiting", "sessions"];
    let mut table = titled(&titles, &[3, 4, 5, 6, 7]);
    for one in answer["upstreams"].as_array().into_iter().flatten() {
        let fields = ["name", "endpoint", "state", "weight", "in_flight", "max_connections", "waiting", "sessions"];
        table.add_row(fields.map(|name| plain(&one[name])));
    }
    format!("{table}\n")
}

fn sessions(answer: &Value) -> String {
    let mut table = titled(&["id", "upstream", "transport", "protocol", "subject", "age", "idle"], &[5, 6]);
    let found = answer["sessions"].as_array().map_or(&[][..], Vec::as_slice);
    for one in found {
        let of = |name: &str| plain(&one[name]);
        let (age, idle) = (time(&one["age_seconds"]), time(&one["idle_seconds"]));
        table.add_row([of("id"), of("upstream"), of("transport"), of("protocol"), of("subject"), age, idle]);
    }
    let more = match (answer["more"] == true, found.last()) {
        (true, Some(last)) => format!("there are more: --after {}\n", plain(&last["id"])),
        _ => String::new(),
    };
    format!("{table}\n{more}")
}

/// The fields of one thing, a line each.
fn pairs(answer: &Value) -> String {
    let mut table = bare();
    for (name, value) in answer.as_object().into_iter().flatten() {
        let value = if name.ends_with("_seconds") { time(value) } else { plain(value) };
        table.add_row([name.trim_end_matches("_seconds").replace('_', " "), value]);
    }
    format!("{table}\n")
}

/// Without what a terminal would take for an order.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.replace(char::is_control, "?"),
        other => other.to_string(),
    }
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| plain(value), |bytes| bytesize::ByteSize(bytes).to_string())
}

fn time(value: &Value) -> String {
    let seconds = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.map_or_else(|| plain(value), |time| humantime::format_duration(time).to_string())
}
