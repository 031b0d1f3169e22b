//! Listening sockets: one a worker on the same address (SO_REUSEPORT).

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream};
use std::os::fd::AsFd;

use monoio::net::TcpListener;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted, a socket; the kernel caps it at net.core.somaxconn.
pub const BACKLOG: i32 = 4096;

/// `count` listeners on one address.
///
/// Binds once without SO_REUSEPORT first, so that a second server on the port is refused with `AddrInUse` in place of
/// silently taking half of the connections.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    let probe = bind_probe(address)?;
    let address = probe.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    drop(probe);
    let listeners = (0..count)
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(StdListener::from(socket))
        })
        .collect::<io::Result<_>>()?;
    Ok((address, listeners))
}

/// A ring that was killed gives its sockets back a moment after its process is gone; a server that starts again at once
/// waits for that, and one that finds another server is told so after the same moment.
#[expect(clippy::disallowed_methods, reason = "before the first worker starts")]
fn bind_probe(address: SocketAddr) -> io::Result<Socket> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        let probe = socket(address)?;
        match probe.bind(&address.into()) {
            Ok(()) => return Ok(probe),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                std::thread::sleep(std::time::Duration::from_millis(25));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// A listener of this worker.
pub struct Listener {
    /// Duplicates of one descriptor: monoio's waits, the other accepts. Accepting through the ring would lose the
    /// connection of a cancelled accept, and would leave it without FD_CLOEXEC.
    waiter: TcpListener,
    queue: StdListener,
}

impl Listener {
    /// Takes over a duplicate of `listener`, so that a restarted worker finds the same queue.
    pub fn adopt(listener: &StdListener) -> io::Result<Listener> {
        Ok(Listener { waiter: TcpListener::from_std(listener.try_clone()?)?, queue: listener.try_clone()? })
    }

    /// Wait until somebody wants to connect. May be dropped at any time.
    pub async fn ready(&self) -> io::Result<()> {
        // Not relaxed: on epoll that would stay ready for ever, since it is not the driver that accepts.
        self.waiter.readable(false).await
    }

    /// The next connection of the queue, `None` if it is empty; does not wait.
    pub fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, peer) = match rustix::net::acceptfrom_with(self.queue.as_fd(), flags) {
            Ok(accepted) => accepted,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let peer = peer.and_then(|peer| peer.try_into().ok()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::from(fd);
        stream.set_nodelay(true)?;
        Ok(Some((stream, peer)))
    }
}
