//! Bytes leave as they arrive, and no faster than they are taken.

use std::sync::{Arc, Barrier};

use rustix::process::Signal;

use crate::on_both_drivers;
use crate::support::mcp::{modern, modern_call, modern_fields};
use crate::support::*;

on_both_drivers!(
    the_first_byte_leaves_at_once,
    the_first_byte_of_a_request_leaves_at_once,
    event_streams_are_byte_exact,
    fields_of_a_stream_pass,
    a_stream_that_ends_leaves_both_connections_usable,
    each_stream_gets_its_own_events,
    what_is_asked_behind_a_stream_is_answered_when_that_ends,
    a_length_that_a_drain_cuts_is_not_filled_with_the_next_answer,
    a_subscription_is_told_of_when_it_ends,
    a_quiet_stream_is_not_cut,
    a_slow_reader_slows_the_upstream_and_grows_no_memory,
    a_slow_upstream_slows_the_client_and_grows_no_memory,
    large_request_bodies_go_through_constant_memory,
    large_answers_go_through_constant_memory,
    a_reader_that_takes_nothing_is_dropped,
    a_client_that_leaves_a_stream_ends_it_upstream,
    streams_that_ended_leave_nothing_behind,
);

const MIB: usize = 1 << 20;
/// What the proxy may grow by while it carries anything of any size, bytes. A debug build's own noise is in it.
const GROWTH: u64 = 24 << 20;

fn the_first_byte_leaves_at_once(driver: Driver) {
    for (name, head, first) in [
        ("events", "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", "7\r\ndata: x\r\n"),
        ("chunks", "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n", "7\r\ndata: x\r\n"),
        ("part of a chunk", "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n", "fff\r\ndata: x"),
        ("a length", "Content-Length: 1000\r\n", "data: x"),
        ("until close", "Content-Type: text/event-stream\r\n", "data: x"),
    ] {
        let upstream = FakeUpstream::new(move |conversation| {
            conversation.request();
            conversation.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes());
            conversation.wire.fill(PATIENCE); // never: the client waits for the head first
        });
        let proxy = Proxy::before(driver, &[&upstream]).start();
        let mut client = proxy.connect();
        // The head alone travels, however long the body lets us wait.
        client.send(&get("/", ""));
        assert_eq!(client.head().status(), Ok(200), "{name}");
        drop(client);

        let upstream = FakeUpstream::new(move |conversation| {
            conversation.request();
            conversation.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{first}").as_bytes());
            conversation.wait_for_end();
        });
        let proxy = Proxy::before(driver, &[&upstream]).start();
        let mut client = proxy.connect();
        client.send(&get("/", ""));
        let head = client.head();
        let came = if head.has("content-length") {
            client.wire.exactly(7).expect("the first bytes")
        } else {
            client.chunk().expect("the first chunk")
        };
        assert_eq!(String::from_utf8_lossy(&came), "data: x", "{name}");
    }
}

fn the_first_byte_of_a_request_leaves_at_once(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        let Some(head) = conversation.head() else { return };
        conversation.tell("head");
        let first = match head.has("content-length") {
            true => conversation.wire.exactly(5).ok(),
            false => conversation.chunk().flatten(),
        };
        conversation.tell(String::from_utf8_lossy(&first.unwrap_or_default()));
        conversation.wait_for_end();
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let head = "POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n";
    for (framing, first) in [("Content-Length: 100\r\n", "first"), ("Transfer-Encoding: chunked\r\n", "5\r\nfirst\r\n")]
    {
        let mut client = proxy.connect();
        client.send(format!("{head}{framing}\r\n{first}").as_bytes());
        upstream.expect_event("head");
        upstream.expect_event("first");
    }
}

/// Everything that an event stream may hold, and some things that it may not.
const EVENTS: &[u8] = b"\xef\xbb\xbf: a comment\n\n:\n\ndata: one\n\ndata: two\r\n\r\ndata: three\r\rid: 17\ndata\n\n\
    event: message\r\nid: a-b-c\r\nretry: 3000\r\ndata: {\"x\":\"gr\xc3\xb6\xc3\x9fe\"}\r\ndata: more\r\n\r\n\
    data:no space\ndata:  two spaces\n\nunknown: field\n\n\n\n\r\nid\n\nretry: x\n\nevent: \n\ndata: \xf0\x9f\x90\x88\n\n\
    id: \0nul\n\ndata: last, without its end";

