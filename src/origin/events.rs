//! One SSE stream's events, kept until they are delivered and, where the stream can be resumed, a
//! while longer.
//!
//! Whoever has something to say pushes; at most one [`Reader`] (the HTTP response that carries the stream)
//! takes. Attaching a reader displaces the one before it, so that a client which lost its connection
//! need not wait until the server notices. Pushers and readers may live on different workers: both
//! wait by wakers, which monoio delivers across threads.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::Write;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Events kept of one stream. A pusher with a reader waits for room; without one the oldest goes.
const EVENTS_MAX: usize = 128;

/// Bytes kept of one stream, besides one event that may be longer; as above.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Rendered bytes that one [`Reader::next`] gathers before it returns (at least one event).
const BATCH_BYTES: usize = 32 * 1024;

#[derive(Debug)]
pub struct EventLog {
    form: Form,
    state: Mutex<State>,
}

/// What is pushed, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// JSON; the event gets no id.
    Plain,
    /// JSON; the event gets the id `<number>-<sequence>`.
    Numbered(u32),
    /// The event as it stands in a stream, with its id if it has one.
    Verbatim,
}

#[derive(Debug, Default)]
struct State {
    /// What was pushed, the first with sequence number `first`.
    events: VecDeque<Box<[u8]>>,
    /// Together.
    bytes: usize,
    first: u64,
    /// Sequence number of the first event that no reader has confirmed.
    undelivered: u64,
    ended: bool,
    /// Counts attachments: a reader whose number is not the latest is displaced.
    attachments: u64,
    attached: bool,
    reader: Option<Waker>,
    pusher: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Events were appended; more may follow.
    Events,
    /// The last events were appended: nothing follows.
    End,
    /// Another reader took the stream over.
    Displaced,
}

impl EventLog {
    /// A stream whose events carry ids `<number>-1`, `<number>-2`, ... and can be resumed.
    pub fn resumable(number: u32) -> Arc<EventLog> {
        EventLog::new(Form::Numbered(number))
    }

    /// A stream without ids: what was delivered is forgotten.
    pub fn plain() -> Arc<EventLog> {
        EventLog::new(Form::Plain)
    }

    /// A stream that is pushed whole events, ids and line ends included, and that can be resumed by their place: the first is 1.
    pub fn verbatim() -> Arc<EventLog> {
        EventLog::new(Form::Verbatim)
    }

    fn new(form: Form) -> Arc<EventLog> {
        Arc::new(EventLog { form, state: Mutex::new(State { first: 1, undelivered: 1, ..State::default() }) })
    }

