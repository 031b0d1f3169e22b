//! A server whose stdin and stdout are ours, kept by a thread of its own: it starts the guard, passes on what the server says on
//! stderr, tells the guard when to stop, and reaps it.
//!
//! The guard hears of the death of the thread that started it, so that thread lives as long as the guard does.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use futures_channel::oneshot;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Exit;
use super::signals;

/// This program, whatever became of its file.
const OURSELVES: &str = "/proc/self/exe";
/// What of a line of stderr is passed on in one piece, bytes.
const LINE_BYTES_MAX: usize = 16 * 1024;
const READ_BYTES: usize = 4 * 1024;

/// How children are started.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// What makes this program a guard, and the server and its arguments behind that.
    pub arguments: Vec<OsString>,
}

/// A server that was told to start. Whether it did is heard as its end.
pub struct Child {
    /// Closed by whoever drops it, which tells the server that the conversation is over.
    pub stdin: UnixStream,
    pub stdout: UnixStream,
    /// How the guard ended, which is how the server did.
    pub ended: oneshot::Receiver<io::Result<Exit>>,
    pub stop: Stop,
}

/// Dropping it has the guard stop the server: SIGTERM after the grace, SIGKILL after as long again.
pub struct Stop {
    _told: PipeWriter,
}

impl Spawn {
    /// Start one. Its stderr goes to ours, each line behind `[label] `. `held` is dropped when nothing of it is left.
    ///
    /// # Errors
    /// The system refuses descriptors or a thread.
    pub fn start(&self, label: String, held: impl Send + 'static) -> io::Result<Child> {
        let (stdin, of_server) = UnixStream::pair()?;
        let (stdout, to_us) = UnixStream::pair()?;
        let (stderr, of_guard) = io::pipe()?;
        let (stopped, stop) = io::pipe()?;
        let (tell, ended) = oneshot::channel();
        let mut command = Command::new(OURSELVES);
        command.arg0("shadowcat").args(&self.arguments);
        command.stdin(OwnedFd::from(of_server)).stdout(OwnedFd::from(to_us)).stderr(Stdio::from(of_guard));
        thread::Builder::new().name(label.clone()).spawn(move || {
            let result = keep(command, stderr, stopped, &label);
            drop(held);
            let _nobody_asks = tell.send(result);
        })?;
        Ok(Child { stdin, stdout, ended, stop: Stop { _told: stop } })
    }
}

/// From the start of the guard to its end.
fn keep(mut command: Command, stderr: PipeReader, stopped: PipeReader, label: &str) -> io::Result<Exit> {
    let mut guard = command.spawn()?;
    // Our copies of the server's ends.
    drop(command);
    let number = guard.id().cast_signed();
    let pidfd = pidfd_open(Pid::from_child(&guard), PidfdFlags::empty())?;
    rustix::io::ioctl_fionbio(&stderr, true)?;
    let mut lines = Lines { source: Some(stderr), held: Vec::new(), label };
    let mut stopped = Some(stopped);
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(stopped.as_ref().map(|stopped| PollFd::new(stopped, PollFlags::IN)));
        fds.extend(lines.source.as_ref().map(|source| PollFd::new(source, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: rustix::fd::BorrowedFd| fds.iter().any(|one| same(one, fd) && !one.revents().is_empty());
        let has_ended = is_ready(pidfd.as_fd());
        let is_told = stopped.as_ref().is_some_and(|stopped| is_ready(stopped.as_fd()));
        drop(fds);
        lines.pass_on();
        if is_told {
            stopped = None;
            // Not reaped, so the number is still the guard's.
            signals::send(number, signals::over());
        }
        if has_ended {
            let status = guard.wait()?;
            lines.pass_on();
            lines.finish();
            return Ok(Exit::of(status));
        }
    }
}

fn same(one: &PollFd, fd: rustix::fd::BorrowedFd) -> bool {
    use std::os::fd::AsRawFd;
    one.as_fd().as_raw_fd() == fd.as_raw_fd()
}

/// The server's stderr, a line at a time.
struct Lines<'a> {
    /// Until it ends.
    source: Option<PipeReader>,
    held: Vec<u8>,
    label: &'a str,
}

impl Lines<'_> {
    /// What is there now.
    fn pass_on(&mut self) {
        let mut piece = [0; READ_BYTES];
        while let Some(source) = &mut self.source {
            match source.read(&mut piece) {
                Ok(0) => self.source = None,
                Ok(came) => self.take(&piece[..came]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.source = None,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.held.extend_from_slice(piece);
            if self.held.last() == Some(&b'\n') || self.held.len() >= LINE_BYTES_MAX {
                self.say();
            }
        }
    }

    fn finish(&mut self) {
        if !self.held.is_empty() {
            self.say();
        }
    }

    /// In one write, so that lines of several servers do not mix.
    fn say(&mut self) {
        let mut line = format!("[{}] ", self.label).into_bytes();
        line.append(&mut self.held);
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // Nobody hears us where that fails.
        let _ = io::stderr().lock().write_all(&line);
    }
}
