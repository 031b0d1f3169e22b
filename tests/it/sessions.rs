//! Legacy sessions: whose they are, where they go, how long they live (MCP Transports 2025-11-25, `[session]`).

use std::collections::HashSet;

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    hides_the_upstreams_session_ids,
    ids_are_long_random_and_visible_ascii,
    every_message_of_a_session_reaches_its_replica,
    heads_that_differ_in_their_session_alone_are_told_apart,
    what_each_request_has_of_its_own_reaches_upstream,
    streams_reach_the_replica_of_their_session,
    a_stream_that_the_server_ends_is_taken_up_again,
    spreads_new_sessions_over_replicas_by_weight,
    unknown_sessions_are_404,
    refuses_two_session_headers,
    a_deleted_session_is_gone,
    a_refused_delete_leaves_the_session_alone,
    a_session_that_upstream_forgot_ends,
    a_session_expires_when_it_is_not_used,
    use_keeps_a_session_alive,
    an_open_stream_keeps_its_session_alive,
    at_max_sessions_upstream_is_not_asked,
    an_initialize_that_fails_takes_no_place,
    a_stateless_server_gets_no_session,
    upstream_ids_that_are_not_visible_ascii_are_refused,
    counts_sessions,
);

fn hides_the_upstreams_session_ids(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let mut client = proxy.connect();
    let answer = client.ask(&post_json("/mcp", "", &initialize(7)));
    let id = answer.one("mcp-session-id").expect("an id").to_owned();
    assert_eq!(answer.json()["id"], 7);
    let theirs = replica.sessions().into_iter().next().expect("a session of the upstream");
    let shown = String::from_utf8_lossy(&answer.head.raw).into_owned();
    assert!(!shown.contains(&theirs), "{shown}");

    let call = client.ask(&in_session(&id, &call(2, "echo")));
    assert_eq!(call.json()["result"]["session"], theirs.as_str());
    assert_eq!(replica.upstream.last_request().head.one("mcp-session-id"), Some(theirs.as_str()));
    assert!(!replica.upstream.received_text().contains(&id));
    // The upstream's own id opens nothing.
    assert_eq!(client.ask(&in_session(&theirs, &request(3, "ping"))).status, 404);
}

fn ids_are_long_random_and_visible_ascii(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let mut client = proxy.connect();
    let ids: HashSet<String> = (0..100).map(|_| begin_session_on(&mut client)).collect();
    assert_eq!(ids.len(), 100);
    for id in &ids {
        assert!(id.len() >= 22 && id.bytes().all(|b| (0x21..=0x7e).contains(&b)), "{id}");
    }
    // Nothing that sessions have in common: every place but few differs somewhere.
    let columns = (0..22).filter(|&at| ids.iter().map(|id| id.as_bytes()[at]).collect::<HashSet<_>>().len() > 10);
    assert_eq!(columns.count(), 22);
}

fn every_message_of_a_session_reaches_its_replica(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let proxy = Proxy::before(driver, &[&a.upstream, &b.upstream]).start();
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let (answer, id) = begin_session(&proxy);
        let name = answer.json()["result"]["serverInfo"]["name"].as_str().expect("a name").to_owned();
        sessions.push((id, name));
    }
    assert!(sessions.iter().any(|(_, name)| name == "a") && sessions.iter().any(|(_, name)| name == "b"));
    for round in 0..3 {
        for (id, name) in &sessions {
            // A connection of its own each time, so that any worker may get it.
            let answer = proxy.ask(&in_session(id, &request(round, "tools/list")));
            assert_eq!(answer.json()["result"]["replica"], name.as_str());
            let replica = if name == "a" { &a } else { &b };
            let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            assert_eq!(proxy.ask(&in_session(id, notification)).status, 202);
            assert!(replica.upstream.event().contains("notifications/initialized"));
            let reply = r#"{"jsonrpc":"2.0","id":"from-server-1","result":{"action":"accept"}}"#;
            assert_eq!(proxy.ask(&in_session(id, reply)).status, 202);
            assert!(replica.upstream.event().contains("from-server-1"));
        }
    }
    for (id, name) in &sessions {
        assert_eq!(proxy.ask(&delete(id)).status, 200);
        assert!((if name == "a" { &a } else { &b }).upstream.event().starts_with("ended"));
    }
    assert!(a.sessions().is_empty() && b.sessions().is_empty());
}

