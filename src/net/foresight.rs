//! What is needed when something comes is fetched into the cache while the loop is on its way there.
//!
//! Of thousands of streams none is in a cache when its next event comes, and what that passes through would be waited for line
//! after line (`docs/adr/0023-what-comes-is-foreseen.md`).

use std::rc::Rc;

use super::ready::State;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes of a task that are fetched: its header, and what tells where it stands.
const TASK_BYTES: usize = 640;

/// What is needed when something comes from a socket.
#[derive(Clone)]
pub struct Foresight(Rc<State>);

impl Foresight {
    pub(super) fn of(socket: &Rc<State>) -> Foresight {
        Foresight(socket.clone())
    }

    /// `what` is, and `peer`, which what comes is sent to. They may be gone by then: nothing is read.
    pub fn is_of<T: ?Sized>(&self, what: &T, peer: &Foresight) {
        let at = std::ptr::from_ref(what).cast::<u8>().addr();
        self.0.foreseen.set(Foreseen { at, bytes: size_of_val(what) as u32, peer: Rc::as_ptr(&peer.0).addr() });
    }

    /// Nothing is, any more.
    pub fn ends(&self) {
        self.0.foreseen.take();
    }
}

/// Memory that is needed when something comes.
#[derive(Clone, Copy, Default)]
pub(super) struct Foreseen {
    /// Of the task that reads, what is not in it itself. Address and bytes.
    at: usize,
    bytes: u32,
    /// Address of the state of the socket that it is sent to.
    peer: usize,
}

impl Foreseen {
    pub fn fetch(self) {
        if self.bytes > 0 {
            fetch(self.at, self.bytes as usize);
            fetch(self.peer, size_of::<State>());
        }
    }
}

/// Fetch a task that is about to run.
pub(super) fn fetch_task(task: *const ()) {
    fetch(task.addr(), TASK_BYTES);
}

fn fetch(at: usize, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; it reads nothing, and no address is wrong (Intel SDM volume 2, PREFETCHh).
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(at.wrapping_add(line)));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, line);
    }
}
