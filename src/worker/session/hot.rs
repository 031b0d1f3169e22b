//! What a worker remembers of sessions, and the open streams of each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;

use crate::base::SessionId;
use crate::base::linear_hash::{Identified, LinearHash};
use crate::net::stream;
use crate::store::{Found, Record, Store, Transport};
use crate::telemetry::text::Text;
use crate::worker::Worker;
use crate::worker::auth::Caller;
use crate::worker::upstream::LocalView;

/// Sessions that a worker remembers; beyond, it starts its memory anew (the store has them all).
const HOT_MAX: usize = 131_072;
/// Upstream's ids are rarely longer (a UUID as text has 36).
const BRIEF_BYTES: usize = 38;

/// No place.
const NOWHERE: u32 = u32::MAX;

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
pub struct Entry {
    id: SessionId,
    /// The store's `ended_epoch` before the store was asked.
    pub epoch: Cell<u64>,
    /// Store time of the latest question, which was also a touch.
    pub checked_ms: Cell<u64>,
    /// Where its upstream stands in the view of this number.
    place: Cell<(u32, u32)>,
    pub record: Box<Record>,
    /// Upstream's own id; empty if it is longer, and stands in the record alone.
    brief: Text<BRIEF_BYTES>,
    /// The id travels in the query (2024-11-05).
    pub by_query: bool,
    has_owner: bool,
}

impl Identified for Entry {
    fn id(&self) -> &SessionId {
        &self.id
    }
}

impl Entry {
    pub fn new(id: SessionId, record: Record, epoch: u64, checked_ms: u64) -> Entry {
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
    pub fn upstream_session(&self) -> &[u8] {
        if self.brief.is_empty() { self.record.upstream_session.as_bytes() } else { self.brief.bytes() }
    }

    /// A session belongs to issuer and subject of the one who began it.
    pub fn is_owned_by(&self, caller: &Caller) -> bool {
        let owner = if self.has_owner { self.record.principal.as_ref() } else { None };
        match (owner, caller.principal()) {
            (None, None) => true,
            (Some(owner), Some(caller)) => *owner.issuer == *caller.issuer && *owner.subject == *caller.subject,
            _ => false,
        }
    }

    /// Whether the store has nothing to add: no session ended since, and no touch is due.
    pub fn is_fresh(&self, store: &Store, epoch: u64, now: u64) -> bool {
        self.epoch.get() == epoch && !self.is_due(store, now)
    }

    pub fn is_due(&self, store: &Store, now: u64) -> bool {
        now.saturating_sub(self.checked_ms.get()) >= store.touch_interval().as_millis() as u64
    }

    /// Where its upstream stands in this view; `None`: it is gone.
    pub fn upstream(&self, view: &LocalView) -> Option<usize> {
        let (number, place) = self.place.get();
        if number == view.number {
            return (place != NOWHERE).then_some(place as usize);
        }
        let place = view.view.upstream_of(&self.record.upstream);
        self.place.set((view.number, place.map_or(NOWHERE, |place| place as u32)));
        place
    }
}

impl Hot {
    pub fn find(&self, id: &SessionId) -> Option<Rc<Entry>> {
        self.known.borrow().get(id).cloned()
    }

    pub fn forget(&self, id: &SessionId) {
        self.known.borrow_mut().remove(id);
    }

    pub fn remember(&self, entry: Entry) -> Rc<Entry> {
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
