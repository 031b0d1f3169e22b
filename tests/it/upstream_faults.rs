//! What upstreams do wrong: 502 or a visibly broken message, never one that looks complete, and never a pooled
//! connection that serves the next client wrongly.

use crate::on_both_drivers;
use crate::support::*;

on_both_drivers!(
    answers_502_for_heads_that_are_not_valid,
    answers_502_for_what_is_no_http,
    answers_502_for_a_head_without_end,
    answers_502_when_upstream_says_nothing,
    cuts_malformed_chunks_visibly,
    cuts_a_body_that_ends_too_early,
    cuts_a_body_that_is_reset,
    cuts_a_close_delimited_body_that_is_reset,
    a_cut_stream_has_no_last_chunk,
    bytes_behind_an_answer_are_nobodys,
    late_bytes_on_an_idle_connection_are_nobodys,
    a_body_of_an_answer_that_has_none_is_nobodys,
    an_abandoned_answer_is_not_read_by_the_next_client,
    a_stale_connection_is_retried_for_reads_only,
    retries_once_and_no_more,
    counts_the_faults,
);

/// Answers a request for `/bad` with `bytes` and then what `then` says, everything else with `fine`.
fn failing(bytes: &[u8], then: Then) -> FakeUpstream {
    let bytes = bytes.to_vec();
    FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            if request.head.target() != "/bad" {
                conversation.respond(200, "", "fine");
                continue;
            }
            conversation.send(&bytes);
            match then {
                Then::Keep => {}
                Then::Close => return,
                Then::Reset => {
                    // What was sent must have been read before the reset throws it away.
                    conversation.wire.fill(QUIET);
                    return conversation.reset();
                }
            }
        }
    })
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Keep,
    Close,
    Reset,
}

/// The outcome of the bad request; and ten good ones afterwards, which must be good.
fn outcome_and_aftermath(driver: Driver, upstream: &FakeUpstream) -> Outcome {
    let proxy = Proxy::before(driver, &[upstream]).workers(1).start();
    outcome_at(&proxy)
}

fn outcome_at(proxy: &Proxy) -> Outcome {
    let mut client = proxy.connect();
    let outcome = client.send(&get("/bad", "")).outcome();
    for _ in 0..10 {
        let answer = proxy.ask(&get("/good", ""));
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "after {outcome:?}");
    }
    outcome
}

