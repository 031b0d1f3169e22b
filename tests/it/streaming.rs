//! Event streams and large bodies: as they arrive, byte for byte, in constant memory.

use std::io::{Read, Write};
use std::time::Duration;

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    relays_events_as_they_arrive_byte_for_byte,
    ends_upstreams_stream_when_the_client_leaves,
    holds_a_fast_upstream_back_for_a_slow_reader,
    streams_a_large_request_through_constant_memory,
    drops_a_client_that_stops_reading,
    drops_clients_that_are_too_slow,
    carries_many_streams_at_once,
);

fn relays_events_as_they_arrive_byte_for_byte(driver: &str) {
    const PIECES: [&str; 6] = [
        ": a comment\r\n\r\n",
        "id: 1\r\nretry: 500\r\ndata: é😀\r\n\r\n",
        "data:\n\n",
        "event: x\ndata: a\ndata: b",
        "\n\n",
        "data: last\r\r",
    ];
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::new(move |conversation| {
        conversation.request();
        conversation.begin_events("X-Accel-Buffering: no\r\nCache-Control: no-cache\r\n");
        for piece in PIECES {
            gone.lock().unwrap().recv().unwrap();
            conversation.chunked(piece);
        }
        gone.lock().unwrap().recv().unwrap();
        conversation.say(b"0\r\n\r\n");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(&get("/mcp", "Accept: text/event-stream\r\n"));
    let head = client.head();
    assert!(head.contains("X-Accel-Buffering: no\r\n") && head.contains("Content-Type: text/event-stream\r\n"));
    for piece in PIECES {
        assert!(client.is_quiet());
        go.send(()).unwrap();
        assert_eq!(String::from_utf8(client.chunk().unwrap()).unwrap(), piece);
    }
    go.send(()).unwrap();
    assert_eq!(client.chunk(), None);
    // The connection is as good as before.
    assert_eq!(client.exchange(&get("/health", "")).status, 200);
}

fn ends_upstreams_stream_when_the_client_leaves(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.chunked("data: 1\n\n");
        conversation.wait_for_close();
        conversation.tell("closed");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for request in [get("/mcp", "Accept: text/event-stream\r\n"), post("", r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#)]
    {
        let mut client = proxy.connect();
        client.send(&request);
        client.head();
        client.chunk();
        drop(client);
        assert_eq!(upstream.event(), "closed");
    }
    wait_for("the streams to end", || (proxy.metrics().sum("shadowcat_streams_active", "") == 0.0).then_some(()));
}

fn holds_a_fast_upstream_back_for_a_slow_reader(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
        let mut sent = 0;
        while sent < 1 << 30 && conversation.stream.write_all(chunk.as_bytes()).is_ok() {
            sent += 65536;
        }
        conversation.tell(&sent.to_string());
        conversation.wait_for_close();
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let before = proxy.memory();
    let mut client = proxy.connect();
    client.send(&get("/mcp", "Accept: text/event-stream\r\n"));
    client.head();
    let sent: usize = upstream.event().parse().unwrap();
    assert!(sent < 64 << 20, "upstream was not held back: {sent} bytes");
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
}

fn streams_a_large_request_through_constant_memory(driver: &str) {
    const BYTES: usize = 100 << 20;
    let upstream = Upstream::new(|conversation| {
        conversation.head();
        let (mut seen, mut piece) = (0, vec![0; 1 << 16]);
        while seen < BYTES - 65536 {
            seen += conversation.stream.read(&mut piece).unwrap();
        }
        conversation.tell("nearly all");
        conversation.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        while conversation.stream.read(&mut piece).is_ok_and(|n| n > 0) {}
        conversation.answer(200, "", "got it");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for kind in ["application/octet-stream", "application/json"] {
        let before = proxy.memory();
        let mut client = proxy.connect();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {BYTES}\r\n\r\n[\""
        );
        client.send(head.as_bytes());
        let piece = vec![b'x'; 1 << 20];
        let mut left = BYTES - 4;
        while left > 0 {
            let n = left.min(piece.len());
            client.send(&piece[..n]);
            left -= n;
        }
        client.send(b"\"]");
        assert_eq!(upstream.event(), "nearly all");
        let grown = proxy.memory().saturating_sub(before);
        assert!(grown < 12 << 20, "{kind}: {grown} bytes more");
        assert_eq!(client.answer().text(), "got it");
    }
}

fn drops_a_client_that_stops_reading(driver: &str) {
    let upstream = Upstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
        while conversation.stream.write_all(chunk.as_bytes()).is_ok() {}
        conversation.tell("closed");
    });
    let proxy = Proxy::before(driver, &[&upstream]).set("timeouts.write", "300ms").start();
    let mut client = proxy.connect();
    client.send(&get("/mcp", "Accept: text/event-stream\r\n"));
    assert_eq!(upstream.event(), "closed");
}

fn drops_clients_that_are_too_slow(driver: &str) {
    let upstream = Upstream::answering("ok");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("timeouts.header", "250ms")
        .set("timeouts.body", "250ms")
        .set("performance.keep_alive_timeout", "250ms")
        .start();
    let mut head = proxy.connect();
    head.send(b"GET / HTTP/1.1\r\nHost: lo");
    assert_eq!(head.answer().status, 408);
    let mut body = proxy.connect();
    body.send(
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
    );
    assert_eq!(body.answer().status, 408);
    let mut streamed = proxy.connect();
    streamed.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n{");
    assert_eq!(streamed.answer().status, 408);
    let mut silent = proxy.connect();
    assert_eq!(silent.rest(), (vec![], Ending::Orderly));
    let mut idle = proxy.connect();
    assert_eq!(idle.exchange(&get("/", "")).status, 200);
    assert_eq!(idle.rest(), (vec![], Ending::Orderly));
    assert!(!upstream.received().contains("POST /mcp"));
}

fn carries_many_streams_at_once(driver: &str) {
    const STREAMS: usize = 200;
    const EVENTS: usize = 5;
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(STREAMS));
    let upstream = Upstream::new(move |conversation| {
        conversation.request();
        conversation.begin_events("");
        for event in 0..EVENTS {
            // All streams speak at once.
            barrier.wait();
            conversation.chunked(&format!("id: {event}\ndata: {}\n\n", conversation.number));
        }
        conversation.say(b"0\r\n\r\n");
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut clients: Vec<Client> = (0..STREAMS).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(&get("/mcp", "Accept: text/event-stream\r\n"));
    }
    for client in &mut clients {
        let text = client.answer().text();
        assert_eq!(text.matches("data: ").count(), EVENTS);
        let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids, ["0", "1", "2", "3", "4"]);
    }
}
