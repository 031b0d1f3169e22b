use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

fn head() -> Head {
    Head {
        version: VERSION,
        id: "0123456789abcdef0123456789abcdef".into(),
        started: "2026-11-25T20:00:00.000000Z".into(),
        software: "shadowcat 0.0.0".into(),
        transport: Transport::Http,
        server: Server { command: vec![], upstream: Some("http://127.0.0.1:1".into()) },
        session: None,
        part: 1,
    }
}

const MESSAGE: &[u8] = br#"{"jsonrpc":"2.0", "id":1,"method":"tools/call","params":{"name":"\u00e9\ud800"}}"#;

/// One of everything.
fn tape() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::begin(&head(), &mut out);
    let mut frame = Frame::new(10, Side::Client);
    frame.hold(MESSAGE);
    frame.exchange = Some(1);
    frame.http = Some(Http::Request {
        method: "POST".into(),
        target: "/mcp".into(),
        headers: vec![("Accept".into(), "a, \"b\"".into())],
    });
    frame.rpc = Some(Rpc { method: "tools/call".into(), name: Some("é".into()), id: serde_json::from_str("1").ok() });
    assert_eq!(writer.frame(frame, &mut out), 1);
    let mut frame = Frame::new(5, Side::Server);
    frame.hold(b"two\nlines");
    (frame.answers, frame.error, frame.cut) = (Some(1), true, 7);
    frame.http = Some(Http::Event { id: Some("7".into()), event: None, retry: Some(10) });
    assert_eq!(writer.frame(frame, &mut out), 2);
    writer.checkpoint(&mut out);
    writer.gap(Gap { frames: 3, bytes: 100 }, &mut out);
    let mut frame = Frame::new(20, Side::Server);
    frame.hold(b"\xff\x00");
    frame.stream = Some(Stream::Stderr);
    writer.frame(frame, &mut out);
    writer.frame(Frame { http: Some(Http::End { how: "complete".into() }), ..Frame::new(21, Side::Proxy) }, &mut out);
    assert_eq!(writer.bytes(), out.len() as u64);
    writer.end(Why::Finished, &mut out);
    out
}

/// What a reader says of each line, and where.
fn said(pieces: &[&[u8]], line_bytes_max: usize) -> Vec<(u64, u64, Vec<u8>, String)> {
    let (mut reader, mut said) = (Reader::of_lines_up_to(line_bytes_max), Vec::new());
    let mut drain = |reader: &mut Reader| {
        while let Some(entry) = reader.next_entry() {
            let line = entry.line.map_or_else(|damage| format!("damage: {damage}"), |line| format!("{line:?}"));
            said.push((entry.number, entry.offset, entry.bytes.to_vec(), line));
        }
    };
    for piece in pieces {
        reader.feed(piece);
        drain(&mut reader);
    }
    reader.finish();
    drain(&mut reader);
    said
}

fn damage(bytes: &[u8]) -> Vec<(u64, String)> {
    let found = said(&[bytes], LINE_BYTES_MAX).into_iter();
    found.filter_map(|(number, .., line)| Some((number, line.strip_prefix("damage: ")?.to_owned()))).collect()
}

fn with_line(line: &str) -> Vec<u8> {
    let tape = tape();
    let head = tape.iter().position(|&byte| byte == b'\n').unwrap();
    [&tape[..=head], line.as_bytes(), b"\n"].concat()
}