fn heads_that_differ_in_their_session_alone_are_told_apart(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let proxy = Proxy::before(driver, &[&a.upstream, &b.upstream]).workers(1).start();
    let mut client = proxy.connect();
    let mut begun: Vec<(String, String, String)> = Vec::new();
    for _ in 0..4 {
        let answer = client.ask(&post_json("/mcp", "", &initialize(7)));
        let id = answer.one("mcp-session-id").expect("an id").to_owned();
        let name = answer.json()["result"]["serverInfo"]["name"].as_str().expect("a name").to_owned();
        let theirs = client.ask(&in_session(&id, &call(1, "echo"))).json()["result"]["session"].to_string();
        begun.push((id, name, theirs));
    }
    assert!(begun.iter().any(|(_, name, _)| name == "a") && begun.iter().any(|(_, name, _)| name == "b"));
    // On one connection: the same head several times, another of as many bytes in between, and one of the same again.
    for which in [0, 0, 0, 1, 0, 0, 2, 2, 2, 2, 3, 1, 1, 1, 0] {
        let (id, name, theirs) = &begun[which];
        let answer = client.ask(&in_session(id, &call(2, "echo"))).json();
        assert_eq!(answer["result"]["session"].to_string(), *theirs, "session {which} at {name}");
    }
    // One that ended is not remembered by the head that named it.
    for _ in 0..3 {
        assert_eq!(client.ask(&in_session(&begun[0].0, &call(3, "echo"))).status, 200);
    }
    assert_eq!(proxy.ask(&delete(&begun[0].0)).status, 200);
    assert_eq!(client.ask(&in_session(&begun[0].0, &call(3, "echo"))).status, 404);
    assert_eq!(client.ask(&in_session(&begun[1].0, &call(3, "echo"))).status, 200);
}

fn what_each_request_has_of_its_own_reaches_upstream(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("of-another-length"));
    let proxy = Proxy::before(driver, &[&a.upstream, &b.upstream]).workers(1).start();
    let mut client = proxy.connect();
    let mut begun: Vec<String> = Vec::new();
    for _ in 0..4 {
        begun.push(begin_session_on(&mut client));
    }
    for colon in [": ", ":", ": \t "] {
        for turn in 0..24 {
            let (trace, id) = (format!("00-{turn:032x}-{:016x}-01", turn + 1), format!("{turn:08}"));
            let session = &begun[turn / 3 % 4];
            let named =
                format!("traceparent{colon}{trace}\r\nMcp-Session-Id{colon}{session}\r\nX-Request-Id{colon}{id}\r\n");
            let answer = client.ask(&post_json("/mcp", &named, &call(turn as u64, "echo")));
            let theirs = answer.json()["result"]["session"].as_str().expect("a session").to_owned();
            let replica = if a.sessions().contains(&theirs) { &a } else { &b };
            let seen = replica.upstream.last_request().head;
            assert_eq!(seen.one("traceparent"), Some(trace.as_str()));
            assert_eq!(seen.one("x-request-id"), Some(id.as_str()));
            assert_eq!(seen.one("mcp-session-id"), Some(theirs.as_str()));
            assert_eq!(seen.one("via"), Some("1.1 shadowcat"));
        }
    }
}

