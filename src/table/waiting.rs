//! A bounded line of requests that wait for a place at an endpoint, over all workers, without locks and without polling.
//!
//! A place that comes free is handed to the first who waits, so nobody overtakes. Each waiter is in one of three states,
//! and leaves the first by one exchange, so that a place is either with the waiter or with whoever brought it:
//!
//! ```text
//!   WAITING --a place is brought--> SERVED: the waiter takes it, or releases it if it is dropped
//!           --the waiter left-----> GONE:   passed over
//! ```
//!
//! Those who left stay in the queue until they come to its head; when they are more than the line may be long they are
//! swept out, so memory is bounded.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::task::{Context, Poll};

use super::sync::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicWaker, GONE_LEAST, OnceLock, SegQueue, fence};

const WAITING: u32 = 0;
const SERVED: u32 = 1;
const GONE: u32 = 2;

/// The owner of places.
pub trait Places: Send + Sync + Sized {
    /// One place in use; dropping it releases the place.
    type Permit;

    /// The permit of a place that is counted already.
    fn permit(self: Arc<Self>) -> Self::Permit;
}

/// All who wait, first in, first out. `E` owns the places.
pub struct Line<E> {
    queue: SegQueue<Arc<Waiter<E>>>,
    /// Waiters in the state WAITING.
    waiting: AtomicU32,
    limit: AtomicU32,
    /// Waiters in the queue in the state GONE. Below zero while one was taken out that has left and is not counted yet.
    gone: AtomicI32,
    sweeping: AtomicBool,
    /// The latest time that anybody told, for those who release and have no clock.
    latest: AtomicU64,
}

struct Waiter<E> {
    state: AtomicU32,
    /// Whose place it was given; written before SERVED.
    owner: OnceLock<Arc<E>>,
    waker: AtomicWaker,
}

impl<E> Line<E> {
    /// For up to `limit` waiters; none with 0.
    pub fn new(limit: u32) -> Line<E> {
        Line {
            queue: SegQueue::new(),
            waiting: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            gone: AtomicI32::new(0),
            sweeping: AtomicBool::new(false),
            latest: AtomicU64::new(0),
        }
    }

    /// For a reload. Those who wait already go on.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// Whether nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Acquire) == 0
    }

    pub fn len(&self) -> usize {
        self.waiting.load(Relaxed) as usize
    }

    /// Say what time it is, in milliseconds on the clock of the caller.
    pub fn tell(&self, now: u64) {
        self.latest.fetch_max(now, Relaxed);
    }

    /// The latest time that was told.
    pub fn latest(&self) -> u64 {
        self.latest.load(Relaxed)
    }

    /// Join the line; `None` if it is full. The caller looks for a free place afterwards: one that was released just
    /// before found nobody here.
    pub fn join(self: &Arc<Self>) -> Option<Waiting<E>>
    where
        E: Places,
    {
        if self.waiting.fetch_add(1, SeqCst) >= self.limit.load(Relaxed) {
            self.waiting.fetch_sub(1, SeqCst);
            return None;
        }
        let waiter =
            Arc::new(Waiter { state: AtomicU32::new(WAITING), owner: OnceLock::new(), waker: AtomicWaker::new() });
        self.queue.push(waiter.clone());
        // Pairs with the fence of who releases: one of the two sees the other.
        fence(SeqCst);
        Some(Waiting { line: self.clone(), waiter, is_over: false })
    }

    /// Hand a place of `owner`, which the caller holds, to the first who waits. False: nobody does, the caller keeps it.
    #[must_use]
    pub fn hand_over(&self, owner: &Arc<E>) -> bool {
        while let Some(waiter) = self.queue.pop() {
            // Whoever took it out of the queue is the only one to serve it.
            let _ = waiter.owner.set(owner.clone());
            if waiter.state.compare_exchange(WAITING, SERVED, AcqRel, Acquire).is_ok() {
                self.waiting.fetch_sub(1, SeqCst);
                waiter.waker.wake();
                return true;
            }
            self.gone.fetch_sub(1, Relaxed);
        }
        false
    }

    /// Somebody left.
    fn left(&self) {
        self.waiting.fetch_sub(1, SeqCst);
        let gone = i64::from(self.gone.fetch_add(1, Relaxed)) + 1;
        if gone > i64::from(self.limit.load(Relaxed).max(GONE_LEAST)) && !self.sweeping.swap(true, Acquire) {
            for _ in 0..self.queue.len() {
                let Some(waiter) = self.queue.pop() else { break };
                match waiter.state.load(Acquire) {
                    WAITING => self.queue.push(waiter),
                    _ => drop(self.gone.fetch_sub(1, Relaxed)),
                }
            }
            self.sweeping.store(false, Release);
        }
    }
}

impl<E> std::fmt::Debug for Line<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