#[test]
fn what_is_written_is_read() {
    let bytes = tape();
    let mut reader = Reader::new();
    reader.feed(&bytes);
    reader.finish();
    let mut frames = Vec::new();
    let (mut ends, mut checkpoints, mut gaps) = (0, 0, 0);
    while let Some(entry) = reader.next_entry() {
        match entry.line.unwrap() {
            Line::Head(read) => assert_eq!(read, head()),
            Line::Frame(frame) => frames.push((frame.seq, frame.us, frame.content().map(Cow::into_owned))),
            Line::Gap(gap) => gaps += gap.frames,
            Line::Checkpoint(checkpoint) => checkpoints += checkpoint.seq,
            Line::End(End { why: Why::Finished, frames: 4, dropped: 3 }) => ends += 1,
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        (1, 10, Some(MESSAGE.to_vec())),
        (2, 10, Some(b"two\nlines".to_vec())),
        (3, 20, Some(b"\xff\x00".to_vec())),
        (4, 21, None),
    ];
    assert_eq!((frames.as_slice(), ends, checkpoints, gaps), (expected.as_slice(), 1, 2 + 4, 3));
}

#[test]
fn lines_are_as_documented() {
    insta::assert_snapshot!(String::from_utf8(tape()).unwrap());
}

#[test]
fn a_tape_cut_anywhere_keeps_its_whole_lines() {
    let bytes = tape();
    let all = said(&[&bytes], LINE_BYTES_MAX);
    for cut in 0..bytes.len() {
        let found = said(&[&bytes[..cut]], LINE_BYTES_MAX);
        let whole = memchr::memchr_iter(b'\n', &bytes[..cut]).count();
        assert_eq!(found[..whole], all[..whole], "cut at {cut}");
        let torn = cut > 0 && bytes[cut - 1] != b'\n';
        assert_eq!(found.len(), whole + usize::from(torn), "cut at {cut}");
        assert!(!torn || found[whole].3.starts_with("damage: "), "cut at {cut}: {:?}", found[whole]);
    }
}

#[test]
fn damage_is_told_with_its_line_and_the_rest_is_read() {
    let bytes = tape();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert_eq!(damage(&bytes), []);
    let found = damage(text.replace("two\\n", "2wo\\n").as_bytes());
    assert!(matches!(&found[..], [(4, what)] if what.contains("were changed")), "{found:?}");
    // Of a line too much the last checkpoint tells as well.
    let found = damage(text.replace("\"two\\n", "\"too many\\n").as_bytes());
    assert!(matches!(&found[..], [(4, what), (8, _)] if what.contains("too many")), "{found:?}");
    let found = damage(text.replace("{\"gap\"", "{gap").as_bytes());
    assert!(matches!(&found[..], [(5, what), (8, _)] if what.contains("(column 2)")), "{found:?}");
    let found = damage(&with_line("{\"seq\":1,\"us\":1,\"from\":\"nobody\"}"));
    assert!(matches!(&found[..], [(2, what)] if what.contains("nobody")), "{found:?}");
}

#[test]
fn what_is_no_tape_or_of_a_later_version_is_refused_at_its_first_line() {
    for text in ["{}\n{}\n", "\n", "PK\x03\x04\n", "{\"shadowcat_tape\":1}\n", "[1]\nx\n", "{\"shadowcat_tape\":1"] {
        let found = damage(text.as_bytes());
        assert!(matches!(&found[..], [(1, what)] if what.starts_with("not a tape")), "{text}: {found:?}");
    }
    let found = damage(b"{\"shadowcat_tape\":2,\"new\":true}\n{}\n");
    assert!(matches!(&found[..], [(1, what)] if what.contains("version 2")), "{found:?}");
    assert_eq!(damage(b""), []);
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let known = "\"seq\":1,\"us\":1,\"from\":\"client\"";
    for line in [
        "{\"mood\":\"good\"}".to_owned(),
        format!("{{\"mood\":{{}},{known}}}"),
        format!("{{{known},\"http\":{{\"kind\":\"push\",\"x\":1}}}}"),
    ] {
        assert_eq!(damage(&with_line(&line)), [], "{line}");
    }
}

#[test]
fn tapes_behind_one_another_are_read_as_they_are() {
    let twice = [tape(), tape()].concat();
    assert_eq!((damage(&twice), said(&[&twice], LINE_BYTES_MAX).len()), (vec![], 18));
}

#[test]
fn a_line_that_is_too_long_is_passed_over_in_any_pieces() {
    let long = [tape(), b"x".repeat(1000), b"\n".to_vec(), b"y".repeat(700)].concat();
    let whole = said(&[&long], 600);
    assert!(whole[9].3.contains("1000 bytes") && whole[10].3.contains("700 bytes"), "{whole:?}");
    for size in [1, 7, 599, 600, 601, 1400] {
        let pieces: Vec<&[u8]> = long.chunks(size).collect();
        let mut found = said(&pieces, 600);
        // Of a torn line as much is shown as there is.
        found[10].2.clone_from(&whole[10].2);
        assert_eq!(found, whole, "pieces of {size}");
    }
}

#[test]
fn only_json_on_one_line_stands_as_it_is() {
    for text in ["{}", "[1,2]", "{\"a\":\"\u{2028}\"}"] {
        assert_eq!(as_message(text).map(|message| message.get()), Some(text));
    }
    for text in ["", "1", "\"x\"", " {}", "{} ", "{\n}", "{}{}", "{\"a\":1", "[}", "{} {}"] {
        assert!(as_message(text).is_none(), "{text}");
    }
}

proptest! {
    /// Whatever was said is kept to the byte, in any pieces.
    #[test]
    fn bytes_come_back(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6), cut in 0usize..2000,
    ) {
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(&head(), &mut bytes);
        for content in &contents {
            let mut frame = Frame::new(1, Side::Client);
            frame.hold(content);
            writer.frame(frame, &mut bytes);
        }
        writer.end(Why::Finished, &mut bytes);
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        prop_assert_eq!(said(&[first, second], LINE_BYTES_MAX), said(&[&bytes], LINE_BYTES_MAX));
        let mut reader = Reader::new();
        reader.feed(&bytes);
        let mut read = Vec::new();
        while let Some(entry) = reader.next_entry() {
            if let Line::Frame(frame) = entry.line.unwrap() {
                read.push(frame.content().unwrap_or_default().into_owned());
            }
        }
        prop_assert_eq!(read, contents);
    }
}
