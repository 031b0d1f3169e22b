//! Signals that are waited for and not handled, and `fork`: what the standard library has no words for.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use libc::c_int;

pub type Pid = libc::pid_t;

/// What is passed on to the server.
pub const PASSED: [c_int; 6] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// In the value of a queued signal: meant for the whole process group of the server.
const FOR_GROUP: usize = 1;
/// `si_code` of what the kernel sends by itself, as a terminal does with ^C.
const SI_KERNEL: c_int = 0x80;

/// Tells the guard that the conversation is over, or from the kernel, that the proxy is.
pub fn over() -> c_int {
    libc::SIGRTMIN()
}

/// The signals that were blocked before [`hold`].
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    pub number: c_int,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Sent to this process.
    Process,
    /// From the terminal, which sends to all of its foreground group.
    Terminal,
    /// Queued by [`queue_for_group`].
    ForGroup,
}

fn held() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the whole set; the numbers are valid signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for number in PASSED.into_iter().chain([libc::SIGCHLD, over()]) {
            libc::sigaddset(set.as_mut_ptr(), number);
        }
        set.assume_init()
    }
}

/// From now on signals wait for [`wait`], in this thread and all that it starts.
pub fn hold() -> io::Result<Mask> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets are valid, and the old one is written before it is read. Who started us may have ignored
    // SIGCHLD, and then children would have no exit status.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        checked(libc::sigprocmask(libc::SIG_BLOCK, &held(), before.as_mut_ptr()))?;
        Ok(Mask(before.assume_init()))
    }
}

impl Mask {
    /// For the server, between fork and exec.
    pub fn restore(&self) -> io::Result<()> {
        // SAFETY: a set that `sigprocmask` wrote; the call is async-signal-safe.
        checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) }).map(drop)
    }
}

/// The next signal, or nothing when `patience` is over.
pub fn wait(patience: Option<Duration>) -> Option<Arrived> {
    let patience = patience.map(|time| libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let patience = patience.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: all pointers are valid for the call, or null where that is allowed. The signal's value is there if its
    // code says that it was queued.
    unsafe {
        let number = libc::sigtimedwait(&held(), info.as_mut_ptr(), patience);
        let info = info.assume_init();
        (number > 0).then(|| Arrived {
            number,
            origin: match info.si_code {
                SI_KERNEL => Origin::Terminal,
                libc::SI_QUEUE if info.si_value().sival_ptr as usize == FOR_GROUP => Origin::ForGroup,
                _ => Origin::Process,
            },
        })
    }
}

/// To one process. That it is gone already is no error.
pub fn send(to: Pid, number: c_int) {
    // SAFETY: `kill` takes any numbers.
    unsafe { libc::kill(to, number) };
}

/// To the process group that `leader` leads.
pub fn send_to_group(leader: Pid, number: c_int) {
    send(-leader, number);
}

/// To the guard: a signal of which the whole group of the server is to know.
pub fn queue_for_group(guard: Pid, number: c_int) {
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(FOR_GROUP) };
    // SAFETY: `sigqueue` takes any numbers, and the value is never followed.
    if unsafe { libc::sigqueue(guard, number, value) } != 0 {
        // The queue is full: then at least the server itself.
        send(guard, number);
    }
}

/// `number` comes when the thread that forked us ends; false if it ended before that was arranged.
pub fn at_death_of_parent(number: c_int, parent: Pid) -> io::Result<bool> {
    // SAFETY: `prctl` reads its number; both calls are async-signal-safe.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_long::from(number), 0, 0, 0) })?;
    Ok(parent_pid() == parent)
}

/// Whoever started us may have left more open than is for us.
pub fn close_all_but_standard() {
    // SAFETY: nothing in this process has opened a descriptor that it still uses. Where the call does not exist, what is
    // open stays open, as it was marked to be closed anyway.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
}

pub fn own_pid() -> Pid {
    // SAFETY: it cannot fail.
    unsafe { libc::getpid() }
}

pub fn parent_pid() -> Pid {
    // SAFETY: it cannot fail.
    unsafe { libc::getppid() }
}

/// The child's number in the parent, nothing in the child.
///
/// # Safety
/// The process has one thread: locks that others hold would stay locked in the child.
pub unsafe fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller's.
    let pid = checked(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

pub fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
