//! One client of a replay over HTTP: its streams, and the task that plays what they carry.
//!
//! A stream is an event log for as long as the server kept it open on the tape. Where it closed one before the answer, the rest goes to
//! another log, which the client gets when it asks for what follows the last event that it has.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use futures_channel::oneshot;

use super::Speed;
use super::script::{Script, To, What};
use super::stage::{Heard, Out, RunId, Said, Stage, Target};
use crate::base::SessionId;
use crate::net::{race, sleep};
use crate::origin::{Ended, EventLog, Reader, Session, Whole};

/// Streams kept for a client that may ask for more of them; the oldest goes first.
const TRACKS_MAX: usize = 256;

pub struct Conversation {
    pub id: Option<SessionId>,
    script: Arc<Script>,
    begun: Instant,
    state: Mutex<State>,
    /// Somebody said something, since the task looked.
    is_changed: AtomicBool,
    task: AtomicWaker,
}

struct State {
    stage: Stage,
    standalone: Track,
    tracks: BTreeMap<RunId, Track>,
    is_over: bool,
}

/// What is said in answer to one request, or on the stream that a GET opens.
struct Track {
    form: Form,
    /// The last is the one at hand.
    logs: Vec<Arc<EventLog>>,
    /// Events in the last.
    events: u64,
    /// Event ids: which log, and the place in it.
    ids: HashMap<Box<str>, (usize, u64)>,
    /// All but the stream of a GET do.
    ends_with_answer: bool,
    is_over: bool,
}

enum Form {
    Stream,
    Whole { status: u16, session: Option<SessionId>, body: Vec<u8>, reply: Option<oneshot::Sender<Whole>> },
}

/// How a message of the client's is answered.
pub enum Called {
    /// 202.
    Taken,
    /// At once, with this.
    Answer(String),
    /// When it is there.
    Later(oneshot::Receiver<Whole>, RunId),
    Stream(Reader, RunId),
}

impl Track {
    fn new(form: Form) -> Track {
        Track {
            form,
            logs: vec![EventLog::verbatim()],
            events: 0,
            ids: HashMap::new(),
            ends_with_answer: true,
            is_over: false,
        }
    }

    fn log(&self) -> &Arc<EventLog> {
        self.logs.last().expect("there is always one")
    }

    fn push(&mut self, said: &Said) {
        self.events += 1;
        if let Some(id) = said.id.as_ref().filter(|id| !id.is_empty()) {
            self.ids.insert(id.as_str().into(), (self.logs.len() - 1, self.events));
        }
        self.log().push(&event_text(said));
    }

    /// The server closes the stream, and goes on in another.
    fn close(&mut self) {
        self.log().end();
        self.logs.push(EventLog::verbatim());
        self.events = 0;
    }

    /// From behind this event.
    fn after(&self, id: &str) -> Option<Reader> {
        let &(log, place) = self.ids.get(id)?;
        let is_last = log + 1 == self.logs.len();
        let was_last = !is_last && !self.ids.values().any(|other| *other > (log, place) && other.0 == log);
        let reader = if was_last { self.logs[log + 1].attach(Some(0)) } else { self.logs[log].attach(Some(place)) };
        Some(reader)
    }

    fn end(&mut self) {
        self.is_over = true;
        self.log().end();
    }
}

impl Session for Conversation {
    fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.standalone.end();
        state.tracks.values_mut().for_each(Track::end);
        // Whoever waits for an answer is told by its sender's end.
        state.tracks.clear();
        drop(state);
        self.poke();
    }
}

impl Conversation {
    pub fn new(script: &Arc<Script>, speed: Speed, id: Option<SessionId>) -> Arc<Conversation> {
        let state = State {
            stage: Stage::new(Arc::clone(script), speed),
            standalone: Track { ends_with_answer: false, ..Track::new(Form::Stream) },
            tracks: BTreeMap::new(),
            is_over: false,
        };
        Arc::new(Conversation {
            id,
            script: Arc::clone(script),
            begun: Instant::now(),
            state: Mutex::new(state),
            is_changed: AtomicBool::new(false),
            task: AtomicWaker::new(),
        })
    }

    /// Play what the server said by itself.
    pub fn open(&self) {
        self.lock().stage.open(self.begun.elapsed());
        self.poke();
    }

    /// A message that was posted.
    pub fn hear(&self, text: &str) -> Called {
        let mut state = self.lock();
        let heard = state.stage.hear(text, self.begun.elapsed());
        tell(&mut state.stage);
        let called = match heard {
            Heard::Taken => Called::Taken,
            Heard::Answer(answer) => Called::Answer(answer),
            Heard::Call(run) => self.track(&mut state, run),
        };
        drop(state);
        self.poke();
        called
    }

    /// Something that is not on the tape, on the stream of a GET.
    pub fn say(&self, answer: String) {
        let said = Said { event: Some("message".to_owned()), data: answer.into_bytes(), ..Said::default() };
        self.lock().standalone.push(&said);
    }

    /// Where the answers to a new run go.
    fn track(&self, state: &mut State, run: RunId) -> Called {
        let course = state.stage.course_of(run).unwrap_or(0);
        if self.script.facts.one_stream.is_some() {
            return Called::Taken;
        }
        while state.tracks.len() >= TRACKS_MAX
            && let Some(oldest) = state.tracks.iter().find(|(_, track)| track.is_over).map(|(run, _)| *run)
        {
            state.tracks.remove(&oldest);
        }
        if self.script.streams(course) {
            let track = Track::new(Form::Stream);
            let reader = track.log().attach(None);
            state.tracks.insert(run, track);
            return Called::Stream(reader, run);
        }
        let course = &self.script.courses[course];
        let (reply, later) = oneshot::channel();
        let session = self.id.filter(|_| &*course.method == "initialize");
        let status = if course.reply.status == 0 { 200 } else { course.reply.status };
        state.tracks.insert(run, Track::new(Form::Whole { status, session, body: Vec::new(), reply: Some(reply) }));
        Called::Later(later, run)
    }

