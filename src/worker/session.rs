//! Whose session a request belongs to, and the life of sessions.
//!
//! Clients see ids of ours, never upstream's own. The store is the truth; a worker keeps the sessions that it saw lately
//! in a map of its own and asks the store again when a session ended somewhere (`ended_epoch`) or when a touch is due.
//!
//! With `session.secret` the id itself is the truth (`wire::sealed`), so that a replica serves sessions that others began.
//! The store then keeps the books of this replica: how many there are, when they were last used here, which ended here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::Worker;
use super::auth::Caller;
use super::envelope::Envelope;
use super::guard::Request;
use super::refusal::Refusal;
use super::upstream::LocalView;
use crate::base::linear_hash::{Identified, LinearHash};
use crate::base::{SessionId, Span};
use crate::config::plan::SessionPlan;
use crate::net::stream;
use crate::store::{Found, Principal, Record, Reservation, Store, Transport};
use crate::telemetry::text::Text;
use crate::wire::http1::head::{Method, Name};
use crate::wire::mcp::Era;
use crate::wire::sealed::{self, Contents};
use crate::wire::sse;

/// Sessions that a worker remembers; beyond, it starts its memory anew (the store has them all).
const HOT_MAX: usize = 131_072;
/// Names of the query parameter that carries a 2024-11-05 session; with one of these an unknown id is 404.
const PARAMETERS: [&[u8]; 3] = [b"sessionId", b"session_id", b"sessionid"];

/// Upstream's ids are rarely longer (a UUID as text has 36).
const BRIEF_BYTES: usize = 38;

/// No place.
const NOWHERE: u32 = u32::MAX;

/// Longest version of the protocol that is remembered, bytes.
const PROTOCOL_MAX: usize = 32;

/// What a worker remembers of sessions.
#[derive(Default)]
pub struct Hot {
    known: RefCell<LinearHash<Entry>>,
    /// The open streams of sessions, as the descriptors of their clients; these sessions are kept alive.
    streaming: RefCell<BTreeMap<SessionId, Vec<RawFd>>>,
    kept_alive_ms: Cell<u64>,
}

/// What each request asks for stands in two cache lines side by side, since of many sessions none is in a cache.
#[repr(C)]
struct Entry {
    id: SessionId,
    /// The store's `ended_epoch` before the store was asked.
    epoch: Cell<u64>,
    /// Store time of the latest question, which was also a touch.
    checked_ms: Cell<u64>,
    /// Where its upstream stands in the view of this number.
    place: Cell<(u32, u32)>,
    record: Box<Record>,
    /// Upstream's own id; empty if it is longer, and stands in the record alone.
    brief: Text<BRIEF_BYTES>,
    /// The id travels in the query (2024-11-05).
    by_query: bool,
    has_owner: bool,
}

impl Identified for Entry {
    fn id(&self) -> &SessionId {
        &self.id
    }
}

impl Entry {
    fn new(id: SessionId, record: Record, epoch: u64, checked_ms: u64) -> Entry {
        const { assert!(size_of::<Entry>() + 2 * size_of::<usize>() == 128, "the counts of its `Rc` included") }
        let brief = record.upstream_session.as_bytes();
        Entry {
            id,
            epoch: Cell::new(epoch),
            checked_ms: Cell::new(checked_ms),
            place: Cell::new((0, NOWHERE)),
            brief: if brief.len() <= BRIEF_BYTES { Text::of(brief) } else { Text::NONE },
            by_query: matches!(record.transport, Transport::HttpSse { .. }),
            has_owner: record.principal.is_some(),
            record: Box::new(record),
        }
    }

    /// Upstream's own id.
    fn upstream_session(&self) -> &[u8] {
        if self.brief.is_empty() { self.record.upstream_session.as_bytes() } else { self.brief.bytes() }
    }

    /// A session belongs to issuer and subject of the one who began it.
    fn is_owned_by(&self, caller: &Caller) -> bool {
        let owner = if self.has_owner { self.record.principal.as_ref() } else { None };
        match (owner, caller.principal()) {
            (None, None) => true,
            (Some(owner), Some(caller)) => *owner.issuer == *caller.issuer && *owner.subject == *caller.subject,
            _ => false,
        }
    }

