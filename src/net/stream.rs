//! One connection, plain or TLS, as the data plane sees it.

use std::cell::UnsafeCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;
use rustix::net::RecvFlags;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

use super::secured::Secured;
use super::socket::Socket;
use super::{Buffer, Foresight};

/// What a look at a connection without taking anything shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Open, and nothing to read.
    Quiet,
    /// Bytes wait to be read.
    Bytes,
    /// End of input, or an error.
    Ended,
}

enum Io {
    Plain(Socket),
    Tls(Box<Tls>),
    Secured(Box<Secured>),
    /// Given away.
    Gone,
}

/// TLS to an upstream.
struct Tls {
    stream: Rc<UnsafeCell<monoio_rustls::ClientTlsStream<TcpStream>>>,
    /// The next read, of a connection that was put aside.
    ahead: Option<Ahead>,
}

/// A read that was started before anybody waited for it.
struct Ahead {
    read: Pin<Box<dyn Future<Output = (io::Result<usize>, Buffer)>>>,
    done: Option<(io::Result<usize>, Buffer)>,
}

/// At most one read and one write are under way at a time; both may be, from two futures of one task.
pub struct Stream {
    io: UnsafeCell<Io>,
    fd: RawFd,
}

impl Stream {
    fn plain(socket: Socket) -> Stream {
        let fd = socket.fd().as_raw_fd();
        Stream { io: UnsafeCell::new(Io::Plain(socket)), fd }
    }

    pub(super) fn tls(fd: RawFd, tls: monoio_rustls::ClientTlsStream<TcpStream>) -> Stream {
        Stream {
            io: UnsafeCell::new(Io::Tls(Box::new(Tls { stream: Rc::new(UnsafeCell::new(tls)), ahead: None }))),
            fd,
        }
    }

    /// A connection to one address. Never resolves a name: that would block the worker.
    pub async fn connect(address: SocketAddr) -> io::Result<Stream> {
        Ok(Stream::plain(Socket::connect(address).await?))
    }

    /// The same connection, secured; whether the session was resumed.
    ///
    /// # Errors
    /// The handshake failed; the client was told why.
    pub async fn secure(self, config: Arc<ServerConfig>) -> io::Result<(Stream, bool)> {
        let fd = self.fd;
        let secured = Box::new(Secured::new(self.into_socket()?, config)?);
        let stream = Stream { io: UnsafeCell::new(Io::Secured(secured)), fd };
        let Io::Secured(secured) = stream.io() else { return Err(gone()) };
        let resumed = secured.handshake().await?;
        Ok((stream, resumed))
    }

