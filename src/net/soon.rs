//! A wait of about ten milliseconds that costs next to nothing: for things that nearly always come sooner.
//!
//! A timer of the runtime reads the clock and enters a wheel for each wait, which was 2 % of a request's CPU time
//! (`docs/adr/0005-reads-ahead-and-coarse-waits.md`). Here the waits of a thread stand in two lines; a turn of [`TURN`] ends the older.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::Slab;
use crate::base::slab::Key;

/// A wait lasts from one to two turns.
pub const TURN: Duration = Duration::from_millis(8);

thread_local! {
    static LINES: RefCell<Lines> = RefCell::default();
}

/// Ready after one to two turns of 8 ms. May be dropped at any time.
pub fn soon() -> Soon {
    Soon { place: None }
}

pub struct Soon {
    place: Option<Key>,
}

#[derive(Default)]
struct Lines {
    /// Whom to wake; nothing is kept of waits that are over, or were given up.
    waiting: Slab<Waker>,
    younger: Vec<Key>,
    older: Vec<Key>,
    /// A task turns the lines for as long as somebody stands in them.
    turning: bool,
}

impl Lines {
    fn enter(&mut self, waker: Waker) -> Key {
        let place = self.waiting.insert(waker);
        self.younger.push(place);
        place
    }

    /// End the older line: whom to wake. Lines keep their memory, of which a busy thread would want as much again.
    fn turn(&mut self) -> Vec<Waker> {
        std::mem::swap(&mut self.older, &mut self.younger);
        self.younger.drain(..).filter_map(|place| self.waiting.remove(place)).collect()
    }

    fn is_empty(&self) -> bool {
        self.younger.is_empty() && self.older.is_empty()
    }
}

impl Future for Soon {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (place, must_turn) = LINES.with_borrow_mut(|lines| match self.place {
            None => (Some(lines.enter(cx.waker().clone())), !std::mem::replace(&mut lines.turning, true)),
            Some(place) => match lines.waiting.get_mut(place) {
                Some(waker) => {
                    waker.clone_from(cx.waker());
                    (Some(place), false)
                }
                None => (None, false),
            },
        });
        if must_turn {
            super::spawn(turn());
        }
        match place {
            Some(_) => {
                self.place = place;
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Soon {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            // A thread that is shutting down has no lines any more.
            let waker = LINES.try_with(|lines| lines.borrow_mut().waiting.remove(place));
            drop(waker);
        }
    }
}

async fn turn() {
    loop {
        super::sleep(TURN).await;
        for waker in LINES.with_borrow_mut(Lines::turn) {
            waker.wake();
        }
        let done = LINES.with_borrow_mut(|lines| {
            lines.turning = !lines.is_empty();
            !lines.turning
        });
        if done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_the_second_turn_and_not_before() {
        let mut lines = Lines::default();
        let place = lines.enter(Waker::noop().clone());
        assert!(lines.turn().is_empty());
        assert!(lines.waiting.get(place).is_some());
        assert_eq!(lines.turn().len(), 1);
        assert!(lines.waiting.get(place).is_none() && lines.is_empty());
    }

    #[test]
    fn a_slot_that_serves_another_wait_does_not_hold_up_the_first() {
        let mut lines = Lines::default();
        let first = lines.enter(Waker::noop().clone());
        lines.turn();
        lines.turn();
        let second = lines.enter(Waker::noop().clone());
        assert_eq!(second.place(), first.place());
        assert!(lines.waiting.get(first).is_none() && lines.waiting.get(second).is_some());
    }

    #[test]
    fn a_wait_that_was_given_up_wakes_nobody() {
        let mut lines = Lines::default();
        let place = lines.enter(Waker::noop().clone());
        lines.waiting.remove(place);
        lines.turn();
        assert!(lines.turn().is_empty());
        assert!(lines.waiting.is_empty());
    }
}
