//! A legacy session: a process of its own, the calls that wait for its answers, and the streams that its messages go out on.
//!
//! Over stdin and stdout nothing says to which call a message belongs, but for progress. What does not say it goes out on the
//! stream of the newest call that waits, so that its order to the answer is that of the server; without one on the stream of
//! GET. A client takes it the same from either (Streamable HTTP 2025-11-25, "Sending Messages").

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;

use super::Server;
use super::message::{self, Parts};
use super::process::Lines;
use super::queue::{Queue, Refused};
use crate::base::SessionId;
use crate::origin::message::{Message, Version, parse};
use crate::origin::{self, EventLog, Streams, new_id};
use crate::wire::jsonrpc;
use crate::wire::mcp::code;

/// Calls that may wait for their answers.
const CALLS_MAX: usize = 256;

pub struct Session {
    pub id: SessionId,
    pub streams: Streams,
    queue: Arc<Queue>,
    state: Mutex<State>,
}

struct State {
    /// What the client asked for, until the server has settled it.
    version: Version,
    /// The id of `initialize`, until it is answered.
    initialize: Option<Box<str>>,
    /// The oldest first.
    calls: Vec<Call>,
    ended: bool,
}

/// A request that waits for its answer; id and progress token are JSON text.
struct Call {
    id: Box<str>,
    token: Option<Box<str>>,
    log: Arc<EventLog>,
}

/// Why a message was not taken.
pub enum NotTaken {
    /// A call that waits has the same id.
    Twice,
    TooMany,
    Refused(Refused),
}

impl From<Refused> for NotTaken {
    fn from(refused: Refused) -> NotTaken {
        NotTaken::Refused(refused)
    }
}

impl Session {
    /// `initialize`: JSON text of the id of that request, which is sent next.
    pub fn new(queue: Arc<Queue>, version: Version, initialize: &str) -> Session {
        let state = State { version, initialize: Some(initialize.into()), calls: Vec::new(), ended: false };
        Session { id: new_id(), streams: Streams::default(), queue, state: Mutex::new(state) }
    }

    pub fn version(&self) -> Version {
        self.lock().version
    }

    /// Sends a request whose answer goes to `log`.
    pub fn call(&self, text: &str, id: &str, parts: &Parts<'_>, log: &Arc<EventLog>) -> Result<(), NotTaken> {
        let mut state = self.lock();
        if state.find(id).is_some() {
            return Err(NotTaken::Twice);
        }
        if state.calls.len() >= CALLS_MAX {
            return Err(NotTaken::TooMany);
        }
        self.queue.push(message::line(text, Vec::new()))?;
        let token = parts.progress_token.map(|raw| raw.get().into());
        state.calls.push(Call { id: id.into(), token, log: log.clone() });
        Ok(())
    }

    /// Sends what wants no answer.
    pub fn tell(&self, text: &str) -> Result<(), Refused> {
        self.queue.push(message::line(text, Vec::new()))
    }

    /// A cancelled call is not answered (cancellation page).
    pub fn forget(&self, id: &str) {
        let mut state = self.lock();
        let Some(at) = state.calls.iter().position(|call| *call.id == *id) else { return };
        let call = state.calls.remove(at);
        state.end_if_last(&call.log);
    }

    /// Whether a client waits for something of it.
    pub fn is_busy(&self) -> bool {
        !self.lock().calls.is_empty() || self.streams.standalone().is_attached()
    }

    /// A message of the server.
    async fn heard(&self, text: &str, server: u64) {
        let log = match parse(text.as_bytes()) {
            Ok(Message::Response { id, result }) => return self.answered(text, id, result).await,
            Ok(Message::Notification { method, params }) => {
                let token = params.filter(|_| method == "notifications/progress").and_then(|raw| {
                    let parts = Parts::of(Some(raw))?;
                    parts.token
                });
                self.stream_for(token)
            }
            Ok(Message::Request { .. }) => self.stream_for(None),
            Err(bad) => {
                tracing::warn!(server, why = bad.reason, "what a server wrote is no message, and is left out");
                return;
            }
        };
        // A client that reads slowly holds its own server back, as over stdin and stdout.
        log.room().await;
        log.push(text.as_bytes());
    }

    async fn answered(&self, text: &str, id: &str, result: Option<&RawValue>) {
        // Nobody waits for the answer to what was cancelled.
        let Some(log) = self.lock().find(id).map(|call| call.log.clone()) else { return };
        log.room().await;
        let mut state = self.lock();
        let Some(at) = state.calls.iter().position(|call| *call.id == *id) else { return };
        state.calls.remove(at);
        if state.initialize.as_deref() == Some(id) {
            state.initialize = None;
            let settled = Parts::of(result).and_then(|parts| parts.protocol_version);
            state.version = settled.and_then(|text| Version::parse(text.as_bytes())).unwrap_or(state.version);
        }
        log.push(text.as_bytes());
        state.end_if_last(&log);
    }

    /// Where a message goes that is no answer.
    fn stream_for(&self, token: Option<&RawValue>) -> Arc<EventLog> {
        let state = self.lock();
        let of_token =
            token.and_then(|token| state.calls.iter().find(|call| call.token.as_deref() == Some(token.get())));
        match of_token.or(state.calls.last()) {
            Some(call) => call.log.clone(),
            None => self.streams.standalone(),
        }
    }

    /// Nothing more comes: who waits is told `why`.
    fn finish(&self, why: &str) {
        let calls = {
            let mut state = self.lock();
            state.ended = true;
            std::mem::take(&mut state.calls)
        };
        self.queue.close();
        for call in &calls {
            let mut error = Vec::new();
            jsonrpc::error(&mut error, Some(call.id.as_bytes()), code::INTERNAL_ERROR, why, None);
            call.log.push(&error);
        }
        calls.iter().for_each(|call| call.log.end());
        self.streams.end();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, id: &str) -> Option<&Call> {
        self.calls.iter().find(|call| *call.id == *id)
    }

    /// The calls of a batch share a stream.
    fn end_if_last(&self, log: &Arc<EventLog>) {
        if !self.calls.iter().any(|call| Arc::ptr_eq(&call.log, log)) {
            log.end();
        }
    }
}

impl origin::Session for Session {
    fn end(&self) {
        self.finish("the session has ended");
    }
}

/// Passes on what the server says, to its end.
pub async fn listen(server: Arc<Server>, session: Arc<Session>, mut lines: Lines) {
    let number = lines.number;
    let why = lines.hear(async |text| session.heard(text, number).await).await;
    if !session.lock().ended {
        tracing::warn!(server = number, why, "a session ends with its server");
    }
    session.finish(&why);
    server.sessions.end(&session.id);
}
