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
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Buffer;
use super::ready::State;

thread_local! {
    static QUEUE: Queue = const {
        Queue {
            posts: RefCell::new(Vec::new()),
            spare: Cell::new(Vec::new()),
            sender: Cell::new(None),
            ring: RefCell::new(None),
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
    /// The socket was closed over it.
    Lost,
}

/// Send `buffer` at the end of this turn. The socket must have no mail.
pub fn leave(socket: &Rc<State>, fd: RawFd, buffer: Buffer) {
    debug_assert_eq!(socket.mail.get(), Mail::None, "one post of a socket at a time");
    socket.mail.set(Mail::Queued);
    QUEUE.with(|queue| {
        queue.posts.borrow_mut().push(Post { socket: socket.clone(), fd, buffer, sent: Cell::new(Ok(0)) });
        // Behind all tasks that are already to run.
        queue.sender.take().into_iter().for_each(Waker::wake);
    });
}

/// Send all that was posted, now: in one system call where this thread has a ring.
pub fn send_all() {
    QUEUE.with(|queue| {
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
            // Half of the buffers may be the kernel's: nothing can go on from here.
            Err(error) => panic!("cannot send: {error}"),
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

/// The ring goes with the runtime.
pub fn end() {
    send_all();
    QUEUE.with(|queue| queue.ring.take());
}

/// Send at the end of each turn, for as long as the runtime lives.
pub async fn send_each_turn() {
    poll_fn(|cx: &mut Context<'_>| {
        send_all();
        QUEUE.with(|queue| queue.sender.set(Some(cx.waker().clone())));
        Poll::<()>::Pending
    })
    .await;
}

impl Post {
    fn conclude(mut self) {
        match self.sent.get() {
            Ok(sent) if sent == self.buffer.len() => self.socket.mail.set(Mail::None),
            Ok(sent) => {
                self.buffer.consume(sent);
                self.stuck();
            }
            Err(Errno::AGAIN) => self.stuck(),
            // Whoever reads or writes next finds out.
            Err(_) => self.socket.mail.set(Mail::None),
        }
    }

    fn stuck(self) {
        self.socket.mail.set(Mail::Stuck);
        super::spawn(self.send_rest());
    }

    async fn send_rest(self) {
        let Post { socket, fd, mut buffer, .. } = self;
        while socket.mail.get() == Mail::Stuck {
            // SAFETY: the descriptor is open while the mail is stuck: `settle` comes before the end of the socket.
            if socket.has_room(unsafe { BorrowedFd::borrow_raw(fd) }).await.is_err() || socket.mail.get() != Mail::Stuck
            {
                break;
            }
            match send(fd, buffer.bytes()) {
                Ok(sent) => buffer.consume(sent),
                Err(Errno::AGAIN) => {}
                Err(_) => break,
            }
            if buffer.is_empty() {
                break;
            }
        }
        socket.mail.set(Mail::None);
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