/// A request in the line: a future of the permit. Dropped before, it leaves the line, and passes on what it may have
/// been given meanwhile.
#[must_use = "leaves the line when dropped"]
pub struct Waiting<E: Places> {
    line: Arc<Line<E>>,
    waiter: Arc<Waiter<E>>,
    is_over: bool,
}

impl<E: Places> Waiting<E> {
    /// The permit, if it is here.
    pub fn take(&mut self) -> Option<E::Permit> {
        if self.is_over || self.waiter.state.load(Acquire) != SERVED {
            return None;
        }
        self.is_over = true;
        self.waiter.owner.get().map(|owner| owner.clone().permit())
    }
}

impl<E: Places> Future for Waiting<E> {
    type Output = E::Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<E::Permit> {
        assert!(!self.is_over, "polled again after the place was given");
        self.waiter.waker.register(context.waker());
        // A place that came before the waker was there woke nobody.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<E: Places> Drop for Waiting<E> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        match self.waiter.state.compare_exchange(WAITING, GONE, AcqRel, Acquire) {
            Ok(_) => self.line.left(),
            // A place came meanwhile: it goes to the next.
            Err(_) => drop(self.take()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};
    use std::thread;

    use super::*;
    use crate::table::{Endpoint, InFlight};

    fn endpoint(max: u32, waiting: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(Some(max), waiting, Arc::new(Line::new(waiting))))
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn poll(waiting: &mut Waiting<Endpoint>, count: &Arc<Count>) -> Option<InFlight> {
        let waker = Waker::from(count.clone());
        match Pin::new(waiting).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn places_go_to_those_who_wait_in_their_order() {
        let (endpoint, count) = (endpoint(1, 3), Arc::new(Count(AtomicUsize::new(0))));
        let held = endpoint.enter().expect("a place");
        let mut line: Vec<_> = (0..3).map(|_| endpoint.wait(0).expect("room in the line")).collect();
        assert!(endpoint.wait(0).is_none(), "the line is full");
        assert!(line.iter_mut().all(|one| poll(one, &count).is_none()));
        drop(held);
        assert_eq!(count.0.load(SeqCst), 1);
        // A newcomer finds no place, although one was just released.
        assert!(endpoint.enter().is_none());
        let mut last = None;
        for mut one in line {
            last = Some(poll(&mut one, &count).expect("its turn"));
            assert_eq!(endpoint.in_flight(), 1);
            drop(last.take());
        }
        assert!(last.is_none() && endpoint.enter().is_some());
    }

    #[test]
    fn who_leaves_passes_the_place_on() {
        let (endpoint, count) = (endpoint(1, 8), Arc::new(Count(AtomicUsize::new(0))));
        let held = endpoint.enter().expect("a place");
        let (gone, mut served, mut next) =
            (endpoint.wait(0).unwrap(), endpoint.wait(0).unwrap(), endpoint.wait(0).unwrap());
        assert!(poll(&mut served, &count).is_none() && poll(&mut next, &count).is_none());
        drop(gone);
        drop(held);
        // Served, but it never looked.
        drop(served);
        assert!(poll(&mut next, &count).is_some());
        drop(next);
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[test]
    fn those_who_left_are_swept_out() {
        let endpoint = endpoint(1, 10);
        let held = endpoint.enter().expect("a place");
        let waits = endpoint.wait(0).expect("room");
        for _ in 0..10_000 {
            drop(endpoint.wait(0).expect("room, since the others left"));
        }
        assert!(endpoint.waiting() == 1);
        drop(held);
        drop(waits);
        assert_eq!(endpoint.in_flight(), 0);
        assert!(endpoint.enter().is_some());
    }

    #[test]
    fn never_more_than_the_places_and_none_is_lost() {
        const THREADS: usize = 4;
        const TURNS: usize = 2_000;
        let endpoint = endpoint(2, 64);
        let (served, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (endpoint, served, left) = (&endpoint, &served, &left);
                scope.spawn(move || {
                    for turn in 0..TURNS {
                        let place = endpoint.enter().or_else(|| {
                            let mut waiting = endpoint.wait(0)?;
                            // Some give up at once, others after a while.
                            for _ in 0..(turn * 7 + seed) % 50 {
                                if let Some(place) = waiting.take() {
                                    return Some(place);
                                }
                                thread::yield_now();
                            }
                            None
                        });
                        assert!(endpoint.in_flight() <= 2);
                        match place {
                            Some(_) => served.fetch_add(1, SeqCst),
                            None => left.fetch_add(1, SeqCst),
                        };
                    }
                });
            }
        });
        assert_eq!(served.load(SeqCst) + left.load(SeqCst), THREADS * TURNS);
        assert!(served.load(SeqCst) > TURNS, "{served:?} {left:?}");
        assert_eq!((endpoint.in_flight(), endpoint.waiting()), (0, 0));
        let (one, two) = (endpoint.enter(), endpoint.enter());
        assert!(one.is_some() && two.is_some() && endpoint.enter().is_none());
    }
}
