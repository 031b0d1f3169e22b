//! System calls on a socket that never wait.
//!
//! What is ready is read and written by a call, not by an operation of the ring: a busy connection is served in one go,
//! and a wait owns no buffer (`docs/adr/0014-readiness-then-calls.md` has the measurements).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::{RecvFlags, SendFlags};

use super::Buffer;

/// Append to `buffer` what came; 0 at the end of input.
///
/// # Errors
/// `WouldBlock` if nothing came yet.
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut Buffer) -> io::Result<usize> {
    let room = buffer.read_room();
    let memory = buffer.vec();
    let spare = &mut memory.spare_capacity_mut()[..room];
    let came = loop {
        match rustix::net::recv(socket, &mut *spare, RecvFlags::DONTWAIT) {
            Ok(((came, _), _)) => break came.len(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    // SAFETY: the kernel wrote `came` bytes behind the old length, inside the capacity.
    unsafe { memory.set_len(memory.len() + came) };
    Ok(came)
}

/// Send as much of `bytes` as the socket takes; how much that was.
///
/// # Errors
/// `WouldBlock` if it takes nothing now.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}
