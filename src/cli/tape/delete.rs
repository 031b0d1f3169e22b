//! `tape delete`: tapes, and nothing else.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::failure;
use crate::cli::{EXIT_USAGE, Failure};
use crate::tape;

/// # Errors
/// One of them is no tape, in which case none is deleted; or one cannot be deleted.
pub fn run(paths: &[PathBuf], yes: bool) -> Result<ExitCode, Failure> {
    let sizes = paths.iter().map(|path| size(path)).collect::<Result<Vec<u64>, Failure>>()?;
    let all = format!(
        "{} ({})",
        if let [one] = paths { one.display().to_string() } else { format!("{} tapes", paths.len()) },
        bytesize::ByteSize(sizes.iter().sum())
    );
    if !yes && !agreed(&all)? {
        eprintln!("nothing was deleted");
        return Ok(ExitCode::FAILURE);
    }
    for path in paths {
        std::fs::remove_file(path).map_err(|error| failure(format!("{}: {error}", path.display())))?;
    }
    eprintln!("deleted {all}");
    Ok(ExitCode::SUCCESS)
}

/// Of a file that is a tape.
fn size(path: &Path) -> Result<u64, Failure> {
    let named = |why: &dyn std::fmt::Display| failure(format!("{}: {why}; nothing was deleted", path.display()));
    let metadata = std::fs::symlink_metadata(path).map_err(|error| named(&error))?;
    if !metadata.is_file() {
        return Err(named(&"it is no plain file, and so no tape"));
    }
    match tape::head_of(path) {
        // One of a later version is a tape.
        Ok(_) => Ok(metadata.len()),
        Err(tape::Error::NoTape { why, .. }) => Err(named(&why)),
        Err(error) => Err(failure(format!("{error}; nothing was deleted"))),
    }
}

fn agreed(all: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let message = format!("nobody can be asked whether to delete {all}: say --yes");
        return Err(Failure { code: EXIT_USAGE, message });
    }
    eprint!("delete {all}? [y/N] ");
    io::stderr().flush().map_err(failure)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failure)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
