//! `tape validate`: every line, every checksum, every number; what is wrong, and in which line.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::failure;
use super::over::{progress, short};
use crate::cli::Failure;
use crate::cli::admin::args::Output;
use crate::cli::print::print;
use crate::tape;
use crate::wire::tape::{Damage, Entry, Frame, Http, Line, Why};

/// Problems that are named; the rest is counted.
const NAMED_MAX: usize = 1000;
/// Requests that may still be answered.
const ASKED_MAX: usize = 1 << 20;

#[derive(Default)]
struct Report {
    lines: u64,
    frames: u64,
    lost: u64,
    checkpoints: u64,
    /// Line and what is wrong.
    problems: Vec<(u64, String)>,
    more_problems: u64,
    notes: Vec<(u64, String)>,
    seq: u64,
    us: u64,
    asked: HashSet<u64>,
    end: Option<u64>,
    is_torn: bool,
}

/// # Errors
/// A tape cannot be read.
pub fn run(tapes: &[PathBuf], output: Output) -> Result<ExitCode, Failure> {
    let mut all_well = true;
    let (mut words, mut rows) = (String::new(), Vec::new());
    for path in tapes {
        let report = check(path)?;
        all_well &= report.problems.is_empty();
        words += &report.in_words(path);
        rows.push(report.in_json(path));
    }
    print(&match output {
        Output::Json => format!("{:#}\n", json!({ "ok": all_well, "tapes": rows })),
        Output::Table => words,
    })?;
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(path: &Path) -> Result<Report, Failure> {
    let mut report = Report::default();
    let bar = progress(path);
    let read = tape::read(path, |entry, bytes| {
        if entry.number.is_multiple_of(1024) {
            bar.set_position(bytes);
        }
        report.line(entry);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    read.map_err(failure)?;
    if report.end.is_none() && !report.is_torn {
        report.note(report.lines, "it has no end: it is being written, or its recorder was killed");
    }
    Ok(report)
}

impl Report {
    fn problem(&mut self, line: u64, what: impl Into<String>) {
        if self.problems.len() < NAMED_MAX {
            self.problems.push((line, what.into()));
        } else {
            self.more_problems += 1;
        }
    }

    fn note(&mut self, line: u64, what: impl Into<String>) {
        if self.notes.len() < NAMED_MAX {
            self.notes.push((line, what.into()));
        }
    }

    fn line(&mut self, entry: &Entry<'_>) {
        self.lines = entry.number;
        if let (Some(end), false) = (self.end, matches!(entry.line, Ok(Line::Head(_)))) {
            self.problem(entry.number, format!("something stands behind the end of the tape, which is line {end}"));
        }
        match &entry.line {
            Ok(Line::Head(head)) => {
                if entry.number > 1 {
                    self.note(entry.number, format!("another tape begins here (part {} of {})", head.part, head.id));
                }
                if super::filter::unix_us(&head.started).is_none() {
                    self.problem(entry.number, format!("`started` is no time: {}", short(&head.started, 40)));
                }
                (self.seq, self.us, self.end) = (0, 0, None);
                self.asked.clear();
            }
            Ok(Line::Frame(frame)) => self.frame(entry.number, frame),
            Ok(Line::Gap(gap)) => {
                self.lost += gap.frames;
                self.note(entry.number, format!("{} frames are missing: the queue was full", gap.frames));
            }
            Ok(Line::Checkpoint(checkpoint)) => {
                self.checkpoints += 1;
                if checkpoint.seq != self.seq {
                    let what = format!("the checkpoint is of frame {}, and the last is {}", checkpoint.seq, self.seq);
                    self.problem(entry.number, what);
                }
            }
            Ok(Line::End(end)) => {
                self.end = Some(entry.number);
                if end.frames != self.seq {
                    self.problem(
                        entry.number,
                        format!("the end counts {} frames, and there are {}", end.frames, self.seq),
                    );
                }
                if end.why == Why::Other {
                    self.note(entry.number, "it ended for a reason of a later version");
                }
            }
            Ok(Line::Unknown) => self.note(entry.number, "a kind of line of a later version"),
            Err(Damage::Torn(_)) => {
                self.is_torn = true;
                self.note(entry.number, entry.line.as_ref().expect_err("it is damaged").to_string());
            }
            Err(damage) => self.problem(entry.number, damage.to_string()),
        }
    }

    fn frame(&mut self, line: u64, frame: &Frame<'_>) {
        self.frames += 1;
        if frame.seq != self.seq + 1 {
            self.problem(line, format!("frame {} follows frame {}", frame.seq, self.seq));
        }
        if frame.us < self.us {
            self.problem(line, format!("time goes back: {} µs after {} µs", frame.us, self.us));
        }
        (self.seq, self.us) = (frame.seq, frame.us);
        let asks = frame.rpc.as_ref().is_some_and(|rpc| rpc.id.is_some());
        if (asks || matches!(frame.http, Some(Http::Request { .. }))) && self.asked.len() < ASKED_MAX {
            self.asked.insert(frame.seq);
        }
        if let Some(answers) = frame.answers
            && answers >= frame.seq
        {
            self.problem(line, format!("frame {} answers frame {answers}, which is not before it", frame.seq));
        } else if let Some(answers) = frame.answers
            && !self.asked.contains(&answers)
            && self.asked.len() < ASKED_MAX
        {
            self.problem(line, format!("frame {} answers frame {answers}, which asks nothing", frame.seq));
        }
        let forms = [frame.message.is_some(), frame.text.is_some(), frame.base64.is_some()];
        if forms.iter().filter(|is| **is).count() > 1 {
            self.problem(line, "a frame has one of `message`, `text` and `base64`");
        }
        if frame.base64.is_some() && frame.content().is_none() {
            self.problem(line, "`base64` is none");
        }
    }

    fn in_words(&self, path: &Path) -> String {
        let name = path.display();
        let told =
            |(line, what): &(u64, String), kind: &str| format!("{name}, line {line}: {kind}{}\n", short(what, 400));
        let mut words: String = self.problems.iter().map(|each| told(each, "")).collect();
        if self.more_problems > 0 {
            words += &format!("{name}: {} more\n", self.more_problems);
        }
        words.extend(self.notes.iter().map(|each| told(each, "note: ")));
        let verdict = match self.problems.len() as u64 + self.more_problems {
            0 => "sound".to_owned(),
            1 => "1 problem".to_owned(),
            many => format!("{many} problems"),
        };
        words
            + &format!(
                "{name}: {verdict}: {} lines, {} frames, {} checkpoints\n",
                self.lines, self.frames, self.checkpoints
            )
    }

    fn in_json(&self, path: &Path) -> Value {
        let list = |found: &[(u64, String)]| -> Vec<Value> {
            found.iter().map(|(line, what)| json!({ "line": line, "what": what })).collect()
        };
        json!({
            "tape": path.to_string_lossy(), "ok": self.problems.is_empty(), "lines": self.lines, "frames": self.frames,
            "frames_not_recorded": self.lost, "checkpoints": self.checkpoints, "ended": self.end.is_some(),
            "problems": list(&self.problems), "more_problems": self.more_problems, "notes": list(&self.notes),
        })
    }
}
