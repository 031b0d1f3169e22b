//! Bounds in bytes and in time, each with its own status.

use std::time::{Duration, Instant};

use crate::on_both_drivers;
use crate::support::mcp::request;
use crate::support::*;

on_both_drivers!(
    bounds_the_head,
    bounds_the_fields,
    bounds_the_target,
    bounds_the_body,
    bounds_are_felt_before_the_end_comes,
    a_slow_head_is_408,
    a_connection_that_says_nothing_is_closed,
    a_slow_body_is_408,
    an_idle_connection_is_closed,
    an_upstream_that_does_not_answer_is_504,
    an_answer_that_stops_is_cut,
    an_answer_that_trickles_is_not_cut,
    a_request_that_takes_too_long_is_504,
    a_long_upload_is_no_upstream_timeout,
    an_answer_in_pieces_behind_a_long_upload_is_taken,
    an_upstream_that_does_not_accept_is_504,
    bounds_the_connections,
);

/// Far above every limit of these tests, far below every default.
const SOON: Duration = Duration::from_secs(4);

fn head_of(bytes: usize) -> Vec<u8> {
    let start = "GET / HTTP/1.1\r\nHost: localhost\r\nX: ";
    let filler = bytes - start.len() - "\r\n\r\n".len();
    format!("{start}{}\r\n\r\n", "x".repeat(filler)).into_bytes()
}

fn bounds_the_head(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let by_default = Proxy::before(driver, &[&upstream]).start();
    let tuned =
        Proxy::before(driver, &[&upstream]).set("limits.head_bytes", "4096").set("limits.target_bytes", "1024").start();
    for (proxy, limit) in [(&by_default, 32 * 1024), (&tuned, 4096)] {
        assert_eq!(proxy.ask(&head_of(limit)).status, 200, "{limit}");
        let refused = proxy.ask(&head_of(limit + 1));
        assert_eq!((refused.status, refused.closes()), (431, true), "{limit}");
        let slowly = proxy.connect().send_in_pieces(&head_of(limit + 1), 1000).outcome();
        assert_eq!(slowly.status(), 431);
    }
    assert_eq!(upstream.requests().len(), 2);
}

fn bounds_the_fields(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let by_default = Proxy::before(driver, &[&upstream]).start();
    let tuned = Proxy::before(driver, &[&upstream]).set("limits.fields", "20").start();
    for (proxy, limit) in [(&by_default, 100), (&tuned, 20)] {
        assert_eq!(proxy.ask(&get("/", &"X: y\r\n".repeat(limit - 1))).status, 200, "{limit}");
        for many in [limit, limit + 1, 500] {
            assert_eq!(proxy.ask(&get("/", &"X: y\r\n".repeat(many))).status, 431, "{many} of {limit}");
        }
    }
}

fn bounds_the_target(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let by_default = Proxy::before(driver, &[&upstream]).start();
    let tuned = Proxy::before(driver, &[&upstream]).set("limits.target_bytes", "100").start();
    for (proxy, limit) in [(&by_default, 8 * 1024), (&tuned, 100)] {
        assert_eq!(proxy.ask(&get(&format!("/{}", "p".repeat(limit - 1)), "")).status, 200, "{limit}");
        let refused = proxy.ask(&get(&format!("/{}", "p".repeat(limit)), ""));
        assert_eq!((refused.status, refused.closes()), (414, true), "{limit}");
    }
    let absolute = format!("http://localhost/{}", "p".repeat(100));
    assert_eq!(tuned.ask(&get(&absolute, "")).status, 414);
}

fn chunked_of(kind: &str, chunks: &[usize]) -> Vec<u8> {
    let head = "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: ";
    let mut bytes = format!("{head}{kind}\r\n\r\n").into_bytes();
    for &size in chunks {
        bytes.extend(format!("{size:x}\r\n{}\r\n", " ".repeat(size)).bytes());
    }
    bytes
}

fn bounds_the_body(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("limits.body_bytes", "1000").start();
    assert_eq!(proxy.ask(&post("/x", "", &[b' '; 1000])).status, 200);
    let at_limit = [chunked_of("text/plain", &[999, 1]), b"0\r\n\r\n".to_vec()].concat();
    assert_eq!(proxy.ask(&at_limit).status, 200);
    let whole = upstream.requests().len();
    for kind in ["text/plain", "application/json"] {
        let types = format!("Content-Type: {kind}\r\n");
        let refused = proxy.ask(&post_with("POST", "/x", &types, &[b' '; 1001]));
        assert_eq!((refused.status, refused.closes()), (413, true), "{kind}");
        for chunks in [&[1001][..], &[500, 501], &[1000, 1], &[100_000]] {
            let mut client = proxy.connect();
            let outcome = client.send(&chunked_of(kind, chunks)).outcome();
            assert_eq!(outcome.status(), 413, "{kind} {chunks:?}");
        }
    }
    assert_eq!(upstream.requests().len(), whole);
}

