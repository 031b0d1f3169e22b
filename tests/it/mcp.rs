//! What the proxy must know of messages: eras, headers against bodies, JSON that two parsers could read differently.

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    passes_modern_requests_whose_headers_match,
    refuses_headers_that_contradict_a_modern_body,
    compares_encoded_names,
    refuses_duplicate_keys,
    refuses_keys_that_some_servers_take_for_others,
    refuses_what_is_no_json,
    refuses_encoded_json,
    a_late_duplicate_in_a_long_body_cuts_the_upstream_request,
    a_late_mismatch_in_a_long_body_cuts_the_upstream_request,
    a_long_sound_body_arrives_whole,
    own_errors_are_json_rpc_with_the_requests_id,
    upstreams_errors_pass_byte_exact,
    modern_answers_carry_no_session,
    batches_pass,
    legacy_traffic_needs_no_modern_headers,
    without_upstream_says_what_is_missing,
);

/// Answers every POST with a result that names nothing, every other method with 405.
fn server() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.respond_json(200, "", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        }
    })
}

fn passes_modern_requests_whose_headers_match(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for (method, params, name) in [
        ("server/discover", "", None),
        ("tools/list", "", None),
        ("tools/call", r#""name":"echo","arguments":{"name":"other"}"#, Some("echo")),
        ("prompts/get", r#""name":"p""#, Some("p")),
        ("resources/read", r#""uri":"file:///x""#, Some("file:///x")),
    ] {
        let body = modern(1, method, params);
        let answer = proxy.ask(&post_json("/mcp", &modern_fields(method, name), &body));
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
        let seen = upstream.last_request();
        assert_eq!(seen.text(), body);
        assert_eq!((seen.head.one("mcp-method"), seen.head.one("mcp-name")), (Some(method), name));
        assert_eq!(seen.head.one("mcp-protocol-version"), Some(MODERN));
    }
    // Unknown parameters pass.
    let extra = format!("{}Mcp-Param-Region: eu\r\n", modern_fields("tools/call", Some("echo")));
    let body = modern(1, "tools/call", r#""name":"echo","arguments":{}"#);
    assert_eq!(proxy.ask(&post_json("/mcp", &extra, &body)).status, 200);
}

fn refuses_headers_that_contradict_a_modern_body(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let body = modern(42, "tools/call", r#""name":"echo""#);
    for fields in [
        modern_fields("tools/list", Some("echo")),
        modern_fields("Tools/Call", Some("echo")),
        modern_fields("tools/call", Some("other")),
        modern_fields("tools/call", Some("Echo")),
        modern_fields("tools/call", None),
        modern_fields("tools/call", Some("=?base64?####?=")),
        "Mcp-Method: tools/call\r\nMcp-Name: echo\r\n".to_owned(),
        "MCP-Protocol-Version: 2026-07-28\r\nMcp-Name: echo\r\n".to_owned(),
        "MCP-Protocol-Version: 2025-11-25\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n".to_owned(),
        format!("{}Mcp-Name: other\r\n", modern_fields("tools/call", Some("echo"))),
        format!("{}Mcp-Method: tools/list\r\n", modern_fields("tools/call", Some("echo"))),
        format!("{}MCP-Protocol-Version: 2025-11-25\r\n", modern_fields("tools/call", Some("echo"))),
        String::new(),
    ] {
        let answer = proxy.ask(&post_json("/mcp", &fields, &body));
        let error = answer.json();
        assert_eq!(answer.status, 400, "{fields}");
        assert_eq!((error["error"]["code"].as_i64(), error["id"].as_u64()), (Some(-32020), Some(42)), "{fields}");
        assert_eq!(error["jsonrpc"], "2.0");
    }
    assert_eq!(upstream.received_text(), "");
}

fn compares_encoded_names(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for (body_name, header, status) in [
        ("größe", "=?base64?Z3LDtsOfZQ==?=", 200),
        (r"gr\u00f6\u00dfe", "=?base64?Z3LDtsOfZQ==?=", 200),
        ("größe", "=?base64?Z3Jvc3Nl?=", 400),
        (r"ec\u0068o", "echo", 200),
        (r"line\nbreak", "=?base64?bGluZQpicmVhaw==?=", 200),
    ] {
        let body = modern(1, "tools/call", &format!(r#""name":"{body_name}""#));
        let answer = proxy.ask(&post_json("/mcp", &modern_fields("tools/call", Some(header)), &body));
        assert_eq!(answer.status, status, "{body_name} {header}");
    }
}

fn refuses_duplicate_keys(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let call = modern_fields("tools/call", Some("a"));
    for (fields, body) in [
        ("", r#"{"jsonrpc":"2.0","id":3,"method":"ping","method":"tools/call"}"#),
        ("", r#"{"jsonrpc":"2.0","id":3,"id":4,"method":"ping"}"#),
        ("", r#"{"jsonrpc":"2.0","id":3,"method":"ping","meth\u006fd":"tools/call"}"#),
        ("", r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a","name":"b"}}"#),
        ("", r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}"#),
        ("", r#"[{"jsonrpc":"2.0","id":3,"method":"ping","method":"tools/call"}]"#),
        (
            &call,
            r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"_meta":{}}}"#,
        ),
        (
            &call,
            r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/protocolVersion":"2025-11-25"}}}"#,
        ),
    ] {
        let answer = proxy.ask(&post_json("/mcp", fields, body));
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.json()["error"]["code"].is_i64());
    }
    assert_eq!(upstream.received_text(), "");
    // Keys that nobody acts upon may repeat wherever they like; and the same name elsewhere is another key.
    let harmless = r#"{"jsonrpc":"2.0","id":3,"method":"ping","params":{"x":{"method":1,"id":2,"name":3}}}"#;
    assert_eq!(proxy.ask(&post_json("/mcp", "", harmless)).status, 200);
}

fn refuses_keys_that_some_servers_take_for_others(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for body in [
        r#"{"jsonrpc":"2.0","id":3,"method":"ping","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"safe","Name":"evil"}}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"safe"},"param\u017f":{"name":"evil"}}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"ping","method\u0000":"tools/call"}"#,
    ] {
        let answer = proxy.ask(&post_json("/mcp", "", body));
        let error = answer.json();
        assert_eq!(
            (answer.status, error["error"]["code"].as_i64(), error["id"].as_u64()),
            (400, Some(-32600), Some(3))
        );
    }
    assert_eq!(upstream.received_text(), "");
    // Arguments are the tool's own business.
    let own = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a","arguments":{"Name":1,"ID":2}}}"#;
    assert_eq!(proxy.ask(&post_json("/mcp", "", own)).status, 200);
}

fn refuses_what_is_no_json(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for body in [
        "",
        " ",
        "{",
        "}",
        "[1,",
        "{\"a\":}",
        "{\"a\" 1}",
        "{'a':1}",
        "{\"a\":1,}",
        "{\"a\":1}}",
        "{}{}",
        "nul",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":01}",
        "\u{feff}{}",
        &deep,
    ] {
        let answer = proxy.ask(&post_json("/mcp", "", body));
        // An empty body is no message either, but who it was meant for may know better.
        if body.is_empty() {
            continue;
        }
        assert_eq!(answer.status, 400, "{:?}: {answer:?}", &body[..body.len().min(40)]);
        let error = answer.json();
        assert!(matches!(error["error"]["code"].as_i64(), Some(-32700 | -32600)), "{error}");
        assert!(error["id"].is_null());
    }
    assert!(upstream.requests().len() <= 1);
}

fn refuses_encoded_json(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for coding in ["gzip", "br", "identity, gzip", "x"] {
        let answer = proxy.ask(&post_json("/mcp", &format!("Content-Encoding: {coding}\r\n"), "{}"));
        assert_eq!(answer.status, 415, "{coding}");
    }
    assert_eq!(proxy.ask(&post_json("/mcp", "Content-Encoding: identity\r\n", "{}")).status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

/// Tells whether each request arrived whole.
fn witness() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while let Some(head) = conversation.head() {
            conversation.tell("head");
            let framing = head.request_framing().expect("a framing");
            let whole = conversation.wire.body(framing, &mut Vec::new()).is_ok();
            conversation.tell(if whole { "whole" } else { "cut" });
            conversation.respond_json(200, "", "{}");
        }
    })
}

fn refused_late(driver: Driver, fields: &str, body: &str) {
    let upstream = witness();
    let proxy = Proxy::before(driver, &[&upstream]).set("limits.peek_bytes", "4096").start();
    let chunked: Vec<u8> = {
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}Transfer-Encoding: chunked\r\n\r\n"
        );
        let chunks = body
            .as_bytes()
            .chunks(1000)
            .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        head.bytes().chain(chunks).chain(*b"0\r\n\r\n").collect()
    };
    for request in [post_json("/mcp", fields, body), chunked] {
        let mut client = proxy.connect();
        let outcome = client.send(&request).outcome();
        assert_eq!(outcome.status(), 400, "{outcome:?}");
        upstream.expect_event("head");
        upstream.expect_event("cut");
        client.wire.rest(PATIENCE).1.expect("an end");
    }
    // A fresh request is served as ever.
    assert_eq!(proxy.ask(&post_json("/mcp", "", &request(1, "ping"))).status, 200);
}

fn a_late_duplicate_in_a_long_body_cuts_the_upstream_request(driver: Driver) {
    let filler = "x".repeat(200_000);
    let late = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"safe","arguments":{{"f":"{filler}"}}}},"method":"evil"}}"#
    );
    refused_late(driver, "", &late);
    let nested = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"safe","arguments":{{"f":"{filler}"}},"name":"evil"}}}}"#
    );
    refused_late(driver, "", &nested);
    let alike = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"safe","arguments":{{"f":"{filler}"}},"NAME":"evil"}}}}"#
    );
    refused_late(driver, "", &alike);
}

