//! The demo server as HTTP clients see it, over real sockets on loopback.

#[path = "demo/client.rs"]
mod client;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use client::{Client, MODERN, call, modern, modern_fields, open, post, request, with_progress};
use serde_json::{Value, json};
use shadowcat::demo::{self, Demo};
use shadowcat::net::driver::Choice;

const PATIENCE: Duration = Duration::from_secs(10);

fn server() -> SocketAddr {
    demo::spawn(([127, 0, 0, 1], 0).into(), 1).expect("a free port").address
}

fn whoami(address: SocketAddr) -> Value {
    modern(&mut Client::new(address), call(1, "whoami", json!({}))).json()["result"]["structuredContent"].take()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_session_begins_with_initialize_and_ends_with_delete() {
    let mut client = Client::new(server());
    assert_eq!(client.post("", &request(1, "ping", json!({}))).status, 400);
    assert_eq!(client.post("Mcp-Session-Id: unknown\r\n", &request(1, "ping", json!({}))).status, 404);
    let session = open(&mut client, "2025-06-18", json!({}));
    let initialized = client.post(&session, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    assert_eq!((initialized.status, initialized.body.len()), (202, 0));
    assert_eq!(
        client.post(&session, &request(2, "ping", json!({}))).json(),
        json!({"jsonrpc":"2.0","id":2,"result":{}})
    );
    let (id, _) = session.split_once("\r\n").expect("two fields");
    let unknown = format!("{id}\r\nMCP-Protocol-Version: 1999-01-01\r\n");
    assert_eq!(client.post(&unknown, &request(3, "ping", json!({}))).status, 400);
    assert_eq!(client.delete(&session).status, 200);
    let gone = client.post(&session, &request(4, "ping", json!({})));
    assert_eq!((gone.status, &gone.json()["id"]), (404, &json!(4)));
    assert_eq!(client.delete(&session).status, 404);
}

#[test]
fn sessions_are_the_same_on_every_worker_and_count_their_calls() {
    let address = demo::spawn(([127, 0, 0, 1], 0).into(), 2).expect("a free port").address;
    let session = open(&mut Client::new(address), "2025-11-25", json!({}));
    // Enough connections that the kernel gives some to either listener.
    for calls in 1..=32 {
        let answer = Client::new(address).post(&session, &call(calls, "whoami", json!({})));
        let who = &answer.json()["result"]["structuredContent"];
        assert_eq!(who["calls"], calls);
        assert!(session.contains(who["session"].as_str().expect("an id")));
    }
}

#[test]
fn batches_are_for_2025_03_26_alone() {
    let mut client = Client::new(server());
    let batch = json!([
        call(1, "echo", json!({"text": "a"})),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "1.0", "id": 2, "method": "ping"},
        call(3, "add", json!({"a": 1, "b": 2})),
    ]);
    let old = open(&mut client, "2025-03-26", json!({}));
    let answers = client.post(&old, &batch).json();
    let summary: Vec<_> =
        answers.as_array().expect("a batch").iter().map(|one| (&one["id"], one["error"].is_object())).collect();
    assert_eq!(summary, [(&json!(1), false), (&json!(2), true), (&json!(3), false)]);
    let slow = json!([
        with_progress(call(4, "slow", json!({"steps": 2, "interval": 1})), "t"),
        call(5, "echo", json!({"text": "b"}))
    ]);
    assert_eq!(client.post(&old, &slow).field("content-type"), Some("text/event-stream"));
    let ids: Vec<_> = client.events().iter().map(|event| event.json()["id"].clone()).collect();
    assert_eq!(ids, [json!(5), Value::Null, Value::Null, json!(4)]);
    let new = open(&mut client, "2025-06-18", json!({}));
    let refused = client.post(&new, &batch);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!(-32600)));
}

