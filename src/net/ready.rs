//! Which sockets of this thread have something to read, or room to write.
//!
//! monoio can wait for a socket once; on a keep-alive connection that is an operation to arm and to complete for each
//! request. Here one epoll of the thread holds all its sockets, edge-triggered, from their first to their last day, and
//! monoio, on whichever driver, waits for that one descriptor (`docs/adr/0014-readiness-of-our-own.md`).
//!
//! A turn takes what is ready, reads it where a message is waited for, lets the tasks run that it is for, and sends what they
//! posted. So neither the kernel's code nor that of the proxy pushes the other out of the cache with each message
//! (`docs/adr/0022-a-turn-reads-runs-and-sends.md`).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use monoio::net::TcpStream;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::Buffer;
use super::foresight::{self, Foreseen};
use super::posts::{self, Mail};
use super::turn;
use crate::base::Slab;
use crate::base::slab::Key;

/// Events that are taken at once.
const EVENTS: usize = 256;
/// Events of a turn after which the next one begins at once: there will be some, and waiting for them, an operation of the driver, would
/// cost much beside what they do.
const BUSY: usize = 6;
/// How long turns may follow each other before the driver is asked what else there is: timers, other threads, new connections.
const UNDRIVEN: Duration = Duration::from_millis(1);
/// What is told of every socket.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

thread_local! {
    static SOCKETS: RefCell<Sockets> = RefCell::default();
    /// What was read ahead and not taken yet: few of many sockets have any.
    static AHEAD: RefCell<Slab<Buffer>> = RefCell::default();
}

/// The registered sockets of a thread.
#[derive(Default)]
struct Sockets {
    /// There for as long as a runtime is.
    epoll: Option<Rc<OwnedFd>>,
    /// A place may serve one socket after the other; events of an earlier one are told by their generation.
    places: Slab<Rc<State>>,
}

/// Whose socket it is. Those of one side are told in one go: their tasks run the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Upstream,
}

impl Side {
    /// As it stands in what epoll keeps for us, above the number of the place.
    fn bit(self) -> u64 {
        (self as u64) << 31
    }
}

/// What is known of one socket.
#[derive(Default)]
pub(super) struct State {
    /// What epoll keeps for us: generation, side, and place in the table.
    data: Cell<u64>,
    fd: Cell<RawFd>,
    readable: Cell<bool>,
    /// Who waits to read reads a message, into a small buffer: that may be done for him.
    wants_message: Cell<bool>,
    /// What was read ahead so.
    ahead: Cell<Option<Key>>,
    /// There may be more behind that.
    has_more: Cell<bool>,
    /// Reading ahead failed.
    failed: Cell<Option<Errno>>,
    pub writable: Cell<bool>,
    /// The end of input, or an error: no event tells of it a second time.
    ended: Cell<bool>,
    pub reader: Cell<Option<Waker>>,
    pub writer: Cell<Option<Waker>>,
    /// Room to write is told as well.
    writing: Cell<bool>,
    /// What was posted and has not left.
    pub mail: Cell<Mail>,
    /// Who waits for that.
    pub mailing: Cell<Option<Waker>>,
    /// What else the reader needs than his task.
    pub foreseen: Cell<Foreseen>,
}

/// A socket's place among those of its thread.
pub struct Readiness {
    state: Rc<State>,
}

impl Readiness {
    /// Of a socket that has to be closed, or taken out by [`forget`](Readiness::forget), when this is dropped.
    ///
    /// # Errors
    /// The kernel's limits (`fs.epoll.max_user_watches`, descriptors).
    pub fn of(socket: BorrowedFd<'_>, side: Side) -> io::Result<Readiness> {
        let state: Rc<State> = Rc::default();
        state.fd.set(socket.as_raw_fd());
        let entered = SOCKETS.with_borrow_mut(|sockets| sockets.enter(state.clone(), side));
        let epoll = entered.ok_or(io::ErrorKind::NotConnected)?;
        let readiness = Readiness { state };
        epoll::add(&*epoll, socket, EventData::new_u64(readiness.state.data.get()), READING)?;
        Ok(readiness)
    }

    /// Take the socket out: something else waits for it from now on.
    ///
    /// # Errors
    /// What was read ahead would be lost.
    pub fn forget(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if self.state.ahead.get().is_some() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let epoll = SOCKETS.with_borrow(|sockets| sockets.epoll.clone());
        epoll.map_or(Ok(()), |epoll| Ok(epoll::delete(&*epoll, socket)?))
    }