fn bounds_are_felt_before_the_end_comes(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream])
        .set("limits.head_bytes", "4096")
        .set("limits.target_bytes", "100")
        .set("limits.body_bytes", "1000")
        .start();
    let start = "GET / HTTP/1.1\r\nHost: localhost\r\n";
    for (bytes, status) in [
        (format!("{start}X: {}", "x".repeat(5000)), 431),
        (format!("GET /{}", "p".repeat(500)), 414),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n".to_owned(), 413),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n".to_owned(), 413),
    ] {
        let begun = Instant::now();
        let answer = proxy.ask(bytes.as_bytes());
        assert_eq!(answer.status, status, "{bytes:.60}");
        assert!(begun.elapsed() < SOON && answer.closes());
    }
    assert_eq!(upstream.received_text(), "");
}

/// Sends byte after byte of `bytes`, one each time that nothing came for a while; the answer, and how long it took.
fn trickle(proxy: &Proxy, start: &[u8], drop: &[u8]) -> (Outcome, Duration) {
    let mut client = proxy.connect();
    let begun = Instant::now();
    client.send(start);
    while client.is_open(Duration::from_millis(60)) {
        client.send(drop);
        assert!(begun.elapsed() < SOON, "still waited for");
    }
    (client.outcome(), begun.elapsed())
}

