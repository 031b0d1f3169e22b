//! Children, own and adopted. Only children of our own are ever signalled: until we reap them their numbers are nobody
//! else's. What a child leaves behind becomes our child.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::time::{Duration, Instant};

use super::signals::{self, Pid, checked};

/// How often it is looked whether somebody came or went while a family is ended.
const LOOK: Duration = Duration::from_millis(20);
/// SIGKILL works at once, but on what the kernel is busy for, or what runs as somebody else.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its own, or 128 and the signal.
    pub code: u8,
    pub by_signal: bool,
}

impl Exit {
    pub fn of(status: ExitStatus) -> Exit {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit { code: code as u8, by_signal: false },
            (None, signal) => Exit { code: 128 | signal.unwrap_or_default() as u8, by_signal: true },
        }
    }
}

/// Who was reaped.
pub enum Reaped {
    Child(Pid, Exit),
    /// All that there are still run.
    NoneYet,
    /// There are no children.
    Nobody,
}

/// Children of children become ours when their parents end, whatever groups and sessions they made.
pub fn adopt() -> io::Result<()> {
    // SAFETY: `prctl` reads its number.
    checked(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Whether `child` ended, leaving it to be reaped.
pub fn peek(child: Pid) -> io::Result<Option<Exit>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is valid; zeroes are a value of `siginfo_t`, and stay where nobody ended. Pid and status are
    // there for SIGCHLD.
    unsafe {
        checked(libc::waitid(libc::P_PID, child.cast_unsigned(), info.as_mut_ptr(), how))?;
        let info = info.assume_init();
        Ok((info.si_pid() != 0).then(|| match info.si_code {
            libc::CLD_EXITED => Exit { code: info.si_status() as u8, by_signal: false },
            _ => Exit { code: 128 | info.si_status() as u8, by_signal: true },
        }))
    }
}

/// Reap one.
pub fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: the pointer is valid.
    match unsafe { libc::waitpid(-1, ptr::from_mut(&mut status), libc::WNOHANG) } {
        0 => Reaped::NoneYet,
        pid @ 1.. if libc::WIFEXITED(status) => {
            Reaped::Child(pid, Exit { code: libc::WEXITSTATUS(status) as u8, by_signal: false })
        }
        pid @ 1.. => Reaped::Child(pid, Exit { code: 128 | libc::WTERMSIG(status) as u8, by_signal: true }),
        _ => Reaped::Nobody,
    }
}

/// End all children and what they leave behind: SIGTERM to each, after `gentle` SIGKILL.
pub fn end(gentle: Duration) {
    let begun = Instant::now();
    let mut told = HashSet::new();
    loop {
        loop {
            match reap() {
                Reaped::Child(pid, _) => drop(told.remove(&pid)),
                Reaped::NoneYet => break,
                Reaped::Nobody => return,
            }
        }
        let left = children();
        let elapsed = begun.elapsed();
        if elapsed >= gentle + KILL_PATIENCE {
            eprintln!("shadowcat: could not end what the server left behind: processes {left:?}");
            return;
        }
        for &child in &left {
            if elapsed >= gentle {
                signals::send(child, libc::SIGKILL);
            } else if told.insert(child) {
                signals::send(child, libc::SIGTERM);
            }
        }
        // What arrives meanwhile is SIGCHLD, or comes too late to matter.
        signals::wait(Some(LOOK));
    }
}

fn children() -> Vec<Pid> {
    let own = signals::own_pid();
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| parent_of(&stat) == Some(own)))
        .collect()
}

/// `42 (name) S 1 ...`, where the name may contain anything.
fn parent_of(stat: &str) -> Option<Pid> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parent_whatever_a_process_calls_itself() {
        assert_eq!(parent_of("42 (cat) S 7 42 7 0"), Some(7));
        assert_eq!(parent_of("42 (a) S 1 (b) R 9 42"), Some(9));
        assert_eq!(parent_of("42 (cat"), None);
    }
}