    /// The stream that a GET opens: from behind an event, if the client names one.
    pub fn attach(&self, after: Option<&str>) -> Option<Reader> {
        let state = self.lock();
        let Some(id) = after else { return Some(state.standalone.log().attach(None)) };
        state.standalone.after(id).or_else(|| state.tracks.values().find_map(|track| track.after(id)))
    }

    /// How a stream ended. A client that leaves `cancels`, or comes back.
    pub fn ended(&self, run: RunId, how: Ended, cancels: bool) {
        let mut state = self.lock();
        // Of a stream that was closed before, this was not the last part.
        let is_last = |track: &Track| track.is_over && track.logs.len() == 1;
        let is_done = how == Ended::Whole && state.tracks.get(&run).is_some_and(is_last);
        let is_cancelled = how == Ended::ClientLeft && cancels;
        if is_done || is_cancelled {
            state.tracks.remove(&run);
        }
        if is_cancelled {
            state.stage.stop(run);
        }
    }

    fn poke(&self) {
        self.is_changed.store(true, Ordering::Release);
        self.task.wake();
    }

    /// The task that plays until the conversation is over.
    pub async fn play(self: Arc<Self>) {
        loop {
            match self.step() {
                Next::Over => return,
                Next::Room(log) => log.room().await,
                Next::Due(None) => self.changed().await,
                Next::Due(Some(wait)) => {
                    race(pin!(self.changed()), pin!(sleep(wait))).await;
                }
            }
        }
    }

    async fn changed(&self) {
        poll_fn(|context| {
            self.task.register(context.waker());
            match self.is_changed.swap(false, Ordering::AcqRel) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Everything that is due, as long as there is room for it.
    fn step(&self) -> Next {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return Next::Over;
            }
            let now = self.begun.elapsed();
            let out = state.stage.play(now);
            tell(&mut state.stage);
            match out {
                None => return Next::Due(state.stage.due().map(|due| due.saturating_sub(now))),
                Some(out) => {
                    if let Some(full) = self.deliver(&mut state, out) {
                        return Next::Room(full);
                    }
                }
            }
        }
    }

    /// The log that is full now, if one is.
    fn deliver(&self, state: &mut State, out: Out) -> Option<Arc<EventLog>> {
        let State { standalone, tracks, .. } = state;
        match out {
            Out::Say { to, said, .. } => {
                let Target::Run(run) = to else { return standalone.say(&said) };
                if self.script.facts.one_stream.is_some() {
                    return standalone.say(&said);
                }
                let track = tracks.get_mut(&run)?;
                let full = track.say(&said);
                if track.is_over && matches!(track.form, Form::Whole { .. }) {
                    tracks.remove(&run);
                }
                return full;
            }
            Out::Break(run) => tracks.get_mut(&run)?.close(),
            Out::End { run, open: false } => {
                let track = tracks.get_mut(&run)?;
                track.end();
                track.reply();
            }
            Out::End { open: true, .. } => {}
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Next {
    Over,
    Room(Arc<EventLog>),
    /// After so long, or when somebody says something.
    Due(Option<Duration>),
}

impl Track {
    fn say(&mut self, said: &Said) -> Option<Arc<EventLog>> {
        match &mut self.form {
            Form::Stream => {
                self.push(said);
                if said.last && self.ends_with_answer {
                    self.end();
                }
                Some(Arc::clone(self.log())).filter(|log| log.is_full())
            }
            Form::Whole { body, .. } => {
                body.extend_from_slice(&said.data);
                if said.last {
                    self.reply();
                }
                None
            }
        }
    }

    fn reply(&mut self) {
        if let Form::Whole { status, session, body, reply } = &mut self.form
            && let Some(reply) = reply.take()
        {
            let whole = Whole { status: *status, session: *session, json: std::mem::take(body) };
            // The client may have left.
            let _gone = reply.send(whole);
        }
        self.is_over = true;
    }
}

impl Script {
    /// Whether a request is answered with a stream.
    fn streams(&self, course: usize) -> bool {
        let course = &self.courses[course];
        if course.reply.status != 0 {
            return course.reply.is_stream;
        }
        // Over stdio nobody had to decide: what says more than an answer needs one.
        let says_more = |what: &What| matches!(what, What::Say { last: false, to: To::Own, .. } | What::Await { .. });
        course.steps.iter().any(|step| says_more(&step.what)) || !course.answered
    }
}

fn tell(stage: &mut Stage) {
    for note in stage.notes() {
        eprintln!("shadowcat replay: {note}");
    }
}

/// An event as it stands in a stream.
fn event_text(said: &Said) -> Vec<u8> {
    let mut text = Vec::with_capacity(said.data.len() + 64);
    let mut field = |name: &str, value: &[u8]| {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.push(b'\n');
    };
    if let Some(id) = &said.id {
        field("id", id.as_bytes());
    }
    if let Some(event) = &said.event {
        field("event", event.as_bytes());
    }
    if let Some(retry) = said.retry {
        field("retry", retry.to_string().as_bytes());
    }
    let data = said.data.strip_suffix(b"\n").unwrap_or(&said.data);
    data.split(|byte| *byte == b'\n').for_each(|line| field("data", line.strip_suffix(b"\r").unwrap_or(line)));
    text.push(b'\n');
    text
}
