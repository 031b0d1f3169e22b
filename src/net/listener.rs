//! Listening sockets: one a worker on the same address (SO_REUSEPORT), or one that was passed and that all workers share.

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

/// A socket that whoever started us opened.
#[derive(Debug)]
pub struct Passed {
    pub socket: Socket,
    /// Its descriptor, for messages.
    pub number: i32,
    /// What the one who passed it calls it.
    pub name: String,
}

/// What was passed is not what the configuration asks for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(String);

/// `count` listeners that share the queue of the one socket that was passed.
///
/// # Errors
/// There are several, it is no TCP socket that listens, or it listens elsewhere than on `address`.
pub fn adopt(passed: Vec<Passed>, address: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<StdListener>), Unfit> {
    let [one] = <[Passed; 1]>::try_from(passed).map_err(|passed| {
        let names: Vec<String> = passed.iter().map(Passed::to_string).collect();
        Unfit(format!("{} sockets were passed, and one is of use: {}", passed.len(), names.join(", ")))
    })?;
    let found = one.listens_on()?;
    if !covers(found, one.socket.only_v6().unwrap_or(false), address) {
        let text = format!("{one} listens on {found}, and proxy.bind is {address}; make them the same");
        return Err(Unfit(text));
    }
    let copies = || {
        prepare(&one.socket)?;
        (0..count).map(|_| one.socket.try_clone().map(StdListener::from)).collect::<io::Result<_>>()
    };
    let listeners = copies().map_err(|error| Unfit(format!("{one}: {error}")))?;
    Ok((found, listeners))
}

impl Passed {
    fn listens_on(&self) -> Result<SocketAddr, Unfit> {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        let listens = self.socket.is_listener().unwrap_or(false);
        let is_stream = self.socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
        address.filter(|_| listens && is_stream).ok_or_else(|| {
            Unfit(format!(
                "{self} is no TCP socket that listens: a socket unit needs ListenStream=ADDRESS:PORT and Accept=no"
            ))
        })
    }
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the passed socket {} ({})", self.number, self.name)
    }
}

/// Whether a socket on `found` hears all that is sent to `wanted`.
fn covers(found: SocketAddr, only_v6: bool, wanted: SocketAddr) -> bool {
    let everywhere = found.ip().is_unspecified() && wanted.ip().is_unspecified();
    // `[::]` hears IPv4 as well, unless it was told not to.
    let address = found.ip() == wanted.ip() || (everywhere && found.is_ipv6() && !only_v6);
    address && (found.port() == wanted.port() || wanted.port() == 0)
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
    prepare(&socket)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// What connections inherit: the kernel asks a silent client whether it is still there (net.ipv4.tcp_keepalive_time), since
/// one that lost its power ends no event stream.
fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_keepalive(true)
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

    /// Of the listeners on its address, be the one for connections whose packets arrive on this CPU. Before Linux 6.2 the
    /// kernel's hash alone decides.
    pub fn serve_cpu(&self, cpu: u32) {
        let _ = rustix::net::sockopt::set_socket_incoming_cpu(&self.queue, cpu);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_socket_hears_what_the_configuration_names() {
        let covers =
            |found: &str, only_v6, wanted: &str| covers(found.parse().unwrap(), only_v6, wanted.parse().unwrap());
        for same in ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "[::]:80"] {
            assert!(covers(same, true, same), "{same}");
        }
        assert!(covers("127.0.0.1:4000", false, "127.0.0.1:0"));
        assert!(covers("[::]:80", false, "0.0.0.0:80"));
        assert!(!covers("[::]:80", true, "0.0.0.0:80"));
        assert!(!covers("0.0.0.0:80", false, "[::]:80"));
        assert!(!covers("0.0.0.0:80", false, "127.0.0.1:80"));
        assert!(!covers("127.0.0.1:80", false, "0.0.0.0:80"));
        assert!(!covers("127.0.0.1:80", false, "127.0.0.1:81"));
    }
}
