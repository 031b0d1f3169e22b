//! The sessions of one server, by the ids that its clients got, shared by all of its threads.
//!
//! At most [`SESSIONS_MAX`] are kept: a new one pushes out the one of its shard that was idle longest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;

use crate::base::SessionId;

pub const SESSIONS_MAX: usize = 100_000;
const SHARDS: usize = 64;
const SHARD_SESSIONS_MAX: usize = SESSIONS_MAX / SHARDS;

/// What is to happen when a session ends.
pub trait Session {
    fn end(&self);
}

pub struct Sessions<S> {
    start: Instant,
    shards: [Mutex<HashMap<SessionId, Entry<S>>>; SHARDS],
}

struct Entry<S> {
    session: Arc<S>,
    /// Milliseconds after the start, of the last request.
    used_ms: u64,
}

/// A session id, which nobody can guess.
pub fn new_id() -> SessionId {
    let mut random = [0u8; 24];
    rand::fill(&mut random).expect("the system's random source works");
    SessionId::from_random(random)
}

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        Sessions { start: Instant::now(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<S: Session> Sessions<S> {
    pub fn insert(&self, id: SessionId, session: Arc<S>) {
        let entry = Entry { session, used_ms: self.now_ms() };
        let displaced = {
            let mut shard = self.shard(&id);
            let idlest = (shard.len() >= SHARD_SESSIONS_MAX)
                .then(|| shard.iter().min_by_key(|(_, known)| known.used_ms).map(|(id, _)| *id))
                .flatten();
            shard.insert(id, entry);
            idlest.and_then(|idlest| shard.remove(&idlest))
        };
        if let Some(displaced) = displaced {
            displaced.session.end();
        }
    }

    /// The session of this id, if it goes on; notes that it was used.
    pub fn find(&self, id: &[u8]) -> Option<Arc<S>> {
        let id = SessionId::parse(id)?;
        let now = self.now_ms();
        let mut shard = self.shard(&id);
        let entry = shard.get_mut(&id)?;
        entry.used_ms = now;
        Some(Arc::clone(&entry.session))
    }

    /// False if it had ended before.
    pub fn end(&self, id: &SessionId) -> bool {
        let entry = self.shard(id).remove(id);
        entry.inspect(|entry| entry.session.end()).is_some()
    }

    /// Ends those that were not used for longer than `timeout`, unless they are `busy`, which counts as use; how many.
    pub fn end_idle(&self, timeout: Duration, busy: impl Fn(&S) -> bool) -> usize {
        let now = self.now_ms();
        let limit = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let mut ended = 0;
        for shard in &self.shards {
            let idle: Vec<Entry<S>> = {
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                let is_idle = |_: &SessionId, entry: &mut Entry<S>| {
                    if busy(&entry.session) {
                        entry.used_ms = now;
                    }
                    now.saturating_sub(entry.used_ms) > limit
                };
                shard.extract_if(is_idle).map(|(_, entry)| entry).collect()
            };
            ended += idle.len();
            idle.iter().for_each(|entry| entry.session.end());
        }
        ended
    }

    pub fn end_all(&self) {
        for shard in &self.shards {
            let all = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            all.values().for_each(|entry| entry.session.end());
        }
    }

    fn shard(&self, id: &SessionId) -> MutexGuard<'_, HashMap<SessionId, Entry<S>>> {
        let (eight, _) = id.as_bytes().split_first_chunk::<8>().expect("an id is longer than eight bytes");
        // Base64 text fills no bits evenly: the product's top bits depend on all of it.
        let mixed = u64::from_le_bytes(*eight).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let shard = (mixed >> (u64::BITS - SHARDS.ilog2())) as usize;
        // No code that holds the lock can leave the map half changed.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Session for Counted {
        fn end(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn begin(sessions: &Sessions<Counted>) -> (SessionId, Arc<Counted>) {
        let (id, session) = (new_id(), Arc::<Counted>::default());
        sessions.insert(id, session.clone());
        (id, session)
    }

    #[test]
    fn the_number_of_sessions_is_bounded_and_the_idlest_goes() {
        let sessions = Sessions::default();
        let (first, of_first) = begin(&sessions);
        let (kept, _) = (0..SESSIONS_MAX * 5 / 4).map(|_| begin(&sessions)).last().expect("many");
        let total: usize = sessions.shards.iter().map(|shard| shard.lock().expect("no panic").len()).sum();
        assert!(total <= SESSIONS_MAX, "{total} sessions");
        assert!(total > SESSIONS_MAX * 9 / 10, "shards fill evenly: {total}");
        assert!(sessions.find(first.as_bytes()).is_none());
        assert_eq!(of_first.0.load(Ordering::Relaxed), 1);
        assert!(sessions.find(kept.as_bytes()).is_some());
    }

    #[test]
    fn what_ended_is_unknown_and_ends_once() {
        let sessions = Sessions::default();
        let ((one, session), (idle, _), (busy, kept)) = (begin(&sessions), begin(&sessions), begin(&sessions));
        assert!(sessions.end(&one) && !sessions.end(&one));
        assert_eq!(session.0.load(Ordering::Relaxed), 1);
        let past = |entry: &mut Entry<Counted>| entry.used_ms = 0;
        sessions.shards.iter().for_each(|shard| shard.lock().expect("no panic").values_mut().for_each(past));
        while sessions.now_ms() < 2 {
            std::hint::spin_loop();
        }
        assert_eq!(sessions.end_idle(Duration::from_millis(1), |session| std::ptr::eq(session, &*kept)), 1);
        assert!(sessions.find(idle.as_bytes()).is_none() && sessions.find(busy.as_bytes()).is_some());
    }
}
