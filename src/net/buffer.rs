//! Pooled byte buffers that the kernel fills and empties.
//!
//! Three classes, by measurement: 2 KiB to keep a usual head for as long as its exchange lasts (a stream may last for
//! hours), 16 KiB to read heads and small messages, 64 KiB for streaming. A dropped buffer goes back
//! to the pool of the thread that drops it, also when a cancelled operation lets go of it late.

use std::cell::RefCell;

use monoio::buf::{IoBuf, IoBufMut};

/// Capacity of a buffer for heads and small messages, bytes.
pub const SMALL_BYTES: usize = 16 * 1024;
/// Capacity of a buffer that keeps a usual head, bytes.
const HEAD_BYTES: usize = 2 * 1024;
/// Room in front of the data for a chunk's head, bytes (16 hex digits and CRLF, rounded up).
pub const HEADROOM_BYTES: usize = 24;
/// Room behind the data that reads leave free for a chunk's end and the last chunk, bytes.
pub const TAILROOM_BYTES: usize = 16;
/// Buffers of one class that a thread keeps for reuse; of small ones, which a turn may fill for each of its requests, more.
const POOLED_MAX: usize = 96;
const POOLED_HEADS_MAX: usize = 512;

/// Bytes `start..len` of a fixed allocation are data; reads append behind them, writes consume from their front.
#[derive(Debug, Default)]
pub struct Buffer {
    mem: Vec<u8>,
    start: usize,
}

#[derive(Default)]
struct Pool {
    heads: Vec<Vec<u8>>,
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    large_bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Buffer {
    /// An empty buffer of [`SMALL_BYTES`].
    pub fn small() -> Buffer {
        let mem = POOL.with_borrow_mut(|pool| pool.small.pop());
        Buffer { mem: mem.unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES)), start: 0 }
    }

    /// An empty buffer for a message of about `bytes`: of the class for heads if it fits.
    pub fn for_message(bytes: usize) -> Buffer {
        if bytes > HEAD_BYTES {
            return Buffer::small();
        }
        let mem = POOL.with_borrow_mut(|pool| pool.heads.pop());
        Buffer { mem: mem.unwrap_or_else(|| Vec::with_capacity(HEAD_BYTES)), start: 0 }
    }

    /// Become a copy of a head, in the memory of the last one if that is of the usual size.
    pub fn keep_head(&mut self, bytes: &[u8]) {
        if self.mem.capacity() == HEAD_BYTES && bytes.len() <= HEAD_BYTES {
            self.clear();
            self.mem.extend_from_slice(bytes);
        } else {
            *self = Buffer::head(bytes);
        }
    }

    /// A copy of a head, in no more memory than it needs if it is a usual one.
    pub fn head(bytes: &[u8]) -> Buffer {
        if bytes.len() > HEAD_BYTES {
            return Buffer { mem: bytes.to_vec(), start: 0 };
        }
        let mut head = Buffer::for_message(bytes.len());
        head.mem.extend_from_slice(bytes);
        head
    }

    /// An empty buffer of `bytes` with [`HEADROOM_BYTES`] in front, for streaming bodies.
    pub fn streaming(bytes: usize) -> Buffer {
        let bytes = bytes.max(SMALL_BYTES + 1);
        let mem = POOL.with_borrow_mut(|pool| {
            if pool.large_bytes != bytes {
                pool.large.clear();
                pool.large_bytes = bytes;
            }
            pool.large.pop()
        });
        let mut mem = mem.unwrap_or_else(|| Vec::with_capacity(bytes));
        mem.resize(HEADROOM_BYTES, 0);
        Buffer { mem, start: HEADROOM_BYTES }
    }

    /// A small buffer with room in front and behind, as [`Buffer::streaming`] has.
    pub fn small_streaming() -> Buffer {
        let mut buffer = Buffer::small();
        buffer.mem.resize(HEADROOM_BYTES, 0);
        buffer.start = HEADROOM_BYTES;
        buffer
    }

    /// A buffer around bytes that are already there.
    pub fn from_vec(mem: Vec<u8>) -> Buffer {
        Buffer { mem, start: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.mem[self.start..]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.mem[self.start..]
    }

    pub fn len(&self) -> usize {
        self.mem.len() - self.start
    }

    pub fn has_no_memory(&self) -> bool {
        self.mem.capacity() == 0
    }

    /// Move what is here behind the data of `other`, as far as that has room; how much that was. One without memory takes
    /// this one's.
    pub fn move_to(&mut self, other: &mut Buffer) -> usize {
        if other.has_no_memory() {
            std::mem::swap(self, other);
            return other.len();
        }
        let moved = self.len().min(other.read_room());
        other.mem.extend_from_slice(&self.bytes()[..moved]);
        self.consume(moved);
        moved
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that a read may still append.
    pub fn room(&self) -> usize {
        self.mem.capacity() - self.mem.len()
    }

    /// Bytes that a read may append and still leave what [`TAILROOM_BYTES`] promises.
    pub fn read_room(&self) -> usize {
        let room = self.room();
        if self.start >= HEADROOM_BYTES { room.saturating_sub(TAILROOM_BYTES).max(1).min(room) } else { room }
    }

    /// Drop `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        assert!(self.start <= self.mem.len(), "consumed more than there is");
        if self.start == self.mem.len() {
            self.clear();
        }
    }

    /// Keep the first `n` bytes of the data.
    pub fn truncate(&mut self, n: usize) {
        self.mem.truncate(self.start + n);
    }

    pub fn clear(&mut self) {
        self.mem.clear();
        self.start = 0;
    }

    /// Make room for reads: move the data to the front, and grow to hold at least `total` bytes of data.
    pub fn make_room(&mut self, total: usize) {
        if self.start > 0 {
            self.mem.copy_within(self.start.., 0);
            let len = self.mem.len() - self.start;
            self.mem.truncate(len);
            self.start = 0;
        }
        if total > self.mem.len() {
            self.mem.reserve_exact(total - self.mem.len());
        }
    }

    /// The vector behind an output buffer, to append to.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.mem
    }

    /// Frame the data as one chunk (RFC 9112 section 7.1), in place where the buffer was made with headroom.
    pub fn frame_as_chunk(&mut self, head: &[u8], end: &[u8]) {
        if self.start >= head.len() {
            self.start -= head.len();
            self.mem[self.start..self.start + head.len()].copy_from_slice(head);
        } else {
            self.mem.splice(self.start..self.start, head.iter().copied());
        }
        self.mem.extend_from_slice(end);
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        // Most have been taken, or never had any.
        if !self.has_no_memory() {
            give_back(std::mem::take(&mut self.mem));
        }
    }
}

