//! From what was seen to frames: pieces become messages and events, secrets are taken out, answers find their requests.

mod http;

use std::collections::HashMap;
use std::sync::Arc;

use super::frames::{Glance, Mark};
use super::lines::Lines;
use super::queue::{Event, Kind};
use super::shelf::{Key, Shelf};
use crate::wire::redact::Rules;
use crate::wire::tape::{Frame, Side, Stream, as_message};
use http::Exchange;

/// Queues of a stdio recording.
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;
pub const STDERR: usize = 2;

/// Bytes of messages that are not whole yet, over all exchanges; of more only the heads are kept.
const HELD_MAX: usize = 64 << 20;
/// Exchanges that are under way; who was begun first is let go first.
const EXCHANGES_MAX: usize = 100_000;

pub struct Assembly {
    rules: Arc<Rules>,
    /// Of a body or a message so much is kept.
    keep: usize,
    lines: [Lines; 3],
    exchanges: HashMap<(usize, u64), Exchange>,
    held: usize,
}

impl Assembly {
    pub fn new(rules: Arc<Rules>, keep: usize) -> Assembly {
        Assembly { rules, keep, lines: Default::default(), exchanges: HashMap::new(), held: 0 }
    }

    /// Something was taken from a queue.
    pub fn see(&mut self, queue: usize, event: &Event, shelf: &mut Shelf) {
        match event.facts.kind {
            Kind::Bytes => self.see_bytes(queue, event, shelf),
            _ => self.see_exchange(queue, event, shelf),
        }
    }

    /// What came without an end.
    pub fn finish(&mut self, at: u64, shelf: &mut Shelf) {
        for stream in [CLIENT, SERVER, STDERR] {
            let (rules, lines) = (&self.rules, &mut self.lines[stream]);
            lines.rest(|line, cut| say_line(rules, shelf, stream, at, line, cut));
        }
    }

    fn see_bytes(&mut self, stream: usize, event: &Event, shelf: &mut Shelf) {
        let (rules, keep, at) = (&self.rules, self.keep, event.facts.at);
        let lines = &mut self.lines[stream];
        if let Some(&[frames, bytes]) = super::numbers(&event.text).first_chunk() {
            // The line at hand has a hole, and ends in it.
            lines.rest(|line, cut| say_line(rules, shelf, stream, at, line, cut + bytes));
            shelf.lose(None, at, frames, bytes);
        }
        lines.feed(&event.body, keep, |line, cut| say_line(rules, shelf, stream, at, line, cut));
    }
}

/// A line of a stdio stream, with its end if it has one.
fn say_line(rules: &Rules, shelf: &mut Shelf, stream: usize, at: u64, line: &[u8], cut: u64) {
    let mut frame = Frame::new(0, if stream == CLIENT { Side::Client } else { Side::Server });
    let whole = line.strip_suffix(b"\n").filter(|_| cut == 0 && stream != STDERR);
    let message = whole.filter(|line| std::str::from_utf8(line).is_ok_and(|line| as_message(line).is_some()));
    if stream == STDERR {
        frame.stream = Some(Stream::Stderr);
    }
    let content = Content { bytes: message.unwrap_or(line), cut, is_text: message.is_none() };
    say(rules, shelf, None, at, frame, content, None, None);
}

/// What a frame holds, before it is cleaned.
#[derive(Clone, Copy, Default)]
pub struct Content<'a> {
    pub bytes: &'a [u8],
    pub cut: u64,
    /// It is no message, whatever it looks like.
    pub is_text: bool,
}

/// What an exchange asked for: the id of its request, and the frame.
type Asked<'a> = Option<(&'a str, Mark)>;

/// Put a frame on a tape, without its secrets; where it is.
#[expect(clippy::too_many_arguments, reason = "each is what one of the callers knows")]
fn say(
    rules: &Rules,
    shelf: &mut Shelf,
    key: Key,
    at: u64,
    mut frame: Frame<'_>,
    content: Content<'_>,
    answers: Option<Mark>,
    asked: Asked<'_>,
) -> Option<Mark> {
    frame.cut = content.cut;
    let Some(cleaned) = rules.bytes(content.bytes) else {
        frame.cut += content.bytes.len() as u64;
        frame.redacted = true;
        return shelf.frame(key, at, frame, answers);
    };
    let mut frame: Frame<'_> = frame;
    frame.redacted |= matches!(cleaned, std::borrow::Cow::Owned(_));
    if content.is_text {
        match std::str::from_utf8(&cleaned) {
            Ok("") => {}
            Ok(text) => frame.text = Some(text.into()),
            Err(_) => frame.hold(&cleaned),
        }
        return shelf.frame(key, at, frame, answers);
    }
    frame.hold(&cleaned);
    // Also of a message on several lines, which is a text.
    let Some(glance) = Glance::of(&cleaned) else {
        return shelf.frame(key, at, frame, answers);
    };
    let (from, id) = (frame.from, glance.id.map(|id| id.get()));
    frame.rpc = glance.rpc();
    frame.error |= glance.is_error();
    let mut answers = answers;
    if let Some(id) = id.filter(|_| glance.is_answer()) {
        let own = asked.filter(|(asked, _)| *asked == id && from != Side::Client).map(|(_, frame)| frame);
        let elsewhere = shelf.awaited(key).and_then(|awaited| awaited.answer(from, id));
        answers = own.or(elsewhere).or(answers);
    }
    let put = shelf.frame(key, at, frame, answers);
    if let (Some(put), Some(id), true) = (put, id, glance.is_request())
        && let Some(awaited) = shelf.awaited(key)
    {
        awaited.ask(from, id, put);
    }
    put
}