fn streams_reach_the_replica_of_their_session(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let proxy = Proxy::before(driver, &[&a.upstream, &b.upstream]).start();
    for _ in 0..8 {
        let (answer, id) = begin_session(&proxy);
        let name = answer.json()["result"]["serverInfo"]["name"].as_str().expect("a name").to_owned();
        let mut client = proxy.connect();
        client.send(&listen(&id, "Last-Event-ID: 41\r\n"));
        client.stream_head();
        let first = String::from_utf8(client.stream_until(b"\n\n")).expect("UTF-8");
        assert!(first.starts_with(&format!("id: {name}-1\ndata: {name}-secret-")), "{first}");
        assert!(first.ends_with("after 41\n\n"), "{first}");
    }
}

fn a_stream_that_the_server_ends_is_taken_up_again(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let proxy = Proxy::before(driver, &[&a.upstream, &b.upstream]).start();
    let (answer, id) = begin_session(&proxy);
    let replica = if answer.json()["result"]["serverInfo"]["name"] == "a" { &a } else { &b };
    // A legacy server may close after `retry:`; the client polls with `Last-Event-ID`, on the same connection.
    let mut client = proxy.connect();
    let mut last = "none".to_owned();
    for round in 0..4 {
        client.send(&listen(&id, &if round == 0 { String::new() } else { format!("Last-Event-ID: {last}\r\n") }));
        client.stream_head();
        let event = String::from_utf8(client.stream_until(b"\n\n")).expect("UTF-8");
        assert!(event.ends_with(&format!(" after {last}\n\n")), "{event}");
        last = event.strip_prefix("id: ").and_then(|rest| rest.lines().next()).expect("an id").to_owned();
        replica.push(&mcp::Push::Bytes(b"retry: 10\n\n".to_vec()));
        assert_eq!(client.stream_until(b"\n\n"), b"retry: 10\n\n");
        replica.push(&mcp::Push::End);
        assert_eq!(client.chunk(), None);
    }
    assert_eq!(proxy.ask(&in_session(&id, &request(1, "ping"))).status, 200);
    assert_eq!(proxy.metrics().sum("shadowcat_proxy_errors_total", ""), 0.0);
}

fn spreads_new_sessions_over_replicas_by_weight(driver: Driver) {
    let (a, b) = (Replica::new("a"), Replica::new("b"));
    let config = format!(
        "[[upstreams]]\nname = \"a\"\nurl = \"{}\"\nweight = 3\n[[upstreams]]\nname = \"b\"\nurl = \"{}\"\nweight = 1\n",
        a.upstream.url(),
        b.upstream.url()
    );
    let proxy = Proxy::builder(driver).config(&config).start();
    for _ in 0..80 {
        begin_session(&proxy);
    }
    let (of_a, of_b) = (a.sessions().len(), b.sessions().len());
    assert_eq!(of_a + of_b, 80);
    assert!((50..=70).contains(&of_a), "{of_a} and {of_b}");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_proxy_requests_total", "upstream=\"a\""), of_a as f64);
    assert_eq!(metrics.sum("shadowcat_proxy_requests_total", "upstream=\"b\""), of_b as f64);
}

fn unknown_sessions_are_404(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let (_, known) = begin_session(&proxy);
    let changed: String = known.chars().rev().collect();
    let long = "x".repeat(2000);
    for id in ["x", "0", &changed, &known[1..], &format!("{known}x"), "a/../b", "' or 1=1 --", &long] {
        for request in [in_session(id, &request(9, "ping")), listen(id, ""), delete(id)] {
            let answer = proxy.ask(&request);
            assert_eq!(answer.status, 404, "{id}");
            assert!(answer.json()["error"]["code"].is_i64(), "{answer:?}");
        }
        assert_eq!(proxy.ask(&in_session(id, &request(9, "ping"))).json()["id"], 9);
    }
    assert_eq!(replica.upstream.requests().len(), 1);
    // An initialize in an unknown session is no way around.
    assert_eq!(proxy.ask(&in_session(&changed, &initialize(1))).status, 404);
    assert_eq!(replica.upstream.requests().len(), 1);
}

