//! Servers of 2024-11-05: a GET stream whose `endpoint` event names where to POST. The session travels in its query.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use crate::on_both_drivers;
use crate::support::mcp::request;
use crate::support::*;

on_both_drivers!(
    the_endpoint_names_a_session_of_ours,
    posts_and_answers_stay_with_their_replica,
    only_the_session_of_the_endpoint_is_rewritten,
    the_endpoint_is_found_in_whatever_pieces,
    the_endpoint_is_found_behind_comments_and_other_fields,
    an_ended_stream_ends_its_session,
    an_open_stream_keeps_its_session_alive,
    a_session_that_is_killed_ends_with_its_stream,
    unknown_sessions_are_404,
    streams_without_an_endpoint_are_byte_exact,
    counts_among_max_sessions,
    any_proxy_takes_the_posts_of_a_stream,
);

/// A 2024-11-05 server: `GET /sse` opens a stream, `POST /messages?sessionId=...` is answered on it.
struct Server {
    upstream: FakeUpstream,
    streams: Arc<Mutex<HashMap<String, Sender<Option<String>>>>>,
}

impl Server {
    fn new(name: &'static str) -> Server {
        let streams: Arc<Mutex<HashMap<String, Sender<Option<String>>>>> = Arc::default();
        let shared = streams.clone();
        let upstream = FakeUpstream::new(move |conversation| {
            while let Some(request) = conversation.request() {
                match request.head.method() {
                    "GET" => {
                        let id = format!("{name}-secret-{}", conversation.number);
                        let (say, said) = channel();
                        shared.lock().expect("streams").insert(id.clone(), say);
                        conversation.begin_events("");
                        let endpoint = format!("event: endpoint\ndata: /messages?sessionId={id}\n\n");
                        conversation.send_chunk(endpoint.as_bytes());
                        while let Ok(Some(event)) = said.recv_timeout(PATIENCE * 3) {
                            conversation.send_chunk(event.as_bytes());
                        }
                        conversation.end_chunks();
                    }
                    _ => {
                        let id = request.head.target().split("sessionId=").nth(1).unwrap_or_default().to_owned();
                        let message = format!(r#"{{"jsonrpc":"2.0","id":{},"result":"{name}"}}"#, request.json()["id"]);
                        let known = shared.lock().expect("streams").get(&id).cloned();
                        match known {
                            Some(stream) => {
                                let _ = stream.send(Some(format!("event: message\ndata: {message}\n\n")));
                                conversation.respond(202, "", "Accepted");
                            }
                            None => conversation.respond(404, "", "upstream: no such session"),
                        }
                    }
                }
            }
        });
        Server { upstream, streams }
    }

    fn end_streams(&self) {
        for stream in self.streams.lock().expect("streams").values() {
            let _ = stream.send(None);
        }
    }
}

fn open(proxy: &Proxy) -> (RawClient, String) {
    let mut stream = proxy.connect();
    stream.send(&get("/sse", "Accept: text/event-stream\r\n"));
    stream.stream_head();
    let event = String::from_utf8(stream.stream_until(b"\n\n")).expect("UTF-8");
    let endpoint = event.strip_prefix("event: endpoint\ndata: ").and_then(|rest| rest.strip_suffix("\n\n"));
    let endpoint = endpoint.unwrap_or_else(|| panic!("{event:?}")).to_owned();
    (stream, endpoint)
}

fn the_endpoint_names_a_session_of_ours(driver: Driver) {
    let server = Server::new("a");
    let proxy = Proxy::before(driver, &[&server.upstream]).start();
    let (mut stream, endpoint) = open(&proxy);
    let id = endpoint.strip_prefix("/messages?sessionId=").expect("an id");
    assert!(id.len() >= 22 && !endpoint.contains("secret"), "{endpoint}");
    assert_eq!(proxy.ask(&post_json(&endpoint, "", &request(5, "ping"))).status, 202);
    let seen = server.upstream.last_request().head;
    assert_eq!(seen.target(), "/messages?sessionId=a-secret-1");
    assert!(!seen.has("mcp-session-id"));
    assert!(stream.stream_until(b"\n\n").ends_with(b"{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":\"a\"}\n\n"));
    assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 1.0);
}

