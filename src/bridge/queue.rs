//! Messages that wait to be written to a server.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

const MESSAGES_MAX: usize = 1024;
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// Whoever pushes never waits; one task takes.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    closed: bool,
    taker: Option<Waker>,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The server reads too slowly.
    Full,
    /// It ends, or has ended.
    Closed,
}

impl Queue {
    /// # Errors
    /// There is no room, or there is no use.
    pub fn push(&self, line: Vec<u8>) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        // One message always has room, however long.
        if state.lines.len() >= MESSAGES_MAX || (state.bytes + line.len() > BYTES_MAX && !state.lines.is_empty()) {
            return Err(Refused::Full);
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        state.wake();
        Ok(())
    }

    /// Nothing more is taken in; what is there may still be written.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake();
    }

    /// The next one, or the end.
    pub async fn next(&self) -> Option<Vec<u8>> {
        poll_fn(|context| {
            let mut state = self.lock();
            match state.lines.pop_front() {
                Some(line) => {
                    state.bytes -= line.len();
                    Poll::Ready(Some(line))
                }
                None if state.closed => Poll::Ready(None),
                None => state.wait(context.waker()),
            }
        })
        .await
    }

    /// Resolves when it is closed. For the task that takes.
    pub async fn closed(&self) {
        poll_fn(|context| {
            let mut state = self.lock();
            if state.closed { Poll::Ready(()) } else { state.wait(context.waker()) }
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait<T>(&mut self, waker: &Waker) -> Poll<T> {
        self.taker = Some(waker.clone());
        Poll::Pending
    }

    fn wake(&mut self) {
        if let Some(taker) = self.taker.take() {
            taker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    fn take(queue: &Queue) -> Poll<Option<Vec<u8>>> {
        pin!(queue.next()).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn refuses_what_has_no_room_and_gives_out_the_rest_in_order() {
        let queue = Queue::default();
        for number in 0..MESSAGES_MAX {
            assert_eq!(queue.push(number.to_string().into()), Ok(()));
        }
        assert_eq!(queue.push(b"more".to_vec()), Err(Refused::Full));
        assert_eq!(take(&queue), Poll::Ready(Some(b"0".to_vec())));
        assert_eq!(queue.push(vec![0; BYTES_MAX]), Err(Refused::Full));
        queue.close();
        assert_eq!(queue.push(b"late".to_vec()), Err(Refused::Closed));
        assert_eq!(take(&queue), Poll::Ready(Some(b"1".to_vec())));
        (2..MESSAGES_MAX).for_each(|_| assert!(take(&queue).is_ready()));
        assert_eq!(take(&queue), Poll::Ready(None));
    }

    #[test]
    fn one_message_has_room_however_long() {
        let queue = Queue::default();
        assert_eq!(queue.push(vec![0; BYTES_MAX + 1]), Ok(()));
        assert_eq!(queue.push(vec![0]), Err(Refused::Full));
        assert!(take(&queue).is_ready());
        assert_eq!(take(&queue), Poll::Pending);
    }
}