fn event_streams_are_byte_exact(driver: Driver) {
    for piece in [1, 2, 7, 4096] {
        for length in [None, Some(EVENTS.len())] {
            let upstream = FakeUpstream::new(move |conversation| {
                while conversation.request().is_some() {
                    match length {
                        None => conversation.begin_events(""),
                        Some(length) => {
                            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";
                            conversation.send(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes());
                        }
                    }
                    for piece in EVENTS.chunks(piece) {
                        match length {
                            None => conversation.send_chunk(piece),
                            Some(_) => conversation.send(piece),
                        };
                    }
                    if length.is_none() {
                        conversation.end_chunks();
                    }
                }
            });
            let proxy = Proxy::before(driver, &[&upstream]).start();
            let mut client = proxy.connect();
            for request in [
                get("/sse", "Accept: text/event-stream\r\n"),
                post_json("/mcp", "", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#),
                modern_call(1, "x", ""),
                get("/sse", ""),
            ] {
                assert_eq!(client.ask(&request).body, EVENTS, "pieces of {piece}");
            }
        }
    }
}

fn fields_of_a_stream_pass(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.begin_events("X-Accel-Buffering: no\r\nCache-Control: no-cache, no-transform\r\n");
            conversation.end_chunks();
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let answer = proxy.ask(&get("/sse", ""));
    assert_eq!(answer.one("x-accel-buffering"), Some("no"));
    assert_eq!(answer.one("content-type"), Some("text/event-stream"));
    assert_eq!(answer.head.all("cache-control"), ["no-cache", "no-cache, no-transform"]);
    assert!(!answer.head.has("content-length"));
}

fn a_stream_that_ends_leaves_both_connections_usable(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.begin_events("");
            conversation.send_chunk(b"data: x\n\n");
            conversation.end_chunks();
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.ask(&get("/sse", "")).text(), "data: x\n\n");
    }
    assert_eq!(upstream.connections(), 1);
    assert_eq!(proxy.metrics().sum("shadowcat_streams_active", ""), 0.0);
}

fn each_stream_gets_its_own_events(driver: Driver) {
    const STREAMS: usize = 150;
    const EVENTS: usize = 20;
    let upstream = FakeUpstream::new(|conversation| {
        let Some(request) = conversation.request() else { return };
        let name = request.head.target().to_owned();
        conversation.begin_events("");
        for n in 0..EVENTS {
            conversation.send_chunk(format!("id: {n}\ndata: {name} {n}\n\n").as_bytes());
        }
        conversation.end_chunks();
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut clients: Vec<RawClient> = (0..STREAMS).map(|_| proxy.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&get(&format!("/{n}"), ""));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let expected: String = (0..EVENTS).map(|event| format!("id: {event}\ndata: /{n} {event}\n\n")).collect();
        assert_eq!(client.response().text(), expected);
    }
}

fn a_length_that_a_drain_cuts_is_not_filled_with_the_next_answer(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation
                .send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 900\r\n\r\ndata: x\n\n");
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    client.send(&[get("/stream", ""), get("/next", "")].concat());
    assert_eq!(client.head().one("Content-Length"), Some("900"));
    proxy.signal(Signal::TERM);
    let (rest, ending) = client.wire.rest(PATIENCE);
    assert_eq!(String::from_utf8_lossy(&rest), "data: x\n\n");
    assert!(ending.is_some());
}

fn what_is_asked_behind_a_stream_is_answered_when_that_ends(driver: Driver) {
    let gate = Arc::new(Barrier::new(2));
    let opened = gate.clone();
    let upstream = FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            conversation.begin_events("");
            conversation.send_chunk(b"data: first\n\n");
            if request.head.target() == "/waits" {
                conversation.tell("open");
                opened.wait();
            }
            conversation.send_chunk(b"data: last\n\n");
            conversation.end_chunks();
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    for behind_the_head in [true, false] {
        let mut client = proxy.connect();
        let (stream, next) = (get("/waits", ""), [get("/a", ""), get("/b", "")].concat());
        if behind_the_head {
            client.send(&[stream, next].concat());
            upstream.expect_event("open");
        } else {
            client.send(&stream);
            upstream.expect_event("open");
            client.send(&next);
        }
        gate.wait();
        for _ in 0..3 {
            assert_eq!(client.response().text(), "data: first\n\ndata: last\n\n");
        }
    }
    assert_eq!(upstream.connections(), 1);
}

fn a_subscription_is_told_of_when_it_ends(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.begin_events("");
            conversation.send_chunk(b"data: x\n\n");
            conversation.send_chunk(b"data: y\n\n");
            conversation.end_chunks();
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).set("logging.access", "all").start();
    let mut client = proxy.connect();
    let body = modern(7, "subscriptions/listen", "");
    let request = post_json("/mcp", &modern_fields("subscriptions/listen", None), &body);
    for n in 1..=3 {
        assert_eq!(client.ask(&request).text(), "data: x\n\ndata: y\n\n");
        let line = "method=subscriptions/listen";
        wait_until("a line of the log", || proxy.log().lines().filter(|one| one.contains(line)).count() == n);
    }
    let log = proxy.log();
    let told = log.lines().find(|line| line.contains("method=subscriptions/listen")).unwrap();
    assert!(told.contains("status=200 ") && told.contains("termination=-- "), "{told}");
    assert_eq!(upstream.connections(), 1);
}