fn posts_and_answers_stay_with_their_replica(driver: Driver) {
    let (a, b) = (Server::new("a"), Server::new("b"));
    let proxy = Proxy::before(driver, &[&a.upstream, &b.upstream]).start();
    let mut sessions: Vec<(RawClient, String)> = (0..20).map(|_| open(&proxy)).collect();
    let mut names = Vec::new();
    for round in 0..3 {
        for (stream, endpoint) in &mut sessions {
            assert_eq!(proxy.ask(&post_json(endpoint, "", &request(round, "tools/list"))).status, 202);
            let event = String::from_utf8(stream.stream_until(b"\n\n")).expect("UTF-8");
            assert!(event.contains(&format!("\"id\":{round},")), "{event}");
            names.push(event.contains("\"a\""));
        }
    }
    assert!(names.contains(&true) && names.contains(&false));
    assert_eq!(names[..20], names[20..40]);
    assert_eq!(names[..20], names[40..]);
}

/// Opens one stream with exactly these bytes, in pieces.
fn saying(events: String, piece: usize) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            if request.head.method() == "POST" {
                conversation.respond(202, "", "");
                continue;
            }
            conversation.begin_events("");
            for piece in events.as_bytes().chunks(piece) {
                conversation.send_chunk(piece);
            }
            conversation.wait_for_end();
            return;
        }
    })
}

/// What the client got of `events`, and the target that upstream got of a POST to what the client was told.
fn rewritten(driver: Driver, events: &str, piece: usize) -> (String, String) {
    let upstream = saying(events.to_owned(), piece);
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut stream = proxy.connect();
    stream.send(&get("/sse", "Accept: text/event-stream\r\n"));
    stream.stream_head();
    let mut seen = Vec::new();
    while !seen.windows(5).any(|bytes| bytes == b":end\n") {
        seen.extend(stream.chunk().expect("more"));
    }
    let seen = String::from_utf8(seen).expect("UTF-8");
    let line = seen.lines().find(|line| line.starts_with("data:")).expect("data");
    let endpoint = line["data:".len()..].trim();
    let status = proxy.ask(&post_json(endpoint, "", &request(1, "ping"))).status;
    assert_eq!(status, 202, "{endpoint}");
    let target = upstream.last_request().head.target().to_owned();
    (seen, target)
}

fn only_the_session_of_the_endpoint_is_rewritten(driver: Driver) {
    for (endpoint, start, end) in [
        ("/m?sessionId=THEIRS", "/m?sessionId=", ""),
        ("/m?session_id=THEIRS", "/m?session_id=", ""),
        ("/m/?a=b&sessionId=THEIRS&c=d", "/m/?a=b&sessionId=", "&c=d"),
        ("/m?sessionId=THEIRS&note=THEIRS", "/m?sessionId=", "&note=THEIRS"),
    ] {
        let (seen, target) = rewritten(driver, &format!("event: endpoint\ndata: {endpoint}\n\n:end\n"), 4096);
        let told = seen.strip_prefix("event: endpoint\ndata: ").and_then(|rest| rest.strip_suffix("\n\n:end\n"));
        let told = told.unwrap_or_else(|| panic!("{seen:?}"));
        let id = told.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)).unwrap_or_else(|| panic!("{told}"));
        assert!(id.len() >= 22 && id != "THEIRS", "{told}");
        assert_eq!(target, endpoint);
    }
}

fn the_endpoint_is_found_in_whatever_pieces(driver: Driver) {
    for piece in [1, 3, 10, 4096] {
        for line_end in ["\n", "\r\n"] {
            let events =
                format!("event: endpoint{line_end}data: /m?sessionId=THEIRS{line_end}{line_end}data: next\n\n:end\n");
            let (seen, target) = rewritten(driver, &events, piece);
            assert!(!seen.contains("THEIRS"), "pieces of {piece}: {seen:?}");
            assert!(seen.ends_with(&format!("{line_end}{line_end}data: next\n\n:end\n")), "{seen:?}");
            assert_eq!(target, "/m?sessionId=THEIRS");
        }
    }
}