    /// Whether the store has nothing to add: no session ended since, and no touch is due.
    fn is_fresh(&self, store: &Store, epoch: u64, now: u64) -> bool {
        self.epoch.get() == epoch && !self.is_due(store, now)
    }

    fn is_due(&self, store: &Store, now: u64) -> bool {
        now.saturating_sub(self.checked_ms.get()) >= store.touch_interval().as_millis() as u64
    }

    /// Where its upstream stands in this view; `None`: it is gone.
    fn upstream(&self, view: &LocalView) -> Option<usize> {
        let (number, place) = self.place.get();
        if number == view.number {
            return (place != NOWHERE).then_some(place as usize);
        }
        let place = view.view.upstream_of(&self.record.upstream);
        self.place.set((view.number, place.map_or(NOWHERE, |place| place as u32)));
        place
    }
}

/// A live session whose upstream is known.
pub struct Session {
    /// Its name; not what the client sees where ids are sealed.
    pub id: SessionId,
    /// Place of its upstream in the view; `None`: that is gone, but the session may begin anew at another one.
    pub upstream: Option<usize>,
    entry: Rc<Entry>,
    /// Where in the target its id stands (2024-11-05).
    in_target: Option<Span>,
}

/// The session that a head names by `Mcp-Session-Id`, for one that repeats it.
pub struct Resumed {
    id: SessionId,
    entry: Rc<Entry>,
    /// Who was found to own it.
    caller: Caller,
}

impl Resumed {
    /// As [`resume`] finds it, if nothing is to be asked of the store.
    fn again(&self, worker: &Worker, view: &LocalView, caller: &Caller) -> Option<Session> {
        let store = &worker.shared.store;
        let is_known = self.caller.is(caller) && self.entry.is_fresh(store, store.ended_epoch(), store.now_ms());
        let upstream = self.entry.upstream(view).filter(|_| is_known)?;
        Some(Session { id: self.id, upstream: Some(upstream), entry: self.entry.clone(), in_target: None })
    }
}

impl Session {
    /// The store's `ended_epoch` when it was found.
    pub fn epoch(&self) -> u64 {
        self.entry.epoch.get()
    }

    /// Upstream's own id, for the `Mcp-Session-Id` header; `None` for a 2024-11-05 session.
    pub fn header_value(&self) -> Option<&[u8]> {
        (!self.entry.by_query).then(|| self.entry.upstream_session())
    }

    /// Its id is in the query (2024-11-05).
    pub fn is_in_target(&self) -> bool {
        self.in_target.is_some()
    }

    /// What the session began with, where it may begin anew with that.
    pub fn initialize(&self, view: &LocalView) -> Option<&str> {
        // Looked at last: hardly any session has it.
        if view.view.plan.session.reinitialize { self.entry.record.initialize.as_deref() } else { None }
    }

    /// The target with upstream's own id in the place of ours (2024-11-05).
    pub fn rewrite_target(&self, target: &[u8]) -> Option<Vec<u8>> {
        let span = self.in_target?;
        let end = (span.start + span.len) as usize;
        let before = &target[..span.start as usize];
        Some([before, self.entry.upstream_session(), &target[end..]].concat())
    }
}

