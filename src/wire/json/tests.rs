use super::PeekError::{Duplicate, TooLong};
use super::*;

fn peek(body: &[u8]) -> Result<Peek, PeekError> {
    let mut peek = Peek::new();
    peek.feed(body)?;
    peek.finish()?;
    Ok(peek)
}

#[test]
fn finds_what_routing_needs_whatever_the_order() {
    let body = br#" {"params":{"arguments":{"method":"x","name":[1]},"name":"a\u0064d","_meta":{"progressToken":1,
        "io.modelcontextprotocol/protocolVersion":"2026-07-28"}},"method":"tools/call","id":"\u00e9-1","jsonrpc":"2.0"} "#;
    let found = peek(body).unwrap();
    assert_eq!(found.kind(), Kind::Request);
    assert_eq!(found.method(), Some(b"tools/call".as_slice()));
    assert_eq!(found.name(), Some(b"add".as_slice()));
    assert_eq!(found.id(), Some(br#""\u00e9-1""#.as_slice()));
    assert_eq!(found.protocol_version(), Some(b"2026-07-28".as_slice()));
    assert!(found.is_modern());
}

#[test]
fn tells_kinds_apart() {
    let kind = |body: &str| peek(body.as_bytes()).unwrap().kind();
    assert_eq!(kind(r#"{"jsonrpc":"2.0","method":"ping","id":null}"#), Kind::Request);
    assert_eq!(kind(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), Kind::Notification);
    assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Kind::Response);
    assert_eq!(kind(r#"[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"a"}]"#), Kind::Batch);
    assert_eq!(kind(r#"{"client_name":"x","id":{}}"#), Kind::Opaque);
    assert_eq!(kind("12.5e-1"), Kind::Opaque);
    assert!(peek(br#"[{"jsonrpc":"2.0","method":"initialize","id":1}]"#).unwrap().batch_has_initialize());
}

#[test]
fn routing_keys_may_stand_only_once_also_with_escapes() {
    for body in [
        r#"{"jsonrpc":"2.0","method":"a","m\u0065thod":"b","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"a"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"jsonrpc":"2.0","params":{},"params":{}}"#,
        r#"[{"method":"a","method":"b"}]"#,
        r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"1","io.modelcontextprotocol\/protocolVersion":"2"}}}"#,
    ] {
        let error = peek(body.as_bytes()).unwrap_err();
        assert!(matches!(error, Duplicate(_)), "{body}: {error}");
        assert_eq!(error.code(), -32600);
    }
    // The same names elsewhere are nobody's business.
    peek(br#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"name":1,"name":2}}}"#).unwrap();
    peek(br#"[{"method":"a","id":1},{"method":"a","id":1}]"#).unwrap();
}

#[test]
fn wrong_types_are_refused_in_json_rpc_only() {
    assert_eq!(peek(br#"{"jsonrpc":"2.0","method":1}"#).unwrap_err(), PeekError::Type("method"));
    assert_eq!(peek(br#"{"id":[],"jsonrpc":"2.0","method":"a"}"#).unwrap_err(), PeekError::Type("id"));
    assert_eq!(peek(br#"{"id":true,"jsonrpc":"2.0"}"#).unwrap_err(), PeekError::Type("id"));
    peek(br#"{"id":[]}"#).unwrap();
}

#[test]
fn keys_that_some_parsers_take_for_ours_are_refused() {
    let long = format!(r#"{{"method":"a","method\u0000{}":"b"}}"#, "x".repeat(200));
    for (body, like) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#, "method"),
        (r#"{"METHOD":"b"}"#, "method"),
        (r#"{"JsonRpc":"2.0","id":1}"#, "jsonrpc"),
        (r#"{"jsonrpc":"2.0","id":1,"ID":2}"#, "id"),
        (r#"{"jsonrpc":"2.0","method":"tools/call","param\u017f":{"name":"b"}}"#, "params"),
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","NAME":"b"}}"#, "name"),
        (r#"{"method":"tasks/get","params":{"tas\u212aId":"b"}}"#, "taskId"),
        (r#"{"jsonrpc":"2.0","method":"a","method\u0000":"b"}"#, "method"),
        (r#"{"jsonrpc":"2.0","method":"a","METHOD\u0000\u0000x":"b"}"#, "method"),
        (&long, "method"),
        (r#"[{"jsonrpc":"2.0","method":"a","iD":1}]"#, "id"),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"_meta":{"io.modelcontextprotocol/protocolversion":"x"}}}"#,
            "io.modelcontextprotocol/protocolVersion",
        ),
    ] {
        assert_eq!(peek(body.as_bytes()).err(), Some(PeekError::Lookalike(like)), "{body}");
    }
    for body in [
        r#"{"Name":"a","ID":1,"Params":{}}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"arguments":{"Name":1,"ID":2},"names":1,"\u0000name":2}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"TaskId":"a"},"methods":1}"#,
    ] {
        peek(body.as_bytes()).unwrap();
    }
}

#[test]
fn bounds_hold() {
    let long = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "m".repeat(257));
    assert_eq!(peek(long.as_bytes()).unwrap_err(), TooLong("method"));
    let deep = [b"[".repeat(129), b"]".repeat(129)].concat();
    assert!(peek(&deep).is_err());
    peek(&deep[1..257]).unwrap();
}

#[test]
fn the_same_state_hashes_alike_in_request_and_answer() {
    let request = peek(br#"{"params":{"requestState":"a\u0062c","taskId":"t"},"method":"tasks/get"}"#).unwrap();
    let answer = peek(br#"{"result":{"requestState":"abc","task":{"taskId":"t"}}}"#).unwrap();
    assert!(request.request_state().is_some());
    assert_eq!(request.request_state(), answer.request_state());
    assert_eq!(request.task_id_hash(), answer.task_id_hash());
    assert_eq!(request.name(), Some(b"t".as_slice()));
}

fn agrees_with_serde(body: &[u8]) {
    let ours = peek(body);
    let theirs = serde_json::from_slice::<serde_json::Value>(body);
    match (&ours, &theirs) {
        (Ok(_), Ok(_))
        | (Err(_), Err(_))
        | (Err(Duplicate(_) | TooLong(_) | PeekError::Type(_) | PeekError::Lookalike(_)), _) => {}
        // Numbers beyond f64 are grammar to us and out of range to a tree.
        (Ok(_), Err(error)) if error.to_string().contains("out of range") => {}
        _ => panic!("{:?}: ours {:?}, serde_json {theirs:?}", String::from_utf8_lossy(body), ours.err()),
    }
}

#[test]
fn agrees_with_serde_json_on_what_is_json() {
    for body in [
        "",
        " ",
        "{}",
        "[]",
        "[1,]",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        "01",
        "-",
        "-0",
        "1.",
        "1.e1",
        "1e",
        "1e+",
        "1e+5",
        "tru",
        "true",
        "nullx",
        r#""\ud83d\ude00""#,
        r#""\ud83d""#,
        r#""\ude00""#,
        r#""\x""#,
        r#""\u12g4""#,
        "\"\u{7f}é😀\"",
        "\"\t\"",
        "[1 2]",
        "{\"a\":1 \"b\":2}",
        "[[]",
        "]",
        "1 1",
        "\u{feff}{}",
        r#"{"a":[{"b":[null,false,-1.5E+10]}]}"#,
    ] {
        agrees_with_serde(body.as_bytes());
    }
    for body in [b"\"\xff\"".as_slice(), b"\"\xc3\"", b"\"\xe2\x82\"", b"\"\xed\xa0\x80\"", b"\"\xc3\\n\""] {
        agrees_with_serde(body);
    }
}

#[test]
fn the_context_of_a_trace_is_found_in_meta_alone() {
    let body = |meta: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"traceparent":"x","_meta":{meta}}}}}"#)
    };
    let found = |meta: &str| {
        let found = peek(body(meta).as_bytes()).unwrap();
        found.trace_context().map(|(parent, state)| (parent.to_vec(), state.map(<[u8]>::to_vec)))
    };
    assert_eq!(found(r#"{"traceparent":"a\u0062","tracestate":"c=d"}"#), Some((b"ab".to_vec(), Some(b"c=d".to_vec()))));
    assert_eq!(found(r#"{"traceparent":"a"}"#), Some((b"a".to_vec(), None)));
    for nothing in [r#"{"tracestate":"c=d"}"#, r#"{"traceparent":5}"#, r#"{"a":{"traceparent":"a"}}"#, "{}", "5"] {
        assert_eq!(found(nothing), None, "{nothing}");
    }
}

/// What is recorded of a call's arguments is what upstream reads.
#[test]
fn arguments_stand_once() {
    let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{params}}}}}"#);
    assert!(peek(call(r#""name":"t","arguments":{"arguments":1}"#).as_bytes()).is_ok());
    for bad in [r#""arguments":{},"arguments":{}"#, r#""arguments":{},"arg\u0075ments":{}"#, r#""Arguments":{}"#] {
        assert!(peek(call(bad).as_bytes()).is_err(), "{bad}");
    }
}

/// All that a peek tells.
fn told(peek: &Peek) -> impl PartialEq + std::fmt::Debug {
    let texts = [peek.method(), peek.id(), peek.name(), peek.protocol_version(), peek.initialize_version()];
    let rest = (peek.cancelled_request_id(), peek.trace_context(), peek.request_state(), peek.task_id_hash());
    format!("{:?} {texts:?} {rest:?} {} {}", peek.kind(), peek.is_modern(), peek.batch_has_initialize())
}

fn fed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Result<(), PeekError>, Peek) {
    let mut peek = Peek::new();
    let fed = pieces.into_iter().try_for_each(|piece| peek.feed(piece));
    (fed.and_then(|()| peek.finish()), peek)
}

/// What is whole in one piece goes another way than what is cut.
#[test]
fn messages_tell_the_same_in_one_piece_and_in_any_two_and_byte_by_byte() {
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a long plain text of more than forty bytes, then"}}}"#,
        r#"{"id": 907, "jsonrpc": "2.0", "params": {"_meta": {"traceparent": "00-1", "tracestate": "a", "x": 1}, "name": "a"}, "method": "prompts/get"}"#,
        "{\n  \"jsonrpc\" : \"2.0\",\r\n\t\"id\": \"a-1\",\n \"method\": \"tasks/get\", \"params\": {\n \"taskId\": \"t\"\n }\n}\n",
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":12,"a":{"b":[{"c":"d"},"e",1]},"f":{}}}"#,
        r#"{"jsonrpc":"2.0","id":10.5,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"a":-1,"b":0}}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":{"requestState":"s","task":{"taskId":"t"},"arguments":{"größe":"größe"}}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"initialize"},{"method":"a","id":22,"params":{"uri":"u","requestState":"s"}}]"#,
        r#"{"id":1,"method":"a","method":"b"}"#,
        r#"{"jsonrpc":"2.0","method":17}"#,
        r#"{"jsonrpc":"2.0","id":1,"Method":"b"}"#,
        r#"{"jsonrpc":"2.0","id":{"a":1}}"#,
        r#"{"id":1]"#,
        r#"{"id":1,}"#,
        r#"{"a":{"b":1}}}"#,
        r#"{"id":01}"#,
        r#"{"id":12x}"#,
        r#"{"id":12"#,
        r#"[{"a":"b"}}"#,
    ] {
        let body = body.as_bytes();
        let (ended, whole) = fed([body]);
        let ways = (0..=body.len()).map(|at| vec![&body[..at], &body[at..]]).chain([body.chunks(1).collect()]);
        for pieces in ways {
            let cut = pieces[0].len();
            let (cut_ended, cut_whole) = fed(pieces);
            assert_eq!(ended, cut_ended, "{:?} at {cut}", String::from_utf8_lossy(body));
            assert_eq!(told(&whole), told(&cut_whole), "{:?} at {cut}", String::from_utf8_lossy(body));
        }
    }
}

/// However many containers are open when it ends.
#[test]
fn a_peek_that_is_reset_remembers_nothing() {
    let fresh = fed([br#"{"jsonrpc":"2.0","method":"a"}"#.as_slice()]).1;
    let mut used = Peek::new();
    for before in [
        r#"[{"id":1,"method":"initialize","params":{"name":"x","taskId":"t","_meta":{"traceparent":"a","Name":[["#,
        r#"{"Method":1,"id":[],"meth"#,
        r#"{"result":{"requestState":"a\u00"#,
        "\"\u{e9}",
    ] {
        used.feed(&before.as_bytes()[..before.len() - 1]).unwrap();
        used.reset();
        used.feed(br#"{"jsonrpc":"2.0","method":"a"}"#).unwrap();
        used.finish().unwrap();
        assert_eq!(told(&fresh), told(&used), "after {before}");
        used.reset();
    }
}

proptest::proptest! {
    #[test]
    fn any_chunking_gives_the_same_result(
        body in proptest::collection::vec(proptest::sample::select(PIECES), 0..24),
        cuts in proptest::collection::vec(0usize..200, 0..12),
    ) {
        let body = body.concat();
        let bytes = body.as_bytes();
        let mut ends: Vec<usize> = cuts.iter().map(|&cut| cut.min(body.len())).chain([0, body.len()]).collect();
        ends.sort_unstable();
        let (ended, whole) = fed([bytes]);
        for (cut_ended, cut_whole) in [fed(ends.windows(2).map(|w| &bytes[w[0]..w[1]])), fed(bytes.chunks(1))] {
            proptest::prop_assert_eq!(ended, cut_ended);
            proptest::prop_assert_eq!(told(&whole), told(&cut_whole));
        }
        agrees_with_serde(bytes);
    }
}

const PIECES: &[&str] = &[
    r#""Method":"#,
    r#""method\u0000":"#,
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"method\":",
    "\"id\":",
    "\"params\":{",
    "\"name\":",
    "\"jsonrpc\":\"2.0\",",
    "\"a\\u00e9\\ud83d\\ude00\"",
    "\"é😀\"",
    "1",
    "-0.5e3",
    "null",
    "true",
    " ",
    "\"tools/call\"",
    "\\u0041",
    "\\",
    "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}",
    "\"requestState\":\"x\"",
    "\"id\":12,",
    "\"arguments\":{\"a\":{\"b\":\"c\"}}",
    "\"b\" : 7 , ",
    "},",
];