fn a_late_mismatch_in_a_long_body_cuts_the_upstream_request(driver: Driver) {
    let filler = "x".repeat(200_000);
    let params = format!(r#""arguments":{{"f":"{filler}"}},"name":"other""#);
    refused_late(driver, &modern_fields("tools/call", Some("echo")), &modern(1, "tools/call", &params));
    // Not even JSON, at the very end.
    let torn = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"f":"{filler}"}}]"#);
    refused_late(driver, "", &torn);
}

fn a_long_sound_body_arrives_whole(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).set("limits.peek_bytes", "4096").start();
    let params = format!(r#""arguments":{{"f":"{}"}},"name":"echo""#, "x".repeat(300_000));
    let body = modern(1, "tools/call", &params);
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(&post_json("/mcp", &modern_fields("tools/call", Some("echo")), &body)).status, 200);
        assert!(upstream.last_request().text() == body);
    }
    assert_eq!(upstream.connections(), 1);
}

fn own_errors_are_json_rpc_with_the_requests_id(driver: Driver) {
    let refusing = upstream::Refusing::new();
    let proxy = Proxy::builder(driver).upstream(&refusing.url()).start();
    for (id, shown) in [("5", "5"), ("\"abc\"", "\"abc\""), (r#""q\"\u0001""#, r#""q\"\u0001""#), ("-1.5e3", "-1.5e3")]
    {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"ping","id":{id}}}"#);
        let answer = proxy.ask(&post_json("/mcp", "", &body));
        assert_eq!((answer.status, answer.one("content-type")), (502, Some("application/json")));
        assert!(answer.text().contains(&format!(r#""id":{shown}"#)), "{}", answer.text());
        let error = answer.json();
        assert!(error["error"]["code"].is_i64() && error["error"]["message"].is_string());
    }
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
    assert!(proxy.ask(&post_json("/mcp", "", notification)).json()["id"].is_null());
    assert!(proxy.ask(&get("/mcp", "")).json()["id"].is_null());
}

fn upstreams_errors_pass_byte_exact(driver: Driver) {
    let body = "{\"jsonrpc\":\"2.0\",\r\n \"id\":1, \"error\":{\"code\":-32022,\"data\":{\"supported\":[\"x\"]}}}\n\n";
    let upstream = FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            let status: u16 = request.head.target()[1..].parse().unwrap_or(500);
            conversation.respond_json(status, "WWW-Authenticate: Bearer scope=\"x\"\r\nX-Own: 1\r\n", body);
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    for status in [400, 401, 403, 404, 405, 406, 409, 415, 422, 429, 500, 501, 502, 503] {
        let answer = client.ask(&post_json(&format!("/{status}"), "", &request(1, "ping")));
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
        assert_eq!(answer.one("x-own"), Some("1"));
        assert_eq!(answer.one("www-authenticate"), Some("Bearer scope=\"x\""));
    }
    assert_eq!(upstream.connections(), 1);
}

fn modern_answers_carry_no_session(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.respond_json(200, "Mcp-Session-Id: should-not-be-here\r\n", "{}");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let answer = proxy.ask(&modern_call(1, "echo", ""));
    assert_eq!((answer.status, answer.one("mcp-session-id")), (200, None));
    // A session header on a modern request names nothing: it is neither checked nor passed on.
    let fields = format!("{}Mcp-Session-Id: whatever\r\n", modern_fields("tools/list", None));
    let answer = proxy.ask(&post_json("/mcp", &fields, &modern(1, "tools/list", "")));
    assert_eq!(answer.status, 200);
    assert!(!upstream.last_request().head.has("mcp-session-id"));
    // `initialize` with modern `_meta` is modern.
    let answer = proxy.ask(&post_json("/mcp", &modern_fields("initialize", None), &modern(1, "initialize", "")));
    assert_eq!(answer.one("mcp-session-id"), None);
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_total", ""), 0.0);
}

fn batches_pass(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}, {"jsonrpc":"2.0","method":"notifications/x"},
        {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo"}}]"#;
    assert_eq!(proxy.ask(&post_json("/mcp", "MCP-Protocol-Version: 2025-03-26\r\n", batch)).status, 200);
    assert_eq!(upstream.last_request().text(), batch);
    // A session may begin in one.
    let replica = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.respond_json(200, "Mcp-Session-Id: theirs\r\n", "[]");
        }
    });
    let proxy = Proxy::before(driver, &[&replica]).start();
    let answer = proxy.ask(&post_json("/mcp", "", &format!("[{}]", initialize(1))));
    let id = answer.one("mcp-session-id").expect("a session");
    assert_ne!(id, "theirs");
    assert_eq!(proxy.ask(&in_session(id, batch)).status, 200);
    assert_eq!(replica.last_request().head.one("mcp-session-id"), Some("theirs"));
}

fn legacy_traffic_needs_no_modern_headers(driver: Driver) {
    let upstream = server();
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for body in [
        call(1, "echo"),
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":"x","result":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":1}}}"#
            .to_owned(),
    ] {
        assert_eq!(proxy.ask(&post_json("/mcp", "", &body)).status, 200, "{body}");
        assert_eq!(upstream.last_request().text(), body);
    }
}

fn without_upstream_says_what_is_missing(driver: Driver) {
    let proxy = Proxy::builder(driver).start();
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    assert_eq!(proxy.ask(&get("/ready", "")).status, 503);
    let answer = proxy.ask(&post_json("/mcp", "", &request(8, "ping")));
    assert_eq!((answer.status, answer.json()["id"].as_u64()), (503, Some(8)));
    assert!(answer.json()["error"]["message"].as_str().expect("text").contains("--upstream"), "{answer:?}");
    assert!(proxy.log().contains("--upstream"));
}
