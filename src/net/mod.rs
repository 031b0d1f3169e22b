//! L3: the only monoio I/O. Everything that must be known about cancellation, readiness and drivers is known here.
//!
//! Rules that hold in this module and let the others be simple:
//! - a connection that is idle waits in [`Stream::readable`] and owns no buffer;
//! - a pending `write`, or `read` over TLS to an upstream, is dropped only where the connection is closed afterwards;
//! - sockets wait in `ready`, and a runtime ends with that;
//! - runtimes are built on the thread that runs them (a ring with SINGLE_ISSUER built elsewhere spins silently).

pub mod acceptor;
pub mod buffer;
pub mod driver;
mod foresight;
pub mod listener;
mod pem;
mod posts;
pub mod race;
mod ready;
mod secured;
mod socket;
pub mod soon;
pub mod stream;
pub mod tls;
pub mod turn;

pub use buffer::Buffer;
pub use foresight::Foresight;
pub use race::{Either, Expired, race, within};
pub use soon::soon;
pub use stream::{Probe, Stream};

/// Start a task on this worker; it runs until it ends or the worker does.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(future));
}

/// Wait; late by up to 2 ms (the timer wheel ticks in milliseconds).
pub fn sleep(duration: std::time::Duration) -> monoio::time::Sleep {
    monoio::time::sleep(duration)
}

/// Let everybody else run, and the driver look at its timers, new connections and other threads, if it has not done so for a
/// millisecond. For those who may always have something to do: a task that is woken at once is run before all others, and the
/// driver is asked only when no task is left to run.
pub async fn others_first() {
    const LATELY: std::time::Duration = std::time::Duration::from_millis(1);
    if let Some(lately) = monoio::time::Instant::now().checked_sub(LATELY) {
        // Over at once only if timers were looked at since.
        monoio::time::sleep_until(lately).await;
    }
}

/// Whether a connection failed for want of something on this side (descriptors, ports, memory): no reason to think worse
/// of the peer, let alone to give up its sessions.
pub fn is_shortage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::NOSPC, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use super::driver::{Choice, run};
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Sends back what it gets.
    async fn echo(stream: Stream, until: Instant) {
        while Instant::now() < until && stream.message().await.is_ok() {
            let (came, buffer) = stream.read_message(Buffer::default()).await;
            if !matches!(came, Ok(1..)) || stream.post(buffer).is_err() {
                return;
            }
        }
    }

    #[test]
    fn a_thread_that_always_has_messages_looks_at_its_timers() {
        for choice in [Choice::Auto, Choice::Epoll] {
            let waited = run(choice, |_| async {
                let begun = Instant::now();
                for _ in 0..16 {
                    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
                    let (one, other) = (Stream::adopt_local(one).unwrap(), Stream::adopt_local(other).unwrap());
                    one.post(Buffer::from_vec(b"ball".to_vec())).unwrap();
                    spawn(echo(one, begun + LONG));
                    spawn(echo(other, begun + LONG));
                }
                soon().await;
                begun.elapsed()
            });
            assert!(waited.unwrap() < LONG, "{choice:?}");
        }
    }

    #[test]
    fn who_always_has_something_to_do_keeps_nobody_from_being_heard() {
        for choice in [Choice::Auto, Choice::Epoll] {
            let heard = run(choice, |_| async {
                let heard = Rc::new(Cell::new(0));
                let (tell, told) = futures_channel::oneshot::channel();
                let of_a_timer = heard.clone();
                spawn(async move {
                    soon().await;
                    of_a_timer.set(of_a_timer.get() + 1);
                });
                let of_a_thread = heard.clone();
                spawn(async move {
                    let _ = told.await;
                    of_a_thread.set(of_a_thread.get() + 1);
                });
                let thread = std::thread::spawn(move || tell.send(()));
                let begun = Instant::now();
                while heard.get() < 2 && begun.elapsed() < LONG {
                    others_first().await;
                }
                let _ = thread.join();
                heard.get()
            });
            assert_eq!(heard.unwrap(), 2, "{choice:?}");
        }
    }
}
