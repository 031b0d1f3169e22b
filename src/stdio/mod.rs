//! L3: MCP servers as child processes: one that takes our place ([`forward`]), and any number whose stdin and stdout are ours
//! ([`Child`]).
//!
//! Of [`forward`] there are three processes, so that nothing is left behind however one of them ends:
//!
//! ```text
//! client --stdin--> proxy --pipe--> server (and what it starts)
//!        <-stdout--       <--pipe--   |
//!                    |                | parent
//!                    +--- signals --> guard
//! ```
//!
//! The proxy is whom the client started: a thread copies each way, the main thread passes signals to the guard and
//! leaves with its exit code. The guard is forked before there are threads. It starts the server, is told when the
//! conversation is over, keeps the clock of the stop, and takes in whatever the server leaves behind. It hears of the
//! proxy's death from the kernel; the proxy hears of the guard's as its parent. The server's stderr is the client's.
//!
//! A [`Child`] has a guard as well, which is this program once more ([`guard`]), since a process with threads must not fork.

mod child;
mod copy;
mod family;
mod guard;
mod signals;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

pub use child::{Child, Spawn, Stop};
use copy::Ended;
pub use family::Exit;
pub use guard::check;
use signals::{Origin, Pid};

/// How long the last bytes of somebody who is gone may take to come out of a pipe.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// What to start, and how to end it.
#[derive(Clone, Debug)]
pub struct Server {
    pub program: OsString,
    pub arguments: Vec<OsString>,
    /// From the end of the conversation to SIGTERM, and from there to SIGKILL.
    pub grace: Duration,
}

/// Guard `server`, whose stdin and stdout are ours, for the process `proxy`; the exit code to leave with. Call it first of all
/// in a process that is there for nothing else.
///
/// # Errors
/// What the system refuses.
pub fn guard(server: Server, proxy: i32) -> io::Result<u8> {
    signals::close_all_but_standard();
    let before = signals::hold()?;
    Ok(guard::run(guard::Start { server, stdin: Stdio::inherit(), stdout: Stdio::inherit(), before, proxy }))
}

/// Stand between our own stdin and stdout and `server` until it ends; its exit code, 128 and the signal that ended it,
/// or 127 or 126 if it could not be started (and why is on stderr). Call it before there are threads, and leave the
/// process with what it returns: it closes stdin and stdout, and its threads may still wait for the client.
///
/// # Errors
/// What the system refuses before the server is started.
pub fn forward(server: Server) -> io::Result<u8> {
    let before = signals::hold()?;
    family::adopt()?;
    let (server_stdin, to_server) = io::pipe()?;
    let (from_server, server_stdout) = io::pipe()?;
    let proxy = signals::own_pid();
    // SAFETY: `cli` calls this before anything starts a thread.
    let Some(guard) = (unsafe { signals::fork() })? else {
        drop((to_server, from_server));
        let start = guard::Start { server, stdin: server_stdin.into(), stdout: server_stdout.into(), before, proxy };
        std::process::exit(guard::run(start).into());
    };
    drop((server_stdin, server_stdout));

    thread::Builder::new().name("to-server".into()).spawn(move || {
        copy::all(io::stdin().as_fd(), to_server.as_fd(), &AtomicU64::new(0));
        drop(to_server);
        // A client that still writes finds out as it would without us.
        copy::close_stdin();
        signals::send(guard, signals::over());
    })?;
    let (finished, output_ended) = channel();
    let turns = Arc::new(AtomicU64::new(0));
    let counted = turns.clone();
    thread::Builder::new().name("to-client".into()).spawn(move || {
        let ended = copy::all(from_server.as_fd(), io::stdout().as_fd(), &counted);
        drop(from_server);
        copy::close_stdout();
        if ended == Ended::Sink {
            signals::send(guard, signals::over());
        }
        let _ = finished.send(());
    })?;

    let code = pass_signals_until_the_end(guard)?;
    wait_for_the_last_bytes(&output_ended, &turns);
    Ok(code)
}

fn pass_signals_until_the_end(guard: Pid) -> io::Result<u8> {
    loop {
        // The guard stays unreaped until we exit, so that its number is nobody else's while threads send to it.
        if let Some(ended) = family::peek(guard)? {
            if ended.by_signal {
                eprintln!("shadowcat: the process that guards the server was killed; ending the server");
                family::end(Duration::ZERO);
            }
            return Ok(ended.code);
        }
        match signals::wait(None) {
            Some(signal) if signals::PASSED.contains(&signal.number) => match signal.origin {
                Origin::Terminal => signals::queue_for_group(guard, signal.number),
                Origin::Process | Origin::ForGroup => signals::send(guard, signal.number),
            },
            _ => {}
        }
    }
}

/// A slow client gets all the time it takes. What is not waited for is a pipe that an unknown process holds open: a read that
/// lasts while nobody of the server's is left.
fn wait_for_the_last_bytes(ended: &Receiver<()>, turns: &AtomicU64) {
    let mut seen = None;
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LAST_BYTES) {
        let now = turns.load(Ordering::Relaxed);
        if copy::is_reading(now) && seen == Some(now) {
            return;
        }
        seen = Some(now);
    }
}
