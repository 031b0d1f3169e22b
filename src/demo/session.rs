//! Legacy sessions: what one `initialize` began, shared by all workers of the process.
//!
//! The demo keeps at most [`SESSIONS_MAX`] of them: a new one pushes out the one of its shard that
//! was idle longest. Ending a session ends its streams and, by dropping their cancel handles, its
//! running works.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use aws_lc_rs::rand;
use futures_channel::oneshot;

use super::events::EventLog;
use super::message::{Level, Version};
use crate::base::SessionId;

pub const SESSIONS_MAX: usize = 100_000;
const SHARDS: usize = 64;
const SHARD_SESSIONS_MAX: usize = SESSIONS_MAX / SHARDS;

/// Streams of calls kept for a client that may resume them; the oldest goes first.
const CALL_STREAMS_MAX: usize = 16;
/// Resources that one session may subscribe to.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Calls of one session that may run at once.
const RUNNING_MAX: usize = 256;

/// Number of the stream that GET opens; calls count from 1.
const STANDALONE: u32 = 0;

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
    /// On the 2024-11-05 transport everything goes out on the standalone stream, without event ids.
    pub one_stream: bool,
    pub calls: AtomicU64,
    /// Milliseconds after the table's start, of the last request.
    used_ms: AtomicU64,
    streams_opened: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: bool,
    level: Option<Level>,
    subscriptions: Vec<Box<str>>,
    standalone: Option<Arc<EventLog>>,
    calls: VecDeque<(u32, Arc<EventLog>)>,
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
    fn new(handshake: Option<Handshake>, now_ms: u64) -> Session {
        let mut random = [0u8; 24];
        rand::fill(&mut random).expect("the system's random source works");
        Session {
            id: SessionId::from_random(random),
            handshake: handshake.map(OnceLock::from).unwrap_or_default(),
            one_stream: handshake.is_none(),
            calls: AtomicU64::new(0),
            used_ms: AtomicU64::new(now_ms),
            streams_opened: AtomicU32::new(STANDALONE),
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
        let mut state = self.lock();
        if state.subscriptions.iter().any(|known| **known == *uri) {
            self.standalone_of(&mut state).push(event);
        }
    }

    /// The stream of GET, the one place for what belongs to no call.
    pub fn standalone(&self) -> Arc<EventLog> {
        let mut state = self.lock();
        self.standalone_of(&mut state)
    }

    /// A new stream for a call's messages.
    pub fn open_stream(&self) -> Arc<EventLog> {
        if self.one_stream {
            return self.standalone();
        }
        let number = self.streams_opened.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let log = EventLog::resumable(number);
        let mut state = self.lock();
        if state.calls.len() == CALL_STREAMS_MAX {
            state.calls.pop_front();
        }
        state.calls.push_back((number, Arc::clone(&log)));
        log
    }

    /// The stream that an event id names; `None` if it is forgotten.
    pub fn stream(&self, number: u32) -> Option<Arc<EventLog>> {
        if number == STANDALONE {
            return Some(self.standalone());
        }
        let state = self.lock();
        state.calls.iter().find(|(known, _)| *known == number).map(|(_, log)| Arc::clone(log))
    }

    /// Forgets a call's stream that was delivered to its end.
    pub fn forget_stream(&self, number: u32) {
        self.lock().calls.retain(|(known, _)| *known != number);
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

    /// Ends every stream and work.
    fn end(&self) {
        let state = {
            let mut state = self.lock();
            let ended = State { ended: true, ..State::default() };
            std::mem::replace(&mut *state, ended)
        };
        state.standalone.iter().chain(state.calls.iter().map(|(_, log)| log)).for_each(|log| log.end());
    }

    fn standalone_of(&self, state: &mut State) -> Arc<EventLog> {
        let log = state.standalone.get_or_insert_with(|| match self.one_stream {
            true => EventLog::plain(),
            false => EventLog::resumable(STANDALONE),
        });
        if state.ended {
            log.end();
        }
        Arc::clone(log)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All sessions of one demo server.
pub struct Sessions {
    start: Instant,
    shards: [Mutex<HashMap<SessionId, Arc<Session>>>; SHARDS],
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions { start: Instant::now(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Sessions {
    /// A new session; without a handshake, one of the 2024-11-05 transport.
    pub fn create(&self, handshake: Option<Handshake>) -> Arc<Session> {
        let session = Arc::new(Session::new(handshake, self.now_ms()));
        let displaced = {
            let mut shard = self.shard(&session.id);
            let idlest = (shard.len() >= SHARD_SESSIONS_MAX)
                .then(|| shard.values().min_by_key(|known| known.used_ms.load(Ordering::Relaxed)).map(|known| known.id))
                .flatten();
            shard.insert(session.id, Arc::clone(&session));
            idlest.and_then(|idlest| shard.remove(&idlest))
        };
        if let Some(displaced) = displaced {
            displaced.end();
        }
        session
    }

    /// The session of this id, if it goes on; notes that it was used.
    pub fn find(&self, id: &[u8]) -> Option<Arc<Session>> {
        let id = SessionId::parse(id)?;
        let session = self.shard(&id).get(&id).map(Arc::clone)?;
        session.used_ms.store(self.now_ms(), Ordering::Relaxed);
        Some(session)
    }

    pub fn end(&self, id: &SessionId) {
        let session = self.shard(id).remove(id);
        if let Some(session) = session {
            session.end();
        }
    }

    fn shard(&self, id: &SessionId) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        let (eight, _) = id.as_bytes().split_first_chunk::<8>().expect("an id is longer than eight bytes");
        // Base64 text fills no bits evenly: the product's top bits depend on all of it.
        let mixed = u64::from_le_bytes(*eight).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let shard = (mixed >> (u64::BITS - SHARDS.ilog2())) as usize;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATEST: Option<Handshake> = Some(Handshake { version: Version::LATEST, elicits: true });

    #[test]
    fn an_ended_session_is_unknown_and_its_works_are_cancelled() {
        let sessions = Sessions::default();
        let session = sessions.create(LATEST);
        let mut cancelled = session.start("1").expect("first");
        assert_eq!(session.start("1").err(), Some(Refused::DuplicateId));
        assert_eq!(cancelled.try_recv(), Ok(None));
        sessions.end(&session.id);
        assert!(sessions.find(session.id.as_bytes()).is_none());
        assert!(cancelled.try_recv().is_err());
        assert_eq!(session.start("2").err(), Some(Refused::Ended));
    }

    #[test]
    fn the_number_of_sessions_is_bounded_and_the_idlest_goes() {
        let sessions = Sessions::default();
        let first = sessions.create(LATEST);
        let kept = (0..SESSIONS_MAX * 5 / 4).map(|_| sessions.create(LATEST)).last().expect("many");
        let total: usize = sessions.shards.iter().map(|shard| shard.lock().expect("no panic").len()).sum();
        assert!(total <= SESSIONS_MAX, "{total} sessions");
        assert!(total > SESSIONS_MAX * 9 / 10, "shards fill evenly: {total}");
        assert!(sessions.find(first.id.as_bytes()).is_none());
        assert!(sessions.find(kept.id.as_bytes()).is_some());
    }

    #[test]
    fn answers_reach_the_one_who_asked() {
        let session = Sessions::default().create(LATEST);
        let ((first, mut one), (second, mut two)) = (session.ask(), session.ask());
        session.answer(&second.to_string(), Some("{}"));
        session.answer("\"1\"", Some("{}"));
        assert_eq!(two.try_recv(), Ok(Some("{}".into())));
        assert_eq!(one.try_recv(), Ok(None));
        session.answer(&first.to_string(), None);
        assert!(one.try_recv().is_err(), "an error answer ends the wait");
    }
}
