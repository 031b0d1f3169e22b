use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::script::{Script, To, What};
use super::stage::{Heard, Out, Said, Stage, Target};
use super::{Speed, splice};

const NOW: Duration = Duration::ZERO;

fn script(transport: &str, frames: &[Value]) -> Arc<Script> {
    let head = json!({ "shadowcat_tape": 1, "id": "0", "started": "", "software": "", "transport": transport });
    let mut text = format!("{head}\n");
    for (number, frame) in frames.iter().enumerate() {
        let mut frame = frame.clone();
        frame["seq"] = json!(number + 1);
        frame["us"].is_null().then(|| frame["us"] = json!(number * 1000));
        text += &format!("{frame}\n");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Arc::new(Script::read(file.path()).unwrap())
}

fn stage(script: &Arc<Script>) -> Stage {
    Stage::new(Arc::clone(script), Speed::Fast)
}

fn post(exchange: u64, message: Value) -> Value {
    let http = json!({ "kind": "request", "method": "POST", "target": "/mcp", "headers": [] });
    json!({ "from": "client", "exchange": exchange, "http": http, "message": message })
}

fn response(exchange: u64, kind: &str) -> Value {
    let http = json!({ "kind": "response", "status": 200, "headers": [["Content-Type", kind]] });
    json!({ "from": "server", "exchange": exchange, "http": http })
}

fn event(exchange: u64, message: Value) -> Value {
    json!({ "from": "server", "exchange": exchange, "http": { "kind": "event" }, "message": message })
}

fn request(id: Value, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn call(stage: &mut Stage, message: &Value) -> u64 {
    match stage.hear(&message.to_string(), NOW) {
        Heard::Call(run) => run,
        other => panic!("{other:?}"),
    }
}

/// Everything that is said now: where, and what.
fn play(stage: &mut Stage) -> Vec<(Target, Value)> {
    std::iter::from_fn(|| stage.play(NOW))
        .filter_map(|out| match out {
            Out::Say { to, said: Said { data, .. }, .. } => Some((to, serde_json::from_slice(&data).unwrap())),
            Out::Break(_) | Out::End { .. } => None,
        })
        .collect()
}

fn meta() -> Value {
    json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28" })
}

#[test]
fn a_listener_of_now_hears_what_the_one_of_then_heard() {
    let listen = |id: Value| request(id, "subscriptions/listen", json!({ "_meta": meta(), "notifications": {} }));
    let heard = |id: Value, method: &str| {
        let meta = json!({ "io.modelcontextprotocol/subscriptionId": id });
        json!({ "jsonrpc": "2.0", "method": method, "params": { "_meta": meta } })
    };
    let touch = |id: u64| request(json!(id), "tools/call", json!({ "name": "touch", "_meta": meta() }));
    let script = script(
        "http",
        &[
            post(1, listen(json!(1))),
            response(1, "text/event-stream"),
            event(1, heard(json!(1), "notifications/subscriptions/acknowledged")),
            post(2, touch(2)),
            event(1, heard(json!(1), "notifications/resources/updated")),
            json!({ "from": "server", "exchange": 2, "http": { "kind": "response", "status": 200, "headers": [] },
                    "message": { "jsonrpc": "2.0", "id": 2, "result": {} } }),
            json!({ "from": "proxy", "exchange": 1, "http": { "kind": "end", "how": "cut: the client left" } }),
        ],
    );
    assert!(script.facts.is_modern && !script.facts.has_sessions);
    let mut stage = stage(&script);
    let listens = call(&mut stage, &listen(json!("mine")));
    let acknowledged = heard(json!("mine"), "notifications/subscriptions/acknowledged");
    assert_eq!(play(&mut stage), [(Target::Run(listens), acknowledged)]);
    let touches = call(&mut stage, &touch(9));
    assert_eq!(
        play(&mut stage),
        [
            (Target::Run(listens), heard(json!("mine"), "notifications/resources/updated")),
            (Target::Run(touches), json!({ "jsonrpc": "2.0", "id": 9, "result": {} })),
        ]
    );
    // Nobody listens: the call is answered all the same.
    let mut alone = super::tests::stage(&script);
    let touches = call(&mut alone, &touch(9));
    assert_eq!(play(&mut alone), [(Target::Run(touches), json!({ "jsonrpc": "2.0", "id": 9, "result": {} }))]);
}

#[test]
fn what_one_stream_carries_belongs_to_what_was_posted() {
    let get = json!({ "kind": "request", "method": "GET", "target": "/sse", "headers": [] });
    let endpoint = json!({ "kind": "event", "event": "endpoint" });
    let posted = |exchange: u64, message: Value| {
        let http = json!({ "kind": "request", "method": "POST", "target": "/messages?sessionId=x", "headers": [] });
        json!({ "from": "client", "exchange": exchange, "http": http, "message": message })
    };
    let script = script(
        "http",
        &[
            json!({ "from": "client", "exchange": 1, "http": get }),
            response(1, "text/event-stream"),
            json!({ "from": "server", "exchange": 1, "http": endpoint, "text": "/messages?sessionId=x" }),
            posted(2, request(json!(1), "tools/call", json!({ "name": "a" }))),
            json!({ "from": "server", "exchange": 2, "http": { "kind": "response", "status": 202, "headers": [] } }),
            posted(3, request(json!(2), "tools/call", json!({ "name": "b" }))),
            event(1, json!({ "jsonrpc": "2.0", "id": 2, "result": "b" })),
            event(1, json!({ "jsonrpc": "2.0", "id": 1, "result": "a" })),
        ],
    );
    assert_eq!(script.facts.one_stream.as_deref(), Some("/sse"));
    let mut stage = stage(&script);
    call(&mut stage, &request(json!(7), "tools/call", json!({ "name": "a" })));
    assert_eq!(play(&mut stage)[0].1, json!({ "jsonrpc": "2.0", "id": 7, "result": "a" }));
    call(&mut stage, &request(json!(8), "tools/call", json!({ "name": "b" })));
    assert_eq!(play(&mut stage)[0].1, json!({ "jsonrpc": "2.0", "id": 8, "result": "b" }));
}

#[test]
fn what_is_cancelled_is_not_played_on() {
    let script = script(
        "stdio",
        &[
            json!({ "from": "client", "message": request(json!(1), "slow", json!({})) }),
            json!({ "from": "server", "us": 900_000, "message": { "jsonrpc": "2.0", "id": 1, "result": {} } }),
        ],
    );
    let mut stage = Stage::new(Arc::clone(&script), Speed::Times(1.0));
    call(&mut stage, &request(json!(5), "slow", json!({})));
    assert_eq!(stage.due(), Some(Duration::from_micros(900_000)));
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5 } });
    assert_eq!(stage.hear(&cancel.to_string(), NOW), Heard::Taken);
    assert_eq!(stage.due(), None);
    assert_eq!(stage.play(Duration::from_secs(2)), None);
}

