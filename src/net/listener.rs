//! Listening sockets: one a worker on the same address (SO_REUSEPORT).

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::AsFd;

use monoio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use super::Stream;

/// Connections that wait to be accepted, a socket; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// `count` listeners on one address.
///
/// Binds once without SO_REUSEPORT first, so that a second server on the port is refused with `AddrInUse` in place of
/// silently taking half of the connections.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    let probe = socket(address)?;
    probe.bind(&address.into())?;
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
    inner: TcpListener,
}

impl Listener {
    /// Takes over a duplicate of `listener`, so that a restarted worker finds the same queue.
    pub fn adopt(listener: &StdListener) -> io::Result<Listener> {
        Ok(Listener { inner: TcpListener::from_std(listener.try_clone()?)? })
    }

    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (tcp, peer) = self.inner.accept().await?;
        let _ = tcp.set_nodelay(true);
        Ok((Stream::plain(tcp), peer))
    }
}

/// What is already in the accept queue, without waiting: for the drain before a listener closes.
pub fn accept_now(listener: &StdListener) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
    let fd = rustix::net::accept_with(listener.as_fd(), flags)?;
    let stream = std::net::TcpStream::from(fd);
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    Ok((stream, peer))
}
