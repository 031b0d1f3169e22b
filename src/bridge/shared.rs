//! The one process that serves the modern era for all clients: its calls under numbers of ours, which take the place of their
//! ids, and how it is started anew.
//!
//! ```text
//! Resting --a request, once the pause is over--> Running --its end--> Resting, with a longer pause each time that it answered nothing
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::message::{self, Parts};
use super::parameters::Parameters;
use super::process::{Children, Lines, NotStarted};
use super::queue::{Queue, Refused};
use crate::net::{spawn, within};
use crate::origin::message::{Message, parse};
use crate::origin::{EventLog, Reader, Request};
use crate::wire::jsonrpc;
use crate::wire::mcp::code;

/// Calls that may wait for their answers, subscriptions included.
const CALLS_MAX: usize = 1024;
/// How long all others wait for a client that takes nothing, before its call is cut.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pauses between two starts.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub struct Shared {
    children: Arc<Children>,
    state: Arc<Mutex<State>>,
    /// Of the command, whichever process said so.
    parameters: Arc<Mutex<Parameters>>,
}

enum State {
    Resting(Rest),
    Running(Arc<Run>),
}

/// No process runs.
#[derive(Clone, Default)]
struct Rest {
    until: Option<Instant>,
    /// The pause before that.
    pause: Duration,
    /// How the last one ended.
    why: String,
    /// It answered nothing, as servers do that end at a request which they do not know.
    was_mute: bool,
}

/// A process that runs.
struct Run {
    queue: Arc<Queue>,
    answered: AtomicBool,
    /// It was told to end.
    ending: AtomicBool,
    /// The pause before it was started.
    pause: Duration,
    calls: Mutex<Calls>,
    parameters: Arc<Mutex<Parameters>>,
}

#[derive(Default)]
struct Calls {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

/// A request that waits for its answer; id and progress token are JSON text, as its client knows them.
struct Waiting {
    id: Box<str>,
    token: Option<Box<str>>,
    logs: bool,
    /// It is `tools/list`.
    lists_tools: bool,
    log: Arc<EventLog>,
}

/// Why a call was not taken.
pub enum NotTaken {
    /// The server seems to know the other era alone.
    SpeaksOther,
    Resting {
        seconds: u32,
        why: String,
    },
    TooMany,
    NotStarted(NotStarted),
    Refused(Refused),
}

/// A call under way.
pub struct Taken {
    pub reader: Reader,
    pub open: Open,
}

/// Dropping it cancels the call, unless it was answered.
pub struct Open {
    run: Arc<Run>,
    number: u64,
}

impl Open {
    /// Whether the process has answered anything yet.
    pub fn has_answered(&self) -> bool {
        self.run.answered.load(Relaxed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.run.cancel(self.number);
    }
}

impl Shared {
    pub fn new(children: Arc<Children>) -> Shared {
        Shared { children, state: Arc::new(Mutex::new(State::Resting(Rest::default()))), parameters: Arc::default() }
    }

    /// Holds a call of a tool against the headers that mirror its arguments.
    ///
    /// # Errors
    /// Which header is not what the body says.
    pub fn check_parameters(&self, request: &Request<'_>, parts: &Parts<'_>) -> Result<(), String> {
        let Some(tool) = &parts.name else { return Ok(()) };
        lock(&self.parameters).check(tool, parts.arguments, |name| request.other(name.as_bytes()).map_err(drop))
    }

    /// Sends a request; starts the process if it does not run.
    pub fn call(&self, text: &str, id: &str, method: &str, parts: &Parts<'_>) -> Result<Taken, NotTaken> {
        let run = self.run()?;
        let mut calls = run.calls();
        if calls.waiting.len() >= CALLS_MAX {
            return Err(NotTaken::TooMany);
        }
        calls.last += 1;
        let number = calls.last;
        let mut changes = vec![(id, number.to_string())];
        changes.extend(parts.progress_token.map(|token| (token.get(), number.to_string())));
        run.queue.push(message::line(text, changes)).map_err(|why| match why {
            Refused::Closed if !run.answered.load(Relaxed) => NotTaken::SpeaksOther,
            why => NotTaken::Refused(why),
        })?;
        let log = EventLog::plain();
        let reader = log.attach(None);
        let token = parts.progress_token.map(|token| token.get().into());
        let lists_tools = method == "tools/list";
        calls.waiting.insert(number, Waiting { id: id.into(), token, logs: parts.logs, lists_tools, log });
        drop(calls);
        Ok(Taken { reader, open: Open { run, number } })
    }

    pub fn end(&self) {
        if let State::Running(run) = &*lock(&self.state) {
            run.ending.store(true, Relaxed);
            run.queue.close();
        }
    }

