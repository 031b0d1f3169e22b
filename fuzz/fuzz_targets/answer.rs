//! Answers: no panic, and of a message that is sound the same as a parser of whole texts says, in any two pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shadowcat::wire::answer::{Form, Listener, Said};

fn heard(form: Form, to_tool: bool, pieces: &[&[u8]]) -> Said {
    let mut listener = Listener::new(form, to_tool);
    for (at, piece) in pieces.iter().enumerate() {
        listener.hear(piece, at + 1 == pieces.len());
    }
    listener.said()
}

/// `None`: what keys stand twice or are spelt with escapes, and what is no answer, is not compared.
fn expected(bytes: &[u8], to_tool: bool) -> Option<Said> {
    let text = std::str::from_utf8(bytes).ok()?;
    let message: Value = serde_json::from_str(text).ok()?;
    let once = |key: &str| text.matches(&format!("\"{key}\"")).count() <= 1;
    if text.contains('\\') || !["result", "error", "method", "isError", "code"].iter().all(|key| once(key)) {
        return None;
    }
    let (result, error) = (message.get("result"), message.get("error"));
    match (message.get("method"), result, error) {
        (None, Some(result), None) => {
            let failed = to_tool && result.get("isError") == Some(&Value::Bool(true));
            Some(if failed { Said::ToolError } else { Said::Result })
        }
        (None, None, Some(Value::Object(error))) => match error.get("code") {
            None => Some(Said::Error(0)),
            Some(code) => code.as_i64().and_then(|code| i32::try_from(code).ok()).map(Said::Error),
        },
        _ => None,
    }
}

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (cut, to_tool, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let cut = heard(Form::Json, to_tool, &[first, second]);
    heard(Form::Events, to_tool, &[first, second]);
    if let Some(expected) = expected(bytes, to_tool) {
        assert_eq!((heard(Form::Json, to_tool, &[bytes]), cut), (expected, expected));
        // Line ends within a message would end an event's line.
        if !bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let event = [b"data: ", bytes, b"\n\n"].concat();
            assert_eq!(heard(Form::Events, to_tool, &[&event]), expected);
        }
    }
});