/// The session that the request names, `None` if it names none; `memory` is that of its head.
///
/// # Errors
/// 404 for an unknown, expired or ended session, and for one whose upstream is gone; 400 for two ids.
pub fn resume(
    worker: &Worker,
    view: &LocalView,
    request: &Request<'_>,
    envelope: &Envelope,
    caller: &Caller,
    memory: &mut Option<Resumed>,
) -> Result<Option<Session>, Refusal> {
    // Modern requests have no sessions; a header that looks like one is not passed on.
    if envelope.era == Era::Modern {
        return Ok(None);
    }
    if let Some(session) = memory.as_ref().and_then(|memory| memory.again(worker, view, caller)) {
        return Ok(Some(session));
    }
    let (text, in_target) = match request.find(Name::McpSessionId) {
        Some(_) if request.head.fields.is_repeated(Name::McpSessionId) => return Err(Refusal::SESSION_HEADER),
        Some(text) => (text, None),
        None if request.method() == Method::Post && envelope.is_message => {
            let target = request.path_and_query();
            let Some(span) = id_in_target(target) else { return Ok(None) };
            (span.of(target), Some(span))
        }
        None => return Ok(None),
    };
    let id = name_of(text, &view.view.plan.session).ok_or(Refusal::SESSION_UNKNOWN)?;
    let asked = Asked { worker, view, caller, id, text };
    let entry = asked.find()?.ok_or(Refusal::SESSION_UNKNOWN)?;
    if entry.by_query != in_target.is_some() {
        return Err(Refusal::SESSION_UNKNOWN);
    }
    if !entry.is_owned_by(caller) {
        return Err(somebody_elses(id));
    }
    let upstream = entry.upstream(view);
    *memory = in_target.is_none().then(|| Resumed { id, entry: entry.clone(), caller: caller.clone() });
    let session = Session { id, upstream, entry, in_target };
    if upstream.is_none() && session.initialize(view).is_none() {
        return Err(Refusal::SESSION_UNKNOWN);
    }
    Ok(Some(session))
}

/// What its records and its ids call an upstream: the reverse of [`View::upstream_of`](super::View::upstream_of).
fn key_of(view: &LocalView, upstream: usize) -> &str {
    &view.view.upstreams[upstream].key
}

/// The name of the session that has this id; `None`: the text cannot be an id of ours.
fn name_of(text: &[u8], plan: &SessionPlan) -> Option<SessionId> {
    // Sessions of the time before there was a secret go on.
    SessionId::parse(text).or_else(|| plan.seal.as_ref().and_then(|_| sealed::name_of(text)))
}

/// The same answer as for an id that was never issued: nobody learns which ids there are.
fn somebody_elses(id: SessionId) -> Refusal {
    tracing::info!(session = ?id, "refused somebody else's session");
    Refusal::SESSION_UNKNOWN
}

/// Where the id of a 2024-11-05 session stands in the query.
fn id_in_target(target: &[u8]) -> Option<Span> {
    memchr::memchr(b'?', target)?;
    PARAMETERS.iter().find_map(|name| sse::query_parameter(target, name))
}

/// A request for a session, by its id.
struct Asked<'a> {
    worker: &'a Worker,
    view: &'a LocalView,
    caller: &'a Caller,
    id: SessionId,
    text: &'a [u8],
}

impl Asked<'_> {
    fn find(&self) -> Result<Option<Rc<Entry>>, Refusal> {
        let (hot, store, id) = (&self.worker.sessions, &self.worker.shared.store, self.id);
        let epoch = store.ended_epoch();
        let now = store.now_ms();
        let known = hot.known.borrow().get(&id).cloned();
        if known.as_deref().is_some_and(|entry| entry.is_fresh(store, epoch, now)) {
            return Ok(known);
        }
        let record = if id.is_derived() { self.look_up(known.as_deref()) } else { self.read() };
        let Some(record) = record? else {
            hot.known.borrow_mut().remove(&id);
            return Ok(None);
        };
        let touch = known.as_deref().is_none_or(|entry| entry.is_due(store, now));
        let checked_ms = if touch { now } else { known.map_or(now, |entry| entry.checked_ms.get()) };
        if touch {
            store.touch(id);
        }
        Ok(Some(hot.remember(Entry::new(id, record, epoch, checked_ms))))
    }

    fn read(&self) -> Result<Option<Record>, Refusal> {
        self.worker.shared.store.find(&self.id).map_err(|error| {
            tracing::error!(%error, session = ?self.id, "cannot read a session");
            Refusal::STORE_READ
        })
    }

    /// A session whose id says what it is: the store may say that it ended, and knows nothing better else.
    fn look_up(&self, known: Option<&Entry>) -> Result<Option<Record>, Refusal> {
        let store = &self.worker.shared.store;
        let found = store.look_up(&self.id).unwrap_or_else(|error| {
            tracing::error!(%error, session = ?self.id, "cannot read a session; its id tells");
            Found::Unknown
        });
        let record = match (found, known) {
            (Found::Live(record), _) => return Ok(Some(record)),
            (Found::Ended, _) => return Ok(None),
            (Found::Unknown, Some(entry)) => Record { seen_ms: store.now_ms(), ..Record::clone(&entry.record) },
            (Found::Unknown, None) => match self.open()? {
                Some(record) => record,
                None => return Ok(None),
            },
        };
        store.adopt(self.id, record.clone());
        Ok(Some(record))
    }

    /// What the id says.
    ///
    /// # Errors
    /// 404 for a session of another caller, or of an upstream that is not there.
    fn open(&self) -> Result<Option<Record>, Refusal> {
        let seal = self.view.view.plan.session.seal.as_deref();
        let Some(contents) = seal.and_then(|seal| seal.open(self.text)) else { return Ok(None) };
        if contents.binding != binding_of(self.caller) {
            return Err(somebody_elses(self.id));
        }
        self.view.view.upstream_of(&contents.upstream).ok_or(Refusal::SESSION_UNKNOWN)?;
        let store = &self.worker.shared.store;
        let (now, age) = (store.now_ms(), store.wall_seconds().saturating_sub(contents.created));
        Ok(Some(Record {
            upstream: contents.upstream,
            upstream_session: contents.upstream_session,
            protocol: contents.protocol,
            transport: match contents.parameter {
                None => Transport::StreamableHttp,
                Some(parameter) => Transport::HttpSse { parameter },
            },
            principal: owner(self.caller),
            // Only the proxy where it began knows.
            initialize: None,
            created_ms: now.saturating_sub(age.saturating_mul(1000)),
            seen_ms: now,
        }))
    }
}

