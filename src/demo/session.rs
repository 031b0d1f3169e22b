//! Legacy sessions: what one `initialize` began, shared by all workers of the process.
//!
//! Ending a session ends its streams and, by dropping their cancel handles, its running works.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_channel::oneshot;

use super::message::{Level, Version};
use crate::base::SessionId;
use crate::origin::{self, Sessions, Streams, new_id};

/// Resources that one session may subscribe to.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Calls of one session that may run at once.
const RUNNING_MAX: usize = 256;

/// What `initialize` settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub version: Version,
    /// The client can show a form (`elicitation` of its capabilities).
    pub elicits: bool,
}

pub struct Session {
    pub id: SessionId,
    /// Empty until `initialize` on the 2024-11-05 transport, where the session comes first.
    handshake: OnceLock<Handshake>,
    pub streams: Streams,
    pub calls: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: bool,
    level: Option<Level>,
    subscriptions: Vec<Box<str>>,
    /// Works by request id; dropping the sender cancels the work.
    running: HashMap<Box<str>, oneshot::Sender<()>>,
    /// Requests that we sent and that wait for an answer.
    asked: HashMap<u64, oneshot::Sender<Box<str>>>,
    last_asked: u64,
}

/// Why a work cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A running request has the same id.
    DuplicateId,
    TooMany,
    Ended,
}

impl Session {
    /// Without a handshake, one of the 2024-11-05 transport.
    fn new(handshake: Option<Handshake>) -> Session {
        Session {
            id: new_id(),
            streams: if handshake.is_none() { Streams::one() } else { Streams::default() },
            handshake: handshake.map(OnceLock::from).unwrap_or_default(),
            calls: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// False if there was one before.
    pub fn shake_hands(&self, handshake: Handshake) -> bool {
        self.handshake.set(handshake).is_ok()
    }

    /// The version that `initialize` settled, and the oldest before.
    pub fn version(&self) -> Version {
        self.handshake.get().map_or(Version::V2024_11_05, |handshake| handshake.version)
    }

    /// Elicitation came with 2025-06-18.
    pub fn elicits(&self) -> bool {
        self.handshake.get().is_some_and(|handshake| handshake.elicits && handshake.version >= Version::V2025_06_18)
    }

    pub fn level(&self) -> Option<Level> {
        self.lock().level
    }

    pub fn set_level(&self, level: Level) {
        self.lock().level = Some(level);
    }

    /// False at the limit.
    pub fn subscribe(&self, uri: &str) -> bool {
        let mut state = self.lock();
        if state.subscriptions.iter().any(|known| **known == *uri) {
            return true;
        }
        let room = state.subscriptions.len() < SUBSCRIPTIONS_MAX;
        if room {
            state.subscriptions.push(uri.into());
        }
        room
    }

    pub fn unsubscribe(&self, uri: &str) {
        self.lock().subscriptions.retain(|known| **known != *uri);
    }

    /// Sends a notification on the standalone stream if `uri` is subscribed to.
    pub fn notify_subscribed(&self, uri: &str, event: &[u8]) {
        let subscribed = self.lock().subscriptions.iter().any(|known| **known == *uri);
        if subscribed {
            self.streams.standalone().push(event);
        }
    }

    /// Registers a work under its request id; the receiver resolves when it is to stop.
    pub fn start(&self, id: &str) -> Result<oneshot::Receiver<()>, Refused> {
        let mut state = self.lock();
        if state.ended {
            return Err(Refused::Ended);
        }
        if state.running.contains_key(id) {
            return Err(Refused::DuplicateId);
        }
        if state.running.len() >= RUNNING_MAX {
            return Err(Refused::TooMany);
        }
        let (cancel, cancelled) = oneshot::channel();
        state.running.insert(id.into(), cancel);
        Ok(cancelled)
    }

    /// Cancels the work of request `id`, or notes that it is done.
    pub fn stop(&self, id: &str) {
        let cancel = self.lock().running.remove(id);
        drop(cancel);
    }

    /// A fresh id for a request of ours, and where its answer arrives.
    pub fn ask(&self) -> (u64, oneshot::Receiver<Box<str>>) {
        let mut state = self.lock();
        state.last_asked += 1;
        let id = state.last_asked;
        let (answer, answered) = oneshot::channel();
        state.asked.retain(|_, waiting| !waiting.is_canceled());
        state.asked.insert(id, answer);
        (id, answered)
    }

    /// Hands the client's answer (the JSON text of `result`) to whoever asked. Unknown ids are ignored.
    pub fn answer(&self, id: &str, result: Option<&str>) {
        let Ok(id) = id.parse::<u64>() else { return };
        let waiting = self.lock().asked.remove(&id);
        // Without a result the sender is dropped, which tells the asker of the error.
        if let (Some(waiting), Some(result)) = (waiting, result) {
            let _gone = waiting.send(result.into());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl origin::Session for Session {
    /// Ends every stream and work.
    fn end(&self) {
        let ended = State { ended: true, ..State::default() };
        drop(std::mem::replace(&mut *self.lock(), ended));
        self.streams.end();
    }
}

/// A new session of `sessions`; without a handshake, one of the 2024-11-05 transport.
pub fn create(sessions: &Sessions<Session>, handshake: Option<Handshake>) -> Arc<Session> {
    let session = Arc::new(Session::new(handshake));
    sessions.insert(session.id, Arc::clone(&session));
    session
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATEST: Option<Handshake> = Some(Handshake { version: Version::LATEST, elicits: true });

    #[test]
    fn an_ended_session_is_unknown_and_its_works_are_cancelled() {
        let sessions = Sessions::default();
        let session = create(&sessions, LATEST);
        let mut cancelled = session.start("1").expect("first");
        assert_eq!(session.start("1").err(), Some(Refused::DuplicateId));
        assert_eq!(cancelled.try_recv(), Ok(None));
        sessions.end(&session.id);
        assert!(sessions.find(session.id.as_bytes()).is_none());
        assert!(cancelled.try_recv().is_err());
        assert_eq!(session.start("2").err(), Some(Refused::Ended));
    }

    #[test]
    fn answers_reach_the_one_who_asked() {
        let session = create(&Sessions::default(), LATEST);
        let ((first, mut one), (second, mut two)) = (session.ask(), session.ask());
        session.answer(&second.to_string(), Some("{}"));
        session.answer("\"1\"", Some("{}"));
        assert_eq!(two.try_recv(), Ok(Some("{}".into())));
        assert_eq!(one.try_recv(), Ok(None));
        session.answer(&first.to_string(), None);
        assert!(one.try_recv().is_err(), "an error answer ends the wait");
    }
}