    fn run(&self) -> Result<Arc<Run>, NotTaken> {
        let mut state = lock(&self.state);
        let pause = match &*state {
            State::Running(run) => return Ok(run.clone()),
            State::Resting(rest) => {
                let left = rest.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
                match left.is_zero() {
                    true => rest.pause,
                    false if rest.was_mute => return Err(NotTaken::SpeaksOther),
                    false => {
                        let seconds = left.as_secs() as u32 + 1;
                        return Err(NotTaken::Resting { seconds, why: rest.why.clone() });
                    }
                }
            }
        };
        let (queue, lines) = self.children.start().map_err(NotTaken::NotStarted)?;
        let run = Arc::new(Run {
            queue,
            answered: AtomicBool::default(),
            ending: AtomicBool::default(),
            pause,
            calls: Mutex::default(),
            parameters: self.parameters.clone(),
        });
        *state = State::Running(run.clone());
        spawn(listen(self.state.clone(), run.clone(), lines));
        Ok(run)
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds the lock can leave the state half changed.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes on what the process says, to its end.
async fn listen(state: Arc<Mutex<State>>, run: Arc<Run>, mut lines: Lines) {
    let number = lines.number;
    let why = lines.hear(async |text| run.heard(text, number).await).await;
    if !run.ending.load(Relaxed) {
        tracing::warn!(server = number, why, "the server of all clients is gone");
    }
    let answered = run.answered.load(Relaxed);
    let pause = if answered { PAUSE } else { (run.pause * 2).clamp(PAUSE, PAUSE_MAX) };
    let until = Some(Instant::now() + pause);
    // Before anybody hears of it, who may ask again at once.
    *lock(&state) = State::Resting(Rest { until, pause, why: why.clone(), was_mute: !answered });
    run.finish(&why);
}

impl Run {
    /// A message of the server.
    async fn heard(&self, text: &str, server: u64) {
        match parse(text.as_bytes()) {
            Ok(Message::Response { id, result }) => {
                self.answered.store(true, Relaxed);
                let Ok(number) = id.parse::<u64>() else { return };
                let Some(log) = self.calls().waiting.get(&number).map(|waiting| waiting.log.clone()) else { return };
                // What a client that takes nothing loses for it are the oldest events.
                let _ = within(PATIENCE, log.room()).await;
                let Some(waiting) = self.calls().waiting.remove(&number) else { return };
                if let (true, Some(result)) = (waiting.lists_tools, result) {
                    lock(&self.parameters).learn(result);
                }
                let mut changes = vec![(id, waiting.id.to_string())];
                let subscription = Parts::of(result).and_then(|parts| parts.subscription).map(|raw| raw.get());
                let is_own = |raw: &&str| raw.parse() == Ok(number);
                changes.extend(subscription.filter(is_own).map(|raw| (raw, waiting.id.to_string())));
                waiting.log.push(&one_line(text, changes));
                waiting.log.end();
            }
            Ok(Message::Notification { method, params }) => self.notified(text, &method, params, server).await,
            // The modern era knows no requests of servers.
            Ok(Message::Request { id, .. }) => {
                let mut error = Vec::new();
                let reason = "Method not found: there are no requests of servers in this protocol version";
                jsonrpc::error(&mut error, Some(id.as_bytes()), code::METHOD_NOT_FOUND, reason, None);
                error.push(b'\n');
                // A server that does not read its stdin does not get it.
                let _ = self.queue.push(error);
            }
            Err(bad) => {
                tracing::warn!(server, why = bad.reason, "what a server wrote is no message, and is left out");
            }
        }
    }

    async fn notified(&self, text: &str, method: &str, params: Option<&serde_json::value::RawValue>, server: u64) {
        let Some(parts) = Parts::of(params) else { return };
        let named = match method {
            "notifications/progress" => parts.token,
            _ => parts.subscription,
        };
        let found = {
            let calls = self.calls();
            match named.and_then(|raw| raw.get().parse::<u64>().ok()) {
                Some(number) => calls.waiting.get(&number).map(|waiting| {
                    let own =
                        if method == "notifications/progress" { waiting.token.as_ref() } else { Some(&waiting.id) };
                    let changes = named.zip(own).map(|(raw, own)| (raw.get(), own.to_string()));
                    (number, waiting.log.clone(), changes.into_iter().collect())
                }),
                // Nothing says whose it is: it goes where it can only belong, and to no other client.
                None => calls.only_one_with_logs().map(|(number, log)| (number, log, Vec::new())),
            }
        };
        let Some((number, log, changes)) = found else {
            if method == "notifications/message" {
                tracing::info!(server, message = text, "a log message that may be for any of several clients");
            }
            return;
        };
        if within(PATIENCE, log.room()).await.is_err() {
            tracing::warn!(server, "a client takes nothing, and its request is cut");
            self.cancel(number);
            log.end();
            return;
        }
        log.push(&one_line(text, changes));
    }

    /// Tells the server that nobody waits any more, unless it has answered.
    fn cancel(&self, number: u64) {
        if self.calls().waiting.remove(&number).is_none() {
            return;
        }
        let text = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{number},\
             \"reason\":\"the client left\"}}}}\n"
        );
        // A server that does not read its stdin works in vain.
        let _ = self.queue.push(text.into());
    }

    /// Nothing more comes: who waits is told `why`.
    fn finish(&self, why: &str) {
        self.queue.close();
        let waiting = std::mem::take(&mut self.calls().waiting);
        for waiting in waiting.into_values() {
            let mut error = Vec::new();
            jsonrpc::error(&mut error, Some(waiting.id.as_bytes()), code::INTERNAL_ERROR, why, None);
            waiting.log.push(&error);
            waiting.log.end();
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // No code that holds the lock can leave the calls half changed.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    fn only_one_with_logs(&self) -> Option<(u64, Arc<EventLog>)> {
        let mut wanting = self.waiting.iter().filter(|(_, waiting)| waiting.logs);
        match (wanting.next(), wanting.next()) {
            (Some((number, waiting)), None) => Some((*number, waiting.log.clone())),
            _ => None,
        }
    }
}

fn one_line(text: &str, changes: Vec<(&str, String)>) -> Vec<u8> {
    let mut line = message::line(text, changes);
    line.pop();
    line
}
