//! The frames of a tape one after the other, with progress on a terminal; what cannot be read is told once and passed over.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::ops::ControlFlow;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use super::failure;
use super::filter::{About, Filter};
use crate::cli::Failure;
use crate::tape;
use crate::wire::tape::{Entry, Frame, Gap, Head, Line};

/// A tape that is read faster than anybody looks.
const PROGRESS_BYTES_MIN: u64 = 32 << 20;
/// Of lines that cannot be read, those that are named.
const NAMED_MAX: u64 = 5;

/// A line that somebody may want.
pub enum Item<'a> {
    Frame { frame: &'a Frame<'a>, about: About, line: &'a [u8] },
    Gap(Gap),
}

/// Shows `see` the wanted frames of a tape, and how its head is. `false` from `see`: that is enough.
///
/// # Errors
/// The tape cannot be read, or what `see` says.
pub fn frames(
    path: &Path,
    filter: &Filter,
    mut see: impl FnMut(&Head, Item<'_>) -> io::Result<bool>,
) -> Result<Head, Failure> {
    let head = tape::head_of(path).map_err(failure)?;
    let mut sieve = filter.over(&head);
    let bar = progress(path);
    let mut unreadable = 0;
    let mut failed = None;
    let mut go = |entry: &Entry<'_>, bytes: u64| -> io::Result<bool> {
        if entry.number.is_multiple_of(1024) {
            bar.set_position(bytes);
        }
        match &entry.line {
            Ok(Line::Frame(frame)) => {
                let about = sieve.look(frame);
                if about.wanted {
                    return see(&head, Item::Frame { frame, about, line: entry.bytes });
                }
            }
            Ok(Line::Gap(gap)) if !filter.asks_for_frames() => return see(&head, Item::Gap(*gap)),
            Ok(_) => {}
            Err(damage) => {
                unreadable += 1;
                if unreadable <= NAMED_MAX {
                    bar.suspend(|| eprintln!("shadowcat: {}, line {}: {damage}", path.display(), entry.number));
                }
            }
        }
        Ok(true)
    };
    let read = tape::read(path, |entry, bytes| match go(entry, bytes) {
        Ok(true) => ControlFlow::Continue(()),
        Ok(false) => ControlFlow::Break(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    bar.finish_and_clear();
    if unreadable > NAMED_MAX {
        let more = unreadable - NAMED_MAX;
        eprintln!("shadowcat: {}: {more} more; `shadowcat tape validate` names all", path.display());
    }
    read.map_err(failure)?;
    match failed {
        // A reader that has seen enough is no failure.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failure(error)),
        _ => Ok(head),
    }
}

/// A bar on standard error, if that is a terminal and there is much to read.
pub fn progress(path: &Path) -> ProgressBar {
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if bytes < PROGRESS_BYTES_MIN || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    let bar = ProgressBar::new(bytes).with_style(style.expect("a template that is known"));
    bar.with_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Standard output, in large pieces.
pub fn output() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// Write the rest.
///
/// # Errors
/// It cannot be written; a reader that has seen enough is no failure.
pub fn finish(mut out: impl Write) -> Result<(), Failure> {
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failure(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// One line that a terminal can show, of at most so many characters.
pub fn short(text: &str, room: usize) -> String {
    let mut said: String = text.chars().take(room).map(|c| if gives_orders(c) { '?' } else { c }).collect();
    if text.chars().nth(room).is_some() {
        said.pop();
        said.push('…');
    }
    said
}

/// What terminals act upon instead of showing it; the last are those that turn the direction of a text.
fn gives_orders(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON over several lines, every token as it stood.
pub fn indented(json: &str) -> String {
    let (mut out, mut depth, mut in_text, mut escaped) = (String::with_capacity(json.len() * 2), 0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    let mut rest = json.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            _ if in_text => {
                in_text = escaped || c != '"';
                escaped = !escaped && c == '\\';
                // JSON has its own spelling for the controls that C0 has; what is left are those beyond.
                out.push(if gives_orders(c) { '?' } else { c });
            }
            '"' => {
                in_text = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                match rest.peek() {
                    Some('}' | ']') => out.extend(rest.next()),
                    _ => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Microseconds as people read them.
pub fn took(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..60_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => humantime::format_duration(std::time::Duration::from_secs(us / 1_000_000)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tape_says_gives_a_terminal_no_orders() {
        assert_eq!(short("a\x1b[2Jb\r\n", 20), "a?[2Jb??");
        assert_eq!(short("\u{202e}gnp.exe", 20), "?gnp.exe");
        assert_eq!(short("größer", 6), "größer");
        assert_eq!(short("größeres", 6), "größe…");
    }

    #[test]
    fn json_is_indented_as_it_stands() {
        let json = r#"{"b":[1,{}, []],"a":"x\"{,:","n":12345678901234567890.10 }"#;
        let shown = indented(json);
        assert_eq!(
            shown,
            "{\n  \"b\": [\n    1,\n    {},\n    []\n  ],\n  \"a\": \"x\\\"{,:\",\n  \"n\": 12345678901234567890.10\n}"
        );
    }

    #[test]
    fn times_have_units() {
        let said: Vec<String> = [7, 1_500, 250_000, 2_345_678, 90_000_000].map(took).into();
        assert_eq!(said, ["7 µs", "1.5 ms", "250 ms", "2.35 s", "1m 30s"]);
    }
}