fn a_quiet_stream_is_not_cut(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.send_chunk(b"data: first\n\n");
        conversation.wire.fill(std::time::Duration::from_millis(1500));
        conversation.send_chunk(b"data: second\n\n");
        conversation.end_chunks();
    });
    let config = format!("[[upstreams]]\nurl = \"{}\"\ntimeout = \"300ms\"\n", upstream.url());
    let proxy = Proxy::builder(driver)
        .config(&config)
        .set("timeouts.request", "400ms")
        .set("timeouts.write", "500ms")
        .set("performance.keep_alive_timeout", "400ms")
        .start();
    for request in [get("/sse", ""), modern_call(1, "x", "")] {
        assert_eq!(proxy.ask(&request).text(), "data: first\n\ndata: second\n\n");
    }
}

/// Sends chunks of 64 KiB until nobody takes any more, tells how many bytes went, and goes on after that.
fn flooding(stream: bool) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        let Some(_) = conversation.request() else { return };
        match stream {
            true => conversation.begin_events(""),
            false => conversation.begin_chunks("Content-Type: application/octet-stream\r\n"),
        }
        let event = [b"data: ".as_slice(), &vec![b'x'; 64 * 1024 - 8], b"\n\n"].concat();
        let chunk = [format!("{:x}\r\n", event.len()).as_bytes(), &event, b"\r\n"].concat();
        let mut sent = 0;
        loop {
            let took = conversation.wire.send_until_blocked(&chunk, QUIET * 2);
            sent += took;
            if took < chunk.len() {
                conversation.tell(format!("blocked after {sent}"));
                // The rest of this chunk, once there is room again.
                if !conversation.send(&chunk[took..]) {
                    break;
                }
                sent += chunk.len() - took;
            }
            if sent > 512 * MIB {
                break;
            }
        }
        conversation.tell("left");
    })
}

fn a_slow_reader_slows_the_upstream_and_grows_no_memory(driver: Driver) {
    for stream in [true, false] {
        let upstream = flooding(stream);
        let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
        let before = proxy.memory();
        let mut clients: Vec<RawClient> = (0..10)
            .map(|_| {
                let mut client = proxy.connect();
                client.wire.take_little(16 * 1024);
                client.send(&get("/flood", ""));
                client
            })
            .collect();
        for _ in &clients {
            let event = upstream.event();
            let sent: usize = event.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number");
            // What the kernel's buffers of both connections take, and no more.
            assert!(sent < 32 * MIB, "{sent}");
        }
        let grown = proxy.memory().saturating_sub(before);
        assert!(grown < GROWTH, "grew by {grown} bytes");
        // Others are served meanwhile, and who reads again gets every byte.
        assert_eq!(proxy.ask(&get("/health", "")).status, 200);
        let reader = &mut clients[0];
        reader.head();
        for _ in 0..60 {
            let chunk = reader.chunk().expect("a chunk");
            assert!(chunk.iter().all(|&b| b"data: x\n".contains(&b)));
        }
        drop(clients);
        proxy.wait_for_metric("shadowcat_streams_active", "", 0.0);
    }
}

fn a_slow_upstream_slows_the_client_and_grows_no_memory(driver: Driver) {
    let idle = FakeUpstream::new(|conversation| {
        conversation.wire.take_little(16 * 1024);
        if conversation.head().is_some() {
            conversation.tell("head");
            // Reads nothing more while the test runs.
            let (_hold, held) = std::sync::mpsc::channel::<()>();
            let _ = held.recv_timeout(PATIENCE * 3);
        }
    });
    let proxy = Proxy::before(driver, &[&idle]).workers(1).start();
    let before = proxy.memory();
    let head = format!(
        "POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        1 << 30
    );
    let piece = vec![b'x'; MIB];
    let clients: Vec<RawClient> = (0..5)
        .map(|_| {
            let mut client = proxy.connect();
            client.send(head.as_bytes());
            idle.expect_event("head");
            let mut sent = 0;
            while sent < 64 * MIB {
                let took = client.wire.send_until_blocked(&piece, QUIET);
                sent += took;
                if took < piece.len() {
                    break;
                }
            }
            assert!(sent < 32 * MIB, "{sent}");
            client
        })
        .collect();
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < GROWTH, "grew by {grown} bytes");
    assert_eq!(proxy.ask(&get("/health", "")).status, 200);
    drop(clients);
}

