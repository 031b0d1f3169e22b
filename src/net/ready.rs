//! Which sockets of this thread have something to read, or room to write.
//!
//! monoio can wait for a socket once; on a keep-alive connection that is an operation to arm and to complete for each
//! request. Here one epoll of the thread holds all its sockets, edge-triggered, from their first to their last day, and
//! monoio, on whichever driver, waits for that one descriptor (`docs/adr/0014-readiness-of-our-own.md`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_channel::oneshot;
use monoio::net::TcpStream;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::posts::{self, Mail};
use super::{Either, race};

/// Events that are taken at once.
const EVENTS: usize = 256;
/// What is told of every socket.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

thread_local! {
    static SOCKETS: RefCell<Sockets> = RefCell::default();
}

/// The registered sockets of a thread.
#[derive(Default)]
struct Sockets {
    /// There for as long as a runtime is.
    epoll: Option<Rc<OwnedFd>>,
    places: Vec<Place>,
    free: Vec<u32>,
}

/// A place may serve one socket after the other; events of an earlier one are told by their generation.
#[derive(Default)]
struct Place {
    generation: u32,
    state: Option<Rc<State>>,
}

/// What is known of one socket.
#[derive(Default)]
pub(super) struct State {
    /// Its place in the table.
    place: Cell<u32>,
    readable: Cell<bool>,
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
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Readiness> {
        let state: Rc<State> = Rc::default();
        let entered = SOCKETS.with_borrow_mut(|sockets| sockets.enter(state.clone()));
        let (epoll, place, generation) = entered.ok_or(io::ErrorKind::NotConnected)?;
        let readiness = Readiness { state };
        let data = EventData::new_u64(u64::from(generation) << 32 | u64::from(place));
        epoll::add(&*epoll, socket, data, READING)?;
        Ok(readiness)
    }

    /// Take the socket out: something else waits for it from now on.
    pub fn forget(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let epoll = SOCKETS.with_borrow(|sockets| sockets.epoll.clone());
        epoll.map_or(Ok(()), |epoll| Ok(epoll::delete(&*epoll, socket)?))
    }

    /// Whether bytes, the end or an error wait to be read, as far as is known. Costs no system call.
    pub fn is_readable(&self) -> bool {
        self.state.readable.get()
    }

    /// Wait for that. May be given up at any time.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        wait(&self.state.readable, &self.state.reader, cx)
    }

    /// All that there was has been read.
    pub fn emptied(&self) {
        self.state.readable.set(self.state.ended.get());
    }

    /// A read found nothing.
    pub fn found_nothing(&self) {
        self.state.readable.set(false);
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
        if !self.writing.replace(true) {
            let place = self.place.get();
            let (epoll, data) = SOCKETS.with_borrow(|sockets| {
                let generation = sockets.places[place as usize].generation;
                (sockets.epoll.clone(), u64::from(generation) << 32 | u64::from(place))
            });
            if let Some(epoll) = epoll {
                epoll::modify(&*epoll, socket, EventData::new_u64(data), READING | EventFlags::OUT)?;
            }
        }
        poll_fn(|cx| wait(&self.writable, &self.writer, cx)).await;
        Ok(())
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        // A thread that is shutting down has no table any more.
        let _ = SOCKETS.try_with(|sockets| sockets.borrow_mut().leave(self.state.place.get()));
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

impl Sockets {
    fn enter(&mut self, state: Rc<State>) -> Option<(Rc<OwnedFd>, u32, u32)> {
        let epoll = self.epoll.clone()?;
        let place = self.free.pop().unwrap_or(self.places.len() as u32);
        if place as usize == self.places.len() {
            self.places.push(Place::default());
        }
        state.place.set(place);
        let entered = &mut self.places[place as usize];
        entered.state = Some(state);
        Some((epoll, place, entered.generation))
    }

    fn leave(&mut self, place: u32) {
        let left = &mut self.places[place as usize];
        left.state = None;
        left.generation = left.generation.wrapping_add(1);
        self.free.push(place);
    }

    fn tell(&self, event: &Event) {
        let data = event.data.u64();
        let Some(place) = self.places.get(data as u32 as usize) else { return };
        let Some(state) = place.state.as_ref().filter(|_| place.generation == (data >> 32) as u32) else { return };
        let flags = event.flags;
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            state.ended.set(true);
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            state.readable.set(true);
            state.reader.take().into_iter().for_each(Waker::wake);
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
    let events = monoio::spawn(take_events(epoll, waiter, stopped));
    monoio::spawn(posts::send_each_turn());
    let result = main.await;
    posts::end();
    // A wait that outlives its runtime keeps the ring, and with it every descriptor that waits on it.
    drop(stop);
    events.await;
    SOCKETS.with_borrow_mut(|sockets| sockets.epoll = None);
    Ok(result)
}

async fn take_events(epoll: Rc<OwnedFd>, waiter: TcpStream, stopped: oneshot::Receiver<()>) {
    let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
    let mut stopped = pin!(stopped);
    while let Either::Second(woken) = race(stopped.as_mut(), pin!(waiter.readable(false))).await {
        match woken {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                // A worker that hears nothing any more is replaced; it must not seem to live.
                panic!("cannot wait for sockets: {error}");
            }
            _ => {}
        }
        loop {
            const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
            let Ok((taken, _)) = epoll::wait(&*epoll, &mut events, Some(&NOW)) else { break };
            SOCKETS.with_borrow(|sockets| taken.iter().for_each(|event| sockets.tell(event)));
            if taken.len() < EVENTS {
                break;
            }
        }
    }
}

/// The epoll as something that monoio can wait for: of its types, this one waits for a descriptor of any kind.
fn waiter(epoll: &OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(epoll.as_fd().try_clone_to_owned()?))
}