    /// Whether bytes, the end or an error wait to be read, as far as is known. Costs no system call.
    pub fn is_readable(&self) -> bool {
        self.state.readable.get()
    }

    /// Wait for that. May be given up at any time.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.state.wants_message.set(false);
        wait(&self.state.readable, &self.state.reader, cx)
    }

    /// The same where a message is read next, into a small buffer: it may be read ahead. May be given up at any time.
    pub fn poll_message(&self, cx: &Context<'_>) -> Poll<()> {
        self.state.wants_message.set(true);
        wait(&self.state.readable, &self.state.reader, cx)
    }

    /// Wait for room to write, of which there is none now. May be dropped at any time.
    pub async fn writable(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.state.has_room(socket).await
    }

    pub(super) fn state(&self) -> &Rc<State> {
        &self.state
    }
}

impl State {
    /// As [`Readiness::writable`].
    pub async fn has_room(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.writable.set(false);
        if !self.writing.replace(true)
            && let Some(epoll) = SOCKETS.with_borrow(|sockets| sockets.epoll.clone())
        {
            let data = EventData::new_u64(self.data.get());
            epoll::modify(&*epoll, socket, data, READING | EventFlags::OUT)?;
        }
        poll_fn(|cx| wait(&self.writable, &self.writer, cx)).await;
        Ok(())
    }

    /// All that there was has been read.
    pub fn emptied(&self) {
        self.readable.set(self.ended.get());
    }

    /// A read found nothing.
    pub fn found_nothing(&self) {
        self.readable.set(false);
    }

    /// Something came, or the end: read it for whoever waits, if he would do so himself, and wake him.
    fn has_come(&self) {
        self.readable.set(true);
        self.has_more.set(true);
        let Some(reader) = self.reader.take() else { return };
        foresight::fetch_task(reader.data());
        self.foreseen.get().fetch();
        if self.wants_message.get() {
            turn::begin();
            if self.ahead.get().is_none() && !self.read_ahead() {
                return self.reader.set(Some(reader));
            }
        }
        reader.wake();
    }

    /// Whether there was anything, be it the end or an error.
    fn read_ahead(&self) -> bool {
        let mut buffer = Buffer::small();
        let room = buffer.room();
        // SAFETY: the socket is open while its place in the table has this state.
        match recv(unsafe { BorrowedFd::borrow_raw(self.fd.get()) }, &mut buffer, room) {
            // The end stays to be read.
            Ok(0) => {}
            Ok(came) => {
                self.has_more.set(came == room);
                self.ahead.set(Some(AHEAD.with_borrow_mut(|all| all.insert(buffer))));
            }
            Err(Errno::AGAIN) => {
                self.found_nothing();
                return false;
            }
            Err(error) => self.failed.set(Some(error)),
        }
        true
    }

    /// What was read ahead, if anything was; `take` says how many bytes of it are done with.
    ///
    /// # Errors
    /// Reading ahead failed.
    pub fn ahead(&self, take: impl FnOnce(&mut Buffer) -> usize) -> Option<Result<usize, Errno>> {
        let Some(key) = self.ahead.get() else { return self.failed.take().map(Err) };
        AHEAD.with_borrow_mut(|all| {
            let ahead = all.get_mut(key)?;
            let taken = take(ahead);
            if ahead.is_empty() {
                all.remove(key);
                self.ahead.set(None);
                self.readable.set(self.has_more.get() || self.ended.get());
            }
            Some(Ok(taken))
        })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(key) = self.ahead.get() {
            // A thread that is shutting down has nothing ahead any more.
            let _ = AHEAD.try_with(|all| all.borrow_mut().remove(key));
        }
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        // A thread that is shutting down has no table any more.
        let place = place_of(self.state.data.get());
        let _ = SOCKETS.try_with(|sockets| place.and_then(|place| sockets.borrow_mut().places.remove(place)));
    }
}

fn wait(ready: &Cell<bool>, waiting: &Cell<Option<Waker>>, cx: &Context<'_>) -> Poll<()> {
    if ready.get() {
        return Poll::Ready(());
    }
    let waker = waiting.take().filter(|waker| waker.will_wake(cx.waker()));
    waiting.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
    Poll::Pending
}

