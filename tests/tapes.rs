//! Tapes as their owner handles them: the commands of `tape`, and `replay` over stdin and stdout and over HTTP.

#[path = "tapes/commands.rs"]
mod commands;
#[path = "tapes/making.rs"]
mod making;
#[path = "tapes/replay.rs"]
mod replay;
#[path = "support/wait.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod wait;

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn shadowcat(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `shadowcat tape ...`, with the names of files at the end.
fn tape(arguments: &[&str], files: &[&Path]) -> Output {
    shadowcat(&["tape"]).args(arguments).args(files).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command that succeeds prints.
fn said(arguments: &[&str], files: &[&Path]) -> String {
    let output = tape(arguments, files);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}
