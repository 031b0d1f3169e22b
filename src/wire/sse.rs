//! Server-sent events (WHATWG HTML, section 9.2): where events end, and what is in them. Bytes are relayed unchanged by
//! whoever calls; here they are only looked at.

use crate::base::Span;

/// Largest event that is looked into, bytes.
const EVENT_BYTES_MAX: usize = 64 * 1024;
/// Names of the query parameter that carries a session in an `endpoint` event, by preference.
const SESSION_PARAMETERS: [&[u8]; 3] = [b"sessionId", b"session_id", b"sessionid"];

/// Tells whether a stream stands between two events, whatever the pieces it is fed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventScanner {
    line_is_empty: bool,
    after_return: bool,
    at_boundary: bool,
}

impl Default for EventScanner {
    fn default() -> EventScanner {
        EventScanner { line_is_empty: true, after_return: false, at_boundary: true }
    }
}

impl EventScanner {
    pub fn feed(&mut self, bytes: &[u8]) {
        // What stands before the last byte of text matters no more.
        let text = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
        for &byte in &bytes[text.unwrap_or(0)..] {
            let line_feed_of_return = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            match byte {
                b'\n' if line_feed_of_return => {}
                b'\r' | b'\n' => {
                    self.at_boundary = self.line_is_empty;
                    self.line_is_empty = true;
                }
                _ => {
                    self.line_is_empty = false;
                    self.at_boundary = false;
                }
            }
        }
    }

    /// At the start, or right behind the blank line that ends an event.
    pub fn at_boundary(&self) -> bool {
        self.at_boundary
    }
}

/// Collects events, for those few streams whose events matter to the proxy.
#[derive(Clone, Debug, Default)]
pub struct EventReader {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were taken already.
    taken: usize,
    name: Vec<u8>,
    data: Vec<u8>,
    id: Option<Vec<u8>>,
}

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its type; empty means `message`.
    pub event: &'a [u8],
    pub data: &'a [u8],
    pub id: Option<&'a [u8]>,
}

/// An event is larger than 64 KiB; the stream is not looked into any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is too large to be looked into")]
pub struct TooLarge;