#[test]
fn progress_comes_before_the_answer_and_the_connection_goes_on() {
    let mut client = Client::new(server());
    let session = open(&mut client, "2025-06-18", json!({}));
    let slow = with_progress(call(1, "slow", json!({"steps": 3, "interval": 5})), "tok");
    assert_eq!(client.post(&session, &slow).field("x-accel-buffering"), Some("no"));
    let events = client.events();
    let progress: Vec<_> = events[..3].iter().map(|event| event.json()["params"]["progress"].clone()).collect();
    assert_eq!(progress, [1, 2, 3]);
    assert_eq!(events.len(), 4);
    assert_eq!((events[3].json()["id"].clone(), events[3].kind.as_deref()), (json!(1), Some("message")));
    assert!(events.iter().all(|event| event.id.is_some()));
    assert_eq!(client.post(&session, &call(2, "echo", json!({"text": "on"}))).status, 200);
}

#[test]
fn a_cancelled_call_is_not_answered() {
    let address = server();
    let mut client = Client::new(address);
    let session = open(&mut client, "2025-06-18", json!({}));
    client.post(&session, &with_progress(call(7, "slow", json!({"steps": 100, "interval": 60000})), "t"));
    assert_eq!(client.event().expect("progress").json()["method"], "notifications/progress");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}});
    assert_eq!(Client::new(address).post(&session, &cancel).status, 202);
    assert_eq!(client.events(), []);
    assert_eq!((whoami(address)["running"].clone(), whoami(address)["cancelled"].clone()), (json!(0), json!(1)));
}

#[test]
fn a_modern_client_that_leaves_cancels_and_a_legacy_one_does_not() {
    let address = server();
    let slow = with_progress(call(1, "slow", json!({"steps": 100, "interval": 60000})), "t");
    let mut legacy = Client::new(address);
    let session = open(&mut legacy, "2025-11-25", json!({}));
    legacy.post(&session, &slow);
    legacy.event();
    drop(legacy);
    let mut client = Client::new(address);
    modern(&mut client, slow);
    client.event();
    assert_eq!(whoami(address)["running"], 2);
    drop(client);
    wait_for("the cancellation", || whoami(address)["cancelled"] == 1);
    assert_eq!(whoami(address)["running"], 1);
    assert_eq!(Client::new(address).delete(&session).status, 200);
    wait_for("the session's end", || whoami(address)["cancelled"] == 2);
}

#[test]
fn a_broken_stream_goes_on_where_the_client_says() {
    let address = server();
    let mut client = Client::new(address);
    let session = open(&mut client, "2025-11-25", json!({}));
    client.post(&session, &with_progress(call(1, "slow", json!({"steps": 20, "interval": 5})), "t"));
    let prime = client.event().expect("the priming event");
    assert_eq!((prime.data.as_str(), prime.id.as_deref()), ("", Some("1-0")));
    let first = client.event().expect("progress");
    assert_eq!(first.json()["params"]["progress"], 1);
    drop(client);
    let mut client = Client::new(address);
    let last = format!("{session}Last-Event-ID: {}\r\n", first.id.expect("an id"));
    assert_eq!(client.get("/mcp", &last).status, 200);
    let events = client.events();
    let messages = events.iter().filter(|event| !event.data.is_empty());
    let progress: Vec<_> = messages.map(|event| event.json()["params"]["progress"].as_u64()).collect();
    let expected: Vec<_> = (2..=20).map(Some).chain([None]).collect();
    assert_eq!(progress, expected, "none lost, none twice, then the answer");
}

