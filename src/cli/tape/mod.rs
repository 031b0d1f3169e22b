//! `tape`: look at recordings, turn them into other forms, delete them.
//!
//! ```text
//! args      flags and commands
//! filter    which frames are wanted, and what each is about
//! over      the frames of a tape, with progress on a terminal
//! list show stats validate delete
//! export    json; har, curl
//! view      a page for browsers        (view/: its parts)
//! ```

pub mod args;
mod curl;
mod delete;
mod export;
mod filter;
mod har;
mod list;
mod over;
mod show;
mod stats;
mod validate;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::TapeCommand;

use super::Failure;
use crate::tape;

/// # Errors
/// A tape cannot be read, or something written.
pub fn run(command: &TapeCommand) -> Result<ExitCode, Failure> {
    match command {
        TapeCommand::List { directory, filter, print } => list::run(directory, &filter.filter(), print.output),
        TapeCommand::Show { tapes, filter, frame, print } => {
            show::run(&tapes_of(tapes)?, &filter.filter(), *frame, print.output)
        }
        TapeCommand::Stats { tapes, filter, print } => stats::run(&tapes_of(tapes)?, &filter.filter(), print.output),
        TapeCommand::Validate { tapes, print } => validate::run(&tapes_of(tapes)?, print.output),
        TapeCommand::Export { tape, format, filter } => export::run(tape, *format, &filter.filter()),
        TapeCommand::Delete { tapes, yes } => delete::run(tapes, *yes),
        TapeCommand::View { tape, html, filter } => view::run(tape, html, &filter.filter()),
    }
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure { code: 1, message: error.to_string() }
}

/// Tapes by name, and the tapes in directories.
fn tapes_of(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let inside = tapes_in(path)?;
            if inside.is_empty() {
                return Err(failure(format!("{}: there is no tape in it", path.display())));
            }
            found.extend(inside.into_iter().map(|(path, _)| path));
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

/// The files in a directory that are tapes, the oldest first.
fn tapes_in(directory: &Path) -> Result<Vec<(PathBuf, crate::wire::tape::Head)>, Failure> {
    let named = |error| failure(format!("{}: {error}", directory.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(named)? {
        let path = entry.map_err(named)?.path();
        // A pipe or a device would be waited for.
        if !std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        match tape::head_of(&path) {
            Ok(head) => found.push((path, head)),
            Err(tape::Error::NoTape { .. }) => {}
            Err(error) => eprintln!("shadowcat: {error}"),
        }
    }
    found.sort_by(|(one, first), (other, second)| {
        (&first.started, first.part, one).cmp(&(&second.started, second.part, other))
    });
    Ok(found)
}