fn the_endpoint_is_found_behind_comments_and_other_fields(driver: Driver) {
    for events in [
        "event:endpoint\ndata:/m?sessionId=THEIRS\n\n:end\n",
        ": welcome\n\nevent: endpoint\ndata: /m?sessionId=THEIRS\n\n:end\n",
        "retry: 3000\nevent: endpoint\ndata: /m?sessionId=THEIRS\n\n:end\n",
        "id: 1\nevent: endpoint\ndata: /m?sessionId=THEIRS\n\n:end\n",
        "data: /m?sessionId=THEIRS\nevent: endpoint\n\n:end\n",
    ] {
        for piece in [1, 4096] {
            let (seen, target) = rewritten(driver, events, piece);
            assert!(!seen.contains("THEIRS"), "{events:?} in pieces of {piece} became {seen:?}");
            assert_eq!(target, "/m?sessionId=THEIRS");
        }
    }
}

fn an_ended_stream_ends_its_session(driver: Driver) {
    let server = Server::new("a");
    let proxy = Proxy::before(driver, &[&server.upstream]).start();
    let (mut stream, endpoint) = open(&proxy);
    server.end_streams();
    assert_eq!(stream.chunk(), None);
    proxy.wait_for_metric("shadowcat_sessions_active", "", 0.0);
    assert_eq!(proxy.ask(&post_json(&endpoint, "", &request(1, "ping"))).status, 404);
    assert_eq!(server.upstream.requests().len(), 1);

    let (stream, endpoint) = open(&proxy);
    drop(stream);
    proxy.wait_for_metric("shadowcat_sessions_active", "", 0.0);
    assert_eq!(proxy.ask(&post_json(&endpoint, "", &request(1, "ping"))).status, 404);
}

fn unknown_sessions_are_404(driver: Driver) {
    let server = Server::new("a");
    let proxy = Proxy::before(driver, &[&server.upstream]).start();
    let (_stream, endpoint) = open(&proxy);
    let id = endpoint.split("sessionId=").nth(1).expect("an id");
    let changed: String = id.chars().rev().collect();
    let unknown = endpoint.replace(id, &changed);
    assert_eq!(proxy.ask(&post_json(&unknown, "", &request(1, "ping"))).status, 404);
    // Neither kind of session is one of the other kind.
    let by_header = format!("Mcp-Session-Id: {id}\r\n");
    assert_eq!(proxy.ask(&post_json("/messages", &by_header, &request(1, "ping"))).status, 404);
    // Nor does the upstream's own id open anything.
    assert_eq!(proxy.ask(&post_json("/messages?sessionId=a-secret-1", "", &request(1, "ping"))).status, 404);
    assert_eq!(server.upstream.requests().len(), 1);
}