const BAD_HEADS: &[(&str, &str)] = &[
    ("CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE and CL", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello"),
    ("CL twice", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("CL twice, different", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("CL list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("CL sign", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"),
    ("CL negative", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello"),
    ("CL letters", "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"),
    ("CL beyond 64 bits", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello"),
    ("CL empty", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello"),
    ("TE gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
    ("TE gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("TE twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello"),
    ("TE in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
    ("204 in chunks", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("response splitting by bare CR", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n"),
    ("response splitting by bare LF", "HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n"),
    ("response splitting by NUL", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
    ("bare LF as line end", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    ("obs-fold", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ("space before colon", "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n"),
    ("space before colon of TE", "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n"),
    ("no colon", "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n"),
    ("status with four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status with two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status with letters", "HTTP/1.1 2xx OK\r\nContent-Length: 0\r\n\r\n"),
    ("status 000", "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status 099", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status 999", "HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"),
    ("no status", "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"),
    ("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("HTTP/1.2", "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("control in the reason", "HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n"),
    (
        "100 with a body",
        "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
];

fn answers_502_for_heads_that_are_not_valid(driver: Driver) {
    let mut wrong = Vec::new();
    for (name, head) in BAD_HEADS {
        let upstream = failing(head.as_bytes(), Then::Keep);
        let outcome = outcome_and_aftermath(driver, &upstream);
        if !matches!(&outcome, Outcome::Whole(answer) if answer.status == 502) {
            wrong.push(format!("{name}: {outcome:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn answers_502_for_what_is_no_http(driver: Driver) {
    let binary: Vec<u8> = (0..=255).cycle().take(5000).collect();
    for (name, bytes, then) in [
        ("HTTP/0.9", b"<html>hello</html>".as_slice(), Then::Close),
        ("HTTP/0.9 that stays", b"<html>hello</html>", Then::Keep),
        ("binary", &binary, Then::Keep),
        ("SSH", b"SSH-2.0-OpenSSH_9.0\r\n", Then::Keep),
        ("SMTP", b"220 mail ESMTP\r\n", Then::Keep),
        ("TLS alert", b"\x15\x03\x01\x00\x02\x02\x46", Then::Close),
        ("HTTP/2 settings", b"\0\0\0\x04\0\0\0\0\0", Then::Keep),
        ("lower case", b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep),
        ("empty lines", b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep),
        ("white space first", b" HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep),
        ("ICY", b"ICY 200 OK\r\n\r\n", Then::Keep),
    ] {
        let outcome = outcome_and_aftermath(driver, &failing(bytes, then));
        assert!(matches!(&outcome, Outcome::Whole(answer) if answer.status == 502), "{name}: {outcome:?}");
    }
}

fn answers_502_for_a_head_without_end(driver: Driver) {
    let start = b"HTTP/1.1 200 OK\r\n".as_slice();
    let many_fields = [start, "X-Bomb: 1\r\n".repeat(5000).as_bytes()].concat();
    let one_long = [start, b"X-Bomb: ", &vec![b'x'; 200_000]].concat();
    let long_reason = [b"HTTP/1.1 200 ".as_slice(), &vec![b'x'; 200_000]].concat();
    let long_name = [start, &vec![b'x'; 200_000]].concat();
    let fields_in_bounds = [start, "X: 1\r\n".repeat(101).as_bytes(), b"Content-Length: 0\r\n\r\n"].concat();
    for bytes in [many_fields, one_long, long_reason, long_name, fields_in_bounds] {
        let outcome = outcome_and_aftermath(driver, &failing(&bytes, Then::Keep));
        assert!(matches!(&outcome, Outcome::Whole(answer) if answer.status == 502), "{outcome:?}");
    }
    // And one that never stops is left as soon as it is too long.
    let upstream = FakeUpstream::new(|conversation| {
        conversation.request();
        conversation.send(b"HTTP/1.1 200 OK\r\n");
        while conversation.send(b"X-Bomb: 1234567890\r\n") {}
        conversation.tell("left");
    });
    let proxy = Proxy::before(driver, &[&upstream]).start();
    assert_eq!(proxy.ask(&get("/", "")).status, 502);
    upstream.expect_event("left");
}

fn answers_502_when_upstream_says_nothing(driver: Driver) {
    for then in [Then::Close, Then::Reset] {
        for bytes in [b"".as_slice(), b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"] {
            let outcome = outcome_and_aftermath(driver, &failing(bytes, then));
            assert!(matches!(&outcome, Outcome::Whole(answer) if answer.status == 502), "{then:?}: {outcome:?}");
        }
    }
}

const BAD_CHUNKS: &[&str] = &[
    "5\r\nhello\r\nx\r\n",
    "5\r\nhello\r\n-1\r\n",
    "5\r\nhello\r\n\r\n\r\n",
    "5\r\nhello\r\n0x0\r\n\r\n",
    "5\r\nhello\r\n 0\r\n\r\n",
    "5\r\nhello\r\n10000000000000000\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhelloo\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\nA: b\n\r\n",
    "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    "5;a\0b\r\nhello\r\n0\r\n\r\n",
];

fn cuts_malformed_chunks_visibly(driver: Driver) {
    let mut cases: Vec<String> = BAD_CHUNKS.iter().map(|&body| body.to_owned()).collect();
    cases.push(format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300)));
    cases.push(format!("5\r\nhello\r\n0\r\n{}\r\n", "A: b\r\n".repeat(2000)));
    for body in cases {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let outcome = outcome_and_aftermath(driver, &failing(bytes.as_bytes(), Then::Keep));
        let visible = outcome.status() == 502 || outcome.is_cut();
        assert!(visible, "{:?}: {outcome:?}", &body[..body.len().min(40)]);
    }
}

fn cuts_a_body_that_ends_too_early(driver: Driver) {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0",
    ] {
        for then in [Then::Close, Then::Reset] {
            let outcome = outcome_and_aftermath(driver, &failing(bytes.as_bytes(), then));
            assert!(outcome.is_cut() || outcome.status() == 502, "{bytes:?} {then:?}: {outcome:?}");
            assert!(b"hello".starts_with(outcome.body()) || outcome.status() == 502, "{outcome:?}");
        }
    }
}

/// A large body whose second half does not come.
fn half_a_body(fields: &str, then: Then) -> FakeUpstream {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    failing(&[head.as_bytes(), &vec![b'x'; 300_000]].concat(), then)
}

fn cuts_a_body_that_is_reset(driver: Driver) {
    let outcome = outcome_and_aftermath(driver, &half_a_body("Content-Length: 600000\r\n", Then::Reset));
    assert!(outcome.is_cut(), "{outcome:?}");
}

fn cuts_a_close_delimited_body_that_is_reset(driver: Driver) {
    let outcome = outcome_and_aftermath(driver, &half_a_body("", Then::Reset));
    assert!(outcome.is_cut(), "{outcome:?}");
    // To an HTTP/1.0 client, whose body ends with the connection, only a reset can say it.
    let upstream = half_a_body("", Then::Reset);
    let proxy = Proxy::before(driver, &[&upstream]).start();
    let mut client = proxy.connect();
    client.send(b"GET /bad HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let outcome = client.outcome();
    assert!(outcome.is_cut(), "{outcome:?}");
    // An orderly end is the end.
    let outcome = outcome_and_aftermath(driver, &half_a_body("", Then::Close));
    assert!(matches!(&outcome, Outcome::Whole(answer) if answer.body.len() == 300_000), "{outcome:?}");
}

fn a_cut_stream_has_no_last_chunk(driver: Driver) {
    for then in [Then::Close, Then::Reset] {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let upstream = failing(format!("{head}9\r\ndata: x\n\n\r\n").as_bytes(), then);
        let proxy = Proxy::before(driver, &[&upstream]).start();
        let mut client = proxy.connect();
        client.send(&get("/bad", "Accept: text/event-stream\r\n"));
        client.stream_head();
        assert_eq!(client.stream_until(b"\n\n"), b"data: x\n\n");
        let (rest, ending) = client.wire.rest(PATIENCE);
        assert_eq!(String::from_utf8_lossy(&rest), "", "{then:?}");
        assert!(ending.is_some());
    }
}

/// An answer with something behind it.
fn with_surplus(surplus: &str) -> FakeUpstream {
    failing(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello{surplus}").as_bytes(), Then::Keep)
}

fn bytes_behind_an_answer_are_nobodys(driver: Driver) {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for surplus in [evil, "x", "\r\n"] {
        let outcome = outcome_and_aftermath(driver, &with_surplus(surplus));
        // The answer itself is whole: it may be given; but the connection is not used again.
        assert!(outcome.body() == b"hello" || outcome.status() == 502, "{outcome:?}");
    }
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{evil}");
    let outcome = outcome_and_aftermath(driver, &failing(chunked.as_bytes(), Then::Keep));
    assert!(outcome.body() == b"hello" || outcome.status() == 502, "{outcome:?}");
}

fn late_bytes_on_an_idle_connection_are_nobodys(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while conversation.request().is_some() {
            conversation.respond(200, "", "fine");
            if conversation.number == 1 {
                // The answer was read by now: its client got it before this is told.
                conversation.tell("answered");
                conversation.wire.fill(QUIET);
                conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
                conversation.tell("late");
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "fine");
    upstream.expect_event("answered");
    upstream.expect_event("late");
    for _ in 0..5 {
        assert_eq!(proxy.ask(&get("/", "")).text(), "fine");
    }
    assert_eq!(upstream.connections(), 2);
}

fn a_body_of_an_answer_that_has_none_is_nobodys(driver: Driver) {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let upstream = FakeUpstream::new(move |conversation| {
        while let Some(request) = conversation.request() {
            match request.head.target() {
                "/head" => conversation.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{evil}").as_bytes()),
                "/204" => conversation.send(format!("HTTP/1.1 204 No Content\r\n\r\n{evil}").as_bytes()),
                "/304" => conversation.send(format!("HTTP/1.1 304 Not Modified\r\n\r\n{evil}").as_bytes()),
                "/empty" => conversation.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{evil}").as_bytes()),
                _ => conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"),
            };
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    for (method, target) in [("HEAD", "/head"), ("GET", "/204"), ("GET", "/304"), ("GET", "/empty")] {
        let mut client = proxy.connect();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let outcome = client.outcome_of(method);
        assert!(outcome.body().is_empty() || outcome.status() == 502, "{method} {target}: {outcome:?}");
        for _ in 0..3 {
            assert_eq!(proxy.ask(&get("/", "")).text(), "fine", "after {method} {target}");
        }
    }
}

fn an_abandoned_answer_is_not_read_by_the_next_client(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        while let Some(request) = conversation.request() {
            if request.head.target() == "/slow" {
                conversation.begin_chunks("");
                conversation.send_chunk(&[b'x'; 1000]);
                conversation.tell("begun");
                conversation.wire.fill(QUIET);
                conversation.send_chunk(b"secret");
                conversation.end_chunks();
            } else {
                conversation.respond(200, "", "fine");
            }
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    for leave in [RawClient::leave_in_order, RawClient::leave_by_reset] {
        let mut client = proxy.connect();
        client.send(&get("/slow", ""));
        upstream.expect_event("begun");
        client.head();
        leave(client);
        for _ in 0..5 {
            assert_eq!(proxy.ask(&get("/", "")).text(), "fine");
        }
    }
}

impl RawClient {
    fn leave_in_order(self) {
        drop(self);
    }

    fn leave_by_reset(self) {
        self.wire.reset();
    }
}

/// Answers the first request of each connection, and closes without a word at the second.
fn closing_at_the_second() -> FakeUpstream {
    FakeUpstream::new(|conversation| {
        if conversation.request().is_some() {
            conversation.respond(200, "", "first");
        }
        if let Some(request) = conversation.request() {
            conversation.tell(format!("dropped {}", request.head.target()));
        }
    })
}

fn a_stale_connection_is_retried_for_reads_only(driver: Driver) {
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}"#;
    for (request, retried) in [
        (get("/r", ""), true),
        (b"HEAD /r HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), true),
        (b"DELETE /r HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), true),
        (post_json("/r", "", list), true),
        (post_json("/r", "", call), false),
        (post_json("/r", "", "[]"), false),
        (post("/r", "", b"anything"), false),
        (post_with("PATCH", "/r", "Content-Type: text/plain\r\n", b"x"), false),
    ] {
        let upstream = closing_at_the_second();
        let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
        assert_eq!(proxy.ask(&get("/", "")).text(), "first");
        let shown = String::from_utf8_lossy(&request).into_owned();
        let answer = proxy.ask(&request);
        upstream.expect_event("dropped /r");
        let seen = upstream.requests().iter().filter(|request| request.head.target() == "/r").count();
        match retried {
            true => assert_eq!((answer.status, seen), (200, 2), "{shown}"),
            false => assert_eq!((answer.status, seen), (502, 1), "{shown}"),
        }
    }
}

fn retries_once_and_no_more(driver: Driver) {
    let upstream = FakeUpstream::new(|conversation| {
        let request = conversation.request();
        if request.is_some_and(|request| request.head.target() == "/") {
            conversation.respond(200, "", "first");
            conversation.request();
        }
    });
    let proxy = Proxy::before(driver, &[&upstream]).workers(1).start();
    assert_eq!(proxy.ask(&get("/", "")).text(), "first");
    assert_eq!(proxy.ask(&get("/r", "")).status, 502);
    assert_eq!(upstream.requests().iter().filter(|request| request.head.target() == "/r").count(), 2);
    // A fresh connection that dies is no stale one: no second try.
    assert_eq!(proxy.ask(&get("/r", "")).status, 502);
    assert_eq!(upstream.requests().iter().filter(|request| request.head.target() == "/r").count(), 3);
}

fn counts_the_faults(driver: Driver) {
    let garbage = failing(b"garbage", Then::Keep);
    let silent = failing(b"", Then::Close);
    for (upstream, error) in [(&garbage, "protocol"), (&silent, "closed")] {
        let proxy = Proxy::before(driver, &[upstream]).start();
        assert_eq!(proxy.ask(&get("/bad", "")).status, 502);
        let label = format!("error=\"{error}\"");
        assert_eq!(proxy.metrics().sum("shadowcat_proxy_errors_total", &label), 1.0, "{}", proxy.metrics().0);
    }
}
