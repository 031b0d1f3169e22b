//! Modern requests: who leaves cancels, and what one replica issued comes back to it.

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    a_modern_client_that_leaves_cancels_at_once,
    a_modern_client_cancels_also_what_had_a_long_body,
    a_legacy_client_that_leaves_cancels_nothing,
    request_state_returns_to_its_replica,
    tasks_return_to_their_replica,
);

/// Tells when a request is there, then waits for the end of its connection.
fn hanging(head: &'static str) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            if request.head.target() == "/quick" {
                conversation.respond_json(200, "", "{}");
                continue;
            }
            conversation.send(head.as_bytes());
            conversation.tell("asked");
            conversation.wait_for_end();
            conversation.tell("closed");
            return;
        }
    })
}

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:a\n\r\n";

fn a_modern_client_that_leaves_cancels_at_once(driver: Driver) {
    for head in ["", EVENTS] {
        let upstream = hanging(head);
        let proxy = Proxy::before(driver, &[&upstream]).start();
        for leave_by_reset in [false, true] {
            let mut client = proxy.connect();
            client.send(&modern_call(1, "slow", ""));
            upstream.expect_event("asked");
            let left = std::time::Instant::now();
            if leave_by_reset {
                client.wire.reset();
            } else {
                drop(client);
            }
            upstream.expect_event("closed");
            assert!(left.elapsed().as_millis() < 1000, "{:?}", left.elapsed());
        }
    }
}

/// What makes the request modern stands behind its long arguments, where it is seen only as they stream.
fn a_modern_client_cancels_also_what_had_a_long_body(driver: Driver) {
    let upstream = hanging("");
    let proxy = Proxy::before(driver, &[&upstream]).set("limits.peek_bytes", "4096").start();
    let mut client = proxy.connect();
    client.send(&modern_call(1, "slow", &format!(r#""arguments":{{"text":"{}"}}"#, "x".repeat(300_000))));
    upstream.expect_event("asked");
    drop(client);
    upstream.expect_event("closed");
}

fn a_legacy_client_that_leaves_cancels_nothing(driver: Driver) {
    // The upstream answers only after its client has left; what it said must have been taken off its hands.
    let upstream = FakeUpstream::new(|conversation| {
        if conversation.request().is_some() {
            conversation.tell("asked");
            let quiet = conversation.wire.fill(QUIET) == wire::Input::Quiet;
            conversation.tell(if quiet { "still wanted" } else { "closed" });
            conversation.respond_json(200, "", "{}");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&post_json("/mcp", "", &call(1, "slow")));
    upstream.expect_event("asked");
    drop(client);
    upstream.expect_event("still wanted");
}

/// Issues a state on the first call and takes only its own back.
fn stateful(name: &'static str, as_events: bool) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            let json = request.json();
            let state = json["params"]["requestState"].as_str().unwrap_or_default().to_owned();
            let result = if state.is_empty() {
                let id = json["id"].as_u64().unwrap_or(0);
                format!(r#"{{"resultType":"input_required","requestState":"{name}/{id}","inputRequests":{{}}}}"#)
            } else {
                format!(r#"{{"answeredBy":"{name}","state":"{state}"}}"#)
            };
            let message = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, json["id"]);
            if as_events {
                conversation.begin_events("");
                conversation.send_chunk(format!("event: message\ndata: {message}\n\n").as_bytes());
                conversation.end_chunks();
            } else {
                conversation.respond_json(200, "", &message);
            }
        }
    })
}

fn request_state_returns_to_its_replica(driver: Driver) {
    for as_events in [false, true] {
        let (a, b) = (stateful("a", as_events), stateful("b", as_events));
        let proxy = Proxy::before(driver, &[&a, &b]).start();
        let mut states = Vec::new();
        for id in 0..20 {
            let text = proxy.ask(&modern_call(id, "ask", "")).text();
            let name = if text.contains("\"requestState\":\"a/") { "a" } else { "b" };
            states.push((name, format!("{name}/{id}")));
        }
        assert!(states.iter().any(|(name, _)| *name == "a") && states.iter().any(|(name, _)| *name == "b"));
        for (name, state) in &states {
            let params = format!(r#""inputResponses":{{}},"requestState":"{state}""#);
            let text = proxy.ask(&modern_call(99, "ask", &params)).text();
            assert!(text.contains(&format!(r#""answeredBy":"{name}""#)), "{state}: {text}");
        }
    }
}

fn tasks_return_to_their_replica(driver: Driver) {
    let issuing = |name: &'static str| {
        FakeUpstream::new(move |conversation| {
            let mut next = 0;
            while let Some(request) = conversation.request() {
                let json = request.json();
                next += 1;
                let result = match json["params"]["taskId"].as_str() {
                    None => format!(
                        r#"{{"resultType":"task","task":{{"taskId":"{name}-{}-{next}","status":"working"}}}}"#,
                        conversation.number
                    ),
                    Some(_) => format!(r#"{{"answeredBy":"{name}"}}"#),
                };
                conversation.respond_json(
                    200,
                    "",
                    &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, json["id"]),
                );
            }
        })
    };
    let (a, b) = (issuing("a"), issuing("b"));
    let proxy = Proxy::before(driver, &[&a, &b]).start();
    let mut tasks = Vec::new();
    for id in 0..12 {
        let json = proxy.ask(&modern_call(id, "long", "")).json();
        tasks.push(json["result"]["task"]["taskId"].as_str().expect("a task").to_owned());
    }
    for task in &tasks {
        let body = modern(1, "tasks/get", &format!(r#""taskId":"{task}""#));
        let answer = proxy.ask(&post_json("/mcp", &modern_fields("tasks/get", Some(task)), &body));
        let owner = task.split('-').next().expect("a name");
        assert_eq!(answer.json()["result"]["answeredBy"], owner, "{task}");
    }
}
