//! One thread of the demo server: its own runtime, its own listener.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use monoio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use super::catalog::CLOCK;
use super::connection;
use super::mcp::Server;

const BACKLOG: i32 = 4096;
/// After an accept that failed, as when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_secs(1);

/// Opens one listener a worker on the same address. Port 0 takes any free one.
pub fn listen(bind: SocketAddr, workers: usize) -> io::Result<Vec<StdTcpListener>> {
    if workers <= 1 {
        return Ok(vec![socket(bind, false)?]);
    }
    // SO_REUSEPORT alone would let a second server take half of this one's connections.
    let bind = socket(bind, false)?.local_addr()?;
    (0..workers).map(|_| socket(bind, true)).collect()
}

fn socket(bind: SocketAddr, shared: bool) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves until the process exits. `ticks`: this worker drives the clock resource.
pub fn run(listener: StdTcpListener, server: Arc<Server>, ticks: bool) -> io::Result<()> {
    block_on(async move {
        if ticks {
            monoio::spawn(tick(Arc::clone(&server)));
        }
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Fails only on a connection that is gone already.
                    let _gone = stream.set_nodelay(true);
                    monoio::spawn(contain(connection::serve(stream, Arc::clone(&server))));
                }
                Err(_) => monoio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    })?
}

/// Runs a future on a runtime of this thread's own: built elsewhere it would spin. Epoll, whose accept
/// sets FD_CLOEXEC, and which works wherever the proxy under test does.
fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build()?;
    Ok(runtime.block_on(future))
}

async fn tick(server: Arc<Server>) {
    loop {
        monoio::time::sleep(TICK).await;
        server.catalog.tick();
        server.hub.updated(CLOCK);
    }
}

/// A panic ends its connection only.
async fn contain(connection: impl Future<Output = ()>) {
    let mut connection = pin!(connection);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(context)));
        polled.unwrap_or(Poll::Ready(()))
    })
    .await;
}
