//! Whose session a request belongs to, and the life of sessions.
//!
//! Clients see ids of ours, never upstream's own. The store is the truth; a worker keeps the sessions that it saw lately
//! in a map of its own and asks the store again when a session ended somewhere (`ended_epoch`) or when a touch is due.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::Worker;
use super::auth::Caller;
use super::envelope::Envelope;
use super::guard::Request;
use super::refusal::Refusal;
use super::upstream::LocalView;
use crate::base::{SessionId, Span};
use crate::store::{Principal, Record, Reservation, Store, Transport};
use crate::wire::http1::head::{Method, Name};
use crate::wire::mcp::Era;
use crate::wire::sse;

/// Sessions that a worker remembers; beyond, it starts its memory anew (the store has them all).
const HOT_MAX: usize = 65_536;
/// Names of the query parameter that carries a 2024-11-05 session; with one of these an unknown id is 404.
const PARAMETERS: [&[u8]; 3] = [b"sessionId", b"session_id", b"sessionid"];

/// What a worker remembers of sessions.
#[derive(Default)]
pub struct Hot {
    known: RefCell<HashMap<SessionId, Rc<Entry>>>,
    /// Sessions with open streams, and how many; these are kept alive.
    streaming: RefCell<HashMap<SessionId, usize>>,
    kept_alive_ms: Cell<u64>,
}

struct Entry {
    record: Record,
    /// The store's `ended_epoch` before the store was asked.
    epoch: Cell<u64>,
    /// Store time of the latest question, which was also a touch.
    checked_ms: Cell<u64>,
}

/// A live session whose upstream is known.
pub struct Session {
    pub id: SessionId,
    /// Place of its upstream in the view.
    pub upstream: usize,
    entry: Rc<Entry>,
    /// Where in the target its id stands (2024-11-05).
    in_target: Option<Span>,
}

impl Session {
    /// Upstream's own id, for the `Mcp-Session-Id` header; `None` for a 2024-11-05 session.
    pub fn header_value(&self) -> Option<&[u8]> {
        match self.entry.record.transport {
            Transport::StreamableHttp => Some(self.entry.record.upstream_session.as_bytes()),
            Transport::HttpSse { .. } => None,
        }
    }

    /// The target with upstream's own id in the place of ours (2024-11-05).
    pub fn rewrite_target(&self, target: &[u8]) -> Option<Vec<u8>> {
        let span = self.in_target?;
        let end = (span.start + span.len) as usize;
        let before = &target[..span.start as usize];
        Some([before, self.entry.record.upstream_session.as_bytes(), &target[end..]].concat())
    }
}

/// The session that the request names, `None` if it names none.
///
/// # Errors
/// 404 for an unknown, expired or ended session, and for one whose upstream is gone; 400 for two ids.
pub fn resume(
    worker: &Worker,
    view: &LocalView,
    request: &Request<'_>,
    envelope: &Envelope,
    caller: &Caller,
) -> Result<Option<Session>, Refusal> {
    // Modern requests have no sessions; a header that looks like one is not passed on.
    if envelope.era == Era::Modern {
        return Ok(None);
    }
    let (id, in_target) = match request.find(Name::McpSessionId) {
        Some(_) if request.head.count(Name::McpSessionId) > 1 => return Err(Refusal::SESSION_HEADER),
        Some(text) => (SessionId::parse(text).ok_or(Refusal::SESSION_UNKNOWN)?, None),
        None if request.method() == Method::Post && envelope.is_message => match id_in_target(request.path_and_query())
        {
            Some((id, span)) => (id.ok_or(Refusal::SESSION_UNKNOWN)?, Some(span)),
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let entry = worker.sessions.find(&worker.shared.store, id)?.ok_or(Refusal::SESSION_UNKNOWN)?;
    let by_query = matches!(entry.record.transport, Transport::HttpSse { .. });
    if by_query != in_target.is_some() {
        return Err(Refusal::SESSION_UNKNOWN);
    }
    if !is_owned_by(&entry.record, caller) {
        // The same answer as for an id that was never issued: nobody learns which ids there are.
        tracing::info!(session = ?id, "refused somebody else's session");
        return Err(Refusal::SESSION_UNKNOWN);
    }
    let upstream = view.view.upstream_of(&entry.record.upstream).ok_or(Refusal::SESSION_UNKNOWN)?;
    Ok(Some(Session { id, upstream, entry, in_target }))
}

/// A session belongs to issuer and subject of the one who began it.
fn is_owned_by(record: &Record, caller: &Caller) -> bool {
    match (&record.principal, caller.principal()) {
        (None, None) => true,
        (Some(owner), Some(caller)) => *owner.issuer == *caller.issuer && *owner.subject == *caller.subject,
        _ => false,
    }
}

/// The id of a 2024-11-05 session in the query; `None` in it if it cannot be one of ours, so names no session.
fn id_in_target(target: &[u8]) -> Option<(Option<SessionId>, Span)> {
    memchr::memchr(b'?', target)?;
    PARAMETERS.iter().find_map(|name| {
        let span = sse::query_parameter(target, name)?;
        Some((SessionId::parse(span.of(target)), span))
    })
}

impl Hot {
    fn find(&self, store: &Store, id: SessionId) -> Result<Option<Rc<Entry>>, Refusal> {
        let epoch = store.ended_epoch();
        let now = store.now_ms();
        let known = self.known.borrow().get(&id).cloned();
        let due =
            |entry: &Entry| now.saturating_sub(entry.checked_ms.get()) >= store.touch_interval().as_millis() as u64;
        if let Some(entry) = &known
            && entry.epoch.get() == epoch
            && !due(entry)
        {
            return Ok(known);
        }
        let record = store.find(&id).map_err(|error| {
            tracing::error!(%error, session = ?id, "cannot read a session");
            Refusal::STORE_READ
        })?;
        let Some(record) = record else {
            self.known.borrow_mut().remove(&id);
            return Ok(None);
        };
        let touch = known.as_deref().is_none_or(due);
        let checked_ms = Cell::new(if touch { now } else { known.map_or(now, |entry| entry.checked_ms.get()) });
        if touch {
            store.touch(id);
        }
        Ok(Some(self.remember(id, Entry { record, epoch: Cell::new(epoch), checked_ms })))
    }

    fn remember(&self, id: SessionId, entry: Entry) -> Rc<Entry> {
        let mut known = self.known.borrow_mut();
        if known.len() >= HOT_MAX {
            known.clear();
        }
        let entry = Rc::new(entry);
        known.insert(id, entry.clone());
        entry
    }

    /// An open stream keeps its session alive. Called every so often.
    pub fn keep_streams_alive(&self, store: &Store) {
        let now = store.now_ms();
        if now.saturating_sub(self.kept_alive_ms.get()) >= store.touch_interval().as_millis() as u64 {
            self.kept_alive_ms.set(now);
            self.streaming.borrow().keys().for_each(|id| store.touch(*id));
        }
    }
}

/// An open stream of a session, counted until dropped.
pub struct OpenStream {
    worker: Rc<Worker>,
    id: SessionId,
}

pub fn open_stream(worker: &Rc<Worker>, id: SessionId) -> OpenStream {
    *worker.sessions.streaming.borrow_mut().entry(id).or_default() += 1;
    OpenStream { worker: worker.clone(), id }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut streaming = self.worker.sessions.streaming.borrow_mut();
        if let Some(count) = streaming.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                streaming.remove(&self.id);
                self.worker.shared.store.touch(self.id);
            }
        }
    }
}

