//! Bytes from one descriptor to another, as they come: one buffer, and no reading ahead of the writer.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};

/// What a pipe holds, so that whatever is there is taken in one go.
const BUFFER_BYTES: usize = 64 * 1024;

/// Which side has had enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Source,
    Sink,
}

/// Copy until one side ends. `turns` is odd during a read, even otherwise, and moves with each piece, which `watch` is shown
/// before it goes on.
pub fn all(from: BorrowedFd, to: BorrowedFd, turns: &AtomicU64, watch: &mut dyn FnMut(&[u8])) -> Ended {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        turns.fetch_add(1, Ordering::Relaxed);
        let came = patiently(from, PollFlags::IN, || read(from, &mut buffer[..]));
        turns.fetch_add(1, Ordering::Relaxed);
        let Ok(came @ 1..) = came else { return Ended::Source };
        watch(&buffer[..came]);
        let mut rest = &buffer[..came];
        while !rest.is_empty() {
            match patiently(to, PollFlags::OUT, || write(to, rest)) {
                Ok(went) => rest = &rest[went..],
                Err(_) => return Ended::Sink,
            }
        }
    }
}

/// Whether a copy whose `turns` these are waits for its source.
pub fn is_reading(turns: u64) -> bool {
    turns % 2 == 1
}

/// The client may have made its descriptors non-blocking, which then holds for ours.
fn patiently(
    fd: BorrowedFd,
    ready: PollFlags,
    mut operation: impl FnMut() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    loop {
        match operation() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::from_borrowed_fd(fd, ready)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            },
            result => return result,
        }
    }
}

/// Let go of stdin; the number stays taken, so that nothing else becomes stdin.
pub fn close_stdin() {
    if let Ok(null) = File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(null.as_fd());
    }
}

/// Let go of stdout, likewise.
pub fn close_stdout() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::thread;

    #[test]
    fn waits_for_descriptors_that_do_not_block() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let (mut sink, out) = std::io::pipe().unwrap();
        let copying = thread::spawn(move || all(near.as_fd(), out.as_fd(), &AtomicU64::new(0), &mut |_| ()));
        let mut got = [0; 5];
        (&far).write_all(b"first").unwrap();
        sink.read_exact(&mut got).unwrap();
        // By now the copy has found nothing to read at least once, or does so now.
        (&far).write_all(b"later").unwrap();
        sink.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"later");
        drop(far);
        assert_eq!(copying.join().unwrap(), Ended::Source);
    }

    #[test]
    fn says_that_nobody_reads_any_more() {
        let (source, mut feed) = std::io::pipe().unwrap();
        let (sink, out) = std::io::pipe().unwrap();
        drop(sink);
        feed.write_all(b"lost").unwrap();
        let turns = AtomicU64::new(0);
        assert_eq!(all(source.as_fd(), out.as_fd(), &turns, &mut |_| ()), Ended::Sink);
        assert!(!is_reading(turns.load(Ordering::Relaxed)));
    }
}
