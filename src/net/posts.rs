//! Sends that nobody waits for: left while the tasks of a turn run, made together when they have.
//!
//! A send of its own in the middle of a task is a system call that pushes the task's code out of the cache, or an operation
//! of the ring that wakes the task once more. Nearly every message fits into the socket's buffer, so there is nothing to wait
//! for (`docs/adr/0014-readiness-of-our-own.md`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Buffer;
use super::ready::State;
use super::turn;

thread_local! {
    static QUEUE: Queue = const {
        Queue {
            posts: RefCell::new(Vec::new()),
            spare: Cell::new(Vec::new()),
            sender: Cell::new(None),
            ring: RefCell::new(None),
            has_ended: Cell::new(false),
        }
    };
}

/// Sends that one system call takes.
const RING_ENTRIES: u32 = 256;

/// What is to be sent in this turn by this thread.
struct Queue {
    posts: RefCell<Vec<Post>>,
    /// The memory of the queue of the turn before.
    spare: Cell<Vec<Post>>,
    /// The task that sends, if it sleeps.
    sender: Cell<Option<Waker>>,
    /// There where the driver is one too.
    ring: RefCell<Option<IoUring>>,
    /// The runtime is over: nobody can wait for room any more.
    has_ended: Cell<bool>,
}

struct Post {
    socket: Rc<State>,
    /// Open for as long as the socket's mail says that something is posted.
    fd: RawFd,
    buffer: Buffer,
    /// What came of it.
    sent: Cell<Result<usize, Errno>>,
}

/// What was posted on a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mail {
    #[default]
    None,
    /// It leaves at the end of the turn.
    Queued,
    /// The socket took a part of it only; a task sends the rest when there is room.
    Stuck,
    /// It could not be sent, or the socket was closed over it: nothing goes out behind the hole.
    Lost,
}

/// Send `buffer` at the end of this turn. The socket must have no mail.
pub fn leave(socket: &Rc<State>, fd: RawFd, buffer: Buffer) {
    debug_assert_eq!(socket.mail.get(), Mail::None, "one post of a socket at a time");
    socket.mail.set(Mail::Queued);
    let _ = QUEUE.try_with(|queue| {
        queue.posts.borrow_mut().push(Post { socket: socket.clone(), fd, buffer, sent: Cell::new(Ok(0)) });
        // Behind all tasks that are already to run.
        queue.sender.take().into_iter().for_each(Waker::wake);
    });
}

/// Send all that was posted, now: in one system call where this thread has a ring.
pub fn send_all() {
    // A thread that is shutting down has no queue any more.
    let _ = QUEUE.try_with(|queue| {
        let mut posts = queue.posts.replace(queue.spare.take());
        // Whoever is woken meanwhile runs later, so nobody else has the ring now.
        match queue.ring.borrow_mut().as_mut().filter(|_| posts.len() > 1) {
            Some(ring) => posts.chunks(RING_ENTRIES as usize).for_each(|some| submit(ring, some)),
            None => posts.iter().for_each(|post| post.sent.set(send(post.fd, post.buffer.bytes()))),
        }
        posts.drain(..).for_each(Post::conclude);
        queue.spare.set(posts);
    });
}

/// Send these, each as by `send` with MSG_DONTWAIT: when the call returns, all are done.
fn submit(ring: &mut IoUring, posts: &[Post]) {
    const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    for (index, post) in posts.iter().enumerate() {
        let (start, length) = (post.buffer.bytes().as_ptr(), post.buffer.len() as u32);
        let entry = opcode::Send::new(types::Fd(post.fd), start, length).flags(FLAGS).build().user_data(index as u64);
        // SAFETY: the buffer lives in `posts` until its completion is taken below, and the descriptor is open.
        unsafe { ring.submission().push(&entry) }.expect("as many entries as posts");
    }
    let mut left = posts.len();
    while left > 0 {
        match ring.submit_and_wait(left) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            // Out of memory for the moment, or completions to be taken first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {}
            Err(error) => {
                // Buffers may be the kernel's still, and a panic would be contained: nothing can go on from here.
                eprintln!("shadowcat: the ring that sends is broken: {error}");
                std::process::abort();
            }
        }
        for completion in ring.completion() {
            let result = completion.result();
            let sent = usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
            posts[completion.user_data() as usize].sent.set(sent);
            left -= 1;
        }
    }
}

