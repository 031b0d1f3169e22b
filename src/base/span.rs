//! A range of bytes in a buffer that somebody else owns.

/// `len` bytes from `start`, both in bytes. Heads and bodies are never longer than 4 GiB in one buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    pub const EMPTY: Span = Span { start: 0, len: 0 };

    /// The span of `part` inside `whole`; `part` must be a sub-slice of `whole`.
    pub fn within(whole: &[u8], part: &[u8]) -> Span {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        debug_assert!(start + part.len() <= whole.len());
        Span { start: start as u32, len: part.len() as u32 }
    }

    /// The bytes of this span; panics if `whole` is shorter than the buffer the span was made from.
    #[inline]
    pub fn of(self, whole: &[u8]) -> &[u8] {
        &whole[self.start as usize..(self.start + self.len) as usize]
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}