#[inline(never)]
fn give_back(mut mem: Vec<u8>) {
    mem.clear();
    // A thread that is shutting down has no pool any more; then the memory is simply freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if mem.capacity() == HEAD_BYTES && pool.heads.len() < POOLED_HEADS_MAX {
            pool.heads.push(mem);
        } else if mem.capacity() == SMALL_BYTES && pool.small.len() < POOLED_MAX {
            pool.small.push(mem);
        } else if mem.capacity() == pool.large_bytes && pool.large.len() < POOLED_MAX / 8 {
            pool.large.push(mem);
        }
    });
}

// SAFETY: the vector's allocation does not move while the operation owns the buffer, and `start <= len <= capacity`.
unsafe impl IoBuf for Buffer {
    fn read_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; the kernel writes only behind the data, inside the capacity, and `set_init` adds what it wrote.
unsafe impl IoBufMut for Buffer {
    fn write_ptr(&mut self) -> *mut u8 {
        let len = self.mem.len();
        // SAFETY: `len <= capacity`, so the pointer stays inside (or one past the end of) the allocation.
        unsafe { self.mem.as_mut_ptr().add(len) }
    }

    fn bytes_total(&mut self) -> usize {
        self.read_room()
    }

    unsafe fn set_init(&mut self, pos: usize) {
        let len = self.mem.len() + pos;
        debug_assert!(len <= self.mem.capacity());
        // SAFETY: the caller initialised `pos` bytes behind the old length.
        unsafe { self.mem.set_len(len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_framing_happens_in_place() {
        let mut buffer = Buffer::streaming(65536);
        buffer.vec().extend_from_slice(b"hello");
        let before = buffer.bytes().as_ptr();
        buffer.frame_as_chunk(b"5\r\n", b"\r\n");
        assert_eq!(buffer.bytes(), b"5\r\nhello\r\n");
        // SAFETY: only compared, never read.
        assert_eq!(buffer.bytes().as_ptr(), unsafe { before.sub(3) });
    }

    #[test]
    fn reads_append_and_writes_consume() {
        let mut buffer = Buffer::small();
        buffer.vec().extend_from_slice(b"abcdef");
        buffer.consume(2);
        buffer.make_room(64);
        assert_eq!(buffer.bytes(), b"cdef");
        buffer.consume(4);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let first = Buffer::small();
        let address = first.mem.as_ptr();
        drop(first);
        assert_eq!(Buffer::small().mem.as_ptr(), address);
    }
}
