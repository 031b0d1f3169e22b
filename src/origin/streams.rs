//! The event streams of one session: the one that GET opens, and those of calls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::events::EventLog;

/// Streams of calls kept for a client that may resume them; the oldest goes first.
const CALL_STREAMS_MAX: usize = 16;
/// Number of the stream that GET opens; calls count from 1.
const STANDALONE: u32 = 0;

#[derive(Default)]
pub struct Streams {
    /// As on the 2024-11-05 transport: everything goes out on the standalone stream, without event ids.
    one: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: bool,
    opened: u32,
    standalone: Option<Arc<EventLog>>,
    calls: VecDeque<(u32, Arc<EventLog>)>,
}

impl Streams {
    /// Of a session whose one stream carries everything.
    pub fn one() -> Streams {
        Streams { one: true, ..Streams::default() }
    }

    pub fn is_one(&self) -> bool {
        self.one
    }

    /// The stream of GET, the one place for what belongs to no call.
    pub fn standalone(&self) -> Arc<EventLog> {
        let mut state = self.lock();
        let log = state.standalone.get_or_insert_with(|| match self.one {
            true => EventLog::plain(),
            false => EventLog::resumable(STANDALONE),
        });
        let log = Arc::clone(log);
        if state.ended {
            log.end();
        }
        log
    }

    /// A new stream for a call's messages.
    pub fn open(&self) -> Arc<EventLog> {
        if self.one {
            return self.standalone();
        }
        let mut state = self.lock();
        state.opened = state.opened.wrapping_add(1);
        let log = EventLog::resumable(state.opened);
        if state.ended {
            log.end();
            return log;
        }
        if state.calls.len() == CALL_STREAMS_MAX {
            state.calls.pop_front();
        }
        let number = state.opened;
        state.calls.push_back((number, Arc::clone(&log)));
        log
    }

    /// The stream that an event id names; `None` if it is forgotten.
    pub fn find(&self, number: u32) -> Option<Arc<EventLog>> {
        if number == STANDALONE {
            return Some(self.standalone());
        }
        let state = self.lock();
        state.calls.iter().find(|(known, _)| *known == number).map(|(_, log)| Arc::clone(log))
    }

    /// Forgets a call's stream that was delivered to its end.
    pub fn forget(&self, number: u32) {
        self.lock().calls.retain(|(known, _)| *known != number);
    }

    /// Ends all of them.
    pub fn end(&self) {
        let state = {
            let mut state = self.lock();
            let ended = State { ended: true, opened: state.opened, ..State::default() };
            std::mem::replace(&mut *state, ended)
        };
        state.standalone.iter().chain(state.calls.iter().map(|(_, log)| log)).for_each(|log| log.end());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_found_until_they_are_forgotten_or_too_many() {
        let streams = Streams::default();
        let first = streams.open();
        assert!(Arc::ptr_eq(&streams.find(1).unwrap(), &first));
        let second = streams.open();
        streams.forget(1);
        assert!(streams.find(1).is_none() && Arc::ptr_eq(&streams.find(2).unwrap(), &second));
        (0..CALL_STREAMS_MAX).for_each(|_| drop(streams.open()));
        assert!(streams.find(2).is_none());
        assert!(Arc::ptr_eq(&streams.find(0).unwrap(), &streams.standalone()));
        let one = Streams::one();
        assert!(Arc::ptr_eq(&one.open(), &one.standalone()));
    }

    #[test]
    fn streams_that_are_opened_after_the_end_end_at_once() {
        let streams = Streams::default();
        streams.end();
        for log in [streams.open(), streams.standalone()] {
            assert_eq!(log.attach(None).ready(&mut Vec::new()), Some(crate::origin::Step::End));
        }
    }
}
