//! The tap: what a request and its answer say, copied for the recorder as it passes. Nothing is looked into here, and nobody
//! waits; with recording off each call is one branch.

use std::cell::Cell;
use std::time::Instant;

use super::Worker;
use super::account::{Closed, Open};
use super::envelope::{Envelope, Intake};
use super::exchange::{Exchange, Passage};
use super::guard::Request;
use super::session::Session;
use crate::base::SessionId;
use crate::tape::Recorder;
use crate::tape::queue::{Facts, Kind, flag};
use crate::telemetry::account::By;
use crate::wire::http1::head::{Name, ResponseHead};
use crate::wire::mcp::Era;

/// Longest names: a session, an upstream's, how it ended.
const TEXT_BYTES: usize = 160;

/// What was copied of one request so far.
#[derive(Default)]
pub struct Tap {
    /// Of the exchange, among those of this worker; 0: nothing was copied.
    exchange: Cell<u64>,
    /// Bytes that were copied of the bodies, and those that were not because they are too many.
    asked: Cell<Copied>,
    answered: Cell<Copied>,
    /// What found no room; nothing follows on that but the end.
    lost_frames: Cell<u64>,
    lost_bytes: Cell<u64>,
    knows_session: Cell<bool>,
    is_stream: Cell<bool>,
    /// When the answer began, for its first piece.
    answer_at: Cell<u64>,
}

#[derive(Clone, Copy, Default)]
struct Copied {
    bytes: usize,
    cut: u64,
}

/// The text of an event.
struct Text {
    bytes: [u8; TEXT_BYTES],
    length: usize,
}

