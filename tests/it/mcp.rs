//! What MCP asks of a proxy, in both eras.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    compares_headers_of_modern_requests_with_the_body,
    refuses_bodies_that_two_parsers_could_read_differently,
    finds_contradictions_in_long_bodies_before_upstream_has_them_whole,
    guards_against_web_pages,
    passes_answers_of_upstream_unchanged,
    tells_upstream_at_once_when_a_modern_client_leaves,
    leaves_it_to_a_legacy_server_when_the_client_leaves,
    never_shows_session_ids_to_modern_clients,
    brings_request_state_back_to_its_replica,
    passes_batches,
);

/// A modern request; `fields` come in addition to the version.
fn modern(fields: &str, id: i64, method: &str, params: &str) -> Vec<u8> {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    let comma = if params.is_empty() { "" } else { "," };
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}{meta}}}}}"#);
    post(&format!("MCP-Protocol-Version: 2026-07-28\r\n{fields}"), &body)
}

fn compares_headers_of_modern_requests_with_the_body(driver: &str) {
    let upstream = Upstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    let echo = r#""name":"echo""#;
    let good = "Mcp-Method: tools/call\r\nMcp-Name: echo\r\n";
    assert_eq!(client.exchange(&modern(good, 1, "tools/call", echo)).text(), "ok");
    let encoded = "Mcp-Method: tools/call\r\nMcp-Name: =?base64?ZWNobw==?=\r\nMcp-Param-X: anything\r\n";
    assert_eq!(client.exchange(&modern(encoded, 1, "tools/call", echo)).text(), "ok");
    let passed = upstream.received().len();
    for fields in [
        "Mcp-Method: tools/list\r\nMcp-Name: echo\r\n",
        "Mcp-Method: tools/call\r\nMcp-Name: other\r\n",
        "Mcp-Method: tools/call\r\nMcp-Name: =?base64?b3RoZXI=?=\r\n",
        "Mcp-Method: tools/call\r\nMcp-Name: echo\r\nMcp-Name: other\r\n",
        "Mcp-Name: echo\r\n",
        "Mcp-Method: tools/call\r\n",
    ] {
        let answer = client.exchange(&modern(fields, 42, "tools/call", echo));
        assert_eq!(answer.status, 400, "{fields}");
        assert_eq!((answer.json()["error"]["code"].as_i64(), answer.json()["id"].as_i64()), (Some(-32020), Some(42)));
        client = proxy.connect();
    }
    let wrong_version = String::from_utf8(modern(good, 1, "tools/call", echo)).unwrap();
    let wrong_version = wrong_version.replace("MCP-Protocol-Version: 2026-07-28", "MCP-Protocol-Version: 2025-11-25");
    assert_eq!(client.exchange(wrong_version.as_bytes()).json()["error"]["code"], -32020);
    assert_eq!(upstream.received().len(), passed);
}

fn refuses_bodies_that_two_parsers_could_read_differently(driver: &str) {
    let upstream = Upstream::answering("leaked");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for (body, code) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a"} x"#, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":'a'}"#, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a",}"#, -32700),
        ("{", -32700),
        ("\u{feff}{}", -32700),
    ] {
        let answer = proxy.connect().exchange(&post("", body));
        assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (400, Some(code)), "{body}");
    }
    let packed = proxy.connect().exchange(&post("Content-Encoding: gzip\r\n", "xx"));
    assert_eq!(packed.status, 415);
    assert_eq!(upstream.received(), "");
    // What is no JSON is none of our business.
    let form = b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b";
    assert_eq!(proxy.connect().exchange(form).text(), "leaked");
    assert_eq!(proxy.connect().exchange(&post_to("/register", "", r#"{"client_name":"x"}"#)).text(), "leaked");
}

fn finds_contradictions_in_long_bodies_before_upstream_has_them_whole(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.tell("whole");
            conversation.answer(200, "", "done");
        }
        conversation.tell("cut");
    });
    let proxy = Proxy::before(driver, &[&upstream]).set("limits.peek_bytes", "1000").start();
    let padding = "x".repeat(300_000);
    let start = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"a":"{padding}""#);
    let good = format!("{start}}}}}");
    assert_eq!(proxy.connect().exchange(&post("", &good)).text(), "done");
    assert_eq!(upstream.event(), "whole");
    for end in [r#"},"method":"other"}"#, r#",}"#, r#",\"name\":"x"}}"#] {
        let answer = proxy.connect().exchange(&post("", &format!("{start}{end}")));
        assert_eq!(answer.status, 400, "{end}");
        assert_eq!(upstream.event(), "cut", "{end}");
    }
    let meta = r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\n";
    let answer = proxy.connect().exchange(&post(fields, &format!("{start}{meta}")));
    assert_eq!(answer.json()["error"]["code"], -32020);
    assert_eq!(upstream.event(), "cut");
}

