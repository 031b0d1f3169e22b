//! `tape view`: one page for browsers, with everything in it. The tape stands in it as data that no browser takes for markup or
//! script, the policy of the page lets nothing run but its own script and style (by their hashes), and nothing is fetched.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use aws_lc_rs::digest;
use serde_json::json;

use super::failure;
use super::filter::Filter;
use super::over::{self, Item};
use crate::cli::Failure;
use crate::tape;
use crate::wire::tape::{Frame, encode_base64};

const PAGE: &str = include_str!("view/page.html");
const STYLE: &str = include_str!("view/page.css");
const SCRIPT: &str = include_str!("view/page.js");

/// Longer lines are cut in the page, which says so.
const LINE_BYTES_MAX: usize = 256 << 10;
/// Of a content that is cut.
const KEPT_CHARS: usize = 4096;
/// What browsers open without trouble.
const PAGE_BYTES_MAX: u64 = 192 << 20;

/// # Errors
/// The tape cannot be read, or the page written.
pub fn run(path: &Path, html: &Path, filter: &Filter) -> Result<ExitCode, Failure> {
    let head = tape::head_of(path).map_err(failure)?;
    if !filter.wants_tape(&head) {
        return Err(failure(format!("{}: it is of another session", path.display())));
    }
    let mut unfinished = html.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = Path::new(&unfinished);
    let named = |error: io::Error| failure(format!("{}: {error}", html.display()));
    // As private as the tape.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(unfinished).map_err(named)?;
    let written = page(path, filter, BufWriter::new(file));
    let left_out = match written {
        Ok(left_out) => left_out,
        Err(failure) => {
            let _ = fs::remove_file(unfinished);
            return Err(failure);
        }
    };
    fs::rename(unfinished, html).map_err(named)?;
    if left_out > 0 {
        eprintln!(
            "shadowcat: the page has room for no more: {left_out} frames were left out; choose with --since, --method and the like"
        );
    }
    eprintln!("wrote {}", html.display());
    Ok(ExitCode::SUCCESS)
}

/// How many frames found no room.
fn page(path: &Path, filter: &Filter, mut out: BufWriter<File>) -> Result<u64, Failure> {
    let head = tape::head_of(path).map_err(failure)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let about = json!({ "shadowcat_page": { "name": name, "filtered": filter.is_any() }, "head": head });
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let begun = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>shadowcat</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{PAGE}\
         <script type=\"application/x-ndjson\" id=\"tape\">\n{}\n",
        inert(&about.to_string())
    );
    begun.map_err(failure)?;
    let (mut bytes, mut left_out) = (0, 0_u64);
    over::frames(path, filter, |_, item| {
        let line = match item {
            Item::Frame { frame, line, .. } if line.len() > LINE_BYTES_MAX => cut(frame)?,
            Item::Frame { line, .. } => String::from_utf8_lossy(line).into_owned(),
            Item::Gap(gap) => json!({ "gap": gap }).to_string(),
        };
        let line = inert(&line);
        bytes += line.len() as u64 + 1;
        if bytes > PAGE_BYTES_MAX {
            left_out += 1;
        } else {
            writeln!(out, "{line}")?;
        }
        Ok(true)
    })?;
    let mut end = || -> io::Result<()> {
        if left_out > 0 {
            writeln!(out, "{}", json!({ "shadowcat_left_out": left_out }))?;
        }
        write!(out, "</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n")?;
        out.flush()
    };
    end().map_err(failure)?;
    Ok(left_out)
}

/// JSON in which no `<` stands: it stands in texts alone, where it can be spelt otherwise.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c")
}

/// A frame without most of its content.
fn cut(frame: &Frame<'_>) -> io::Result<String> {
    let content = frame.content().unwrap_or_default();
    let text: String = String::from_utf8_lossy(&content).chars().take(KEPT_CHARS).collect();
    let short = Frame { message: None, base64: None, text: Some(text.into()), ..frame.clone() };
    let mut value = serde_json::to_value(&short)?;
    value["shadowcat_cut"] = json!(content.len());
    Ok(value.to_string())
}

/// As a policy names what it allows.
fn hash(text: &str) -> String {
    format!("sha256-{}", encode_base64(digest::digest(&digest::SHA256, text.as_bytes()).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_tape_ends_its_element() {
        let line = json!({ "text": "</script><!--<script>alert(1)</SCRIPT>" }).to_string();
        let safe = inert(&line);
        assert!(!safe.contains('<'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&safe).unwrap(),
            serde_json::from_str::<serde_json::Value>(&line).unwrap()
        );
    }
}
