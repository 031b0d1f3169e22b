//! A tape over stdin and stdout: one message a line.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::stage::{Heard, Out, Stage};
use super::{Script, Speed};

/// Longest line of a client's.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Lines that wait to be answered; then the client has to.
const LINES_MAX: usize = 64;

/// Serve until the client closes its end.
///
/// # Errors
/// A line is too long, or the client takes no answers.
pub fn serve(script: Arc<Script>, speed: Speed) -> io::Result<()> {
    let (tell, told) = sync_channel(LINES_MAX);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let line = next_line(&mut stdin);
            let is_last = !matches!(line, Ok(Some(_)));
            if tell.send(line).is_err() || is_last {
                return;
            }
        }
    })?;
    let begun = Instant::now();
    let mut stage = Stage::new(script, speed);
    let mut stdout = io::stdout().lock();
    stage.open(begun.elapsed());
    loop {
        play(&mut stage, begun.elapsed(), &mut stdout)?;
        let heard = match stage.due() {
            Some(due) => told.recv_timeout(due.saturating_sub(begun.elapsed())),
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match heard {
            Ok(Ok(Some(line))) if line.trim().is_empty() => {}
            Ok(Ok(Some(line))) => {
                if let Heard::Answer(answer) = stage.hear(&line, begun.elapsed()) {
                    say(&mut stdout, answer.as_bytes())?;
                }
            }
            Ok(Ok(None)) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn play(stage: &mut Stage, now: Duration, stdout: &mut impl Write) -> io::Result<()> {
    loop {
        let out = stage.play(now);
        for note in stage.notes() {
            eprintln!("shadowcat replay: {note}");
        }
        match out {
            None => return Ok(()),
            // Events without data have nothing to say here.
            Some(Out::Say { said, .. }) if said.data.is_empty() => {}
            Some(Out::Say { said, .. }) => say(stdout, &said.data)?,
            Some(Out::Break(_) | Out::End { .. }) => {}
        }
    }
}

fn say(stdout: &mut impl Write, message: &[u8]) -> io::Result<()> {
    // What was no message over stdio has its own end.
    stdout.write_all(message.strip_suffix(b"\n").unwrap_or(message))?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

fn next_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 == LINE_BYTES_MAX {
        return Err(io::Error::other(format!("a line of the client has more than {LINE_BYTES_MAX} bytes")));
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}
