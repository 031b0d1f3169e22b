//! What is left for a thread of the control side: bounded, never waited for. What finds no room is counted and gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;

/// A queue that anybody may leave something in. Nobody waits: neither for room nor for whoever empties it.
pub struct Outbox<T> {
    queue: ArrayQueue<T>,
    lost: AtomicU64,
}

impl<T> Outbox<T> {
    /// Room for `places` things, made at once.
    pub fn new(places: usize) -> Outbox<T> {
        Outbox { queue: ArrayQueue::new(places.max(1)), lost: AtomicU64::new(0) }
    }

    /// `false`: there was no room, and it is counted as lost.
    #[inline]
    pub fn leave(&self, thing: T) -> bool {
        let left = self.queue.push(thing).is_ok();
        if !left {
            self.lose();
        }
        left
    }

    /// Count one that is not even tried.
    pub fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    pub fn take(&self) -> Option<T> {
        self.queue.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn places(&self) -> usize {
        self.queue.capacity()
    }

    /// How many things found no room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// Outboxes of one kind of things, with who empties them and how that went.
pub struct Journal<T> {
    /// One a worker, so that workers do not meet; or one for all.
    boxes: Box<[Outbox<T>]>,
    bell: Arc<Doorbell>,
    /// Things that reached where they were to go. Written by the emptying thread.
    pub delivered: AtomicU64,
    /// Things that were taken and could not be delivered. As `delivered`.
    pub failed: AtomicU64,
}

impl<T> Journal<T> {
    pub fn new(boxes: usize, places: usize, bell: Arc<Doorbell>) -> Journal<T> {
        let boxes = (0..boxes).map(|_| Outbox::new(places)).collect();
        Journal { boxes, bell, delivered: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// As [`Outbox::leave`], in the box of worker `index`.
    #[inline]
    pub fn leave(&self, index: usize, thing: T) -> bool {
        let left = self.boxes[index].leave(thing);
        self.bell.ring();
        left
    }

    /// The next thing, of whichever box.
    pub fn take(&self) -> Option<T> {
        self.boxes.iter().find_map(Outbox::take)
    }

    pub fn is_empty(&self) -> bool {
        self.boxes.iter().all(Outbox::is_empty)
    }

    /// How many things found no room.
    pub fn lost(&self) -> u64 {
        self.boxes.iter().map(Outbox::lost).sum()
    }

    pub fn outbox(&self, index: usize) -> &Outbox<T> {
        &self.boxes[index]
    }

    pub fn bell(&self) -> &Doorbell {
        &self.bell
    }
}

/// Wakes the one thread that empties outboxes, if it has gone to sleep. While there is work it does not: it looks again by
/// itself a little later, so that leaving something costs one load, and a busy time costs few wake-ups.
#[derive(Default)]
pub struct Doorbell {
    asleep: AtomicBool,
    waker: AtomicWaker,
}

impl Doorbell {
    /// Something was left. The order of this look after the queue's own write, and of the sleeper's look at the queue after
    /// its `asleep`, is total (both are `SeqCst`), so that one of the two sees the other.
    #[inline]
    pub fn ring(&self) {
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            self.waker.wake();
        }
    }

    /// Wake it in any case, if it sleeps.
    pub fn wake(&self) {
        self.asleep.store(false, SeqCst);
        self.waker.wake();
    }

    /// Sleep until it rings, but at most this long; not at all if there is something. Of the emptying thread alone.
    pub fn wait(&self, is_empty: impl Fn() -> bool, at_most: Duration) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        if self.poll(&mut Context::from_waker(&waker), is_empty).is_pending() {
            thread::park_timeout(at_most);
        }
        self.asleep.store(false, SeqCst);
    }

    /// Ready once there is something. Of the emptying task alone.
    pub fn poll(&self, cx: &mut Context<'_>, is_empty: impl Fn() -> bool) -> Poll<()> {
        self.waker.register(cx.waker());
        self.asleep.store(true, SeqCst);
        if is_empty() {
            return Poll::Pending;
        }
        self.asleep.store(false, SeqCst);
        Poll::Ready(())
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted() {
        let outbox = Outbox::new(2);
        assert_eq!([1, 2, 3].map(|n| outbox.leave(n)), [true, true, false]);
        assert_eq!((outbox.take(), outbox.take(), outbox.take(), outbox.lost()), (Some(1), Some(2), None, 1));
    }

    #[test]
    fn a_sleeper_misses_nothing_that_is_left() {
        let (outbox, bell) = (Arc::new(Outbox::new(4)), Arc::new(Doorbell::default()));
        let (left, rung) = (outbox.clone(), bell.clone());
        let leaving = thread::spawn(move || {
            for n in 0..10_000 {
                while !left.leave(n) {
                    thread::yield_now();
                }
                rung.ring();
            }
        });
        let mut next = 0;
        while next < 10_000 {
            let before = std::time::Instant::now();
            bell.wait(|| outbox.is_empty(), Duration::from_secs(60));
            assert!(before.elapsed() < Duration::from_secs(30), "slept over a ring, at {next}");
            while let Some(n) = outbox.take() {
                assert_eq!(n, next);
                next += 1;
            }
        }
        leaving.join().unwrap();
    }
}