/// Append up to `room` bytes, which the buffer must have, of what came.
///
/// # Errors
/// Those of recv(2), but for an interruption.
pub(super) fn recv(socket: BorrowedFd<'_>, buffer: &mut Buffer, room: usize) -> Result<usize, Errno> {
    let memory = buffer.vec();
    let came = loop {
        match rustix::net::recv(socket, &mut memory.spare_capacity_mut()[..room], RecvFlags::DONTWAIT) {
            Ok(((came, _), _)) => break came.len(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    };
    // SAFETY: the kernel wrote `came` bytes behind the old length, inside the capacity.
    unsafe { memory.set_len(memory.len() + came) };
    Ok(came)
}

fn place_of(data: u64) -> Option<Key> {
    Key::new((data >> 32) as u32, (data & (Side::Upstream.bit() - 1)) as u32)
}

impl Sockets {
    fn enter(&mut self, state: Rc<State>, side: Side) -> Option<Rc<OwnedFd>> {
        let epoll = self.epoll.clone()?;
        let place = self.places.insert(state.clone());
        state.data.set(u64::from(place.generation()) << 32 | side.bit() | u64::from(place.place()));
        Some(epoll)
    }

    fn tell_all(&self, events: &[Event]) {
        for side in [Side::Upstream, Side::Client] {
            let of_this = |event: &&Event| event.data.u64() & Side::Upstream.bit() == side.bit();
            events.iter().filter(of_this).for_each(|event| self.tell(event));
        }
    }

    fn tell(&self, event: &Event) {
        let data = event.data.u64();
        let Some(state) = place_of(data).and_then(|place| self.places.get(place)) else { return };
        let flags = event.flags;
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            state.ended.set(true);
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            state.has_come();
        }
        if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            state.writable.set(true);
            state.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// Run `main`, which may have sockets, on the runtime of this thread.
///
/// # Errors
/// Out of descriptors.
pub async fn attended<T>(main: impl Future<Output = T>) -> io::Result<T> {
    let epoll = Rc::new(epoll::create(CreateFlags::CLOEXEC)?);
    let waiter = waiter(&epoll)?;
    SOCKETS.with_borrow_mut(|sockets| sockets.epoll = Some(epoll.clone()));
    let (stop, stopped) = oneshot::channel();
    let sender = monoio::spawn(posts::send_in_turns());
    let events = monoio::spawn(turns(epoll, waiter, stopped));
    let result = main.await;
    posts::end();
    sender.await;
    // A wait that outlives its runtime keeps the ring, and with it every descriptor that waits on it.
    drop(stop);
    events.await;
    SOCKETS.with_borrow_mut(|sockets| sockets.epoll = None);
    Ok(result)
}

/// All turns of a runtime.
async fn turns(epoll: Rc<OwnedFd>, waiter: TcpStream, mut stopped: oneshot::Receiver<()>) {
    let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
    let mut driven = Instant::now();
    loop {
        let mut waiting = pin!(waiter.readable(false));
        let woken = poll_fn(|cx| {
            if Pin::new(&mut stopped).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            waiting.as_mut().poll(cx).map(Some)
        });
        match woken.await {
            None => return,
            Some(Err(error)) if error.kind() != io::ErrorKind::Interrupted => {
                // A worker that hears nothing any more is replaced; it must not seem to live.
                panic!("cannot wait for sockets: {error}");
            }
            Some(_) => {}
        }
        loop {
            let is_busy = take_events(&epoll, &mut events) >= BUSY;
            let now = turn::time();
            if is_busy {
                turn::over().await;
            }
            // Messages without a pause would keep the driver from all else.
            if now.saturating_duration_since(driven) >= UNDRIVEN {
                super::others_first().await;
                driven = now;
            }
            if !is_busy {
                break;
            }
        }
    }
}

/// Tell of all that happened; how many sockets that were.
fn take_events(epoll: &OwnedFd, space: &mut [MaybeUninit<Event>; EVENTS]) -> usize {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut count = 0;
    loop {
        let Ok((taken, _)) = epoll::wait(epoll, &mut *space, Some(&NOW)) else { return count };
        count += taken.len();
        if taken.is_empty() {
            return count;
        }
        SOCKETS.with_borrow(|sockets| sockets.tell_all(taken));
        if turn::has_begun() {
            // Behind those who were told.
            posts::end_turn();
        }
        // What is left would be told of by no edge.
        if taken.len() < EVENTS {
            return count;
        }
    }
}

/// The epoll as something that monoio can wait for: of its types, this one waits for a descriptor of any kind.
fn waiter(epoll: &OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(epoll.as_fd().try_clone_to_owned()?))
}