/// Room for a session that this request may begin, taken before upstream is asked.
///
/// # Errors
/// 503 at `session.max_sessions`.
pub fn reserve(
    worker: &Worker,
    request: &Request<'_>,
    envelope: &Envelope,
    session: Option<&Session>,
) -> Result<Option<Reservation>, Refusal> {
    let opens_stream = request.method() == Method::Get
        && request.find(Name::McpSessionId).is_none()
        && request
            .find(Name::Accept)
            .is_some_and(|accept| memchr::memmem::find(accept, b"text/event-stream").is_some());
    if session.is_some() || !(envelope.initializes || opens_stream) {
        return Ok(None);
    }
    worker.shared.store.reserve().map(Some).ok_or(Refusal::SESSIONS_FULL)
}

/// What upstream said of a new session.
pub struct Birth<'a> {
    pub upstream: &'a str,
    pub upstream_session: &'a [u8],
    pub protocol: &'a [u8],
    pub transport: Transport,
    pub caller: &'a Caller,
}

/// Begin a session: on return it is committed, so that the client may see its id.
///
/// # Errors
/// 503 if there is no room or the store cannot commit; 502 for an id of upstream that is not visible ASCII.
pub async fn begin(worker: &Worker, reserved: Option<Reservation>, birth: Birth<'_>) -> Result<SessionId, Refusal> {
    let visible = |bytes: &[u8]| bytes.iter().all(|b| (0x21..=0x7e).contains(b));
    let upstream_session = birth.upstream_session;
    if upstream_session.is_empty() || upstream_session.len() > 1024 || !visible(upstream_session) {
        return Err(Refusal::UPSTREAM_PROTOCOL);
    }
    let store = &worker.shared.store;
    let reservation = reserved.or_else(|| store.reserve()).ok_or(Refusal::SESSIONS_FULL)?;
    let id = store.new_id();
    let now = store.now_ms();
    let record = Record {
        upstream: birth.upstream.to_owned(),
        upstream_session: String::from_utf8_lossy(upstream_session).into_owned(),
        protocol: String::from_utf8_lossy(birth.protocol).into_owned(),
        transport: birth.transport,
        principal: birth
            .caller
            .principal()
            .map(|caller| Principal { issuer: caller.issuer.to_string(), subject: caller.subject.to_string() }),
        created_ms: now,
        seen_ms: now,
    };
    let epoch = Cell::new(store.ended_epoch());
    store.create(reservation, id, record.clone()).await.map_err(|error| {
        tracing::error!(%error, "cannot commit a session");
        Refusal::STORE
    })?;
    worker.sessions.remember(id, Entry { record, epoch, checked_ms: Cell::new(now) });
    Ok(id)
}

/// End a session: on return nobody finds it any more.
///
/// # Errors
/// 503 if the store cannot commit.
pub async fn end(worker: &Worker, id: SessionId) -> Result<(), Refusal> {
    worker.sessions.known.borrow_mut().remove(&id);
    worker.shared.store.end(id).await.map_err(|error| {
        tracing::error!(%error, session = ?id, "cannot end a session");
        Refusal::STORE
    })
}
