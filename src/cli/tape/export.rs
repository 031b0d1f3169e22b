//! `tape export`: a tape in another form, on standard output.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::args::Form;
use super::filter::Filter;
use super::over::{self, Item, finish};
use super::{curl, failure, har};
use crate::cli::Failure;
use crate::tape;

/// # Errors
/// The tape cannot be read, or is of another session than the one that is wanted.
pub fn run(path: &Path, form: Form, filter: &Filter) -> Result<ExitCode, Failure> {
    let head = tape::head_of(path).map_err(failure)?;
    if !filter.wants_tape(&head) {
        let session = head.session.as_deref().unwrap_or("none");
        return Err(failure(format!("{}: it is of another session ({session})", path.display())));
    }
    let mut out = over::output();
    match form {
        Form::Json => json(path, filter, &mut out)?,
        Form::Har => har::write(path, filter, &head, &mut out)?,
        Form::Curl => curl::write(path, filter, &head, &mut out)?,
    }
    finish(out)?;
    Ok(ExitCode::SUCCESS)
}

/// The lines as they stand, which are JSON each, in one document.
fn json(path: &Path, filter: &Filter, out: &mut impl Write) -> Result<(), Failure> {
    let mut between = "";
    let head = over::frames(path, filter, |head, item| {
        if between.is_empty() {
            write!(out, "{{\"head\":{},\"frames\":[", serde_json::to_string(head)?)?;
            between = "\n";
        }
        if let Item::Frame { line, .. } = item {
            out.write_all(between.as_bytes())?;
            out.write_all(line)?;
            between = ",\n";
        }
        Ok(true)
    })?;
    let nothing = if between.is_empty() {
        format!("{{\"head\":{},\"frames\":[", serde_json::to_string(&head).map_err(failure)?)
    } else {
        String::new()
    };
    match writeln!(out, "{nothing}\n]}}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(failure(error)),
        _ => Ok(()),
    }
}