fn guards_against_web_pages(driver: &str) {
    let upstream = Upstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let status = |fields: &str| proxy.connect().exchange(&post(fields, "{}")).status;
    assert_eq!(status("Origin: http://evil.example\r\n"), 403);
    assert_eq!(status("Origin: null\r\n"), 403);
    assert_eq!(status("Origin: http://localhost:5173\r\n"), 200);
    assert_eq!(status("Origin: http://localhost\r\nOrigin: http://evil.example\r\n"), 403);
    let rebound = b"POST /mcp HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(proxy.connect().exchange(rebound).status, 403);
    assert_eq!(proxy.connect().exchange(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n").status, 403);
    assert_eq!(proxy.connect().exchange(b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n").status, 200);
    assert!(!upstream.received().contains("evil"));
    let proxy = Proxy::before(driver, &[&upstream])
        .set("proxy.allowed_origins", "https://app.example")
        .set("proxy.allowed_hosts", "mcp.example")
        .start();
    let request =
        b"POST /mcp HTTP/1.1\r\nHost: mcp.example\r\nOrigin: https://app.example\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(proxy.connect().exchange(request).status, 200);
}

fn passes_answers_of_upstream_unchanged(driver: &str) {
    let body = "{\"jsonrpc\":\"2.0\",\"id\":null , \"error\":{\"code\":-32022}}\r\n";
    let upstream = Upstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            let status: u16 = request.path()[1..].parse().unwrap();
            conversation.answer(status, "Content-Type: application/json\r\nX-Custom: 1\r\n", body);
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for status in [202, 400, 401, 403, 404, 405, 406, 415, 500, 503] {
        let answer = client.exchange(&post_to(&format!("/{status}"), "", "{}"));
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
        assert_eq!(answer.field("x-custom").as_deref(), Some("1"));
    }
}

fn waiting_server() -> Upstream {
    Upstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.tell("asked");
        }
        conversation.tell("closed");
    })
}

fn tells_upstream_at_once_when_a_modern_client_leaves(driver: &str) {
    let upstream = waiting_server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&modern("Mcp-Method: tools/list\r\n", 1, "tools/list", ""));
    assert_eq!(upstream.event(), "asked");
    drop(client);
    assert_eq!(upstream.event(), "closed");
}

fn leaves_it_to_a_legacy_server_when_the_client_leaves(driver: &str) {
    let upstream = waiting_server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&post("", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#));
    assert_eq!(upstream.event(), "asked");
    drop(client);
    upstream.no_event();
}

fn never_shows_session_ids_to_modern_clients(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.answer(200, "Mcp-Session-Id: upstreams-own\r\n", "{}");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let fields = "Mcp-Method: tools/list\r\nMcp-Session-Id: made-up\r\n";
    let answer = proxy.connect().exchange(&modern(fields, 1, "tools/list", ""));
    assert_eq!((answer.status, answer.field("mcp-session-id")), (200, None));
    assert!(!upstream.received().contains("made-up"));
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_total", ""), 0.0);
}

fn brings_request_state_back_to_its_replica(driver: &str) {
    let replica = |name: &'static str| {
        Upstream::new(move |conversation| {
            let mut count = 0;
            while let Some(request) = conversation.request() {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                if body.contains("requestState") {
                    conversation.answer(200, "Content-Type: application/json\r\n", name);
                    continue;
                }
                count += 1;
                let result = format!(
                    r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"input_required","requestState":"{name}-{}-{count}"}}}}"#,
                    conversation.number
                );
                if body.contains("stream") {
                    conversation.begin_events("");
                    conversation.chunked(&format!("event: message\ndata: {result}\n\n"));
                    conversation.say(b"0\r\n\r\n");
                } else {
                    conversation.answer(200, "Content-Type: application/json\r\n", &result);
                }
            }
        })
    };
    let (a, b) = (replica("a"), replica("b"));
    let proxy = Proxy::before(driver, &[&a, &b]).start();
    let fields = "Mcp-Method: tools/call\r\nMcp-Name: x\r\n";
    for kind in ["plain", "stream"] {
        for _ in 0..6 {
            let asked = proxy.connect().exchange(&modern(
                fields,
                1,
                "tools/call",
                &format!(r#""name":"x","arguments":{{"k":"{kind}"}}"#),
            ));
            let text = asked.text();
            let state = text.split("requestState\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            let params = format!(r#""name":"x","requestState":"{state}","inputResponses":{{}}"#);
            let answer = proxy.connect().exchange(&modern(fields, 2, "tools/call", &params));
            assert_eq!(answer.text(), &state[..1], "{state}");
        }
    }
}

fn passes_batches(driver: &str) {
    let server = session_server("a");
    let proxy = Proxy::before(driver, &[&server]).start();
    let id = begin_session(&mut proxy.connect());
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"}]"#;
    assert_eq!(proxy.connect().exchange(&post(&session_field(&id), batch)).status, 200);
    assert!(server.received().contains(batch));
    let begin = format!("[{INITIALIZE}]");
    assert!(proxy.connect().exchange(&post("", &begin)).field("mcp-session-id").is_some());
}