fn refuses_two_session_headers(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let ((_, one), (_, two)) = (begin_session(&proxy), begin_session(&proxy));
    for fields in [
        format!("Mcp-Session-Id: {one}\r\nMcp-Session-Id: {two}\r\n"),
        format!("Mcp-Session-Id: {one}\r\nmcp-session-id: {one}\r\n"),
    ] {
        assert_eq!(proxy.ask(&post_json("/mcp", &fields, &request(1, "ping"))).status, 400);
    }
    assert_eq!(replica.upstream.requests().len(), 2);
}

fn a_deleted_session_is_gone(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let (_, id) = begin_session(&proxy);
    // Both workers have seen it, so that neither may go on from memory.
    let mut clients: Vec<RawClient> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&in_session(&id, &request(1, "ping"))).status, 200);
    }
    assert_eq!(proxy.ask(&delete(&id)).status, 200);
    let asked = replica.upstream.requests().len();
    for client in &mut clients {
        assert_eq!(client.ask(&in_session(&id, &request(1, "ping"))).status, 404);
        assert_eq!(client.ask(&delete(&id)).status, 404);
        assert_eq!(client.ask(&listen(&id, "")).status, 404);
    }
    assert_eq!(replica.upstream.requests().len(), asked);
}

fn a_refused_delete_leaves_the_session_alone(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.head.method() {
                // A server may refuse to let clients end sessions (405).
                "DELETE" => conversation.respond(405, "", ""),
                _ => conversation.respond_json(200, "Mcp-Session-Id: theirs\r\n", "{}"),
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let (_, id) = begin_session(&proxy);
    assert_eq!(proxy.ask(&delete(&id)).status, 405);
    assert_eq!(proxy.ask(&in_session(&id, &request(2, "ping"))).status, 200);
}

fn a_session_that_upstream_forgot_ends(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let (_, id) = begin_session(&proxy);
    replica.forget_sessions();
    let answer = proxy.ask(&in_session(&id, &request(5, "ping")));
    // The upstream's own words, byte for byte.
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("upstream: Session not found"), "{answer:?}");
    let asked = replica.upstream.requests().len();
    assert_eq!(proxy.ask(&in_session(&id, &request(5, "ping"))).status, 404);
    assert_eq!(replica.upstream.requests().len(), asked);
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 0.0);
}

fn short_lived(driver: Driver, replica: &Replica) -> Proxy {
    Proxy::before(driver, &[&replica.upstream])
        .set("session.timeout", "1s")
        .set("session.cleanup_interval", "100ms")
        .start()
}

fn a_session_expires_when_it_is_not_used(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = short_lived(driver, &replica);
    let (_, id) = begin_session(&proxy);
    let begun = std::time::Instant::now();
    proxy.wait_for_metric("shadowcat_sessions_active", "", 0.0);
    assert!(begun.elapsed().as_millis() >= 1000, "{:?}", begun.elapsed());
    assert_eq!(proxy.ask(&in_session(&id, &request(1, "ping"))).status, 404);
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_expired_total", ""), 1.0);
}

fn use_keeps_a_session_alive(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = short_lived(driver, &replica);
    let (_, used) = begin_session(&proxy);
    let (_, unused) = begin_session(&proxy);
    let begun = std::time::Instant::now();
    wait_until("three lifetimes to pass", || {
        assert_eq!(proxy.ask(&in_session(&used, &request(1, "ping"))).status, 200, "after {:?}", begun.elapsed());
        begun.elapsed().as_secs() >= 3
    });
    assert_eq!(proxy.ask(&in_session(&unused, &request(1, "ping"))).status, 404);
    proxy.wait_for_metric("shadowcat_sessions_active", "", 0.0);
}

