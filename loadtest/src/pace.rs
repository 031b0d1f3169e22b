//! Waits that end within microseconds of when they should: the runtime's timers tick in milliseconds, which is longer than
//! most answers take. One timer of the kernel serves a thread.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use monoio::net::TcpStream;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use shadowcat::net::{self, Either, race};

/// Time, in nanoseconds since a moment that all threads share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(pub Instant);

impl Clock {
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// The precise timer of a thread.
pub struct Pacer {
    clock: Clock,
    timer: OwnedFd,
    /// By when it is due, and then by who came first.
    waiting: RefCell<BinaryHeap<Reverse<Waiting>>>,
    /// When the timer fires next; 0: never.
    armed: Cell<u64>,
    arrivals: Cell<u64>,
}

struct Waiting {
    at: u64,
    arrival: u64,
    waker: Waker,
}

impl Pacer {
    /// Stops when the other half of `stopped` is dropped.
    ///
    /// # Errors
    /// No descriptors.
    pub fn start(clock: Clock, stopped: oneshot::Receiver<()>) -> io::Result<Rc<Pacer>> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Of the runtime's types, this one waits for a descriptor of any kind.
        let waiter = TcpStream::from_std(std::net::TcpStream::from(timer.as_fd().try_clone_to_owned()?))?;
        let (waiting, armed, arrivals) = (RefCell::default(), Cell::new(0), Cell::new(0));
        let pacer = Rc::new(Pacer { clock, timer, waiting, armed, arrivals });
        net::spawn(run(pacer.clone(), waiter, stopped));
        Ok(pacer)
    }

    /// Wait until then.
    pub async fn until(&self, at: u64) {
        let mut entered = false;
        poll_fn(|cx| {
            if self.clock.now() >= at {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut entered, true) {
                self.arrivals.set(self.arrivals.get() + 1);
                let waiting = Waiting { at, arrival: self.arrivals.get(), waker: cx.waker().clone() };
                self.waiting.borrow_mut().push(Reverse(waiting));
                if self.armed.get() == 0 || at < self.armed.get() {
                    self.arm(at);
                }
            }
            Poll::Pending
        })
        .await;
    }

    fn arm(&self, at: u64) {
        let wait = Duration::from_nanos(at.saturating_sub(self.clock.now()).max(1));
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: value };
        let set = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        set.expect("a timer that was made can be set");
        self.armed.set(at);
    }

    /// The timer fired: wake those whose time has come, and set it for the next.
    fn fire(&self) {
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
        self.armed.set(0);
        let mut waiting = self.waiting.borrow_mut();
        let now = self.clock.now();
        while let Some(Reverse(next)) = waiting.peek() {
            if next.at > now {
                self.arm(next.at);
                return;
            }
            if let Some(Reverse(due)) = waiting.pop() {
                due.waker.wake();
            }
        }
    }
}

async fn run(pacer: Rc<Pacer>, waiter: TcpStream, stopped: oneshot::Receiver<()>) {
    let mut stopped = pin!(stopped);
    while let Either::Second(_) = race(stopped.as_mut(), pin!(waiter.readable(false))).await {
        pacer.fire();
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        (self.at, self.arrival) == (other.at, other.arrival)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        (self.at, self.arrival).cmp(&(other.at, other.arrival))
    }
}