#[test]
fn the_standalone_stream_tells_of_updates_and_is_resumable() {
    let address = server();
    let mut client = Client::new(address);
    let session = open(&mut client, "2025-06-18", json!({}));
    assert!(
        client.post(&session, &request(1, "resources/subscribe", json!({"uri": "demo://nothing"}))).json()["error"]
            .is_object()
    );
    assert_eq!(client.post(&session, &request(2, "resources/subscribe", json!({"uri": "demo://readme"}))).status, 200);
    let mut stream = Client::new(address);
    assert_eq!(stream.get("/mcp", &session).status, 200);
    client.post(&session, &call(3, "touch", json!({})));
    let event = stream.event().expect("an update");
    assert_eq!(event.json()["params"], json!({"uri": "demo://readme"}));
    client.post(&session, &call(4, "touch", json!({})));
    assert_eq!(stream.event().and_then(|event| event.id).as_deref(), Some("0-2"));
    let mut again = Client::new(address);
    again.get("/mcp", &format!("{session}Last-Event-ID: 0-1\r\n"));
    assert_eq!(again.event().and_then(|event| event.id).as_deref(), Some("0-2"));
    assert_eq!(stream.events(), [], "the new stream took over");
    client.delete(&session);
    assert_eq!(again.events(), []);
}

#[test]
fn asking_a_legacy_client_takes_its_answer_from_another_connection() {
    let address = server();
    let mut client = Client::new(address);
    let mute = open(&mut client, "2025-06-18", json!({}));
    assert_eq!(client.post(&mute, &call(1, "ask", json!({}))).json()["result"]["isError"], true);
    let session = open(&mut client, "2025-06-18", json!({"elicitation": {}}));
    client.post(&session, &call(2, "ask", json!({"question": "Who?"})));
    let asked = client.event().expect("the question").json();
    assert_eq!((&asked["method"], &asked["params"]["message"]), (&json!("elicitation/create"), &json!("Who?")));
    let answer =
        json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"name": "Bo"}}});
    assert_eq!(Client::new(address).post(&session, &answer).status, 202);
    let events = client.events();
    assert_eq!(events.last().expect("the answer").json()["result"]["content"][0]["text"], "Hello, Bo!");
}

#[test]
fn asking_a_modern_client_is_a_retry_with_its_state() {
    let mut client = Client::new(server());
    let asked = modern(&mut client, call(1, "ask", json!({}))).json()["result"].take();
    assert_eq!(asked["resultType"], "input_required");
    assert_eq!(asked["inputRequests"]["name"]["method"], "elicitation/create");
    let mut retry = |state: &Value, responses: Value| {
        let mut message = call(2, "ask", json!({}));
        message["params"]["requestState"] = state.clone();
        message["params"]["inputResponses"] = responses;
        modern(&mut client, message).json()
    };
    let name = json!({"name": {"action": "accept", "content": {"name": "Bo"}}});
    assert_eq!(retry(&asked["requestState"], name.clone())["result"]["content"][0]["text"], "Hello, Bo!");
    assert_eq!(retry(&asked["requestState"], json!({}))["result"]["resultType"], "input_required");
    assert_eq!(retry(&json!("1.00"), name)["error"]["code"], -32602);
}

#[test]
fn modern_requests_are_held_against_their_headers() {
    let mut client = Client::new(server());
    let mut message = call(1, "echo", json!({"text": "hi"}));
    let fields = modern_fields(&mut message);
    let mut refused = |fields: &str, message: &Value| {
        let answer = client.post(fields, message);
        (answer.status, answer.json()["error"]["code"].clone())
    };
    assert_eq!(refused(&fields, &message), (200, Value::Null));
    assert_eq!(refused(&fields.replace("echo", "add"), &message), (400, json!(-32020)));
    assert_eq!(refused(&fields.replace("tools/call", "tools/list"), &message), (400, json!(-32020)));
    assert_eq!(refused(&fields.replace(MODERN, "2025-11-25"), &message), (400, json!(-32020)));
    assert_eq!(refused("", &message), (400, json!(-32020)));
    let mut bare = message.clone();
    bare["params"]["_meta"] = json!({});
    assert_eq!(refused(&fields, &bare), (400, json!(-32602)));
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01".into();
    let answer = client.post(&fields.replace(MODERN, "2099-01-01"), &message);
    assert_eq!((answer.status, &answer.json()["error"]["data"]["supported"]), (400, &json!([MODERN])));
    let unknown = modern(&mut client, request(1, "initialize", json!({})));
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!(-32601)));
    assert!(unknown.field("mcp-session-id").is_none());
}

