//! A TCP connection: waits for what [`ready`](super::ready) tells, and reads and writes by system calls.
//!
//! A wait owns no buffer, and what is read was there, so a wait or a read may be dropped at any time without losing a byte.
//! Small messages are [posted](Socket::post): those of a turn of the loop leave together at its end.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::task::{Context, Poll};

use monoio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::posts::{self, Mail};
use super::ready::{self, Readiness, Side};
use super::{Buffer, Foresight};

/// At most one read and one write are under way at a time; both may be, from two futures of one task.
pub struct Socket {
    // Before the connection, so that no event of a later descriptor of the same number is taken for one of it.
    ready: Readiness,
    stream: StdStream,
}

impl Socket {
    /// A connection that was made.
    pub fn adopt(stream: StdStream) -> io::Result<Socket> {
        Socket::enter(stream, Side::Client)
    }

    fn enter(stream: StdStream, side: Side) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        let ready = Readiness::of(stream.as_fd(), side)?;
        Ok(Socket { ready, stream })
    }

    /// A connection to one address.
    pub async fn connect(address: SocketAddr) -> io::Result<Socket> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = StdStream::from(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?);
        rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        let made = match rustix::net::connect(&socket, &address) {
            Err(Errno::INPROGRESS | Errno::INTR) => false,
            done => done.map(|()| true)?,
        };
        let socket = Socket::enter(socket, Side::Upstream)?;
        if !made {
            socket.ready.writable(socket.fd()).await?;
            rustix::net::sockopt::socket_error(socket.fd())??;
        }
        Ok(socket)
    }

    /// Wait until a read would not block.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.ready.poll_readable(cx)
    }

    /// The same where a message is read next, into a buffer that is small or without memory: it may be read ahead.
    pub fn poll_message(&self, cx: &Context<'_>) -> Poll<()> {
        self.ready.poll_message(cx)
    }

    /// Whether nothing came that was not read, as far as is known.
    pub fn is_quiet(&self) -> bool {
        !self.ready.is_readable()
    }

    /// Append to `buffer` what came; 0 at the end of input. A buffer without memory becomes a small one. Does not wait.
    ///
    /// # Errors
    /// `WouldBlock` if nothing came yet.
    pub fn recv(&self, buffer: &mut Buffer) -> io::Result<usize> {
        if let Some(taken) = self.ready.state().ahead(|ahead| ahead.move_to(buffer)) {
            return Ok(taken?);
        }
        if buffer.has_no_memory() {
            *buffer = Buffer::small();
        }
        let room = buffer.read_room();
        let came = match ready::recv(self.fd(), buffer, room) {
            Ok(came) => came,
            Err(error) => {
                self.look_at(error);
                return Err(error.into());
            }
        };
        if came < room {
            self.ready.state().emptied();
        } else {
            // Filled to the brim: there may be more, or nothing. What is believed must be true, or a wait that ends at once
            // is waited for again and again.
            let _ = self.peek(&mut [0]);
        }
        Ok(came)
    }

    /// Look at what came without taking it; 0 at the end of input. Does not wait.
    ///
    /// # Errors
    /// As [`recv`](Socket::recv).
    pub fn peek(&self, space: &mut [u8]) -> io::Result<usize> {
        let seen = self.ready.state().ahead(|ahead| {
            let seen = ahead.len().min(space.len());
            space[..seen].copy_from_slice(&ahead.bytes()[..seen]);
            seen
        });
        if let Some(seen) = seen {
            return Ok(seen?);
        }
        match rustix::net::recv(self.fd(), space, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((came, _)) => Ok(came),
            Err(error) => {
                self.look_at(error);
                Err(error.into())
            }
        }
    }

    fn look_at(&self, error: Errno) {
        if error == Errno::AGAIN {
            self.ready.state().found_nothing();
        }
    }

    /// Take bytes that [`peek`](Socket::peek) has shown.
    pub fn take_peeked(&self, space: &mut [u8]) -> io::Result<()> {
        let ahead = self.ready.state().ahead(|ahead| {
            let taken = ahead.len().min(space.len());
            space[..taken].copy_from_slice(&ahead.bytes()[..taken]);
            ahead.consume(taken);
            taken
        });
        let taken = match ahead {
            Some(taken) => taken?,
            None => rustix::net::recv(self.fd(), &mut *space, RecvFlags::DONTWAIT)?.0,
        };
        let _ = self.peek(&mut [0]);
        if taken == space.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Append to `buffer` what arrives; 0 bytes at the end of input. `message`: see [`poll_message`](Socket::poll_message).
    pub fn poll_read(&self, message: bool, buffer: &mut Buffer, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            match if message { self.poll_message(cx) } else { self.poll_readable(cx) } {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => {}
            }
            match self.recv(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Send as much of `bytes` as there is room for now; how much that was.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(self.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }

    /// Send `buffer` at the end of this turn of the loop; whether that went well, a later read or write finds out.
    ///
    /// # Errors
    /// The buffer: what was posted before has not left, so that this has to be waited for ([`write_all`](Socket::write_all)).
    pub fn post(&self, buffer: Buffer) -> Result<(), Buffer> {
        let state = self.ready.state();
        if self.has_mail() {
            return Err(buffer);
        }
        posts::leave(state, self.fd().as_raw_fd(), buffer);
        Ok(())
    }

    /// See [`Foresight`].
    pub fn foresight(&self) -> Foresight {
        Foresight::of(self.ready.state())
    }

    /// What was posted cannot be sent: neither can anything behind it.
    pub fn lose(&self) {
        self.ready.state().mail.set(Mail::Lost);
    }

    /// Whether what was posted waits for room.
    pub fn is_stuck(&self) -> bool {
        self.ready.state().mail.get() == Mail::Stuck
    }

    /// Whether something was posted that has not left, or never will.
    pub fn has_mail(&self) -> bool {
        self.ready.state().mail.get() != Mail::None
    }

    /// The same, after an attempt to send it.
    pub fn has_unsent_mail(&self) -> bool {
        if self.ready.state().mail.get() == Mail::Queued {
            posts::send_all();
        }
        self.has_mail()
    }

    /// Wait until what was posted has left.
    pub async fn sent(&self) {
        if self.has_mail() {
            posts::sent(self.ready.state()).await;
        }
    }

    /// What was posted leaves now, as far as there is room; the rest is lost.
    pub fn settle(&self) {
        posts::settle(self.ready.state());
    }

    /// Send all of `buffer`, which comes back as it went in. Dropped only if the connection closes.
    pub async fn write_all(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        self.sent().await;
        if self.has_mail() {
            // What was to go before it is lost.
            return (Err(io::ErrorKind::BrokenPipe.into()), buffer);
        }
        let mut at = 0;
        while at < buffer.len() {
            match self.send(&buffer.bytes()[at..]) {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(n) => at += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.ready.writable(self.fd()).await {
                        return (Err(error), buffer);
                    }
                }
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// No more will be sent.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(self.fd(), rustix::net::Shutdown::Write);
    }

    /// For monoio's own I/O.
    pub fn into_tcp(self) -> io::Result<TcpStream> {
        self.settle();
        let Socket { ready, stream } = self;
        ready.forget(stream.as_fd())?;
        TcpStream::from_std(stream)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
