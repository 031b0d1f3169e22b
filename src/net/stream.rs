//! One connection, plain or TLS, as the data plane sees it.

use std::cell::UnsafeCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;
use rustix::net::RecvFlags;

use super::Buffer;

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
    Plain(TcpStream),
    Tls(Box<monoio_rustls::ClientTlsStream<TcpStream>>),
}

/// At most one read and one write are under way at a time; both may be, from two futures of one task.
pub struct Stream {
    io: UnsafeCell<Io>,
    fd: RawFd,
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream) -> Stream {
        let fd = tcp.as_raw_fd();
        Stream { io: UnsafeCell::new(Io::Plain(tcp)), fd }
    }

    pub(super) fn tls(fd: RawFd, tls: monoio_rustls::ClientTlsStream<TcpStream>) -> Stream {
        Stream { io: UnsafeCell::new(Io::Tls(Box::new(tls))), fd }
    }

    /// A connection to one address. Never resolves a name: that would block the worker.
    pub async fn connect(address: SocketAddr) -> io::Result<Stream> {
        let tcp = TcpStream::connect_addr(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Stream::plain(tcp))
    }

    /// An accepted connection.
    pub fn adopt(stream: std::net::TcpStream) -> io::Result<Stream> {
        stream.set_nonblocking(true)?;
        Ok(Stream::plain(TcpStream::from_std(stream)?))
    }

    pub(super) fn into_tcp(self) -> TcpStream {
        match self.io.into_inner() {
            Io::Plain(tcp) => tcp,
            Io::Tls(_) => unreachable!("TLS is put over a plain connection only"),
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
    /// Over TLS this is ready at once: readiness of the socket says nothing about plaintext that is already decoded.
    pub async fn readable(&self) -> io::Result<()> {
        match self.io() {
            Io::Plain(tcp) => tcp.readable(false).await,
            Io::Tls(_) => Ok(()),
        }
    }

    /// Append to `buffer` what arrives; 0 bytes at the end of input. Dropped only if the connection closes.
    pub async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        debug_assert!(buffer.room() > 0, "a read without room looks like the end of input");
        match self.io() {
            Io::Plain(tcp) => tcp.read(buffer).await,
            Io::Tls(tls) => tls.read(buffer).await,
        }
    }

    /// Send all of `buffer`, which comes back as it went in, so that it can be sent once more elsewhere.
    pub async fn write_all(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        let mut rest = Sent { buffer, at: 0 };
        while rest.at < rest.buffer.len() {
            let (result, back) = match self.io() {
                Io::Plain(tcp) => tcp.write(rest).await,
                Io::Tls(tls) => tls.write(rest).await,
            };
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

    /// Look whether the peer sent something or left; takes nothing and does not wait.
    pub fn probe(&self) -> Probe {
        let mut byte = [0u8; 1];
        // SAFETY: the descriptor belongs to `self.io`, which lives as long as this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        match rustix::net::recv(fd, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => Probe::Ended,
            Ok(_) => Probe::Bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Probe::Quiet,
            Err(_) => Probe::Ended,
        }
    }

    /// No more will be sent.
    pub async fn shutdown(&self) {
        let _ = match self.io() {
            Io::Plain(tcp) => tcp.shutdown().await,
            Io::Tls(tls) => tls.shutdown().await,
        };
    }

    /// Close so that the peer sees a reset: what it has got is not all.
    pub fn reset(&self) {
        // SAFETY: the descriptor belongs to `self.io`, which lives as long as this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let _ = rustix::net::sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
    }

    /// The descriptor, for [`wake_reader`].
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.io(), Io::Tls(_))
    }
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
unsafe impl monoio::buf::IoBuf for Sent {
    fn read_ptr(&self) -> *const u8 {
        self.buffer.bytes()[self.at..].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.buffer.len() - self.at
    }
}
