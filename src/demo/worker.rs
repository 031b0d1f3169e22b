//! One thread of the demo server: its own runtime, its own listener.

use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::catalog::CLOCK;
use super::connection;
use super::mcp::Server;
use crate::net::driver::{self, Choice};
use crate::net::listener::Listener;
use crate::net::{Stream, sleep, spawn};

/// After an accept that failed, as when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections accepted at a go before those that are there get their turn.
const ACCEPTS_MAX: usize = 64;
const TICK: Duration = Duration::from_secs(1);

/// Serves until the process exits. `ticks`: this worker drives the clock resource.
pub fn run(listener: TcpListener, server: Arc<Server>, choice: Choice, ticks: bool) -> io::Result<()> {
    driver::run(choice, move |_| async move {
        if ticks {
            spawn(tick(Arc::clone(&server)));
        }
        let listener = Listener::adopt(&listener)?;
        loop {
            listener.ready().await?;
            if accept(&listener, &server).is_err() {
                sleep(ACCEPT_PAUSE).await;
            }
        }
    })?
}

fn accept(listener: &Listener, server: &Arc<Server>) -> io::Result<()> {
    for _ in 0..ACCEPTS_MAX {
        let Some((stream, _)) = listener.accept()? else { break };
        spawn(contain(connection::serve(Stream::adopt(stream)?, Arc::clone(server))));
    }
    Ok(())
}

async fn tick(server: Arc<Server>) {
    loop {
        sleep(TICK).await;
        server.catalog.tick();
        server.hub.updated(CLOCK);
    }
}

/// A panic ends its connection only.
fn contain(connection: impl Future<Output = ()>) -> impl Future<Output = ()> {
    // Boxed, because an async block would hold it twice: as what it was given and as what it pinned.
    let mut connection = Box::pin(connection);
    poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(context)));
        polled.unwrap_or(Poll::Ready(()))
    })
}
