//! Server-sent events (WHATWG HTML, section 9.2) of a stream that is recorded: each with its fields, and comments too.

use crate::wire::sse::block_end;

/// Pieces of a stream that are no whole event yet.
#[derive(Debug, Default)]
pub struct Splitter {
    held: Vec<u8>,
    /// Bytes of the event at hand that are not kept.
    cut: u64,
    /// The end of what is not kept, to find the end of the event in.
    tail: Vec<u8>,
    /// The first event is over; before it there may be a byte order mark.
    is_begun: bool,
}

/// What stands between two blank lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub id: Option<String>,
    pub event: Option<String>,
    pub retry: Option<u64>,
    /// Lines without their field, joined by line ends; `None`: there is no data.
    pub data: Option<Vec<u8>>,
    /// Comments in it, each a line.
    pub comments: Vec<Vec<u8>>,
    pub cut: u64,
}

impl Splitter {
    /// Bytes that are kept until their event is whole.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The next piece, of whose events so many bytes are kept each; `each` gets those that end in it.
    pub fn feed(&mut self, mut piece: &[u8], keep: usize, mut each: impl FnMut(Block)) {
        while !piece.is_empty() {
            if self.cut > 0 {
                // Three bytes of before are enough to see a blank line that begins there.
                let before = self.tail.len();
                self.tail.extend_from_slice(piece);
                let Some(end) = blank_line_end(&self.tail) else {
                    self.cut += piece.len() as u64;
                    self.tail.drain(..self.tail.len().saturating_sub(3));
                    return;
                };
                let used = end.saturating_sub(before);
                self.cut += used as u64;
                piece = &piece[used..];
                self.tail.clear();
                each(self.block());
                continue;
            }
            let before = self.held.len();
            self.held.extend_from_slice(piece);
            // What was held had no end.
            let Some(end) = block_end(&self.held) else {
                if self.held.len() > keep {
                    self.cut = (self.held.len() - keep) as u64;
                    self.tail = self.held[self.held.len().saturating_sub(3)..].to_vec();
                    self.held.truncate(keep);
                }
                return;
            };
            piece = &piece[end.saturating_sub(before).min(piece.len())..];
            self.held.truncate(end);
            let over = self.held.len().saturating_sub(keep);
            self.held.truncate(keep);
            self.cut = over as u64;
            each(self.block());
        }
    }

    /// What was begun and will not be whole.
    pub fn rest(&mut self) -> Option<Block> {
        (!self.held.is_empty()).then(|| self.block())
    }

    fn block(&mut self) -> Block {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let mark: &[u8] = if is_first { b"\xef\xbb\xbf" } else { b"" };
        let mut block = read(self.held.strip_prefix(mark).unwrap_or(&self.held));
        block.cut = std::mem::take(&mut self.cut);
        self.held.clear();
        block
    }
}

/// Behind the first blank line that is there with the line end before it.
fn blank_line_end(bytes: &[u8]) -> Option<usize> {
    let ends: [&[u8]; 5] = [b"\r\n\r\n", b"\n\r\n", b"\r\n\n", b"\n\n", b"\r\r"];
    ends.iter().filter_map(|end| memchr::memmem::find(bytes, end).map(|at| at + end.len())).min()
}

fn read(bytes: &[u8]) -> Block {
    let mut block = Block::default();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let mut lines = bytes;
    while !lines.is_empty() {
        let end = memchr::memchr2(b'\r', b'\n', lines).unwrap_or(lines.len());
        let line = &lines[..end];
        let behind = &lines[end..];
        lines = behind.strip_prefix(b"\r\n").unwrap_or_else(|| behind.get(1..).unwrap_or_default());
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) => {
                block.comments.push(line[1..].to_vec());
                continue;
            }
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"id" => block.id = Some(text(value)),
            b"event" => block.event = Some(text(value)),
            b"retry" => block.retry = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()),
            b"data" => match &mut block.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                none => *none = Some(value.to_vec()),
            },
            _ => {}
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8], size: usize, keep: usize) -> Vec<Block> {
        let (mut splitter, mut blocks) = (Splitter::default(), Vec::new());
        bytes.chunks(size).for_each(|piece| splitter.feed(piece, keep, |block| blocks.push(block)));
        blocks.extend(splitter.rest());
        blocks
    }

    #[test]
    fn events_are_the_same_in_any_pieces() {
        let stream = b"\xef\xbb\xbf: hello\r\n\r\nid: 7\r\nevent: message\r\ndata: {\"a\":1}\r\n\r\nretry: 10\ndata\ndata:b\n\n: x\ndata: c";
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            Block { comments: vec![b" hello".to_vec()], ..Block::default() },
            Block { id: text("7"), event: text("message"), data: Some(b"{\"a\":1}".to_vec()), ..Block::default() },
            Block { retry: Some(10), data: Some(b"\nb".to_vec()), ..Block::default() },
            Block { comments: vec![b" x".to_vec()], data: Some(b"c".to_vec()), ..Block::default() },
        ];
        // A return may be half of a line end: then the other half is a line of its own, and says nothing.
        for size in (3..=stream.len()).chain([1, 2]) {
            let blocks: Vec<Block> =
                split(stream, size, 1000).into_iter().filter(|block| *block != Block::default()).collect();
            assert_eq!(blocks, expected, "pieces of {size}");
        }
    }

    #[test]
    fn an_event_that_is_too_long_is_cut_and_the_next_is_whole() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("data: {}{end}{end}data: next{end}{end}", "x".repeat(500));
            for size in [1, 7, 100, 2000] {
                let blocks = split(stream.as_bytes(), size, 100);
                let blocks: Vec<&Block> = blocks.iter().filter(|block| block.data.is_some()).collect();
                assert_eq!(blocks.len(), 2, "{end:?} {size} {blocks:?}");
                let (long, next) = (blocks[0], blocks[1]);
                assert_eq!(long.data.as_ref().map(Vec::len), Some(94), "{end:?} {size}");
                assert!((406..=412).contains(&long.cut), "{end:?} {size} {}", long.cut);
                assert_eq!((next.data.as_deref(), next.cut), (Some(&b"next"[..]), 0), "{end:?} {size}");
            }
        }
    }
}
