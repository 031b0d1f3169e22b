//! Calls that take time. A work runs as a task of its own and writes to a stream's log, so a legacy
//! client that loses its connection can take up the stream elsewhere.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_channel::oneshot;
use serde_json::value::RawValue;

use super::mcp::Counters;
use super::reply::{self, Caching, Style, text};
use super::session::Session;
use super::tools::{elicitation, fail, greeting, say_members};
use crate::net::{Either, race, sleep, within};
use crate::origin::EventLog;

/// How long a user may take to answer `ask`.
const ASK_TIMEOUT: Duration = Duration::from_secs(600);

pub struct Work {
    /// JSON text of the request's id.
    pub id: Box<str>,
    pub task: Task,
    pub style: Style,
    /// Whose work it is, and where `notifications/cancelled` finds it.
    pub session: Option<Arc<Session>>,
    /// Resolves when the work is to stop: sent, or its sender dropped.
    pub cancelled: oneshot::Receiver<()>,
    /// Without a session, what the connection holds and drops.
    pub guard: Option<oneshot::Sender<()>>,
    pub counters: Arc<Counters>,
}

pub enum Task {
    Slow {
        steps: u32,
        interval: Duration,
        /// JSON text of the client's progress token.
        token: Option<Box<str>>,
        /// The client wants log messages of level info.
        logs: bool,
    },
    Ask {
        question: Box<str>,
    },
}

impl Work {
    /// Takes a work that will not run out of its session.
    pub fn forget(&self) {
        if let Some(session) = &self.session {
            session.stop(&self.id);
        }
    }
}

/// Runs one after the other, then ends the log unless it serves other calls as well.
pub async fn run_all(works: Vec<Work>, log: Arc<EventLog>, ends_log: bool) {
    for work in works {
        run(work, &log).await;
    }
    if ends_log {
        log.end();
    }
}

/// A cancelled work is not answered (cancellation page).
async fn run(work: Work, log: &EventLog) {
    let Work { id, task, style, session, cancelled, counters, .. } = work;
    counters.running.fetch_add(1, Ordering::Relaxed);
    let performing = pin!(perform(&task, &id, style, session.as_deref(), log));
    let first = race(pin!(cancelled), performing).await;
    if let Some(session) = &session {
        session.stop(&id);
    }
    counters.running.fetch_sub(1, Ordering::Relaxed);
    match first {
        Either::Second(body) => log.push(&body),
        Either::First(_) => {
            counters.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The JSON of the answer.
async fn perform(task: &Task, id: &str, style: Style, session: Option<&Session>, log: &EventLog) -> Vec<u8> {
    let words = match task {
        Task::Slow { steps, interval, token, logs } => {
            slow(*steps, *interval, token.as_deref(), *logs, log).await;
            Some(format!("Done after {steps} steps"))
        }
        Task::Ask { question } => ask(question, session, log).await,
    };
    let mut body = Vec::new();
    match words {
        Some(words) => reply::result(&mut body, id, style, Caching::None, |out| say_members(out, &words, None)),
        None => {
            fail(&mut body, id, style, "the question was not answered");
        }
    }
    body
}

async fn slow(steps: u32, interval: Duration, token: Option<&str>, logs: bool, log: &EventLog) {
    let mut event = Vec::new();
    if logs {
        text(&mut event, r#"{"jsonrpc":"2.0","method":"notifications/message","params":"#);
        text(&mut event, &format!(r#"{{"level":"info","logger":"slow","data":"{steps} steps to go"}}}}"#));
        log.push(&event);
    }
    // Told at the start of a step: the first event comes at once, and the last one ahead of the answer
    // (clients drop progress that they read together with its answer).
    for step in 1..=steps {
        if let Some(token) = token {
            event.clear();
            text(&mut event, r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#);
            text(&mut event, token);
            text(&mut event, &format!(r#","progress":{step},"total":{steps}}}}}"#));
            log.room().await;
            log.push(&event);
        }
        sleep(interval).await;
    }
}

async fn ask(question: &str, session: Option<&Session>, log: &EventLog) -> Option<String> {
    let (id, answered) = session?.ask();
    let mut request = Vec::new();
    elicitation(&mut request, question);
    let mut event = format!(r#"{{"jsonrpc":"2.0","id":{id},"#).into_bytes();
    event.extend_from_slice(&request[1..]);
    log.push(&event);
    let answer = within(ASK_TIMEOUT, answered).await.ok()?.ok()?;
    let raw: &RawValue = serde_json::from_str(&answer).ok()?;
    greeting(raw)
}