fn an_open_stream_keeps_its_session_alive(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = short_lived(driver, &replica);
    let (_, id) = begin_session(&proxy);
    let (_, other) = begin_session(&proxy);
    let mut stream = proxy.connect();
    stream.send(&listen(&id, ""));
    stream.stream_head();
    stream.stream_until(b"\n\n");
    let begun = std::time::Instant::now();
    wait_until("three lifetimes to pass", || begun.elapsed().as_secs() >= 3);
    assert_eq!(proxy.ask(&in_session(&other, &request(1, "ping"))).status, 404);
    assert_eq!(proxy.ask(&in_session(&id, &request(1, "ping"))).status, 200);
    replica.push(&mcp::Push::Bytes(b"data: still here\n\n".to_vec()));
    assert_eq!(stream.stream_until(b"\n\n"), b"data: still here\n\n");
    drop(stream);
    proxy.wait_for_metric("shadowcat_sessions_active", "", 0.0);
}

fn at_max_sessions_upstream_is_not_asked(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).set("session.max_sessions", "3").start();
    let ids: Vec<String> = (0..3).map(|_| begin_session(&proxy).1).collect();
    for _ in 0..3 {
        let refused = proxy.ask(&post_json("/mcp", "", &initialize(4)));
        assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(4)));
        assert!(refused.head.has("retry-after"));
    }
    assert_eq!(replica.upstream.requests().len(), 3);
    // Those that are there go on, and one that ends makes room.
    assert_eq!(proxy.ask(&in_session(&ids[1], &request(1, "ping"))).status, 200);
    assert_eq!(proxy.ask(&delete(&ids[0])).status, 200);
    begin_session(&proxy);
    assert_eq!(proxy.ask(&post_json("/mcp", "", &initialize(4))).status, 503);
}

fn an_initialize_that_fails_takes_no_place(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/refuse" => conversation.respond_json(400, "", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602}}"#),
                "/stateless" => conversation.respond_json(200, "", "{}"),
                "/garbage" => {
                    conversation.send(b"garbage");
                    return;
                }
                _ => conversation.respond_json(200, "Mcp-Session-Id: theirs\r\n", "{}"),
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).set("session.max_sessions", "1").start();
    for (target, status) in [("/refuse", 400), ("/stateless", 200), ("/garbage", 502)] {
        for _ in 0..3 {
            assert_eq!(proxy.ask(&post_json(target, "", &initialize(1))).status, status, "{target}");
        }
    }
    begin_session(&proxy);
}

fn a_stateless_server_gets_no_session(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.respond_json(200, "", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let answer = proxy.ask(&post_json("/mcp", "", &initialize(1)));
    assert_eq!((answer.status, answer.one("mcp-session-id")), (200, None));
    assert_eq!(proxy.ask(&post_json("/mcp", "", &request(2, "tools/list"))).status, 200);
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 0.0);
}

fn upstream_ids_that_are_not_visible_ascii_are_refused(driver: Driver) {
    for id in ["", "a b", "gr\u{f6}\u{df}e", "a\tb"] {
        let upstream = FakeUpstream::new(move |conversation| {
            while let Some(request) = conversation.request() {
                conversation.tell(request.head.method());
                conversation.respond_json(200, &format!("Mcp-Session-Id: {id}\r\n"), "{}");
            }
        });
        let proxy = Proxy::before(driver, &[&upstream]).start();
        let answer = proxy.ask(&post_json("/mcp", "", &initialize(1)));
        assert_eq!(answer.status, 502, "{id:?}");
        assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 0.0);
    }
}

fn counts_sessions(driver: Driver) {
    let replica = Replica::new("a");
    let proxy = Proxy::before(driver, &[&replica.upstream]).start();
    let ids: Vec<String> = (0..5).map(|_| begin_session(&proxy).1).collect();
    for id in &ids[..2] {
        assert_eq!(proxy.ask(&delete(id)).status, 200);
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("shadowcat_sessions_active", "transport=\"http\""), 3.0);
    assert_eq!(metrics.sum("shadowcat_sessions_total", "transport=\"http\""), 5.0);
    assert_eq!(metrics.sum("shadowcat_session_duration_seconds_count", ""), 2.0, "{}", metrics.0);
}
