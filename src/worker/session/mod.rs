//! Whose session a request belongs to; what a worker remembers of sessions ([`hot`]), and their life ([`life`]).
//!
//! Clients see ids of ours, never upstream's own. The store is the truth; a worker keeps the sessions that it saw lately
//! in a map of its own and asks the store again when a session ended somewhere (`ended_epoch`) or when a touch is due.
//!
//! With `session.secret` the id itself is the truth (`wire::sealed`), so that a replica serves sessions that others began.
//! The store then keeps the books of this replica: how many there are, when they were last used here, which ended here.

mod hot;
mod life;

use std::rc::Rc;

use super::Worker;
use super::auth::Caller;
use super::envelope::Envelope;
use super::guard::Request;
use super::refusal::Refusal;
use super::upstream::LocalView;
use crate::base::{SessionId, Span};
use crate::config::plan::SessionPlan;
use crate::store::{Found, Principal, Record, Transport};
use crate::wire::http1::head::{Method, Name};
use crate::wire::mcp::Era;
use crate::wire::sealed;
use crate::wire::sse;

use self::hot::Entry;
pub use self::hot::{Hot, OpenStream, open_stream};
pub use self::life::{Birth, begin, end, relocate, reserve};

/// Names of the query parameter that carries a 2024-11-05 session; with one of these an unknown id is 404.
const PARAMETERS: [&[u8]; 3] = [b"sessionId", b"session_id", b"sessionid"];

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
        let known = hot.find(&id);
        if known.as_deref().is_some_and(|entry| entry.is_fresh(store, epoch, now)) {
            return Ok(known);
        }
        let record = if id.is_derived() { self.look_up(known.as_deref()) } else { self.read() };
        let Some(record) = record? else {
            hot.forget(&id);
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