#[test]
fn listening_begins_with_an_acknowledgment_of_what_is_honoured() {
    let address = server();
    let mut listen = Client::new(address);
    let filter = json!({"toolsListChanged": true, "resourceSubscriptions": ["demo://readme", "demo://nothing"]});
    modern(&mut listen, request(9, "subscriptions/listen", json!({"notifications": filter})));
    let acknowledged = listen.event().expect("an acknowledgment").json();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], json!({"resourceSubscriptions": ["demo://readme"]}));
    modern(&mut Client::new(address), call(1, "touch", json!({})));
    let updated = listen.event().expect("an update");
    assert_eq!((updated.id.as_deref(), &updated.json()["params"]["uri"]), (None, &json!("demo://readme")));
    assert_eq!(updated.json()["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 9);
}

#[test]
fn the_clock_ticks_for_its_subscribers() {
    let mut listen = Client::new(server());
    modern(
        &mut listen,
        request(1, "subscriptions/listen", json!({"notifications": {"resourceSubscriptions": ["demo://clock"]}})),
    );
    assert!(listen.event().is_some(), "the acknowledgment");
    assert_eq!(listen.event().expect("a tick").json()["params"]["uri"], "demo://clock");
}

#[test]
fn the_2024_transport_answers_on_its_one_stream() {
    let address = server();
    let mut stream = Client::new(address);
    assert_eq!(stream.get("/sse", "").status, 200);
    let endpoint = stream.event().expect("the endpoint");
    assert_eq!(endpoint.kind.as_deref(), Some("endpoint"));
    let mut client = Client::new(address);
    let mut send = |message: Value| {
        client.send(post(&endpoint.data, "", &message.to_string()));
        client.answer().status
    };
    let hello =
        json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    assert_eq!(send(request(1, "initialize", hello)), 202);
    assert_eq!(stream.event().expect("an answer").json()["result"]["protocolVersion"], "2024-11-05");
    assert_eq!(send(with_progress(call(2, "slow", json!({"steps": 1, "interval": 1})), "t")), 202);
    assert_eq!(stream.event().expect("progress").json()["method"], "notifications/progress");
    let answer = stream.event().expect("an answer");
    assert_eq!((answer.id.as_deref(), &answer.json()["id"]), (None, &json!(2)));
    drop(stream);
    wait_for("the session's end", || send(request(3, "ping", json!({}))) == 404);
}

#[test]
fn a_stateless_server_issues_no_session_and_opens_no_stream() {
    let demo = Demo { stateless: true, ..Demo::new(([127, 0, 0, 1], 0).into()) };
    let mut client = Client::new(demo.spawn().expect("a free port").address);
    let hello =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let answer = client.post("", &request(1, "initialize", hello));
    assert_eq!((answer.status, answer.field("mcp-session-id")), (200, None));
    assert_eq!(client.post("", &call(2, "echo", json!({"text": "hi"}))).status, 200);
    let refused = client.get("/mcp", "");
    assert_eq!((refused.status, refused.field("allow")), (405, Some("POST")));
}

#[test]
fn foreign_hosts_and_origins_are_refused_unless_a_proxy_checked_them() {
    let ask = |address: SocketAddr, host: &str, origin: &str| {
        let mut client = Client::new(address);
        client.send(format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\n{origin}\r\n"));
        client.answer().status
    };
    let address = server();
    assert_eq!(ask(address, "localhost:1", "Origin: http://127.0.0.1\r\n"), 400);
    assert_eq!(ask(address, "evil.example", ""), 403);
    assert_eq!(ask(address, "localhost", "Origin: http://evil.example\r\n"), 403);
    assert_eq!(ask(address, "localhost", "Origin: null\r\n"), 403);
    let behind = Demo { behind_proxy: true, ..Demo::new(([127, 0, 0, 1], 0).into()) };
    assert_eq!(
        ask(behind.spawn().expect("a free port").address, "public.example", "Origin: https://public.example\r\n"),
        400
    );
}

#[test]
fn streams_and_cancellation_work_on_a_ring_as_well() {
    let demo = Demo { driver: Choice::IoUring, workers: 2, ..Demo::new(([127, 0, 0, 1], 0).into()) };
    let address = demo.spawn().expect("a free port").address;
    let mut client = Client::new(address);
    modern(&mut client, with_progress(call(1, "slow", json!({"steps": 2, "interval": 1})), "t"));
    assert_eq!(client.events().len(), 3);
    modern(&mut client, with_progress(call(2, "slow", json!({"steps": 100, "interval": 60000})), "t"));
    client.event();
    drop(client);
    wait_for("the cancellation", || whoami(address)["cancelled"] == 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut client = Client::new(server());
    let session = open(&mut client, "2025-06-18", json!({}));
    let slow = with_progress(call(1, "slow", json!({"steps": 1, "interval": 1})), "t");
    let echo = call(2, "echo", json!({"text": "second"}));
    client.send(post("/mcp", &session, &slow.to_string()) + &post("/mcp", &session, &echo.to_string()));
    assert_eq!(client.answer().field("content-type"), Some("text/event-stream"));
    assert_eq!(client.events().len(), 2);
    assert_eq!(client.answer().json()["id"], 2);
}

#[test]
fn old_and_cautious_clients_are_served() {
    let address = server();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;
    let mut cautious = Client::new(address);
    let whole = post("/mcp", "Expect: 100-continue\r\n", ping);
    let (head, body) = whole.split_at(whole.len() - ping.len());
    cautious.send(head);
    assert_eq!(cautious.answer().status, 100);
    cautious.send(body);
    assert_eq!(cautious.answer().status, 200);
    let mut piecewise = Client::new(address);
    let whole = post("/mcp", "Transfer-Encoding: chunked\r\n", ping);
    let (head, _) = whole.split_once("Content-Length").expect("a length");
    let (one, two) = ping.split_at(7);
    piecewise.send(format!("{head}\r\n7;x=y\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\nT: 1\r\n\r\n", two.len()));
    assert_eq!(piecewise.answer().status, 200);
    piecewise.send(post("/mcp", "", ping));
    assert_eq!(piecewise.answer().status, 200);
    piecewise.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(piecewise.head().field("content-length"), Some("3"));
    assert_eq!(piecewise.answer().body, b"ok\n");
}

#[test]
fn http_1_0_is_told_by_the_connection_s_end() {
    let address = server();
    let mut old = Client::new(address);
    old.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(old.answer().field("connection"), Some("keep-alive"));
    let mut slow = with_progress(call(1, "slow", json!({"steps": 1, "interval": 1})), "t");
    let fields = modern_fields(&mut slow) + "Connection: keep-alive\r\n";
    old.send(post("/mcp", &fields, &slow.to_string()).replace("HTTP/1.1", "HTTP/1.0"));
    let answer = old.answer();
    assert_eq!((answer.field("connection"), answer.field("transfer-encoding")), (Some("close"), None));
    let events = String::from_utf8(old.rest()).expect("UTF-8");
    assert_eq!(events.matches("\ndata: {").count(), 2, "{events}");
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_ends() {
    let address = server();
    for (wire, status) in [
        ("GET /mcp HTTP/1.1\r\n\r\n", 400),
        ("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
        ("nonsense\r\n\r\n", 400),
    ] {
        let mut client = Client::new(address);
        client.send(wire);
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (status, Some("close")), "{wire}");
        assert!(client.is_closed());
    }
    let mut client = Client::new(address);
    let bad = post("/mcp", "", "{").replace("application/json\r\n", "text/plain\r\n");
    client.send(bad);
    assert_eq!(client.answer().status, 415);
    client.send(post("/mcp", "", "{"));
    assert_eq!(client.answer().json()["error"]["code"], -32700);
}