    /// What a client showed of itself in the handshake; it was verified.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        match self.io() {
            Io::Secured(secured) => secured.peer_certificate(),
            _ => None,
        }
    }

    /// An accepted connection.
    pub fn adopt(stream: std::net::TcpStream) -> io::Result<Stream> {
        Ok(Stream::plain(Socket::adopt(stream)?))
    }

    /// One end of a pair of sockets of this machine: nothing that is done with it asks for addresses.
    pub fn adopt_local(stream: std::os::unix::net::UnixStream) -> io::Result<Stream> {
        Stream::adopt(std::os::fd::OwnedFd::from(stream).into())
    }

    /// To put TLS over it.
    pub(super) fn into_socket(mut self) -> io::Result<Socket> {
        match std::mem::replace(self.io.get_mut(), Io::Gone) {
            Io::Plain(socket) => Ok(socket),
            Io::Tls(_) | Io::Secured(_) | Io::Gone => Err(gone()),
        }
    }

    #[expect(clippy::mut_from_ref, reason = "monoio's own halves do the same; see the contract of the type")]
    fn io(&self) -> &mut Io {
        // SAFETY: the type is !Sync, so all users are on one thread; a read and a write use disjoint state of the
        // stream (monoio declares both stream types `Split`), and there is at most one of each by the type's contract.
        unsafe { &mut *self.io.get() }
    }

    /// Wait until a read would not block, without owning a buffer. May be dropped at any time.
    ///
    /// Over TLS to an upstream this is ready at once: readiness of the socket says nothing about plaintext that is already
    /// decoded.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// The same for who polls by himself.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.io() {
            Io::Plain(socket) => socket.poll_readable(cx).map(Ok),
            Io::Tls(_) => Poll::Ready(Ok(())),
            Io::Secured(secured) => secured.poll_readable(cx),
            Io::Gone => Poll::Ready(Err(gone())),
        }
    }

    /// The same where a message is read next, into a buffer without memory of its own: it may be read ahead.
    pub async fn message(&self) -> io::Result<()> {
        poll_fn(|cx| match self.io() {
            Io::Plain(socket) => socket.poll_message(cx).map(Ok),
            _ => self.poll_readable(cx),
        })
        .await
    }

    /// Append to `buffer` what came; 0 bytes at the end of input. Not over TLS.
    ///
    /// # Errors
    /// `WouldBlock` if nothing did.
    pub fn recv(&self, buffer: &mut Buffer) -> io::Result<usize> {
        match self.io() {
            Io::Plain(socket) => socket.recv(buffer),
            _ => Err(gone()),
        }
    }

    /// Append to `buffer` what arrives; 0 bytes at the end of input. A buffer without memory becomes a small one. Over TLS to
    /// an upstream it is dropped only if the connection closes.
    pub fn read(&self, buffer: Buffer) -> impl Future<Output = (io::Result<usize>, Buffer)> {
        self.read_in(false, buffer)
    }

    /// The same of a message, or of the rest of one of which `buffer` has the beginning: it may be read ahead.
    pub fn read_message(&self, buffer: Buffer) -> impl Future<Output = (io::Result<usize>, Buffer)> {
        self.read_in(true, buffer)
    }

    // No `async fn`: that would hold the buffer twice. What only TLS to an upstream needs is in a box, so that it is carried
    // around by nobody else.
    fn read_in(&self, message: bool, mut buffer: Buffer) -> impl Future<Output = (io::Result<usize>, Buffer)> {
        if buffer.has_no_memory() && !matches!(self.io(), Io::Plain(_)) {
            buffer = Buffer::small();
        }
        debug_assert!(buffer.room() > 0 || buffer.has_no_memory(), "a read without room looks like the end of input");
        async move {
            if let Io::Tls(tls) = self.io() {
                return Box::pin(tls.read(buffer)).await;
            }
            let came = poll_fn(|cx| match self.io() {
                Io::Plain(socket) => socket.poll_read(message, &mut buffer, cx),
                Io::Secured(secured) => secured.poll_read(&mut buffer, cx),
                Io::Tls(_) | Io::Gone => Poll::Ready(Err(gone())),
            });
            (came.await, buffer)
        }
    }

    /// Send all of `buffer`, which comes back as it went in, so that it can be sent once more elsewhere.
    pub async fn write_all(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        match self.io() {
            Io::Plain(socket) => socket.write_all(buffer).await,
            Io::Tls(tls) => Box::pin(tls.write_all(buffer)).await,
            Io::Secured(secured) => (secured.write_all(&buffer).await, buffer),
            Io::Gone => (Err(gone()), buffer),
        }
    }

    /// Send what there is room for now; how much that was, none where it has to be waited for
    /// ([`write_all`](Stream::write_all)).
    pub fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.io() {
            Io::Plain(socket) if !socket.has_mail() => match socket.send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                done => done,
            },
            _ => Ok(0),
        }
    }

    /// Send `buffer` at the end of this turn of the loop, and wait for nothing: what comes of it a later read or write finds
    /// out.
    ///
    /// # Errors
    /// The buffer, where it has to be waited for ([`write_all`](Stream::write_all)): what was posted before has not left, or the
    /// stream cannot do so.
    pub fn post(&self, buffer: Buffer) -> Result<(), Buffer> {
        match self.io() {
            Io::Plain(socket) => socket.post(buffer),
            Io::Secured(secured) => secured.post(buffer),
            Io::Tls(_) | Io::Gone => Err(buffer),
        }
    }

    /// Wait until what was posted has left; whether it has.
    pub async fn sent(&self) -> bool {
        match self.socket() {
            Some(socket) => {
                socket.sent().await;
                !socket.has_mail()
            }
            None => true,
        }
    }

    /// To say what will be needed when something comes.
    pub fn foresight(&self) -> Option<Foresight> {
        self.socket().map(Socket::foresight)
    }

    /// Whether what was posted waits for room.
    pub fn is_stuck(&self) -> bool {
        self.socket().is_some_and(Socket::is_stuck)
    }

    /// Whether something was posted that has not left, or never will.
    pub fn has_mail(&self) -> bool {
        self.socket().is_some_and(Socket::has_mail)
    }

    /// What posts leave through.
    fn socket(&self) -> Option<&Socket> {
        match self.io() {
            Io::Plain(socket) => Some(socket),
            Io::Secured(secured) => Some(secured.socket()),
            Io::Tls(_) | Io::Gone => None,
        }
    }

    fn settle(&self) {
        self.socket().into_iter().for_each(Socket::settle);
    }

    /// Put a connection aside. Over TLS the next read begins now: what a server sends behind its answer (session tickets) is
    /// taken in, and does not look like bytes that nobody asked for.
    pub fn put_aside(&self) {
        let Io::Tls(tls) = self.io() else { return };
        let stream = tls.stream.clone();
        // SAFETY: as of `Tls::stream`.
        let read = Box::pin(async move { unsafe { &mut *stream.get() }.read(Buffer::small()).await });
        tls.ahead = Some(Ahead { read, done: None });
        self.is_quiet();
    }

    /// Whether nothing came on a connection that was put aside: neither bytes, nor the end, nor an error.
    pub fn is_quiet(&self) -> bool {
        match self.io() {
            // What is not known to be quiet may still be so: a read that was filled to the brim does not know.
            Io::Plain(socket) if socket.is_quiet() => true,
            Io::Tls(tls) => tls.ahead.as_mut().is_some_and(Ahead::is_quiet),
            _ => self.probe() == Probe::Quiet,
        }
    }

    /// Look whether the peer sent something or left; takes nothing and does not wait.
    pub fn probe(&self) -> Probe {
        let mut byte = [0u8; 1];
        let came = match self.io() {
            Io::Secured(secured) => return secured.probe(),
            Io::Plain(socket) => socket.peek(&mut byte),
            Io::Tls(_) | Io::Gone => {
                rustix::net::recv(self.borrowed(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)
                    .map(|(came, _)| came)
                    .map_err(io::Error::from)
            }
        };
        match came {
            Ok(0) => Probe::Ended,
            Ok(_) => Probe::Bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Probe::Quiet
            }
            Err(_) => Probe::Ended,
        }
    }

    /// Look at what came, without taking it and without waiting; plain connections only, before anything was read.
    pub fn peek(&self, space: &mut [u8]) -> io::Result<usize> {
        match self.io() {
            Io::Plain(socket) => socket.peek(space),
            _ => Err(gone()),
        }
    }

    /// Take bytes that [`peek`](Stream::peek) has shown.
    pub fn take_peeked(&self, space: &mut [u8]) -> io::Result<()> {
        match self.io() {
            Io::Plain(socket) => socket.take_peeked(space),
            _ => Err(gone()),
        }
    }

    /// No more will be sent. What was posted leaves first, however long that takes.
    pub async fn shutdown(&self) {
        match self.io() {
            Io::Plain(socket) => {
                socket.sent().await;
                socket.shutdown();
            }
            Io::Tls(tls) => drop(tls.stream().shutdown().await),
            Io::Secured(secured) => {
                secured.close().await;
                secured.socket().sent().await;
                secured.socket().shutdown();
            }
            Io::Gone => {}
        }
    }

    /// End the connection with a reset, now: what the peer has got is not all.
    pub fn reset(&self) {
        self.settle();
        let fd = self.borrowed();
        let _ = rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO));
        // Dissolving the connection sends the reset without waiting for operations that still hold the descriptor.
        let _ = rustix::net::connect_unspec(fd);
    }

    fn borrowed(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.io`, which lives as long as this borrow.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// The descriptor, for [`wake_reader`].
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.io(), Io::Tls(_) | Io::Secured(_))
    }
}

impl Tls {
    #[expect(clippy::mut_from_ref, reason = "as of `Stream`")]
    fn stream(&self) -> &mut monoio_rustls::ClientTlsStream<TcpStream> {
        // SAFETY: a read and a write use disjoint state of the stream (monoio declares it `Split`), and there is at most one
        // of each: a read ahead is the read.
        unsafe { &mut *self.stream.get() }
    }

    async fn read(&mut self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        match self.ahead.take() {
            None => self.stream().read(buffer).await,
            Some(ahead) => {
                debug_assert!(buffer.is_empty(), "a connection that was put aside owes nothing");
                match ahead.done {
                    Some(done) => done,
                    None => ahead.read.await,
                }
            }
        }
    }

    async fn write_all(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        let mut rest = Sent { buffer, at: 0 };
        while rest.at < rest.buffer.len() {
            let (result, back) = self.stream().write(rest).await;
            rest = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), rest.buffer),
                Ok(n) => rest.at += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), rest.buffer),
            }
        }
        (Ok(()), rest.buffer)
    }
}

impl Ahead {
    fn is_quiet(&mut self) -> bool {
        if self.done.is_none()
            && let Poll::Ready(done) = self.read.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.done = Some(done);
        }
        self.done.is_none()
    }
}

/// On a ring the descriptor is closed only when no operation holds it any more, and a cancelled one may hold it for a
/// while. Shutting the connection down tells the peer now, and ends such operations.
impl Drop for Stream {
    fn drop(&mut self) {
        if !matches!(self.io.get_mut(), Io::Gone) {
            self.settle();
            let _ = rustix::net::shutdown(self.borrowed(), rustix::net::Shutdown::Both);
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// End a connection of a worker that died, as far as the peer can see.
///
/// The descriptor must be open, and a socket.
pub fn end(fd: RawFd) {
    // SAFETY: by the contract above; shutdown of a socket has no memory effects.
    let _ = rustix::net::shutdown(unsafe { BorrowedFd::borrow_raw(fd) }, rustix::net::Shutdown::Both);
}

/// Make the reader of a connection see the end of input: how a drain reaches connections that wait.
///
/// The descriptor must belong to a live [`Stream`] of this thread.
pub fn wake_reader(fd: RawFd) {
    // SAFETY: by the contract above the descriptor is open; shutdown of a socket has no memory effects.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Read);
}

/// A buffer of which the first `at` bytes have been sent.
struct Sent {
    buffer: Buffer,
    at: usize,
}

// SAFETY: a sub-range of the initialised bytes of `buffer`, whose allocation does not move.
unsafe impl IoBuf for Sent {
    fn read_ptr(&self) -> *const u8 {
        self.buffer.bytes()[self.at..].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.buffer.len() - self.at
    }
}