fn streams_without_an_endpoint_are_byte_exact(driver: Driver) {
    for events in [
        "event: message\ndata: /m?sessionId=THEIRS\n\n",
        "event: endpoints\ndata: /m?sessionId=THEIRS\n\n",
        "event: endpoint\ndata: /m\n\n",
        "event: endpoint\ndata: \n\n",
        "event: endpoint\n\n",
        "event: end",
        "data: event: endpoint\n\nevent: endpoint\n",
        "event:",
    ] {
        let upstream = FakeUpstream::new(move |conversation| {
            while conversation.request().is_some() {
                conversation.begin_events("");
                conversation.send_chunk(events.as_bytes());
                conversation.end_chunks();
            }
        });
        let proxy = Proxy::before(driver, &[&upstream]).start();
        assert_eq!(proxy.ask(&get("/sse", "Accept: text/event-stream\r\n")).text(), events);
        assert_eq!(proxy.metrics().sum("shadowcat_sessions_active", ""), 0.0);
    }
    // However long a first event is, it is passed on in the end.
    let long = format!("event: endpoint\ndata: {}\n\n", "x".repeat(100_000));
    let expected = long.clone();
    let upstream = FakeUpstream::new(move |conversation| {
        while conversation.request().is_some() {
            conversation.begin_events("");
            for piece in long.as_bytes().chunks(1000) {
                conversation.send_chunk(piece);
            }
            conversation.end_chunks();
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert!(proxy.ask(&get("/sse", "Accept: text/event-stream\r\n")).text() == expected);
}

fn counts_among_max_sessions(driver: Driver) {
    let server = Server::new("a");
    let proxy = Proxy::before(driver, &[&server.upstream]).set("session.max_sessions", "2").start();
    let sessions = [open(&proxy), open(&proxy)];
    assert_eq!(proxy.ask(&get("/sse", "Accept: text/event-stream\r\n")).status, 503);
    assert_eq!(server.upstream.requests().len(), 2);
    drop(sessions);
    proxy.wait_for_metric("shadowcat_sessions_active", "", 0.0);
    open(&proxy);
}

fn any_proxy_takes_the_posts_of_a_stream(driver: Driver) {
    let (a, b) = (Server::new("a"), Server::new("b"));
    let sealing = || {
        let builder = Proxy::before(driver, &[&a.upstream, &b.upstream]);
        builder.variable("SHADOWCAT_SESSION_SECRET", "kept-by-two-replicas-0123456789ab").start()
    };
    let (one, other) = (sealing(), sealing());
    let mut sessions: Vec<(RawClient, String)> = (0..6).map(|_| open(&one)).collect();
    let mut names = Vec::new();
    for round in 0..3 {
        for (stream, endpoint) in &mut sessions {
            assert!(!endpoint.contains("secret"), "{endpoint}");
            assert_eq!(other.ask(&post_json(endpoint, "", &request(round, "tools/list"))).status, 202);
            let event = String::from_utf8(stream.stream_until(b"\n\n")).expect("UTF-8");
            assert!(event.contains(&format!("\"id\":{round},")), "{event}");
            names.push(event.contains("\"a\""));
        }
    }
    assert!(names.contains(&true) && names.contains(&false));
    assert_eq!((&names[..6], &names[..6]), (&names[6..12], &names[12..]));
    let asked = a.upstream.requests().len() + b.upstream.requests().len();
    let endpoint = &sessions[0].1;
    // By header it is no session, and a changed one is none either.
    let id = endpoint.split("sessionId=").nth(1).expect("an id").to_owned();
    let by_header = format!("Mcp-Session-Id: {id}\r\n");
    assert_eq!(other.ask(&post_json("/messages", &by_header, &request(1, "ping"))).status, 404);
    let cut = &endpoint[..endpoint.len() - 1];
    assert_eq!(other.ask(&post_json(cut, "", &request(1, "ping"))).status, 404);
    assert_eq!(a.upstream.requests().len() + b.upstream.requests().len(), asked);
    // The stream's end is the session's, where the stream is at once; elsewhere upstream says so.
    a.end_streams();
    b.end_streams();
    for (stream, _) in &mut sessions {
        assert_eq!(stream.chunk(), None);
    }
    one.wait_for_metric("shadowcat_sessions_active", "", 0.0);
    for (_, endpoint) in &sessions {
        assert_eq!(one.ask(&post_json(endpoint, "", &request(9, "ping"))).status, 404);
    }
    assert_eq!(a.upstream.requests().len() + b.upstream.requests().len(), asked);
}

fn an_open_stream_keeps_its_session_alive(driver: Driver) {
    let server = Server::new("a");
    let proxy = Proxy::before(driver, &[&server.upstream])
        .set("session.timeout", "1s")
        .set("session.cleanup_interval", "100ms")
        .start();
    let (mut stream, endpoint) = open(&proxy);
    let begun = std::time::Instant::now();
    wait_until("three lifetimes to pass", || begun.elapsed().as_secs() >= 3);
    assert_eq!(proxy.ask(&post_json(&endpoint, "", &request(5, "ping"))).status, 202);
    assert!(stream.stream_until(b"\n\n").ends_with(b"{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":\"a\"}\n\n"));
    drop(stream);
    proxy.wait_for_metric("shadowcat_sessions_active", "", 0.0);
}

fn a_session_that_is_killed_ends_with_its_stream(driver: Driver) {
    let directory = tempfile::TempDir::new().expect("a directory");
    let server = Server::new("a");
    let proxy = Proxy::before(driver, &[&server.upstream]).store(directory.path()).start();
    let ((mut killed, endpoint), (mut kept, other)) = (open(&proxy), open(&proxy));
    let id = endpoint.rsplit('=').next().expect("an id");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    let socket = directory.path().join("admin.sock");
    command.args(["admin", "--socket"]).arg(socket).args(["sessions", "kill", "--", id]);
    assert!(command.status().expect("the command runs").success());
    killed.expect_end();
    assert_eq!(proxy.ask(&post_json(&endpoint, "", &request(5, "ping"))).status, 404);
    assert_eq!(proxy.ask(&post_json(&other, "", &request(6, "ping"))).status, 202);
    assert!(kept.stream_until(b"\n\n").ends_with(b"\"id\":6,\"result\":\"a\"}\n\n"));
}
