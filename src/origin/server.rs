//! The threads of a server: each with a runtime and a listener of its own.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Service, connection};
use crate::net::driver::{self, Choice};
use crate::net::listener::{self, Listener};
use crate::net::{Stream, sleep, spawn as start};

/// After an accept that failed, as when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections accepted at a go before those that are there get their turn.
const ACCEPTS_MAX: usize = 64;

/// A server; its threads run until the process exits.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Blocks for as long as the server runs, which is until a thread cannot go on.
    pub fn join(self) {
        for thread in self.threads {
            // Why it ended has been said on stderr, by the thread or by the panic hook.
            let _ended = thread.join();
        }
    }
}

/// Starts `service` on `bind` (port 0 takes any free one) with `threads`, which are called `name`. `first` runs on the first
/// of them, before it accepts.
///
/// # Errors
/// The address cannot be bound, also when another server has it.
pub fn spawn<S: Service>(
    name: &'static str,
    bind: SocketAddr,
    threads: usize,
    choice: Choice,
    service: &Arc<S>,
    first: impl FnOnce() + Send + 'static,
) -> io::Result<Running> {
    let (address, listeners) = listener::bind(bind, threads.max(1))?;
    let mut first = Some(first);
    let threads = listeners.into_iter().enumerate().map(|(index, listener)| {
        let (service, first) = (Arc::clone(service), first.take());
        let thread = std::thread::Builder::new().name(format!("{name}-{index}"));
        thread.spawn(move || {
            if let Err(error) = run(listener, service, choice, first) {
                eprintln!("shadowcat: the {name} server, thread {index}: {error}");
            }
        })
    });
    Ok(Running { address, threads: threads.collect::<io::Result<_>>()? })
}

/// Serves until the process exits.
fn run<S: Service>(
    listener: TcpListener,
    service: Arc<S>,
    choice: Choice,
    first: Option<impl FnOnce() + 'static>,
) -> io::Result<()> {
    driver::run(choice, move |_| async move {
        first.into_iter().for_each(|first| first());
        let listener = Listener::adopt(&listener)?;
        loop {
            listener.ready().await?;
            if accept(&listener, &service).is_err() {
                sleep(ACCEPT_PAUSE).await;
            }
        }
    })?
}

fn accept<S: Service>(listener: &Listener, service: &Arc<S>) -> io::Result<()> {
    for _ in 0..ACCEPTS_MAX {
        let Some((stream, _)) = listener.accept()? else { break };
        start(contain(connection::serve(Stream::adopt(stream)?, Arc::clone(service))));
    }
    Ok(())
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
