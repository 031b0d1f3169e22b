//! What it costs to hear what an answer says: `cargo bench --bench answer`.

use divan::Bencher;
use divan::counter::BytesCount;
use shadowcat::wire::answer::{Form, Listener};

fn main() {
    divan::main();
}

/// An answer of a tool with so many bytes of text, of which every tenth is an escape.
fn answer(text: usize) -> Vec<u8> {
    let text = r#"{\"a\": 12345678}, "#.repeat(text / 19);
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#)
        .into()
}

fn hear(bencher: Bencher<'_, '_>, form: Form, to_tool: bool, answer: Vec<u8>) {
    bencher.counter(BytesCount::new(answer.len())).bench(|| {
        let mut listener = Listener::new(form, to_tool);
        listener.hear(divan::black_box(&answer), true);
        listener.said()
    });
}

#[divan::bench(args = [0, 200, 4_000, 60_000])]
fn of_another_method(bencher: Bencher<'_, '_>, text: usize) {
    hear(bencher, Form::Json, false, answer(text));
}

#[divan::bench(args = [0, 200, 4_000, 60_000])]
fn of_a_tool(bencher: Bencher<'_, '_>, text: usize) {
    hear(bencher, Form::Json, true, answer(text));
}

/// As servers on the SDKs answer: the result behind a notification.
#[divan::bench(args = [0, 200, 4_000, 60_000])]
fn of_a_tool_in_events(bencher: Bencher<'_, '_>, text: usize) {
    let progress = r#"{"method":"notifications/progress","params":{"progress":1,"progressToken":1},"jsonrpc":"2.0"}"#;
    let head = format!("event: message\ndata: {progress}\n\nevent: message\ndata: ");
    hear(bencher, Form::Events, true, [head.as_bytes(), &answer(text), b"\n\n"].concat());
}

/// What is gone through step by step: the text before `isError` is told from it by no single look.
#[divan::bench(args = [200, 4_000, 60_000])]
fn of_a_tool_in_two_pieces(bencher: Bencher<'_, '_>, text: usize) {
    let answer = answer(text);
    bencher.counter(BytesCount::new(answer.len())).bench(|| {
        let mut listener = Listener::new(Form::Json, true);
        let (first, second) = divan::black_box(&answer).split_at(answer.len() - 8);
        listener.hear(first, false);
        listener.hear(second, true);
        listener.said()
    });
}
