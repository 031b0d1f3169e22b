//! Tapes: no panic, and the same lines for any two pieces; a tape behind which anything stands keeps its own lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowcat::wire::tape::{Frame, Head, Line, Reader, Server, Side, Transport, VERSION, Why, Writer};

fn read(pieces: &[&[u8]]) -> Vec<String> {
    let (mut reader, mut lines) = (Reader::new(), Vec::new());
    for piece in pieces {
        reader.feed(piece);
        while let Some(entry) = reader.next_entry() {
            if let Ok(Line::Frame(frame)) = &entry.line {
                let _ = frame.content();
            }
            lines.push(format!("{} {} {:?}", entry.number, entry.offset, entry.line));
        }
    }
    reader.finish();
    lines.extend(std::iter::from_fn(|| reader.next_entry().map(|entry| format!("{:?}", entry.line))));
    lines
}

/// A tape whose one frame says these bytes.
fn tape(bytes: &[u8]) -> Vec<u8> {
    let head = Head {
        version: VERSION,
        id: "0".repeat(32),
        started: "2026-11-25T20:00:00.000000Z".into(),
        software: "fuzz".into(),
        transport: Transport::Stdio,
        server: Server::default(),
        session: None,
        part: 1,
    };
    let mut out = Vec::new();
    let mut writer = Writer::begin(&head, &mut out);
    let mut frame = Frame::new(1, Side::Client);
    frame.hold(bytes);
    writer.frame(frame, &mut out);
    writer.end(Why::Finished, &mut out);
    out
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(read(&[bytes]), read(&[first, second]));
    let whole = tape(bytes);
    let mut reader = Reader::new();
    reader.feed(&[whole.as_slice(), bytes].concat());
    for line in 1..=4 {
        let entry = reader.next_entry().expect("a line");
        if let Line::Frame(frame) = entry.line.expect("a sound line") {
            assert_eq!((line, frame.content().unwrap_or_default().as_ref()), (2, bytes));
        }
    }
});