#[test]
fn an_answer_in_pieces_is_one() {
    let piece = |text: &str| json!({ "from": "server", "exchange": 1, "http": { "kind": "body" }, "text": text });
    let head = response(1, "application/json");
    let script = script(
        "http",
        &[post(1, request(json!(1), "x", json!({}))), head, piece(r#"{"id":1,"#), piece(r#""result":{}}"#)],
    );
    let steps: Vec<bool> = script.courses[1]
        .steps
        .iter()
        .map(|step| matches!(step.what, What::Say { to: To::Own, last: true, .. }))
        .collect();
    assert_eq!(steps, [false, true]);
}

proptest! {
    /// Whatever lines a tape has, and whatever a client says then, nobody panics and there is an end.
    #[test]
    fn no_tape_and_no_client_breaks_it(
        kinds in prop::collection::vec(0..9_usize, 0..40), ids in prop::collection::vec(0..4_u64, 40), said in prop::collection::vec((0..6_usize, 0..4_u64), 0..30)
    ) {
        let frames: Vec<Value> = kinds.iter().zip(&ids).map(|(kind, &id)| match kind {
            0 => post(id, request(json!(id), "a", json!({ "_meta": { "progressToken": id } }))),
            1 => response(id, "text/event-stream"),
            2 => response(id, "application/json"),
            3 => event(id, json!({ "jsonrpc": "2.0", "id": id, "result": {} })),
            4 => event(id, request(json!(id), "asks", json!({}))),
            5 => json!({ "from": "client", "exchange": id, "answers": id + 1, "message": { "id": id, "result": {} } }),
            6 => json!({ "from": "client", "exchange": id, "http": { "kind": "request", "method": "GET", "target": "/", "headers": [["last-event-id", "1"]] } }),
            7 => json!({ "from": "proxy", "exchange": id, "http": { "kind": "end", "how": "complete" } }),
            _ => event(id, json!({ "method": "notifications/progress", "params": { "progressToken": id } })),
        }).collect();
        for transport in ["http", "stdio"] {
            let mut stage = stage(&script(transport, &frames));
            stage.open(NOW);
            for &(kind, id) in &said {
                let message = match kind {
                    0 => request(json!(id), "a", json!({})),
                    1 => json!({ "id": id, "result": {} }),
                    2 => json!({ "method": "notifications/cancelled", "params": { "requestId": id } }),
                    3 => json!([]),
                    4 => request(json!(id), "unknown", json!({})),
                    _ => json!(null),
                };
                stage.hear(&message.to_string(), NOW);
                prop_assert!(std::iter::from_fn(|| stage.play(NOW)).take(1000).count() < 1000);
                stage.notes();
            }
        }
    }

    /// What is no message is handed on as it is.
    #[test]
    fn texts_without_names_do_not_change(text in ".{0,60}") {
        prop_assert_eq!(splice::rewrite(&text, splice::Names::default()), Some(text));
    }
}