fn a_slow_head_is_408(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("timeouts.header", "500ms").start();
    for start in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\nX: y"] {
        let mut client = proxy.connect();
        let begun = Instant::now();
        let answer = client.send(start.as_bytes()).response();
        assert_eq!((answer.status, answer.closes()), (408, true), "{start:?}");
        assert!((Duration::from_millis(400)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        client.expect_end();
    }
    // Nor does a byte now and then keep it waiting.
    let (outcome, took) = trickle(&proxy, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"y");
    assert_eq!(outcome.status(), 408, "after {took:?}");
    // The second request of a connection is no other.
    let mut client = proxy.connect();
    assert_eq!(client.ask(&get("/", "")).status, 200);
    assert_eq!(client.send(b"GET / HT").response().status, 408);
    assert_eq!(upstream.requests().len(), 1);
}

fn a_connection_that_says_nothing_is_closed(driver: Driver) {
    let proxy = Proxy::builder(driver).set("timeouts.header", "500ms").start();
    let mut clients: Vec<RawClient> = (0..20).map(|_| proxy.connect()).collect();
    let begun = Instant::now();
    for client in &mut clients {
        let outcome = client.outcome();
        assert!(matches!(outcome.status(), 0 | 408), "{outcome:?}");
        client.wire.rest(PATIENCE).1.expect("an end");
    }
    assert!(begun.elapsed() < SOON);
}

fn a_slow_body_is_408(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("timeouts.body", "500ms").start();
    let head = "POST /x HTTP/1.1\r\nHost: localhost\r\n";
    for kind in ["application/json", "text/plain"] {
        for framing in
            ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{", "Content-Length: 9\r\n\r\n"]
        {
            let mut client = proxy.connect();
            let begun = Instant::now();
            let request = format!("{head}Content-Type: {kind}\r\n{framing}");
            let answer = client.send(request.as_bytes()).response();
            assert_eq!((answer.status, answer.closes()), (408, true), "{kind} {framing:?}");
            assert!((Duration::from_millis(400)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
            client.expect_end();
        }
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(proxy.ask(&get("/", "")).status, 200);
}

fn an_idle_connection_is_closed(driver: Driver) {
    let upstream = FakeUpstream::answering("");
    let proxy = Proxy::before(driver, &[&upstream]).set("performance.keep_alive_timeout", "500ms").start();
    let mut client = proxy.connect();
    assert_eq!(client.ask(&get("/", "")).status, 200);
    assert_eq!(client.ask(&get("/", "")).status, 200);
    let begun = Instant::now();
    assert_eq!(client.expect_end(), Ending::Orderly);
    assert!((Duration::from_millis(400)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

/// An upstream with this timeout.
fn with_timeout(driver: Driver, upstream: &FakeUpstream, timeout: &str) -> proxy::Builder {
    let config = format!("[[upstreams]]\nname = \"primary\"\nurl = \"{}\"\ntimeout = \"{timeout}\"\n", upstream.url());
    Proxy::builder(driver).config(&config)
}

/// Says `start` to each request and then nothing; tells when it was left.
fn stalling(start: &'static str) -> FakeUpstream {
    FakeUpstream::new(move |conversation| {
        conversation.request();
        conversation.send(start.as_bytes());
        conversation.wait_for_end();
        conversation.tell("left");
    })
}

fn an_upstream_that_does_not_answer_is_504(driver: Driver) {
    for start in ["", "HTTP/1.1 200", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let upstream = stalling(start);
        let proxy = with_timeout(driver, &upstream, "500ms").start();
        let begun = Instant::now();
        let mut client = proxy.connect();
        client.send(&post_json("/mcp", "", &request(6, "ping")));
        let mut answer = client.response();
        if answer.status == 103 {
            answer = client.response();
        }
        assert_eq!((answer.status, answer.json()["id"].as_u64()), (504, Some(6)), "{start:?}");
        assert!((Duration::from_millis(400)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        upstream.expect_event("left");
        let label = "upstream=\"primary\",error=\"timeout\"";
        let swapped = "error=\"timeout\",upstream=\"primary\"";
        let metrics = proxy.metrics();
        let name = "shadowcat_proxy_errors_total";
        assert_eq!(metrics.sum(name, label) + metrics.sum(name, swapped), 1.0, "{}", metrics.0);
        // The request was read to its end: its connection goes on.
        assert!(answer.closes() || client.ask(&get("/health", "")).status == 200);
    }
}

fn an_answer_that_stops_is_cut(driver: Driver) {
    for start in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let upstream = stalling(start);
        let proxy = with_timeout(driver, &upstream, "500ms").start();
        let begun = Instant::now();
        let outcome = proxy.connect().send(&get("/", "")).outcome();
        assert!(outcome.is_cut(), "{outcome:?}");
        assert_eq!(outcome.body(), b"hello");
        assert!((Duration::from_millis(400)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        upstream.expect_event("left");
    }
}

fn an_answer_that_trickles_is_not_cut(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.wire.fill(Duration::from_millis(250));
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
        for _ in 0..8 {
            conversation.wire.fill(Duration::from_millis(150));
            conversation.send(b"x");
        }
    });
    let proxy = with_timeout(driver, &upstream, "600ms").start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "xxxxxxxx");
}

fn a_request_that_takes_too_long_is_504(driver: Driver) {
    let upstream = stalling("");
    let proxy = Proxy::before(driver, &[&upstream]).set("timeouts.request", "500ms").start();
    let begun = Instant::now();
    assert_eq!(proxy.ask(&post_json("/mcp", "", &request(6, "ping"))).status, 504);
    assert!((Duration::from_millis(400)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    upstream.expect_event("left");
    // An answer that comes bit by bit, each in time, is bounded by the whole.
    let trickling = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while conversation.wire.fill(Duration::from_millis(50)) == wire::Input::Quiet && conversation.send(b"x") {}
        conversation.tell("left");
    });
    let proxy = Proxy::before(driver, &[&trickling]).set("timeouts.request", "500ms").start();
    let begun = Instant::now();
    let outcome = proxy.connect().send(&get("/", "")).outcome();
    assert!(outcome.is_cut() && begun.elapsed() < SOON, "{outcome:?} after {:?}", begun.elapsed());
    trickling.expect_event("left");
}

fn a_long_upload_is_no_upstream_timeout(driver: Driver) {
    let upstream = FakeUpstream::answering("all");
    let proxy = with_timeout(driver, &upstream, "500ms").start();
    let mut client = proxy.connect();
    client.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n");
    for _ in 0..12 {
        assert!(client.is_open(Duration::from_millis(120)));
        client.send(b"x");
    }
    assert_eq!(client.response().text(), "all");
}

fn an_answer_in_pieces_behind_a_long_upload_is_taken(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            for piece in ["HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\n", "Content-Length: 3\r\n\r\nall"] {
                conversation.send(piece.as_bytes());
                conversation.wire.fill(Duration::from_millis(50));
            }
        }
    });
    let proxy = with_timeout(driver, &upstream, "500ms").start();
    let mut client = proxy.connect();
    client.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n");
    for _ in 0..12 {
        assert!(client.is_open(Duration::from_millis(80)));
        client.send(b"x");
    }
    assert_eq!(client.head().status(), Ok(103));
    assert_eq!(client.response().text(), "all");
}

fn an_upstream_that_does_not_accept_is_504(driver: Driver) {
    let silent = upstream::Silent::new();
    let proxy = Proxy::builder(driver).upstream(&silent.url()).set("performance.connection_timeout", "500ms").start();
    let begun = Instant::now();
    let answer = proxy.ask(&post_json("/mcp", "", &request(6, "ping")));
    assert_eq!((answer.status, answer.json()["id"].as_u64()), (504, Some(6)));
    assert!((Duration::from_millis(400)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

fn bounds_the_connections(driver: Driver) {
    let upstream = FakeUpstream::answering("served");
    let proxy = Proxy::before(driver, &[&upstream]).set("performance.max_connections", "10").start();
    let mut first: Vec<RawClient> = (0..10).map(|_| proxy.connect()).collect();
    for client in &mut first {
        assert_eq!(client.ask(&get("/", "")).text(), "served");
    }
    let mut waiting: Vec<RawClient> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut waiting {
        client.send(&get("/", "Connection: close\r\n"));
    }
    // Those inside are served as ever, those outside wait.
    for client in &mut first {
        assert_eq!(client.ask(&get("/", "")).text(), "served");
    }
    for client in &mut waiting {
        assert_eq!(client.wire.fill(QUIET / 10), wire::Input::Quiet);
    }
    drop(first);
    for client in &mut waiting {
        assert_eq!(client.response().text(), "served");
    }
    assert!(proxy.metrics().sum("shadowcat_accept_pauses_total", "") > 0.0);
}