impl Text {
    fn of(parts: &[&[u8]]) -> Text {
        let mut text = Text { bytes: [0; TEXT_BYTES], length: 0 };
        for part in parts {
            let fits = part.len().min(TEXT_BYTES - text.length);
            text.bytes[text.length..text.length + fits].copy_from_slice(&part[..fits]);
            text.length += fits;
        }
        text
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn of_session(session: Option<SessionId>) -> ([u8; SessionId::LEN], usize) {
    session.map_or(([0; SessionId::LEN], 0), |id| (*id.as_bytes(), SessionId::LEN))
}

/// A request that may go on: its head, and what was read of its body.
pub fn request(
    open: &Open<'_>,
    request: &Request<'_>,
    envelope: &Envelope,
    session: Option<&Session>,
    intake: &Intake,
) {
    let Some(recorder) = &open.worker.shared.recorder else { return };
    // Without a session it may begin one, which the answer tells.
    let may_begin = session.is_none() && envelope.era == Era::Legacy;
    let encoded = request.find(Name::ContentEncoding).is_some();
    let last = if intake.is_whole() { flag::LAST } else { 0 };
    let flags = last | if may_begin { flag::BEGINS } else { 0 } | if encoded { flag::ENCODED } else { 0 };
    let body = open.tap.asked.share(intake.body.bytes(), recorder.body_bytes_max);
    open.tap.begin(open, recorder, request.bytes, session.map(|session| session.id), flags, body);
}

/// A request that was refused before anybody else saw it. Its body is not kept.
pub fn refused(open: &Open<'_>, head: &[u8]) {
    if let Some(recorder) = &open.worker.shared.recorder
        && open.tap.exchange.get() == 0
    {
        open.tap.begin(open, recorder, head, None, flag::LAST, &[]);
    }
}

/// Our own answer, head and body.
pub fn own_answer(open: &Open<'_>, answer: &[u8]) {
    let Some(recorder) = &open.worker.shared.recorder else { return };
    let head = memchr::memmem::find(answer, b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let (head, body) = answer.split_at(head);
    let body = open.tap.answered.share(body, recorder.body_bytes_max);
    let text = Text::of(&[&open.tap.answered.get().cut.to_le_bytes()]);
    let flags = flag::OWN | flag::LAST;
    open.tap.leave(open.worker, recorder, Kind::Response, flags, Instant::now(), text.as_bytes(), head, body);
}

/// The head of an upstream's answer, as the client gets it.
pub fn answer(
    exchange: &Exchange<'_>,
    upstream: &str,
    answer: &ResponseHead,
    bytes: &[u8],
    sent: &[u8],
    is_stream: bool,
) {
    let Some(recorder) = &exchange.worker.shared.recorder else { return };
    let tap = exchange.tap;
    tap.tell_session(exchange, recorder);
    tap.is_stream.set(is_stream);
    let at = exchange.account.answered.get().unwrap_or_else(Instant::now);
    tap.answer_at.set(recorder.at(at));
    let encoded = answer.find(bytes, Name::ContentEncoding).is_some();
    let flags = if is_stream { flag::EVENTS } else { 0 } | if encoded { flag::ENCODED } else { 0 };
    let text = Text::of(&[&[0; 8], upstream.as_bytes()]);
    tap.leave(exchange.worker, recorder, Kind::Response, flags, at, text.as_bytes(), sent, &[]);
}

/// The next piece of a request's body; `last`: nothing follows.
pub fn request_piece(exchange: &Exchange<'_>, bytes: &[u8], last: bool) {
    let Some(recorder) = &exchange.worker.shared.recorder else { return };
    let tap = exchange.tap;
    let piece = tap.asked.share(bytes, recorder.body_bytes_max);
    if last || !piece.is_empty() {
        let text = if last { tap.asked.get().cut } else { 0 }.to_le_bytes();
        let flags = if last { flag::LAST } else { 0 };
        tap.leave(exchange.worker, recorder, Kind::RequestBody, flags, Instant::now(), &text, &[], piece);
    }
}

/// As [`request_piece`], of the answer.
pub fn answer_piece(passage: &Passage<'_>, bytes: &[u8], last: bool) {
    let Some(recorder) = &passage.worker.shared.recorder else { return };
    let tap = passage.tap;
    // Of a stream each event is cut by itself.
    let limit = if tap.is_stream.get() { usize::MAX } else { recorder.body_bytes_max };
    let piece = tap.answered.share(bytes, limit);
    if last || !piece.is_empty() {
        // It may have begun with an event of this stream.
        tap.tell_session(passage, recorder);
        let text = if last { tap.answered.get().cut } else { 0 }.to_le_bytes();
        let flags = if last { flag::LAST } else { 0 };
        let at = match tap.answer_at.take() {
            0 => recorder.at(Instant::now()),
            at => at,
        };
        tap.leave_at(passage.worker, recorder, Kind::ResponseBody, flags, at, &text, &[], piece);
    }
}

/// The request ended, whatever became of it.
pub fn end(closed: &Closed<'_>) {
    let Some(recorder) = &closed.worker.shared.recorder else { return };
    let tap = closed.tap.filter(|tap| tap.exchange.get() != 0);
    let Some(tap) = tap else { return };
    let ended = closed.account.ended.get();
    let how: &[u8] = match (ended.by, ended.early) {
        (By::Nobody, _) => b"complete",
        (_, true) => b"refused: ",
        (_, false) => b"cut: ",
    };
    let (session, length) = of_session(closed.account.session.get());
    let lost = [tap.lost_frames.get().to_le_bytes(), tap.lost_bytes.get().to_le_bytes()];
    let text = Text::of(&[&lost[0], &lost[1], &session[..length], how, ended.reason.as_bytes()]);
    let flags = if length > 0 { flag::SESSION } else { 0 };
    let facts = Facts { kind: Kind::End, flags, exchange: tap.exchange.get(), at: recorder.at(closed.ended) };
    recorder.leave(closed.worker.index, facts, text.as_bytes(), &[], &[]);
}

impl Tap {
    fn begin(
        &self,
        open: &Open<'_>,
        recorder: &Recorder,
        head: &[u8],
        session: Option<SessionId>,
        flags: u8,
        body: &[u8],
    ) {
        let worker = open.worker;
        self.exchange.set(worker.exchanges.get() + 1);
        worker.exchanges.set(self.exchange.get());
        self.knows_session.set(session.is_some());
        let connection = open.client.number() * worker.shared.workers.len() as u64 + worker.index as u64;
        let cut = if flags & flag::LAST != 0 { self.asked.get().cut } else { 0 };
        let (session, length) = of_session(session);
        let text = Text::of(&[&connection.to_le_bytes(), &cut.to_le_bytes(), &session[..length]]);
        self.leave(worker, recorder, Kind::Request, flags, open.account.begun, text.as_bytes(), head, body);
    }

    fn tell_session(&self, passage: &Passage<'_>, recorder: &Recorder) {
        if !self.knows_session.get()
            && let Some(session) = passage.account.session.get()
        {
            self.knows_session.set(true);
            self.leave(passage.worker, recorder, Kind::Session, 0, Instant::now(), session.as_bytes(), &[], &[]);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an event, taken apart so that nothing is built for it")]
    fn leave(
        &self,
        worker: &Worker,
        recorder: &Recorder,
        kind: Kind,
        flags: u8,
        at: Instant,
        text: &[u8],
        head: &[u8],
        body: &[u8],
    ) {
        self.leave_at(worker, recorder, kind, flags, recorder.at(at), text, head, body);
    }

    #[expect(clippy::too_many_arguments, reason = "as `leave`")]
    fn leave_at(
        &self,
        worker: &Worker,
        recorder: &Recorder,
        kind: Kind,
        flags: u8,
        at: u64,
        text: &[u8],
        head: &[u8],
        body: &[u8],
    ) {
        let exchange = self.exchange.get();
        if exchange == 0 {
            return;
        }
        let facts = Facts { kind, flags, exchange, at };
        if self.lost_frames.get() > 0 || !recorder.leave(worker.index, facts, text, head, body) {
            self.lost_frames.set(self.lost_frames.get() + 1);
            self.lost_bytes.set(self.lost_bytes.get() + (head.len() + body.len()) as u64);
        }
    }
}

trait Share {
    /// The part of `bytes` that is copied, up to a limit on all.
    fn share<'b>(&self, bytes: &'b [u8], limit: usize) -> &'b [u8];
}

impl Share for Cell<Copied> {
    fn share<'b>(&self, bytes: &'b [u8], limit: usize) -> &'b [u8] {
        let Copied { bytes: before, cut } = self.get();
        let (kept, over) = bytes.split_at(limit.saturating_sub(before).min(bytes.len()));
        self.set(Copied { bytes: before.saturating_add(kept.len()), cut: cut + over.len() as u64 });
        kept
    }
}