impl EventReader {
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        if self.bytes.len() + bytes.len() > EVENT_BYTES_MAX + bytes.len().min(EVENT_BYTES_MAX) {
            return Err(TooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next event that is whole; comments and empty events are passed over.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        loop {
            let end = self.taken + block_end(&self.bytes[self.taken..])?;
            let block = self.taken..end;
            self.taken = end;
            if self.read_block(block) {
                return Some(Event { event: &self.name, data: &self.data, id: self.id.as_deref() });
            }
        }
    }

    fn read_block(&mut self, block: std::ops::Range<usize>) -> bool {
        self.name.clear();
        self.data.clear();
        let mut has_data = false;
        let block = &self.bytes[block];
        let block = block.strip_prefix(b"\xef\xbb\xbf").unwrap_or(block);
        for line in block.split(|&b| b == b'\n' || b == b'\r') {
            let (field, value) = match memchr::memchr(b':', line) {
                Some(0) | None if line.is_empty() || line[0] == b':' => continue,
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None => (line, &line[line.len()..]),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match field {
                b"event" => self.name = value.to_vec(),
                b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
                b"data" => {
                    if has_data {
                        self.data.push(b'\n');
                    }
                    has_data = true;
                    self.data.extend_from_slice(value);
                }
                _ => {}
            }
        }
        has_data
    }
}

/// The length of the first block with its blank line, if that is there.
pub fn block_end(bytes: &[u8]) -> Option<usize> {
    let mut scanner = EventScanner { line_is_empty: true, after_return: false, at_boundary: false };
    for (at, byte) in bytes.iter().enumerate() {
        scanner.feed(std::slice::from_ref(byte));
        if scanner.at_boundary() {
            let line_feed_follows = *byte == b'\r' && bytes.get(at + 1) == Some(&b'\n');
            return Some(at + 1 + usize::from(line_feed_follows));
        }
    }
    None
}

/// Name and value of the session parameter in the URL of an `endpoint` event (2024-11-05): a well-known name, else the
/// only parameter there is.
pub fn endpoint_session(data: &[u8]) -> Option<(Span, Span)> {
    let known = SESSION_PARAMETERS.iter().find_map(|name| {
        let value = query_parameter(data, name)?;
        Some((Span { start: value.start - 1 - name.len() as u32, len: name.len() as u32 }, value))
    });
    known.or_else(|| {
        let start = memchr::memchr(b'?', data)? + 1;
        let query = &data[start..];
        let equals = memchr::memchr(b'=', query)?;
        let only = !query.contains(&b'&') && equals > 0 && equals + 1 < query.len();
        only.then(|| (Span::within(data, &query[..equals]), Span::within(data, &query[equals + 1..])))
    })
}

/// The value of a query parameter, as it is spelled.
pub fn query_parameter(path_and_query: &[u8], name: &[u8]) -> Option<Span> {
    let query = &path_and_query[memchr::memchr(b'?', path_and_query)? + 1..];
    let query = &query[..memchr::memchr(b'#', query).unwrap_or(query.len())];
    query.split(|&b| b == b'&').find_map(|pair| {
        let value = pair.strip_prefix(name)?.strip_prefix(b"=")?;
        (!value.is_empty()).then(|| Span::within(path_and_query, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_piece_at_once_is_as_byte_by_byte(pieces in proptest::collection::vec("[a\r\n]{0,6}", 0..6)) {
            let (mut whole, mut slow) = (EventScanner::default(), EventScanner::default());
            for piece in &pieces {
                whole.feed(piece.as_bytes());
                piece.as_bytes().chunks(1).for_each(|byte| slow.feed(byte));
                prop_assert_eq!(&whole, &slow, "{:?}", pieces);
            }
        }
    }

    const STREAM: &[u8] =
        b": hello\r\n\r\nevent: endpoint\r\ndata: /m?sessionId=abc\r\n\r\nid: 7\ndata: a\ndata:b\n\ndata\n\n";

    #[test]
    fn boundaries_are_behind_blank_lines_of_any_kind() {
        for (bytes, expected) in [
            (b"".as_slice(), true),
            (b"data: x", false),
            (b"data: x\n", false),
            (b"data: x\n\n", true),
            (b"data: x\r\n\r\n", true),
            (b"data: x\r\n", false),
            (b"data: x\r\r", true),
            (b": ping\n\nda", false),
        ] {
            for cut in 0..=bytes.len() {
                let mut scanner = EventScanner::default();
                scanner.feed(&bytes[..cut]);
                scanner.feed(&bytes[cut..]);
                assert_eq!(scanner.at_boundary(), expected, "{:?} cut at {cut}", String::from_utf8_lossy(bytes));
            }
        }
    }

    #[test]
    fn reads_the_same_events_at_every_cut() {
        for cut in 0..=STREAM.len() {
            let mut reader = EventReader::default();
            let mut events = Vec::new();
            for part in [&STREAM[..cut], &STREAM[cut..]] {
                reader.feed(part).unwrap();
                while let Some(event) = reader.next_event() {
                    events.push((event.event.to_vec(), event.data.to_vec(), event.id.map(<[u8]>::to_vec)));
                }
            }
            let expected = [
                (b"endpoint".to_vec(), b"/m?sessionId=abc".to_vec(), None),
                (b"".to_vec(), b"a\nb".to_vec(), Some(b"7".to_vec())),
                (b"".to_vec(), b"".to_vec(), Some(b"7".to_vec())),
            ];
            assert_eq!(events, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = EventReader::default();
        let line = b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(100);
        let fed = (0..100).try_for_each(|_| {
            assert!(reader.next_event().is_none());
            reader.feed(&line)
        });
        assert_eq!(fed, Err(TooLarge));
    }

    #[test]
    fn finds_the_session_in_an_endpoint() {
        let found = |data: &'static [u8]| endpoint_session(data).map(|(name, value)| (name.of(data), value.of(data)));
        assert_eq!(found(b"/messages?sessionId=x-1&v=2"), Some((b"sessionId".as_slice(), b"x-1".as_slice())));
        assert_eq!(found(b"http://h/m?a=b&session_id=q#f"), Some((b"session_id".as_slice(), b"q".as_slice())));
        assert_eq!(found(b"/m?token=abc"), Some((b"token".as_slice(), b"abc".as_slice())));
        assert_eq!(found(b"/m?a=1&b=2"), None);
        assert_eq!(found(b"/messages"), None);
    }
}
