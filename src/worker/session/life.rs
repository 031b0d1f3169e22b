//! The life of a session: room for it, its begin, its move to another upstream, its end.

use super::hot::Entry;
use super::{Session, binding_of, key_of, owner};
use crate::base::SessionId;
use crate::store::{Record, Reservation, Store, Transport};
use crate::wire::http1::head::{Method, Name};
use crate::wire::sealed::{self, Contents};
use crate::worker::Worker;
use crate::worker::auth::Caller;
use crate::worker::envelope::Envelope;
use crate::worker::guard::Request;
use crate::worker::refusal::Refusal;
use crate::worker::upstream::LocalView;

/// Longest version of the protocol that is remembered, bytes.
const PROTOCOL_MAX: usize = 32;

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
    /// Its place in the view.
    pub upstream: usize,
    pub upstream_session: &'a [u8],
    pub protocol: &'a [u8],
    pub transport: Transport,
    pub caller: &'a Caller,
    /// The body that began it, where it is to be kept.
    pub initialize: Option<&'a [u8]>,
}

/// A session that began.
pub struct Begun {
    pub id: SessionId,
    /// The store's `ended_epoch` of before.
    pub epoch: u64,
    /// Its id as the client sees it.
    pub shown: String,
}

/// Begin a session: on return it is committed, so that the client may see its id.
///
/// # Errors
/// 503 if there is no room or the store cannot commit; 502 for an id of upstream that is too long or not visible ASCII.
pub async fn begin(
    worker: &Worker,
    view: &LocalView,
    reserved: Option<Reservation>,
    birth: Birth<'_>,
) -> Result<Begun, Refusal> {
    let visible = |bytes: &[u8]| bytes.iter().all(|b| (0x21..=0x7e).contains(b));
    let upstream_session = birth.upstream_session;
    if upstream_session.is_empty() || upstream_session.len() > 1024 || !visible(upstream_session) {
        return Err(Refusal::UPSTREAM_PROTOCOL);
    }
    // What the client says; versions are dates.
    let protocol = if birth.protocol.len() <= PROTOCOL_MAX { birth.protocol } else { b"" };
    let store = &worker.shared.store;
    let reservation = reserved.or_else(|| store.reserve()).ok_or(Refusal::SESSIONS_FULL)?;
    let now = store.now_ms();
    let record = Record {
        upstream: key_of(view, birth.upstream).to_owned(),
        upstream_session: String::from_utf8_lossy(upstream_session).into_owned(),
        protocol: String::from_utf8_lossy(protocol).into_owned(),
        transport: birth.transport,
        principal: owner(birth.caller),
        initialize: birth.initialize.map(|body| String::from_utf8_lossy(body).into_owned()),
        created_ms: now,
        seen_ms: now,
    };
    let begun = name(view, store, &record, birth.caller)?;
    let epoch = begun.epoch;
    store.create(reservation, begun.id, record.clone()).await.map_err(|error| {
        tracing::error!(%error, "cannot commit a session");
        Refusal::STORE
    })?;
    worker.sessions.remember(Entry::new(begun.id, record, epoch, now));
    Ok(begun)
}

/// An id for a new session: random, or all that another replica needs to know, sealed.
fn name(view: &LocalView, store: &Store, record: &Record, caller: &Caller) -> Result<Begun, Refusal> {
    let epoch = store.ended_epoch();
    let Some(seal) = &view.view.plan.session.seal else {
        let id = store.new_id();
        return Ok(Begun { id, epoch, shown: id.as_str().to_owned() });
    };
    let contents = Contents {
        upstream: record.upstream.clone(),
        upstream_session: record.upstream_session.clone(),
        protocol: record.protocol.clone(),
        parameter: match &record.transport {
            Transport::StreamableHttp => None,
            Transport::HttpSse { parameter } => Some(parameter.clone()),
        },
        binding: binding_of(caller),
        created: store.wall_seconds(),
    };
    let named = seal.seal(&contents, Store::random()).and_then(|shown| {
        let id = sealed::name_of(shown.as_bytes())?;
        Some(Begun { id, epoch, shown })
    });
    named.ok_or_else(|| {
        tracing::warn!(upstream = record.upstream, "a session's id is too long to be sealed");
        Refusal::UPSTREAM_PROTOCOL
    })
}

/// Let a session go on at another upstream, under the id that its client knows. If it was moved meanwhile it is where
/// that went.
///
/// # Errors
/// 503 if the store cannot commit or read; 404 if the session ended meanwhile.
pub async fn relocate(
    worker: &Worker,
    view: &LocalView,
    session: &Session,
    upstream: usize,
    upstream_session: &[u8],
) -> Result<Session, Refusal> {
    let old = &session.entry.record;
    let from = (old.upstream.clone(), old.upstream_session.clone());
    let record = Record {
        upstream: key_of(view, upstream).to_owned(),
        upstream_session: String::from_utf8_lossy(upstream_session).into_owned(),
        ..Record::clone(old)
    };
    let store = &worker.shared.store;
    store.relocate(session.id, record, from).await.map_err(|error| {
        tracing::error!(%error, session = ?session.id, "cannot move a session");
        Refusal::STORE
    })?;
    let (epoch, now) = (store.ended_epoch(), store.now_ms());
    let found = store.find(&session.id).map_err(|_| Refusal::STORE_READ)?.ok_or(Refusal::SESSION_UNKNOWN)?;
    let entry = worker.sessions.remember(Entry::new(session.id, found, epoch, now));
    Ok(Session { id: session.id, upstream: entry.upstream(view), entry, in_target: None })
}

/// End a session: on return nobody finds it any more.
///
/// # Errors
/// 503 if the store cannot commit.
pub async fn end(worker: &Worker, id: SessionId) -> Result<(), Refusal> {
    worker.sessions.forget(&id);
    worker.shared.store.end(id).await.map_err(|error| {
        tracing::error!(%error, session = ?id, "cannot end a session");
        Refusal::STORE
    })
}