fn owner(caller: &Caller) -> Option<Principal> {
    let caller = caller.principal()?;
    Some(Principal { issuer: caller.issuer.to_string(), subject: caller.subject.to_string() })
}

fn binding_of(caller: &Caller) -> Option<[u8; 32]> {
    caller.principal().map(|principal| *principal.binding().as_bytes())
}

impl Hot {
    fn remember(&self, entry: Entry) -> Rc<Entry> {
        let mut known = self.known.borrow_mut();
        if known.len() >= HOT_MAX {
            *known = LinearHash::default();
        }
        let entry = Rc::new(entry);
        known.insert(entry.clone());
        entry
    }

    /// The session ended: its clients see their streams end.
    pub fn end_streams(&self, id: &SessionId) {
        for &client in self.streaming.borrow().get(id).into_iter().flatten() {
            stream::end(client);
        }
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

/// An open stream of a session, known until dropped, which is before its client's connection is.
pub struct OpenStream {
    worker: Rc<Worker>,
    id: SessionId,
    client: RawFd,
}

/// `epoch`: what [`Store::ended_epoch`] was when the session was known to live.
pub fn open_stream(worker: &Rc<Worker>, id: SessionId, client: RawFd, epoch: u64) -> OpenStream {
    worker.sessions.streaming.borrow_mut().entry(id).or_default().push(client);
    // Whoever ended it meanwhile did not see this stream.
    if worker.shared.store.ended_epoch() != epoch && has_ended(&worker.shared.store, id) {
        worker.sessions.end_streams(&id);
    }
    OpenStream { worker: worker.clone(), id, client }
}

fn has_ended(store: &Store, id: SessionId) -> bool {
    match id.is_derived() {
        true => matches!(store.look_up(&id), Ok(Found::Ended)),
        false => matches!(store.find(&id), Ok(None)),
    }
}

impl OpenStream {
    pub fn id(&self) -> SessionId {
        self.id
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut streaming = self.worker.sessions.streaming.borrow_mut();
        let Some(clients) = streaming.get_mut(&self.id) else { return };
        if let Some(at) = clients.iter().position(|client| *client == self.client) {
            clients.swap_remove(at);
        }
        if clients.is_empty() {
            streaming.remove(&self.id);
            self.worker.shared.store.touch(self.id);
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
    worker.sessions.known.borrow_mut().remove(&id);
    worker.shared.store.end(id).await.map_err(|error| {
        tracing::error!(%error, session = ?id, "cannot end a session");
        Refusal::STORE
    })
}