    /// Adds one message; ignored when the stream has ended.
    pub fn push(&self, event: &[u8]) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.events.push_back(event.into());
        state.bytes += event.len();
        while state.events.len() > EVENTS_MAX || (state.bytes > BYTES_MAX && state.events.len() > 1) {
            state.drop_first();
            state.undelivered = state.undelivered.max(state.first);
        }
        state.wake_reader();
    }

    /// Whether a push would displace what nobody has got yet.
    pub fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// Whether somebody reads it now.
    pub fn is_attached(&self) -> bool {
        self.lock().attached
    }

    /// Nothing follows; the reader gets what is there and then [`Step::End`].
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.wake_reader();
        state.wake_pusher();
    }

    /// Resolves when a push displaces nothing undelivered. A stream that nobody reads always has room.
    pub async fn room(&self) {
        poll_fn(|context| {
            let mut state = self.lock();
            if state.ended || !state.attached || !state.is_full() {
                return Poll::Ready(());
            }
            state.pusher = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Takes the stream over: from behind event `after`, else from the first undelivered event.
    pub fn attach(self: &Arc<Self>, after: Option<u64>) -> Reader {
        let mut state = self.lock();
        state.attachments += 1;
        state.attached = true;
        state.wake_reader();
        let next = after.map_or(state.undelivered, |after| after.saturating_add(1));
        let next = next.clamp(state.first, state.end());
        state.undelivered = next;
        Reader { attachment: state.attachments, log: Arc::clone(self), next }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sequence number that the next event gets.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn is_full(&self) -> bool {
        let delivered = (self.undelivered - self.first) as usize;
        let waiting = self.events.len() - delivered;
        let bytes = || self.events.iter().skip(delivered).map(|event| event.len()).sum::<usize>();
        waiting >= EVENTS_MAX || (self.bytes >= BYTES_MAX && bytes() >= BYTES_MAX)
    }

    fn drop_first(&mut self) -> Option<Box<[u8]>> {
        let event = self.events.pop_front()?;
        self.first += 1;
        self.bytes -= event.len();
        Some(event)
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_pusher(&mut self) {
        if let Some(waker) = self.pusher.take() {
            waker.wake();
        }
    }
}

/// The response that carries a stream. Dropping it leaves what it did not confirm for the next one.
#[derive(Debug)]
pub struct Reader {
    log: Arc<EventLog>,
    attachment: u64,
    next: u64,
}

impl Reader {
    /// The id that a client resumes from before any event came, as an event without data
    /// (Streamable HTTP 2025-11-25, "priming").
    pub fn prime(&self, out: &mut Vec<u8>) {
        if let Form::Numbered(number) = self.log.form {
            write!(out, "id: {number}-{}\ndata: \n\n", self.next - 1).expect("writing to a Vec does not fail");
        }
    }

    /// As [`Reader::next`], but does not wait: `None` if there is nothing yet.
    pub fn ready(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let next = pin!(self.next(out));
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(step) => Some(step),
            Poll::Pending => None,
        }
    }

    /// Appends the events that are there, or waits for the first. The call confirms that everything
    /// appended by the calls before it was written to the client.
    pub async fn next(&mut self, out: &mut Vec<u8>) -> Step {
        poll_fn(|context| {
            let log = Arc::clone(&self.log);
            let mut state = log.lock();
            if state.attachments != self.attachment {
                return Poll::Ready(Step::Displaced);
            }
            self.confirm(&mut state);
            if self.append(&state, out) {
                return Poll::Ready(if state.ended && self.next == state.end() { Step::End } else { Step::Events });
            }
            if state.ended {
                return Poll::Ready(Step::End);
            }
            state.reader = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Resolves when there is something to take, be it the end.
    pub async fn settled(&mut self) {
        poll_fn(|context| {
            let mut state = self.log.lock();
            if state.attachments != self.attachment || state.ended || state.end() > self.next {
                return Poll::Ready(());
            }
            state.reader = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// What was pushed, if that is one event and the stream has ended: an answer that needs no stream.
    pub fn whole(self) -> Result<Box<[u8]>, Reader> {
        let event = {
            let mut state = self.log.lock();
            let is_whole = state.attachments == self.attachment && state.ended && state.first == 1;
            let event = (is_whole && state.events.len() == 1).then(|| state.drop_first()).flatten();
            state.undelivered = state.undelivered.max(state.first);
            event
        };
        event.ok_or(self)
    }

    /// Everything up to the end was written.
    pub fn finish(mut self) {
        let log = Arc::clone(&self.log);
        self.confirm(&mut log.lock());
    }

    /// The stream's number where its events have ids.
    pub fn number(&self) -> Option<u32> {
        match self.log.form {
            Form::Numbered(number) => Some(number),
            Form::Plain | Form::Verbatim => None,
        }
    }

    fn confirm(&mut self, state: &mut State) {
        state.undelivered = state.undelivered.max(self.next);
        if self.log.form == Form::Plain {
            while state.first < state.undelivered {
                state.drop_first();
            }
        }
        state.wake_pusher();
    }

    fn append(&mut self, state: &State, out: &mut Vec<u8>) -> bool {
        let (from, start) = (self.next.max(state.first), out.len());
        self.next = from;
        for event in state.events.iter().skip((from - state.first) as usize) {
            if self.log.form == Form::Verbatim {
                out.extend_from_slice(event);
            } else {
                if let Form::Numbered(number) = self.log.form {
                    writeln!(out, "id: {number}-{}", self.next).expect("writing to a Vec does not fail");
                }
                out.extend_from_slice(b"event: message\ndata: ");
                out.extend_from_slice(event);
                out.extend_from_slice(b"\n\n");
            }
            self.next += 1;
            if out.len() - start >= BATCH_BYTES {
                break;
            }
        }
        out.len() > start
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        if state.attachments == self.attachment {
            state.attached = false;
            state.reader = None;
            state.wake_pusher();
        }
    }
}

/// `<stream>-<sequence>` of a `Last-Event-ID`.
pub fn parse_event_id(text: &[u8]) -> Option<(u32, u64)> {
    let (stream, sequence) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some((stream.parse().ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn take(reader: &mut Reader) -> (Poll<Step>, String) {
        let mut out = Vec::new();
        let step = poll(reader.next(&mut out));
        (step, String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn delivers_in_order_and_ends() {
        let log = EventLog::resumable(3);
        let mut reader = log.attach(None);
        assert_eq!(take(&mut reader).0, Poll::Pending);
        log.push(b"a");
        log.push(b"b");
        let (step, text) = take(&mut reader);
        assert_eq!(step, Poll::Ready(Step::Events));
        assert_eq!(text, "id: 3-1\nevent: message\ndata: a\n\nid: 3-2\nevent: message\ndata: b\n\n");
        log.end();
        log.push(b"late");
        assert_eq!(take(&mut reader), (Poll::Ready(Step::End), String::new()));
    }

    #[test]
    fn resumes_behind_the_event_that_the_client_names() {
        let log = EventLog::resumable(0);
        ["a", "b", "c"].iter().for_each(|event| log.push(event.as_bytes()));
        let mut reader = log.attach(None);
        assert_eq!(take(&mut reader).0, Poll::Ready(Step::Events));
        assert_eq!(take(&mut reader).0, Poll::Pending);
        drop(reader);
        assert!(take(&mut log.attach(Some(1))).1.starts_with("id: 0-2\n"));
        assert_eq!(take(&mut log.attach(Some(99))).0, Poll::Pending);
    }

    #[test]
    fn what_a_broken_connection_did_not_confirm_comes_again() {
        let log = EventLog::plain();
        log.push(b"a");
        assert!(take(&mut log.attach(None)).0.is_ready());
        assert!(take(&mut log.attach(None)).1.contains("data: a\n"));
    }

    #[test]
    fn a_second_reader_displaces_the_first() {
        let log = EventLog::plain();
        let mut first = log.attach(None);
        let mut second = log.attach(None);
        log.push(b"a");
        assert_eq!(take(&mut first).0, Poll::Ready(Step::Displaced));
        drop(first);
        assert_eq!(take(&mut second).0, Poll::Ready(Step::Events));
    }

    #[test]
    fn a_full_stream_makes_the_pusher_wait_only_while_somebody_reads() {
        let log = EventLog::plain();
        let mut reader = log.attach(None);
        for _ in 0..EVENTS_MAX {
            assert!(poll(log.room()).is_ready());
            log.push(b"x");
        }
        assert!(poll(log.room()).is_pending());
        assert!(take(&mut reader).0.is_ready());
        assert!(poll(log.room()).is_pending(), "not before the events were written");
        assert_eq!(take(&mut reader).0, Poll::Pending);
        assert!(poll(log.room()).is_ready());
        (0..=EVENTS_MAX).for_each(|_| log.push(b"y"));
        assert!(poll(log.room()).is_pending());
        drop(reader);
        assert!(poll(log.room()).is_ready());
    }

    #[test]
    fn keeps_a_bounded_number_of_events() {
        let log = EventLog::resumable(1);
        (0..EVENTS_MAX * 2).for_each(|n| log.push(n.to_string().as_bytes()));
        let (_, text) = take(&mut log.attach(Some(0)));
        assert!(text.starts_with(&format!("id: 1-{}\n", EVENTS_MAX + 1)));
        assert_eq!(text.matches("data:").count(), EVENTS_MAX);
    }

    #[test]
    fn keeps_a_bounded_number_of_bytes_but_any_one_event() {
        let log = EventLog::resumable(1);
        let mut reader = log.attach(None);
        let long = vec![b'x'; BYTES_MAX / 2];
        log.push(&long);
        assert!(poll(log.room()).is_ready());
        log.push(&long);
        assert!(log.is_full() && poll(log.room()).is_pending());
        log.push(&vec![b'y'; 2 * BYTES_MAX]);
        let (_, text) = take(&mut reader);
        assert!(text.starts_with("id: 1-3\n") && text.len() > 2 * BYTES_MAX, "{} bytes", text.len());
    }

    #[test]
    fn whole_events_are_written_as_they_are_and_resumed_by_place() {
        let log = EventLog::verbatim();
        log.push(b"id: x\r\nevent: message\r\ndata: 1\r\n\r\n");
        log.push(b"retry: 10\n\n");
        assert!(take(&mut log.attach(None)).1.ends_with("data: 1\r\n\r\nretry: 10\n\n"));
        assert_eq!(take(&mut log.attach(Some(1))).1, "retry: 10\n\n");
    }

    #[test]
    fn one_event_and_the_end_can_be_taken_as_a_whole() {
        let log = EventLog::resumable(1);
        let mut reader = log.attach(None);
        assert!(poll(reader.settled()).is_pending());
        log.push(b"a");
        assert!(poll(reader.settled()).is_ready());
        let reader = reader.whole().expect_err("more may follow");
        log.end();
        assert_eq!(reader.whole().ok().as_deref(), Some(&b"a"[..]));
        let two = EventLog::resumable(1);
        ["a", "b"].iter().for_each(|event| two.push(event.as_bytes()));
        two.end();
        assert!(two.attach(None).whole().is_err());
    }

    #[test]
    fn event_ids_round_trip() {
        assert_eq!(parse_event_id(b"4-19"), Some((4, 19)));
        for bad in [&b"4"[..], b"-", b"4-", b"a-1", b"4-1-1", b"\xff-1"] {
            assert_eq!(parse_event_id(bad), None);
        }
    }
}