/// Counts what comes without keeping it.
fn counting() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        while let Some(head) = conversation.head() {
            let mut bytes = 0;
            match head.request_framing() {
                Ok(http::BodyFraming::Length(length)) => {
                    while bytes < length {
                        let Ok(piece) = conversation.wire.exactly((length - bytes).min(64 * 1024)) else { return };
                        bytes += piece.len();
                    }
                }
                _ => {
                    while let Some(Some(chunk)) = conversation.chunk() {
                        bytes += chunk.len();
                    }
                }
            }
            conversation.respond(200, "", &bytes.to_string());
        }
    })
}

fn large_request_bodies_go_through_constant_memory(driver: Driver) {
    let upstream = counting();
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let mut client = proxy.connect();
    client.ask(&post("/warm", "", &vec![b'x'; 2 * MIB]));
    let before = proxy.memory();
    let mut peak = 0;
    let head = "POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n";
    let piece = vec![b'x'; MIB];
    for chunked in [false, true] {
        let framing =
            if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", 100 * MIB) };
        client.send(format!("{head}{framing}\r\n\r\n").as_bytes());
        for n in 0..100 {
            if chunked {
                client.send(b"100000\r\n").send(&piece).send(b"\r\n");
            } else {
                client.send(&piece);
            }
            if n % 10 == 0 {
                peak = peak.max(proxy.memory());
            }
        }
        if chunked {
            client.send(b"0\r\n\r\n");
        }
        assert_eq!(client.response().text(), (100 * MIB).to_string());
    }
    assert!(peak.saturating_sub(before) < GROWTH, "{before} grew to {peak}");
    // JSON is looked at while it streams, and kept no longer than that.
    let fields = modern_fields("tools/call", Some("x"));
    let (start, end) = (
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"arguments":{"blob":""#,
        r#""}}}"#,
    );
    let total = start.len() + 20 * MIB + end.len();
    let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    client.send(format!("{head}{fields}Content-Length: {total}\r\n\r\n{start}").as_bytes());
    for _ in 0..20 {
        client.send(&piece);
        peak = peak.max(proxy.memory());
    }
    client.send(end.as_bytes());
    assert_eq!(client.response().text(), total.to_string());
    assert!(peak.saturating_sub(before) < GROWTH, "{before} grew to {peak}");
}

fn large_answers_go_through_constant_memory(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 100 * MIB).as_bytes());
            let piece = vec![b'y'; MIB];
            for _ in 0..100 {
                conversation.send(&piece);
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    let before = proxy.memory();
    let mut client = proxy.connect();
    client.send(&get("/", ""));
    assert_eq!(client.head().one("content-length"), Some((100 * MIB).to_string().as_str()));
    for _ in 0..100 {
        let piece = client.wire.exactly(MIB).expect("a piece");
        assert!(piece.iter().all(|&b| b == b'y'));
        assert!(proxy.memory().saturating_sub(before) < GROWTH);
    }
}

fn a_reader_that_takes_nothing_is_dropped(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        while conversation.send_chunk(&[b'x'; 64 * 1024]) {}
        conversation.tell("left");
    });
    let proxy = Proxy::before(driver, &[&upstream]).set("timeouts.write", "500ms").start();
    let mut client = proxy.connect();
    client.wire.take_little(4096);
    client.send(&get("/flood", ""));
    upstream.expect_event("left");
    proxy.wait_for_metric("shadowcat_streams_active", "", 0.0);
}

fn a_client_that_leaves_a_stream_ends_it_upstream(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.send_chunk(b"data: x\n\n");
        conversation.wait_for_end();
        conversation.tell("ended");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    for by_reset in [false, true] {
        let mut client = proxy.connect();
        client.send(&get("/sse", "Accept: text/event-stream\r\n"));
        client.stream_head();
        client.stream_until(b"\n\n");
        match by_reset {
            true => client.wire.reset(),
            false => drop(client),
        }
        upstream.expect_event("ended");
    }
    proxy.wait_for_metric("shadowcat_streams_active", "", 0.0);
}

fn streams_that_ended_leave_nothing_behind(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.begin_events("");
        conversation.send_chunk(b"data: x\n\n");
        conversation.wait_for_end();
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let at_rest = proxy.descriptors();
    for _ in 0..3 {
        let mut clients: Vec<RawClient> = (0..100).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(&get("/sse", ""));
        }
        for client in &mut clients {
            client.stream_head();
            client.stream_until(b"\n\n");
        }
        assert_eq!(proxy.metrics().sum("shadowcat_streams_active", ""), 100.0);
        for (n, client) in clients.into_iter().enumerate() {
            if n % 2 == 0 {
                client.wire.reset();
            }
        }
        wait_until("the descriptors to be given back", || proxy.descriptors() <= at_rest + 2);
        proxy.wait_for_metric("shadowcat_connections_active", "", 1.0);
    }
}
