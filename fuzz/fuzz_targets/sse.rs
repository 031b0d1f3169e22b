//! Event streams: no panic, and the same events and boundaries for any two pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowcat::wire::sse::{EventReader, EventScanner, endpoint_session};

fn read(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut reader, mut scanner, mut events) = (EventReader::default(), EventScanner::default(), Vec::new());
    for piece in pieces {
        scanner.feed(piece);
        if reader.feed(piece).is_err() {
            break;
        }
        while let Some(event) = reader.next_event() {
            let _ = endpoint_session(event.data);
            events.push(event.data.to_vec());
        }
    }
    (events, scanner.at_boundary())
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    if bytes.len() < 60_000 {
        assert_eq!(read(&[bytes]), read(&[first, second]));
    }
});
