//! Lines of a stdio stream, each a message over stdio.

/// Pieces of a stream that are no whole line yet.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
    /// Bytes of the line at hand that are not kept.
    cut: u64,
}

impl Lines {
    /// The next piece, of whose lines so many bytes are kept each; `each` gets those that end in it, with their ends, and how
    /// much of each was cut off.
    pub fn feed(&mut self, mut piece: &[u8], keep: usize, mut each: impl FnMut(&[u8], u64)) {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            if self.held.is_empty() && self.cut == 0 && end < keep {
                each(&piece[..=end], 0);
            } else {
                self.keep(&piece[..=end], keep);
                each(&self.held, self.cut);
                self.held.clear();
                self.cut = 0;
            }
            piece = &piece[end + 1..];
        }
        self.keep(piece, keep);
    }

    fn keep(&mut self, bytes: &[u8], keep: usize) {
        let (kept, over) = bytes.split_at(keep.saturating_sub(self.held.len()).min(bytes.len()));
        self.held.extend_from_slice(kept);
        self.cut += over.len() as u64;
    }

    /// What came without an end, or ends otherwise.
    pub fn rest(&mut self, each: impl FnOnce(&[u8], u64)) {
        if !self.held.is_empty() {
            each(&std::mem::take(&mut self.held), std::mem::take(&mut self.cut));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_in_any_pieces() {
        let bytes = b"{}\n\nlonger than ten\r\n0123456789\nrest";
        for size in 1..=bytes.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            bytes.chunks(size).for_each(|piece| lines.feed(piece, 10, |line, cut| found.push((line.to_vec(), cut))));
            lines.rest(|line, cut| found.push((line.to_vec(), cut)));
            let expected: [(&[u8], u64); 5] =
                [(b"{}\n", 0), (b"\n", 0), (b"longer tha", 7), (b"0123456789", 1), (b"rest", 0)];
            assert_eq!(found, expected.map(|(line, cut)| (line.to_vec(), cut)), "pieces of {size}");
        }
    }
}
