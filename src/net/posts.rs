//! Sends that nobody waits for: left while the tasks of a turn run, made together when they have.
//!
//! A send of its own in the middle of a task is a system call that pushes the task's code out of the cache, or an operation
//! of the ring that wakes the task once more. Nearly every message fits into the socket's buffer, so there is nothing to wait
//! for (`docs/adr/0014-readiness-of-our-own.md`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Buffer;
use super::ready::State;

thread_local! {
    static QUEUE: Queue = const { Queue { posts: RefCell::new(Vec::new()), spare: Cell::new(Vec::new()), sender: Cell::new(None) } };
}

/// What is to be sent in this turn by this thread.
struct Queue {
    posts: RefCell<Vec<Post>>,
    /// The memory of the queue of the turn before.
    spare: Cell<Vec<Post>>,
    /// The task that sends, if it sleeps.
    sender: Cell<Option<Waker>>,
}

struct Post {
    socket: Rc<State>,
    /// Open for as long as the socket's mail says that something is posted.
    fd: RawFd,
    buffer: Buffer,
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
        queue.posts.borrow_mut().push(Post { socket: socket.clone(), fd, buffer });
        // Behind all tasks that are already to run.
        queue.sender.take().into_iter().for_each(Waker::wake);
    });
}

/// Send all that was posted, now.
pub fn send_all() {
    QUEUE.with(|queue| {
        let mut posts = queue.posts.replace(queue.spare.take());
        posts.drain(..).for_each(Post::send);
        queue.spare.set(posts);
    });
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
    fn send(mut self) {
        match send(self.fd, self.buffer.bytes()) {
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
        let Post { socket, fd, mut buffer } = self;
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