/// Before the socket is closed or half closed by whoever does not wait: what was posted leaves, as far as there is room.
pub fn settle(socket: &State) {
    if socket.mail.get() == Mail::Queued {
        send_all();
    }
    if socket.mail.get() == Mail::Stuck {
        socket.mail.set(Mail::Lost);
        // The wait for room ends, since no event will end it.
        socket.writable.set(true);
        socket.writer.take().into_iter().for_each(Waker::wake);
    }
}

/// Wait until what was posted on this socket has left.
pub async fn sent(socket: &State) {
    if socket.mail.get() == Mail::Queued {
        send_all();
    }
    poll_fn(|cx| {
        if socket.mail.get() != Mail::Stuck {
            return Poll::Ready(());
        }
        socket.mailing.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// Let what this thread posts leave through a ring of its own: monoio's makes an operation and a wake-up of each send.
///
/// # Errors
/// The kernel's limits; then each leaves by its own call.
pub fn use_ring(builder: io_uring::Builder) -> io::Result<()> {
    let ring = builder.build(RING_ENTRIES)?;
    QUEUE.with(|queue| queue.ring.replace(Some(ring)));
    Ok(())
}

/// Send at the end of each turn, until [`end`].
pub async fn send_in_turns() {
    QUEUE.with(|queue| queue.has_ended.set(false));
    poll_fn(|cx| {
        send_all();
        turn::end();
        QUEUE.with(|queue| {
            if queue.has_ended.get() {
                return Poll::Ready(());
            }
            queue.sender.set(Some(cx.waker().clone()));
            Poll::Pending
        })
    })
    .await;
}

/// Let the turn end when all tasks have run that are to run now; where nobody sends any more, now.
pub fn end_turn() {
    QUEUE.with(|queue| match queue.sender.take() {
        Some(sender) => sender.wake(),
        None if queue.has_ended.get() => turn::end(),
        None => {}
    });
}

/// The ring goes with the runtime.
pub fn end() {
    QUEUE.with(|queue| queue.has_ended.set(true));
    send_all();
    QUEUE.with(|queue| queue.ring.take());
    end_turn();
}

impl Post {
    fn conclude(mut self) {
        match self.sent.get() {
            Ok(sent) if sent == self.buffer.len() => self.socket.mail.set(Mail::None),
            Ok(sent) => {
                self.buffer.consume(sent);
                self.stuck();
            }
            Err(Errno::AGAIN | Errno::INTR) => self.stuck(),
            // Whoever writes next is told.
            Err(_) => self.socket.mail.set(Mail::Lost),
        }
    }

    fn stuck(self) {
        let can_wait = QUEUE.try_with(|queue| !queue.has_ended.get()).unwrap_or(false);
        self.socket.mail.set(if can_wait { Mail::Stuck } else { Mail::Lost });
        if can_wait {
            // Who rests on this connection has to see that it is not done.
            self.socket.reader.take().into_iter().for_each(Waker::wake);
            super::spawn(self.send_rest());
        }
    }

    async fn send_rest(self) {
        let Post { socket, fd, mut buffer, .. } = self;
        while socket.mail.get() == Mail::Stuck {
            match send(fd, buffer.bytes()) {
                Ok(sent) => buffer.consume(sent),
                Err(Errno::AGAIN) => {
                    // SAFETY: the descriptor is open while the mail is stuck: `settle` comes before the end of the socket.
                    if socket.has_room(unsafe { BorrowedFd::borrow_raw(fd) }).await.is_err() {
                        socket.mail.set(Mail::Lost);
                    }
                }
                Err(_) => socket.mail.set(Mail::Lost),
            }
            if buffer.is_empty() {
                socket.mail.set(Mail::None);
            }
        }
        socket.mailing.take().into_iter().for_each(Waker::wake);
    }
}

fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: as above.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
